"""
A day's submissions: who asks for what, and how it will end.

About 55 a day over the year, most of them on weekdays and by day. A submission is a plain job, an
array, or a row of the same job that fails again and again. Shares and lengths aim at the published
marginals that data/ORIGINS.md names.
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from .draws import busy_power_permille, eagle_run_s, memory_permille, networks, rng
from .fleet import FLEET, GIB
from .names import USERS
from .requests import Kind, Request

if TYPE_CHECKING:
    import random

    from .names import User

_T = TypeVar("_T")

MINUTE, HOUR, DAY = 60, 3600, 86_400
_WEEKDAY, _WEEKEND = 50, 22  # campaigns a day on average; rows and arrays make more jobs of them
# Of a day's submissions, by hour (UTC): few at night, a dip at noon.
_BY_HOUR = (6, 4, 3, 2, 2, 2, 4, 9, 22, 34, 38, 34, 22, 28, 36, 38, 36, 30, 22, 16, 13, 12, 10, 8)
_PARTITIONS = (("A100", 48), ("H100", 36), ("V100", 16))
_MOST_GPUS = {"A100": 8, "H100": 4, "V100": 4, "interactive": 1}  # of a job on one node
_LONG_S = 24 * HOUR  # a longer limit than this wants qos "long"


@dataclass(frozen=True, slots=True)
class Habit:
    """How often a kind is submitted, how long it runs (median, spread of its logarithm), on how many GPUs."""

    weight: float
    median_s: int
    sigma: float
    gpus: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    longest_s: int = 60 * HOUR


_ONE = ((1, 1),)
_HABITS = {
    Kind.TRAINING: Habit(22, 17 * HOUR, 0.8, ((1, 30), (2, 26), (4, 28), (8, 16)),
                         ("llm-pretrain", "vit-large", "diffusion", "asr-conformer", "gnn-molecules", "segment-sat")),
    Kind.STARVED: Habit(1.3, 3 * HOUR, 0.7, ((1, 70), (2, 30)), ("audio-augment", "wsi-patches", "video-frames")),
    Kind.NOTEBOOK: Habit(2.4, 5 * HOUR, 0.5, _ONE, ("jupyter-lab", "jupyter-thesis", "jupyter-class"), 12 * HOUR),
    Kind.FORGOTTEN: Habit(0.5, 12 * HOUR, 0.4, _ONE, ("jupyter-demo", "jupyter-test"), 30 * HOUR),
    Kind.HANGING: Habit(0.7, 6 * HOUR, 0.5, ((1, 60), (2, 40)), ("eval-suite", "export-onnx"), 16 * HOUR),
    Kind.PARTIAL: Habit(0.5, 4 * HOUR, 0.6, ((2, 40), (4, 60)), ("ddp-first-try", "accelerate-run")),
    Kind.SWEEP: Habit(1.2, 7 * MINUTE, 0.6, _ONE, ("sweep-lr", "grid-dropout", "cv-folds"), HOUR),
    Kind.CRASH: Habit(3, 25, 0.7, ((1, 70), (2, 20), (4, 10)), ("train-debug", "test-cuda", "run-baseline"), 90),
    Kind.CPU_ONLY: Habit(6, HOUR, 1.0, ((0, 1),), ("features", "tokenize", "mesh-prep")),
    Kind.SLICE: Habit(7, 5 * HOUR, 0.9, _ONE, ("mig-notebook", "mig-inference", "tp-cours"), 12 * HOUR),
    Kind.GREEDY: Habit(0.9, 4 * HOUR, 0.5, _ONE, ("whole-node-please", "big-mem-train")),
}  # fmt: skip
_KINDS, _WEIGHTS = tuple(_HABITS), [habit.weight for habit in _HABITS.values()]
_TWO_NODES_ODDS = 0.08  # of trainings, on whole nodes
_QUICK_ODDS = 0.30  # of trainings: a first look of a few minutes


def submissions(seed: int, day: int) -> list[Request]:
    """All that is submitted on a day (since 1970, UTC), in order of time."""
    draw = rng(seed, "day", day)
    weekend = (day + 3) % 7 >= 5  # 1970-01-01 was a Thursday
    mean = _WEEKEND if weekend else _WEEKDAY
    count = max(round(draw.gauss(mean, math.sqrt(mean))), 0)
    campaigns = [_campaign(draw, day * DAY + _second_of_day(draw)) for _ in range(count)]
    return sorted(itertools.chain.from_iterable(campaigns), key=lambda one: one.submit_s)


def _second_of_day(draw: random.Random) -> int:
    hour = draw.choices(range(24), _BY_HOUR)[0]
    return hour * HOUR + draw.randrange(HOUR)


@cache
def _appetites(kind: Kind) -> list[float]:
    """Cumulative weights of the users for one kind: each has a taste of their own."""
    tastes = (rng("taste", user.name, kind).random() ** 2 for user in USERS)
    return list(itertools.accumulate(u.appetite * t for u, t in zip(USERS, tastes, strict=True)))


def _user(draw: random.Random, kind: Kind) -> User:
    weights = _appetites(kind)
    return USERS[bisect.bisect(weights, draw.random() * weights[-1])]


def _campaign(draw: random.Random, submit_s: int) -> list[Request]:
    kind = draw.choices(_KINDS, _WEIGHTS)[0]
    one = _job(draw, submit_s, _user(draw, kind), kind)
    if kind is Kind.CRASH:
        return _row(draw, one)
    if kind is Kind.SWEEP:
        return _array(draw, one)
    return [one]


def _row(draw: random.Random, first: Request) -> list[Request]:
    """It fails, is looked at for some minutes and submitted again."""
    row, submit_s = [], first.submit_s
    for _ in range(draw.choice((1, 1, 2, 3, 4, 6))):
        run_s, salt = draw.randrange(5, 90), draw.randrange(1 << 30)
        row.append(replace(first, submit_s=submit_s, run_s=run_s, salt=salt))
        submit_s += draw.randrange(100, 900)
    return row


def _array(draw: random.Random, first: Request) -> list[Request]:
    """Tasks that differ in a parameter, and hardly in how long they take."""
    array = f"{first.submit_s}-{first.salt}"
    tasks = []
    for task in range(draw.randrange(12, 41)):
        run_s = max(round(first.run_s * draw.uniform(0.96, 1.04)), 30)
        failed = draw.random() < 0.08
        tasks.append(
            replace(
                first, array=array, task=task, salt=draw.randrange(1 << 30), run_s=run_s // 3 if failed else run_s,
                state="FAILED" if failed else "COMPLETED", exit_code="1:0" if failed else "0:0",
            )
        )  # fmt: skip
    return tasks


def _job(draw: random.Random, submit_s: int, user: User, kind: Kind) -> Request:
    habit = _HABITS[kind]
    partition = "interactive" if kind is Kind.SLICE else _weighted(draw, _PARTITIONS)
    spec = next(spec for spec in FLEET.values() if spec.partition == partition)
    gpus = min(_weighted(draw, habit.gpus), _MOST_GPUS[partition])
    cpus = max(spec.cpus_per_gpu * gpus, 1) if gpus else draw.choice((4, 8, 12))
    share = spec.host.memory // spec.gpus
    run_s = _run_s(draw, kind, habit)
    limit_s = _limit_s(run_s)
    job = Request(
        submit_s, user, draw.choice(habit.names), kind, partition, 1, gpus, cpus, share * max(gpus, 1) * 3 // 4,
        run_s, limit_s, draw.randrange(1 << 30), qos="long" if limit_s > _LONG_S else "normal",
        power_permille=busy_power_permille(draw), memory_permille=memory_permille(draw),
        busy_part=draw.uniform(0.2, 0.6),
    )  # fmt: skip
    return _ended(draw, _shaped(draw, job, spec.host.cpus, spec.gpus))


def _run_s(draw: random.Random, kind: Kind, habit: Habit) -> int:
    if kind is Kind.CPU_ONLY:
        return min(eagle_run_s(draw), habit.longest_s)
    median_s = (
        4 * MINUTE if kind is Kind.TRAINING and draw.random() < _QUICK_ODDS else habit.median_s
    )
    return max(min(round(draw.lognormvariate(math.log(median_s), habit.sigma)), habit.longest_s), 5)  # fmt: skip


def _limit_s(run_s: int) -> int:
    """Users ask for a round number of hours, well above what they need."""
    return next(h for h in (1, 2, 4, 8, 12, 24, 48, 72) if h * HOUR > run_s * 1.15) * HOUR


def _shaped(draw: random.Random, job: Request, cpus: int, gpus: int) -> Request:
    """What is particular about a kind."""
    if (
        job.kind is Kind.TRAINING
        and job.partition != "V100"
        and job.run_s > HOUR
        and draw.random() < _TWO_NODES_ODDS
    ):
        nodes = 2 if gpus == 8 else draw.choice((2, 3))
        return replace(job, nodes=nodes, gpus=gpus, cpus=gpus * (cpus // gpus), name=f"{job.name}-{nodes}n",
                       memory=job.memory // job.gpus * gpus)  # fmt: skip
    if job.kind is Kind.TRAINING and draw.random() < 0.5:
        net = draw.choice(networks())
        return replace(
            job, name=f"{net.name}-bs{net.batch_size}", power_permille=net.power_permille
        )
    if job.kind is Kind.SLICE:
        profile = draw.choice(("3g.40gb", "2g.20gb", "2g.20gb"))
        return replace(job, profile=profile, cpus=4, memory=32 * GIB, qos="interactive")
    if job.kind in {Kind.NOTEBOOK, Kind.FORGOTTEN}:
        return replace(job, qos="interactive", memory=48 * GIB)
    if job.kind is Kind.GREEDY:
        return replace(job, cpus=cpus // 2, memory=job.memory * 3)
    return job


def _ended(draw: random.Random, job: Request) -> Request:
    """How it ends: what fails and what is cancelled does so on the way."""
    part = draw.uniform(0.02, 0.9)
    end = draw.random()
    if job.kind is Kind.CRASH:
        return replace(job, state="FAILED", exit_code=draw.choice(("1:0", "1:0", "2:0", "127:0")))
    if job.kind in {Kind.NOTEBOOK, Kind.FORGOTTEN}:
        return replace(job, state="CANCELLED", exit_code="0:15") if end < 0.4 else job
    if job.kind is Kind.SWEEP or end < 0.56:
        return job
    if end < 0.66:
        return replace(job, run_s=max(int(job.run_s * part), 20), state="FAILED", exit_code="1:0")
    if end < 0.92:
        return replace(job, run_s=max(int(job.run_s * part), 20), state="CANCELLED", exit_code="0:15")  # fmt: skip
    if end < 0.96:
        return replace(job, run_s=min(job.run_s, 40 * MINUTE), state="OUT_OF_MEMORY", exit_code="0:125")  # fmt: skip
    limit_s = max(job.run_s // HOUR, 1) * HOUR
    return replace(job, run_s=limit_s, limit_s=limit_s, state="TIMEOUT")


def _weighted(draw: random.Random, options: tuple[tuple[_T, int], ...]) -> _T:
    values, weights = zip(*options, strict=True)
    chosen: _T = draw.choices(values, weights)[0]
    return chosen
