"""What a hook's record says, made fit to be shown. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobwatt.slurm.text import clean, cpus_on_node, is_jobid, number

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_WALL_S = 1e11  # the year 5138


@dataclass(frozen=True, slots=True)
class HookRecord:
    """
    What slurmd said of a job as it began or ended here. Strings are fit to be shown.

    Attributes:
        event: ``prolog`` or ``epilog``.
        gpus: SLURM_JOB_GPUS, right on every node; "" where Slurm set none.
        cuda_visible: CUDA_VISIBLE_DEVICES, global in a Prolog (shards, MIG UUIDs).
        cpus: reserved on this node; 0 where unknown.
        start_s, end_s: Unix times as Slurm says (``end_s`` in a prolog: when the limit strikes);
            0 where it does not (before 23.02).
        exit_code: SLURM_JOB_EXIT_CODE2, ``CODE:SIGNAL``; a cancelled job has ``0:0`` too.
        t_ns, wall_s: CLOCK_BOOTTIME and Unix time of the hook itself.
    """

    event: str
    jobid: str
    node: str
    user: str = ""
    uid: int | None = None
    account: str = ""
    partition: str = ""
    qos: str = ""
    name: str = ""
    sluid: str = ""
    array_job_id: str = ""
    array_task_id: str = ""
    gpus: str = ""
    cuda_visible: str = ""
    cpus: int = 0
    exit_code: str = ""
    start_s: int = 0
    end_s: int = 0
    t_ns: int = 0
    wall_s: float = 0.0
    boot_id: str = ""


def parse(raw: Mapping[str, object]) -> HookRecord:
    """A record from the variables a hook stored. Raises ValueError or KeyError for anything odd."""
    env = {name: value for name, value in raw.items() if isinstance(value, str)}
    node, nodelist = env["node"], env.get("SLURM_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    t_ns, wall_s = raw["t_ns"], raw["wall_s"]
    if not isinstance(t_ns, int) or not isinstance(wall_s, (int, float)):
        raise ValueError("t_ns or wall_s is not a number")  # noqa: TRY004  one fault, one type
    if not (0 <= t_ns < 1 << 63 and 0 <= wall_s < MAX_WALL_S and is_jobid(env["SLURM_JOB_ID"])):
        raise ValueError("t_ns, wall_s or SLURM_JOB_ID is out of range")
    uid = env.get("SLURM_JOB_UID", "")
    return HookRecord(
        event=env["event"],
        jobid=env["SLURM_JOB_ID"],
        node=node,
        user=clean(env.get("SLURM_JOB_USER", "")),
        uid=number(uid) if uid.isascii() and uid.isdigit() and len(uid) <= 10 else None,
        account=clean(env.get("SLURM_JOB_ACCOUNT", "")),
        partition=clean(env.get("SLURM_JOB_PARTITION", "")),
        qos=clean(env.get("SLURM_JOB_QOS", "")),
        name=clean(env.get("SLURM_JOB_NAME", "")),
        sluid=clean(env.get("SLURM_JOB_SLUID", "")),
        array_job_id=clean(env.get("SLURM_ARRAY_JOB_ID", "")),
        array_task_id=clean(env.get("SLURM_ARRAY_TASK_ID", "")),
        gpus=env.get("SLURM_JOB_GPUS", ""),
        cuda_visible=env.get("CUDA_VISIBLE_DEVICES", ""),
        cpus=cpus_on_node(env.get("SLURM_JOB_CPUS_PER_NODE", ""), nodelist, node),
        exit_code=clean(env.get("SLURM_JOB_EXIT_CODE2", ""), 32),
        start_s=number(env.get("SLURM_JOB_START_TIME", "")),
        end_s=number(env.get("SLURM_JOB_END_TIME", "")),
        t_ns=t_ns,
        wall_s=float(wall_s),
        boot_id=env.get("boot_id", ""),
    )
