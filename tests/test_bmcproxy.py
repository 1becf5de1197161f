"""The BMC proxy: its list, who is asked when, energy, the page, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import redfishmock
from daemon import wait
from jobwatt.central.bmcproxy import meter as bmcmeter
from jobwatt.central.bmcproxy import targets
from jobwatt.central.bmcproxy.board import BmcBoard
from jobwatt.central.bmcproxy.meter import BmcMeter
from jobwatt.central.bmcproxy.poll import Poller
from jobwatt.config import ConfigError
from jobwatt.model import NS_PER_S, Device, Domain, Failure, Kind, Reading, SourceResult
from jobwatt.sources import ipmi, remote
from jobwatt.web import WebServer
from redfishmock import PASSWORD, USER, Bmc, Certs, credentials

POWER = "/redfish/v1/Chassis/1/Power"


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return Certs(tmp_path_factory.mktemp("certs"))


def entry(node="gpu01", **fields):
    base = {
        "node": node, "url": f"https://bmc-{node}", "ipmi": "", "credentials": Path("/none"), "ca_file": None,
        "verify": True, "interval_ns": NS_PER_S, "timeout_ns": NS_PER_S,
    }  # fmt: skip
    return targets.Entry(**{**base, **fields})


class Scripted:
    """A BMC that says what it is told to."""

    def __init__(self, *results):
        self.results = list(results)
        self.looks = self.closed = 0

    def look(self):
        self.looks += 1
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]

    def stop(self):
        pass

    def close(self):
        self.closed += 1


def reading(uw, t_ns, place="PowerControl"):
    device = Device(Domain.NODE, "bmc", "bmc", name=place, node="gpu01")
    return SourceResult((Reading(device, Kind.POWER, uw, t_ns, every_ns=NS_PER_S),))


def page_of(board, *names):
    return board.metrics(openmetrics=False, names=frozenset(names)).decode()


def values(text, name):
    """node -> value."""
    found = re.findall(rf'^{name}{{.*node="([^"]*)"}} (\S+)$', text, re.MULTILINE)
    return {node: float(value) for node, value in found}


# --- the list -----------------------------------------------------------------------------------


def listed(tmp_path, text):
    path = tmp_path / "bmcs.toml"
    path.write_text(text)
    return targets.read(path)


def test_the_list_is_read(tmp_path):
    """Defaults hold for every BMC that does not say otherwise; hyphen and underscore are one."""
    found = listed(
        tmp_path,
        """
        threads = 8
        [defaults]
        credentials = "/etc/jobwatt/bmc"
        interval = "20s"
        ca_file = "/etc/ssl/site.pem"
        [[bmc]]
        node = "gpu01"
        url = "https://bmc-gpu01"
        [[bmc]]
        node = "gpu02"
        ipmi = "bmc-gpu02"
        credentials = "/etc/jobwatt/other"
        verify = false
        interval = "1m"
        timeout = "5s"
        """,
    )
    first, second = found.entries
    assert found.threads == 2
    assert (first.url, first.interval_ns, first.verify) == (
        "https://bmc-gpu01",
        20 * NS_PER_S,
        True,
    )
    assert first.ca_file == Path("/etc/ssl/site.pem")
    assert (second.ipmi, second.interval_ns, second.timeout_ns) == (
        "bmc-gpu02", 60 * NS_PER_S, 5 * NS_PER_S)  # fmt: skip
    assert second.verify is False


GOOD = 'credentials = "/c"\nnode = "n"\nurl = "https://b"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"\[\[bmc\]\]"),
        ("[[bmc]\n", "not TOML"),
        ("bmcs = 1\n", "unknown key bmcs; did you mean bmc?"),
        ("[defaults]\nintervall = '1s'\n", "defaults: unknown key intervall; did you mean interval?"),
        (f"[[bmc]]\n{GOOD}verfy = false\n", "bmc 1: unknown key verfy; did you mean verify?"),
        (f"[[bmc]]\n{GOOD}verify = 'no'\n", "verify: must be true or false"),
        (f"[[bmc]]\n{GOOD}interval = '1 minute'\n", r"bmc 1 \(n\): interval: "),
        (f"[[bmc]]\n{GOOD}interval = '500ms'\n", "shorter than 1s"),
        (f"[[bmc]]\n{GOOD}interval = '61s'\n", "longer than 60s; a wall meter that is silent for a minute"),
        (f"[defaults]\ninterval = '5m'\n[[bmc]]\n{GOOD}", "longer than 60s"),
        (f"[[bmc]]\n{GOOD}ipmi = 'b'\n", "either url"),
        ("[[bmc]]\nnode = 'n'\ncredentials = '/c'\n", "either url"),
        ("[[bmc]]\nnode = 'n'\nurl = 'https://b'\n", "credentials: must name"),
        ("[[bmc]]\nurl = 'https://b'\n", "node: must be"),
        ("[[bmc]]\nnode = 'n'\ncredentials = '/c'\nurl = 'http://b'\n", "is not https"),
        (f"[[bmc]]\n{GOOD}[[bmc]]\n{GOOD}", "n is there twice"),
        (f"threads = 0\n[[bmc]]\n{GOOD}", "threads: 0 is not between"),
        ("bmc = [1]\n", "bmc 1: must be a table"),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_used(tmp_path, text, said):
    """One line names the file, the entry, the key, and the nearest that is known."""
    with pytest.raises(ConfigError, match=said) as caught:
        listed(tmp_path, text)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    """Whatever stands in the file, the outcome is a list or one ConfigError."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "bmcs.toml"
        path.write_text(text, encoding="utf-8", errors="replace")
        with contextlib.suppress(ConfigError):
            targets.read(path)


# --- energy -------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, 10**10), st.integers(1, 2 * NS_PER_S)), min_size=1, max_size=20
    )
)
def test_energy_is_the_trapezoid_exactly(steps):
    """Each interval adds the mean of its ends times its length, in whole microjoules."""
    readings, moment, expected, before = [], 10**12, 0, None
    for uw, dt_ns in steps:
        moment += dt_ns
        readings.append(reading(uw, moment))
        expected += 0 if before is None else (before + uw) * dt_ns // (2 * NS_PER_S)
        before = uw
    meter = BmcMeter(entry(), Scripted(*readings))
    for _ in readings:
        meter.ask()
    shown = meter.shown(moment)
    assert (shown.energy_uj, shown.power_uw, shown.up) == (expected, steps[-1][0], True)


def test_energy_is_not_counted_across_a_gap():
    """Two and a half intervals without an answer were not measured."""
    start = 10**12
    meter = BmcMeter(
        entry(),
        Scripted(
            reading(10**9, start),
            reading(10**9, start + NS_PER_S),
            reading(10**9, start + 4 * NS_PER_S),
            reading(10**9, start + 5 * NS_PER_S),
        ),
    )
    for _ in range(4):
        meter.ask()
    assert meter.shown(start + 5 * NS_PER_S).energy_uj == 2 * 10**9


def test_one_lost_answer_is_no_end():
    """A BMC that missed one look delivers still; after a gap it does not, and its power is not shown as that of now."""
    failed = SourceResult(failures=(Failure("bmc", "timeout", "late", device="gpu01"),))
    start = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    meter = BmcMeter(entry(), Scripted(reading(5, start), failed))
    meter.ask()
    assert meter.ask()[0].reason == "timeout"
    assert meter.shown(start + 2 * NS_PER_S).up
    assert meter.shown(start + 2 * NS_PER_S).message == "late"
    gone = meter.shown(start + 3 * NS_PER_S)
    assert not gone.up
    board = BmcBoard(Poller([BmcMeter(entry(interval_ns=1000), Scripted(reading(5, start)))], 1))
    board._poller.meters[0].ask()
    page = page_of(board)
    assert values(page, "jobwatt_meter_up") == {"gpu01": 0}
    assert "jobwatt_meter_power_watts{" not in page
    assert values(page, "jobwatt_meter_reading_timestamp_seconds")["gpu01"] == pytest.approx(time.time(), abs=60)  # fmt: skip


def test_another_sensor_has_a_counter_of_its_own():
    """Where the figure moves to another place, the page has that one's series alone, from 0."""
    start = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    readings = [
        reading(10**9, start - 2 * NS_PER_S),
        reading(10**9, start - NS_PER_S),
        reading(10**9, start, "EnvironmentMetrics"),
    ]
    meter = BmcMeter(entry(interval_ns=60 * NS_PER_S), Scripted(*readings))
    board = BmcBoard(Poller([meter], 1))
    for _ in readings:
        meter.ask()
    page = page_of(board)
    assert 'meter="EnvironmentMetrics",node="gpu01"} 0.000000' in page
    assert "PowerControl" not in page


@pytest.mark.slow
def test_a_bmc_that_never_answered_is_down():
    """It has a row that says so, and no figure."""
    failed = SourceResult(
        failures=(Failure("bmc", "unreachable", "nobody <there>", device="gpu01"),)
    )
    meter = BmcMeter(entry(), Scripted(failed))
    board = BmcBoard(Poller([meter], 1))
    assert page_of(board).count("jobwatt_meter_up{") == 0
    assert board.ready() == (False, "no BMC has been asked yet")
    meter.ask()
    time.sleep(1.1)  # the page is kept for a second
    assert 'jobwatt_meter_up{source="bmc",meter="",node="gpu01"} 0' in page_of(board)
    assert "nobody &lt;there&gt;" in board.page()
    assert board.ready()[0]


# --- IPMI ---------------------------------------------------------------------------------------


def test_ipmi_over_lan(tmp_path, monkeypatch):
    """An entry with ipmi is asked that way; wrong credentials are not tried again and again."""
    secret = credentials(tmp_path)
    asked = []
    answers = [ipmi.Answer(321_000_000, 7), Failure("bmc", "wrong_credentials", "no")]

    def answer(host, user, password, tool, timeout_s, *, runner):
        assert not runner._stopping.is_set()
        asked.append((host, user, password, tool, timeout_s))
        return answers[min(len(asked), 2) - 1]

    monkeypatch.setattr(ipmi, "lan_reading", answer)
    way = bmcmeter.open_asked(entry(url="", ipmi="bmc7", credentials=secret))
    (found,) = way.look().readings
    assert (found.value, found.t_ns, found.device.name) == (321_000_000, 7, "dcmi")
    for _ in range(4):
        (failure,) = way.look().failures
        assert (failure.reason, failure.device) == ("wrong_credentials", "gpu01")
    assert asked == [("bmc7", USER, PASSWORD, "auto", 1.0)] * 2
    credentials(tmp_path, "other:password")
    way.look()
    assert len(asked) == 3
    secret.chmod(0o644)
    assert way.look().failures[0].reason == "credentials_file"


def test_a_tool_that_hangs_is_ended_with_the_proxy(tmp_path, monkeypatch):
    """SIGTERM ends the question in progress, its tool and what that started, well before its deadline."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "ipmi-dcmi"
    tool.write_text(f"#!/bin/sh\nsleep 3600 &\necho $! > {tmp_path}/pid\nwait\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    fields = {"credentials": credentials(tmp_path), "timeout_ns": 40 * NS_PER_S}
    poller = Poller([BmcMeter(entry(url="", ipmi="bmc7", **fields))], 2)
    with running(poller):
        wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert poller.close(20)
    pid = int((tmp_path / "pid").read_text())
    wait(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid))
    assert not poller.errors()  # what was ended by the proxy is no fault of the BMC


def _is_zombie(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


# --- who is asked when --------------------------------------------------------------------------


class Blocking:
    """A BMC whose looks last until they are let go; counts how many run at once."""

    def __init__(self):
        self.go, self.running, self.most, self.looks = threading.Event(), 0, 0, 0
        self.lock = threading.Lock()
        self.closed = 0

    def look(self):
        with self.lock:
            self.running += 1
            self.looks += 1
            self.most = max(self.most, self.running)
        self.go.wait(30)
        with self.lock:
            self.running -= 1
        return SourceResult(failures=(Failure("bmc", "timeout", "late"),))

    def stop(self):
        pass

    def close(self):
        assert not self.running
        self.closed += 1


@contextlib.contextmanager
def running(poller):
    stop = threading.Event()
    thread = threading.Thread(target=poller.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(60)


def test_a_bmc_is_never_asked_twice_at_once():
    """Single flight: a look longer than the interval delays the BMC's own next one and no other's."""
    stuck = Blocking()
    quick = Scripted(reading(1, 1))
    fast = {"interval_ns": 20_000_000}
    poller = Poller([BmcMeter(entry("a", **fast), stuck), BmcMeter(entry("b", **fast), quick)], 4)
    with running(poller):
        wait(lambda: quick.looks > 20)
        assert (stuck.looks, stuck.most) == (1, 1)
        stuck.go.set()
        wait(lambda: stuck.looks > 3)
        assert stuck.most == 1
    assert poller.close(10)


def test_closing_waits_for_looks_and_closes_every_meter():
    """A meter is closed after its look, each exactly once; one that never ends does not hold up the rest."""
    stuck, others = Blocking(), [Scripted(reading(1, 1)) for _ in range(5)]
    slow = {"interval_ns": 10_000_000}
    meters = [BmcMeter(entry(f"n{i}", **slow), one) for i, one in enumerate([stuck, *others])]
    poller = Poller(meters, 3)
    with running(poller):
        wait(lambda: stuck.looks and all(one.looks for one in others))
    assert not poller.close(0.5)
    assert [one.closed for one in others] == [1] * 5
    assert stuck.closed == 0
    stuck.go.set()
    wait(lambda: stuck.closed == 1)


def test_a_fault_in_one_meter_ends_nothing(caplog):
    """What a meter raises is a failure of its own, without its text."""

    class Broken(Scripted):
        def look(self):
            self.looks += 1
            raise ValueError(PASSWORD)

    broken = Broken(reading(1, 1))
    poller = Poller([BmcMeter(entry(interval_ns=10_000_000), broken)], 1)
    with running(poller):
        wait(lambda: broken.looks > 3)
        wait(lambda: poller.errors().get("exception", 0) >= 3)
    assert poller.close(10)
    assert PASSWORD not in page_of(BmcBoard(poller)) + caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.slow
def test_hanging_bmcs_delay_no_other(certs, tmp_path):
    """50 BMCs, 12 of which hang or drip, 8 threads: the age of every other stays below two intervals."""
    secret, interval_s = credentials(tmp_path), 3
    over = threading.Event()

    def hang(handler):
        return over.wait(60) or True

    with contextlib.ExitStack() as stack:
        bmcs = [stack.enter_context(Bmc(certs.good, redfishmock.node(100 + i))) for i in range(50)]
        bad = bmcs[::4][:12]
        for bmc in bad:
            bmc.on_request = hang
        fields = {
            "credentials": secret, "ca_file": certs.ca, "interval_ns": interval_s * NS_PER_S,
            "timeout_ns": 4 * NS_PER_S,
        }  # fmt: skip
        meters = [BmcMeter(entry(f"n{i:02}", url=bmc.url, **fields)) for i, bmc in enumerate(bmcs)]
        good = {f"n{i:02}" for i, bmc in enumerate(bmcs) if bmc not in bad}
        poller = Poller(meters, 8)
        board = BmcBoard(poller)
        with running(poller):
            wait(lambda: len(values(page_of(board), "jobwatt_meter_power_watts")) == len(good))
            worst, until = 0.0, time.monotonic() + 2 * interval_s
            while time.monotonic() < until:
                read = values(page_of(board), "jobwatt_meter_reading_timestamp_seconds")
                assert read.keys() == good
                worst = max(worst, *(time.time() - moment for moment in read.values()))
                time.sleep(0.25)
            assert worst < 2 * interval_s
            up = values(page_of(board), "jobwatt_meter_up")
            assert {node for node, value in up.items() if value} == good
        over.set()
        assert poller.close(30)
        assert not any(bmc.sessions for bmc in bmcs)


# --- the process --------------------------------------------------------------------------------


@contextlib.contextmanager
def proxy(tmp_path, bmcs, certs, *arguments, secret=None):
    """The command itself, at debug level; gives its process and its page's address."""
    secret = secret or credentials(tmp_path)
    text = f'[defaults]\ncredentials = "{secret}"\nca-file = "{certs.ca}"\ninterval = "1s"\ntimeout = "4s"\n'
    text += "".join(f'[[bmc]]\nnode = "{name}"\nurl = "{bmc.url}"\n' for name, bmc in bmcs.items())
    config = tmp_path / "bmcs.toml"
    config.write_text(text)
    log = tmp_path / "log"
    argv = [
        sys.executable, "-m", "jobwatt", "bmc-proxy", f"--bmc.config={config}", "--log.level=debug",
        "--web.listen-address=127.0.0.1:0", *arguments,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path("exporter").resolve())}
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stderr=out, stdout=out, env=env)
    try:
        wait(lambda: "serves on" in log.read_text() or process.poll() is not None)
        port = re.search(r"serves on 127\.0\.0\.1:(\d+)", log.read_text())
        assert port, log.read_text()
        yield process, f"http://127.0.0.1:{port[1]}", log
    finally:
        process.kill()
        process.wait()


def fetched(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_the_process_from_start_to_end(certs, tmp_path):
    """It asks, serves a page promtool accepts, ends at SIGTERM with 0 and its sessions deleted; the password is nowhere."""
    with Bmc(certs.good, redfishmock.node(410)) as one, Bmc(certs.own) as other:
        bmcs = {"gpu01": one, "gpu02": other}
        with proxy(tmp_path, bmcs, certs) as (process, url, log):
            wait(lambda: len(values(fetched(f"{url}/metrics"), "jobwatt_meter_up")) == 2)
            wait(
                lambda: (
                    values(fetched(f"{url}/metrics"), "jobwatt_meter_energy_joules_total").get(
                        "gpu01", 0
                    )
                    > 0
                )
            )
            page = fetched(f"{url}/metrics")
            assert values(page, "jobwatt_meter_power_watts") == {"gpu01": 410}
            assert values(page, "jobwatt_meter_up") == {"gpu01": 1, "gpu02": 0}
            assert 'jobwatt_source_errors_total{source="bmc",reason="certificate"}' in page
            assert "jobwatt_build_info{" in page
            named = fetched(f"{url}/metrics?name[]=jobwatt_meter_up&name[]=other")
            assert "jobwatt_meter_up{" in named
            assert "power_watts" not in named
            assert not fetched(f"{url}/metrics?name[]=other")
            if shutil.which("promtool"):
                checked = subprocess.run(["promtool", "check", "metrics"], input=page.encode(), capture_output=True, check=False)  # fmt: skip
                assert checked.returncode == 0, checked.stderr
            assert fetched(f"{url}/healthz")
            landing = fetched(f"{url}/")
            assert "gpu02" in landing
            assert one.sessions
            tokens = [*one.sessions.values(), redfishmock.basic_token(), PASSWORD]
            proc = Path(f"/proc/{process.pid}")
            seen = [page, landing, (proc / "cmdline").read_text(), (proc / "environ").read_text()]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert not one.sessions
            seen.append(log.read_text())
            for secret in tokens:
                assert not any(secret in text for text in seen)
            assert "DELETE" in {method for method, _ in one.seen}


@pytest.mark.slow
def test_a_hanging_bmc_does_not_hold_up_the_end(certs, tmp_path):
    """SIGTERM ends the process in time while a BMC hangs; the other's session is deleted."""
    over = threading.Event()
    with Bmc(certs.good) as one, Bmc(certs.good) as stuck:
        stuck.on_request = lambda _: over.wait(60) or True
        with proxy(tmp_path, {"a": one, "b": stuck}, certs) as (process, _, _):
            wait(lambda: one.sessions and stuck.seen)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert not one.sessions
        over.set()


def test_wrong_usage(tmp_path):
    """A list that is not there is exit 2 and one line; a missing flag is the parser's."""
    env = {**os.environ, "PYTHONPATH": str(Path("exporter").resolve())}
    argv = [sys.executable, "-m", "jobwatt", "bmc-proxy"]
    missing = subprocess.run([*argv, f"--bmc.config={tmp_path}/none"], capture_output=True, text=True, env=env, check=False)  # fmt: skip
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert "--bmc.config" in missing.stderr
    assert subprocess.run(argv, capture_output=True, env=env, check=False).returncode == 2


@pytest.mark.slow
def test_a_nodes_jobwatt_takes_its_row(certs, tmp_path):
    """The other end: the source `remote` reads this node's power from the proxy, and no other node's."""
    secret = credentials(tmp_path)
    with (
        Bmc(certs.good, redfishmock.node(410)) as one,
        Bmc(certs.good, redfishmock.node(9)) as other,
    ):
        fields = {"credentials": secret, "ca_file": certs.ca, "timeout_ns": 5 * NS_PER_S}
        meters = [
            BmcMeter(entry("gpu01", url=one.url, **fields)),
            BmcMeter(entry("gpu02", url=other.url, **fields)),
        ]
        poller = Poller(meters, 2)
        server = WebServer("127.0.0.1:0", BmcBoard(poller))
        server.start()
        address = f"http://127.0.0.1:{server.address[1]}/metrics"
        source = remote.Remote(remote.Access(address), "gpu01", NS_PER_S // 4)
        try:
            with running(poller):
                wait(lambda: source.read(full=True).readings)
                result = source.read(full=True)
                assert [sample.value for sample in result.samples] == [410]
                (found,) = result.readings
                assert found.device.domain is Domain.NODE
        finally:
            source.close()
            server.stop()
            assert poller.close(10)


def test_the_daemon_knows_nothing_of_it():
    """`jobwatt serve` imports neither the proxy nor its parts."""
    code = (
        "import sys; from jobwatt import agent, commands, parser; parser.build(whole=False); "
        "assert not [name for name in sys.modules if name.startswith('jobwatt.central')]"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "exporter"}
    )
