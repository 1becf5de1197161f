"""Jobs of several users and accounts that between them do all that a job can do to an accountant."""

import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm.processes import ClusterError

if TYPE_CHECKING:
    from slurmcluster import Cluster

# The name a user may give: quotes, a newline, a backslash, and text that looks like scontrol's.
ODD_NAME = 'a "b" \'c\'\n\\d{e="f"} JobState=RUNNING,\t$(id) é'
# The longest slurmctld takes (MAX_STR_LEN, 1024 with the final zero), for a column of 255 bytes.
LONG_NAME = ('"x ' * 400)[:1022]

BURN = """\
timeout {seconds} bash -c 'for i in $(seq 2 {threads}); do while :; do :; done & done; while :; do :; done'
[ $? = 124 ]"""
# tail keeps a line until its end, and this one has none.
EAT = "head -c {megabytes}M /dev/zero | tail -n 1 > /dev/null"
TWO_STEPS = """\
srun -n1 --gres=gpu:1 --mem=50 --exact sleep 2 &
srun -n1 --gres=gpu:1 --mem=50 --exact sleep 2 &
wait
srun -n2 --mem=50 true
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """One submission: who, how, what, and how it is to end."""

    label: str
    user: str
    args: str
    script: str
    state: str = "COMPLETED"
    name: str = ""


PANEL = (
    Batch("failed", "alice", "-p A100 --gres=gpu:1", "exit 3", "FAILED"),
    Batch("crashed", "alice", "-p A100 --gres=gpu:1", "kill -SEGV $$", "FAILED"),
    Batch("cancelled", "alice", "-p A100 --gres=gpu:1", "sleep 300", "CANCELLED"),
    Batch("array", "alice", "-p V100 --gres=gpu:1 -a 1-4%2", "sleep 1"),
    Batch("two_steps", "alice", "-p V100 --gres=gpu:2 -n2", TWO_STEPS),
    Batch("two_nodes", "bob", "-A lisn -p all -w gpu01,gpu02 -N2 --gres=gpu:1", "srun sleep 3"),
    Batch("gpus_option", "bob", "-A lisn -p A100 --gpus=1 --cpus-per-gpu=2", "sleep 2"),
    Batch("per_task", "carol", "-p A100 --gpus-per-task=1 -n2", "srun sleep 2"),
    Batch("no_gpu", "bob", "-A ltci -p CPU -n4", BURN.format(seconds=1.5, threads=2)),
    Batch(
        "requeued",
        "carol",
        "-p CPU --requeue",
        "[ ${SLURM_RESTART_COUNT:-0} -gt 0 ] && exec sleep 1; sleep 300",
    ),
    Batch("suspended", "carol", "-p A100 --gres=gpu:1", "sleep 4"),
    Batch("odd_name", "bob", '-A ltci -p CPU --comment={"p":1}', "sleep 1", name=ODD_NAME),
    Batch("long_name", "alice", "-p CPU", "sleep 1", name=LONG_NAME),
    Batch("short", "bob", "-A lisn -p A100 --gres=gpu:1", "sleep 0.2"),
)
HETERO = Batch("hetero", "alice", "-p A100 --gres=gpu:1 : -p CPU -n2", "sleep 2")
OOM = Batch(
    "oom",
    "bob",
    "-A lisn -p A100 --gres=gpu:a100:1 --mem=60",
    EAT.format(megabytes=400),
    "OUT_OF_MEMORY",
)
TIMEOUT = Batch("timeout", "bob", "-A ltci -p A100 --gres=gpu:1 -t 1", "sleep 300", "TIMEOUT")


def submit(cluster: "Cluster", batch: Batch) -> int:
    """Queue one batch of the panel."""
    name = ["-J", batch.name or batch.label]
    return cluster.submit(batch.user, *name, *batch.args.split(), script=batch.script)


def panel(cluster: "Cluster", *, timeout: bool = False) -> tuple[Batch, ...]:
    """The batches this cluster can run: nothing limits memory without cgroups."""
    oom = () if cluster.mode == "linuxproc" else (OOM,)
    return (*PANEL, HETERO, *oom, *((TIMEOUT,) if timeout else ()))


def run(cluster: "Cluster", *, timeout: bool = False, only: Collection[str] = ()) -> dict[str, int]:
    """
    Submit the panel and do to the jobs what is to be done to them; their ids by label.

    A direct srun is added as `direct`. `only` chooses labels. On return the queue may still be
    busy: see `wait_empty`.
    """
    chosen = [b for b in panel(cluster, timeout=timeout) if not only or b.label in only]
    jobs = {batch.label: submit(cluster, batch) for batch in chosen}
    if "suspended" in jobs:
        suspend(cluster, jobs["suspended"], 1.0)
    if "cancelled" in jobs:
        cluster.wait(jobs["cancelled"], ["RUNNING"])
        cluster.cancel(jobs["cancelled"])
    if "requeued" in jobs:
        requeue(cluster, jobs["requeued"])
    if not only or "direct" in only:
        jobs["direct"] = direct(cluster, "alice", "-p", "A100", "--gres=gpu:2", "-n1")
    return jobs


def direct(
    cluster: "Cluster", user: str, *args: str, command: Sequence[str] = ("sleep", "1")
) -> int:
    """A job of srun alone, awaited; its id."""
    script = 'echo $SLURM_JOB_ID; exec "$@"'
    done = cluster.srun(user, *args, "bash", "-c", script, "bash", *command)
    if done.returncode != 0:
        raise ClusterError(f"srun: {done.stderr.strip()}")
    return int(done.stdout.split()[0])


def suspend(cluster: "Cluster", jobid: int, seconds: float) -> None:
    """Stop a running job for a while; its GPUs stay its own."""
    cluster.wait(jobid, ["RUNNING"])
    cluster.run("scontrol", "suspend", str(jobid))
    cluster.wait(jobid, ["SUSPENDED"])
    time.sleep(seconds)
    cluster.run("scontrol", "resume", str(jobid))


def requeue(cluster: "Cluster", jobid: int) -> None:
    """Send a running job back to the queue; it starts again under the same id."""
    cluster.wait(jobid, ["RUNNING"])
    cluster.run("scontrol", "requeue", str(jobid))
    cluster.wait(jobid, ["PENDING"])
    # Slurm would let it wait two minutes; sooner than the next second, slurmd takes it for killed.
    cluster.run("scontrol", "update", f"JobId={jobid}", "StartTime=now+2")


@dataclass(frozen=True, slots=True)
class Burn:
    """A job that keeps `threads` CPUs busy for `seconds`."""

    jobid: int
    seconds: float
    threads: int


def burst(
    cluster: "Cluster",
    count: int,
    *,
    user: str = "alice",
    shortest: float = 0.2,
    longest: float = 5.0,
    threads: int = 1,
    args: Sequence[str] = ("-p", "A100", "--gres=gpu:8"),
    seed: int = 1,
) -> list[Burn]:
    """
    Queue jobs that burn CPU, their durations drawn log-uniformly, then let them go together.

    As given they ask for all GPUs of a node and so run one after another; with fewer GPUs each,
    several at once.
    """
    draw = random.Random(seed)
    burns = []
    for index in range(count):
        seconds = round(shortest * (longest / shortest) ** draw.random(), 2)
        script = BURN.format(seconds=seconds, threads=threads)
        options = ("-H", "-J", f"burn{index}", "-c", str(threads), *args)
        burns.append(Burn(cluster.submit(user, *options, script=script), seconds, threads))
    cluster.run("scontrol", "release", ",".join(str(burn.jobid) for burn in burns))
    return burns
