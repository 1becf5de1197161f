"""What `jobwatt demo` is given, its ports and its flags, and what it says on the terminal."""

from __future__ import annotations

import io
import logging
import re
import socket
from contextlib import contextmanager

import pytest

from jobwatt.cli import main
from jobwatt.demo.ports import Ports, PortTakenError, is_free
from jobwatt.demo.terminal import Terminal
from prom import free_port


@contextmanager
def taken():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_taken_default_moves_and_says_so():
    """Nobody asked for it: a free port is as good, and one line names it."""
    with taken() as port:
        ports = Ports("127.0.0.1", {})
        found = ports.take({"port": (port, 1)})["port"]
        assert found != port
        (line,) = ports.moved
        assert all(word in line for word in (str(port), str(found), "--port"))


def test_it_leaves_the_loggers_as_they_were(tmp_path):
    """Quiet only while it runs: who calls it in a process of their own hears as before."""
    logger = logging.getLogger("jobwatt")
    before = logger.level
    (tmp_path / "file").touch()
    assert main(["demo", f"--cache={tmp_path}/file"]) == 1
    assert logger.level == before


def test_a_taken_port_that_was_asked_for_is_an_error():
    """Whoever names a port wants that one."""
    with taken() as port:
        first = port - 1 if is_free("127.0.0.1", port - 1) else port  # the second of its row
        says = f"--first-node-port={first}: port {port} is taken by another program"
        with pytest.raises(PortTakenError, match=says):
            Ports("127.0.0.1", {"first-node-port": first}).take({"first-node-port": (9816, 3)})


def test_no_port_is_given_out_twice():
    """Two defaults that fall together part."""
    ports, first = Ports("127.0.0.1", {}), free_port()
    found = ports.take({"port": (first, 1), "prometheus-port": (first, 1)})
    assert len({*found.values(), ports.any()}) == 3


def test_a_default_gives_way_to_what_was_asked_for():
    """Whatever the order: the page moves where the nodes were asked to be, and the line says for whom."""
    first = Ports("127.0.0.1", {}).take({"x": (free_port(), 3)})["x"]
    ports = Ports("127.0.0.1", {"first-node-port": first})
    found = ports.take({"port": (first + 1, 1), "first-node-port": (9816, 3)})
    assert found["first-node-port"] == first
    assert found["port"] not in range(first, first + 3)
    (line,) = ports.moved
    assert f"port {first + 1} is the demo's own, for --first-node-port: {found['port']}" in line


def test_a_port_that_was_asked_for_twice_is_an_error():
    """No other program is to blame; and beyond the last port there is none."""
    port = free_port()
    both = {"port": port, "prometheus-port": port}
    with pytest.raises(
        PortTakenError, match=f"--prometheus-port={port}: .*the demo's own, for --port"
    ):
        Ports("127.0.0.1", both).take({"port": (3000, 1), "prometheus-port": (9090, 1)})
    last = {"first-node-port": 65_535}
    with pytest.raises(PortTakenError, match="there is no port 65536"):
        Ports("127.0.0.1", last).take({"first-node-port": (9816, 2)})


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--port=0"], "--port=0 is no port"),
        (["--days=0"], "--days=0 is not between 0 and 30"),
        (["--listen=203.0.113.9"], "--listen=203.0.113.9: no address of this machine"),
        (["--cache=/proc/nowhere"], "name another folder with --cache"),
        (["--ready-file=/no/where/ready.json"], "--ready-file=/no/where/ready.json: no folder"),
        (["--ready-file=/proc"], "--ready-file=/proc is a folder; name a file"),
    ],
)
def test_bad_input_gets_one_line(capsys, argv, says, tmp_path):
    """What, where, how to mend it; exit code 1."""
    assert main(["demo", f"--cache={tmp_path}", *argv]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_port_that_was_asked_for_and_is_taken_ends_the_command(capsys, tmp_path):
    """One line, exit code 1, nothing started."""
    with taken() as port:
        assert main(["demo", f"--prometheus-port={port}", f"--cache={tmp_path}"]) == 1
    assert f"--prometheus-port={port}" in capsys.readouterr().err


def test_a_misspelt_flag_is_refused_with_the_nearest_one(capsys):
    """As for every command."""
    with pytest.raises(SystemExit) as end:
        main(["demo", "--prometheus-prt=1"])
    assert end.value.code == 2
    assert "--prometheus-port" in capsys.readouterr().err


def test_progress_is_a_line_per_quarter_where_nothing_moves():
    """A log file gets no hundred lines; elapsed seconds stand in front."""
    err = io.StringIO()
    terminal = Terminal(err, io.StringIO())
    for part in range(101):
        terminal.progress("the nodes' past", part / 100)
    lines = err.getvalue().splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r" +\d+ s  the nodes' past 100 %", lines[-1])
