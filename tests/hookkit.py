"""The Prolog's hook as slurmd starts it, and a record of what Slurm said."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from jobwatt.slurm.hooks import write

EXPORTER = Path(__file__).parents[1] / "exporter"
ENV = {  # of a real Prolog (Slurm 22.05.8), second node of a two-node job
    "SLURM_JOB_ID": "2",
    "SLURM_JOB_USER": "alice",
    "SLURM_JOB_UID": "20001",
    "SLURM_JOB_ACCOUNT": "infres",
    "SLURM_JOB_PARTITION": "all",
    "SLURM_JOB_GPUS": "2,5",
    "CUDA_VISIBLE_DEVICES": "2,5",
    "SLURM_JOB_CPUS_PER_NODE": "4,2(x2)",
    "SLURM_NODELIST": "gpu[01-02,05]",
    "SLURMD_NODENAME": "gpu02",
    "SLURM_JOB_RESTART_COUNT": "0",
}


def hook(state: Path, *argv: str, env: dict[str, str] | None = None) -> tuple[str, float]:
    """Run the hook as slurmd does, in a process of its own: (stderr, seconds). Exit is 0, always."""
    code = "import os, sys; from jobwatt.slurm.hooks import run_hook; os._exit(run_hook(sys.argv[1:], os.environ))"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *(argv or ("prolog",)), f"--path.state={state}"],
        env={"PYTHONPATH": str(EXPORTER), **(ENV if env is None else env)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr, time.monotonic() - began


def store(state: Path, event: str = "prolog", t_ns: int = 7, **env: str) -> None:
    write(state, event, {**ENV, **env}, t_ns=t_ns, wall_s=time.time())
