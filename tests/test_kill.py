"""kill -9 at any moment: no counter steps back, no joule is counted twice, and what is missing is booked as a gap."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import nvmlshim
from daemon import BOOT_ID, Daemon, epilog, prolog, scraping, wait, working
from jobwatt.metrics import CATALOGUE, Type
from prom import Prometheus
from trees import Node

KILLS = 50
COUNTERS = [metric for metric in CATALOGUE.values() if metric.type is Type.COUNTER]
INTERVAL_S = 0.2
WATTS = {
    "intel-rapl:0": 120,
    "intel-rapl:0:0": 60,
    "intel-rapl:0:1": 12,
    "intel-rapl:1": 90,
    "intel-rapl:1:1": 7,
}
GPU_MW = (400_000, 250_000)


@contextmanager
def rapl(node, folder, watts):
    """RAPL moved by a process of its own; yields a function that ends it and tells the truth in uJ."""
    truth = folder / "truth.json"
    argv = [sys.executable, "-m", "raplsim", str(node.sys), "--truth", str(truth), "--watts"]
    argv += [f"{zone}={value}" for zone, value in watts.items()]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(argv, env=env)

    def end():
        process.terminate()
        process.wait()
        return {zone: one["total_uj"] for zone, one in json.loads(truth.read_text()).items()}

    try:
        yield end
    finally:
        process.kill()
        process.wait()


class Busy:
    """A node under load: four jobs that stay, and short ones that come and go with their hooks."""

    def __init__(self, root):
        self.node = node = Node(root, cpus=8, sockets=2, boot_id=BOOT_ID)
        self.state = root / "state"
        node.add_intel(psys=False, mmio=False)
        self.script = nvmlshim.Script.of(root / "nvml.script", 2)
        self.power(0, 0)
        self.jobs = [
            node.add_job(41, uid=61001),
            node.add_job(42, uid=61002),
            node.add_job(43, uid=61003),
            node.add_job(44, uid=61004, steps=("extern", "batch", "0")),
        ]
        for job, gpus in zip(self.jobs[:2], ("0", "1"), strict=True):
            prolog(self.state, job, gpus)
        self.start_mj = [gpu.energy_mj for gpu in self.script.gpus.values()]
        self._short, self._next, self._steps = None, 1000, 0

    def power(self, *milliwatts):
        for gpu, mw in zip(self.script.gpus.values(), milliwatts, strict=True):
            gpu.set_power(mw)
        self.script.write()

    def step(self):
        """A job of half a second, and a pause."""
        self._steps += 1
        if self._steps % 15 == 1:
            self._next += 1
            self._short = self.node.add_job(self._next, uid=61009)
            prolog(self.state, self._short)
        elif self._short is not None and self._steps % 15 == 11:
            self.node.end_job(self._short)
            epilog(self.state, self._short)
            self._short = None
        elif self._short is not None:
            self.node.burn(self._short, 30_000_000)


def beat(daemon, rng, kills):
    """Kill it and start it again at random moments, some before it has a page; two of three times at once."""
    for kill in range(kills):
        time.sleep(rng.choice((rng.uniform(0.02, 0.5), rng.uniform(0.5, 1.6))))
        daemon.kill()
        if kill % 3 == 0:
            time.sleep(3 * INTERVAL_S)  # a gap, however fast the machine is
        daemon.start(ready=False)
    wait(daemon._is_ready)


@pytest.mark.slow
@pytest.mark.prometheus
def test_fifty_kills_under_load(tmp_path):
    """
    50 times kill -9 while Prometheus scrapes: resets() of every counter is 0; RAPL, GPU energy and
    CPU time equal the truth less at most an interval per kill; every job is one series throughout.
    """
    busy = Busy(tmp_path)
    flags = ["--ledger.linger=1h"]
    with Daemon(busy.node, busy.state, *flags, script=busy.script) as daemon:
        daemon.samples(2)
        with Prometheus(tmp_path / "prometheus", [f"127.0.0.1:{daemon.port}"]) as prometheus:
            busy.power(*GPU_MW)
            load = [(job, 0.2 * (at + 1)) for at, job in enumerate(busy.jobs)]
            with (
                rapl(busy.node, tmp_path, WATTS) as end,
                scraping(daemon),
                working(busy.node, load, busy.step),
            ):
                beat(daemon, random.Random(20260), KILLS)
                truth = end()
            busy.power(0, 0)
            last = daemon.samples(3)
            wait(lambda: scraped(prometheus, last, busy), 30, "for a scrape of the last page")
            check_prometheus(prometheus, busy)
        check_truth(last, truth, busy)
        print(f"{daemon.pages} pages, steps {last.find('jobwatt_steps_total')}")


def scraped(prometheus, last, busy):
    """Whether Prometheus has each job's energy as the last page shows it: nothing moves any more."""
    name = "jobwatt_job_energy_joules_total"
    return all(
        prometheus.value(f'{name}{{jobid="{job.jobid}",component="cpu"}}')
        == pytest.approx(last.value(name, jobid=str(job.jobid), component="cpu"))
        for job in busy.jobs
    )


def check_prometheus(prometheus, busy):
    names = [
        name for name in prometheus.names("jobwatt_.+_total") if name in {m.name for m in COUNTERS}
    ]
    resets = {
        (name, labels): n
        for name in names
        for labels, n in prometheus.query(f"resets({name}[1h])").items()
    }
    assert not {series: count for series, count in resets.items() if count}
    assert len(names) >= 18
    assert len(resets) > 50
    assert prometheus.value("count_over_time(up[1h])") > 100
    for job in busy.jobs:
        match = f'jobwatt_job_energy_joules_total{{jobid="{job.jobid}",component="cpu"}}'
        assert len(prometheus.series(match)) == 1, (
            f"the labels of job {job.jobid} changed: {prometheus.series(match)}"
        )


def check_truth(last, truth, busy):
    """What is missing is less than an interval per kill, and nothing is counted twice."""
    missing = {}
    for zone, uj in truth.items():
        counted = last.micro("jobwatt_rapl_energy_joules_total", path=zone)
        missing[zone] = (uj - counted, WATTS[zone] * 10**6)
    for gpu, began_mj, mw in zip(busy.script.gpus.values(), busy.start_mj, GPU_MW, strict=True):
        counted = last.micro("jobwatt_gpu_energy_joules_total", uuid=gpu.uuid)
        missing[gpu.uuid] = ((gpu.energy_mj - began_mj) * 1000 - counted, mw * 1000)
    print("missing uJ:", {name: uj for name, (uj, _) in missing.items()})
    for name, (uj, uw) in missing.items():
        assert 0 <= uj <= KILLS * INTERVAL_S * uw, f"{name}: {uj} uJ missing"
    names = last.labels("jobwatt_steps_total", "step")
    steps = {step: last.value("jobwatt_steps_total", step=step) for step in names}
    assert steps["gap"] >= KILLS / 5  # those that were waited for, unless two of them are one
    assert not any(uj for uj, _ in missing.values()) or steps.get("ambiguous", 0)
    for job in busy.jobs:
        counted = last.value("jobwatt_job_cpu_seconds_total", jobid=str(job.jobid))
        assert counted == pytest.approx(job.cpu_ns / 1e9, abs=1e-5 + 2e-6)


@pytest.mark.slow
def test_kill_before_the_first_sample_and_after(tmp_path):
    """A life too short for a sample changes nothing: totals are the truth to the microjoule."""
    node = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    node.add_intel(sockets=1, psys=False, mmio=False)
    job = node.add_job(7, uid=61001)
    with Daemon(node, tmp_path / "state") as daemon:
        for life in range(3):
            daemon.samples(1)
            daemon.kill()
            node.advance_rapl("intel-rapl:0", 30_000_001)
            node.burn(job, 10**9)
            daemon.start(ready=life % 2 == 0)
            if life % 2:
                time.sleep(0.05 * life)
                daemon.kill()
                daemon.start()
        page = daemon.samples(2)
    assert page.micro("jobwatt_rapl_energy_joules_total", path="intel-rapl:0") == 3 * 30_000_001
    assert page.value("jobwatt_job_cpu_seconds_total", jobid="7") == 3


@pytest.mark.slow
def test_a_name_once_known_stays(tmp_path):
    """Who a job is survives a kill: its series keep their labels from the first page of the next life on."""
    node = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    node.add_intel(sockets=1, psys=False, mmio=False)
    node.add_job(7, uid=0x7F000001)
    with Daemon(node, tmp_path / "state", interval="100ms") as daemon:
        daemon.until(lambda page: page.labels("jobwatt_job_info", "user") == {str(0x7F000001)})
        node.advance_rapl("intel-rapl:0", 10**6)
        node.advance_rapl("intel-rapl:0:1", 10**6)
        daemon.until(lambda page: len(page.find("jobwatt_job_energy_joules_total")) == 2)
        known = daemon.samples(1)
        for _ in range(3):
            daemon.kill()
            daemon.start()
            page = daemon.scrape()
            for name in ("jobwatt_job_energy_joules_total", "jobwatt_job_info"):
                assert page.find(name).keys() == known.find(name).keys()


@pytest.mark.slow
def test_reboot_begins_anew(tmp_path):
    """After an unclean reboot every counter begins at 0, after a clean stop they go on; no job is left."""
    node = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    node.add_intel(sockets=1, psys=False, mmio=False)
    job = node.add_job(7, uid=61001)
    daemon = Daemon(node, tmp_path / "state")
    with daemon:
        node.advance_rapl("intel-rapl:0", 5_000_000)
        daemon.samples(1)
        assert daemon.stop() == 0
        node.end_job(job)
        node.set_boot_id("another-boot")
        daemon.start()
        page = daemon.samples(1)
        assert page.micro("jobwatt_rapl_energy_joules_total", path="intel-rapl:0") == 5_000_000
        assert not page.find("jobwatt_job_info")
        daemon.kill()
        node.set_boot_id("a-third-boot")
        daemon._highest.clear()
        daemon.start()
        assert daemon.samples(1).micro("jobwatt_rapl_energy_joules_total") == 0
