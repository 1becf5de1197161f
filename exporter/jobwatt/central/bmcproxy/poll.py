"""
Who is asked when: a bounded number of threads for any number of BMCs.

Every BMC has its own clock, spread over the interval and jittered, and is never asked twice at once.
One whose last look took long waits in a lane of its own, with a quarter of the threads: a rack whose
BMCs hang cannot keep the others waiting, save once, while that is found out.
"""

from __future__ import annotations

import heapq
import logging
import queue
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...faults import FaultLog
from ...model import NS_PER_S, Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .meter import BmcMeter

log = logging.getLogger(__name__)

# A request that hangs is given up after half of a look's time (redfish_client.py).
_SLOW_SHARE = 0.4
_SLOW_THREADS = 4  # one in so many is for BMCs that are slow
_JITTER = 0.05
# At the start BMCs are asked one after another, this far apart, so that none of it is a burst.
_SPREAD_S = 0.02
# How often the scheduler looks up at least: for the health page, and to see that it is to stop.
_LOOK_UP_S = 0.5
_STALLED_S = 30.0


@dataclass(slots=True)
class _State:
    meter: BmcMeter
    busy: bool = False
    slow: bool = False
    closed: bool = False
    faults: FaultLog = field(default_factory=FaultLog)


class Poller:
    """
    Asks every meter in its interval.

    Args:
        threads: for all of them together; two at least are made.
    """

    def __init__(self, meters: Sequence[BmcMeter], threads: int) -> None:
        self.meters = tuple(meters)
        self._states = [_State(meter) for meter in meters]
        self._due: list[tuple[float, int]] = []
        self._lock = threading.Lock()
        self._all_closed = threading.Condition(self._lock)
        self._errors: Counter[str] = Counter()
        self._stopping = False
        self._alive_s = time.monotonic()
        self._lanes = {slow: queue.SimpleQueue[_State]() for slow in (False, True)}
        slow_threads = max(threads // _SLOW_THREADS, 1)
        for number in range(max(threads, 2)):
            lane = self._lanes[number < slow_threads]
            threading.Thread(target=self._serve, args=(lane,), daemon=True).start()

    def run(self, stop: threading.Event) -> None:
        """Ask until ``stop`` is set."""
        self._spread()
        while not stop.is_set():
            self._alive_s = time.monotonic()
            wait_s = self._due[0][0] - self._alive_s
            if wait_s > 0:
                stop.wait(min(wait_s, _LOOK_UP_S))
                continue
            due_s, number = self._due[0]
            state = self._states[number]
            interval_s = state.meter.entry.interval_ns / NS_PER_S
            next_s = due_s + interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  no secret
            heapq.heapreplace(self._due, (max(next_s, self._alive_s), number))
            self._begin(state)

    def close(self, limit_s: float) -> bool:
        """Ask no more and close every meter; False where some did not end within ``limit_s``."""
        with self._lock:
            self._stopping = True
            idle = [state for state in self._states if not state.busy]
            for state in idle:
                state.busy = True
        for state in self._states:
            state.meter.stop()
        for state in idle:
            self._lanes[False].put(state)
        with self._all_closed:
            return self._all_closed.wait_for(
                lambda: all(state.closed for state in self._states), limit_s
            )

    def errors(self) -> dict[str, int]:
        """Failures so far, by reason."""
        with self._lock:
            return dict(self._errors)

    def stalled(self) -> bool:
        """Whether the scheduler itself no longer comes round."""
        return time.monotonic() - self._alive_s > _STALLED_S

    def _spread(self) -> None:
        now_s = time.monotonic()
        for number, meter in enumerate(self.meters):
            spread_s = min(number * _SPREAD_S, number / len(self.meters) * meter.entry.interval_ns / NS_PER_S)  # fmt: skip
            self._due.append((now_s + spread_s, number))
        heapq.heapify(self._due)

    def _begin(self, state: _State) -> None:
        """Queue it, unless it is still at its last look."""
        with self._lock:
            if state.busy or self._stopping:
                return
            state.busy = True
        self._lanes[state.slow].put(state)

    def _serve(self, lane: queue.SimpleQueue[_State]) -> None:
        while True:
            state = lane.get()
            if not self._stopping:
                self._ask(state)
            with self._lock:
                stopping = self._stopping
                state.busy = stopping
            if stopping:
                self._close(state)

    def _ask(self, state: _State) -> None:
        began_s = time.monotonic()
        try:
            failures = state.meter.ask()
        except Exception as err:  # noqa: BLE001  one BMC's fault must not end its thread
            node = state.meter.entry.node
            text = f"bmc: {node}: {type(err).__name__} in jobwatt; please report it"
            failures = (Failure("bmc", "exception", text, device=node),)
        if self._stopping:  # what was ended by us is no fault
            return
        took_s = time.monotonic() - began_s
        state.slow = took_s > _SLOW_SHARE * state.meter.entry.timeout_ns / NS_PER_S
        with self._lock:
            self._errors.update(failure.reason for failure in failures)
        state.faults.note(failures)

    def _close(self, state: _State) -> None:
        try:
            state.meter.close()
        except Exception as err:  # noqa: BLE001  the others are closed all the same
            log.warning("%s: cannot close: %s", state.meter.entry.node, type(err).__name__)
        with self._all_closed:
            state.closed = True
            self._all_closed.notify_all()
