"""
Writes grafana/dashboards/*.json: one for each file in grafana/src/dashboards. ``make generate`` runs it.

A query that names a metric which the catalogue does not have, or a recorded series that no rule makes, is
refused here; tests/test_dashboards.py looks at labels, units and words.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "exporter")]

import layout  # noqa: E402  the path is set above
from jobwatt.alerts import files  # noqa: E402
from jobwatt.metrics import CATALOGUE  # noqa: E402

OUT = HERE.parent / "dashboards"
NAME = re.compile(r"\bjobwatt[:_][a-z0-9_:]+")
SITE = re.compile(r"jobwatt:(site|threshold)_?[a-z0-9_:]+")


def names() -> list[str]:
    """The dashboards there are, by the names of their files."""
    return sorted(path.stem for path in (HERE / "dashboards").glob("[a-z]*.py"))


def texts() -> dict[str, str]:
    """Each dashboard's file name and text; ValueError for a query that names what is not there."""
    made = {}
    for name in names():
        text = layout.as_json(importlib.import_module(f"dashboards.{name}").build())
        if unknown := _unknown(text):
            raise ValueError(f"dashboards/{name}.py: no such series: {', '.join(sorted(unknown))}")
        made[f"{name}.json"] = text
    return made


def _unknown(text: str) -> set[str]:
    recorded = {
        rule["record"]
        for rules in files.rules().values()
        for group in yaml.safe_load(rules)["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    exprs = re.findall(r'"expr": "((?:\\.|[^"\\])*)"', text)
    used = {name for expr in exprs for name in NAME.findall(expr)}
    return {n for n in used if n not in CATALOGUE | dict.fromkeys(recorded) and not SITE.match(n)}


def main() -> None:
    """Write what has changed, and remove what nothing makes any more."""
    made = texts()
    OUT.mkdir(exist_ok=True)
    for path in OUT.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (OUT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
