"""A node as it may be shown: what Slurm says, checked and cleaned. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...slurm.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
_GPU = re.compile(r"gpu(?::(?P<type>[^:()=]+))?(?::(?P<count>\d{1,4}))?(?:\([^()]*\))?")
_PARENS = re.compile(r"\([^()]*\)")
_NONE = ("", "(null)", "N/A", "None")
MAX_WORDS = 64  # of partitions or features that a label lists
# A node's state is a base and flags; the first line that has one of its words says the class.
CLASSES = {
    "off": {"POWERED_DOWN", "POWERING_DOWN"},
    "future": {"FUTURE"},
    "starting": {"POWERING_UP", "POWER_UP", "REBOOT_ISSUED"},
    "down": {"DOWN", "ERROR", "FAIL", "NOT_RESPONDING", "INVALID_REG"},
    "drain": {"DRAIN"},
    "up": {"IDLE", "ALLOCATED", "MIXED"},
}
# slurm_protocol_defs.c, node_states and node_state_flags, of 22.05 to 26.05
STATES = frozenset(
    """DOWN IDLE ALLOCATED ERROR MIXED FUTURE UNKNOWN BLOCKED CLOUD COMPLETING DRAIN DYNAMIC_FUTURE DYNAMIC_NORM
    EXTERNAL FAIL INVALID_REG MAINTENANCE NOT_RESPONDING PERFCTRS PLANNED POWERED_DOWN POWERING_DOWN POWERING_UP
    POWER_DOWN POWER_UP REBOOT_ISSUED REBOOT_REQUESTED RESERVED RESUME""".split()  # noqa: SIM905  a list of thirty quotes says no more
)


@dataclass(frozen=True, slots=True)
class Node:
    """
    One node.

    Attributes:
        address, host: NodeAddr and NodeHostName, fit to stand in a URL; "" where they are not.
        states: the base state and its flags, as Slurm prints them.
        gpus: how many of each type, the type "" where Slurm knows none.
    """

    name: str
    address: str = ""
    host: str = ""
    states: frozenset[str] = frozenset()
    partitions: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    gpus: tuple[tuple[str, int], ...] = ()
    comment: str = ""
    extra: str = ""
    unit: str = ""

    @property
    def state(self) -> str:
        """up, drain, down, starting, off, future or unknown."""
        return next((name for name, words in CLASSES.items() if words & self.states), "unknown")


def node(record: Mapping[str, object], unit: str = "") -> Node | None:
    """A record's node; None where its name is no host name."""
    said = {key: value for key, value in record.items() if isinstance(value, str)}
    name = said.get("name", "")
    if not _HOST.fullmatch(name):
        return None
    return Node(
        name=name,
        address=host(said.get("address", "")),
        host=host(said.get("host", "")),
        states=frozenset(said.get("state", "").upper().split("+")[:32]) & STATES,
        partitions=words(said.get("partitions", "")),
        features=words(said.get("features", "")),
        gpus=gpus(said.get("gres", "")),
        comment=_text(said.get("comment", "")),
        extra=_text(said.get("extra", "")),
        unit=clean(unit),
    )


def host(text: str) -> str:
    """A host name or an address, an IPv6 one in brackets; "" for anything else."""
    if _HOST.fullmatch(text):
        return text
    try:
        return f"[{ipaddress.IPv6Address(text).compressed}]" if "%" not in text else ""
    except ValueError:
        return ""


def words(text: str) -> tuple[str, ...]:
    """``b,a`` as (a, b): sorted, each once, and no more than ``MAX_WORDS``."""
    if text in _NONE:
        return ()
    # Slurm allows neither commas nor blanks in them
    found = {clean(word, 128) for word in text[: 1 << 14].split(",") if word}
    return tuple(sorted(found)[:MAX_WORDS])


def gpus(gres: str) -> tuple[tuple[str, int], ...]:
    """
    GPUs of ``gpu:a100:4(S:0-1),gpu:1g.5gb:7,nvme:2``: type and count, sorted by type.

    A count that is not written is 1; other kinds of resources are left out.
    """
    found: Counter[str] = Counter()
    for part in _PARENS.sub("", gres[: 1 << 14]).split(","):
        match = _GPU.fullmatch(part)
        if match is None:
            continue
        kind, count = match["type"] or "", match["count"]
        if count is None and kind.isascii() and kind.isdigit():  # gpu:4
            kind, count = "", kind[:4]
        found[clean(kind, 128)] += int(count) if count else 1
    return tuple(sorted((kind, count) for kind, count in found.items() if count))[:MAX_WORDS]


def gathered(
    records: Iterable[Mapping[str, object]], units: Mapping[str, object]
) -> tuple[list[Node], int]:
    """Every record's node, sorted by name, each name once; and how many records were none."""
    found: dict[str, Node] = {}
    odd = 0
    for record in records:
        unit = units.get(str(record.get("name")))
        made = node(record, unit if isinstance(unit, str) else "")
        if made is None or made.name in found:
            odd += 1
        else:
            found[made.name] = made
    return [found[name] for name in sorted(found)], odd


def _text(text: str) -> str:
    return "" if text in _NONE else clean(text)
