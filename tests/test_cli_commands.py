"""The command line's commands: once, doctor, record, replay, calibrate and release-gpus."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import time

import pytest

import clikit
import nvmlshim
from clikit import QUIET, jobwatt
from daemon import BOOT_ID, Daemon, Page, command, environment, paths, prolog, wait, working
from trees import Node

inside, node, where = clikit.inside, clikit.node, clikit.where  # fixtures

JOULE = 10**6


def test_once(node, where, tmp_path):
    """Two samples, then the page on stdout and nothing else; the state directory is left alone."""
    job = node.add_job(7, uid=61001)
    with working(node, [(job, 1.0)]):
        done = jobwatt("once", *where)
    assert done.returncode == 0
    page = Page(done.stdout)
    page.parse()
    page.check()
    assert page.value("jobwatt_samples_total", cause="tick") == 2
    assert page.labels("jobwatt_job_info", "jobid") == {"7"}
    assert not (tmp_path / "state").exists()


def test_once_beside_a_daemon(node, where, tmp_path):
    """`once` works while a daemon keeps the ledger, and takes nothing from it."""
    with Daemon(node, tmp_path / "state") as daemon:
        job = node.add_job(7, uid=61001)
        prolog(tmp_path / "state", job)
        assert jobwatt("once", *where).returncode == 0
        assert daemon.samples(2).find("jobwatt_job_info", jobid="7", user="user61001")


def test_doctor_where_nothing_can_be_measured(tmp_path):
    """Nothing to measure: 1, and both forms say why and what mends it."""
    node = Node(tmp_path, cpus=2, boot_id=BOOT_ID)
    where = [*paths(node, tmp_path / "state"), *QUIET]
    text = jobwatt("doctor", *where)
    assert text.returncode == 1
    assert re.search(r"^measured\n  nothing$", text.stdout, re.MULTILINE)
    assert "intel_rapl_msr" in text.stdout
    told = jobwatt("doctor", "--json", *where)
    found = json.loads(told.stdout)
    assert told.returncode == 1
    assert (found["measures"], found["measured"]) == (False, [])
    assert any("load intel_rapl_msr" in line for line in found["problems"])
    assert any("jobwatt calibrate" in line for line in found["notes"])


def test_doctor_where_all_is_well(node, where, tmp_path):
    """Something can be measured: 0; devices, jobs and who told of them are listed."""
    job = node.add_job(7, uid=61001)
    prolog(tmp_path / "state", job)
    found = json.loads((done := jobwatt("doctor", "--json", *where)).stdout)
    assert done.returncode == 0
    assert found["measures"]
    assert sum("rapl: " in line for line in found["measured"]) == 3
    assert any(line.startswith("7: user61001 (ltci), known by hook") for line in found["jobs"])
    assert "package-0" in jobwatt("doctor", *where).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["node.jsonl", "node.jsonl.gz"])
def test_what_is_recorded_is_replayed(node, where, tmp_path, name):
    """A recording replayed gives the energy that the counters moved while it was made."""
    out = tmp_path / name
    job = node.add_job(7, uid=61001)
    argv = command("record", *where, f"--out={tmp_path / 'node.jsonl'}")
    with subprocess.Popen(argv, env=environment()) as process:
        lines = lambda: (tmp_path / "node.jsonl").read_text().count("\n")  # noqa: E731
        wait(lambda: (tmp_path / "node.jsonl").exists() and lines() > 2)
        for _ in range(5):
            node.advance_rapl("intel-rapl:0", 3 * JOULE + 1)
            node.advance(10**8, [(job, 10**8)])
            time.sleep(0.1)
        seen = lines()
        wait(lambda: lines() > seen + 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    if name.endswith(".gz"):
        out.write_bytes(gzip.compress((tmp_path / "node.jsonl").read_bytes()))
    done = jobwatt("replay", "--once", out, *where)
    assert done.returncode == 0, done.stderr
    page = Page(done.stdout)
    page.parse()
    page.check()
    assert page.micro("jobwatt_rapl_energy_joules_total", path="intel-rapl:0") == 5 * (
        3 * JOULE + 1
    )
    assert page.micro("jobwatt_node_energy_joules_total", component="cpu") == 5 * (3 * JOULE + 1)
    assert page.value("jobwatt_job_cpu_seconds_total", jobid="7") == pytest.approx(0.5, abs=1e-5)


def test_record_to_stdout_for_a_while(where):
    """Without --out the recording goes to stdout; --duration ends it; each line is JSON."""
    done = jobwatt("record", "--duration=300ms", *where)
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0] == {"jobwatt_recording": 1}
    assert len(lines) >= 3


@pytest.mark.parametrize(("data", "says"), [
    (None, "No such file"),
    (b"", "not a jobwatt recording"),
    (b"hello\n", "not a jobwatt recording"),
    (b'{"jobwatt_recording": 1}\n{"boot_id": 3', "line 2 is not a snapshot"),
    (b'{"jobwatt_recording": 1}\n[1]\n', "line 2 is not a snapshot"),
    (b"\xff\xfe\x00", ""),
    (b"\x1f\x8b cut", ""),
    (gzip.compress(b'{"jobwatt_recording": 1}\n' * 50, mtime=0)[:-20], ""),
])  # fmt: skip
def test_recording_that_is_none(inside, where, tmp_path, data, says):
    """A recording that is missing, cut or something else: 1 and one line that names file and line."""
    path = tmp_path / ("bad.jsonl.gz" if data and data[:2] == b"\x1f\x8b" else "bad.jsonl")
    if data is not None:
        path.write_bytes(data)
    done = inside("replay", "--once", path, *where)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert says in done.stderr
    assert path.name in done.stderr


@pytest.mark.slow
def test_replay_serves(node, where, tmp_path):
    """A replay is a daemon with a recording for hardware: it serves pages until told to stop."""
    job = node.add_job(7, uid=61001)
    with working(node, [(job, 1.0)], lambda: node.advance_rapl("intel-rapl:0", JOULE)):
        recorded = jobwatt("record", "--duration=1s", *where)
    path = tmp_path / "node.jsonl"
    path.write_text(recorded.stdout)
    log = tmp_path / "replay.log"
    argv = command(
        "replay", str(path), "--loop", "--speed=2", "--web.listen-address=127.0.0.1:0", *where
    )
    env = environment()
    with log.open("wb") as err, subprocess.Popen(argv, env=env, stderr=err) as process:
        try:
            found = wait(lambda: re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text()))
            daemon = Daemon(node, tmp_path / "state")
            daemon.port = int(found[1])
            wait(lambda: daemon.get("/readyz"))
            page = daemon.until(
                lambda page: page.find("jobwatt_job_energy_joules_total", jobid="7")
            )
            first = page.micro("jobwatt_node_energy_joules_total")
            daemon.until(
                lambda page: page.micro("jobwatt_node_energy_joules_total") > first + 20 * JOULE
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_calibrate(node, where, tmp_path):
    """On a drained node idle.json holds each device's mean power."""
    last_s = time.monotonic()

    def idle():
        nonlocal last_s
        now_s = time.monotonic()
        node.advance_rapl("intel-rapl:0", int((now_s - last_s) * 30 * JOULE))
        last_s = now_s

    with working(node, [], idle):
        done = jobwatt("calibrate", "--duration=1s", *where)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^intel-rapl:0  \d+\.\d W idle$", done.stdout, re.MULTILINE)
    told = json.loads((tmp_path / "state/idle.json").read_text())
    assert "intel-rapl:0" in json.dumps(told)
    watts = float(re.search(r"intel-rapl:0  ([\d.]+)", done.stdout)[1])
    assert 15 < watts < 45  # 30 W, in steps of 50 ms or more


def test_calibrate_refuses_beside_jobs(node, where, tmp_path):
    """With a job on the node: 1, one line that names it and says how to drain; nothing is written."""
    node.add_job(7, uid=61001)
    done = jobwatt("calibrate", "--duration=1s", *where)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "(7)" in done.stderr
    assert "state=drain" in done.stderr
    assert not (tmp_path / "state/idle.json").exists()


def test_calibrate_without_anything_to_measure(tmp_path):
    """No device: 1, and doctor is named."""
    node = Node(tmp_path, cpus=2, boot_id=BOOT_ID)
    done = jobwatt("calibrate", "--duration=200ms", *paths(node, tmp_path / "state"), *QUIET)
    assert done.returncode == 1
    assert "jobwatt doctor" in done.stderr


@pytest.mark.slow
def test_release_gpus(node, tmp_path):
    """release-gpus lets go of the driver, the rest is measured on; --resume takes it back, counters go on."""
    state, counts = tmp_path / "state", tmp_path / "counts"
    script = nvmlshim.Script.of(tmp_path / "nvml.script", 2)
    env = {"JOBWATT_NVML_COUNTS": str(counts)}
    flags = [*paths(node, state)]

    def shutdowns():
        return (
            int((re.search(r"nvmlShutdown (\d+)", counts.read_text()) or [0, 0])[1])
            if counts.exists()
            else 0
        )

    with Daemon(node, state, script=script, env=env) as daemon:
        daemon.samples(2)
        assert shutdowns() == 0
        assert jobwatt("release-gpus", *flags).returncode == 0
        page = daemon.until(lambda page: not page.find("jobwatt_gpu_power_watts"))
        wait(lambda: shutdowns() == 1)
        node.advance_rapl("intel-rapl:0", 9 * JOULE)
        script.gpus[0].energy_mj += 5000
        script.write()
        page = daemon.samples(3)
        assert page.micro("jobwatt_rapl_energy_joules_total", path="intel-rapl:0") == 9 * JOULE
        assert not page.find("jobwatt_gpu_power_watts")
        assert len(daemon.said("released for an operator")) == 1
        assert jobwatt("release-gpus", "--resume", *flags).returncode == 0
        page = daemon.until(lambda page: len(page.find("jobwatt_gpu_power_watts")) == 2)
        daemon.samples(2)
        assert shutdowns() == 1


def test_release_gpus_without_a_daemon(node, tmp_path):
    """No daemon, or a pid file left by kill -9 whose number is somebody else's now: 1, and nobody is signalled."""
    flags = paths(node, tmp_path / "state")
    done = jobwatt("release-gpus", *flags)
    assert done.returncode == 1
    assert "no daemon is running" in done.stderr
    with Daemon(node, tmp_path / "state") as daemon:
        daemon.kill()
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "state/jobwatt.pid").write_text(f"{other.pid}\n")
        assert jobwatt("release-gpus", *flags).returncode == 1
        time.sleep(0.1)
        assert other.poll() is None
        other.kill()
