"""Ask slurmctld about a job by ``scontrol -o show job -d``, and read what it prints. In the child only (rpc.py)."""

from __future__ import annotations

import calendar
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

from jobwatt.slurm.answers import HOLDING, AskError, plain
from jobwatt.slurm.gpus import gres_indexes
from jobwatt.slurm.text import MAX_NODES, clean, expand_nodes, indexes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobwatt.slurm.answers import Record

SCONTROL_S = 30  # the parent's limit comes first; this one is for a person who runs it by hand
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
        "account": plain(fields.get("Account")),
        "partition": plain(fields.get("Partition")),
        "qos": plain(fields.get("QOS")),
        "name": clean(name),
        "array_job_id": head["array"] or "",
        "array_task_id": task if task.isdecimal() else "",
        "state": plain(fields.get("JobState")),
        "exit_code": plain(fields.get("ExitCode")),
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
