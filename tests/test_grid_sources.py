"""The grid's carbon intensity: what each source is asked, and what is believed of any answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gridkit
from gridkit import INTENSITY, NOW, _fields, asked, config, outcomes, shown
from jobwatt.central.grid import electricitymaps, promql, rte, uk, watttime
from jobwatt.central.grid import settings as grid_settings
from jobwatt.central.grid.intensity import GridError, Intensity
from jobwatt.central.grid.run import Grid

server, secrets = gridkit.server, gridkit.secrets  # fixtures


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


# JSON of any kind

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
