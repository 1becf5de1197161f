"""
The node's own CPU time and memory, its boot and its dies, from procfs and sysfs.

Figures are what the kernel counts for the whole machine; nothing here knows of jobs. A file that
cannot be read leaves its figures out: an empty mapping, ``None``, "".
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

from ..kernelfiles import KeptFile
from ..model import NS_PER_S, NodeUsage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

_TICK_NS = NS_PER_S // os.sysconf("SC_CLK_TCK")  # /proc/stat counts USER_HZ ticks (proc(5))
_STAT_BYTES = 1 << 14  # enough for 128 CPUs; doubled where the cpu lines are longer
_MEMINFO_BYTES = 1 << 13  # the file is about 1.5 kB; grows by a line now and then
_CPU_DIR = re.compile(r"cpu(\d+)")


class ProcStat:
    """Busy time of every logical CPU and memory of the node, each read from a file kept open."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._stat = _Told(procfs / "stat")
        self._meminfo = _Told(procfs / "meminfo")
        self._stat_bytes = _STAT_BYTES

    def read(self) -> NodeUsage:
        """The node now. Never raises; what cannot be read is left out."""
        total, used = parse_meminfo(self._meminfo.read(_MEMINFO_BYTES))
        return NodeUsage(parse_stat(self._cpu_lines()), total, used)

    def _cpu_lines(self) -> bytes:
        """
        The ``cpu`` lines of /proc/stat in one read: a second read at another offset would make
        the kernel count everything anew, and the lines would be of two moments.
        """
        while True:
            data = self._stat.read(self._stat_bytes)
            end = data.find(b"\nintr")
            if end >= 0 or len(data) < self._stat_bytes:
                return data[:end] if end >= 0 else data
            self._stat_bytes *= 2

    def boot_id(self) -> str:
        """The kernel's id of this boot, "" where it is not told."""
        path = self._procfs / "sys/kernel/random/boot_id"
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as err:
            log.warning("cannot read %s: %s", path, err)
            return ""

    def close(self) -> None:
        """Let go of the files; a later ``read`` opens them again."""
        self._stat.close()
        self._meminfo.close()


class _Told:
    """A kept file of which one line in the log says, once, that it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(str(path))
        self._told = False

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as err:
            self._file.close()
            if not self._told:
                log.warning("cannot read %s: %s", self._file.path, err.strerror)
                self._told = True
            return b""

    def close(self) -> None:
        self._file.close()


def parse_stat(data: bytes) -> dict[int, int]:
    """
    Busy ns of each logical CPU from the ``cpuN`` lines of /proc/stat: user + nice + system + irq +
    softirq (proc(5)). Guest time is inside user; idle, iowait and steal are not busy. A line that
    does not parse is left out; a CPU that is offline has no line.
    """
    busy = {}
    for line in data.split(b"\n"):
        if not line.startswith(b"cpu"):
            break
        try:
            name, user, nice, system, _, _, irq, softirq, _ = line.split(None, 8)
            total = int(user) + int(nice) + int(system) + int(irq) + int(softirq)
            busy[int(name[3:])] = total * _TICK_NS
        except ValueError:  # the sum line "cpu", or a line cut short
            continue
    return busy


def parse_meminfo(data: bytes) -> tuple[int, int | None]:
    """
    Bytes in total (0 unknown) and in use (None unknown): MemTotal - MemAvailable, the kernel's own
    estimate of what could be had without swapping, so page cache is not in use (proc(5)).
    """
    total, available = _kib(data, b"MemTotal:"), _kib(data, b"MemAvailable:")
    if total is None:
        return 0, None
    return total, None if available is None else max(total - available, 0)


def _kib(data: bytes, key: bytes) -> int | None:
    """The value in bytes of one ``Key:   N kB`` line."""
    at = data.find(key)
    words = data[at + len(key) : at + len(key) + 32].split(None, 1) if at >= 0 else ()
    return int(words[0]) << 10 if words and words[0].isdigit() else None


def dies(sysfs: Path) -> dict[tuple[int, int], frozenset[int]]:
    """
    Logical CPUs of each (package, die), from ``topology/physical_package_id`` and ``die_id``
    (Documentation/admin-guide/cputopology.rst). A kernel without ``die_id`` has one die, 0; a CPU
    that is offline has no topology and is in none.
    """
    found: dict[tuple[int, int], set[int]] = {}
    base = sysfs / "devices/system/cpu"
    for cpu in _cpu_numbers(base):
        topology = base / f"cpu{cpu}" / "topology"
        package = _number(topology / "physical_package_id")
        if package is not None and package >= 0:  # -1: a platform that does not know
            found.setdefault((package, _number(topology / "die_id") or 0), set()).add(cpu)
    return {key: frozenset(cpus) for key, cpus in sorted(found.items())}


def _cpu_numbers(base: Path) -> Iterable[int]:
    try:
        names = os.listdir(base)  # noqa: PTH208 - a name is all that is wanted of 512 of them
    except OSError:
        return []
    return sorted(int(match[1]) for name in names if (match := _CPU_DIR.fullmatch(name)))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None
