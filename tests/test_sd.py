"""Service discovery from Slurm: what is believed, what becomes a target, what is written and when it is not."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from jobwatt.central.sd import ask, asking, bounded, kept, nodes, records, run, settings, targets
from jobwatt.central.sd.board import SdBoard
from jobwatt.central.sd.bounded import AskError
from jobwatt.metrics import CATALOGUE
from jobwatt.parser import build
from jobwatt.web import WebServer
from prom import Prometheus
from slurmcluster import Cluster

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/discovery.md").read_text()
TEXT = (ROOT / "tests/data/interop/scontrol/nodes.txt").read_text()  # a real 22.05.8's
# as slurm_sprint_node_table of 26.05 writes it (node_info.c), free text wherever there can be some
NEWER = (
    "NodeName=gpu07 Arch=x86_64 CoresPerSocket=32  CPUAlloc=0 CPUEfctv=64 CPUTot=64 CPULoad=0.10 "
    "AvailableFeatures=a100,rack7 ActiveFeatures=a100,rack7 Gres=gpu:a100:4(S:0-1),gpu:1g.5gb:7(S:2),shard:32 GresDrain=N/A "
    "NodeAddr=10.1.0.7 NodeHostName=gpu07 Version=26.05.3 OS=Linux 6.1 State=DOWN #1 Partitions=forged  "
    "RealMemory=515000 AllocMem=0 FreeMem=N/A Sockets=2 Boards=1 CoreSpecCount=2 CPUSpecList=0-1 MemSpecLimit=1024 "
    "RestrictedCoresPerGPU=1(gpu:a100) State=IDLE+CLOUD+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A "
    "Partitions=gpu,debug  BootTime=2026-11-25T18:23:02 SlurmdStartTime=2026-11-25T22:10:09 "
    "LastBusyTime=2026-11-25T22:10:15 ResumeAfterTime=None SuspendTime=INFINITE CfgTRES=cpu=64,gres/gpu=4 AllocTRES= "
    'CurrentWatts=n/a AveWatts=n/a Reason=fan Partitions=all [root@2026-11-25T22:10:10] Comment=row C rack12 Extra={"rack": 9} '
    "InstanceId=i-1 InstanceType=big Topology=default:leaf3 Parameters=x"
)  # fmt: skip


# the same of nodes that are hosts of their own
APART = re.sub(r"^(NodeName=(\S+) .* NodeHostName=)localhost ", r"\1\2 ", TEXT, flags=re.MULTILINE)


def parsed(text, places=None):
    sure, doubtful, _ = records.split(text)
    return records.confirmed(sure, doubtful, places or {})


def gathered(text, places=None):
    return nodes.gathered(parsed(text, places), {})[0]


def chosen(nodes_, **config):
    return targets.Selection(nodes_, settings.SdConfig(**config), "c")


def tell(capture, word):
    return [record.message for record in capture.records if word in record.message]


# --- what Slurm prints ------------------------------------------------------------------------------


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


@rules(deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_taken(text):
    """Nothing that is said makes the parser fail, or give a node without a host name."""
    for node in gathered(text):
        assert nodes.host(node.name)
    records.units(text)
    records.cluster(text)
    nodes.gpus(text)
    assert nodes.host(text) in ("", text) or nodes.host(text).startswith("[")


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


# --- which become targets ---------------------------------------------------------------------------


def node(name, **more):
    return nodes.Node(name, **{"address": f"{name}.lan", "states": frozenset({"IDLE"}), **more})


def test_down_stays_and_switched_off_goes():
    """A node that is down is what `up == 0` is for; of one that is powered down nothing is expected."""
    states = {"down": {"DOWN", "NOT_RESPONDING"}, "drained": {"IDLE", "DRAIN"}, "cloud": {"IDLE", "CLOUD"},
              "off": {"IDLE", "CLOUD", "POWERED_DOWN"}, "going": {"IDLE", "POWERING_DOWN"}, "plan": {"FUTURE"},
              "booting": {"IDLE", "POWERING_UP"}}  # fmt: skip
    made = chosen([node(name, states=frozenset(words)) for name, words in states.items()])
    assert set(made.groups) == {"down", "drained", "cloud", "booting"}
    assert made.left_out == {"state": 3}
    assert made.resting == {"off", "going", "plan"}


def test_filters():
    """Only GPUs, only some partitions; what is left out is counted by its reason."""
    all_ = [
        node("a", gpus=(("x", 1),), partitions=("p", "q")),
        node("b", partitions=("p",)),
        node("c", gpus=(("", 2),)),
        node("d", address=""),
    ]
    assert set(chosen(all_, only_gpus=True).groups) == {"a", "c"}
    made = chosen(all_, partitions=frozenset({"q", "r"}))
    assert set(made.groups) == {"a"}
    assert made.left_out == {"partition": 3}
    assert chosen(all_).left_out == {"address": 1}


def test_one_target_per_page():
    """A node in many partitions is one target, and nodes that share an address are one, too."""
    many = node("a", partitions=tuple("abc"))
    made = chosen([many, node("b", address="a.lan"), node("c")])
    assert [group["targets"] for group in made.groups.values()] == [["a.lan:9816"], ["c.lan:9816"]]
    assert made.groups["a"]["labels"]["__meta_slurm_partitions"] == ",a,b,c,"
    assert made.left_out == {"shared_address": 1}


@pytest.mark.parametrize("address", ["addr", "host", "name"])
def test_two_slurmd_on_a_host_are_one_target(address, caplog):
    """Whichever name is asked, a host's page is asked once: each of its joules would count twice."""
    pair = [node("a", host="h1"), node("b", host="h1"), node("c", host="c"), node("d"), node("e")]
    finder = run.Finder(settings.SdConfig(address=address), board := SdBoard(), lambda _: asking.Answer(pair))  # fmt: skip
    assert finder.once()
    assert set(board.groups) == {"a", "c"} | ({"d", "e"} if address != "host" else set())
    assert page(board)["jobwatt_sd_nodes_left_out", "shared_host"] == 1
    (said,) = tell(caplog, "1 nodes are on another's host")
    assert "--sd.address" not in said


def test_hosts_that_share_an_address_may_be_asked_by_their_own_names(caplog):
    """Behind one NodeAddr, by their host names they are all targets: the advice holds."""
    pair = [node("a", host="h1", address="gw"), node("b", host="h2", address="gw")]
    for address, count in (("addr", 1), ("host", 2)):
        finder = run.Finder(settings.SdConfig(address=address), board := SdBoard(), lambda _: asking.Answer(pair))  # fmt: skip
        assert finder.once()
        assert len(board.groups) == count
    (said,) = tell(caplog, "have another's address")
    assert "--sd.address=host asks each" in said


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "10.0.0.1:9816"),
        ({"address": "host", "port": 99}, "h.lan:99"),
        ({"address": "name"}, "gpu01:9816"),
        ({"address": "name", "domain": ".example.org"}, "gpu01.example.org:9816"),
        ({"address": "host", "domain": ".example.org"}, "h.lan:9816"),
        ({"domain": ".example.org"}, "10.0.0.1:9816"),
    ],
)
def test_address(config, expected):
    """By which name a node is asked; a domain for names without a dot only."""
    groups = chosen([nodes.Node("gpu01", "10.0.0.1", "h.lan")], **config).groups
    assert groups["gpu01"]["targets"] == [expected]


@pytest.mark.parametrize(
    ("where", "expected"),
    [("switch", "leaf1"), ("none", None), ("feature:rack(.+)", "7"), ("feature:^ib$", "ib"), ("name:[a-z]+", "gpu"),
     ("comment:row (.) rack", "C"), ("extra:(x)?", None), ("feature:nothing", None)],
)  # fmt: skip
def test_rack(where, expected):
    """From the topology, or by a pattern from a field; not there where nothing says it."""
    one = node("gpu01", unit="leaf1", features=("ib", "rack7"), comment="row C rack", extra="y")
    (group,) = chosen([one], rack=settings.rack(where)).groups.values()
    assert group["labels"].get("__meta_slurm_rack") == expected


def test_a_targets_labels_hide_none_of_the_pages():
    """Labels that a target keeps, and those of the examples, are no labels of jobwatt's series."""
    ours = {label for metric in CATALOGUE.values() for label in metric.labels}
    (group,) = chosen([node("a")], scheme="https").groups.values()
    own = {name for name in group["labels"] if not name.startswith("__")}
    assert own == {"instance", "cluster"}
    assert group["labels"]["__scheme__"] == "https"
    for text in (*blocks().values(), (ROOT / "interop/prometheus/slurm_sd.yml").read_text()):
        own |= {
            step["target_label"]
            for job in yaml.safe_load(text).get("scrape_configs", [])
            for step in job.get("relabel_configs", [])
            if "target_label" in step
        }
    assert {"rack", "gpu_model"} <= own
    assert not own & ours


# --- when nodes go ----------------------------------------------------------------------------------


def settle(now, old, at_s=1000.0, hold_s=60.0, resting=()):
    made = chosen([node(name) for name in now])
    made.resting = set(resting)
    return targets.settled(made, old, at_s, hold_s)


def listed(*names):
    return chosen([node(name) for name in names]).groups


def test_few_go_at_once():
    """A node that Slurm no longer has is no target any more."""
    assert set(settle("abc", listed(*"abcd"))) == set("abc")
    assert set(settle("ab", listed(*"abcd"))) == set("ab")


def test_many_are_held_and_new_ones_added():
    """More than half gone: they stay, marked, for the time that is set; what is new is a target at once."""
    first = settle("ax", listed(*"abcd"))
    assert set(first) == set("axbcd")
    assert first["b"]["labels"][targets.GONE] == "1000"
    assert targets.GONE not in first["a"]["labels"]
    again = settle("ax", first, at_s=1059)
    assert again == first
    assert set(settle("ax", again, at_s=1060)) == {"a", "x"}
    back = settle("abcd", again, at_s=1059)
    assert not [name for name in back if targets.GONE in back[name]["labels"]]


def test_what_is_switched_off_is_not_missed():
    """A night's worth of powered-down nodes goes without suspicion; and --sd.hold=0s holds nothing."""
    assert set(settle("a", listed(*"abcd"), resting="bcd")) == {"a"}
    assert set(settle("a", listed(*"abcd"), hold_s=0)) == {"a"}


def test_a_renamed_node_is_not_asked_twice():
    """Where all nodes get other names at the same addresses, no page is a target under both."""
    old = listed(*"abcd")
    made = chosen([node(f"new-{name}", address=f"{name}.lan") for name in "abcd"])
    assert set(targets.settled(made, old, 0.0, 60.0)) == {f"new-{name}" for name in "abcd"}


@rules(deadline=None)
@given(
    st.sets(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")), st.integers(0, 200)
)
def test_what_is_there_stays_or_goes_by_the_rule(old, now, later):
    """All that Slurm names is there; of the rest, nothing unless it was more than half, and then for the hold only."""
    first = settle(now, listed(*old))
    assert set(first) >= now
    many = 2 * len(old - now) > len(old)
    assert set(first) - now == (old - now if many else set())
    second = settle(now, first, at_s=1000 + later)
    assert set(second) - now == (old - now if many and later < 60 else set())


# --- the file ---------------------------------------------------------------------------------------


def test_file_is_written_only_where_it_changes(tmp_path):
    """Same targets: the same file, with a new time; others: a new one that everybody can read."""
    path = tmp_path / "new/targets.json"
    assert kept.save(path, listed(*"ab"))
    assert path.stat().st_mode & 0o777 == 0o644
    os.utime(path, (1, 1))
    inode = path.stat().st_ino
    assert not kept.save(path, listed(*"ab"))
    assert path.stat().st_ino == inode
    assert time.time() - path.stat().st_mtime < 60
    assert kept.save(path, listed("a"))
    assert kept.load(path)[0] == listed("a")
    assert os.listdir(path.parent) == ["targets.json"]


def test_what_is_root_s_is_replaced(tmp_path, monkeypatch):
    """A file whose time may not be set (root tried first) becomes one of the service's."""
    path = tmp_path / "t.json"
    kept.save(path, listed("a"))
    inode = path.stat().st_ino

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert kept.save(path, listed("a"))
    assert path.stat().st_ino != inode


def test_what_a_killed_writer_left_is_swept_up(tmp_path):
    """Old unfinished files go, one that may be being written stays, and neither is named *.json."""
    for name, age_s in ((".t.json.old.new", 3600), (".t.json.now.new", 0)):
        (tmp_path / name).write_text("[")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    kept.save(tmp_path / "t.json", listed("a"))
    assert sorted(os.listdir(tmp_path)) == [".t.json.now.new", "t.json"]


def test_a_link_stays_a_link(tmp_path):
    """The file behind it is replaced."""
    (tmp_path / "link.json").symlink_to("real.json")
    kept.save(tmp_path / "link.json", listed("a"))
    assert (tmp_path / "link.json").is_symlink()
    assert kept.load(tmp_path / "real.json")[0] == listed("a")


def test_a_reader_never_sees_half_a_file(tmp_path):
    """While two lists take turns, every read is one of them, whole."""
    path, lists = tmp_path / "t.json", [listed(*(f"n{i}" for i in range(n))) for n in (900, 1)]
    whole = {kept.encoded(groups) for groups in lists}
    kept.save(path, lists[0])
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        kept.save(path, lists[turn % 2])
    stop.set()
    reader.join()
    assert seen <= whole


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """What cannot be written whole is not there at all."""
    path = tmp_path / "t.json"
    kept.save(path, listed("a"))

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AskError, match="No space left") as caught:
        kept.save(path, listed("b"))
    assert caught.value.reason == "unwritable"
    assert kept.load(path)[0] == listed("a")
    assert os.listdir(tmp_path) == ["t.json"]


@pytest.mark.parametrize("text", ["root:x:0:0", "{}", "[1]", '[{"targets": ["a"]}]', '[{"targets": [1], "labels": {"instance": "a"}}]', "[" * 9999])  # fmt: skip
def test_somebody_elses_file_is_not_written_over(tmp_path, text):
    """What is no list of targets by node stays, and is named."""
    path = tmp_path / "t.json"
    path.write_text(text)
    board = SdBoard()
    finder = run.Finder(settings.SdConfig(out=path), board, lambda _: asking.Answer([node("a")]))
    finder.restore()
    assert not finder.once()
    assert path.read_text() == text
    path.write_text("")  # nobody's
    assert finder.once()


# --- rounds -----------------------------------------------------------------------------------------


def page(board):
    text = board.metrics(openmetrics=False, names=frozenset()).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "_sd_" in sample.name
    }


def test_rounds(tmp_path, caplog):
    """No answer: everything stays, one line is said, the age shows; an answer: the list is new."""
    caplog.set_level(logging.INFO)
    path, board, says = tmp_path / "t.json", SdBoard(), []

    def ask_(_):
        if isinstance(says[-1], AskError):
            raise says[-1]
        return asking.Answer(says[-1], "c", odd=2)

    finder = run.Finder(settings.SdConfig(out=path), board, ask_, now=lambda: 5000.0)
    finder.restore()
    assert board.targets() is None
    assert not board.ready()[0]
    says.append([node("a"), node("b"), node("off", states=frozenset({"POWERED_DOWN"}))])
    assert finder.once()
    before = path.read_bytes()
    assert board.targets() == before
    says.append(AskError("unreachable", "scontrol: connect failure"))
    assert not finder.once()
    assert not finder.once()
    assert path.read_bytes() == before == board.targets()
    assert len(tell(caplog, "connect failure")) == 1
    assert page(board) == {
        ("jobwatt_sd_targets",): 2,
        ("jobwatt_sd_held_targets",): 0,
        ("jobwatt_sd_nodes_left_out", "state"): 1,
        ("jobwatt_sd_nodes_left_out", "unreadable"): 2,
        ("jobwatt_sd_success_timestamp_seconds",): 5000,
        ("jobwatt_sd_polls_total", "ok"): 1,
        ("jobwatt_sd_polls_total", "unreachable"): 2,
    }
    says.append([node("c")])
    assert finder.once()
    assert set(board.groups) == {"a", "b", "c"}
    assert page(board)["jobwatt_sd_held_targets",] == 2
    assert len(tell(caplog, "too many at once")) == 1
    restarted = SdBoard()
    run.Finder(settings.SdConfig(out=path), restarted).restore()
    assert restarted.targets() == path.read_bytes()
    for word in ("held", "connect failure"):
        assert (word in restarted.page()) == (word == "held")


def test_a_file_that_cannot_be_written_is_still_served(tmp_path, monkeypatch):
    """http_sd has the new list, and the trouble is counted."""
    board = SdBoard()
    config = settings.SdConfig(out=tmp_path / "t.json")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    assert not run.Finder(config, board, lambda _: asking.Answer([node("a")])).once()
    assert b'"a.lan:9816"' in board.targets()
    assert page(board)["jobwatt_sd_polls_total", "unwritable"] == 1


def test_the_pages(tmp_path):
    """/sd says 503 until there is a list and then what the file says; a site without targets has no such page."""
    board = SdBoard()
    config = settings.SdConfig(out=tmp_path / "t.json")
    finder = run.Finder(config, board, lambda _: asking.Answer([node("<b>")]))
    server = WebServer("127.0.0.1:0", board, names_users=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.address[1]}"
        assert status(f"{url}/sd") == (503, "text/plain; charset=utf-8", b"no list yet\n")
        assert status(f"{url}/readyz")[0] == 503
        finder.once()
        assert status(f"{url}/sd") == (200, "application/json", config.out.read_bytes())
        assert status(f"{url}/readyz")[0] == 200
        landing = status(f"{url}/")[2]
        assert b"&lt;b&gt;" in landing
        assert b"<b>" not in landing
        server.site = SimpleNamespace(metrics=board.metrics)
        assert status(f"{url}/sd")[0] == 404
    finally:
        server.stop()


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as err:
        return err.code, err.headers["Content-Type"], err.read()


# --- Slurm's commands, played ------------------------------------------------------------------------


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


# --- a real Slurm, a real Prometheus -----------------------------------------------------------------

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
        found = until(lambda: re.search(r"http_sd on 127.0.0.1:(\d+)/sd", log.read_text()))
        self.port = int(found[1])

    def asks_until(self, check):
        """Have it ask again and again; on a busy machine one question may take Slurm too long."""

        def asked():
            self.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            return check()

        until(asked)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read().decode()


def until(check, limit_s=90):
    end_s = time.monotonic() + limit_s
    while not (found := check()):
        assert time.monotonic() < end_s, check
        time.sleep(0.1)
    return found


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
        until(out.exists)
        assert daemon.get("/sd") == out.read_text()
        jobs = SCRAPES.format(out=out, port=daemon.port)
        with Prometheus(tmp_path / "prometheus", [], jobs=jobs) as prometheus:
            until(lambda: up(prometheus, "file") == wanted == up(prometheus, "http"))
            shards = prometheus._get("targets")["activeTargets"]
            assert {
                one["labels"]["shard"] for one in shards if one["labels"]["job"] == "shards"
            } <= set("0123")
            before = out.read_bytes()
            cluster.stop_slurmctld()
            try:
                daemon.asks_until(lambda: 'outcome="unreachable"' in daemon.get("/metrics"))
                assert out.read_bytes() == before
                until(lambda: up(prometheus, "file") == wanted == up(prometheus, "http"))
            finally:
                cluster.start_slurmctld()
            cluster.run("scontrol", "update", "nodename=gpu02", "state=drain", "reason=x")
            drained = '"__meta_slurm_partitions": ",A100,all,", "__meta_slurm_state": "drain"'
            daemon.asks_until(lambda: drained in out.read_text())
            until(lambda: up(prometheus, "file") == wanted == up(prometheus, "http"))
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


# --- the documentation -------------------------------------------------------------------------------


def blocks():
    """The page's YAML blocks by the file that each names."""
    found = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == PAGE.count("```yaml")
    return dict(found)


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


@pytest.mark.prometheus
def test_promtool_takes_the_snippets(tmp_path):
    """Every configuration of the page and the example, with a list as it is written, rules included."""
    (tmp_path / "targets.json").write_bytes(kept.encoded(listed("gpu01", "gpu02")))
    files = {**blocks(), "slurm_sd.yml": (ROOT / "interop/prometheus/slurm_sd.yml").read_text()}
    files["all.yml"] = re.sub(r"^( +)# (?=- |http|  )", r"\1", files["slurm_sd.yml"], flags=re.MULTILINE)  # fmt: skip
    assert "\n    http_sd_configs" in files["all.yml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("/var/lib/jobwatt-sd", str(tmp_path)))
        kind = "rules" if name == "rules.yml" else "config"
        done = subprocess.run(["promtool", "check", kind, name], cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    (command,) = re.findall(r"^    (promtool .*)$", PAGE, re.MULTILINE)
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert {one["labels"]["instance"] for one in json.loads(done.stdout)} == {"gpu01", "gpu02"}


def test_the_page_names_what_exists():
    """Its flags, labels, metrics and outcomes are the command's; its files are there."""
    parser = build()
    (action,) = [action for action in parser._actions if action.dest == "command"]
    known = set(action.choices["sd"]._option_string_actions)
    flags = set(re.findall(r"(?<![\w-])--(?:sd\.|web\.)?[a-z][a-z.-]*[a-z]", PAGE))
    assert flags - {"--now", "--json", "--extra", "--timeout"} <= known
    assert {flag for flag in known if flag.startswith("--sd.")} <= flags | {"--sd.interval"}
    full = node("a", features=("f",), partitions=("p",), gpus=(("g", 1),), unit="u")
    (group,) = chosen([full]).groups.values()
    shown = set(re.findall(r"\b__meta_slurm_[a-z_]+", PAGE))
    assert {name for name in group["labels"] if "_meta_" in name} | {targets.GONE} == shown
    metrics = {name for name in CATALOGUE if name.startswith("jobwatt_sd_")}
    assert set(re.findall(r"\bjobwatt_sd_[a-z_]+", PAGE)) == metrics
    for name in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / name).exists(), name


def test_the_unit_names_what_exists():
    """Its flags are the command's, and the file it writes is the default that the examples read."""
    unit = (ROOT / "packaging/systemd/jobwatt-sd.service").read_text()
    (started,) = re.findall(r"^ExecStart=/usr/bin/jobwatt sd (.*) \$SD_FLAGS$", unit, re.MULTILINE)
    assert started == f"--out={settings.OUT}"
    assert settings.OUT in (ROOT / "interop/prometheus/slurm_sd.yml").read_text()
