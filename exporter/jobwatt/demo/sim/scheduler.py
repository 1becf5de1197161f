"""
A small Slurm: a queue, twelve nodes, first come first served with backfill.

Runs from event to event, so what happens does not depend on how far it is advanced at a time.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import faults
from .fleet import FLEET
from .nodestate import Free, Part, pinned_part
from .standing import standing
from .workload import DAY, submissions

if TYPE_CHECKING:
    from collections.abc import Callable

    from .faults import Fault
    from .requests import Request

# The queue is as full as usual when the first sample is taken: it has run for so long before.
_BEFORE_S = 5 * DAY
_FIRST_JOB = 481_200
_PATIENCE_S = 8 * 3600  # who has waited longer is not overtaken any more
_ARRAY_AT_ONCE = 8  # as with --array=0-23%8
# Who sees so many wait for a partition tries another day.
_DISCOURAGING = 8
_NODES_OF = {
    partition: tuple(name for name, spec in FLEET.items() if spec.partition == partition)
    for partition in {spec.partition for spec in FLEET.values()}
}
_DYING = (faults.NODE, (faults.GPU,))
_FAILS_AT_ONCE_S = 20  # a job that finds its GPU gone
_END, _FAULT, _SUBMIT = range(3)  # what comes first within a second


@dataclass(slots=True, eq=False)
class Run:
    """A job that has started. ``end_s`` and how it ends are known; a dying GPU may still change them."""

    request: Request
    jobid: int
    array_job_id: str
    start_s: int
    end_s: int
    state: str
    exit_code: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """What a node notices: a job's part begins or ends. ``run`` None: its GPU goes or comes back."""

    at_s: int
    run: Run | None = None
    part: Part | None = None
    begins: bool = False


class Scheduler:
    """
    Everything that was submitted, from some days before ``began_s`` on.

    Attributes:
        now_s: Unix time up to and including which everything has happened.
        running: jobs that run, by job id.
        queue: requests that wait with their job and array ids, the oldest first.
        log: by node, events since ``began_s`` that its hardware has not taken yet.
        before: what ran at ``began_s``.
    """

    def __init__(self, seed: int, began_s: int, live_s: int) -> None:
        self._seed, self._live_s = seed, live_s
        self.running: dict[int, Run] = {}
        self.queue: list[tuple[Request, int, str]] = []
        self.log: dict[str, deque[Event]] = {node: deque() for node in FLEET}
        self._free = {name: Free.of(spec) for name, spec in FLEET.items()}
        self._room = {name: len(free.units) for name, free in self._free.items()}
        self._heap: list[tuple[int, int, int, Callable[[Any], None], Any]] = []
        self._order = itertools.count()
        self._next_jobid = _FIRST_JOB
        self._array_ids: dict[str, str] = {}
        self._array_running: Counter[str] = Counter()
        self._faults = faults.faults(began_s, live_s)
        self._fallen = False
        self.now_s = began_s - _BEFORE_S
        self._await_fault()
        self._load(self.now_s // DAY)
        self.advance(began_s)
        for events in self.log.values():
            events.clear()
        self.before = tuple(self.running.values())

    @property
    def next_s(self) -> int:
        """When something happens next."""
        return self._heap[0][0]

    def advance(self, to_s: int) -> None:
        """Let everything happen up to and including ``to_s``."""
        while self._heap[0][0] <= to_s:
            self.now_s = self._heap[0][0]
            while self._heap[0][0] == self.now_s:
                _, _, _, act, subject = heapq.heappop(self._heap)
                act(subject)
            self._schedule()
        self.now_s = max(self.now_s, to_s)

    def _at(self, at_s: int, rank: int, act: Callable[[Any], None], subject: Any) -> None:
        heapq.heappush(self._heap, (at_s, rank, next(self._order), act, subject))

    # --- submitting ------------------------------------------------------------------------------

    def _load(self, day: int) -> None:
        """Know of all that is submitted on a day, and of the next one in time."""
        begin_s = day * DAY
        asked = [
            *submissions(self._seed, day),
            *standing(self._seed, self._live_s, begin_s, begin_s + DAY),
        ]
        for request in sorted(asked, key=lambda one: one.submit_s):
            if request.submit_s > self.now_s:
                self._at(request.submit_s, _SUBMIT, self._submit, request)
        self._at(begin_s + DAY - 1, _END, self._load, day + 1)

    def _submit(self, request: Request) -> None:
        waiting = sum(
            one.partition == request.partition for one, _, array in self.queue if not array
        )
        if waiting >= _DISCOURAGING and not (request.pinned or request.array):
            return
        jobid = request.jobid or self._next_jobid
        self._next_jobid += not request.jobid
        array = ""
        if request.array:
            array = self._array_ids.setdefault(request.array, str(jobid))
        pinned = request.pinned
        if pinned:
            if pinned == _DYING and self._fallen:
                request = replace(request, run_s=_FAILS_AT_ONCE_S, state="FAILED", exit_code="1:0")
            node, units = pinned
            self._start(request, jobid, array, (pinned_part(FLEET[node], units, request.cpus),))
        else:
            self.queue.append((request, jobid, array))

    # --- starting --------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Start what fits; for one that has waited too long nodes are kept free."""
        kept: set[str] = set()
        left = []
        for waiting in self.queue:
            request, jobid, array = waiting
            full = bool(array) and self._array_running[array] >= _ARRAY_AT_ONCE
            parts = None if full else self._place(request, kept)
            if parts:
                self._start(request, jobid, array, parts)
                continue
            left.append(waiting)
            if not full and self.now_s - request.submit_s > _PATIENCE_S:
                kept.update(self._emptiest(request, kept))
        self.queue = left

    def _place(self, request: Request, kept: set[str]) -> tuple[Part, ...] | None:
        """Parts on the fullest nodes that have room; None where there are not enough."""
        found = []
        for name in _NODES_OF[request.partition]:
            units = self._free[name].fitting(request) if name not in kept else None
            if units is not None:
                found.append((len(self._free[name].units), name, units))
        if len(found) < request.nodes:
            return None
        chosen = sorted(found)[: request.nodes]
        return tuple(
            self._free[name].take(request, units, rank)
            for rank, (_, name, units) in enumerate(chosen)
        )

    def _emptiest(self, request: Request, kept: set[str]) -> list[str]:
        """Nodes on which it may start soonest: those with most units to hand out, and of these free."""
        able = [
            name
            for name in _NODES_OF[request.partition]
            if name not in kept and self._room[name] >= request.gpus
        ]
        return sorted(able, key=lambda name: -len(self._free[name].units))[: request.nodes]

    def _start(self, request: Request, jobid: int, array: str, parts: tuple[Part, ...]) -> None:
        end_s = self.now_s + request.run_s
        run = Run(request, jobid, array, self.now_s, end_s, request.state, request.exit_code, parts)
        self.running[jobid] = run
        self._array_running[array] += 1
        for part in parts:
            self.log[part.node].append(Event(self.now_s, run, part, begins=True))
        self._at(end_s, _END, self._end, run)

    # --- ending ----------------------------------------------------------------------------------

    def _end(self, run: Run) -> None:
        if self.running.get(run.jobid) is not run:
            return  # a dying GPU was quicker
        del self.running[run.jobid]
        self._array_running[run.array_job_id] -= 1
        for part in run.parts:
            self.log[part.node].append(Event(self.now_s, run, part))
            if not run.request.pinned:
                self._free[part.node].give_back(part, run.request)

    def _await_fault(self) -> None:
        fault = next(self._faults)
        self._at(fault.from_s, _FAULT, self._fall, fault)

    def _fall(self, fault: Fault) -> None:
        """The GPU is gone, and with it the job that holds it."""
        self._fallen = True
        for run in list(self.running.values()):
            if run.request.pinned == _DYING:
                run.end_s, run.state, run.exit_code = self.now_s, "FAILED", "1:0"
                self._end(run)
        self.log[faults.NODE].append(Event(self.now_s))
        self._at(fault.to_s, _FAULT, self._rise, None)
        self._await_fault()

    def _rise(self, _: None) -> None:
        self._fallen = False
        self.log[faults.NODE].append(Event(self.now_s))
