"""
Hostile clients of a daemon's port, and what they do to it.

All of them come from 127.0.0.2 (as far as the kernel allows), so that a Prometheus on 127.0.0.1 is
another client. Each attack runs until it is told to stop and counts what it sent and what came
back; ``Watch`` meanwhile looks at the daemon: memory, CPU time, rhythm.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon import Daemon

FROM = "127.0.0.2"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Target:
    """Where to, and how: ``context`` for TLS, ``auth`` a header that is let in."""

    port: int
    context: ssl.SSLContext | None = None
    auth: bytes = b""

    def dial(self, secure: bool = True, receive_bytes: int = 0) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(30)
        try:
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.bind((FROM, 0))
            sock.connect(("127.0.0.1", self.port))
            if secure and self.context is not None:
                return self.context.wrap_socket(sock, server_hostname="localhost")
        except OSError:
            sock.close()
            raise
        return sock

    @property
    def get(self) -> bytes:
        return GET + self.auth + b"\r\n"


@dataclass
class Score:
    """What an attack has done: ``answers`` by status, b"" for a connection that ended."""

    sent: int = 0
    answers: Counter[bytes] = field(default_factory=Counter)


Attack = "Callable[[Target, threading.Event, Score], None]"


def _status(sock: socket.socket) -> bytes:
    """Read one whole answer; its status, b"" where the connection has ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"\r\nContent-Length: (\d+)", head)
    left = int(found[1]) - len(body) if found else 0
    while left > 0 and (part := sock.recv(min(left, 1 << 18))):
        left -= len(part)
    return head.split(b" ", 2)[1]


def _again_and_again(
    target: Target, stop: threading.Event, score: Score, requests: Iterator[bytes]
) -> None:
    """Request after request, on one connection as long as it holds."""
    while not stop.is_set():
        try:
            with target.dial() as sock:
                while not stop.is_set():
                    sock.sendall(next(requests))
                    score.sent += 1
                    status = _status(sock)
                    score.answers[status] += 1
                    if not status:
                        break
        except OSError:
            score.answers[b""] += 1
            stop.wait(0.01)


def scrapes(target: Target, stop: threading.Event, score: Score) -> None:
    """Scrapes as fast as they are answered."""
    _again_and_again(target, stop, score, iter(lambda: target.get, None))


def pages(target: Target, stop: threading.Event, score: Score) -> None:
    """The dearest pages: the landing page, and metrics by name, which nobody keeps ready."""
    ask = [
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"GET /metrics?name[]=jobwatt_jobs HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n",
    ]
    _again_and_again(target, stop, score, (ask[n % 2] + target.auth + b"\r\n" for n in count()))


def guesses(target: Target, stop: threading.Event, score: Score) -> None:
    """A new wrong password with each request."""

    def requests() -> Iterator[bytes]:
        for number in count():
            word = base64.b64encode(f"ann:guess {threading.get_ident()} {number}".encode())
            yield GET + b"Authorization: Basic " + word + b"\r\n\r\n"

    _again_and_again(target, stop, score, requests())


def handshakes(target: Target, stop: threading.Event, score: Score) -> None:
    """TLS connections that are closed as soon as they stand."""
    while not stop.is_set():
        with contextlib.suppress(OSError):
            target.dial().close()
            score.sent += 1


def idle(target: Target, stop: threading.Event, score: Score) -> None:
    """200 open connections that say nothing, opened again when they are closed."""
    _hold(target, stop, score, 200, lambda _sock: None)


def half_open(target: Target, stop: threading.Event, score: Score) -> None:
    """100 connections of which our half is closed, or was reset, at once."""

    def shut(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)

    _hold(target, stop, score, 100, shut)


def drips(target: Target, stop: threading.Event, score: Score) -> None:
    """50 headers that come a byte at a time (slow loris)."""
    _hold(target, stop, score, 50, lambda s: s.sendall(GET), lambda s: s.send(b"X"))


def slow_bodies(target: Target, stop: threading.Event, score: Score) -> None:
    """50 bodies that are announced as a gigabyte and come a byte at a time (R.U.D.Y.)."""
    start = (
        b"POST /metrics HTTP/1.1\r\nHost: x\r\n" + target.auth + b"Content-Length: 1000000000\r\n"
    )
    _hold(target, stop, score, 50, lambda s: s.sendall(start + b"\r\n"), lambda s: s.send(b"x"))


def slow_handshakes(target: Target, stop: threading.Event, score: Score) -> None:
    """50 TLS hellos that come a byte at a time."""
    hello = iter(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))

    def drip(sock: socket.socket) -> None:
        sock.send(bytes([next(hello, 0)]))

    _hold(target, stop, score, 50, lambda _sock: None, drip, secure=False)


def slow_readers(target: Target, stop: threading.Event, score: Score) -> None:
    """100 clients that ask for hundreds of pages and read none of them."""

    def ask(sock: socket.socket) -> None:
        sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            sock.sendall(target.get * 2000)

    _hold(target, stop, score, 100, ask, receive_bytes=2048)


def _hold(
    target: Target,
    stop: threading.Event,
    score: Score,
    number: int,
    begin: Callable[[socket.socket], object],
    go_on: Callable[[socket.socket], object] | None = None,
    *,
    secure: bool = True,
    receive_bytes: int = 0,
) -> None:
    """Keep so many connections; what is closed is opened again."""
    held: list[socket.socket] = []
    while not stop.is_set():
        held = [sock for sock in held if not _ended(sock, score)]
        while len(held) < number and not stop.is_set():
            try:
                sock = target.dial(secure, receive_bytes)
                score.sent += 1
                held.append(sock)
                begin(sock)
            except OSError:
                score.answers[b""] += 1
                break
        for sock in held:
            with contextlib.suppress(OSError):
                if go_on is not None:
                    go_on(sock)
        stop.wait(0.1)
    for sock in held:
        sock.close()


def _ended(sock: socket.socket, score: Score) -> bool:
    """Whether the other side has closed; what it said is left unread (a slow reader reads nothing)."""
    try:
        sock.setblocking(False)
        said = socket.socket.recv(sock, 1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        said = b""
    finally:
        sock.settimeout(30)
    if said and not _hung_up(sock):
        return False
    score.answers[b""] += 1
    sock.close()
    return True


def _hung_up(sock: socket.socket) -> bool:
    # tcpi_state, the first byte of struct tcp_info (linux/tcp.h): 8 is CLOSE_WAIT, 7 CLOSE
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (7, 8)


# what is no HTTP, or too much of it: what is sent, and the statuses that are an answer to it
GARBAGE: dict[str, tuple[bytes, frozenset[bytes]]] = {
    name: (sent, frozenset(status.encode() for status in statuses.split()))
    for name, sent, statuses in (
        ("a header of 1 MB", GET + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n", "431"),
        ("100 000 headers", GET + b"X: a\r\n" * 100_000 + b"\r\n", "431"),
        ("a path of 1 MB", b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n", "431 414"),
        ("no end of line", b"a" * (1 << 20), "431 414 400"),
        ("HTTP/0.9", b"GET /metrics\r\n\r\n", "400 505"),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 400"),
        ("NUL in the path", b"GET /met\0rics HTTP/1.1\r\nHost: x\r\n\r\n", "400 404"),
        ("NUL in a header", GET + b"X: \0\0\r\n\r\n", "200 400"),
        ("NULs", bytes(4096) + b"\r\n\r\n", "400 431 414"),
        ("two lengths", GET + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nabcde", "400 200"),
        ("length and chunks", GET + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 200"),
        ("a length below nothing", GET + b"Content-Length: -1\r\n\r\n", "400 200"),
        ("space before the colon", GET + b"Content-Length : 3\r\n\r\nabc", "400 200"),
        ("a folded header", GET + b"X: a\r\n b\r\n\r\n", "400 200"),
        ("bare CR", b"GET /metrics HTTP/1.1\rHost: x\r\r", "400"),
        ("an absolute target", b"GET http://evil.example/metrics HTTP/1.1\r\nHost: x\r\n\r\n", "400 404"),
        ("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", "404 405 501"),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600), "400 431"),
        ("random bytes", bytes(range(256)) * 64 + b"\r\n\r\n", "400 431 414"),
    )
}  # fmt: skip


def garbage(target: Target, stop: threading.Event, score: Score) -> None:
    """All of GARBAGE, over and over, each on a connection of its own; answers are read to their end."""
    while not stop.is_set():
        for sent, _ in GARBAGE.values():
            score.sent += 1
            score.answers[_offer(target, sent)] += 1
            if stop.is_set():
                return


def _offer(target: Target, sent: bytes) -> bytes:
    try:
        with target.dial() as sock:
            with contextlib.suppress(OSError):
                sock.sendall(sent)
                socket.socket.shutdown(sock, socket.SHUT_WR)
            return _status(sock)
    except OSError:
        return b""


@contextlib.contextmanager
def attacking(attack, target: Target, threads: int = 1) -> Iterator[Score]:  # type: ignore[no-untyped-def]
    """Run an attack beside what happens in the block."""
    stop, scores = threading.Event(), [Score() for _ in range(threads)]
    running = [
        threading.Thread(target=attack, args=(target, stop, score), daemon=True) for score in scores
    ]
    total = Score()
    for thread in running:
        thread.start()
    try:
        yield total
    finally:
        stop.set()
        for thread in running:
            thread.join(30)
        total.sent = sum(score.sent for score in scores)
        for score in scores:
            total.answers.update(score.answers)


# --- the daemon meanwhile ------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


@dataclass(frozen=True)
class Seen:
    """What a watch has seen over ``seconds``."""

    seconds: float
    samples: float
    longest_s: float  # between two samples
    slowest_s: float  # scrape of a client that behaves
    refused: int  # scrapes of that client that failed
    rss_mb: float  # the highest
    cpu: float  # of one CPU


def _samples(daemon: Daemon) -> float:
    until = time.monotonic() + 40  # longer than any limit of a phase
    while True:
        try:
            return daemon.scrape(parse=False).value("jobwatt_samples_total", cause="tick")
        except OSError:
            if time.monotonic() > until:
                raise


def watch(daemon: Daemon, seconds: float) -> Seen:
    """A client that behaves, four times a second on new connections, and the process from outside."""
    pid, stamps, took, refused, rss = daemon.pid, [], [], 0, [rss_mb(daemon.pid)]
    samples = _samples(daemon)
    cpu, began = cpu_s(pid), time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        rss.append(rss_mb(pid))
        try:
            stamp = daemon.scrape(parse=False).value("jobwatt_snapshot_timestamp_seconds")
            stamps += [stamp] if stamp not in stamps[-1:] else []
            took.append(time.monotonic() - now)
        except OSError:
            refused += 1
        time.sleep(max(0.0, 0.25 - (time.monotonic() - now)))
    took_s, used_s = time.monotonic() - began, cpu_s(pid) - cpu
    return Seen(
        seconds=took_s,
        samples=_samples(daemon) - samples,
        longest_s=max((b - a for a, b in pairwise(stamps)), default=took_s),
        slowest_s=max(took, default=took_s),
        refused=refused,
        rss_mb=max(rss),
        cpu=used_s / took_s,
    )
