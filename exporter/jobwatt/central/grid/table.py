"""The built-in yearly table (intensity_table.csv says where its figures are from)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from .intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "table"


@dataclass(frozen=True, slots=True)
class Row:
    """A country's newest figure: life cycle, average over a year, g CO2e per kWh."""

    country: str  # ISO 3166-1 alpha-2
    name: str
    year: int
    grams_per_kwh: float


@cache
def rows() -> Mapping[str, Row]:
    """Every country by its two letters."""
    text = resources.files(__package__).joinpath("intensity_table.csv").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["country"]: Row(
            row["country"], row["name"], int(row["year"]), float(row["grams_per_kwh"])
        )
        for row in csv.DictReader(lines)
    }


def country(zone: str) -> str:
    """The country of a zone as Electricity Maps writes them: ``US-CAL-CISO`` is in ``US``."""
    return zone.partition("-")[0]


def year_end_s(year: int) -> float:
    """Unix time of a year's end."""
    return datetime(year + 1, 1, 1, tzinfo=UTC).timestamp()


def built_in(zone: str) -> Intensity | None:
    """The table's figure for a zone's country; None where it has none."""
    row = rows().get(country(zone))
    return Intensity(row.grams_per_kwh, year_end_s(row.year)) if row else None
