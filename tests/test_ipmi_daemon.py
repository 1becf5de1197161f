"""IPMI beside everything else that a daemon does, and its settings."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from daemon import command, paths
from ipmikit import DATA, inband, reason, script
from jobwatt import agent as daemon
from jobwatt.board import Board
from jobwatt.config import Config, ConfigError, from_flags
from jobwatt.ledger import Ledger
from jobwatt.meter import measure
from jobwatt.model import NS_PER_S, SourceResult
from jobwatt.slurm.events import Events
from jobwatt.sources.polled import Polled
from trees import Node

if TYPE_CHECKING:
    from pathlib import Path

    from jobwatt.sources import ipmi


def in_background(asked: ipmi.Inband, every_s: float, limit_s: float) -> Polled:
    """As sources/bmc.py does it."""
    return Polled("bmc", asked.look, every_s, limit_s, stop=asked.stop)


def _run_agent(tmp_path: Path, bmc: Polled, seconds: float) -> daemon.Agent:
    """The daemon's own loop on a node of files, sampling every 200 ms, with ``bmc`` beside RAPL."""
    node = Node(tmp_path / "node")
    node.add_intel(1)
    config = Config(
        path_sysfs=node.sys,
        path_procfs=node.proc,
        path_cgroupfs=node.cgroup,
        path_state=tmp_path / "state",
        sample_interval=NS_PER_S // 5,
        source_nvml=False,
        slurm_rpc=False,
    )
    config.path_state.mkdir()
    sampler = daemon.sampler(config)
    sampler.sources = [*sampler.sources, bmc]
    ledger = Ledger(None)
    running = daemon.Agent(
        config,
        sampler,
        daemon.pipeline(config, ledger),
        Board(0.2, lambda *_: []),
        Events([config.path_state]),
    )
    threading.Timer(seconds, running.stop).start()
    running.begin()
    running.run()
    return running


@pytest.mark.slow
def test_a_bmc_that_hangs_delays_no_sample(tmp_path: Path) -> None:
    """While a tool hangs the samples keep their rhythm, and a daemon that ends does not wait for it."""
    script(tmp_path / "ipmitool", "exec sleep 1000")
    bmc = in_background(inband(tmp_path, timeout_s=120), 10, 122)
    agent = _run_agent(tmp_path, bmc, 4.0)
    samples = agent.pipeline.totals.counters["jobwatt_samples_total", ("tick",)]
    assert samples >= 5  # 20 of them have room; a single wait for the tool leaves one
    assert max(s.read_s for s in agent.sampler.status if s.name == "bmc") < 2
    began = time.monotonic()
    agent.close()
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_the_nodes_meter_on_the_page(tmp_path: Path) -> None:
    """From the tool's words to the page: the wall's power, its energy, and a node made up of it."""
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    bmc = in_background(inband(tmp_path, every_ns=NS_PER_S // 2), 0.5, 12)
    agent = _run_agent(tmp_path, bmc, 3.5)
    page = agent.board.metrics(False, frozenset()).decode()
    agent.close()
    power, energy, node = (
        [float(line.split()[-1]) for line in page.splitlines() if line.startswith(start)]
        for start in (
            'jobwatt_wall_power_watts{source="bmc",meter="dcmi"}',
            'jobwatt_wall_energy_joules_total{source="bmc",meter="dcmi"}',
            "jobwatt_node_energy_joules_total",
        )
    )
    assert power == [1287]
    assert 1287 <= energy[0] < 1287 * 30
    assert 0 < sum(node) <= energy[0]


def test_a_hanging_tool_is_asked_once(tmp_path: Path) -> None:
    """However often the source is read: one child at a time, and its failure when it was given up."""
    count = tmp_path / "count"
    script(tmp_path / "ipmitool", f"echo x >>{count}; exec sleep 1000")
    bmc = in_background(inband(tmp_path, timeout_s=0.5), 60, 2)
    assert bmc.pending
    deadline = time.monotonic() + 60
    while not (result := bmc.read(full=True)).failures and time.monotonic() < deadline:
        assert result == SourceResult()
        time.sleep(0.01)
    assert reason(result) == "timeout"
    assert not bmc.pending
    bmc.close()
    assert count.read_text() == "x\n"


def test_energy_is_the_power_over_time(tmp_path: Path) -> None:
    """Readings that repeat are no time; two that do not are 1287 W over what lies between them."""
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    bmc = in_background(inband(tmp_path, every_ns=NS_PER_S // 5), 0.2, 10)
    cursors, booked_uj, times = {}, 0, []
    deadline = time.monotonic() + 60
    while len(times) < 4 and time.monotonic() < deadline:
        readings = bmc.read(full=True).readings
        metered = measure(cursors, readings, 60 * NS_PER_S)
        cursors, booked_uj = metered.cursors, booked_uj + sum(d.energy_uj for d in metered.booked)
        times = sorted({*times, *(r.t_ns for r in readings)})
        time.sleep(0.02)
    bmc.close()
    assert len(times) >= 4
    assert booked_uj == pytest.approx(1287 * (times[-1] - times[0]) / 1000, abs=len(times))


@pytest.mark.parametrize("text", ["9s", "9999ms", "61s", "0s", "x"])
def test_a_bmc_is_not_asked_too_often(text: str) -> None:
    """In-band questions cost a node 110 to 170 ms each: 10 s to 60 s between two."""
    with pytest.raises(ConfigError, match=r"bmc\.interval"):
        from_flags({"bmc.interval": text})
    assert from_flags({"bmc.interval": "10s"}).bmc_interval == 10 * NS_PER_S


def test_one_meter_is_not_counted_twice() -> None:
    """IPMI and Redfish ask the same meter."""
    with pytest.raises(ConfigError, match=r"bmc\.ipmi and bmc\.redfish"):
        from_flags({"bmc.ipmi": "auto", "bmc.redfish": "https://bmc"})


@pytest.mark.slow
def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    """On this machine, which has no BMC or no rights on it, or measures: the one or the other."""
    node = Node(tmp_path)
    node.add_intel(1)
    (tmp_path / "state").mkdir()
    flags = ["--bmc.ipmi=auto", "--no-source.nvml", "--no-slurm.rpc"]
    argv = command("doctor", *paths(node, tmp_path / "state"), *flags)
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout
    mended = [line for line in said.splitlines() if "BMC through IPMI" in line]
    assert mended or "bmc: dcmi" in said
    assert all("; mend: " in line for line in mended)
