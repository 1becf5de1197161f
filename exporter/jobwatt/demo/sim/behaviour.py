"""
What a job does with its GPUs and CPUs, in blocks of 240 s.

Whether a GPU is idle changes only between blocks, so that snapshots every 60, 120 or 240 s see the
same idle time as those every second; how much it is used varies within one (hardware.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .draws import hashed
from .requests import Kind

if TYPE_CHECKING:
    from .requests import Request
    from .scheduler import Run

BLOCK_S = 240

Plan = tuple[tuple[int, ...], int]  # use of each GPU of a node, use of its CPUs: per thousand


def plan(run: Run, gpus: int, block: int) -> Plan:
    """Use in block ``block`` (since 1970) on a node where the job holds ``gpus`` GPUs."""
    first = run.start_s // BLOCK_S
    request, age = run.request, block - first
    hanging = request.kind is Kind.HANGING and block >= first + _busy_blocks(request)
    if request.kind is Kind.PARTIAL:
        use, cpu = _training(request, age)
        return (use, *(0,) * (gpus - 1)), cpu // gpus
    if hanging:
        return (0,) * gpus, 4
    use, cpu = _PLANS.get(request.kind, _training)(request, age)
    return (use,) * gpus, cpu


def _busy_blocks(request: Request) -> int:
    return max(int(request.run_s * request.busy_part) // BLOCK_S, 1)


def _training(request: Request, age: int) -> tuple[int, int]:
    """It loads, computes, and evaluates now and then."""
    if age == 0 and request.run_s > BLOCK_S:
        return 0, 180
    period = 12 + request.salt % 19
    if (age + request.salt) % period == 0:
        return 250 + request.salt % 200, 300
    return 910 + (request.salt >> 4) % 88, 220 + (request.salt >> 8) % 200


def _starved(request: Request, age: int) -> tuple[int, int]:
    wave = hashed(request.salt, age) % 100
    return 200 + request.salt % 130 + wave, 970


def _notebook(request: Request, age: int) -> tuple[int, int]:
    """Somebody runs a cell: one block in eight, in spells."""
    awake = hashed(request.salt, age // 4) % 8 == 0 or age < 2
    return (350 + request.salt % 400, 250) if awake else (0, 5)


def _forgotten(request: Request, age: int) -> tuple[int, int]:
    return (300 + request.salt % 400, 200) if age < 2 and not never_used(request) else (0, 4)


def _sweep(request: Request, _: int) -> tuple[int, int]:
    return 620 + request.salt % 360, 420


def _crash(_: Request, __: int) -> tuple[int, int]:
    return 0, 310


def _cpu_only(request: Request, _: int) -> tuple[int, int]:
    return 0, 780 + request.salt % 200


def _slice(request: Request, age: int) -> tuple[int, int]:
    return 500, 60 + hashed(request.salt, age) % 400


def _greedy(request: Request, _: int) -> tuple[int, int]:
    return 560 + request.salt % 350, 45


_PLANS = {
    Kind.STARVED: _starved,
    Kind.NOTEBOOK: _notebook,
    Kind.FORGOTTEN: _forgotten,
    Kind.SWEEP: _sweep,
    Kind.CRASH: _crash,
    Kind.CPU_ONLY: _cpu_only,
    Kind.SLICE: _slice,
    Kind.GREEDY: _greedy,
}


def never_used(request: Request) -> bool:
    """A notebook in which nobody ever ran anything on the GPU: no process holds memory there."""
    return request.kind is Kind.FORGOTTEN and request.salt % 3 == 0


def holds_memory(request: Request, gpu: int) -> bool:
    """Whether the job has a process on its GPU number ``gpu``."""
    if request.kind in {Kind.CRASH, Kind.CPU_ONLY}:
        return False
    return not never_used(request) and not (request.kind is Kind.PARTIAL and gpu > 0)
