"""
The APIs of carbon intensity on one local server: the same paths, headers and bodies, written after
their documentation, and whatever a test wants to go wrong.

    with GridServer() as server:
        server.fault = rate_limited(120)     # instead of every answer, until set to None
        server.rte = None                    # the figure is null
"""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

EM_TOKEN = "em-canary-7f3a"
WT_PAIR = "wt-user:wt-canary-99ce"
WT_TOKEN = "wt-bearer-canary-41d0"
PROM_TOKEN = "prom-canary-08bb"
CANARIES = (EM_TOKEN, WT_PAIR, WT_PAIR.partition(":")[2], WT_TOKEN, PROM_TOKEN)
FREE_REGION = "CAISO_NORTH"


def iso(moment: datetime, form: str = "%Y-%m-%dT%H:%MZ") -> str:
    return moment.astimezone(UTC).strftime(form)


def halves(now: datetime) -> tuple[datetime, datetime]:
    began = now.replace(minute=now.minute // 30 * 30, second=0, microsecond=0)
    return began, began + timedelta(minutes=30)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        grid = self.server.grid
        grid.asked.append((self.path, dict(self.headers)))
        if grid.fault is not None:
            grid.fault(self)
            return
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        for prefix, answer in ROUTES:
            if parts.path.startswith(prefix):
                answer(self, parts.path, query)
                return
        self.say({"error": "not found"}, 404)

    def say(self, answer: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.raw(json.dumps(answer).encode(), status, headers)

    def raw(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def may(self, name: str, wanted: str) -> bool:
        if self.headers.get(name) == wanted:
            return True
        self.say({"error": "unauthorized"}, 401)
        return False


def rte(handler: Handler, _path: str, query: dict[str, str]) -> None:
    """Opendatasoft's Explore API v2.1: rows to come are null unless they are filtered out."""
    grid, now = handler.server.grid, datetime.now(UTC)
    newest = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) - grid.rte_age
    rows = [(newest + timedelta(minutes=15), None), (newest, grid.rte)]
    if "taux_co2 is not null" in query.get("where", ""):
        rows = [row for row in rows if row[1] is not None]
    if "desc" not in query.get("order_by", ""):
        rows.reverse()
    shown = [
        {"date_heure": moment.isoformat(), "taux_co2": value}
        for moment, value in rows[: int(query.get("limit", "10"))]
    ]
    handler.say({"total_count": len(rows), "results": shown})


def electricity_maps(handler: Handler, _path: str, query: dict[str, str]) -> None:
    grid, now = handler.server.grid, datetime.now(UTC)
    if not handler.may("auth-token", EM_TOKEN):
        return
    handler.say(
        {
            "zone": query.get("zone"),
            "carbonIntensity": grid.em,
            "datetime": iso(now.replace(minute=0), "%Y-%m-%dT%H:%M:00.000Z"),
            "updatedAt": iso(now, "%Y-%m-%dT%H:%M:%S.120Z"),
            "createdAt": "2025-06-01T12:26:15.360Z",
            "emissionFactorType": query.get("emissionFactorType", "lifecycle"),
            "isEstimated": grid.em_estimated,
            "estimationMethod": "TIME_SLICER_AVERAGE" if grid.em_estimated else None,
        }
    )


def uk_national(handler: Handler, _path: str, _query: dict[str, str]) -> None:
    grid = handler.server.grid
    began, ends = halves(datetime.now(UTC))
    intensity = {"forecast": grid.uk_forecast, "actual": grid.uk_actual, "index": "moderate"}
    handler.say({"data": [{"from": iso(began), "to": iso(ends), "intensity": intensity}]})


def uk_regional(handler: Handler, path: str, _query: dict[str, str]) -> None:
    grid = handler.server.grid
    began, ends = halves(datetime.now(UTC))
    mix = [{"fuel": "gas", "perc": 43.6}, {"fuel": "wind", "perc": 31.4}]
    half = {
        "from": iso(began),
        "to": iso(ends),
        "intensity": {"forecast": grid.uk_forecast, "index": "moderate"},
        "generationmix": mix,
    }
    handler.say(
        {
            "data": [
                {
                    "regionid": 12,
                    "dnoregion": "SSE South",
                    "shortname": "South England",
                    "postcode": path.rpartition("/")[2],
                    "data": [half],
                }
            ]
        }
    )


def watttime_login(handler: Handler, _path: str, _query: dict[str, str]) -> None:
    pair = base64.b64encode(WT_PAIR.encode()).decode()
    if handler.may("Authorization", f"Basic {pair}"):
        handler.server.grid.logins += 1
        handler.say({"token": WT_TOKEN})


def watttime_historical(handler: Handler, _path: str, query: dict[str, str]) -> None:
    grid = handler.server.grid
    if grid.wt_expired:
        grid.wt_expired = False
        handler.say({"error": "token expired"}, 401)
        return
    if not handler.may("Authorization", f"Bearer {WT_TOKEN}"):
        return
    if query["region"] != FREE_REGION:
        handler.say({"error": "no access to this region"}, 403)
        return
    end = datetime.fromisoformat(query["end"])
    at = end.replace(minute=end.minute // 5 * 5, second=0)
    points = [
        {"point_time": (at - timedelta(minutes=5 * n)).isoformat(), "value": grid.wt + n}
        for n in range(24)
    ]
    meta = {
        "data_point_period_seconds": 300,
        "region": query["region"],
        "warnings": [],
        "signal_type": query["signal_type"],
        "model": {"date": "2023-03-01"},
        "units": "lbs_co2_per_mwh",
    }
    handler.say({"data": points[::-1], "meta": meta})


def prometheus(handler: Handler, _path: str, query: dict[str, str]) -> None:
    grid = handler.server.grid
    if not handler.may("Authorization", f"Bearer {PROM_TOKEN}"):
        return
    if query["query"] == "1 +":
        bad = {"status": "error", "errorType": "bad_data", "error": "parse error"}
        handler.say(bad, 400)
        return
    value = [round(time.time(), 3), grid.prom]
    if query["query"].startswith("scalar"):
        handler.say({"status": "success", "data": {"resultType": "scalar", "result": value}})
        return
    result = [{"metric": {"n": str(n)}, "value": value} for n in range(grid.prom_series)]
    handler.say({"status": "success", "data": {"resultType": "vector", "result": result}})


ROUTES = (
    ("/api/explore/v2.1/catalog/datasets/eco2mix-national-tr/records", rte),
    ("/v3/carbon-intensity/latest", electricity_maps),
    ("/intensity", uk_national),
    ("/regional/postcode/", uk_regional),
    ("/login", watttime_login),
    ("/v3/historical", watttime_historical),
    ("/api/v1/query", prometheus),
)


def answering(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler], None]:
    """A fault: the same answer to every question."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.raw(body, status, named)


def hang(handler: Handler) -> None:
    """A fault: takes the question and says nothing."""
    handler.server.over.wait(30)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A fault: a byte now and then, each within any timeout of a single read."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    try:
        while not handler.server.over.wait(0.05):
            handler.wfile.write(b" ")
    except OSError:
        handler.close_connection = True


def drip_header(handler: Handler) -> None:
    """A fault: a header without end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    try:
        while not handler.server.over.wait(0.05):
            handler.wfile.write(b"a")
    except OSError:
        handler.close_connection = True


def flood(handler: Handler) -> None:
    """A fault: an answer without end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        handler.close_connection = True


def broken_off(handler: Handler) -> None:
    """A fault: the connection ends in the middle."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"results": [')
    handler.close_connection = True


class Proxy:
    """A proxy that only knows CONNECT, and remembers for whom."""

    def __enter__(self) -> Proxy:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = client.recv(4096).decode()
        assert head.startswith("CONNECT ")
        self.asked.append(head.split()[1])
        host, _, port = head.split()[1].rpartition(":")
        server = socket.create_connection((host, int(port)))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=_pump, args=(client, server), daemon=True).start()
        _pump(server, client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    grid: GridServer
    over: threading.Event

    def handle_error(self, *_: Any) -> None:
        pass  # clients that hang up are what is tested


@dataclass
class GridServer:
    """The server, and the figures it gives."""

    rte: float | None = 22
    rte_age: timedelta = timedelta(minutes=15)
    em: float | None = 58
    em_estimated: bool = False
    uk_forecast: float | None = 266
    uk_actual: float | None = None
    wt: float = 1000
    wt_expired: bool = False
    prom: str = "41.5"
    prom_series: int = 1
    logins: int = 0
    fault: Callable[[Handler], None] | None = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> GridServer:
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.grid, self._server.over = self, threading.Event()
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
