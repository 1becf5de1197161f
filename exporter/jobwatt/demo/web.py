"""
The demo's page over HTTP: who may ask, what is where.

It is for people on this machine. A page of the web whose name has been pointed here (DNS rebinding) is refused by
its Host header; nothing that is answered can change anything.
"""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from . import mails, startpage, statics
from .proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .files import Dashboard
    from .mails import Mailbox

log = logging.getLogger(__name__)

MAX_BODY = 1 << 20
REQUEST_S = 60.0  # until a request is there, body and all, and until its answer has been taken
JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent."""

    status: int = HTTPStatus.OK
    type: str = TEXT
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Site:
    """
    What there is to show; parts appear while the demo comes up.

    Attributes:
        viewer: the viewer's built files; None while or where there are none.
        prometheus: host and port; None where there is none.
        status: what /status.json says, as a fresh dict.
    """

    start: startpage.Start
    mailbox: Mailbox
    dashboards: Sequence[Dashboard]
    status: Callable[[], Mapping[str, Any]]
    viewer: Path | None = None
    prometheus: tuple[str, int] | None = None


def look_up(
    site: Site, method: str, target: str, body: bytes, headers: Mapping[str, str]
) -> Answer:
    """Answer one request."""
    parts = urlsplit(target)
    path = unquote(parts.path)
    if path.startswith("/prometheus/"):
        if site.prometheus is None:
            return Answer(HTTPStatus.BAD_GATEWAY, body=b"there is no Prometheus in this demo\n")
        # as it was sent: decoding it once more would change what it means
        return Answer(*Proxy(*site.prometheus).ask(method, parts.path, parts.query, body, headers))
    if method not in {"GET", "HEAD"}:
        return Answer(
            HTTPStatus.METHOD_NOT_ALLOWED, body=b"GET or HEAD\n", headers={"Allow": "GET, HEAD"}
        )
    return (
        _page(site, path) or _file(site, path) or Answer(HTTPStatus.NOT_FOUND, body=b"not found\n")
    )


def _page(site: Site, path: str) -> Answer | None:
    """Return what is made anew for each request."""
    made: dict[str, Callable[[], Answer]] = {
        "/": lambda: _html(
            *startpage.render(site.start, site.dashboards, viewer=site.viewer is not None)
        ),
        "/status.json": lambda: _json(site.status()),
        "/config.json": lambda: _json({"scrapeInterval": "1m", "datasource": "Prometheus (demo)"}),
        "/mails": lambda: _html(*mails.listing(site.mailbox)),
        "/mails.json": lambda: _json(mails.as_dicts(site.mailbox)),
        "/dashboards/index.json": lambda: _json(
            [
                {"uid": one.uid, "title": one.title, "file": one.file, "tags": one.tags}
                for one in site.dashboards
            ]
        ),
    }
    if path in made:
        return made[path]()
    first, _, rest = path.removeprefix("/").partition("/")
    if first == "mails" and rest.isascii() and rest.isdecimal() and len(rest) < 10:
        mail = site.mailbox.get(int(rest))
        return _html(*mails.one(mail)) if mail else None
    if first == "dashboards":
        texts = {one.file: one.text for one in site.dashboards}
        return Answer(type=JSON, body=texts[rest].encode()) if rest in texts else None
    return None


def _file(site: Site, path: str) -> Answer | None:
    """Return a file of the viewer; its page for every dashboard."""
    if path.startswith("/d/"):
        if site.viewer is None:
            return Answer(HTTPStatus.NOT_FOUND, body=f"{site.start.no_dashboards}\n".encode())
        path = "/index.html"
    found = statics.read(site.viewer, path) if site.viewer else None
    if found is None:
        return None
    kind, body = found
    return Answer(
        type=kind,
        body=body,
        headers={"Content-Security-Policy": statics.policy(body)} if kind == HTML else {},
    )


def _html(text: str, policy: str) -> Answer:
    return Answer(
        type=HTML, body=text.encode(errors="replace"), headers={"Content-Security-Policy": policy}
    )


def _json(what: object) -> Answer:
    return Answer(type=JSON, body=json.dumps(what).encode())


# --- who may ask ---------------------------------------------------------------------------------


def hosts(listen: str) -> Callable[[str], bool]:
    """
    Tell whether a Host header names this server.

    Where it listens on all addresses that is any address written in figures, and this machine's own name: a
    name that leads here without being ours is what rebinding needs.
    """
    ours = {"localhost", "127.0.0.1", "::1", listen.lower().strip("[]")}
    everywhere = listen in {"0.0.0.0", "::"}  # noqa: S104  compared, not bound
    if everywhere:
        ours |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def allowed(header: str) -> bool:
        try:
            name = (urlsplit(f"//{header}").hostname or "").lower()
        except ValueError:
            return False
        return name in ours or (everywhere and _is_address(name))

    return allowed


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# --- the server ----------------------------------------------------------------------------------


class _RefusedError(Exception):
    """A request that is not looked at; what of it has not been read goes with its connection."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.answer = Answer(status, body=f"{why}\n".encode())


class _Input(io.RawIOBase):
    """What a client sends, until a deadline: of all of it, not of the byte."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self.until = sock, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the client is too slow")
        self._sock.settimeout(left_s)
        return self._sock.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        """Read under a deadline."""
        super().setup()
        self._input = _Input(self.connection)
        self.rfile = io.BufferedReader(self._input)

    def handle_one_request(self) -> None:
        """Answer one request."""
        self._input.until = time.monotonic() + self.server.request_s
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    do_HEAD = do_POST = do_GET  # noqa: N815  the base class's names

    def _answer(self) -> None:
        try:
            answer = self._made()
        except _RefusedError as err:
            self.close_connection = True
            answer = err.answer
        except Exception:  # a fault in one page must not be lost, nor end the connection unsaid
            log.exception("cannot make %s", self.path)
            answer = Answer(
                HTTPStatus.INTERNAL_SERVER_ERROR, body=b"internal error; see the terminal\n"
            )
        self.connection.settimeout(self.server.request_s)
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.type,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "X-Frame-Options": "SAMEORIGIN",
            **answer.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _made(self) -> Answer:
        if not self.server.allows(self.headers.get("Host", "")):
            raise _RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST, "this is not the host that you asked for"
            )
        if not _is_target(self.path):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "this is not a URL")
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        return look_up(self.server.site, self.command, self.path, body, headers)

    def _body(self) -> bytes:
        given = self.headers.get("Content-Length", "0")
        modest = given.isdecimal() and len(given) <= len(str(MAX_BODY)) and int(given) <= MAX_BODY
        if "Transfer-Encoding" in self.headers or not modest:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a body of known and modest length"
            )
        try:
            body = self.rfile.read(int(given))
        except OSError as err:
            raise _RefusedError(HTTPStatus.REQUEST_TIMEOUT, "the body did not come") from err
        if len(body) < int(given):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body broke off")
        return body

    def version_string(self) -> str:
        """Name the server, and not Python's version."""
        return "jobwatt demo"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Log at debug level."""
        log.debug(format, *args)


def _is_target(text: str) -> bool:
    """Whether a request's target can be a URL: http.server hands on what it gets."""
    try:
        urlsplit(text)
    except ValueError:
        return False
    return text.isascii() and text.isprintable()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_s = REQUEST_S

    def __init__(self, listen: str, port: int, site: Site) -> None:
        self.address_family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        self.site, self.allows = site, hosts(listen)
        super().__init__((listen, port), _Handler)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """A browser that goes away is no news."""
        log.debug("a connection ended: %s", sys.exc_info()[1])


class PageServer:
    """Serves a site until stopped."""

    def __init__(self, listen: str, port: int, site: Site) -> None:
        self._server = _Server(listen, port, site)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
