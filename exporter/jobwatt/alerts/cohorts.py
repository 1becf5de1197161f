"""
Did those who were mailed change, and more than others did? Pure: days of use in, figures out.

Whoever wastes much in one month wastes less in the next, mailed or not (regression to the mean). So two
groups are looked at in one way: people whose alert reached them, and people whose alert reached nobody, for
mails had not begun. Both are chosen by their first alert in equally many days, of which the first has a
window of measured days before it: people who always waste, and people whose waste has just begun, are then
as frequent in the one as in the other. Both are followed for a window before and a window after the day of
that alert, which itself is left out. What the mailed did is held against what they would have done had they
changed by the others' factor (difference in differences; Angrist and Pischke 2009, chapter 5).

What it cannot see: the others lived some months earlier, so a season, new nodes or a course between are
taken for the mails' doing; the share that stands unused is the figure that such things move least.

Intervals are of the bootstrap over people (Efron and Tibshirani 1993, chapter 13): days of one person
are not independent, people are taken to be. Of few people they are too narrow.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

Person = tuple[str, str]  # cluster, user
DRAWS = (
    2000  # of the bootstrap: enough for the ends of a 95 % interval (Efron and Tibshirani, 14.3)
)
_SEED = 1  # the same data, the same figures
# Fewer people than this are not told of: each could tell what the others did. Statistical offices ask for three
# to ten contributors (Handbook on Statistical Disclosure Control, ESSnet 2010, chapter 4).
FEWEST = 5
SOME = 10  # fewer people than this have no interval: of five, 95 % were 88 % in a trial
_MEASURED = 0.5  # a window of which less was measured tells nothing


@dataclass(frozen=True, slots=True)
class Use:
    """What jobs used: GPU seconds held, known to be used or not, and unused; joules of all they ran on."""

    held_s: float = 0.0
    known_s: float = 0.0
    idle_s: float = 0.0
    energy_j: float = 0.0

    def __add__(self, other: Use) -> Use:
        return Use(
            self.held_s + other.held_s,
            self.known_s + other.known_s,
            self.idle_s + other.idle_s,
            self.energy_j + other.energy_j,
        )

    def over(self, days: int) -> Use:
        """A day's mean."""
        return Use(
            self.held_s / days, self.known_s / days, self.idle_s / days, self.energy_j / days
        )

    @property
    def used_s(self) -> float:
        """GPU seconds in which a kernel ran."""
        return self.known_s - self.idle_s

    @property
    def unused(self) -> float | None:
        """The share of the known time that stood unused; None where nothing is known."""
        return self.idle_s / self.known_s if self.known_s > 0 else None


@dataclass(frozen=True, slots=True)
class Change:
    """One person's mean day before and after. ``user``: who of several clusters is one person."""

    user: str
    before: Use
    after: Use


@dataclass(frozen=True, slots=True)
class Group:
    """
    People who had an alert.

    Attributes:
        people: of whom there are figures.
        outside: how many more had an alert with a window that is not all in the time, or not measured.
    """

    people: tuple[Change, ...]
    outside: int

    @property
    def told(self) -> bool:
        """Whether each of its sums is one of enough people: who held no GPU adds nothing to hide behind."""
        before = {one.user for one in self.people if one.before.held_s > 0}
        after = {one.user for one in self.people if one.after.held_s > 0}
        return min(len(before), len(after)) >= FEWEST

    @property
    def gone(self) -> int | None:
        """How many held no GPU after; None where these, though not none, are too few to tell of."""
        gone = sum(one.after.held_s <= 0 < one.before.held_s for one in self.people)
        return gone if gone == 0 or gone >= FEWEST else None

    def total(self) -> tuple[Use, Use]:
        """Their mean day before and after, all together."""
        return _total(self.people)


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate with the ends of its 95 % interval; None where the data give none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """
    What the mailed did beyond what they would have done without mails.

    Attributes:
        unused: the share of held GPU time that stood unused, as a difference of shares.
        idle_s, used_s: GPU seconds a day.
        energy_j: joules a day.
        rebound: of the GPU time that no longer stands unused, the share that the same people took up
            again as use; None where no less stands unused.
    """

    unused: Figure
    idle_s: Figure
    used_s: Figure
    energy_j: Figure
    rebound: Figure


@dataclass(frozen=True, slots=True)
class History:
    """
    Days are numbered from 1970 (UTC).

    Attributes:
        use: person -> day -> use; a day that is not there had no job.
        alerts: person -> days on which an alert of theirs fired.
        measured: cluster -> days that were measured; others count for none of its people.
    """

    use: Mapping[Person, Mapping[int, Use]]
    alerts: Mapping[Person, Collection[int]]
    measured: Mapping[str, Collection[int]]

    @property
    def first(self) -> int | None:
        """The first day that was measured anywhere; None where none was."""
        return min((day for days in self.measured.values() for day in days), default=None)


def groups(history: History, since: int, end: int, window: int) -> tuple[Group, Group]:
    """
    The mailed, and others of the months before who were not; mails began on day ``since``.

    Where of others there are none, or too few to tell of, the mailed are all of them.
    """
    first = since if history.first is None else history.first
    # a longer time gathers people who waste more rarely, and these change more by themselves
    days = min(since - (first + window), end - since)
    others = group(history, since - days, since, window) if days > window else Group((), 0)
    return group(history, since, since + days if others.told else end, window), others


def group(history: History, first: int, end: int, window: int) -> Group:
    """
    Those whose alert fired in the days ``first <= day < end``, by the first of these days.

    Only days before ``end`` are looked at.
    """
    people: list[Change] = []
    outside = 0
    for person, days in sorted(history.alerts.items()):
        within = [day for day in days if first <= day < end]
        if not within:
            continue
        day = min(within)
        before = _mean(history, person, range(day - window, day))
        after = _mean(history, person, range(day + 1, day + 1 + window))
        if before is None or after is None or day + window >= end:
            outside += 1
        else:
            people.append(Change(person[1], before, after))
    return Group(tuple(people), outside)


def _mean(history: History, person: Person, days: range) -> Use | None:
    there = history.measured.get(person[0], ())
    measured = [day for day in days if day in there]
    if len(measured) < _MEASURED * len(days):
        return None
    use = history.use.get(person, {})
    return _sum(use[day] for day in measured if day in use).over(len(measured))


def response(mailed: Group, others: Group | None) -> Response:
    """What mails did; without ``others`` what is held against is no change at all."""
    control = others.people if others else ()
    draws = [(mailed.people, control), *_draws(mailed.people, control)]
    found = list(starmap(_effect, draws))
    few = len(mailed.people) < SOME or (others is not None and len(control) < SOME)
    names = ("unused", "idle_s", "used_s", "energy_j", "rebound")
    return Response(*(_figure([one[name] for one in found], few=few) for name in names))


def _draws(
    mailed: Sequence[Change], control: Sequence[Change]
) -> Iterable[tuple[Sequence[Change], Sequence[Change]]]:
    """People drawn with replacement, each group from its own."""
    chance = random.Random(_SEED)  # noqa: S311  no secret
    for _ in range(DRAWS):
        yield (
            chance.choices(mailed, k=len(mailed)),
            chance.choices(control, k=len(control)) if control else (),
        )


def _effect(mailed: Sequence[Change], control: Sequence[Change]) -> dict[str, float | None]:
    m = _total(mailed)
    c = _total(control) if control else (m[0], m[0])
    idle = _beyond(m, c, lambda use: use.idle_s)
    used = _beyond(m, c, lambda use: use.used_s)
    shares = [use.unused for use in (*m, *c)]
    return {
        "unused": _difference(shares),
        "idle_s": idle,
        "used_s": used,
        "energy_j": _beyond(m, c, lambda use: use.energy_j),
        "rebound": used / -idle if idle is not None and used is not None and idle < 0 else None,
    }


def _difference(shares: Sequence[float | None]) -> float | None:
    m0, m1, c0, c1 = shares
    if m0 is None or m1 is None or c0 is None or c1 is None:
        return None
    return (m1 - m0) - (c1 - c0)


def _beyond(
    mailed: tuple[Use, Use], control: tuple[Use, Use], of: Callable[[Use], float]
) -> float | None:
    """What the mailed have now beyond what the others' factor would have made of what they had."""
    (before, after), (others_before, others_after) = mailed, control
    if of(others_before) <= 0:
        return None
    return of(after) - of(before) * of(others_after) / of(others_before)


def _figure(values: Sequence[float | None], *, few: bool) -> Figure:
    """The first is the estimate, the others are the bootstrap's; an interval only where most of them exist."""
    drawn = sorted(value for value in values[1:] if value is not None)
    if values[0] is None or few or len(drawn) < 0.95 * DRAWS:
        return Figure(values[0])
    low, high = (drawn[round(q * (len(drawn) - 1))] for q in (0.025, 0.975))
    return Figure(values[0], low, high)


def _total(people: Sequence[Change]) -> tuple[Use, Use]:
    return _sum(one.before for one in people), _sum(one.after for one in people)


def _sum(uses: Iterable[Use]) -> Use:
    return sum(uses, Use())
