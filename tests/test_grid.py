"""The grid's carbon intensity: what is asked, what is believed, what is in use, and what is shown."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import gridmock
import netfaults
import webcerts
from gridmock import CANARIES, EM_TOKEN, PROM_TOKEN, WT_PAIR, GridServer
from jobwatt.central.grid import (
    electricitymaps,
    headers,
    kept,
    promql,
    rte,
    table,
    uk,
    watttime,
)
from jobwatt.central.grid import (
    settings as grid_settings,
)
from jobwatt.central.grid.fetch import LARGEST, Fetcher
from jobwatt.central.grid.intensity import (
    GridError,
    Intensity,
    Meaning,
    checked,
    choose,
    pause_s,
)
from jobwatt.central.grid.run import Grid
from jobwatt.config import ConfigError
from jobwatt.web import WebServer
from prom import Prometheus

NOW = datetime(2026, 11, 25, 12, 34, tzinfo=UTC).timestamp()
INTENSITY = "jobwatt_grid_carbon_intensity_grams_per_kwh"


@pytest.fixture
def server():
    with GridServer() as made:
        yield made


@pytest.fixture
def secrets(tmp_path):
    """One file a credential, as a site would have them."""
    files = {"em": EM_TOKEN, "wt": WT_PAIR, "prom": PROM_TOKEN}
    for name, text in files.items():
        path = tmp_path / name
        path.write_text(f"{text}\n")
        path.chmod(0o600)
    return tmp_path


def config(server, secrets, *kinds, zone="FR", top="", more=""):
    """A grid.toml with these kinds, all of them at the local server."""
    given = {
        "rte": "",
        "electricitymaps": f'token_file = "{secrets}/em"',
        "uk": "",
        "watttime": f'region = "CAISO_NORTH"\ncredentials_file = "{secrets}/wt"',
        "promql": f'query = "max(mix)"\nscope = "lifecycle"\nfigure = "average"\ntoken_file = "{secrets}/prom"',
    }
    sources = [
        f'[[source]]\nkind = "{kind}"\nurl = "{server.url}"\ntimeout = "20s"\n{given[kind]}\n{more}\n'
        for kind in kinds
    ]
    return grid_settings.parse(f'zone = "{zone}"\n{top}\n' + "\n".join(sources))


def shown(page):
    """{(metric, source): value} of a page."""
    return {
        (sample.name, sample.labels.get("source")): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name.startswith("jobwatt_grid") and "outcome" not in sample.labels
    }


def outcomes(page):
    return {
        (sample.labels["source"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if "outcome" in sample.labels
    }


def asked(grid):
    """Ask every source once; returns the page."""
    for poller in grid.pollers:
        poller.once()
    return grid.board.metrics(openmetrics=False, names=frozenset())


# which figure is in use

A = Meaning("a", "lifecycle", "average", 100)
B = Meaning("b", "lifecycle", "average", 100)
DIRECT = Meaning("direct", "direct", "average", 100)
MARGINAL = Meaning("marginal", "lifecycle", "marginal", 100)
TABLE = Meaning("table", "lifecycle", "average", 1000, yearly=True)


@pytest.mark.parametrize(
    ("order", "ages", "scope", "kind", "expected"),
    [
        ([A, B, TABLE], {"a": 5, "b": 5, "table": 5}, "lifecycle", "average", "a"),
        ([B, A, TABLE], {"a": 5, "b": 5, "table": 5}, "lifecycle", "average", "b"),
        ([A, B, TABLE], {"b": 5, "table": 5}, "lifecycle", "average", "b"),
        ([A, B, TABLE], {"a": 101, "b": 5, "table": 5}, "lifecycle", "average", "b"),
        ([A, B, TABLE], {"a": 100, "b": 5, "table": 5}, "lifecycle", "average", "a"),
        ([A, B, TABLE], {"a": 101, "b": 101, "table": 5}, "lifecycle", "average", "table"),
        ([TABLE, A], {"a": 5, "table": 5}, "lifecycle", "average", "table"),
        # a table that is too old gives way to what is fresh, and is better than nothing
        ([TABLE, A], {"a": 5, "table": 1001}, "lifecycle", "average", "a"),
        ([A, TABLE], {"a": 101, "table": 1001}, "lifecycle", "average", "table"),
        ([A, TABLE], {"table": 1001}, "lifecycle", "average", "table"),
        # another scope or kind is never in use, however alone it is
        ([DIRECT, MARGINAL, TABLE], {"direct": 5, "marginal": 5, "table": 5}, "lifecycle", "average", "table"),
        ([DIRECT, MARGINAL], {"direct": 5, "marginal": 5}, "lifecycle", "average", None),
        ([A, DIRECT, TABLE], {"a": 5, "direct": 5, "table": 5}, "direct", "average", "direct"),
        ([A, DIRECT, TABLE], {"a": 5, "direct": 101, "table": 5}, "direct", "average", None),
        ([A, MARGINAL], {"a": 5, "marginal": 5}, "lifecycle", "marginal", "marginal"),
        ([A], {"a": 101}, "lifecycle", "average", None),
        ([], {}, "lifecycle", "average", None),
    ],
)  # fmt: skip
def test_which_figure_is_in_use(order, ages, scope, kind, expected):
    """The first in order that is fresh and of the scope and kind wanted; else a yearly one of these; else none."""
    figures = {name: Intensity(50, NOW - age) for name, age in ages.items()}
    found = choose(order, figures, scope, kind, NOW)
    assert (found.source if found else None) == expected


@pytest.mark.parametrize(
    ("value", "t_s", "reason"),
    [
        (0, NOW, None),
        (3000, NOW, None),
        (-0.1, NOW, "implausible"),
        (3000.1, NOW, "implausible"),
        (float("nan"), NOW, "implausible"),
        (float("inf"), NOW, "implausible"),
        (10**400, NOW, "implausible"),
        (None, NOW, "null"),
        ("50", NOW, "malformed"),
        (True, NOW, "malformed"),
        ([50], NOW, "malformed"),
        (50, NOW + 3599, None),
        (50, NOW + 3601, "future"),
        (50, float("nan"), "malformed"),
    ],
)
def test_what_can_be_no_figure_is_refused(value, t_s, reason):
    """Null is not zero, a string is no number, and nothing outside 0 to 3000 g/kWh or from the future counts."""
    if reason is None:
        assert checked(value, t_s, NOW) == Intensity(float(value), t_s)
        return
    with pytest.raises(GridError) as caught:
        checked(value, t_s, NOW)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("interval", "failures", "asked_for", "expected"),
    [
        (300, 0, None, 300),
        (300, 1, None, 300),
        (300, 2, None, 600),
        (300, 4, None, 2400),
        (300, 5, None, 3600),
        (300, 10**6, None, 3600),
        (7200, 9, None, 7200),
        (300, 1, 120, 300),
        (300, 1, 900, 900),
        (300, 9, 900, 3600),
        (300, 1, 10**9, 86400),
    ],
)
def test_how_long_to_leave_a_source_alone(interval, failures, asked_for, expected):
    """The pause doubles up to an hour; a longer Retry-After counts, up to a day."""
    assert pause_s(interval, failures, asked_for) == expected


# what the sources answer


def test_every_source_answers(server, secrets):
    """Each API's figure comes out with its value, its time, and what it means."""
    gb = config(server, secrets, "uk", "watttime", zone="GB")
    fr = config(server, secrets, "rte", "electricitymaps", "promql")
    page = asked(Grid(fr, None)) + asked(Grid(gb, None))
    found = shown(page)
    assert found[INTENSITY, "rte"] == 22
    assert found[INTENSITY, "electricitymaps"] == 58
    assert found[INTENSITY, "promql"] == 41.5
    assert found[INTENSITY, "uk"] == 266
    assert found[INTENSITY, "watttime"] == 453.59237
    for source in ("rte", "electricitymaps", "promql", "uk", "watttime"):
        assert 0 <= time.time() - found["jobwatt_grid_reading_timestamp_seconds", source] < 3700
        assert found["jobwatt_grid_stale", source] == 0
    assert set(outcomes(page)) == {
        ("rte", "ok"), ("electricitymaps", "ok"), ("promql", "ok"), ("uk", "estimated"), ("watttime", "ok")
    }  # fmt: skip
    text = page.decode()
    assert f'{INTENSITY}{{zone="FR",source="rte",scope="direct",kind="average"}} 22' in text
    assert 'source="electricitymaps",scope="lifecycle",kind="average"' in text
    assert 'source="uk",scope="direct",kind="average"' in text
    assert 'source="watttime",scope="direct",kind="marginal"' in text


def test_direct_and_marginal_figures_are_shown_and_not_in_use(server, secrets):
    """RTE first in order, and still the life cycle figure is in use; WattTime never is."""
    grid = Grid(config(server, secrets, "rte", "watttime", "electricitymaps"), None)
    found = shown(asked(grid))
    assert [key[1] for key in found if key[0] == "jobwatt_grid_chosen"] == ["electricitymaps"]
    assert (INTENSITY, "rte") in found
    assert (INTENSITY, "watttime") in found


def test_the_configuration_may_want_direct_or_marginal_ones(server, secrets):
    """Then only those are in use, and the yearly life cycle figure is no substitute."""
    direct = Grid(config(server, secrets, "electricitymaps", "rte", top='scope = "direct"'), None)
    assert direct.board.ready() == (False, "no usable figure")
    asked(direct)
    assert direct.board.chosen().source == "rte"
    top = 'scope = "direct"\nfigure = "marginal"'
    marginal = Grid(config(server, secrets, "rte", "watttime", top=top), None)
    asked(marginal)
    assert marginal.board.chosen().source == "watttime"


def test_rte_newest_row_that_is_not_null(server, secrets):
    """Rows to come are null: they are neither taken nor read as 0."""
    assert shown(asked(Grid(config(server, secrets, "rte"), None)))[INTENSITY, "rte"] == 22
    server.rte = None
    page = asked(Grid(config(server, secrets, "rte"), None))
    assert (INTENSITY, "rte") not in shown(page)
    assert outcomes(page) == {("rte", "empty"): 1}


def test_electricity_maps_direct(server, secrets):
    """The scope asked for is the one that is sent, and an answer of another is refused."""
    grid = Grid(config(server, secrets, "electricitymaps", more='scope = "direct"'), None)
    assert 'scope="direct"' in asked(grid).decode()
    assert "emissionFactorType=direct" in server.asked[0][0]
    answer = {
        "zone": "FR",
        "carbonIntensity": 20,
        "datetime": "2026-11-25T12:00:00.000Z",
        "emissionFactorType": "direct",
    }
    assert electricitymaps.parse(answer, "FR", "direct", NOW).grams_per_kwh == 20
    for key, value in (("zone", "DE"), ("zone", None), ("emissionFactorType", "lifecycle")):
        with pytest.raises(GridError) as caught:
            electricitymaps.parse({**answer, key: value}, "FR", "direct", NOW)
        assert caught.value.reason == "mismatch"
    del answer["emissionFactorType"]
    with pytest.raises(GridError, match="not direct"):
        electricitymaps.parse(answer, "FR", "direct", NOW)


def test_estimates_are_said_to_be_estimates(server, secrets):
    """An hour that Electricity Maps estimates counts as one."""
    server.em_estimated = True
    page = asked(Grid(config(server, secrets, "electricitymaps"), None))
    assert outcomes(page) == {("electricitymaps", "estimated"): 1}


@pytest.mark.parametrize(
    ("forecast", "actual", "value", "outcome"),
    [(266, None, 266, "estimated"), (266, 263, 263, "ok"), (266, 0, 0, "ok"), (None, None, None, "null")],
)  # fmt: skip
def test_uk_actual_before_forecast(server, secrets, forecast, actual, value, outcome):
    """What happened counts once it is known (0 is known); until then the forecast, as an estimate."""
    server.uk_forecast, server.uk_actual = forecast, actual
    page = asked(Grid(config(server, secrets, "uk", zone="GB"), None))
    assert shown(page).get((INTENSITY, "uk")) == value
    assert outcomes(page) == {("uk", outcome): 1}


def test_uk_region(server, secrets):
    """A postcode's region has a forecast and no actual."""
    page = asked(Grid(config(server, secrets, "uk", zone="GB", more='postcode = "OX11"'), None))
    assert server.asked[0][0] == "/regional/postcode/OX11"
    assert shown(page)[INTENSITY, "uk"] == 266


def test_uk_half_hour_that_has_begun():
    """Of two half hours the one that runs counts, not the one to come."""
    halves = [
        {"from": "2026-11-25T12:00Z", "intensity": {"forecast": 1, "actual": 100}},
        {"from": "2026-11-25T12:30Z", "intensity": {"forecast": 200, "actual": None}},
        {"from": "2026-11-25T13:00Z", "intensity": {"forecast": 300, "actual": None}},
    ]
    expected = Intensity(200, NOW - 240, estimated=True)
    assert uk.parse({"data": halves}, NOW, regional=False) == expected
    with pytest.raises(GridError, match="clock"):
        uk.parse({"data": halves[2:]}, NOW, regional=False)


def test_watttime_token_is_kept_and_renewed(server, secrets):
    """One login serves many polls; a token that is no longer taken is renewed in the same poll."""
    grid = Grid(config(server, secrets, "watttime"), None)
    for _ in range(3):
        asked(grid)
    assert server.logins == 1
    server.wt_expired = True
    page = asked(grid)
    assert server.logins == 2
    assert outcomes(page) == {("watttime", "ok"): 4}


def test_watttime_region_not_subscribed(server, secrets):
    """403 with a fresh token is final for this poll: no second login."""
    made = config(server, secrets, "watttime")
    source = grid_settings.SourceConfig(**{**_fields(made.sources[0]), "region": "PJM_DC"})
    grid = Grid(grid_settings.GridConfig("FR", sources=(source,)), None)
    assert outcomes(asked(grid)) == {("watttime", "unauthorized"): 1}
    assert server.logins == 1
    asked(grid)
    assert [path.partition("?")[0] for path, _ in server.asked] == ["/login", "/v3/historical"] * 2


def _fields(source):
    return {name: getattr(source, name) for name in source.__slots__}


def test_watttime_percentiles_are_no_intensity():
    """An index in percent is refused."""
    answer = {"data": [{"point_time": "2026-11-25T12:30:00+00:00", "value": 40}], "meta": {"units": "percentile"}}  # fmt: skip
    with pytest.raises(GridError) as caught:
        watttime.parse(answer, "CAISO_NORTH", NOW)
    assert caught.value.reason == "mismatch"


@pytest.mark.parametrize(
    ("series", "value", "outcome"),
    [(1, "41.5", "ok"), (0, "41.5", "empty"), (2, "41.5", "several"), (1, "NaN", "implausible"), (1, "x", "malformed")],
)  # fmt: skip
def test_promql(server, secrets, series, value, outcome):
    """One value is a figure; none, several and NaN are not."""
    server.prom_series, server.prom = series, value
    assert outcomes(asked(Grid(config(server, secrets, "promql"), None))) == {
        ("promql", outcome): 1
    }


def test_promql_scalar():
    """A scalar is one value too."""
    answer = {"status": "success", "data": {"resultType": "scalar", "result": [NOW, "12"]}}
    assert promql.parse(answer, NOW) == Intensity(12, NOW)


# what goes wrong

FAULTS = [
    (gridmock.answering(b"", 500), "server_error"),
    (gridmock.answering(b"", 404), "refused"),
    (gridmock.answering(b"", 401), "unauthorized"),
    (gridmock.answering(b"", 403), "unauthorized"),
    (gridmock.answering(b"", 429, Retry_After="120"), "rate_limited"),
    (gridmock.answering(b"", 302, Location="http://127.0.0.1:9/elsewhere"), "redirect"),
    (gridmock.answering(b"<html>maintenance</html>"), "malformed"),
    (gridmock.answering(b"\xff\xfe\x00"), "malformed"),
    (gridmock.answering(b"[" * 100_000), "malformed"),
    (gridmock.answering(b"{}"), "malformed"),
    (gridmock.answering(b"null"), "malformed"),
    (gridmock.answering(b'{"results": []}'), "empty"),
    (gridmock.answering(b'{"results": [{"taux_co2": null, "date_heure": "2026-11-25T12:00:00+00:00"}]}'), "null"),
    (gridmock.answering(b'{"results": [{"taux_co2": 9e9, "date_heure": "2026-11-25T12:00:00+00:00"}]}'), "implausible"),
    (gridmock.answering(b'{"results": [{"taux_co2": 22, "date_heure": "2126-11-25T12:00:00+00:00"}]}'), "future"),
    (gridmock.answering(b'{"results": [{"taux_co2": 22, "date_heure": "yesterday"}]}'), "malformed"),
    (gridmock.answering(b" " * (LARGEST + 1)), "too_large"),
    (gridmock.flood, "too_large"),
    (gridmock.broken_off, "malformed"),
    (gridmock.hang, "timeout"),
    (gridmock.drip, "timeout"),
    (gridmock.drip_header, "timeout"),
]  # fmt: skip


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


def test_a_redirect_takes_no_token_elsewhere(server, secrets):
    """The other host is never asked."""
    with GridServer() as other:
        server.fault = gridmock.answering(b"", 302, Location=f"{other.url}/v3/carbon-intensity/latest")  # fmt: skip
        asked(Grid(config(server, secrets, "electricitymaps"), None))
        assert not other.asked


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


def test_secrets_are_nowhere_but_in_requests(server, secrets, tmp_path, caplog):
    """Not on the pages, not in the cache, not in the log at any level, whatever happens."""
    caplog.set_level(logging.DEBUG)
    made = config(server, secrets, "electricitymaps", "watttime", "promql")
    grid = Grid(made, tmp_path / "cache.json")
    said = asked(grid).decode()
    sent = json.dumps(server.asked)
    assert EM_TOKEN in sent
    assert base64.b64encode(WT_PAIR.encode()).decode() in sent
    for fault, _ in FAULTS[:8]:
        server.fault = fault
        said += asked(grid).decode() + grid.board.page()
    server.fault = None
    (secrets / "em").write_text(f"{EM_TOKEN}\r\nX-Injected: {EM_TOKEN}")
    (secrets / "prom").chmod(0o644)
    said += asked(grid).decode() + grid.board.page() + caplog.text
    said += (tmp_path / "cache.json").read_text() + repr(made)
    assert "must hold one line" in said
    assert "is open to others" in said
    for canary in (*CANARIES, base64.b64encode(WT_PAIR.encode()).decode()):
        assert canary not in said


def test_an_error_nobody_thought_of(server, secrets, caplog):
    """It ends one poll, not the thread, and its text, which may hold anything, is shown nowhere."""
    grid = Grid(config(server, secrets, "rte"), None)
    poller = grid.pollers[0]
    poller._asker = SimpleNamespace(ask=lambda *_: int(EM_TOKEN))
    page = asked(grid)
    assert outcomes(page) == {("rte", "exception"): 1}
    assert "rte: ValueError" in caplog.text
    assert EM_TOKEN not in caplog.text + page.decode() + grid.board.page()


@pytest.mark.parametrize(
    ("text", "mode", "match"),
    [
        (b"s3cret\n", 0o600, None),
        (b"  s3cret \r\n", 0o600, None),
        (b"s3cret\n", 0o644, "chmod"),
        (b"s3cret\n", 0o660, "chmod"),
        (b"", 0o600, "one line"),
        (b"\n", 0o600, "one line"),
        (b" \n", 0o600, "one line"),
        (b"s3\ns3cret", 0o600, "one line"),
        (b"s3cr\xc3\xb6t", 0o600, "one line"),
        (b"a" * 20_000, 0o600, "one line"),
    ],
)
def test_a_token_is_one_line_that_others_cannot_read(tmp_path, text, mode, match):
    """The message says what to do and never shows the text."""
    path = tmp_path / "secret"
    path.write_bytes(text)
    path.chmod(mode)
    if match is None:
        assert headers.token(path) == "s3cret"
        return
    with pytest.raises(GridError, match=match) as caught:
        headers.token(path)
    assert caught.value.reason == "credentials"
    assert "s3" not in str(caught.value)


def test_credentials_are_a_user_and_a_password(tmp_path):
    """A file that holds a token where USER:PASSWORD is wanted is said, and never shown nor sent."""
    path = tmp_path / "secret"
    path.write_text("ü:b:c\n")
    path.chmod(0o600)
    sent = headers.basic(path)["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "ü:b:c"
    path.write_text("t0ken\n")
    with pytest.raises(GridError, match="USER:PASSWORD") as caught:
        headers.basic(path)
    assert caught.value.reason == "credentials"
    assert "t0ken" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_is_not_a_strangers(tmp_path):
    """Whoever owns the file, or a link to it, could choose what is sent."""
    path, link = tmp_path / "secret", tmp_path / "link"
    path.write_text("token")
    path.chmod(0o600)
    link.symlink_to(path)
    assert headers.token(link) == "token"
    os.lchown(link, 4321, -1)
    with pytest.raises(GridError, match="somebody else"):
        headers.token(link)
    os.chown(path, 4321, -1)
    with pytest.raises(GridError, match="belongs to uid 4321"):
        headers.token(path)


def test_a_secret_is_a_plain_file(tmp_path):
    """A FIFO does not hang, a directory and a missing file are said."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("fifo", "", "missing"):
        with pytest.raises(GridError) as caught:
            headers.token(tmp_path / name)
        assert caught.value.reason == "credentials"


# JSON and bytes of any kind

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["2026-11-25T12:00:00Z", "vector", "scalar", "lbs_co2_per_mwh", "FR", 10**400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["results", "data", "result", "resultType", "value", "meta", "units", "from",
                         "intensity", "actual", "forecast", "taux_co2", "date_heure", "carbonIntensity",
                         "datetime", "point_time", "status", "region", "zone"]), inner, max_size=6),
    max_leaves=30,
)  # fmt: skip
PARSERS = [
    lambda answer: rte.parse(answer, NOW),
    lambda answer: electricitymaps.parse(answer, "FR", "lifecycle", NOW),
    lambda answer: uk.parse(answer, NOW, regional=False),
    lambda answer: uk.parse(answer, NOW, regional=True),
    lambda answer: watttime.parse(answer, "CAISO_NORTH", NOW),
    lambda answer: promql.parse(answer, NOW),
]


@pytest.mark.slow
@pytest.mark.parametrize("parser", PARSERS)
@given(answer=JSON)
def test_any_json_is_a_figure_or_a_reason(parser, answer):
    """No answer raises anything else, and no figure is outside what is possible."""
    try:
        figure = parser(answer)
    except GridError:
        return
    assert 0 <= figure.grams_per_kwh <= 3000
    assert figure.t_s <= NOW + 3600


@given(
    values=st.lists(st.none() | st.floats() | st.integers(), min_size=6, max_size=6),
    moment=st.text(max_size=30) | st.datetimes().map(str) | st.floats() | st.integers(),
)
def test_any_value_in_the_right_shape(values, moment):
    """The same where only the figures and the times are strange."""
    half = {"from": moment, "intensity": {"forecast": values[2], "actual": values[3]}}
    point = {"point_time": moment, "value": values[4]}
    meta = {"units": "lbs_co2_per_mwh"}
    answers = [
        {"results": [{"taux_co2": values[0], "date_heure": moment}]},
        {"carbonIntensity": values[1], "datetime": moment},
        {"data": [half]},
        {"data": [{"data": [half]}]},
        {"data": [point, point], "meta": meta},
        {"data": {"resultType": "vector", "result": [{"value": [moment, values[5]]}]}},
    ]
    for parser, answer in zip(PARSERS, answers, strict=True):
        try:
            assert 0 <= parser(answer).grams_per_kwh <= 3000
        except GridError:
            continue


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


# the cache


def test_a_restart_without_the_network(secrets, tmp_path):
    """The last figures are still there; stale once they are too old, and then the yearly one is in use."""
    cache, clock = tmp_path / "state" / "grid.json", [time.time()]
    with GridServer() as server:
        made = config(server, secrets, "electricitymaps")
        asked(Grid(made, cache, lambda: clock[0]))
    again = Grid(made, cache, lambda: clock[0])
    found = shown(asked(again))
    assert found[INTENSITY, "electricitymaps"] == 58
    assert found["jobwatt_grid_stale", "electricitymaps"] == 0
    assert found["jobwatt_grid_chosen", "electricitymaps"] == 1
    clock[0] += 6 * 3600
    late = Grid(made, cache, lambda: clock[0])
    found = shown(asked(late))
    assert found[INTENSITY, "electricitymaps"] == 58
    assert found["jobwatt_grid_stale", "electricitymaps"] == 1
    assert ("jobwatt_grid_chosen", "electricitymaps") not in found
    assert found["jobwatt_grid_chosen", "table"] == 1
    assert "stale" in late.board.page()


def test_the_cache_is_of_what_is_asked_now(server, secrets, tmp_path):
    """A figure kept for another zone, scope or source is not taken over."""
    cache = tmp_path / "grid.json"
    asked(Grid(config(server, secrets, "electricitymaps"), cache))
    for changed in (
        config(server, secrets, "electricitymaps", zone="DE"),
        config(server, secrets, "electricitymaps", more='scope = "direct"'),
        config(server, secrets, "electricitymaps", more='name = "em"'),
    ):
        assert kept.load(cache, changed, time.time()) == {}
    assert kept.load(cache, config(server, secrets, "electricitymaps"), time.time())


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff", b"null", b'{"version": 2}', b'{"version": 1, "figures": [1, {}]}', b"[" * 99_999],
)  # fmt: skip
def test_a_damaged_cache_is_no_cache(server, secrets, tmp_path, text):
    """The process starts without it and writes it anew."""
    cache = tmp_path / "grid.json"
    cache.write_bytes(text)
    made = config(server, secrets, "rte")
    grid = Grid(made, cache)
    assert "rte" not in grid.board.figures
    asked(grid)
    assert kept.load(cache, made, time.time())["rte"].grams_per_kwh == 22


def test_an_impossible_cached_figure_is_dropped(server, secrets, tmp_path):
    """The file is believed no more than a stranger."""
    cache, made = tmp_path / "grid.json", config(server, secrets, "rte")
    asked(Grid(made, cache))
    for change in ({"grams_per_kwh": 1e9}, {"t_s": 9e12}, {"grams_per_kwh": "22"}, {"t_s": None}):
        saved = json.loads(cache.read_text())
        saved["figures"][0].update(change)
        (tmp_path / "bad.json").write_text(json.dumps(saved))
        assert kept.load(tmp_path / "bad.json", made, time.time()) == {}


def test_a_cache_that_cannot_be_written_is_said_once(server, secrets, tmp_path, caplog):
    """The figures are served all the same."""
    (tmp_path / "file").write_text("")
    grid = Grid(config(server, secrets, "rte"), tmp_path / "file" / "grid.json")
    asked(grid)
    server.rte = 23
    assert shown(asked(grid))[INTENSITY, "rte"] == 23
    assert caplog.text.count("--grid.cache") == 1


def test_an_older_answer_does_not_replace_a_newer(server, secrets):
    """A mirror that lags behind takes nothing back."""
    grid = Grid(config(server, secrets, "rte"), None)
    asked(grid)
    server.rte, server.rte_age = 99, timedelta(hours=3)
    assert shown(asked(grid))[INTENSITY, "rte"] == 22


# the table


def test_every_row_of_the_table_is_sane():
    """Two letters each, a possible figure, a year that has ended; most of the world."""
    rows = table.rows()
    assert len(rows) >= 200
    for country, row in rows.items():
        assert len(country) == 2
        assert country.isupper()
        assert row.name
        assert 2000 <= row.year <= 2025
        assert 0 < row.grams_per_kwh < 1400


def test_the_table_is_its_origin():
    """France and Germany as Our World in Data has them (release of May 2025)."""
    france, germany = table.rows()["FR"], table.rows()["DE"]
    assert (france.year, france.grams_per_kwh) == (2024, 44.179085)
    assert (germany.year, germany.grams_per_kwh) == (2024, 344.13992)
    assert table.built_in("FR") == Intensity(44.179085, datetime(2025, 1, 1, tzinfo=UTC).timestamp())  # fmt: skip
    assert table.built_in("US-CAL-CISO").grams_per_kwh == 383.5492
    assert table.built_in("ZZ") is None


def test_the_table_says_where_it_is_from():
    """Origin, year and licence stand in its head."""
    head = (Path(table.__file__).parent / "intensity_table.csv").read_text()[:1200]
    for word in ("Our World in Data", "Ember", "CC BY 4.0", "2025"):
        assert word in head


def test_a_site_may_give_its_own_yearly_figure(server, secrets):
    """RTE's yearly figure is what direct figures fall back on."""
    own = '[[source]]\nkind = "table"\nname = "rte-2023"\nscope = "direct"\ngrams_per_kwh = 32\nyear = 2023\n'
    made = grid_settings.parse(f'zone = "FR"\nscope = "direct"\n[[source]]\nkind = "rte"\nurl = "{server.url}"\n{own}')  # fmt: skip
    grid = Grid(made, None)
    assert grid.board.chosen().source == "rte-2023"
    asked(grid)
    assert grid.board.chosen().source == "rte"
    assert not [note for note in grid_settings.notes(made) if "fall back" in note]


# the configuration

RTE = '[[source]]\nkind = "rte"\n'
PROM = '[[source]]\nkind = "promql"\nurl = "http://p:9090"\nquery = "x"\nscope = "direct"\nfigure = "average"\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "zone is missing"),
        ('zone = "France"', "zone: 'France'"),
        ('zone = "FR"\nscop = "direct"', "unknown key scop; did you mean scope"),
        ('zone = "FR"\nscope = "livecycle"', "did you mean lifecycle"),
        ('zone = "FR"\nfigure = "marginals"', "did you mean marginal"),
        ('zone = "FR"\nsource = 1', "tables"),
        ('zone = "FR"\n[[source]]\nkind = "rtee"', "did you mean rte"),
        ('zone = "FR"\n[[source]]\n', "kind is missing"),
        ('zone = "FR"\n' + RTE + 'intervall = "5m"', "source 1: rte: unknown key intervall; did you mean interval"),
        ('zone = "FR"\n' + RTE + 'token_file = "/t"', "unknown key token_file"),
        ('zone = "DE"\n' + RTE, "of FR only"),
        ('zone = "FR"\n[[source]]\nkind = "uk"', "of GB only"),
        ('zone = "GB"\n[[source]]\nkind = "uk"\npostcode = "OX11 0QX"', "outward"),
        ('zone = "FR"\n' + RTE + RTE, "two sources are named rte"),
        ('zone = "FR"\n' + RTE + 'interval = "5 minutes"', "not a duration"),
        ('zone = "FR"\n' + RTE + 'interval = "0s"', "1s or more"),
        ('zone = "FR"\n' + RTE + "interval = 5", "must be one line of text"),
        ('zone = "FR"\n' + RTE + 'url = "ftp://x"', "url must be"),
        ('zone = "FR"\n' + RTE + 'url = "https://user:pw@x"', "does not belong here"),
        ('zone = "FR"\n' + RTE + 'url = "http://x:99999999"', "url must be"),
        ('zone = "FR"\n' + RTE + 'name = "a b"', "name:"),
        ('zone = "FR"\n[[source]]\nkind = "electricitymaps"', "token_file is missing"),
        ('zone = "FR"\n[[source]]\nkind = "watttime"\nregion = "x"', "credentials_file is missing"),
        ('zone = "FR"\n' + PROM.replace('scope = "direct"\n', ""), "scope is missing"),
        ('zone = "FR"\n' + PROM.replace('figure = "average"\n', ""), "figure is missing"),
        ('zone = "FR"\n[[source]]\nkind = "table"\ngrams_per_kwh = 5000\nyear = 2023', "cannot be"),
        ('zone = "FR"\n[[source]]\nkind = "table"\ngrams_per_kwh = 50', "year must be"),
        ('zone = "FR"\n[[source]]\nkind = "table"\nscope = "direct"', "grams_per_kwh must be"),
        ('zone = "ZZ"', "no figure for ZZ"),
        ('zone = "ZZ"\n[[source]]\nkind = "table"', "no figure for ZZ"),
        ("zone = ", "not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(text, match):
    """With the key, and the nearest one that is known."""
    with pytest.raises(ConfigError, match=match):
        grid_settings.parse(text)


@given(st.text(max_size=200))
def test_any_configuration_is_read_or_refused(text):
    """Nothing else happens."""
    try:
        grid_settings.parse(text)
    except ConfigError:
        return


def test_what_the_operator_is_told():
    """That a source will never be in use, and that nothing is there to fall back on."""
    assert "rte: its figures are direct" in grid_settings.notes(grid_settings.parse(f'zone = "FR"\n{RTE}'))[0]  # fmt: skip
    notes = grid_settings.notes(grid_settings.parse(f'zone = "FR"\nscope = "direct"\n{RTE}'))
    assert len(notes) == 1
    assert "fall back" in notes[0]


def test_the_example_in_the_documentation():
    """Every TOML block of docs/carbon.md that names a zone is valid."""
    text = (Path(__file__).parents[1] / "docs/carbon.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```toml\n")[1:]]
    grids = [block for block in blocks if "zone =" in block]
    assert len(grids) >= 2
    for block in grids:
        grid_settings.parse(block)


# the page and the process


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool")
def test_promtool_accepts_the_page(server, secrets):
    """No complaint about names, types or help."""
    page = asked(Grid(config(server, secrets, "rte", "electricitymaps"), None))
    page = b"".join(line for line in page.splitlines(keepends=True) if b" process_" not in line and not line.startswith(b"process_"))  # fmt: skip
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.slow
@pytest.mark.prometheus
def test_prometheus_finds_one_intensity(server, secrets, tmp_path):
    """What docs/carbon.md and alerts/site.toml ask for is one series: the figure in use, and no other source's."""
    grid = Grid(config(server, secrets, "rte", "watttime", "electricitymaps"), None)
    asked(grid)
    web = WebServer("127.0.0.1:0", grid.board)
    web.start()
    expression = f'{INTENSITY}{{zone="FR"}} and on (zone, source, scope, kind) jobwatt_grid_chosen == 1'  # fmt: skip
    try:
        with Prometheus(tmp_path / "server", [f"127.0.0.1:{web.address[1]}"]) as prometheus:
            until = time.monotonic() + 60
            while len(prometheus.query(INTENSITY)) < 4:
                assert time.monotonic() < until
                time.sleep(0.1)
            found = prometheus.query(expression)
            assert [(dict(labels)["source"], value) for labels, value in found.items()] == [
                ("electricitymaps", 58)
            ]
            assert len(prometheus.query(INTENSITY)) == 4
    finally:
        web.stop()


def test_both_formats_and_single_families(server, secrets):
    """OpenMetrics ends with EOF; name[] gives only that family; nothing is there twice."""
    grid = Grid(config(server, secrets, "rte", "electricitymaps"), None)
    lines = asked(grid).decode().splitlines()
    assert len(lines) == len(set(lines))
    assert grid.board.metrics(openmetrics=True, names=frozenset()).endswith(b"# EOF\n")
    one = grid.board.metrics(openmetrics=False, names=frozenset({INTENSITY})).decode()
    assert one.count("# TYPE") == 1


def test_the_landing_page_is_escaped(server, secrets):
    """What a source says is text."""
    grid = Grid(config(server, secrets, "rte"), None)
    grid.board.failed("rte", "refused", "<script>alert(1)</script>")
    assert "<script>" not in grid.board.page()


class Process:
    """`jobwatt grid` as its operator has it."""

    def __init__(self, *flags):
        argv = [sys.executable, "-m", "jobwatt", "grid", "--web.listen-address=127.0.0.1:0", *flags]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "exporter")}
        self.process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if "serves on" in line:
                self.address = line.rpartition(" ")[2].strip()
                return
        raise AssertionError(self.said)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return answer.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.said += self.process.communicate(timeout=60)[1]
        return self.process.returncode


@pytest.mark.slow
def test_the_process(server, secrets, tmp_path):
    """Serves what it has while a source hangs, answers /healthz and /readyz, ends with 0 at SIGTERM."""
    grid = tmp_path / "grid.toml"
    token = f'token_file = "{secrets}/em"'
    grid.write_text(
        f'zone = "FR"\n[[source]]\nkind = "electricitymaps"\nurl = "{server.url}"\n{token}\ninterval = "1s"\n'
    )
    server.fault = gridmock.hang
    process = Process(f"--grid.config={grid}", f"--grid.cache={tmp_path}/cache.json")
    try:
        found = shown(process.get("/metrics"))
        assert found["jobwatt_grid_chosen", "table"] == 1
        assert process.get("/healthz")
        assert process.get("/readyz")
        assert b"electricitymaps" in process.get("/")
    finally:
        assert process.stop() == 0
    assert EM_TOKEN not in process.said
    assert "Traceback" not in process.said


@pytest.mark.slow
def test_the_process_polls(server, secrets, tmp_path):
    """A new figure is on the page within a few intervals, and in the cache."""
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f'zone = "FR"\n[[source]]\nkind = "rte"\nurl = "{server.url}"\ninterval = "1s"\n'
    )
    process = Process(f"--grid.config={grid}", f"--grid.cache={tmp_path}/cache.json")
    try:
        for value in (22, 23):
            server.rte = value
            until = time.monotonic() + 60
            while shown(process.get("/metrics")).get((INTENSITY, "rte")) != value:
                assert time.monotonic() < until
                time.sleep(0.1)
    finally:
        assert process.stop() == 0
    assert json.loads((tmp_path / "cache.json").read_text())["figures"][0]["grams_per_kwh"] == 23


def test_once_and_refusal(tmp_path):
    """--once prints the page and ends with 0; a wrong file is one line and 2."""
    grid = tmp_path / "grid.toml"
    grid.write_text('zone = "FR"\n')
    argv = [sys.executable, "-m", "jobwatt", "grid", f"--grid.config={grid}", "--grid.cache=", "--once"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "exporter")}
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout)[INTENSITY, "table"] == 44.179085
    grid.write_text('zone = "FR"\nscop = "direct"\n')
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "did you mean scope" in done.stderr
