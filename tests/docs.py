"""Writes the generated parts of the README: the metric table from the catalogue."""

from __future__ import annotations

from pathlib import Path

from jobwatt.metrics import CATALOGUE

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- metrics: made by `make docs` -->", "<!-- end of metrics -->"


def table() -> str:
    lines = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for metric in CATALOGUE.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |")
    return "\n".join(lines)


def written(text: str) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
