"""Ask slurmctld about a job by pyslurm, where one can be imported. In the child only (rpc.py)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from jobwatt.slurm.answers import HOLDING, AskError, plain
from jobwatt.slurm.gpus import layout_indexes
from jobwatt.slurm.text import clean, indexes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from jobwatt.slurm.answers import Record

CONFS = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")


def load_pyslurm() -> ModuleType | None:
    """
    pyslurm, or None where it is missing, does not fit, or could only end this process.

    SLURM_CONF naming a missing file would block for a minute, no slurm.conf at all ends the
    process (seen with 22.5.3).
    """
    conf = os.environ.get("SLURM_CONF")
    if not any(os.access(path, os.R_OK) for path in ((conf,) if conf else CONFS)):
        return None
    try:
        import pyslurm  # noqa: PLC0415  optional, and only ever in this child
    except ImportError:  # missing, or built for another libslurm
        return None
    return pyslurm if hasattr(pyslurm, "Job") else None


def by_pyslurm(pyslurm: ModuleType, jobid: str) -> Record:
    """Ask pyslurm (22.5 or later). Attributes one by one: single ones raise in 22.5.3."""
    try:
        job = pyslurm.Job.load(int(jobid))
    except pyslurm.RPCError as err:
        if "Invalid job id" in str(err):
            return {"jobid": jobid, "unknown": True, "calls": 1}
        raise AskError(clean(f"pyslurm: {err}", 300)) from err
    state = _get(job, "state", "")
    task = _get(job, "array_task_id", None)
    uid = _get(job, "user_id", None)
    return {
        "jobid": jobid,
        "user": plain(_get(job, "user_name", "")),
        "uid": uid if isinstance(uid, int) else None,
        "account": plain(_get(job, "account", "")),
        "partition": plain(_get(job, "partition", "")),
        "qos": plain(_get(job, "qos", "")),
        "name": plain(_get(job, "name", "")),
        "array_job_id": str(_get(job, "array_id", "") or ""),
        "array_task_id": str(task) if isinstance(task, int) else "",
        "state": plain(state),
        "exit_code": _exit_code(job),
        "start_s": _number(_get(job, "start_time", 0)),
        "end_s": _number(_get(job, "end_time", 0)),
        "limit_s": 60 * _number(_get(job, "time_limit", 0)),  # minutes, or "UNLIMITED"
        "nodes": _layout(job) if state in HOLDING else {},
        "by": "pyslurm",
        "calls": 1,
    }


def _get(job: object, name: str, absent: object) -> object:
    try:
        return getattr(job, name)
    except (AttributeError, TypeError, ValueError, KeyError):
        return absent


def _exit_code(job: object) -> str:
    code, signal = _get(job, "exit_code", None), _get(job, "exit_code_signal", None)
    return f"{code}:{signal if isinstance(signal, int) else 0}" if isinstance(code, int) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _layout(job: Any) -> dict[str, Record]:
    """``{'gpu02': {'cpu_ids' (later 'cpus'): '0-1', 'gres': {...}, 'memory': MB}}``."""
    try:
        layout: Mapping[str, Mapping[str, Any]] = job.get_resource_layout_per_node()
    except (AttributeError, TypeError, ValueError, KeyError):
        return {}
    nodes: dict[str, Record] = {}
    for node, share in layout.items():
        memory = share.get("memory_raw", share.get("memory"))
        try:
            cpus = len(indexes(str(share.get("cpu_ids", share.get("cpus", "")))))
        except ValueError:
            cpus = 0
        gres = share.get("gres")
        gpus = layout_indexes(gres) if isinstance(gres, dict) else ""
        nodes[str(node)] = {"cpus": cpus, "mem_mb": _number(memory), "gpus": gpus}
    return nodes
