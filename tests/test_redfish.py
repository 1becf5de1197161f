"""A BMC by Redfish: which figure is the node's, sessions, certificates, deadlines, and secrets kept."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import ipaddress
import json
import logging
import os
import re
import subprocess
import sys
import time
import urllib.request
from fractions import Fraction
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

import redfishmock
import webcerts
from jobwatt.meter import measure
from jobwatt.model import NS_PER_S, Domain, Kind, SourceResult, Step
from jobwatt.sources import redfish, redfish_power, redfish_tree, redfish_url
from jobwatt.sources.polled import Polled
from jobwatt.sources.secrets import read_credentials
from redfishmock import PASSWORD, SESSIONS, USER, Bmc, Certs, credentials, fixture, folder

CHASSIS = "/redfish/v1/Chassis/1"
POWER = f"{CHASSIS}/Power"


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def secret(tmp_path):
    return credentials(tmp_path)


@pytest.fixture
def opened(certs, secret):
    """Give a function that opens the client of a mock BMC; all are closed at the end."""
    made = []

    def open_bmc(bmc, **settings):
        given = {"ca_file": certs.ca, "credentials": secret, "timeout_s": 30.0, **settings}
        url = given.pop("url", None) or bmc.url
        made.append(redfish.Bmc(url, **given))
        return made[-1]

    yield open_bmc
    for client in made:
        client.close()


def watts(result):
    assert not result.failures, result.failures
    (found,) = result.readings
    return found.value / 1_000_000


def reason(result):
    (found,) = result.failures
    assert not result.readings
    assert "\n" not in found.message
    assert PASSWORD not in found.message
    return found.reason


# --- which figure -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [
        ("dell-idrac7", "PowerControl", 168),
        ("dell-idrac8", "PowerControl", 135),
        ("dell-idrac9", "SystemBoardPwrConsumption", 1187),
        ("hpe-ilo5", "PowerControl", 590),
        ("lenovo-xcc", "PowerControl", 812),
        ("supermicro", "PowerControl", 643),
        ("nvidia-dgx", "PowerSupplies", 1500.25 + 1501.25 + 1502.25 + 1503.25),
    ],
)
def test_power_of_every_make(certs, opened, name, place, expected):
    """Each make's tree gives the node's own power, with the name of the place it stood in."""
    with Bmc(certs.good, fixture(name)) as bmc:
        result = opened(bmc).look()
        assert watts(result) == expected
        assert result.readings[0].device.name == place


@pytest.mark.slow
def test_environment_metrics_come_before_the_deprecated_power(certs, opened):
    """Of DMTF's mock-up the 374 W of EnvironmentMetrics are taken, then the 344 W of Power, then the supply's."""
    tree = folder("public-rackmount1")
    top = "/redfish/v1/Chassis/1U"
    with Bmc(certs.good, tree) as bmc:
        client = opened(bmc)
        first = client.look()
        assert (watts(first), first.readings[0].device.name) == (374, "EnvironmentMetrics")
        bmc.tree[f"{top}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": None}}
        second = client.look()
        assert (watts(second), second.readings[0].device.name) == (344, "PowerControl")
        bmc.tree[f"{top}/Power"] = {}
        third = client.look()
        assert (watts(third), third.readings[0].device.name) == (937.4, "PowerSupplies")


def test_a_reading_is_of_the_node_and_of_its_moment(certs, opened):
    """Device, kind, unit and time are what the meter expects of a wall meter."""
    with Bmc(certs.good) as bmc:
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        client = opened(bmc, every_ns=10 * NS_PER_S, includes_gpu=False, node="gpu07")
        result = client.look()
        (found,) = result.readings
        assert [(sample.labels, sample.value) for sample in result.samples] == [
            (("bmc", "PowerControl"), 500.0)
        ]
        assert before < found.t_ns < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert (found.kind, found.value, found.every_ns) == (Kind.POWER, 500_000_000, 10 * NS_PER_S)
        device = found.device
        assert (device.domain, device.id, device.source, device.node) == (
            Domain.NODE, "bmc", "bmc", "gpu07")  # fmt: skip
        assert device.summed
        assert not device.includes_gpu


@pytest.mark.slow
def test_a_bmc_of_several_nodes_must_be_told_which(certs, opened):
    """Two systems behind one BMC: nothing is guessed; named in the url, the sled's power is read, not the enclosure's."""
    with Bmc(certs.good, fixture("multi-node")) as bmc:
        assert reason(opened(bmc).look()) == "ambiguous"
        for number in (1, 2):
            client = opened(bmc, url=f"{bmc.url}/redfish/v1/Systems/Node{number}")
            assert watts(client.look()) == 400 + 60 * number
        assert watts(opened(bmc, url=f"{bmc.url}/redfish/v1/Chassis/Sled2").look()) == 520


@pytest.mark.parametrize("kind", ["Enclosure", "RackMount"])
def test_the_enclosure_is_never_the_node(certs, opened, kind):
    """Where only the chassis that feeds both nodes has a figure, there is none, whatever its type."""
    tree = fixture("multi-node")
    tree["/redfish/v1/Chassis/Enclosure"]["ChassisType"] = kind
    for number in (1, 2):
        tree[f"/redfish/v1/Chassis/Sled{number}/Power"] = {}
    with Bmc(certs.good, tree) as bmc:
        client = opened(bmc, url=f"{bmc.url}/redfish/v1/Systems/Node1")
        assert reason(client.look()) == "no_power"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([{"Name": "System Power Control", "PowerConsumedWatts": 344}], 344),
        ([{"PowerConsumedWatts": 200}], 200),
        ([{"PowerConsumedWatts": "344.5"}], 344.5),
        ([{"Name": "System", "PowerConsumedWatts": None}], None),
        ([{"Name": "System", "PowerConsumedWatts": 0}], None),
        ([{"Name": "System", "PowerConsumedWatts": -5}], None),
        ([{"Name": "System", "PowerConsumedWatts": True}], None),
        ([{"Name": "System", "PowerConsumedWatts": 100_001}], None),
        ([{"Name": "System", "PowerMetrics": {"AverageConsumedWatts": 300}}], None),
        # the whole and its parts
        ([{"Name": "Chassis Power Control", "PowerConsumedWatts": 500},
          {"Name": "CPU Power", "PowerConsumedWatts": 200},
          {"Name": "Memory Power", "PowerConsumedWatts": 50}], 500),
        # only parts: no node
        ([{"Name": "CPU Power", "PowerConsumedWatts": 200},
          {"Name": "Memory Power", "PowerConsumedWatts": 50}], None),
        ([{"Name": "Node Memory Power", "PowerConsumedWatts": 50}], None),
        # a part, and two of which nobody knows what they are
        ([{"Name": "CPU Power", "PowerConsumedWatts": 200}, {"Name": "A", "PowerConsumedWatts": 7},
          {"Name": "B", "PowerConsumedWatts": 8}], None),
        # parts by what they are related to, and a member without a name
        ([{"Name": "Power Control", "PowerConsumedWatts": 700},
          {"Name": "Power Control 2", "PowerConsumedWatts": 250,
           "RelatedItem": [{"@odata.id": "/redfish/v1/Systems/1/Processors/CPU1"}]}], 700),
        # ways in are added up, even where they share a load evenly
        ([{"Name": "PSU1 Input Power", "PowerConsumedWatts": 300},
          {"Name": "PSU2 Input Power", "PowerConsumedWatts": 301}], 601),
        ([{"Name": "Feed A", "PowerConsumedWatts": 300}, {"Name": "Feed B", "PowerConsumedWatts": 0}], 300),
        # the same whole twice
        ([{"Name": "System Power Control", "PowerConsumedWatts": 300},
          {"Name": "Chassis Power Control", "PowerConsumedWatts": 304}], 300),
        ([{"PowerConsumedWatts": 300}, {"PowerConsumedWatts": 300}], 300),
        # wholes that disagree: which is the node?
        ([{"Name": "Node 1", "PowerConsumedWatts": 300}, {"Name": "Node 2", "PowerConsumedWatts": 800}], None),
        ([{"Name": "Node 1", "PowerConsumedWatts": 300,
           "RelatedItem": [{"@odata.id": "/redfish/v1/Systems/1/"}]},
          {"Name": "Node 2", "PowerConsumedWatts": 800,
           "RelatedItem": [{"@odata.id": "/redfish/v1/Systems/2"}]}], 300),
        ([None, 7, "x", {"PowerConsumedWatts": 120}], 120),
        ({"PowerConsumedWatts": 120}, None),
    ],
)  # fmt: skip
def test_power_control_of_several_members(members, expected):
    """The whole is taken, parts never make it, ways in are added, and doubt is unknown."""
    found = redfish_power.control({"PowerControl": members}, {"/redfish/v1/Systems/1", CHASSIS})
    assert found == (None if expected is None else expected * 1_000_000)


def test_a_rating_is_not_a_measurement():
    """iDRAC 7's PowerInputWatts 900 of a 750 W supply without any output is its rating: two are not 1800 W."""
    power = fixture("dell-idrac7")["/redfish/v1/Chassis/System.Embedded.1/Power"]
    assert redfish_power.legacy_supplies(power) is None
    both = {"PowerSupplies": [{"PowerInputWatts": 393.0, "PowerOutputWatts": 363.0}] * 2}
    assert redfish_power.legacy_supplies(both) == 786_000_000


def test_one_unknown_supply_makes_the_sum_unknown():
    """Half a node is worse than nothing; an idle spare and an absent one are no gap."""
    known, spare = {"InputPowerWatts": {"Reading": 410}}, {"InputPowerWatts": {"Reading": 0}}
    assert redfish_power.supplies([known, spare]) == 410_000_000
    assert redfish_power.supplies([known, {"InputPowerWatts": {"Reading": None}}]) is None
    assert redfish_power.supplies([known, None]) is None
    assert redfish_power.supplies([spare, spare]) is None


@given(st.floats(min_value=0.000001, max_value=100_000))
def test_watts_become_microwatts_exactly(value):
    """A figure is rounded to the nearest microwatt and nothing else."""
    assert abs(Fraction(redfish_power.microwatts(value)) - Fraction(value) * 1_000_000) <= Fraction(1, 2) + Fraction(value) / 2**30  # fmt: skip


NAMES = st.sampled_from(
    ["PowerControl", "PowerSupplies", "PowerWatts", "Reading", "Members", "@odata.id", "Links", "Status",
     "ComputerSystems", "ContainedBy", "Chassis", "Name", "PowerConsumedWatts", "PowerInputWatts", "State",
     "RelatedItem", "InputPowerWatts", "error", "@Message.ExtendedInfo", "MessageId", "SystemType"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | NAMES
    | st.just("/redfish/v1/Chassis/1"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=6),
    max_leaves=30,
)  # fmt: skip


TREE_PATHS = [
    "/redfish/v1", "/redfish/v1/Systems", "/redfish/v1/Chassis", "/redfish/v1/Systems/1", CHASSIS, POWER,
]  # fmt: skip
LINK = st.sampled_from([{"@odata.id": path} for path in TREE_PATHS])
TREE = st.fixed_dictionaries(
    {},
    optional={
        "Members": st.lists(LINK, max_size=4) | JSON, "Chassis": LINK, "Systems": LINK | JSON,
        "Power": LINK, "PowerSubsystem": LINK | JSON, "PowerSupplies": LINK | JSON, "Metrics": LINK,
        "EnvironmentMetrics": LINK | JSON, "Manufacturer": st.just("Dell Inc."), "Sensors": LINK | JSON,
        "Links": st.fixed_dictionaries({}, optional={
            "Chassis": st.lists(LINK, max_size=3) | JSON, "ComputerSystems": st.lists(LINK, max_size=3),
            "ContainedBy": LINK}),
    },
)  # fmt: skip


@given(JSON, JSON)
def test_no_json_makes_extraction_raise(one, other):
    """Whatever stands in the resources, the outcome is a figure above zero, or unknown."""
    for found in (
        redfish_power.environment(one),
        redfish_power.reading(one),
        redfish_power.control(one, {"/redfish/v1/Chassis/1"}),
        redfish_power.legacy_supplies(one),
        redfish_power.supplies([one, other]),
    ):
        assert found is None or (isinstance(found, int) and found > 0)
    redfish_power.link(one, "Links", "Chassis")
    redfish_power.links(one, "Members")
    redfish_power.own_systems({"/redfish/v1/Systems/1": one, "/b": other})
    redfish_power.own_chassis({"/redfish/v1/Chassis/1": one, "/b": other}, "/redfish/v1/Systems/1")
    list(redfish_power.message_ids(one))
    redfish_power.feeding(one)
    redfish_power.is_dell(one)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(TREE_PATHS), TREE), st.sampled_from(["", TREE_PATHS[3]]))
def test_no_tree_makes_the_search_raise(tree, start):
    """Whatever a BMC answers on the way, there are places, or it says that the tree is unclear."""
    asked = []

    def ask(path):
        asked.append(path)
        return tree.get(path.rstrip("/"))

    with contextlib.suppress(redfish_tree.UnclearError):
        for place in redfish_tree.places(ask, start):
            assert all(redfish_power.path_of({"@odata.id": path}) for path in place.paths)
            place.figure([tree.get(path) for path in place.paths])
    assert len(asked) < 500


@pytest.mark.parametrize(
    "path",
    ["https://elsewhere/redfish/v1", "//elsewhere/redfish", "/redfish/v1/../../admin", "@evil/redfish/",
     "/api/session", 7, None, "/redfish/v1/" + "x" * 500, "/redfish/v1/a b", "/redfish/v1/a\r\nX: y"],
)  # fmt: skip
def test_links_stay_below_redfish(path):
    """A link that leads anywhere but to a plain path below /redfish/ is none."""
    assert redfish_power.path_of({"@odata.id": path}) is None


# --- asking -------------------------------------------------------------------------------------


def test_what_was_found_is_asked_alone(certs, opened):
    """The tree is walked and the login made once; then each look is one request."""
    with Bmc(certs.good) as bmc:
        client = opened(bmc)
        watts(client.look())
        before = len(bmc.seen)
        for _ in range(3):
            watts(client.look())
        assert bmc.seen[before:] == [("GET", POWER)] * 3
        assert bmc.logins() == 1


def test_a_figure_that_moves_is_found_again(certs, opened):
    """The path is forgotten when it fails, and the tree walked again, in the same look."""
    with Bmc(certs.good) as bmc:
        client = opened(bmc)
        assert watts(client.look()) == 500
        bmc.tree[f"{CHASSIS}/Metrics"] = {"PowerWatts": {"Reading": 321}}
        bmc.tree[CHASSIS] = {
            **bmc.tree[CHASSIS],
            "EnvironmentMetrics": {"@odata.id": f"{CHASSIS}/Metrics"},
        }
        del bmc.tree[POWER]
        assert watts(client.look()) == 321


@pytest.fixture
def later(monkeypatch):
    """Give a function that says by how many seconds the look's clock is ahead from now on."""
    now = time.monotonic

    def set_ahead(seconds):
        monkeypatch.setattr(redfish.time, "monotonic", lambda: now() + seconds)

    return set_ahead


RACKMOUNT = "/redfish/v1/Chassis/1U"


def test_a_better_place_is_asked_again(certs, opened, later):
    """
    One null in the better place (a BMC that starts) does not leave the worse one in use for ever: some
    minutes later the better is asked again, by one GET, and not before.
    """
    with Bmc(certs.good, folder("public-rackmount1")) as bmc:
        good = bmc.tree[f"{RACKMOUNT}/EnvironmentMetrics"]
        bmc.tree[f"{RACKMOUNT}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": None}}
        client = opened(bmc)
        assert watts(client.look()) == 344
        before = len(bmc.seen)
        later(301)
        assert watts(client.look()) == 344  # still null there
        assert bmc.gets()[-2:] == [f"{RACKMOUNT}/EnvironmentMetrics", f"{RACKMOUNT}/Power"]
        assert len(bmc.seen) == before + 2
        bmc.tree[f"{RACKMOUNT}/EnvironmentMetrics"] = good
        assert watts(client.look()) == 344
        later(602)
        result = client.look()
        assert (watts(result), result.readings[0].device.name) == (374, "EnvironmentMetrics")
        assert watts(client.look()) == 374
        assert bmc.gets()[-1] == f"{RACKMOUNT}/EnvironmentMetrics"


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 503])
def test_a_better_place_that_fails_costs_no_figure(certs, opened, later, status):
    """Where the better place answers with an error, the one in use is asked in the same look."""
    with Bmc(certs.good, folder("public-rackmount1")) as bmc:
        bmc.statuses[f"{RACKMOUNT}/EnvironmentMetrics"] = status
        client = opened(bmc)
        assert watts(client.look()) == 344
        later(301)
        assert watts(client.look()) == 344


@pytest.mark.slow
def test_places_are_meters_of_their_own(certs, opened, later):
    """Another place is another name and another epoch: no energy is counted from one sensor to another."""
    with Bmc(certs.good, folder("public-rackmount1")) as bmc:
        good = bmc.tree[f"{RACKMOUNT}/EnvironmentMetrics"]
        client = opened(bmc, every_ns=10 * NS_PER_S)
        cursors, seen = {}, []
        for reading, ahead_s in ((good, 0), ({}, 0), ({}, 0), (good, 301)):
            bmc.tree[f"{RACKMOUNT}/EnvironmentMetrics"] = reading
            later(ahead_s)
            (found,) = client.look().readings
            metered = measure(cursors, [found], NS_PER_S)
            cursors = metered.cursors
            seen.append((found.device.name, metered.booked[0].step))
        assert seen == [
            ("EnvironmentMetrics", Step.FIRST),
            ("PowerControl", Step.RESET),
            ("PowerControl", Step.NORMAL),
            ("EnvironmentMetrics", Step.RESET),
        ]


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 500, 501, 503])
def test_a_broken_place_does_not_hide_the_next(certs, opened, status):
    """A BMC that answers one resource with an error is asked for the next."""
    with Bmc(certs.good, folder("public-rackmount1")) as bmc:
        bmc.statuses["/redfish/v1/Chassis/1U/EnvironmentMetrics"] = status
        assert watts(opened(bmc).look()) == 344


@pytest.mark.slow
def test_no_figure_anywhere(certs, opened):
    """Nulls and zeros everywhere are one failure that says so."""
    with Bmc(certs.good, redfishmock.node(None)) as bmc:
        assert reason(opened(bmc).look()) == "no_power"
        bmc.tree = redfishmock.node(0)
        assert reason(opened(bmc).look()) == "no_power"


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"", b"<html>", b"[1, 2]", b"[" * 100_000, b'"x"', b"\xff\xfe{"])
def test_answers_that_are_no_resource(certs, opened, body):
    """Anything but a JSON object is garbage, said in one line; the next look works."""
    with Bmc(certs.good) as bmc:
        client = opened(bmc)
        whole, bmc.tree[POWER] = bmc.tree[POWER], body
        assert reason(client.look()) == "garbage"
        bmc.tree[POWER] = whole
        assert watts(client.look()) == 500


def test_an_endless_answer_is_cut_off(certs, opened):
    """A BMC cannot fill the memory: an answer ends after a few megabytes."""

    def endless(handler):
        if handler.path != POWER:
            return False
        handler.send_response(200)
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b" " * 65536)
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = endless
        assert reason(opened(bmc).look()) == "garbage"


def test_a_compressed_answer_is_not_unpacked(certs, opened):
    """Some kilobytes of gzip could be gigabytes: it is not asked for, and not taken."""
    asked = []

    def zipping(handler):
        asked.append(handler.headers["Accept-Encoding"])
        if handler.path != POWER:
            return False
        body = gzip.compress(json.dumps(bmc.tree[POWER]).encode())
        handler.answer(200, body, **{"Content-Encoding": "gzip"})
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = zipping
        assert reason(opened(bmc).look()) == "garbage"
        assert set(asked) == {"identity"}


@pytest.mark.slow
def test_a_tree_in_circles_ends(certs, opened):
    """Collections that list themselves are left after a bounded number of requests."""
    with Bmc(certs.good, redfishmock.node(None)) as bmc:
        many = [{"@odata.id": f"/redfish/v1/Chassis/{n}"} for n in range(5000)]
        bmc.tree["/redfish/v1/Chassis"] = {"Members": many}
        bmc.tree["/redfish/v1/Systems/1"] = {}
        assert reason(opened(bmc).look()) in {"no_power", "ambiguous", "garbage"}
        assert len(bmc.seen) < 100


@pytest.mark.slow
def test_other_hosts_are_never_asked(certs, opened):
    """A redirect to another host, or to plain HTTP, is not followed: the token stays where it belongs."""
    with Bmc(certs.good) as bmc, Bmc(certs.good) as other:
        for target in (f"{other.url}{POWER}", bmc.url.replace("https", "http") + POWER):
            bmc.redirects[POWER] = target
            assert reason(opened(bmc).look()) == "garbage"
        assert not other.seen


def test_a_bmc_in_capitals(certs, opened):
    """A host name is the same in capitals."""
    with Bmc(certs.good) as bmc:
        url = bmc.url.replace("127.0.0.1", "LOCALHOST")
        assert watts(opened(bmc, url=url).look()) == 500


def test_cookies_are_not_kept(certs, opened):
    """A BMC that sets cookies without end fills no memory, and gets none back."""
    cookies = []

    def baking(handler):
        cookies.append(handler.headers.get("Cookie"))
        if handler.path != POWER:
            return False
        handler.answer(200, bmc.tree[POWER], **{"Set-Cookie": f"c{len(cookies)}=x; Max-Age=9999"})
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = baking
        client = opened(bmc)
        for _ in range(3):
            watts(client.look())
        assert set(cookies) == {None}


def test_the_environments_proxy_and_netrc_are_not_used(certs, opened, monkeypatch, tmp_path):
    """HTTPS_PROXY and .netrc of whoever started the daemon are not the BMC's."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    sent = []
    with Bmc(certs.good) as bmc:
        bmc.on_request = lambda handler: sent.append(handler.headers.get("Authorization"))
        assert watts(opened(bmc).look()) == 500
    assert set(sent) == {None}


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_slow_answer_is_given_up(certs, opened):
    """A BMC that would answer after 40 s costs half of a look's time, and the session stays."""
    let_go = []

    def slow():
        while not let_go:
            time.sleep(0.05)
        return {"PowerControl": [{"PowerConsumedWatts": 500}]}

    with Bmc(certs.good) as bmc:
        client = opened(bmc, timeout_s=3.0)
        watts(client.look())
        bmc.tree[POWER] = slow
        began = time.monotonic()
        assert reason(client.look()) == "timeout"
        assert time.monotonic() - began < 30
        let_go.append(True)
        assert watts(client.look()) == 500
        assert bmc.logins() == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", ["header", "body"])
def test_a_drip_is_given_up(certs, opened, part):
    """A byte now and then keeps every read alive; the request ends all the same."""
    over = []

    def drip(handler):
        if handler.path != POWER:
            return False
        if part == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "100000")
            handler.end_headers()
        while not over:
            handler.wfile.write(b"x")
            time.sleep(0.1)
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = drip
        client = opened(bmc, timeout_s=1.0)
        began = time.monotonic()
        assert reason(client.look()) == "timeout"
        assert time.monotonic() - began < 30
        over.append(True)


def test_a_look_is_ended_from_another_thread(certs, opened):
    """A daemon that stops need not wait for a BMC that hangs; its session is deleted all the same."""
    import threading

    over = threading.Event()
    with Bmc(certs.good) as bmc:
        client = opened(bmc, timeout_s=120.0)
        watts(client.look())
        bmc.on_request = lambda handler: handler.path == POWER and (over.wait(120) or True)
        found = []
        thread = threading.Thread(target=lambda: found.append(client.look()))
        asked = len(bmc.seen)
        thread.start()
        while len(bmc.seen) == asked:
            time.sleep(0.01)
        client.stop()
        thread.join(60)
        assert reason(found[0]) == "timeout"
        client.close()
        assert not bmc.sessions
        assert reason(client.look()) == "timeout"
        over.set()


def test_a_bmc_that_hangs_in_the_handshake(certs, opened):
    """A port that accepts and says nothing is a timeout."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert reason(opened(None, url=url, timeout_s=1.0).look()) == "timeout"
        assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_slow_tree_is_walked_in_parts(certs, opened):
    """Where the walk does not fit into one look, the next goes on from what is known."""
    with Bmc(certs.good) as bmc:
        for path, resource in list(bmc.tree.items()):
            if path != "/redfish/v1":
                bmc.tree[path] = lambda found=resource: (time.sleep(0.3), found)[1]
        client = opened(bmc, timeout_s=1.0)
        for _ in range(60):
            result = client.look()
            if result.readings:
                break
            assert reason(result) == "timeout"
        assert watts(result) == 500


def test_nobody_there(opened):
    """A closed port is unreachable, with the system's own word for it."""
    result = opened(None, url="https://127.0.0.1:1").look()
    assert reason(result) == "unreachable"
    assert "refused" in result.failures[0].message


def test_no_tls_there(opened):
    """A port that speaks something else is told from one that is closed."""
    import http.server
    import threading

    plain = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=plain.serve_forever, args=(0.05,), daemon=True).start()
    url = f"https://127.0.0.1:{plain.server_address[1]}"
    result = opened(None, url=url).look()
    plain.shutdown()
    plain.server_close()
    assert reason(result) == "unreachable"
    assert "TLS" in result.failures[0].message


# --- sessions -----------------------------------------------------------------------------------


def test_a_session_is_reused_and_deleted_at_the_end(certs, opened):
    """One login, one token, and the BMC sees its DELETE."""
    with Bmc(certs.good) as bmc:
        client = opened(bmc)
        for _ in range(3):
            watts(client.look())
        assert len(bmc.sessions) == 1
        (path,) = bmc.sessions
        client.close()
        assert not bmc.sessions
        assert ("DELETE", path) in bmc.seen
        client.close()
        assert watts(client.look()) == 500
        assert bmc.logins() == 2


def test_the_session_is_deleted_when_the_source_closes(certs, opened):
    """Behind the poller's thread, too."""
    with Bmc(certs.good) as bmc:
        client = opened(bmc)
        polled = Polled("bmc", client.look, every_s=0.05, limit_s=10, close=client.close)
        until = time.monotonic() + 60
        while not polled.read(full=True).readings and time.monotonic() < until:
            time.sleep(0.01)
        polled.close()
        assert bmc.logins() == 1
        assert not bmc.sessions


def test_a_session_that_is_over_is_renewed(certs, opened):
    """At 401 there is one login again, and the look succeeds."""
    with Bmc(certs.good) as bmc:
        client = opened(bmc)
        watts(client.look())
        bmc.sessions.clear()
        assert watts(client.look()) == 500
        assert bmc.logins() == 2


def test_a_token_refused_at_once_does_not_loop(certs, opened):
    """A BMC that refuses even a fresh token is not logged into again and again."""
    with Bmc(certs.good) as bmc:
        bmc.statuses[POWER] = 401
        client = opened(bmc)
        assert reason(client.look()) == "wrong_credentials"
        for _ in range(5):
            client.look()
        assert bmc.logins() == 2
        assert len(bmc.sessions) == 1, "the first session was left behind"
        client.close()
        assert not bmc.sessions


def test_a_session_without_a_location_is_found_in_its_body(certs, opened):
    """Where only the resource says the session's path, it is deleted all the same."""

    def bare(handler):
        if handler.command != "POST":
            return False
        path, token = bmc.open_session()
        handler.answer(201, {"@odata.id": path}, **{"X-Auth-Token": token})
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = bare
        client = opened(bmc)
        watts(client.look())
        client.close()
        assert not bmc.sessions


def test_a_location_with_the_bmcs_own_name(certs, opened):
    """A BMC may name itself otherwise than we do: the session is deleted where we reach it."""

    def named(handler):
        if handler.command != "POST":
            return False
        path, token = bmc.open_session()
        where = f"https://ilo-42.internal{path}"
        handler.answer(201, {}, **{"X-Auth-Token": token, "Location": where})
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = named
        client = opened(bmc)
        watts(client.look())
        client.close()
        assert not bmc.sessions


@pytest.mark.slow
@pytest.mark.parametrize("way", ["absent", "404", "405", "501"])
def test_basic_authentication_where_there_are_no_sessions(certs, opened, way):
    """A BMC without a session service is asked with user and password."""
    tree = redfishmock.node()
    with Bmc(certs.good, tree) as bmc:
        bmc.basic = True
        if way == "absent":
            bmc.tree["/redfish/v1"] = {"Systems": tree["/redfish/v1"]["Systems"]}
        else:
            bmc.statuses[SESSIONS] = int(way)
        client = opened(bmc)
        assert watts(client.look()) == 500
        assert watts(client.look()) == 500
        assert bmc.logins() == (0 if way == "absent" else 1)


@pytest.mark.parametrize("basic", [False, True])
def test_wrong_credentials_are_not_tried_again_and_again(certs, opened, tmp_path, basic):
    """A BMC that locks accounts sees one attempt; it is tried at once when the file is mended."""
    secret = credentials(tmp_path, f"{USER}:wrong\n")
    with Bmc(certs.good) as bmc:
        bmc.basic = basic
        if basic:
            bmc.tree["/redfish/v1"] = {"Systems": bmc.tree["/redfish/v1"]["Systems"]}
        client = opened(bmc, credentials=secret)
        results = [client.look() for _ in range(5)]
        attempts = [path for method, path in bmc.seen if (method, path) != ("GET", "/redfish/v1")]
        assert len(attempts) == 1
        assert {reason(result) for result in results} == {"wrong_credentials"}
        assert "300 s" in results[0].failures[0].message
        credentials(tmp_path)
        assert watts(client.look()) == 500


def test_wrong_credentials_are_tried_again_later(certs, opened, tmp_path, monkeypatch):
    """After the pause there is one more attempt."""
    secret = credentials(tmp_path, f"{USER}:wrong\n")
    with Bmc(certs.good) as bmc:
        client = opened(bmc, credentials=secret)
        client.look()
        now = time.monotonic
        monkeypatch.setattr(redfish.time, "monotonic", lambda: now() + 301)
        client.look()
        assert bmc.logins() == 2


def test_no_session_left(certs, opened):
    """A BMC whose sessions are all taken is busy; nobody's password is wrong."""

    def full(handler):
        if handler.command != "POST":
            return False
        handler.answer(400, {"error": {"@Message.ExtendedInfo": [
            {"MessageId": "Base.1.8.SessionLimitExceeded"}]}})  # fmt: skip
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = full
        client = opened(bmc)
        assert reason(client.look()) == "busy"
        bmc.on_request = None
        assert watts(client.look()) == 500


# --- certificates -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_certificates_are_checked(certs, opened):
    """Self-signed, of another host, expired: refused before anything is sent; without verify taken."""
    with Bmc(certs.own) as bmc:
        result = opened(bmc).look()
        assert reason(result) == "certificate"
        assert "ca-file" in result.failures[0].message
        assert not bmc.seen
        assert watts(opened(bmc, verify=False).look()) == 500
        assert watts(opened(bmc, verify=False, ca_file=None).look()) == 500


def test_the_systems_certificates_are_the_default(certs, opened):
    """Without a ca-file a site's own CA is unknown."""
    with Bmc(certs.good) as bmc:
        assert reason(opened(bmc, ca_file=None).look()) == "certificate"


def test_a_certificate_of_another_name(certs, opened):
    """The name is checked, not only the chain."""
    with Bmc(certs.good) as bmc:
        other = bmc.url.replace("127.0.0.1", "127.0.0.2")
        assert reason(opened(bmc, url=other).look()) in {"certificate", "unreachable"}


def test_an_expired_certificate(tmp_path, opened):
    """An expired certificate is told as such."""
    now = datetime.datetime.now(datetime.UTC)
    ca = webcerts.make("old CA")
    pair = webcerts.make("old", ca)
    old = pair.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(pair.key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now - datetime.timedelta(days=1))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    expired = webcerts.Pair(builder.sign(ca.key, old.signature_hash_algorithm), pair.key)
    ca_file, _ = ca.write(tmp_path, "oldca")
    with Bmc(expired.write(tmp_path, "old")) as bmc:
        result = opened(bmc, ca_file=ca_file).look()
        assert reason(result) == "certificate"
        assert "expired" in result.failures[0].message


def test_a_ca_file_that_cannot_be_used(certs, opened, tmp_path):
    """Missing, or not PEM: a failure that names the file."""
    broken = tmp_path / "ca.pem"
    broken.write_text("nothing")
    with Bmc(certs.good) as bmc:
        for path in (broken, tmp_path / "absent.pem"):
            result = opened(bmc, ca_file=path).look()
            assert reason(result) == "certificate"
            assert str(path) in result.failures[0].message
        assert not bmc.seen


def self_signed(place, key):
    """Certificate and key of a BMC that signed itself, for loopback."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bmc")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
    )
    return webcerts.Pair(builder.sign(key, hashes.SHA256()), key).write(place, "factory")


def test_a_bmcs_own_certificate_may_be_named(certs, opened, tmp_path):
    """A certificate that signed itself can be the ca-file, and is then checked."""
    pair = self_signed(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with Bmc(pair) as bmc, Bmc(certs.good) as other:
        assert watts(opened(bmc, ca_file=pair[0]).look()) == 500
        assert reason(opened(other, ca_file=pair[0]).look()) == "certificate"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_an_old_bmcs_short_key(opened, tmp_path):
    """A key of 1024 bits, as BMCs of ten years ago have, is no certificate, and with verify off no hindrance."""
    pair = self_signed(tmp_path, rsa.generate_private_key(65537, 1024))
    with Bmc(pair) as bmc:
        assert reason(opened(bmc, ca_file=pair[0]).look()) in {"certificate", "unreachable"}
        assert watts(opened(bmc, verify=False).look()) == 500


def test_a_renewed_ca_file_is_taken(certs, opened, tmp_path):
    """After a certificate was refused the ca-file is read again: no restart is needed."""
    path, _ = webcerts.make("yesterday's CA").write(tmp_path, "site")
    with Bmc(certs.good) as bmc:
        client = opened(bmc, ca_file=path)
        assert reason(client.look()) == "certificate"
        path.write_bytes(certs.ca.read_bytes())
        os.utime(path, ns=(1, 1))
        assert watts(client.look()) == 500


# --- secrets ------------------------------------------------------------------------------------


def test_credentials_are_read(tmp_path):
    """USER:PASSWORD with anything printable in it, colons and spaces included."""
    assert read_credentials(credentials(tmp_path, "a:b:c d\n")) == ("a", "b:c d")
    assert read_credentials(credentials(tmp_path, "ü:ß\r\n")) == ("ü", "ß")


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o660, 0o650, 0o644, 0o777])
def test_a_readable_credentials_file_is_refused(tmp_path, mode):
    """Any access for others is refused, and more than reading for the group, with the command that mends it."""
    path = credentials(tmp_path)
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"chmod 600 {path}") as caught:
        read_credentials(path)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "user", ":x", "x:", "a:b\nc:d", "a:b\x00", "a:" + "x" * 17_000, "a:b\x1b[0m"]
)
def test_credentials_that_are_none(tmp_path, text):
    """Wrong content is refused, and never repeated."""
    path = credentials(tmp_path, text)
    with pytest.raises(ValueError, match="USER:PASSWORD") as caught:
        read_credentials(path)
    assert "xxxx" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_credentials_that_are_no_file(tmp_path):
    """A directory, a FIFO, a device and nothing are refused without waiting."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (tmp_path, fifo, tmp_path / "absent"):
        with pytest.raises(ValueError, match="credentials file"):
            read_credentials(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_credentials_of_somebody_else(tmp_path):
    """Neither a stranger's file nor a stranger's link to one of ours is taken; root's link is."""
    path = credentials(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_credentials(link) == (USER, PASSWORD)
    os.lchown(link, 12345, 12345)
    with pytest.raises(ValueError, match="somebody else"):
        read_credentials(link)
    os.chown(path, 12345, 12345)
    with pytest.raises(ValueError, match="chown"):
        read_credentials(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize("mode", [0o640, 0o440, 0o600, 0o400])
def test_the_group_may_read_what_is_roots(tmp_path, monkeypatch, mode):
    """
    root:jobwatt 0640, a Kubernetes secret with fsGroup, systemd's LoadCredential= (whose access list
    shows there): who is in the group of root's file is root's decision. Of a user's own file it is not.
    """
    path = credentials(tmp_path)
    path.chmod(mode)
    assert read_credentials(path) == (USER, PASSWORD)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read_credentials(path) == (USER, PASSWORD)
    path.chmod(mode | 0o004)
    with pytest.raises(ValueError, match=f"chmod 640 {path}"):
        read_credentials(path)
    path.chmod(mode)
    os.chown(path, 12345, -1)
    if mode & 0o040:
        with pytest.raises(ValueError, match=f"chmod 600 {path}"):
            read_credentials(path)
    else:
        assert read_credentials(path) == (USER, PASSWORD)


def test_an_exceptions_text_is_not_told():
    """What a source's work raises is told by its type alone: its text may repeat what a file or a device said."""

    def work() -> SourceResult:
        raise ValueError(f"bad line: {USER}:{PASSWORD}")

    polled = Polled("bmc", work, every_s=60, limit_s=10)
    try:
        while not (found := polled.read(full=True).failures):
            time.sleep(0.01)
    finally:
        polled.close()
    assert [failure.reason for failure in found] == ["exception"]
    assert "ValueError" in found[0].message
    assert PASSWORD not in found[0].message


def test_a_credentials_file_that_is_refused_is_a_failure(certs, opened, secret):
    """The look says what mends it, and the BMC is not asked."""
    secret.chmod(0o644)
    with Bmc(certs.good) as bmc:
        result = opened(bmc).look()
        assert reason(result) == "credentials_file"
        assert "chmod 600" in result.failures[0].message
        secret.chmod(0o600)
        assert watts(opened(bmc).look()) == 500
        assert reason(opened(bmc, credentials=None).look()) == "credentials_file"


@pytest.mark.slow
def test_the_password_is_never_logged(certs, opened, tmp_path, caplog):
    """At debug level, in good and in bad looks, neither password nor token nor basic header appears."""
    with caplog.at_level(logging.DEBUG), Bmc(certs.good) as bmc:
        client = opened(bmc)
        watts(client.look())
        tokens = set(bmc.sessions.values())
        bmc.sessions.clear()
        watts(client.look())
        tokens |= set(bmc.sessions.values())
        for path, status in ((POWER, 500), (SESSIONS, 400), (SESSIONS, 404), (POWER, 401)):
            bmc.statuses = {path: status}
            fresh = opened(bmc)
            said = [fresh.look(), fresh.look()]
            assert PASSWORD not in repr(said)
        bmc.statuses = {}
        client.close()
        text = caplog.text + repr(client.__dict__)
    for secret in (PASSWORD, redfishmock.basic_token(), *tokens):
        assert secret not in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://bmc", ("https://bmc", "")),
        ("https://bmc:8443/", ("https://bmc:8443", "")),
        ("https://[fe80::1]:443/redfish/v1/", ("https://[fe80::1]:443", "")),
        ("https://[FE80::1%eth0]", ("https://[fe80::1%25eth0]", "")),
        ("https://BMC.example", ("https://bmc.example", "")),
        ("https://b/redfish/v1/Systems/Node2", ("https://b", "/redfish/v1/Systems/Node2")),
    ],
)
def test_urls(url, expected):
    """Host, port and, where a BMC serves several, the system; written as the library writes it."""
    import requests

    assert redfish_url.parse_url(url) == expected
    prepared = requests.Request("GET", f"{expected[0]}/redfish/v1/x").prepare()
    assert prepared.url == f"{expected[0]}/redfish/v1/x"


@pytest.mark.parametrize(
    "url",
    ["", "bmc", "http://bmc", "https://", "https://u:geheim@bmc", "https://bmc/rest", "https://bmc/?x=1",
     "https://bmc:99999999", "https://bmc:99999", "https://bmc:0443", "https://b mc", "ftp://bmc", "https://bmc/redfish/v1/Systems/../x", "https://[x"],
)  # fmt: skip
def test_urls_that_are_refused(url):
    """Plain HTTP would show the password; one in the url would be in every process list."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  any line will do, save the secret
        redfish_url.parse_url(url)
    assert "geheim" not in str(caught.value)


# --- the library --------------------------------------------------------------------------------


def test_without_the_library(certs, opened, monkeypatch):
    """An optional dependency that is not installed is a failure that names the command."""
    monkeypatch.delitem(sys.modules, "jobwatt.sources.redfish_client", raising=False)
    monkeypatch.setitem(sys.modules, "redfish", None)
    import jobwatt.sources

    monkeypatch.delattr(jobwatt.sources, "redfish_client", raising=False)
    result = redfish.Bmc("https://127.0.0.1:1", credentials=None).look()
    assert reason(result) == "not_installed"
    assert "pip install" in result.failures[0].message


@pytest.mark.slow
def test_the_library_has_one_home():
    """redfish, requests and urllib3 are imported by one file each, so that another library could take their place."""
    from test_architecture import importers

    assert importers("redfish") == {"sources/redfish_client.py"}
    for library in ("requests", "urllib3"):
        assert importers(library) == {"sources/redfish_https.py"}


def test_the_library_is_loaded_when_it_is_used():
    """Who asks no BMC does not import it."""
    code = (
        "import sys, jobwatt.sources.redfish, jobwatt.agent; "
        "assert not {'redfish', 'requests', 'urllib3'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "exporter"}
    )


@pytest.mark.slow
def test_the_daemon_with_a_bmc(certs, secret, tmp_path):
    """`jobwatt serve` shows the BMC's power as the node's meter, and its end deletes the session."""
    argv = [
        sys.executable, "-m", "jobwatt", "serve", "--web.listen-address=127.0.0.1:0", f"--path.state={tmp_path}",
        f"--bmc.ca-file={certs.ca}", f"--bmc.credentials={secret}", "--no-source.nvml", "--no-slurm.rpc",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path("exporter").resolve())}
    log = tmp_path / "log"
    with Bmc(certs.good, fixture("lenovo-xcc")) as bmc, log.open("wb") as out:
        daemon = subprocess.Popen([*argv, f"--bmc.redfish={bmc.url}"], stderr=out, env=env)
        try:
            page, until = "", time.monotonic() + 60
            while "jobwatt_wall_power_watts{" not in page and time.monotonic() < until:
                time.sleep(0.2)
                port = re.search(r"serves on 127\.0\.0\.1:(\d+)", log.read_text())
                if port:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics") as answer:
                        page = answer.read().decode()
            assert 'jobwatt_wall_power_watts{source="bmc",meter="PowerControl"} 812' in page
            assert bmc.sessions
            daemon.terminate()
            assert daemon.wait(60) == 0
            assert not bmc.sessions
        finally:
            daemon.kill()
            daemon.wait()
    assert PASSWORD not in log.read_text() + page


def test_a_server_that_is_not_ours(certs, opened, tmp_path):
    """OpenStack's static Redfish server (sushy-tools) with DMTF's mock-up: 374 W, and no session."""
    from prom import free_port

    port = free_port()
    argv = [
        sys.executable, "-m", "sushy_tools.static.main", "-i", "127.0.0.1", "-p", str(port),
        "-m", str(redfishmock.DATA / "public-rackmount1"), "-c", str(certs.good[0]), "-k", str(certs.good[1]),
    ]  # fmt: skip
    with (tmp_path / "out").open("wb") as out:
        server = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        client = opened(None, url=f"https://127.0.0.1:{port}")
        until = time.monotonic() + 60
        while not (result := client.look()).readings and time.monotonic() < until:
            assert reason(result) in {"unreachable", "timeout"}
            time.sleep(0.1)
        assert watts(result) == 374
    finally:
        server.terminate()
        server.wait()
