"""A site's grid.toml with every source at a local server, its credentials, and what its page then shows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gridmock
from gridmock import EM_TOKEN, PROM_TOKEN, WT_PAIR, GridServer
from jobwatt.central.grid import settings as grid_settings
from jobwatt.central.grid.fetch import LARGEST

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


def _fields(source):
    return {name: getattr(source, name) for name in source.__slots__}


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
