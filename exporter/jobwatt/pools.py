"""
Each device's energy of an interval becomes a pool with everybody's claims.

Pure. A device that was silent for some intervals (a hung driver, an unreadable file) is not charged
to those who happen to be there when it speaks again: its claims are kept and added up meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .attribute import UNALLOCATED, Claim, Pool
from .model import NS_PER_S, Device, Domain, Job, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import Delta, GpuState
    from .presence import Attendance, Presence

# A device that is silent for longer is gone for good: its claims must not grow for ever.
_PATIENCE_NS = 3600 * NS_PER_S

Claims = tuple[int, int | None, tuple[Claim, ...]]  # capacity, busy, claims: see attribute.Pool


@dataclass(frozen=True, slots=True)
class Waiting:
    """Claims on a device over the ``dt_ns`` since its last reading, and the jobs behind them."""

    claims: Claims
    jobs: Mapping[str, Job]
    dt_ns: int


def gpu_states(before: Snapshot, now: Snapshot) -> dict[str, GpuState]:
    """What is known of each GPU, from the latest snapshot that showed it."""
    return {state.uuid: state for state in (*before.gpus, *now.gpus)}


def holders(
    present: Mapping[str, Presence], states: Mapping[str, GpuState]
) -> dict[str, dict[str, int]]:
    """Slices that each job holds of each whole GPU, itself or through MIG instances."""
    held: dict[str, dict[str, int]] = {}
    for key, presence in present.items():
        for uuid, slices in presence.job.meta.gpus.items():
            parent = states[uuid].parent if uuid in states else ""
            by_job = held.setdefault(parent or uuid, {})
            by_job[key] = by_job.get(key, 0) + slices
    return held


@dataclass(frozen=True, slots=True)
class Pools:
    """
    Makes pools for one interval.

    Attributes:
        waiting: claims of earlier intervals by device id.
        regular_ns: over a longer time than this nobody knows how a GPU was used.
    """

    now: Snapshot
    attendance: Attendance
    idle_uw: Mapping[str, int]
    states: Mapping[str, GpuState]
    holders: Mapping[str, Mapping[str, int]]
    waiting: Mapping[str, Waiting]
    regular_ns: int

    def of(self, delta: Delta) -> Pool:
        """The pool of a device that has just been read."""
        device = delta.device
        claims = self._claims(device, irregular=delta.dt_ns > self.regular_ns)
        if device.id in self.waiting:
            claims = _added(self.waiting[device.id].claims, claims)
        idle_uw = self.idle_uw.get(device.id, 0)
        return Pool(device.domain, device.id, delta.energy_uj, delta.dt_ns, idle_uw, *claims)

    def keep(self, device: Device) -> Waiting:
        """The claims on a device that was not read, for when it is."""
        claims = self._claims(device, irregular=False)
        jobs = {key: presence.job for key, presence in self.attendance.present.items()}
        before, dt_ns = self.waiting.get(device.id), self.attendance.dt_ns
        if before is None or before.dt_ns > _PATIENCE_NS:
            return Waiting(claims, jobs, dt_ns)
        return Waiting(_added(before.claims, claims), {**before.jobs, **jobs}, before.dt_ns + dt_ns)

    def _claims(self, device: Device, *, irregular: bool) -> Claims:
        if device.domain is Domain.GPU:
            return self._gpu(device.id, irregular=irregular)
        if device.domain is Domain.DRAM:
            return self._dram()
        if device.cpus and self._confined():
            return self._socket(device.cpus)
        return self._cpu()

    # --- CPU and memory ------------------------------------------------------------------------

    def _cpu(self) -> Claims:
        present, cpus = self.attendance.present, len(self.now.node.cpu_busy_ns)
        claims = tuple(Claim(key, p.cpus * p.held_ns, p.cpu_ns) for key, p in present.items())
        return cpus * self.attendance.dt_ns, self._busy_of(self.attendance.busy_by_cpu), claims

    def _dram(self) -> Claims:
        present, total = self.attendance.present, self.now.node.mem_total_bytes
        claims = tuple(
            Claim(key, self._memory(p) * p.held_ns, p.cpu_ns) for key, p in present.items()
        )
        return total * self.attendance.dt_ns, self._busy_of(self.attendance.busy_by_cpu), claims

    def _memory(self, presence: Presence) -> int:
        """Memory reserved; where nobody says, in proportion to the CPUs, as DefMemPerCPU would."""
        total = self.now.node.mem_total_bytes
        reserved = presence.job.meta.mem_alloc_bytes or presence.job.usage.mem_limit_bytes
        if reserved:
            return min(reserved, total) if total else reserved
        return total * presence.cpus // max(len(self.now.node.cpu_busy_ns), 1)

    def _confined(self) -> bool:
        """Whether the kernel says of every job which CPUs are its own."""
        return all(p.job.usage.cpus for p in self.attendance.present.values())

    def _socket(self, cpus: frozenset[int]) -> Claims:
        claims = []
        for key, presence in self.attendance.present.items():
            own = presence.job.usage.cpus or cpus
            here = len(own & cpus)
            claims.append(Claim(key, here * presence.held_ns, presence.cpu_ns * here // len(own)))
        busy = {cpu: ns for cpu, ns in self.attendance.busy_by_cpu.items() if cpu in cpus}
        return len(cpus) * self.attendance.dt_ns, self._busy_of(busy), tuple(claims)

    def _busy_of(self, by_cpu: Mapping[int, int]) -> int:
        """Busy time of these CPUs less their part of the debt."""
        busy_ns, all_ns = sum(by_cpu.values()), self.attendance.busy_ns
        return busy_ns - (self.attendance.carry.debt_ns * busy_ns // all_ns if all_ns else 0)

    # --- GPUs ----------------------------------------------------------------------------------

    def _gpu(self, uuid: str, *, irregular: bool) -> Claims:
        present = self.attendance.present
        slices = self.states[uuid].slices if uuid in self.states else 1
        capacity = slices * self.attendance.dt_ns
        claims = [
            Claim(
                key, held * present[key].held_ns, None if irregular else self._activity(uuid, key)
            )
            for key, held in self.holders.get(uuid, {}).items()
        ]
        if irregular:  # time that nobody held is a claim too: a late comer does not pay for it
            free = max(capacity - sum(claim.reserved for claim in claims), 0)
            claims.append(Claim(UNALLOCATED, free, None))
        elif len(claims) == 1:  # a sole holder pays all: no activity to compare
            claims = [Claim(claims[0].owner, claims[0].reserved, claims[0].reserved)]
        return capacity, None, tuple(claims)

    def _activity(self, uuid: str, key: str) -> int | None:
        """k x activity x time over what the job holds on this GPU; None where any part is unknown."""
        used, presence = 0, self.attendance.present[key]
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


def _added(a: Claims, b: Claims) -> Claims:
    """Claims of two intervals together; use that is unknown in one is unknown."""
    claims = {claim.owner: claim for claim in a[2]}
    for claim in b[2]:
        old = claims.get(claim.owner)
        if old is None:
            claims[claim.owner] = claim
            continue
        used = None if old.used is None or claim.used is None else old.used + claim.used
        claims[claim.owner] = Claim(claim.owner, old.reserved + claim.reserved, used)
    busy = None if a[1] is None or b[1] is None else a[1] + b[1]
    return a[0] + b[0], busy, tuple(claims.values())
