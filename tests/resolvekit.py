"""A resolver on a node with its hooks, its processes and its clock in the test's hand, and Slurm's commands played."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import wait
from jobwatt.model import NS_PER_S, GpuState, JobUsage
from jobwatt.slurm.hooks import write
from jobwatt.slurm.resolve import Resolver, RpcRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parent / "data/scontrol"
PROC = Path("/proc")
GPUS = [GpuState(f"GPU-{at}", index=at, minor=at) for at in range(8)]
S = NS_PER_S
UID = 20_777 if os.geteuid() == 0 else os.geteuid()


def text_of(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


@pytest.fixture
def slurm_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in PATH that stands in for Slurm's commands, the outermost edge."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "no-slurm.conf"))
    return tools


def tool(tools: Path, name: str, body: str) -> None:
    (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tools}/calls\n{body}\n')
    (tools / name).chmod(0o755)


@pytest.fixture
def runner() -> Iterator[Callable[..., RpcRunner]]:
    made: list[RpcRunner] = []

    def make(**options: float | tuple[float, float]) -> RpcRunner:
        made.append(RpcRunner(**{"spacing_s": 0.05, "backoff_s": (0.2, 1.0), **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


TASK = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ACCOUNT": "infres",
    "SLURM_JOB_PARTITION": "A100", "SLURM_JOB_NAME": 'a "b"\nc', "SLURM_JOB_USER": "root",
    "SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "256", "SLURMD_NODENAME": "gpu02",
}  # fmt: skip


@pytest.fixture
def process() -> Iterator[Callable[..., int]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(uid: int = UID, **env: str) -> int:
        user = uid if os.geteuid() == 0 else None
        started.append(subprocess.Popen(["/bin/sleep", "60"], env=env, user=user, cwd="/"))
        pid = started[-1].pid
        # the kernel closes what tells Popen of the exec before it has set the environment up
        wait((PROC / str(pid) / "environ").read_bytes)
        return pid

    yield start
    for one in started:
        one.kill()
        one.wait()


class Node:
    """A resolver on a node, with its hooks and its clock in the test's hand."""

    def __init__(self, state: Path, **options: object) -> None:
        self.state, self.now = state, 1000 * S
        self.processes: dict[str, list[int]] = {}
        options = {"procfs": PROC, "forget": True, **options}
        self.resolver = Resolver(state=state, node="gpu02", **options)  # type: ignore[arg-type]

    def hook(self, event: str, jobid: int, *, after_s: float = 0, **env: str) -> None:
        base = {
            "SLURM_JOB_ID": str(jobid), "SLURM_JOB_USER": "alice", "SLURM_JOB_UID": str(UID),
            "SLURM_JOB_ACCOUNT": "infres", "SLURM_JOB_PARTITION": "A100", "SLURM_JOB_GPUS": "2",
            "SLURMD_NODENAME": "gpu02", "SLURM_JOB_CPUS_PER_NODE": "4",
        }  # fmt: skip
        t_ns = self.now + int(after_s * S)
        write(self.state, event, {**base, **env}, t_ns=t_ns, wall_s=time.time())

    def update(self, *usages: JobUsage, after_s: float = 1.0, gpus: object = None) -> dict:
        self.now += int(after_s * S)
        inventory = GPUS if gpus is None else gpus
        return self.resolver.update(
            usages, lambda k: self.processes.get(k, []), inventory, self.now
        )  # type: ignore[arg-type]

    def holders(self) -> dict[str, list[str]]:
        return {job.usage.key: list(job.meta.gpus) for job in self.resolver.hook_jobs()}


def usage(jobid: int, node: str = "", uid: int | None = UID) -> JobUsage:
    return JobUsage(f"{node}/{jobid}", node=node, jobid=jobid, uid=uid)


class Told:
    """Answers that are there at once, in place of the background thread."""

    failure = None

    def __init__(self, **answers: dict[str, object]) -> None:
        self.answers, self.asked = answers, []
        self.outcomes = {"ok": 0}

    def lookup(self, jobid: str) -> dict[str, object] | None:
        self.asked.append(jobid)
        return self.answers.get(f"j{jobid}")

    def forget(self, jobid: str) -> None:
        pass

    def close(self) -> None:
        pass


def environ_of(procfs: Path, pid: int, **env: str | bytes) -> int:
    """A process as /proc shows it, with any environment at all; UID's own."""
    directory = procfs / str(pid)
    directory.mkdir(parents=True, exist_ok=True)
    pairs = [
        name.encode() + b"=" + (v if isinstance(v, bytes) else os.fsencode(v))
        for name, v in env.items()
    ]
    (directory / "environ").write_bytes(b"\0".join(pairs))
    os.chown(directory, UID, -1)
    return pid


def answer_for(number: str, uid: int, **more: object) -> dict[str, object]:
    nodes = {"gpu02": {"cpus": 4, "mem_mb": 100, "gpus": "3"}}
    return {
        "jobid": number, "number": number, "user": f"u{uid}", "uid": uid, "account": f"a{uid}",
        "by": "scontrol", "state": "RUNNING", "nodes": nodes, **more,
    }  # fmt: skip
