"""The simulator of RAPL: the source and its truth agree, within one process and as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobwatt.meter import measure
from jobwatt.model import Kind, Step
from jobwatt.sources.rapl import RaplSource
from raplsim import RaplSim, constant, phases, powercap_zones
from trees import Node


@pytest.mark.slow
def test_the_simulator_and_the_source_agree(tmp_path: Path) -> None:
    """A counter that wraps several times a second, read as it moves: the meter finds every uJ."""
    for attempt in range(20):  # until none moves by a whole range between two reads
        if _agreed(tmp_path / str(attempt)):
            return
    pytest.fail("this machine is too busy to read every 20 ms")


def _agreed(tmp_path: Path) -> bool:
    """One run; False, and nothing is checked, where a wrap may have gone unseen."""
    node = Node(tmp_path)
    node.add_rapl("intel-rapl:0", "package-0", range_uj=20_000_000, energy_uj=19_999_990)
    node.add_rapl("intel-rapl:0:0", "dram", range_uj=3_000_000)
    sim = RaplSim(
        powercap_zones(node.sys),
        {"intel-rapl:0": constant(100), "intel-rapl:0:0": phases([[0.1, 5], [0.1, 25]])},
        truth=tmp_path / "truth.json",
        step=0.002,
    )
    source = RaplSource(node.sys)
    cursors = measure({}, source.read(full=True).readings, 10**9).cursors
    totals = dict.fromkeys(cursors, 0)
    before = sim.truth()  # of the last read: what it saw, or less
    sim.start()
    steps, seen = set(), True
    for n in range(61):
        time.sleep(0.02)
        truth = sim.stop() if n == 60 else sim.truth()
        metered = measure(cursors, source.read(full=True).readings, 10**9)
        cursors = metered.cursors
        for delta in metered.booked:
            totals[delta.device.id, Kind.ENERGY] += delta.energy_uj
            steps.add(delta.step)
        seen = seen and _moved_less_than_a_range(before, sim.truth())
        before = truth
    if not seen:
        return False
    assert steps <= {Step.NORMAL, Step.WRAPPED}
    assert {zone: total for (zone, _), total in totals.items()} == {
        z: t["total_uj"] for z, t in truth.items()
    }
    assert truth["intel-rapl:0"]["total_uj"] > 4 * 20_000_000
    assert json.loads((tmp_path / "truth.json").read_text()) == truth
    return True


def _moved_less_than_a_range(
    before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]
) -> bool:
    return all(
        one["total_uj"] - before[zone]["total_uj"] < one["range_uj"] for zone, one in after.items()
    )


def test_the_simulator_as_a_process(tmp_path: Path) -> None:
    """SIGTERM at any moment leaves files and truth in exact agreement, the inode unchanged."""
    node = Node(tmp_path)
    node.add_intel(sockets=1, psys=False, mmio=False)
    file = node.rapl["intel-rapl:0"].path / "energy_uj"
    inode = file.stat().st_ino
    truth = tmp_path / "truth.json"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "raplsim",
            node.sys,
            "--truth",
            truth,
            "--watts",
            "intel-rapl:0=250",
            "intel-rapl:0:1=20.5",
        ],
        cwd=Path(__file__).parent,
    )
    deadline = time.monotonic() + 60
    while int(file.read_text()) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    told = json.loads(truth.read_text())
    assert sorted(told) == ["intel-rapl:0", "intel-rapl:0:1"]
    for zone, numbers in told.items():
        assert numbers["energy_uj"] == int((node.rapl[zone].path / "energy_uj").read_text())
        assert numbers["total_uj"] > 0
    assert file.stat().st_ino == inode
