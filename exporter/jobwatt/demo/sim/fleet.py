"""
Twelve nodes with 72 GPUs: what each is made of. Powers are of the data sheets and of ordinary servers.

A *unit* is what Slurm hands out: a whole GPU, or an instance of a partitioned one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ...model import Device, Domain
from .draws import hashed

GIB = 1 << 30
PACKAGE_WRAP_UJ, DRAM_WRAP_UJ = 262_143_328_850, 65_712_999_613
# 3 + 2 + 2 of 7 compute slices: (profile, slices, eighths of the memory)
_MIG = (("3g.40gb", 3, 4), ("2g.20gb", 2, 2), ("2g.20gb", 2, 2))


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A GPU model; powers in uW, clocks in MHz. ``gpm``: whether it tells SM activity (Hopper)."""

    name: str
    memory: int
    idle_uw: int
    limit_uw: int
    sm_mhz: int
    idle_mhz: int
    memory_mhz: int
    gpm: bool = False


A100 = GpuModel("NVIDIA A100-SXM4-80GB", 80 * GIB, 60_000_000, 400_000_000, 1410, 210, 1593)
H100 = GpuModel("NVIDIA H100 80GB HBM3", 80 * GIB, 70_000_000, 700_000_000, 1980, 345, 2619, gpm=True)  # fmt: skip
V100 = GpuModel("Tesla V100-SXM2-32GB", 32 * GIB, 40_000_000, 300_000_000, 1530, 135, 877)


@dataclass(frozen=True, slots=True)
class Host:
    """CPUs, memory and the rest of a server; powers in uW, per socket or of the whole node."""

    cpus: int
    memory: int
    socket_idle_uw: int
    per_cpu_uw: int
    dram_idle_uw: int  # 0: no dram zone
    board_uw: int
    wall_meter: bool = True


@dataclass(frozen=True, slots=True)
class Unit:
    """A whole GPU (``slot`` None) or a MIG instance; ``memory`` in bytes."""

    gpu: int
    uuid: str
    slices: int
    memory: int
    profile: str = ""
    slot: int | None = None


@dataclass(frozen=True)
class NodeSpec:
    """One node. ``mig``: indexes of its partitioned GPUs."""

    name: str
    partition: str
    gpus: int
    model: GpuModel
    host: Host
    mig: tuple[int, ...] = ()

    @property
    def cpus_per_gpu(self) -> int:
        """The node's CPUs shared out by GPUs."""
        return self.host.cpus // self.gpus

    @cached_property
    def uuids(self) -> tuple[str, ...]:
        """Of the whole GPUs."""
        return tuple(f"GPU-{_uuid(self.name, gpu)}" for gpu in range(self.gpus))

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What can be handed out, by GPU and instance."""
        return tuple(unit for gpu in range(self.gpus) for unit in self._units(gpu))

    def _units(self, gpu: int) -> list[Unit]:
        if gpu not in self.mig:
            return [Unit(gpu, self.uuids[gpu], 1, self.model.memory)]
        return [
            Unit(gpu, f"MIG-{_uuid(self.name, gpu, slot)}", slices, self.model.memory * eighths // 8, profile, slot)
            for slot, (profile, slices, eighths) in enumerate(_MIG)
        ]  # fmt: skip

    @cached_property
    def packages(self) -> tuple[Device, ...]:
        """Two sockets; the first has the lower half of the CPUs."""
        half = self.host.cpus // 2
        return tuple(
            Device(Domain.CPU, f"intel-rapl:{socket}", "rapl", name=f"package-{socket}",
                   cpus=frozenset(range(half * socket, half * (socket + 1))))
            for socket in (0, 1)
        )  # fmt: skip

    @cached_property
    def drams(self) -> tuple[Device, ...]:
        """Their memory, where the platform tells it apart."""
        if not self.host.dram_idle_uw:
            return ()
        return tuple(
            Device(Domain.DRAM, f"{package.id}:0", "rapl", parent=package.id, name="dram")
            for package in self.packages
        )

    @cached_property
    def gpu_devices(self) -> tuple[Device, ...]:
        """The whole GPUs: energy is theirs, whoever holds which instance."""
        return tuple(
            Device(Domain.GPU, uuid, "nvml", name=str(gpu)) for gpu, uuid in enumerate(self.uuids)
        )

    @cached_property
    def wall(self) -> Device | None:
        """The meter before the power supplies, on most nodes."""
        if not self.host.wall_meter:
            return None
        return Device(Domain.NODE, f"wattmeter:{self.name}", "wattmeter", name=self.name)


def _uuid(*about: object) -> str:
    a, b, c, d = (hashed(*about, part) for part in range(4))
    return f"{a:08x}-{b >> 16:04x}-{b & 0xFFFF:04x}-{c >> 16:04x}-{c & 0xFFFF:04x}{d:08x}"


_EPYC = Host(64, 1024 * GIB, 75_000_000, 3_800_000, 0, 230_000_000)
_EPYC_4 = Host(64, 512 * GIB, 75_000_000, 3_800_000, 0, 160_000_000)
_SPR = Host(64, 512 * GIB, 105_000_000, 6_500_000, 9_000_000, 240_000_000)
_SKYLAKE = Host(40, 384 * GIB, 45_000_000, 4_500_000, 7_000_000, 190_000_000, wall_meter=False)

FLEET = {
    spec.name: spec
    for spec in (
        *(NodeSpec(f"gpu{n:02d}", "A100", 8, A100, _EPYC) for n in range(1, 5)),
        *(NodeSpec(f"gpu{n:02d}", "H100", 4, H100, _SPR) for n in range(5, 9)),
        *(NodeSpec(f"gpu{n:02d}", "V100", 8, V100, _SKYLAKE) for n in range(9, 11)),
        NodeSpec("gpu11", "interactive", 4, A100, _EPYC_4, mig=(2, 3)),
        NodeSpec("gpu12", "A100", 4, A100, _EPYC_4),
    )
}
NODES = tuple(FLEET)
