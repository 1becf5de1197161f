"""Answers and files of others: carbon intensity services, a Prometheus, other energy tools, Slurm's accounting."""

from __future__ import annotations

import io
import math
import urllib.error
from typing import Any

from fuzz.base import count, figure, files, hold, joined, line, parts, put, shown, target
from jobwatt.alerts import promapi
from jobwatt.central.compare import carbontracker, codecarbon, greenalgorithms, sacct
from jobwatt.central.compare.figures import CompareError, Theirs
from jobwatt.central.grid import electricitymaps, kept, promql, rte, settings, uk, watttime
from jobwatt.central.grid.fetch import _json
from jobwatt.central.grid.intensity import HIGHEST_GRAMS_PER_KWH, GridError, Intensity
from jobwatt.config import ConfigError

NOW_S = 1.764e9  # 24 November 2025, 16:00 UTC

_PARSERS = (
    lambda answer: rte.parse(answer, NOW_S),
    lambda answer: electricitymaps.parse(answer, "FR", "lifecycle", NOW_S),
    lambda answer: uk.parse(answer, NOW_S, regional=False),
    lambda answer: uk.parse(answer, NOW_S, regional=True),
    lambda answer: watttime.parse(answer, "CAISO_NORTH", NOW_S),
    lambda answer: promql.parse(answer, NOW_S),
)


def _usable(found: Intensity) -> None:
    figure(found.grams_per_kwh, most=HIGHEST_GRAMS_PER_KWH)
    figure(found.t_s, most=NOW_S + 3600)


@target(
    "grid.answers",
    [
        b'{"total_count": 1, "results": [{"date_heure": "2025-11-24T15:45:00+00:00", "taux_co2": 21}]}',
        b'{"zone": "FR", "carbonIntensity": 38, "datetime": "2025-11-24T15:00:00.000Z", "emissionFactorType": "lifecycle", "isEstimated": true}',
        b'{"data": [{"from": "2025-11-24T15:30Z", "to": "2025-11-24T16:00Z", "intensity": {"forecast": 120, "actual": 119, "index": "low"}}]}',
        b'{"data": [{"regionid": 3, "data": [{"from": "2025-11-24T15:30Z", "intensity": {"forecast": 90}}]}]}',
        b'{"data": [{"point_time": "2025-11-24T15:55:00+00:00", "value": 870.5}], "meta": {"region": "CAISO_NORTH", "units": "lbs_co2_per_mwh"}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1764000000.1, "42.5"]}]}}',
        b'{"status": "success", "data": {"resultType": "scalar", "result": [1764000000, "7"]}}',
    ],
    json=True,
    share=2.0,
)
def answers(data: bytes) -> None:
    for parse in _PARSERS:
        try:
            _usable(parse(_json(data, "host.example")))
        except GridError as err:
            line(err)
            shown(err.reason, 32)
            figure(err.retry_after_s)


_GRID = b"""zone = "FR"
[[source]]
kind = "rte"
[[source]]
kind = "promql"
url = "http://prometheus:9090"
query = "grid_g"
scope = "direct"
figure = "average"
interval = "1m"
[[source]]
kind = "table"
grams_per_kwh = 44.18
year = 2024
"""


@target(
    "grid.kept",
    [
        (
            b'{"version": 1, "figures": [{"name": "rte", "zone": "FR", "scope": "direct", "figure": "average", '
            b'"grams_per_kwh": 21.0, "t_s": 1763999000.0, "estimated": false}]}'
        )
    ],
    GridError,
    json=True,
)
def kept_figures(data: bytes) -> None:
    config = settings.parse(_GRID.decode())
    for found in kept.load(put("figures.json", data), config, NOW_S).values():
        _usable(found)


@target(
    "grid.toml",
    [_GRID, b'zone = "GB"\n[[source]]\nkind = "uk"\npostcode = "OX11"\n', b'zone = "US-CAL-CISO"\nscope = "direct"\nfigure = "marginal"\n[[source]]\nkind = "watttime"\nregion = "CAISO_NORTH"\ncredentials_file = "/etc/x"\nmax_age = "2h"\n'],
    ConfigError,
    share=0.7,
)  # fmt: skip
def grid_toml(data: bytes) -> None:
    try:
        config = settings.read(put("grid.toml", data))
    except ConfigError as err:
        line(err, 20_000)
        raise
    for source in config.sources:
        shown(source.name, 64)
        figure(source.interval_s)
        figure(source.max_age_s)
    settings.notes(config)


# --- a Prometheus ---------------------------------------------------------------------------------


class _Opener:
    """Answers with the input, in place of urllib's."""

    def __init__(self, data: bytes, code: int) -> None:
        self._data, self._code = data, code

    def open(self, request: Any, timeout: float) -> Any:
        if self._code >= 400:
            raise urllib.error.HTTPError(
                request.full_url, self._code, "no", {}, io.BytesIO(self._data)
            )  # type: ignore[arg-type]
        return io.BytesIO(self._data)


@target(
    "prometheus.answers",
    [
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [1, "2.5"]}]}}',
        b'{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "2"], [2, "NaN"]]}]}}',
        b'{"status": "error", "errorType": "bad_data", "error": "query processing would load too many samples"}',
        b'{"status": "success", "data": []}',
    ],
    promapi.PrometheusError,
    json=True,
    share=1.5,
)
def prometheus_answers(data: bytes) -> None:
    if not _asked:
        _asked.append(promapi.Prometheus("http://prometheus.example:9090"))
    asked = _asked[0]
    for code in (200, 422):
        asked._opener = _Opener(data, code)  # type: ignore[assignment]
        for ask in (
            lambda: asked.query("up", NOW_S),
            lambda: list(asked.query_range("up", NOW_S, NOW_S + 60, 60)),
            lambda: asked.has("up", NOW_S, NOW_S + 60),
        ):
            try:
                found = ask()
            except promapi.PrometheusError as err:
                line(err)
            else:
                for series in found if isinstance(found, list) else ():
                    hold(isinstance(series.labels, dict), "labels that are none")


_asked: list[promapi.Prometheus] = []


# --- other tools ----------------------------------------------------------------------------------


def _sound(found: Theirs) -> None:
    """Figures that a report can print and subtract."""
    for joules in (
        found.total_j,
        found.pue,
        found.overhead_j,
        *found.parts_j.values(),
        *found.lost_j.values(),
    ):
        figure(joules, least=-1e27, most=1e27)
    hold(math.isfinite(found.predicted_j), "a prediction that is no number")
    figure(found.grams, most=1e24)
    shown(found.tool, 80)
    for begin, end in found.spans:
        hold(math.isfinite(begin) and math.isfinite(end), "a time that is none")
    for note in found.notes:
        line(note)


@target("compare.codecarbon", files("interop/codecarbon/*.csv", most=6000), CompareError, share=1.0)
def codecarbon_rows(data: bytes) -> None:
    runs, bad = codecarbon.read(put("emissions.csv", data))
    _sound(codecarbon.theirs(runs, (0.0, 4e9), bad))


def _logs() -> list[bytes]:
    found = []
    for output in files("interop/carbontracker*/*_output.log")():
        found += [
            joined(output, standard[:6000])
            for standard in files("interop/carbontracker*/*Z_carbontracker.log")()
        ]
    return found


@target("compare.carbontracker", _logs, CompareError, max_len=8192, share=0.7)
def carbontracker_logs(data: bytes) -> None:
    output, standard = (part.decode("utf-8", "replace") for part in parts(data, 2))
    run = carbontracker.parse(output, standard)
    if run is not None:
        _sound(carbontracker.theirs([run], (0.0, 4e9)))


@target("compare.sacct", files("interop/sacct/*.txt"), CompareError, share=1.5)
def sacct_rows(data: bytes) -> None:
    said = data.decode("utf-8", "replace")
    for jobid in ("1", "7", *[row.partition("|")[0] for row in said.splitlines()[1:3]]):
        try:
            job = sacct.parse(said, jobid)
        except CompareError as err:
            line(err, 1 << 17)
            continue
        for number in (job.seconds, job.cpu_s, job.memory_gb):
            figure(number)
        count(job.cpus, most=10**9)
        for kind in job.gpus:
            shown(kind, 40)
        shown(job.state, 20)
        _sound(greenalgorithms.theirs(job, greenalgorithms.Assumed()))
