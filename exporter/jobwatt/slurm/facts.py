"""What one source says of a job, in one form, and how several such words become a ``JobMeta``."""

from __future__ import annotations

import os
import pwd
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobwatt.model import JobMeta
from jobwatt.slurm.gpus import has_uuids
from jobwatt.slurm.text import clean, cpus_on_node, is_jobid, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from jobwatt.slurm.hookrecord import HookRecord

MAX_ENVIRON = 1 << 20
MAX_PROCESSES = 16
MAX_VALUE = 4096  # a longer value is left out, as slurm/hooks.py does: nothing of Slurm's is
MAX_MEM = 1 << 50
MIB = 1 << 20
SURE = ("hook", "pyslurm", "scontrol")  # no user writes what these say
# A local password file answers well within this; waiting for it keeps a series from beginning
# without its user. A directory server may take longer, and then the name follows.
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Facts:
    """
    One source's words; "" , 0 and None mean that it does not say.

    ``gpus`` is in Slurm's notation for this node, "" where the source says that the job holds
    none, None where it does not say. ``state`` and ``exit_code`` are slurmctld's words.
    """

    by: str
    jobid: str = ""
    node: str = ""
    user: str = ""
    uid: int | None = None
    account: str = ""
    partition: str = ""
    qos: str = ""
    name: str = ""
    array_job_id: str = ""
    array_task_id: str = ""
    cpus: int = 0
    mem_bytes: int | None = None
    gpus: str | None = None
    start_s: int = 0
    end_s: int = 0
    limit_end_s: int = 0
    state: str = ""
    exit_code: str = ""


def from_hook(record: HookRecord) -> Facts:
    """
    From a Prolog's record: right on every node (SLURM.md's table).

    ``CUDA_VISIBLE_DEVICES`` is global there: UUIDs in it (MIG) need no numbering and go first.
    Where both are missing the hook does not say: gres.conf without device files sets neither.
    """
    uuids = record.cuda_visible if has_uuids(record.cuda_visible) else ""
    return Facts(
        by="hook",
        jobid=record.jobid,
        node=record.node,
        user=record.user,
        uid=record.uid,
        account=record.account,
        partition=record.partition,
        qos=record.qos,
        name=record.name,
        array_job_id=record.array_job_id,
        array_task_id=record.array_task_id,
        cpus=record.cpus,
        gpus=uuids or record.gpus or record.cuda_visible or None,
        start_s=record.start_s or int(record.wall_s),
        limit_end_s=record.end_s,
    )


def from_answer(answer: Mapping[str, Any], node: str) -> Facts:
    """From slurmctld (slurm/rpc.py); ``node`` is this node's name in Slurm, "" if not known."""
    nodes: Mapping[str, Mapping[str, Any]] = answer.get("nodes") or {}
    if node not in nodes and len(nodes) == 1 and not node:
        node = next(iter(nodes))
    share = nodes.get(node, {})
    start_s, limit_s = int(answer.get("start_s") or 0), int(answer.get("limit_s") or 0)
    memory = int(share.get("mem_mb") or 0) * MIB
    return Facts(
        by=str(answer.get("by", "")),
        jobid=str(answer.get("number") or answer.get("jobid", "")),
        node=node,
        user=clean(str(answer.get("user") or "")),
        uid=answer.get("uid"),
        account=clean(str(answer.get("account") or "")),
        partition=clean(str(answer.get("partition") or "")),
        qos=clean(str(answer.get("qos") or "")),
        name=clean(str(answer.get("name") or "")),
        array_job_id=clean(str(answer.get("array_job_id") or "")),
        array_task_id=clean(str(answer.get("array_task_id") or "")),
        cpus=int(share.get("cpus") or 0),
        mem_bytes=memory if 0 < memory <= MAX_MEM else None,
        gpus=share.get("gpus"),
        start_s=start_s,
        end_s=int(answer.get("end_s") or 0),
        limit_end_s=start_s + limit_s if start_s and limit_s else 0,
        state=clean(str(answer.get("state") or "")),
        exit_code=clean(str(answer.get("exit_code") or ""), 32),
    )


def read_environ(procfs: Path, pids: Iterable[int], uid: int | None, jobid: str) -> Facts | None:
    """
    From the environment of a job's own processes; None where none of them tells.

    Only processes of the job's user are read (``step_extern`` runs a ``sleep`` of root's), at
    most ``MAX_PROCESSES``, the oldest first: a child's environment is its parent's doing. The
    owner of the environment may have written it, so it never tells the user, and is believed
    only if it names ``jobid`` (where that is known).
    """
    found: list[dict[str, str]] = []
    for pid in sorted(pids)[:MAX_PROCESSES]:
        env = _environ(procfs / str(pid), uid)
        if is_jobid(env.get("SLURM_JOB_ID", "")) and jobid in ("", env["SLURM_JOB_ID"]):
            jobid = env["SLURM_JOB_ID"]
            found.append(env)
    return from_environs(found) if found else None


def from_environs(envs: Sequence[Mapping[str, str]]) -> Facts:
    """From the environments of one job's tasks on this node (at least one)."""
    env = envs[0]
    node, nodelist = env.get("SLURMD_NODENAME", ""), env.get("SLURM_JOB_NODELIST", "")
    cpus = cpus_on_node(env.get("SLURM_JOB_CPUS_PER_NODE", ""), nodelist, node)
    cpus = cpus or number(env.get("SLURM_CPUS_ON_NODE"), 6)
    per_cpu = number(env.get("SLURM_MEM_PER_CPU")) * cpus
    mem_bytes = (number(env.get("SLURM_MEM_PER_NODE")) or per_cpu) * MIB
    return Facts(
        by="environ",
        jobid=env.get("SLURM_JOB_ID", ""),
        node=clean(node),
        account=clean(env.get("SLURM_JOB_ACCOUNT", "")),
        partition=clean(env.get("SLURM_JOB_PARTITION", "")),
        qos=clean(env.get("SLURM_JOB_QOS", "")),
        name=clean(env.get("SLURM_JOB_NAME", "")),
        array_job_id=clean(env.get("SLURM_ARRAY_JOB_ID", ""), 20),
        array_task_id=clean(env.get("SLURM_ARRAY_TASK_ID", ""), 20),
        cpus=cpus,
        mem_bytes=mem_bytes if 0 < mem_bytes <= MAX_MEM else None,
        gpus=_environ_gpus(envs),
        start_s=number(env.get("SLURM_JOB_START_TIME")),
        limit_end_s=number(env.get("SLURM_JOB_END_TIME")),
    )


def merge(
    hook: Facts | None,
    answer: Facts | None,
    environ: Facts | None,
    user: str,
    uid: int | None,
    memory: Facts | None = None,
) -> JobMeta:
    """
    Each field from the first source that tells it: hook, slurmctld, environment.

    ``user`` and ``uid`` are what the kernel and the password file say; GPUs are left out.
    ``memory`` is what was known before a restart: of the hook or slurmctld it goes before the
    environment, which its user may have changed since, else it comes last.
    """
    sure = memory if memory is not None and memory.by in SURE else None
    unsure = memory if sure is None else None
    told = [facts for facts in (hook, answer, sure, environ, unsure) if facts is not None]
    first = _first(told)
    limit = [facts for facts in (answer, hook, sure, environ, unsure) if facts is not None]
    named = [facts for facts in (answer, sure, environ, hook, unsure) if facts is not None]
    return JobMeta(
        jobid=first("jobid"),
        user=first("user") or user,
        uid=uid,
        account=first("account"),
        partition=first("partition"),
        qos=first("qos"),
        name=_first(named)("name"),
        array_job_id=first("array_job_id"),
        array_task_id=first("array_task_id"),
        cpus_alloc=first("cpus") or 0,
        mem_alloc_bytes=first("mem_bytes") or None,
        start_s=_first(limit)("start_s") or 0,
        limit_end_s=_first(limit)("limit_end_s") or 0,
        resolved_by=told[0].by if told else "",
    )


class UserNames:
    """
    uid -> user name, looked up in the background: a directory server may take its time.

    A uid without a name is shown as its number, and asked about again after ``RETRY_S``.
    """

    RETRY_S = 600.0

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, float]] = {}
        self._running: set[int] = set()

    def get(self, uid: int) -> str:
        """Tell the name, or "" while it is being looked up."""
        name, until = self._names.get(uid, ("", 0.0))
        if time.monotonic() >= until and uid not in self._running and len(self._running) < 8:
            self._running.add(uid)
            look = threading.Thread(target=self._look, args=(uid,), daemon=True)
            look.start()
            look.join(LOOK_S)
            name = self._names.get(uid, ("", 0.0))[0]
        return name

    def _look(self, uid: int) -> None:
        until = float("inf")
        try:
            name = clean(pwd.getpwuid(uid).pw_name)
        except KeyError:
            name, until = str(uid), time.monotonic() + self.RETRY_S
        self._names[uid] = (name, until)
        self._running.discard(uid)


def _first(told: Sequence[Facts]) -> Any:
    def first(field: str) -> Any:
        return next((value for facts in told if (value := getattr(facts, field))), "")

    return first


def _environ_gpus(envs: Sequence[Mapping[str, str]]) -> str | None:
    """
    SLURM_JOB_GPUS is right, and the whole job's, on a single node, and another node's elsewhere.

    SLURM_STEP_GPUS is this node's, but one step's: the tasks' are put together.
    CUDA_VISIBLE_DEVICES counts from 0 in each job, so only UUIDs there mean anything.
    """
    for env in envs:
        if env.get("SLURM_JOB_GPUS") and env.get("SLURM_JOB_NUM_NODES") == "1":
            return env["SLURM_JOB_GPUS"]
    for name in ("SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"):
        told = dict.fromkeys(env[name] for env in envs if env.get(name))
        told = {spec: None for spec in told if name != "CUDA_VISIBLE_DEVICES" or has_uuids(spec)}
        if told:
            return ",".join(told)
    return None


def _environ(process: Path, uid: int | None) -> dict[str, str]:
    try:
        owner = process.stat().st_uid
        if owner != uid and (uid is not None or owner == 0):
            return {}
        file = os.open(process / "environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # gone, or not ours to read
        return {}
    try:
        data = _read_all(file)
    except OSError:
        return {}
    finally:
        os.close(file)
    pairs = (line.partition(b"=") for line in data.split(b"\0"))
    wanted = (b"SLURM", b"CUDA_VISIBLE_DEVICES")
    return {
        os.fsdecode(name): os.fsdecode(value)
        for name, _, value in pairs
        if name.startswith(wanted) and len(value) <= MAX_VALUE
    }


def _read_all(file: int) -> bytes:
    """One read of /proc/PID/environ gives at most a page; a task's environment has several."""
    data = b""
    while len(data) < MAX_ENVIRON and (more := os.read(file, 65_536)):
        data += more
    return data
