"""
Questions over HTTP, with every bound that a stranger's answer needs.

The standard library's urllib does it: it knows TLS, the site's proxy (``https_proxy``) and its CAs,
and a few requests an hour need no more. What it lacks is here: a deadline for the whole answer and not
only for its next byte, a limit of its size, and no redirect, which would take the token elsewhere.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from ...sources.httpget import connect
from .intensity import GridError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

_C = TypeVar("_C", bound=http.client.HTTPConnection)

LARGEST = 1 << 20  # bytes of an answer; the longest real one (WattTime, two hours) has some 4 KiB
_CHUNK = 1 << 16


class Get(Protocol):
    """Fetches a URL and returns what its JSON says; GridError where it cannot."""

    def __call__(self, url: str, headers: Mapping[str, str] | None = None) -> object:
        """Return what the JSON at ``url`` says."""
        ...


class Fetcher:
    """
    Fetches JSON (``Get``).

    Args:
        timeout_s: for the whole answer, from connecting to its last byte.
        ca_file: certificates to trust beside the system's own where given.
    """

    def __init__(self, timeout_s: float, ca_file: Path | None = None) -> None:
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context()
        if ca_file:
            try:
                self._tls.load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as err:
                raise GridError("credentials", f"{ca_file}: not a CA certificate") from err

    def __call__(self, url: str, headers: Mapping[str, str] | None = None) -> object:
        """Return what the JSON at ``url`` says."""
        said = {"Accept": "application/json", "User-Agent": "jobwatt", **(headers or {})}
        host = urlsplit(url).hostname
        with _Deadline(self._timeout_s) as deadline:
            try:
                body = self._body(urllib.request.Request(url, headers=said), deadline)  # noqa: S310  gridconfig takes http(s) only
            except urllib.error.HTTPError as err:
                err.close()
                raise _refusal(err, str(host)) from None
            except (OSError, http.client.HTTPException, ValueError) as err:
                raise _failure(err, str(host), deadline) from None
        if deadline.passed:
            raise GridError("timeout", f"{host}: no whole answer within {self._timeout_s:g} s")
        return _json(body, str(host))

    def _body(self, request: urllib.request.Request, deadline: _Deadline) -> bytes:
        opener = urllib.request.build_opener(
            _NoRedirect(), _Http(deadline), _Https(deadline, self._tls)
        )
        parts, size = [], 0
        with opener.open(request, timeout=self._timeout_s) as answer:
            while part := answer.read1(_CHUNK):
                parts.append(part)
                size += len(part)
                if size > LARGEST:
                    raise GridError("too_large", f"{request.host}: more than {LARGEST} bytes")
        return b"".join(parts)


class _Deadline:
    """Shuts the connections down once the time is over: whoever waits for them sees their end."""

    def __init__(self, timeout_s: float) -> None:
        self.passed = False
        self._until_s = time.monotonic() + timeout_s
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout_s, self._over)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            for sock in self._sockets:
                sock.close()

    def give(self, connection: _C) -> _C:
        """Have ``connection`` connected through us: a proxy's answer and TLS's handshake end in time too."""
        connection._create_connection = self._connect  # type: ignore[attr-defined] # noqa: SLF001  there is no other way in
        return connection

    def _connect(self, address: tuple[str, int], *_: object) -> socket.socket:
        sock = connect(address, self._until_s)
        # a second handle of the same connection: TLS takes the first one over
        with self._lock:
            self._sockets.append(sock.dup())
        if self.passed:
            self._over()
        return sock

    def _over(self) -> None:
        self.passed = True
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):  # it has ended by itself
                    sock.shutdown(socket.SHUT_RDWR)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._made, req)

    def _made(self, host: str, **more: Any) -> http.client.HTTPConnection:
        return self._deadline.give(http.client.HTTPConnection(host, **more))


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline, tls: ssl.SSLContext) -> None:
        super().__init__(context=tls)
        self._deadline, self._tls = deadline, tls

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._made, req)

    def _made(self, host: str, **more: Any) -> http.client.HTTPSConnection:
        return self._deadline.give(http.client.HTTPSConnection(host, context=self._tls, **more))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _refusal(err: urllib.error.HTTPError, host: str) -> GridError:
    after_s = _retry_after_s(err.headers.get("Retry-After"), time.time())
    message = f"{host} answers {err.code}"
    if err.code in {401, 403}:
        return GridError("unauthorized", f"{message}: check the credentials and what they may ask")
    if err.code == http.HTTPStatus.TOO_MANY_REQUESTS:
        return GridError("rate_limited", f"{message}: asked too often", after_s)
    if 300 <= err.code < 400:
        return GridError("redirect", f"{message}: a redirect is not followed; correct the url")
    reason = "server_error" if err.code >= 500 else "refused"
    return GridError(reason, message, after_s)


def _failure(err: Exception, host: str, deadline: _Deadline) -> GridError:
    cause = err.reason if isinstance(err, urllib.error.URLError) else err
    if deadline.passed or isinstance(cause, TimeoutError):
        return GridError("timeout", f"{host}: no whole answer in time")
    if isinstance(cause, ssl.SSLError):
        return GridError("tls", f"{host}: {cause.reason or 'TLS fails'}; see ca_file")
    if isinstance(cause, OSError):
        return GridError("unreachable", f"{host}: {cause.strerror or type(cause).__name__}")
    return GridError("malformed", f"{host}: not an HTTP answer ({type(cause).__name__})")


def _retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds, from a Retry-After of either form (RFC 9110, 10.2.3)."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return max(moment.timestamp() - now_s, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _json(body: bytes, host: str) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise GridError("malformed", f"{host}: the answer is not JSON") from None
