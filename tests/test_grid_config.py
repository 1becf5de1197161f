"""grid.toml: what is refused, with the nearest that is known, and what the operator is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.central.grid import settings as grid_settings
from jobwatt.config import ConfigError

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
