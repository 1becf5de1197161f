"""
The documentation's commands, run: every `sh` and `console` block of README.md and docs/.

They run in a sandbox: a node made of files with a daemon, jobs and GPUs (tests/daemon.py), a real
Prometheus and Alertmanager with the rendered rules, and a folder in place of /etc, /var and
/usr/share. What cannot be had there (systemd, a cluster's Slurm, other hosts) is a stub that
prints its arguments; a block that cannot be run at all is in ``NOT_RUN`` with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import backfill
import nvmlshim
from daemon import BOOT_ID, Daemon, environment, paths, prolog, wait
from docpages import DOCS, README, ROOT, Block, blocks
from jobwatt.alerts import render, site
from prom import Prometheus, free_port
from trees import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_RUN = {
    "extending.md: promtool check rules --lint=all alerts/rules/ops.yaml": "tests/test_docs_extending.py runs it, over the tree with the example in it",
}
# What the sandbox cannot have: systemd and udev, packages, a cluster's slurmctld, other hosts, a driver; and
# `make`, whose targets are a suite, a demo or a benchmark (that they are there is tests/test_docs.py's to see).
STUBS = [
    "systemctl",
    "journalctl",
    "udevadm",
    "systemd-tmpfiles",
    "apt-get",
    "dnf",
    "modprobe",
    "nvidia-smi",
    "chronyc",
    "timedatectl",
    "scontrol",
    "squeue",
    "sinfo",
    "sacct",
    "sdiag",
    "srun",
    "sbatch",
    "ssh",
    "scp",
    "helm",
    "kubectl",
    "docker",
    "mimirtool",
    "swaks",
    "newaliases",
    "apt-mark",
    "dpkg",
    "rpm",
    "rpmbuild",
    "make",
    "prom-label-proxy",
]
STUB = """#!/bin/sh
echo "$(basename "$0") $*"
"""
CONFIG = STUB + "echo 'ProctrackType           = proctrack/cgroup'\n"
# As another user, and on the very path of the daemon's.
RUNUSER = """#!/bin/sh
while [ "$1" != -- ]; do shift; done; shift
exec "$@"
"""
OURS = """#!{python}
import os, signal, subprocess, sys
argv = sys.argv[1:]
command = argv[0] if argv else ""
tree = {{"calibrate": {idle!r}, "record": {idle!r}}}.get(command, {node!r})
if command in ("serve", "once", "doctor", "calibrate", "record", "release-gpus", "replay"):
    argv += [flag for flag in tree if not any(a.split("=")[0] == flag.split("=")[0] for a in argv)]
    argv += ["--no-slurm.rpc"]
if command == "hook":
    argv += [flag for flag in {node!r} if flag.startswith("--path.state")]
if command == "calibrate":
    argv += ["--duration=1s"]
whole = [{python!r}, "-m", "jobwatt", *argv]
if command == "serve":
    whole += ["--web.listen-address=127.0.0.1:0", "--path.state=" + {spare!r}]
    child = subprocess.Popen(whole, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        sys.stderr.write(line)
        if "serves on" in line:
            child.send_signal(signal.SIGTERM)
    sys.exit(child.wait())
os.execv(whole[0], whole)
"""


@dataclass
class Sandbox:
    """Where blocks run: ``root`` stands for /, ``swaps`` for what the text says otherwise."""

    root: Path
    work: Path
    swaps: dict[str, str]
    env: dict[str, str]

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        for pattern, place in self.swaps.items():
            text = re.sub(pattern, lambda _, place=place: place, text)
        return subprocess.run(
            ["bash", "-euc", text],
            cwd=self.work,
            env=self.env,
            input="secret\n",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,  # no terminal to ask for a password
        )


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    root = tmp_path_factory.mktemp("sandbox")
    node = Node(root / "node", cpus=4, boot_id=BOOT_ID)
    node.add_intel(sockets=1, psys=False, mmio=False)
    idle = Node(root / "idle", cpus=4, boot_id=BOOT_ID)
    idle.add_intel(sockets=1, psys=False, mmio=False)
    state = root / "var/lib/jobwatt"
    state.mkdir(parents=True, mode=0o750)
    script = nvmlshim.Script.of(root / "nvml", 2)
    job = node.add_job(41, uid=61001)
    work = _tree(root)
    render.write(render.texts(site.read(work / "site.toml")), root / "etc/jobwatt/alerts")
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(node, state, script=script))
        prolog(state, job, "0")
        wait(lambda: daemon.scrape().find("jobwatt_job_gpu_allocated_seconds_total", jobid="41"))
        rules = f"rule_files: ['{root}/etc/jobwatt/alerts/rules/*.yaml']\n"
        target = f"127.0.0.1:{daemon.port}"
        _past(root)
        prometheus = stack.enter_context(
            Prometheus(root / "prom", [target], retention="1y", jobs=rules)
        )
        manager = stack.enter_context(_alertmanager(root))
        yield Sandbox(
            root,
            work,
            swaps={
                r"(?:localhost|gpu01|NODE|node\.example\.org|\$NODE):9816\b": target,
                r"\b(?:prometheus|localhost|127\.0\.0\.1):9090\b": f"127.0.0.1:{prometheus.port}",
                r"\balertmanager:9093\b": f"127.0.0.1:{manager}",
                r"(?<![\w.$])/sys/fs/cgroup": str(node.cgroup),
                r"(?<![\w.$])/sys/class": f"{node.sys}/class",
                r"(?<![\w.$])/(?=(?:etc|var|usr/share|srv)/)": f"{root}/",
                r" -[go] (?:jobwatt|root|prometheus|grafana)\b": "",  # users that are not here
            },
            env=_environment(root, node, idle, script),
        )


def _past(root: Path) -> None:
    """Half an hour in Prometheus, and half a year of what rules record, for what looks back."""
    now = time.time()
    text = ""
    for name, since_s, step_s in (
        ("jobwatt_snapshot_timestamp_seconds", 1800, 30),
        ("jobwatt:node_power_watts:sum", 190 * 86_400, 300),
        ("jobwatt:user_gpu_known_seconds:rate5m", 86_400, 300),
    ):
        labels = {"instance": "gpu01", "user": "alice"}
        times = [now - ago for ago in range(since_s, 0, -step_s)]
        lines = [backfill.line(name, labels, at, at) for at in times]
        text += "".join((f"# TYPE {name} gauge\n", *lines))
    text += "# EOF\n"
    (root / "past.om").write_text(text)
    backfill.blocks(root / "past.om", root / "prom/data")


def _tree(root: Path) -> Path:
    """A checkout, as far as commands read it, and the files of a site."""
    work = root / "work"
    for name in ("alerts", "grafana/dashboards", "grafana/provisioning", "packaging", "interop", "tests/rules"):  # fmt: skip
        shutil.copytree(ROOT / name, work / name)
    shutil.copy(ROOT / "alerts/site.toml", work / "site.toml")
    (work / "jobwatt_0.1.0-1_amd64.deb").touch()
    for name in ("etc/jobwatt", "etc/default", "var/lib/prometheus", "usr/share/jobwatt"):
        (root / name).mkdir(parents=True)
    shutil.copy(ROOT / "packaging/jobwatt.toml", root / "etc/jobwatt/jobwatt.toml")
    (root / "etc/jobwatt/web.yml").write_text("basic_auth_users: {}\n")
    return work


def _environment(root: Path, node: Node, idle: Node, script: nvmlshim.Script) -> dict[str, str]:
    bin_ = root / "bin"
    bin_.mkdir()
    ours = OURS.format(
        python=sys.executable,
        node=paths(node, root / "var/lib/jobwatt"),
        idle=[*paths(idle, root / "calibrated"), "--no-source.nvml"],
        spare=str(root / "spare"),
    )
    texts = dict.fromkeys(STUBS, STUB) | {"runuser": RUNUSER, "scontrol": CONFIG, "jobwatt": ours}
    for name, text in texts.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(stat.S_IRWXU)
    path = f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    hook = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "node", "SLURM_JOB_USER": "alice"}
    more = {"PATH": path, "HOME": str(root), "EDITOR": "true", "NODE": "node.example.org", **hook}
    env = environment(script, more)
    env.pop("SLURM_CONF", None)
    return env


class _alertmanager:  # noqa: N801  a context manager, used as a function
    def __init__(self, root: Path) -> None:
        self._root, self._port = root, free_port()

    def __enter__(self) -> int:
        config = self._root / "etc/jobwatt/alerts/alertmanager/alertmanager.yml"
        argv = ["prometheus-alertmanager", f"--config.file={config}", f"--storage.path={self._root}/am",
                f"--web.listen-address=127.0.0.1:{self._port}", "--cluster.listen-address="]  # fmt: skip
        log = (self._root / "am.log").open("wb")
        self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        wait(self._ready, why="for Alertmanager")
        return self._port

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._root / "am.log").read_text()
        url = f"http://127.0.0.1:{self._port}/-/ready"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def found() -> list[Block]:
    return [block for page in (README, *DOCS) for block in blocks(page, "sh", "console")]


@pytest.mark.prometheus
@pytest.mark.parametrize("block", found(), ids=lambda block: f"{block.page.name}:{block.line}")
def test_block_runs(block: Block, sandbox: Sandbox) -> None:
    """The block's commands end with 0, one after the other, as they stand on the page."""
    if block.name in NOT_RUN:
        return
    text = block.text
    if block.language == "console":  # a session: lines after $ are commands, the others answers
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    done = sandbox.run(text)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-2000:]


def test_the_list_is_short_and_true() -> None:
    """Blocks that are not run are few, each is there, and each has its reason."""
    assert NOT_RUN.keys() <= {block.name for block in found()}
    assert len(NOT_RUN) <= len(found()) / 8
    assert all(len(reason) > 20 for reason in NOT_RUN.values())
