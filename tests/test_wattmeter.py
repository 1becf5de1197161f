"""The wattmeter: the real recording through a terminal, and everything that such a box may do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wattmetre
from daemon import BOOT_ID, Daemon, Page, command, environment, paths, wait
from jobwatt.config import ConfigError, from_flags
from jobwatt.model import NS_PER_S, Domain, Kind
from jobwatt.sources import wattmeter, wattmeter_input
from jobwatt.sources.wattmeter import Wattmeter
from jobwatt.sources.wattmeter_energy import Meter, Port
from jobwatt.sources.wattmeter_frames import Frames
from trees import Node
from wattmetre import HEADER, ROWS, Box, energy

MAP = {"1": "here", "5": "here", "2": "gpu02"}
SOON = {"retry_s": (0.05, 0.2)}


@contextmanager
def reading(spec, ports=MAP, **more):
    source = Wattmeter(str(spec), ports, "here", **{**SOON, **more})
    try:
        yield source
    finally:
        source.close()
    assert not source._thread.is_alive()


def by_id(result):
    found = {r.device.id: r for r in result.readings}
    assert len(found) == len(result.readings)
    return found


def frames(source):
    return sum(source._state.outcomes.values())


def values(source, ports=MAP):
    """Energy by port as it stands, once it is known that no more comes."""
    return {port: source._state.ports[port].energy_uj for port in ports}


def lines(rows):
    return "".join(f"{row}\n" for row in rows).encode()


# --- rows ------------------------------------------------------------------------------------------


def test_the_recording():
    """983 rows, 48 % repeats, none bad; energy is that of a computation in fractions, to the microjoule."""
    rows, meter = Frames(MAP), Meter({port: Port() for port in MAP})
    found = rows.feed(lines([HEADER, *ROWS]))
    for frame in found:
        assert meter.add(frame.t_ns, frame.power_uw, frame.t_ns)
    assert len(found) == 983
    assert rows.bad == 0
    assert sum(frame.outcome == "repeated" for frame in found) == 467
    assert {p: told.energy_uj for p, told in meter.state().items()} == {
        port: energy(ROWS, port) for port in MAP
    }
    assert all(uw >= 0 for frame in found for uw in frame.power_uw.values())


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_cut_anywhere(size):
    """However the bytes are cut, the same frames come."""
    whole = lines([HEADER, *ROWS[:50]])
    rows = Frames(MAP)
    found = [f for at in range(0, len(whole), size) for f in rows.feed(whole[at : at + size])]
    assert found == Frames(MAP).feed(whole)


def test_columns_by_name():
    """Columns may be in any order, and a header may come again with others."""
    rows = Frames(["2"])
    text = (
        "#activepow2,#frame_is_ok,#timestamp\n5.5,true,10.0\n"
        "#timestamp,#activepow1,#activepow2,#frame_is_ok\n11.0,1.0,7.25,true\n"
    )
    assert [(f.t_ns, f.power_uw) for f in rows.feed(text.encode())] == [
        (10 * NS_PER_S, {"2": 5_500_000}),
        (11 * NS_PER_S, {"2": 7_250_000}),
    ]


BAD = {
    "not ok": b"1.0,false,5.0,6.0",
    "cut": b"1.0,true,5",
    "two in one": b"1.0,true,5.0,62.0,true,5.0,6.0",
    "no time": b",true,5.0,6.0",
    "time is text": b"now,true,5.0,6.0",
    "time is nan": b"nan,true,5.0,6.0",
    "figure is text": b"1.0,true,5.0,six",
    "exponent": b"1.0,true,5.0,6e9",
    "underscore": b"1.0,true,5.0,1_0",
    "garbage": b"\xff\x00\x80,,,",
}


@pytest.mark.parametrize("row", BAD.values(), ids=BAD)
def test_bad_rows(row):
    """A row that is none is counted and leaves no trace in those around it."""
    rows = Frames(["1", "2"])
    rows.feed(b"#timestamp,#frame_is_ok,#activepow1,#activepow2\n")
    assert rows.feed(row + b"\n3.0,true,5.0,6.0\n")[-1].t_ns == 3 * NS_PER_S
    assert rows.bad == 1


@pytest.mark.parametrize(
    ("field", "uw"),
    [
        ("-0.0", 0),
        ("-0.1", 0),
        ("182.0", 182_000_000),
        ("0.1234567", 123_456),
        ("", None),
        (" ", None),
        ("-180.0", None),
        ("999999999", None),
    ],
)
def test_figures(field, uw):
    """-0.0 and noise below 0 are 0; blank, a clamp the wrong way round and the impossible are unknown."""
    rows = Frames(["1", "2"])
    rows.feed(b"#timestamp,#frame_is_ok,#activepow1,#activepow2\n")
    (frame,) = rows.feed(f"1.0,true,{field},6.0\n".encode())
    assert frame.power_uw == {"1": uw, "2": 6_000_000}
    assert frame.outcome == ("blank" if uw is None else "ok")
    assert rows.bad == 0


def test_endless_line():
    """A line without an end takes no memory, is counted once, and the one after it is read."""
    rows = Frames(["1"])
    rows.feed(b"#timestamp,#frame_is_ok,#activepow1\n")
    for _ in range(100):
        rows.feed(b"1" * 10_000)
        assert len(rows._begun) <= 26 << 10
    (frame,) = rows.feed(b"\n1.0,true,5.0\n")
    assert frame.power_uw == {"1": 5_000_000}
    assert rows.bad == 1


def test_older_layout():
    """Without a header: column 3 is the time, column 4 OK, ports from 0 on in columns 5 and on, blanks allowed."""
    rows = Frames(["0", "2", "9"])
    text = b"wm1,x,100.5,OK,90.5,,12.0\nwm1,x,101.5,KO,1,1,1\nwm1,x,102.5,OK,91.5,3.0,\nwm1,x,103.5,OK,92.0\n"
    found = rows.feed(text)
    assert [(f.t_ns / NS_PER_S, f.power_uw["0"], f.power_uw["2"]) for f in found] == [
        (100.5, 90_500_000, 12_000_000),
        (102.5, 91_500_000, None),
        (103.5, 92_000_000, None),
    ]
    assert [f.outcome for f in found] == ["ok", "blank", "ok"]
    assert rows.bad == 1
    assert rows.known == {"0"}


pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"\n", b",", HEADER.encode() + b"\n", ROWS[0].encode() + b"\n", b"1,2,3,OK,5\n"]
    ),
    st.sampled_from([row.encode() + b"\n" for row in ROWS[:40]]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(pieces, st.integers(0, 10**12)), max_size=60))
def test_any_bytes(parts):
    """Whatever comes and whenever: nothing is raised, memory is bounded, energy and time only go up."""
    rows, meter = Frames(["1", "5"]), Meter({"1": Port(), "5": Port()})
    now_ns, before = 0, {}
    for data, later_ns in parts:
        now_ns += later_ns
        for frame in rows.feed(data):
            meter.add(frame.t_ns, frame.power_uw, now_ns)
        state = meter.state()
        for port, told in state.items():
            assert told.t_ns <= now_ns
            if port in before:
                assert told.energy_uj >= before[port].energy_uj
                assert told.t_ns >= before[port].t_ns
                assert told.epoch >= before[port].epoch
        before = state
    assert len(rows._begun) <= 16 << 10


# --- energy and clocks -----------------------------------------------------------------------------

S = NS_PER_S


def fed(*rows, ports=("1",)):
    """A meter after (meter's time in s, arrival in s, W of each port or None)."""
    meter = Meter({port: Port() for port in ports})
    for at_s, came_s, *watts in rows:
        power = {
            p: None if w is None else int(w * 10**6) for p, w in zip(ports, watts, strict=True)
        }
        meter.add(int(at_s * S), power, int(came_s * S))
    return meter


def test_gaps_are_left_out():
    """Two and a half seconds are bridged; more is not, and begins a new epoch."""
    bridged = fed((100, 0, 50), (102.5, 2.5, 70)).state()["1"]
    assert (bridged.energy_uj, bridged.epoch) == (150 * 10**6, 0)
    apart = fed((100, 0, 50), (101, 1, 50), (103.6, 3.6, 70), (104.6, 4.6, 70)).state()["1"]
    assert (apart.energy_uj, apart.epoch) == (120 * 10**6, 1)


def test_a_blank_port_alone_has_a_gap():
    """Blank fields of one port are that port's gap; the others go on."""
    rows = [(100 + n, n, 10, None if 2 <= n < 6 else 20) for n in range(10)]
    state = fed(*rows, ports=("1", "2")).state()
    assert (state["1"].energy_uj, state["1"].epoch) == (90 * 10**6, 0)
    assert (state["2"].energy_uj, state["2"].epoch) == ((20 + 60) * 10**6, 1)


def test_remainders_are_carried():
    """A million steps that are each less than a microjoule lose nothing."""
    port = Port()
    for n in range(1, 100_001):
        port.add(n * 7, 3)
    assert port.energy_uj == 3 * 7 * 99_999 // S
    port = Port()
    for n in range(1, 100_001):
        port.add(n * 7_777, 33_333_333)
    assert port.energy_uj == 33_333_333 * 7_777 * 99_999 // S


def test_one_row_too_late():
    """A row older than the newest, or the same again, is dropped."""
    meter = fed((100, 0, 50), (101, 1, 50), (100.5, 1, 9000), (101, 1, 9000), (102, 2, 50))
    assert (meter.state()["1"].energy_uj, meter.state()["1"].epoch) == (100 * 10**6, 0)


@pytest.mark.parametrize("step_s", [-3600, -5, 0.5, 30, 3600])
def test_the_meters_clock_is_set(step_s):
    """Set ahead or back while it runs: no energy is invented, a new epoch begins, readings stay of now."""
    before = [(1000 + n / 10, n / 10, 100) for n in range(101)]
    after = [(1010 + step_s + n / 10, 10 + n / 10, 100) for n in range(1, 101)]
    state = fed(*before, *after).state()["1"]
    assert state.epoch == 1
    assert 1000 * 10**6 <= state.energy_uj <= 2000 * 10**6
    assert state.t_ns == pytest.approx(20 * S, abs=S / 100)


def test_readings_are_placed_by_the_quickest():
    """Rows that arrive in bursts are placed by those that waited least; no reading is of the future."""
    rows = [(5000 + n / 10, (n // 10 + 1) * 1.0, 100) for n in range(100)]
    state = fed(*rows).state()["1"]
    assert state.t_ns == 10 * S
    late = fed(*rows, (5010, 14, 100)).state()["1"]  # one that was held up
    assert late.t_ns == pytest.approx(10.1 * S, abs=S / 100)
    assert (state.epoch, late.epoch) == (0, 0)


def test_a_ports_time_never_goes_back():
    """A port whose value is older than that of others, when the clocks are found to be closer than thought."""
    meter = fed((100, 10, 5, 5), ports=("1", "2"))
    first = meter.state()
    meter.add(int(100.05 * S), {"1": 5, "2": 5}, int(10.1 * S))
    meter.add(101 * S, {"1": 5, "2": None}, int(10.1 * S))
    later = meter.state()
    assert first["2"].t_ns == later["2"].t_ns == 10 * S
    assert later["1"].t_ns == int(10.1 * S)


# --- inputs ----------------------------------------------------------------------------------------


def test_through_a_terminal(tmp_path):
    """The recording through a terminal and `wattmetre-read`: exact energy, ports of this node summed, frames counted."""
    box = Box(tmp_path / "ttyUSB0")
    box.plug()
    with reading(wattmetre.command(box.path)) as source:
        box.play(ROWS)
        wait(lambda: frames(source) == len(ROWS))
        result = source.read(full=True)
    found = by_id(result)
    assert {i: r.value for i, r in found.items()} == {
        "wattmeter:1": energy(ROWS, "1"),
        "wattmeter:5": energy(ROWS, "5"),
        "wattmeter:2": 0,
        "wattmeter": energy(ROWS, "1") + energy(ROWS, "5"),
    }
    whole = found["wattmeter"].device
    assert (whole.domain, whole.summed, whole.name, whole.node) == (Domain.NODE, True, "1+5", "")
    port = found["wattmeter:2"].device
    assert (port.domain, port.summed, port.name, port.node) == (Domain.NODE, False, "2", "gpu02")
    assert all(r.kind is Kind.ENERGY and r.epoch == 0 for r in result.readings)
    assert result.failures == ()
    samples = {(s.metric, *s.labels): s.value for s in result.samples}
    assert samples["jobwatt_meter_up", "wattmeter", "2", "gpu02"] == 1
    assert samples["jobwatt_meter_power_watts", "wattmeter", "5", "here"] == 183.4
    assert samples["jobwatt_wall_power_watts", "wattmeter", "1+5"] == pytest.approx(184.6)
    read_s = samples["jobwatt_meter_reading_timestamp_seconds", "wattmeter", "5", "here"]
    assert time.time() - 60 < read_s <= time.time()
    assert {s.labels[0]: s.value for s in result.events} == {"ok": 516, "repeated": 467}


def test_unplugged_and_back(tmp_path):
    """Unplugged: one failure that says how to mend it. Back: a new epoch, and no energy for the time between."""
    box = Box(tmp_path / "ttyUSB0")
    with reading(wattmetre.command(box.path)) as source:
        wait(lambda: source.read(full=True).failures)
        box.plug()
        box.play(ROWS[:300])
        wait(lambda: frames(source) == 300)
        assert source.read(full=True).failures == ()
        box.unplug()
        (failure,) = wait(lambda: source.read(full=True).failures)
        assert failure.reason == "input"
        assert "plugged in" in failure.message
        assert "\n" not in failure.message
        box.plug()
        box.play(ROWS[310:])
        wait(lambda: frames(source) == len(ROWS) - 10)
        result = source.read(full=True)
    assert result.failures == ()
    apart = by_id(result)["wattmeter:5"].value - energy(ROWS[:300], "5") - energy(ROWS[310:], "5")
    assert apart in {0, 1}  # two parts that were each rounded down
    assert by_id(result)["wattmeter:5"].epoch == 1


@pytest.mark.slow
def test_no_child_is_left(tmp_path):
    """When it is closed the child and what it started are gone, even where they will not go."""
    pid = tmp_path / "pid"
    script = f"trap '' TERM; sleep 1000 & echo $$ $! >{pid}; while :; do sleep 1; done"
    with reading(f"exec:sh -c {script!r}"):
        wait(lambda: pid.exists() and len(pid.read_text().split()) == 2)
    for number in pid.read_text().split():
        wait(lambda n=number: not os.path.exists(f"/proc/{n}") or _is_dead(n))


def _is_dead(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "exec:/nowhere/wattmetre-read --nb=6",
            "cannot start /nowhere/wattmetre-read: No such file",
        ),
        ("exec:sh -c 'echo no such device >&2; exit 3'", "ended with status 3 (no such device)"),
        ("/nowhere/rows.csv", "cannot read /nowhere/rows.csv: No such file"),
        ("/dev/null", "is neither a file nor a FIFO"),
        ("tcp://127.0.0.1:1", "cannot connect to tcp://127.0.0.1:1: Connection refused"),
    ],
)
def test_inputs_that_are_not_there(spec, words):
    """One line says what is missing; it is tried again and read() goes on."""
    with reading(spec) as source:
        (failure,) = wait(lambda: source.read(full=True).failures)
        assert words in failure.message
        assert "\n" not in failure.message
        result = source.read(full=False)
        assert result.readings == ()
        assert {s.value for s in result.samples if s.metric == "jobwatt_meter_up"} == {0}


def test_what_a_child_says_is_bounded():
    """A child that floods stderr costs no memory, and one clean line of it is shown."""
    noisy = "import sys; sys.stderr.write('\\x1b[31mx' * 10**6); sys.exit(1)"
    with reading(f'exec:{sys.executable} -c "{noisy}"') as source:
        (failure,) = wait(lambda: source.read(full=True).failures)
        assert len(failure.message) < 500
        assert failure.message.isprintable()


@pytest.mark.slow
def test_silent_child_is_started_again(tmp_path):
    """A child that says nothing more is ended and started anew."""
    log = tmp_path / "starts"
    with reading(f"exec:sh -c 'echo x >>{log}; sleep 1000'", silent_s=0.3):
        wait(lambda: log.exists() and len(log.read_text().split()) >= 3)


def test_fifo(tmp_path):
    """A FIFO: a writer may come late, go, and come back; energy goes on by the rows' own times."""
    path = tmp_path / "rows"
    os.mkfifo(path)
    with reading(path) as source:
        for part in ([HEADER, *ROWS[:400]], ROWS[400:]):
            with path.open("wb") as pipe:
                pipe.write(lines(part))
            wait(lambda: frames(source) in {400, 983})
        wait(lambda: frames(source) == 983)
        assert values(source) == {port: energy(ROWS, port) for port in MAP}
        path.unlink()
        os.mkfifo(path)
        with path.open("wb") as pipe:
            pipe.write(lines([ROWS[-1].replace("1745428520", "1745428521")]))
        wait(lambda: frames(source) == 984)
        assert source.read(full=True).failures == ()


@pytest.mark.slow
def test_growing_file(tmp_path):
    """A file: its header counts, its past does not; what is added does, after truncation and rotation too."""
    path = tmp_path / "rows.csv"
    path.write_bytes(lines([HEADER, *ROWS[:100]]) + ROWS[100].encode()[:30])
    with reading(path) as source:
        wait(lambda: source._frames.known)
        with path.open("ab") as out:
            out.write(ROWS[100].encode()[30:] + b"\n" + lines(ROWS[101:500]))
        wait(lambda: frames(source) == 399)
        assert values(source) == {port: energy(ROWS[101:500], port) for port in MAP}
        path.rename(tmp_path / "rows.csv.1")
        path.write_bytes(lines([HEADER, *ROWS[500:700]]))
        wait(lambda: frames(source) == 599)
        path.write_bytes(lines([HEADER, *ROWS[700:]][:100]))
        wait(lambda: frames(source) == 698)
        assert values(source) == {port: energy(ROWS[101:799], port) for port in MAP}
        assert by_id(source.read(full=True))["wattmeter"].epoch == 0


def test_tcp(tmp_path):
    """A connection; when it ends it is made again, with a new epoch and the header that is known."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        with reading(f"tcp://127.0.0.1:{server.getsockname()[1]}") as source:
            for part, upto in (([HEADER, *ROWS[:400]], 400), (ROWS[405:], 978)):
                sock, _ = server.accept()
                sock.sendall(lines(part))
                wait(lambda n=upto: frames(source) == n)
                assert source.read(full=True).failures == ()
                sock.close()
                wait(lambda: source._state.trouble)
            assert "closed the connection" in source.read(full=True).failures[0].message
            assert source._state.ports["5"].epoch == 1
            apart = values(source)["5"] - energy(ROWS[:400], "5") - energy(ROWS[405:], "5")
            assert apart in {0, 1}  # two parts that were each rounded down


def test_no_header(monkeypatch):
    """Joined in the middle of a stream: it does not guess which column is what, and says what to do."""
    monkeypatch.setattr(wattmeter, "_STALE_NS", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        with reading(f"tcp://127.0.0.1:{server.getsockname()[1]}") as source:
            sock, _ = server.accept()
            sock.sendall(lines(ROWS[:10]))
            wait(lambda: source._state.heard)
            (failure,) = source.read(full=True).failures
            assert failure.reason == "no_header"
            sock.close()


def test_half_a_node(tmp_path):
    """One supply's port is blank or not there at all: the node's sum is left out, and both are said."""
    path = tmp_path / "rows"
    os.mkfifo(path)
    with reading(path, {"1": "self", "2": "here", "7": "here", "3": "gpu02"}) as source:
        with path.open("wb") as pipe:
            pipe.write(b"#timestamp,#frame_is_ok,#activepow1,#activepow2,#activepow3\n")
            pipe.write(b"1.0,true,50.0,,70.0\n1.5,true,50.0,,70.0\n")
        wait(lambda: frames(source) == 2)
        source._began_ns = 0
        result = source.read(full=True)
    assert by_id(result).keys() == {"wattmeter:1", "wattmeter:3"}
    assert {(f.reason, f.device) for f in result.failures} == {
        ("no_port", "wattmeter:7"),
        ("port_silent", "wattmeter:2"),
        ("incomplete", "wattmeter"),
    }
    assert not [s for s in result.samples if s.metric == "jobwatt_wall_power_watts"]
    assert {s.labels[0]: s.value for s in result.events} == {"blank": 1, "repeated": 1}


def test_reading_never_waits(tmp_path):
    """While the meter floods or hangs, a read takes no time worth speaking of."""
    path = tmp_path / "rows"
    os.mkfifo(path)
    with reading(path) as source:
        with path.open("wb") as pipe:
            writer = threading.Thread(target=lambda: pipe.write(lines([HEADER, *ROWS * 20])))
            writer.start()
            took = []
            while writer.is_alive():
                began = time.perf_counter()
                source.read(full=True)
                took.append(time.perf_counter() - began)
            writer.join()
        took.sort()
        assert took[len(took) // 2] < 0.1


# --- settings and the daemon -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"wattmeter.input": "exec:"}, "names no command"),
        ({"wattmeter.input": "exec:wattmetre-read '"}, "--wattmeter.input"),
        ({"wattmeter.input": "tcp://host"}, "tcp://HOST:PORT"),
        ({"wattmeter.input": "tcp://host:99999"}, "--wattmeter.input"),
        ({"wattmeter.input": "udp://host:1"}, "udp"),
        ({"wattmeter.ports": "1:gpu01"}, "'1:gpu01' is not PORT=NODE"),
        ({"wattmeter.ports": "1=gpu01,1=gpu02"}, "port 1 is there twice"),
        ({"wattmeter.ports": "1=gpu 01"}, "is not PORT=NODE"),
        ({"wattmeter.input": "/rows"}, "say which node each port feeds"),
    ],
)
def test_settings_that_are_refused(flags, words):
    """A map or an input that cannot be used is refused at the start, in one line that names it."""
    with pytest.raises(ConfigError) as err:
        from_flags(flags)
    assert words in str(err.value)
    assert "\n" not in str(err.value)


def test_ports_of_a_map():
    """Nodes are known by their name up to the first dot."""
    config = from_flags({"wattmeter.ports": "1=gpu01.example.org, 02=gpu01,3=self"})
    assert config.wattmeter_ports == (("1", "gpu01"), ("2", "gpu01"), ("3", "self"))


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    made.add_intel(sockets=1, psys=False, mmio=False)
    return made


@pytest.mark.slow
def test_once(node, tmp_path):
    """`jobwatt once` shows each port and its node, and this node's wall."""
    box = Box(tmp_path / "ttyUSB0")
    box.plug()
    box.play(ROWS[:40])  # what the terminal holds until somebody reads it
    flags = [
        f"--wattmeter.input={wattmetre.command(box.path)}",
        "--wattmeter.ports=1=self,5=self,2=gpu02",
        "--sample.interval=2s",
        "--no-source.nvml",
        "--no-slurm.rpc",
    ]
    done = subprocess.run(
        command("once", *paths(node, tmp_path / "state"), *flags),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    page = Page(done.stdout)
    assert page.value("jobwatt_meter_up", source="wattmeter", meter="2", node="gpu02") == 1
    assert 180 < page.value("jobwatt_wall_power_watts", source="wattmeter", meter="1+5") < 200


@pytest.mark.slow
def test_daemon(node, tmp_path):
    """In the daemon at the pace of the recording: exact wall energy; unplugged it is said once; back it goes on."""
    box = Box(tmp_path / "ttyUSB0")
    box.plug()
    flags = [
        f"--wattmeter.input={wattmetre.command(box.path)}",
        "--wattmeter.ports=1=self,5=self,2=gpu02",
    ]

    def play(daemon, rows, before):
        """The first row alone: from its reading on, energy is counted."""
        box.play(rows[:1])
        daemon.until(lambda page: page.value("jobwatt_meter_up", node="gpu02") == 1)
        daemon.samples(2)
        box.play(rows[1:], pace=1.0)
        daemon.until(
            lambda page: page.value("jobwatt_wattmeter_frames_total") == before + len(rows)
        )
        return daemon.samples(2).micro("jobwatt_wall_energy_joules_total", meter="1+5")

    with Daemon(node, tmp_path / "state", *flags) as daemon:
        first = play(daemon, ROWS[:200], 0)
        expected = energy(ROWS[:200], "1") + energy(ROWS[:200], "5")
        assert first == expected
        box.unplug()
        daemon.until(lambda page: page.value("jobwatt_meter_up") == 0)
        page = daemon.samples(2)
        assert page.value("jobwatt_source_up", source="wattmeter") == 0
        assert not page.find("jobwatt_wall_power_watts", meter="1+5")
        box.plug()
        second = play(daemon, ROWS[220:420], 200)
        page = daemon.samples(1)
        assert page.value("jobwatt_source_up", source="wattmeter") == 1
        assert page.value("jobwatt_steps_total", source="wattmeter", step="reset") > 0
    expected += energy(ROWS[220:420], "1") + energy(ROWS[220:420], "5")
    assert expected <= second <= expected + 2  # remainders are carried over what is left out
    assert len(daemon.said("plugged in")) == 1


def test_spec_is_never_a_shell():
    """What a shell would run is one argument."""
    with pytest.raises(wattmeter_input.InputEnded, match=r"cannot start /nowhere;reboot"):
        wattmeter_input.open_input("exec:/nowhere;reboot")
