"""What is asked of Slurm, and how the job will behave once it runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import User


class Kind(StrEnum):
    """A way to use, or not to use, a GPU."""

    TRAINING = "training"  # busy, with dips for evaluations
    STARVED = "starved"  # the input pipeline does not keep up
    NOTEBOOK = "notebook"  # used for some minutes now and then
    FORGOTTEN = "forgotten"  # a notebook used at first and never again
    HANGING = "hanging"  # busy, then idle until its end
    PARTIAL = "partial"  # one of its GPUs is used
    SWEEP = "sweep"  # a short task of many
    CRASH = "crash"  # fails before it reaches the GPU
    CPU_ONLY = "cpu"  # on a GPU node without a GPU
    SLICE = "slice"  # on a MIG instance
    GREEDY = "greedy"  # many CPUs and much memory, little of them used


@dataclass(frozen=True, slots=True)
class Request:
    """
    One job, or one task of an array.

    Attributes:
        gpus, cpus, memory: on each of ``nodes`` nodes; bytes.
        profile: of the MIG instance asked for, "" for whole GPUs.
        run_s: how long it runs once started; ``limit_s`` its time limit.
        array: tasks of one array have the same; "" for a plain job. ``task`` its index there.
        power_permille: what its GPUs draw, of their limit, when fully used.
        memory_permille: of its GPUs' memory in use.
        busy_part: share of its life after which a HANGING job is done.
        salt: what makes it different from others of its kind.
        pinned: node and units that are kept for it; None for a job that queues.
        jobid: of a job that is not numbered with the others, 0 for one that is.
    """

    submit_s: int
    user: User
    name: str
    kind: Kind
    partition: str
    nodes: int
    gpus: int
    cpus: int
    memory: int
    run_s: int
    limit_s: int
    salt: int
    qos: str = "normal"
    profile: str = ""
    state: str = "COMPLETED"
    exit_code: str = "0:0"
    array: str = ""
    task: int = 0
    power_permille: int = 700
    memory_permille: int = 400
    busy_part: float = 1.0
    pinned: tuple[str, tuple[int, ...]] | None = None
    jobid: int = 0
