"""
The Slurm jobs of a node without cgroups (proctrack/linuxproc), from the process tree.

slurmd starts one ``slurmstepd: [JOBID.STEP]`` a step, as root; what descends from it is the job.
A user can give a process any title, so a title counts only where the real uid is root's and both
the program and the process name are slurmstepd's.

Limits of this way, beside the cgroups': a process that was orphaned before it was first seen is
not found (Slurm's own linuxproc loses it too); the path tells no node, so jobs of the same id of
two slurmd on one host are one; memory is anonymous memory only, summed, so pages shared by a
fork count once per process.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S, Failure, JobUsage
from jobwatt.slurm.procstat import (
    NS_PER_TICK,
    CpuTally,
    Stat,
    anon_bytes,
    read_file,
    read_stat,
    read_stats,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCE = "proctree"
STEPD = b"slurmstepd"
# [12.batch], [12.0], [12.extern]; [12.0+1] and [12+1.0] are steps of heterogeneous jobs;
# [12.extern stepmgr] starts the job's other steps (sbatch --stepmgr, since 24.05)
_TITLE = re.compile(rb"slurmstepd: \[([0-9]{1,10})(?:\+[0-9]+)?\.([^\]\s]+)(?: stepmgr)?\]")
_REAL_UID = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)
_YOUNG_NS = 2 * NS_PER_S  # may have been looked at between its fork and its exec: look again
_TITLE_LATE_NS = 60 * NS_PER_S  # slurmstepd sets its title once it has read the step


class _Job:
    """A job between two scans."""

    __slots__ = ("cpu_ns", "first_ns", "jobid", "mem", "tally", "uid")

    def __init__(self, jobid: int) -> None:
        self.jobid = jobid
        self.uid: int | None = None
        self.cpu_ns = 0
        self.mem: int | None = None
        self.first_ns = 0
        self.tally = CpuTally()

    @property
    def key(self) -> str:
        return f"/{self.jobid}"

    def usage(self) -> JobUsage:
        return JobUsage(
            key=self.key,
            jobid=self.jobid,
            uid=self.uid,
            cpu_ns=self.cpu_ns,
            mem_bytes=self.mem,
            first_ns=self.first_ns,
        )


class _Member:
    """A process that belongs to a job; it stays the job's when its parent dies."""

    __slots__ = ("extern", "job", "start", "stepd")

    def __init__(self, job: _Job, start: int, *, extern: bool, stepd: bool) -> None:
        self.job = job
        self.start = start
        self.extern = extern
        self.stepd = stepd


class ProcTree:
    """
    The jobs whose processes descend from a slurmstepd now; used like Cgroups.

    A process is looked at once, when it is new; each scan then reads only the processes of jobs.

    Attributes:
        failures: what the last scan could not do; made anew by every scan.
    """

    def __init__(self, procfs: Path) -> None:
        self._procfs = str(procfs)
        self._members: dict[int, _Member] = {}
        self._others: dict[int, int] = {}  # PID -> inode in /proc: a reused PID has another
        self._jobs: dict[int, _Job] = {}
        self.failures: list[Failure] = []

    @property
    def present(self) -> bool:
        """Whether the last scan found a step."""
        return bool(self._jobs)

    def scan(self, t_ns: int, *, full: bool = True) -> list[JobUsage]:
        """
        List every job present now; ``t_ns`` is CLOCK_BOOTTIME now.

        ``cpu_ns`` is the time of its processes with slurmstepd's own, ended steps included while
        the job has any process; ``first_ns`` is the start of its first slurmstepd seen. Memory
        is read when ``full``, else carried. Never raises OSError.
        """
        self.failures = []
        live = self._list()
        stats = read_stats(self._procfs, self._members)
        self._forget(live, stats)
        self._adopt(live, stats, t_ns)
        byjob: dict[_Job, dict[int, Stat]] = {job: {} for job in self._jobs.values()}
        for pid, member in self._members.items():
            byjob[member.job][pid] = stats[pid]
            member.stepd = member.stepd and stats[pid].comm == STEPD  # it may have become a task
        self._jobs = {job.jobid: job for job, pids in byjob.items() if pids}
        for job in self._jobs.values():
            self._read(job, byjob[job], full)
        return [job.usage() for job in self._jobs.values()]

    def roots(self) -> dict[str, int]:
        """Return {}: without a cgroup nothing counts the steps that ended unseen."""
        return {}

    def pids(self, key: str) -> list[int]:
        """List a job's processes of the last scan: tasks, slurmstepd, step_extern last."""
        found = [(m.extern, m.stepd, p) for p, m in self._members.items() if m.job.key == key]
        return [pid for _, _, pid in sorted(found)]

    def key_of(self, pid: int) -> str | None:
        """Tell the job a process belongs to; None where it is in no job."""
        passed: set[int] = set()  # PIDs are reused: a chain could bite its tail
        while pid not in passed and (stat := read_stat(self._procfs, pid)):
            member = self._members.get(pid)
            if member and member.start == stat.start:
                return member.job.key
            passed.add(pid)
            pid = stat.ppid
        return None

    def watch_dirs(self) -> set[Path]:
        """Return no directory: /proc tells of no process that comes or goes."""
        return set()

    def close(self) -> None:
        """Forget all; the next scan begins anew."""
        self._members.clear()
        self._others.clear()
        self._jobs.clear()

    def _list(self) -> dict[int, int]:
        """List PID -> inode of the processes."""
        try:
            with os.scandir(self._procfs) as entries:
                return {
                    int(e.name): e.inode() for e in entries if e.name.isascii() and e.name.isdigit()
                }
        except OSError as err:
            message = f"cannot list {self._procfs}: {err.strerror}; give --path.procfs"
            self.failures.append(Failure(SOURCE, "io", message))
            return {}

    def _forget(self, live: dict[int, int], stats: dict[int, Stat]) -> None:
        """Drop the processes that ended, and those whose PID is another's by now."""
        for pid, member in list(self._members.items()):
            if pid not in stats or stats[pid].start != member.start:
                del self._members[pid]
                stats.pop(pid, None)
        self._others = {p: i for p, i in self._others.items() if live.get(p) == i}

    def _adopt(self, live: dict[int, int], stats: dict[int, Stat], t_ns: int) -> None:
        """Look at the new processes, parents first; add those of a job to members and stats."""
        new = read_stats(
            self._procfs, (p for p in live if p not in self._members and p not in self._others)
        )
        late: set[int] = set()
        placed: set[int] = set()
        for first in new:
            chain = []
            pid = first
            while pid in new and pid not in placed:
                chain.append(pid)
                placed.add(pid)
                pid = new[pid].ppid
            for child in reversed(chain):
                self._place(child, new[child], late, t_ns)
        for pid, stat in new.items():
            if pid in self._members:
                stats[pid] = stat
            elif pid not in late and t_ns - stat.start * NS_PER_TICK > _YOUNG_NS:
                self._others[pid] = live[pid]

    def _place(self, pid: int, stat: Stat, late: set[int], t_ns: int) -> None:
        parent = self._members.get(stat.ppid)
        if parent:
            stepd = parent.stepd and stat.comm == STEPD  # a task between its fork and its exec
            self._members[pid] = _Member(parent.job, stat.start, extern=parent.extern, stepd=stepd)
            return
        if stat.ppid in late:
            late.add(pid)
        if stat.comm != STEPD or not self._is_stepd(pid):
            return
        title = _TITLE.match(read_file(f"{self._procfs}/{pid}/cmdline") or b"")
        if title is None:
            if t_ns - stat.start * NS_PER_TICK < _TITLE_LATE_NS:
                late.add(pid)
            return
        job = self._jobs.setdefault(int(title[1]), _Job(int(title[1])))
        began = stat.start * NS_PER_TICK
        job.first_ns = min(job.first_ns or began, began)
        self._members[pid] = _Member(job, stat.start, extern=title[2] == b"extern", stepd=True)

    def _is_stepd(self, pid: int) -> bool:
        """
        Tell whether a process named slurmstepd is Slurm's: really root's, and the program too.

        The owner of /proc/PID will not do: it is root for a user's set-uid program as well.
        """
        path = f"{self._procfs}/{pid}"
        uid = _REAL_UID.search(read_file(f"{path}/status") or b"")
        try:
            if (int(uid[1]) if uid else Path(path).stat().st_uid) != 0:
                return False
            program = os.readlink(f"{path}/exe")  # noqa: PTH115  " (deleted)" after an upgrade
        except OSError:  # not ours to see: name and owner have to do
            return uid is not None or Path(path).exists()
        return os.fsencode(program).removesuffix(b" (deleted)").endswith(b"/" + STEPD)

    def _read(self, job: _Job, stats: dict[int, Stat], full: bool) -> None:
        job.cpu_ns = max(job.cpu_ns, job.tally.update(stats))
        if full:
            job.mem = sum(anon_bytes(self._procfs, pid, stat) for pid, stat in stats.items())
        if job.uid is None:
            job.uid = self._uid(stats)

    def _uid(self, pids: Iterable[int]) -> int | None:
        """Learn the owner: of the first process that is neither root's nor step_extern's."""
        for pid in sorted(pids):
            if not self._members[pid].extern:
                try:
                    uid = Path(f"{self._procfs}/{pid}").stat().st_uid
                except OSError:
                    continue
                if uid:
                    return uid
        return None
