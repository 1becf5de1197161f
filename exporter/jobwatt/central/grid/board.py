"""The figures of the moment, and the pages that show them: what the web server serves (web.Site)."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from ...metrics import CATALOGUE
from ..pages import Exposed, document, row
from . import table
from .intensity import Intensity, choose, stale

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..pages import Families
    from .intensity import Meaning
    from .settings import GridConfig

_INTENSITY = CATALOGUE["jobwatt_grid_carbon_intensity_grams_per_kwh"]
_TIME = CATALOGUE["jobwatt_grid_reading_timestamp_seconds"]
_STALE = CATALOGUE["jobwatt_grid_stale"]
_CHOSEN = CATALOGUE["jobwatt_grid_chosen"]
_POLLS = CATALOGUE["jobwatt_grid_polls_total"]


class GridBoard:
    """
    Keeps each source's last figure and what became of its polls.

    Args:
        own: renders metrics of the process itself, appended to the page.
        now: the wall clock, in Unix seconds.
    """

    def __init__(
        self,
        config: GridConfig,
        now: Callable[[], float],
        own: Callable[[], Families] = list,
    ) -> None:
        self.config, self._now = config, now
        self._exposed = Exposed(self.families, own)
        self._order = [source.meaning for source in config.sources]
        self._lock = threading.Lock()
        self._figures: dict[str, Intensity] = {}
        self._polls: Counter[tuple[str, str]] = Counter()
        self._said: dict[str, str] = {}
        for source in config.sources:
            if source.kind == "table":
                self._figures[source.name] = _yearly(config.zone, source.grams_per_kwh, source.year)

    def restore(self, figures: dict[str, Intensity]) -> None:
        """Take over what a cache still had."""
        with self._lock:
            self._figures.update(figures)

    def put(self, source: str, figure: Intensity) -> bool:
        """Take a new figure; False where it is the one that is there, or older than it."""
        with self._lock:
            self._polls[source, "estimated" if figure.estimated else "ok"] += 1
            self._said[source] = ""
            known = self._figures.get(source)
            if known is not None and (known == figure or figure.t_s < known.t_s):
                return False
            self._figures[source] = figure
            return True

    def failed(self, source: str, outcome: str, message: str) -> None:
        """Count a poll that gave no figure."""
        with self._lock:
            self._polls[source, outcome] += 1
            self._said[source] = message

    @property
    def figures(self) -> dict[str, Intensity]:
        """The last figure of each source that has one."""
        with self._lock:
            return dict(self._figures)

    def chosen(self) -> Meaning | None:
        """Whose figure is in use now."""
        config = self.config
        return choose(self._order, self.figures, config.scope, config.figure, self._now())

    def families(self) -> Families:
        """Every series of the grid, now."""
        figures, now_s = self.figures, self._now()
        shown = [(meaning, figures[meaning.source]) for meaning in self._order if meaning.source in figures]  # fmt: skip
        chosen = choose(self._order, figures, self.config.scope, self.config.figure, now_s)
        with self._lock:
            polls = sorted(self._polls.items())
        return [
            (_INTENSITY, {self._labels(m): f"{figure.grams_per_kwh:.10g}" for m, figure in shown}),
            (_TIME, {self._labels(m): f"{figure.t_s:.3f}" for m, figure in shown}),
            (_STALE, {self._labels(m): str(int(stale(m, figure, now_s))) for m, figure in shown}),
            (_CHOSEN, {self._labels(chosen): "1"} if chosen else {}),
            (_POLLS, {key: str(count) for key, count in polls}),
        ]

    def metrics(self, openmetrics: bool, names: frozenset[str]) -> bytes:
        """Return the page; where ``names`` is not empty, only these families."""
        return self._exposed.page(openmetrics, names)

    def page(self) -> str:
        """Return the landing page, as HTML."""
        figures, now_s, chosen = self.figures, self._now(), self.chosen()
        rows = "".join(
            self._row(meaning, figures.get(meaning.source), now_s, meaning == chosen)
            for meaning in self._order
        )
        zone = self.config.zone
        return document(f"grid {zone}", _BODY.format(zone=escape(zone), rows=rows))

    def health(self) -> tuple[bool, str]:
        """Tell whether the process does its work; that a source is away is no fault of it."""
        return True, "polling"

    def ready(self) -> tuple[bool, str]:
        """Tell whether there is an intensity to be used."""
        chosen = self.chosen()
        return chosen is not None, f"{chosen.source} is in use" if chosen else "no usable figure"

    def _labels(self, meaning: Meaning) -> tuple[str, ...]:
        return (self.config.zone, meaning.source, meaning.scope, meaning.kind)

    def _row(self, meaning: Meaning, figure: Intensity | None, now_s: float, used: bool) -> str:
        with self._lock:
            said = self._said.get(meaning.source, "")
        state = "in use" if used else "shown"
        cells = [meaning.source, meaning.scope, meaning.kind, "", "", state, said]
        if figure is not None:
            moment = datetime.fromtimestamp(figure.t_s, UTC)
            cells[3] = f"{figure.grams_per_kwh:.0f}" + (" (estimated)" if figure.estimated else "")
            cells[4] = f"{moment:%Y-%m-%d %H:%M} UTC"
            cells[5] += ", stale" if stale(meaning, figure, now_s) else ""
        else:
            cells[5] = "no figure yet"
        return row(cells)


def _yearly(zone: str, grams_per_kwh: float | None, year: int) -> Intensity:
    if grams_per_kwh is not None:
        return Intensity(grams_per_kwh, table.year_end_s(year))
    known = table.built_in(zone)
    if known is None:
        raise ValueError(f"the built-in table has no figure for {zone}")
    return known


_BODY = """<h1>Carbon intensity of electricity: {zone}</h1>
<table><thead><tr><th>source</th><th>scope</th><th>kind</th><th>g CO2e/kWh</th><th>of</th><th>state</th>
<th>last question</th></tr></thead><tbody>{rows}</tbody></table>
<p><a href="metrics">metrics</a></p>"""
