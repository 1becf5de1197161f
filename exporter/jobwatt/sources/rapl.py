"""
RAPL energy counters from powercap, or from perf where powercap may not be read.

Which zones there are and what each is the energy of: powercap.py. Each zone's file is opened once
and read with one pread; zones are not read at one moment, so each reading carries its own.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model import NS_PER_S, Domain, Failure, Kind, Reading, SourceResult
from .perf import PerfPower
from .powercap import Zone, find_zones

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "rapl"
_RESCAN_NS = 60 * NS_PER_S  # zones come (modprobe, a chmod) and go seldom
_FIRST_RETRY_NS = NS_PER_S  # doubles up to a rescan's period while something is amiss


@dataclass(frozen=True, slots=True)
class _Open:
    zone: Zone
    fd: int
    inode: tuple[int, int]


class RaplSource:
    """
    The node's RAPL zones. ``read`` and ``close`` never raise.

    A zone that fails is a failure of its own and the others stay; it is tried again after 1 s,
    2 s, 4 s ... and each ``rescan_ns``, which also finds new zones.
    """

    name = _NAME

    def __init__(
        self, sysfs: Path, *, rescan_ns: int = _RESCAN_NS, first_retry_ns: int = _FIRST_RETRY_NS
    ) -> None:
        self._sysfs = sysfs
        self._powercap = sysfs / "class" / "powercap"
        self._rescan_ns = rescan_ns
        self._first_retry_ns = first_retry_ns
        self._retry_ns = first_retry_ns
        self._next_scan_ns = 0
        self._open: dict[str, _Open] = {}
        self._last: dict[str, int] = {}  # value by device
        self._failures: dict[str, Failure] = {}  # by device, "" for powercap as a whole
        self._perf = PerfPower(sysfs, _NAME)
        self._on_perf = False

    def read(self, *, full: bool) -> SourceResult:  # noqa: ARG002 - there is nothing to leave out
        """All zones now, each with its own moment; failures last as long as their cause."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        told: tuple[Failure, ...] = ()
        if now >= self._next_scan_ns:
            told = self._scan(now)
        if self._on_perf:
            readings, failures = self._perf.read()
            return SourceResult(tuple(readings), failures=(*told, *failures))
        return SourceResult(self._read_zones(), failures=tuple(self._failures.values()))

    def _read_zones(self) -> tuple[Reading, ...]:
        readings = []
        for opened in tuple(self._open.values()):
            zone = opened.zone
            try:
                text = os.pread(opened.fd, 32, 0)
                if not text:  # is being written anew: the next read tells
                    continue
                value = int(text)
                if value == self._last.get(zone.device.id) and not os.fstat(opened.fd).st_nlink:
                    self._next_scan_ns = 0  # another file has its name: opened by the next read
                    continue
                self._last[zone.device.id] = value
            except (OSError, ValueError) as err:
                self._break(zone, err)
                self._next_scan_ns = 0  # whether it is gone, or perf must take over
                continue
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            readings.append(
                Reading(zone.device, Kind.ENERGY, value, now, zone.wrap_uj, zone.max_power_uw)
            )
        return tuple(readings)

    def _break(self, zone: Zone, err: OSError | ValueError) -> None:
        """Let go of a zone that fails; the others stay."""
        self._drop(zone.device.id)
        self._failures[zone.device.id] = _failure(zone.path / "energy_uj", err, zone.device.id)

    def _scan(self, now: int) -> tuple[Failure, ...]:
        """
        Look at what is there: open what is new, let go of what is gone, fall back to perf where no
        package can be read. Returns what is to be told once although perf delivers.
        """
        before = self._failures
        self._failures = {}
        zones = {zone.device.id: zone for zone in find_zones(self._sysfs, _NAME)}
        for device in self._open.keys() - zones.keys():
            self._gone(device)
        for device in before.keys() - zones.keys():
            if before[device].reason == "gone" and device:
                self._failures[device] = before[device]
        for zone in zones.values():
            self._open_zone(zone)
        told = self._fall_back()
        self._plan(now)
        return told

    def _plan(self, now: int) -> None:
        """When to look again: soon and then ever later while something is amiss."""
        if not self._failures:
            self._retry_ns = self._first_retry_ns
            self._next_scan_ns = now + self._rescan_ns
            return
        self._next_scan_ns = now + min(self._retry_ns, self._rescan_ns)
        self._retry_ns = min(self._retry_ns * 2, self._rescan_ns)

    def _gone(self, device: str) -> None:
        path = self._open[device].zone.path
        self._drop(device)
        message = f"{path} is gone: load the kernel module that made it (intel_rapl_msr)"
        self._failures[device] = Failure(_NAME, "gone", message, device)

    def _open_zone(self, zone: Zone) -> None:
        """Open the zone's counter and try it, unless that very file is open already."""
        path, device = zone.path / "energy_uj", zone.device.id
        fd = -1
        try:
            inode = _inode(path.stat())
            if (before := self._open.get(device)) and before.inode == inode:
                self._open[device] = _Open(zone, before.fd, inode)  # its CPUs may have changed
                return
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            int(os.pread(fd, 32, 0) or b"0")  # empty: is being written anew
        except (OSError, ValueError) as err:
            if fd >= 0:
                os.close(fd)
            self._break(zone, err)
            return
        self._drop(device)
        self._open[device] = _Open(zone, fd, inode)

    def _fall_back(self) -> tuple[Failure, ...]:
        """Use perf if, and only if, powercap gives no package; say why."""
        if any(_is_package(opened.zone) for opened in self._open.values()):
            self._perf.close()
            self._on_perf = False
            return ()
        why = self._why_no_package()
        refused = () if self._on_perf else self._perf.open()
        if refused:
            self._failures = {"": why} | {f"perf{n}": one for n, one in enumerate(refused)}
            return ()
        for device in tuple(self._open):  # perf counts dram, core and psys too
            self._drop(device)
        self._failures.clear()
        told = () if self._on_perf else (why,)
        self._on_perf = True
        return told

    def _why_no_package(self) -> Failure:
        """One failure for powercap as a whole: the first zone's, or that there is none."""
        for failure in self._failures.values():
            return Failure(_NAME, failure.reason, failure.message)
        message = (
            f"no RAPL package in {self._powercap}: load intel_rapl_msr; a virtual machine has none;"
            " in a container mount the host's /sys and name it with --path.sysfs"
        )
        return Failure(_NAME, "no_powercap", message)

    def _drop(self, device: str) -> None:
        if opened := self._open.pop(device, None):
            os.close(opened.fd)

    def close(self) -> None:
        """Close all files; a later ``read`` opens them again."""
        for device in list(self._open):
            self._drop(device)
        self._perf.close()
        self._on_perf = False
        self._failures.clear()
        self._next_scan_ns = 0


def open_source(sysfs: Path) -> RaplSource:
    """The RAPL source of the node whose sysfs is ``sysfs``."""
    return RaplSource(sysfs)


def _failure(path: Path, err: OSError | ValueError, device: str) -> Failure:
    if isinstance(err, ValueError):
        return Failure(_NAME, "garbled", f"{path} holds no number", device)
    if err.errno not in (errno.EACCES, errno.EPERM):
        message = f"cannot read {path}: {err.strerror}; it is tried again"
        return Failure(_NAME, "unreadable", message, device)
    message = (
        f"cannot read {path}: {err.strerror}; let the daemon's group read it"
        f" (tmpfiles.d: z {os.path.realpath(path)} 0440 root jobwatt),"
        " or give the daemon CAP_PERFMON (perf) or CAP_DAC_READ_SEARCH"
    )
    return Failure(_NAME, "permission", message, device)


def _is_package(zone: Zone) -> bool:
    return zone.device.summed and zone.device.domain is Domain.CPU


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
