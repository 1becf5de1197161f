"""
Questions to slurmctld, asked off the sampling path.

A background thread collects job ids and lets one child process at a time (slurm/rpc.py) answer
them. The child can be killed, which a library call cannot: with slurmctld down libslurm holds the
GIL for ten seconds and more, and importing pyslurm without a slurm.conf ends the process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobwatt.model import Failure
from jobwatt.slurm.answers import ASKABLE
from jobwatt.slurm.text import clean, is_jobid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

Answer = dict[str, Any]
BATCH = 50
UNKNOWN_S = 300.0  # an id slurmctld did not know is not asked about again for so long
COMMAND = (sys.executable, "-P", "-m", "jobwatt.slurm.rpc")


class RpcRunner:
    """
    Asks about jobs in the background; every method returns at once.

    Batches of at most ``BATCH`` ids, one child at a time, ``spacing_s`` between two children, a
    child killed with all it started after ``timeout_s``; after a failure nothing is asked for
    ``backoff_s[0]``, doubled each time up to ``backoff_s[1]``.

    Attributes:
        outcomes: questions so far by outcome (ok, unknown, failed, timeout), for
            ``jobwatt_controller_calls_total``.
        failure: why slurmctld cannot be asked now, or None.
    """

    def __init__(
        self,
        *,
        slurm_conf: str | Path | None = None,
        timeout_s: float = 5.0,
        spacing_s: float = 1.0,
        backoff_s: tuple[float, float] = (5.0, 300.0),
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.outcomes = {"ok": 0, "unknown": 0, "failed": 0, "timeout": 0}
        self.failure: Failure | None = None
        self._command, self._env = tuple(command), child_environment(slurm_conf)
        self._timeout_s, self._spacing_s, self._backoff_s = timeout_s, spacing_s, backoff_s
        self._delay_s = 0.0
        self._wanted: dict[str, None] = {}  # ordered, each id once
        self._answers: dict[str, Answer] = {}
        self._unknown: dict[str, float] = {}
        self._wake, self._closed = threading.Condition(), False
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def lookup(self, jobid: str) -> Answer | None:
        """
        What slurmctld says of the job, None while that is not known yet (it is then asked).

        ``{"jobid": ..., "unknown": True}`` for an id it does not know, and for what is no id:
        that is never asked.
        """
        if not ASKABLE.fullmatch(jobid):
            return {"jobid": jobid, "unknown": True}
        with self._wake:
            answer = self._answers.get(jobid)
            if answer is not None and not self._expired(jobid):
                return answer
            if jobid not in self._wanted and not self._closed:
                self._wanted[jobid] = None
                self._start()
                self._wake.notify()
        return answer

    def forget(self, jobid: str) -> None:
        """Drop an answer, and the question where it still waits (an ended or requeued job)."""
        with self._wake:
            self._answers.pop(jobid, None)
            self._unknown.pop(jobid, None)
            self._wanted.pop(jobid, None)

    def close(self) -> None:
        """End the thread and a child that runs; promptly, and never raises."""
        with self._wake:
            self._closed = True
            self._wanted.clear()
            self._kill()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(2.0)

    def _expired(self, jobid: str) -> bool:
        return jobid in self._unknown and time.monotonic() > self._unknown[jobid]

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="slurmctld", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while (ids := self._next()) is not None:
            if ids:
                self._ask(ids)
                self._rest(max(self._spacing_s, self._delay_s))

    def _next(self) -> list[str] | None:
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._wanted)
            return None if self._closed else list(self._wanted)[:BATCH]

    def _rest(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._closed, timeout=seconds)

    def _ask(self, ids: list[str]) -> None:
        try:
            out, err, code = self._run(ids)
        except OSError as error:
            self._count("failed", len(ids))
            self._failed("spawn", f"{self._command[0]} could not be started: {error.strerror}")
            return
        answered = self._store(_lines(out))
        missing = len(ids) - answered
        if self._closed or (code == 0 and not missing):
            self._cleared()
        elif code is None:
            self._count("timeout", missing)
            self._failed("timeout", f"no answer within {self._timeout_s:g} s")
        else:
            self._count("failed", missing)
            last = err.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit {code}"]
            self._failed("unreachable", clean(last[0], 300))

    def _run(self, ids: list[str]) -> tuple[bytes, bytes, int | None]:
        """Output and exit status of a child, None for a child that had to be killed."""
        with self._wake:
            if self._closed:
                return b"", b"", 0
            child = subprocess.Popen(
                [*self._command, *ids],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._env,
                cwd="/",
                start_new_session=True,  # so that all it started can be killed with it
            )
            self._child = child
        try:
            return *child.communicate(timeout=self._timeout_s), child.returncode
        except subprocess.TimeoutExpired:
            with self._wake:
                self._kill()
            return *child.communicate(), None
        finally:
            with self._wake:
                self._child = None

    def _kill(self) -> None:
        if self._child is None:
            return
        try:
            os.killpg(self._child.pid, signal.SIGKILL)
        except ProcessLookupError:  # it had just ended
            return

    def _store(self, answers: Iterable[Answer]) -> int:
        stored = 0
        with self._wake:
            for answer in answers:
                jobid = str(answer.get("jobid", ""))
                if jobid not in self._wanted:  # forgotten meanwhile, or never asked for
                    stored += 1
                    continue
                del self._wanted[jobid]
                stored += 1
                self._answers[jobid] = answer
                unknown = bool(answer.get("unknown"))
                self._unknown.pop(jobid, None)
                if unknown:
                    self._unknown[jobid] = time.monotonic() + UNKNOWN_S
                self.outcomes["unknown" if unknown else "ok"] += int(answer.get("calls", 1))
        return stored

    def _count(self, outcome: str, number: int) -> None:
        self.outcomes[outcome] += number

    def _failed(self, reason: str, what: str) -> None:
        first, longest = self._backoff_s
        self._delay_s = min(max(first, 2 * self._delay_s), longest)
        message = (
            f"slurmctld not asked about jobs: {what}; names, QOS and time limits are missing "
            "until it answers; mend: see that `scontrol ping` works here"
        )
        if self.failure is None:  # once, until it clears
            log.warning("%s", message)
        self.failure = Failure("controller", reason, message)

    def _cleared(self) -> None:
        self._delay_s = 0.0
        if self.failure is not None and not self._closed:
            log.info("slurmctld answers again")
        self.failure = None


_TEXTS = (
    "user", "account", "partition", "qos", "name", "array_job_id", "array_task_id", "state",
    "exit_code", "by",
)  # fmt: skip
_NUMBERS = ("calls", "start_s", "end_s", "limit_s")
_MOST = 1 << 53  # of any number in an answer; the largest are times


def _lines(out: bytes) -> list[Answer]:
    """
    The answers in a child's output; a last line cut by a kill is left out, and what else may come
    down the pipe.
    """
    found: list[Answer] = []
    for line in out.splitlines():
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict) and _is_answer(answer):
            found.append(answer)
    return found


def _is_answer(plain: Answer) -> bool:
    """Tell whether it has the shape that slurm/rpc.py gives: all that is made of it relies on that."""
    nodes = plain.get("nodes", {})
    jobid, uid = plain.get("jobid"), plain.get("uid")
    number = plain.get("number", jobid)
    return (
        isinstance(jobid, str)
        and ASKABLE.fullmatch(jobid) is not None
        and (bool(plain.get("unknown")) or (isinstance(number, str) and is_jobid(number)))
        and (uid is None or _is_number(uid))
        and all(isinstance(plain.get(name, ""), str) for name in _TEXTS)
        and all(_is_number(plain.get(name, 0)) for name in _NUMBERS)
        and isinstance(nodes, dict)
        and all(map(_is_share, nodes.values()))
    )


def _is_share(plain: object) -> bool:
    return (
        isinstance(plain, dict)
        and _is_number(plain.get("cpus", 0))
        and _is_number(plain.get("mem_mb", 0))
        and isinstance(plain.get("gpus", ""), str | None)
    )


def _is_number(plain: object) -> bool:
    return isinstance(plain, int) and 0 <= plain < _MOST


def child_environment(slurm_conf: str | Path | None) -> dict[str, str]:
    """Our own, with the package importable wherever the process was started from."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if slurm_conf:
        env["SLURM_CONF"] = str(slurm_conf)
    return env
