"""
The jobs as a page shows them: one row per job id, its parts under several slurmd added up, users under
the names that the site allows, and no more of them than a page may carry. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from .interval import GpuUse
from .model import NS_PER_S, Domain, JobMeta, Snapshot
from .privacy import Names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .totals import JobTotals, Totals

Values = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """
    On which terms a page shows what there is.

    Attributes:
        names: how users are shown.
        jobs: so many jobs at most; the others are counted.
        series: so many series of one metric at most.
    """

    names: Names = field(default_factory=Names)
    jobs: int = 512
    series: int = 5000


@dataclass(frozen=True, slots=True)
class JobView:
    """
    A job as the page shows it.

    Attributes:
        labels: jobid, user, account, partition.
        uid: "" where it is not known, or not shown.
    """

    meta: JobMeta
    labels: Values
    uid: str
    parts: tuple[JobTotals, ...]

    @property
    def running(self) -> bool:
        """Whether any part of it still runs here."""
        return any(not part.ended_ns for part in self.parts)

    def energy_uj(self) -> dict[Domain, int]:
        """Energy by component."""
        energy: dict[Domain, int] = {}
        for part in self.parts:
            for domain, uj in part.energy_uj.items():
                energy[domain] = energy.get(domain, 0) + uj
        return energy

    def power_uw(self) -> int | None:
        """Power at the last full sample; None where it is not known yet or no more."""
        powers = [part.mark.power_uw for part in self.parts if not part.ended_ns]
        known = [power for power in powers if power is not None]
        return sum(known) if known else None

    def gpus(self) -> dict[str, GpuUse]:
        """Totals by GPU."""
        merged: dict[str, GpuUse] = {}
        for part in self.parts:
            for uuid, more in part.gpus.items():
                merged[uuid] = merged.get(uuid, GpuUse()) + more
        return merged

    def fed_ns(self) -> dict[tuple[str, str], int]:
        """Time by component and source: that of the part that has most, since two slurmd share one time."""
        fed: dict[tuple[str, str], int] = {}
        for part in self.parts:
            for key, ns in part.fed_ns.items():
                domain, _, source = key.partition("/")
                fed[domain, source] = max(fed.get((domain, source), 0), ns)
        return fed

    def coverage(self, now: Snapshot) -> float | None:
        """Share of its seconds that were measured; None where its start is not known."""
        if not self.meta.start_s and not self.meta.start_ns:
            return None
        ends_s = [part.ended_s for part in self.parts]
        end_s = max(ends_s) if all(ends_s) else now.wall_s
        lived_ns = int((end_s - self.meta.start_s) * NS_PER_S)
        if self.meta.start_ns:
            ends_ns = [part.ended_ns for part in self.parts]
            lived_ns = (max(ends_ns) if all(ends_ns) else now.t_ns) - self.meta.start_ns
        measured_ns = max(part.measured_ns for part in self.parts)
        return min(measured_ns / lived_ns, 1.0) if lived_ns > 0 else None


def jobs(totals: Totals, names: Names) -> list[JobView]:
    """Every job of the account."""
    groups: dict[str, list[JobTotals]] = {}
    for key, job in totals.jobs.items():
        usage = job.job.usage
        groups.setdefault(job.job.meta.jobid or str(usage.jobid or key), []).append(job)
    return [_job(jobid, parts, names) for jobid, parts in groups.items()]


def _job(jobid: str, parts: Iterable[JobTotals], names: Names) -> JobView:
    meta = names.masked(
        max((part.job.meta for part in parts), key=lambda m: (bool(m.user), bool(m.resolved_by)))
    )
    uids = (meta.uid, *(part.job.usage.uid for part in parts)) if names.shows_uids else ()
    uid = next((str(uid) for uid in uids if uid is not None), "")
    return JobView(meta, (jobid, meta.user, meta.account, meta.partition), uid, tuple(parts))


def within(found: list[JobView], terms: Terms) -> tuple[list[JobView], list[JobView]]:
    """
    As many jobs as the terms allow, and those that are left out: whole jobs, so that no metric of the
    jobs has more series than it may.

    Who runs comes before who has ended, who began earlier before who began later (so that a job that
    is shown stays), and of those that ended the latest: the others have been shown the longest.
    """
    if len(found) <= terms.jobs and sum(map(_series, found)) <= terms.series:
        return found, []
    ranked = sorted(found, key=_rank)
    room = accumulate(map(_series, ranked))
    count = sum(used <= terms.series for used in islice(room, terms.jobs))
    return ranked[:count], ranked[count:]


def _series(job: JobView) -> int:
    """Series that one metric has of a job, at most: one for each GPU, component, or source of a component."""
    return max(
        sum(len(part.gpus) for part in job.parts),
        sum(len(part.energy_uj) for part in job.parts),
        sum(len(part.fed_ns) for part in job.parts),
        1,
    )


def _rank(job: JobView) -> tuple[bool, int]:
    if job.running:
        return False, min(part.seen_ns for part in job.parts)
    return True, -max(part.ended_ns for part in job.parts)
