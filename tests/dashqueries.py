"""The committed dashboards, their queries with every variable filled in, and what each query is over."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "grafana/dashboards"
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}")


@cache
def boards() -> dict[str, dict[str, Any]]:
    """File name without its end -> dashboard."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@dataclass(frozen=True)
class Query:
    """One query of a panel."""

    board: str
    panel: str
    letter: str
    expr: str
    instant: bool
    legend: str = ""

    def __str__(self) -> str:
        return f"{self.board}: {self.panel}: {self.letter}"


def queries(name: str) -> Iterator[Query]:
    """Every query of a dashboard."""
    for panel in panels(name):
        for target in panel.get("targets", ()):
            yield Query(
                name,
                panel["title"],
                target["refId"],
                target["expr"],
                bool(target.get("instant")),
                target.get("legendFormat", ""),
            )


def panels(name: str) -> list[dict[str, Any]]:
    """Every panel of a dashboard that is no row."""
    return [panel for panel in boards()[name]["panels"] if panel["type"] != "row"]


def filled(expr: str, values: Mapping[str, str]) -> str:
    """The query with its variables filled in; KeyError for one without a value."""
    return _VARIABLE.sub(lambda found: values[found.group(1) or found.group(2)], expr)


def times(seconds: int, step: int, scrape: int = 60, to: float = 0.0) -> dict[str, str]:
    """Grafana's own variables for a range of so many seconds drawn with this step."""
    return {
        "__range": f"{seconds}s",
        "__range_s": str(seconds),
        "__interval": f"{step}s",
        "__rate_interval": f"{max(step + scrape, 4 * scrape)}s",
        "__to": str(int(to * 1000)),
        "__from": str(int((to - seconds) * 1000)),
    }
