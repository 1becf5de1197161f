"""
MIG: the instances of a partitioned GPU.

NVML tells memory and processes through an instance's own handle; energy, power and utilisation
only of the whole GPU; activity through GPM (Hopper and later), by GPU instance. A handle is stale
once the GPU was repartitioned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobwatt.model import GpuState, Sample
from jobwatt.sources.nvml_calls import INVALID_ARGUMENT, NOT_FOUND, Calls
from jobwatt.sources.nvml_gpm import BUSY, SAMPLES, SM, Gpm, permille
from jobwatt.sources.nvml_processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobwatt.model import Failure
    from jobwatt.sources.nvml_facts import Facts

MEMORY_CALL = "nvmlDeviceGetMemoryInfo"
_EIGHTHS = 8  # of the GPU's memory: the unit in which instances get theirs


@dataclass(frozen=True, slots=True)
class Slot:
    """An instance as it is found: its index within the parent, its handle, its UUID."""

    index: int
    handle: Any
    uuid: str


@dataclass(frozen=True, slots=True)
class Found:
    """How a GPU is partitioned now. ``most`` is how many instances it can have: its slices."""

    enabled: bool
    most: int = 0
    slots: tuple[Slot, ...] = ()

    def same(self, other: Found) -> bool:
        """Whether it is the same partition: handles found anew may differ."""
        mine = [(slot.index, slot.uuid) for slot in self.slots]
        return self.enabled == other.enabled and mine == [(s.index, s.uuid) for s in other.slots]


def find_instances(calls: Calls, parent: Any) -> Found | None:
    """The partition there is now; None where that cannot be told this time."""
    mode = calls.ask("nvmlDeviceGetMigMode", parent)
    if mode is None:
        return Found(enabled=False) if "nvmlDeviceGetMigMode" in calls.unsupported else None
    if not mode[0]:
        return Found(enabled=False)
    most = calls.ask("nvmlDeviceGetMaxMigDeviceCount", parent)
    if most is None:
        return None
    found = (_find(calls, parent, index) for index in range(most))
    return Found(enabled=True, most=most, slots=tuple(slot for slot in found if slot is not None))


def _find(calls: Calls, parent: Any, index: int) -> Slot | None:
    name = "nvmlDeviceGetMigDeviceHandleByIndex"  # an empty slot is NOT_FOUND
    handle = calls.ask(name, parent, index, absent=(NOT_FOUND, INVALID_ARGUMENT))
    uuid = calls.text("nvmlDeviceGetUUID", handle) if handle is not None else None
    return Slot(index, handle, uuid) if uuid else None


class Partition:
    """
    The instances of one GPU, found anew when it was repartitioned.

    ``suspect`` is True after a failure of an instance: look again soon.
    """

    def __init__(self, api: Any, process_every_ns: int, clock: Callable[[], int]) -> None:
        self._api, self._process_every_ns, self._clock = api, process_every_ns, clock
        self._found: Found | None = None
        self.suspect = False
        self.instances: list[Instance] = []

    @property
    def enabled(self) -> bool:
        """Whether MIG is on: the GPU is then held through its instances."""
        return self._found is not None and self._found.enabled

    @property
    def slices(self) -> int:
        """Compute slices of the whole GPU: nvmlDeviceGetMaxMigDeviceCount (7, A30: 4) with MIG on."""
        return self._found.most if self._found is not None and self._found.enabled else 1

    def watch(self, calls: Calls, facts: Facts) -> bool:
        """Look at the partition; True where MIG was turned on or off since the last look."""
        self.suspect = False
        found, before = find_instances(calls, facts.handle), self._found
        if found is None:
            return False
        self._found = found
        if before is not None and found.same(before):
            for instance, slot in zip(self.instances, found.slots, strict=True):
                instance.renew(slot)
            return False
        self.close()
        every = self._process_every_ns
        self.instances = [
            Instance(self._api, facts, slot, every, self._clock) for slot in found.slots
        ]
        return before is not None and before.enabled != found.enabled

    def read(self, now_ns: int) -> list[Sample]:
        """The instances' samples."""
        return [sample for instance in self.instances for sample in instance.read(now_ns)]

    def states(self, *, known: bool = True) -> list[GpuState]:
        """The instances now, in the order of their slots."""
        return [instance.state(known=known) for instance in self.instances]

    def take_failures(self) -> list[Failure]:
        """The instances' failures since the last time; with any, their handles may be stale."""
        taken = [
            failure for instance in self.instances for failure in instance.calls.take_failures()
        ]
        self.suspect = self.suspect or bool(taken)
        return taken

    def close(self) -> None:
        """Give the GPM samples back."""
        for instance in self.instances:
            instance.close()


class Instance:
    """One MIG instance: read with its parent, failing alone."""

    def __init__(
        self, api: Any, parent: Facts, slot: Slot, process_every_ns: int, clock: Callable[[], int]
    ) -> None:
        self.slot, self._parent = slot, parent
        label = f"MIG instance {slot.index} of GPU {parent.index} ({slot.uuid})"
        self.calls = Calls(api, slot.uuid, label)
        self._processes = Processes(self.calls, slot.handle, process_every_ns, shares=False)
        self._memory: tuple[int, int] | None = None
        gi = self.calls.ask("nvmlDeviceGetGpuInstanceId", slot.handle)
        self._gpm = None if gi is None else Gpm(api, self.calls, parent.handle, clock, gi)
        self.slices, self.profile = self._shape()
        self._labels = (str(parent.index), slot.uuid)
        values = (
            *self._labels,
            parent.model,
            parent.pci_bus_id,
            parent.minor_label,
            self.profile,
            parent.uuid,
        )
        self._info = Sample("jobwatt_gpu_info", values, 1)

    def renew(self, slot: Slot) -> None:
        """Go on with a handle found anew."""
        self.slot = slot
        self._processes.handle = slot.handle

    def _shape(self) -> tuple[int, str]:
        attributes = self.calls.ask("nvmlDeviceGetAttributes_v2", self.slot.handle)
        name = self.calls.text("nvmlDeviceGetName", self.slot.handle) or ""
        _, found, profile = name.rpartition(" MIG ")
        if attributes is None:
            return 1, profile if found else ""
        gi, ci = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
        if not found:
            profile = profile_name(gi, ci, attributes.memorySizeMB, self._parent.memory_bytes)
        return ci, profile

    def read(self, now_ns: int) -> list[Sample]:
        """Ask the instance; its samples. ``state`` tells the rest."""
        memory = self.calls.ask(MEMORY_CALL, self.slot.handle)
        self._memory = None if memory is None else (memory.used, memory.total)
        ratios = self._gpm.read() if self._gpm else {}
        processes = self._processes.read(now_ns)
        samples = [self._info]
        samples += [
            Sample(name, self._labels, ratios[key]) for key, name in SAMPLES if key in ratios
        ]
        if self._memory is not None:
            used, total = self._memory
            samples.append(Sample("jobwatt_gpu_memory_used_bytes", self._labels, used))
            samples.append(Sample("jobwatt_gpu_memory_total_bytes", self._labels, total))
        if processes is not None:
            samples.append(Sample("jobwatt_gpu_processes", self._labels, len(processes)))
        return samples

    def state(self, *, known: bool = True) -> GpuState:
        """The instance now; only what it is, not what it does, where ``known`` is False."""
        ratios = self._gpm.ratios if known and self._gpm else {}
        used, total = self._memory if known and self._memory else (None, None)
        return GpuState(
            uuid=self.slot.uuid, index=self._parent.index, minor=self._parent.minor, parent=self._parent.uuid,
            model=self._parent.model, pci_bus_id=self._parent.pci_bus_id, slices=self.slices,
            mig_profile=self.profile, mig_device=self.slot.index, busy_permille=permille(ratios.get(BUSY)),
            sm_permille=permille(ratios.get(SM)), memory_used_bytes=used, memory_total_bytes=total,
            processes=self._processes.last if known else None,
        )  # fmt: skip

    def close(self) -> None:
        """Give the GPM samples back."""
        if self._gpm:
            self._gpm.close()


def profile_name(gi_slices: int, ci_slices: int, memory_mb: int, gpu_bytes: int | None) -> str:
    """
    ``2g.20gb``, or ``1c.2g.20gb`` for a part of a GPU instance.

    An instance's memory is some eighths of the GPU's less what the driver keeps, so the GPU's
    whole GiB times those eighths give the figure in the name (1g.5gb: 4864 MiB of 40 GiB).
    """
    gib = math.ceil(memory_mb / 1024)
    if gpu_bytes:
        eighths = math.ceil(memory_mb * 2**20 * _EIGHTHS / gpu_bytes)
        gib = round(math.ceil(gpu_bytes / 2**30) * eighths / _EIGHTHS)
    part = "" if ci_slices == gi_slices else f"{ci_slices}c."
    return f"{part}{gi_slices}g.{gib}gb"
