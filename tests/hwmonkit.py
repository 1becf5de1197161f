"""Chips of hwmon in a tree of real files: ACPI power meters, NVIDIA Grace, amd_energy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobwatt.sources.hwmon import HwmonSource, open_source
from treefiles import write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from jobwatt.model import Reading, SourceResult
    from trees import Node

NOW = {"rescan_ns": 0, "first_retry_ns": 0}  # look for changes at every read
AMD = "platform/amd_energy.0"


def add_chip(
    node: Node,
    number: int,
    name: str,
    place: str,
    files: Mapping[str, str | int],
    *,
    inside: bool = False,
) -> Path:
    """
    hwmonN of the device at ``place``; its attributes in the device, or ``inside`` hwmonN, where newer
    drivers have them. Returns the directory with the attributes.
    """
    device = node.sys / "devices" / place
    here = device / "hwmon" / f"hwmon{number}"
    here.mkdir(parents=True, exist_ok=True)
    (here / "device").symlink_to(device)
    base = here if inside else device
    for file, text in {"name": name + "\n", **files}.items():
        write(base / file, text)
    link = node.sys / "class/hwmon" / f"hwmon{number}"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(here)
    return base


def add_meter(
    node: Node, number: int, watts: float, oem: str = "", place: str = "", *, inside: bool = False
) -> Path:
    place = place or f"LNXSYSTM:00/LNXSYBUS:00/ACPI000D:{number:02x}"
    files = {
        "power1_average": int(watts * 1e6),
        "power1_average_interval": 1000,
        "power1_is_battery": 0,
        "power1_oem_info": oem + "\n",
    }
    return add_chip(node, number, "power_meter", place, files, inside=inside)


GRACE_W = {"Module": 610.0, "Grace": 250.0, "CPU": 180.0, "SysIO": 30.0}


def add_grace(node: Node, sockets: int = 1, *, first: int = 1) -> None:
    """One meter a rail and socket, as NVIDIA's ACPI tables have them."""
    number = first
    for socket in range(sockets):
        for rail, watts in GRACE_W.items():
            add_meter(node, number, watts + socket, f"{rail} Power Socket {socket}")
            number += 1


def add_amd(node: Node, energies: Mapping[str, int], number: int = 3) -> Path:
    files: dict[str, str | int] = {}
    for n, (label, uj) in enumerate(energies.items(), start=1):
        files |= {f"energy{n}_input": uj, f"energy{n}_label": label + "\n"}
    return add_chip(node, number, "amd_energy", AMD, files, inside=True)


def until(source: HwmonSource, ok: Callable[[SourceResult], bool]) -> SourceResult:
    """A meter is read in a thread of its own: wait for what it says."""
    end = time.monotonic() + 60
    while not ok(result := source.read(full=True)):
        assert time.monotonic() < end, result
        time.sleep(0.02)
    return result


def meter_result(node: Node, count: int = 1, **settings: bool) -> SourceResult:
    source = open_source(node.sys, **settings)
    try:
        return until(source, lambda result: len(result.readings) >= count)
    finally:
        source.close()


def by_name(result: SourceResult) -> dict[str, Reading]:
    found = {reading.device.name: reading for reading in result.readings}
    assert len(found) == len(result.readings)
    return found
