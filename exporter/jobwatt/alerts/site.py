"""
site.toml: everything that differs from site to site, read and checked into frozen dataclasses.

One table gives keys, defaults and checks. An unknown key is refused with the nearest known one, and
a value that makes no sense with what would: a misspelt threshold must not be silently without
effect, and a misspelt address must not lose mail.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import ConfigError, nearest
from . import addresses, regex, schedule, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import date, tzinfo
    from pathlib import Path

S = TypeVar("S")
_HINTS = {
    "auth_password": "a password does not belong into this file; put it into one of its own and name that in auth_password_file",
    "password": "put it into a file of its own and name that in auth_password_file",
}


class SiteError(ConfigError):
    """Which file, which key, what is wrong with it and how to mend it; one line."""


def _key(parse: Callable[[Any], Any], default: Any = None, name: str = "") -> Any:
    """A key of the file: how it is checked, what it is where it is left out (already parsed)."""
    metadata = {"parse": parse, "name": name}
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Mail:
    """Who is written to, by whom, through what."""

    smarthost: str = _key(values.hostport)
    sender: str = _key(values.mailbox, name="from")
    operators: tuple[str, ...] = _key(values.addresses)
    hello: str = _key(values.domain, "localhost")
    require_tls: bool = _key(values.flag, True)
    auth_username: str = _key(values.some_text, "")
    auth_password_file: str = _key(values.absolute_path, "")
    domain: str = _key(values.domain, "")
    addresses: Mapping[str, str] = _key(addresses.table, dict)
    addresses_file: str = _key(values.some_text, "")
    only_listed: bool = _key(values.flag, False)
    reply_to: str = _key(values.mailbox, "")
    contact: str = _key(values.some_text, "")
    contact_url: str = _key(values.url, "")


@dataclass(frozen=True, slots=True)
class Schedule:
    """When mail goes out. ``hours``: minutes of the local day; ``days``: Monday is 0; ``holidays``: first and last day."""

    timezone: str = _key(schedule.zone, "UTC")
    hours: tuple[int, int] = _key(schedule.hours, (8 * 60, 19 * 60))
    days: tuple[int, ...] = _key(schedule.days, (0, 1, 2, 3, 4))
    holidays: tuple[tuple[date, date], ...] = _key(schedule.holidays, ())

    @property
    def zone(self) -> tzinfo:
        """The time zone itself."""
        return schedule.timezone(self.timezone)


@dataclass(frozen=True, slots=True)
class Links:
    """Where the mails' links lead; "" for nowhere."""

    grafana: str = _key(values.url, "")
    runbooks: str = _key(values.url, "")


@dataclass(frozen=True, slots=True)
class Cost:
    """
    What energy and GPU time stand for; None where a site does not say. ``..._series``: PromQL that gives
    the figure as it changes; the fixed one beside it counts while that gives nothing.
    """

    pue: float | None = _key(values.number(1, 5, "it is total over IT power"))
    carbon_intensity_g_per_kwh: float | None = _key(values.grams_per_kwh)
    price_per_kwh: float | None = _key(values.number(0))
    price_per_gpu_hour: float | None = _key(values.number(0))
    embodied_g_per_node_hour: float | None = _key(values.number(0))
    pue_series: str = _key(values.promql, "")
    carbon_intensity_series: str = _key(values.promql, "")
    price_per_kwh_series: str = _key(values.promql, "")
    currency: str = _key(values.some_text, "EUR")


_HOUR, _RATIO = 3600.0, values.number(0, 1)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Times in seconds, memory in bytes, shares between 0 and 1."""

    never_used_grace: float = _key(values.span, _HOUR)
    never_used_grace_interactive: float = _key(values.span, 4 * _HOUR)
    never_used_busy: float = _key(values.span, 30.0)
    idle: float = _key(values.window, _HOUR)
    idle_interactive: float = _key(values.window, 4 * _HOUR)
    idle_near_limit: float = _key(values.window, _HOUR / 2)
    memory_held_bytes: float = _key(values.whole(1), 1 << 30)
    low_use_after: float = _key(values.span, 4 * _HOUR)
    low_use_ratio: float = _key(_RATIO, 0.15)
    low_sm_ratio: float = _key(_RATIO, 0.10)
    starved_gpu_ratio: float = _key(_RATIO, 0.5)
    starved_cpu_ratio: float = _key(_RATIO, 0.9)
    overask_after: float = _key(values.span, 2 * _HOUR)
    overask_used_ratio: float = _key(_RATIO, 0.25)
    overask_factor: float = _key(values.number(1), 2.0)
    short_job: float = _key(values.span, 300.0)
    short_failures: float = _key(values.whole(1), 10)
    near_limit: float = _key(values.span, _HOUR)
    stale: float = _key(values.span, 120.0)
    idle_share_ops: float = _key(_RATIO, 0.3)
    throttle_share: float = _key(_RATIO, 0.25)
    agreement_deviation: float = _key(_RATIO, 0.15)


@dataclass(frozen=True, slots=True)
class Interactive:
    """Jobs that somebody sits in front of; any match counts."""

    partition: tuple[str, ...] = _key(regex.patterns, ())
    qos: tuple[str, ...] = _key(regex.patterns, ())
    name: tuple[str, ...] = _key(regex.patterns, ())


@dataclass(frozen=True, slots=True)
class Exclude:
    """Jobs whose owners are never written to; any match counts."""

    user: tuple[str, ...] = _key(regex.patterns, ())
    account: tuple[str, ...] = _key(regex.patterns, ())
    partition: tuple[str, ...] = _key(regex.patterns, ())
    qos: tuple[str, ...] = _key(regex.patterns, ())
    name: tuple[str, ...] = _key(regex.patterns, ())


@dataclass(frozen=True, slots=True)
class Site:
    """The whole file. ``path``: where it was read from."""

    path: Path
    mail: Mail
    schedule: Schedule = field(default_factory=Schedule)
    links: Links = field(default_factory=Links)
    cost: Cost = field(default_factory=Cost)
    thresholds: Thresholds = field(default_factory=Thresholds)
    interactive: Interactive = field(default_factory=Interactive)
    exclude: Exclude = field(default_factory=Exclude)


_SECTIONS: dict[str, type[Any]] = {
    "mail": Mail,
    "schedule": Schedule,
    "links": Links,
    "cost": Cost,
    "thresholds": Thresholds,
    "interactive": Interactive,
    "exclude": Exclude,
}


def read(path: Path) -> Site:
    """Read a site's file; SiteError for what cannot be used, OSError never."""
    plain = _toml(path)
    for name in plain:
        if name not in _SECTIONS:
            raise SiteError(f"{path}: unknown section [{name}]{nearest(name, _SECTIONS)}")
    parts = {
        name: _section(path, name, kind, plain.get(name, {})) for name, kind in _SECTIONS.items()
    }
    site = Site(path, **parts)
    return _checked(replace(site, mail=_with_addresses(path, site.mail)))


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as err:
        raise SiteError(f"{path}: cannot be read ({err.strerror})") from err
    except (ValueError, RecursionError) as err:  # tomllib: a number of 5000 digits is a ValueError
        raise SiteError(f"{path}: not TOML ({err})") from err


def _section(path: Path, section: str, kind: type[S], given: object) -> S:
    if not isinstance(given, dict):
        raise SiteError(f"{path}: {section} must be a section: [{section}]")
    known = {one.metadata["name"] or one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    found = {}
    for key, value in given.items():
        where = f"{path}: {section}.{key}"
        if key not in known:
            raise SiteError(f"{where}: unknown key{_hint(key, known)}")
        try:
            found[known[key].name] = known[key].metadata["parse"](value)
        except ValueError as err:
            raise SiteError(f"{where}: {err}") from err
    return kind(**found)


def _hint(key: str, known: Iterable[str]) -> str:
    return f"; {_HINTS[key]}" if key in _HINTS else nearest(key, known)


def notes(site: Site) -> Iterable[str]:
    """What is not wrong, but hardly meant."""
    examples = ("@example.org", "@example.com", "@example.net")
    if site.mail.domain.startswith("example.") or site.mail.operators[0].endswith(examples):
        yield f"{site.path} still mails to example.org: set mail.domain, from and operators"
    if site.mail.auth_username and not site.mail.require_tls:
        yield f"{site.path}: mail.require_tls = false sends the password without encryption"


# --- addresses -----------------------------------------------------------------------------------


def _with_addresses(path: Path, mail: Mail) -> Mail:
    """The table and the file it names as one."""
    if not mail.addresses_file:
        return mail
    listed = path.parent / mail.addresses_file
    try:
        found = dict(addresses.read(listed))
    except OSError as err:
        raise SiteError(f"{listed}: cannot be read ({err.strerror})") from err
    except ValueError as err:
        raise SiteError(f"{listed}: {err}") from err
    for user, address in mail.addresses.items():
        if found.setdefault(user, address) != address:
            raise SiteError(
                f"{path}: mail.addresses.{user}: {listed} gives another address; keep one of them"
            )
    return replace(mail, addresses=found)


# --- what must fit together ----------------------------------------------------------------------


def _checked(site: Site) -> Site:
    for key, problem in _problems(site):
        raise SiteError(f"{site.path}: {key}: {problem}")
    return site


def _problems(site: Site) -> Iterable[tuple[str, str]]:
    mail, limits = site.mail, site.thresholds
    required = {"smarthost": mail.smarthost, "from": mail.sender, "operators": mail.operators}
    for key, value in required.items():
        if value is None:
            yield f"mail.{key}", "is needed; alerts/site.toml shows what it looks like"
    if mail.only_listed and not mail.addresses:
        yield (
            "mail.only_listed",
            "nobody is listed; fill mail.addresses or name mail.addresses_file",
        )
    if not mail.domain and not mail.only_listed:
        yield "mail.domain", "is needed, unless only_listed = true and addresses list everybody"
    if mail.auth_password_file and not mail.auth_username:
        yield "mail.auth_username", "is needed where there is an auth_password_file"
    if mail.auth_username and not mail.auth_password_file:
        yield "mail.auth_password_file", "is needed where there is an auth_username"
    try:
        schedule.utc_minutes(site.schedule.timezone, site.schedule.hours)
    except ValueError as err:
        yield "schedule.hours", str(err)
    for short, long in (("never_used_busy", "never_used_grace"), ("never_used_grace", "never_used_grace_interactive"),
                        ("idle", "idle_interactive")):  # fmt: skip
        if getattr(limits, short) > getattr(limits, long):
            yield f"thresholds.{long}", f"is below thresholds.{short}"
