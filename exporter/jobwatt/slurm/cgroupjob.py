"""One job's control group between two scans: its open files, what they say, and who is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobwatt.kernelfiles import KeptFile
from jobwatt.model import NS_PER_S, JobUsage
from jobwatt.slurm.layout import V2
from jobwatt.slurm.procstat import read_file

if TYPE_CHECKING:
    from jobwatt.slurm.layout import JobDir, JobPath
    from jobwatt.slurm.procstat import CpuTally

CPU_FILES = {V2: "cpu.stat", "cpuacct": "cpuacct.usage"}
UID_RETRY_NS = (NS_PER_S // 10, 60 * NS_PER_S)


class CgroupJob:
    """A job between two scans: its open files and what was last read."""

    __slots__ = (
        "counting", "cpu", "cpu_base_ns", "cpu_inode", "cpu_ns", "cpus", "dir", "facts_ns", "first_ns", "limit", "mem", "mem_stat",
        "seen_ns", "tally", "uid", "uid_ns", "uid_wait_ns",
    )  # fmt: skip

    def __init__(self, found: JobDir, t_ns: int, first_ns: int) -> None:
        self.first_ns = first_ns
        self.seen_ns = t_ns
        self.uid = found.uid
        self.uid_ns, self.uid_wait_ns = 0, UID_RETRY_NS[0]
        self.facts_ns = 0
        self.cpu_ns: int | None = None
        self.counting = False
        self.cpu_base_ns = 0
        self.cpu_inode: int | None = None
        self.mem: int | None = None
        self.limit: int | None = None
        self.cpus: frozenset[int] | None = None
        self.tally: CpuTally | None = None
        self.cpu: KeptFile | None = None
        self.mem_stat: KeptFile | None = None
        self.bind(found)

    def bind(self, found: JobDir) -> None:
        """
        Let go of the files and point at those of ``found``; what was read last stays.

        A cpuacct directory made anew while the job went on (v1, between two steps) counts from
        0 again: it goes on top of what the former one had counted.
        """
        self.close()
        self.dir = found
        cpu = next((c for c in CPU_FILES if c in found.dirs), None)
        memory = found.dirs.get(V2) or found.dirs.get("memory")
        self.cpu = None
        if cpu:
            path, inode = found.dirs[cpu]
            self.cpu = KeptFile(f"{path}/{CPU_FILES[cpu]}")
            if self.cpu_inode not in (None, inode):
                self.cpu_base_ns = self.cpu_ns or 0
            self.cpu_inode = inode
        self.mem_stat = KeptFile(f"{memory[0]}/memory.stat") if memory else None

    def came_again(self, found: JobDir) -> bool:
        """Tell whether ``found`` is a new life: the same names, but no directory is the same."""
        was, now = self.dir.dirs, found.dirs
        common = was.keys() & now.keys()
        return bool(common) and all(was[c][1] != now[c][1] for c in common)

    def close(self) -> None:
        """Close its files; what was read stays."""
        for file in (self.cpu, self.mem_stat):
            if file:
                file.close()

    def usage(self) -> JobUsage:
        """What was last read, as the sampler takes it."""
        d = self.dir
        return JobUsage(
            d.key, d.root, d.node, d.jobid, self.uid, self.cpu_ns,
            self.mem, self.limit, self.cpus, self.first_ns, self.counting,
        )  # fmt: skip


def cpu_ns(text: bytes) -> int:
    """Parse cpuacct.usage (ns) or cpu.stat, whose first line is ``usage_usec N`` (us)."""
    return _line(text, b"usage_usec ") * 1000 if text[:1].isalpha() else int(text)


def mem_bytes(text: bytes) -> int | None:
    """Sum anon and shmem of memory.stat; v1's own lines count no sub-cgroup, so ``total_``."""
    if text.startswith(b"anon "):
        return _line(text, b"anon ") + _line(text, b"\nshmem ", 0)
    if b"\ntotal_rss " in text:
        return _line(text, b"\ntotal_rss ") + _line(text, b"\ntotal_shmem ", 0)
    return None


def _line(text: bytes, name: bytes, default: int | None = None) -> int:
    at = text.find(name)
    if at >= 0:
        value = text[at + len(name) :].partition(b"\n")[0]
        return int(value)
    if default is None:
        raise ValueError(f"no {name.decode().strip()} in {text[:40]!r}")
    return default


def holds(job: JobDir, path: JobPath, pid: int) -> bool:
    """Tell whether the process is where its path says, seen from the job's own directory."""
    controller = next((one for one in path.controllers if one in job.dirs), None)
    if controller is None:
        return False
    top, below = job.dirs[controller][0], path.below
    # a threaded cgroup does not tell its processes, the domain above it does (cgroup-v2.rst, Threads)
    while (procs := read_file(f"{top}{below}/cgroup.procs", 1 << 20)) is None and below:
        below = below.rpartition("/")[0]
    return b"%d" % pid in (procs or b"").split()


def rank_of(path: str, controller: str) -> int:
    """Order processes by the path within the job: task 0, slurmstepd 1, step_extern 2."""
    if "/step_extern" in path:
        return 2
    # v1's freezer has no task level: slurmstepd is at the job, the tasks are at the step
    return 0 if "/task_" in path or (controller == "freezer" and path) else 1
