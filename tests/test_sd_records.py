"""Service discovery: what is believed of the text that Slurm prints of its nodes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from jobwatt.central.sd import kept, nodes, records, settings
from sdkit import NEWER, TEXT, chosen


def parsed(text, places=None):
    sure, doubtful, _ = records.split(text)
    return records.confirmed(sure, doubtful, places or {})


def gathered(text, places=None):
    return nodes.gathered(parsed(text, places), {})[0]


def test_text_of_a_real_slurm():
    """Names, addresses, partitions and GPUs as slurmctld printed them; a drain reason forges nothing."""
    found = {node.name: node for node in gathered(TEXT)}
    assert set(found) == {"cpu01", "gpu01", "gpu02"}
    assert found["gpu02"].gpus == (("a100", 8),)
    assert found["cpu01"].gpus == ()
    assert found["cpu01"].state == "drain"
    assert found["gpu01"].partitions == ("V100", "all")
    assert {node.address for node in found.values()} == {"127.0.0.1"}


def test_text_of_a_newer_slurm():
    """26.05's additional keys are no trouble, and no free text stands for a key before or behind it."""
    (node,) = gathered(NEWER)
    assert node.states == {"IDLE", "CLOUD", "DRAIN"}
    assert node.partitions == ("debug", "gpu")
    assert node.gpus == (("1g.5gb", 7), ("a100", 4))
    assert node.address == "10.1.0.7"
    assert (node.comment, node.extra) == ("row C rack12", '{"rack": 9}')
    (node,) = gathered(NEWER.replace(" NodeHostName=gpu07", "").replace("#1", "#1 NodeHostName=x"))
    assert node.host == ""


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:4", (("", 4),)),
        ("gpu", (("", 1),)),
        ("gpu:a100", (("a100", 1),)),
        ("gpu:a100:4(S:0-1),gpu:h100:2", (("a100", 4), ("h100", 2))),
        ("gpu:a100:4(S:0,2),gpu:a100:4(S:1,3)", (("a100", 8),)),
        ("nvme:2,gres:gpu:4,mps:100,shard:8", ()),
        ("gpu:a100:0", ()),
        ("(null)", ()),
        ("", ()),
    ],
)
def test_gpus_of_gres(gres, expected):
    """Type and count of each kind of GPU, and of nothing else."""
    assert nodes.gpus(gres) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("IDLE", "up"),
        ("MIXED+DRAIN", "drain"),
        ("DOWN", "down"),
        ("DOWN+NOT_RESPONDING", "down"),
        ("DOWN+REBOOT_ISSUED", "starting"),
        ("IDLE+CLOUD+POWERED_DOWN", "off"),
        ("IDLE+CLOUD+POWERING_UP", "starting"),
        ("FUTURE", "future"),
        ("UNKNOWN", "unknown"),
        ("SOMETHING+NEW", "unknown"),
    ],
)
def test_class_of_a_state(states, expected):
    """A closed set of words, whatever flags Slurm adds."""
    made = nodes.node({"name": "a", "state": states})
    assert made.state == expected
    assert made.states <= nodes.STATES


def test_a_broken_comment_forges_no_node():
    """Behind a field that may hold a line break a node counts only where sinfo has it at that address."""
    first, *rest = TEXT.splitlines()
    bare = NEWER.split(" Comment=", maxsplit=1)[0]
    evil = bare.replace("gpu07", "evil").replace("10.1.0.7", "192.0.2.66")
    stolen = evil.replace("evil", "gpu01")
    moved = rest[0].replace("NodeHostName=localhost", "NodeHostName=victim")
    lines = [f"{first} Comment=a", evil, evil.replace("evil", "evil2"), stolen, moved, *rest]
    sinfo = dict.fromkeys(("cpu01", "gpu01", "gpu02"), "127.0.0.1 localhost")
    found = {node.name: f"{node.address} {node.host}" for node in gathered("\n".join(lines), sinfo)}
    assert found == sinfo


def test_topology_gives_the_lowest_unit():
    """A tree's leaf switch, a block or a ring; lines that are none of these, or too much, are nothing."""
    text = (
        "SwitchName=top Level=1 LinkSpeed=1 Nodes=cpu1,gpu[01-02] Switches=leaf[1-2]\n"
        "SwitchName=leaf1 Level=0 LinkSpeed=1 Nodes=gpu[01-02],cpu1\n"
        "SwitchName=bad Level=0 LinkSpeed=1 Nodes=x[1-99999999]\nSwitchName=worse Level=0 LinkSpeed=1 Nodes=[[\n"
        "AggregatedBlock=b0-1 BlockIndex=2 Nodes=n[1-4] BlockSize=4\nBlockName=b1 BlockIndex=0 Nodes=n[1-2] BlockSize=2\n"
        "RingName=r1 Nodes=m1 RingSize=1\n"
    )
    assert records.units(text) == {
        "gpu01": "leaf1", "gpu02": "leaf1", "cpu1": "leaf1", "n1": "b1", "n2": "b1", "m1": "r1",
    }  # fmt: skip


def test_a_node_has_a_size():
    """A line of megabytes is no node, and is not taken apart; millions of empty lines are none either."""
    assert records.parse(NEWER + " a=b" * 20_000) is None
    assert records.split("\n" * 3_000_000) == ([], [], 0)
    assert len(records.units("SwitchName=a Level=0 Nodes=n[1-65000]\n" * 100_000)) == 65_000


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=60)
BARE = NEWER.split(" Comment=", maxsplit=1)[0].replace("10.1.0.7", "192.0.2.66")
FORGED = st.sampled_from(["\n", " Extra=", " BootTime=", "\n\n"]).flatmap(
    lambda between: st.lists(
        st.sampled_from(["evil", "n0", "n1"]).map(lambda name: BARE.replace("gpu07", name)),
        max_size=3,
    ).map(lambda lines: between + "\n".join(lines))
)


LINES = st.one_of(
    st.text(max_size=80),
    st.sampled_from(TEXT.splitlines()),
    st.text(max_size=20).map(lambda name: BARE.replace("gpu07", name)),
    st.text(max_size=20).map(lambda where: BARE.replace("192.0.2.66", where)),
    st.text(max_size=20).map(lambda names: f"SwitchName=a Level=0 Nodes={names}"),
)


@rules(deadline=None)
@given(st.lists(LINES, max_size=6))
def test_any_text_is_taken(lines):
    """Nothing that is said makes the parser fail, hides a node's line, or gives a node without a host name."""
    text = "\n".join([*lines, BARE])
    sure, doubtful, _ = records.split(text)
    found, _ = nodes.gathered([*sure, *doubtful], {})
    assert "gpu07" in {node.name for node in found}
    for node in found:
        assert nodes.host(node.name) == node.name
        assert nodes.host(node.address.strip("[]")) == node.address
    records.units(text)
    records.cluster(text)
    for line in lines:
        nodes.gpus(line)
        assert nodes.host(line) in ("", line) or nodes.host(line).startswith("[")


@rules(deadline=None)
@given(st.lists(st.tuples(HOSTILE | FORGED, HOSTILE | FORGED), min_size=1, max_size=5))
def test_free_text_adds_no_node_and_takes_none(texts):
    """Whatever is in Comment and Extra, the nodes are those that Slurm has, at their addresses."""
    truth = {f"n{i}": f"10.0.0.{i} n{i}" for i in range(len(texts))}
    lines = [
        NEWER.replace("gpu07", f"n{i}")
        .replace("10.1.0.7", f"10.0.0.{i}")
        .replace("row C rack12", comment)
        .replace('{"rack": 9}', extra)
        for i, (comment, extra) in enumerate(texts)
    ]
    found = gathered("\n".join(lines), truth)
    assert {node.name: f"{node.address} {node.host}" for node in found} == truth


@rules(deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_labels_are_fit_to_be_shown(partition, feature, comment):
    """Every value is one printable line, and the JSON of all of them can be read back."""
    record = {"name": "a", "address": "a", "partitions": partition, "features": feature, "comment": comment, "gres": f"gpu:{feature}:2"}  # fmt: skip
    where = settings.rack("comment:(.*)")
    groups = chosen([nodes.node(record)], rack=where).groups
    assert json.loads(kept.encoded(groups)) == list(groups.values())
    for value in groups["a"]["labels"].values():
        assert value.isprintable()


@pytest.mark.parametrize(
    ("name", "ok"),
    [("gpu01", True), ("a.b-c_d", True), ("10.0.0.1", True), ("", False), ("-a", False), ("a b", False),
     ('a"', False), ("a\n", False), ("a/b", False), ("a@b", False), ("a:1", False), ("ä", False), ("a" * 254, False),
     ("a{b}", False), ("a[1-2]", False), ("a.", False)],
)  # fmt: skip
def test_a_host_name_is_one(name, ok):
    """What is no host name never gets into a target."""
    assert nodes.host(name) == (name if ok else "")
    assert (nodes.node({"name": name}) is not None) == ok


def test_ipv6_in_brackets():
    """An IPv6 address is written as Prometheus takes it; with a zone it is none."""
    assert nodes.host("fd00:0::1") == "[fd00::1]"
    assert nodes.host("fe80::1%eth0") == ""
    (group,) = chosen([nodes.Node("a", "[fd00::1]")], domain=".x").groups.values()
    assert group["targets"] == ["[fd00::1]:9816"]
