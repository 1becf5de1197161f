"""The HTTP server against slow, silent, crowding and nonsensical clients."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time

import pytest

import webkit
from attacks import GARBAGE
from jobwatt import web
from jobwatt.web import Limits
from jobwatt.weblisten import listen
from webkit import TLS, FixedSite, ask, client_context, dial, serving

server, certs, config = webkit.server, webkit.certs, webkit.config  # fixtures
_closed = webkit._closed  # a fixture


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


@pytest.fixture
def hasty():
    """One that loses patience after a second, where that is what is tested: others may wait for a busy machine."""
    with serving(limits=QUICK) as server:
        yield server


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
