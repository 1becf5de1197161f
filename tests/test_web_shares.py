"""A client's share of the HTTP server's CPU time, the log's lines, and threads for all connections."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobwatt import webshares
from jobwatt.web import Limits


class TestShares:
    """CPU time by client, and the log's lines."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(webshares.time, "monotonic", lambda: now[0])
        return now

    def test_a_bucket(self, clock):
        """What is used beyond the burst is waited for at the share's rate, a few seconds at most."""
        shares = webshares.Shares(0.1, 0.5)
        shares.spend("a", 0.5)
        assert shares.wait_s("a") == 0
        shares.spend("a", 0.2)
        assert shares.wait_s("a") == pytest.approx(2.0)
        assert shares.wait_s("b") == 0
        clock[0] += 2.0
        assert shares.wait_s("a") == pytest.approx(0.0)
        shares.spend("a", 1000.0)
        assert shares.wait_s("a") == pytest.approx(webshares.WAIT_MAX_S)

    def test_memory_is_bounded(self, clock):
        """Of more clients than are remembered, those that were heard of last are."""
        shares = webshares.Shares(0.1, 0.5)
        for number in range(2 * webshares.CLIENTS_MAX):
            shares.spend(str(number), 1.0)
        with shares.turn("a", 0.1):
            assert shares._lanes
        assert not shares._lanes
        assert len(shares._owed) == webshares.CLIENTS_MAX
        assert shares.wait_s("0") == 0
        assert shares.wait_s(str(2 * webshares.CLIENTS_MAX - 1)) > 0

    @pytest.mark.parametrize(
        ("address", "client"),
        [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::ffff:1", "2001:db8::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.2", "127.0.0.0/8"),
            ("127.99.0.1", "127.0.0.0/8"),
            ("::1", "::/64"),
            ("nonsense", "nonsense"),
        ],
    )
    def test_who_is_one_client(self, address, client):
        """Addresses that one owner has by the million are one client."""
        assert webshares.client_of(address) == client

    def test_complaints_are_few(self, clock, caplog):
        """One line for a client and a reason an hour, and a hundred in all, the last of which says so."""
        complaints = webshares.Complaints()
        for _ in range(3):
            complaints.say("192.0.2.1", "wrong user or password")
        clock[0] += 3601
        complaints.say("192.0.2.1", "wrong user or password")
        assert len(caplog.records) == 2
        for number in range(300):
            complaints.say(f"198.51.100.{number}", "wrong user or password")
        assert len(caplog.records) == webshares.COMPLAINTS_MAX + 1
        assert "debug level" in caplog.records[-1].getMessage()


UNITS = sorted((Path(__file__).parents[1] / "packaging/systemd").glob("*.service"))
ASKERS = {"jobwatt-bmc-proxy": 64}  # threads beside those of the web server (bmcproxy/targets.py)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_units_have_threads_for_all_connections(unit):
    """
    TasksMax leaves room for each connection's thread, as many that have been ended and not gone yet, and the
    process's own threads and children.
    """
    found = re.search(r"^TasksMax=(\d+)$", unit.read_text(), re.MULTILINE)
    assert found
    assert int(found[1]) >= 2 * Limits().connections + ASKERS.get(unit.stem, 0) + 32
