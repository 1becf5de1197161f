"""grid.toml: what is refused, with the nearest that is known, and what the operator is told."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobwatt.central.grid import settings as grid_settings
from jobwatt.central.grid.intensity import HIGHEST_GRAMS_PER_KWH, KINDS, SCOPES
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
        ('zone = "FR"\n' + RTE + 'url = "http://["', "url must be"),
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
def test_any_text_is_read_or_refused(text):
    """Nothing else happens."""
    with contextlib.suppress(ConfigError):
        grid_settings.parse(text)


WILD = st.recursive(
    st.one_of(
        st.text(max_size=20),
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.booleans(),
        st.sampled_from(["FR", "GB", "1h", "0s", "http://x", "http://[", "http://x:y", "/t", "2024"]),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip
FIT = {
    "kind": st.sampled_from(sorted(grid_settings.SOURCES)),
    "scope": st.sampled_from(SCOPES),
    "figure": st.sampled_from(KINDS),
    "url": st.just("http://p:9090"),
    "postcode": st.just("OX11"),
    "grams_per_kwh": st.floats(0, 2000) | st.integers(0, 2000),
    "year": st.integers(1990, 2200),
    "query": st.just("x"),
    "region": st.just("FR"),
    **dict.fromkeys(("interval", "timeout", "max_age"), st.sampled_from(["1s", "5m", "2h"])),
    **dict.fromkeys(("ca_file", "token_file", "credentials_file"), st.just("/t")),
}


@st.composite
def sources(draw, zone):
    """A source as its kind wants it, with some of what it may have."""
    kind = draw(FIT["kind"])
    takes = grid_settings.SOURCES[kind]
    if takes.countries and zone not in takes.countries:
        kind, takes = "table", grid_settings.SOURCES["table"]
    more = () if kind == "table" else ("url", "interval", "timeout", "ca_file")
    may = sorted({*takes.keys, *more, "max_age"} - {*takes.needs})
    keys = [*takes.needs, *(key for key in may if draw(st.booleans()))]
    return {"kind": kind} | {key: draw(FIT[key]) for key in keys}


@st.composite
def configurations(draw):
    """A tree of the known keys that is right, but for one value or key in most of them."""
    zone = draw(st.sampled_from(["FR", "GB", "ZZ"]))
    found = [draw(sources(zone)) | {"name": f"s{n}"} for n in range(draw(st.integers(0, 3)))]
    tree = {"zone": zone, "source": found}
    tree |= {key: draw(FIT[key]) for key in ("scope", "figure") if draw(st.booleans())}
    if draw(st.integers(0, 4)):
        place = draw(st.sampled_from([tree, *found]))
        key = draw(st.sampled_from([*place, *FIT]) | st.text(max_size=5))
        place[key] = draw(WILD)
    return tree


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(key)} = {toml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def usable(config):
    """Each source of a configuration can be told from the others, asked, and its figures classed."""
    names = [source.name for source in config.sources]
    assert len(names) == len(set(names)) > 0
    for source in config.sources:
        assert (source.scope in SCOPES, source.figure in KINDS) == (True, True)
        assert source.max_age_s >= 1
        if source.kind != "table":
            assert source.url.startswith("http")
            assert min(source.interval_s, source.timeout_s) >= 1
        assert 0 <= (source.grams_per_kwh or 0) <= HIGHEST_GRAMS_PER_KWH
    assert all(note.isprintable() for note in grid_settings.notes(config))


@settings(max_examples=400)
@given(configurations())
def test_any_configuration_is_read_or_refused(tree):
    """Whatever the known keys hold is understood and usable, or refused for what it is."""
    text = "\n".join(f"{toml(key)} = {toml(value)}" for key, value in tree.items())
    try:
        config = grid_settings.parse(text)
    except ConfigError as err:
        refusal = str(err)
    else:
        refusal = ""
        usable(config)
    assert "not TOML" not in refusal


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
