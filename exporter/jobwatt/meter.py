"""
Readings become deltas: what a device used between two readings, and how the number was obtained.

Pure: no clock, no file, no log. A counter that wrapped is corrected once; one that began again
(new epoch, implausible jump) counts nothing; one that could have wrapped twice counts nothing and
says AMBIGUOUS, because it is impossible to know. Power is integrated by the trapezoidal rule and
never across a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .model import NS_PER_S, Delta, Kind, Reading, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Cursors = dict[tuple[str, Kind], Reading]

# Of a reading that another process took: epochs are counted per process, so only values tell whether
# the counter began again in between.
ANY_EPOCH = -1

# A slow sensor's reading is late after two and a half of its own intervals, as one of the sampling is
# (assembly.py); in halves, to stay with integers.
_LATE = 5

# A counter that seems to have wrapped but implies more than this many times the device's greatest
# power has begun again instead (kexec, module reload). Ten, because dt of two readings a moment
# apart is uncertain by as much as a counter's own update period (1 ms for RAPL).
_IMPLAUSIBLE = 10


@dataclass(frozen=True, slots=True)
class Metered:
    """
    The deltas of one moment.

    Attributes:
        booked: one delta per device, from its energy counter, else from its power.
        integrated: power integrated beside the counter, for devices that have both.
        cursors: what to pass as ``cursors`` next time.
    """

    booked: tuple[Delta, ...]
    integrated: tuple[Delta, ...]
    cursors: Cursors


def measure(
    cursors: Mapping[tuple[str, Kind], Reading], readings: Iterable[Reading], regular_ns: int
) -> Metered:
    """
    Take the deltas of ``readings`` against ``cursors``.

    Args:
        cursors: the last reading of each (device id, kind); a device that was silent keeps its own.
        readings: at most one of each (device id, kind).
        regular_ns: a longer time than this between two readings is a gap.
    """
    after = dict(cursors)
    by_device: dict[str, dict[Kind, Delta]] = {}
    for reading in readings:
        at = (reading.device.id, reading.kind)
        by_device.setdefault(reading.device.id, {})[reading.kind] = delta(
            cursors.get(at), reading, regular_ns
        )
        after[at] = reading
    booked = tuple(kinds.get(Kind.ENERGY) or kinds[Kind.POWER] for kinds in by_device.values())
    integrated = tuple(kinds[Kind.POWER] for kinds in by_device.values() if len(kinds) == 2)
    return Metered(booked, integrated, after)


def delta(before: Reading | None, now: Reading, regular_ns: int) -> Delta:
    """Energy in uJ that ``now.device`` used since ``before``; 0 wherever that is not known."""
    found = _delta(before, now, regular_ns)
    return replace(found, every_ns=now.every_ns) if now.every_ns else found


def _delta(before: Reading | None, now: Reading, regular_ns: int) -> Delta:
    if before is None:
        return Delta(now.device, 0, 0, Step.FIRST)
    dt_ns = now.t_ns - before.t_ns
    regular_ns = max(regular_ns, _LATE * now.every_ns // 2)
    if before.epoch not in {now.epoch, ANY_EPOCH} or dt_ns < 0:
        return Delta(now.device, 0, max(dt_ns, 0), Step.RESET)
    if now.kind is Kind.POWER:
        return _integrated(before, now, dt_ns, regular_ns)
    return _counted(before, now, dt_ns, regular_ns)


def _integrated(before: Reading, now: Reading, dt_ns: int, regular_ns: int) -> Delta:
    """Trapezoidal rule; the power between two readings far apart was not measured."""
    if dt_ns > regular_ns:
        return Delta(now.device, 0, dt_ns, Step.GAP)
    return Delta(
        now.device, (before.value + now.value) * dt_ns // (2 * NS_PER_S), dt_ns, Step.NORMAL
    )


def _counted(before: Reading, now: Reading, dt_ns: int, regular_ns: int) -> Delta:
    late = dt_ns > regular_ns
    if late and now.wrap_uj and _could_wrap_unseen(now, dt_ns):
        return Delta(now.device, 0, dt_ns, Step.AMBIGUOUS)
    energy_uj = now.value - before.value
    step = Step.GAP if late else Step.NORMAL
    if energy_uj < 0:
        energy_uj += now.wrap_uj
        step = Step.WRAPPED
        if energy_uj < 0 or _began_again(now, energy_uj, dt_ns):
            return Delta(now.device, 0, dt_ns, Step.RESET)
    return Delta(now.device, energy_uj, dt_ns, step)


def _could_wrap_unseen(now: Reading, dt_ns: int) -> bool:
    """Whether half a range fits into the gap at the device's greatest power: then nobody can say."""
    if not now.max_power_uw:
        return True
    return 2 * now.max_power_uw * dt_ns >= now.wrap_uj * NS_PER_S


def _began_again(now: Reading, energy_uj: int, dt_ns: int) -> bool:
    if not now.max_power_uw:
        return False
    return energy_uj * NS_PER_S > _IMPLAUSIBLE * now.max_power_uw * max(dt_ns, NS_PER_S)
