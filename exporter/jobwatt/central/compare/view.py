"""The comparison as text of at most 96 columns, and as JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from .figures import J_PER_KWH, PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .figures import Ours, Reason, Theirs

    Compared = Sequence[tuple[Theirs, Sequence[Reason]]]

WIDTH = 96


def as_json(ours: Ours, compared: Compared) -> str:
    """Joules, seconds and grams, unrounded."""
    whole = {
        "job": asdict(ours) | {"total_j": ours.total_j},
        "tools": [
            asdict(theirs) | {"reasons": [asdict(reason) for reason in why]}
            for theirs, why in compared
        ],
    }
    return json.dumps(whole, indent=1) + "\n"


def as_text(ours: Ours, compared: Compared) -> str:
    """What a person reads."""
    unit = _Unit(max([ours.total_j, *(theirs.total_j for theirs, _ in compared)]))
    lines = [*_head(ours), "", *_table(ours, compared, unit)]
    for theirs, why in compared:
        lines += ["", *_why(ours, theirs, why, unit)]
    return "\n".join(map(_printable, lines)) + "\n"


def _printable(line: str) -> str:
    """Versions and types come from users' files: nothing in them may reach a terminal but text."""
    return "".join(c if c.isprintable() else "?" for c in line)[:WIDTH].rstrip()


class _Unit:
    """One unit for the whole table: Wh below 1 kWh, else kWh."""

    def __init__(self, greatest_j: float) -> None:
        self.name = "kWh" if greatest_j >= J_PER_KWH else "Wh"
        self._joules = J_PER_KWH if self.name == "kWh" else 3600.0
        shown = greatest_j / self._joules
        self._digits = 1 if shown >= 1000 else 2 if shown >= 100 else 3 if shown >= 1 else 4

    def __call__(self, joules: float | None, *, sign: bool = False) -> str:
        if joules is None:
            return "-"
        return f"{joules / self._joules:{'+' if sign else ''}.{self._digits}f}"


def _head(ours: Ours) -> Iterator[str]:
    start, end = (datetime.fromtimestamp(t).astimezone() for t in ours.span)
    until = (
        "now"
        if ours.running
        else f"{end:%H:%M:%S}"
        if end.date() == start.date()
        else f"{end:%F %T}"
    )
    yield f"Job {ours.jobid} of {ours.user}, {start:%F %T} to {until} ({_duration(ours.seconds)})"
    nodes = ", ".join(ours.instances[:3]) + (" ..." if len(ours.instances) > 3 else "")
    facts = [f"{len(ours.instances)} node{'s' * (len(ours.instances) > 1)} ({nodes})"]
    if ours.cpus:
        facts.append(f"{ours.cpus:.0f} CPUs")
    if ours.cpu_s is not None:
        facts.append(f"{ours.cpu_s:.0f} CPU seconds")
    facts.append(f"{len(ours.gpus)} of {ours.node_gpus} GPUs")
    if ours.coverage is not None:
        facts.append(f"{ours.coverage * 100:.1f} % of its time measured")
    yield from textwrap.wrap(", ".join(facts), WIDTH)
    if ours.sources:
        fed = (f"{part} by {source}" for part, source in sorted(ours.sources.items()))
        yield from textwrap.wrap(f"Fed: {'; '.join(fed)}", WIDTH)
    held, idle = (
        sum(getattr(gpu, name) or 0.0 for gpu in ours.gpus.values())
        for name in ("held_s", "idle_s")
    )
    if held and idle:
        joules = sum(gpu.idle_j or 0.0 for gpu in ours.gpus.values())
        yield f"GPUs held idle {idle / held * 100:.0f} % of the time: {joules / 3600:.3g} Wh, which every tool counts"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"


def _table(ours: Ours, compared: Compared, unit: _Unit) -> Iterator[str]:
    tools = [theirs for theirs, _ in compared]
    yield _row(unit.name, "jobwatt", [tool.tool for tool in tools])
    for part in PARTS:
        theirs = [unit(tool.parts_j.get(part)) for tool in tools]
        if part in ours.energy_j or set(theirs) != {"-"}:
            yield _row(part, unit(ours.energy_j.get(part)), theirs)
    if any(tool.pue != 1.0 for tool in tools):
        yield _row(
            "PUE", "-", [unit(tool.overhead_j) if tool.pue != 1.0 else "-" for tool in tools]
        )
    if any(tool.predicted_j for tool in tools):
        yield _row("predicted", "-", [unit(tool.predicted_j or None) for tool in tools])
    yield _row("total", unit(ours.total_j), [unit(tool.total_j) for tool in tools])
    grams = None if ours.intensity is None else ours.total_j / J_PER_KWH * ours.intensity
    if grams is not None or any(tool.grams is not None for tool in tools):
        yield _row("g CO2e", _grams(grams), [_grams(tool.grams) for tool in tools])


def _row(name: str, ours: str, theirs: Sequence[str]) -> str:
    cells = "".join(f"{text[:21]:>22}" for text in theirs)
    return f"{name:<10}{ours:>12}{cells}"


def _grams(grams: float | None) -> str:
    return "-" if grams is None else f"{grams:.3g}"


def _why(ours: Ours, theirs: Theirs, why: Sequence[Reason], unit: _Unit) -> Iterator[str]:
    more = theirs.total_j - ours.total_j
    # of next to nothing a share says nothing
    part = f" ({more / ours.total_j * 100:+.0f} %)" if ours.total_j * 1e4 > abs(more) else ""
    yield f"{theirs.tool} has {unit(more, sign=True)} {unit.name}{part}:"
    for reason in why:
        size = "?" if reason.joules is None else unit(reason.joules, sign=True)
        share = reason.joules / theirs.total_j * 100 if reason.joules and theirs.total_j else None
        text = f"{reason.text}{f' ({abs(share):.1f} % of its figure)' if share and reason is why[-1] else ''}"
        yield from textwrap.wrap(
            text, WIDTH, initial_indent=f"{size:>12}  ", subsequent_indent=" " * 14
        )
    yield from _carbon(ours, theirs)
    for note in theirs.notes:
        yield from textwrap.wrap(
            note, WIDTH, initial_indent=" " * 10 + "i   ", subsequent_indent=" " * 14
        )


def _carbon(ours: Ours, theirs: Theirs) -> Iterator[str]:
    """Intensities side by side: grams differ by them whatever the energy."""
    if theirs.grams is None or not theirs.total_j:
        return
    its = theirs.grams / (theirs.total_j / J_PER_KWH)
    if ours.intensity is None:
        yield f"{'i':>11}   CO2e: it takes {its:.0f} g/kWh; jobwatt has no intensity (see jobwatt grid)"
    else:
        grams = (its - ours.intensity) * theirs.total_j / J_PER_KWH
        yield f"{'i':>11}   CO2e: it takes {its:.0f} g/kWh, jobwatt {ours.intensity:.0f}: {grams:+.3g} g"
