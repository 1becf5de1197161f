"""A BMC by Redfish: which of its figures is the node's power."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import redfishkit
from jobwatt.model import NS_PER_S, Domain, Kind
from jobwatt.sources import redfish_power
from redfishkit import CHASSIS, reason, watts
from redfishmock import Bmc, fixture, folder

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures


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
