"""The command line as a process and within this one, and a node to measure."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import pytest

from daemon import BOOT_ID, command, environment, paths
from jobwatt.cli import main
from trees import Node

QUIET = ("--no-source.nvml", "--no-slurm.rpc", "--sample.interval=100ms")


def jobwatt(*argv, env=None, **more):
    env = env or environment()
    done = subprocess.run(
        command(*map(str, argv)),
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        **more,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def inside(capsys):
    """`jobwatt ARGS` within this process: for what ends before anything is measured."""

    def run(*argv):
        try:
            code = main([str(one) for one in argv])
        except SystemExit as end:
            code = end.code
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    made.add_intel(sockets=1, psys=False, mmio=False)
    return made


@pytest.fixture
def where(node, tmp_path):
    return [*paths(node, tmp_path / "state"), *QUIET]
