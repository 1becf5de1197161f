"""The library behind a BMC, the daemon with one, and a Redfish server that is not ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import redfishkit
import redfishmock
from jobwatt.sources import redfish
from redfishkit import reason, watts
from redfishmock import PASSWORD, Bmc, fixture

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures


def test_without_the_library(certs, opened, monkeypatch):
    """An optional dependency that is not installed is a failure that names the command."""
    monkeypatch.delitem(sys.modules, "jobwatt.sources.redfish_client", raising=False)
    monkeypatch.setitem(sys.modules, "redfish", None)
    import jobwatt.sources

    monkeypatch.delattr(jobwatt.sources, "redfish_client", raising=False)
    result = redfish.Bmc("https://127.0.0.1:1", credentials=None).look()
    assert reason(result) == "not_installed"
    assert "pip install" in result.failures[0].message


@pytest.mark.slow
def test_the_library_has_one_home():
    """redfish, requests and urllib3 are imported by one file each, so that another library could take their place."""
    from test_architecture import importers

    assert importers("redfish") == {"sources/redfish_client.py"}
    for library in ("requests", "urllib3"):
        assert importers(library) == {"sources/redfish_https.py"}


def test_the_library_is_loaded_when_it_is_used():
    """Who asks no BMC does not import it."""
    code = (
        "import sys, jobwatt.sources.redfish, jobwatt.agent; "
        "assert not {'redfish', 'requests', 'urllib3'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "exporter"}
    )


@pytest.mark.slow
def test_the_daemon_with_a_bmc(certs, secret, tmp_path):
    """`jobwatt serve` shows the BMC's power as the node's meter, and its end deletes the session."""
    argv = [
        sys.executable, "-m", "jobwatt", "serve", "--web.listen-address=127.0.0.1:0", f"--path.state={tmp_path}",
        f"--bmc.ca-file={certs.ca}", f"--bmc.credentials={secret}", "--no-source.nvml", "--no-slurm.rpc",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path("exporter").resolve())}
    log = tmp_path / "log"
    with Bmc(certs.good, fixture("lenovo-xcc")) as bmc, log.open("wb") as out:
        daemon = subprocess.Popen([*argv, f"--bmc.redfish={bmc.url}"], stderr=out, env=env)
        try:
            page, until = "", time.monotonic() + 60
            while "jobwatt_wall_power_watts{" not in page and time.monotonic() < until:
                time.sleep(0.2)
                port = re.search(r"serves on 127\.0\.0\.1:(\d+)", log.read_text())
                if port:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics") as answer:
                        page = answer.read().decode()
            assert 'jobwatt_wall_power_watts{source="bmc",meter="PowerControl"} 812' in page
            assert bmc.sessions
            daemon.terminate()
            assert daemon.wait(60) == 0
            assert not bmc.sessions
        finally:
            daemon.kill()
            daemon.wait()
    assert PASSWORD not in log.read_text() + page


def test_a_server_that_is_not_ours(certs, opened, tmp_path):
    """OpenStack's static Redfish server (sushy-tools) with DMTF's mock-up: 374 W, and no session."""
    from prom import free_port

    port = free_port()
    argv = [
        sys.executable, "-m", "sushy_tools.static.main", "-i", "127.0.0.1", "-p", str(port),
        "-m", str(redfishmock.DATA / "public-rackmount1"), "-c", str(certs.good[0]), "-k", str(certs.good[1]),
    ]  # fmt: skip
    with (tmp_path / "out").open("wb") as out:
        server = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        client = opened(None, url=f"https://127.0.0.1:{port}")
        until = time.monotonic() + 60
        while not (result := client.look()).readings and time.monotonic() < until:
            assert reason(result) in {"unreachable", "timeout"}
            time.sleep(0.1)
        assert watts(result) == 374
    finally:
        server.terminate()
        server.wait()
