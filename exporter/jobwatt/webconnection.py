"""One client from accept to close: its turn, TLS, its requests, and a decent end."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl
import struct
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from .webconfig import Loaded, WebConfig
from .webhandler import Handler
from .webshares import WAIT_MAX_S, client_of
from .webstream import CHUNK_BYTES, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .web import WebServer

log = logging.getLogger(__name__)

START_CPU_S = 0.0002  # what a connection costs before its thread runs: measured 0.16 s a thousand
GRACE_S = 0.25  # in which a new connection has something to ask, or it counts as idle
LINGER_S = 1.0
LINGER_BYTES = 1 << 20

UNPROTECTED = Loaded(WebConfig(), None, {})


class Connection:
    """One client from accept to close."""

    def __init__(self, server: WebServer, sock: socket.socket, peer: str) -> None:
        self.server, self.sock, self.stream = server, sock, Stream(sock)
        self.peer = peer.removeprefix("::ffff:")
        self.client = client_of(peer)
        self.writing = False
        self._busy_until = 0.0
        self.unread = False  # the client may still be sending what nobody will read
        self._loaded = UNPROTECTED
        self._gone = threading.Event()
        self._booked_s = 0.0

    def run(self) -> None:
        """Secure the connection, answer its requests, close it. Never raises OSError."""
        self._booked_s = time.thread_time() - START_CPU_S
        try:
            if self._secure():
                Handler(self)
        except OSError as err:  # TLS and time limits included: the client's affair
            log.debug("%s: %s", self.peer, err)
            self._drop_unsent()
        finally:
            self._close()
            self.book()
            self.server.forget(self)

    @property
    def busy(self) -> bool:
        """Whether its client waits for something: its turn, a check, an answer that goes out swiftly."""
        return time.monotonic() < self._busy_until

    def busy_for(self, seconds: float) -> None:
        """Count it as busy for so long, 0 for idle."""
        self._busy_until = time.monotonic() + seconds

    @contextlib.contextmanager
    def turn(self, patience_s: float, *, dear: bool = False) -> Iterator[bool]:
        """Wait while the client has used more than a fair share; the block is booked within its turn."""
        self.book()
        with self.server.shares.turn(self.client, patience_s, dear=dear) as served:
            yield served
            self.book()

    def book(self) -> None:
        """Charge the client for the CPU time that this thread has used since it was last charged."""
        used_s = time.thread_time()
        self.server.shares.spend(self.client, used_s - self._booked_s)
        self._booked_s = used_s

    @property
    def outdated(self) -> bool:
        """Whether the certificates or clients' CA it was let in by are no longer those in force."""
        return self._loaded.context is not self.server.loaded().context

    def hang_up(self) -> None:
        """End it from another thread: what waits for the client sees the end of the stream."""
        self._gone.set()
        self._drop_unsent()
        hang_up(self.sock)

    def _drop_unsent(self) -> None:
        """Have the kernel forget an answer that is not read; it would keep it for minutes after the end."""
        if self.writing:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def refuse(self) -> None:
        """Turn it away at once, in words where no TLS is expected."""
        if self.server.loaded().context is None:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE)
        self.sock.close()

    def _secure(self) -> bool:
        loaded = self._loaded = self.server.loaded()
        if loaded.context is None or loaded.config.tls is None:
            return True
        self.busy_for(math.inf)
        with self.turn(WAIT_MAX_S) as served:
            if not served:
                return False
        self.busy_for(GRACE_S)
        try:
            secured = self.stream.secure(loaded.context, self.server.limits.handshake_s)
        except ssl.SSLError as err:
            if err.reason == "HTTP_REQUEST":
                self._say(HTTPStatus.BAD_REQUEST, "this port speaks HTTPS\n")
            if not isinstance(err, ssl.SSLEOFError):  # who only looks for an open port
                self.server.complaints.say(self.peer, f"TLS refused: {_tls_fault(err)}")
            raise
        if loaded.config.tls.admits(secured.getpeercert()):
            return True
        self.server.complaints.say(self.peer, "TLS refused: the certificate has no allowed name")
        return False

    def _say(self, status: HTTPStatus, body: str = "") -> None:
        """Answer in the clear, without waiting for the client to take it."""
        text = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        with contextlib.suppress(OSError):
            self.sock.settimeout(0)
            self.sock.send(text.encode())

    def _close(self) -> None:
        self.stream.say_goodbye()
        if self.unread and not self._gone.is_set():
            self._linger()
        self.sock.close()

    def _linger(self) -> None:
        """Let the client read the answer: closing with unread input would reset the connection."""
        deadline, left = time.monotonic() + LINGER_S, LINGER_BYTES
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            while left > 0 and (remaining := deadline - time.monotonic()) > 0:
                self.sock.settimeout(remaining)
                data = self.sock.recv(CHUNK_BYTES)
                if not data:
                    return
                left -= len(data)


def _tls_fault(err: ssl.SSLError) -> str:
    """Name it in OpenSSL's words, a closed set."""
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"client certificate: {err.verify_message}"
    words = (err.reason or type(err).__name__).replace("_", " ").lower()
    # an alert is what the other side says of us: SSLV3_ALERT_BAD_CERTIFICATE
    return f"the client says: {words.partition(' alert ')[2]}" if " alert " in words else words


def hang_up(sock: socket.socket) -> None:
    """End a connection, or the wait for connections, from another thread."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
