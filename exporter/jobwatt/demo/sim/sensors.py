"""What a node's sensors say: hardware becomes a Snapshot, in the words of sources/nvml and sources/rapl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...model import (
    NS_PER_S,
    Failure,
    GpuState,
    Kind,
    NodeUsage,
    Reading,
    Sample,
    Snapshot,
)
from . import faults
from .fleet import DRAM_WRAP_UJ, GIB, PACKAGE_WRAP_UJ
from .tenant import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...model import Device, GpuProcess
    from .fleet import Unit
    from .hardware import Hardware

_WATT = 1_000_000
_PACKAGE_MAX_UW, _DRAM_MAX_UW = 350 * _WATT, 200 * _WATT
_DRIVER = Sample("jobwatt_driver_info", ("580.159.03", "13.0"), 1)
_TICK = Sample("jobwatt_samples_total", ("tick",), 1)
_EVENT = Sample("jobwatt_samples_total", ("event",), 1)
_SYSTEM_MEMORY = 18 * GIB
_CONTEXT_MEMORY = 4 << 20  # what the driver takes of a GPU that nobody uses
_REASONS = ("sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake")


class Sensors:
    """Reads one node's hardware. What never changes is made once."""

    def __init__(self, hardware: Hardware, boot_id: str) -> None:
        self._hardware, self._spec, self._boot_id = hardware, hardware.spec, boot_id
        self._seen_s = hardware.times.began_s
        spec = self._spec
        self._labels = [(str(gpu), uuid) for gpu, uuid in enumerate(spec.uuids)]
        self._buses = [f"00000000:{0x17 + 9 * gpu:02X}:00.0" for gpu in range(spec.gpus)]
        self._infos = [[self._info(gpu), *self._constant(gpu)] for gpu in range(spec.gpus)]
        self._healths: dict[int, tuple[tuple[int, ...], list[Sample]]] = {}
        self._units = [[u for u in spec.units if u.gpu == gpu] for gpu in range(spec.gpus)]

    def read(self, *, full: bool) -> Snapshot:
        """The node now; ended jobs are told once."""
        hardware, spec = self._hardware, self._spec
        now_s = hardware.now_s
        t_ns = (now_s - hardware.boot_s) * NS_PER_S
        lost = hardware.failing if hardware.lost else None
        processes = self._processes()
        ended, hardware.ended = hardware.ended, []
        jobs = [(tenant, tenant.job(now_s)) for tenant in hardware.tenants.values()]
        memory = sum(job.usage.mem_bytes or 0 for _, job in jobs)
        return Snapshot(
            boot_id=self._boot_id, wall_s=float(now_s), t_ns=t_ns,
            readings=tuple(self._readings(t_ns, lost)),
            gpus=tuple(state for gpu in range(spec.gpus) for state in self._states(gpu, processes, lost)),
            samples=tuple(self._samples(processes, lost)) if full else (),
            events=(_TICK if full else _EVENT, *self._xids()),
            failures=self._failures(lost),
            jobs=tuple(job for _, job in jobs), ended=tuple(tenant.job(now_s) for tenant in ended),
            roots={ROOT: hardware.slurm_cpu_ns()},
            node=NodeUsage(hardware.cpu_busy_ns(), spec.host.memory, memory + _SYSTEM_MEMORY), full=full,
        )  # fmt: skip

    # --- energy --------------------------------------------------------------------------------

    def _readings(self, t_ns: int, lost: int | None) -> Iterator[Reading]:
        hardware, spec = self._hardware, self._spec
        for device, uj in zip(spec.packages, hardware.package_uj, strict=True):
            yield Reading(device, Kind.ENERGY, uj % PACKAGE_WRAP_UJ, t_ns, PACKAGE_WRAP_UJ, _PACKAGE_MAX_UW)  # fmt: skip
        for device, uj in zip(spec.drams, hardware.dram_uj, strict=True):
            yield Reading(device, Kind.ENERGY, uj % DRAM_WRAP_UJ, t_ns, DRAM_WRAP_UJ, _DRAM_MAX_UW)
        for gpu, device in enumerate(spec.gpu_devices):
            if gpu != lost:
                yield from self._gpu_readings(gpu, device, t_ns)
        if spec.wall is not None:
            yield Reading(spec.wall, Kind.ENERGY, hardware.wall_uj, t_ns)

    def _gpu_readings(self, gpu: int, device: Device, t_ns: int) -> Iterator[Reading]:
        """After it was lost, its counter is of another epoch."""
        hardware, most_uw = self._hardware, 2 * self._spec.model.limit_uw
        epoch = hardware.health.past if gpu == hardware.failing else 0
        yield Reading(device, Kind.ENERGY, hardware.gpu_uj[gpu], t_ns, 0, most_uw, epoch)
        yield Reading(device, Kind.POWER, hardware.gpu_uw[gpu], t_ns, 0, most_uw, epoch)

    # --- GPUs ----------------------------------------------------------------------------------

    def _processes(self) -> dict[str, tuple[GpuProcess, ...]]:
        """By UUID of the unit; units that nobody holds are left out."""
        units = self._spec.units
        return {
            units[index].uuid: tenant.processes[own]
            for tenant in self._hardware.tenants.values()
            for own, index in enumerate(tenant.part.units)
        }

    def _states(
        self, gpu: int, processes: dict[str, tuple[GpuProcess, ...]], lost: int | None
    ) -> Iterator[GpuState]:
        spec, hardware = self._spec, self._hardware
        model, partitioned = spec.model, gpu in spec.mig
        known = gpu != lost
        used, total = self._memory(gpu, processes)
        busy = hardware.busy[gpu] if known and not partitioned else None
        yield GpuState(
            spec.uuids[gpu], gpu, gpu, "", model.name, self._buses[gpu], 7 if partitioned else 1, mig_enabled=partitioned,
            busy_permille=busy, sm_permille=_sm(busy) if model.gpm and busy is not None else None,
            memory_used_bytes=used if known else None, memory_total_bytes=total if known else None,
            processes=processes.get(spec.uuids[gpu], ()) if known and not partitioned else None,
        )  # fmt: skip
        if partitioned:
            for unit in self._units[gpu]:
                yield self._instance(unit, processes.get(unit.uuid, ()))

    def _instance(self, unit: Unit, processes: tuple[GpuProcess, ...]) -> GpuState:
        """What an A100 tells of a MIG instance: memory and processes, no activity."""
        used = sum(process.memory_bytes or 0 for process in processes)
        return GpuState(
            unit.uuid, unit.gpu, unit.gpu, self._spec.uuids[unit.gpu], self._spec.model.name, self._buses[unit.gpu],
            unit.slices, unit.profile, unit.slot, memory_used_bytes=used + _CONTEXT_MEMORY,
            memory_total_bytes=unit.memory, processes=processes,
        )  # fmt: skip

    def _memory(self, gpu: int, processes: dict[str, tuple[GpuProcess, ...]]) -> tuple[int, int]:
        used = sum(
            process.memory_bytes or 0
            for unit in self._units[gpu]
            for process in processes.get(unit.uuid, ())
        )
        return used + _CONTEXT_MEMORY, self._spec.model.memory

    # --- figures that are shown ----------------------------------------------------------------

    def _info(self, gpu: int) -> Sample:
        facts = (*self._labels[gpu], self._spec.model.name, self._buses[gpu], str(gpu), "", "")
        return Sample("jobwatt_gpu_info", facts, 1)

    def _constant(self, gpu: int) -> Iterator[Sample]:
        labels, model = self._labels[gpu], self._spec.model
        yield Sample("jobwatt_gpu_power_limit_watts", labels, model.limit_uw / _WATT)
        yield Sample("jobwatt_gpu_memory_total_bytes", labels, model.memory)
        for unit in self._spec.units:
            if unit.gpu == gpu and unit.slot is not None:
                own = (str(gpu), unit.uuid)
                facts = (*own, model.name, self._buses[gpu], str(gpu), unit.profile, labels[1])
                yield Sample("jobwatt_gpu_info", facts, 1)
                yield Sample("jobwatt_gpu_memory_total_bytes", own, unit.memory)

    def _samples(
        self, processes: dict[str, tuple[GpuProcess, ...]], lost: int | None
    ) -> list[Sample]:
        samples = [_DRIVER]
        for gpu in range(self._spec.gpus):
            if gpu == lost:
                samples += [self._infos[gpu][0], Sample("jobwatt_gpu_up", self._labels[gpu], 0)]
                continue
            samples += self._infos[gpu]
            samples += self._figures(gpu, processes)
            samples += self._health(gpu)
            if gpu in self._spec.mig:
                samples += self._instance_samples(gpu, processes)
            else:
                samples += self._activity(gpu, processes)
        if self._spec.wall is not None:
            wall = (self._spec.wall.source, self._spec.wall.name)
            samples.append(Sample("jobwatt_wall_power_watts", wall, self._hardware.wall_uw / _WATT))
        return samples

    def _figures(
        self, gpu: int, processes: dict[str, tuple[GpuProcess, ...]]
    ) -> tuple[Sample, ...]:
        labels, model, power_uw = self._labels[gpu], self._spec.model, self._hardware.gpu_uw[gpu]
        load, hot = power_uw * 1000 // model.limit_uw, self._hot(gpu)
        working = load > 200 or self._hardware.busy[gpu]
        clock = model.sm_mhz - max(load - 850, 0) if working else model.idle_mhz
        return (
            Sample("jobwatt_gpu_up", labels, 1),
            Sample("jobwatt_gpu_power_watts", labels, power_uw / _WATT),
            Sample("jobwatt_gpu_memory_used_bytes", labels, self._memory(gpu, processes)[0]),
            Sample("jobwatt_gpu_temperature_celsius", labels, 29 + load * 43 // 1000 + 22 * hot),
            Sample("jobwatt_gpu_sm_clock_hertz", labels, clock * (7 if hot else 10) * 100_000),
            Sample("jobwatt_gpu_memory_clock_hertz", labels, model.memory_mhz * 1_000_000),
        )

    def _activity(self, gpu: int, processes: dict[str, tuple[GpuProcess, ...]]) -> list[Sample]:
        labels, busy = self._labels[gpu], self._hardware.busy[gpu]
        held = processes.get(self._spec.uuids[gpu], ())
        samples = [
            Sample("jobwatt_gpu_utilization_ratio", labels, busy / 1000),
            Sample("jobwatt_gpu_memory_busy_ratio", labels, busy * 45 // 1000 / 100),
            Sample("jobwatt_gpu_processes", labels, len(held)),
        ]
        if self._spec.model.gpm:
            sm = _sm(busy)
            samples += [
                Sample("jobwatt_gpu_sm_active_ratio", labels, sm / 1000),
                Sample("jobwatt_gpu_sm_occupancy_ratio", labels, sm * 55 // 100 / 1000),
                Sample("jobwatt_gpu_tensor_active_ratio", labels, sm * 48 // 100 / 1000),
                Sample("jobwatt_gpu_dram_active_ratio", labels, busy * 41 // 100 / 1000),
            ]
        return samples

    def _instance_samples(
        self, gpu: int, processes: dict[str, tuple[GpuProcess, ...]]
    ) -> Iterator[Sample]:
        for unit in self._units[gpu]:
            labels, held = (str(gpu), unit.uuid), processes.get(unit.uuid, ())
            used = sum(process.memory_bytes or 0 for process in held) + _CONTEXT_MEMORY
            yield Sample("jobwatt_gpu_memory_used_bytes", labels, used)
            yield Sample("jobwatt_gpu_processes", labels, len(held))

    # --- health --------------------------------------------------------------------------------

    def _hot(self, gpu: int) -> bool:
        return gpu == self._hardware.failing and self._hardware.busy[gpu] > 0

    def _health(self, gpu: int) -> list[Sample]:
        """Mostly the same as the last time: then made once."""
        hardware = self._hardware
        capped = hardware.gpu_uw[gpu] > self._spec.model.limit_uw * 97 // 100
        seconds = (hardware.capped_s[gpu], hardware.hot_s if gpu == hardware.failing else 0)
        facts = (*seconds, capped, self._hot(gpu), *self._errors(gpu))
        known = self._healths.get(gpu)
        if known is None or known[0] != facts:
            known = self._healths[gpu] = (facts, list(self._health_samples(gpu, *facts)))
        return known[1]

    def _health_samples(
        self,
        gpu: int,
        capped_s: int,
        hot_s: int,
        capped: int,
        hot: int,
        corrected: int,
        uncorrected: int,
    ) -> Iterator[Sample]:
        labels = self._labels[gpu]
        seconds, now = (
            {"sw_power_cap": capped_s, "sw_thermal": hot_s},
            {"sw_power_cap": capped, "sw_thermal": hot},
        )
        for reason in _REASONS:
            own = (*labels, reason)
            yield Sample("jobwatt_gpu_throttle_seconds_total", own, seconds.get(reason, 0))
            yield Sample("jobwatt_gpu_throttled", own, int(now.get(reason, 0)))
        for kind, count in (("corrected", corrected), ("uncorrected", uncorrected)):
            yield Sample("jobwatt_gpu_ecc_errors_total", (*labels, kind), count)
        for cause, rows in (("corrected", 0), ("uncorrected", uncorrected)):
            yield Sample("jobwatt_gpu_remapped_rows", (*labels, cause), rows)

    def _errors(self, gpu: int) -> tuple[int, int]:
        hardware = self._hardware
        if gpu != hardware.failing:
            return 0, 0
        bad = hardware.health.bad_rows(hardware.now_s)
        return bad * 17 + (hardware.now_s - hardware.times.began_s) // 5400, bad

    def _xids(self) -> list[Sample]:
        """The driver's messages since the last look."""
        hardware = self._hardware
        if hardware.failing is None:
            return []
        times = hardware.times
        coming = faults.faults(times.began_s, times.live_s)
        found = faults.xids(coming, self._seen_s, hardware.now_s)
        self._seen_s = hardware.now_s
        labels = self._labels[hardware.failing]
        return [Sample("jobwatt_gpu_xid_events_total", (*labels, str(xid)), 1) for xid in found]

    def _failures(self, lost: int | None) -> tuple[Failure, ...]:
        if lost is None:
            return ()
        uuid = self._spec.uuids[lost]
        message = f"GPU {lost} ({uuid}): the GPU is lost: it has fallen off the bus or is otherwise inaccessible"
        return (Failure("nvml", "gpu_is_lost", message, uuid),)


def _sm(busy: int) -> int:
    """SM activity of a GPU whose kernels run for so much of the time: permille."""
    return busy * 62 // 100
