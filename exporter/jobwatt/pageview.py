"""From a view to what the landing page shows: whole units, one row per job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attribute import SYSTEM, UNALLOCATED
from .exposition import FEEDS_NS, View
from .jobview import JobView, jobs, within
from .model import ESTIMATES, NS_PER_S, UJ_PER_J, Domain
from .pagerows import JobRow, PageView, Share, SourceRow
from .totals import by_owner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import GpuState


def page_view(view: View | None) -> PageView:
    """What the page shows of ``view``; an empty page before the first sample."""
    if view is None:
        nothing = Share(None, 0.0)
        problems = ("no sample has been taken yet",)
        return PageView("", "", 0.0, {}, (), nothing, nothing, problems=problems)
    states = {state.uuid: state for state in view.snapshot.gpus}
    marks = view.totals.node_marks
    shown, hidden = within(jobs(view.totals, view.terms.names), view.terms)
    return PageView(
        node=view.node,
        version=view.version,
        wall_s=view.snapshot.wall_s,
        watts={
            str(domain): mark.power_uw / UJ_PER_J
            for domain, mark in marks.items()
            if mark.power_uw is not None
        },
        jobs=tuple(_row(job, view, states) for job in sorted(shown, key=_order)),
        system=_share(view, SYSTEM),
        unallocated=_share(view, UNALLOCATED),
        sources=tuple(SourceRow(source.name, source.up, source.message) for source in view.sources),
        problems=_problems(view, len(hidden)),
        feeds=_feeds(view),
        balance=_balance(view),
    )


def _feeds(view: View) -> dict[str, str]:
    """Estimates are said to be such; and which meter tells what the chips do not show."""
    said = {}
    for (domain, source), fed in view.totals.fed.items():
        if fed.t_ns and view.snapshot.t_ns - fed.t_ns < FEEDS_NS:
            if source in ESTIMATES:
                said[str(domain)] = "estimated"
            elif domain is Domain.OTHER:
                said[str(domain)] = f"seen by {source}"
    return said


def _balance(view: View) -> float | None:
    wall = view.totals.wall
    if not wall.speaks(view.snapshot.t_ns) or not wall.shown.parts_uj:
        return None
    return wall.shown.wall_uj / wall.shown.parts_uj - 1


def _order(job: JobView) -> tuple[bool, str]:
    """Running jobs first, the newest first."""
    jobid = job.labels[0]
    number = jobid.isdecimal() and len(jobid) < 20  # a recording may hold anything
    return not job.running, f"{-int(jobid):020d}" if number else jobid


def _share(view: View, owner: str) -> Share:
    power_uw = view.totals.owner_marks[owner].power_uw if owner in view.totals.owner_marks else None
    joules = by_owner(view.totals.owners).get(owner, 0) / UJ_PER_J
    return Share(None if power_uw is None else power_uw / UJ_PER_J, joules)


def _row(job: JobView, view: View, states: Mapping[str, GpuState]) -> JobRow:
    gpus, power_uw = job.gpus(), job.power_uw()
    busy = [states[uuid].busy_permille for uuid in gpus if uuid in states]
    known = [permille for permille in busy if permille is not None]
    unknown_ns = sum(gpu.unknown_ns for gpu in gpus.values())
    idle_ns = sum(gpu.idle_ns for gpu in gpus.values())
    jobid, user, account, partition = job.labels
    return JobRow(
        jobid=jobid,
        user=user,
        account=account,
        partition=partition,
        name=job.meta.name,
        gpus=tuple(_gpu_name(uuid, view, states) for uuid in gpus),
        running_s=_lived_s(job, view),
        watts=None if power_uw is None else power_uw / UJ_PER_J,
        joules=sum(job.energy_uj().values()) / UJ_PER_J,
        gpu_busy_percent=sum(known) / len(known) / 10 if known and job.running else None,
        idle_gpu_s=None if not gpus or (unknown_ns and not idle_ns) else idle_ns / NS_PER_S,
        idle_joules=sum(gpu.idle_uj for gpu in gpus.values()) / UJ_PER_J,
        cpus=sum(part.job.meta.cpus_alloc for part in job.parts),
        coverage=job.coverage(view.snapshot),
        state="running" if job.running else "ended",
    )


def _lived_s(job: JobView, view: View) -> float:
    ends_ns = [part.ended_ns for part in job.parts]
    end_ns = max(ends_ns) if all(ends_ns) else view.snapshot.t_ns
    return max(end_ns - min(part.seen_ns for part in job.parts), 0) / NS_PER_S


def _gpu_name(uuid: str, view: View, states: Mapping[str, GpuState]) -> str:
    index = view.totals.gpu_index.get(uuid, "?")
    profile = states[uuid].mig_profile if uuid in states else ""
    return f"{index}:{profile}" if profile else index


def _problems(view: View, hidden: int) -> tuple[str, ...]:
    """What is not measured, or not shown, and why: every source's failures once, and the ledger's."""
    said = [failure.message for failure in view.snapshot.failures]
    if view.ledger_fault:
        said.append(view.ledger_fault)
    if hidden:
        said.append(
            f"{hidden} more jobs are measured and not shown: limits.jobs is {view.terms.jobs}, limits.series {view.terms.series}"
        )
    return tuple(dict.fromkeys(said))
