"""
Child processes that do not outlive the demo.

Each has a session of its own, so that Ctrl-C reaches the demo alone and children end in order, and gets
SIGTERM from the kernel should the demo be killed. The kernel sends it when the *thread* that
started the child ends: a thread starts only what it waits for, the main thread what is to stay.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)
_PATIENCE_S = 8.0  # Prometheus writes its head out when it is told to end


class ChildError(RuntimeError):
    """A child failed; one line says which, how, and what it said last."""


class Child:
    """A process with its log. ``name`` is what a person calls it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def ended(self) -> str:
        """How it ended and what it said last, in one line."""
        code = self.process.poll()
        how = (
            "runs"
            if code is None
            else f"ended by signal {-code}"
            if code < 0
            else f"ended with {code}"
        )
        return f"{self.name} {how}{_said(self.log)}"

    def signal(self, number: int) -> None:
        """Send a signal to its whole session."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Children:
    """
    Everything that was started here; ``close`` ends it all, whatever state it is in.

    Attributes:
        closing: set once all are being ended.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._all: list[Child] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        nice: int = 0,
    ) -> Child:
        """Start a process whose output goes to a log; ChildError where it cannot be started."""
        log = self._logs / f"{name.replace(' ', '-').lower()}.log"
        with self._lock, log.open("wb") as out:
            if self.closing.is_set():
                raise ChildError(f"{name} is not started: the demo is ending")
            try:
                process = subprocess.Popen(
                    [*argv],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=dict(env) if env is not None else None,
                    cwd=cwd or self._logs,
                    start_new_session=True,
                    preexec_fn=_bound_to(os.getpid(), nice),  # noqa: PLW1509  two system calls, no locks
                )
            except OSError as err:
                raise ChildError(f"{name}: cannot start {argv[0]} ({err.strerror})") from err
            child = Child(name, process, log)
            self._all.append(child)
        return child

    def run(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        limit_s: float = 1800.0,
        watch: Callable[[str], None] | None = None,
    ) -> str:
        """Run a process to its end and return what it said; ChildError where it fails. ``watch`` gets its last line."""
        child = self.start(name, argv, env=env, cwd=cwd)
        until = time.monotonic() + limit_s
        while child.alive and time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(0.2 if watch else min(limit_s, 1.0))
            if watch and (said := _tail(child.log, 1)):
                watch(said)
        if child.alive:
            self._end([child])
            raise ChildError(f"{name} took longer than {limit_s:.0f} s{_said(child.log)}")
        self._forget(child)
        if child.process.returncode:
            raise ChildError(child.ended())
        return child.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, child: Child) -> None:
        """End one child."""
        self._end([child])
        self._forget(child)

    def running(self) -> list[Child]:
        """Every child that was started to stay, alive or not."""
        with self._lock:
            return list(self._all)

    def close(self) -> None:
        """End all: ask, wait, kill. Nothing is started after this."""
        with self._lock:
            self.closing.set()
        self._end(self.running())

    def kill(self) -> None:
        """End all at once."""
        for child in list(self._all):  # without the lock: this is for a signal handler
            child.signal(signal.SIGKILL)

    def _forget(self, child: Child) -> None:
        with self._lock, suppress(ValueError):
            self._all.remove(child)

    def _end(self, children: Sequence[Child]) -> None:
        asked = [child for child in children if child.alive]
        for child in asked:
            child.signal(signal.SIGTERM)
        until = time.monotonic() + _PATIENCE_S
        for child in asked:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(until - time.monotonic(), 0.01))
            # also where it has ended: what it started itself may still be there
            child.signal(signal.SIGKILL)
            child.process.wait()


def detach(argv: Sequence[str]) -> None:
    """Start what nobody waits for and what may outlive the demo; for a signal handler, so it never raises."""
    with suppress(OSError):
        subprocess.Popen(
            [*argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def answer(argv: Sequence[str], limit_s: float) -> str | None:
    """What a short command says; None where it fails, hangs or is not there."""
    try:
        done = subprocess.run(
            [*argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _bound_to(parent: int, nice: int) -> Callable[[], None]:
    """What a child does before it becomes the program."""

    def bind() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before it could be watched
            os._exit(1)
        if nice:
            os.nice(nice)

    return bind


def _said(log: Path) -> str:
    last = _tail(log, 2)
    return f": {last}" if last else ""


def _tail(log: Path, lines: int) -> str:
    """The last lines of a log as one printable line of at most 300 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    last = [
        " ".join(line.split()) for line in text.replace("\r", "\n").splitlines() if line.strip()
    ]
    joined = " | ".join(last[-lines:])
    return "".join(char if char.isprintable() else "?" for char in joined)[-300:]
