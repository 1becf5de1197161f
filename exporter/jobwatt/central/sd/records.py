"""
What `scontrol` prints of nodes and of the topology, taken apart. Pure.

One form serves Slurm 22.05 to 26.05: the text of ``scontrol -a -o show nodes`` (``--json`` is absent
in 22.05, and its schema changes with each release). Keys come in one order (slurm_sprint_node_table in
node_info.c): NodeName to Version, OS, RealMemory to BootTime, then the rest. OS, Reason, Comment, Extra,
InstanceId, InstanceType and Parameters are free text with blanks, never quoted; a line break in a
Comment, or in what slurmd was told with --extra, begins a line that may imitate a node.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from ...slurm.text import MAX_CHARS, expand_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Record = dict[str, str]

# characters of a node: 900 without comments; its keys are taken apart before they are looked at
_LONGEST = 1 << 16

_NAME = re.compile(r"NodeName=(\S+) ")
_KEY = re.compile(r" (\w+)=(\S*)")
# Behind OS: digits only, and the first of them, so that what follows cannot stand for it.
_MIDDLE = re.compile(r" RealMemory=\d+ AllocMem=\d+ FreeMem=\S+ +Sockets=\d+ Boards=\d+ ")
_END = re.compile(r" BootTime=")
# What may hold a line break; Slurm itself writes a Reason's as blanks.
_FREE = re.compile(r" (?:Comment|Extra|InstanceId|InstanceType|Parameters)=")
_BEHIND_EXTRA = (
    r"(?: InstanceId=| InstanceType=| ReservationName=| TLSCertTokenSet=| Topology=| Parameters=|$)"
)
_EXTRA = re.compile(rf" Extra=(.*?)(?={_BEHIND_EXTRA})")
_COMMENT = re.compile(rf" Comment=(.*?)(?= Extra=|{_BEHIND_EXTRA})")
_UNIT = re.compile(r"(SwitchName|BlockName|RingName)=(\S+) ")
_LEVEL = re.compile(r" Level=(\d+) ")
_NODES = re.compile(r" Nodes=(\S+)")
_CLUSTER = re.compile(r"^ClusterName\s*= (\S+)$", re.MULTILINE)


def split(text: str) -> tuple[list[Record], list[Record], int]:
    """
    Records of an answer: those beyond doubt, those that may be imitations, and how many lines are none.

    Beyond doubt is what stands before the first text that could have been broken into lines.
    """
    sure: list[Record] = []
    doubtful: list[Record] = []
    odd, broken = 0, False
    for line in filter(str.strip, io.StringIO(text)):
        record = parse(line.rstrip("\n"))
        if record is not None:
            (doubtful if broken else sure).append(record)
        odd += record is None
        broken = broken or record is None or _FREE.search(line) is not None
    return sure, doubtful, odd


def parse(line: str) -> Record | None:
    """One node's line; None where it is no such line."""
    if len(line) > _LONGEST:
        return None
    name, middle = _NAME.match(line), _MIDDLE.search(line)
    end = _END.search(line, middle.end()) if middle else None
    if name is None or middle is None or end is None:
        return None
    head = line[name.end() - 1 : middle.start()].partition(" OS=")[0]
    said = _first(head) | _first(line[middle.end() - 1 : end.start() + 1])
    if "State" not in said:
        return None
    rest = line[end.start() :]
    return {
        "name": name[1],
        "address": said.get("NodeAddr", ""),
        "host": said.get("NodeHostName", ""),
        "state": said["State"],
        "partitions": said.get("Partitions", ""),
        "gres": said.get("Gres", ""),
        "features": said.get("AvailableFeatures", ""),
        "comment": _last(_COMMENT, rest),
        "extra": _last(_EXTRA, rest),
    }


def confirmed(
    sure: Iterable[Record], doubtful: Iterable[Record], places: Mapping[str, str]
) -> list[Record]:
    """
    The records that are believed, each name once.

    Args:
        places: ``NodeAddr NodeHostName`` of each node, as sinfo has them, whose output has no free text.
    """
    found: dict[str, Record] = {}
    for record in sure:
        found.setdefault(record["name"], record)
    for record in doubtful:
        if places.get(record["name"]) == f"{record['address']} {record['host']}":
            found.setdefault(record["name"], record)
    return list(found.values())


def units(text: str) -> dict[str, str]:
    """
    The topology unit that each node hangs on: its leaf switch, its block or its ring.

    Args:
        text: of ``scontrol -o show topology``; lines that cannot be read are left out.
    """
    found: dict[str, str] = {}
    named = 0
    for line in io.StringIO(text):
        unit, nodes, level = _UNIT.match(line), _NODES.search(line), _LEVEL.search(line)
        if unit is None or nodes is None or (level and level[1] != "0"):
            continue
        try:
            names = expand_nodes(nodes[1])
        except ValueError:
            continue
        named += sum(map(len, names))
        if named > MAX_CHARS:  # more than a cluster of the largest size in several topologies
            break
        for name in names:
            found.setdefault(name, unit[2])
    return found


def cluster(text: str) -> str:
    """ClusterName of ``scontrol show config``; "" where it is not there."""
    found = _CLUSTER.search(text)
    return found[1] if found else ""


def _first(text: str) -> dict[str, str]:
    """Keys and values of a part of a line; of a key that is there twice, the first."""
    return dict(reversed(_KEY.findall(text)))


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return str(found[-1]) if found else ""
