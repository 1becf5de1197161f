"""
The node's wall power from another jobwatt: the one on the host that reads the meter, or a BMC proxy.

Every ``remote.interval`` the other side's page is fetched in the background (polled.py) and the rows
of this node are summed: both power supplies are one node. Its energy counters are taken where it has
them, for they lose nothing between two questions; its power otherwise. A reading's moment is told by
the other side's clock, which may be wrong: the header ``Date`` says what time it is there, and the
smallest difference to ours that was seen lately is how far apart the two clocks are
(wattmeter_energy.py), so that no reading is ever of the future.
"""

from __future__ import annotations

import math
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobwatt.model import NS_PER_S, Device, Domain, Failure, Kind, Reading, Sample, SourceResult

from . import remote_page
from .httpget import GetError, Getter, Page
from .polled import Polled
from .secrets import read_credentials
from .wattmeter_energy import Apart

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .remote_page import Meters

_NAME = "remote"
# The other side answers from memory, in milliseconds; half of what Prometheus gives a scrape.
_LIMIT_S = 5.0
# A page of 4 MiB has some 20 000 series; the rows that are asked for have a few kB.
_LIMIT_BYTES = 4 << 20
_STALE_INTERVALS = 3
# An answer may take _LIMIT_S, and its Date is whole seconds: later than that, the clock there was set back.
_SET_BACK_NS = 8 * NS_PER_S
# The moments of readings there are known to within a second (the header Date) and a wattmeter's row.
_UNSURE_NS = 2 * NS_PER_S
# A clock there that was set back, by hours, since the last reading is no fault: the next one is of now.
_FUTURE_NS = 86400 * NS_PER_S
# How far apart readings may be there without anything being amiss: a second (sample.interval, and the
# header Date knows no less); a BMC is asked at least every 60 s (bmc.interval, bmc-proxy's interval).
_EVERY_NS = {"wattmeter": NS_PER_S, "bmc": 60 * NS_PER_S}


@dataclass(frozen=True, slots=True)
class Access:
    """How to ask. Files are read when they are needed: they may be renewed meanwhile."""

    url: str
    credentials: Path | None = None
    ca_file: Path | None = None
    limit_s: float = _LIMIT_S

    def context(self) -> ssl.SSLContext:
        """What the other side's certificate is checked against. Raises GetError."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as err:
            why = f"cannot use {self.ca_file} (remote.ca-file): {err.strerror}"
            raise GetError("certificate", why) from err

    def headers(self) -> dict[str, str]:
        """The header that says who asks. Raises GetError, which repeats nothing of it."""
        if self.credentials is None:
            return {}
        try:
            user, password = read_credentials(self.credentials)
        except ValueError as err:
            raise GetError("credentials_file", str(err)) from None
        word = b64encode(f"{user}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {word}"}


class Remote:
    """
    The node's meters on another page. ``read`` and ``close`` never raise and never wait for it.

    Args:
        access: where and how.
        node: this node's name there.
        interval_ns: from one question to the next.
        bmc_includes_gpu: whether a BMC's power includes the GPUs; a wattmeter's always does.
    """

    name = _NAME

    def __init__(
        self, access: Access, node: str, interval_ns: int, *, bmc_includes_gpu: bool = True
    ) -> None:
        self._access, self._node = access, node
        self._getter = Getter(access.context, access.limit_s, _LIMIT_BYTES)
        names = "&".join(f"name%5B%5D={name}" for name in remote_page.NAMES)
        self._url = f"{access.url}{'&' if urlsplit(access.url).query else '?'}{names}"
        self._track = Track(interval_ns, bmc_includes_gpu)
        self._keep_s = _STALE_INTERVALS * interval_ns / NS_PER_S
        self._good, self._good_s = SourceResult(), -math.inf
        # a name that takes longer to look up is said to hang
        limit_s = access.limit_s + 1
        self._polled = Polled(_NAME, self._look, interval_ns / NS_PER_S, limit_s)

    def read(self, *, full: bool) -> SourceResult:
        """The last answer, and what is amiss."""
        return self._polled.read(full=full)

    @property
    def pending(self) -> bool:
        """Whether no answer has come yet."""
        return self._polled.pending

    def close(self) -> None:
        """End the question that is being asked, and ask no more."""
        self._getter.abort()
        self._polled.close()

    def _look(self) -> SourceResult:
        try:
            page = self._getter.get(self._url, self._access.headers())
            arrival_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            found = remote_page.meters(page.body, self._node)
        except GetError as err:
            return self._failed(err.reason, str(err))
        except remote_page.SeveralNodesError as err:
            return self._failed("ambiguous", f"{err}: give remote.node with its domain")
        except (ValueError, LookupError, ArithmeticError) as err:
            return self._failed("garbled", f"that is no metrics page ({type(err).__name__})")
        if not found:
            why = (
                f"no meter there is {self._node}'s: see wattmeter.ports there, or the nodes in its "
                "bmc-proxy's list, and remote.node here"
            )
            return self._failed("no_meter", why)
        self._good = self._track.add(found, _there_ns(page), arrival_ns)
        self._good_s = time.monotonic()
        return self._good

    def _failed(self, reason: str, why: str) -> SourceResult:
        """The last answer, as long as one or two lost ones would not make it untrue."""
        message = f"{_NAME}: {self._access.url}: {why}; it is asked again"
        late = time.monotonic() - self._good_s > self._keep_s
        kept = SourceResult() if late else self._good
        return replace(kept, failures=(Failure(_NAME, reason, message),))


@dataclass(slots=True)
class Track:
    """
    Pages one after another become readings of one device, the node's meters together.

    A new epoch, in which no energy is counted across, begins where the set of meters changed, a
    counter went down or grew by more than a meter measures in that time, energy gave way to power, or
    a meter had stopped. A time without answers is
    none of these: the other side's counters went on, and what they show was measured.
    """

    interval_ns: int
    bmc_includes_gpu: bool = True
    _apart: Apart = field(default_factory=Apart)
    _epoch: int = 0
    _broken: bool = False
    _energies: Mapping[str, int] = field(default_factory=dict)
    _last: Reading | None = None

    def add(self, found: Mapping[str, Meters], there_ns: int, arrival_ns: int) -> SourceResult:
        """What a page says. ``there_ns``: the other side's Unix time when it was sent."""
        apart_ns = self._see(arrival_ns - there_ns, arrival_ns)
        order = sorted(found, key=lambda source: source != "wattmeter")
        whole = [found[s] for s in order if not self._amiss(found[s], apart_ns, arrival_ns)]
        if not whole:
            self._broken = True
            message = f"{_NAME}: {self._amiss(found[order[0]], apart_ns, arrival_ns)}"
            return SourceResult(failures=(Failure(_NAME, "stale", message),))
        reading = self._reading(whole[0], apart_ns, arrival_ns)
        return SourceResult((reading,), samples=_samples(whole[0]))

    def _see(self, apart_ns: int, arrival_ns: int) -> int:
        if self._apart.known and apart_ns > self._apart.ns + _SET_BACK_NS:
            self._apart = Apart()
        self._apart.note(apart_ns, arrival_ns)
        return self._apart.ns

    def _amiss(self, meters: Meters, apart_ns: int, arrival_ns: int) -> str:
        """Why these meters do not tell the node's power now; "" where they do."""
        every_ns = max(self.interval_ns, _EVERY_NS.get(meters.source, 0))
        for name, meter in meters.meters.items():
            shown = f"{meters.source} {name}"
            if not meter.up or meter.read_s is None:
                return f"{shown} delivers nothing there: see to it on the host that reads it"
            age_ns = arrival_ns - (int(meter.read_s * NS_PER_S) + apart_ns)
            if age_ns > _STALE_INTERVALS * every_ns:
                return f"the last reading of {shown} there is too old: see to that host"
            if age_ns < -_FUTURE_NS:
                return (
                    f"the last reading of {shown} there is of the future: see to that host's clock"
                )
        every = meters.meters.values()
        if any(m.energy_uj is None for m in every) and any(m.power_uw is None for m in every):
            return (
                f"{meters.source} {meters.name}: neither energy nor power of all of them is there"
            )
        return ""

    def _reading(self, meters: Meters, apart_ns: int, arrival_ns: int) -> Reading:
        energies = {n: m.energy_uj for n, m in meters.meters.items() if m.energy_uj is not None}
        powers = [meter.power_uw or 0 for meter in meters.meters.values()]
        kind = Kind.ENERGY if len(energies) == len(meters.meters) else Kind.POWER
        # The set of meters is part of the identity: a daemon that begins later, and compares with what
        # an earlier one read, must not take a meter that was added meanwhile for energy.
        device_id = f"{_NAME}:{meters.source}:{meters.name}"
        sees_all = meters.source != "bmc" or self.bmc_includes_gpu
        device = Device(
            Domain.NODE, device_id, meters.source, name=meters.name, includes_gpu=sees_all
        )
        oldest_s = min(meter.read_s or 0 for meter in meters.meters.values())
        t_ns = min(int(oldest_s * NS_PER_S) + apart_ns, arrival_ns)
        last = self._last
        if self._began_anew(device, kind, energies, arrival_ns):
            self._epoch += 1
        elif last is not None and t_ns <= last.t_ns:
            return last  # nothing new, or the clocks were found to be closer than thought
        value = sum(energies.values()) if kind is Kind.ENERGY else sum(powers)
        every_ns = self.interval_ns
        if last is not None:
            t_ns = max(t_ns, last.t_ns)
            every_ns = max(every_ns, min(t_ns - last.t_ns, _EVERY_NS.get(meters.source, 0)))
        self._broken, self._energies = False, energies
        self._last = Reading(device, kind, value, t_ns, epoch=self._epoch, every_ns=every_ns)
        return self._last

    def _began_anew(
        self, device: Device, kind: Kind, energies: Mapping[str, int], arrival_ns: int
    ) -> bool:
        last = self._last
        if last is None:
            return False
        if self._broken or (device, kind) != (last.device, last.kind):
            return True
        most_uj = remote_page.MOST_UW * (arrival_ns - last.t_ns + _UNSURE_NS) // NS_PER_S
        grown = (uj - self._energies.get(name, 0) for name, uj in energies.items())
        return any(not 0 <= uj <= most_uj for uj in grown)


def _samples(meters: Meters) -> tuple[Sample, ...]:
    powers = [meter.power_uw for meter in meters.meters.values() if meter.power_uw is not None]
    if len(powers) < len(meters.meters):
        return ()
    labels = (meters.source, meters.name)
    return (Sample("jobwatt_wall_power_watts", labels, sum(powers) / 1e6),)


def _there_ns(page: Page) -> int:
    """Unix time at the other side when it answered, whole seconds (RFC 9110); ours where it is silent."""
    try:
        return int(parsedate_to_datetime(page.date).timestamp() * NS_PER_S)
    except (ValueError, OverflowError, TypeError):
        return time.time_ns()


def open_source(
    access: Access, node: str, interval_ns: int, *, bmc_includes_gpu: bool = True
) -> Remote:
    """The remote source; ``node`` is this node's name on the page at ``access.url``."""
    return Remote(access, node, interval_ns, bmc_includes_gpu=bmc_includes_gpu)
