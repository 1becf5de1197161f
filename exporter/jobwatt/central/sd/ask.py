"""
The child process that asks slurmctld for its nodes: ``python -m jobwatt.central.sd.ask``.

One JSON object on stdout: ``{"cluster", "nodes", "units", "odd", "by"}``, or ``{"error", "message"}`` and
exit 1. It may hang and it may be killed: asking.py keeps the time. pyslurm where it can be imported and a
slurm.conf is readable (slurm/bypyslurm.py says why that is looked at first), else scontrol.

Arguments: ``units`` asks for the topology, ``cluster`` for the cluster's name.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from jobwatt.central.sd import records
from jobwatt.central.sd.bounded import AskError, run
from jobwatt.slurm.bypyslurm import load_pyslurm
from jobwatt.slurm.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from jobwatt.central.sd.records import Record

# A node's line has some 900 bytes: 35 000 nodes, three times the largest Slurm of today.
LARGEST = 32 << 20
SCONTROL_S = 120.0  # the parent's limit comes first; this one is for a person who runs it by hand
_BENDING = ("SLURM_TOPO_LEN", "SINFO_", "SCONTROL_")
NO_TOPOLOGY = "No topology information"


def by_scontrol() -> tuple[list[Record], int]:
    """Nodes as scontrol prints them, and how many lines of its answer were left out."""
    sure, doubtful, odd = records.split(_call("scontrol", "-a", "-o", "show", "nodes"))
    places = _places({record["name"] for record in doubtful}) if doubtful else {}
    nodes = records.confirmed(sure, doubtful, places)
    return nodes, odd + len(sure) + len(doubtful) - len(nodes)


def _places(names: set[str]) -> dict[str, str]:
    """NodeAddr and NodeHostName of those that are in a partition, from output that holds nobody's free text."""
    lines = io.StringIO(_call("sinfo", "-h", "-a", "-N", "-o", "%N %o %n"))
    pairs = (line.rstrip("\n").partition(" ") for line in lines)
    return {name: place for name, _, place in pairs if name in names}


def by_pyslurm(pyslurm: ModuleType) -> tuple[list[Record], int]:
    """Nodes as pyslurm (22.5.3 or later) has them: free text is in fields of its own."""
    try:
        nodes = pyslurm.Nodes.load()
    except pyslurm.RPCError as err:
        raise AskError("unreachable", clean(f"pyslurm: {err}", 300)) from err
    # FUTURE nodes are records without a name
    return [_record(node) for node in nodes.values() if node.name], 0


def _record(node: Any) -> Record:
    gres = getattr(node, "configured_gres", None) or {}
    return {
        "name": str(node.name),
        "address": str(node.address or ""),
        "host": str(node.hostname or ""),
        "state": str(node.state),
        "partitions": ",".join(node.partitions or ()),
        "gres": ",".join(f"{name}:{count}" for name, count in gres.items()),
        "features": ",".join(node.available_features or ()),
        "comment": str(node.comment or ""),
        "extra": str(node.extra or ""),
    }


def _cluster() -> str:
    """ClusterName; AskError where it is not told: the label must not come and go."""
    found = records.cluster(_call("scontrol", "show", "config"))
    if not found:
        raise AskError("malformed", "scontrol show config has no ClusterName; give --sd.cluster")
    return found


def topology() -> dict[str, str]:
    """Each node's unit; empty where the cluster has no topology."""
    out, trouble, code = _run("scontrol", "-o", "show", "topology")
    # 22.05 ends with 0 and prints nothing where it could not ask: racks must not vanish for that
    if (code or not out.strip()) and trouble and NO_TOPOLOGY not in trouble:
        raise AskError("unreachable", f"scontrol show topology: {trouble}")
    return records.units(out)


def _call(*argv: str) -> str:
    out, trouble, code = _run(*argv)
    if code:
        raise AskError("unreachable", f"{argv[0]}: {trouble or f'exit {code}'}")
    return out


def _run(*argv: str) -> tuple[str, str, int]:
    # each of these would cut, filter or reorder what is printed
    env = {name: value for name, value in os.environ.items() if not name.startswith(_BENDING)}
    env |= {"TZ": "UTC", "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    out, err, code = run(argv, env, SCONTROL_S, LARGEST)
    trouble = err.decode("utf-8", "replace").strip().splitlines()[-1:]
    return out.decode("utf-8", "surrogateescape"), clean("".join(trouble), 300), code


def answer(wanted: Sequence[str]) -> dict[str, Any]:
    """All that was asked for; AskError where it cannot be had."""
    nodes, odd, by = _nodes()
    return {
        "nodes": nodes,
        "odd": odd,
        "cluster": _cluster() if "cluster" in wanted else "",
        "units": topology() if "units" in wanted else {},
        "by": by,
    }  # fmt: skip


def _nodes() -> tuple[list[Record], int, str]:
    pyslurm = load_pyslurm()
    if pyslurm is not None:
        with contextlib.suppress(
            AttributeError, TypeError
        ):  # of a release that names things otherwise
            return (*by_pyslurm(pyslurm), "pyslurm")
    return (*by_scontrol(), "scontrol")


def main(argv: Sequence[str]) -> int:
    """Print the answer, or why there is none."""
    try:
        said, code = answer(argv), 0
    except AskError as err:
        said, code = {"error": err.reason, "message": str(err)}, 1
    sys.stdout.write(json.dumps(said))  # ASCII: undecodable bytes become escapes
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
