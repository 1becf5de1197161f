"""`jobwatt sd`: what scontrol prints of nodes and topology, whose comments are anybody's, and the file kept."""

from __future__ import annotations

import json

from fuzz.base import count, escaped, files, hold, joined, line, parts, place, put, shown, target
from jobwatt.central.sd import asking, kept, records
from jobwatt.central.sd.bounded import AskError
from jobwatt.central.sd.settings import Rack, SdConfig
from jobwatt.central.sd.targets import Groups, Selection, settled

_UNITS = "SwitchName=s0 Level=0 LinkSpeed=1 Nodes=gpu[01-04]\nBlockName=b1 BlockIndex=0 Nodes=cpu1 BlockSize=4\n"


def _told() -> list[bytes]:
    return [
        joined(text, _UNITS, b"ClusterName             = lab\n")
        for text in files("interop/scontrol/nodes.txt")()
    ] + [
        joined(text[at : at + 1800], b"", b"")
        for text in files("interop/scontrol/nodes.txt")()
        for at in (0, 1800)
    ]


def _usable(groups: Groups) -> None:
    """Prometheus takes the file, and every label of it."""
    said = json.loads(kept.encoded(groups))
    hold(len(said) == len(groups), "groups that are lost")
    for group in said:
        for name, value in group["labels"].items():
            hold(name.isidentifier(), f"label {name!r}")
            shown(value, 1 << 15)
        for one in group["targets"]:
            shown(one, 600)
            hold(not set(one) & set(" /?#@"), f"target {one!r}")


@target("sd.records", _told, AskError, max_len=8192, share=1.0)
def sd_records(data: bytes) -> None:
    nodes, topology, config = map(escaped, parts(data, 3))
    sure, doubtful, odd = records.split(nodes)
    count(odd)
    found = records.confirmed(
        sure, doubtful, {one["name"]: f"{one['address']} {one['host']}" for one in doubtful[:2]}
    )
    said = {
        "nodes": found,
        "units": records.units(topology),
        "odd": odd,
        "cluster": records.cluster(config),
    }
    _select(json.loads(json.dumps(said)))


@target(
    "sd.answers",
    [
        (
            b'{"nodes": [{"name": "gpu01", "address": "10.0.0.1", "host": "gpu01", "state": "IDLE+DRAIN", "partitions": "a,b", '
            b'"gres": "gpu:a100:4(S:0-1)", "features": "x", "comment": "rack 7", "extra": ""}], "units": {"gpu01": "s0"}, "odd": 1, "cluster": "lab", "by": "pyslurm"}'
        ),
        b'{"error": "unreachable", "message": "no"}',
    ],
    AskError,
    json=True,
    share=1.0,
)
def sd_answers(data: bytes) -> None:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(said, dict):
        _select(said)


def _select(said: dict[str, object]) -> None:
    try:
        answer = asking._answer(said)
    except AskError as err:
        line(err)
        shown(err.reason, 32)
        raise
    shown(answer.cluster, 128)
    for rack in (Rack("switch"), Rack("none")):
        chosen = Selection(answer.nodes, SdConfig(rack=rack), answer.cluster)
        _usable(chosen.groups)
        _usable(
            settled(
                chosen,
                {"gone": {"targets": ["gone:1"], "labels": {"instance": "gone"}}},
                1.7e9,
                3600,
            )
        )


@target(
    "sd.kept",
    [
        (
            b'[\n{"targets": ["10.0.0.1:9816"], "labels": {"instance": "gpu01", "__meta_slurm_gone_since": "1700000000"}},\n'
            b'{"targets": ["a:1"], "labels": {"instance": "a"}}\n]\n'
        )
    ],
    AskError,
    json=True,
    share=1.0,
)
def sd_kept(data: bytes) -> None:
    groups, _ = kept.load(put("targets.json", data))
    left = settled(Selection((), SdConfig()), groups, 1.7e9, 3600)
    kept.save(place() / "targets.json", left)
    hold(kept.load(place() / "targets.json")[0] == left, "not what was written")
