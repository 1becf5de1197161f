"""
The node's running account: everything a page shows that must never go backwards.

Pure and immutable: ``applied`` takes one settled interval and gives new totals that share what did
not change. ledger.py writes them to disk; exposition.py shows them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from .attribute import SYSTEM, UNALLOCATED
from .interval import GpuUse
from .model import NS_PER_S, Device, Domain, Job, Sample, Snapshot, Step
from .wall import Wall

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .interval import JobEntry, Settlement
    from .meter import Metered

_K = TypeVar("_K")

CounterKey = tuple[str, tuple[str, ...]]  # metric name, label values


@dataclass(frozen=True, slots=True)
class Mark:
    """Energy at the last full sample and the power since the one before it."""

    energy_uj: int = 0
    t_ns: int = 0
    power_uw: int | None = None

    def moved(self, energy_uj: int, t_ns: int) -> Mark:
        """The mark at a new full sample."""
        dt_ns = t_ns - self.t_ns
        if not self.t_ns or dt_ns <= 0:
            return Mark(energy_uj, t_ns)
        return Mark(energy_uj, t_ns, max(energy_uj - self.energy_uj, 0) * NS_PER_S // dt_ns)


@dataclass(frozen=True, slots=True)
class JobTotals:
    """
    A job's account on this node.

    ``seen_ns``: when it came to our attention; ``measured_ns``: how much of its time was measured;
    ``fed_ns``: for how long which source fed which component (``cpu/rapl``);
    ``ended_ns``/``ended_s``: when it ended (0: it runs).
    """

    job: Job
    seen_ns: int
    energy_uj: Mapping[Domain, int] = field(default_factory=dict)
    cpu_ns: int = 0
    measured_ns: int = 0
    gpus: Mapping[str, GpuUse] = field(default_factory=dict)
    ended_ns: int = 0
    ended_s: int = 0
    mark: Mark = field(default_factory=Mark)
    fed_ns: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fed:
    """For how long a source has fed a component, and when it last did (CLOCK_BOOTTIME, of its reading)."""

    ns: int = 0
    t_ns: int = 0


@dataclass(frozen=True, slots=True)
class DeviceTotals:
    """
    One device's energy, unwrapped. ``compared_uj`` and ``integrated_uj`` are its counter and its
    integrated power over the intervals in which both were measured.
    """

    device: Device
    energy_uj: int = 0
    compared_uj: int = 0
    integrated_uj: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything that accumulates on one node."""

    jobs: Mapping[str, JobTotals] = field(default_factory=dict)
    owners: Mapping[tuple[str, Domain], int] = field(default_factory=dict)  # system, unallocated
    node: Mapping[Domain, int] = field(default_factory=dict)
    node_marks: Mapping[Domain, Mark] = field(default_factory=dict)
    owner_marks: Mapping[str, Mark] = field(default_factory=dict)  # system, unallocated
    devices: Mapping[str, DeviceTotals] = field(default_factory=dict)
    counters: Mapping[CounterKey, int] = field(default_factory=dict)
    gpu_index: Mapping[str, str] = field(
        default_factory=dict
    )  # of every GPU that a row may name: a label
    busy_ns: int = 0
    residual_uj: int = 0
    wall: Wall = field(default_factory=Wall)
    fed: Mapping[tuple[Domain, str], Fed] = field(default_factory=dict)


def rebooted(totals: Totals) -> Totals:
    """What goes on after a reboot: sums do; jobs, and what is of a moment, do not."""
    return replace(
        totals,
        jobs={},
        node_marks={},
        owner_marks={},
        wall=Wall(compared=totals.wall.compared),
        fed={key: Fed(fed.ns) for key, fed in totals.fed.items()},
    )


def applied(
    totals: Totals, settled: Settlement, metered: Metered, now: Snapshot, linger_ns: int
) -> Totals:
    """Totals after one more interval; jobs that ended ``linger_ns`` ago are dropped."""
    node = _summed(totals.node, settled.node_uj)
    owners = _owners(totals.owners, settled)
    return Totals(
        jobs=_jobs(totals.jobs, settled, now, linger_ns),
        owners=owners,
        node=node,
        node_marks=_heard(_marks(totals.node_marks, node, now), settled, now),
        owner_marks=_marks(totals.owner_marks, by_owner(owners), now),
        devices=_devices(totals.devices, metered),
        counters=_counters(totals.counters, metered, now.events),
        gpu_index=_gpu_index(totals, now),
        busy_ns=totals.busy_ns + settled.busy_ns,
        residual_uj=totals.residual_uj + settled.residual_uj,
        wall=settled.wall,
        fed=_fed(totals.fed, settled, now),
    )


def _summed(was: Mapping[_K, int], more: Mapping[_K, int]) -> dict[_K, int]:
    return {key: was.get(key, 0) + more.get(key, 0) for key in {**was, **more}}


def by_owner(owners: Mapping[tuple[str, Domain], int]) -> dict[str, int]:
    """Energy of system and unallocated over all components."""
    total: Counter[str] = Counter()
    for (owner, _), energy_uj in owners.items():
        total[owner] += energy_uj
    return dict(total)


def _owners(
    was: Mapping[tuple[str, Domain], int], settled: Settlement
) -> Mapping[tuple[str, Domain], int]:
    more = {(owner, domain): 0 for domain in settled.node_uj for owner in (SYSTEM, UNALLOCATED)}
    for (owner, domain, _), energy_uj in settled.attribution.rows.items():
        if owner in (SYSTEM, UNALLOCATED):
            more[owner, domain] += energy_uj
    return _summed(was, more)


def _marks(was: Mapping[_K, Mark], energy: Mapping[_K, int], now: Snapshot) -> Mapping[_K, Mark]:
    """Power is told between full samples: over a few milliseconds it would only be noise."""
    if not now.full:
        return was
    return {key: was.get(key, Mark()).moved(uj, now.t_ns) for key, uj in energy.items()}


def _heard(
    marks: Mapping[Domain, Mark], settled: Settlement, now: Snapshot
) -> Mapping[Domain, Mark]:
    """A component of which nothing was heard has no power now, rather than one of 0."""
    if not now.full or not settled.dt_ns:
        return marks
    return {
        domain: mark if domain in settled.node_uj else replace(mark, power_uw=None)
        for domain, mark in marks.items()
    }


def _fed(
    was: Mapping[tuple[Domain, str], Fed], settled: Settlement, now: Snapshot
) -> Mapping[tuple[Domain, str], Fed]:
    """A component is as old as the oldest of the readings behind it."""
    read: dict[tuple[Domain, str], int] = {}
    for reading in now.readings:
        device = reading.device
        counts = device.domain is not Domain.NODE or device.id == settled.wall.meter
        if device.summed and counts:
            key = (_component(device.domain), device.source)
            read[key] = min(read.get(key, reading.t_ns), reading.t_ns)
    return {
        key: Fed(was.get(key, Fed()).ns + settled.fed_ns.get(key, 0), read.get(key, was.get(key, Fed()).t_ns))
        for key in {**was, **settled.fed_ns}
    }  # fmt: skip


def _component(domain: Domain) -> Domain:
    return Domain.OTHER if domain is Domain.NODE else domain


def _devices(was: Mapping[str, DeviceTotals], metered: Metered) -> dict[str, DeviceTotals]:
    after = dict(was)
    integrated = {delta.device.id: delta for delta in metered.integrated}
    for delta in metered.booked:
        old = was.get(delta.device.id) or DeviceTotals(delta.device)
        beside = integrated.get(delta.device.id)
        both = beside is not None and beside.step is delta.step is Step.NORMAL
        after[delta.device.id] = DeviceTotals(
            delta.device,
            old.energy_uj + delta.energy_uj,
            old.compared_uj + (delta.energy_uj if both else 0),
            old.integrated_uj + (beside.energy_uj if both and beside else 0),
        )
    return after


def _gpu_index(totals: Totals, now: Snapshot) -> Mapping[str, str]:
    """
    What GPUs are called. MIG instances have other UUIDs after each repartition: of those that are
    gone only what a row still names is kept.
    """
    was, seen = totals.gpu_index, {gpu.uuid: str(gpu.index) for gpu in now.gpus}
    if seen.items() <= was.items():
        return was
    held = {uuid for job in totals.jobs.values() for uuid in (*job.gpus, *job.job.meta.gpus)}
    kept = {uuid: name for uuid, name in was.items() if uuid in held or uuid in totals.devices}
    return {**kept, **seen}


def _counters(
    was: Mapping[CounterKey, int], metered: Metered, events: Iterable[Sample]
) -> Mapping[CounterKey, int]:
    more: Counter[CounterKey] = Counter()
    for delta in metered.booked:
        if delta.step not in {Step.NORMAL, Step.FIRST}:
            more["jobwatt_steps_total", (delta.device.source, str(delta.step))] += 1
    for event in events:
        more[event.metric, event.labels] += int(event.value)
    return _summed(was, more) if more else was


def _jobs(
    was: Mapping[str, JobTotals], settled: Settlement, now: Snapshot, linger_ns: int
) -> dict[str, JobTotals]:
    after = _moved(was, settled.renamed)
    for job in now.jobs:
        if job.usage.key not in settled.jobs:  # the first snapshot: nothing to charge yet
            old = after.get(job.usage.key) or JobTotals(job, job.usage.first_ns or now.t_ns)
            after[job.usage.key] = replace(old, job=_remembered(old.job, job))
    for key, entry in settled.jobs.items():
        after[key] = _job(after.get(key), entry, now)
    for job in now.late:
        if job.usage.key in after:
            old = after[job.usage.key]
            after[job.usage.key] = replace(old, job=_remembered(old.job, job))
    there = {job.usage.key for job in now.jobs}  # a straggler keeps its cgroup, and so its account
    expired = [
        key
        for key, job in after.items()
        if job.ended_ns and now.t_ns - job.ended_ns > linger_ns and key not in there
    ]
    alive = {_identity(key, job) for key, job in after.items() if key not in expired}
    for key in expired:
        # two slurmd of one host may each have a part of a job: its series ends with the last
        if _identity(key, after[key]) not in alive:
            del after[key]
    return after


def _moved(was: Mapping[str, JobTotals], renamed: Mapping[str, str]) -> dict[str, JobTotals]:
    """Accounts under the keys that their jobs have now."""
    after = dict(was)
    for old, new in renamed.items():
        if old in after and new not in after:
            after[new] = after.pop(old)
    return after


def _identity(key: str, totals: JobTotals) -> str:
    return totals.job.meta.jobid or key


def _job(was: JobTotals | None, entry: JobEntry, now: Snapshot) -> JobTotals:
    old = was or JobTotals(entry.job, now.t_ns - entry.held_ns)
    energy = _summed(old.energy_uj, entry.energy_uj)
    gpus = {
        **old.gpus,
        **{uuid: old.gpus.get(uuid, GpuUse()) + gpu for uuid, gpu in entry.gpus.items()},
    }
    meta = entry.job.meta
    ended = entry.ended or bool(meta.end_ns)
    return JobTotals(
        job=_remembered(old.job, entry.job),
        seen_ns=old.seen_ns,
        energy_uj=energy,
        cpu_ns=old.cpu_ns + entry.cpu_ns,
        measured_ns=old.measured_ns + entry.measured_ns,
        gpus=gpus,
        ended_ns=(old.ended_ns or meta.end_ns or now.t_ns) if ended else 0,
        ended_s=(old.ended_s or meta.end_s or int(now.wall_s)) if ended else 0,
        mark=_job_mark(old.mark, sum(energy.values()), entry, now),
        fed_ns=_fed_job(old.fed_ns, entry),
    )


def _fed_job(was: Mapping[str, int], entry: JobEntry) -> Mapping[str, int]:
    more = {f"{domain}/{source}": entry.held_ns for domain, source in entry.fed.items()}
    return _summed(was, more) if more else was


_NAMES = (
    "jobid",
    "user",
    "uid",
    "account",
    "partition",
    "qos",
    "name",
    "array_job_id",
    "array_task_id",
    "resolved_by",
)


def _remembered(old: Job, new: Job) -> Job:
    """
    ``new``, with the names that were known before and are not told now: after a restart they are
    looked up anew, and until then the job's series must not come back under other labels, where
    they would be counted a second time.
    """
    was, now = old.meta, new.meta
    if was is now:
        return new
    lost = {
        name: known
        for name in _NAMES
        if getattr(now, name) in ("", None) and (known := getattr(was, name)) not in ("", None)
    }
    return replace(new, meta=replace(now, **lost)) if lost else new


def _job_mark(was: Mark, energy_uj: int, entry: JobEntry, now: Snapshot) -> Mark:
    if entry.ended:
        return Mark(energy_uj, now.t_ns)
    if not was.t_ns:  # its power counts from when it began
        return Mark(0, now.t_ns - entry.held_ns).moved(energy_uj, now.t_ns)
    return was.moved(energy_uj, now.t_ns) if now.full else was
