"""Service discovery with Slurm's commands played: what they may answer, and what the flags say."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobwatt.central.sd import ask, asking, bounded, nodes, settings
from jobwatt.central.sd.bounded import AskError
from sdkit import NEWER, ROOT, TEXT

# the same of nodes that are hosts of their own
APART = re.sub(r"^(NodeName=(\S+) .* NodeHostName=)localhost ", r"\1\2 ", TEXT, flags=re.MULTILINE)


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Commands of Slurm's that say what a test wants; the outermost edge."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def play(**scripts):
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setattr(settings, "OUT", "")
    (tmp_path / "nodes.txt").write_text(APART)
    play(
        scontrol=f'case "$*" in *topology*) echo "No topology information available" >&2;; '
        f'*config*) echo "ClusterName             = real";; *) cat {tmp_path}/nodes.txt;; esac',
        sinfo="printf '%s 127.0.0.1 %s\\n' cpu01 cpu01 gpu01 gpu01 gpu02 gpu02",
    )
    return SimpleNamespace(play=play, nodes=tmp_path / "nodes.txt", folder=tmp_path)


def once(out, *flags):
    argv = [sys.executable, "-m", "jobwatt", "sd", "--once", f"--out={out}", *flags]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "exporter")}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=env)


def test_the_command_writes(played):
    """`--once`: the file, exit 0, and nothing on stdout; a second time nothing changes."""
    out = played.folder / "t.json"
    done = once(out, "--sd.address=name")
    assert (done.returncode, done.stdout) == (0, "")
    groups = json.loads(out.read_text())
    assert [group["targets"] for group in groups] == [
        ["cpu01:9816"],
        ["gpu01:9816"],
        ["gpu02:9816"],
    ]
    assert groups[2]["labels"]["cluster"] == "real"
    assert once(out, "--sd.address=name").stderr == ""


def big(count):
    return "\n".join(
        NEWER.replace("gpu07", f"n{i}").replace("10.1.0.7", f"n{i}") for i in range(count)
    )


def test_ten_megabytes(played):
    """Ten thousand nodes are read and written; a plain answer of 40 MiB is refused, and costs no more than its limit."""
    played.nodes.write_text(big(10_000).replace(" Comment=row C rack12", "").replace(' Extra={"rack": 9} InstanceId=i-1 InstanceType=big', "").replace(" Parameters=x", ""))  # fmt: skip
    answer = asking.ask(settings.SdConfig())
    assert len(answer.nodes) == 10_000
    played.play(scontrol="head -c 41943040 /dev/zero")
    with pytest.raises(AskError, match="MiB") as caught:
        asking.ask(settings.SdConfig())
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'slurm_load_node error: Unable to contact slurm controller' >&2; exit 1", "unreachable"),
        ("exit 1", "unreachable"),
        ("echo 'No nodes in the system'", "malformed"),
        (":", "no_nodes"),
        ("head -c 100000 /dev/urandom", "malformed"),
        ("printf 'NodeName=\"a\\\\nb\" State=IDLE\\n\\0\\377\\n'", "malformed"),
        ("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3", "unreachable"),
    ],
)  # fmt: skip
def test_answers_that_are_none(played, script, reason):
    """Each has its reason, one line, and leaves no list."""
    played.play(scontrol=script)
    with pytest.raises(AskError) as caught:
        asking.ask(settings.SdConfig(rack=settings.Rack("none"), cluster="c"))
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_no_slurm_at_all(played, monkeypatch):
    """Without Slurm's commands that is said, exit 1, and no file is made."""
    monkeypatch.setenv("PATH", "/nonexistent")
    done = once(played.folder / "t.json")
    assert done.returncode == 1
    assert "scontrol could not be started" in done.stderr
    assert not (played.folder / "t.json").exists()


def test_a_command_that_hangs_is_killed_with_its_children(played):
    """After --sd.timeout nothing of it runs any more, and the question is over."""
    pid = played.folder / "pid"
    played.play(scontrol=f"sleep 300 & echo $! >{pid}; wait")
    with pytest.raises(AskError) as caught:
        asking.ask(settings.SdConfig(timeout_s=1.5))
    assert caught.value.reason == "timeout"
    until = time.monotonic() + 60
    while pid.exists() and alive(int(pid.read_text() or 0)):
        assert time.monotonic() < until
        time.sleep(0.05)


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_a_topology_that_cannot_be_had_is_no_topology_without_racks(played):
    """22.05's scontrol ends with 0 when it could not ask: racks do not vanish from all nodes for that."""
    text = (played.folder / "bin/scontrol").read_text()
    played.play(
        scontrol=text.replace("No topology information available", "slurm_load_topo error: x")
    )
    with pytest.raises(AskError, match="slurm_load_topo"):
        asking.ask(settings.SdConfig())
    assert len(asking.ask(settings.SdConfig(rack=settings.Rack("none"))).nodes) == 3


def test_a_cluster_without_a_name_is_asked_for_one(played):
    """The label `cluster` is on every series: it does not go because one answer lacks it."""
    text = (played.folder / "bin/scontrol").read_text()
    played.play(scontrol=text.replace("ClusterName ", "Other "))
    with pytest.raises(AskError, match=r"--sd\.cluster"):
        asking.ask(settings.SdConfig())
    assert asking.ask(settings.SdConfig(cluster="mine")).cluster == ""


def test_pyslurm_has_fields_of_their_own():
    """What it knows becomes the same record, and its refusal the same kind of failure."""
    one = SimpleNamespace(
        name="gpu01", address="10.0.0.1", hostname="h", state="IDLE+DRAIN", partitions=["b", "a"],
        configured_gres={"gpu:a100": 4, "nvme": 1}, available_features=["ib"], comment="x\nNodeName=evil ", extra=None,
    )  # fmt: skip

    class RPCError(Exception):
        pass

    def refuse():
        raise RPCError("Unable to contact slurm controller")

    planned = SimpleNamespace(name=None)  # a FUTURE node, seen with 22.5.3
    loaded = {"gpu01": one, None: planned}
    fake = SimpleNamespace(Nodes=SimpleNamespace(load=lambda: loaded), RPCError=RPCError)
    (record,) = ask.by_pyslurm(fake)[0]
    made = nodes.node(record)
    assert (made.name, made.gpus, made.state) == ("gpu01", (("a100", 4),), "drain")
    assert made.comment == "x NodeName=evil "
    fake.Nodes.load = refuse
    with pytest.raises(AskError, match="Unable to contact"):
        ask.by_pyslurm(fake)


def test_a_pyslurm_of_another_kind_gives_way_to_scontrol(played, monkeypatch):
    """One without Nodes, or whose nodes have other names, is no reason to have no targets."""
    other = SimpleNamespace(Job=1, RPCError=OSError)
    for nodes_ in (None, SimpleNamespace(load=lambda: {"a": SimpleNamespace(name="a")})):
        if nodes_:
            other.Nodes = nodes_
        monkeypatch.setattr(ask, "load_pyslurm", lambda: other)
        said = ask.answer([])
        assert (said["by"], len(said["nodes"])) == ("scontrol", 3)


def test_a_command_that_ends_is_reaped():
    """Output, complaints and status come back whole, whatever the order they were written in."""
    argv = ["sh", "-c", "echo a; echo b >&2; echo c; exit 3"]
    assert bounded.run(argv, os.environ, 20, 100) == (b"a\nc\n", b"b\n", 3)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--out=targets.yaml", "*.json"),
        ("--sd.interval=1s", "between 10s"),
        ("--sd.port=0", "port"),
        ("--sd.rack=feature:(", "regular expression"),
        ("--sd.rack=shelf", "switch, none"),
        ("--sd.exclude-states=POWERED_DWON", "POWERED_DOWN"),
        ("--sd.domain=a b", "domain"),
        ("--sd.addres=host", "--sd.address"),
        ("--sd.address=mac", "addr, host, name"),
    ],
)
def test_wrong_flags_are_named(flag, said, capsys):
    """A usage error says which flag and what would be right, and exits with 2."""
    from jobwatt.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["sd", "--once", flag])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
