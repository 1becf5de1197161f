"""
One interval between two snapshots, settled: what each job, the system and nobody is charged.

Pure. presence.py says who was there and used what, pools.py who claims what of which device,
attribute.py splits; here the parts come together, and what each job's GPUs did is added up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .attribute import Attribution, Beyond, attribute, split
from .model import ESTIMATES, Device, Domain, Job, Snapshot
from .pools import Pools, Waiting, gpu_states, holders
from .presence import Attendance, Carry, Presence, attendance
from .wall import Charge, Wall, charged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .model import Delta, GpuState


@dataclass(frozen=True, slots=True)
class GpuUse:
    """
    What a job has had of one GPU or MIG instance, in one interval or since its start.

    Attributes:
        idle_ns, idle_uj: of it, with no kernel running.
        unknown_ns: of it, with nothing to tell whether a kernel ran.
        used_ns: utilisation integrated over time: nanoseconds of full use.
    """

    energy_uj: int = 0
    held_ns: int = 0
    idle_ns: int = 0
    idle_uj: int = 0
    unknown_ns: int = 0
    used_ns: int = 0

    def __add__(self, other: GpuUse) -> GpuUse:
        return GpuUse(
            self.energy_uj + other.energy_uj,
            self.held_ns + other.held_ns,
            self.idle_ns + other.idle_ns,
            self.idle_uj + other.idle_uj,
            self.unknown_ns + other.unknown_ns,
            self.used_ns + other.used_ns,
        )


@dataclass(frozen=True, slots=True)
class JobEntry:
    """
    What one interval adds to a job's account. ``held_ns``: how long it was there; ``measured_ns``: how
    much of that was measured; ``fed``: which source fed each component meanwhile.
    """

    job: Job
    cpu_ns: int
    held_ns: int
    measured_ns: int
    energy_uj: Mapping[Domain, int]
    gpus: Mapping[str, GpuUse]
    ended: bool
    fed: Mapping[Domain, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settlement:
    """
    One interval, settled.

    Attributes:
        node_uj: what the devices measured, computed apart from the split.
        renamed: former key -> key of jobs whose cgroup came to light.
        waiting: claims on devices that were not read, for the next interval.
        wall: the account with the wall meter; residual_uj: by how much the components exceeded it.
        fed_ns: for how long each source fed each component.
    """

    dt_ns: int = 0
    attribution: Attribution = field(default_factory=lambda: Attribution({}))
    jobs: Mapping[str, JobEntry] = field(default_factory=dict)
    node_uj: Mapping[Domain, int] = field(default_factory=dict)
    busy_ns: int = 0
    renamed: Mapping[str, str] = field(default_factory=dict)
    carry: Carry = field(default_factory=Carry)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    wall: Wall = field(default_factory=Wall)
    residual_uj: int = 0
    fed_ns: Mapping[tuple[Domain, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Before:
    """
    What an interval begins with.

    Attributes:
        snapshot: the one at its start, of the same boot; None if there was none.
        carry, waiting, wall: of the last interval's settlement.
    """

    snapshot: Snapshot | None = None
    carry: Carry = field(default_factory=Carry)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    wall: Wall = field(default_factory=Wall)


def settle(
    start: Before,
    now: Snapshot,
    deltas: Sequence[Delta],
    silent: Iterable[Device],
    idle_uw: Mapping[str, int],
    regular_ns: int,
) -> Settlement:
    """
    Charge the energy of ``deltas`` to those who were there between ``start`` and ``now``.

    Args:
        silent: devices with a counter that were not read this time.
        idle_uw: idle power by device id, where known.
        regular_ns: in a longer interval than this nobody can say whether a GPU was idle.
    """
    before, waiting = start.snapshot, start.waiting
    if before is None:
        return Settlement(carry=start.carry, wall=charged(start.wall, deltas, 0, now.t_ns).wall)
    who = attendance(before, now, start.carry)
    states = gpu_states(before, now)
    pools = Pools(now, who, idle_uw, states, holders(who.present, states), waiting, regular_ns)
    summed = [delta for delta in deltas if delta.device.summed]
    parts = [delta for delta in summed if delta.device.domain is not Domain.NODE]
    charge = charged(start.wall, deltas, who.dt_ns, now.t_ns)
    attribution = attribute([pools.of(delta) for delta in parts], _beyond(charge))
    measured = _measured(parts)
    feeds = _feeds(parts, charge, now.t_ns)
    seen = {state.uuid: state for state in now.gpus} if who.dt_ns <= regular_ns else {}
    late = {
        key: job
        for d in summed
        if d.device.id in waiting
        for key, job in waiting[d.device.id].jobs.items()
    }
    return Settlement(
        dt_ns=who.dt_ns,
        attribution=attribution,
        jobs=_Entries(attribution, states, seen, measured, feeds).of(who, late),
        node_uj=_node(parts, charge),
        busy_ns=who.busy_ns,
        renamed=who.renamed,
        carry=who.carry,
        waiting={device.id: pools.keep(device) for device in silent if _can_wait(device)},
        wall=charge.wall,
        residual_uj=charge.residual_uj,
        fed_ns=_fed_ns(parts, charge),
    )


def _can_wait(device: Device) -> bool:
    return device.summed and device.domain is not Domain.NODE


def _beyond(charge: Charge) -> Beyond | None:
    if charge.other_uj is None:
        return None
    return Beyond(charge.wall.meter, charge.other_uj, charge.wall.includes_gpu)


def _node(parts: Iterable[Delta], charge: Charge) -> dict[Domain, int]:
    """Energy by component; OTHER is what the wall saw beyond them."""
    node: dict[Domain, int] = {}
    for delta in parts:
        node[delta.device.domain] = node.get(delta.device.domain, 0) + delta.energy_uj
    if charge.other_uj is not None:
        node[Domain.OTHER] = charge.other_uj
    return node


def _fed_ns(parts: Iterable[Delta], charge: Charge) -> dict[tuple[Domain, str], int]:
    """For how long each source fed a component: no longer than the least of its devices (two sockets are one time)."""
    fed: dict[tuple[Domain, str], int] = {}
    for delta in parts:
        key = (delta.device.domain, delta.device.source)
        known_ns = delta.dt_ns if delta.known else 0
        fed[key] = min(fed.get(key, known_ns), known_ns)
    if charge.wall.meter:
        fed[Domain.OTHER, charge.wall.source] = charge.window_ns
    return fed


def _feeds(parts: Iterable[Delta], charge: Charge, t_ns: int) -> dict[Domain, str]:
    """The source of each component in this interval; of a meter that speaks seldom, while it is believed."""
    feeds = {d.device.domain: d.device.source for d in parts if d.known}
    if charge.wall.window_ns and charge.wall.feeds(t_ns):
        feeds[Domain.OTHER] = charge.wall.source
    return feeds


@dataclass(frozen=True, slots=True)
class _Measured:
    """Whether energy is known over the whole interval: of CPUs and memory together, of each GPU."""

    host: bool
    gpus: Mapping[str, bool]


def _measured(deltas: Sequence[Delta]) -> _Measured:
    known = {d.device: d.known and d.device.source not in ESTIMATES for d in deltas}
    gpus = {device.id: ok for device, ok in known.items() if device.domain is Domain.GPU}
    host = [ok for device, ok in known.items() if device.domain is not Domain.GPU]
    return _Measured(bool(known) and all(host), gpus)


@dataclass(frozen=True, slots=True)
class _Entries:
    """Makes the jobs' entries of one interval; ``seen``: GPUs of which idleness is known now."""

    attribution: Attribution
    states: Mapping[str, GpuState]
    seen: Mapping[str, GpuState]
    measured: _Measured
    feeds: Mapping[Domain, str]

    def of(self, who: Attendance, late: Mapping[str, Job]) -> dict[str, JobEntry]:
        """Entries of those present, and of those who left before a silent device spoke again."""
        gone = {
            key: Presence(job, 0, ended=True) for key, job in late.items() if key not in who.present
        }
        present = {**who.present, **gone}
        energy: dict[str, dict[Domain, int]] = {key: {} for key in present}
        on_gpu: dict[str, dict[str, int]] = {key: {} for key in present}
        for (owner, domain, device), energy_uj in self.attribution.rows.items():
            if owner in present:
                energy[owner][domain] = energy[owner].get(domain, 0) + energy_uj
                if domain is Domain.GPU:
                    on_gpu[owner][device] = energy_uj
        return {key: self._entry(p, energy[key], on_gpu[key]) for key, p in present.items()}

    def _entry(
        self, presence: Presence, energy: Mapping[Domain, int], on_gpu: Mapping[str, int]
    ) -> JobEntry:
        held = self._held(presence.job)
        measured_ns = presence.held_ns if self._is_measured(held) else 0
        gpus = self._gpus(held, presence.held_ns, on_gpu)
        return JobEntry(
            presence.job,
            presence.cpu_ns,
            presence.held_ns,
            measured_ns,
            energy,
            gpus,
            presence.ended,
            self._fed(held),
        )

    def _held(self, job: Job) -> dict[str, dict[str, int]]:
        """What a job holds, by whole GPU: UUID of the GPU or of its instances -> slices."""
        by_device: dict[str, dict[str, int]] = {}
        for uuid, slices in job.meta.gpus.items():
            parent = self.states[uuid].parent if uuid in self.states else ""
            by_device.setdefault(parent or uuid, {})[uuid] = slices
        return by_device

    def _fed(self, held: Mapping[str, object]) -> Mapping[Domain, str]:
        """What feeds the components that the job has a part of."""
        if held and all(self.measured.gpus.get(uuid, False) for uuid in held):
            return self.feeds
        return {domain: source for domain, source in self.feeds.items() if domain is not Domain.GPU}

    def _is_measured(self, gpus: Iterable[str]) -> bool:
        """Whether all that a job is charged for was measured: the host, and the GPUs it holds."""
        return self.measured.host and all(self.measured.gpus.get(uuid, False) for uuid in gpus)

    def _gpus(
        self, held: Mapping[str, Mapping[str, int]], held_ns: int, on_gpu: Mapping[str, int]
    ) -> dict[str, GpuUse]:
        """One entry per GPU or instance held; several instances on one GPU share by their slices."""
        entries = {}
        for device, parts in held.items():
            for uuid, energy_uj in split(on_gpu.get(device, 0), parts, rest=min(parts)).items():
                entries[uuid] = _gpu_use(energy_uj, held_ns, self.seen.get(uuid))
        return entries


def _gpu_use(energy_uj: int, held_ns: int, state: GpuState | None) -> GpuUse:
    busy_permille = state.busy_permille if state is not None else None
    if busy_permille is None:
        return GpuUse(energy_uj, held_ns, unknown_ns=held_ns)
    if busy_permille == 0:
        return GpuUse(energy_uj, held_ns, idle_ns=held_ns, idle_uj=energy_uj)
    return GpuUse(energy_uj, held_ns, used_ns=held_ns * busy_permille // 1000)
