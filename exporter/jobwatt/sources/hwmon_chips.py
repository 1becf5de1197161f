"""
The hwmon tree: which power and energy sensors there are and what each one is the energy of.

A chip is told by its ``name`` file, never by N of hwmonN, which changes over boots. Three kinds count:

    power_meter   ACPI's power meter (Documentation/hwmon/acpi_power_meter.rst). On most servers the
                  node as its firmware sees it. On NVIDIA Grace each meter is a rail of a socket, told
                  by ``power1_oem_info``: Module contains Grace and GPU; Grace contains CPU, SysIO and
                  DRAM (NVIDIA Grace Performance Tuning Guide, "Power Telemetry"). Grace is added up,
                  the others are shown.
    amd_energy    the same register as RAPL's package (drivers/hwmon/amd_energy.c, Linux 5.8 to 5.12 and
                  out of tree): for where RAPL cannot be read.

Attributes are in hwmonN itself or in hwmonN/device, as the driver registered them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..kernelfiles import parse_cpulist
from ..model import Device, Domain, Kind
from .procstat import dies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

METER, AMD = "power_meter", "amd_energy"
# Several meters that are no rails of a socket are a node's supplies: their sum is the node.
SUM_ID = f"hwmon:{METER}"

_HWMON = re.compile(r"hwmon(\d{1,6})")
_AVERAGE = re.compile(r"power(\d{1,2})_average")
_ENERGY = re.compile(r"energy(\d{1,4})_input")
_ESOCKET = re.compile(r"Esocket(\d{1,4})")
# "Grace Power Socket 0": NVIDIA's ACPI tables for Grace (edk2-nvidia). "Total Power in uW Socket 0",
# "CPU Rail Power Socket 0": other platforms', as NVIDIA's srtctl (2026, core/power/cpu_rails.py) has them.
_RAIL = re.compile(r"(.{1,24}?)(?: Input)? Power(?: in uW)? Socket (\d{1,3})", re.IGNORECASE)
_MODULE, _HOST, _CORES, _IO, _MEMORY, _ANY = "module", "host", "cores", "io", "memory", "any"
_RAILS = {
    "module": _MODULE,
    "grace": _HOST,
    "total": _HOST,
    "cpu": _CORES,
    "cpu rail": _CORES,
    "sysio": _IO,
    "soc rail": _IO,
    "dram": _MEMORY,
}
# What each rail is the energy of, and the rail that contains it.
_MEANING = {
    _MODULE: (Domain.OTHER, ""),
    _HOST: (Domain.CPU, _MODULE),
    _CORES: (Domain.CPU, _HOST),
    _IO: (Domain.OTHER, _HOST),
    _MEMORY: (Domain.DRAM, _HOST),
    _ANY: (Domain.OTHER, _MODULE),  # one that is not known here
}
_TEXT_BYTES = 256  # of which a label shows 64


@dataclass(frozen=True, slots=True)
class Sensor:
    """
    One sensor that counts.

    Attributes:
        path: the file with its value, uW (Kind.POWER) or uJ (Kind.ENERGY).
        total: the device that this one is a part of and that has no sensor of its own.
    """

    device: Device
    kind: Kind
    path: str
    total: Device | None = None

    @property
    def labels(self) -> tuple[str, str]:
        """Chip and sensor, as metrics show them."""
        chip, _, sensor = self.device.name.partition(":")
        return chip, sensor

    @property
    def slow(self) -> bool:
        """A node's meter: firmware may ask the BMC for it, for seconds (drivers/acpi/acpi_ipmi.c)."""
        return self.device.domain is Domain.NODE


@dataclass(frozen=True, slots=True)
class _Chip:
    """``place``: where the kernel has the device, the same over boots."""

    name: str
    place: str
    files: Path


@dataclass(frozen=True, slots=True)
class _Meter:
    id: str
    path: Path
    label: str
    rail: str
    socket: int


def present(sysfs: Path) -> bool:
    """Whether there is a chip that this source could read."""
    return bool(_chips(sysfs))


def find_sensors(sysfs: Path, source: str, *, includes_gpu: bool) -> list[Sensor]:
    """The sensors that count, containers first. Never raises; what cannot be read is left out."""
    chips = _chips(sysfs)
    packages = _packages(sysfs) if chips else {}
    meters = [m for chip in chips if chip.name == METER for m in _meters(chip)]
    rails = sorted((m for m in meters if m.rail), key=lambda m: list(_MEANING).index(m.rail))
    plain = [m for m in meters if not m.rail]
    found = _rail_sensors(rails, packages, source)
    found += _node_sensors(plain, source, includes_gpu=includes_gpu, beside_rails=bool(rails))
    for chip in chips:
        if chip.name == AMD:
            found += _amd_sensors(chip, sysfs, packages, source)
    return _distinct(found)


def _chips(sysfs: Path) -> list[_Chip]:
    base = sysfs / "class" / "hwmon"
    try:
        numbers = sorted(
            int(match[1]) for e in base.iterdir() if (match := _HWMON.fullmatch(e.name))
        )
    except OSError:
        return []
    chips: dict[str, _Chip] = {}
    for number in numbers:
        here = base / f"hwmon{number}"
        name = _text(here / "name") or _text(here / "device" / "name")
        if name in (METER, AMD):
            files = (
                here if _numbered(here, _AVERAGE) or _numbered(here, _ENERGY) else here / "device"
            )
            chip = _Chip(name, _place(sysfs, here), files)
            chips.setdefault(chip.place, chip)
    return sorted(chips.values(), key=lambda chip: chip.place)


def _place(sysfs: Path, here: Path) -> str:
    """``LNXSYSTM:00/LNXSYBUS:00/ACPI000D:00``: the device's path below sysfs; hwmonN is not in it."""
    device = os.path.realpath(here / "device")
    place = os.path.relpath(device, os.path.realpath(sysfs / "devices"))
    return place if not place.startswith("..") else Path(device).name


def _numbered(base: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    try:
        entries = [(m, e) for e in base.iterdir() if (m := pattern.fullmatch(e.name))]
    except OSError:
        return []
    return sorted((int(match[1]), entry) for match, entry in entries)


def _meters(chip: _Chip) -> list[_Meter]:
    """The chip's power meters; one that measures a battery is none of the node's."""
    found = []
    for number, path in _numbered(chip.files, _AVERAGE):
        if _text(chip.files / f"power{number}_is_battery") == "1":
            continue
        label = _text(chip.files / f"power{number}_oem_info")
        rail, socket = parse_rail(label)
        found.append(_Meter(f"hwmon:{chip.place}/power{number}", path, label, rail, socket))
    return found


def parse_rail(oem_info: str) -> tuple[str, int]:
    """Which rail of which socket ``power1_oem_info`` names; ("", 0) where it names none."""
    match = _RAIL.fullmatch(oem_info)
    if match is None:
        return "", 0
    return _RAILS.get(match[1].strip().lower(), _ANY), int(match[2])


def _rail_sensors(
    rails: Iterable[_Meter], packages: Mapping[int, frozenset[int]], source: str
) -> list[Sensor]:
    """One rail of each socket is added up, the one that is the host; a second of its kind is shown."""
    ids: dict[tuple[str, int], str] = {}
    found = []
    for meter in rails:
        first = ids.setdefault((meter.rail, meter.socket), meter.id) == meter.id
        domain, container = _MEANING[meter.rail]
        device = Device(
            domain,
            meter.id,
            source,
            parent=ids.get((container, meter.socket), ""),
            name=f"{METER}:{meter.label}",
            summed=first and meter.rail == _HOST,
            cpus=packages.get(meter.socket, frozenset()),
        )
        found.append(Sensor(device, Kind.POWER, str(meter.path)))
    return found


def _node_sensors(
    meters: list[_Meter], source: str, *, includes_gpu: bool, beside_rails: bool
) -> list[Sensor]:
    """
    One meter is the node, several are parts of it. Beside rails of sockets nobody can say what an
    unnamed meter contains: it is shown.
    """
    total = None
    if len(meters) > 1 and not beside_rails:
        total = Device(Domain.NODE, SUM_ID, source, name=METER, includes_gpu=includes_gpu)
    found = []
    for meter in meters:
        device = Device(
            Domain.NODE,
            meter.id,
            source,
            parent=total.id if total else "",
            name=f"{METER}:{meter.label or meter.id.rpartition('/')[2]}",
            summed=total is None and not beside_rails,
            includes_gpu=includes_gpu,
        )
        found.append(Sensor(device, Kind.POWER, str(meter.path), total))
    return found


def _amd_sensors(
    chip: _Chip, sysfs: Path, packages: Mapping[int, frozenset[int]], source: str
) -> list[Sensor]:
    """
    Each package once. The driver makes one EsocketN per NUMA node, each of which reads the package that
    the node is in (amd_create_sensor: num_possible_nodes): with NPS4 every package is there four times.
    """
    found: dict[int, Sensor] = {}
    for number, path in _numbered(chip.files, _ENERGY):
        match = _ESOCKET.fullmatch(_text(chip.files / f"energy{number}_label"))
        if match is None:
            continue  # a core: inside its package
        package = _package_of_node(sysfs, int(match[1]), packages)
        if package is None or package in found:
            continue
        device = Device(
            Domain.CPU,
            f"hwmon:{chip.place}/energy{number}",
            source,
            name=f"{AMD}:{match[0]}",
            cpus=packages.get(package, frozenset()),
        )
        found[package] = Sensor(device, Kind.ENERGY, str(path))
    return list(found.values())


def _package_of_node(sysfs: Path, node: int, packages: Mapping[int, frozenset[int]]) -> int | None:
    """The package that NUMA node ``node`` is in; without NUMA the package of that number."""
    base = sysfs / "devices/system/node"
    if not base.is_dir():
        return node
    try:
        cpus = parse_cpulist(_text(base / f"node{node}" / "cpulist"))
    except ValueError:
        return None
    return next((package for package, held in packages.items() if held & cpus), None)


def _packages(sysfs: Path) -> dict[int, frozenset[int]]:
    found: dict[int, frozenset[int]] = {}
    for (package, _), cpus in dies(sysfs).items():
        found[package] = found.get(package, frozenset()) | cpus
    return found


def _distinct(sensors: list[Sensor]) -> list[Sensor]:
    """Two of one name would be one series: the later ones are told by their place."""
    seen: set[str] = set()
    found = []
    for sensor in sensors:
        device = sensor.device
        if device.name in seen:
            name = f"{device.name} {device.id.removeprefix('hwmon:')}"
            sensor = replace(sensor, device=replace(device, name=name))  # noqa: PLW2901
        seen.add(sensor.device.name)
        found.append(sensor)
    return found


def _text(path: Path) -> str:
    """What firmware wrote, fit for a label; "" where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            text = file.read(_TEXT_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())[:64]
