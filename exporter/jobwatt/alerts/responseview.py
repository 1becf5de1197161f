"""What `jobwatt alerts response` prints: sums of people, never one of them."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .cohorts import FEWEST, Figure, Group, Response, Use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HOUR_S, _KWH_J, _DAY_S = 3600.0, 3.6e6, 86_400
_ROWS: tuple[tuple[str, Callable[[Use], float | None], str], ...] = (
    ("unused of held", lambda use: None if use.unused is None else 100 * use.unused, " %"),
    ("GPU hours a day, held", lambda use: use.held_s / _HOUR_S, ""),
    ("  used", lambda use: use.used_s / _HOUR_S, ""),
    ("  unused", lambda use: use.idle_s / _HOUR_S, ""),
    ("kWh a day", lambda use: use.energy_j / _KWH_J, ""),
)
_ALONE = (
    "Nobody to compare with: this cannot be told from what would have happened without mails. Whoever wastes much in "
    "one month wastes less in the next. To have somebody, rules are to record for more than two windows before mails "
    "begin, {needed} days or more; here it were {lead}."
)
_EARLIER = (
    "The others are of the months before: a season, new nodes or a course between is taken for the mails' doing. The "
    "share that stands unused is moved least by such things."
)


@dataclass(frozen=True, slots=True)
class Report:
    """
    All that is known.

    Attributes:
        since: the day of 1970 on which mails began.
        window: days before and after.
        lead: measured days before mails began.
        mailed, others: people whose alert reached them, and people whose alert reached nobody.
        response: None where too few were mailed.
    """

    since: int
    window: int
    lead: int
    mailed: Group
    others: Group
    response: Response | None


# --- JSON ----------------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    """The report for scripts: GPU hours and kWh a day, shares as ratios."""
    plain = {
        "mails_since": date(report.since),
        "window_days": report.window,
        "lead_days": report.lead,
        "mailed": _group_json(report.mailed),
        "not_mailed": _group_json(report.others),
        "response": None if report.response is None else _response_json(report.response),
    }
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def _group_json(group: Group) -> dict[str, Any]:
    if not group.told:
        return {"people": None, "fewer_than": FEWEST}
    before, after = group.total()
    return {
        "people": len(group.people),
        "gone": group.gone,
        "outside": group.outside,
        "before": _use_json(before),
        "after": _use_json(after),
    }


def _use_json(use: Use) -> dict[str, float | None]:
    return {
        "unused_ratio": _rounded(use.unused),
        "held_gpu_hours": _rounded(use.held_s / _HOUR_S),
        "used_gpu_hours": _rounded(use.used_s / _HOUR_S),
        "unused_gpu_hours": _rounded(use.idle_s / _HOUR_S),
        "kwh": _rounded(use.energy_j / _KWH_J),
    }


def _response_json(found: Response) -> dict[str, dict[str, float | None]]:
    return {
        "unused_ratio": _figure_json(found.unused, 1),
        "unused_gpu_hours": _figure_json(found.idle_s, _HOUR_S),
        "used_gpu_hours": _figure_json(found.used_s, _HOUR_S),
        "kwh": _figure_json(found.energy_j, _KWH_J),
        "rebound_ratio": _figure_json(found.rebound, 1),
    }


def _figure_json(figure: Figure, unit: float) -> dict[str, float | None]:
    return {
        name: None if value is None else _rounded(value / unit)
        for name, value in (("value", figure.value), ("low", figure.low), ("high", figure.high))
    }


def _rounded(value: float | None) -> float | None:
    """Three digits: with more, two reports that differ by a person tell what that person did."""
    return None if value is None else float(f"{value:.3g}")


# --- text ----------------------------------------------------------------------------------------


def as_text(report: Report, width: int = 120) -> str:
    """Both groups side by side, and what mails did, at most about ``width`` columns wide."""
    intro = (
        f"Mails since {date(report.since)} (UTC). {report.window} days before and after each person's first alert, "
        "that day left out; all people of a group together."
    )
    return "\n".join([*_wrapped(intro, width), "", *_table(report), "", *_verdict(report, width)]) + "\n"  # fmt: skip


def _table(report: Report) -> Iterator[str]:
    groups = report.others, report.mailed
    yield f"{'':24}{'alert, no mail':>22}{'mailed':>22}"
    yield _row("people", [_people(group) for group in groups])
    yield _row("  held no GPU after", [_gone(group) for group in groups])
    for name, of, unit in _ROWS:
        yield _row(name, [_change(group, of, unit) for group in groups])


def _row(name: str, cells: list[str]) -> str:
    return (f"{name:24}" + "".join(f"{cell:>22}" for cell in cells)).rstrip()


def _people(group: Group) -> str:
    return str(len(group.people)) if group.told else f"fewer than {FEWEST}"


def _gone(group: Group) -> str:
    if not group.told:
        return ""
    return f"fewer than {FEWEST}" if group.gone is None else str(group.gone)


def _change(group: Group, of: Callable[[Use], float | None], unit: str) -> str:
    if not group.told:
        return ""
    before, after = map(of, group.total())
    return f"{_number(before)} -> {_number(after)}{unit}"


def _verdict(report: Report, width: int) -> Iterator[str]:
    for group, who in ((report.others, "of the others"), (report.mailed, "of the mailed")):
        if group.told and group.outside:
            yield from _wrapped(
                f"Left out {who}: {group.outside}, whose windows are not all within the time, or not measured.",
                width,
            )
    if report.response is None:
        yield from _wrapped(
            f"Fewer than {FEWEST} people who were mailed held GPUs both before and after: their sum would tell of one of "
            "them. Look at a longer time.",
            width,
        )
        return
    yield ""
    if report.others.told:
        yield "Beyond what they would have done had they changed as the others did, a day:"
        yield from _effects(report.response)
        yield from _wrapped(_EARLIER, width)
    else:
        needed = 2 * report.window + 1
        yield from _wrapped(_ALONE.format(needed=needed, lead=report.lead), width)
        yield from _effects(report.response)


def _effects(found: Response) -> Iterator[str]:
    yield _effect("unused of held", found.unused, 100, "points")
    yield _effect("unused", found.idle_s, 1 / _HOUR_S, "GPU hours")
    yield _effect("used", found.used_s, 1 / _HOUR_S, "GPU hours")
    yield _effect("energy", found.energy_j, 1 / _KWH_J, "kWh")
    if found.idle_s.high is not None and found.idle_s.high < 0:  # else what is it a share of?
        if found.rebound.value is not None and found.rebound.value < 0:
            yield "  rebound         none: they use less, too"
        else:
            yield _effect(
                "rebound", found.rebound, 100, "% of what no longer stands unused is used"
            )


def _effect(name: str, figure: Figure, factor: float, unit: str) -> str:
    if figure.value is None:
        return f"  {name:16}not known"
    line = f"  {name:16}{_signed(factor * figure.value):>9} {unit}"
    if figure.low is None or figure.high is None:
        return line
    return f"{line} (95 %: {_signed(factor * figure.low)} to {_signed(factor * figure.high)})"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 40))


def _number(value: float | None) -> str:
    return "-" if value is None else _digits(value)


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{_digits(value)}"


def _digits(value: float) -> str:
    """Three digits, and no more than one behind the point."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.1f}" if abs(rounded) < 100 else f"{rounded:.0f}"


def date(day: int) -> str:
    """A day of 1970, as people write it."""
    return datetime.fromtimestamp(day * _DAY_S, UTC).strftime("%Y-%m-%d")
