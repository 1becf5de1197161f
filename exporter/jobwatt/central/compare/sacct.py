"""
A job in Slurm's own accounting: `sacct -j JOB -P`, asked or read from a file.

Read by header, whatever columns there are: a file may come from `sacct -P` with other --format's
(Green Algorithms 4 HPC keeps such). Times are [DD-]HH:MM:SS[.mmm], memory as in "250G", "6760Mc"
(per CPU) and "250Gn" (per node), TRES as in "cpu=32,mem=250G,node=1,gres/gpu:a100=2" (sacct(1)).
"""

from __future__ import annotations

import csv
import io
import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figures import CompareError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FIELDS = "JobIDRaw,JobID,State,Elapsed,NNodes,AllocCPUS,TotalCPU,CPUTime,ReqMem,AllocTRES"
COMMAND = ("sacct",)
_TIMEOUT_S = 30.0  # slurmdbd answers about one job in well under a second
_MOST_BYTES = 16 << 20
_JOBID = re.compile(r"\d{1,10}(?:[_+]\d{1,10})?")
_TIME = re.compile(r"(?:(\d{1,6})-)?(?:(\d{1,6}):)?(\d{1,6}):(\d{1,2})(?:\.(\d{1,6}))?")
_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([KMGTP]?)([cn]?)", re.IGNORECASE)
_GPU = re.compile(r"gres/gpu(?::([\w.-]{1,40}))?=(\d{1,6})")
_GB = {"K": 1e-6, "": 1e-3, "M": 1e-3, "G": 1.0, "T": 1e3, "P": 1e6}  # megabytes without a unit


@dataclass(frozen=True, slots=True)
class Job:
    """
    What Slurm booked for a job.

    Attributes:
        cpu_s: CPU seconds used, 0 where Slurm did not gather them (no jobacct_gather).
        memory_gb: what was reserved, in all.
        gpus: reserved GPUs by type ("" where the type has no name).
    """

    jobid: str
    state: str
    seconds: float
    nodes: int
    cpus: int
    cpu_s: float
    memory_gb: float
    gpus: Mapping[str, int]


def ask(jobid: str, command: Sequence[str] = COMMAND) -> Job:
    """Run sacct for one job."""
    if not _JOBID.fullmatch(jobid):
        raise CompareError(f"--job {jobid}: not a job id such as 1234 or 1234_5")
    # not -X: without its steps a job's TotalCPU is 0
    argv = [*command, "-j", jobid, "-P", f"--format={FIELDS}"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            code = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                timeout=_TIMEOUT_S, check=False,
            ).returncode  # fmt: skip
        except FileNotFoundError as error:
            raise CompareError(
                "sacct is not here; run this where Slurm's commands are, or give --sacct FILE"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise CompareError(f"sacct gave no answer within {_TIMEOUT_S:g} s") from error
        if code:
            err.seek(0)
            said = " ".join(err.read(1000).decode("utf-8", "replace").split())[:200]
            raise CompareError(f"sacct: {said or f'exit {code}'}")
        out.seek(0)
        return parse(out.read(_MOST_BYTES).decode("utf-8", "replace"), jobid)


def read(path: Path, jobid: str) -> Job:
    """The job in a file that `sacct -P` wrote."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError as err:
        raise CompareError(f"{path}: cannot be read ({err.strerror})") from err
    try:
        return parse(text, jobid)
    except CompareError as err:
        raise CompareError(f"{path}: {err}") from err


def parse(text: str, jobid: str) -> Job:
    """The job's line in sacct's output; the last one where it was requeued."""
    rows = csv.reader(io.StringIO(text.replace("\0", "")), delimiter="|", quoting=csv.QUOTE_NONE)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if "jobid" not in header and "jobidraw" not in header:
            raise CompareError("no column JobID; give what `sacct -P` prints, its header included")
        named = (dict(zip(header, row, strict=False)) for row in rows if len(row) == len(header))
        found: dict[str, str] = {}
        for row in named:
            if jobid in {row.get("jobid"), row.get("jobidraw")}:
                found = row
    except csv.Error as err:
        raise CompareError(f"not sacct's output ({err})") from err
    if not found:
        raise CompareError(f"Slurm's accounting has no job {jobid}")
    return _job(found, jobid)


def _job(row: Mapping[str, str], jobid: str) -> Job:
    tres = row.get("alloctres", "")
    nodes = _whole(row.get("nnodes")) or _whole(_tres(tres, "node")) or 1
    cpus = _whole(row.get("alloccpus") or row.get("ncpus")) or _whole(_tres(tres, "cpu"))
    elapsed = row.get("elapsed") or row.get("elapsedraw", "")
    seconds = duration(elapsed)
    if seconds is None or not cpus:
        raise CompareError(
            f"job {jobid}: sacct tells neither Elapsed nor AllocCPUS; use --format={FIELDS}"
        )
    return Job(
        jobid=jobid,
        state=printable(row.get("state", "").split(" ")[0], 20),
        seconds=seconds,
        nodes=nodes,
        cpus=cpus,
        cpu_s=duration(row.get("totalcpu", "")) or 0.0,
        memory_gb=memory_gb(_tres(tres, "mem") or row.get("reqmem", ""), nodes, cpus) or 0.0,
        gpus=gpus(tres),
    )


def duration(text: str) -> float | None:
    """Seconds of [DD-][HH:]MM:SS[.mmm], or of a plain number of seconds."""
    if text.isascii() and text.isdigit():
        return float(text[:12])
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (float(found[i] or 0) for i in (1, 2, 3, 4))
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds + float(f"0.{found[5] or 0}")


def memory_gb(text: str, nodes: int, cpus: int) -> float | None:
    """GB of a reservation, in all; per CPU and per node as Slurm before 21.08 had it."""
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        return None
    times = {"c": cpus, "n": nodes}.get(found[3].lower(), 1)
    return float(found[1]) * _GB[found[2].upper()] * times


def gpus(tres: str) -> dict[str, int]:
    """GPUs by type. Slurm gives the sum (gres/gpu=4) beside the types (gres/gpu:a100=4)."""
    found = [(kind or "", int(count)) for kind, count in _GPU.findall(tres)]
    typed = {kind.lower(): count for kind, count in found if kind}
    untyped = sum(count for kind, count in found if not kind) - sum(typed.values())
    return typed | ({"": untyped} if untyped > 0 else {})


def _tres(tres: str, name: str) -> str:
    for pair in tres.split(","):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            return value
    return ""


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
