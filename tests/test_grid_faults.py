"""The grid's carbon intensity: servers and networks that fail, each in bounded time and with its reason."""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gridkit
import gridmock
import netfaults
import webcerts
from gridkit import FAULTS, INTENSITY, _fields, asked, config, outcomes, shown
from gridmock import GridServer
from jobwatt.central.grid import settings as grid_settings
from jobwatt.central.grid.fetch import Fetcher
from jobwatt.central.grid.intensity import GridError
from jobwatt.central.grid.run import Grid

server, secrets = gridkit.server, gridkit.secrets  # fixtures


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "outcome"), FAULTS)
def test_a_fault_is_counted_and_the_last_figure_stays(server, secrets, fault, outcome):
    """Whatever is answered, the poll ends in bounded time with its reason, and what was known is still shown."""
    made = config(server, secrets, "rte")
    source = grid_settings.SourceConfig(
        **{**_fields(made.sources[0]), "timeout_s": 1.5 if outcome == "timeout" else 20}
    )
    grid = Grid(grid_settings.GridConfig("FR", sources=(source,)), None)
    asked(grid)
    server.fault = fault
    page = asked(grid)
    assert outcomes(page) == {("rte", "ok"): 1, ("rte", outcome): 1}
    assert shown(page)[INTENSITY, "rte"] == 22


def test_unreachable(secrets):
    """A server that is gone is a fault like any other."""
    with GridServer() as server:
        made = config(server, secrets, "rte")
    assert outcomes(asked(Grid(made, None))) == {("rte", "unreachable"): 1}


def test_retry_after_is_honoured(server, secrets):
    """Seconds or a date; without one, the pause doubles from the interval on; a success ends it."""
    poller = Grid(config(server, secrets, "rte"), None).pollers[0]
    server.fault = gridmock.answering(b"", 429, Retry_After="1234")
    assert poller.once() == 1234
    moment = datetime.now(UTC) + timedelta(hours=2)
    server.fault = gridmock.answering(
        b"", 503, Retry_After=format_datetime(moment.replace(microsecond=0), usegmt=True)
    )
    assert 7100 < poller.once() <= 7200
    for value in ("soon", "-5", ""):
        server.fault = gridmock.answering(b"", 429, Retry_After=value)
        assert poller.once() in {1200, 2400, 3600}
    server.fault = None
    assert poller.once() == 300


@pytest.fixture
def tls(tmp_path):
    """A CA's file, and a context for a server of its."""
    authority = webcerts.make("grid test CA")
    cert, key = webcerts.make("localhost", authority).write(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return authority.write(tmp_path, "ca")[0], context


def test_https(tls, secrets):
    """The real APIs are HTTPS: a certificate that is trusted is taken, another refused, a drip ended."""
    ca_file, context = tls
    with GridServer(tls=context) as server:
        trusted = config(server, secrets, "electricitymaps", more=f'ca_file = "{ca_file}"')
        assert shown(asked(Grid(trusted, None)))[INTENSITY, "electricitymaps"] == 58
        server.asked.clear()
        page = asked(Grid(config(server, secrets, "electricitymaps"), None))
        assert outcomes(page) == {("electricitymaps", "tls"): 1}
        assert not server.asked
        server.fault = gridmock.drip
        with pytest.raises(GridError) as caught:
            Fetcher(0.5, ca_file)(server.url)
        assert caught.value.reason == "timeout"


@pytest.mark.slow
@pytest.mark.parametrize("of", ["handshake", "proxy"])
def test_a_drip_before_the_answer(monkeypatch, of):
    """A server that drips its part of TLS's handshake, or a proxy its leave, is given up at the deadline as well."""
    start = {"handshake": b"\x16\x03\x03\x40\x00", "proxy": b"HTTP/1.1 200 OK\r\nX: "}[of]
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with netfaults.drips(start) as port:
        if of == "proxy":
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        began_s = time.monotonic()
        with pytest.raises(GridError) as caught:
            Fetcher(0.5)(f"https://127.0.0.1:{port}/")
        assert time.monotonic() - began_s < 10
    assert caught.value.reason == "timeout"


@pytest.mark.slow
def test_a_names_addresses_share_the_deadline(server, monkeypatch):
    """Where a name has addresses that never answer, the one that does is asked within the same deadline."""
    port = int(server.url.rpartition(":")[2])
    with netfaults.silent_first(monkeypatch, "grid.test", port):
        server.fault = gridmock.answering(b"[7]")
        for limit_s in (2, 20):  # the second where a busy machine did not do it within the first
            found, began_s = None, time.monotonic()
            with suppress(GridError):
                found = Fetcher(limit_s)(f"http://grid.test:{port}/")
                break
        assert found == [7]
        assert (
            time.monotonic() - began_s < 5 * limit_s
        )  # one deadline each would be ten times as long


def test_through_a_proxy(tls, secrets, monkeypatch):
    """https_proxy is honoured: many clusters reach the world through one only."""
    ca_file, context = tls
    with GridServer(tls=context) as server, gridmock.Proxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        made = config(server, secrets, "electricitymaps", more=f'ca_file = "{ca_file}"')
        assert shown(asked(Grid(made, None)))[INTENSITY, "electricitymaps"] == 58
        assert proxy.asked == [server.url.removeprefix("https://")]


def test_a_ca_file_that_is_none(server, secrets, tmp_path):
    """Said as such."""
    (tmp_path / "ca").write_text("no certificate")
    made = config(server, secrets, "rte", more=f'ca_file = "{tmp_path}/ca"')
    assert outcomes(asked(Grid(made, None))) == {("rte", "credentials"): 1}


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)  # fmt: skip
@given(raw=st.binary(max_size=300), head=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nContent-Length: "]))  # fmt: skip
def test_any_bytes_are_an_answer_or_a_reason(server, raw, head):
    """What is no HTTP, or HTTP that means nothing, is a reason too."""

    def fault(handler):
        handler.wfile.write(head + raw)
        handler.close_connection = True

    server.fault = fault
    with suppress(GridError):
        Fetcher(2.0)(server.url)
