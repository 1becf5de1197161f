"""Sessions of a BMC: opened once, renewed, deleted at the end; and credentials that it refuses."""

from __future__ import annotations

import time

import pytest

import redfishkit
import redfishmock
from jobwatt.sources import redfish
from jobwatt.sources.polled import Polled
from redfishkit import POWER, reason, watts
from redfishmock import SESSIONS, USER, Bmc, credentials

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures


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
