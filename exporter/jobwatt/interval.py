"""
One interval between two snapshots: who held what, who used what, and what each is charged.

Pure. Time decides what is held: a job holds its reservation from its prolog (else from when it was
first seen) to its epilog (else until it was found gone), and claims in proportion to that part of
the interval. CPU time decides what was used: the difference of the job's cumulative counter; for a
job that ended in between, what its Slurm root (which keeps ended jobs' CPU time) shows beyond the
jobs still there; without roots, what the node was busy beyond the others and the usual system.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .attribute import Attribution, Claim, Pool, attribute, split
from .model import NS_PER_S, Domain, Job, Snapshot, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .model import Delta, GpuState

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


@dataclass(frozen=True, slots=True)
class GpuEntry:
    """What one GPU or MIG instance adds to a job's account in one interval."""

    energy_uj: int = 0
    held_ns: int = 0
    idle_ns: int = 0
    idle_uj: int = 0
    unknown_ns: int = 0


@dataclass(frozen=True, slots=True)
class JobEntry:
    """
    What one interval adds to a job's account. ``held_ns``: how long it was there; ``measured_ns``: how
    much of that was measured.
    """

    job: Job
    cpu_ns: int
    held_ns: int
    measured_ns: int
    energy_uj: Mapping[Domain, int]
    gpus: Mapping[str, GpuEntry]
    ended: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """One interval, settled. ``node_uj`` is what the devices measured, computed apart from the split."""

    dt_ns: int = 0
    attribution: Attribution = field(default_factory=lambda: Attribution({}))
    jobs: Mapping[str, JobEntry] = field(default_factory=dict)
    node_uj: Mapping[Domain, int] = field(default_factory=dict)
    busy_ns: int = 0
    carry: Carry = field(default_factory=Carry)


@dataclass(slots=True)
class _Presence:
    """A job's part in the interval, while it is being worked out."""

    job: Job
    held_ns: int
    ended: bool
    cpu_ns: int = 0

    @property
    def uncounted(self) -> bool:
        """Whether no counter of its own says any more what it used."""
        return self.ended or not self.job.usage.counting


def settle(
    before: Snapshot | None,
    now: Snapshot,
    deltas: Sequence[Delta],
    idle_uw: Mapping[str, int],
    carry: Carry,
    regular_ns: int,
) -> Settlement:
    """
    Charge the energy of ``deltas`` to those who were there between ``before`` and ``now``.

    Args:
        before: the snapshot at the interval's start, of the same boot; None if there was none.
        idle_uw: idle power by device id, where known.
        regular_ns: in a longer interval than this nobody can say whether a GPU was idle.
    """
    if before is None:
        return Settlement(carry=carry)
    dt_ns = max(now.t_ns - before.t_ns, 0)
    present = _presences(before, now, dt_ns)
    busy_by_cpu = _busy(before, now)
    _close_ended(before, now, present, sum(busy_by_cpu.values()), carry, dt_ns)
    carry = _carried(present, busy_by_cpu, carry, dt_ns)
    summed = [delta for delta in deltas if delta.device.summed]
    states = gpu_states(before, now)
    holders = _holders(present, states)
    pools = _Pools(now, present, busy_by_cpu, carry, dt_ns, idle_uw, states, holders)
    walls = {d.device.id: d.energy_uj for d in summed if d.device.domain is Domain.NODE}
    attribution = attribute(
        [pools.of(d) for d in summed if d.device.domain is not Domain.NODE], walls
    )
    seen = {state.uuid: state for state in now.gpus} if dt_ns <= regular_ns else {}
    entries = _entries(present, attribution, states, seen, measured=_measured(summed))
    return Settlement(dt_ns, attribution, entries, _node(summed), sum(busy_by_cpu.values()), carry)


# --- who was there -----------------------------------------------------------------------------


def _presences(before: Snapshot, now: Snapshot, dt_ns: int) -> dict[str, _Presence]:
    was = {job.usage.key: job for job in before.jobs}
    there = {job.usage.key: job for job in now.jobs}
    ended = {job.usage.key: job for job in now.ended}
    present = {}
    for key in {**was, **there, **ended}:
        job = (
            ended.get(key) or there.get(key) or was[key]
        )  # the epilog knows what was held till the end
        held_ns = _held(job, before.t_ns, now.t_ns, known=key in was)
        present[key] = _Presence(job, held_ns, ended=key not in there)
        if key in there:
            possible_ns = max(len(now.node.cpu_busy_ns), 1) * dt_ns
            present[key].cpu_ns = _cpu_used(was.get(key), there[key], possible_ns)
    return present


def _held(job: Job, from_ns: int, to_ns: int, *, known: bool) -> int:
    """Part of the interval in which the job was there."""
    start_ns = job.meta.start_ns or job.usage.first_ns
    if not start_ns:
        start_ns = from_ns if known else (from_ns + to_ns) // 2  # somewhere in it: half of it
    end_ns = job.meta.end_ns or to_ns
    return max(min(end_ns, to_ns) - max(start_ns, from_ns), 0)


def _cpu_used(was: Job | None, job: Job, possible_ns: int) -> int:
    """
    CPU time since ``was``. A counter below its former value is a new incarnation of the job (requeue).
    Of a job that nobody saw begin, more than all CPUs could give is older than the interval.
    """
    cpu_ns = job.usage.cpu_ns
    if cpu_ns is None:
        return 0
    if was is not None:
        since_ns = was.usage.cpu_ns or 0
        return cpu_ns - since_ns if cpu_ns >= since_ns else cpu_ns
    return cpu_ns if job.usage.first_ns or cpu_ns <= possible_ns else 0


# --- what was used -----------------------------------------------------------------------------


def _busy(before: Snapshot, now: Snapshot) -> dict[int, int]:
    """Busy ns of each CPU; one that went offline or came back counts nothing this time."""
    was = before.node.cpu_busy_ns
    return {cpu: max(ns - was[cpu], 0) for cpu, ns in now.node.cpu_busy_ns.items() if cpu in was}


def _close_ended(
    before: Snapshot,
    now: Snapshot,
    present: Mapping[str, _Presence],
    busy_ns: int,
    carry: Carry,
    dt_ns: int,
) -> None:
    """
    Give jobs whose counter is gone the CPU time which they used since the last sample: those that
    ended, and those between the end of their cgroup and their epilog.
    """
    ended = {key: p for key, p in present.items() if p.uncounted and p.held_ns}
    if not ended:
        return
    roots = [root for root in now.roots if root in before.roots or now.roots[root]]
    for root in roots:
        used_ns = now.roots[root] - before.roots.get(root, 0)
        alive_ns = sum(
            p.cpu_ns for p in present.values() if not p.ended and p.job.usage.root == root
        )
        mine = {key: p for key, p in ended.items() if _belongs(p.job, root, len(roots))}
        _share_out(mine, used_ns - alive_ns)
    if not roots:
        alive_ns = sum(p.cpu_ns for p in present.values())
        _share_out(ended, busy_ns - alive_ns - carry.system_rate * dt_ns // NS_PER_S)


def _belongs(job: Job, root: str, roots: int) -> bool:
    """Whether a job is of this root; one whose cgroup was never seen tells by its node's name."""
    if job.usage.root:
        return job.usage.root == root
    return roots == 1 or (job.usage.node != "" and job.usage.node in root)


def _share_out(ended: Mapping[str, _Presence], cpu_ns: int) -> None:
    if cpu_ns <= 0 or not ended:
        return
    weights = {key: _cpus(p.job) * p.held_ns for key, p in ended.items()}
    for key, share_ns in split(cpu_ns, weights, rest=min(weights)).items():
        ended[key].cpu_ns += share_ns


def _cpus(job: Job) -> int:
    """CPUs reserved; Slurm never gives fewer than one."""
    return job.meta.cpus_alloc or (len(job.usage.cpus) if job.usage.cpus else 1)


def _carried(
    present: Mapping[str, _Presence], busy_by_cpu: Mapping[int, int], carry: Carry, dt_ns: int
) -> Carry:
    surplus_ns = sum(busy_by_cpu.values()) - sum(p.cpu_ns for p in present.values()) - carry.debt_ns
    debt_ns = min(max(-surplus_ns, 0), _TICK_NS * len(busy_by_cpu))
    rate = carry.system_rate
    if dt_ns and not any(p.ended for p in present.values()):
        latest = max(surplus_ns, 0) * NS_PER_S // dt_ns
        rate += (latest - rate) // _SYSTEM_SMOOTHING if rate else latest
    return Carry(debt_ns, rate)


# --- pools -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pools:
    """Turns one device's delta into a pool with everybody's claims."""

    now: Snapshot
    present: Mapping[str, _Presence]
    busy_by_cpu: Mapping[int, int]
    carry: Carry
    dt_ns: int
    idle_uw: Mapping[str, int]
    states: Mapping[str, GpuState]
    holders: Mapping[str, Mapping[str, int]]  # see _holders

    def of(self, delta: Delta) -> Pool:
        if delta.device.domain is Domain.GPU:
            capacity, busy, claims = self._gpu(delta.device.id)
        elif delta.device.domain is Domain.DRAM:
            capacity, busy, claims = self._dram()
        elif delta.device.cpus and self._confined():
            capacity, busy, claims = self._socket(delta.device.cpus)
        else:
            capacity, busy, claims = self._cpu()
        idle_uw = self.idle_uw.get(delta.device.id, 0)
        return Pool(
            delta.device.domain,
            delta.device.id,
            delta.energy_uj,
            delta.dt_ns,
            idle_uw,
            capacity,
            busy,
            claims,
        )

    def _cpu(self) -> tuple[int, int, tuple[Claim, ...]]:
        claims = tuple(
            Claim(key, _cpus(p.job) * p.held_ns, p.cpu_ns) for key, p in self.present.items()
        )
        return len(self.now.node.cpu_busy_ns) * self.dt_ns, self._busy_of(self.busy_by_cpu), claims

    def _dram(self) -> tuple[int, int, tuple[Claim, ...]]:
        claims = tuple(
            Claim(key, self._memory(p.job) * p.held_ns, p.cpu_ns) for key, p in self.present.items()
        )
        return self.now.node.mem_total_bytes * self.dt_ns, self._busy_of(self.busy_by_cpu), claims

    def _memory(self, job: Job) -> int:
        """Memory reserved; where nobody says, in proportion to the CPUs, as DefMemPerCPU would."""
        total = self.now.node.mem_total_bytes
        reserved = job.meta.mem_alloc_bytes or job.usage.mem_limit_bytes
        if reserved:
            return min(reserved, total) if total else reserved
        return total * _cpus(job) // max(len(self.now.node.cpu_busy_ns), 1)

    def _confined(self) -> bool:
        """Whether the kernel says of every job which CPUs are its own."""
        return all(p.job.usage.cpus for p in self.present.values())

    def _socket(self, cpus: frozenset[int]) -> tuple[int, int, tuple[Claim, ...]]:
        claims = []
        for key, presence in self.present.items():
            own = presence.job.usage.cpus or cpus
            here = len(own & cpus)
            claims.append(Claim(key, here * presence.held_ns, presence.cpu_ns * here // len(own)))
        busy = {cpu: ns for cpu, ns in self.busy_by_cpu.items() if cpu in cpus}
        return len(cpus) * self.dt_ns, self._busy_of(busy), tuple(claims)

    def _busy_of(self, by_cpu: Mapping[int, int]) -> int:
        """Busy time of these CPUs less their part of the debt."""
        busy_ns, all_ns = sum(by_cpu.values()), sum(self.busy_by_cpu.values())
        return busy_ns - (self.carry.debt_ns * busy_ns // all_ns if all_ns else 0)

    def _gpu(self, uuid: str) -> tuple[int, None, tuple[Claim, ...]]:
        slices = self.states[uuid].slices if uuid in self.states else 1
        claims = [
            Claim(key, held * self.present[key].held_ns, self._activity(uuid, key))
            for key, held in self.holders.get(uuid, {}).items()
            if held
        ]
        if len(claims) == 1:  # a sole holder pays all: no activity to compare
            claims = [Claim(claims[0].owner, claims[0].reserved, claims[0].reserved)]
        return slices * self.dt_ns, None, tuple(claims)

    def _activity(self, uuid: str, key: str) -> int | None:
        """k x activity x time over what the job holds on this GPU; None where any part is unknown."""
        used, presence = 0, self.present[key]
        for held, slices in presence.job.meta.gpus.items():
            state = self.states.get(held)
            if held != uuid and (state is None or state.parent != uuid):
                continue
            permille = self._permille(held, key, state)
            if permille is None:
                return None
            used += slices * permille * presence.held_ns
        return used

    def _permille(self, uuid: str, key: str, state: GpuState | None) -> int | None:
        if state is not None and state.parent:
            return state.busy_permille if state.sm_permille is None else state.sm_permille
        shares = self.now.sm_use.get(uuid)
        return None if shares is None else shares.get(key, 0)


def gpu_states(before: Snapshot, now: Snapshot) -> dict[str, GpuState]:
    """What is known of each GPU, from the latest snapshot that showed it."""
    return {state.uuid: state for state in (*before.gpus, *now.gpus)}


def _holders(
    present: Mapping[str, _Presence], states: Mapping[str, GpuState]
) -> dict[str, dict[str, int]]:
    """Slices that each job holds of each whole GPU, itself or through MIG instances."""
    holders: dict[str, dict[str, int]] = {}
    for key, presence in present.items():
        for uuid, slices in presence.job.meta.gpus.items():
            parent = states[uuid].parent if uuid in states else ""
            held = holders.setdefault(parent or uuid, {})
            held[key] = held.get(key, 0) + slices
    return holders


# --- entries -----------------------------------------------------------------------------------


def _node(deltas: Iterable[Delta]) -> dict[Domain, int]:
    """Energy by component; OTHER is what the wall saw beyond them."""
    node: dict[Domain, int] = {}
    for delta in deltas:
        node[delta.device.domain] = node.get(delta.device.domain, 0) + delta.energy_uj
    wall_uj = node.pop(Domain.NODE, None)
    if wall_uj is not None:
        node[Domain.OTHER] = max(wall_uj - sum(node.values()), 0)
    return node


def _measured(deltas: Sequence[Delta]) -> bool:
    """Whether every device's energy is known over the whole interval (a counter bridges a gap)."""
    plain = {Step.NORMAL, Step.WRAPPED}
    return bool(deltas) and all(
        d.step in plain or (d.step is Step.GAP and d.energy_uj) for d in deltas
    )


def _entries(
    present: Mapping[str, _Presence],
    attribution: Attribution,
    states: Mapping[str, GpuState],
    seen: Mapping[str, GpuState],
    *,
    measured: bool,
) -> dict[str, JobEntry]:
    energy: dict[str, dict[Domain, int]] = {key: {} for key in present}
    on_gpu: dict[str, dict[str, int]] = {key: {} for key in present}
    for (owner, domain, device), energy_uj in attribution.rows.items():
        if owner in present:
            energy[owner][domain] = energy[owner].get(domain, 0) + energy_uj
            if domain is Domain.GPU:
                on_gpu[owner][device] = energy_uj
    return {
        key: JobEntry(
            p.job,
            p.cpu_ns,
            p.held_ns,
            p.held_ns if measured else 0,
            energy[key],
            _gpu_entries(p, on_gpu[key], states, seen),
            p.ended,
        )
        for key, p in present.items()
    }


def _gpu_entries(
    presence: _Presence,
    on_gpu: Mapping[str, int],
    states: Mapping[str, GpuState],
    seen: Mapping[str, GpuState],
) -> dict[str, GpuEntry]:
    """One entry per GPU or MIG instance held; several instances on one GPU share by their slices."""
    by_device: dict[str, dict[str, int]] = {}
    for uuid, slices in presence.job.meta.gpus.items():
        parent = states[uuid].parent if uuid in states else ""
        by_device.setdefault(parent or uuid, {})[uuid] = slices
    entries = {}
    for device, held in by_device.items():
        for uuid, energy_uj in split(on_gpu.get(device, 0), held, rest=min(held)).items():
            entries[uuid] = _gpu_entry(energy_uj, presence.held_ns, seen.get(uuid))
    return entries


def _gpu_entry(energy_uj: int, held_ns: int, state: GpuState | None) -> GpuEntry:
    busy_permille = state.busy_permille if state is not None else None
    if busy_permille is None:
        return GpuEntry(energy_uj, held_ns, unknown_ns=held_ns)
    if busy_permille == 0:
        return GpuEntry(energy_uj, held_ns, idle_ns=held_ns, idle_uj=energy_uj)
    return GpuEntry(energy_uj, held_ns)
