"""Service discovery on a real Slurm, with a real Prometheus."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from daemon import wait
from prom import Prometheus
from sdkit import NEWER, PAGE, ROOT
from slurmcluster import Cluster

TOPOLOGY = """\
SwitchName=leaf1 Nodes=gpu01,off01
SwitchName=leaf2 Nodes=gpu02,cpu01,lone,cloud[01-02]
SwitchName=top Switches=leaf[1-2]
"""
MORE = """\
TopologyPlugin=topology/tree
PrivateData=cloud
SuspendProgram=/bin/true
ResumeProgram=/bin/true
NodeName=cloud[01-02] State=CLOUD CPUs=4
NodeName=off01 NodeAddr=10.9.9.1 State=DOWN CPUs=4 Feature=rack7,ib Gres=gpu:h100:4,gpu:1g.10gb:7
NodeName=plan[1-3] State=FUTURE CPUs=4
NodeName=lone State=UNKNOWN NodeAddr=10.9.9.7 CPUs=2
PartitionName=debug Nodes=gpu01,off01 Hidden=YES
PartitionName=night Nodes=cloud[01-02]
"""


class Wider(Cluster):
    """With a topology, nodes that have no machine, and each slurmd as if on a host of its own."""

    def _write(self):
        super()._write()
        apart = re.sub(r"(NodeName=(\S+) NodeHostname=)localhost", r"\1\2", self.conf.read_text())
        self.conf.write_text(apart)
        (self.run_dir / "etc/topology.conf").write_text(TOPOLOGY)

    def _all_idle(self):
        states = self.run("sinfo", "-h", "-N", "-n", "gpu01,gpu02,cpu01", "-o", "%T").split()
        return len(states) > 3 and set(states) == {"idle"}


@pytest.fixture(scope="module")
def cluster():
    # seconds: how long Slurm's commands look for a controller that is gone
    with Wider(mode="linuxproc", acct=False, extra_conf=MORE, message_timeout=4) as made:
        yield made


def env_of(cluster):
    return {**cluster.env, "PYTHONPATH": str(ROOT / "exporter")}


def sd(cluster, *flags, **more):
    argv = [sys.executable, "-m", "jobwatt", "sd", *flags]
    return subprocess.run(argv, env=env_of(cluster), capture_output=True, text=True, check=False, **more)  # fmt: skip


@pytest.mark.slurm
def test_a_real_slurm(cluster, tmp_path):
    """Every node with a machine is a target with its labels; a comment with line breaks forges none."""
    evil = NEWER.replace("gpu07", "evil").split(" Comment=")[0]
    cluster.run("scontrol", "update", "nodename=gpu01", f'comment=says "hi"\n{evil}', "extra=x")
    out = tmp_path / "t.json"
    done = sd(cluster, "--once", f"--out={out}", "--sd.address=name")
    assert done.returncode == 0, done.stderr
    found = {group["labels"]["instance"]: group["labels"] for group in json.loads(out.read_text())}
    # `lone` is in no partition, stands behind the comment, and cannot be told from `evil`
    assert set(found) == {"cpu01", "gpu01", "gpu02", "off01"}
    assert found["off01"] == {
        "instance": "off01",
        "cluster": "jobwatt",
        "__meta_slurm_node": "off01",
        "__meta_slurm_cluster": "jobwatt",
        "__meta_slurm_partitions": ",debug,",
        "__meta_slurm_features": ",ib,rack7,",
        "__meta_slurm_state": "down",
        "__meta_slurm_rack": "leaf1",
        "__meta_slurm_gpu_model": "1g.10gb,h100",
        "__meta_slurm_gpu_count": "11",
    }
    assert found["gpu01"]["__meta_slurm_partitions"] == ",V100,all,debug,"
    cluster.run("scontrol", "update", "nodename=gpu01", "comment=", "extra=")
    assert sd(cluster, "--once", f"--out={out}", "--sd.address=name").returncode == 0
    assert '"lone:9816"' in out.read_text()


SCRAPES = """\
  - job_name: file
    file_sd_configs: [{{files: ["{out}"], refresh_interval: 1s}}]
    relabel_configs: &take
      - {{source_labels: [__meta_slurm_rack], target_label: rack}}
      - {{target_label: __address__, replacement: "127.0.0.1:{port}"}}
  - job_name: http
    http_sd_configs: [{{url: "http://127.0.0.1:{port}/sd", refresh_interval: 1s}}]
    relabel_configs: *take
  - job_name: shards
    file_sd_configs: [{{files: ["{out}"], refresh_interval: 1s}}]
    relabel_configs:
      - {{source_labels: [__meta_slurm_node], modulus: 4, target_label: shard, action: hashmod}}
"""


class Discovery:
    """`jobwatt sd` as a daemon."""

    def __init__(self, cluster, out, log):
        argv = [sys.executable, "-m", "jobwatt", "sd", f"--out={out}", "--sd.address=name",
                "--web.listen-address=127.0.0.1:0"]  # fmt: skip
        self.log = log
        self.process = subprocess.Popen(argv, env=env_of(cluster), stderr=log.open("wb"))
        found = wait(lambda: re.search(r"http_sd on 127.0.0.1:(\d+)/sd", log.read_text()))
        self.port = int(found[1])

    def asks_until(self, check):
        """Have it ask again and again; on a busy machine one question may take Slurm too long."""

        def asked():
            self.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            return check()

        wait(asked)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read().decode()


def up(prometheus, job):
    return {
        dict(labels)["instance"]: dict(labels).get("rack")
        for labels in prometheus.query(f'up{{job="{job}"}} == 1')
    }


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.prometheus
def test_prometheus_keeps_its_targets_while_slurmctld_is_gone(cluster, tmp_path):
    """By file and by HTTP the same targets with their racks; killed or hung, the controller takes none of them away."""
    out = tmp_path / "targets.json"
    daemon = Discovery(cluster, out, tmp_path / "log")
    wanted = {
        "cpu01": "leaf2",
        "gpu01": "leaf1",
        "gpu02": "leaf2",
        "lone": "leaf2",
        "off01": "leaf1",
    }
    try:
        wait(out.exists)
        assert daemon.get("/sd") == out.read_text()
        jobs = SCRAPES.format(out=out, port=daemon.port)
        with Prometheus(tmp_path / "prometheus", [], jobs=jobs) as prometheus:
            wait(lambda: up(prometheus, "file") == wanted == up(prometheus, "http"))
            shards = prometheus._get("targets")["activeTargets"]
            assert {
                one["labels"]["shard"] for one in shards if one["labels"]["job"] == "shards"
            } <= set("0123")
            before = out.read_bytes()
            cluster.stop_slurmctld()
            try:
                daemon.asks_until(lambda: 'outcome="unreachable"' in daemon.get("/metrics"))
                assert out.read_bytes() == before
                wait(lambda: up(prometheus, "file") == wanted == up(prometheus, "http"))
            finally:
                cluster.start_slurmctld()
            cluster.run("scontrol", "update", "nodename=gpu02", "state=drain", "reason=x")
            drained = '"__meta_slurm_partitions": ",A100,all,", "__meta_slurm_state": "drain"'
            daemon.asks_until(lambda: drained in out.read_text())
            wait(lambda: up(prometheus, "file") == wanted == up(prometheus, "http"))
            with urllib.request.urlopen(f"http://127.0.0.1:{prometheus.port}/metrics") as answer:
                assert (
                    f'prometheus_sd_file_mtime_seconds{{filename="{out}"}}'
                    in answer.read().decode()
                )
            # the same target still: its series go on
            assert len(prometheus.series('up{job="file",instance="gpu02"}')) == 1
    finally:
        daemon.process.terminate()
        assert daemon.process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slurm
def test_a_controller_that_hangs(cluster, tmp_path):
    """Frozen, it is given up after --sd.timeout: exit 1, and the file is as it was."""
    out = tmp_path / "t.json"
    assert sd(cluster, "--once", f"--out={out}", "--sd.address=name").returncode == 0
    before = out.read_bytes()
    cluster.freeze_slurmctld()
    try:
        done = sd(cluster, "--once", f"--out={out}", "--sd.address=name", "--sd.timeout=1s")
    finally:
        cluster.freeze_slurmctld(thaw=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert out.read_bytes() == before


@pytest.mark.slurm
def test_commands_of_the_page(cluster, tmp_path):
    """Each `jobwatt sd` of docs/discovery.md does what is said, on a real Slurm."""
    commands = re.findall(r"^    (jobwatt sd .*)$", PAGE, re.MULTILINE)
    assert len(commands) > 3
    env = {**env_of(cluster), "PATH": f"{Path(sys.executable).parent}:{cluster.env['PATH']}"}
    for command in commands:
        done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
    assert {group["labels"]["__meta_slurm_rack"] for group in json.loads((tmp_path / "racks.json").read_text())} <= {"gpu", "cpu", "off", "lone"}  # fmt: skip
    names = json.loads((tmp_path / "names.json").read_text())
    assert "gpu01.cluster.example.org:9816" in [group["targets"][0] for group in names]
    assert all("gpu" in g["labels"]["instance"] or "off" in g["labels"]["instance"] for g in json.loads((tmp_path / "gpus.json").read_text()))  # fmt: skip
