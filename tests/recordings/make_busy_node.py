"""
Makes busy-node.jsonl.gz: five synthetic minutes of a node with two sockets and eight GPUs.

No GPU was recorded: the node's counters and jobs are invented, users too. Each GPU's power while it
computes is drawn from a real cluster's distribution (tests/data/acme_gpu.csv); 59 W at rest is
that distribution's 1 % quantile. Run it from anywhere; the same seed gives the same
file.
"""

from __future__ import annotations

import bisect
import csv
import gzip
import io
import random
from dataclasses import dataclass
from pathlib import Path

from jobwatt import record
from jobwatt.model import (
    NS_PER_S,
    Device,
    Domain,
    GpuProcess,
    GpuState,
    Job,
    JobMeta,
    JobUsage,
    Kind,
    NodeUsage,
    Reading,
    Sample,
    Snapshot,
)

HERE = Path(__file__).parent
SECONDS = 300
CPUS, MEMORY, GPU_MEMORY = 64, 512 << 30, 80 << 30
IDLE_W = 59.0
BEGAN_S, BEGAN_NS = 1_760_000_000, 4_000_000 * NS_PER_S
WATT = 1_000_000
PACKAGES = [
    Device(
        Domain.CPU,
        f"intel-rapl:{i}",
        "rapl",
        name=f"package-{i}",
        cpus=frozenset(range(32 * i, 32 * i + 32)),
    )
    for i in (0, 1)
]
DRAMS = [
    Device(Domain.DRAM, f"intel-rapl:{i}:0", "rapl", parent=f"intel-rapl:{i}", name="dram")
    for i in (0, 1)
]
UUIDS = [f"GPU-5a1e000{i}-7c11-4d0e-9b6a-0d15ea5e000{i}" for i in range(8)]
GPUS = [Device(Domain.GPU, uuid, "nvml", name=str(i)) for i, uuid in enumerate(UUIDS)]


@dataclass
class Actor:
    """A job and how it behaves: GPU use between 0 and 1 as a function of its second of life."""

    jobid: int
    user: str
    account: str
    name: str
    gpus: tuple[int, ...]
    cpus: int
    start: int
    end: int
    cores_busy: float
    behaviour: str
    memory: float = 0.5

    def use(self, second: int, rng: random.Random) -> float:
        age = second - self.start
        if self.behaviour == "training":
            return 0.0 if age < 12 else rng.uniform(0.93, 1.0)
        if self.behaviour == "starved":  # the input pipeline keeps up with a third of the time
            return rng.uniform(0.85, 1.0) if age % 3 == 0 else 0.0
        return 0.0


ACTORS = [
    Actor(
        48211, "mlefevre", "ltci", "llm-pretrain", (0, 1, 2), 24, -7000, 9999, 9.0, "training", 0.82
    ),
    Actor(48230, "sokonkwo", "lisn", "vit-imagenet", (3,), 8, -300, 9999, 7.8, "starved", 0.41),
    Actor(48102, "tnguyen", "satie", "jupyter", (4,), 4, -21000, 9999, 0.02, "idle", 0.37),
    Actor(48244, "abenali", "l2s", "sweep_lr=0.01", (5,), 4, 20, 140, 3.1, "training", 0.22),
    Actor(48245, "abenali", "l2s", "sweep_lr=0.03", (6,), 4, 22, 150, 3.2, "training", 0.22),
    Actor(48246, "abenali", "l2s", "sweep_lr=0.1", (5,), 4, 145, 260, 3.0, "training", 0.22),
    Actor(48250, "crossi", "samovar", "test-cuda", (7,), 2, 60, 63, 1.4, "idle", 0.01),
    Actor(48251, "crossi", "samovar", "test-cuda", (7,), 2, 80, 84, 1.5, "idle", 0.01),
    Actor(48255, "jdurand", "ltci", "features", (), 16, 100, 9999, 15.2, "cpu"),
]


class Node:
    """Advances second by second."""

    def __init__(self) -> None:
        self.rng = random.Random(9816)
        with (HERE.parent / "data" / "acme_gpu.csv").open() as lines:
            powers = [float(row["gpu_power_w"]) for row in csv.DictReader(lines)]
        # the power of a GPU that computes: above what an idle one draws
        self.busy_w = powers[bisect.bisect(powers, 120.0) :]
        self.target = [self.rng.choice(self.busy_w) for _ in UUIDS]
        self.energy = {
            device.id: self.rng.randrange(10**10) for device in (*PACKAGES, *DRAMS, *GPUS)
        }
        self.watts = dict.fromkeys(self.energy, 0.0)
        self.busy = [self.rng.randrange(10**14) for _ in range(CPUS)]
        self.cpu = {
            actor.jobid: max(-actor.start, 0) * int(actor.cores_busy * 1e9) for actor in ACTORS
        }
        self.root_ns = sum(self.cpu.values()) + 10**14
        self.util = [0.0] * 8

    def advance(self, second: int) -> None:
        present = [actor for actor in ACTORS if actor.start <= second < actor.end]
        self.util = [0.0] * 8
        for actor in present:
            use = actor.use(second, self.rng)
            for gpu in actor.gpus:
                self.util[gpu] = use
        cores = 0.9
        for actor in present:
            busy = actor.cores_busy * self.rng.uniform(0.95, 1.05)
            cores += busy
            self.cpu[actor.jobid] += int(busy * 1e9)
            self.root_ns += int(busy * 1e9)
        for cpu in range(CPUS):
            self.busy[cpu] += int(cores * 1e9 / CPUS)
        for device in PACKAGES:
            self.watts[device.id] = 95 + 2.6 * cores * self.rng.uniform(0.97, 1.03)
        for device in DRAMS:
            self.watts[device.id] = 14 + 0.22 * cores
        for gpu, device in enumerate(GPUS):
            goal = IDLE_W + self.util[gpu] * (self.target[gpu] - IDLE_W)
            self.watts[device.id] += 0.6 * (goal - self.watts[device.id]) + self.rng.uniform(-1, 1)
            self.watts[device.id] = max(self.watts[device.id], 40.0)
        for device_id, watts in self.watts.items():
            self.energy[device_id] += int(watts * 1e6)

    def snapshot(self, second: int) -> Snapshot:
        t_ns = BEGAN_NS + second * NS_PER_S
        present = [actor for actor in ACTORS if actor.start <= second < actor.end]
        ended = [actor for actor in ACTORS if actor.end == second]
        gpus = tuple(self.gpu(index, present) for index in range(8))
        return Snapshot(
            boot_id="recorded", wall_s=float(BEGAN_S + second), t_ns=t_ns, readings=tuple(self.readings(t_ns)),
            gpus=gpus, samples=tuple(self.samples(gpus)),
            events=(Sample("jobwatt_samples_total", ("tick",), 1),),
            jobs=tuple(self.job(actor) for actor in present),
            ended=tuple(self.job(actor, end_ns=t_ns) for actor in ended),
            roots={"slurmstepd.scope": self.root_ns},
            node=NodeUsage(dict(enumerate(self.busy)), MEMORY, 90 << 30),
        )  # fmt: skip

    def readings(self, t_ns: int):
        for device in (*PACKAGES, *DRAMS):
            wrap = 262_143_328_850 if device.domain is Domain.CPU else 65_712_999_613
            yield Reading(
                device, Kind.ENERGY, self.energy[device.id] % wrap, t_ns, wrap, 350 * WATT
            )
        for device in GPUS:
            yield Reading(
                device, Kind.ENERGY, self.energy[device.id] // 1000 * 1000, t_ns, 0, 1400 * WATT
            )
            yield Reading(
                device, Kind.POWER, int(self.watts[device.id] * 1000) * 1000, t_ns, 0, 1400 * WATT
            )

    def gpu(self, index: int, present) -> GpuState:
        holder = next((actor for actor in present if index in actor.gpus), None)
        used = int((holder.memory if holder else 0.006) * GPU_MEMORY)
        processes = (GpuProcess(4000 + holder.jobid % 1000, used),) if holder else ()
        return GpuState(
            UUIDS[index], index, minor=index, model="NVIDIA H100 80GB HBM3", pci_bus_id=f"00000000:{0x18 + index:02X}:00.0",
            busy_permille=int(self.util[index] * 100) * 10, sm_permille=int(self.util[index] * 520),
            memory_used_bytes=used, memory_total_bytes=GPU_MEMORY, processes=processes,
        )  # fmt: skip

    def samples(self, gpus):
        for state, device in zip(gpus, GPUS, strict=True):
            labels = (str(state.index), state.uuid)
            watts = self.watts[device.id]
            figures = {
                "power_watts": round(watts, 3), "power_limit_watts": 700, "utilization_ratio": state.busy_permille / 1000,
                "sm_active_ratio": state.sm_permille / 1000, "dram_active_ratio": round(0.4 * self.util[state.index], 3),
                "memory_used_bytes": state.memory_used_bytes, "memory_total_bytes": GPU_MEMORY,
                "temperature_celsius": round(28 + watts / 16), "sm_clock_hertz": 1_980_000_000 if watts > 80 else 345_000_000,
                "up": 1, "processes": len(state.processes),
            }  # fmt: skip
            yield from (
                Sample(f"jobwatt_gpu_{name}", labels, value) for name, value in figures.items()
            )
            info = (*labels, state.model, state.pci_bus_id, str(state.minor), "", "")
            yield Sample("jobwatt_gpu_info", info, 1)
        yield Sample("jobwatt_driver_info", ("580.159.03", "13.0"), 1)

    def job(self, actor: Actor, end_ns: int = 0) -> Job:
        start_ns = BEGAN_NS + actor.start * NS_PER_S
        usage = JobUsage(
            f"/{actor.jobid}", "slurmstepd.scope", "", actor.jobid, 20000 + actor.jobid % 99,
            cpu_ns=self.cpu[actor.jobid], mem_bytes=actor.cpus << 30, mem_limit_bytes=actor.cpus * 8 << 30,
            first_ns=start_ns,
        )  # fmt: skip
        meta = JobMeta(
            str(actor.jobid), actor.user, usage.uid, actor.account, "H100", "normal", actor.name,
            cpus_alloc=actor.cpus, mem_alloc_bytes=actor.cpus * 8 << 30, gpus={UUIDS[i]: 1 for i in actor.gpus},
            start_s=BEGAN_S + actor.start, start_ns=start_ns, end_ns=end_ns, end_s=BEGAN_S + actor.end if end_ns else 0,
            limit_end_s=BEGAN_S + actor.start + 86_400, resolved_by="hook", gpus_by="hook",
        )  # fmt: skip
        return Job(usage, meta)


def main() -> None:
    node = Node()

    def snapshots():
        for second in range(SECONDS):
            node.advance(second)
            yield node.snapshot(second)

    path = HERE / "busy-node.jsonl.gz"
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as out,
    ):
        record.write(out, snapshots())


if __name__ == "__main__":
    main()
