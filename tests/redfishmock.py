"""
BMCs that speak Redfish over TLS on loopback, with the faults of real ones; for the tests.

A tree is a mapping from path to resource: of a folder (``index.json`` files, as the DMTF's mock-ups
have them), or written in place. Origins: tests/data/redfish/ORIGINS.md.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import webcerts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

DATA = Path(__file__).parent / "data" / "redfish"
SESSIONS = "/redfish/v1/SessionService/Sessions"
USER, PASSWORD = "poller", 'canary-"7f3e:9b1d'


def folder(name: str) -> dict[str, Any]:
    """The resources of a mock-up."""
    top = DATA / name
    return {
        f"/redfish/v1/{path.parent.relative_to(top)}".removesuffix("/."): json.loads(
            path.read_text()
        )
        for path in top.rglob("index.json")
    }


def fixture(name: str) -> dict[str, Any]:
    """A tree that is one file: path -> resource."""
    return json.loads((DATA / f"{name}.json").read_text())


def node(watts: Any = 500) -> dict[str, Any]:
    """The smallest tree of a node: one system, one chassis, PowerControl."""
    return {
        "/redfish/v1": {
            "Systems": {"@odata.id": "/redfish/v1/Systems"},
            "Chassis": {"@odata.id": "/redfish/v1/Chassis"},
            "SessionService": {"@odata.id": "/redfish/v1/SessionService"},
            "Links": {"Sessions": {"@odata.id": SESSIONS}},
        },
        "/redfish/v1/Systems": {"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]},
        "/redfish/v1/Systems/1": {"Links": {"Chassis": [{"@odata.id": "/redfish/v1/Chassis/1"}]}},
        "/redfish/v1/Chassis": {"Members": [{"@odata.id": "/redfish/v1/Chassis/1"}]},
        "/redfish/v1/Chassis/1": {
            "Power": {"@odata.id": "/redfish/v1/Chassis/1/Power"},
            "Links": {"ComputerSystems": [{"@odata.id": "/redfish/v1/Systems/1"}]},
        },
        "/redfish/v1/Chassis/1/Power": {
            "PowerControl": [{"Name": "System Power Control", "PowerConsumedWatts": watts}]
        },
    }


class Certs:
    """A CA of the site and what it issued; an expired one; one that signed itself."""

    def __init__(self, place: Path) -> None:
        ca = webcerts.make("test CA")
        self.ca, _ = ca.write(place, "ca")
        self.good = webcerts.make("bmc", ca).write(place, "bmc")
        self.own = webcerts.make("self-signed").write(place, "own")


class Bmc:
    """
    One BMC. Attributes may be changed while it runs.

    Attributes:
        tree: path -> resource; a function is called for the resource, and may sleep.
        sessions: tokens of the sessions that are open, by their path.
        seen: (method, path) of every request, in order.
        statuses: path -> HTTP status to answer with instead.
        basic: whether user and password are taken with each request.
        redirects: path -> where to.
    """

    def __init__(
        self,
        pair: tuple[Path, Path],
        tree: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.tree: dict[str, Any] = dict(node() if tree is None else tree)
        self.sessions: dict[str, str] = {}
        self.seen: list[tuple[str, str]] = []
        self.statuses: dict[str, int] = {}
        self.redirects: dict[str, str] = {}
        self.basic = False
        self.asked_s: list[float] = []
        self.connections = 0
        self.on_request: Callable[[BaseHTTPRequestHandler], bool] | None = None
        self._made = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_ciphers("DEFAULT:@SECLEVEL=0")  # BMCs are old
        self._context.load_cert_chain(*pair)
        self._server = _Server((host, 0), _Handler)
        self._server.bmc = self
        self._server.context = self._context
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"https://{host}:{port}"

    def __enter__(self) -> Bmc:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def gets(self) -> list[str]:
        return [path for method, path in self.seen if method == "GET"]

    def logins(self) -> int:
        return self.seen.count(("POST", SESSIONS))

    def open_session(self) -> tuple[str, str]:
        self._made += 1
        path, token = f"{SESSIONS}/{self._made}", secrets.token_hex(16)
        self.sessions[path] = token
        return path, token


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    bmc: Bmc
    context: ssl.SSLContext

    def finish_request(self, request: socket.socket, client_address: Any) -> None:
        self.bmc.connections += 1
        request.settimeout(60)
        try:
            secured = self.context.wrap_socket(request, server_side=True)
            _Handler(secured, client_address, self)
        except OSError:  # the client's affair
            return

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def _serve(self) -> None:
        bmc = self.server.bmc
        path = self.path.rstrip("/")
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        bmc.seen.append((self.command, path))
        bmc.asked_s.append(time.monotonic())
        if bmc.on_request and bmc.on_request(self):
            return
        if path in bmc.statuses:
            self.answer(bmc.statuses[path], {})
        elif path in bmc.redirects:
            self.answer(302, {}, Location=bmc.redirects[path])
        elif self.command == "POST" and path == SESSIONS:
            self._login(body)
        elif path != "/redfish/v1" and not self._known():
            self.answer(401, {"error": {"code": "Base.1.0.GeneralError"}})
        elif self.command == "DELETE" and path in bmc.sessions:
            del bmc.sessions[path]
            self.answer(204, None)
        elif path in bmc.tree and self.command == "GET":
            found = bmc.tree[path]
            self.answer(200, found() if callable(found) else found)
        else:
            self.answer(404, {"error": {"code": "Base.1.0.GeneralError"}})

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815  the standard library's names

    def _login(self, body: bytes) -> None:
        given = json.loads(body)
        if (given["UserName"], given["Password"]) != (USER, PASSWORD):
            self.answer(401, {"error": {"code": "Base.1.0.GeneralError"}})
            return
        path, token = self.server.bmc.open_session()
        self.answer(201, {"@odata.id": path}, **{"X-Auth-Token": token, "Location": path})

    def _known(self) -> bool:
        basic = f"Basic {basic_token()}"
        if self.server.bmc.basic and self.headers.get("Authorization") == basic:
            return True
        return self.headers.get("X-Auth-Token") in self.server.bmc.sessions.values()

    def answer(self, status: int, resource: Any, **headers: str) -> None:
        body = resource if isinstance(resource, bytes) else json.dumps(resource).encode()
        if resource is None:
            body = b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def basic_token() -> str:
    """What goes over the wire for USER and PASSWORD."""
    return base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def credentials(place: Path, text: str = f"{USER}:{PASSWORD}\n") -> Path:
    path = place / "credentials"
    path.write_text(text)
    path.chmod(0o600)
    return path
