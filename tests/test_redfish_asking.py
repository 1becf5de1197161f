"""Asking a BMC: what is asked again and what is not, places that move or fail, and whose settings are not used."""

from __future__ import annotations

import time

import pytest

import redfishkit
import redfishmock
from jobwatt.meter import measure
from jobwatt.model import NS_PER_S, Step
from jobwatt.sources import redfish
from redfishkit import CHASSIS, POWER, reason, watts
from redfishmock import Bmc, folder

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures


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


def test_a_bmc_in_capitals(certs, opened):
    """A host name is the same in capitals."""
    with Bmc(certs.good) as bmc:
        url = bmc.url.replace("127.0.0.1", "LOCALHOST")
        assert watts(opened(bmc, url=url).look()) == 500


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
