"""The grid's carbon intensity: which figure is in use, and the yearly ones that it falls back on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

import gridkit
from gridkit import INTENSITY, NOW, asked, config, shown
from jobwatt.central.grid import settings as grid_settings
from jobwatt.central.grid import table
from jobwatt.central.grid.intensity import GridError, Intensity, Meaning, checked, choose, pause_s
from jobwatt.central.grid.run import Grid

server, secrets = gridkit.server, gridkit.secrets  # fixtures


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
