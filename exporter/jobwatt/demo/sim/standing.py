"""
Habits that are there at any moment, so that each of the owners' alerts has somebody to be mailed to.

Each is a chain of jobs on GPUs kept for it; two chains of a habit are half a period apart, so that at
any moment one of them has gone on for a good part of its period.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .draws import hashed, rng
from .fleet import FLEET, GIB
from .names import USERS
from .requests import Kind, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = 3600
DAY = 24 * HOUR
# A week of history is what the demo makes beforehand: live begins then, unless somebody says otherwise.
HISTORY_S = 7 * DAY
# The GPU that is about to die (faults.py); a job on it ends with it.
DYING_NODE, DYING_GPU = "gpu12", 3
_FAIL_EVERY_S = 240  # fifteen an hour; the alert tells of ten
_BURSTS_H = (10,)  # before that: a row of failures at these hours of each day
_FIRST_FAILING_JOB = 2_000_000  # numbered apart: how many there are depends on when live begins
_PAUSE_S = 180  # between two jobs of a chain


@dataclass(frozen=True, slots=True)
class Chain:
    """Job after job of one user on the same GPUs; a new one every ``period_s`` or so."""

    user: int
    name: str
    kind: Kind
    node: str
    units: tuple[int, ...]
    period_s: int
    offset_s: int = 0
    qos: str = "normal"
    state: str = "COMPLETED"
    busy_part: float = 1.0
    salted: int = 1  # of its salt a divisor: behaviour.never_used

    def request(self, seed: int, number: int) -> Request:
        """The chain's job of this number since 1970; it ends before the next begins."""
        spec, begin_s = FLEET[self.node], self._begin_s(seed, number)
        run_s = self._begin_s(seed, number + 1) - _PAUSE_S - begin_s
        draw = rng(seed, self.name, self.offset_s, number)
        return Request(
            begin_s, USERS[self.user], self.name, self.kind, spec.partition, 1, len(self.units),
            cpus=spec.cpus_per_gpu * len(self.units), memory=spec.host.memory // spec.gpus * len(self.units) * 7 // 8,
            run_s=run_s, limit_s=run_s if self.state == "TIMEOUT" else self.period_s + 2 * HOUR,
            salt=draw.randrange(1 << 28) * self.salted, qos=self.qos, state=self.state, power_permille=draw.randrange(600, 900),
            memory_permille=draw.randrange(200, 700), busy_part=self.busy_part, pinned=(self.node, self.units),
        )  # fmt: skip

    def _begin_s(self, seed: int, number: int) -> int:
        late_s = hashed(seed, self.name, self.offset_s, number) % (self.period_s // 20)
        return number * self.period_s + self.offset_s + late_s


def _pair(first: Chain, node: str, units: tuple[int, ...]) -> tuple[Chain, Chain]:
    """The chain and one like it elsewhere, half a period later."""
    return first, replace(first, node=node, units=units, offset_s=first.period_s // 2)


CHAINS = (
    *_pair(Chain(41, "jupyter-explore", Kind.FORGOTTEN, "gpu11", (0,), 20 * HOUR, qos="interactive"), "gpu11", (1,)),
    *_pair(Chain(17, "llm-finetune", Kind.HANGING, "gpu04", (4, 5), 16 * HOUR, state="TIMEOUT", busy_part=0.35), "gpu04", (6, 7)),
    *_pair(Chain(26, "video-dataloader", Kind.STARVED, "gpu03", (6,), 18 * HOUR), "gpu03", (7,)),
    *_pair(Chain(33, "ddp-baseline", Kind.PARTIAL, "gpu09", (0, 1, 2, 3), 22 * HOUR), "gpu09", (4, 5)),
    Chain(62, "port-to-cuda", Kind.FORGOTTEN, "gpu10", (6,), 24 * HOUR, 5 * HOUR, salted=3),
    Chain(22, "unet-mri", Kind.TRAINING, DYING_NODE, (DYING_GPU,), 5 * HOUR),
)  # fmt: skip
_FAILING_USER, _FAILING_NODE, _FAILING_UNIT = 55, "gpu10", 7

PINNED: dict[str, frozenset[int]] = {}
for _node, _units in (*((c.node, c.units) for c in CHAINS), (_FAILING_NODE, (_FAILING_UNIT,))):
    PINNED[_node] = PINNED.get(_node, frozenset()) | frozenset(_units)


def standing(seed: int, live_s: int, from_s: int, to_s: int) -> Iterator[Request]:
    """
    The jobs that these users submit in ``from_s <= t < to_s``. From two hours before ``live_s`` on one
    of them fails all the time.
    """
    for chain in CHAINS:
        for number in range(
            (from_s - chain.offset_s) // chain.period_s - 1, to_s // chain.period_s + 1
        ):
            request = chain.request(seed, number)
            if from_s <= request.submit_s < to_s:
                yield request
    yield from _failing(seed, live_s, from_s, to_s)


def _failing(seed: int, live_s: int, from_s: int, to_s: int) -> Iterator[Request]:
    spec = FLEET[_FAILING_NODE]
    for submit_s in range(-(-from_s // _FAIL_EVERY_S) * _FAIL_EVERY_S, to_s, _FAIL_EVERY_S):
        burst = submit_s % DAY // HOUR in _BURSTS_H
        if submit_s < live_s - 2 * HOUR and not burst:
            continue
        draw = rng(seed, "failing", submit_s)
        yield Request(
            submit_s, USERS[_FAILING_USER], "debug-nccl", Kind.CRASH, spec.partition, 1, 1, cpus=spec.cpus_per_gpu,
            memory=24 * GIB, run_s=draw.randrange(8, 75), limit_s=HOUR, salt=draw.randrange(1 << 30),
            state="FAILED", exit_code="1:0", pinned=(_FAILING_NODE, (_FAILING_UNIT,)),
            jobid=_FIRST_FAILING_JOB + submit_s // _FAIL_EVERY_S % 1_000_000,
        )  # fmt: skip
