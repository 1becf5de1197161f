"""
A slow sensor behind a thread of its own: a BMC, a meter on the network, a command to be run.

``work`` is called every ``every_s`` in that thread, never twice at once. ``read`` never waits: it gives
the last answer again, with the readings' own times, until there is a new one, and drops it when it is
too old to be true. ``work`` has its own deadlines (of a child, of a connection); one that is later than
``limit_s`` all the same is reported as hanging, and everything else goes on.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from jobwatt.model import Failure, SourceResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobwatt.model import Sample

# An answer older than this many intervals says nothing of now: two may be lost.
_STALE_INTERVALS = 3


class Polled:
    """
    A source (model.Source) whose ``work`` is done in the background.

    Args:
        work: one look at the sensor; it should not raise (what it raises becomes a Failure).
        every_s: from the beginning of one look to that of the next.
        limit_s: a look that takes longer is said to hang.
        close: lets go of what ``work`` holds; called in its thread, at the end.
        stop: ends a look in progress, so that nobody waits for it; called in the thread that closes.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], SourceResult],
        every_s: float,
        limit_s: float,
        close: Callable[[], None] = lambda: None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._work, self._close, self._stop = work, close, stop
        self._every_s, self._limit_s = every_s, limit_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._last = SourceResult()
        self._last_s = time.monotonic()
        self._asked_s = time.monotonic()
        self._events: tuple[Sample, ...] = ()
        self._looks = 0
        self._thread = threading.Thread(target=self._serve, name=f"poll-{name}", daemon=True)
        self._thread.start()

    def read(self, *, full: bool) -> SourceResult:
        """Give the last answer; a Failure beside it where the sensor is late."""
        del full
        with self._lock:
            last, events, self._events = self._last, self._events, ()
            answered_s, asked_s = self._last_s, self._asked_s
        now_s = time.monotonic()
        failures = last.failures
        if asked_s > answered_s and now_s - asked_s > self._limit_s:
            failures = (*failures, self._hanging(now_s - asked_s))
        if now_s - answered_s > _STALE_INTERVALS * self._every_s + self._limit_s:
            return SourceResult(events=events, failures=failures)
        return replace(last, events=events, failures=failures)

    @property
    def pending(self) -> bool:
        """Whether no look has ended yet: who wants to know what there is waits for it."""
        return self._looks == 0

    def close(self) -> None:
        """Stop; a look in progress is ended where it can be, else waited for as long as it may take."""
        self._stopping.set()
        self._stop()
        self._thread.join(timeout=self._limit_s)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            began_s = time.monotonic()
            with self._lock:
                self._asked_s = began_s
            result = self._looked()
            with self._lock:
                self._last, self._last_s = result, time.monotonic()
                self._events += result.events
                self._looks += 1
            self._stopping.wait(max(self._every_s - (time.monotonic() - began_s), 0))
        self._close()

    def _looked(self) -> SourceResult:
        try:
            return self._work()
        except Exception as err:  # noqa: BLE001  a sensor's fault must not end its thread
            # not its text: that may repeat what a device, or a credentials file, said
            message = f"{self.name}: {type(err).__name__} in jobwatt; please report it"
            return SourceResult(failures=(Failure(self.name, "exception", message),))

    def _hanging(self, since_s: float) -> Failure:
        message = (
            f"{self.name}: no answer for {since_s:.0f} s (limit {self._limit_s:g} s); "
            "everything else is measured meanwhile"
        )
        return Failure(self.name, "hangs", message)
