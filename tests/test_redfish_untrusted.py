"""What a BMC answers is not believed: any JSON, any tree, links and redirects that lead elsewhere, answers without end."""

from __future__ import annotations

import contextlib
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import redfishkit
import redfishmock
from jobwatt.sources import redfish_power, redfish_tree
from redfishkit import CHASSIS, POWER, reason, watts
from redfishmock import Bmc

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures

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
