"""
Where a wattmeter's bytes come from: a child process, a FIFO, a file that grows, a TCP connection.

All of them wait a moment and give what has come. None of this is ever called while a sample is
taken: it belongs to the wattmeter's own thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

_CHUNK = 1 << 16
_CONNECT_S = 5.0
_END_S = 1.0  # how long a child may take to end when it is asked to
_COMPLAINT = 200  # characters of what a child says on stderr


class InputEnded(Exception):  # noqa: N818  it is no error by itself: the input is opened again
    """The input gives nothing more; says in one line why and what mends it."""


class Input(Protocol):
    """
    An open input.

    Attributes:
        restarts: whether a new one begins with something new: time in between is left out, and one
            that is silent is worth opening again.
        begins_inside: whether the first bytes may be the rest of a line.
    """

    restarts: bool
    begins_inside: bool

    def head(self) -> bytes:
        """Bytes to be read before all others: the header of a file that is read from its end."""
        ...

    def read(self, wait_s: float) -> bytes:
        """What has come, b"" where nothing did within ``wait_s``. Raises InputEnded, OSError."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_input(spec: str) -> Input:
    """Open what ``wattmeter.input`` names. Raises InputEnded or OSError."""
    if spec.startswith("exec:"):
        return Child(shlex.split(spec.removeprefix("exec:")))
    if spec.startswith("tcp://"):
        parts = urlsplit(spec)
        return Tcp(parts.hostname or "", parts.port or 0)
    path = Path(spec)
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return Fifo(path)
    if stat.S_ISREG(mode):
        return Tail(path)
    raise InputEnded(
        f"{path} is neither a file nor a FIFO: a wattmeter's device is read by its own program,"
        f" wattmeter.input = exec:wattmetre-read --tty={path} --nb=6"
    )


class Child:
    """A program, started without a shell and in a process group of its own."""

    restarts, begins_inside = True, False

    def __init__(self, argv: list[str]) -> None:
        self._name = argv[0]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as err:
            raise InputEnded(
                f"cannot start {self._name}: {err.strerror}; install it, or give its whole path in"
                " wattmeter.input"
            ) from err
        self._said = b""
        assert self._process.stdout is not None  # noqa: S101  both are pipes
        assert self._process.stderr is not None  # noqa: S101
        self._out, self._err = self._process.stdout.fileno(), self._process.stderr.fileno()
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._poll.register(self._err, select.POLLIN)

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def read(self, wait_s: float) -> bytes:
        """Take what the child printed; what it complains of is kept for when it ends."""
        ready = [fd for fd, _ in self._poll.poll(wait_s * 1000)]
        if self._err in ready:
            self._listen()
        if self._out not in ready:
            return b""
        data = os.read(self._out, _CHUNK)
        if not data:
            raise InputEnded(self._last_words())
        return data

    def _listen(self) -> None:
        data = os.read(self._err, _CHUNK)
        self._said = (self._said + data)[-_CHUNK:]
        if not data:
            self._poll.unregister(self._err)

    def _last_words(self) -> str:
        status = self._wait(_END_S)
        for fd, _ in self._poll.poll(0):
            if fd == self._err:
                self._listen()
        lines = [
            line for line in self._said.decode("ascii", "replace").splitlines() if line.strip()
        ]
        said = "".join(c for c in lines[-1] if c.isprintable())[:_COMPLAINT] if lines else ""
        how = "closed its output" if status is None else f"ended with status {status}"
        return f"{self._name} {how}{f' ({said})' if said else ''}: see that the meter is plugged in"

    def _wait(self, limit_s: float) -> int | None:
        """Status of the child, left unreaped so that its group keeps its number."""
        until = time.monotonic() + limit_s
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while time.monotonic() < until:
            if result := os.waitid(os.P_PID, self._process.pid, flags):
                return result.si_status
            time.sleep(0.01)
        return None

    def close(self) -> None:
        """End the child and all it started."""
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        # one that has other rights (sudo) cannot be killed: it ends when it next prints
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGTERM)
            self._wait(_END_S)
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)


class Fifo:
    """A named pipe; a writer may come and go."""

    restarts, begins_inside = False, False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def read(self, wait_s: float) -> bytes:
        """Take what was written; where the writer is gone, wait for the next."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(wait_s * 1000):
            if not os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                self._reopen()
            return b""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            self._reopen()  # one that was hung up on would be ready for ever
        return data

    def _reopen(self) -> None:
        self.close()
        self._fd = self._open()

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Tail:
    """A file that another program writes on: its header, then what is added from now on."""

    restarts = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._at = os.fstat(self._fd).st_size
        self.begins_inside = bool(self._at) and os.pread(self._fd, 1, self._at - 1) != b"\n"

    def head(self) -> bytes:
        """The first line, where it is a header."""
        line, end, _ = os.pread(self._fd, _CHUNK, 0).partition(b"\n")
        return line + end if line.startswith(b"#") else b""

    def read(self, wait_s: float) -> bytes:
        """Take what was added; a file that became shorter, or was replaced, is read from its start."""
        data = os.pread(self._fd, _CHUNK, self._at)
        if data:
            self._at += len(data)
            return data
        if not self._begin_anew():
            time.sleep(wait_s)
        return b""

    def _begin_anew(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:  # between a rename and the new file
            return False
        if not os.path.samestat(os.fstat(self._fd), there):
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            os.close(self._fd)
            self._fd, self._at = fd, 0
        elif there.st_size < self._at:
            self._at = 0
        else:
            return False
        return True

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class Tcp:
    """A connection to a program that sends what ``wattmetre-read`` prints."""

    restarts, begins_inside = True, False

    def __init__(self, host: str, port: int) -> None:
        self._name = f"tcp://{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), _CONNECT_S)
        except OSError as err:
            why = err.strerror or err
            raise InputEnded(
                f"cannot connect to {self._name}: {why}: see that its sender runs"
            ) from err

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def read(self, wait_s: float) -> bytes:
        """Take what was sent."""
        self._socket.settimeout(wait_s)
        try:
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            return b""
        except OSError as err:
            raise InputEnded(f"{self._name} broke off: {err.strerror}") from err
        if not data:
            raise InputEnded(f"{self._name} closed the connection: see that its sender runs")
        return data

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
