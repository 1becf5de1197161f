"""What a node has left to hand out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .standing import PINNED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .fleet import NodeSpec
    from .requests import Request


@dataclass(frozen=True, slots=True)
class Part:
    """What a job has of one node. ``rank``: which of its nodes this is."""

    node: str
    rank: int
    units: tuple[int, ...]
    cpus: frozenset[int]


@dataclass(slots=True)
class Free:
    """Units, CPUs and memory that nobody holds."""

    spec: NodeSpec
    units: list[int]
    cpus: list[int]
    memory: int

    @classmethod
    def of(cls, spec: NodeSpec) -> Free:
        """All of it, but what is kept for standing jobs."""
        pinned = PINNED.get(spec.name, frozenset())
        kept = {cpu for unit in pinned for cpu in _own_cpus(spec, unit)}
        return cls(
            spec,
            [unit for unit in range(len(spec.units)) if unit not in pinned],
            [cpu for cpu in range(spec.host.cpus) if cpu not in kept],
            spec.host.memory * 15 // 16 - spec.host.memory // spec.gpus * len(pinned),
        )

    def fitting(self, request: Request) -> list[int] | None:
        """Units that would do; None where the node is too full."""
        if len(self.cpus) < request.cpus or self.memory < request.memory:
            return None
        units = [unit for unit in self.units if self.spec.units[unit].profile == request.profile]
        return units[: request.gpus] if len(units) >= request.gpus else None

    def take(self, request: Request, units: Sequence[int], rank: int) -> Part:
        """Hand them out."""
        cpus = frozenset(self.cpus[: request.cpus])
        del self.cpus[: request.cpus]
        self.units = [unit for unit in self.units if unit not in units]
        self.memory -= request.memory
        return Part(self.spec.name, rank, tuple(units), cpus)

    def give_back(self, part: Part, request: Request) -> None:
        """Take them back."""
        self.units = sorted((*self.units, *part.units))
        self.cpus = sorted((*self.cpus, *part.cpus))
        self.memory += request.memory


def pinned_part(spec: NodeSpec, units: tuple[int, ...], cpus: int) -> Part:
    """What is kept for a standing job: its units and their share of the CPUs."""
    own = [cpu for unit in units for cpu in _own_cpus(spec, unit)]
    return Part(spec.name, 0, units, frozenset(own[:cpus]))


def _own_cpus(spec: NodeSpec, unit: int) -> range:
    return range(spec.cpus_per_gpu * unit, spec.cpus_per_gpu * (unit + 1))
