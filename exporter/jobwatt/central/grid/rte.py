"""
RTE's eCO2mix, through the open data platform ODRÉ: France, a row every quarter of an hour.

``taux_co2`` is g CO2 per kWh generated in France, the chimneys' only: direct, average, and without
imports (https://odre.opendatasoft.com/explore/dataset/eco2mix-national-tr/). The day's rows are there
from its beginning; those to come, and the newest, are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from .answers import mapping, moment_s, sequence
from .intensity import Intensity, checked

if TYPE_CHECKING:
    from .fetch import Get
    from .settings import SourceConfig

URL = "https://odre.opendatasoft.com"
_RECORDS = "/api/explore/v2.1/catalog/datasets/eco2mix-national-tr/records"
_ASKED = {
    "select": "date_heure,taux_co2",
    "where": "taux_co2 is not null",
    "order_by": "date_heure desc",
    "limit": "1",
}


class Rte:
    """Asks for the newest row that has a figure."""

    def __init__(self, config: SourceConfig) -> None:
        self._url = f"{config.url}{_RECORDS}?{urlencode(_ASKED)}"

    def ask(self, get: Get, now_s: float) -> Intensity:
        """Return the newest figure."""
        return parse(get(self._url), now_s)


def parse(answer: object, now_s: float) -> Intensity:
    """Take the figure out of the answer."""
    row = mapping(sequence(mapping(answer).get("results"))[0])
    return checked(row.get("taux_co2"), moment_s(row.get("date_heure")), now_s)
