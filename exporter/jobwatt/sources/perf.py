"""
RAPL through the perf ``power`` PMU: the same counters where powercap may not be read.

``perf_event_open`` for each event of ``<sysfs>/bus/event_source/devices/power/events`` on each CPU
of its ``cpumask`` (one CPU a package or die; arch/x86/events/rapl.c). The kernel widens the 32-bit
registers to 64 bits, so nothing wraps; a count begins at 0 when it is opened. It takes CAP_PERFMON
(or root), which opens no file of other users, but shows the memory maps of their processes on new
kernels (6.18: /proc/PID/maps; docs/privileges.md).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from ..kernelfiles import parse_cpulist
from ..model import UJ_PER_J, Device, Domain, Failure, Kind, Reading
from .procstat import dies

if TYPE_CHECKING:
    from pathlib import Path

# __NR_perf_event_open: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC, include/uapi/linux/perf_event.h
# perf_event_attr as first published (PERF_ATTR_SIZE_VER0): type, size, config, sample_period,
# sample_type, read_format, flags, wakeup_events, bp_type, config1. Flags stay 0: the power PMU
# refuses every exclude_* bit.
_ATTR = struct.Struct("=IIQQQQQIIQ")

# As the kernel writes it: 2.3283064365386962890625e-10; a longer exponent would be worked out.
_SCALE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,40})?(?:e-?[0-9]{1,2})?")

# What each event counts: domain, the powercap zone's name, whether it is added up.
_EVENTS = {
    "energy-pkg": (Domain.CPU, "package", True),
    "energy-ram": (Domain.DRAM, "dram", True),
    "energy-cores": (Domain.CPU, "core", False),
    "energy-gpu": (Domain.CPU, "uncore", False),
    "energy-psys": (Domain.NODE, "psys", False),
}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the PMU. ``uj``: microjoules a count."""

    name: str
    config: int
    uj: Fraction


@dataclass(frozen=True, slots=True)
class _Counter:
    device: Device
    fd: int
    numerator: int
    denominator: int
    epoch: int


class PerfPower:
    """The open counters of the ``power`` PMU."""

    def __init__(self, sysfs: Path, source: str) -> None:
        self._sysfs = sysfs
        self._base = sysfs / "bus/event_source/devices/power"
        self._source = source
        self._counters: list[_Counter] = []

    def open(self) -> tuple[Failure, ...]:
        """Open what there is; without a single package counter nothing stays open."""
        self.close()
        try:
            pmu, cpus = (
                int(_text(self._base / "type")),
                parse_cpulist(_text(self._base / "cpumask")),
            )
            events = read_events(self._base / "events")
        except (OSError, ValueError) as err:
            why = err.strerror if isinstance(err, OSError) else str(err)
            return (self._failure("no_perf", f"no perf power PMU at {self._base}: {why}"),)
        topology = dies(self._sysfs)
        try:
            for cpu in sorted(cpus):
                self._open_cpu(pmu, cpu, events, topology)
        except OSError as err:
            self.close()
            return (self._failure(*self._refused(err)),)
        if any(counter.device.summed for counter in self._counters):
            return ()
        self.close()
        return (
            self._failure("no_perf", f"the perf power PMU at {self._base} has no event energy-pkg"),
        )

    def _open_cpu(
        self,
        pmu: int,
        cpu: int,
        events: list[Event],
        topology: dict[tuple[int, int], frozenset[int]],
    ) -> None:
        for event in events:
            try:
                fd = _perf_event_open(pmu, event.config, cpu)
            except OSError:
                if event.name == "energy-pkg":
                    raise
                continue  # listed, yet not of this CPU: AMD before Linux 5.17 listed them all
            device = _device(self._source, event.name, cpu, topology)
            epoch = time.clock_gettime_ns(time.CLOCK_BOOTTIME)  # a count begins at 0 when opened
            self._counters.append(
                _Counter(device, fd, event.uj.numerator, event.uj.denominator, epoch)
            )

    def _refused(self, err: OSError) -> tuple[str, str]:
        if err.errno in (errno.EACCES, errno.EPERM):
            mend = "give the daemon CAP_PERFMON (systemd: AmbientCapabilities=CAP_PERFMON)"
            return (
                "permission",
                f"perf_event_open of {self._base} is refused ({err.strerror}): {mend}",
            )
        return "no_perf", f"perf_event_open of {self._base} failed: {err.strerror}"

    def _failure(self, reason: str, message: str, device: str = "") -> Failure:
        return Failure(self._source, reason, message, device)

    def read(self) -> tuple[list[Reading], list[Failure]]:
        """Read every counter; one that fails is a failure of its own."""
        readings, failures = [], []
        for counter in self._counters:
            device = counter.device
            try:
                count = int.from_bytes(os.read(counter.fd, 8), sys.byteorder)
            except OSError as err:
                failures.append(
                    self._failure(
                        "unreadable", f"cannot read {device.id}: {err.strerror}", device.id
                    )
                )
                continue
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            value = count * counter.numerator // counter.denominator
            readings.append(Reading(device, Kind.ENERGY, value, now, epoch=counter.epoch))
        return readings, failures

    def close(self) -> None:
        """Close the counters."""
        for counter in self._counters:
            os.close(counter.fd)
        self._counters.clear()


def read_events(base: Path) -> list[Event]:
    """
    The known ``energy-*`` events with their scale, exactly.

    Raises:
        OSError, ValueError: the directory or a file in it is not what the kernel writes.
    """
    found = []
    for name in _EVENTS:
        if not (base / name).exists():
            continue
        if (unit := _text(base / f"{name}.unit")) != "Joules":
            raise ValueError(f"{base / name}.unit is {unit}, not Joules")
        scale = _text(base / f"{name}.scale")
        uj = Fraction(scale) * UJ_PER_J if _SCALE.fullmatch(scale) else Fraction(0)
        if not 0 < uj <= UJ_PER_J:  # a count of a joule is the coarsest register
            raise ValueError(f"{base / name}.scale is {scale[:40]!r}, no part of a joule")
        found.append(Event(name, parse_config(_text(base / name)), uj))
    return found


def parse_config(text: str) -> int:
    """
    ``event=0x02`` (``,umask=0x01``) as perf_event_attr.config: event in bits 0-7, umask in 8-15,
    as the PMU's ``format`` directory says of x86.

    Raises:
        ValueError: another term, or no number.
    """
    shift = {"event": 0, "umask": 8}
    config = 0
    for term in text.split(","):
        key, _, value = term.strip().partition("=")
        if key not in shift:
            raise ValueError(f"unknown term {key[:40]!r} of a perf event")
        number = int(value[:8], 0)
        if not 0 <= number <= 0xFF:
            raise ValueError(f"{key} of a perf event is {number}: it has eight bits")
        config |= number << shift[key]
    return config


def _device(
    source: str, event: str, cpu: int, topology: dict[tuple[int, int], frozenset[int]]
) -> Device:
    domain, name, summed = _EVENTS[event]
    place, cpus = next(
        ((key, cpus) for key, cpus in topology.items() if cpu in cpus), (None, frozenset())
    )
    if name == "package":
        name = f"package-{place[0]}" if place else f"package-cpu{cpu}"
        if place and sum(key[0] == place[0] for key in topology) > 1:
            name += f"-die-{place[1]}"
    inside = domain is not Domain.NODE and event != "energy-pkg"
    parent = f"perf:power/energy-pkg/cpu{cpu}" if inside else ""
    feeds = frozenset() if domain is Domain.NODE else cpus
    return Device(domain, f"perf:power/{event}/cpu{cpu}", source, parent, name, summed, feeds)


def _perf_event_open(pmu: int, config: int, cpu: int) -> int:
    """
    A counting event of all processes on ``cpu``: its file descriptor.

    Raises:
        OSError: as perf_event_open(2) says.
    """
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"perf_event_open is not known for {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(
        _ATTR.pack(pmu, _ATTR.size, config, 0, 0, 0, 0, 0, 0, 0), _ATTR.size
    )
    libc.syscall.restype = ctypes.c_long
    args = (ctypes.c_long(number), attr, ctypes.c_int(-1), ctypes.c_int(cpu), ctypes.c_int(-1))
    fd = int(libc.syscall(*args, ctypes.c_ulong(_CLOEXEC)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
