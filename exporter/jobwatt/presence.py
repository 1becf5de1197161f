"""
Who was there between two snapshots, for how long, and how much CPU time each used.

Pure. Time decides what is held: a job holds its reservation from its prolog (else from when it was
first seen) to its epilog (else until it was found gone). CPU time decides what was used: the
difference of the job's cumulative counter; for a job whose counter is gone, what its Slurm root
(which keeps ended jobs' CPU time) shows beyond the jobs still counted; without roots, what the node
was busy beyond the others and the usual system.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .attribute import split
from .model import NS_PER_S, Job, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

# /proc/stat counts in ticks of 1/USER_HZ = 10 ms (man 5 proc): over a short interval node busy time
# can be short of the jobs' exact CPU time by one tick per CPU. That much is carried as a debt.
_TICK_NS = NS_PER_S // 100
# Weight of one interval in the moving average of the system's CPU use.
_SYSTEM_SMOOTHING = 16


@dataclass(frozen=True, slots=True)
class Carry:
    """What one interval hands to the next: see ``_TICK_NS``; system CPU use in ns per second."""

    debt_ns: int = 0
    system_rate: int = 0


@dataclass(slots=True)
class Presence:
    """A job's part in the interval, while it is being worked out."""

    job: Job
    held_ns: int
    ended: bool
    cpu_ns: int = 0

    @property
    def uncounted(self) -> bool:
        """Whether no counter of its own says any more what it used."""
        return self.ended or not self.job.usage.counting

    @property
    def cpus(self) -> int:
        """CPUs reserved; Slurm never gives fewer than one."""
        usage = self.job.usage
        return self.job.meta.cpus_alloc or (len(usage.cpus) if usage.cpus else 1)


@dataclass(frozen=True, slots=True)
class Attendance:
    """
    The jobs of one interval by key, and the busy time of each CPU.

    ``renamed``: former key -> key, of jobs whose cgroup came to light under another name.
    """

    dt_ns: int
    present: Mapping[str, Presence]
    busy_by_cpu: Mapping[int, int]
    renamed: Mapping[str, str]
    carry: Carry

    @property
    def busy_ns(self) -> int:
        """Busy time of the node."""
        return sum(self.busy_by_cpu.values())


def attendance(before: Snapshot, now: Snapshot, carry: Carry) -> Attendance:
    """Work out the interval from ``before`` to ``now``, two snapshots of one boot."""
    dt_ns = max(now.t_ns - before.t_ns, 0)
    renamed = _renamed(before, now)
    present = _presences(before, now, renamed, dt_ns)
    busy_by_cpu = _busy(before, now)
    _close(before, now, present, sum(busy_by_cpu.values()), carry, dt_ns)
    return Attendance(
        dt_ns, present, busy_by_cpu, renamed, _carried(present, busy_by_cpu, carry, dt_ns)
    )


# --- who was there -----------------------------------------------------------------------------


def _renamed(before: Snapshot, now: Snapshot) -> dict[str, str]:
    """Jobs that changed their key: one known by its prolog only has no name of a cgroup's, or process's, yet (SLUID, node)."""
    there = {job.usage.key for job in now.jobs} | {job.usage.key for job in now.ended}
    was = {job.usage.key for job in before.jobs}
    came = {
        job.meta.jobid: job.usage for job in now.jobs if job.usage.key not in was and job.meta.jobid
    }
    return {
        old.usage.key: came[old.meta.jobid].key
        for old in before.jobs
        if old.usage.key not in there
        and old.meta.jobid in came
        and _may_be_one({old.usage.node, came[old.meta.jobid].node})
    }


def _may_be_one(nodes: set[str]) -> bool:
    """Whether nodes of several slurmd on a host may be one: where no path tells, "" stands for any of them."""
    return "" in nodes or len(nodes) == 1


def _presences(
    before: Snapshot, now: Snapshot, renamed: Mapping[str, str], dt_ns: int
) -> dict[str, Presence]:
    was = {renamed.get(job.usage.key, job.usage.key): job for job in before.jobs}
    there = {job.usage.key: job for job in now.jobs}
    # an end from before the interval is told again after a restart: of a requeued job's former life
    ended = {
        j.usage.key: j for j in now.ended if j.usage.key not in there or j.meta.end_ns > before.t_ns
    }
    possible_ns = max(len(now.node.cpu_busy_ns), 1) * dt_ns
    present = {}
    for key in {**was, **there, **ended}:
        job = there.get(key) or ended.get(key) or was[key]
        if key in ended:  # the epilog knows what was held until the end
            job = replace(job, meta=ended[key].meta)
        present[key] = Presence(
            job, _held(job, before.t_ns, now.t_ns, known=key in was), key not in there
        )
        if key in there:
            present[key].cpu_ns = _cpu_used(was.get(key), there[key], possible_ns)
    return present


def _held(job: Job, from_ns: int, to_ns: int, *, known: bool) -> int:
    """Part of the interval in which the job was there."""
    start_ns = job.meta.start_ns or job.usage.first_ns
    if not start_ns:
        start_ns = from_ns if known else (from_ns + to_ns) // 2  # somewhere in it: half of it
    end_ns = job.meta.end_ns or to_ns
    return max(min(end_ns, to_ns) - max(start_ns, from_ns), 0)


# --- what was used -----------------------------------------------------------------------------


def _cpu_used(was: Job | None, job: Job, possible_ns: int) -> int:
    """
    CPU time since ``was``. A counter below its former value has begun again (a requeued job; a figure
    that only the last daemon had added up): what it shows is new only if the CPUs could give it. Nor
    is what a job that nobody saw begin shows beyond that.
    """
    cpu_ns = job.usage.cpu_ns
    if cpu_ns is None:
        return 0
    if was is not None and was.usage.cpu_ns is not None and cpu_ns >= was.usage.cpu_ns:
        return cpu_ns - was.usage.cpu_ns
    if was is None and job.usage.first_ns:
        return cpu_ns
    return cpu_ns if cpu_ns <= possible_ns else 0


def _busy(before: Snapshot, now: Snapshot) -> dict[int, int]:
    """Busy ns of each CPU; one that went offline or came back counts nothing this time."""
    was = before.node.cpu_busy_ns
    return {cpu: max(ns - was[cpu], 0) for cpu, ns in now.node.cpu_busy_ns.items() if cpu in was}


def _close(
    before: Snapshot,
    now: Snapshot,
    present: Mapping[str, Presence],
    busy_ns: int,
    carry: Carry,
    dt_ns: int,
) -> None:
    """
    Give jobs whose counter is gone the CPU time which they used since the last sample: those that
    ended, and those between the end of their cgroup and their epilog.
    """
    closing = {key: p for key, p in present.items() if p.uncounted and p.held_ns}
    if not closing:
        return
    for root, used_ns in _root_use(before, now, dt_ns).items():
        counted_ns = sum(
            p.cpu_ns for p in present.values() if p.job.usage.root == root and not p.uncounted
        )
        mine = {key: p for key, p in closing.items() if _belongs(p.job, root, len(now.roots))}
        _share_out(mine, used_ns - counted_ns)
    if not now.roots:
        counted_ns = sum(p.cpu_ns for p in present.values())
        _share_out(closing, busy_ns - counted_ns - carry.system_rate * dt_ns // NS_PER_S)


def _root_use(before: Snapshot, now: Snapshot, dt_ns: int) -> dict[str, int]:
    """
    CPU time of each Slurm root in the interval. One that was not seen before is new, unless it shows
    more than the CPUs could give: then it could not be read the last time.
    """
    possible_ns = max(len(now.node.cpu_busy_ns), 1) * dt_ns
    use = {root: total_ns - before.roots.get(root, 0) for root, total_ns in now.roots.items()}
    return {root: ns for root, ns in use.items() if root in before.roots or ns <= possible_ns}


def _belongs(job: Job, root: str, roots: int) -> bool:
    """Whether a job is of this root; one whose cgroup was never seen tells by its node's name."""
    if job.usage.root:
        return job.usage.root == root
    return roots == 1 or (job.usage.node != "" and job.usage.node in root)


def _share_out(closing: Mapping[str, Presence], cpu_ns: int) -> None:
    if cpu_ns <= 0 or not closing:
        return
    weights = {key: p.cpus * p.held_ns for key, p in closing.items()}
    for key, share_ns in split(cpu_ns, weights, rest=min(weights)).items():
        closing[key].cpu_ns += share_ns


def _carried(
    present: Mapping[str, Presence], busy_by_cpu: Mapping[int, int], carry: Carry, dt_ns: int
) -> Carry:
    surplus_ns = sum(busy_by_cpu.values()) - sum(p.cpu_ns for p in present.values()) - carry.debt_ns
    debt_ns = min(max(-surplus_ns, 0), _TICK_NS * len(busy_by_cpu))
    rate = carry.system_rate
    if dt_ns and not any(p.uncounted for p in present.values()):
        latest = max(surplus_ns, 0) * NS_PER_S // dt_ns
        rate += (latest - rate) // _SYSTEM_SMOOTHING if rate else latest
    return Carry(debt_ns, rate)
