"""Service discovery: which nodes become targets, under which address and labels, and when they go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from jobwatt.central.sd import asking, nodes, run, settings, targets
from jobwatt.central.sd.board import SdBoard
from sdkit import chosen, listed, node, page, tell

# --- which become targets ---------------------------------------------------------------------------


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


# --- when nodes go ----------------------------------------------------------------------------------


def settle(now, old, at_s=1000.0, hold_s=60.0, resting=()):
    made = chosen([node(name) for name in now])
    made.resting = set(resting)
    return targets.settled(made, old, at_s, hold_s)


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
