"""
grid.toml: which sources are asked for the grid's intensity, in which order, and which figures count.

One table tells what each kind of source takes and what its figures mean. An unknown key is refused with
the nearest known one.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...config import ConfigError, nearest
from ...kinds import duration
from ...model import NS_PER_S
from . import electricitymaps, promql, rte, table, uk, watttime
from .intensity import HIGHEST_GRAMS_PER_KWH, KINDS, SCOPES, Meaning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_H = 3600.0
# A figure of year Y is published in the spring of Y+1 and replaced in that of Y+2, 17 months after
# Y's end: a year after that, somebody has forgotten to renew the table.
_YEARLY_AGE_S = 29 * 30.5 * 24 * _H
_COMMON = ("kind", "name", "max_age")
_ASKED = ("url", "interval", "timeout", "ca_file")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ZONE = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,8}){0,4}")
_POSTCODE = re.compile(r"[A-Z]{1,2}[0-9][0-9A-Z]?")  # the outward part


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of source takes, and what its figures are where it says nothing else."""

    keys: tuple[str, ...]
    needs: tuple[str, ...] = ()
    scope: str = ""  # "": the configuration must say
    figure: str = "average"
    url: str = ""
    interval: str = "5m"
    max_age_s: float = _H
    countries: tuple[str, ...] = ()  # where the source is of these only


# Intervals: not more often than a source has news. Ages: the time its newest figure is of lags behind by
# one or two of its steps, and a figure is stale when two more are missing.
SOURCES: Mapping[str, Kind] = {
    "rte": Kind((), scope="direct", url=rte.URL, max_age_s=2 * _H, countries=("FR",)),
    "electricitymaps": Kind(
        ("region", "scope", "token_file"),
        ("token_file",),
        scope="lifecycle",
        url=electricitymaps.URL,
        interval="15m",
        max_age_s=4 * _H,
    ),
    "uk": Kind(
        ("postcode",),
        scope="direct",
        url=uk.URL,
        interval="10m",
        max_age_s=2 * _H,
        countries=("GB",),
    ),
    "watttime": Kind(
        ("region", "credentials_file"),
        ("region", "credentials_file"),
        scope="direct",
        figure="marginal",
        url=watttime.URL,
        max_age_s=_H,
    ),
    "promql": Kind(
        ("query", "scope", "figure", "token_file", "credentials_file"),
        ("url", "query", "scope", "figure"),
        url=promql.URL,
        interval="1m",
        max_age_s=_H / 4,
    ),
    "table": Kind(("grams_per_kwh", "year", "scope"), scope="lifecycle", max_age_s=_YEARLY_AGE_S),
}


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One ``[[source]]``. Times in seconds; what its kind does not take is empty."""

    kind: str
    name: str
    scope: str
    figure: str
    max_age_s: float
    url: str = ""
    interval_s: float = 0.0
    timeout_s: float = 20.0
    ca_file: Path | None = None
    token_file: Path | None = None
    credentials_file: Path | None = None
    region: str = ""
    postcode: str = ""
    query: str = ""
    grams_per_kwh: float | None = None
    year: int = 0

    @property
    def meaning(self) -> Meaning:
        """What its figures are."""
        yearly = self.kind == "table"
        return Meaning(self.name, self.scope, self.figure, self.max_age_s, yearly)


@dataclass(frozen=True, slots=True)
class GridConfig:
    """The whole file; figures of ``scope`` and ``figure`` are the ones in use."""

    zone: str
    scope: str = "lifecycle"
    figure: str = "average"
    sources: tuple[SourceConfig, ...] = field(default=())


def read(path: Path) -> GridConfig:
    """Read and check the file; ConfigError names the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"--grid.config: {path}: {reason}") from err
    try:
        return parse(text)
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from err


def parse(text: str) -> GridConfig:
    """Return what the TOML says; ConfigError otherwise."""
    try:
        top = tomllib.loads(text)
    except (ValueError, RecursionError) as err:  # a number of 5000 digits is a ValueError
        raise ConfigError(f"not TOML ({err})") from err
    _refuse_unknown(top, ("zone", "scope", "figure", "source"), "")
    zone = _matching(top, "zone", _ZONE, 'a zone such as "FR" or "US-CAL-CISO"', "")
    entries = top.get("source", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("source: must be tables, each begun with [[source]]")
    sources = [_source(entry, zone, f"source {n}: ") for n, entry in enumerate(entries, 1)]
    config = GridConfig(
        zone,
        _word(top, "scope", SCOPES, "", "lifecycle"),
        _word(top, "figure", KINDS, "", "average"),
        tuple(_with_table(sources, zone)),
    )
    _check_names(config.sources)
    if not config.sources:
        raise ConfigError(f"no [[source]], and the built-in table has no figure for {zone}")
    return config


def notes(config: GridConfig) -> list[str]:
    """What the operator should know of a configuration that is valid, a line each."""
    found = [
        f"{source.name}: its figures are {source.scope} and {source.figure}: shown, never in use "
        f"(in use are {config.scope} and {config.figure} ones)"
        for source in config.sources
        if (source.scope, source.figure) != (config.scope, config.figure) and source.kind != "table"
    ]
    usable = [
        source
        for source in config.sources
        if (source.scope, source.figure) == (config.scope, config.figure)
    ]
    if not any(source.kind == "table" for source in usable):
        found.append(
            f"there is no yearly {config.scope} {config.figure} figure to fall back on; add [[source]] "
            f'kind = "table", scope = "{config.scope}", grams_per_kwh = ..., year = ...'
        )
    return found


def _with_table(sources: Sequence[SourceConfig], zone: str) -> list[SourceConfig]:
    """The sources, and the built-in table at their end unless it is one of them."""
    built_in = any(source.kind == "table" and source.grams_per_kwh is None for source in sources)
    if built_in or table.built_in(zone) is None:
        return list(sources)
    name = table.NAME
    if any(source.name == name for source in sources):
        name = "table-owid"
    kind = SOURCES["table"]
    return [*sources, SourceConfig("table", name, kind.scope, kind.figure, kind.max_age_s)]


def _source(entry: Mapping[str, Any], zone: str, where: str) -> SourceConfig:
    word = _word(entry, "kind", tuple(SOURCES), where)
    kind, where = SOURCES[word], f"{where}{word}: "
    asked = () if word == "table" else _ASKED
    _refuse_unknown(entry, (*_COMMON, *asked, *kind.keys), where)
    for key in kind.needs:
        if key not in entry:
            raise ConfigError(f"{where}{key} is missing")
    if kind.countries and table.country(zone) not in kind.countries:
        raise ConfigError(f"{where}is of {', '.join(kind.countries)} only, and zone is {zone}")
    grams, year = _own_figure(entry, zone, where) if word == "table" else (None, 0)
    return SourceConfig(
        kind=word,
        name=_matching(entry, "name", _NAME, "letters, digits, _ . -", where, word),
        scope=_word(entry, "scope", SCOPES, where, kind.scope),
        figure=_word(entry, "figure", KINDS, where, kind.figure),
        max_age_s=_seconds(entry, "max_age", where, kind.max_age_s),
        url=_url(entry, kind.url, where) if asked else "",
        interval_s=_seconds(entry, "interval", where, duration(kind.interval) / NS_PER_S),
        timeout_s=_seconds(entry, "timeout", where, 20.0),
        ca_file=_path(entry, "ca_file", where),
        token_file=_path(entry, "token_file", where),
        credentials_file=_path(entry, "credentials_file", where),
        region=_text(entry, "region", where, zone if word == "electricitymaps" else ""),
        postcode=_matching(
            entry, "postcode", _POSTCODE, 'the outward part, such as "OX11"', where, ""
        ),
        query=_text(entry, "query", where, ""),
        grams_per_kwh=grams,
        year=year,
    )


def _own_figure(entry: Mapping[str, Any], zone: str, where: str) -> tuple[float | None, int]:
    """A table's figure that the file itself gives, and its year."""
    grams, year = entry.get("grams_per_kwh"), entry.get("year")
    if grams is None and year is None and "scope" not in entry:
        if table.built_in(zone) is None:
            raise ConfigError(f"{where}the built-in table has no figure for {zone}")
        return None, 0
    if isinstance(grams, bool) or not isinstance(grams, int | float):
        raise ConfigError(f"{where}grams_per_kwh must be a number (g CO2e per kWh)")
    if not 0 <= grams <= HIGHEST_GRAMS_PER_KWH:  # NaN is not either, and an int may have any length
        raise ConfigError(f"{where}grams_per_kwh cannot be a grid's intensity")
    if isinstance(year, bool) or not isinstance(year, int) or not 1990 <= year <= 2200:
        raise ConfigError(f"{where}year must be the year that grams_per_kwh is of")
    return float(grams), year


def _check_names(sources: Sequence[SourceConfig]) -> None:
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two sources are named {name}; give one of them another name")


def _refuse_unknown(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise ConfigError(f"{where}unknown key {key}{nearest(key, known)}")


def _text(entry: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if value is None:
        raise ConfigError(f"{where}{key} is missing")
    if not isinstance(value, str) or not value.isprintable() or (key in entry and not value):
        raise ConfigError(f"{where}{key} must be one line of text")
    return value


def _word(
    entry: Mapping[str, Any], key: str, known: Sequence[str], where: str, default: str = ""
) -> str:
    value = _text(entry, key, where, default or None)
    if value not in known:
        raise ConfigError(
            f"{where}{key}: {value!r} is not one of {', '.join(known)}{nearest(value, known)}"
        )
    return value


def _matching(
    entry: Mapping[str, Any],
    key: str,
    pattern: re.Pattern[str],
    what: str,
    where: str,
    default: str | None = None,
) -> str:
    value = _text(entry, key, where, default)
    if key in entry and not pattern.fullmatch(value):
        raise ConfigError(f"{where}{key}: {value!r} is not {what}")
    return value


def _seconds(entry: Mapping[str, Any], key: str, where: str, default: float) -> float:
    if key not in entry:
        return default
    try:
        value = duration(_text(entry, key, where)) / NS_PER_S
    except ValueError as err:
        raise ConfigError(f"{where}{key}: {err}") from err
    if value < 1:
        raise ConfigError(f"{where}{key}: must be 1s or more")
    return value


def _path(entry: Mapping[str, Any], key: str, where: str) -> Path | None:
    return Path(_text(entry, key, where)) if key in entry else None


def _url(entry: Mapping[str, Any], default: str, where: str) -> str:
    text = _text(entry, "url", where, default)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ConfigError(f"{where}url must be such as https://prometheus.example.org:9090")
    if parts.username or parts.password:
        raise ConfigError(f"{where}url: a password does not belong here; see credentials_file")
    return text.rstrip("/")
