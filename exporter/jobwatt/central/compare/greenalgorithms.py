"""
Green Algorithms: what a job would have used, from its reservation and no sensor at all.

    E = t (n_c P_c u_c + n_gpu P_gpu u_gpu + n_mem P_mem) PUE PSF

Lannelongue, Grealey, Inouye: Green Algorithms, Advanced Science 8 (2021) 2100707. t hours, n cores,
P_c TDP per core, u use, n_mem GB reserved, P_mem 0.3725 W/GB, PSF how often it was run (1).
Use is taken as Green Algorithms 4 HPC does: of CPUs from Slurm's TotalCPU (all of it where Slurm
did not gather it), of GPUs all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figures import Theirs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .sacct import Job

MEMORY_W_PER_GB = 0.3725  # data/fixed_parameters.yaml of Green Algorithms 4 HPC; the paper's value
# The paper's, and of GA4HPC's cluster_info.yaml: the world's mean of 2019 (Uptime Institute). The
# calculator has used 1.56 (2024) since its version 3.
PUE = 1.67
CORE_W = 12.0  # "Any" of the calculator's TDP_cpu.csv
GPU_W = 200.0  # "Any" of its TDP_gpu.csv
# By the type in gres/gpu:TYPE. V100 to T4 as in the calculator's TDP_gpu.csv (an A100 there is the
# PCIe card of 40 GB: 250 W); the rest are the makers' data sheets, of the SXM module where there is one.
_GPU_W = {
    "a100": 400.0, "a10": 150.0, "a30": 165.0, "a40": 300.0, "h100": 700.0, "h200": 700.0,
    "b200": 1000.0, "l4": 72.0, "l40": 300.0, "l40s": 350.0, "v100": 300.0, "v100s": 250.0,
    "p100": 250.0, "k80": 300.0, "p4": 75.0, "t4": 70.0, "mi210": 300.0, "mi250x": 560.0,
    "mi300x": 750.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assumed:
    """What a site knows better than the defaults; W, None: by the GPU's type."""

    core_w: float = CORE_W
    gpu_w: float | None = None
    pue: float = PUE


def gpu_w(kind: str) -> tuple[float, bool]:
    """TDP of a GPU type in W, and whether it is known: the longest name that begins a word of it."""
    words = kind.lower().replace("-", "_").replace(".", "_").split("_")
    found = [name for name in _GPU_W if name in words]
    return (_GPU_W[max(found, key=len)], True) if found else (GPU_W, False)


def theirs(job: Job, assumed: Assumed) -> Theirs:
    """The job's energy by the formula."""
    use = _use(job)
    cpu_w = job.cpus * assumed.core_w * use
    gpus_w = sum(count * _watts(kind, assumed) for kind, count in job.gpus.items())
    parts = {
        "cpu": cpu_w * job.seconds,
        "dram": job.memory_gb * MEMORY_W_PER_GB * job.seconds,
        "gpu": gpus_w * job.seconds,
    }
    return Theirs(
        tool="Green Algorithms",
        total_j=sum(parts.values()) * assumed.pue,
        parts_j=parts,
        pue=assumed.pue,
        covers="model",
        notes=tuple(_notes(job, assumed, use)),
    )


def _use(job: Job) -> float:
    """Share of the reserved CPU time that was used; 1 where Slurm does not know, as GA4HPC has it."""
    reserved = job.cpus * job.seconds
    return min(job.cpu_s / reserved, 1.0) if job.cpu_s and reserved else 1.0


def _watts(kind: str, assumed: Assumed) -> float:
    return gpu_w(kind)[0] if assumed.gpu_w is None else assumed.gpu_w


def _notes(job: Job, assumed: Assumed, use: float) -> Iterator[str]:
    known = f"{use * 100:.0f} % used" if job.cpu_s else "use unknown to Slurm: taken as 100 %"
    yield f"{job.cpus} cores at {assumed.core_w:g} W TDP, {known}"
    for kind, count in job.gpus.items():
        sure = assumed.gpu_w is not None or gpu_w(kind)[1]
        guess = "" if sure else " (type unknown; see --gpu-tdp)"
        yield f"{count} GPUs {kind or 'of any type'} at {_watts(kind, assumed):g} W TDP, fully used{guess}"
    yield f"{job.memory_gb:g} GB reserved at {MEMORY_W_PER_GB} W/GB; {job.seconds:g} s; PUE {assumed.pue:g}"
