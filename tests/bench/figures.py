"""Figures of a benchmark run: one row each, a column per number of jobs, a target where there is one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True)
class Target:
    """``value < limit`` at ``jobs`` jobs (at every number of jobs where that is None)."""

    limit: float
    jobs: int | None = None

    def met(self, values: dict[int, float]) -> bool:
        """Whether it holds wherever it was measured."""
        return all(v < self.limit for n, v in values.items() if self.jobs in (None, n))

    def __str__(self) -> str:
        return f"< {self.limit:g}" + ("" if self.jobs is None else f" at {self.jobs}")


@dataclass
class Figure:
    section: str
    name: str
    unit: str
    target: Target | None = None
    values: dict[int, float] = field(default_factory=dict)


class Figures:
    """Rows in the order in which they were first set."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Figure] = {}
        self.notes: list[str] = []

    def set(
        self,
        section: str,
        name: str,
        jobs: int,
        value: float,
        unit: str,
        target: Target | None = None,
    ) -> None:
        row = self.rows.setdefault((section, name), Figure(section, name, unit, target))
        row.values[jobs] = value

    def lines(self, columns: Sequence[int]) -> Iterable[str]:
        """The table, section by section."""
        for section in dict.fromkeys(row.section for row in self.rows.values()):
            heads = "".join(f"{f'{n} job' + 's' * (n > 1):>11}" for n in columns)
            yield f"\n{section:<58}{heads}"
            for row in self.rows.values():
                if row.section == section:
                    cells = "".join(f"{_text(row.values.get(n)):>11}" for n in columns)
                    yield f"  {row.name:<48}{row.unit:>8}{cells}{_verdict(row)}"
        yield from (f"\nnote: {note}" for note in self.notes)

    def plain(self) -> dict[str, Any]:
        """The same for a script."""
        rows = [
            {
                "section": row.section, "name": row.name, "unit": row.unit, "values": row.values,
                "target": None if row.target is None else str(row.target),
                "met": None if row.target is None else row.target.met(row.values),
            }
            for row in self.rows.values()
        ]  # fmt: skip
        return {"figures": rows, "notes": self.notes}


def _verdict(row: Figure) -> str:
    if row.target is None:
        return ""
    return f"   {row.target}: {'met' if row.target.met(row.values) else 'MISSED'}"


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


def percentile(values: Iterable[float], percent: int) -> float:
    """The smallest value that is not exceeded by ``percent`` of them; the largest for few values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def timed(call: Callable[[], Any], times: int) -> float:
    """Median duration of ``call`` in ms."""
    from time import perf_counter

    took = []
    for _ in range(times):
        started = perf_counter()
        call()
        took.append(perf_counter() - started)
    return statistics.median(took) * 1e3
