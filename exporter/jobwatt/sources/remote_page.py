"""Another jobwatt's metrics page becomes the meters of one node. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

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
_SOURCES = ("wattmeter", "bmc")


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
        ValueError: a row that is ours is none, or there are too many.
    """
    found: dict[str, Meters] = {}
    for sample in sorted(_samples(body, node), key=lambda s: _order(s.labels.get("meter", ""))):
        source, name = sample.labels["source"], sample.labels.get("meter", "")
        if not name.isprintable() or len(name) > _NAME_CHARS:
            raise ValueError("a meter's name that is none")
        meter = found.setdefault(source, Meters(source)).meters.setdefault(name, Meter())
        _put(meter, sample)
    return found


def _samples(body: bytes, node: str) -> Iterator[Sample]:
    """Ours alone are parsed: a page of megabytes would take the parser seconds."""
    prefixes = tuple(name.encode() + b"{" for name in NAMES)
    mark = b"node=" + json.dumps(node).encode()
    lines = [
        line
        for line in body.split(b"\n")
        if line.startswith(prefixes) and mark in line and len(line) <= _LINE_BYTES
    ]
    if len(lines) > _ROWS:
        raise ValueError(f"more than {_ROWS} rows for one node")
    for family in text_string_to_metric_families(b"\n".join(lines).decode("utf-8") + "\n"):
        for sample in family.samples:
            labels = sample.labels
            if labels.get("node") == node and labels.get("source") in _SOURCES:
                yield sample


def _put(meter: Meter, sample: Sample) -> None:
    value = float(sample.value)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{sample.name} is {value}")
    if sample.name == ENERGY:
        meter.energy_uj = round(value * 1_000_000)
    elif sample.name == POWER:
        meter.power_uw = round(value * 1_000_000)
    elif sample.name == READ:
        meter.read_s = value
    elif sample.name == UP:
        meter.up = value == 1


def _order(name: str) -> tuple[int, str]:
    """Port 2 before port 10."""
    return (int(name) if name.isascii() and name.isdigit() and len(name) < 10 else -1, name)
