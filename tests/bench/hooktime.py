"""What a hook costs a job: the wall time of `jobwatt hook prolog` beside an interpreter that does nothing."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from figures import Figures

_ENV = {
    "SLURM_JOB_ID": "1", "SLURM_JOB_USER": "alice", "SLURM_JOB_UID": "20001", "SLURM_JOB_ACCOUNT": "ltci",
    "SLURM_JOB_PARTITION": "A100", "SLURM_JOB_GPUS": "0-3", "SLURMD_NODENAME": "node1",
}  # fmt: skip


def measure(figures: Figures, rounds: int) -> None:
    """Median wall time of both, taken in turns."""
    exporter = Path(__file__).resolve().parents[2] / "exporter"
    env = {**os.environ, **_ENV, "PYTHONPATH": str(exporter)}
    with tempfile.TemporaryDirectory() as state:
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "jobwatt hook prolog": [
                sys.executable,
                "-m",
                "jobwatt",
                "hook",
                "prolog",
                f"--path.state={state}",
            ],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, argv in commands.items():
                started = time.perf_counter()
                subprocess.run(argv, env=env, check=True)
                times[name].append(time.perf_counter() - started)
    for name, taken in times.items():
        figures.set("a hook, wall time", name, 1, 1000 * statistics.median(taken), "ms")
