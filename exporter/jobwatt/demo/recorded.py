"""
The past of recorded series: what the rules would have recorded, had they been there.

Each name's expression is written out over raw metrics (jobwatt.alerts.inline) and asked of a Prometheus that
holds the made history, so that none has to wait for another.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..alerts import inline
from ..encoder import escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from ..alerts.promapi import Prometheus, Series

STEP_S = 300
_NAME = re.compile(r"\bjobwatt:[a-zA-Z_0-9:]+")
_SUBQUERY = re.compile(rf"({_NAME.pattern})\[[^\]]*:")
_INTEGRAL = re.compile(r"\[\d+d:5m\]")
_CHUNK_S = 86_400.0
# A rule marks where its series ends; text cannot. A sample that is not followed by another would be found again five
# minutes later, at the very end of Prometheus's looking back: a second earlier it is not.
_EARLIER_S = 1


def wanted(
    dashboards: Iterable[str], records: Mapping[str, str], mails: Iterable[str] = ()
) -> list[str]:
    """Recorded names that dashboards show, and those of which a rule or a mail's query looks at the past."""
    texts = [*dashboards]
    named = {name for text in texts for name in _NAME.findall(text)}
    looked_back = {name for expr in records.values() for name in _SUBQUERY.findall(expr)}
    for text in mails:  # what is integrated there tiles time; the rest is asked of now
        if _INTEGRAL.search(text):
            looked_back |= {name for name in _NAME.findall(text) if name.endswith("5m")}
    return sorted((named | looked_back) & records.keys())


def times(from_s: int, to_s: int) -> tuple[int, int]:
    """First and last multiple of the step after ``from_s`` and up to ``to_s``; the first is later where there is none."""
    return (from_s // STEP_S + 1) * STEP_S, to_s // STEP_S * STEP_S


def write(
    out: Path,
    server: Prometheus,
    names: Iterable[str],
    records: Mapping[str, str],
    span: tuple[int, int],
    done: Callable[[str, float, int], None],
) -> int:
    """
    Write the series of all names as OpenMetrics; how many samples there are.

    ``done`` is told each name, the seconds it took and its samples.
    """
    first, last = times(*span)
    total = 0

    def ask(name: str) -> tuple[str, float, list[str]]:
        began = time.monotonic()
        expr = inline.expand(name, records)
        found = server.query_range(expr, first, last, STEP_S, chunk_s=_CHUNK_S)
        return name, time.monotonic() - began, [*_lines(name, found)]

    with ThreadPoolExecutor(2) as pool, out.open("w", encoding="utf-8") as file:
        for name, took_s, lines in pool.map(ask, names) if first <= last else ():
            file.writelines(lines)
            total += len(lines)
            done(name, took_s, len(lines))
        file.write("# EOF\n")
    return total


def _lines(name: str, found: Iterable[Series]) -> Iterator[str]:
    for series in found:
        pairs = ",".join(
            f'{label}="{escaped(value)}"'
            for label, value in series.labels.items()
            if label != "__name__"
        )
        labels = f"{{{pairs}}}" if pairs else ""
        yield from (
            f"{name}{labels} {value!r} {at - _EARLIER_S:.0f}\n" for at, value in series.points
        )
