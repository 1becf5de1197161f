"""
Snapshots in, totals out: meter, interval, attribute, totals and ledger in a row.

The daemon pushes live snapshots, `jobwatt replay` recorded ones; both go through here and nowhere
else, so a recording gives the same totals as the node did.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .bookrows import Book, trimmed
from .idle import Idle, observed
from .interval import Before, settle
from .meter import ANY_EPOCH, Cursors, measure
from .model import ESTIMATES
from .presence import Carry
from .totals import Totals, applied, rebooted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .ledger import Ledger
    from .model import Job, Snapshot
    from .pools import Waiting


@dataclass(slots=True)
class Pipeline:
    """
    The node's account, one snapshot at a time.

    Attributes:
        regular_ns: a longer interval than this is a gap.
        linger_ns: how long a finished job's series stay.
    """

    ledger: Ledger
    regular_ns: int
    linger_ns: int
    totals: Totals = field(default_factory=Totals)
    idle: Idle = field(default_factory=Idle)
    _last: Snapshot | None = None
    _cursors: Cursors = field(default_factory=dict)
    _carry: Carry = field(default_factory=Carry)
    _waiting: Mapping[str, Waiting] = field(default_factory=dict)

    def restore(self, boot_id: str) -> None:
        """Go on where the ledger's last commit left off."""
        book = self.ledger.restore(boot_id)
        self.totals, self._last, self._carry = book.totals, book.last, book.carry
        self._cursors = {
            (reading.device.id, reading.kind): replace(reading, epoch=ANY_EPOCH)
            for reading in book.readings
        }
        self.idle = Idle(self.idle.calibrated, book.learnt)

    @property
    def last_jobs(self) -> tuple[Job, ...]:
        """Jobs of the last snapshot; after ``restore`` those of the last daemon's."""
        return self._last.jobs if self._last is not None else ()

    def calibrate(self, calibrated: Mapping[str, int]) -> None:
        """Take other calibrated idle powers from now on."""
        self.idle = Idle(calibrated, self.idle.learnt, self.idle.windows)

    def push(self, now: Snapshot) -> Totals:
        """Charge the interval since the last snapshot, commit it, and return the new totals."""
        if self._last is not None and self._last.boot_id != now.boot_id:
            self._last, self._cursors, self._waiting = None, {}, {}
            self.totals = replace(rebooted(self.totals), jobs=self.totals.jobs)
        self._forget_estimated(now)
        metered = measure(self._cursors, now.readings, self.regular_ns)
        read = {delta.device.id for delta in metered.booked}
        silent = {
            r.device.id: r.device for r in metered.cursors.values() if r.device.id not in read
        }
        start = Before(self._last, self._carry, self._waiting, self.totals.wall)
        settled = settle(
            start, now, metered.booked, silent.values(), self.idle.power_uw(), self.regular_ns
        )
        self.totals = applied(self.totals, settled, metered, now, self.linger_ns)
        self.idle = observed(self.idle, settled, metered, self._last, now)
        self._cursors, self._carry, self._last = metered.cursors, settled.carry, now
        self._waiting = settled.waiting
        self.ledger.commit(
            Book(
                self.totals,
                trimmed(now),
                tuple(metered.cursors.values()),
                settled.carry,
                self.idle.learnt,
            )
        )
        return self.totals

    def _forget_estimated(self, now: Snapshot) -> None:
        """A counter does not bridge a time that was estimated meanwhile: it would be charged twice."""
        estimated = {r.device.domain for r in now.readings if r.device.source in ESTIMATES}
        if estimated:
            self._cursors = {
                key: r
                for key, r in self._cursors.items()
                if r.device.domain not in estimated or r.device.source in ESTIMATES
            }
