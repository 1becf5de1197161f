"""
What the Slurm jobs of a node use, from their control groups (v1, v2, hybrid; layout.py).

Nothing is written into a job's cgroup and no process is started; every file is opened once and
read again with pread. A read of a removed cgroup gives ENODEV; that and a new inode under the
same name tell that a job has ended, or has ended and come again.

Sources of the figures (kernel: Documentation/admin-guide/cgroup-v1, cgroup-v2.rst):

cpu_ns     v1 cpuacct.usage, v2 cpu.stat usage_usec, of the job's directory: with the steps that
           have ended. Where Slurm makes no cpuacct (jobacct_gather/linux on v1), the processes'
           own times (procstat.CpuTally).
mem_bytes  anon + shmem of memory.stat (v1: total_rss + total_shmem): what the job itself has
           filled and only it can free. Page cache, mapped or not, and reclaimable slab are left
           out: they are the kernel's to take back. One file, so the two are of one moment.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from jobwatt.kernelfiles import KeptFile, parse_cpulist
from jobwatt.model import NS_PER_S, Failure, JobUsage
from jobwatt.slurm.cgroupjob import (
    CPU_FILES,
    UID_RETRY_NS,
    CgroupJob,
    cpu_ns,
    holds,
    mem_bytes,
    rank_of,
)
from jobwatt.slurm.layout import GONE, V2, JobDir, Layout, Root, paths_in, walk
from jobwatt.slurm.procstat import CpuTally, read_file, read_stats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = "cgroups"
_NO_LIMIT = 1 << 62  # v1 says "no limit" with the largest multiple of a page below 2**63
_MEND = {
    errno.EACCES: ("permission", "run jobwatt as root or let it read the cgroup file system"),
    errno.EPERM: ("permission", "run jobwatt as root or let it read the cgroup file system"),
    errno.EMFILE: ("too_many_files", "raise LimitNOFILE= of jobwatt's unit"),
    errno.ENFILE: ("too_many_files", "raise fs.file-max"),
}
_FACTS_NS = 30 * NS_PER_S  # a limit or cpuset of a job changes by an operator's hand
_CPUACCT_LATE_NS = 2 * NS_PER_S  # Slurm makes a job's v1 directories within 0.1 s


class Cgroups:
    """
    The jobs that have a cgroup now.

    Several slurmd on a host, and v1 beside v2, are seen together. A job that leaves and comes
    again under its key (requeue; salloc between two srun) begins again at its new cgroup's own
    cpu_ns and with a new first_ns.

    Attributes:
        failures: what the last scan could not do; made anew by every scan.
    """

    def __init__(self, cgroupfs: Path, procfs: Path, slice_name: str = "system.slice") -> None:
        self._layout = Layout(cgroupfs, slice_name)
        self._procfs = str(procfs)
        self._jobs: dict[str, CgroupJob] = {}
        self._roots: list[Root] = []
        self._root_files: dict[str, KeptFile] = {}
        self._root_ns: dict[str, int] = {}
        self._scanned = False
        self.failures: list[Failure] = []

    @property
    def present(self) -> bool:
        """Whether the last scan found a Slurm root; where none is, look at processes instead."""
        return bool(self._roots)

    @property
    def named(self) -> bool:
        """Whether the last scan found a Slurm root whose name tells a node's."""
        return any(root.node for root in self._roots)

    def scan(self, t_ns: int, *, full: bool = True) -> list[JobUsage]:
        """
        List every job present now with its use; ``t_ns`` is CLOCK_BOOTTIME now.

        Memory, limit and cpuset are read when ``full``, else carried. Never raises OSError: a
        job that vanishes while it is read is listed with what was read of it, or not at all.
        """
        self.failures = []
        usages = None
        if self._scanned and self._layout.unchanged():
            usages = self._read_known(t_ns, full)
        if usages is None:
            self.failures = []
            found = self._list()
            for key in self._jobs.keys() - found.keys():
                self._jobs.pop(key).close()
            usages = [self._read(job, t_ns, full) for job in self._match(found, t_ns)]
        self._scanned = True
        return usages

    def roots(self) -> dict[str, int]:
        """Read the cumulative CPU time (ns) of the last scan's roots, ended jobs included."""
        times: dict[str, int] = {}
        paths: set[str] = set()
        for root in self._roots:
            name = CPU_FILES.get(root.controller)
            if name is None:
                continue
            path = f"{root.path}/{name}"
            paths.add(path)
            text = self._get(self._root_files.setdefault(path, KeptFile(path)))
            if text:
                with suppress(ValueError):  # said of its jobs already
                    times[root.name] = cpu_ns(text)
            elif text == b"" and root.name in self._root_ns:  # is being written anew
                times[root.name] = self._root_ns[root.name]
        self._root_ns = times
        for path in self._root_files.keys() - paths:
            self._root_files.pop(path).close()
        return times

    def pids(self, key: str) -> list[int]:
        """
        List the processes in a job's cgroup of the last scan: tasks, slurmstepd, step_extern last.

        Walks the job's whole tree (processes are in its leaves): not for every sample.
        """
        job = self._jobs.get(key)
        ranks: dict[int, int] = {}
        dirs = job.dir.dirs if job else {}
        for controller in sorted(dirs, key=(V2, "memory", "cpuacct", "freezer").index):
            for path, pids in walk(dirs[controller][0]):
                rank = rank_of(path[len(dirs[controller][0]) :], controller)
                for pid in pids:
                    ranks.setdefault(pid, rank)
        return sorted(ranks, key=lambda pid: ranks[pid])

    def key_of(self, pid: int) -> str | None:
        """
        Tell the job of the last scan a process belongs to; None where it is in none.

        Its own path says where to look, and the job's directory whether it is there: a path is
        named by whoever was given a cgroup.
        """
        text = read_file(f"{self._procfs}/{pid}/cgroup", 65536) or b""
        for path in paths_in(os.fsdecode(text)):
            job = self._jobs.get(path.key)
            if job and holds(job.dir, path, pid):
                return path.key
        return None

    def watch_dirs(self) -> set[Path]:
        """
        Name the directories to watch now (layout.Layout.watch_dirs), listed afresh.

        To miss nothing, set the watches first and scan after.
        """
        return self._layout.watch_dirs()

    def close(self) -> None:
        """Close every file; the next scan begins anew."""
        for job in self._jobs.values():
            job.close()
        for file in self._root_files.values():
            file.close()
        self._jobs.clear()
        self._root_files.clear()
        self._scanned = False

    def _read_known(self, t_ns: int, full: bool) -> list[JobUsage] | None:
        """Read the jobs that are known; None where one of them turns out to be gone."""
        usages = []
        for job in self._jobs.values():
            usages.append(self._read(job, t_ns, full))
            if job.cpu is None or not job.cpu.is_open:
                return None
        return usages

    def _list(self) -> dict[str, JobDir]:
        """List what is there now; what could not be listed is taken to be as it was."""
        roots, found, failed = self._layout.listing()
        if failed:
            below = tuple(f"{path}/" for path, _ in failed)
            roots.extend(r for r in self._roots if r.path.startswith(below) and r not in roots)
            for key, job in self._jobs.items():
                if any(path.startswith(below) for path, _ in job.dir.dirs.values()):
                    found[key] = job.dir
        for path, err in failed:
            self._fail(path, err)
        self._roots = roots
        return found

    def _match(self, found: dict[str, JobDir], t_ns: int) -> Iterator[CgroupJob]:
        """Pair what is there now with what was known."""
        for key, entry in found.items():
            job = self._jobs.get(key)
            if job is None or job.came_again(entry):
                if job:
                    job.close()
                job = self._jobs[key] = CgroupJob(entry, t_ns, t_ns if self._scanned else 0)
            elif job.dir != entry:  # a controller's directory came later, or went earlier
                job.bind(entry)
            yield job

    def _read(self, job: CgroupJob, t_ns: int, full: bool) -> JobUsage:
        try:
            self._read_cpu(job, t_ns)
            if full and (text := self._get(job.mem_stat)):
                job.mem = mem_bytes(text)
            if t_ns >= job.facts_ns and (full or not job.facts_ns):
                self._read_facts(job, t_ns)
            if job.uid is None and t_ns >= job.uid_ns:
                self._find_uid(job, t_ns)
        except ValueError as err:
            message = f"cannot parse a file of {job.dir.key}: {err}; is this a cgroup file system?"
            self.failures.append(Failure(SOURCE, "parse", message))
        return job.usage()

    def _read_cpu(self, job: CgroupJob, t_ns: int) -> None:
        text = self._get(job.cpu)
        if text:
            job.cpu_ns = max(job.cpu_base_ns + cpu_ns(text), job.cpu_ns or 0)
        elif job.cpu is None and self._uncounted(job, t_ns):
            self._count_processes(job)
        if text != b"":  # empty while it is being written anew: the next read tells
            job.counting = text is not None or job.tally is not None

    def _get(self, file: KeptFile | None) -> bytes | None:
        """Read a file; None where it is not there, gone (ENODEV) or, with a failure, unreadable."""
        if file is None:
            return None
        try:
            return file.read()
        except OSError as err:
            file.close()
            if err.errno not in GONE:
                self._fail(file.path, err)
            return None

    def _get_once(self, path: str) -> str:
        file = KeptFile(path)
        text = self._get(file)
        file.close()
        return os.fsdecode(text).strip() if text else ""

    def _fail(self, path: str, err: OSError) -> None:
        reason, mend = _MEND.get(err.errno or 0, ("io", "see the kernel log"))
        message = f"cannot read {path}: {err.strerror}; {mend}"
        self.failures.append(Failure(SOURCE, reason, message))

    def _read_facts(self, job: CgroupJob, t_ns: int) -> None:
        """Read limit and cpuset: often in a job's first seconds, while Slurm still writes them."""
        age = t_ns - job.first_ns if job.first_ns else _FACTS_NS
        job.facts_ns = t_ns + min(max(age, NS_PER_S), _FACTS_NS)
        if job.mem_stat:
            name = "memory.max" if V2 in job.dir.dirs else "memory.limit_in_bytes"
            text = self._get_once(job.mem_stat.path.removesuffix("memory.stat") + name)
            limit = int(text) if text.isdigit() else _NO_LIMIT  # v2 says "max"
            job.limit = limit if limit < _NO_LIMIT else None
        job.cpus = parse_cpulist(self._get_once(self._layout.cpuset_path(job.dir))) or None

    def _uncounted(self, job: CgroupJob, t_ns: int) -> bool:
        """Tell whether a v1 job has no cpuacct, rather than not yet or no more."""
        if job.tally or V2 in job.dir.dirs:
            return job.tally is not None
        if job.cpu_ns is not None:
            return False  # its cpuacct went first, as it does at a job's end: the figure stays
        roots = {r.name for r in self._roots if r.controller == "cpuacct"}
        return job.dir.root not in roots or t_ns - job.seen_ns > _CPUACCT_LATE_NS

    def _count_processes(self, job: CgroupJob) -> None:
        tally = job.tally = job.tally or CpuTally()
        dirs = job.dir.dirs
        path = (dirs.get("freezer") or dirs["memory"])[0]
        pids = {pid for _, pids in walk(path) for pid in pids}
        now = read_stats(self._procfs, pids.union(tally.pids))
        # one that left the cgroup still counts while it is a zombie, not when its PID is reused
        new = {pid: s for pid, s in now.items() if pid in pids or tally.still(pid, now)}
        job.cpu_ns = tally.update(new)

    def _find_uid(self, job: CgroupJob, t_ns: int) -> None:
        """
        Learn the owner from a task's process; a v2 path does not tell it.

        Neither root nor step_extern (whose ``sleep`` is root's) names an owner. Tried again after
        0.1 s, 0.2 s ... 60 s: a job may hold its node for long before it starts anything.
        """
        job.uid_ns = t_ns + job.uid_wait_ns
        job.uid_wait_ns = min(2 * job.uid_wait_ns, UID_RETRY_NS[1])
        if V2 not in job.dir.dirs:
            return
        top = job.dir.dirs[V2][0]
        for path, pids in walk(top):
            step = path[len(top) :].split("/")[1:3]
            if step[1:] != ["user"] or step[0] == "step_extern":
                continue
            for pid in pids:
                try:
                    uid = os.stat(f"{self._procfs}/{pid}").st_uid  # noqa: PTH116  a str, often
                except OSError:
                    continue
                if uid:
                    job.uid = uid
                    return
