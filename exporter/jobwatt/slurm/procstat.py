"""
CPU time and memory of processes from /proc/PID/stat and statm, for jobs without a cgroup that counts.

Fields as in proc_pid_stat(5); times are clock ticks of ``SC_CLK_TCK``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from jobwatt.model import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NS_PER_TICK = NS_PER_S // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """
    What one process says of itself.

    Attributes:
        own: utime + stime, ticks.
        waited: cutime + cstime, ticks: of children that ended and were waited for.
        start: ticks since boot; with the PID it names one process for ever.
    """

    comm: bytes
    ppid: int
    own: int
    waited: int
    start: int
    rss_pages: int


def parse_stat(text: bytes) -> Stat:
    """Parse /proc/PID/stat. The name may hold spaces and parentheses, so the last ")" ends it."""
    head, _, tail = text.rpartition(b")")
    f = tail.split()
    return Stat(
        comm=head.partition(b"(")[2],
        ppid=int(f[1]),
        own=int(f[11]) + int(f[12]),
        waited=int(f[13]) + int(f[14]),
        start=int(f[19]),
        rss_pages=int(f[21]),
    )


def read_file(path: str, size: int = 4096) -> bytes | None:
    """Read up to ``size`` bytes, or None where the file is gone or not ours to see."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    text = b""
    try:
        # seq files (cgroup.procs) come a page at a time
        while len(text) < size and (part := os.read(fd, size - len(text))):
            text += part
    except OSError:  # ESRCH, ENODEV: it ended between open and read
        return None
    finally:
        os.close(fd)
    return text


def read_stat(procfs: str, pid: int) -> Stat | None:
    """Read one process; None where it is gone."""
    text = read_file(f"{procfs}/{pid}/stat")
    try:
        return parse_stat(text) if text else None
    except (ValueError, IndexError):  # cut short: it ended while the kernel wrote
        return None


def read_stats(procfs: str, pids: Iterable[int]) -> dict[int, Stat]:
    """Read those of ``pids`` that still exist."""
    return {pid: stat for pid in pids if (stat := read_stat(procfs, pid)) is not None}


def anon_bytes(procfs: str, pid: int, stat: Stat) -> int:
    """
    Memory of one process without files: resident - shared of statm; rss where there is no statm.

    ``shared`` is RssFile + RssShmem: pages of libraries that every process maps, and shared
    memory, which a sum over processes would count once per process.
    """
    fields = (read_file(f"{procfs}/{pid}/statm") or b"").split()
    if len(fields) < 3 or not (fields[1].isdigit() and fields[2].isdigit()):
        return stat.rss_pages * PAGE_BYTES
    return max(0, int(fields[1]) - int(fields[2])) * PAGE_BYTES


class CpuTally:
    """
    The CPU time of a changing set of processes; never goes backwards, keeps what has ended.

    A process that ended and was waited for is in its parent's ``waited``; one that nobody
    waited for, or whose parent ended too, would be lost, so what was last seen of it is kept.
    With L the kept part, the figure is L + sum(own + waited) over the living. For each
    survivor q whose descendants ended, L grows by max(0, last seen of them - growth of
    q.waited); the sum therefore never shrinks.
    """

    def __init__(self) -> None:
        self._before: dict[int, Stat] = {}
        self._kept = 0

    @property
    def pids(self) -> Iterable[int]:
        """Processes of the last update; a zombie leaves its cgroup before it leaves /proc."""
        return self._before.keys()

    def still(self, pid: int, now: Mapping[int, Stat]) -> bool:
        """Tell whether ``now`` has the very process that was there before, not a new one's PID."""
        stat = now.get(pid)
        return stat is not None and stat.start == self._before[pid].start

    def update(self, now: dict[int, Stat]) -> int:
        """Take the processes as they are now; return their cumulative CPU time in ns."""
        before = self._before
        ended: dict[int, int] = {}
        for pid, stat in before.items():
            if not self.still(pid, now):
                heir = self._heir(stat.ppid, now)
                ended[heir] = ended.get(heir, 0) + stat.own + stat.waited
        for heir, ticks in ended.items():
            inherited = now[heir].waited - before[heir].waited if heir else 0
            self._kept += max(0, ticks - inherited)
        self._before = now
        return (self._kept + sum(s.own + s.waited for s in now.values())) * NS_PER_TICK

    def _heir(self, pid: int, now: Mapping[int, Stat]) -> int:
        """Find the nearest ancestor that is still there; 0 where none is."""
        for _ in range(len(self._before)):  # PIDs are reused: a chain could bite its tail
            stat = self._before.get(pid)
            if stat is None:
                return 0
            if self.still(pid, now):
                return pid
            pid = stat.ppid
        return 0
