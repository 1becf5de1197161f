"""
A node's power out of Redfish resources. Pure: parsed JSON in, microwatts out, nothing raised.

Anything may stand where a figure or a link is expected (null, a string, another type): that is
unknown, as 0 W is from a BMC that answers, and the next place is tried. Property names:
https://redfish.dmtf.org/schemas/v1/ (Chassis, EnvironmentMetrics, Power, PowerSupply, Sensor).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_UW_PER_W = 1_000_000
# A node draws a tenth of it (a whole GB200 NVL72 rack about 120 kW): a unit was mistaken, or a byte lost.
_MAX_W = 100_000
# A node has a few chassis and power supplies; more than this is not looked at.
MANY = 32

_PATH = re.compile(r"/redfish/[\w\-./~%:()']{0,400}", re.ASCII)
# Chassis that hold nodes rather than being one (Chassis.ChassisType).
_ENCLOSURES = frozenset(
    {"Enclosure", "Rack", "RackGroup", "Pod", "Row", "Shelf", "Zone", "PowerStrip", "ImmersionTank"}
)
# Supplies that feed nothing, whatever they report (Resource.State).
_NOT_FEEDING = frozenset({"Absent", "Disabled", "StandbyOffline", "UnavailableOffline"})
# A power control's name or context that tells a part of the node, or the whole of it.
_PART = re.compile(
    r"cpu|processor|memory|dimm|dram|gpu|accelerator|fan|storage|disk|drive|pcie|riser|"
    r"sub-?system|hgx|nic|switch",
    re.IGNORECASE,
)
# One of several ways in: neither the whole nor inside it.
_FEED = re.compile(r"psu|suppl|feed|rail|phase|zone|line|bay|domain", re.IGNORECASE)
_WHOLE = re.compile(r"server|system|chassis|total|node|input|consumption", re.IGNORECASE)
_PART_PATH = re.compile(r"/(Processors|Memory|Storage|Drives|PCIeDevices|Fans|NetworkAdapters)\b")


def microwatts(value: object) -> int | None:
    """Return a figure in W as uW: 0 upwards; None where it is no figure or cannot be one."""
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= _MAX_W or math.isnan(value):
        return None
    return round(value * _UW_PER_W)


def _from_text(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", text, re.ASCII) else None


def _known(value: object) -> int | None:
    """Above zero: a BMC that answers draws power itself, so its 0 W is an unknown."""
    return microwatts(value) or None


def reading(resource: object, name: str = "Reading") -> int | None:
    """Return a Sensor's reading, or that of an excerpt of one: ``{"Reading": 374}``."""
    return _known(_get(resource, name))


def environment(resource: object) -> int | None:
    """EnvironmentMetrics: PowerWatts.Reading."""
    return reading(_get(resource, "PowerWatts"))


def control(resource: object, owners: Collection[str] = ()) -> int | None:
    """
    Power: what PowerControl says of the whole node.

    ``owners`` are the paths of the node's system and chassis. Of several members, the one that is
    related to them, or is named like a whole, is the node; its parts (CPU, memory) are inside it and
    alone are no node. Members of which none is a whole or a part are added up where each has a name
    of its own (feeds, zones). Several wholes that disagree leave it open which one is this node.
    Never AverageConsumedWatts: an average of the last half hour is not the power of now.
    """
    members = [member for member in _list(resource, "PowerControl") if _consumed(member)]
    whole = [m for m in members if _is_owned(m, owners)] or [m for m in members if _is_whole(m)]
    if whole:
        return _agreed([_consumed(member) for member in whole])
    rest = [member for member in members if not _is_part(member)]
    if len(rest) < len(members):
        return None if len(rest) != 1 else _consumed(rest[0])
    by_name = {_identity(member): _consumed(member) or 0 for member in rest}
    if len(by_name) != len(rest):
        return _agreed([_consumed(member) for member in rest])
    return sum(by_name.values()) or None


def _consumed(member: object) -> int | None:
    return _known(_get(member, "PowerConsumedWatts"))


def _is_owned(member: object, owners: Collection[str]) -> bool:
    plain = {path.rstrip("/") for path in owners}
    return not _is_lesser(member) and not owned_by(member, "RelatedItem").isdisjoint(plain)


def _is_whole(member: object) -> bool:
    return not _is_lesser(member) and bool(_WHOLE.search(_text(member, "Name")))


def _is_lesser(member: object) -> bool:
    return _is_part(member) or bool(_FEED.search(_text(member, "Name")))


def _is_part(member: object) -> bool:
    """Tell whether it is named after, or only related to, something inside the node."""
    related = owned_by(member, "RelatedItem")
    if related and all(_PART_PATH.search(path) for path in related):
        return True
    words = f"{_text(member, 'Name')} {_text(member, 'PhysicalContext')}"
    return bool(_PART.search(words))


def _identity(member: object) -> tuple[str, str]:
    return _text(member, "Name"), ",".join(sorted(owned_by(member, "RelatedItem")))


def _agreed(values: list[int | None]) -> int | None:
    """Return the first, where all are within 5 % of it: the same whole, read a moment apart."""
    first = values[0] or 0
    same = all(abs((value or 0) - first) * 20 <= first for value in values)
    return first or None if same else None


def legacy_supplies(resource: object) -> int | None:
    """
    Power: the inputs of its PowerSupplies added up.

    An input beside no output is not believed: iDRAC 7 and 8 give the rated input there (900 W for a
    750 W supply, LastPowerOutputWatts null: https://github.com/influxdata/telegraf/issues/9575).
    Outputs are never taken for inputs: the supplies' own losses are part of the node.
    """
    inputs = []
    for supply in _list(resource, "PowerSupplies"):
        if _state(supply) in _NOT_FEEDING:
            continue
        output = [microwatts(_get(supply, f"{n}PowerOutputWatts")) for n in ("", "Last")]
        value = microwatts(_get(supply, "PowerInputWatts"))
        if value is None or all(given is None for given in output):
            return None
        inputs.append(value)
    return sum(inputs) or None


def feeding(supply: object) -> bool:
    """Tell whether a PowerSupply is there and on."""
    return _state(supply) not in _NOT_FEEDING


def supplies(metrics: list[Any]) -> int | None:
    """
    PowerSupplyMetrics of every supply that feeds: their InputPowerWatts added up.

    One that is unknown makes the sum unknown: half of a node would be worse than nothing. One of
    0 W is a spare that another supply stands in for.
    """
    inputs = [microwatts(_get(_get(one, "InputPowerWatts"), "Reading")) for one in metrics]
    if None in inputs:
        return None
    return sum(value or 0 for value in inputs) or None


# --- the way there -----------------------------------------------------------------------------


def link(resource: object, *names: str) -> str | None:
    """Return the path that a link (``{"@odata.id": PATH}``) below ``names`` gives."""
    for name in names:
        resource = _get(resource, name)
    return path_of(resource)


def path_of(item: object) -> str | None:
    """Return a link's path; None unless it is one below /redfish/ on the same host."""
    path = _get(item, "@odata.id")
    if not isinstance(path, str) or not _PATH.fullmatch(path) or ".." in path or "//" in path:
        return None
    return path


def links(resource: object, name: str) -> list[str]:
    """Return the paths of a list of links, ``MANY`` at most, each once."""
    found = dict.fromkeys(path_of(item) for item in _list(resource, name))
    return [path for path in found if path]


def owned_by(resource: object, name: str) -> set[str]:
    """Return the paths of a list of links, to compare: without the last slash, which BMCs set at will."""
    return {path.rstrip("/") for path in links(resource, name)}


def own_systems(systems: Mapping[str, object]) -> list[str]:
    """
    Of the systems a BMC serves, those that can be the node: path -> resource in, paths out.

    A network card with processors of its own is a system (SystemType DPU), and NVIDIA's GPU tray is
    one beside the host's (HGX_Baseboard_0, https://docs.nvidia.com/dgx/dgxh100-user-guide/).
    """
    found = []
    for path, resource in systems.items():
        kind = _text(resource, "SystemType") or "Physical"
        if kind == "Physical" and "/HGX_" not in path:
            found.append(path)
    return found


def own_chassis(chassis: Mapping[str, object], system: str) -> list[str]:
    """
    Of these chassis (path -> resource), the system's own, the outermost first.

    A chassis that feeds several systems, or is an enclosure, a rack or a shelf and does not name
    this system as its only one, is not the node's: its power is that of the others, too.
    """
    own: dict[str, str] = {}
    system = system.rstrip("/")
    for path, resource in chassis.items():
        systems = owned_by(_get(resource, "Links"), "ComputerSystems")
        if len(systems) > 1 or (systems and system not in systems):
            continue
        if _text(resource, "ChassisType") in _ENCLOSURES and systems != {system}:
            continue
        own[path] = (link(resource, "Links", "ContainedBy") or "").rstrip("/")
    plain = {path.rstrip("/") for path in own}
    return sorted(own, key=lambda path: own[path] in plain)


def names_system(chassis: object, system: str) -> bool:
    """Tell whether the chassis says that it holds this system."""
    return system.rstrip("/") in owned_by(_get(chassis, "Links"), "ComputerSystems")


def is_dell(chassis: object) -> bool:
    """Tell whether the sensors have the names that iDRAC gives them."""
    return _text(chassis, "Manufacturer").casefold().startswith("dell")


def _get(resource: object, name: str) -> Any:
    return resource.get(name) if isinstance(resource, dict) else None


def _list(resource: object, name: str) -> list[Any]:
    found = _get(resource, name)
    return found[:MANY] if isinstance(found, list) else []


def _text(resource: object, name: str) -> str:
    found = _get(resource, name)
    return found[:200] if isinstance(found, str) else ""


def _state(resource: object) -> str:
    return _text(_get(resource, "Status"), "State")


def message_ids(resource: object) -> Iterator[str]:
    """Yield the ids of an error's messages: ``Base.1.8.SessionLimitExceeded`` as ``SessionLimitExceeded``."""
    for message in _list(_get(resource, "error"), "@Message.ExtendedInfo"):
        yield _text(message, "MessageId").rpartition(".")[2]
