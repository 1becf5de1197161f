"""What `compare` sets beside each other: a job's energy as jobwatt, and as another tool, has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

J_PER_KWH = 3.6e6
PARTS = ("cpu", "dram", "gpu", "other")

Span = tuple[float, float]  # Unix seconds


class CompareError(ValueError):
    """A tool's figures cannot be had; one line says which, why, and what mends it."""


def printable(text: str, most: int) -> str:
    """What of a word in somebody's file may reach a terminal."""
    return "".join(c for c in text if c.isprintable())[:most]


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a job had of one GPU: seconds and joules; None where jobwatt does not know."""

    held_s: float
    idle_s: float | None
    energy_j: float
    idle_j: float | None


@dataclass(frozen=True, slots=True)
class Ours:
    """
    A job as jobwatt measured it, over all its nodes.

    Attributes:
        energy_j: joules by component; a component that no node has is absent.
        span: first start and last end; a job that runs ends now.
        sources: what fed each component, e.g. "rapl, measured".
        coverage: the least share of its seconds that a node measured, None where unknown.
        intensity: grams of CO2e per kWh in the job's time, None where unknown.
    """

    jobid: str
    user: str
    instances: tuple[str, ...]
    energy_j: Mapping[str, float]
    span: Span
    running: bool
    gpus: Mapping[str, Gpu]
    node_gpus: int
    cpu_s: float | None = None
    cpus: float | None = None
    coverage: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    intensity: float | None = None

    @property
    def total_j(self) -> float:
        """All components together."""
        return sum(self.energy_j.values())

    @property
    def seconds(self) -> float:
        """From its start to its end, pauses included."""
        return self.span[1] - self.span[0]


@dataclass(frozen=True, slots=True)
class Theirs:
    """
    The same job as another tool has it.

    Attributes:
        total_j: joules as the tool says them, its PUE and its extrapolation included.
        parts_j: joules by component, without PUE; empty where the tool does not say.
        pue: what the tool multiplied by.
        covers: "node" where it counts the node's CPUs, "process" where it estimates the process's
            share, "model" where it measures nothing.
        spans: the times it measured, one per run; empty where it does not say. Runs that overlap
            counted the same energy twice, and so do their spans.
        lost_j: joules by component, without PUE, that its own arithmetic left out of ``parts_j``.
        predicted_j: what of ``total_j`` was extrapolated and not measured, PUE included.
        notes: what a reader should know of it, one line each.
    """

    tool: str
    total_j: float
    parts_j: Mapping[str, float]
    pue: float = 1.0
    covers: str = "node"
    cpu_has_dram: bool = False  # the part "cpu" is all of RAPL: packages and DRAM
    spans: tuple[Span, ...] = ()
    grams: float | None = None
    lost_j: Mapping[str, float] = field(default_factory=dict)
    predicted_j: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """All spans together."""
        return sum(end - start for start, end in self.spans)

    @property
    def overhead_j(self) -> float:
        """What PUE adds to what was measured."""
        return (self.total_j - self.predicted_j) * (1 - 1 / self.pue)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the other tool's figure differs. ``joules`` is its size (theirs less ours), None: unknown."""

    text: str
    joules: float | None
