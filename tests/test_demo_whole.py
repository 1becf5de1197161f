"""The demo as a process: it comes up, ends at once when asked, and leaves nothing but its cache."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

import demostub
from daemon import command, environment, wait
from demokit import Client, mail, processes
from jobwatt.demo import tools
from prom import free_port


def port_flags():
    singles = [
        f"--{name}={free_port()}" for name in ("port", "prometheus-port", "alertmanager-port")
    ]
    return [*singles, f"--first-node-port={free_port(12)}"]


class Demo:
    """A demo in a process of its own, on free ports, with its cache below ``folder``."""

    def __init__(self, folder, argv, *flags, **env):
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.file = folder / "ready.json"
        self.file.unlink(missing_ok=True)
        self.err, self.out = folder / "err", folder / "out"
        flags = [*flags, *port_flags(), f"--cache={folder}/cache", f"--ready-file={self.file}"]
        env = {**environment(), "TMPDIR": str(self.temporary), **env}
        with self.err.open("wb") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen([*argv, *flags], env=env, stderr=err, stdout=out)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(90)

    def ready(self, limit_s):
        end = time.monotonic() + limit_s
        while not self.file.exists():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < end, self.err.read_text()
            time.sleep(0.1)
        return json.loads(self.file.read_text())

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(90)

    def left(self):
        """What is still there of it: processes that know its folder, and files."""
        return processes(str(self.folder)) + [str(path) for path in self.temporary.iterdir()]


def asked(port, what, **arguments):
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["data"]


def value(port, query, at):
    found = asked(port, "query", query=query, time=at)["result"]
    return [float(one["value"][1]) for one in found]


@pytest.fixture
def stub(tmp_path):
    """argv and PATH of a demo of three small nodes, with Prometheus and Alertmanager and without npm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in (tools.PROMETHEUS, tools.PROMTOOL, tools.ALERTMANAGER):
        if not tools.find(tool):
            pytest.skip(f"needs {tool.names[0]}")
        (folder / tool.names[0]).symlink_to(tools.find(tool))
    argv = [sys.executable, demostub.__file__, "demo", "--days=0.1"]
    return [*argv, "--no-grafana"], str(folder)


def with_engine(stub, tmp_path, script):
    """The stub with a container engine that notes how it is called."""
    argv, path = stub
    engine, calls = Path(path) / "docker", tmp_path / "docker.argv"
    engine.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n{script}\n')
    engine.chmod(0o755)
    return [one for one in argv if one != "--no-grafana"], path, calls


@pytest.mark.prometheus
@pytest.mark.slow
def test_the_whole_comes_up_and_leaves_only_its_cache(stub, tmp_path):
    """History raw and recorded, live nodes, one page; at the end no process and no file but the cache."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        ready = demo.ready(180)
        at, page = time.time(), Client(ready["page"])
        assert value(ready["prometheus"], "count(jobwatt_job_info)", at - 3600) == [3]
        idle = "jobwatt:cluster_gpu_idle_seconds:rate5m"
        assert value(ready["prometheus"], idle, at - 3600) == [3]
        assert value(ready["prometheus"], "count(up)", at - 600) == []
        status = json.loads(page.text("/status.json"))
        assert {one["name"] for one in status["processes"]} >= {"Prometheus", "Alertmanager"}
        assert status["total"]["rss_bytes"] > 50e6
        wait(lambda: "node is missing" in page.text("/"))  # said once it has been looked for
        query = "/prometheus/api/v1/query?query=count(up)"
        assert json.loads(page.text(query))["status"] == "success"
        assert demo.end(signal.SIGINT) == 0
    assert not demo.left()
    assert f"http://127.0.0.1:{ready['page']}/" in demo.out.read_text()


@pytest.mark.slow
@pytest.mark.prometheus
def test_kill_9_leaves_nothing_that_runs(stub, tmp_path):
    """Children end by themselves; the next start removes the folder and takes the history from the cache."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        ready = demo.ready(180)
        run_dir = Path(ready["run_dir"])
        demo.end(signal.SIGKILL)
    wait(lambda: not processes(str(tmp_path)))
    assert run_dir.is_dir()
    with Demo(tmp_path, argv, PATH=path) as demo:
        again = demo.ready(180)
        assert not run_dir.exists()
        assert again["history"]["began_s"] == ready["history"]["began_s"]
        assert "making" not in demo.err.read_text()
        assert demo.end(signal.SIGTERM) == 0
    assert not demo.left()


@pytest.mark.slow
@pytest.mark.prometheus
def test_programs_that_end_are_told_of(stub, tmp_path):
    """Without Alertmanager it goes on, without Prometheus it ends, each with a line that says so."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        pids = demo.ready(180)["pids"]
        os.kill(pids["Alertmanager"], signal.SIGKILL)
        wait(lambda: "Alertmanager ended by signal 9" in demo.err.read_text())
        assert demo.process.poll() is None
        os.kill(pids["Prometheus"], signal.SIGKILL)
        assert demo.process.wait(90) == 1
        assert "Prometheus ended by signal 9" in demo.err.read_text()
    assert not demo.left()


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_ended_while_it_makes_its_history(stub, tmp_path, number):
    """At once, with nothing left and no half history kept."""
    argv, path = stub
    with Demo(tmp_path, [*argv, "--stuck"], PATH=path) as demo:
        wait(lambda: processes(f"{tmp_path}/cache/.making-"))
        assert demo.end(number) == 0
    assert "Traceback" not in demo.err.read_text()
    assert not demo.left()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["lock"]


@pytest.mark.prometheus
@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(stub, tmp_path):
    """Whatever the first one waits for; and still nothing is left."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        pids = demo.ready(180)["pids"]
        os.kill(pids["Prometheus"], signal.SIGSTOP)  # will not end when asked
        demo.process.send_signal(signal.SIGINT)
        wait(lambda: "ending" in demo.err.read_text())
        assert demo.end(signal.SIGINT) == 130
    wait(lambda: not demo.left())


@pytest.mark.slow
@pytest.mark.prometheus
def test_mails_link_to_where_dashboards_are(stub, tmp_path):
    """To the page where Grafana does not come up; what there may be of its container is removed."""
    argv, path, calls = with_engine(stub, tmp_path, '[ "$1" != run ]')
    with Demo(tmp_path, argv, PATH=path) as demo:
        ready = demo.ready(180)
        page = f"http://127.0.0.1:{ready['page']}"
        template = Path(ready["run_dir"], "alertmanager", "jobwatt.tmpl").read_text()
        assert f'grafana := "{page}"' in template
        assert ready["dashboards_url"] == page
        assert [line.split()[0] for line in calls.read_text().splitlines()] == [
            "info", "pull", "run", "rm"
        ]  # fmt: skip
        assert demo.end(signal.SIGINT) == 0
    assert not demo.left()


@pytest.mark.slow
@pytest.mark.prometheus
def test_a_second_signal_ends_a_container_too(stub, tmp_path):
    """Although the first removal hangs, and the engine's client is killed."""
    script = 'case "$1" in run) exec sleep 60;; rm) exec sleep 10;; esac'
    argv, path, calls = with_engine(stub, tmp_path, script)
    with Demo(tmp_path, argv, PATH=f"{path}:/usr/bin:/bin") as demo:
        wait(lambda: calls.exists() and "run --rm" in calls.read_text())
        demo.process.send_signal(signal.SIGINT)
        wait(lambda: "rm --force" in calls.read_text())
        assert demo.end(signal.SIGINT) == 130
    wait(lambda: calls.read_text().count("rm --force") == 2)
    wait(lambda: not demo.left())


@pytest.mark.slow
@pytest.mark.prometheus
def test_it_can_listen_elsewhere(stub, tmp_path):
    """On IPv6, everything finds everything; the mail server stays on loopback."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    argv, path = stub
    with Demo(tmp_path, argv, "--listen=::1", PATH=path) as demo:
        ready = demo.ready(180)
        page = Client(ready["page"], "::1")
        wait(lambda: json.loads(page.text("/status.json"))["nodes_up"] == 3)
        assert Client(ready["alertmanager"], "::1").ask("/-/ready")[0] == 200
        with smtplib.SMTP("127.0.0.1", ready["smtp"], timeout=60) as smtp:
            smtp.sendmail("a@example.org", ["b@example.org"], mail())
        assert json.loads(page.text("/mails.json"))


@pytest.mark.slow
def test_without_prometheus_the_nodes_are_shown(tmp_path):
    """What can run runs; what is missing is said in the terminal and on the page."""
    empty = tmp_path / "bin"
    empty.mkdir()
    argv = [sys.executable, "-c", _WITHOUT_TOOLS, "--days=1", "--no-grafana"]
    with Demo(tmp_path, argv, PATH=str(empty)) as demo:
        ready = demo.ready(120)
        page = Client(ready["page"])
        assert "prometheus is missing: no history" in page.text("/")
        node = Client(ready["nodes"]["gpu01"])
        assert "jobwatt_build_info" in node.text("/metrics")
        assert page.ask("/prometheus/api/v1/query?query=up")[0] == 502
        status = json.loads(page.text("/status.json"))
        assert (status["nodes"], status["nodes_up"]) == (3, None)  # nobody who could tell
        assert demo.end(signal.SIGINT) == 0
    assert demo.err.read_text().count("is missing") >= 3
    assert not demo.left()


_WITHOUT_TOOLS = f"""
import sys
sys.path.insert(0, {str(Path(demostub.__file__).parent)!r})
import demostub
from jobwatt.demo import tools
tools._MORE = ()
sys.exit(demostub.demo(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.prometheus
def test_the_demo_as_a_newcomer_sees_it(tmp_path):
    """All twelve nodes up, half a day of raw and recorded past, the first mail within four minutes, nothing left."""
    with Demo(tmp_path, command("demo", "--days=1", "--fresh", "--no-grafana")) as demo:
        ready = demo.ready(480)
        began, page = time.monotonic(), Client(ready["page"])
        port, past = ready["prometheus"], time.time() - 12 * 3600
        assert value(port, "count(up)", past) == [12]
        assert value(port, "count(count by (instance) (jobwatt_node_power_watts))", past) == [12]
        assert value(port, "jobwatt:cluster_energy_joules:rate5m", past)[0] > 1000
        wait(lambda: json.loads(page.text("/status.json"))["nodes_up"] == 12)
        link = f"http://127.0.0.1:{ready['page']}/d/jobwatt-job?"
        mails = wait(
            lambda: [m for m in json.loads(page.text("/mails.json")) if link in m["html"]],
            240 - (time.monotonic() - began),
        )
        assert mails[0]["to"][0].endswith("@example.org")
        wait(lambda: "ALERTS" in asked(port, "label/__name__/values"))
        assert demo.end(signal.SIGINT) == 0
    assert not demo.left()
