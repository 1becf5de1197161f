"""What the pages of the central commands have in common: `sd`'s and `grid`'s."""

from __future__ import annotations

import threading
from html import escape
from typing import TYPE_CHECKING

from .. import __version__
from ..encoder import Encoder
from ..metrics import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..exposition import Rows
    from ..metrics import Metric

    Families = list[tuple[Metric, Rows]]

_BUILD = CATALOGUE["jobwatt_build_info"]
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="60">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<title>{title} · jobwatt</title><style>{style}</style></head><body>
{body}
<footer>jobwatt {version}</footer></body></html>
"""
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:1.25rem;max-width:70rem}"
    "td,th{text-align:left;padding:.2rem .75rem .2rem 0}"
)


class Exposed:
    """
    A page of metrics, for any thread.

    Args:
        families: every series of the command, now.
        own: renders metrics of the process itself, appended to the page.
    """

    def __init__(self, families: Callable[[], Families], own: Callable[[], Families]) -> None:
        self._families, self._own = families, own
        self._lock = threading.Lock()
        self._encoder = Encoder()

    def page(self, openmetrics: bool, names: frozenset[str]) -> bytes:
        """Return the page; where ``names`` is not empty, only these families."""
        page: Families = [*self._families(), (_BUILD, {(__version__,): "1"}), *self._own()]
        if names:
            page = [(metric, rows) for metric, rows in page if metric.name in names]
        with self._lock:
            return self._encoder.encode(page, openmetrics=openmetrics)


def document(title: str, body: str) -> str:
    """Return a landing page, as HTML; ``body`` is HTML already."""
    return _PAGE.format(title=escape(title), style=_STYLE, body=body, version=escape(__version__))


def row(cells: list[str]) -> str:
    """Return a table's row, as HTML."""
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
