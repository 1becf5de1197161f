"""Wall power from another jobwatt: real web servers, real TLS, and hosts that misbehave."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import replace

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netfaults
import wattmetre
import webcerts
from daemon import BOOT_ID, Daemon, wait
from jobwatt.config import ConfigError, from_flags
from jobwatt.meter import ANY_EPOCH, measure
from jobwatt.model import NS_PER_S, Domain, Kind
from jobwatt.sources import remote_page
from jobwatt.sources.remote import Access, Remote, Track
from jobwatt.web import WebServer
from trees import Node
from wattmetre import ROWS, Box, energy
from webkit import FixedSite

S = NS_PER_S


NOW = "@now@"  # the reading of a meter that is well is as old as the page


class LiveSite(FixedSite):
    """A page whose meters have just been read whenever it is asked for."""

    def metrics(self, openmetrics, names):
        return super().metrics(openmetrics, names).replace(NOW.encode(), b"%.3f" % time.time())


def row(metric, value, meter="1", node="gpu01", source="wattmeter"):
    return f'{metric}{{source="{source}",meter="{meter}",node="{node}"}} {value}\n'


def meter(meter="1", joules=None, watts=None, read_s=None, up=1, **labels):
    """A meter's rows, as exposition.py writes them."""
    shown = {
        remote_page.ENERGY: joules,
        remote_page.POWER: watts,
        remote_page.READ: NOW if read_s is None else read_s,
        remote_page.UP: up,
    }
    return "".join(row(n, v, meter, **labels) for n, v in shown.items() if v is not None)


@contextlib.contextmanager
def serving(text="", config=None):
    site = LiveSite(text.encode())
    server = WebServer("127.0.0.1:0", site, config)
    server.start()
    try:
        yield site, f"http{'s' if config else ''}://127.0.0.1:{server.address[1]}/metrics"
    finally:
        server.stop()


@contextlib.contextmanager
def asking(url, interval_s=0.1, node="gpu01", **access):
    source = Remote(Access(url, **access), node, int(interval_s * S))
    try:
        yield source
    finally:
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 20  # those that hang do so for 40 s
    assert not source._polled._thread.is_alive()


def answer(source):
    """The first reading."""
    return wait(lambda: source.read(full=True).readings)[0]


def failure(source):
    (found,) = wait(lambda: source.read(full=True).failures)
    assert "\n" not in found.message
    assert found.source == "remote"
    return found


def test_both_supplies_are_one_node():
    """Both power supplies' counters are summed to one device; rows of other nodes are not ours."""
    page = meter("2", "10.000001", 50) + meter("10", "5.5", 70) + meter("3", 999, 999, node="gpu02")
    with serving(page) as (site, url), asking(url) as source:
        reading = answer(source)
        result = source.read(full=True)
    device = reading.device
    assert (device.domain, device.id, device.source) == (
        Domain.NODE,
        "remote:wattmeter:2+10",
        "wattmeter",
    )
    assert (device.name, device.summed, device.node) == ("2+10", True, "")
    assert (reading.kind, reading.value, reading.epoch) == (Kind.ENERGY, 15_500_001, 0)
    assert reading.every_ns == S // 10
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert now_ns - 5 * S < reading.t_ns <= now_ns
    assert [(s.metric, s.labels, s.value) for s in result.samples] == [
        ("jobwatt_wall_power_watts", ("wattmeter", "2+10"), 120.0)
    ]
    assert site.asked[0] == frozenset(remote_page.NAMES)


def test_wattmeter_before_bmc():
    """Of two sources the wattmeter counts; where it is down, the BMC does, in a new epoch."""
    bmc = meter("bmc", None, 400, source="bmc")
    with serving(meter("1", 7, 70) + bmc) as (site, url), asking(url) as source:
        reading = answer(source)
        assert (reading.device.source, reading.kind) == ("wattmeter", Kind.ENERGY)
        site.text = (meter("1", 7, None, up=0) + bmc).encode()
        reading = wait(
            lambda: next((r for r in source.read(full=True).readings if r.kind is Kind.POWER), None)
        )
    assert (reading.device.source, reading.value, reading.epoch) == ("bmc", 400_000_000, 1)


@pytest.mark.slow
def test_tls_and_password(tmp_path):
    """Over TLS with a password: with the right ones it answers; without, one line says which is wrong."""
    ca = webcerts.make("ca")
    ca_file, _ = ca.write(tmp_path, "ca")
    webcerts.make("server", ca).write(tmp_path, "server")
    hashed = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    config.write_text(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
        f"basic_auth_users:\n  gpu01: {hashed}\n"
    )
    secret = tmp_path / "secret"
    secret.write_text("gpu01:s3cret\n")
    secret.chmod(0o600)
    with serving(meter("1", 7, 70), config) as (_, url):
        with asking(url, credentials=secret, ca_file=ca_file) as source:
            assert answer(source).value == 7_000_000
            secret.chmod(0o644)
            refused = failure(source)
            assert (refused.reason, "chmod 600" in refused.message) == ("credentials_file", True)
            secret.chmod(0o600)
            secret.write_text("gpu01:wr0ng\n")
            wait(lambda: [f for f in source.read(full=True).failures if f.reason == "refused"])
            said = failure(source).message + repr(source._access)
            assert "wr0ng" not in said
            secret.write_text("gpu01:s3cret\n")
            wait(lambda: source.read(full=True).failures == ())
        with asking(url, ca_file=ca_file) as source:
            assert failure(source).reason == "refused"
        with asking(url, credentials=secret) as source:
            assert failure(source).reason == "certificate"
        with asking(url.replace("https", "http")) as source:
            assert failure(source).reason in {"status", "garbled", "unreachable"}


def test_certificates_are_renewed(tmp_path):
    """When the other side has a certificate of another CA, a new remote.ca-file is taken without a restart."""
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n")

    def renew():
        ca = webcerts.make("ca")
        ca.write(tmp_path, "ca")
        webcerts.make("server", ca).write(tmp_path, "server")

    renew()
    with (
        serving(meter("1", 7, 70), config) as (_, url),
        asking(url, ca_file=tmp_path / "ca.crt") as source,
    ):
        answer(source)
        renew()
        os.utime(tmp_path / "server.crt", (1, time.time() + 5))
        wait(lambda: len(source.read(full=True).failures) == 0 and source.read(full=True).readings)
        time.sleep(0.5)
        wait(lambda: source.read(full=True).failures == ())


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


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("gpu01", "gpu01", True),
        ("gpu01", "gpu01.site.org", True),
        ("gpu01", "gpu01x.site.org", False),
        ("gpu01.site.org", "gpu01.site.org", True),
        ("gpu01.site.org", "gpu01", False),
        ("gpu01.site.org", "gpu01.other.org", False),
    ],
)
def test_a_nodes_name(asked, there, found):
    """Names are compared up to their first dot; one that is asked for with a dot, as it is."""
    page = meter("1", 7, 70, 1e9, node=there).encode()
    assert bool(remote_page.meters(page, asked)) == found
    with serving(meter("1", 7, 70, node=there)) as (_, url), asking(url, node=asked) as source:
        if found:
            assert answer(source).value == 7_000_000
        else:
            message = failure(source).message
            assert asked in message
            assert "bmc-proxy" in message  # the other side may be one


@pytest.mark.slow
def test_a_names_addresses_share_the_deadline(monkeypatch):
    """Where a name has addresses that never answer, the one that does is asked within the same deadline."""
    with serving(meter("1", 7, 70)) as (_, url):
        port = int(url.split(":")[2].partition("/")[0])
        with (
            netfaults.silent_first(monkeypatch, "meter.test", port),
            asking(f"http://meter.test:{port}/metrics", limit_s=1) as source,
        ):
            began_s = time.monotonic()
            assert answer(source).value == 7_000_000
            assert time.monotonic() - began_s < 9  # one deadline each would be ten seconds


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


def test_proxies_are_not_asked(monkeypatch):
    """A proxy of the environment is none of this page's business."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(meter("1", 7, 70)) as (_, url), asking(url) as source:
        assert answer(source).value == 7_000_000


@pytest.mark.slow
def test_one_answer_lost():
    """Where one answer is lost the last one stays, and is dropped when three are."""
    with serving(meter("1", 7, 70)) as (site, url), asking(url, interval_s=1) as source:
        first = answer(source)
        site.text = b""
        lost = wait(lambda: (found := source.read(full=True)).failures and found)
        assert lost.readings == (first,)
        wait(lambda: not source.read(full=True).readings)
        site.text = meter("1", 9, 70).encode()
        later = wait(lambda: source.read(full=True).readings)[0]
    assert (first.value, later.value) == (7_000_000, 9_000_000)
    assert later.epoch == first.epoch  # the counter went on there: what it shows was measured


def test_closing_does_not_wait():
    """A question that is being asked of a host that hangs is ended by closing."""
    asked = threading.Event()

    def hang(_):
        asked.set()
        time.sleep(40)

    with Odd(hang) as url, asking(url, limit_s=60):
        assert asked.wait(60)


# --- pages one after another -------------------------------------------------------------------------


class Pages:
    """Pages of a host whose clock is ``skew_s`` off, given to a Track."""

    def __init__(self, interval_s=5, skew_s=0.0):
        self.track, self.now_s, self.skew_s = Track(interval_s * S), 10_000.0, skew_s

    def look(self, *meters, later_s=5.0):
        """``meters``: (name, joules, watts, age of the reading in s, more labels)."""
        self.now_s += later_s
        there_s = self.now_s + self.skew_s
        text = "".join(
            meter(name, joules, watts, there_s - age_s, **more)
            for name, joules, watts, age_s, more in meters
        )
        found = remote_page.meters(text.encode(), "gpu01")
        return self.track.add(found, int(there_s) * S, int(self.now_s * S))


def one(joules, age_s=0.0, name="1", watts=70, **more):
    return (name, joules, watts, age_s, more)


def epoch(result):
    (reading,) = result.readings
    return reading.epoch


@pytest.mark.parametrize("skew_s", [-7200.3, -40, -0.5, 0, 0.5, 40, 7200.3])
def test_their_clock_is_wrong(skew_s):
    """However wrong the other side's clock, a reading is placed within a second, and never in the future."""
    pages = Pages(skew_s=skew_s)
    for n in range(40):
        (reading,) = pages.look(one(100 + n, age_s=0.2), later_s=5.13).readings
        t_s = reading.t_ns / S
        assert pages.now_s - 1.3 <= t_s <= pages.now_s
    assert reading.epoch == 0


def test_their_clock_is_set():
    """Set while it runs, by hours: no epoch is needed, for a counter needs no clock; readings stay of now."""
    pages = Pages()
    for skew_s in (0, 3600, -3600):
        pages.skew_s = skew_s
        for n in range(3):
            (reading,) = pages.look(one(100 + n)).readings
            assert pages.now_s - 6 <= reading.t_ns / S <= pages.now_s


def test_new_epochs():
    """A counter that fell, a meter more, a meter less, energy that became power: no delta across any of them."""
    pages = Pages()
    assert epoch(pages.look(one(100))) == 0
    assert epoch(pages.look(one(110))) == 0
    assert epoch(pages.look(one(5))) == 1
    assert epoch(pages.look(one(6), one(50, name="2"))) == 2
    assert epoch(pages.look(one(7), one(49, name="2"))) == 3
    assert epoch(pages.look(one(8))) == 4
    assert epoch(pages.look(one(None))) == 5
    assert epoch(pages.look(one(9))) == 6
    assert epoch(pages.look(one(10))) == 6


def test_a_jump_that_no_meter_measures():
    """
    A counter that grew by more than a port can feed in that time is another counter: no energy across.
    Up to that, and over any time without answers, it is taken.
    """
    pages = Pages()
    assert epoch(pages.look(one(100))) == 0
    assert epoch(pages.look(one(100 + 100_000 * 5))) == 0
    assert epoch(pages.look(one(10**7))) == 1
    assert epoch(pages.look(one(10**7 + 90_000 * 3600), later_s=3600)) == 1
    assert epoch(pages.look(one(9e12))) == 2
    assert epoch(pages.look(one(9e12 + 1))) == 2
    assert epoch(pages.look(one(9e12 + 2), one(1, name="2"))) == 3
    assert epoch(pages.look(one(9e12 + 3), one(10**8, name="2"))) == 4


def test_another_set_is_another_meter():
    """Sets of meters have ids of their own: a daemon that was down meanwhile takes no added meter for energy."""
    before, after = Pages(), Pages()
    (old,) = before.look(one(100)).readings
    (new,) = after.look(one(101), one(10**6, name="2"), later_s=60).readings
    cursors = measure({}, [old], 5 * S).cursors
    since = {key: replace(reading, epoch=ANY_EPOCH) for key, reading in cursors.items()}
    (delta,) = measure(since, [new], 5 * S).booked
    assert delta.energy_uj == 0


def test_stopped_there():
    """A meter that stopped there: no reading while it stands, a new epoch when it goes on."""
    pages = Pages()
    pages.look(one(100))
    stopped = pages.look(one(100, age_s=15.5), later_s=15.5)
    assert stopped.readings == ()
    assert stopped.failures[0].reason == "stale"
    assert epoch(pages.look(one(900))) == 1


def test_nothing_new_there():
    """As long as the other side has no newer reading, ours is given again as it was."""
    pages = Pages()
    first = pages.look(one(100, age_s=0)).readings
    assert pages.look(one(100, age_s=5)).readings == first
    assert pages.look(one(101, age_s=0)).readings[0].t_ns > first[0].t_ns


def test_a_slow_bmc():
    """A BMC that is asked every 30 s there is not late in between, and says how far its readings are apart."""
    pages = Pages()
    results = [
        pages.look(one(None, age_s=5 * (n % 6), name="bmc", watts=300 + n // 6, source="bmc"))
        for n in range(24)
    ]
    assert all(len(r.readings) == 1 and r.readings[0].epoch == 0 for r in results)
    assert len({r.readings[0].t_ns for r in results}) == 4
    assert results[-1].readings[0].every_ns == 30 * S


@pytest.mark.parametrize("interval_s", [1, 5, 30, 60])
def test_a_bmc_that_is_asked_each_minute(interval_s):
    """
    The slowest that a proxy may be (60 s, with its jitter, an answer of 10 s, and one lost) is not too old
    for the slowest and the quickest node.
    """
    pages = Pages(interval_s=interval_s)
    for n in range(600 // interval_s):
        age_s = n * interval_s % 137  # 63 s, 63 s again, and 10 s more
        (reading,) = pages.look(
            one(None, age_s=age_s, name="PowerControl", source="bmc"), later_s=interval_s
        ).readings
        assert reading.epoch == 0
        assert reading.every_ns <= 60 * S


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


# --- settings, and two daemons -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"remote.url": "meter:9816"}, "must be http"),
        ({"remote.url": "ftp://meter/metrics"}, "must be http"),
        ({"remote.url": "http://u:pa55@meter/metrics"}, "remote.credentials"),
        ({"remote.url": "http://u:pa55/word@meter/metrics"}, "must be http"),
        ({"remote.url": "http://meter:99999/"}, "must be http"),
        ({"remote.url": "http://meter/", "remote.credentials": "/s"}, "in the clear"),
        ({"remote.interval": "61s"}, "silent for a minute is not waited for"),
        ({"remote.interval": "500ms"}, "not between 1s and 60s"),
    ],
)
def test_settings_that_are_refused(flags, words):
    """What cannot be used is refused at the start, without repeating a password."""
    with pytest.raises(ConfigError) as err:
        from_flags(flags)
    assert words in str(err.value)
    assert "pa55" not in str(err.value)


def test_default_path():
    """A URL without a path means its metrics page."""
    assert (
        from_flags({"remote.url": "https://meter:9816"}).remote_url == "https://meter:9816/metrics"
    )


@pytest.mark.slow
def test_two_daemons(tmp_path):
    """A daemon reads the meter, another one, of the node it feeds, takes its wall energy from there, to the microjoule."""
    nodes = []
    for name in ("meter", "gpu01"):
        (tmp_path / name).mkdir()
        made = Node(tmp_path / name, cpus=4, boot_id=BOOT_ID)
        made.add_intel(sockets=1, psys=False, mmio=False)
        nodes.append(made)
    box = Box(tmp_path / "ttyUSB0")
    box.plug()
    reads = [
        f"--wattmeter.input={wattmetre.command(box.path)}",
        "--wattmeter.ports=1=gpu01,5=gpu01",
    ]
    with Daemon(nodes[0], tmp_path / "s0", *reads) as host:
        asks = [f"--remote.url={host.url}", "--remote.node=gpu01", "--remote.interval=2s"]
        with Daemon(nodes[1], tmp_path / "s1", *asks) as there:
            box.play(
                ROWS[:1]
            )  # all the others within three intervals, or it is too old to go on from
            there.until(lambda page: page.find("jobwatt_wall_power_watts", meter="1+5"))
            there.samples(2)
            box.play(ROWS[1:300], pace=1.0)
            expected = energy(ROWS[:300], "1") + energy(ROWS[:300], "5")
            metric = "jobwatt_wall_energy_joules_total"
            there.until(lambda page: page.micro(metric, meter="1+5") == expected)
            assert not host.scrape().find("jobwatt_wall_power_watts")
            host.kill()
            there.until(lambda page: page.value("jobwatt_source_up", source="remote") == 0)
            assert there.scrape().micro(metric, meter="1+5") == expected
