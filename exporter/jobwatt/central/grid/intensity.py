"""
Carbon intensity of electricity: the type, what is plausible, and which figure is in use.

Pure. Figures are in g CO2e per kWh and carry what they mean, because two of them can differ by half
and both be right: ``scope`` says whether only the power stations' chimneys count (direct) or also fuel,
building and dismantling (lifecycle), ``kind`` whether a kWh is priced at the mix (average) or at the
station that would follow the next one (marginal). Neither is ever mixed with the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCOPES = ("lifecycle", "direct")
KINDS = ("average", "marginal")

# Oil shale, the dirtiest fuel that feeds a grid, is near 1200 g/kWh, and the highest yearly mean of a
# country in the built-in table is 1306: what is far above is no figure of a grid in g/kWh.
HIGHEST_GRAMS_PER_KWH = 3000.0
# A moment ahead of us: an hour that has begun there, by a clock that goes before ours.
AHEAD_S = 3600.0


class GridError(Exception):
    """
    No figure this time.

    Attributes:
        reason: a short closed word for a label (``timeout``, ``rate_limited``, ``null``).
        retry_after_s: how long the other side asks to be left alone; None where it says nothing.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.retry_after_s = reason, retry_after_s


@dataclass(frozen=True, slots=True)
class Intensity:
    """
    One figure.

    Attributes:
        grams_per_kwh: g CO2e per kWh.
        t_s: the Unix time that it is of (the beginning of its quarter, half or whole hour; for a
            yearly figure the year's end).
        estimated: the source itself says that it is a forecast or an estimate.
    """

    grams_per_kwh: float
    t_s: float
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a source's figures are; with the zone, the labels of its series."""

    source: str
    scope: str
    kind: str
    max_age_s: float  # older than this it is stale
    yearly: bool = False  # a table's figure: the last resort


def number(value: object) -> float:
    """The value as a float; GridError for null and for what is no number (a string of digits is none)."""
    if value is None:
        raise GridError("null", "the answer has no figure yet (null)")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GridError("malformed", "the answer's figure is no number")
    try:
        return float(value)
    except OverflowError:  # JSON knows integers of any length
        return math.inf


def checked(
    grams_per_kwh: object, t_s: float, now_s: float, *, estimated: bool = False
) -> Intensity:
    """Return a figure that can be one; GridError for null, what is no number, and the impossible."""
    grams = number(grams_per_kwh)
    if not 0 <= grams <= HIGHEST_GRAMS_PER_KWH:  # NaN is not either
        raise GridError("implausible", f"{grams:.6g} g/kWh cannot be a grid's intensity")
    if not math.isfinite(t_s) or t_s < 0:
        raise GridError("malformed", "the answer's time is no time")
    if t_s > now_s + AHEAD_S:
        raise GridError("future", f"the answer is of {t_s - now_s:.0f} s from now; check the clock")
    return Intensity(grams, t_s, estimated)


def stale(meaning: Meaning, figure: Intensity, now_s: float) -> bool:
    """Whether the figure is older than its source's should be."""
    return now_s - figure.t_s > meaning.max_age_s


def choose(
    order: Iterable[Meaning],
    figures: Mapping[str, Intensity],
    scope: str,
    kind: str,
    now_s: float,
) -> Meaning | None:
    """
    Return whose figure is in use: the first in order that is fresh, else a yearly one however old.

    Only figures of this scope and kind are looked at; None where there is none.
    """
    usable = [
        meaning
        for meaning in order
        if meaning.scope == scope and meaning.kind == kind and meaning.source in figures
    ]
    fresh = [meaning for meaning in usable if not stale(meaning, figures[meaning.source], now_s)]
    yearly = [meaning for meaning in usable if meaning.yearly]
    return next(iter(fresh + yearly), None)


def pause_s(interval_s: float, failures: int, retry_after_s: float | None = None) -> float:
    """
    How long to wait before the next question, after so many failures in a row.

    Twice as long after each, up to an hour (or the interval, where that is longer); what the other
    side asks for counts if it is longer, up to a day.
    """
    if not failures:
        return interval_s
    backed_off = min(interval_s * 2.0 ** min(failures - 1, 20), max(interval_s, 3600.0))
    return max(backed_off, min(retry_after_s or 0.0, 86_400.0))
