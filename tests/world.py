"""
A small world of numbers that gives snapshots: no files, no clock, all of it known exactly.

>>> world = World(gpus=2)
>>> world.start("7", gpus=[0]); before = world.snapshot(); world.run(1.0, {"7": 0.5}); now = world.snapshot()
"""

from __future__ import annotations

from jobwatt.model import (
    NS_PER_S,
    Device,
    Domain,
    GpuState,
    Job,
    JobMeta,
    JobUsage,
    Kind,
    NodeUsage,
    Reading,
    Snapshot,
)

WATT = 10**6
PACKAGE = Device(Domain.CPU, "intel-rapl:0", "rapl", name="package-0")
DRAM = Device(Domain.DRAM, "intel-rapl:0:0", "rapl", name="dram", parent="intel-rapl:0")
ROOT = "slurm_n1"


class World:
    def __init__(self, gpus=2, cpus=8, wrap_uj=2000 * WATT, mem=64 << 30):
        self.t_ns, self.wrap_uj, self.mem, self.boot_id = 1000 * NS_PER_S, wrap_uj, mem, "boot"
        self.truth = {PACKAGE: 0, DRAM: 0}
        self.gpus = [Device(Domain.GPU, f"GPU-{i}", "nvml", name=str(i)) for i in range(gpus)]
        self.truth |= dict.fromkeys(self.gpus, 0)
        self.offset = dict.fromkeys(self.truth, 0)
        self.epoch = dict.fromkeys(self.truth, 0)
        self.lost: set[Device] = set()
        self.busy = dict.fromkeys(range(cpus), 0)
        self.util: dict[str, int | None] = {gpu.id: 0 for gpu in self.gpus}
        self.root_ns = 0
        self.jobs: dict[str, Job] = {}
        self.cpu: dict[str, int] = {}
        self.ended: list[Job] = []

    def start(self, jobid, gpus=(), cpus=1, mem=None, known_at=True):
        first = self.t_ns if known_at else 0
        meta = JobMeta(
            jobid=jobid,
            user="u" + jobid[-1],
            account="a",
            partition="p",
            cpus_alloc=cpus,
            mem_alloc_bytes=mem,
            gpus={f"GPU-{i}": 1 for i in gpus},
            start_s=int(self.t_ns // NS_PER_S),
            start_ns=first,
            resolved_by="hook",
            gpus_by="hook",
        )
        self.jobs[jobid] = Job(
            JobUsage(f"n1/{jobid}", ROOT, "n1", int(jobid), 1000, first_ns=first), meta
        )
        self.cpu[jobid] = 0

    def end(self, jobid):
        self.jobs.pop(jobid)

    def run(self, seconds, use=None, watts=None, system=0.0):
        """Let time pass: CPU seconds by job, watts by device (default 100 W each)."""
        dt_ns = int(seconds * NS_PER_S)
        self.t_ns += dt_ns
        for device in self.truth:
            self.truth[device] += int((watts or {}).get(device.id, 100) * WATT * dt_ns // NS_PER_S)
        used = {job: int(s * NS_PER_S) for job, s in (use or {}).items()}
        for job, ns in used.items():
            self.cpu[job] += ns
            self.root_ns += ns
        total = sum(used.values()) + int(system * NS_PER_S)
        for cpu in self.busy:
            self.busy[cpu] += total // len(self.busy)

    def reset(self, device):
        """The device's counter begins again."""
        self.offset[device] = self.truth[device]
        self.epoch[device] += 1

    def reading(self, device):
        value, wrap = self.truth[device] - self.offset[device], 0
        if device.domain is not Domain.GPU:
            value, wrap = value % self.wrap_uj, self.wrap_uj
        return Reading(device, Kind.ENERGY, value, self.t_ns, wrap, 1000 * WATT, self.epoch[device])

    def snapshot(self, **more):
        jobs = tuple(
            Job(
                JobUsage(
                    j.usage.key,
                    j.usage.root,
                    j.usage.node,
                    j.usage.jobid,
                    j.usage.uid,
                    self.cpu[k],
                    first_ns=j.usage.first_ns,
                ),
                j.meta,
            )
            for k, j in self.jobs.items()
        )
        return Snapshot(
            boot_id=self.boot_id,
            wall_s=self.t_ns / NS_PER_S,
            t_ns=self.t_ns,
            readings=tuple(self.reading(d) for d in self.truth if d not in self.lost),
            gpus=tuple(
                GpuState(g.id, i, busy_permille=self.util[g.id])
                for i, g in enumerate(self.gpus)
                if g not in self.lost
            ),
            jobs=jobs,
            roots={ROOT: self.root_ns},
            node=NodeUsage(dict(self.busy), self.mem),
            **more,
        )
