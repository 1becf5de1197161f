"""
One connection's HTTP/1.1: requests in, answers out, each under a deadline and a budget.

Reading and parsing are the standard library's; what is answered, and in which format, is here.
"""

from __future__ import annotations

import io
import logging
import math
import re
import socket
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import parse_qs

from .webconfig import WebConfig
from .webformats import OPENMETRICS, TEXT, accepts_gzip, wants_openmetrics
from .webshares import WAIT_MAX_S
from .webstream import OverBudgetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .webconnection import Connection

log = logging.getLogger(__name__)

_NOTHING = b"not found; there are / and /metrics\n"
DEAR_WAIT_S = 0.5  # for pages that nobody keeps ready: who asks for many holds no place for long
PROBE_WAIT_S = 1.0  # then health is told all the same
SWIFT_S = 2.0  # in which an answer is taken, or it counts as stalled
_HTML_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


# A header line as RFC 9112, section 5 has it. Spaces before the colon, folded lines, bare CR and
# NUL are read one way here and another way by a proxy in front: they end a request, not a header.
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\0\r\n]*\r?\n|\r?\n|")


class _MalformedError(ValueError):
    """A header that is none."""


class _Lines:
    """The header's lines, each of them checked, for the standard library to parse."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream

    def readline(self, limit: int = -1) -> bytes:
        """Read one line; _MalformedError where it is no header field."""
        line = self._stream.readline(limit)
        if not _FIELD.fullmatch(line):
            raise _MalformedError
        return line


@runtime_checkable
class Listing(Protocol):
    """A site that has a list of targets, too, for Prometheus' HTTP service discovery."""

    def targets(self) -> bytes | None:
        """Return the list as JSON; None where there is none yet."""
        ...


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes = b""
    type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


_LATER = _Answer(
    HTTPStatus.SERVICE_UNAVAILABLE,
    b"more than this client's share; ask later\n",
    headers=(("Retry-After", "1"),),
)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 for one connection: reading and parsing is the standard library's."""

    protocol_version = "HTTP/1.1"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._server = connection.server
        self._stream = connection.stream
        self._first = True
        super().__init__(connection.sock, (connection.peer, 0), connection.server)  # type: ignore[arg-type]  # only kept

    def setup(self) -> None:
        """Read and write through deadlines."""
        self.connection = self.request
        if self.connection.family in (socket.AF_INET, socket.AF_INET6):
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = io.BufferedReader(self._stream)
        self.rfile = _Lines(self._input)  # type: ignore[assignment]  # readline is all it is asked
        self.wfile = self._stream  # type: ignore[assignment]  # all that is asked of it is write

    def finish(self) -> None:
        """Nothing is buffered; the connection closes itself."""

    def handle_one_request(self) -> None:
        """Answer one request; the connection stays open only where all of it was understood."""
        self.requestline, self.command, self.request_version = "", "", self.protocol_version
        self.close_connection = True
        try:
            if self._read_request():
                self._answer()
        except _MalformedError:
            self.send_error(HTTPStatus.BAD_REQUEST)
        except OverBudgetError:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _read_request(self) -> bool:
        limits = self._server.limits
        first, self._first = self._first, False
        self._stream.allow(limits.request_s if first else limits.idle_s, limits.header_bytes)
        if not self._input.peek(1):
            return False
        self._stream.allow(limits.request_s, limits.header_bytes)
        self.raw_requestline = self._input.readline()
        if self._connection.outdated or not self.parse_request():  # the latter says what is wrong
            return False
        if self.request_version == "HTTP/0.9":  # has no status to refuse anything with
            self.send_error(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
            return False
        lengths = self.headers.get_all("Content-Length", ())
        if set(lengths) - {"0"} or "Transfer-Encoding" in self.headers:
            self._connection.unread = self.close_connection = True  # a body nobody asked for
        if self.request_version == "HTTP/1.0":
            self.close_connection = True
        return True

    def _answer(self) -> None:
        config = self._server.loaded().config
        self._connection.busy_for(math.inf)
        answer = self._refusal(config)
        probe, dear = self._is_probe(), self._is_dear()
        patience_s = PROBE_WAIT_S if probe else DEAR_WAIT_S if dear else WAIT_MAX_S
        with self._connection.turn(patience_s, dear=dear) as served:
            if answer is None:
                answer = self._look_up() if served or probe else _LATER
        if config.users and probe:
            answer = replace(answer, body=b"")
        self._send(answer, config)
        self._connection.busy_for(0)
        self._server.used(self._connection)

    def _refusal(self, config: WebConfig) -> _Answer | None:
        if not config.users or self._is_probe():
            return None
        allowed = self._server.passwords.allows(
            config.users, self.headers.get("Authorization"), self._connection.client
        )
        if allowed:
            return None
        if allowed is None:
            return replace(_LATER, body=b"too many password checks at once\n")
        if self.headers.get("Authorization"):  # a browser asks without one first
            self._server.complaints.say(self._connection.peer, "wrong user or password")
        challenge = ("WWW-Authenticate", 'Basic realm="jobwatt", charset="UTF-8"')
        return _Answer(HTTPStatus.UNAUTHORIZED, b"who are you?\n", headers=(challenge,))

    def _is_probe(self) -> bool:
        """Whether it asks for health, which a kubelet or a load balancer asks without a password."""
        return self.path.partition("?")[0] in _PROBES

    def _is_dear(self) -> bool:
        """Whether it asks for what is made for it alone."""
        path, _, query = self.path.partition("?")
        return path == "/" or (path == "/metrics" and bool(query))

    def _look_up(self) -> _Answer:
        path, _, query = self.path.partition("?")
        make = _ROUTES.get(path)
        if make is None:
            return _Answer(HTTPStatus.NOT_FOUND, _NOTHING)
        if self.command not in ("GET", "HEAD"):
            allow = ("Allow", "GET, HEAD")
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD\n", headers=(allow,))
        try:
            return make(self, query)
        except Exception:  # a fault in one page must neither end the connection unsaid nor be lost
            log.exception("cannot make %s", path)
            return _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error; see the log\n")

    def _metrics(self, query: str) -> _Answer:
        openmetrics = wants_openmetrics(self._header("Accept"))
        names = frozenset(parse_qs(query).get("name[]", ()))
        body = self._server.site.metrics(openmetrics, names)
        kind = OPENMETRICS if openmetrics else TEXT
        vary = ("Vary", "Accept, Accept-Encoding")
        if not accepts_gzip(self._header("Accept-Encoding")):
            return _Answer(HTTPStatus.OK, body, kind, (vary,))
        zipped = self._server.zipped(body, openmetrics=openmetrics, names=names)
        return _Answer(HTTPStatus.OK, zipped, kind, (vary, ("Content-Encoding", "gzip")))

    def _page(self, _query: str) -> _Answer:
        body = self._server.site.page().encode(errors="replace")
        return _Answer(
            HTTPStatus.OK, body, "text/html; charset=utf-8", tuple(_HTML_HEADERS.items())
        )

    def _health(self, _query: str) -> _Answer:
        return _verdict(*self._server.site.health())

    def _ready(self, _query: str) -> _Answer:
        return _verdict(*self._server.site.ready())

    def _targets(self, _query: str) -> _Answer:
        site = self._server.site
        if not isinstance(site, Listing):
            return _Answer(HTTPStatus.NOT_FOUND, _NOTHING)
        body = site.targets()
        if body is None:
            return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"no list yet\n")
        return _Answer(HTTPStatus.OK, body, "application/json")

    def _header(self, name: str) -> str:
        return ",".join(self.headers.get_all(name, ()))

    def _send(self, answer: _Answer, config: WebConfig) -> None:
        self._stream.allow(self._server.limits.write_s)
        self._connection.busy_for(SWIFT_S)
        if self._server.crowded:  # its place is wanted
            self.close_connection = True
        headers = {
            "Content-Type": answer.type,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **dict(answer.headers),
            **config.headers,
        }
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self._connection.writing = True
        with self._server.sending(self._connection, answer.body):
            self.end_headers()
            if self.command != "HEAD":
                self._stream.write(answer.body)
        self._connection.writing = False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """_Answer what could not be parsed, in plain text and without repeating any of it."""
        del message, explain
        self._connection.unread = self.close_connection = True
        self.request_version = self.protocol_version  # HTTP/0.9 would get no status line
        status = HTTPStatus(code)
        self._send(_Answer(status, f"{status.phrase.lower()}\n".encode()), WebConfig())

    def version_string(self) -> str:
        """Name the server, and neither its version nor Python's."""
        return "jobwatt"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class's name
        """Log at debug level."""
        log.debug("%s: " + format, self._connection.peer, *args)


_ROUTES: dict[str, Callable[[Handler, str], _Answer]] = {
    "/": Handler._page,  # noqa: SLF001 this table is the class's own
    "/metrics": Handler._metrics,  # noqa: SLF001
    "/healthz": Handler._health,  # noqa: SLF001
    "/readyz": Handler._ready,  # noqa: SLF001
    "/sd": Handler._targets,  # noqa: SLF001
}


# These need no password: the status tells whether a process that anybody can connect to does its
# work, and nothing of a job, a user or the node. The reason stays behind the password.
_PROBES = frozenset({"/healthz", "/readyz"})


def _verdict(good: bool, text: str) -> _Answer:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return _Answer(status, f"{text or 'ok'}\n".encode(errors="replace"))
