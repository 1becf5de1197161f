"""The client of a mock BMC, its certificates and credentials, and what a look gave."""

from __future__ import annotations

import pytest

from jobwatt.sources import redfish
from redfishmock import PASSWORD, Certs, credentials

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
