"""
A connection's bytes, with or without TLS, each phase under a deadline and a budget.

TLS runs over buffers in memory, not over the socket: OpenSSL handles key updates, empty records
and the like for as long as they keep coming, and neither a deadline nor a budget of plain text
would ever stop it (17 000 key updates a second kept a thread busy for as long as they were sent).
"""

from __future__ import annotations

import contextlib
import io
import ssl
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

CHUNK_BYTES = 1 << 16
RECORD_BYTES = 1 << 14  # of plain text in a record of TLS, at most (RFC 8446, section 5.1)
HANDSHAKE_BYTES = 128 << 10  # OpenSSL takes a certificate chain of 100 kB


class OverBudgetError(OSError):
    """The client has sent more than is read."""


class Stream(io.RawIOBase):
    """A socket whose reads and writes share a deadline and whose reads have a budget, TLS's own included."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline = 0.0
        self._budget = 0
        self._tls: ssl.SSLObject | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()

    def allow(self, seconds: float, bytes_in: int = 0) -> None:
        """Begin a phase: so much time, and so many bytes from the client, TLS's framing not counted."""
        self._deadline = time.monotonic() + seconds
        self._budget = bytes_in + (bytes_in // 4 + 1024 if self._tls and bytes_in else 0)

    def secure(self, context: ssl.SSLContext, seconds: float) -> ssl.SSLObject:
        """Shake hands; ssl.SSLError where that fails, once the client has been told."""
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.allow(seconds)
        self._budget = HANDSHAKE_BYTES
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()
                raise
            else:
                self._flush()
                return self._tls

    def readable(self) -> bool:
        """Tell io.BufferedReader that it may read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, at least a byte; 0 at the end."""
        if self._tls is None:
            self._wait(reading=True)
            count = self._sock.recv_into(buffer)
            self._budget -= count
            return count
        while True:
            try:
                return int(
                    self._tls.read(len(buffer), buffer)
                )  # bytes, as the stub has it, only without a buffer
            except ssl.SSLWantReadError:
                self._flush()  # what TLS itself has to say
                self._feed()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return 0

    def write(self, data: Any) -> int:
        """Write all of it."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            part = view[start : start + CHUNK_BYTES]
            if self._tls is None:
                self._send(part)
            else:
                self._tls.write(part)
                self._flush()
        return len(view)

    def say_goodbye(self) -> None:
        """Tell a client of TLS that this is the end; neither wait for it nor for its own word."""
        if self._tls is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._sock.settimeout(0)
            with contextlib.suppress(ssl.SSLError):  # its own goodbye is not waited for
                self._tls.unwrap()
            self._sock.send(self._out.read())

    def _feed(self) -> None:
        self._wait(reading=True)
        data = self._sock.recv(RECORD_BYTES)
        self._budget -= len(data)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        if self._out.pending:
            self._send(memoryview(self._out.read()))

    def _send(self, view: memoryview) -> None:
        while view:
            self._wait()
            view = view[self._sock.send(view) :]

    def _wait(self, *, reading: bool = False) -> None:
        if reading and self._budget <= 0:
            raise OverBudgetError("the client sends too much")
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the client is too slow")
        self._sock.settimeout(remaining)
