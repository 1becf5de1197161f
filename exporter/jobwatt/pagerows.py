"""What the landing page shows, as rows of plain figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# A job is marked where its GPUs stood unused for this long, and for this share of its time.
WASTE_S = 300.0
WASTE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class JobRow:
    """
    One job on this node. None: unknown. Energies in J, power in W, times in s.

    Attributes:
        name: the job's name, as its user typed it.
        gpus: what a person calls the GPUs held: ``0``, ``3``, ``1:2g.20gb``.
        gpu_busy_percent: mean over the GPUs held, now.
        idle_gpu_s, idle_joules: GPU time held and unused so far, and its energy.
        coverage: share of the job's time that was measured, 0 to 1.
        state: ``running`` or ``ended``.
    """

    jobid: str
    user: str
    account: str
    partition: str
    name: str
    gpus: tuple[str, ...]
    running_s: float | None
    watts: float | None
    joules: float
    gpu_busy_percent: float | None = None
    idle_gpu_s: float | None = None
    idle_joules: float = 0.0
    cpus: int = 0
    coverage: float | None = None
    state: str = "running"

    @property
    def ended(self) -> bool:
        """Whether the job is over; its row shows final totals."""
        return self.state == "ended"

    @property
    def wasteful(self) -> bool:
        """Whether its unused GPU time is worth a mark."""
        held = (self.running_s or 0.0) * len(self.gpus)
        return (self.idle_gpu_s or 0.0) >= max(WASTE_S, WASTE_SHARE * held)


@dataclass(frozen=True, slots=True)
class Share:
    """Power now (W, None where unknown) and energy so far (J) of an owner that is no job."""

    watts: float | None
    joules: float


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One kind of sensor: whether it delivers, and in a line what it reads or why it does not."""

    name: str
    up: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class PageView:
    """
    Everything the page shows.

    Attributes:
        wall_s: Unix time of the snapshot.
        watts: power now by component (cpu, dram, gpu, other); a component that is not measured
            is not in it.
        problems: what is not measured and why, one line each.
        feeds: a word on where a component's figures come from, where they are not its own sensors'.
        balance: the wall meter over the components' own sensors, less 1; None without a meter.
    """

    node: str
    version: str
    wall_s: float
    watts: Mapping[str, float]
    jobs: tuple[JobRow, ...]
    system: Share
    unallocated: Share
    sources: tuple[SourceRow, ...] = ()
    problems: tuple[str, ...] = ()
    feeds: Mapping[str, str] = field(default_factory=dict)
    balance: float | None = None
