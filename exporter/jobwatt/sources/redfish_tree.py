"""
Where in a BMC's tree the node's power may stand, the best place first. Asks through what it is given.

One BMC may serve several systems and chassis; which are the node's is decided in redfish_power.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import redfish_power as power

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Ask = Callable[[str], dict[str, Any] | None]

_ROOT = "/redfish/v1/"


class UnclearError(Exception):
    """The tree does not say which system or chassis is the node; one line."""


@dataclass(frozen=True, slots=True)
class Place:
    """Power may stand here: the resources to ask for, and what makes uW of them."""

    name: str
    paths: tuple[str, ...]
    figure: Callable[[list[Any]], int | None]


def places(ask: Ask, start: str = "") -> Iterator[Place]:
    """
    Yield the places of the node's chassis in order of trust.

    ``start``: path of the node's system or chassis, "" where the BMC serves one. UnclearError where
    it serves several, or knows only chassis that feed several.
    """
    for path, chassis, owners in _chassis(ask, start):
        yield from _of_chassis(ask, path, chassis, owners)


def _of_chassis(
    ask: Ask, path: str, chassis: dict[str, Any], owners: frozenset[str]
) -> Iterator[Place]:
    metrics = power.link(chassis, "EnvironmentMetrics")
    if metrics:
        yield Place("EnvironmentMetrics", (metrics,), lambda got: power.environment(got[0]))
    legacy = power.link(chassis, "Power")
    if legacy:
        yield Place("PowerControl", (legacy,), lambda got: power.control(got[0], owners))
    inputs = _supply_metrics(ask, chassis)
    if inputs:
        yield Place("PowerSupplies", inputs, power.supplies)
    if legacy:
        yield Place("PowerSupplies", (legacy,), lambda got: power.legacy_supplies(got[0]))
    if power.is_dell(chassis):
        sensors = power.link(chassis, "Sensors") or f"{path.rstrip('/')}/Sensors"
        sensor = f"{sensors.rstrip('/')}/SystemBoardPwrConsumption"
        yield Place("SystemBoardPwrConsumption", (sensor,), lambda got: power.reading(got[0]))


def _supply_metrics(ask: Ask, chassis: dict[str, Any]) -> tuple[str, ...]:
    """Paths of the metrics of every supply that feeds; () where one of them has none."""
    found = []
    subsystem = power.link(chassis, "PowerSubsystem")
    supplies = subsystem and power.link(ask(subsystem), "PowerSupplies")
    for path in power.links(ask(supplies), "Members") if supplies else ():
        supply = ask(path)
        if power.feeding(supply):
            found.append(power.link(supply, "Metrics"))
    return () if None in found else tuple(path for path in found if path)


def _chassis(ask: Ask, start: str) -> Iterator[tuple[str, dict[str, Any], frozenset[str]]]:
    """Yield path, resource and owners (the paths that mean the node) of the node's chassis."""
    system = ""
    if start.startswith(f"{_ROOT}Chassis/"):
        own = {start: ask(start)}
    else:
        system = start or _system(ask)
        own = _own(ask, system)
    for path, resource in own.items():
        if resource is not None:
            yield path, resource, frozenset({path, system} - {""})


def _system(ask: Ask) -> str:
    """Path of the one system that can be the node."""
    own = power.own_systems(_members(ask, "Systems"))
    if len(own) > 1:
        shown = ", ".join(path.rstrip("/").rpartition("/")[2][:40] for path in own[:4])
        raise UnclearError(f"the BMC serves {len(own)} systems ({shown})")
    return own[0] if own else ""


def _own(ask: Ask, system: str) -> dict[str, dict[str, Any] | None]:
    linked = {path: ask(path) for path in _links(ask(system), "Chassis")} if system else {}
    own = power.own_chassis(linked, system)
    if own:
        return {path: linked[path] for path in own}
    every = _members(ask, "Chassis")
    own = power.own_chassis(every, system)
    naming = [path for path in own if power.names_system(every[path], system)]
    if naming or len(own) == 1:
        return {path: every[path] for path in naming or own}
    if every:
        raise UnclearError(f"none of its {len(every)} chassis is this system's alone")
    return {}


def _members(ask: Ask, collection: str) -> dict[str, dict[str, Any] | None]:
    path = power.link(ask(_ROOT), collection) or f"{_ROOT}{collection}"
    return {member: ask(member) for member in power.links(ask(path), "Members")}


def _links(resource: dict[str, Any] | None, name: str) -> list[str]:
    return power.links((resource or {}).get("Links"), name)
