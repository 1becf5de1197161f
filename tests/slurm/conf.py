"""The cluster's configuration files, written from the templates beside this module."""

import os
import re
import shlex
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_USUAL = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def search_path() -> str:
    """Where commands are looked for: Slurm's in JOBWATT_TEST_SLURM first, where that is set."""
    prefix = os.environ.get("JOBWATT_TEST_SLURM")
    return f"{prefix}/sbin:{prefix}/bin:{_USUAL}" if prefix else _USUAL


@dataclass(frozen=True, slots=True)
class Node:
    """A slurmd of its own on this machine, with pretended CPUs and GPUs."""

    name: str
    partition: str
    cpus: int = 16
    memory_mb: int = 8000
    gpus: int = 0
    gpu_type: str = ""


NODES = (
    Node("gpu01", "V100", gpus=4, gpu_type="v100"),
    Node("gpu02", "A100", gpus=8, gpu_type="a100"),
    Node("cpu01", "CPU"),
)

MODES: dict[str, dict[str, str]] = {
    "linuxproc": {
        "proctrack": "proctrack/linuxproc",
        "task": "task/none",
        "gather": "jobacct_gather/linux",
        "cgroup_plugin": "cgroup/v1",
    },
    "cgv1": {
        "proctrack": "proctrack/cgroup",
        "task": "task/cgroup",
        "gather": "jobacct_gather/cgroup",
        "cgroup_plugin": "cgroup/v1",
    },
    "cgv2": {
        "proctrack": "proctrack/cgroup",
        "task": "task/cgroup",
        "gather": "jobacct_gather/cgroup",
        "cgroup_plugin": "cgroup/v2",
    },
}


def free_ports(count: int) -> list[int]:
    """Ports of loopback nobody listens on, below the ranges of prom.free_port and of the kernel's clients."""
    ports: list[int] = []
    while len(ports) < count:
        port = 10_000 + int.from_bytes(os.urandom(2)) % 10_000
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
    return ports


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with each `@name@` replaced; an unknown name is a KeyError."""
    text = (HERE / template).read_text()
    return re.sub(r"@([a-z_]+)@", lambda found: values[found[1]], text)


def node_lines(nodes: Sequence[Node], ports: Sequence[int]) -> str:
    """NodeName and PartitionName lines: a partition per kind of node, and `all`."""
    lines = []
    for node, port in zip(nodes, ports, strict=True):
        gres = f" Gres=gpu:{node.gpu_type}:{node.gpus}" if node.gpus else ""
        lines.append(
            f"NodeName={node.name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port}"
            f" CPUs={node.cpus} RealMemory={node.memory_mb}{gres}"
        )
    for index, partition in enumerate(dict.fromkeys(node.partition for node in nodes)):
        members = ",".join(node.name for node in nodes if node.partition == partition)
        default = " Default=YES" if index == 0 else ""
        lines.append(f"PartitionName={partition} Nodes={members}{default} MaxTime=1-0")
    lines.append(f"PartitionName=all Nodes={','.join(node.name for node in nodes)} MaxTime=1-0")
    return "\n".join(lines)


def gres_conf(nodes: Sequence[Node], devices: Path) -> str:
    """The GPUs of each node; without real device files Slurm tells nobody which GPU a job got."""
    lines = ["AutoDetect=off"]
    for node in (node for node in nodes if node.gpus):
        files = f"{devices}/nvidia[0-{node.gpus - 1}]" if node.gpus > 1 else f"{devices}/nvidia0"
        lines.append(f"NodeName={node.name} Name=gpu Type={node.gpu_type} File={files}")
    return "\n".join(lines) + "\n"


def make_devices(nodes: Sequence[Node], devices: Path) -> None:
    """Character devices of NVIDIA's major number: opening one gives ENXIO, or EPERM when denied."""
    devices.mkdir()
    for index in range(max((node.gpus for node in nodes), default=0)):
        path = devices / f"nvidia{index}"
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(195, index))
        path.chmod(0o666)


def tres(nodes: Sequence[Node]) -> str:
    """The GPU kinds slurmdbd is to count."""
    kinds = sorted({f"gres/gpu:{node.gpu_type}" for node in nodes if node.gpus})
    return ",".join(["gres/gpu", *kinds])


def write_hook(run: Path, kind: str, commands: Sequence[str]) -> None:
    """Write Slurm's Prolog or Epilog in one step: a slurmd may be starting the old one."""
    steps = "\n".join(f"step {shlex.quote(command)}" for command in commands)
    draft = run / "etc" / f".{kind}.sh"
    draft.write_text(render("hook.sh.in", {"kind": kind, "run": str(run), "steps": steps}))
    draft.chmod(0o755)
    draft.rename(run / "etc" / f"{kind}.sh")
