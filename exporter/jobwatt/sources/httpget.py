"""
One GET of a page on another machine: bounded in time and in size, and of one host only.

http.client and not a library on top of it: one question every few seconds needs no pool of
connections, and what matters here (no proxy, no redirect, one deadline for everything) is what such
libraries would have to be told not to do. Its own time limits are per packet: a peer that sends a
byte a second would hold it for days, so the connection is cut at the deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class GetError(Exception):
    """
    No page came.

    Attributes:
        reason: a short closed word: ``unreachable``, ``timeout``, ``certificate``, ``tls``,
            ``refused``, ``status``, ``redirect``, ``too_big``, ``garbled``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Page:
    """
    What came.

    Attributes:
        date: the header ``Date``, "" where there is none.
    """

    body: bytes
    date: str


@dataclass(slots=True)
class Getter:
    """
    Asks one host. ``get`` belongs to one thread; ``abort`` may be called from any.

    Args:
        context: makes what TLS needs; asked once, and once more after TLS has failed, because
            certificates are renewed.
        limit_s: for a whole question, name lookup aside.
    """

    context: Callable[[], ssl.SSLContext]
    limit_s: float
    limit_bytes: int
    _tls: ssl.SSLContext | None = None
    _socket: socket.socket | None = None
    _aborted: bool = False
    _until_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, url: str, headers: Mapping[str, str]) -> Page:
        """The page at ``url``. Raises GetError."""
        self._until_s = until_s = time.monotonic() + self.limit_s
        timer = threading.Timer(self.limit_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            return self._get(url, headers)
        except GetError:
            if time.monotonic() >= until_s:
                raise _timeout(self.limit_s) from None
            raise
        except ssl.SSLError as err:
            self._tls = None
            late = time.monotonic() >= until_s
            raise _timeout(self.limit_s) if late else _certificate(err) from err
        except (OSError, http.client.HTTPException, ValueError) as err:
            if isinstance(err, TimeoutError) or time.monotonic() >= until_s:
                raise _timeout(self.limit_s) from err
            raise _fault(err) from err
        finally:
            timer.cancel()
            self._hang_up()

    def abort(self) -> None:
        """End a question that is being asked, and let none begin."""
        self._aborted = True
        self._cut()

    def _get(self, url: str, headers: Mapping[str, str]) -> Page:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        self._keep(connect((host, port), self._until_s))
        if secure:
            self._secure(host)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self._socket
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection.request("GET", target, headers={"Connection": "close", **headers})
        answer = connection.getresponse()
        _check(answer)
        body = answer.read(self.limit_bytes + 1)
        if len(body) > self.limit_bytes:
            raise GetError("too_big", f"more than {self.limit_bytes} bytes; is it a metrics page?")
        if answer.length:  # what is still to come: the standard library says nothing of it
            raise GetError("garbled", "the answer was cut short")
        return Page(body, answer.headers.get("Date", ""))

    def _secure(self, host: str) -> None:
        if self._tls is None:
            self._tls = self.context()
        assert self._socket is not None  # noqa: S101  it has just been connected
        # the handshake apart: until then the deadline could not reach the connection
        secured = self._tls.wrap_socket(
            self._socket, server_hostname=host, do_handshake_on_connect=False
        )
        self._keep(secured)
        secured.do_handshake()

    def _keep(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock
            if self._aborted:
                raise GetError("unreachable", "given up")
            if time.monotonic() >= self._until_s:  # there was nothing to be cut yet
                raise _timeout(self.limit_s)

    def _cut(self) -> None:
        """End the connection under whoever waits for it."""
        with self._lock:
            if self._socket is not None:
                # not SSLSocket's own method: it would take TLS's state from under its reader
                with contextlib.suppress(OSError):  # it has ended by itself
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def connect(address: tuple[str, int], until_s: float) -> socket.socket:
    """
    Connect to the first of a name's addresses that answers; the name's lookup is not bounded.

    All of them share the time until ``until_s`` (time.monotonic), each attempt an equal part of what is
    left: one that never answers leaves the next its own. OSError of the last where none does.
    """
    error = OSError("the name has no address")
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, where) in enumerate(found):
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time for connecting is over")
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left_s / (len(found) - number))
            sock.connect(where)
            sock.settimeout(left_s)
        except OSError as err:
            sock.close()
            error = err
        else:
            return sock
    raise error


def _check(answer: http.client.HTTPResponse) -> None:
    if answer.status == http.HTTPStatus.OK:
        return
    if 300 <= answer.status < 400:
        raise GetError("redirect", f"it sends elsewhere ({answer.status}): name the final address")
    if answer.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        message = f"it refuses us ({answer.status}): see to the user and the password"
        raise GetError("refused", message)
    raise GetError("status", f"it answers {answer.status}")


def _timeout(limit_s: float) -> GetError:
    return GetError("timeout", f"no whole answer within {limit_s:g} s")


def _certificate(err: ssl.SSLError) -> GetError:
    if isinstance(err, ssl.SSLCertVerificationError):
        why = f"{err.verify_message}; ca-file names the certificates to check against"
        return GetError("certificate", f"its certificate is not accepted: {why}")
    return GetError("tls", f"TLS failed ({err.reason or 'broken off'}); does it speak https there?")


def _fault(err: Exception) -> GetError:
    if isinstance(err, OSError):
        return GetError("unreachable", f"{err.strerror or type(err).__name__}; is it up?")
    return GetError("garbled", f"that is no HTTP ({type(err).__name__})")
