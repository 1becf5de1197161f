"""A command under a deadline and a limit on what it may say: neither can hang us nor fill memory."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CHUNK = 1 << 16
_LARGEST_COMPLAINT = 1 << 14  # of stderr; what is beyond is read and dropped


class AskError(Exception):
    """
    Slurm could not be asked, or said what cannot be used.

    Attributes:
        reason: one short word, for ``jobwatt_sd_polls_total``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    timeout_s: float,
    limit: int,
    *,
    session: bool = False,
) -> tuple[bytes, bytes, int]:
    """
    Output, complaints and exit status of a command.

    Args:
        limit: bytes of output; AskError("too_large") for more.
        session: give it a session of its own, so that all it started is killed with it.

    Raises:
        AskError: it could not be started (spawn), took longer (timeout), or said too much.
    """
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(env), cwd="/", start_new_session=session,
        )  # fmt: skip
    except OSError as err:
        raise AskError("spawn", f"{argv[0]} could not be started: {err.strerror}") from err
    try:
        end_s = time.monotonic() + timeout_s
        out, err_text = _collect(child, argv[0], end_s, limit)
        return out, err_text, child.wait(max(end_s - time.monotonic(), 0.01))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise AskError("timeout", f"{argv[0]} gave no answer within {timeout_s:g} s") from None
    finally:
        _end(child, session=session)


def _collect(
    child: subprocess.Popen[bytes], name: str, end_s: float, limit: int
) -> tuple[bytes, bytes]:
    said = {child.stdout: bytearray(), child.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in said:
            selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]  # both are pipes
        while selector.get_map():
            ready = selector.select(max(end_s - time.monotonic(), 0))
            if not ready or time.monotonic() > end_s:
                raise TimeoutError
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout or len(said[child.stderr]) < _LARGEST_COMPLAINT:
                    said[key.fileobj] += data  # type: ignore[index]  # what was registered
            if len(said[child.stdout]) > limit:
                raise AskError("too_large", f"{name} said more than {limit >> 20} MiB")
    return bytes(said[child.stdout]), bytes(said[child.stderr])


def _end(child: subprocess.Popen[bytes], *, session: bool) -> None:
    """Kill what still runs, and let go of it."""
    if child.returncode is None:  # not reaped: its number is still nobody else's
        with contextlib.suppress(ProcessLookupError):
            if session:
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    child.wait()
