"""
Node trees made of real files: /sys, /proc and /sys/fs/cgroup as a Slurm node shows them.

Everything is deterministic, written below one root, and moved only by calls::

    node = Node(tmp_path, cpus=64, sockets=2)         # /proc/stat, meminfo, boot_id, topology
    node.add_intel()                                  # 2 packages with core+dram, psys, mmio twin
    job = node.add_job(42, uid=20001, layout="v2", cpus=range(8), steps=("extern", "batch", "0"))
    node.burn(job, 3_000_000_000)                     # 3 s of CPU: task, step, job, root, /proc/stat
    node.burn_system(50_000_000)                      # daemons: the root cgroup and /proc/stat only
    node.idle(1_000_000_000)                          # idle jiffies on every CPU
    node.advance_rapl("intel-rapl:0", 125_000_000)    # 125 J, wraps at the zone's range
    node.set_memory(job, 1 << 30, cache=5 << 30)
    node.end_step(job, "0"); node.end_job(job)        # directories and processes are gone

    RaplSource(node.sys); ProcStat(node.proc); Cgroups(node.cgroup, node.proc)

Layouts: ``v1`` <controller>/slurm[_NODE]/uid_U/job_N/step_X/task_Y, ``v2``
[slice]/[NODE_]slurmstepd.scope/job_N/step_X/user/task_Y, ``v2`` with ``sluid=`` a directory named
by SLUID, ``none`` (proctrack/linuxproc): processes under ``slurmstepd: [ID.STEP]`` only. Several
``nodename`` in one tree are several slurmd on one host. Files are rewritten in place (same inode)
by one pwrite, so a descriptor held open sees new values as it would in sysfs.

``job.path`` and ``step.path`` are relative to ``node.cgroup`` (v2) or to a controller (v1);
``job.cpu_ns``, ``job.pids`` and ``node.rapl[zone].total_uj`` are the truth to compare with.

``Node`` is long, for what a job uses moves several trees at once: its cgroups, /proc/stat, /proc/PID.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from treefiles import TICK_NS, cpu_stat, cpulist, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

NO_LIMIT_V1 = 9223372036854771712  # LONG_MAX rounded down to a page: memory.limit_in_bytes's "none"
BOOT_ID = "6f1c1b9e-7f0a-4c1e-9d52-2a6f0d6b1c11"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
V1_CONTROLLERS = ("cpuacct", "memory", "devices", "freezer", "cpuset")

INTEL_PACKAGE_RANGE_UJ = 262_143_328_850  # measured: 61 uJ unit
INTEL_DRAM_RANGE_UJ = 65_712_999_613  # measured: fixed 15.3 uJ unit
AMD_RANGE_UJ = 65_532_610_987  # 15.3 uJ unit


def sluid(number: int) -> str:
    """A directory name as Slurm 26.05 gives it: ``s`` and 13 Crockford characters."""
    digits = []
    for _ in range(13):
        number, digit = divmod(number, 32)
        digits.append(CROCKFORD[digit])
    return "s" + "".join(reversed(digits))


@dataclass
class Zone:
    """A powercap zone and the truth about it."""

    path: Path
    energy_uj: int
    range_uj: int
    total_uj: int = 0


@dataclass
class Step:
    """A job step. ``tasks`` holds each task's pids."""

    name: str
    path: str
    stepd: int
    tasks: list[list[int]] = field(default_factory=list)
    cpu_ns: int = 0


@dataclass
class Job:
    """A job and the truth about it. ``path`` is "" where the layout has no cgroup."""

    jobid: int
    uid: int
    nodename: str
    layout: str
    root: str
    path: str
    cpus: frozenset[int] | None
    mem_limit: int | None
    environ: dict[str, str]
    controllers: tuple[str, ...]
    steps: dict[str, Step] = field(default_factory=dict)
    cpu_ns: int = 0
    mem_bytes: int = 0
    cache_bytes: int = 0

    @property
    def pids(self) -> list[int]:
        return [pid for step in self.steps.values() for task in step.tasks for pid in task]


@dataclass
class Process:
    pid: int
    ppid: int
    uid: int
    comm: str
    start_ticks: int
    cpu_ns: int = 0


class Node:
    """One node's trees below ``root``: ``sys``, ``proc`` and ``cgroup``."""

    def __init__(
        self,
        root: Path,
        *,
        cpus: int = 8,
        sockets: int = 1,
        dies: int = 1,
        mem_total: int = 64 << 30,
        boot_id: str = BOOT_ID,
    ) -> None:
        self.root, self.sys, self.proc, self.cgroup = (
            root,
            root / "sys",
            root / "proc",
            root / "cgroup",
        )
        self.cpus, self.mem_total, self.mem_used = cpus, mem_total, 0
        self.busy_ns = [0] * cpus  # the truth behind /proc/stat
        self.idle_ns = [0] * cpus
        self.rapl: dict[str, Zone] = {}
        self.jobs: list[Job] = []
        self.processes: dict[int, Process] = {}
        self._cgroup_ns: dict[str, int] = {}  # CPU time of every cgroup, by path
        self._next_pid = 10_001
        self.powercap = self.sys / "class" / "powercap"
        for base in (self.sys, self.proc, self.cgroup):
            base.mkdir(parents=True, exist_ok=True)
        self.set_boot_id(boot_id)
        self._topology(sockets, dies)
        self.set_mem_used(2 << 30)
        self.write_stat()

    # -- the machine ------------------------------------------------------------------------

    def set_boot_id(self, boot_id: str) -> None:
        write(self.proc / "sys/kernel/random/boot_id", boot_id + "\n")

    def _topology(self, sockets: int, dies: int) -> None:
        """Contiguous blocks of CPUs per socket, and of those per die."""
        base = self.sys / "devices/system/cpu"
        for cpu in range(self.cpus):
            topology = base / f"cpu{cpu}/topology"
            write(topology / "physical_package_id", cpu * sockets // self.cpus)
            write(topology / "die_id", cpu * sockets * dies // self.cpus % dies)
            write(topology / "core_id", cpu)
        write(base / "online", f"0-{self.cpus - 1}\n")
        write(base / "possible", f"0-{self.cpus - 1}\n")

    def set_mem_used(self, used: int) -> None:
        """MemTotal - MemAvailable = ``used``."""
        self.mem_used = used
        available = (self.mem_total - used) >> 10
        total = self.mem_total >> 10
        rows = {
            "MemTotal": total,
            "MemFree": available // 2,
            "MemAvailable": available,
            "Buffers": 1024,
        }
        rows |= {"Cached": available // 2, "SwapTotal": 0}
        write(self.proc / "meminfo", "".join(f"{k + ':':<16}{v:>8} kB\n" for k, v in rows.items()))

    def write_stat(self, *, offline: Iterable[int] = ()) -> None:
        """Rewrite /proc/stat: 3/4 of the busy time is user, the rest system, softirq and irq."""
        gone, rows, sums = set(offline), [], [0] * 10
        for cpu in range(self.cpus):
            busy = self.busy_ns[cpu] // TICK_NS
            user, irq, soft = busy * 3 // 4, busy // 64, busy // 32
            idle = self.idle_ns[cpu] // TICK_NS
            row = [
                user,
                0,
                busy - user - irq - soft,
                idle,
                idle // 100,
                irq,
                soft,
                idle // 50,
                user // 2,
                0,
            ]
            if cpu not in gone:
                rows.append(f"cpu{cpu} " + " ".join(map(str, row)))
            sums = [a + b for a, b in zip(sums, row, strict=True)]
        head = "cpu  " + " ".join(map(str, sums))
        tail = "intr 204244 0 0\nctxt 398771\nbtime 1795413101\nprocesses 5903\nprocs_running 2\nprocs_blocked 0\n"
        write(self.proc / "stat", "\n".join([head, *rows, tail]))
        self._write_root_cgroup()

    def _write_root_cgroup(self) -> None:
        """The root cgroup's CPU time is the node's."""
        if (self.cgroup / "cgroup.controllers").exists():
            write(self.cgroup / "cpu.stat", cpu_stat(sum(self.busy_ns)))
        if (self.cgroup / "cpuacct").is_dir():
            write(self.cgroup / "cpuacct/cpuacct.usage", sum(self.busy_ns))

    def idle(self, ns: int) -> None:
        """Each CPU idles for ``ns``."""
        self.idle_ns = [value + ns for value in self.idle_ns]
        self.write_stat()

    def burn_system(self, cpu_ns: int, cpus: Sequence[int] | None = None) -> None:
        """CPU time of daemons and the kernel: in /proc/stat, in no job."""
        self._busy(cpu_ns, cpus or range(self.cpus))
        self.write_stat()

    def _busy(self, cpu_ns: int, cpus: Iterable[int]) -> None:
        """Spread over ``cpus``, every nanosecond of it."""
        order = sorted(cpus)
        share, rest = divmod(cpu_ns, len(order))
        for place, cpu in enumerate(order):
            self.busy_ns[cpu] += share + (place < rest)

    # -- RAPL -------------------------------------------------------------------------------

    def add_rapl(
        self,
        zone: str,
        name: str,
        *,
        range_uj: int = INTEL_PACKAGE_RANGE_UJ,
        energy_uj: int = 0,
        max_power_uw: int = 0,
    ) -> Zone:
        """
        A zone ``intel-rapl:0:1`` as the kernel lays it out: the directory hangs below its parent in
        devices/virtual/powercap, the class directory holds a symbolic link to it.
        """
        parts = zone.split(":")
        real = self.sys / "devices/virtual/powercap" / parts[0]
        for depth in range(2, len(parts) + 1):
            real /= ":".join(parts[:depth])
        write(real / "name", name + "\n")
        write(real / "energy_uj", energy_uj)
        write(real / "max_energy_range_uj", range_uj)
        if max_power_uw:
            write(real / "constraint_0_name", "long_term\n")
            write(real / "constraint_0_max_power_uw", max_power_uw)
        self.powercap.mkdir(parents=True, exist_ok=True)
        for link, target in ((parts[0], real.parents[len(parts) - 2]), (zone, real)):
            if not (self.powercap / link).is_symlink():
                (self.powercap / link).symlink_to(os.path.relpath(target, self.powercap))
        self.rapl[zone] = Zone(real, energy_uj, range_uj)
        return self.rapl[zone]

    def add_intel(self, sockets: int = 2, *, psys: bool = True, mmio: bool = True) -> None:
        """Packages with core and dram, psys as their sibling, and the mmio twin of package 0."""
        for n in range(sockets):
            self.add_rapl(f"intel-rapl:{n:x}", f"package-{n}", max_power_uw=250_000_000)
            self.add_rapl(f"intel-rapl:{n:x}:0", "core")
            self.add_rapl(
                f"intel-rapl:{n:x}:1", "dram", range_uj=INTEL_DRAM_RANGE_UJ, max_power_uw=40_500_000
            )
        if psys:
            self.add_rapl(f"intel-rapl:{sockets:x}", "psys")
        if mmio:
            self.add_rapl("intel-rapl-mmio:0", "package-0")

    def add_amd(self, sockets: int = 2) -> None:
        """Packages with core, no dram, no constraint."""
        for n in range(sockets):
            self.add_rapl(f"intel-rapl:{n:x}", f"package-{n}", range_uj=AMD_RANGE_UJ)
            self.add_rapl(f"intel-rapl:{n:x}:0", "core", range_uj=AMD_RANGE_UJ)

    def add_many_packages(self, packages: int = 11) -> None:
        """More packages than decimal digits: the eleventh is ``intel-rapl:a``."""
        for n in range(packages):
            self.add_rapl(f"intel-rapl:{n:x}", f"package-{n}")

    def add_dies(self, sockets: int = 2, dies: int = 2) -> None:
        """Cascade Lake-AP: one zone per die."""
        for n in range(sockets * dies):
            self.add_rapl(f"intel-rapl:{n:x}", f"package-{n // dies}-die-{n % dies}")

    def remove_rapl(self, zone: str) -> None:
        """The zone and its subzones vanish, as when the module is unloaded."""
        shutil.rmtree(self.rapl[zone].path)
        for name in [name for name in self.rapl if name == zone or name.startswith(zone + ":")]:
            (self.powercap / name).unlink()
            del self.rapl[name]

    def advance_rapl(self, zone: str, uj: int) -> None:
        """The zone uses ``uj``; its counter wraps at its range."""
        z = self.rapl[zone]
        z.total_uj += uj
        z.energy_uj = (z.energy_uj + uj) % z.range_uj
        write(z.path / "energy_uj", z.energy_uj)

    def add_perf_power(
        self,
        events: Mapping[str, str],
        *,
        pmu_type: int = 1,
        cpumask: str = "0",
        scale: str = "2.3283064365386962890625e-10",
    ) -> Path:
        """The perf ``power`` PMU; type 1 (software) makes the kernel open real counters for it."""
        base = self.sys / "bus/event_source/devices/power"
        write(base / "type", pmu_type)
        write(base / "cpumask", cpumask + "\n")
        for name, config in events.items():
            write(base / "events" / name, config + "\n")
            write(base / "events" / f"{name}.scale", scale + "\n")
            write(base / "events" / f"{name}.unit", "Joules\n")
        return base

    # -- jobs -------------------------------------------------------------------------------

    def add_job(
        self,
        jobid: int,
        *,
        uid: int = 20001,
        layout: str = "v2",
        nodename: str = "",
        sluid: str = "",
        slice_name: str = "system.slice",
        cpus: Iterable[int] | None = None,
        mem_bytes: int = 64 << 20,
        mem_limit: int | None = None,
        steps: Sequence[str] = ("batch",),
        tasks: int = 1,
        environ: Mapping[str, str | None] | None = None,
        controllers: Sequence[str] = V1_CONTROLLERS,
        start_ticks: int | None = None,
    ) -> Job:
        """
        A running job. ``environ`` changes its processes' environment (None takes a name away);
        ``controllers`` are v1's (without ``cpuacct`` where Slurm gathers by jobacct_gather/linux).
        """
        root, path = _places(layout, nodename, slice_name, uid, sluid or f"job_{jobid}")
        base = {
            "SLURM_JOB_ID": str(jobid), "SLURM_JOBID": str(jobid), "SLURM_JOB_UID": str(uid),
            "SLURM_JOB_NAME": f"job{jobid}", "SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_ACCOUNT": "infres",
            "SLURM_JOB_USER": f"u{uid}", "SLURM_JOB_QOS": "normal", "SLURM_JOB_NUM_NODES": "1",
            "SLURMD_NODENAME": nodename or "node",
        }  # fmt: skip
        merged = {k: v for k, v in (base | dict(environ or {})).items() if v is not None}
        held = None if cpus is None else frozenset(cpus)
        job = Job(
            jobid, uid, nodename, layout, root, path, held, mem_limit, merged, tuple(controllers)
        )
        self.jobs.append(job)
        self._root_files(layout, root, slice_name)
        if layout != "none":
            self._job_dirs(job)
        for name in steps:
            self.add_step(job, name, tasks=tasks, start_ticks=start_ticks)
        self.set_memory(job, mem_bytes)
        return job

    def add_step(
        self, job: Job, name: str, *, tasks: int = 1, start_ticks: int | None = None
    ) -> Step:
        """A step with its slurmstepd and ``tasks`` processes (extern: root's ``sleep``)."""
        title = f"slurmstepd: [{job.jobid}.{name}]"
        path = f"{job.path}/step_{name}"
        stepd = f"{path}/slurm" if job.layout == "v2" else path
        pid = self.spawn(
            job,
            stepd,
            ppid=1,
            uid=0,
            comm="slurmstepd",
            cmdline=title,
            environ={},
            start_ticks=start_ticks,
        )
        step = Step(name, path, pid)
        job.steps[name] = step
        for task in range(tasks):
            where = f"{path}/user/task_{task}" if job.layout == "v2" else f"{path}/task_{task}"
            uid, comm = (0, "sleep") if name == "extern" else (job.uid, "python3")
            env = (
                {}
                if name == "extern"
                else job.environ | {"SLURM_STEP_ID": name, "SLURM_PROCID": str(task)}
            )
            line = "sleep\0100000000\0" if name == "extern" else "python3\0train.py\0"
            pid = self.spawn(
                job, where, ppid=step.stepd, uid=uid, comm=comm, cmdline=line, environ=env,
                start_ticks=start_ticks,
            )  # fmt: skip
            step.tasks.append([pid])
        return step

    def _job_dirs(self, job: Job) -> None:
        for directory in self._dirs(job, job.path):
            self._cgroup_files(directory, job)

    def _dirs(self, job: Job, path: str) -> list[Path]:
        """The directories that stand for ``path``: one in v2, one per controller in v1."""
        if job.layout == "none":
            return []
        if job.layout == "v2":
            return [self.cgroup / path]
        found = []
        for controller in job.controllers:
            parts = path.split("/")
            depth = {"freezer": 4, "cpuset": 4}.get(controller, 9)  # these have no task level
            found.append(self.cgroup / controller / "/".join(parts[:depth]))
        return found

    def _cgroup_files(self, directory: Path, job: Job) -> None:
        write(directory / "cgroup.procs", "")
        limit, cpus = job.mem_limit, cpulist(job.cpus if job.cpus is not None else range(self.cpus))
        if job.layout == "v2":
            write(directory / "cpu.stat", cpu_stat(0))
            write(directory / "memory.max", "max\n" if limit is None else f"{limit}\n")
            if job.cpus is not None:
                write(directory / "cpuset.cpus", cpus + "\n")
            write(directory / "cpuset.cpus.effective", cpus + "\n")
            write(directory / "memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")
        elif directory.is_relative_to(self.cgroup / "cpuacct"):
            write(directory / "cpuacct.usage", 0)
        elif directory.is_relative_to(self.cgroup / "memory"):
            write(directory / "memory.limit_in_bytes", NO_LIMIT_V1 if limit is None else limit)
        elif directory.is_relative_to(self.cgroup / "cpuset"):
            write(directory / "cpuset.cpus", cpus + "\n")

    def _root_files(self, layout: str, root: str, slice_name: str) -> None:
        """The slice and Slurm's own directory, once."""
        if layout == "v2":
            write(self.cgroup / "cgroup.controllers", "cpuset cpu io memory pids\n")
            (self.cgroup / root / "system").mkdir(parents=True, exist_ok=True)
        elif layout == "v1":
            for controller in V1_CONTROLLERS:
                (self.cgroup / controller).mkdir(parents=True, exist_ok=True)
        if layout != "none":
            for path in (slice_name, root) if layout == "v2" else (root,):
                self._account(layout, path, 0)
            self._write_root_cgroup()

    def _account(self, layout: str, path: str, cpu_ns: int) -> None:
        total = self._cgroup_ns[path] = self._cgroup_ns.get(path, 0) + cpu_ns
        if layout == "v2":
            write(self.cgroup / path / "cpu.stat", cpu_stat(total))
        elif layout == "v1" and (self.cgroup / "cpuacct").is_dir():
            write(self.cgroup / "cpuacct" / path / "cpuacct.usage", total)

    def spawn(
        self,
        job: Job,
        path: str,
        *,
        ppid: int,
        uid: int,
        comm: str,
        cmdline: str,
        environ: Mapping[str, str],
        start_ticks: int | None = None,
    ) -> int:
        """A process of ``job`` in cgroup ``path``: /proc/PID, and its line in cgroup.procs."""
        pid = self._next_pid
        self._next_pid += 1
        if start_ticks is None:
            start_ticks = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // TICK_NS
        base = self.proc / str(pid)
        write(base / "comm", comm + "\n")
        write(base / "cmdline", cmdline if cmdline.endswith("\0") else cmdline + "\0")
        write(base / "environ", "".join(f"{k}={v}\0" for k, v in environ.items()))
        write(base / "status", f"Name:\t{comm}\nState:\tS (sleeping)\nTgid:\t{pid}\nPid:\t{pid}\nPPid:\t{ppid}\n"
              f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmRSS:\t    4096 kB\n")  # fmt: skip
        write(base / "cgroup", _proc_cgroup(job, path))
        self.processes[pid] = Process(pid, ppid, uid, comm, start_ticks)
        self._write_pid_stat(self.processes[pid])
        if os.geteuid() == 0:
            os.chown(base, uid, uid)  # the owner of /proc/PID is the process's user
        for directory in self._dirs(job, path):
            self._join(directory, job, pid)
        return pid

    def _join(self, directory: Path, job: Job, pid: int) -> None:
        """Make the directory and those between it and the job, then add the pid."""
        missing = []
        while not (directory / "cgroup.procs").exists():
            missing.append(directory)
            directory = directory.parent
        for new in reversed(missing):
            self._cgroup_files(new, job)
            directory = new
        procs = directory / "cgroup.procs"
        write(procs, procs.read_text() + f"{pid}\n")

    def _write_pid_stat(self, process: Process) -> None:
        ticks = process.cpu_ns // TICK_NS
        user = ticks * 3 // 4
        head = f"{process.pid} ({process.comm}) S {process.ppid} {process.pid} {process.pid} 0 -1 4194304"
        tail = (
            f"102 0 0 0 {user} {ticks - user} 0 0 20 0 1 0 {process.start_ticks} 3133440 1024 "
            + "0 " * 27
        )
        write(self.proc / str(process.pid) / "stat", f"{head} {tail}0\n")

    def burn(self, job: Job, cpu_ns: int, step: str | None = None) -> None:
        """The job uses CPU: its first task of ``step`` (the last one by default) and all above it."""
        self._burn(job, cpu_ns, step)
        self.write_stat()

    def advance(self, ns: int, busy: Sequence[tuple[Job, int]] = (), system_ns: int = 0) -> None:
        """``ns`` pass on every CPU: the jobs' busy time, the system's, idleness for what is left."""
        before = list(self.busy_ns)
        for job, cpu_ns in busy:
            self._burn(job, cpu_ns, None)
        if system_ns:
            self._busy(system_ns, range(self.cpus))
        for cpu, was in enumerate(before):
            self.idle_ns[cpu] += max(ns - (self.busy_ns[cpu] - was), 0)
        self.write_stat()

    def _burn(self, job: Job, cpu_ns: int, name: str | None) -> None:
        step = job.steps[name or list(job.steps)[-1]]
        job.cpu_ns += cpu_ns
        step.cpu_ns += cpu_ns
        self._busy(cpu_ns, job.cpus or range(self.cpus))
        if step.tasks:
            process = self.processes[step.tasks[0][0]]
            process.cpu_ns += cpu_ns
            self._write_pid_stat(process)
        if job.layout == "none" or (job.layout == "v1" and "cpuacct" not in job.controllers):
            return
        leaf = f"{step.path}/user/task_0" if job.layout == "v2" else f"{step.path}/task_0"
        parts = leaf.split("/")
        for depth in range(1, len(parts) + 1):
            self._account(job.layout, "/".join(parts[:depth]), cpu_ns)

    def set_memory(self, job: Job, anon: int, *, cache: int = 0) -> None:
        """The job's memory: ``anon`` bytes of its own and ``cache`` of page cache."""
        job.mem_bytes, job.cache_bytes = anon, cache
        if job.layout == "v2":
            base = self.cgroup / job.path
            write(base / "memory.current", anon + cache)
            write(base / "memory.peak", anon + cache)
            stat = {
                "anon": anon,
                "file": cache,
                "kernel": 0,
                "shmem": 0,
                "inactive_file": cache // 2,
            }
            stat |= {"active_file": cache - cache // 2}
            write(base / "memory.stat", "".join(f"{k} {v}\n" for k, v in stat.items()))
        elif job.layout == "v1" and "memory" in job.controllers:
            base = self.cgroup / "memory" / job.path
            write(base / "memory.usage_in_bytes", anon + cache)
            write(base / "memory.max_usage_in_bytes", anon + cache)
            limit = NO_LIMIT_V1 if job.mem_limit is None else job.mem_limit
            stat = {"cache": 0, "rss": 0, "inactive_file": 0, "hierarchical_memory_limit": limit}
            stat |= {"total_cache": cache, "total_rss": anon, "total_shmem": 0}
            stat |= {"total_inactive_file": cache // 2, "total_active_file": cache - cache // 2}
            write(base / "memory.stat", "".join(f"{k} {v}\n" for k, v in stat.items()))

    def end_step(self, job: Job, name: str) -> None:
        """The step's directories and processes are gone; the job keeps its CPU time."""
        step = job.steps.pop(name)
        for pid in (step.stepd, *(pid for task in step.tasks for pid in task)):
            shutil.rmtree(self.proc / str(pid))
            del self.processes[pid]
        self._remove(job, step.path)

    def end_job(self, job: Job) -> None:
        """The job's directories and processes are gone; Slurm's root keeps its CPU time."""
        for name in list(job.steps):
            self.end_step(job, name)
        self._remove(job, job.path)
        self.jobs.remove(job)
        user = f"{job.root}/uid_{job.uid}"
        if job.layout == "v1" and not any(other.path.startswith(user + "/") for other in self.jobs):
            self._remove(job, user)

    def _remove(self, job: Job, path: str) -> None:
        for directory in self._dirs(job, path):
            shutil.rmtree(directory, ignore_errors=True)
        for name in [
            name for name in self._cgroup_ns if name == path or name.startswith(path + "/")
        ]:
            del self._cgroup_ns[name]


def _places(layout: str, nodename: str, slice_name: str, uid: int, name: str) -> tuple[str, str]:
    """Slurm's root and the job's directory, relative to the hierarchy."""
    if layout == "v1":
        root = f"slurm_{nodename}" if nodename else "slurm"
        return root, f"{root}/uid_{uid}/{name}"
    if layout == "v2":
        root = (
            f"{slice_name}/{nodename}_slurmstepd.scope"
            if nodename
            else f"{slice_name}/slurmstepd.scope"
        )
        return root, f"{root}/{name}"
    return "", ""


def _proc_cgroup(job: Job, path: str) -> str:
    if job.layout == "v2":
        return f"0::/{path}\n"
    if job.layout == "none":
        return "0::/system.slice/slurmd.service\n"
    rows = ["9:name=systemd:/"]
    for number, controller in enumerate(job.controllers, start=2):
        depth = {"freezer": 4, "cpuset": 4}.get(controller, 9)
        rows.append(f"{number}:{controller}:/" + "/".join(path.split("/")[:depth]))
    return "\n".join([*rows, "0::/", ""])
