"""Requests and mails: whoever reaches the daemon's port, the demo's page, or its mail server."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any

from fuzz.base import escaped, hold, line, place, put, target
from jobwatt import web, webconfig, webformats
from jobwatt.config import ConfigError
from jobwatt.demo import mails, proxy, startpage, statics
from jobwatt.demo import web as demoweb
from jobwatt.demo.files import Dashboard
from jobwatt.passwords import PasswordCheck, _credentials
from jobwatt.websection import WebConfigError

# bcrypt of "secret" at its least cost, by htpasswd -nbBC 4 u secret
_USERS = 'basic_auth_users:\n  u: "$2b$04$abcdefghijklmnopqrstuuQfPfkEJ3OSkSpD5XFxJZKOzxs1X4kW2"\n'


class _Site:
    def metrics(self, openmetrics: bool, names: frozenset[str]) -> bytes:
        return b"# EOF\n" if openmetrics else b"a 1\n"

    def page(self) -> str:
        return "<p>\ud800</p>"

    def health(self) -> tuple[bool, str]:
        return True, "well"

    def ready(self) -> tuple[bool, str]:
        return False, "not yet\ud800"


_servers: dict[bool, web.WebServer] = {}


def _server(*, users: bool) -> web.WebServer:
    if users not in _servers:
        file = put("web.yml", _USERS) if users else None
        server = _servers[users] = web.WebServer("127.0.0.1:0", _Site(), file)
        server.passwords = PasswordCheck(pause_s=0)
    return _servers[users]


def _ends(data: bytes) -> tuple[socket.socket, socket.socket]:
    client, ours = socket.socketpair()
    for end in (client, ours):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    return client, ours


def _answers(client: socket.socket) -> bytes:
    said = b""
    client.settimeout(5)
    while piece := client.recv(1 << 16):
        said += piece
    client.close()
    hold(not said or said.startswith(b"HTTP/1.1 "), f"an answer that is none: {said[:60]!r}")
    hold(b"HTTP/1.1 500" not in said, "an internal error")
    return said


_REQUESTS = [
    b"GET /metrics HTTP/1.1\r\nHost: n1\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\nAccept-Encoding: gzip\r\n\r\n",
    b"GET /metrics?name[]=a&name%5B%5D=b HTTP/1.1\r\nHost: n1\r\nConnection: keep-alive\r\n\r\nHEAD / HTTP/1.1\r\nHost: n1\r\n\r\n",
    b"GET /readyz HTTP/1.0\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: n1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization: Basic dTpzZWNyZXQ=\r\n\r\n",
]


@target("web.requests", _REQUESTS, share=0.7, max_len=8192)
def requests(data: bytes) -> None:
    server = _server(users=False)
    client, ours = _ends(data)
    web.Connection(server, ours, "192.0.2.1").run()
    _answers(client)


@target("web.requests_of_users", _REQUESTS, share=0.3)
def requests_of_users(data: bytes) -> None:
    server = _server(users=True)
    client, ours = _ends(data)
    web.Connection(server, ours, "192.0.2.1").run()
    hold(b"a 1\n" not in _answers(client), "the page, without a password")


@target(
    "web.headers",
    [
        b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1",
        b"gzip, deflate;q=0, x-gzip;q=1e400", b"Basic dTpzZWNyZXQ=", b"*/*;q=nan",
    ],
    share=2.0,
)  # fmt: skip
def headers(data: bytes) -> None:
    for said in (data.decode("latin-1"), escaped(data)):
        hold(webformats.wants_openmetrics(said) in (True, False), "neither")
        hold(webformats.accepts_gzip(said) in (True, False), "neither")
        found = _credentials(said)
        hold(found is None or isinstance(found[1], bytes), "no password")


@target(
    "web.config",
    [
        _USERS.encode(),
        b"tls_server_config:\n  cert_file: a.pem\n  key_file: b.pem\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: c\n  min_version: TLS13\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n",
        b"http_server_config:\n  http2: true\n  headers: {X-Frame-Options: DENY}\n",
        b"a: 2000-01-01\nb: 0x_\n? [1]\n: !!map x\n",
    ],
    WebConfigError,
    share=0.3,
)
def config(data: bytes) -> None:
    path = place() / "web-config.yml"
    try:
        webconfig.parse(data.decode("utf-8", "replace"), path)
    except WebConfigError as err:
        line(err, 20_000)
        raise


@target(
    "web.listen_address",
    [b":9816", b"127.0.0.1:0", b"[::1]:65535", b"host:1"],
    ConfigError,
    share=1.5,
)
def listen_address(data: bytes) -> None:
    host, port = web.parse_address(escaped(data))
    hold(0 <= port <= 65535 and "/" not in host, "no address")


# --- the demo -------------------------------------------------------------------------------------

_MAIL = b"""From: GPU monitor <gpu@example.org>
To: alice@example.org
Subject: =?utf-8?q?Your_GPUs_have_been_idle?=
Auto-Submitted: auto-generated
Content-Type: multipart/alternative; boundary="xx"
MIME-Version: 1.0

--xx
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: quoted-printable

idle =3D waste
--xx
Content-Type: text/html; charset="utf-8"
Content-Transfer-Encoding: base64

PGh0bWw+PGhlYWQ+PC9oZWFkPjxzY3JpcHQ+YWxlcnQoMSk8L3NjcmlwdD48L2h0bWw+
--xx--
"""


@target(
    "demo.mails",
    [_MAIL, b"Subject: a <b>\nDate: x\n\nbody", b"To: (((((\nFrom: @,<>\n\n"],
    share=0.3,
)
def mail(data: bytes) -> None:
    box = mails.Mailbox()
    box.add(("alice@example.org", data[:20].decode("latin-1")), data)
    pages = [mails.listing(box), *(mails.one(one) for one in box.newest_first())]
    for text, _ in pages:
        hold("<script" not in text.lower(), "a mail's script in the page")
        hold(text.count("<iframe") <= 1, "a mail's frame in the page")
        text.encode(errors="replace")
    json.dumps(mails.as_dicts(box)).encode()


_site: list[demoweb.Site] = []


def _demo() -> demoweb.Site:
    if not _site:
        put("viewer/index.html", "<script>1</script>")
        put("outside", "not to be seen")
        dashboards = [Dashboard("jobwatt-job", "Job", "job.json", (), "{}")]
        _site.append(
            demoweb.Site(
                startpage.Start(), mails.Mailbox(), dashboards, lambda: {"a": 1}, place() / "viewer"
            )
        )
        _site[0].mailbox.add(("a@b",), _MAIL)
    return _site[0]


@target(
    "demo.requests",
    [
        b"GET /mails/1 HTTP/1.1\r\nHost: localhost:3000\r\n\r\n",
        b"GET /d/jobwatt-job?var-jobid=7 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /%2e%2e/outside HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /prometheus/api/v1/query HTTP/1.1\r\nHost: [::1]:3000\r\nContent-Length: 8\r\n\r\nquery=up",
        b"GET /dashboards/index.json HTTP/1.1\r\nHost: localhost\r\n\r\nGET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    share=0.3,
)
def demo_requests(data: bytes) -> None:
    server: Any = SimpleNamespace(site=_demo(), allows=demoweb.hosts("127.0.0.1"), request_s=5.0)
    client, ours = _ends(data)
    try:
        demoweb._Handler(ours, ("127.0.0.1", 1), server)
    except OSError:  # as socketserver takes it
        pass
    finally:
        ours.close()
    said = b""
    client.settimeout(5)
    while piece := client.recv(1 << 16):
        said += piece
    client.close()
    hold(b" 500 internal" not in said.lower(), "an internal error")
    hold(b"not to be seen" not in said, "a file outside of the folder")


@target(
    "demo.hosts_and_paths",
    [b"localhost:3000", b"[::1]", b"/api/v1/label/a/values", b"/a/../../outside"],
    share=1.5,
)
def hosts_and_paths(data: bytes) -> None:
    said = escaped(data)
    for listen in ("127.0.0.1", "::"):
        if listen not in _allowed:
            _allowed[listen] = demoweb.hosts(listen)
        _allowed[listen](said)
    proxy.allowed("GET", said)
    _demo()
    found = statics.read(place() / "viewer", data.decode("utf-8", "replace"))
    hold(found is None or b"not to be seen" not in found[1], "a file outside of the folder")
    demoweb._is_target(data.decode("latin-1"))


_allowed: dict[str, Any] = {}
