"""
A source behind a deadline: a driver that hangs must not stop the others' sampling.

The source lives in a thread of its own, so that all calls into a driver come from one thread. A
read that takes longer than the deadline is reported as a failure and left alone; its late result is
thrown away and the source is asked again afterwards. Counters bridge the time in between.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Protocol

from jobwatt.model import Failure, Source, SourceResult

if TYPE_CHECKING:
    from collections.abc import Callable


class Releasable(Source, Protocol):
    """A source that can let go of its driver for a while."""

    def release(self) -> None:
        """Let go until ``resume``."""
        ...

    def resume(self) -> None:
        """Take the driver back at the next read."""
        ...


class Guarded:
    """``source`` with a deadline of ``limit_s`` seconds per read."""

    def __init__(self, source: Releasable, limit_s: float) -> None:
        self.name = source.name
        self._source = source
        self._limit_s = limit_s
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[SourceResult] = queue.SimpleQueue()
        self._hangs = False
        self._thread = threading.Thread(target=self._serve, name=f"source-{self.name}", daemon=True)
        self._thread.start()

    def read(self, *, full: bool) -> SourceResult:
        """Read, or say that the source hangs."""
        if self._hangs:
            try:
                self._answers.get_nowait()
            except queue.Empty:
                return self._failure()
            self._hangs = False
        self._calls.put(lambda: self._answers.put(self._source.read(full=full)))
        try:
            return self._answers.get(timeout=self._limit_s)
        except queue.Empty:
            self._hangs = True
            return self._failure()

    def release(self) -> None:
        """Have the source let go of its driver."""
        self._calls.put(self._source.release)

    def resume(self) -> None:
        """Have the source take its driver back."""
        self._calls.put(self._source.resume)

    def close(self) -> None:
        """Close the source in its own thread; one that hangs is left behind."""
        self._calls.put(self._source.close)
        self._calls.put(None)
        self._thread.join(timeout=self._limit_s)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _failure(self) -> SourceResult:
        message = (
            f"{self.name}: no answer within {self._limit_s:g} s; measuring goes on without it "
            "(a hung driver shows in dmesg)"
        )
        return SourceResult(failures=(Failure(self.name, "hangs", message),))
