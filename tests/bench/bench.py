"""
What jobwatt costs: ``make bench``, or ``bench.py [--quick] [--json] [--jobs 1,8,64]``.

Everything is measured in one run, side by side, on one node: the real daemon as a process over
files on tmpfs and the NVML shim, moving in real time; the floor below a sample; the encoder beside
prometheus_client's. Durations are medians. They are this machine's: compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "exporter")]

import encoding  # noqa: E402  the path is set above
import hooktime  # noqa: E402
import sampling  # noqa: E402
import serving  # noqa: E402
from figures import Figures  # noqa: E402


@dataclass(frozen=True)
class Effort:
    """How long everything is measured."""

    window_s: float
    windows: int
    scrape_s: float
    trace_s: float
    rounds: int


FULL = Effort(window_s=15, windows=3, scrape_s=10, trace_s=20, rounds=40)
QUICK = Effort(window_s=4, windows=1, scrape_s=3, trace_s=4, rounds=10)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="under a minute, less exact")
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")
    parser.add_argument("--jobs", default="1,8,64", help="numbers of jobs to compare")
    args = parser.parse_args(argv)
    columns = [int(text) for text in args.jobs.split(",")]
    started = time.monotonic()
    figures = _run(columns, QUICK if args.quick else FULL)
    figures.notes.append(
        "p99 of fewer than 100 scrapes (a new view comes once a second) is the slowest"
    )
    figures.notes.append(
        "GPUs are the NVML shim's: its calls take a microsecond, a driver's up to a millisecond, in"
        " which the daemon waits without using the CPU"
    )
    if args.json:
        print(json.dumps(figures.plain() | {"machine": _machine()}, indent=1))
        return 0
    print(_machine())
    print(
        "8 GPUs, 128 CPUs, 2 sockets. Durations are this machine's, and others use it: ratios count."
    )
    print("\n".join(figures.lines(columns)))
    print(f"\n{time.monotonic() - started:.0f} s")
    return 0


def _run(columns: list[int], effort: Effort) -> Figures:
    figures = Figures()
    for jobs in columns:
        _say(f"daemon with {jobs} jobs")
        serving.measure(
            figures,
            jobs,
            window_s=effort.window_s,
            windows=effort.windows,
            scrape_s=effort.scrape_s,
        )
    for jobs in columns:
        _say(f"encoder and sampling with {jobs} jobs")
        encoding.measure(figures, jobs, effort.rounds)
        sampling.measure(figures, jobs, effort.rounds)
    hooktime.measure(figures, effort.rounds)
    traced = columns[len(columns) // 2]
    _say(f"system calls with {traced} jobs")
    serving.trace(figures, traced, effort.trace_s)
    return figures


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def _machine() -> str:
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs,"
        f" load {load:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
