"""
CodeCarbon's emissions.csv, of whatever version, read by its header.

Columns by version (EmissionsData in codecarbon/output.py, since 2.6 in
codecarbon/output_methods/emissions_data.py): 1.x has no cpu_energy, gpu_energy and ram_energy; 2.0
adds run_id and the parts; 2.2 codecarbon_version; 2.3 pue, by which every energy is multiplied;
3.1 water_consumed and wue. Energies are kWh, emissions kg, duration seconds; the timestamp is local
time without a zone, taken when the row was written.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from .figures import J_PER_KWH, CompareError, Span, Theirs, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_MOST_BYTES, _MOST_RUNS = 64 << 20, 200_000  # a row has 500 bytes: a hundred thousand runs
_PARTS = {"cpu": "cpu_energy", "dram": "ram_energy", "gpu": "gpu_energy"}
_MODES = {"machine": "node", "process": "process"}
_SLACK_S = 60.0  # clocks of a node and of this machine, and a tracker that ends after its job


@dataclass(frozen=True, slots=True)
class Run:
    """One tracker's row: joules with PUE, seconds, grams."""

    energy_j: float
    parts_j: dict[str, float]
    pue: float
    mode: str
    grams: float | None
    span: Span | None
    version: str


def read(path: Path) -> tuple[list[Run], int]:
    """The runs of a file, the last row of each, and how many rows cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as err:
        raise CompareError(f"{path}: cannot be read ({err.strerror})") from err
    if len(data) > _MOST_BYTES:
        raise CompareError(f"{path}: more than {_MOST_BYTES >> 20} MiB; no emissions.csv")
    try:
        return parse(data.decode("utf-8-sig", "replace"))
    except CompareError as err:
        raise CompareError(f"{path}: {err}") from err


def parse(text: str) -> tuple[list[Run], int]:
    """As ``read``, of the file's text."""
    rows = _records(text)
    header = [name.strip() for name in next(rows, [])]
    if "energy_consumed" not in header:
        raise CompareError("no column energy_consumed; give CodeCarbon's emissions.csv")
    runs: dict[object, Run] = {}
    bad = 0
    short: list[str] = []
    for number, fields in enumerate(rows):
        if len(fields) == len(header) and not short:
            short = [name for name, value in zip(header, fields, strict=True) if value]
        row = _row(header, fields, short)
        run = None if row is None else _run(row)
        if row is None or run is None:
            bad += 1
            continue
        # flush() writes a run's row again with all it has so far: the last one holds
        runs[row.get("run_id") or number] = run
        if len(runs) > _MOST_RUNS:
            raise CompareError(f"more than {_MOST_RUNS} runs; no emissions.csv")
    if not runs:
        raise CompareError("no row with a usable energy_consumed")
    return list(runs.values()), bad


def _records(text: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text.replace("\0", ""), newline=""))
    try:
        yield from (fields for fields in reader if fields)
    except csv.Error as err:
        raise CompareError(f"not a CSV file ({err})") from err


def _row(
    header: Sequence[str], fields: Sequence[str], short: Sequence[str]
) -> dict[str, str] | None:
    """
    A row by column, None where its columns cannot be told.

    In append mode CodeCarbon drops a row's columns that are None, their commas too
    (FileOutput.out: ``dropna(axis=1)``, then ``to_csv(header=False)``): such a row is shorter by
    the columns that are empty in the first; ``short`` are the others.
    """
    if len(fields) < len(header):
        header = short or header
    if len(fields) != len(header):
        return None
    return dict(zip(header, fields, strict=True))


def _run(row: dict[str, str]) -> Run | None:
    energy = _number(row.get("energy_consumed"))
    if energy is None:
        return None
    pue = max(_number(row.get("pue")) or 1.0, 1.0)
    parts = {part: _number(row.get(column)) for part, column in _PARTS.items()}
    kilograms = _number(row.get("emissions"))
    return Run(
        energy_j=energy * J_PER_KWH,
        parts_j={p: kwh * J_PER_KWH / pue for p, kwh in parts.items() if kwh is not None},
        pue=pue,
        mode=_MODES.get(row.get("tracking_mode", ""), "node"),
        grams=None if kilograms is None else kilograms * 1000,
        span=_span(row.get("timestamp", ""), _number(row.get("duration"))),
        version=printable(row.get("codecarbon_version", "").strip(), 20),
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value < 1e12 else None  # a TWh is no job's


def _span(timestamp: str, duration_s: float | None) -> Span | None:
    try:
        end = datetime.fromisoformat(timestamp.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    # the second in which the row was written
    return None if duration_s is None else (end + 0.5 - duration_s, end + 0.5)


def within(runs: Iterable[Run], job: Span) -> list[Run]:
    """The runs that lie in the job's time; one without a time is taken to."""
    start, end = job[0] - _SLACK_S, job[1] + _SLACK_S
    return [r for r in runs if r.span is None or (start <= r.span[0] and r.span[1] <= end)]


def theirs(runs: Sequence[Run], job: Span, bad: int = 0) -> Theirs:
    """The sum of the job's runs; CompareError where none is the job's."""
    found = within(runs, job)
    if not found:
        raise CompareError(
            "no row of CodeCarbon's lies within the job's time; its times are read in this "
            "machine's time zone (TZ=... changes that)"
        )
    total = sum(run.energy_j for run in found)
    without = sum(run.energy_j / run.pue for run in found)
    grams = [run.grams for run in found]
    spans = tuple(run.span for run in found if run.span is not None)
    return Theirs(
        tool=f"CodeCarbon {max(run.version for run in found)}".strip(),
        total_j=total,
        parts_j=_sum([run.parts_j for run in found]),
        pue=total / without if without else 1.0,
        covers="process" if all(run.mode == "process" for run in found) else "node",
        spans=spans if len(spans) == len(found) else (),
        grams=None if None in grams else sum(g for g in grams if g is not None),
        notes=tuple(_notes(found, len(runs) - len(found), bad)),
    )


def _sum(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Empty where one of them lacks a part: half a sum would mislead."""
    if any(part.keys() != _PARTS.keys() for part in parts):
        return {}
    return {name: sum(part[name] for part in parts) for name in _PARTS}


def _notes(found: Sequence[Run], outside: int, bad: int) -> Iterator[str]:
    if len({run.mode for run in found}) > 1:
        yield "its rows mix tracking_mode machine and process"
    spans = sorted(run.span for run in found if run.span is not None)
    if any(later[0] < earlier[1] - 1 for earlier, later in pairwise(spans)):
        yield f"{len(found)} of its runs overlap: in machine mode each counted the node again"
    if outside:
        yield f"{outside} rows outside the job's time are left out"
    if bad:
        yield f"{bad} rows cannot be read and are left out"
