"""
What Prometheus and Alertmanager would have made of alerts: which mails, when, about what. Pure.

Times are Unix seconds. The rules of ``for`` and ``keep_firing_for`` are Prometheus's
(rules/alerting.go), those of grouping, muting and repeating Alertmanager's (dispatch/dispatch.go,
notify/notify.go; STACK: 0.25). What is left out: restarts of either, silences, and mail servers
that refuse.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from itertools import groupby, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

HOUR_S = 3600.0
Labels = tuple[tuple[str, str], ...]  # sorted pairs
Spell = tuple[float, float]  # from its first moment up to, not including, its last


@dataclass(frozen=True, slots=True)
class Timing:
    """How alerts become mails; as in alerts/alertmanager/alertmanager.yml."""

    group_wait_s: float = 600.0
    group_interval_s: float = 24 * HOUR_S
    repeat_interval_s: float = 23 * HOUR_S
    group_by: tuple[str, ...] = ("cluster", "user")
    inhibit_equal: tuple[str, ...] = ("cluster", "jobid")


@dataclass(frozen=True, slots=True)
class Schedule:
    """
    When mail goes out, as a time interval of Alertmanager says it.

    Attributes:
        hours: minutes of the day, from and up to (not including); (0, 1440) is all day.
        days: Monday is 0.
    """

    zone: tzinfo = UTC
    hours: tuple[int, int] = (0, 1440)
    days: frozenset[int] = frozenset(range(7))
    holidays: frozenset[date] = frozenset()

    def is_open(self, at: float) -> bool:
        """Whether mail goes out at that moment."""
        local = datetime.fromtimestamp(at, self.zone)
        begin, end = self.hours
        return (
            begin <= local.hour * 60 + local.minute < end
            and local.weekday() in self.days
            and local.date() not in self.holidays
        )


@dataclass(frozen=True, slots=True)
class Firing:
    """One alert of one job (or user) and the spells in which Prometheus says it fires."""

    alert: str
    labels: Labels
    spells: tuple[Spell, ...]

    def label(self, name: str) -> str:
        """A label's value, "" where it has none."""
        return dict(self.labels).get(name, "")

    def since(self, at: float) -> float | None:
        """Since when it fires at that moment; None where it does not."""
        return next((start for start, end in self.spells if start <= at < end), None)


@dataclass(frozen=True, slots=True)
class Told:
    """One line of a mail: an alert, and since when it fires."""

    alert: str
    labels: Mapping[str, str]
    since: float


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail: ``group`` holds the values of the labels that alerts are grouped by."""

    at: float
    group: Mapping[str, str]
    told: tuple[Told, ...]


def spells(
    present: Sequence[float], step: float, end: float, for_s: float, keep_firing_s: float
) -> tuple[Spell, ...]:
    """
    When an alert fires, from the evaluations in which its expression gave a result.

    Args:
        present: their times, ascending, multiples of ``step`` apart.
        end: time of the last evaluation; what fires then has the end ``inf``.
    """
    firing: list[Spell] = []
    for first, last in _runs(present, step):
        if firing and first <= firing[-1][1]:  # kept firing until it came back
            start = firing.pop()[0]
        else:
            start = first + _up(for_s, step)
            if start > last:
                continue
        gone = last + step  # the first evaluation without a result
        resolved = gone + (_up(keep_firing_s, step) if keep_firing_s else 0.0)
        firing.append((start, resolved if resolved <= end else float("inf")))
    return tuple(firing)


def _runs(present: Sequence[float], step: float) -> Iterator[Spell]:
    """First and last time of each run of results without a gap."""
    if not present:
        return
    first = present[0]
    for before, now in pairwise(present):
        if now - before > 1.5 * step:
            yield first, before
            first = now
    yield first, present[-1]


def _up(span: float, step: float) -> float:
    """A span rounded up to whole evaluations."""
    return -(-span // step) * step


def mails(
    firings: Iterable[Firing],
    timing: Timing,
    precedence: Sequence[str],
    is_open: Callable[[float], bool],
    until: float,
) -> list[Mail]:
    """
    Every mail up to ``until``, by time.

    Args:
        precedence: alert names; an earlier one silences a later one with the same ``inhibit_equal``.
        is_open: whether mail goes out at that moment (hours, days, holidays).
    """
    every = sorted(firings, key=lambda firing: _group(firing, timing))
    sources = _Inhibition(every, timing, precedence)
    sent: list[Mail] = []
    for group, members in groupby(every, key=lambda firing: _group(firing, timing)):
        named = dict(zip(timing.group_by, group, strict=True))
        sent += _group_mails(named, list(members), timing, sources, is_open, until)
    return sorted(sent, key=attrgetter("at"))


def _group(firing: Firing, timing: Timing) -> tuple[str, ...]:
    labels = dict(firing.labels)
    return tuple(labels.get(name, "") for name in timing.group_by)


class _Inhibition:
    """Which alerts are silenced by a more telling one about the same job."""

    def __init__(
        self, firings: Iterable[Firing], timing: Timing, precedence: Sequence[str]
    ) -> None:
        self._equal = timing.inhibit_equal
        self._rank = {name: rank for rank, name in enumerate(precedence)}
        self._about: dict[tuple[str, ...], list[Firing]] = {}
        for firing in firings:
            self._about.setdefault(self._subject(firing), []).append(firing)

    def silences(self, firing: Firing, at: float) -> bool:
        """Whether another alert keeps this one out of a mail at that moment."""
        rank = self._rank.get(firing.alert, -1)
        return any(
            other.since(at) is not None and self._rank.get(other.alert, rank) < rank
            for other in self._about[self._subject(firing)]
            if other.label("jobid")
        )

    def _subject(self, firing: Firing) -> tuple[str, ...]:
        labels = dict(firing.labels)
        return tuple(labels.get(name, "") for name in self._equal)


@dataclass(slots=True)
class _Log:
    """Alertmanager's notification log of one group: what fired at the last notification, and when."""

    firing: frozenset[tuple[str, Labels]] = frozenset()
    at: float = float("-inf")
    known: bool = field(default=False)

    def wants(self, firing: frozenset[tuple[str, Labels]], at: float, repeat_s: float) -> bool:
        """Whether there is something to tell (DedupStage.needsUpdate)."""
        if not self.known:
            return bool(firing)
        if not firing <= self.firing:
            return True
        return bool(self.firing) if not firing else self.at < at - repeat_s

    def note(self, firing: frozenset[tuple[str, Labels]], at: float) -> None:
        """A notification has been made."""
        self.firing, self.at, self.known = firing, at, True


def _group_mails(
    group: Mapping[str, str],
    members: Sequence[Firing],
    timing: Timing,
    inhibition: _Inhibition,
    is_open: Callable[[float], bool],
    until: float,
) -> Iterator[Mail]:
    """A group lives from its first alert to the flush at which all of its alerts are resolved."""
    log = _Log()
    starts = sorted(start for firing in members for start, _ in firing.spells)
    begun = starts[0] if starts else float("inf")
    while begun + timing.group_wait_s <= until:
        flush = begun + timing.group_wait_s
        while flush <= until:
            firing = [(one, since) for one in members if (since := one.since(flush)) is not None]
            if is_open(flush):
                yield from _flush(group, firing, flush, timing, inhibition, log)
            if not firing:
                break
            flush += timing.group_interval_s
        after = bisect_right(starts, flush)
        begun = starts[after] if after < len(starts) else float("inf")


def _flush(
    group: Mapping[str, str],
    firing: Iterable[tuple[Firing, float]],
    at: float,
    timing: Timing,
    inhibition: _Inhibition,
    log: _Log,
) -> Iterator[Mail]:
    told = [(one, since) for one, since in firing if not inhibition.silences(one, at)]
    keys = frozenset((one.alert, one.labels) for one, _ in told)
    if not log.wants(keys, at, timing.repeat_interval_s):
        return
    log.note(keys, at)
    if told:
        lines = (Told(one.alert, dict(one.labels), since) for one, since in told)
        yield Mail(at, group, tuple(sorted(lines, key=lambda line: (_number(line), line.alert))))


def _number(told: Told) -> tuple[int, str]:
    """Jobs by number, as a person expects them."""
    jobid = told.labels.get("jobid", "")
    return (int(jobid) if jobid.isascii() and jobid.isdigit() else 0, jobid)
