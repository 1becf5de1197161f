"""
One look at the node: sources and jobs are read and put into a Snapshot.

All of the node's I/O for measuring is below this file. Energy is read first, then the jobs, then
the node's CPU time, within a few milliseconds of each other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .exposition import SourceStatus
from .faults import FaultLog
from .model import (
    ESTIMATES,
    Domain,
    Failure,
    GpuState,
    Job,
    JobMeta,
    Sample,
    Snapshot,
    SourceResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .model import Source
    from .slurm.find import Jobs
    from .slurm.resolve import Resolver
    from .sources.procstat import ProcStat


# As long as a BMC may take by default (bmc.timeout), and some more.
_PATIENCE_S = 25.0


def now_ns() -> int:
    """The clock everything is measured with: it goes on while the machine sleeps and never jumps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class Sampler:
    """Reads sources and jobs; keeps only what a source or a job showed last."""

    sources: Sequence[Source]
    procstat: ProcStat
    jobs: Jobs
    resolver: Resolver
    boot_id: str
    status: tuple[SourceStatus, ...] = ()
    failures: tuple[Failure, ...] = ()
    faults: FaultLog = field(default_factory=FaultLog)
    _full: dict[str, SourceResult] = field(default_factory=dict)
    _pid_jobs: dict[int, str | None] = field(default_factory=dict)
    _mapped: set[str] = field(default_factory=set)
    _used_gpus: dict[str, dict[str, int]] = field(default_factory=dict)
    _clock_offset: float | None = None
    _asked: dict[str, int] = field(default_factory=dict)
    _has_sensors: bool = False

    def take(self, *, full: bool, cause: str) -> Snapshot:
        """Read everything now; ``cause`` is why (``tick``, ``event``)."""
        wall_s, t_ns = time.time(), now_ns()
        results = self._read_sources(full=full)
        gpus = tuple(gpu for result in results for gpu in result.gpus)
        jobs, ended, late = self._find_jobs(t_ns, gpus, full=full)
        measuring = (*(f for result in results for f in result.failures), *self.jobs.failures)
        self.faults.note(measuring)  # the resolver says its own, at the moment they happen
        self.failures = (*measuring, *self.resolver.failures())
        return Snapshot(
            boot_id=self.boot_id,
            wall_s=wall_s,
            t_ns=t_ns,
            readings=tuple(reading for result in results for reading in result.readings),
            gpus=gpus,
            samples=tuple(sample for kept in self._full.values() for sample in kept.samples),
            events=(
                *(e for result in results for e in result.events),
                *self._own_events(cause, wall_s, t_ns),
            ),
            failures=self.failures,
            jobs=jobs,
            ended=ended,
            late=late,
            roots=self.jobs.roots(),
            sm_use=self._sm_use(gpus),
            node=self.procstat.read(),
            full=full,
        )

    def await_slow(self) -> None:
        """Wait until each sensor that is asked in the background (a BMC) has answered once, or given up."""
        until_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s and any(
            getattr(source, "pending", False) for source in self.sources
        ):
            time.sleep(0.05)

    def close(self) -> None:
        """Let go of sources, files and children."""
        for source in self.sources:
            source.close()
        self.jobs.close()
        self.resolver.close()

    # --- sources -------------------------------------------------------------------------------

    def _read_sources(self, *, full: bool) -> list[SourceResult]:
        results: list[SourceResult] = []
        status: list[SourceStatus] = []
        for source in self.sources:
            if source.name in ESTIMATES and self._measured(results):
                self._full.pop(source.name, None)
                continue
            started = time.perf_counter()
            result = source.read(full=full)
            took_s = time.perf_counter() - started
            results.append(result)
            whole = [failure.message for failure in result.failures if not failure.device]
            up = bool(result.readings) or not whole
            status.append(SourceStatus(source.name, up, took_s, "; ".join(whole)))
            if full:
                self._full[source.name] = result
        if full or not self.status:
            self.status = tuple(status)
        return results

    def _measured(self, results: Iterable[SourceResult]) -> bool:
        """
        Whether CPUs have a sensor: then they are never estimated, not even while it is silent, for its
        counter bridges that time.
        """
        if not self._has_sensors:
            self._has_sensors = any(
                reading.device.domain is Domain.CPU and reading.device.summed
                for result in results
                for reading in result.readings
            )
        return self._has_sensors

    def _own_events(self, cause: str, wall_s: float, t_ns: int) -> list[Sample]:
        """What is counted about the measuring itself."""
        events = [Sample("jobwatt_samples_total", (cause,), 1)]
        events += [
            Sample("jobwatt_source_errors_total", (f.source, f.reason), 1) for f in self.failures
        ]
        offset = wall_s - t_ns / 1e9
        if self._clock_offset is not None and abs(offset - self._clock_offset) > 1:
            events.append(Sample("jobwatt_clock_jumps_total", (), 1))
        self._clock_offset = offset
        for outcome, count in self.resolver.calls().items():
            events.append(
                Sample(
                    "jobwatt_controller_calls_total",
                    (outcome,),
                    count - self._asked.get(outcome, 0),
                )
            )
            self._asked[outcome] = count
        return events

    # --- jobs ----------------------------------------------------------------------------------

    def _find_jobs(
        self, t_ns: int, gpus: Sequence[GpuState], *, full: bool
    ) -> tuple[tuple[Job, ...], tuple[Job, ...], tuple[Job, ...]]:
        usages = self.jobs.scan(t_ns, full=full)
        metas = self.resolver.update(usages, self.jobs.pids, gpus, t_ns, named=self.jobs.named)
        self._map_processes(gpus, {usage.key for usage in usages})
        present = [
            Job(usage, self._with_used_gpus(usage.key, metas.get(usage.key))) for usage in usages
        ]
        present += self.resolver.hook_jobs()
        self._used_gpus = {key: used for key, used in self._used_gpus.items() if key in metas}
        return tuple(present), tuple(self.resolver.ended(t_ns)), tuple(self.resolver.late())

    def _map_processes(self, gpus: Iterable[GpuState], there: set[str]) -> None:
        """
        Find the job of every process that has a context on a GPU.

        Who has none is asked about again when jobs come or go: a process may be on its GPU before the
        scan that finds its job.
        """
        pids = {process.pid for gpu in gpus for process in gpu.processes or ()}
        if pids == self._pid_jobs.keys() and there == self._mapped:
            return
        self._mapped = there
        self._pid_jobs = {pid: self._pid_jobs.get(pid) or self.jobs.key_of(pid) for pid in pids}
        for gpu in gpus:
            for process in gpu.processes or ():
                key = self._pid_jobs[process.pid]
                if key is not None and not gpu.mig_enabled:
                    self._used_gpus.setdefault(key, {})[gpu.uuid] = gpu.slices

    def _with_used_gpus(self, key: str, meta: JobMeta | None) -> JobMeta:
        """A GPU that the job's own processes use is held by it, where nobody else told."""
        meta = meta or JobMeta()
        if meta.gpus_by or key not in self._used_gpus:
            return meta
        return replace(meta, gpus=dict(self._used_gpus[key]), gpus_by="process")

    def _sm_use(self, gpus: Iterable[GpuState]) -> Mapping[str, Mapping[str, int]]:
        """SM share of each job on GPUs whose processes' shares are known."""
        use: dict[str, dict[str, int]] = {}
        for gpu in gpus:
            shares = [(self._pid_jobs.get(p.pid), p.sm_permille) for p in gpu.processes or ()]
            if not shares or any(permille is None for _, permille in shares):
                continue
            by_job = use.setdefault(gpu.uuid, {})
            for key, permille in shares:
                if key is not None:
                    by_job[key] = by_job.get(key, 0) + (permille or 0)
        return use
