"""Wall power from another jobwatt: answers that are none, and hosts that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobwatt.sources import remote_page
from remotekit import NOW, asking, failure, meter


class Odd:
    """A server that says anything at all."""

    def __init__(self, talk):
        self._talk, self._server = talk, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/metrics"
        self._open = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                self._open.append(sock)
                threading.Thread(target=self._say, args=(sock,), daemon=True).start()

    def _say(self, sock):
        with contextlib.suppress(OSError):
            sock.recv(4096)
            self._talk(sock)

    def __enter__(self):
        return self.url

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def says(data):
    def talk(sock):
        sock.sendall(data.replace(NOW.encode(), b"1.5e9"))  # the same length
        sock.close()

    return Odd(talk)


def ok(body, length=None):
    size = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)


MINE = meter("1", 7, 70).encode()
ANSWERS = {
    "nothing": (b"", "unreachable"),
    "no http": (b"\xff\xfe\x00 hello\r\n\r\n", "garbled"),
    "status": (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status"),
    "elsewhere": (
        b"HTTP/1.1 302 F\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n",
        "redirect",
    ),
    "cut short": (ok(MINE, 9999), "garbled"),
    "endless header": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, "garbled"),
    "huge length": (ok(b"x" * (5 << 20)), "too_big"),
    "no rows": (ok(b"up 1\n"), "no_meter"),
    "another's rows": (ok(meter("1", 7, 70, node="gpu011").encode()), "no_meter"),
    "likewise": (ok(MINE.replace(b'node="', b'othernode="gpu01",node="x')), "no_meter"),
    "html": (ok(b"<html>" * 1000), "no_meter"),
    "bad value": (ok(MINE.replace(b" 7\n", b" seven\n")), "garbled"),
    "nan": (ok(MINE.replace(b" 7\n", b" NaN\n")), "garbled"),
    "negative": (ok(MINE.replace(b" 7\n", b" -7\n")), "garbled"),
    "infinite": (ok(MINE.replace(b" 7\n", b" 1e999\n")), "garbled"),
    "a float's end": (ok(MINE.replace(b" 7\n", b" 1.7e308\n")), "garbled"),
    "more than a counter holds": (ok(MINE.replace(b" 7\n", b" 9.3e12\n")), "garbled"),
    "together more": (
        ok(meter("1", "5e12").encode() + meter("2", "5e12").encode()),
        "garbled",
    ),
    "more than a port feeds": (ok(MINE.replace(b" 70\n", b" 100001\n")), "garbled"),
    "time's end": (ok(meter("1", 7, 70, read_s="1.7e308").encode()), "garbled"),
    "a time that is none": (ok(meter("1", 7, 70, read_s="1e10").encode()), "garbled"),
    "of the future": (ok(meter("1", 7, 70, read_s="9e9").encode()), "stale"),
    "two of that name": (
        ok(MINE.replace(b"gpu01", b"gpu01.a") + MINE.replace(b"gpu01", b"gpu01.b")),
        "ambiguous",
    ),
    "odd names of that name": (
        ok(MINE.replace(b"gpu01", b"gpu01.\\n") + MINE),
        "ambiguous",
    ),
    "no utf-8": (ok(MINE.replace(b"wattmeter", b"watt\xffmeter")), "garbled"),
    "too many rows": (ok(b"".join(meter(str(n), 7, 70).encode() for n in range(99))), "garbled"),
    "odd name": (ok(MINE.replace(b'meter="1"', b'meter="1\\n2"')), "garbled"),
    "long name": (ok(MINE.replace(b'meter="1"', b'meter="%b"' % (b"1" * 99))), "garbled"),
    "another kind": (ok(MINE.replace(b'"wattmeter"', b'"hwmon"')), "no_meter"),
    "down there": (ok(meter("1", 7, None, up=0).encode()), "stale"),
    "old there": (ok(meter("1", 7, 70, read_s=1e9).encode()), "stale"),
    "half there": (ok(MINE + meter("2", None, 70, up=0).encode()), "stale"),
    "no figures": (ok(meter("1").encode()), "stale"),
}


@pytest.mark.parametrize(("data", "reason"), ANSWERS.values(), ids=ANSWERS)
def test_answers_that_are_none(data, reason):
    """Whatever comes instead of a page: one line with a reason, no reading, nothing raised."""
    with says(data) as url, asking(url) as source:
        assert failure(source).reason == reason
        assert source.read(full=True).readings == ()


def test_nobody_there():
    """A host that is down is one line that names it."""
    with socket.socket() as held:  # bound, and nobody listens: nor can another program
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with asking(f"http://127.0.0.1:{port}/metrics") as source:
            found = failure(source)
    assert found.reason == "unreachable"
    assert f"http://127.0.0.1:{port}/metrics" in found.message


def _drip(sock):
    for byte in ok(MINE):
        sock.send(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("talk", [lambda _: time.sleep(40), _drip], ids=["silent", "drips"])
def test_slow_host(talk):
    """A host that hangs or drips is given up at the deadline; reads never wait, and closing does not either."""
    with Odd(talk) as url, asking(url, limit_s=0.5) as source:
        until, took = time.monotonic() + 2, []
        while time.monotonic() < until:
            began = time.perf_counter()
            source.read(full=True)
            took.append(time.perf_counter() - began)
            time.sleep(0.01)
        assert failure(source).reason == "timeout"
    assert sorted(took)[len(took) // 2] < 0.1  # the middle one: a busy machine is no fault


def test_closing_does_not_wait():
    """A question that is being asked of a host that hangs is ended by closing."""
    asked = threading.Event()

    def hang(_):
        asked.set()
        time.sleep(40)

    with Odd(hang) as url, asking(url, limit_s=60):
        assert asked.wait(60)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.sampled_from(
                [
                    MINE,
                    MINE.replace(b"7", b"7e307"),
                    MINE[:40],
                    b'jobwatt_meter_up{node="gpu01"',
                    b"\n",
                    b'"gpu01"',
                ]
            ),
        ),
        max_size=20,
    )
)
def test_any_page(parts):
    """Any bytes are rows, or a ValueError; nothing else is raised."""
    with contextlib.suppress(ValueError, LookupError):
        remote_page.meters(b"".join(parts), "gpu01")
