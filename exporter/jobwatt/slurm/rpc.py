"""
The child process that asks slurmctld: ``python -m jobwatt.slurm.rpc JOBID ...``.

One line of JSON on stdout per job, as soon as it is known; one line on stderr and exit 1 where
slurmctld cannot be asked. It may hang and it may be killed at any moment: slurm/controller.py
keeps the time.

pyslurm where it can be imported and a slurm.conf is readable (without one the import ends the
process), else ``scontrol -o show job -d ID`` per job.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from jobwatt.slurm.gpus import gres_indexes, layout_indexes
from jobwatt.slurm.text import MAX_NODES, clean, expand_nodes, indexes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

Record = dict[str, Any]

CONFS = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
SCONTROL_S = 30  # the parent's limit comes first; this one is for a person who runs it by hand
HOLDING = (
    "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "STOPPED", "RESIZING", "SIGNALING",
    "STAGE_OUT",
)  # fmt: skip
ENDED = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED",
    "BOOT_FAIL", "DEADLINE",
)  # fmt: skip
ASKABLE = re.compile(r"[0-9]{1,10}|s[0-9A-Za-z]{13}")
# Slurm prints keys in one order (slurm_sprint_job_info in job_info.c): ids, JobName, then these.
# JobName before them and Comment, Command, WorkDir ... behind are free text of the user.
_HEAD = re.compile(
    r"\AJobId=(?P<jobid>[1-9][0-9]{0,9}) (?:ArrayJobId=(?P<array>\d+) )?"
    r"(?:ArrayTaskId=(?P<task>\S+) )?(?:ArrayTaskThrottle=\d+ )?(?:HetJobId=\d+ )?"
    r"(?:HetJobOffset=\d+ )?JobName="
)
_OWNER = (
    r"(?: SLUID=(?P<sluid>s[0-9A-Z]{13}))?(?: HetJobIdSet=[0-9,\-]+)?"  # a SLUID since 25.11
    r" UserId=(?P<user>[^()=\n]+)\((?P<uid>[0-9]{1,10})\) GroupId=[^()=\n]+\(\d+\) MCS_label="
)
_ANCHOR = re.compile(_OWNER)
_BODY_END = re.compile(r" MinCPUsNode=| Command=")
_KEY = re.compile(r" (\w+)=(\S*)")
_LAYOUT = " JOB_GRES="  # what a job holds, node by node, stands behind it
_NODES = re.compile(r" Nodes=(\S+) CPU_IDs=(\S*) Mem=([0-9]{1,12}) GRES=(\S*)")


class AskError(Exception):
    """slurmctld could not be asked; the message says why."""


class AmbiguousError(Exception):
    """The text could be read in more than one way: somebody's free text imitates a record."""


def parse_scontrol(text: str, name: str | None = None) -> Record:
    """
    One job from the text of ``scontrol -o show job -d`` (times as in TZ=UTC).

    A job's name, comment, command and paths are its user's, may hold blanks, line breaks and
    copies of every key, and are never quoted. The owner's block behind the name is what all else
    hangs on. Where it occurs more than once (several records, or an imitation) only the exact
    job name tells which is the real one: AmbiguousError without ``name``. Raises ValueError for
    text that is no job.
    """
    head = _HEAD.match(text)
    if head is None:
        raise ValueError(f"not a job record: {text[:80]!r}")
    anchors = list(_ANCHOR.finditer(text, head.end()))
    if name is not None:
        begins = text.startswith(name, head.end())
        behind = _ANCHOR.match(text, head.end() + len(name)) if begins else None
        anchors = [behind] if behind else []
    if len(anchors) != 1:
        raise AmbiguousError(f"{len(anchors)} owners in the record of job {head['jobid']}")
    owner = anchors[0]
    return _record(head, owner, text[head.end() : owner.start()], text[owner.end() :])


def _record(head: re.Match[str], owner: re.Match[str], name: str, rest: str) -> Record:
    end = _BODY_END.search(rest)
    body = rest[: end.start()] if end else rest
    words, _, layout = body.rpartition(_LAYOUT) if _LAYOUT in body else (body, "", "")
    fields = dict(reversed(_KEY.findall(words)))  # first one wins
    task = head["task"] or ""
    return {
        "jobid": head["jobid"],
        "sluid": owner["sluid"] or "",
        "user": clean(owner["user"]),
        "uid": int(owner["uid"]),
        "account": _text(fields.get("Account")),
        "partition": _text(fields.get("Partition")),
        "qos": _text(fields.get("QOS")),
        "name": clean(name),
        "array_job_id": head["array"] or "",
        "array_task_id": task if task.isdecimal() else "",
        "state": _text(fields.get("JobState")),
        "exit_code": _text(fields.get("ExitCode")),
        "start_s": _unix(fields.get("StartTime")),
        "end_s": _unix(fields.get("EndTime")),
        "limit_s": _duration(fields.get("TimeLimit")),
        "nodes": _nodes(layout) if fields.get("JobState") in HOLDING else {},
        "by": "scontrol",
    }


def _nodes(layout: str) -> dict[str, Record]:
    """``Nodes=gpu[01-02] CPU_IDs=0-1 Mem=600 GRES=gpu:a100:2(IDX:0-1)``, per node of each group."""
    nodes: dict[str, Record] = {}
    for group, cpus, mem, gres in _NODES.findall(layout):
        if len(nodes) > MAX_NODES:
            break
        try:
            share = {"cpus": len(indexes(cpus)), "mem_mb": int(mem), "gpus": gres_indexes(gres)}
            nodes.update((node, share) for node in expand_nodes(group))
        except ValueError:
            continue
    return nodes


def _text(value: object) -> str:
    return "" if value in (None, "(null)", "N/A", "None") else clean(str(value))


def _unix(value: str | None) -> int:
    try:
        return max(calendar.timegm(time.strptime(value or "", "%Y-%m-%dT%H:%M:%S")), 0)
    except ValueError:  # Unknown, N/A
        return 0


def _duration(value: str | None) -> int:
    """``[DAYS-]HH:MM:SS`` as seconds; 0 for UNLIMITED."""
    match = re.fullmatch(r"(?:([0-9]{1,7})-)?([0-9]{1,7}):([0-9]{2}):([0-9]{2})", value or "")
    if match is None:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


# -- scontrol -------------------------------------------------------------------------------------


def by_scontrol(jobid: str) -> Record:
    """Ask scontrol: one call, and up to three more where the first answer is ambiguous."""
    record, calls = _plain(jobid), 1
    if record is None:
        record, extra = _careful(jobid)
        calls += extra
    return {**record, "calls": calls}


def _plain(jobid: str) -> Record | None:
    text = _show(jobid)
    if not text:
        return {"jobid": jobid, "unknown": True}
    try:
        record = parse_scontrol(text)
    except AmbiguousError:
        return None
    # An array's own id is also that of its last task; alone it may show another task instead.
    return _asked(record, jobid)


def _careful(jobid: str) -> tuple[Record, int]:
    """
    Single the record out: its display id, then its exact name, from output nobody can imitate.

    ``%A`` and ``%i`` are numbers Slurm made; ``%i`` (``4_1``, ``10+0``) names a single record of
    an array or a heterogeneous job. Ended jobs too: a short one is asked about after its end.
    Returns the record and how many calls it took.
    """
    unknown, shown = {"jobid": jobid, "unknown": True}, ""
    for line in _call(["squeue", "-h", "-a", "-t", "all", "-j", jobid, "-o", "%A|%i"]).splitlines():
        raw, _, display = line.partition("|")
        if raw == jobid or jobid.startswith("s"):  # of a SLUID squeue has one line
            shown = display.strip()
    if not re.fullmatch(r"\d+(?:[_+]\d+)?", shown):
        return unknown, 1
    text, calls = _show(shown), 2
    try:
        record = _asked(parse_scontrol(text), jobid)
    except AmbiguousError:
        calls += 1
        name = _call(["squeue", "-h", "-a", "-t", "all", "-j", shown, "-o", "%j"]).removesuffix(
            "\n"
        )
        record = _named(text, name, jobid)
    return record or unknown, calls


def _named(text: str, name: str, jobid: str) -> Record | None:
    try:
        return _asked(parse_scontrol(text, name), jobid)
    except AmbiguousError:  # renamed or ended between the calls
        return None


def _asked(record: Record, jobid: str) -> Record | None:
    if jobid.startswith("s"):  # a SLUID names one job, whatever its number
        same = record["sluid"].lower() == jobid.lower()
        return {**record, "jobid": jobid, "number": record["jobid"]} if same else None
    return record if record["jobid"] == jobid else None


def _show(jobid: str) -> str:
    return _call(["scontrol", "-o", "show", "job", "-d", jobid])


def _call(argv: Sequence[str]) -> str:
    """Stdout; "" for an id Slurm does not know. Raises AskError for every other trouble."""
    env = {**os.environ, "TZ": "UTC", "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            argv, env=env, capture_output=True, timeout=SCONTROL_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError as err:
        raise AskError(f"{argv[0]} is not in PATH and no pyslurm fits") from err
    except subprocess.TimeoutExpired as err:
        raise AskError(f"{argv[0]} did not answer in {SCONTROL_S} s") from err
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "surrogateescape")
    trouble = done.stderr.decode("utf-8", "replace").strip()
    if "Invalid job id" in trouble:
        return ""
    raise AskError(clean(f"{argv[0]}: {trouble or f'exit {done.returncode}'}", 300))


# -- pyslurm --------------------------------------------------------------------------------------


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
        "user": _text(_get(job, "user_name", "")),
        "uid": uid if isinstance(uid, int) else None,
        "account": _text(_get(job, "account", "")),
        "partition": _text(_get(job, "partition", "")),
        "qos": _text(_get(job, "qos", "")),
        "name": _text(_get(job, "name", "")),
        "array_job_id": str(_get(job, "array_id", "") or ""),
        "array_task_id": str(task) if isinstance(task, int) else "",
        "state": _text(state),
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


def main(argv: Sequence[str]) -> int:
    """Answer each id in turn; the exit status is 1 where slurmctld could not be asked."""
    pyslurm = load_pyslurm()
    try:
        for jobid in (arg for arg in argv if ASKABLE.fullmatch(arg)):
            numeric = pyslurm is not None and jobid.isdecimal()
            answer = by_pyslurm(pyslurm, jobid) if pyslurm and numeric else by_scontrol(jobid)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except AskError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    except ValueError as err:
        sys.stderr.write(f"an answer of slurm's could not be read: {clean(str(err), 200)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
