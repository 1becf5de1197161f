"""
The latest view, published for whoever asks: the web server's threads read, the sampler writes.

A view is rendered at most once per format and selection of families (of the last few), by the
first who asks for it, and never while the sampler waits.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .encoder import Encoder
from .exposition import View, families
from .page import render
from .pageview import page_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from .exposition import Rows
    from .metrics import Metric

# The page is stale when its snapshot is older than this many sampling intervals, and then unhealthy.
_STALE_INTERVALS = 30
_KEPT_MAX = 6  # pages of one view: both formats whole, and a few selections of families


class Board:
    """
    Serves the latest view (web.Site).

    Args:
        interval_s: the sampling interval; tells when a snapshot is stale.
        own: renders metrics of the process itself, appended to every page.
    """

    def __init__(
        self, interval_s: float, own: Callable[[], list[tuple[Metric, Rows]]] | None = None
    ) -> None:
        self._stale_s = _STALE_INTERVALS * interval_s
        self._own = own or list
        self._view: View | None = None
        self._published_s = 0.0
        self._scraped_s: float | None = None
        self._encoder = Encoder()
        self._lock = threading.Lock()
        self._rendered: dict[tuple[bool, frozenset[str]], bytes] = {}
        self._rendered_of: View | None = None
        self._page_lock = threading.Lock()
        self._page: tuple[View | None, str] | None = None

    def publish(self, view: View) -> None:
        """Show this view from now on."""
        self._view, self._published_s = view, time.monotonic()

    @property
    def view(self) -> View | None:
        """What is shown now; None before the first sample."""
        return self._view

    def metrics(self, openmetrics: bool, names: frozenset[str]) -> bytes:
        """Return the page; where ``names`` is not empty, only these families."""
        view = self._view
        if view is None:
            return b"# EOF\n" if openmetrics else b""
        self._scraped_s = time.monotonic()
        with self._lock:
            if self._rendered_of is not view:
                self._rendered.clear()
                self._rendered_of = view
            done = self._rendered.get((openmetrics, names))
            if done is None:
                done = self._encoder.encode(self._families(view, names), openmetrics=openmetrics)
                if len(self._rendered) >= _KEPT_MAX:
                    del self._rendered[next(iter(self._rendered))]
                self._rendered[openmetrics, names] = done
            return done

    def _families(self, view: View, names: frozenset[str]) -> list[tuple[Metric, Rows]]:
        if not names:
            return families(view) + self._own()
        return [(metric, rows) for metric, rows in families(view) if metric.name in names]

    def page(self) -> str:
        """Return the landing page, as HTML."""
        view = self._view
        with self._page_lock:
            if self._page is None or self._page[0] is not view:
                self._page = view, render(page_view(view))
            return self._page[1]

    def health(self) -> tuple[bool, str]:
        """Tell whether samples are being taken, and when the page was asked for (`doctor` looks at it)."""
        if self._view is None:
            return True, "starting"
        now_s, scraped_s = time.monotonic(), self._scraped_s
        age_s = now_s - self._published_s
        scrape = (
            "no scrape yet" if scraped_s is None else f"last scrape {now_s - scraped_s:.0f} s ago"
        )
        return age_s < self._stale_s, f"last sample {age_s:.1f} s ago, {scrape}"

    def ready(self) -> tuple[bool, str]:
        """Tell whether there is a page to scrape."""
        return self._view is not None, "ready" if self._view else "no sample yet"
