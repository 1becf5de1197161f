"""
Another jobwatt's metrics page becomes the meters of one node. Pure.

Whose rows are the node's: names are compared up to their first dot, for one side's may hold a domain
(a bmc-proxy's list, as the site writes it) and the other's not. A name that is asked for with a dot in it
is compared as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from jobwatt.model import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.samples import Sample

ENERGY = "jobwatt_meter_energy_joules_total"
POWER = "jobwatt_meter_power_watts"
READ = "jobwatt_meter_reading_timestamp_seconds"
UP = "jobwatt_meter_up"
NAMES = (ENERGY, POWER, READ, UP)

# A node has two power supplies, a chassis four or six; ours have four rows each.
_ROWS = 256
# Three labels; a node's name has up to 253 characters.
_LINE_BYTES = 2048
# A port's number, or a BMC's name; what is shown of it goes into a label and into the log.
_NAME_CHARS = 64
_NODE_CHARS = 253
_SOURCES = ("wattmeter", "bmc")
# What wattmeters, ACPI's and Redfish's figures are bounded to as well: no port feeds that much.
MOST_UW = 100_000_000_000
# A signed 64-bit integer, which SQLite and others keep: 2.5 GWh in microjoules; in nanoseconds, until 2262.
_MOST = (1 << 63) - 1


class SeveralNodesError(Exception):
    """More than one node there has the name that was asked for; one line."""


@dataclass(slots=True)
class Meter:
    """
    One meter as the other side shows it; None where a row is missing.

    Attributes:
        read_s: Unix time, by the other side's clock, of its last good reading.
    """

    energy_uj: int | None = None
    power_uw: int | None = None
    read_s: float | None = None
    up: bool = False


@dataclass(slots=True)
class Meters:
    """The meters of one source (``wattmeter``, ``bmc``) that feed the node, by name."""

    source: str
    meters: dict[str, Meter] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """All of them, as a label."""
        return "+".join(self.meters)


def meters(body: bytes, node: str) -> dict[str, Meters]:
    """
    The meters of ``node``, by source, in the order of their names.

    Raises:
        ValueError: a row that is ours is none or says what cannot be, or there are too many.
        SeveralNodesError: the name is short, and several nodes' is.
    """
    samples = list(_samples(body, node))
    nodes = sorted({sample.labels["node"] for sample in samples})
    if len(nodes) > 1:
        raise SeveralNodesError(
            f"{nodes[0][:_NODE_CHARS]!r} and {nodes[1][:_NODE_CHARS]!r} are both {node} there"
        )
    found: dict[str, Meters] = {}
    for sample in sorted(samples, key=lambda s: _order(s.labels.get("meter", ""))):
        source, name = sample.labels["source"], sample.labels.get("meter", "")
        if not name.isprintable() or len(name) > _NAME_CHARS:
            raise ValueError("a meter's name that is none")
        meter = found.setdefault(source, Meters(source)).meters.setdefault(name, Meter())
        _put(meter, sample)
    for of_source in found.values():
        if sum(meter.energy_uj or 0 for meter in of_source.meters.values()) > _MOST:
            raise ValueError("more energy than there is")
    return found


def _samples(body: bytes, node: str) -> Iterator[Sample]:
    """Ours alone are parsed: a page of megabytes would take the parser seconds."""
    prefixes = tuple(name.encode() + b"{" for name in NAMES)
    mark = b"node=" + json.dumps(node).encode()
    marks = (mark,) if "." in node else (mark, mark[:-1] + b".")
    lines = [
        line
        for line in body.split(b"\n")
        if line.startswith(prefixes)
        and len(line) <= _LINE_BYTES
        and any(one in line for one in marks)
    ]
    if len(lines) > _ROWS:
        raise ValueError(f"more than {_ROWS} rows for one node")
    for family in text_string_to_metric_families(b"\n".join(lines).decode("utf-8") + "\n"):
        for sample in family.samples:
            labels = sample.labels
            if _is(labels.get("node", ""), node) and labels.get("source") in _SOURCES:
                yield sample


def _is(shown: str, node: str) -> bool:
    """Whether a row's node is the one asked for."""
    return node == (shown if "." in node else shown.partition(".")[0])


def _put(meter: Meter, sample: Sample) -> None:
    value = float(sample.value)
    if sample.name == ENERGY:
        meter.energy_uj = round(_bounded(value, 1_000_000, _MOST))
    elif sample.name == POWER:
        meter.power_uw = round(_bounded(value, 1_000_000, MOST_UW))
    elif sample.name == READ:
        _bounded(value, NS_PER_S, _MOST)
        meter.read_s = value
    elif sample.name == UP:
        meter.up = value == 1


def _bounded(value: float, unit: int, most: int) -> float:
    """``value`` in smaller units; ValueError where it is no number from 0 to ``most`` of them."""
    scaled = value * unit
    if not 0 <= scaled <= most:  # NaN is not either
        raise ValueError(f"{value} is not between 0 and {most / unit:g}")
    return scaled


def _order(name: str) -> tuple[int, str]:
    """Port 2 before port 10."""
    return (int(name) if name.isascii() and name.isdigit() and len(name) < 10 else -1, name)
