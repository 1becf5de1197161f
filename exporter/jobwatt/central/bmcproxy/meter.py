"""
One BMC of the proxy: the way it is asked, its last reading, and the energy since the start.

Energy is the power integrated by the trapezoidal rule (meter.py), exact in microjoules, and never
across a gap: two and a half intervals without an answer, as everywhere in jobwatt.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...meter import delta
from ...model import NS_PER_S, Device, Domain, Failure, Kind, Reading, SourceResult
from ...sources import ipmi, ipmi_child, redfish
from ...sources.secrets import read_credentials

if TYPE_CHECKING:
    from .targets import Entry

_NAME = "bmc"
# A BMC that locks an account after a few wrong passwords must not be asked all the same (redfish.py).
_REFUSED_S = 300.0


class Asked(Protocol):
    """What can be asked for power; nothing raises; ``look`` and ``close`` are never called at once."""

    def look(self) -> SourceResult:
        """One Reading or one Failure."""
        ...

    def stop(self) -> None:
        """End a look in progress soon; from another thread."""
        ...

    def close(self) -> None:
        """Let go of sessions."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What the page says of a BMC.

    Attributes:
        place: where the figure stands; "" before there is one.
        read_s: Unix time of the last good reading.
        message: what is amiss, "" where all is well.
    """

    node: str
    place: str = ""
    power_uw: int = 0
    energy_uj: int = 0
    read_s: float = 0.0
    up: bool = False
    answered: bool = False
    message: str = ""


class BmcMeter:
    """
    A BMC and what it has said. ``ask`` is for one thread at a time; ``shown`` for any.

    Args:
        asked: how it is asked; by default Redfish or IPMI, as the entry says.
    """

    def __init__(self, entry: Entry, asked: Asked | None = None) -> None:
        self.entry = entry
        self._asked = asked or open_asked(entry)
        self._lock = threading.Lock()
        self._last: Reading | None = None
        self._read_s = 0.0
        self._energy_uj = 0
        self._message = ""
        self._answered = False

    def ask(self) -> tuple[Failure, ...]:
        """Ask once, and account for the answer; return what was amiss."""
        result = self._asked.look()
        with self._lock:
            self._answered = True
            self._message = result.failures[0].message if result.failures else ""
            for reading in result.readings[:1]:
                self._book(reading)
        return result.failures

    def stop(self) -> None:
        """End ``ask`` soon, where it runs."""
        self._asked.stop()

    def close(self) -> None:
        """Delete the session; not while ``ask`` runs."""
        self._asked.close()

    def shown(self, now_ns: int) -> Shown:
        """Return what is known at ``now_ns`` (CLOCK_BOOTTIME)."""
        node = self.entry.node
        with self._lock:
            last = self._last
            if last is None:
                return Shown(node, answered=self._answered, message=self._message)
            late = 2 * (now_ns - last.t_ns) > 5 * self.entry.interval_ns  # a gap, as in meter.py
            return Shown(
                node,
                last.device.name,
                last.value,
                self._energy_uj,
                self._read_s,
                not late,
                self._answered,
                self._message,
            )

    def _book(self, reading: Reading) -> None:
        last = self._last
        stands = reading.device.name, reading.epoch
        if last is None or (last.device.name, last.epoch) != stands:
            self._energy_uj = 0  # another sensor: a counter of its own
            last = None
        self._energy_uj += delta(last, reading, self.entry.interval_ns).energy_uj
        self._last = reading
        age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - reading.t_ns
        self._read_s = time.time() - age_ns / NS_PER_S


class _Ipmi:
    """IPMI over LAN, with the pause after wrong credentials that Redfish has."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._refused: tuple[int, Failure, float] | None = None
        self._timeout_s = entry.timeout_ns / NS_PER_S
        self._runner = ipmi_child.Runner(self._timeout_s)

    def look(self) -> SourceResult:
        entry = self._entry
        try:
            user, password = read_credentials(entry.credentials)
        except ValueError as err:
            return self._failed(Failure(_NAME, "credentials_file", f"{_NAME}: {err}"))
        login = hash((user, password))
        if self._refused and self._refused[0] == login and time.monotonic() < self._refused[2]:
            return self._failed(self._refused[1])
        answer = ipmi.lan_reading(
            entry.ipmi, user, password, "auto", self._timeout_s, runner=self._runner
        )
        if isinstance(answer, Failure):
            if answer.reason == "wrong_credentials":
                self._refused = login, answer, time.monotonic() + _REFUSED_S
            return self._failed(answer)
        device = Device(Domain.NODE, _NAME, _NAME, name="dcmi", node=entry.node)
        every_ns = entry.interval_ns
        return SourceResult(
            (Reading(device, Kind.POWER, answer.uw, answer.t_ns, every_ns=every_ns),)
        )

    def stop(self) -> None:
        """End the tool that runs, with all it started; none is started any more."""
        self._runner.stop()

    def close(self) -> None:
        """There is no session between looks."""

    def _failed(self, failure: Failure) -> SourceResult:
        found = Failure(failure.source, failure.reason, failure.message, device=self._entry.node)
        return SourceResult(failures=(found,))


def open_asked(entry: Entry) -> Asked:
    """How the entry's BMC is asked; nothing is asked yet."""
    if entry.ipmi:
        return _Ipmi(entry)
    return redfish.Bmc(
        entry.url,
        credentials=entry.credentials,
        ca_file=entry.ca_file,
        verify=entry.verify,
        timeout_s=entry.timeout_ns / NS_PER_S,
        every_ns=entry.interval_ns,
        node=entry.node,
    )
