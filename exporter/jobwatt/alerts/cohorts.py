"""
Did those who were mailed change, and more than others did? Pure: days of use in, figures out.

Whoever wastes much in one month wastes less in the next, mailed or not (regression to the mean), and
everybody's month differs from the last. So two groups are looked at in one way: people whose alert
reached them, and people whose alert reached nobody, for mails had not begun. Both are followed for a
window before and a window after the day of their first alert, which itself is left out. What the mailed
did is held against what they would have done had they changed by the others' factor
(difference in differences, in ratios; Angrist and Pischke 2009, chapter 5).

Intervals are of the bootstrap over people (Efron and Tibshirani 1993, chapter 13): days of one person
are not independent, people are taken to be.
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
    """One person's mean day before and after."""

    before: Use
    after: Use


@dataclass(frozen=True, slots=True)
class Group:
    """
    People who had an alert.

    Attributes:
        people: of whom there are figures.
        outside: how many more had an alert so near the ends of the time that a window is missing.
    """

    people: tuple[Change, ...]
    outside: int

    @property
    def told(self) -> bool:
        """Whether there are enough of them to tell of."""
        return len(self.people) >= FEWEST

    @property
    def gone(self) -> int:
        """How many held no GPU after."""
        return sum(person.after.held_s <= 0 < person.before.held_s for person in self.people)

    def total(self) -> Change:
        """Their mean day, all together."""
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
        measured: days of which at least half was measured; others count for nobody.
    """

    use: Mapping[Person, Mapping[int, Use]]
    alerts: Mapping[Person, Collection[int]]
    measured: Collection[int]


def group(history: History, first: int, end: int, window: int) -> Group:
    """
    Those whose alert fired in the days ``first <= day < end``, by the first of these days.

    Only days within them are looked at, and ``window`` days before ``first``.
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
            people.append(Change(before, after))
    return Group(tuple(people), outside)


def _mean(history: History, person: Person, days: range) -> Use | None:
    measured = [day for day in days if day in history.measured]
    if len(measured) < _MEASURED * len(days):
        return None
    use = history.use.get(person, {})
    return _sum(use[day] for day in measured if day in use).over(len(measured))


def response(mailed: Group, others: Group | None) -> Response:
    """What mails did; without ``others`` what is held against is no change at all."""
    control = others.people if others else ()
    draws = [(mailed.people, control), *_draws(mailed.people, control)]
    found = list(starmap(_effect, draws))
    names = ("unused", "idle_s", "used_s", "energy_j", "rebound")
    return Response(*(_figure([one[name] for one in found]) for name in names))


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
    c = _total(control) if control else Change(m.before, m.before)
    idle = _beyond(m, c, lambda use: use.idle_s)
    used = _beyond(m, c, lambda use: use.used_s)
    shares = [use.unused for use in (m.before, m.after, c.before, c.after)]
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


def _beyond(mailed: Change, control: Change, of: Callable[[Use], float]) -> float | None:
    """What the mailed have now beyond what the others' factor would have made of what they had."""
    if of(control.before) <= 0:
        return None
    return of(mailed.after) - of(mailed.before) * of(control.after) / of(control.before)


def _figure(values: Sequence[float | None]) -> Figure:
    """The first is the estimate, the others are the bootstrap's; an interval only where most of them exist."""
    drawn = sorted(value for value in values[1:] if value is not None)
    if values[0] is None or len(drawn) < 0.95 * DRAWS:
        return Figure(values[0])
    low, high = (drawn[round(q * (len(drawn) - 1))] for q in (0.025, 0.975))
    return Figure(values[0], low, high)


def _total(people: Iterable[Change]) -> Change:
    listed = list(people)
    return Change(_sum(one.before for one in listed), _sum(one.after for one in listed))


def _sum(uses: Iterable[Use]) -> Use:
    return sum(uses, Use())
