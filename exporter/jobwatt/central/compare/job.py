"""
A job's figures from Prometheus.

A job's totals outlive it on the page for some minutes, and its labels may change while it runs (a
user that was a number gets its name): the greatest value per node and component is the job's, and
their sum over nodes. Counters of a node, which go on, are read at both ends of a span.
"""

from __future__ import annotations

import bisect
import json
import re
from typing import TYPE_CHECKING

from .figures import CompareError, Gpu, Ours, Span

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from jobwatt.alerts.promapi import Prometheus

_JOBID = re.compile(r"\d{1,10}(?:[_+]\d{1,10})?")
_NEAR_S = 150.0  # a counter is looked for so far around a moment: two scrapes of a minute, and some
_MANY = 20  # nodes from which the ends of a span are looked at every 15 s and not every second
_COMPONENTS = ("cpu", "dram", "gpu", "other")

Labels = tuple[str, ...]


class History:
    """A Prometheus asked about the last ``last_s`` seconds before ``now``."""

    def __init__(self, prometheus: Prometheus, now: float, last_s: float, match: str = "") -> None:
        self._prometheus, self._now, self._last_s = prometheus, now, last_s
        self._match = f",{match}" if match else ""

    def job(self, jobid: str) -> Ours:
        """The job as jobwatt has it; CompareError where it knows no such job."""
        jobid = self._number(jobid)
        job = f'jobid="{jobid}"{self._match}'
        energy = self._greatest("jobwatt_job_energy_joules_total", job, "instance", "component")
        if not energy:
            raise CompareError(
                f"{self._prometheus.url}: no job {jobid} in the last {self._last_s / 86_400:g} days"
                "; see --days"
            )
        nodes = tuple(sorted({instance for instance, _ in energy}))
        user = max(
            name for (name,) in self._greatest("jobwatt_job_energy_joules_total", job, "user")
        )
        span, running = self._span(job, nodes)
        return Ours(
            jobid=jobid,
            user=user,
            instances=nodes,
            energy_j=_by_component(energy),
            span=span,
            running=running,
            gpus=self._gpus(job),
            node_gpus=self._count_gpus(nodes, span),
            cpu_s=_sum(self._greatest("jobwatt_job_cpu_seconds_total", job, "instance")),
            cpus=_sum(self._greatest("jobwatt_job_cpus", job, "instance")),
            coverage=self._coverage(job),
            sources=self._sources(job, nodes, span),
            intensity=self._intensity(span),
        )  # fmt: skip

    def node_j(self, nodes: Collection[str], span: Span) -> dict[str, float]:
        """Joules of whole nodes by component; a component that is not known of each node is absent."""
        selector = f"jobwatt_node_energy_joules_total{{{self._on(nodes)}}}"
        return self._parts(selector, nodes, span)

    def job_j(self, ours: Ours, span: Span) -> dict[str, float]:
        """Joules that the job was charged with in a span by component."""
        labels = f'{self._on(ours.instances)},jobid="{ours.jobid}"'
        selector = f"jobwatt_job_energy_joules_total{{{labels}}}"
        # at its start a job has used nothing, whether or not that was scraped
        began = 0.0 if span[0] < ours.span[0] + 60 else None
        return self._parts(selector, ours.instances, span, began)

    def gpus_j(self, ours: Ours, span: Span) -> float | None:
        """Joules of the GPUs that the job held, whoever used them, in a span; None if not known."""
        selector = f"jobwatt_gpu_energy_joules_total{{{self._on(ours.instances)}}}"
        grown = self._grown(selector, ours.instances, ("instance", "uuid"), span)
        by_uuid = {uuid: joules for (_, uuid), joules in grown.items()}
        found = [by_uuid.get(uuid) for uuid in ours.gpus]
        return None if None in found else sum(joules for joules in found if joules is not None)

    def _parts(
        self, selector: str, nodes: Collection[str], span: Span, began: float | None = None
    ) -> dict[str, float]:
        grown = self._grown(selector, nodes, ("instance", "component"), span, began)
        parts = {component for _, component in grown}
        return {
            part: sum(grown.get((node, part)) or 0.0 for node in nodes)
            for part in parts
            if all(grown.get((node, part), 0.0) is not None for node in nodes)
        }

    def _number(self, jobid: str) -> str:
        """Slurm's own number of an array's task 1234_5, which is the label."""
        if not _JOBID.fullmatch(jobid):
            raise CompareError(f"--job {jobid}: not a job id such as 1234 or 1234_5")
        array, _, task = jobid.partition("_")
        if not task:
            return jobid
        labels = f'array_job_id="{array}",array_task_id="{task}"{self._match}'
        found = self._greatest("jobwatt_job_info", labels, "jobid")
        return max(found)[0] if found else jobid

    def _greatest(
        self, metric: str, labels: str, *by: str, span: Span | None = None
    ) -> dict[Labels, float]:
        """The greatest value per ``by``, of all the time or of a span."""
        begin, end = span or (self._now - self._last_s, self._now)
        over = f"max_over_time({metric}{{{labels}}}[{max(end - begin, 60.0):.0f}s])"
        return {
            tuple(one.labels.get(name, "") for name in by): one.points[-1][1]
            for one in self._prometheus.query(f"max by ({','.join(by)}) ({over})", end)
        }

    def _span(self, job: str, nodes: Collection[str]) -> tuple[Span, bool]:
        """First start and last end; where a page did not say, when the job was first and last seen."""
        starts = self._greatest("jobwatt_job_start_time_seconds", job, "instance")
        ends = self._greatest("jobwatt_job_end_time_seconds", job, "instance")
        if starts and len(ends) == len(nodes):
            return (min(starts.values()), max(ends.values())), False
        first, last, step = self._seen(job, min(starts.values(), default=None))
        running = last > self._now - max(2 * step, 60.0)
        return (min(starts.values(), default=first), self._now if running else last), running

    def _seen(self, job: str, start: float | None) -> tuple[float, float, float]:
        begin = self._now - self._last_s if start is None else start
        step = max((self._now - begin) / 2000, 5.0)
        expr = f"count(jobwatt_job_energy_joules_total{{{job}}})"
        times = [
            at
            for series in self._prometheus.query_range(expr, begin, self._now, step, self._last_s)
            for at, _ in series.points
        ]
        return min(times, default=begin), max(times, default=self._now), step

    def _gpus(self, job: str) -> dict[str, Gpu]:
        held, idle, energy, idle_j = (
            self._greatest(f"jobwatt_job_gpu_{what}_total", job, "uuid")
            for what in ("allocated_seconds", "idle_seconds", "energy_joules", "idle_energy_joules")
        )
        return {
            key[0]: Gpu(held[key], idle.get(key), energy.get(key, 0.0), idle_j.get(key))
            for key in sorted(held)
        }

    def _count_gpus(self, nodes: Collection[str], span: Span) -> int:
        by = ("instance", "uuid")
        metric = "jobwatt_gpu_energy_joules_total"
        return len(self._greatest(metric, self._on(nodes), *by, span=span))

    def _coverage(self, job: str) -> float | None:
        expr = f"min(last_over_time(jobwatt_job_coverage_ratio{{{job}}}[{self._last_s:.0f}s]))"
        found = self._prometheus.query(expr, self._now)
        return found[0].points[-1][1] if found else None

    def _sources(self, job: str, nodes: Collection[str], span: Span) -> dict[str, str]:
        """What fed each component longest, over the job's time or else on its nodes."""
        by = ("component", "source", "quality")
        fed = self._greatest("jobwatt_job_component_measured_seconds_total", job, *by)
        fed = fed or self._greatest("jobwatt_component_info", self._on(nodes), *by, span=span)
        best: dict[str, tuple[float, str]] = {}
        for (component, source, quality), seconds in fed.items():
            best[component] = max(best.get(component, (0.0, "")), (seconds, f"{source}, {quality}"))
        return {component: text for component, (seconds, text) in best.items() if seconds}

    def _intensity(self, span: Span) -> float | None:
        """Mean of the intensity that was in use; None where there is none, or one per zone."""
        chosen = (
            "jobwatt_grid_carbon_intensity_grams_per_kwh and on (instance, zone, source, scope, kind)"
            " (jobwatt_grid_chosen == 1)"
        )
        seconds = max(span[1] - span[0], 60.0)
        expr = f"avg by (zone) (avg_over_time(({chosen})[{seconds:.0f}s:{max(seconds / 200, 15):.0f}s]))"
        found = self._prometheus.query(expr, span[1])
        return found[0].points[-1][1] if len(found) == 1 else None

    def _grown(
        self,
        selector: str,
        nodes: Collection[str],
        by: Labels,
        span: Span,
        began: float | None = None,
    ) -> dict[Labels, float | None]:
        """
        How much counters grew in a span; None where one was not there at both ends or began anew.

        ``began``: what a counter stood at before it was first seen, where that is known.
        """
        first, last = (self._at(selector, nodes, by, moment) for moment in span)
        grown: dict[Labels, float | None] = {}
        for key in first.keys() | last.keys():
            begin, end = first.get(key), last.get(key)
            begin = began if begin is None else begin
            known = begin is not None and end is not None and end >= begin
            grown[key] = end - begin if known and begin is not None and end is not None else None
        return grown

    def _on(self, nodes: Collection[str]) -> str:
        names = json.dumps("|".join(map(re.escape, sorted(nodes))))
        return f"instance=~{names}{self._match}"

    def _at(
        self, selector: str, nodes: Collection[str], by: Labels, moment: float
    ) -> dict[Labels, float | None]:
        """
        Counters at a moment, on the line between the samples around it; ``by`` begins with instance.

        Prometheus gives the last sample before each step; the page itself tells when its figures
        were measured, which is up to a sampling interval before it was scraped.
        """
        step = 1.0 if len(nodes) <= _MANY else 15.0
        span = moment - _NEAR_S, min(moment + _NEAR_S, self._now)
        values = self._steps(selector, by, span, step)
        scraped = self._steps(f"timestamp({selector})", by, span, step)
        snapshot = f"jobwatt_snapshot_timestamp_seconds{{{self._on(nodes)}}}"
        measured = self._steps(snapshot, by[:1], span, step)
        return {
            key: _between(_timed(points, measured.get(key[:1]) or scraped.get(key, {})), moment)
            for key, points in values.items()
        }

    def _steps(
        self, expr: str, by: Labels, span: Span, step: float
    ) -> dict[Labels, dict[float, float]]:
        expr = f"max by ({','.join(by)}) ({expr})"
        return {
            tuple(one.labels.get(name, "") for name in by): dict(one.points)
            for one in self._prometheus.query_range(expr, *span, step)
        }


def _timed(
    values: Mapping[float, float], times: Mapping[float, float]
) -> list[tuple[float, float]]:
    """(When it was measured, value) by time, each time once."""
    return sorted({times[at]: value for at, value in values.items() if at in times}.items())


def _between(points: list[tuple[float, float]], moment: float) -> float | None:
    """The value at a moment; up to a sample's distance beyond the points on the line through the nearest two."""
    if len(points) < 2:
        return None
    i = bisect.bisect_left(points, (moment, float("-inf")))
    i = min(max(i, 1), len(points) - 1)
    (t0, v0), (t1, v1) = points[i - 1], points[i]
    if not 2 * t0 - t1 <= moment <= 2 * t1 - t0:
        return None
    return v0 + (v1 - v0) * (moment - t0) / (t1 - t0)


def _sum(values: Mapping[Labels, float]) -> float | None:
    return sum(values.values()) if values else None


def _by_component(energy: Mapping[Labels, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for _, component in sorted(
        energy, key=lambda key: _COMPONENTS.index(key[1]) if key[1] in _COMPONENTS else 9
    ):
        sums[component] = sum(j for (_, name), j in energy.items() if name == component)
    return sums
