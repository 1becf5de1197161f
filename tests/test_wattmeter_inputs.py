"""The wattmeter's inputs: a terminal, a child, a FIFO, a file and a connection, and what each may do."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import pytest

import wattmetre
from daemon import wait
from jobwatt.model import Domain, Kind
from jobwatt.sources import wattmeter
from wattmeterkit import MAP, by_id, frames, lines, reading, values
from wattmetre import HEADER, ROWS, Box, energy


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
