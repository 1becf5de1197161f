"""
What a sample costs beside its floor: the same files read by bare os.pread over open descriptors, and
the same NVML calls made by bare pynvml.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml
from figures import Figures, Target
from rig import GPM_IDS, GPUS, KernelCgroups, Rig

import nvmlshim
from jobwatt import assembly
from jobwatt.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobwatt.config import Config

# GPM figures need 100 ms between two reads: without them a sample would look cheaper than it is.
_PACE_S = 0.12


class Files:
    """The files that one sample reads, open; ``read`` is the floor."""

    def __init__(self, stack: ExitStack, paths: Iterable[tuple[Path, int]]) -> None:
        self._open = [(os.open(path, os.O_RDONLY), size) for path, size in paths]
        for fd, _ in self._open:
            stack.callback(os.close, fd)

    def read(self) -> None:
        pread = os.pread
        for fd, size in self._open:
            pread(fd, size, 0)


def node_files(rig: Rig) -> list[tuple[Path, int]]:
    """RAPL zones (the mmio twin is not read), /proc/stat and /proc/meminfo."""
    zones = [zone.path / "energy_uj" for name, zone in rig.node.rapl.items() if "mmio" not in name]
    proc = rig.node.proc
    return [*((path, 32) for path in zones), (proc / "stat", 1 << 16), (proc / "meminfo", 1 << 13)]


def job_files(cgroupfs: Path, *, full: bool) -> list[tuple[Path, int]]:
    """CPU time of Slurm's roots and of each job; with ``full`` each job's memory too."""
    names = ("cpu.stat", "cpuacct.usage", *(("memory.stat",) if full else ()))
    patterns = ("*/slurm*", "*/slurm*/job_*", "*/slurm*/uid_*/job_*")  # v2 and v1
    return [
        (path / name, 8192)
        for pattern in patterns
        for path in sorted(cgroupfs.glob(pattern))
        for name in names
        if (path / name).exists() and (name != "memory.stat" or "job_" in path.name)
    ]


# Temperature, clocks and GPM are asked every 5 s, at ticks of 1 s.
GENTLE = 5


class BareNvml:
    """The calls of a full and of a short read, with nothing around them."""

    def __init__(self, stack: ExitStack) -> None:
        pynvml.nvmlInit()
        stack.callback(pynvml.nvmlShutdown)
        self._gpus = [self._gpu(i) for i in range(GPUS)]
        self._reads = 0

    def _gpu(self, index: int) -> tuple[Any, Any, Any, Any]:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, len(GPM_IDS)
        for place, metric in enumerate(GPM_IDS):
            request.metrics[place].metricId = metric
        older, newer = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
        pynvml.nvmlGpmSampleGet(handle, older)
        request.sample1, request.sample2 = older, newer
        return handle, older, newer, request

    def read(self) -> None:
        """What the sampler asks at a tick: all of some GPUs, each in turn every fifth tick."""
        self._reads += 1
        for index, (handle, _, newer, request) in enumerate(self._gpus):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            pynvml.nvmlDeviceGetFieldValues(handle, [185])
            pynvml.nvmlDeviceGetUtilizationRates(handle)
            pynvml.nvmlDeviceGetMemoryInfo(handle)
            if (index + self._reads) % GENTLE:
                continue
            pynvml.nvmlDeviceGetTemperatureV(handle, 0)
            pynvml.nvmlDeviceGetClockInfo(handle, 1)
            pynvml.nvmlDeviceGetClockInfo(handle, 2)
            pynvml.nvmlGpmSampleGet(handle, newer)
            pynvml.nvmlGpmMetricsGet(request)

    def read_short(self) -> None:
        for handle, *_ in self._gpus:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            pynvml.nvmlDeviceGetUtilizationRates(handle)


def measure(figures: Figures, jobs: int, rounds: int) -> None:
    """On tmpfs with and without NVML, and, as root, on this machine's own cgroups."""
    rig = Rig(jobs)
    try:
        with nvmlshim.loaded(rig.script):
            _one(
                figures,
                "sampling, cgroup v2 on tmpfs, no NVML",
                rig,
                rig.config(source_nvml=False),
                rounds,
            )
            _one(figures, "sampling, cgroup v2 on tmpfs, 8 GPUs", rig, rig.config(), rounds)
            _kernel(figures, rig, jobs, rounds)
    finally:
        rig.close()


def _kernel(figures: Figures, rig: Rig, jobs: int, rounds: int) -> None:
    note = "sampling of the kernel's own cgroup v1 files is not measured: "
    try:
        cgroups = KernelCgroups(rig.root / "kernel", jobs)
    except OSError as err:
        if not any(text.startswith(note) for text in figures.notes):
            figures.notes.append(f"{note}{err}")
        return
    try:
        config = dataclasses.replace(rig.config(source_nvml=False), path_cgroupfs=cgroups.base)
        _one(figures, "sampling, the kernel's cgroup v1, no NVML", rig, config, rounds, still=True)
    finally:
        cgroups.close()


def _one(
    figures: Figures, section: str, rig: Rig, config: Config, rounds: int, *, still: bool = False
) -> None:
    """Sampler, floor and pipeline by turns, so that the machine's noise meets all of them alike."""
    jobs = len(rig.jobs)
    took: dict[str, list[float]] = {}

    def clock(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = call()
        took.setdefault(name, []).append((time.perf_counter() - started) * 1e3)
        return result

    with ExitStack() as stack:
        full = Files(stack, node_files(rig) + job_files(config.path_cgroupfs, full=True))
        short = Files(stack, node_files(rig) + job_files(config.path_cgroupfs, full=False))
        bare = BareNvml(stack) if config.source_nvml else None
        sampler = assembly.sampler(config)
        stack.callback(sampler.close)
        ledger = Ledger(Path(tempfile.mkdtemp(dir=rig.root)) / "ledger.db")
        stack.callback(ledger.close)
        pipeline = assembly.pipeline(config, ledger)
        for _ in range(3):
            pipeline.push(sampler.take(full=True, cause="tick"))
        for _ in range(rounds):
            if not still:
                rig.advance()
            time.sleep(_PACE_S)
            snapshot = clock("take full", lambda: sampler.take(full=True, cause="tick"))
            clock("push", lambda now=snapshot: pipeline.push(now))
            clock("floor full", full.read)
            event = clock("take short", lambda: sampler.take(full=False, cause="event"))
            pipeline.push(event)
            clock("floor short", short.read)
            if bare is not None:
                clock("nvml full", bare.read)
                clock("nvml short", bare.read_short)
        if len(snapshot.jobs) != jobs:
            figures.notes.append(
                f"{section}: {len(snapshot.jobs)} jobs instead of {jobs} were there"
            )
    _report(
        figures, section, jobs, {name: statistics.median(values) for name, values in took.items()}
    )


def _report(figures: Figures, section: str, jobs: int, ms: dict[str, float]) -> None:
    for kind, what in (("full", "at a tick"), ("short", "at a job event")):
        floor = ms[f"floor {kind}"] + ms.get(f"nvml {kind}", 0.0)
        figures.set(section, f"sample {what}", jobs, ms[f"take {kind}"], "ms")
        figures.set(
            section, f"  floor {what}: bare pread of its files", jobs, ms[f"floor {kind}"], "ms"
        )
        if f"nvml {kind}" in ms:
            figures.set(section, f"  floor {what}: bare NVML calls", jobs, ms[f"nvml {kind}"], "ms")
        figures.set(
            section,
            f"  sample {what} / floor",
            jobs,
            ms[f"take {kind}"] / floor,
            "times",
            Target(5),
        )
    figures.set(section, "meter, attribution, totals, ledger (push)", jobs, ms["push"], "ms")
