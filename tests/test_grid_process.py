"""`jobwatt grid`: its page, its process, and one series for a real Prometheus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import gridkit
import gridmock
from gridkit import INTENSITY, asked, config, shown
from gridmock import EM_TOKEN
from jobwatt.central.grid.run import Grid
from jobwatt.web import WebServer
from prom import Prometheus

server, secrets = gridkit.server, gridkit.secrets  # fixtures


@pytest.mark.prometheus
def test_promtool_accepts_the_page(server, secrets):
    """No complaint about names, types or help."""
    page = asked(Grid(config(server, secrets, "rte", "electricitymaps"), None))
    page = b"".join(line for line in page.splitlines(keepends=True) if b" process_" not in line and not line.startswith(b"process_"))  # fmt: skip
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.slow
@pytest.mark.prometheus
def test_prometheus_finds_one_intensity(server, secrets, tmp_path):
    """What docs/carbon.md and alerts/site.toml ask for is one series: the figure in use, and no other source's."""
    grid = Grid(config(server, secrets, "rte", "watttime", "electricitymaps"), None)
    asked(grid)
    web = WebServer("127.0.0.1:0", grid.board)
    web.start()
    expression = f'{INTENSITY}{{zone="FR"}} and on (zone, source, scope, kind) jobwatt_grid_chosen == 1'  # fmt: skip
    try:
        with Prometheus(tmp_path / "server", [f"127.0.0.1:{web.address[1]}"]) as prometheus:
            until = time.monotonic() + 60
            while len(prometheus.query(INTENSITY)) < 4:
                assert time.monotonic() < until
                time.sleep(0.1)
            found = prometheus.query(expression)
            assert [(dict(labels)["source"], value) for labels, value in found.items()] == [
                ("electricitymaps", 58)
            ]
            assert len(prometheus.query(INTENSITY)) == 4
    finally:
        web.stop()


def test_both_formats_and_single_families(server, secrets):
    """OpenMetrics ends with EOF; name[] gives only that family; nothing is there twice."""
    grid = Grid(config(server, secrets, "rte", "electricitymaps"), None)
    lines = asked(grid).decode().splitlines()
    assert len(lines) == len(set(lines))
    assert grid.board.metrics(openmetrics=True, names=frozenset()).endswith(b"# EOF\n")
    one = grid.board.metrics(openmetrics=False, names=frozenset({INTENSITY})).decode()
    assert one.count("# TYPE") == 1


def test_the_landing_page_is_escaped(server, secrets):
    """What a source says is text."""
    grid = Grid(config(server, secrets, "rte"), None)
    grid.board.failed("rte", "refused", "<script>alert(1)</script>")
    assert "<script>" not in grid.board.page()


class Process:
    """`jobwatt grid` as its operator has it."""

    def __init__(self, *flags):
        argv = [sys.executable, "-m", "jobwatt", "grid", "--web.listen-address=127.0.0.1:0", *flags]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "exporter")}
        self.process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if "serves on" in line:
                self.address = line.rpartition(" ")[2].strip()
                return
        raise AssertionError(self.said)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return answer.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.said += self.process.communicate(timeout=60)[1]
        return self.process.returncode


@pytest.mark.slow
def test_the_process(server, secrets, tmp_path):
    """Serves what it has while a source hangs, answers /healthz and /readyz, ends with 0 at SIGTERM."""
    grid = tmp_path / "grid.toml"
    token = f'token_file = "{secrets}/em"'
    grid.write_text(
        f'zone = "FR"\n[[source]]\nkind = "electricitymaps"\nurl = "{server.url}"\n{token}\ninterval = "1s"\n'
    )
    server.fault = gridmock.hang
    process = Process(f"--grid.config={grid}", f"--grid.cache={tmp_path}/cache.json")
    try:
        found = shown(process.get("/metrics"))
        assert found["jobwatt_grid_chosen", "table"] == 1
        assert process.get("/healthz")
        assert process.get("/readyz")
        assert b"electricitymaps" in process.get("/")
    finally:
        assert process.stop() == 0
    assert EM_TOKEN not in process.said
    assert "Traceback" not in process.said


@pytest.mark.slow
def test_the_process_polls(server, secrets, tmp_path):
    """A new figure is on the page within a few intervals, and in the cache."""
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f'zone = "FR"\n[[source]]\nkind = "rte"\nurl = "{server.url}"\ninterval = "1s"\n'
    )
    process = Process(f"--grid.config={grid}", f"--grid.cache={tmp_path}/cache.json")
    try:
        for value in (22, 23):
            server.rte = value
            until = time.monotonic() + 60
            while shown(process.get("/metrics")).get((INTENSITY, "rte")) != value:
                assert time.monotonic() < until
                time.sleep(0.1)
    finally:
        assert process.stop() == 0
    assert json.loads((tmp_path / "cache.json").read_text())["figures"][0]["grams_per_kwh"] == 23


def test_once_and_refusal(tmp_path):
    """--once prints the page and ends with 0; a wrong file is one line and 2."""
    grid = tmp_path / "grid.toml"
    grid.write_text('zone = "FR"\n')
    argv = [sys.executable, "-m", "jobwatt", "grid", f"--grid.config={grid}", "--grid.cache=", "--once"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "exporter")}
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout)[INTENSITY, "table"] == 44.179085
    grid.write_text('zone = "FR"\nscop = "direct"\n')
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "did you mean scope" in done.stderr
