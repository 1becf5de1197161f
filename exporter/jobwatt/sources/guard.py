"""
A source behind a deadline: a driver that hangs must not stop the others' sampling.

The source lives in a thread of its own, so that all calls into a driver come from one thread. A
read that takes longer than the deadline is reported as a failure and left alone: until it comes
back the GPUs last seen stay, so that jobs keep theirs, and what they do is unknown. The late result
gives the next GPUs to stay and its events; its readings are thrown away, for counters bridge the
time in between, and the source is asked again.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from jobwatt.model import Failure, GpuState, Sample, Source, SourceResult

if TYPE_CHECKING:
    from collections.abc import Callable

_UP = "jobwatt_gpu_up"
_KEPT = frozenset({"jobwatt_driver_info", "jobwatt_gpu_info", _UP})


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
        self._known = SourceResult()  # the last answer, late or not: what stays while none comes
        self._owed: tuple[Sample, ...] = ()  # events of late answers
        self._thread = threading.Thread(target=self._serve, name=f"source-{self.name}", daemon=True)
        self._thread.start()

    def read(self, *, full: bool) -> SourceResult:
        """Read; or what is still true, and that there is no answer."""
        if self._hangs:
            try:
                late = self._answers.get_nowait()
            except queue.Empty:
                return self._without_answer()
            self._hangs = False
            self._known = late
            self._owed += late.events
        self._calls.put(lambda: self._answers.put(self._source.read(full=full)))
        try:
            self._known = result = self._answers.get(timeout=self._limit_s)
        except queue.Empty:
            self._hangs = True
            return self._without_answer()
        return self._with_owed(result)

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

    def _with_owed(self, result: SourceResult) -> SourceResult:
        if not self._owed:
            return result
        owed, self._owed = self._owed, ()
        return replace(result, events=(*owed, *result.events))

    def _without_answer(self) -> SourceResult:
        message = (
            f"{self.name}: no answer within {self._limit_s:g} s; measuring goes on without it "
            "(a hung driver shows in dmesg)"
        )
        silent = SourceResult(
            gpus=tuple(_idle_unknown(gpu) for gpu in self._known.gpus),
            samples=tuple(_down(s) for s in self._known.samples if s.metric in _KEPT),
            failures=(Failure(self.name, "hangs", message),),
        )
        return self._with_owed(silent)


def _idle_unknown(gpu: GpuState) -> GpuState:
    """What the GPU is, without what it does."""
    return replace(
        gpu, busy_permille=None, sm_permille=None, memory_used_bytes=None, processes=None
    )


def _down(sample: Sample) -> Sample:
    return replace(sample, value=0) if sample.metric == _UP else sample
