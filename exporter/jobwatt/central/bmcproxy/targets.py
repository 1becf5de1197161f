"""
The list of BMCs that `jobwatt bmc-proxy` asks, from TOML (docs/bmc.md).

A key that is not known is refused with the nearest one that is. A hyphen and an underscore are the
same in a key.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ConfigError, nearest
from ...kinds import positive_duration
from ...model import NS_PER_S
from ...sources.redfish_url import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

# A BMC answers in 0.1 s to some seconds, and its figure is new each second or seldomer.
_INTERVAL, _TIMEOUT = "30s", "10s"
_MIN_INTERVAL_NS = NS_PER_S
# Nodes take their rows from here, and a wall meter that is silent for a minute is not waited for (wall.py).
_MAX_INTERVAL_NS = 60 * NS_PER_S
# Threads that ask: at 0.5 s a look, the 48 of 64 that are not for slow BMCs ask 2800 in 30 s.
_THREADS, _MAX_THREADS = 64, 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One BMC: ``url`` (Redfish) or ``ipmi`` (host, IPMI over LAN), the other ""; times in ns."""

    node: str
    url: str
    ipmi: str
    credentials: Path
    ca_file: Path | None
    verify: bool
    interval_ns: int
    timeout_ns: int


@dataclass(frozen=True, slots=True)
class BmcList:
    """All of them, and how many threads ask."""

    entries: tuple[Entry, ...]
    threads: int


# Key -> what its value must be.
_SHARED: dict[str, type] = {
    "credentials": str,
    "ca-file": str,
    "verify": bool,
    "interval": str,
    "timeout": str,
}
_OWN: dict[str, type] = {"node": str, "url": str, "ipmi": str, **_SHARED}
_TOP: dict[str, type] = {"threads": int, "defaults": dict, "bmc": list}


def read(path: Path) -> BmcList:
    """Read the list; ConfigError, naming the file and the entry, where it cannot be used."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"--bmc.config: {path}: cannot read ({err.strerror})") from err
    except (ValueError, RecursionError) as err:  # tomllib: a number of 5000 digits is a ValueError
        raise ConfigError(f"--bmc.config: {path}: not TOML ({err})") from err
    top = _checked(plain, _TOP, f"{path}: ")
    defaults = _checked(top.get("defaults", {}), _SHARED, f"{path}: defaults: ")
    tables = top.get("bmc", [])
    if not tables:
        raise ConfigError(f"{path}: names no BMC; add a table [[bmc]] for each")
    entries = tuple(
        _entry(table, defaults, f"{path}: bmc {number}: ") for number, table in enumerate(tables, 1)
    )
    _each_once(entries, path)
    return BmcList(entries, min(_threads(top, path), len(entries)))


def _threads(top: Mapping[str, Any], path: Path) -> int:
    threads = int(top.get("threads", _THREADS))
    if not 1 <= threads <= _MAX_THREADS:
        raise ConfigError(f"{path}: threads: {threads} is not between 1 and {_MAX_THREADS}")
    return threads


def _checked(table: Any, known: Mapping[str, type], where: str) -> dict[str, Any]:
    """The table with its keys as they are written here; ConfigError where one is wrong."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}must be a table")
    found = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in known:
            raise ConfigError(f"{where}unknown key {key}{nearest(name, known)}")
        if type(value) is not known[name]:
            raise ConfigError(f"{where}{key}: must be {_TYPES[known[name]]}")
        found[name] = value
    return found


_TYPES = {str: "a string", bool: "true or false", int: "a whole number", dict: "a table", list: "tables [[bmc]]"}  # fmt: skip


def _entry(table: Any, defaults: Mapping[str, Any], where: str) -> Entry:
    own = _checked(table, _OWN, where)
    node = own.get("node", "")
    if not node or not node.isprintable() or len(node) > 253:
        raise ConfigError(f"{where}node: must be the name of the node that this BMC belongs to")
    where = f"{where.removesuffix(': ')} ({node}): "
    given = {**defaults, **own}
    if "credentials" not in given:
        raise ConfigError(f"{where}credentials: must name a file with USER:PASSWORD")
    return Entry(
        node=node,
        url=_url(own, where),
        ipmi=own.get("ipmi", ""),
        credentials=Path(given["credentials"]),
        ca_file=Path(given["ca-file"]) if given.get("ca-file") else None,
        verify=given.get("verify", True),
        interval_ns=_interval(given.get("interval", _INTERVAL), where),
        timeout_ns=_duration(given.get("timeout", _TIMEOUT), f"{where}timeout: "),
    )


def _url(own: Mapping[str, Any], where: str) -> str:
    url = str(own.get("url", ""))
    if bool(url) == bool(own.get("ipmi")):
        raise ConfigError(f'{where}give either url = "https://..." (Redfish) or ipmi = "HOST"')
    if url:
        try:
            parse_url(url)
        except ValueError as err:
            raise ConfigError(f"{where}url: {err}") from err
    return url


def _interval(text: str, where: str) -> int:
    interval_ns = _duration(text, f"{where}interval: ")
    if interval_ns < _MIN_INTERVAL_NS:
        raise ConfigError(f"{where}interval: {text} is shorter than 1s; no BMC measures faster")
    if interval_ns > _MAX_INTERVAL_NS:
        raise ConfigError(
            f"{where}interval: {text} is longer than 60s; a wall meter that is silent for a minute is"
            " not waited for"
        )
    return interval_ns


def _duration(text: str, where: str) -> int:
    try:
        return positive_duration(text)
    except ValueError as err:
        raise ConfigError(f"{where}{err}") from err


def _each_once(entries: tuple[Entry, ...], path: Path) -> None:
    seen: set[str] = set()
    for entry in entries:
        for name in (entry.node, entry.url or entry.ipmi):
            if name in seen:
                raise ConfigError(f"{path}: {name} is there twice; a node has one BMC")
            seen.add(name)
