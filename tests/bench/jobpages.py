"""
A trace through jobwatt's own pipeline: snapshots every ten seconds, pages once a minute, and the
pages as OpenMetrics lines with their time. What the Job Defense Shield would have seen of the same
pages is noted beside.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from traces import GIB, SEED, Plan, Trace

from jobwatt.exposition import SourceStatus, View, families
from jobwatt.idle import Idle
from jobwatt.ledger import Ledger
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
from jobwatt.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN = 1_772_431_200  # 2026-03-02 06:00 UTC, a Monday
SAMPLE_S = 10  # between two samples of the node; the daemon's default is 1 s
SCRAPE_S = 60
LINGER_S = 600
ROOT = "slurm"
_BOOT_S = 1_000_000
_WATT = 10**6
_RESTART_S = 40  # without samples while the exporter is restarted


class Shield:
    """
    The rule of the Job Defense Shield (Princeton), alert `cancel-zero-gpu`, as read in its source
    (PrincetonUniversity/job_defense_shield, alert/cancel_zero_gpu_jobs.py and efficiency.py, and in
    jobstats, which rounds): once every 15 minutes (`sampling_period_minutes`), for jobs that have run
    60 minutes or more (`first_warning_minutes`), the mean utilisation of each GPU since the start, in
    percent and rounded to one decimal; a job of which any GPU has 0.0 (`gpu_frac_threshold` 1.0) is
    warned. It looks at a job only until `cancel_minutes`; here it may look until the job ends, which
    also covers its `zero-util-gpu-hours`, and no mail is held back. A GPU without a figure is none of
    its business. Its other alerts, and its sliding window, are not played.
    """

    GRACE_S = 3600
    PERIOD_S = 900

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.told: dict[str, float] = {}

    def saw(self, jobid: str, uuid: str, ratio: float) -> None:
        self._sums[jobid][uuid].append(100 * ratio)

    def look(self, jobid: str, age_s: float, at: float) -> None:
        """One run of its cron job."""
        if age_s >= self.GRACE_S and jobid not in self.told:
            means = [round(sum(seen) / len(seen), 1) for seen in self._sums[jobid].values()]
            if 0.0 in means:
                self.told[jobid] = at


@dataclass
class Cumulative:
    """What only grows."""

    cpu_ns: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    busy_ns: int = 0
    uj: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class NodeRun:
    """One node of a trace, from its first job's start to ten minutes after its last one's end."""

    def __init__(self, trace: Trace, second: bool, ids: int) -> None:
        self.trace, self.plan, self.second = trace, trace.plan, second
        self.instance = f"{trace.name}{'-b' if second else ''}"
        self._rng = Random(f"{SEED}/{self.instance}/noise")
        self._ids, self._total = ids, Cumulative()
        self._begin = BEGIN + int(trace.start * 3600) // SAMPLE_S * SAMPLE_S
        self._package = Device(Domain.CPU, "intel-rapl:0", "rapl", name="package-0")
        count = self.plan.node_gpus
        self._gpus = [
            Device(Domain.GPU, f"GPU-{self.instance}-{at}", "nvml", name=str(at))
            for at in range(count)
        ]

    def jobid(self, at: int) -> str:
        return str(self._ids + at)

    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each job, Unix seconds."""
        length, gap = self.plan.hours * 3600, self.plan.gap * 3600
        starts = [self._begin + at * (length + gap) for at in range(self.plan.repeat)]
        return [(int(start), int(start + length)) for start in starts]

    def lines(self, wanted: frozenset[str], shield: Shield) -> Iterator[str]:
        """OpenMetrics lines of every scrape."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.db" if self.plan.restarts else None
            yield from self._run(path, wanted, shield)

    def _run(self, path: Path | None, wanted: frozenset[str], shield: Shield) -> Iterator[str]:
        pipeline = _pipeline(path)
        restarts = [self._begin + hours * 3600 for hours in self.plan.restarts]
        end = self.spans()[-1][1] + LINGER_S + 2 * SCRAPE_S
        offset = self._rng.randrange(0, SCRAPE_S, SAMPLE_S)
        for at in range(self._begin, end, SAMPLE_S):
            snapshot = self._snapshot(at)
            if restarts and at >= restarts[0]:
                if at < restarts[0] + _RESTART_S:
                    continue
                restarts.pop(0)
                pipeline.ledger.close()
                pipeline = _pipeline(path)
            pipeline.push(snapshot)
            if (at - self._begin) % SCRAPE_S == offset:
                yield from self._scrape(pipeline, snapshot, at, wanted, shield)

    # --- the node at one moment ------------------------------------------------------------------

    def _snapshot(self, at: int) -> Snapshot:
        plan, dt = self.plan, SAMPLE_S
        jobs, ended, states, samples = [], [], [], []
        use: dict[int, float | None] = dict.fromkeys(range(plan.node_gpus), 0.0)
        memory, cores = 0.0, 0.0
        for number, (start, end) in enumerate(self.spans()):
            if start <= at < end:
                hours = (at - start) / 3600
                first = plan.gpus if self.second else 0
                use |= {g: plan.use(hours, g + first) for g in range(self._held())}
                memory, cores = plan.memory(hours), min(plan.cpu(hours), plan.cpus)
                self._total.cpu_ns[self.jobid(number)] += int(cores * dt * NS_PER_S)
                jobs.append(self._job(number, start, 0))
            elif 0 <= at - end < SAMPLE_S:
                ended.append(self._job(number, start, end))
        self._total.busy_ns += int((cores + 0.2) * dt * NS_PER_S)
        self._total.uj["cpu"] += int((90 + 3 * cores) * _WATT * dt)
        for gpu, device in enumerate(self._gpus):
            ratio = use[gpu] or 0.0
            self._total.uj[device.id] += int((70 + 330 * ratio) * _WATT * dt)
            holds = bool(jobs) and gpu < self._held()
            states += self._states(device, gpu, use[gpu], memory if holds else 0.0)
            if plan.sm is not None:
                samples.append(
                    Sample(
                        "jobwatt_gpu_sm_active_ratio",
                        (str(gpu), device.id),
                        round(ratio * plan.sm, 3),
                    )
                )
            samples.append(
                Sample("jobwatt_gpu_info", (str(gpu), device.id, "GPU", "", str(gpu), "", ""), 1.0)
            )
        return Snapshot(
            boot_id="bench",
            wall_s=float(at),
            t_ns=self._t_ns(at),
            readings=tuple(self._readings(at)),
            gpus=tuple(states),
            samples=tuple(samples),
            jobs=tuple(jobs),
            ended=tuple(ended),
            roots={ROOT: sum(self._total.cpu_ns.values())},
            node=NodeUsage(
                dict.fromkeys(range(plan.node_cpus), self._total.busy_ns // plan.node_cpus),
                int(plan.node_ram * GIB),
                int((plan.ram + 8) * GIB),
            ),
        )

    def _t_ns(self, at: int) -> int:
        return (at - BEGIN + _BOOT_S) * NS_PER_S

    def _held(self) -> int:
        return self.plan.apart if self.second else self.plan.gpus

    def _readings(self, at: int) -> Iterator[Reading]:
        # the node's other GPUs are told of, but not measured: nobody here is charged for them
        for device in (self._package, *self._gpus[: self._held()]):
            key = "cpu" if device is self._package else device.id
            yield Reading(device, Kind.ENERGY, self._total.uj[key], self._t_ns(at))

    def _states(
        self, device: Device, gpu: int, use: float | None, gib: float
    ) -> Iterator[GpuState]:
        busy = None if use is None or self.plan.mig else round(use * 1000)
        held = int(gib * GIB)
        if not self.plan.mig:
            yield GpuState(
                device.id,
                gpu,
                busy_permille=busy,
                memory_used_bytes=held,
                memory_total_bytes=80 * GIB,
            )
            return
        yield GpuState(device.id, gpu, slices=7, mig_enabled=True)
        yield GpuState(
            f"MIG-{device.id}",
            gpu,
            parent=device.id,
            slices=2,
            mig_profile="2g.20gb",
            mig_device=0,
            memory_used_bytes=held,
        )

    def _job(self, number: int, start: int, end: int) -> Job:
        plan, jobid = self.plan, self.jobid(number)
        held = [self._gpus[at].id for at in range(self._held())]
        usage = JobUsage(
            f"{self.instance}/{jobid}",
            ROOT,
            self.instance,
            int(jobid),
            2000,
            self._total.cpu_ns[jobid],
            int(plan.ram * GIB),
            int(plan.ram_limit * GIB),
            first_ns=self._t_ns(start),
        )
        meta = JobMeta(
            jobid=jobid,
            user=self.trace.user,
            uid=2000,
            account="lab",
            partition=plan.partition,
            qos="normal",
            name=self.trace.kind,
            cpus_alloc=plan.cpus,
            mem_alloc_bytes=int(plan.ram_limit * GIB),
            gpus={f"MIG-{uuid}": 2 for uuid in held} if plan.mig else dict.fromkeys(held, 1),
            start_s=start,
            start_ns=self._t_ns(start),
            limit_end_s=int(start + plan.limit * 3600) if plan.limit else 0,
            end_s=end,
            end_ns=self._t_ns(end) if end else 0,
            state=plan.exit[0] if end else "",
            exit_code=plan.exit[1] if end else "",
            resolved_by="hook",
            gpus_by="hook",
        )
        return Job(usage, meta)

    # --- what is scraped -------------------------------------------------------------------------

    def _scrape(
        self,
        pipeline: Pipeline,
        snapshot: Snapshot,
        at: int,
        wanted: frozenset[str],
        shield: Shield,
    ) -> Iterator[str]:
        target = f'cluster="bench",instance="{self.instance}"'
        hours = (at - self._begin) / 3600
        seen = not any(gone <= hours < back for gone, back in self.plan.unseen)
        yield f'up{{{target},job="jobwatt"}} {int(seen)} {at}\n'
        if not seen:
            return
        sources = (SourceStatus("nvml", True), SourceStatus("rapl", True))
        for metric, rows in families(View(pipeline.totals, snapshot, Idle(), sources=sources)):
            if metric.name == "jobwatt_job_gpu_utilization_ratio":
                for values, text in rows.items():
                    shield.saw(values[0], values[5], float(text))
            if metric.name not in wanted:
                continue
            for values, text in rows.items():
                yield f'{metric.name}{{{target},job="jobwatt"{_pairs(metric.labels, values)}}} {text} {at}\n'
        if at % Shield.PERIOD_S < SCRAPE_S:
            for number, (start, end) in enumerate(self.spans()):
                if start <= at < end:
                    shield.look(self.jobid(number), at - start, at)


@cache
def _pairs(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Labels of a series after those of its target; nothing here needs escaping."""
    return "".join(f',{name}="{value}"' for name, value in zip(names, values, strict=True))


def _pipeline(path: Path | None) -> Pipeline:
    pipeline = Pipeline(Ledger(path), int(2.5 * SAMPLE_S * NS_PER_S), LINGER_S * NS_PER_S)
    pipeline.restore("bench")
    return pipeline


def nodes(trace: Trace, ids: int) -> list[NodeRun]:
    """The trace's nodes; ``ids``: the number of its first job."""
    return [
        NodeRun(trace, second, ids) for second in ((False, True) if trace.plan.apart else (False,))
    ]


def jobids(plan: Plan, ids: int) -> list[str]:
    return [str(ids + at) for at in range(plan.repeat)]
