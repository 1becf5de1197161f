"""The daemon as its operator meets it: start, stop, what it answers, what it refuses, when it samples."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
from pathlib import Path

import pytest

from daemon import BOOT_ID, Daemon, command, environment, epilog, paths, prolog, wait
from trees import Node

JOULE = 10**6


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    made.add_intel(sockets=1, psys=False, mmio=False)
    return made


def refused(node, state, *flags):
    """Start it with ``flags`` where it must not come up; returns exit status and stderr."""
    argv = command("serve", *paths(node, state), "--no-source.nvml", "--no-slurm.rpc", *flags)
    env = environment()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_starts_answers_and_stops(node, tmp_path):
    """It says where it serves and as whom, answers everywhere, and SIGTERM ends it with 0 and nothing more said."""
    with Daemon(node, tmp_path / "state") as daemon:
        assert daemon.said(rf"serves on 127\.0\.0\.1:{daemon.port}, pid {daemon.pid}$")
        assert (tmp_path / "state/jobwatt.pid").read_text() == f"{daemon.pid}\n"
        assert daemon.get("/healthz")
        assert daemon.get("/readyz")
        assert "jobwatt" in daemon.get("/")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            daemon.get("/nothing")
        daemon.scrape().parse()
        daemon.scrape(om=True).parse(om=True)
        said = daemon.text()
        assert daemon.stop() == 0
        assert daemon.text() == said
    assert not list((tmp_path / "state").glob("ledger.db-*"))
    assert not (tmp_path / "state/jobwatt.pid").exists()


def test_only_one_daemon(node, tmp_path):
    """A second daemon on the same state is refused with one line and 1; the first does not notice."""
    with Daemon(node, tmp_path / "state") as daemon:
        code, said = refused(node, tmp_path / "state", "--web.listen-address=127.0.0.1:0")
        assert (code, len(said.splitlines())) == (1, 1)
        assert "another jobwatt keeps this ledger" in said
        assert (tmp_path / "state/jobwatt.pid").read_text() == f"{daemon.pid}\n"
        daemon.samples(1)


def test_port_that_is_taken(node, tmp_path):
    """A taken port is one line that says so, and 1; what a running daemon left of itself stays."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/jobwatt.pid").write_text("4242\n")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        code, said = refused(
            node, tmp_path / "state", f"--web.listen-address=127.0.0.1:{sock.getsockname()[1]}"
        )
    assert (code, len(said.splitlines())) == (1, 1), said
    assert "is taken by another program" in said
    assert (tmp_path / "state/jobwatt.pid").read_text() == "4242\n"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", ":70000", "[::g]:1"])
def test_address_that_is_none(node, tmp_path, address):
    """An address that is none is a usage error that names the flag."""
    code, said = refused(node, tmp_path / "state", f"--web.listen-address={address}")
    assert (code, len(said.splitlines())) == (2, 1), said
    assert "--web.listen-address" in said


@pytest.mark.parametrize(
    "text", [None, "tls_server_config: {cert_file: nowhere}", "unknown_key: 1", "a: ]"]
)
def test_web_config_that_cannot_be_used(node, tmp_path, text):
    """A web config file that is missing or wrong: it does not start unprotected, and one line names the file."""
    path = tmp_path / "web.yml"
    if text is not None:
        path.write_text(text)
    code, said = refused(
        node, tmp_path / "state", "--web.listen-address=127.0.0.1:0", f"--web.config.file={path}"
    )
    assert (code, len(said.splitlines())) in {(1, 1), (2, 1)}, said
    assert str(path) in said or "nowhere" in said


def test_state_directory_that_cannot_be_made(node):
    """Without a place for its state it measures on, says so in one line and on the page."""
    with Daemon(node, Path("/dev/null/state")) as daemon:
        daemon.samples(1)
        node.advance_rapl("intel-rapl:0", 7 * JOULE)
        page = daemon.samples(2)
        assert page.value("jobwatt_ledger_up") == 0
        assert page.micro("jobwatt_rapl_energy_joules_total", path="intel-rapl:0") == 7 * JOULE
        assert len(daemon.said("--path.state")) == 1
        assert "Traceback" not in daemon.text()
        assert len(daemon.text().splitlines()) <= 4, daemon.text()


def test_hooks_make_it_sample_at_once(node, tmp_path):
    """Between two samples a minute apart, prolog and epilog alone give a job its first and its last joule."""
    state = tmp_path / "state"
    (state / "hooks").mkdir(parents=True, mode=0o750)
    with Daemon(node, state, interval="60s") as daemon:
        time.sleep(0.3)
        node.advance_rapl("intel-rapl:0", 5 * JOULE)
        job = node.add_job(7, uid=61001, cpus=range(4))
        prolog(state, job, SLURM_JOB_CPUS_PER_NODE="4")
        daemon.until(lambda page: page.find("jobwatt_job_info", jobid="7"), 30)
        time.sleep(0.2)
        node.burn(job, 10**9)
        node.advance_rapl("intel-rapl:0", 40 * JOULE)
        node.end_job(job)
        epilog(state, job)
        page = daemon.until(lambda page: page.find("jobwatt_job_end_time_seconds", jobid="7"), 30)
    assert page.value("jobwatt_samples_total", cause="tick") == 1
    job_uj = page.micro("jobwatt_job_energy_joules_total", jobid="7", component="cpu")
    assert 38 * JOULE <= job_uj <= 41 * JOULE
    assert page.value("jobwatt_job_cpu_seconds_total", jobid="7") == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_a_calibration_is_taken(node, tmp_path):
    """idle.json of the state directory is used, and said to be calibrated; a broken one is said once and left alone."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "idle.json").write_text("{ broken")
    daemon = Daemon(node, state)
    with daemon:
        page = daemon.samples(3)
        assert not page.find("jobwatt_idle_power_watts")
        assert len(daemon.said("idle.json")) == 1
    argv = command("calibrate", *paths(node, state), "--no-source.nvml", "--no-slurm.rpc", "--duration=300ms",
                   "--sample.interval=100ms")  # fmt: skip
    env = environment()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((state / "idle.json").read_text())
    with daemon:
        origins = daemon.samples(1).labels("jobwatt_idle_power_watts", "origin")
        assert origins == {"calibrated"}


@pytest.mark.slow
def test_slurm_that_starts_later(tmp_path):
    """Neither RAPL, cgroups nor state at the start: it is up; what comes later is found without a restart."""
    node = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    with Daemon(node, tmp_path / "state", "--no-source.estimate") as daemon:
        page = daemon.samples(1)
        assert not page.find("jobwatt_node_energy_joules_total")
        node.add_intel(sockets=1, psys=False, mmio=False)
        node.add_job(7, uid=61001)
        daemon.until(lambda page: page.find("jobwatt_rapl_energy_joules_total"))
        daemon.until(lambda page: page.find("jobwatt_job_energy_joules_total", jobid="7"))


@pytest.mark.slow
def test_many_scrapers_see_one_page(node, tmp_path):
    """Scrapes between two samples are the same page, byte for byte, but for nothing."""
    with Daemon(node, tmp_path / "state", interval="60s") as daemon:
        wait(lambda: daemon.get("/metrics") == daemon.get("/metrics"))
        pages = {daemon.get("/metrics") for _ in range(20)}
        assert len(pages) == 1
