"""
The latest view, published for whoever asks: the web server's threads read, the sampler writes.

A view is rendered at most once per format, by the first who asks for it, and never while the
sampler waits.
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
        self._rendered: dict[bool, tuple[View, bytes]] = {}

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
            if names:
                page = [(metric, rows) for metric, rows in families(view) if metric.name in names]
                return self._encoder.encode(page, openmetrics=openmetrics)
            done = self._rendered.get(openmetrics)
            if done is None or done[0] is not view:
                page = families(view) + self._own()
                done = self._rendered[openmetrics] = (
                    view,
                    self._encoder.encode(page, openmetrics=openmetrics),
                )
            return done[1]

    def page(self) -> str:
        """Return the landing page, as HTML."""
        return render(page_view(self._view))

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
