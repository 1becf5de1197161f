"""
When mail goes out: local hours, days and holidays, as Prometheus and Alertmanager need them.

Prometheus knows UTC only, so the rules get hours that lie within the site's local hours all year
round, on both sides of daylight saving time. They end a little earlier than the site's: what begins
to fire at the last minute is still grouped and mailed within hours. A group that Alertmanager
first flushed at night would be flushed, and muted, at the same minute of every night.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from .values import some_text, text, texts

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY_MIN = 1440
MARGIN_MIN = 15  # group_wait (10 minutes), an evaluation and the way to Alertmanager
_LEAST_MIN = 60  # less than this a day would hardly ever tell anybody
# Offsets from UTC are looked up over these years, whatever year it is: rendering twice gives the
# same files. Time zone data newer than a package's own matter from the next rendering on.
_YEARS = (2026, 2036)


def zone(value: Any) -> str:
    """A time zone's name, of those this machine knows."""
    name = some_text(value)
    try:
        timezone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as err:
        if not available_timezones():
            raise ValueError(
                f"{name!r} cannot be looked up: this machine has no time zones; install the package tzdata"
            ) from err
        raise ValueError(f"{name!r} is no time zone such as Europe/Paris or UTC") from err
    return name


def timezone(name: str) -> tzinfo:
    """Return the zone of that name; UTC needs no data of time zones."""
    return UTC if name == "UTC" else ZoneInfo(name)


def hours(value: Any) -> tuple[int, int]:
    """``08:00-19:00`` in minutes of the day, from and up to."""
    found = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", text(value))
    if not found:
        raise ValueError(f"{value!r} is not a span of hours such as 08:00-19:00")
    h1, m1, h2, m2 = (int(part) for part in found.groups())
    begin, end = h1 * 60 + m1, h2 * 60 + m2
    if max(m1, m2) > 59 or end > DAY_MIN:
        raise ValueError(f"{value!r}: there is no such time of day; midnight at the end is 24:00")
    if end <= begin:
        raise ValueError(f"{value!r} ends before it begins")
    return begin, end


def days(value: Any) -> tuple[int, ...]:
    """``["monday:friday"]``: days of the week, Monday 0, sorted."""
    found: set[int] = set()
    for item in texts(value):
        first, _, last = item.partition(":")
        begin, end = _day(first), _day(last or first)
        found.update((begin + ahead) % 7 for ahead in range((end - begin) % 7 + 1))
    if not found:
        raise ValueError("names no day: no mail would ever go out")
    return tuple(sorted(found))


def _day(name: str) -> int:
    if name.lower() not in DAYS:
        raise ValueError(
            f"{name!r} is no day; they are {', '.join(DAYS)}, or a range monday:friday"
        )
    return DAYS.index(name.lower())


def holidays(value: Any) -> tuple[tuple[date, date], ...]:
    """``["2026-12-25", "2026-12-24..2027-01-03"]``: first and last day of each, sorted."""
    return tuple(sorted(_holiday(item) for item in texts(value)))


def _holiday(item: str) -> tuple[date, date]:
    first, _, last = item.partition("..")
    try:
        begin, end = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError as err:
        raise ValueError(
            f"{item!r} is not a date such as 2026-12-25 or 2026-12-24..2027-01-03"
        ) from err
    if end < begin:
        raise ValueError(f"{item!r} ends before it begins")
    if end - begin > timedelta(days=366):
        raise ValueError(f"{item!r} is longer than a year")
    return begin, end


# --- for Prometheus ------------------------------------------------------------------------------


def offsets(name: str) -> set[int]:
    """The zone's offsets from UTC in minutes over the years looked at."""
    local = timezone(name)
    at, end = datetime(_YEARS[0], 1, 1, tzinfo=UTC), datetime(_YEARS[1], 1, 1, tzinfo=UTC)
    found = set()
    while at < end:
        offset = at.astimezone(local).utcoffset() or timedelta(0)
        found.add(int(offset.total_seconds()) // 60)
        at += timedelta(days=1)
    return found


def utc_minutes(name: str, local: tuple[int, int]) -> tuple[int, int] | None:
    """
    Minutes of the UTC day, from and up to, in which alerts may begin to fire; None for always.

    The second is below the first where the span runs over midnight UTC. ValueError where
    nothing is left.
    """
    if local == (0, DAY_MIN):
        return None
    at = offsets(name)
    begin, end = local[0] - min(at), local[1] - max(at) - MARGIN_MIN
    if end - begin < _LEAST_MIN:
        raise ValueError(
            f"too short: {max(at) - min(at)} minutes of it are lost to daylight saving time and {MARGIN_MIN} "
            f"to grouping, and an hour must be left"
        )
    return begin % DAY_MIN, end % DAY_MIN


def utc_expression(span: tuple[int, int] | None) -> str:
    """PromQL for that span: 1 within it, 0 outside."""
    if span is None:
        return "vector(1)"
    now, (begin, end) = "hour() * 60 + minute()", span
    if begin < end:
        return f"({now} >= bool {begin}) * ({now} < bool {end})"
    return f"({now} >= bool {begin}) + ({now} < bool {end})"  # over midnight: one of them at most


# --- for Alertmanager ----------------------------------------------------------------------------


def day_ranges(found: tuple[int, ...]) -> list[str]:
    """Names of days and of ranges of days, as Alertmanager takes them (its week begins on Sunday)."""
    rotated = sorted((day + 1) % 7 for day in found)
    runs: list[list[int]] = []
    for day in rotated:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    name = {(day + 1) % 7: text for day, text in enumerate(DAYS)}
    return [name[run[0]] if len(run) == 1 else f"{name[run[0]]}:{name[run[-1]]}" for run in runs]


def month_parts(begin: date, end: date) -> Iterator[tuple[date, date]]:
    """The span cut at the ends of months: Alertmanager knows days of a month, not dates."""
    while begin <= end:
        following = (begin.replace(day=1) + timedelta(days=32)).replace(day=1)
        last = min(end, following - timedelta(days=1))
        yield begin, last
        begin = last + timedelta(days=1)
