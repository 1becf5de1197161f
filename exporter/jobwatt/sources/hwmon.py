"""
Power and energy that the kernel's hwmon shows: ACPI power meters, NVIDIA Grace, amd_energy.

Which sensors there are and what each one is the energy of: hwmon_chips.py. A file is opened once and
read with one pread. Sensors in a chip are read with the sample; a node's meter, which its firmware may
have to ask the BMC for, in a thread of its own, once a second (polled.py).

A power of 0 is a sensor that has no value, and so is one beyond all reason: -1 from firmware comes out
as 4.3 MW (drivers/hwmon/acpi_power_meter.c multiplies an unsigned number of mW).
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from ..kernelfiles import KeptFile
from ..model import NS_PER_S, Domain, Failure, Kind, Reading, Sample, SourceResult
from .hwmon_chips import AMD, Sensor, find_sensors, present
from .polled import Polled
from .rapl import RaplSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ..model import Device

__all__ = ["HwmonSource", "open_source", "present"]

_NAME = "hwmon"
_RESCAN_NS = 60 * NS_PER_S  # chips come (modprobe) and go seldom
_FIRST_RETRY_NS = NS_PER_S  # doubles up to a rescan's period while something is amiss
_METER_S = 1.0
# The kernel's ACPI driver gives IPMI 5 s to answer (drivers/acpi/acpi_ipmi.c: IPMI_TIMEOUT).
_METER_LIMIT_S = 6.0
# No node draws more: a DGX B200 takes 14.3 kW (NVIDIA's data sheet), a whole NVL72 rack 120 kW.
_MAX_POWER_UW = 100_000_000_000
_MAX_ENERGY_UJ = 2**63 - 1  # what the ledger can hold


class HwmonSource:
    """
    The node's hwmon sensors. ``read`` and ``close`` never raise.

    ``rapl``: RAPL is read by its own source. amd_energy, which is the same register, is then used only
    while RAPL has never been readable: it is asked just as the other source asks, at each sample.
    """

    name = _NAME

    def __init__(
        self,
        sysfs: Path,
        *,
        includes_gpu: bool = True,
        rapl: bool = True,
        meter_s: float = _METER_S,
        rescan_ns: int = _RESCAN_NS,
        first_retry_ns: int = _FIRST_RETRY_NS,
    ) -> None:
        self._sysfs = sysfs
        self._includes_gpu = includes_gpu
        self._meter_s = meter_s
        self._times = rescan_ns, first_retry_ns
        self._chips = _Sensors(self._find_chips, 0, *self._times)
        self._meters: Polled | None = None
        self._rapl = RaplSource(sysfs, rescan_ns=0, first_retry_ns=0) if rapl else None
        self._rapl_has_been = False

    def read(self, *, full: bool) -> SourceResult:
        """All sensors of chips now; of the node's meters their last reading."""
        chips = self._chips.look(self._shut_out())
        if self._meters is None:
            return chips
        meters = self._meters.read(full=full)
        return SourceResult(
            (*chips.readings, *meters.readings),
            samples=(*chips.samples, *meters.samples),
            failures=(*chips.failures, *meters.failures),
        )

    @property
    def pending(self) -> bool:
        """Whether the node's meter has not answered yet."""
        return self._meters is not None and self._meters.pending

    def close(self) -> None:
        """Close all files; a later ``read`` opens them again."""
        self._chips.close()
        if self._meters is not None:
            self._meters.close()
            self._meters = None

    def _find_chips(self) -> list[Sensor]:
        found = find_sensors(self._sysfs, _NAME, includes_gpu=self._includes_gpu)
        if self._meters is None and any(sensor.slow for sensor in found):
            self._meters = self._open_meters()
        return [sensor for sensor in found if not sensor.slow]

    def _find_meters(self) -> list[Sensor]:
        found = find_sensors(self._sysfs, _NAME, includes_gpu=self._includes_gpu)
        return [sensor for sensor in found if sensor.slow]

    def _open_meters(self) -> Polled:
        meters = _Sensors(self._find_meters, int(self._meter_s * NS_PER_S), *self._times)
        return Polled(_NAME, meters.look, self._meter_s, _METER_LIMIT_S, meters.close)

    def _shut_out(self) -> Callable[[Sensor], bool]:
        """Tells which sensors are not to be read: amd_energy where RAPL counts or has counted."""

        def shut_out(sensor: Sensor) -> bool:
            return sensor.labels[0] == AMD and self._rapl_counts()

        return shut_out

    def _rapl_counts(self) -> bool:
        """
        Whether RAPL has ever been readable: its counter bridges the time in which it is not, which
        amd_energy must not count as well.
        """
        if self._rapl is None or self._rapl_has_been:
            return self._rapl_has_been
        readings = self._rapl.read(full=False).readings
        self._rapl.close()
        self._rapl_has_been = any(
            r.device.summed and r.device.domain is Domain.CPU for r in readings
        )
        return self._rapl_has_been


class _Sensors:
    """Some of the sensors, their open files, and what is amiss with them. Used by one thread."""

    def __init__(
        self,
        find: Callable[[], list[Sensor]],
        every_ns: int,
        rescan_ns: int,
        first_retry_ns: int,
    ) -> None:
        self._find, self._every_ns = find, every_ns
        self._rescan_ns, self._first_retry_ns = rescan_ns, first_retry_ns
        self._retry_ns = first_retry_ns
        self._next_scan_ns = 0
        self._sensors: dict[str, Sensor] = {}
        self._files: dict[str, KeptFile] = {}  # by device
        self._broken: dict[str, Failure] = {}  # by device; left alone until the next scan
        self._gone: dict[str, Failure] = {}

    def look(self, shut_out: Callable[[Sensor], bool] = lambda _: False) -> SourceResult:
        """Read them all, each at its own moment; ``shut_out`` ones are not touched."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if now >= self._next_scan_ns:
            self._scan(now)
        readings, unknown = [], []
        for sensor in [s for s in self._sensors.values() if not shut_out(s)]:
            outcome = self._read(sensor)
            if isinstance(outcome, Reading):
                readings.append(outcome)
            elif outcome is not None:
                unknown.append(outcome)
        samples = [self._sample(reading) for reading in readings if reading.kind is Kind.POWER]
        readings += _totals(self._sensors.values(), readings)
        samples += [
            _wall_power(r) for r in readings if r.device.domain is Domain.NODE and r.device.summed
        ]
        failures = (*self._gone.values(), *unknown)
        return SourceResult(tuple(readings), samples=tuple(samples), failures=failures)

    def close(self) -> None:
        """Let go of all files."""
        for file in self._files.values():
            file.close()
        self._files, self._sensors, self._broken, self._gone = {}, {}, {}, {}
        self._next_scan_ns = 0

    def _scan(self, now: int) -> None:
        """Find what is there now; what was there and is not is told until it is back."""
        sensors = {sensor.device.id: sensor for sensor in self._find()}
        for device in self._sensors.keys() - sensors.keys():
            path = self._sensors[device].path
            self._gone[device] = Failure(
                _NAME, "gone", f"{path} is gone: load the kernel module that made it", device
            )
        for device in list(self._files):
            if device not in sensors or self._files[device].path != sensors[device].path:
                self._files.pop(device).close()
        self._gone = {device: f for device, f in self._gone.items() if device not in sensors}
        self._sensors = sensors
        amiss = bool(self._gone or self._broken)
        self._broken = {}
        self._retry_ns = min(self._retry_ns * 2, self._rescan_ns) if amiss else self._first_retry_ns
        self._next_scan_ns = now + (self._retry_ns if amiss else self._rescan_ns)

    def _read(self, sensor: Sensor) -> Reading | Failure | None:
        """Its reading, or what is amiss; None for a rail without a value that is not added up."""
        device = sensor.device
        if failure := self._broken.get(device.id):
            return failure
        file = self._files.setdefault(device.id, KeptFile(sensor.path))
        try:
            value = parse_value(file.read(64))
        except (OSError, ValueError) as err:
            file.close()
            self._broken[device.id] = failure = _failure(sensor, err)
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._next_scan_ns = min(self._next_scan_ns, now + self._retry_ns)
            return failure
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if sensor.kind is Kind.ENERGY and value <= _MAX_ENERGY_UJ:
            return Reading(device, Kind.ENERGY, value, now)
        if sensor.kind is Kind.POWER and 0 < value <= _MAX_POWER_UW:
            return Reading(device, Kind.POWER, value, now, every_ns=self._every_ns)
        return _no_value(sensor, value) if device.summed or sensor.total else None

    def _sample(self, reading: Reading) -> Sample:
        labels = self._sensors[reading.device.id].labels
        return Sample("jobwatt_hwmon_power_watts", labels, reading.value / 1_000_000)


def _wall_power(reading: Reading) -> Sample:
    """The node's power as the meter shows it."""
    labels = (_NAME, reading.device.name or reading.device.id)
    return Sample("jobwatt_wall_power_watts", labels, reading.value / 1_000_000)


def _totals(sensors: Iterable[Sensor], readings: Iterable[Reading]) -> list[Reading]:
    """The sum of several meters, at the moment of the last; unknown while one of them is."""
    read = {reading.device.id: reading for reading in readings}
    parts: dict[Device, list[Reading | None]] = {}
    for sensor in sensors:
        if sensor.total is not None:
            parts.setdefault(sensor.total, []).append(read.get(sensor.device.id))
    totals = []
    for device, found in parts.items():
        known = [reading for reading in found if reading is not None]
        if len(known) == len(found):
            last, value = max(known, key=lambda r: r.t_ns), sum(r.value for r in known)
            totals.append(Reading(device, last.kind, value, last.t_ns, every_ns=last.every_ns))
    return totals


def parse_value(data: bytes) -> int:
    """
    The number in a sysfs file: digits of at most a u64.

    Raises:
        ValueError: it is empty, or anything else.
    """
    text = data.strip()
    if not (text.isdigit() and len(text) <= 20):
        raise ValueError(f"{text[:20]!r} is no number")
    return int(text)


def open_source(sysfs: Path, *, includes_gpu: bool = True, rapl: bool = True) -> HwmonSource:
    """The hwmon source of the node whose sysfs is ``sysfs``; ``rapl``: RAPL is read as well."""
    return HwmonSource(sysfs, includes_gpu=includes_gpu, rapl=rapl)


def _failure(sensor: Sensor, err: OSError | ValueError) -> Failure:
    path, device = sensor.path, sensor.device.id
    if isinstance(err, ValueError):
        return Failure(_NAME, "garbled", f"{path}: {err}; it is tried again", device)
    if err.errno not in (errno.EACCES, errno.EPERM):
        message = f"cannot read {path}: {err.strerror}; it is tried again"
        return Failure(_NAME, "unreadable", message, device)
    message = (
        f"cannot read {path}: {err.strerror}; let the daemon's group read it (a udev rule for hwmon"
        " that runs chgrp jobwatt), or give the daemon CAP_DAC_READ_SEARCH"
    )
    return Failure(_NAME, "permission", message, device)


def _no_value(sensor: Sensor, value: int) -> Failure:
    message = (
        f"{sensor.path} says {value}, which is no value: its firmware has none"
        " (an ACPI meter that is asked over IPMI needs the kernel module acpi_ipmi)"
    )
    return Failure(_NAME, "no_value", message, sensor.device.id)
