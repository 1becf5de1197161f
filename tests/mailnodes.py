"""
Recordings of two nodes on which jobs of three users hold GPUs, and what each of them should be told.

Invented, a snapshot every ten seconds. All jobs started before the recording did, so that the grace
period is over in real time however fast it is played (start times do not move with --speed).
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobwatt import record
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
    Sample,
    Snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEP_S, SECONDS = 10, 4 * 3600
BEGAN_S, BEGAN_NS = 1_760_000_000, 4_000_000 * NS_PER_S
# Before the recording: beyond an hour's grace. 95 % of it are then watched when an hour of idling is, so that
# all alerts come within the ten minutes that Alertmanager waits for more.
STARTED_S = 3950
CPUS, GPU_MEMORY = 64, 80 << 30
IDLE_W, BUSY_W, PACKAGE_W = 60, 400, 150
NODES = ("gpu01", "gpu02")


@dataclass(frozen=True)
class Actor:
    """A job: its GPUs on each node, and until which second of the recording it uses which of them."""

    jobid: int
    user: str
    gpus: dict[str, tuple[int, ...]]
    busy: dict[tuple[str, int], int]  # (node, gpu) -> busy until this second


FOREVER = 10**9
ACTORS = (
    # held on two nodes and never used
    Actor(7001, "alice.martin", {"gpu01": (0, 1), "gpu02": (0, 1)}, {}),
    # used for a minute, then idle
    Actor(7002, "alice.martin", {"gpu01": (2,)}, {("gpu01", 2): 60}),
    # one of two GPUs is never used
    Actor(7003, "bob", {"gpu02": (2, 3)}, {("gpu02", 2): FOREVER}),
    # busy all the time
    Actor(7004, "carol", {"gpu01": (3,)}, {("gpu01", 3): FOREVER}),
)
WRITTEN_TO = {"alice.martin": {"7001", "7002"}, "bob": {"7003"}}


def write(folder: Path) -> dict[str, Path]:
    """A recording per node."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for node in NODES:
        paths[node] = folder / f"{node}.jsonl.gz"
        with (
            gzip.open(paths[node], "wb", compresslevel=1) as packed,
            io.TextIOWrapper(packed) as out,
        ):
            record.write(out, _snapshots(node))
    return paths


def _snapshots(node: str) -> Iterator[Snapshot]:
    energy = dict.fromkeys(range(4), 0)
    for second in range(0, SECONDS, STEP_S):
        watts = {gpu: BUSY_W if _busy(node, gpu, second) else IDLE_W for gpu in energy}
        for gpu, power in watts.items():
            energy[gpu] += power * STEP_S * 10**6
        yield _snapshot(node, second, energy, watts)


def _busy(node: str, gpu: int, second: int) -> bool:
    return any(actor.busy.get((node, gpu), 0) > second for actor in ACTORS)


def _snapshot(node: str, second: int, energy: dict[int, int], watts: dict[int, int]) -> Snapshot:
    t_ns = BEGAN_NS + second * NS_PER_S
    package = Device(
        Domain.CPU, "intel-rapl:0", "rapl", name="package-0", cpus=frozenset(range(CPUS))
    )
    readings = [Reading(package, Kind.ENERGY, PACKAGE_W * second * 10**6, t_ns, 0, 10**9)]
    for gpu, value in energy.items():
        device = Device(Domain.GPU, _uuid(node, gpu), "nvml", name=str(gpu))
        readings.append(Reading(device, Kind.ENERGY, value, t_ns, 0, 10**9))
        readings.append(Reading(device, Kind.POWER, watts[gpu] * 10**6, t_ns, 0, 10**9))
    cpu_ns = second * NS_PER_S
    return Snapshot(
        boot_id="recorded", wall_s=float(BEGAN_S + second), t_ns=t_ns, readings=tuple(readings),
        gpus=tuple(_gpu(node, gpu, second) for gpu in energy),
        samples=(Sample("jobwatt_driver_info", ("580.159.03", "13.0"), 1),),
        events=(Sample("jobwatt_samples_total", ("tick",), 1),),
        jobs=tuple(_job(actor, node, cpu_ns) for actor in ACTORS if node in actor.gpus),
        roots={"slurmstepd.scope": len(ACTORS) * cpu_ns},
        node=NodeUsage(dict.fromkeys(range(CPUS), cpu_ns), 512 << 30, 90 << 30),
    )  # fmt: skip


def _uuid(node: str, gpu: int) -> str:
    return f"GPU-{NODES.index(node)}{gpu}000000-7c11-4d0e-9b6a-0d15ea5e0000"


def _gpu(node: str, gpu: int, second: int) -> GpuState:
    busy = _busy(node, gpu, second)
    return GpuState(
        _uuid(node, gpu), gpu, minor=gpu, model="NVIDIA H100 80GB HBM3", pci_bus_id=f"00000000:{0x18 + gpu:02X}:00.0",
        busy_permille=980 if busy else 0, sm_permille=500 if busy else 0,
        memory_used_bytes=500 << 20, memory_total_bytes=GPU_MEMORY,
    )  # fmt: skip


def _job(actor: Actor, node: str, cpu_ns: int) -> Job:
    usage = JobUsage(
        f"/{actor.jobid}", "slurmstepd.scope", "", actor.jobid, 20000,
        cpu_ns=cpu_ns, mem_bytes=8 << 30, mem_limit_bytes=32 << 30, first_ns=BEGAN_NS - STARTED_S * NS_PER_S,
    )  # fmt: skip
    meta = JobMeta(
        str(actor.jobid), actor.user, usage.uid, "ltci", "H100", "normal", "train",
        cpus_alloc=8, mem_alloc_bytes=32 << 30, gpus={_uuid(node, gpu): 1 for gpu in actor.gpus[node]},
        start_s=BEGAN_S - STARTED_S, start_ns=BEGAN_NS - STARTED_S * NS_PER_S,
        limit_end_s=BEGAN_S + 86_400, resolved_by="hook", gpus_by="hook",
    )  # fmt: skip
    return Job(usage, meta)
