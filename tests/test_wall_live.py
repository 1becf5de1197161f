"""The daemon with a meter in its feed, all of it in real time: RAPL and NVML that move, and frames from a FIFO."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

import pytest

from daemon import Daemon
from test_kill import GPU_MW, WATTS, Busy, rapl

pytestmark = pytest.mark.slow
ABOVE = 1.16
# RAPL's `core` zone (intel-rapl:0:0) lies in its package
PARTS_W = (
    sum(watts for zone, watts in WATTS.items() if zone != "intel-rapl:0:0") + sum(GPU_MW) / 1000
)
HEADER = "#timestamp,#frame_is_ok,#U1,#U2,#U3,#current1,#activepow1,#current2,#activepow2\n"
FRAME_S = 0.02  # as an OmegaWatt box measures: 50 Hz


class Meter:
    """A box of two ports, each feeding one power supply of the node, that writes into a FIFO."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path, self._stop = path, threading.Event()
        self._thread = None

    def plug(self):
        self._stop.clear()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def unplug(self):
        self._stop.set()
        self._thread.join()

    def _write(self):
        half = ABOVE * PARTS_W / 2
        with suppress(BrokenPipeError), self.path.open("w") as out:
            out.write(HEADER)
            while not self._stop.wait(FRAME_S):
                out.write(f"{time.time():.9f},true,239.4,0.0,0.0,2.1,{half},2.1,{half}\n")
                out.flush()


def components(page):
    return {
        dict(pairs)["component"]: value
        for pairs, value in page.find("jobwatt_node_power_watts").items()
    }


def test_a_meter_16_percent_above(tmp_path):
    """
    RAPL + NVML draw what they draw and two ports together 16 % more: the balance reads 16 %, jobs and all others sum
    to the meter; unplugged, `other` stops and nothing else does; back, it goes on.
    """
    busy, meter = Busy(tmp_path), Meter(tmp_path / "box")
    flags = [f"--wattmeter.input={meter.path}", "--wattmeter.ports=1=self,2=self"]
    meter.plug()
    with Daemon(busy.node, busy.state, *flags, script=busy.script) as daemon:
        busy.power(*GPU_MW)
        with rapl(busy.node, tmp_path, WATTS):
            daemon.until(lambda page: page.find("jobwatt_wall_power_watts"))
            daemon.samples(5)
            before = daemon.scrape()
            time.sleep(20)
            after = daemon.scrape()

            def gained(metric, **labels):
                return after.value(metric, **labels) - before.value(metric, **labels)

            wall, parts = (
                gained("jobwatt_reconciled_energy_joules_total", part=part)
                for part in ("wall", "components")
            )
            assert wall / parts - 1 == pytest.approx(ABOVE - 1, abs=0.01)
            assert after.value("jobwatt_wall_balance_ratio") == pytest.approx(ABOVE - 1, abs=0.02)
            assert gained("jobwatt_wall_energy_joules_total") == pytest.approx(
                gained("jobwatt_node_energy_joules_total"), rel=0.01
            )
            charged = sum(
                gained(f"jobwatt_{owner}_energy_joules_total")
                for owner in ("job", "system", "unallocated")
            )
            assert charged == pytest.approx(gained("jobwatt_node_energy_joules_total"), abs=1e-3)
            assert after.value("jobwatt_component_age_seconds", component="other") < 2
            assert after.labels("jobwatt_component_info", "source", component="other") == {
                "wattmeter"
            }

            meter.unplug()
            daemon.until(lambda page: "other" not in components(page))
            stopped = daemon.scrape()
            later = daemon.samples(10)
            other = {"component": "other"}
            assert later.micro("jobwatt_node_energy_joules_total", **other) == stopped.micro(
                "jobwatt_node_energy_joules_total", **other
            )
            assert components(later).keys() == {"cpu", "dram", "gpu"}
            meter.plug()
            back = daemon.until(lambda page: "other" in components(page))
            assert back.micro("jobwatt_residual_energy_joules_total") == 0
