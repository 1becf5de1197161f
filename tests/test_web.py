"""The HTTP server, with real sockets and real TLS; test_tls.py has it with a real Prometheus."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import gzip
import http.client
import logging
import re
import shutil
import socket
import ssl
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
import pytest
from prometheus_client.exposition import choose_encoder

import webcerts
from attacks import GARBAGE
from jobwatt import web, webshares
from jobwatt.web import Limits, WebServer
from jobwatt.webconfig import WebConfigError
from jobwatt.webhandler import OPENMETRICS, TEXT, accepts_gzip, wants_openmetrics
from jobwatt.weblisten import listen, parse_address

PAGE = "# HELP jobwatt_jobs Jobs.\n# TYPE jobwatt_jobs gauge\njobwatt_jobs 2.0\n"
AUTH = "Basic " + b64encode(b"ann:secret").decode()


@dataclass
class FixedSite:
    """A site with fixed answers, each page one object as long as nothing changes."""

    text: bytes = PAGE.encode()
    openmetrics: bytes = (PAGE + "# EOF\n").encode()
    good: bool = True
    asked: list[frozenset[str]] = field(default_factory=list)

    def metrics(self, openmetrics, names):
        self.asked.append(names)
        if "boom" in names:
            raise RuntimeError("boom")
        return self.openmetrics if openmetrics else self.text

    def page(self):
        return "<!doctype html><title>jobwatt</title>\udce9"

    def health(self):
        return self.good, "" if self.good else "the last sample is 90 s old"

    def ready(self):
        return self.good, "" if self.good else "no sample yet"


class DearSite(FixedSite):
    """A page that takes 50 ms of CPU time."""

    def metrics(self, openmetrics, names):
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        return super().metrics(openmetrics, names)


class DearSelections(FixedSite):
    """A selection of families takes 50 ms of CPU time; the whole page, which is kept ready, takes none."""

    def metrics(self, openmetrics, names):
        until = time.thread_time() + 0.05
        while names and time.thread_time() < until:
            pass
        return super().metrics(openmetrics, names)


QUICK = Limits(connections=8, handshake_s=1.0, request_s=1.0, idle_s=1.0, write_s=1.0)


@contextlib.contextmanager
def serving(address="127.0.0.1:0", site=None, config=None, limits=None):
    server = WebServer(address, site or FixedSite(), config, limits)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server():
    with serving(limits=Limits(connections=8)) as server:
        yield server


@pytest.fixture
def hasty():
    """One that loses patience after a second, where that is what is tested: others may wait for a busy machine."""
    with serving(limits=QUICK) as server:
        yield server


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """A CA with a server and two clients, and a stranger with a CA of its own."""
    path = tmp_path_factory.mktemp("certs")
    ca, stranger = webcerts.make("ca"), webcerts.make("stranger")
    ca.write(path, "ca")
    stranger.write(path, "strange-ca")
    webcerts.make("server", ca).write(path, "server")
    webcerts.make("prometheus", ca, ("prometheus.example.org",)).write(path, "client")
    webcerts.make("someone", ca, ("someone.example.org",)).write(path, "someone")
    webcerts.make("stranger", stranger).write(path, "stranger")
    return path


TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
MTLS = TLS + "  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
USERS = f"basic_auth_users:\n  ann: {bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n"


@pytest.fixture
def config(certs, request):
    """Writes a web config beside the certificates."""

    def write(text):
        path = certs / f"{abs(hash(request.node.name))}.yml"
        path.write_text(text)
        return path

    return write


def client_context(certs, name=""):
    context = ssl.create_default_context(cafile=certs / "ca.crt")
    if name:
        context.load_cert_chain(certs / f"{name}.crt", certs / f"{name}.key")
    return context


def connect(server, context=None):
    host, port = server.address
    if context:
        return http.client.HTTPSConnection(host, port, timeout=60, context=context)
    return http.client.HTTPConnection(host, port, timeout=60)


def ask(server, path="/metrics", method="GET", headers=(), context=None, body=None):
    """One request on a connection of its own: the response and its body."""
    with contextlib.closing(connect(server, context)) as connection:
        connection.request(method, path, headers=dict(headers), body=body)
        response = connection.getresponse()
        return response, response.read()


OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _closed():
    """Closes the raw sockets of a test."""
    yield
    while OPEN:
        OPEN.pop().close()


def dial(host, port):
    OPEN.append(socket.create_connection((host, port), timeout=60))
    return OPEN[-1]


def raw(server, data=b""):
    sock = dial(*server.address)
    sock.sendall(data)
    return sock


def offer(server, sent):
    """All that is answered; sending may end early, and our half is closed."""
    sock = raw(server)
    with contextlib.suppress(OSError):
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
    return read_all(sock)


def key_updates(address, limit_s):
    """Send them as fast as OpenSSL makes them, until the server has enough."""
    found = ctypes.util.find_library("ssl")
    if found is None:
        pytest.skip("no libssl")
    lib = ctypes.CDLL(found)
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    tls = ctypes.c_void_p(
        lib.SSL_new(ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_client_method()))))
    )
    sock = dial(*address)
    sock.setblocking(True)
    lib.SSL_set_fd(tls, sock.fileno())
    assert lib.SSL_connect(tls) == 1
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if lib.SSL_key_update(tls, 0) != 1 or lib.SSL_do_handshake(tls) != 1:
            return


@contextlib.contextmanager
def crowding(server, number):
    """So many clients that ask for selections, each again and again, each time on a new connection."""
    stop = threading.Event()

    def loop():
        while not stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                ask(server, "/metrics?name[]=a")

    crowd = [threading.Thread(target=loop) for _ in range(number)]
    for thread in crowd:
        thread.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        stop.set()
        for thread in crowd:
            thread.join()


def read_all(sock):
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


class TestEndpoints:
    """What is where."""

    def test_metrics(self, server):
        """/metrics is the site's page, byte for byte, in the text format by default."""
        response, body = ask(server)
        assert (response.status, body) == (200, PAGE.encode())
        assert response.headers["Content-Type"] == TEXT

    def test_openmetrics(self, server):
        """OpenMetrics is served where it is asked for."""
        response, body = ask(
            server, headers={"Accept": "application/openmetrics-text;version=1.0.0"}
        )
        assert response.headers["Content-Type"] == OPENMETRICS
        assert body.endswith(b"# EOF\n")

    def test_names(self, server):
        """?name[]= reaches the site, decoded."""
        ask(server, "/metrics?name[]=a&name%5B%5D=b&other=c")
        assert server.site.asked == [frozenset({"a", "b"})]

    def test_page(self, server):
        """/ is HTML that may load nothing from anywhere, even where a name is not UTF-8."""
        response, body = ask(server, "/")
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert body == b"<!doctype html><title>jobwatt</title>?"

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    def test_health(self, server, path):
        """Health is 200 "ok", or 503 and the reason."""
        response, body = ask(server, path)
        assert (response.status, body) == (200, b"ok\n")
        server.site.good = False
        response, body = ask(server, path)
        assert response.status == 503
        assert body in (b"the last sample is 90 s old\n", b"no sample yet\n")

    @pytest.mark.parametrize("path", ["/favicon.ico", "/metrics/", "/../etc/passwd", "/%00", "//"])
    def test_not_found(self, server, path, caplog):
        """Anything else is 404, without a word in the log."""
        response, body = ask(server, path)
        assert response.status == (200 if path == "//" else 404)  # the library reads // as /
        assert b"passwd" not in body
        assert not [r for r in caplog.records if r.levelno > logging.INFO]

    @pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
    def test_head(self, server, path):
        """HEAD has GET's headers and no body, and leaves the connection in step."""
        with contextlib.closing(connect(server)) as connection:
            connection.request("GET", path)
            got = connection.getresponse()
            got.read()
            connection.request("HEAD", path)
            head = connection.getresponse()
            assert head.read() == b""
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
            connection.request("GET", path)
            assert connection.getresponse().status == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
    def test_other_methods(self, server, method):
        """Other methods are 405 and told which are allowed, and a body does no harm."""
        body = b"x" * 300_000 if method in ("POST", "PUT") else None
        response, _ = ask(server, method=method, body=body)
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"

    def test_no_version_leaks(self, server):
        """No header names Python or a version."""
        response, _ = ask(server)
        assert response.headers["Server"] == "jobwatt"
        assert "ython" not in str(response.headers)

    def test_a_fault_is_500_and_logged(self, server, caplog):
        """A fault in the site is a 500 and a traceback in the log; the connection goes on."""
        with contextlib.closing(connect(server)) as connection:
            connection.request("GET", "/metrics?name[]=boom")
            response = connection.getresponse()
            assert response.status == 500
            assert b"boom" not in response.read()
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        assert "RuntimeError: boom" in caplog.text

    def test_configured_headers(self, config):
        """Headers of the web config replace the built-in ones, on every answer."""
        text = "http_server_config: {headers: {X-Frame-Options: sameorigin}}"
        with serving(config=config(text)) as server:
            for path in ("/", "/none"):
                response, _ = ask(server, path)
                assert response.headers.get_all("X-Frame-Options") == ["sameorigin"]


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class TestNegotiation:
    """Formats and compression."""

    @pytest.mark.parametrize(
        "accept",
        [
            PROMETHEUS_2,
            PROMETHEUS_3,
            CHROME,
            "",
            "*/*",
            "text/plain",
            "text/plain;version=0.0.4",
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "application/openmetrics-text;version=0.0.1",
            "application/json",
        ],
    )
    def test_as_prometheus_client(self, accept):
        """Of what real clients send, the format is the one prometheus_client would choose."""
        assert wants_openmetrics(accept) == ("openmetrics" in choose_encoder(accept)[1])

    @pytest.mark.parametrize(
        ("accept", "expected"),
        [
            ("application/openmetrics-text;q=0,text/plain", False),
            ("text/plain;q=0.9,application/openmetrics-text;q=0.1", False),
            ("text/plain;q=0.1,application/openmetrics-text;q=0.9", True),
            ("Application/OpenMetrics-Text ; Version=1.0.0", True),
            ("application/openmetrics-text;version=2.0.0", False),
            ("application/openmetrics-text;q=abc", False),
            (";;;,,,=;q", False),
        ],
    )
    def test_weights(self, accept, expected):
        """Weights decide, and nonsense is the text format."""
        assert wants_openmetrics(accept) is expected

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("gzip", True),
            ("deflate, GZIP;q=0.5", True),
            ("*", True),
            ("x-gzip", True),
            ("gzip;q=0", False),
            ("gzip;q=0, *", False),
            ("identity", False),
            ("", False),
        ],
    )
    def test_accepts_gzip(self, header, expected):
        """gzip only where it is asked for, and not where it is refused."""
        assert accepts_gzip(header) is expected

    def test_gzip(self, server):
        """A compressed page unpacks to the page, and says so."""
        response, body = ask(server, headers={"Accept-Encoding": "gzip"})
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        assert gzip.decompress(body) == PAGE.encode()

    def test_a_page_is_compressed_once(self, server):
        """The same page is compressed once, a new one and the other format anew."""
        page = bytes(server.site.text)
        first = server.zipped(page, openmetrics=False)
        assert server.zipped(page, openmetrics=False) is first
        other = server.zipped(page + b"x", openmetrics=True)
        assert server.zipped(page, openmetrics=False) is first
        assert gzip.decompress(other) == page + b"x"
        assert gzip.decompress(server.zipped(page + b"y", openmetrics=False)) == page + b"y"


class TestPatience:
    """Slow, silent, crowding and nonsensical clients."""

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize("sent", [b"", b"\x16\x03", b"GET /metr"], ids=["idle", "hello", "get"])
    def test_a_silent_client_blocks_nobody(self, certs, config, tls, sent):
        """With silent connections open, a scrape is answered as fast as without."""
        with serving(config=config(TLS) if tls else None) as server:
            silent = [raw(server, sent) for _ in range(10)]
            start = time.monotonic()
            response, _ = ask(server, context=client_context(certs) if tls else None)
            assert response.status == 200
            assert time.monotonic() - start < 8  # they stay silent for 10 s
            for sock in silent:
                sock.close()

    @pytest.mark.slow
    def test_a_slow_header_has_one_deadline(self, hasty):
        """A header that drips in is cut off after the time for the whole of it."""
        start, sock = time.monotonic(), raw(hasty, b"GET /metrics HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() - start < 30:
                sock.sendall(b"X-Drip: 1\r\n")
                time.sleep(0.1)
        assert 0.8 < time.monotonic() - start < 8

    @pytest.mark.slow
    def test_a_slow_handshake_has_one_deadline(self, config):
        """A TLS handshake that never ends is cut off."""
        with serving(config=config(TLS), limits=QUICK) as server:
            start = time.monotonic()
            assert raw(server).recv(1) == b""
            assert 0.8 < time.monotonic() - start < 8

    @pytest.mark.slow
    def test_a_reader_that_stalls_is_dropped(self):
        """Who asks and does not read loses the connection, and its place, in time."""
        site = FixedSite(text=b"x" * 50_000_000)
        with serving(site=site, limits=QUICK) as server:
            sock = raw(server, b"GET /metrics HTTP/1.1\r\n\r\n")
            assert sock.recv(10)
            deadline = time.monotonic() + 15
            while server._connections and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not server._connections
            sock.close()

    def test_keep_alive(self, server):
        """Several requests share a connection, also when they are sent at once."""
        sock = raw(server, b"GET /healthz HTTP/1.1\r\n\r\n" * 3 + b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(sock).count(b"HTTP/1.1 200 OK") == 4

    @pytest.mark.slow
    def test_an_idle_connection_ends(self, hasty):
        """A kept-alive connection ends when nothing is asked for long."""
        start, sock = time.monotonic(), raw(hasty, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200")
        assert 0.8 < time.monotonic() - start < 8

    def test_idle_connections_make_room(self, server):
        """More idle connections than places keep nobody out: the oldest goes."""
        crowd = [raw(server) for _ in range(3 * QUICK.connections)]
        response, _ = ask(server)
        assert response.status == 200
        assert len(server._connections) <= QUICK.connections
        assert crowd[0].recv(1) == b""

    def test_a_crowd_ousts_itself(self):
        """A client that takes all places loses its own, not another client's."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no IPv6")
        with serving(":0", limits=Limits(connections=8)) as server:
            port = server.address[1]
            other = dial("::1", port)
            reader = other.makefile("rb")
            other.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert b"HTTP/1.1 200 OK\r\n" in list(iter(reader.readline, b"ok\n"))
            crowd = [dial("127.0.0.1", port) for _ in range(40)]
            assert crowd[0].recv(1) == b""
            other.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert reader.readline() == b"HTTP/1.1 200 OK\r\n"

    def test_slow_readers_make_room(self):
        """Where each place is a slow reader's, another client's request takes the place of the oldest."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no IPv6")
        site = FixedSite(text=b"x" * 50_000_000)
        with serving(":0", site=site, limits=Limits(connections=4, write_s=60)) as server:
            port = server.address[1]
            slow = [dial("127.0.0.1", port) for _ in range(4)]
            for sock in slow:
                sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert sock.recv(10)
            other = dial("::1", port)
            other.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert other.recv(100).startswith(b"HTTP/1.1 200")
            held = [connection.client for connection in server._connections]
            assert held.count("127.0.0.1") == 3

    def test_kernel_buffers_are_bounded(self, server):
        """What the kernel holds for a connection is bounded too: left alone it grows to megabytes."""
        sock = raw(server)
        while not server._connections:
            time.sleep(0.01)
        (connection,) = server._connections
        for option, most in ((socket.SO_SNDBUF, 256 << 10), (socket.SO_RCVBUF, 64 << 10)):
            assert connection.sock.getsockopt(socket.SOL_SOCKET, option) <= most
        sock.close()

    def test_a_client_has_a_share_of_cpu_time(self):
        """Beyond its burst a client is answered no faster than its share allows; another one does not wait."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no IPv6")
        limits = Limits(cpu_share=0.1, cpu_burst_s=0.1)
        with serving(":0", site=DearSite(), limits=limits) as server:
            port, began, answers = server.address[1], time.monotonic(), 0
            with dial("127.0.0.1", port).makefile("rwb", buffering=0) as stream:
                while time.monotonic() < began + 1.5:
                    stream.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                    answers += stream.read(1 << 16).startswith(b"HTTP/1.1 200")
            took_s = time.monotonic() - began
            most = (0.1 + 0.1 * took_s) / 0.05 + 5  # a burst, a share, one under way, and slack
            assert 1 <= answers <= most  # few where the machine is busy: it is never many
            other = dial("::1", port)
            other.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert other.recv(100).startswith(b"HTTP/1.1 200")

    def test_when_all_are_stalled(self):
        """Where every place is a stalled reader's of the same client, the next waits, and has the place of the oldest."""
        site = FixedSite(text=b"x" * 50_000_000)
        with serving(site=site, limits=Limits(connections=2, write_s=20)) as server:
            stalled = [raw(server, b"GET /metrics HTTP/1.1\r\n\r\n") for _ in range(2)]
            for sock in stalled:
                assert sock.recv(10)
            began = time.monotonic()
            assert ask(server, "/healthz")[0].status == 200
            assert time.monotonic() - began < 15  # write_s is 20

    def test_neighbours_at_the_same_address(self):
        """While others of its address ask for dear pages on more connections than there are places, a scrape is served."""
        limits = Limits(connections=8, cpu_share=0.1, cpu_burst_s=0.5)
        with serving(site=DearSelections(), limits=limits) as server, crowding(server, 24):
            for _ in range(2):
                for path in ("/metrics", "/healthz"):
                    response, _ = ask(server, path)
                    assert response.status == 200, path

    def test_many_connections_have_one_share(self):
        """A client's connections share its CPU time, however many of them wait at once."""
        limits = Limits(cpu_share=0.1, cpu_burst_s=0.2)
        site = DearSelections()
        with serving(site=site, limits=limits) as server:
            began = time.monotonic()
            with crowding(server, 24):
                time.sleep(2)
            took_s = time.monotonic() - began
        assert len(site.asked) <= (0.2 + 0.1 * took_s) / 0.05 + 2

    def test_when_a_wait_is_over(self):
        """Who has waited long enough is told to come again, and health is told all the same."""
        with serving(limits=Limits(cpu_share=0.0001, cpu_burst_s=0.0)) as server:
            response, _ = ask(server, "/metrics?name[]=a")
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert ask(server, "/healthz")[0].status == 200
        assert server.site.asked == []

    def test_where_the_system_has_no_thread_to_give(self, monkeypatch):
        """A crowd of idle connections that uses up the threads keeps nobody out: one of them ends."""
        start = threading.Thread.start

        def scarce(thread):
            if getattr(thread._target, "__name__", "") == "run" and threading.active_count() > most:
                raise RuntimeError("can't start new thread")
            start(thread)

        with serving(limits=Limits(connections=64)) as server:
            most = threading.active_count() + 8
            monkeypatch.setattr(threading.Thread, "start", scarce)
            crowd = [raw(server, b"GET /healthz HTTP/1.1\r\n\r\n") for _ in range(9)]
            for sock in crowd:
                assert sock.recv(100)
            assert ask(server)[0].status == 200

    def test_what_is_sent_is_bounded(self, monkeypatch):
        """Of pages that nobody takes, those longest under way are given up; one page counts once."""
        monkeypatch.setattr(web, "SENDING_BYTES", 25_000_000)
        site = FixedSite(text=bytes(10_000_000))
        with serving(site=site) as server:

            def stalled():
                sock = raw(server, b"GET /metrics HTTP/1.1\r\n\r\n")
                assert sock.recv(10)
                return sock

            same = [stalled() for _ in range(4)]
            assert len(server._sending) == 4
            site.text = bytes(10_000_001)
            other = stalled()
            assert len(server._sending) == 5
            site.text = bytes(10_000_002)
            stalled()
            for sock in same:
                with contextlib.suppress(ConnectionResetError):
                    assert len(read_all(sock)) < 10_000_000
            assert len(server._sending) <= 2
            other.close()

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000 + b"\r\n", 431),
            (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431),
            (b"GET / HTTP/9.1\r\n\r\n", 505),
            (b"<script>alert(1)</script>\r\n\r\n", 400),
            (b"GET / HTTP/x\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \r\n\r\n", 400),
            *((sent, [int(status) for status in statuses]) for sent, statuses in GARBAGE.values()),
        ],
    )
    def test_nonsense(self, server, sent, status):
        """What is too long or no HTTP gets the right refusal, and none of it back."""
        answer = offer(server, sent)
        statuses = status if isinstance(status, list) else [status]
        assert answer.startswith(tuple(b"HTTP/1.1 %d " % one for one in statuses)), answer[:80]
        assert b"script" not in answer
        assert b"evil" not in answer
        assert len(answer) < 1000

    @pytest.mark.parametrize(
        "smuggled",
        [
            b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n",
            b"Content-Length: +%d\r\n\r\n",
            b"Content-Length : %d\r\n\r\n",
            b"X: y\rContent-Length: %d\r\n\r\n",
            b"X: y\r\n Content-Length: %d\r\n\r\n",
            b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"Transfer-Encoding: chunked\r\nX-Length: %d\r\n\r\n0\r\n\r\n",
            b"\0: %d\r\n\r\n",
            b"no colon %d\r\n\r\n",
        ],
    )
    def test_a_body_is_never_a_request(self, server, smuggled):
        """However a body's length is told, what could be one is no second request (request smuggling)."""
        second = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + smuggled % len(second)
        answer = offer(server, first + second)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b" 404 " not in answer

    def test_stop_ends_everything(self, server):
        """stop() is prompt, ends idle connections and frees the port."""
        idle, address = raw(server), server.address
        while not server._connections:
            time.sleep(0.01)
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 30  # an idle connection may last 130 s
        assert idle.recv(1) == b""
        listen(*address).close()


class TestAddresses:
    """--web.listen-address."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (":9816", ("", 9816)),
            ("[::1]:9816", ("::1", 9816)),
            ("[::]:0", ("::", 0)),
            ("node-1.example.org:80", ("node-1.example.org", 80)),
            ("0.0.0.0:9816", ("0.0.0.0", 9816)),
        ],
    )
    def test_good(self, text, expected):
        """Host and port are split."""
        assert parse_address(text) == expected

    @pytest.mark.parametrize(
        "text",
        ["9816", "", "::1:9816", "[::1]", "a:b", "a:99999", "[x]:1", "http://a:1", "a b:1", "a:-1"],
    )
    def test_bad(self, text):
        """Anything else is refused in one line that names the flag."""
        with pytest.raises(ValueError, match=r"^--web.listen-address: [^\n]*$"):
            WebServer(text, FixedSite())

    def test_all_interfaces(self):
        """:PORT answers on IPv4 and, where the machine has it, on IPv6."""
        with serving(":0") as server:
            port = server.address[1]
            hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
            for host in hosts:
                connection = http.client.HTTPConnection(host, port, timeout=60)
                connection.request("GET", "/healthz")
                assert connection.getresponse().status == 200
                connection.close()

    def test_ipv6_alone(self):
        """[::1] is served, and not on IPv4."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no IPv6")
        with serving("[::1]:0") as server:
            assert ask(server)[0].status == 200
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", server.address[1]), timeout=60)

    def test_localhost_is_ipv4(self):
        """A name with both kinds of address is served on IPv4, where scrapers look."""
        with serving("localhost:0") as server:
            assert server.address[0] == "127.0.0.1"

    def test_a_port_that_is_taken(self, server):
        """A taken port is said with its number and the flag to choose another."""
        port = server.address[1]
        with pytest.raises(OSError, match=rf"^port {port} is taken .*--web.listen-address$"):
            WebServer(f"127.0.0.1:{port}", FixedSite()).start()

    @pytest.mark.parametrize(
        ("address", "said"),
        [("192.0.2.1:0", "cannot listen on '192.0.2.1'"), ("no.such.invalid:0", "has no address")],
    )
    def test_an_address_that_is_not_ours(self, address, said):
        """A foreign address and an unknown name are said as such."""
        with pytest.raises(OSError, match=said):
            WebServer(address, FixedSite()).start()


class TestWarning:
    """User names beyond this machine."""

    def warned(self, caplog, address, config=None):
        caplog.clear()
        with caplog.at_level(logging.INFO), serving(address, config=config):
            return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]

    def test_open_to_the_network(self, caplog):
        """Beyond loopback and unprotected: one warning, with both ways to mend it."""
        (line,) = self.warned(caplog, ":0")
        assert line.startswith("USER NAMES GO OUT UNPROTECTED")
        assert "without TLS and authentication" in line
        assert "--web.config.file" in line
        assert "--web.listen-address=127.0.0.1:" in line

    def test_a_page_that_names_nobody(self, caplog):
        """`jobwatt grid` and `bmc-proxy`, whose pages name no user, warn of none; the log says it is open."""
        server = WebServer(":0", FixedSite(), names_users=False)
        with caplog.at_level(logging.INFO):
            server.start()
            server.stop()
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
        assert "names no user, goes out without TLS and authentication" in caplog.text

    @pytest.mark.parametrize(
        ("text", "missing"),
        [(TLS, "without authentication"), (USERS, "without TLS;")],
        ids=["TLS", "passwords"],
    )
    def test_half_protected(self, caplog, config, text, missing):
        """Half a protection is said to be half."""
        (line,) = self.warned(caplog, "0.0.0.0:0", config(text))
        assert missing in line

    @pytest.mark.parametrize("text", [TLS + USERS, MTLS])
    def test_protected(self, caplog, config, text):
        """With TLS and authentication nothing is said."""
        assert self.warned(caplog, ":0", config(text)) == []

    @pytest.mark.parametrize("address", ["127.0.0.1:0", "127.1.2.3:0", "[::1]:0", "localhost:0"])
    def test_loopback(self, caplog, address):
        """On loopback nothing is said."""
        if "::" in address and not socket.has_dualstack_ipv6():
            pytest.skip("no IPv6")
        assert self.warned(caplog, address) == []


class TestProtection:
    """TLS, client certificates, users."""

    def test_tls(self, certs, config):
        """A client that knows the CA is served; one that does not refuses the server."""
        with serving(config=config(TLS)) as server:
            assert ask(server, context=client_context(certs))[0].status == 200
            with pytest.raises(ssl.SSLCertVerificationError):
                ask(server, context=ssl.create_default_context())

    def test_http_on_the_https_port(self, config):
        """Plain HTTP is told that this port speaks HTTPS."""
        with serving(config=config(TLS)) as server:
            response, body = ask(server)
            assert (response.status, body) == (400, b"this port speaks HTTPS\n")

    def test_versions(self, certs, config):
        """min_version holds."""
        with serving(config=config(TLS + "  min_version: TLS13\n")) as server:
            context = client_context(certs)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                ask(server, context=context)

    def test_ciphers(self, certs, config):
        """A suite by its IANA name is the one that is used."""
        text = TLS + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]\n"
        with serving(config=config(text + "  max_version: TLS12\n")) as server:
            connection = connect(server, client_context(certs))
            connection.connect()
            assert connection.sock.cipher()[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
            connection.close()

    @pytest.mark.parametrize(
        ("name", "served"), [("client", True), ("", False), ("stranger", False)]
    )
    def test_client_certificates(self, certs, config, name, served):
        """Only a client whose certificate the CA has signed is served."""
        with serving(config=config(MTLS)) as server:
            if served:
                assert ask(server, context=client_context(certs, name))[0].status == 200
            else:
                with pytest.raises(OSError):  # noqa: PT011 an alert or a reset, by TLS version
                    ask(server, context=client_context(certs, name))

    @pytest.mark.parametrize(("name", "served"), [("client", True), ("someone", False)])
    def test_allowed_names(self, certs, config, name, served):
        """Of the CA's clients, only those with an allowed name are served."""
        text = MTLS + "  client_allowed_sans: [prometheus.example.org]\n"
        with serving(config=config(text)) as server:
            context = client_context(certs, name)
            if served:
                assert ask(server, context=context)[0].status == 200
            else:
                with pytest.raises((OSError, http.client.HTTPException)):
                    ask(server, context=context)

    @pytest.mark.parametrize("path", ["/", "/metrics", "/none", "/healthz/", "/readyz%20"])
    def test_users(self, config, path):
        """Nothing is told to who does not say who they are."""
        with serving(config=config(USERS)) as server:
            for headers in ({}, {"Authorization": "Basic " + b64encode(b"ann:no").decode()}):
                response, body = ask(server, path, headers=headers)
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
                assert b"jobwatt_jobs" not in body
            response, _ = ask(server, path, headers={"Authorization": AUTH})
            assert response.status == (200 if path in ("/", "/metrics") else 404)

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz?verbose"])
    def test_probes_need_no_password(self, config, path):
        """Health is a status without a password, right, wrong or none; the reason is not told."""
        with serving(config=config(USERS)) as server:
            for good, status in ((True, 200), (False, 503)):
                server.site.good = good
                for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": AUTH}):
                    response, body = ask(server, path, headers=headers)
                    assert (response.status, body) == (status, b"")

    def test_a_wrong_password_is_said_once(self, config, caplog):
        """Who is turned away is one line for a client, without what it said; who says nothing is none."""
        with serving(config=config(USERS)) as server:
            for number in range(3):
                word = b64encode(f"mistyped:guess {number}".encode()).decode()
                assert ask(server, headers={"Authorization": f"Basic {word}"})[0].status == 401
                assert ask(server)[0].status == 401
        (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert line == "127.0.0.1: wrong user or password"

    def test_key_updates_have_an_end(self, certs, config):
        """TLS 1.3's key updates, each of them work for the server, are counted as what a client sends."""
        with serving(config=config(TLS), limits=Limits(request_s=90)) as server:
            began = time.monotonic()
            key_updates(server.address, limit_s=100)
            assert time.monotonic() - began < 60  # the time for a header is 90 s
            assert ask(server, context=client_context(certs))[0].status == 200

    def test_a_renewed_certificate_is_served(self, certs, tmp_path):
        """A certificate renewed on disk is the one the next connection sees."""
        for name in ("server.crt", "server.key"):
            shutil.copy(certs / name, tmp_path / name)
        (tmp_path / "web.yml").write_text(TLS)
        with serving(config=tmp_path / "web.yml") as server:
            before = ssl.get_server_certificate(server.address)
            for kind in ("key", "crt"):
                shutil.copy(certs / f"someone.{kind}", tmp_path / f"server.{kind}")
            assert ssl.get_server_certificate(server.address) != before

    def test_a_bad_file_stops_the_start(self, config):
        """A web config that cannot be used never leads to an unprotected server."""
        with pytest.raises(WebConfigError):
            WebServer("127.0.0.1:0", FixedSite(), config("tls_server_confg: {}"))


class TestShares:
    """CPU time by client, and the log's lines."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(webshares.time, "monotonic", lambda: now[0])
        return now

    def test_a_bucket(self, clock):
        """What is used beyond the burst is waited for at the share's rate, a few seconds at most."""
        shares = webshares.Shares(0.1, 0.5)
        shares.spend("a", 0.5)
        assert shares.wait_s("a") == 0
        shares.spend("a", 0.2)
        assert shares.wait_s("a") == pytest.approx(2.0)
        assert shares.wait_s("b") == 0
        clock[0] += 2.0
        assert shares.wait_s("a") == pytest.approx(0.0)
        shares.spend("a", 1000.0)
        assert shares.wait_s("a") == pytest.approx(webshares.WAIT_MAX_S)

    def test_memory_is_bounded(self, clock):
        """Of more clients than are remembered, those that were heard of last are."""
        shares = webshares.Shares(0.1, 0.5)
        for number in range(2 * webshares.CLIENTS_MAX):
            shares.spend(str(number), 1.0)
        with shares.turn("a", 0.1):
            assert shares._lanes
        assert not shares._lanes
        assert len(shares._owed) == webshares.CLIENTS_MAX
        assert shares.wait_s("0") == 0
        assert shares.wait_s(str(2 * webshares.CLIENTS_MAX - 1)) > 0

    @pytest.mark.parametrize(
        ("address", "client"),
        [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::ffff:1", "2001:db8::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.2", "127.0.0.0/8"),
            ("127.99.0.1", "127.0.0.0/8"),
            ("::1", "::/64"),
            ("nonsense", "nonsense"),
        ],
    )
    def test_who_is_one_client(self, address, client):
        """Addresses that one owner has by the million are one client."""
        assert webshares.client_of(address) == client

    def test_complaints_are_few(self, clock, caplog):
        """One line for a client and a reason an hour, and a hundred in all, the last of which says so."""
        complaints = webshares.Complaints()
        for _ in range(3):
            complaints.say("192.0.2.1", "wrong user or password")
        clock[0] += 3601
        complaints.say("192.0.2.1", "wrong user or password")
        assert len(caplog.records) == 2
        for number in range(300):
            complaints.say(f"198.51.100.{number}", "wrong user or password")
        assert len(caplog.records) == webshares.COMPLAINTS_MAX + 1
        assert "debug level" in caplog.records[-1].getMessage()


UNITS = sorted((Path(__file__).parents[1] / "packaging/systemd").glob("*.service"))
ASKERS = {"jobwatt-bmc-proxy": 64}  # threads beside those of the web server (bmcproxy/targets.py)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_units_have_threads_for_all_connections(unit):
    """
    TasksMax leaves room for each connection's thread, as many that have been ended and not gone yet, and the
    process's own threads and children.
    """
    found = re.search(r"^TasksMax=(\d+)$", unit.read_text(), re.MULTILINE)
    assert found
    assert int(found[1]) >= 2 * Limits().connections + ASKERS.get(unit.stem, 0) + 32
