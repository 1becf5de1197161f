"""
Frames become energy: integration by the meter's own clock, and that clock put onto ours. Pure.

The meter's clock may be wrong by hours and may be set while it runs. It is believed for how long
frames are apart, and never for when they were: that is told by when they arrive. What a frame takes to
arrive varies (buffers) but is never negative, so the smallest difference between arrival and meter
time that was seen lately is the best guess of how far apart the two clocks are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping

# Between two rows further apart the power was not measured. A meter that gives one row a second (the
# older Grid'5000 layout) may lose one; the house's measure of a gap is two and a half intervals.
GAP_NS = 5 * NS_PER_S // 2
# "Lately": two clocks that drift apart by 100 ppm (a poor quartz) differ by 12 ms after two of these.
_WINDOW_NS = 60 * NS_PER_S
# A frame that seems to have arrived so much sooner than any other was stamped by a clock that was set:
# more than jitter of 1 row a second read in bursts, less than what ntpd steps at once (128 ms) twice.
_STEP_NS = NS_PER_S // 4
_WARM_NS = 5 * NS_PER_S  # a burst of old rows has been read by then
# So many rows in a row that are older than the newest: not they are late, the clock was set back.
_BEHIND = 10


@dataclass(slots=True)
class Apart:
    """How far a clock is behind CLOCK_BOOTTIME: the smallest difference seen in the last minute or two."""

    began_ns: int = 0
    _window_ns: int = 0
    _recent: int | None = None  # of this window
    _earlier: int | None = None  # ... and of the one before

    @property
    def known(self) -> bool:
        """Whether anything was seen."""
        return self._recent is not None

    @property
    def ns(self) -> int:
        """What to add to a time of that clock; only where ``known``."""
        return min(ns for ns in (self._recent, self._earlier) if ns is not None)

    def note(self, apart_ns: int, arrival_ns: int) -> None:
        """See that something stamped with ``arrival_ns - apart_ns`` came at ``arrival_ns``."""
        if self._recent is None:
            self.began_ns = self._window_ns = arrival_ns
            self._recent = apart_ns
        elif arrival_ns - self._window_ns >= _WINDOW_NS:
            self._window_ns = arrival_ns
            self._earlier, self._recent = self._recent, apart_ns
        else:
            self._recent = min(self._recent, apart_ns)


@dataclass(slots=True)
class Clock:
    """
    The meter's clock against CLOCK_BOOTTIME.

    Attributes:
        steps: how often it was set, as far as can be told.
    """

    steps: int = 0
    _last_ns: int | None = None
    _behind: int = 0
    _apart: Apart = field(default_factory=Apart)

    def admit(self, meter_ns: int, arrival_ns: int) -> bool:
        """Take a frame's time; False for one that comes after a younger frame: it is left out."""
        if self._last_ns is not None and meter_ns <= self._last_ns:
            self._behind += 1
            if self._behind < _BEHIND:
                return False
            self._restart()
        elif self._was_set_ahead(meter_ns, arrival_ns):
            self._restart()
        self._behind, self._last_ns = 0, meter_ns
        self._apart.note(arrival_ns - meter_ns, arrival_ns)
        return True

    def boot_ns(self, meter_ns: int) -> int:
        """CLOCK_BOOTTIME at the meter's ``meter_ns``; never later than the newest arrival."""
        return meter_ns + self._apart.ns

    def _was_set_ahead(self, meter_ns: int, arrival_ns: int) -> bool:
        if not self._apart.known or arrival_ns - self._apart.began_ns < _WARM_NS:
            return False
        return arrival_ns < self.boot_ns(meter_ns) - _STEP_NS

    def _restart(self) -> None:
        self.steps += 1
        self._apart = Apart()


@dataclass(slots=True)
class Port:
    """
    Energy of one port, exact: trapezoids in uW x ns are added as they are and rounded down once.

    Attributes:
        power_uw: the last value; None before the first.
        meter_ns: its time by the meter's clock.
        epoch: goes up wherever a stretch of time was left out.
    """

    power_uw: int | None = None
    meter_ns: int = 0
    epoch: int = 0
    _twice: int = 0  # uW x ns, two times
    _broken: bool = False

    @property
    def energy_uj(self) -> int:
        """Never goes down."""
        return self._twice // (2 * NS_PER_S)

    def add(self, meter_ns: int, power_uw: int) -> None:
        """Go on to ``power_uw`` at ``meter_ns``, which is later than the last."""
        if self.power_uw is not None:
            dt_ns = meter_ns - self.meter_ns
            if self._broken or not 0 <= dt_ns <= GAP_NS:
                self.epoch += 1
            else:
                self._twice += (self.power_uw + power_uw) * dt_ns
        self.power_uw, self.meter_ns, self._broken = power_uw, meter_ns, False

    def interrupt(self) -> None:
        """Leave out the time until the next value, however short."""
        self._broken = True


@dataclass(frozen=True, slots=True)
class PortState:
    """A port as it stood when its last value came. ``t_ns`` is on CLOCK_BOOTTIME."""

    energy_uj: int
    power_uw: int
    t_ns: int
    epoch: int


@dataclass(slots=True)
class Meter:
    """All mapped ports of one meter."""

    ports: dict[str, Port]
    clock: Clock = field(default_factory=Clock)
    _told: dict[str, PortState] = field(default_factory=dict)
    _due: set[str] = field(default_factory=set)

    def add(self, meter_ns: int, power_uw: Mapping[str, int | None], arrival_ns: int) -> bool:
        """Take one frame; False where it comes too late to be counted."""
        steps = self.clock.steps
        if not self.clock.admit(meter_ns, arrival_ns):
            return False
        if self.clock.steps != steps:
            self._interrupt()
        for name, uw in power_uw.items():
            if uw is not None:
                self.ports[name].add(meter_ns, uw)
                self._due.add(name)
        return True

    def begin_anew(self) -> None:
        """Leave out the time until the next frame, which may be of another clock."""
        self.clock = Clock(self.clock.steps)
        self._interrupt()

    def _interrupt(self) -> None:
        for port in self.ports.values():
            port.interrupt()

    def state(self) -> dict[str, PortState]:
        """Ports that have had a value. A port's ``t_ns`` never goes back."""
        for name in self._due:
            port, told = self.ports[name], self._told.get(name)
            t_ns = self.clock.boot_ns(port.meter_ns)
            self._told[name] = PortState(
                port.energy_uj,
                port.power_uw or 0,
                max(t_ns, told.t_ns) if told else t_ns,
                port.epoch,
            )
        self._due.clear()
        return dict(self._told)
