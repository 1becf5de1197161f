"""
The real CodeCarbon and jobwatt on the same sensors, and `jobwatt compare` on what they say.

RAPL counters move in real time (raplsim knows the truth), the GPUs are those of our libnvidia-ml.
CodeCarbon reads /sys/class/powercap by a fixed path: it runs in a mount namespace of its own in
which the simulated node's sysfs lies over /sys.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

import nvmlshim
from daemon import BOOT_ID, Daemon, command, environment, epilog, prolog, wait, working
from jobwatt.alerts.promapi import Prometheus as Asked
from jobwatt.central.compare import codecarbon
from jobwatt.central.compare.job import History
from prom import Prometheus
from raplsim import RaplSim, constant, powercap_zones
from trees import Node

VENV = Path(__file__).parents[1] / ".cache/codecarbon-venv"
PACKAGES, DRAM = (120.0, 80.0), (20.0, 10.0)
GPUS = (300.0, 200.0, 60.0, 60.0)  # the job holds the first, another job the second
NEAR = 0.02

pytestmark = [pytest.mark.slow, pytest.mark.prometheus]

TRACKER = """\
import sys, time
from codecarbon import OfflineEmissionsTracker
folder, seconds, more = sys.argv[1], float(sys.argv[2]), eval(sys.argv[3])
tracker = OfflineEmissionsTracker(
    country_iso_code="FRA", measure_power_secs=1, output_dir=folder, log_level="info", **more
)
tracker.start()
time.sleep(seconds)
assert tracker.stop() is not None
"""


def powercap(node):
    """The simulated zones and what moves them: the mmio twin with its package, psys as the whole."""
    watts = {f"intel-rapl:{n}": constant(w) for n, w in enumerate(PACKAGES)}
    watts |= {f"intel-rapl:{n}:1": constant(w) for n, w in enumerate(DRAM)}
    watts |= {f"intel-rapl:{n}:0": constant(w / 2) for n, w in enumerate(PACKAGES)}
    watts |= {"intel-rapl-mmio:0": constant(PACKAGES[0]), "intel-rapl:2": constant(400.0)}
    # what the kernel has and the other tests do not need: CodeCarbon looks for it
    link = node.sys / "devices/virtual/powercap/intel-rapl/subsystem"
    link.symlink_to(os.path.relpath(node.powercap, link.parent))
    return RaplSim(powercap_zones(node.sys), watts)


class Bench:
    """A node with two jobs, its daemon, and a Prometheus that scrapes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = Node(folder / "node", cpus=8, sockets=2, boot_id=BOOT_ID)
        self.node.add_intel(sockets=2)
        self.script = nvmlshim.Script.of(folder / "nvml.script", len(GPUS))
        for gpu, watts in zip(self.script.gpus.values(), GPUS, strict=True):
            gpu.set_power(int(watts * 1000))
        self.script.write()
        self.state = folder / "state"
        self.sim = powercap(self.node)
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        self.sim.start()
        self._stack.callback(self.sim.stop)
        daemon = Daemon(self.node, self.state, script=self.script, interval="200ms")
        self._stack.enter_context(daemon)
        server = Prometheus(self.folder / "prometheus", [f"127.0.0.1:{daemon.port}"])
        self._stack.enter_context(server)
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"
        self.instance = f"127.0.0.1:{daemon.port}"
        jobs = [self._job(daemon, 41, "0", 2.0), self._job(daemon, 42, "1", 1.0)]
        self._work = self._stack.enter_context(ExitStack())
        self._work.enter_context(working(self.node, jobs))
        self.job = jobs[0][0]
        wait(
            lambda: server.query('jobwatt_job_energy_joules_total{jobid="42"}'), why="for a scrape"
        )
        time.sleep(1)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)

    def _job(self, daemon, jobid, gpus, cpus):
        low = (jobid - 41) * 4
        job = self.node.add_job(
            jobid, uid=60000 + jobid, cpus=range(low, low + 4), mem_limit=8 << 30
        )
        prolog(self.state, job, gpus, SLURM_JOB_CPUS_PER_NODE="4")
        daemon.until(lambda page: page.find("jobwatt_job_cpus", jobid=str(jobid)))
        return job, cpus

    def codecarbon(self, name, seconds, cuda="", **more):
        """Run it; returns the folder of its emissions.csv."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        # it asks NVML only where there is an nvidia-smi
        (tools / "nvidia-smi").write_text("#!/bin/sh\n")
        (tools / "nvidia-smi").chmod(0o755)
        env = nvmlshim.env(self.script)
        env = {name: value for name, value in env.items() if not name.startswith(("SLURM", "CUDA"))}
        env |= {"PATH": f"{tools}:{env['PATH']}", "HOME": str(self.folder)}
        env |= {"CUDA_VISIBLE_DEVICES": cuda} if cuda else {}
        inside = f'mount --bind {self.node.sys} /sys && exec "$@"'
        argv = ["unshare", "--mount", "sh", "-c", inside, "-", VENV / "bin/python", "-c", TRACKER]
        argv += [folder, str(seconds), repr(more)]
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "via RAPL interface" in done.stderr, done.stderr
        return folder

    def end(self):
        """The job ends, and is scraped once more."""
        self._work.close()
        self.node.end_job(self.job)
        epilog(self.state, self.job, "0")
        ended = 'jobwatt_job_end_time_seconds{jobid="41"}'
        wait(lambda: self.server.query(ended), why="for a scrape after the end")
        time.sleep(1)

    def compare(self, *flags):
        argv = command("compare", "--job=41", f"--url={self.url}", *flags)
        done = subprocess.run(
            argv, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All runs of one bench: alone, with the job's GPU named, and twice with PUE into one file."""
    if not (VENV / ".installed").exists():
        pytest.skip("needs CodeCarbon (tests/codecarbon.sh)")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to lay the simulated sysfs over /sys")
    with Bench(tmp_path_factory.mktemp("codecarbon")) as bench:
        whole = bench.codecarbon("whole", 15)
        held = bench.codecarbon("held", 12, cuda="0")
        for _ in range(2):
            bench.codecarbon("twice", 7, pue=1.5)
        time.sleep(1)
        bench.end()
        yield SimpleNamespace(bench=bench, whole=whole, held=held, twice=bench.folder / "twice")


def runs(folder):
    found, bad = codecarbon.read(folder / "emissions.csv")
    assert bad == 0, (folder / "emissions.csv").read_text()
    return found


def test_codecarbon_measures_what_the_sensors_say(ran):
    """In machine mode its CPU and GPU energies are the simulator's: every package once, every GPU."""
    (run,) = runs(ran.whole)
    seconds = run.span[1] - run.span[0]
    assert run.parts_j["cpu"] == pytest.approx(sum(PACKAGES) * seconds, rel=NEAR)
    assert run.parts_j["gpu"] == pytest.approx(sum(GPUS) * seconds, rel=NEAR)
    assert run.version == (VENV / ".installed").read_text().strip()


def test_jobwatt_has_the_same_for_the_node(ran):
    """Over the same span jobwatt's node energy of CPU and GPU is CodeCarbon's."""
    (run,) = runs(ran.whole)
    history = History(Asked(ran.bench.url), time.time(), 86_400.0)
    node = history.node_j((ran.bench.instance,), run.span)
    assert node["cpu"] == pytest.approx(run.parts_j["cpu"], rel=NEAR)
    assert node["gpu"] == pytest.approx(run.parts_j["gpu"], rel=NEAR)
    seconds = run.span[1] - run.span[0]
    assert node["dram"] == pytest.approx(sum(DRAM) * seconds, rel=NEAR)


@pytest.mark.parametrize("name", ["whole", "held", "twice"])
def test_the_difference_is_explained(ran, name):
    """The reasons' sizes sum up to the difference, and less than 2 % of it all is left over."""
    told = json.loads(
        ran.bench.compare("--json", f"--codecarbon={getattr(ran, name)}/emissions.csv")
    )
    (tool,) = told["tools"]
    sizes = {reason["text"]: reason["joules"] for reason in tool["reasons"]}
    assert None not in sizes.values()
    assert sum(sizes.values()) == pytest.approx(tool["total_j"] - told["job"]["total_j"])
    assert abs(sizes.pop("not explained")) < NEAR * tool["total_j"], sizes
    assert any("whole node's CPUs" in text for text in sizes)
    assert any("does not hold" in text for text in sizes) == (name != "held")


def test_ours_is_the_jobs_own(ran):
    """The job is charged its GPU whole, and its share of CPUs and memory: never the node's."""
    job = json.loads(ran.bench.compare("--json"))["job"]
    seconds = job["span"][1] - job["span"][0]
    assert job["energy_j"]["gpu"] == pytest.approx(GPUS[0] * seconds, rel=0.1)
    assert 0 < job["energy_j"]["cpu"] < sum(PACKAGES) * seconds
    assert (len(job["gpus"]), job["node_gpus"], job["running"]) == (1, 4, False)


def test_rows_appended_by_codecarbon_are_read(ran):
    """A second run in the same file is read like the first; PUE is taken out of both."""
    first, second = runs(ran.twice)
    for run in (first, second):
        assert run.pue == 1.5
        assert run.mode == "node"
        assert run.parts_j["cpu"] == pytest.approx(
            sum(PACKAGES) * (run.span[1] - run.span[0]), rel=0.05
        )
    assert second.span[0] > first.span[0]


def test_the_text_fits_a_terminal(ran):
    """What a person reads is at most 96 columns wide, and says the total and each size."""
    text = ran.bench.compare(f"--codecarbon={ran.whole}/emissions.csv")
    sys.stdout.write(text)
    assert max(map(len, text.splitlines())) <= 96
    assert "not explained" in text
