"""
One child process that must not outstay its welcome: bounded in time, in output, and in offspring.

Only for background threads (polled.py). The child leads a process group of its own, which is killed
as a whole when it ends or is late; what it started and left behind with the pipe open is not waited
for. A child that SIGKILL does not end (it waits for hardware in the kernel) is remembered, and no
second one is started beside it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_BYTES = 65536  # of each output; the longest that is wanted has 1 kB
_LOOK_S = 0.02  # how often it is looked whether the child has ended
_DEATH_S = 1.0  # a killed child that is not gone after this waits in the kernel


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a child ended.

    Attributes:
        status: exit status, negative for a signal; None where there is none (see ``trouble``).
        out, err: what it wrote, at most 64 KiB each.
        trouble: "" or ``no_start``, ``timeout``, ``too_much`` (output), ``stopped`` (by ``stop``),
            ``stuck`` (an earlier child still waits in the kernel and none was started).
    """

    status: int | None
    out: str = ""
    err: str = ""
    trouble: str = ""


class Runner:
    """Runs one child at a time, ``timeout_s`` each; ``run`` is for one thread. Never raises."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._stopping = threading.Event()
        self._left: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """End a child that runs, soon, and start none any more; from any thread."""
        self._stopping.set()

    def run(
        self, argv: Sequence[str], env: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> Outcome:
        """Run ``argv`` (no shell) with ``env`` and nothing else, stdin empty."""
        if self._stopping.is_set():
            return Outcome(None, trouble="stopped")
        if self._left is not None and self._left.poll() is None:
            return Outcome(None, trouble="stuck")
        self._left = None
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(env),
                cwd="/",
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except OSError as err:
            return Outcome(None, err=f"{argv[0]}: {err.strerror}", trouble="no_start")
        try:
            texts, trouble = self._listen(child)
        finally:
            self._end(child)
        return Outcome(None if trouble else child.returncode, *texts, trouble)

    def _listen(self, child: subprocess.Popen[bytes]) -> tuple[tuple[str, str], str]:
        """Both outputs until the child has ended; and what went wrong, if anything."""
        assert child.stdout is not None and child.stderr is not None  # noqa: S101, PT018  both are pipes
        texts = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
        deadline_s, trouble = time.monotonic() + self._timeout_s, ""
        with selectors.DefaultSelector() as selector:
            for descriptor in texts:
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            while not trouble:
                ended = _has_ended(child.pid)  # before the reading, so that its last words are read
                trouble = _drain(selector, texts, 0 if ended else _LOOK_S)
                if ended:
                    break
                if self._stopping.is_set():
                    trouble = "stopped"
                elif time.monotonic() > deadline_s:
                    trouble = trouble or "timeout"
        out, err = (text.decode("utf-8", "replace") for text in texts.values())
        return (out, err), trouble

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """Kill the group and reap the child. Before that its number cannot be another's."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        try:
            child.wait(_DEATH_S)
        except subprocess.TimeoutExpired:
            self._left = child


def _has_ended(pid: int) -> bool:
    """Whether it is a zombie; it is left one, so that its process group keeps its number."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, pid, flags) is not None
    except ChildProcessError:  # reaped by somebody else: SIGCHLD is ignored
        return True


def _drain(selector: selectors.BaseSelector, texts: Mapping[int, bytearray], wait_s: float) -> str:
    """Read what is there; ``too_much`` where it is more than anything wanted has."""
    if not selector.get_map():
        time.sleep(wait_s)
    for key, _ in selector.select(wait_s) if selector.get_map() else ():
        text = texts[key.fd]
        while piece := _piece(key.fd):
            text += piece
            if len(text) > _MOST_BYTES:
                return "too_much"
        if piece is not None:
            selector.unregister(key.fd)
    return ""


def _piece(descriptor: int) -> bytes | None:
    """Some bytes, b"" at the end, None where there are none now."""
    try:
        return os.read(descriptor, _MOST_BYTES)
    except BlockingIOError:
        return None
