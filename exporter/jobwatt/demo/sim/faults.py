"""
One GPU that is about to die: the fourth of gpu12.

Its memory goes bad, it gets hot, and now and then it falls off the bus. A fault is known from the
start, so that what happens does not depend on who looks when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .standing import DYING_GPU as GPU
from .standing import DYING_NODE as NODE
from .standing import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GPU", "NODE", "Fault", "Health", "faults", "health", "xids"]

GRID_S = 240
# Hours after the beginning at which it was lost and came back, before live ...
_LOST_H = ((20.5, 21.5), (61.0, 63.0), (99.0, 99.8), (118.2, 121.0), (141.0, 142.4))
# ... and from half an hour before live: an hour away, half an hour back.
_BEFORE_S, _AWAY_S, _CYCLE_S = HOUR // 2, 3600, 5400
# NVIDIA's XID catalogue: double-bit error, row remapped, fallen off the bus.
_WARNINGS = ((600, 48), (540, 63), (0, 79))


@dataclass(frozen=True, slots=True)
class Fault:
    """It does not answer in ``from_s < t < to_s``."""

    from_s: int
    to_s: int


def faults(began_s: int, live_s: int) -> Iterator[Fault]:
    """All of them, in order, without end; on the grid of 240 s."""
    first_s = _grid(live_s - _BEFORE_S)
    for lost_h, back_h in _LOST_H:
        fault = Fault(_grid(began_s + lost_h * HOUR), _grid(began_s + back_h * HOUR))
        if fault.to_s < first_s:
            yield fault
    while True:
        yield Fault(first_s, first_s + _grid(_AWAY_S))
        first_s += _grid(_CYCLE_S)


def _grid(at_s: float) -> int:
    return int(at_s) // GRID_S * GRID_S


@dataclass(slots=True)
class Health:
    """What has happened to the GPU until now. Time only goes forward."""

    faults: Iterator[Fault]
    now: Fault
    past: int = 0

    def at(self, t_s: int) -> Fault:
        """The fault that is on at ``t_s``, or the next one."""
        while t_s >= self.now.to_s:
            self.past, self.now = self.past + 1, next(self.faults)
        return self.now

    def lost(self, t_s: int) -> bool:
        """Whether it does not answer."""
        fault = self.at(t_s)
        return fault.from_s < t_s

    def bad_rows(self, t_s: int) -> int:
        """Uncorrected errors, and rows remapped for them: one before each fall."""
        fault = self.at(t_s)
        return self.past + (t_s >= fault.from_s - _WARNINGS[0][0])


def health(began_s: int, live_s: int) -> Health:
    """The failing GPU's state at the beginning."""
    coming = faults(began_s, live_s)
    return Health(coming, next(coming))


def xids(coming: Iterator[Fault], from_s: int, to_s: int) -> list[int]:
    """The driver's messages in ``from_s < t <= to_s``."""
    found: list[int] = []
    for fault in coming:
        if fault.from_s - _WARNINGS[0][0] > to_s:
            break
        found += [xid for before_s, xid in _WARNINGS if from_s < fault.from_s - before_s <= to_s]
    return found
