"""
One node's counters: power follows from what its tenants do, energy from power.

Power is constant within a slot of 60 s as long as nobody comes or goes, and depends on the slot and
the tenants only: energy is exactly additive, however often somebody looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import faults
from .behaviour import BLOCK_S
from .draws import hashed, noise
from .fleet import DRAM_WRAP_UJ, PACKAGE_WRAP_UJ
from .tenant import Tenant
from .truth import Truth

if TYPE_CHECKING:
    from collections import deque

    from .fleet import NodeSpec
    from .scheduler import Event, Run

SLOT_S = 60
_SLOTS_PER_BLOCK = BLOCK_S // SLOT_S
_MASK = 4095  # of the noise table
DAEMONS_PERMILLE = 3  # of all CPUs, on each socket: as much as 6 of its own
# A GPU with a context on it clocks higher than one that nobody holds.
_CONTEXT_UW = 14_000_000
# What all instances of a partitioned GPU draw above idle if all its slices are held, of its limit.
# Instances draw by their slices, held or not used alike: nobody can measure them apart.
_MIG_PERMILLE = 420
# What the power supplies lose.
_SUPPLY_PERCENT = 108
_HOT_PERMILLE = 780  # what the failing GPU is held down to


@dataclass(frozen=True, slots=True)
class Times:
    """Unix times: the nodes' boot, the cluster's beginning, and when somebody looks at it live."""

    boot_s: int
    began_s: int
    live_s: int


class Hardware:
    """
    Counters in uJ and ns, powers in uW. Advanced lazily: ``advance`` takes from the scheduler's log.

    Attributes:
        now_s: Unix time up to which everything is counted.
        tenants: jobs that are here, by job id.
        ended: tenants that left since the list was last taken.
        gpu_uw, package_uw, dram_uw, wall_uw: in the slot that ends now.
        busy: of each whole GPU, permille, in the slot that ends now.
        holder: tenant of each whole GPU and which of its units that is.
    """

    def __init__(self, spec: NodeSpec, seed: int, times: Times) -> None:
        began_s, boot_s = times.began_s, times.boot_s
        self.times = times
        self.spec, self.now_s, self.boot_s = spec, began_s, boot_s
        self.tenants: dict[int, Tenant] = {}
        self.ended: list[Tenant] = []
        gpus, drams = range(spec.gpus), range(len(spec.drams))
        self.gpu_uj = [hashed(seed, uuid) * 1000 for uuid in spec.uuids]
        self.package_uj = [hashed(seed, spec.name, zone) * 61 % PACKAGE_WRAP_UJ for zone in (0, 1)]
        self.dram_uj = [hashed(seed, spec.name, "dram", zone) * 15 % DRAM_WRAP_UJ for zone in drams]
        self.wall_uj = 0
        self.gpu_uw, self.package_uw, self.dram_uw = [0 for _ in gpus], [0, 0], [0 for _ in drams]
        self.wall_uw = 0
        self.busy = [0 for _ in gpus]
        self.capped_s = [0 for _ in gpus]  # held down by the power limit
        self.hot_s = 0  # the failing GPU, held down by heat
        self.holder: list[tuple[Tenant, int] | None] = [None for _ in gpus]
        self.cpu_base_ns = [hashed(seed, spec.name, cpu) * 1000 for cpu in range(spec.host.cpus)]
        self.daemons_ns = 0
        self.ended_cpu_ns = 10**14  # of Slurm's cgroup: jobs that are gone
        self.failing = faults.GPU if spec.name == faults.NODE else None
        self.health = faults.health(began_s, times.live_s)
        self._noise = noise(seed)
        self._salts = [hashed(seed, uuid) for uuid in spec.uuids]
        self._salt = hashed(seed, spec.name)
        self._block = -1
        self._lost = False
        self._slices = [0 for _ in gpus]  # held, of partitioned GPUs
        self._past = Truth()
        self._energy = {"cpu": 0, "dram": 0, "gpu": 0, "wall": 0}

    # --- time --------------------------------------------------------------------------------------

    def advance(self, to_s: int, log: deque[Event]) -> None:
        """Count up to ``to_s``, taking what happened until then from the log."""
        while log and log[0].at_s <= to_s:
            event = log.popleft()
            self._count(event.at_s)
            self._obey(event)
        self._count(to_s)

    def seat(self, run: Run) -> None:
        """Somebody who was here before the beginning."""
        for part in run.parts:
            if part.node == self.spec.name:
                self._come(Tenant.of(run, part, self.spec, self.boot_s))

    def warm_up(self) -> None:
        """Show the powers of the slot that ends now; nothing is counted."""
        self._set_powers(self.now_s // SLOT_S)

    def _obey(self, event: Event) -> None:
        if event.run is None or event.part is None:
            return
        if event.begins:
            self._come(Tenant.of(event.run, event.part, self.spec, self.boot_s))
        else:
            self._go(self.tenants.pop(event.run.jobid))

    def _come(self, tenant: Tenant) -> None:
        self.tenants[tenant.run.jobid] = tenant
        for own, index in enumerate(tenant.part.units):
            unit = self.spec.units[index]
            if unit.slot is None:
                self.holder[unit.gpu] = (tenant, own)
            else:
                self._slices[unit.gpu] += unit.slices
        tenant.replan(self.now_s // BLOCK_S)

    def _go(self, tenant: Tenant) -> None:
        for index in tenant.part.units:
            unit = self.spec.units[index]
            self.holder[unit.gpu] = None
            self._slices[unit.gpu] -= unit.slices if unit.slot is not None else 0
        for cpu in tenant.part.cpus:
            self.cpu_base_ns[cpu] += tenant.cpu_ns
        self.ended_cpu_ns += tenant.cpu_ns * len(tenant.part.cpus)
        tenant.end(self.boot_s)
        self.ended.append(tenant)
        request, run = tenant.run.request, tenant.run
        user, lab = request.user.name, request.user.lab
        self._past.ended_gpu_uj[lab, run.state] += self._past.charge(
            user, lab, run.jobid, tenant.holds
        )
        self._past.ended[lab, run.state] += tenant.part.rank == 0

    # --- counting ----------------------------------------------------------------------------------

    def _count(self, to_s: int) -> None:
        """Count up to ``to_s``, slot by slot, with the tenants as they are."""
        while self.now_s < to_s:
            slot = self.now_s // SLOT_S
            until_s = min((slot + 1) * SLOT_S, to_s)
            self._set_powers(slot)
            self._add(until_s - self.now_s)
            self.now_s = until_s

    def _set_powers(self, slot: int) -> None:
        block = slot // _SLOTS_PER_BLOCK
        if block != self._block:
            self._block = block
            for tenant in self.tenants.values():
                tenant.replan(block)
        self._set_host(slot)
        for gpu in range(self.spec.gpus):
            self._set_gpu(gpu, self._noise[(slot * 7919 + self._salts[gpu]) & _MASK])
        if self.failing is not None:
            self._set_failing(self.failing)
        if self.spec.host.wall_meter:
            parts = sum(self.gpu_uw) + sum(self.package_uw) + sum(self.dram_uw)
            flutter = 1000 + self._noise[(slot * 7919 + self._salt) & _MASK] // 50
            self.wall_uw = (
                parts * _SUPPLY_PERCENT // 100 + self.spec.host.board_uw * flutter // 1000
            )

    def _set_host(self, slot: int) -> None:
        busy = [self.spec.host.cpus * DAEMONS_PERMILLE] * 2  # in thousandths of a CPU
        for tenant in self.tenants.values():
            flutter = 1000 + self._noise[(slot * 6007 + tenant.run.jobid) & _MASK] // 40
            rate = min(tenant.cpu_permille * flutter // 1000, 985)
            tenant.rate_ns = rate * 1_000_000
            busy[0] += rate * tenant.sockets[0]
            busy[1] += rate * tenant.sockets[1]
        host = self.spec.host
        for socket in (0, 1):
            self.package_uw[socket] = host.socket_idle_uw + host.per_cpu_uw * busy[socket] // 1000
        for socket in range(len(self.dram_uw)):
            self.dram_uw[socket] = host.dram_idle_uw + 300 * busy[socket]

    def _set_gpu(self, gpu: int, flutter: int) -> None:
        """``flutter``: -1000 ... 1000. The energy counter counts mJ, so powers are whole mW."""
        model, held = self.spec.model, self.holder[gpu]
        idle_uw, span_uw = model.idle_uw, model.limit_uw - model.idle_uw
        use = 0
        if held is None:
            slices = self._slices[gpu]
            power_uw = idle_uw + span_uw * slices * _MIG_PERMILLE // 7000
        else:
            tenant, own = held
            use = tenant.use[own]
            power_uw = idle_uw + (_CONTEXT_UW if tenant.processes[own] else 0)
            if use:
                use = min(max(use + flutter // 30, 10), 1000) // 10 * 10
                peak_uw = max(
                    model.limit_uw * tenant.run.request.power_permille // 1000 - power_uw, 0
                )
                power_uw += peak_uw * use // 1000
        power_uw += power_uw * flutter // 40_000
        self.busy[gpu] = use
        self.gpu_uw[gpu] = min(power_uw, model.limit_uw * 101 // 100) // 1000 * 1000

    def _set_failing(self, gpu: int) -> None:
        """Held down by heat while it works; without power, or without anybody to tell, while lost."""
        self._lost = self.health.lost(self.now_s + 1)
        if self._lost:
            self.gpu_uw[gpu] = self.busy[gpu] = 0
        elif self.busy[gpu]:
            self.gpu_uw[gpu] = self.gpu_uw[gpu] * _HOT_PERMILLE // 1_000_000 * 1000

    def _add(self, dt_s: int) -> None:
        for gpu, power_uw in enumerate(self.gpu_uw):
            energy_uj = power_uw * dt_s
            self.gpu_uj[gpu] += energy_uj
            held = self.holder[gpu]
            if held is not None:
                hold = held[0].holds[held[1]]
                idle = not self.busy[gpu] and not (self._lost and gpu == self.failing)
                hold.energy_uj += energy_uj
                hold.held_s += dt_s
                if idle:
                    hold.idle_uj += energy_uj
                    hold.idle_s += dt_s
            if power_uw > self.spec.model.limit_uw * 97 // 100:
                self.capped_s[gpu] += dt_s
        if self.spec.mig:
            self._add_instances(dt_s)
        if self.failing is not None and self.busy[self.failing]:
            self.hot_s += dt_s
        self._add_host(dt_s)

    def _add_host(self, dt_s: int) -> None:
        for socket, power_uw in enumerate(self.package_uw):
            self.package_uj[socket] += power_uw * dt_s
        for socket, power_uw in enumerate(self.dram_uw):
            self.dram_uj[socket] += power_uw * dt_s
        self.wall_uj += self.wall_uw * dt_s
        for tenant in self.tenants.values():
            tenant.cpu_ns += tenant.rate_ns * dt_s
        self.daemons_ns += 2 * DAEMONS_PERMILLE * 1_000_000 * dt_s
        energy = self._energy
        energy["cpu"] += sum(self.package_uw) * dt_s
        energy["dram"] += sum(self.dram_uw) * dt_s
        energy["gpu"] += sum(self.gpu_uw) * dt_s
        energy["wall"] += self.wall_uw * dt_s

    def _add_instances(self, dt_s: int) -> None:
        """An instance has its slices' part of what its GPU draws at rest, and of the rest."""
        idle_uw = self.spec.model.idle_uw
        for tenant in self.tenants.values():
            for own, index in enumerate(tenant.part.units):
                unit = self.spec.units[index]
                if unit.slot is None:
                    continue
                dynamic_uw = max(self.gpu_uw[unit.gpu] - idle_uw, 0)
                share_uw = (
                    idle_uw * unit.slices // 7 + dynamic_uw * unit.slices // self._slices[unit.gpu]
                )
                tenant.holds[own].energy_uj += share_uw * dt_s
                tenant.holds[own].held_s += dt_s

    # --- what is known -----------------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """Whether the failing GPU does not answer now."""
        return self.failing is not None and self.health.lost(self.now_s)

    def cpu_busy_ns(self) -> dict[int, int]:
        """Busy time of each CPU so far."""
        busy = [base + self.daemons_ns for base in self.cpu_base_ns]
        for tenant in self.tenants.values():
            for cpu in tenant.part.cpus:
                busy[cpu] += tenant.cpu_ns
        return dict(enumerate(busy))

    def slurm_cpu_ns(self) -> int:
        """CPU time of all jobs so far, ended ones included."""
        return self.ended_cpu_ns + sum(t.cpu_ns * len(t.part.cpus) for t in self.tenants.values())

    def truth(self) -> Truth:
        """Everything up to now."""
        truth = Truth()
        truth.add(self._past)
        for tenant in self.tenants.values():
            user = tenant.run.request.user
            truth.charge(user.name, user.lab, tenant.run.jobid, tenant.holds)
        for component, energy_uj in self._energy.items():
            truth.energy_uj[self.spec.name, component] = energy_uj
        return truth
