"""The wattmeter's settings, and the daemon with one."""

from __future__ import annotations

import subprocess

import pytest

import wattmetre
from daemon import BOOT_ID, Daemon, Page, command, environment, paths
from jobwatt.config import ConfigError, from_flags
from jobwatt.sources import wattmeter_input
from trees import Node
from wattmetre import ROWS, Box, energy


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
