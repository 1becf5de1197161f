"""
Carbontracker's logs: what it measured, and what it predicted from that.

Each run leaves PREFIX_carbontracker.log (its version, PUE, components, and per epoch the duration
and each component's average power in W) and PREFIX_carbontracker_output.log (blocks "Actual
consumption for N epoch(s):" and "Predicted consumption for N epoch(s):" with Time, Energy in kWh
and CO2eq in g). Grammar and rules as in carbontracker/loggerutil.py, tracker.py and parser.py:
PUE multiplies the two consumptions and not the average powers; of the two the prediction counts,
unless all its epochs were measured or training was stopped.

Since 2.0 the powers of a component's devices go into one list whose mean is taken
(components/component.py: collect_power_usage, energy_usage): of four GPUs it counts one. The log
shows it: one figure for several devices, where older ones have a figure for each.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from .figures import J_PER_KWH, CompareError, Span, Theirs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_MOST_BYTES, _MOST_FILES = 16 << 20, 2000  # an epoch takes 300 bytes
_OUTPUT, _STANDARD = "_carbontracker_output.log", "_carbontracker.log"
_PUE = 1.58  # constants.PUE_2023, since 2.0; 1.2 had 1.55. The log says which.
_SLACK_S = 60.0
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) - ", re.MULTILINE)
_VERSION = re.compile(r"carbontracker version ([\w.+-]{1,20})")
_PUE_SAID = re.compile(r"PUE\s+coefficient of (\d{1,3}(?:\.\d{1,20})?)\b")
_DURATION = re.compile(r"Duration: (\d{1,9}):(\d\d):(\d\d?(?:\.\d{1,20})?)")
_POWER = re.compile(
    r"Average power usage \(W\) for (\w{1,20}): (\[[^\[\]]{0,4000}\]|[\d.]{1,40}|None)"
)
_FOUND = re.compile(r"The following components were found: (.{1,4000})")
_DEVICES = re.compile(r"(\w{1,20}) with device\(s\) (.*?)\.(?= \w+ with device|\s*$)")
_BLOCK = re.compile(
    r"(Actual|Predicted) consumption(?: for (\d{1,9}) epoch\(?s?\)?)?:"
    r"\s*Time:\s*(\d+):(\d\d):(\d\d?(?:\.\d+)?)"
    r"\s*Energy:\s*(\S{1,40}) kWh\s*CO2eq:\s*(\S{1,40}) g",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A consumption: epochs (0: not said), joules with PUE, grams (None: not a number)."""

    epochs: int
    energy_j: float
    grams: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run's two logs."""

    actual: Block | None
    predicted: Block | None
    stopped: bool
    parts_j: dict[str, float]
    lost_j: dict[str, float]  # by the mean over devices
    pue: float
    version: str
    span: Span | None


def read(folder: Path) -> list[Run]:
    """Every run in a folder of logs that says what it consumed."""
    try:
        outputs = sorted(p for p in folder.iterdir() if p.name.endswith(_OUTPUT))
    except OSError as err:
        raise CompareError(f"{folder}: cannot be read ({err.strerror})") from err
    runs = []
    for output in outputs[-_MOST_FILES:]:
        standard = output.with_name(output.name.removesuffix(_OUTPUT) + _STANDARD)
        run = parse(_text(output), _text(standard) if standard.exists() else "")
        if run is not None:
            runs.append(run)
    if not runs:
        raise CompareError(
            f"{folder}: no *{_OUTPUT} with an actual or predicted consumption; "
            "give the log_dir of CarbonTracker"
        )
    return runs


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError as err:
        raise CompareError(f"{path}: cannot be read ({err.strerror})") from err


def parse(output: str, standard: str) -> Run | None:
    """A run from the text of its output log and of its standard log; None without a consumption."""
    blocks = {}
    for found in _BLOCK.finditer(output):
        block = _block(found)
        if block is not None:
            blocks[found[1].lower()] = block
    if not blocks:
        return None
    parts = _parts(standard)
    version, pue = _VERSION.search(standard), _PUE_SAID.search(standard)
    return Run(
        actual=blocks.get("actual"),
        predicted=blocks.get("predicted"),
        stopped="Training was interrupted" in standard,
        parts_j=parts,
        lost_j=_lost(standard, parts),
        pue=max(float(pue[1]), 1.0) if pue else _PUE,
        version=version[1] if version else "",
        span=_span(standard) or _span(output),
    )


def _block(found: re.Match[str]) -> Block | None:
    energy = _number(found[6])
    if energy is None:
        return None
    return Block(int(found[2] or 0), energy * J_PER_KWH, _number(found[7]))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value < 1e12 else None


def _parts(standard: str) -> dict[str, float]:
    """Joules by component, without PUE: each epoch's average power times its duration."""
    seconds = [
        float(h) * 3600 + float(m) * 60 + float(s) for h, m, s in _DURATION.findall(standard)
    ]
    watts: dict[str, list[float]] = {}
    for component, text in _POWER.findall(standard):
        watts.setdefault(component.lower(), []).append(_watts(text))
    if not seconds or any(len(powers) != len(seconds) for powers in watts.values()):
        return {}
    return {
        name: sum(power * s for power, s in zip(powers, seconds, strict=True))
        for name, powers in watts.items()
    }


def _lost(standard: str, parts: Mapping[str, float]) -> dict[str, float]:
    """What the mean over a component's devices leaves out of its parts."""
    found = _FOUND.search(standard)
    devices = {
        n.lower(): text.count(",") + 1 for n, text in _DEVICES.findall(found[1] if found else "")
    }
    single = {name.lower() for name, text in _POWER.findall(standard) if not text.startswith("[")}
    return {
        name: parts[name] * (devices[name] - 1)
        for name in parts
        if name in single and devices.get(name, 1) > 1
    }


def _watts(text: str) -> float:
    """A component's devices, summed; None where it was not available: nothing was counted."""
    values = (_number(word) for word in text.strip("[]").replace(",", " ").split())
    return sum(value for value in values if value is not None)


def _span(text: str) -> Span | None:
    stamps = _STAMP.findall(text)
    try:
        first, last = (datetime.fromisoformat(stamps[i]).timestamp() for i in (0, -1))
    except (IndexError, ValueError, OverflowError, OSError):
        return None
    return (first, last) if first < last else None


def theirs(runs: Sequence[Run], job: Span) -> Theirs:
    """The sum of the runs within the job's time; CompareError where none is."""
    start, end = job[0] - _SLACK_S, job[1] + _SLACK_S
    found = [r for r in runs if r.span is None or (start <= r.span[0] and r.span[1] <= end)]
    if not found:
        raise CompareError(
            "no run of Carbontracker's lies within the job's time; its times are read in this "
            "machine's time zone (TZ=... changes that)"
        )
    taken = [_taken(run) for run in found]
    total = sum(block.energy_j for block in taken)
    predicted = sum(_extrapolated(run) for run in found)
    measured = total - predicted
    without = sum((_taken(r).energy_j - _extrapolated(r)) / r.pue for r in found)
    grams = [block.grams for block in taken]
    spans = tuple(run.span for run in found if run.span is not None)
    return Theirs(
        tool=f"Carbontracker {max(run.version for run in found)}".strip(),
        total_j=total,
        parts_j=_sum(found),
        pue=measured / without if without > 0 else found[0].pue,
        cpu_has_dram=True,  # components/cpu/intel.py reads every package and every dram zone
        spans=spans if len(spans) == len(found) else (),
        grams=None if None in grams else sum(g for g in grams if g is not None),
        lost_j=_total([run.lost_j for run in found]),
        predicted_j=predicted,
        notes=tuple(_notes(found, len(runs) - len(found))),
    )


def _taken(run: Run) -> Block:
    """Carbontracker's own rule (parser.aggregate_consumption)."""
    if run.actual is None or run.predicted is None:
        block = run.actual or run.predicted
        assert block is not None  # noqa: S101  parse() gives no run without one
        return block
    whole = run.stopped or run.actual.epochs == run.predicted.epochs
    return run.actual if whole else run.predicted


def _extrapolated(run: Run) -> float:
    """Joules with PUE that were predicted beyond what was measured."""
    taken = _taken(run)
    if taken is run.actual:
        return 0.0
    measured = run.actual.energy_j if run.actual else sum(run.parts_j.values()) * run.pue
    return taken.energy_j - measured


def _sum(runs: Sequence[Run]) -> dict[str, float]:
    return {} if any(not run.parts_j for run in runs) else _total([run.parts_j for run in runs])


def _total(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for part in parts for name in part})
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _notes(found: Sequence[Run], outside: int) -> Iterator[str]:
    for run in found:
        if run.actual and run.predicted and _taken(run) is run.predicted:
            yield f"predicts {run.predicted.epochs} epochs from the {run.actual.epochs} that it measured"
        elif run.actual is None:
            yield "has a prediction only: the run ended before its monitored epochs did"
    if outside:
        yield f"{outside} runs outside the job's time are left out"
