"""
Random draws that depend on what is drawn and never on when; and the real distributions behind them.

``data/ORIGINS.md`` says where each table comes from.
"""

from __future__ import annotations

import bisect
import csv
import random
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DATA = Path(__file__).parent / "data"
_NOISE_SIZE = 4096
# An idle A100 draws less than this, one that computes more (Seren's power has its knee there).
_BUSY_FROM_W = 120.0
# What Seren's powers are shares of: its A100's limit.
_SEREN_LIMIT_W = 400.0
_ZEUS_LIMIT_W = 250.0
# Networks so small that they leave a V100 near its idle power are left out.
_ZEUS_FROM_W = 100.0


def rng(*about: object) -> random.Random:
    """A generator of its own for each thing: the same ``about`` draws the same values."""
    return random.Random("/".join(map(str, about)))  # noqa: S311  (a simulation, no secret)


def hashed(*about: object) -> int:
    """An int of 32 bits that looks random and depends on ``about`` only."""
    return zlib.crc32("/".join(map(str, about)).encode())


@cache
def noise(seed: int) -> list[int]:
    """4096 values from -1000 to 1000, most of them small: read it at (slot * odd + salt) % 4096."""
    draw = rng(seed, "noise")
    return [max(-1000, min(1000, round(draw.gauss(0, 400)))) for _ in range(_NOISE_SIZE)]


@dataclass(frozen=True, slots=True)
class Network:
    """A network that was measured: ``power_permille`` of the GPU's limit while it is trained."""

    name: str
    dataset: str
    batch_size: int
    power_permille: int


@cache
def networks() -> tuple[Network, ...]:
    """What Zeus measured on a V100."""
    return tuple(
        Network(row["network"].removesuffix("_base_uncased"), row["dataset"], int(row["batch_size"]),
                round(1000 * float(row["power_w"]) / _ZEUS_LIMIT_W))
        for row in _rows("zeus_v100.csv")
        if float(row["power_w"]) > _ZEUS_FROM_W
    )  # fmt: skip


def busy_power_permille(draw: random.Random) -> int:
    """Share of its limit that a computing GPU draws, as on Seren."""
    watts = draw.choice(_busy_powers())
    return min(round(1000 * watts / _SEREN_LIMIT_W), 1000)


def memory_permille(draw: random.Random) -> int:
    """Share of its memory in use on a GPU that is used, as on Seren."""
    return draw.choice(_used_memory())


def eagle_run_s(draw: random.Random) -> int:
    """A run time, as on Eagle: between two neighbouring quantiles."""
    times = _eagle_times()
    at = draw.randrange(len(times) - 1)
    return max(round(draw.uniform(times[at], times[at + 1])), 5)


@cache
def _busy_powers() -> list[float]:
    powers = [float(row["gpu_power_w"]) for row in _rows("acme_gpu.csv")]
    return powers[bisect.bisect(powers, _BUSY_FROM_W) :]


@cache
def _used_memory() -> list[int]:
    shares = (float(row["gpu_memory_used_pct"]) for row in _rows("acme_gpu.csv"))
    return [round(10 * share) for share in shares if share > 1]


@cache
def _eagle_times() -> list[float]:
    return [float(row["run_time_s"]) for row in _rows("eagle_run_times.csv")]


def _rows(name: str) -> list[dict[str, str]]:
    with (_DATA / name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
