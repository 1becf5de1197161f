"""Who draws the dashboards: Grafana where there is one, else the project's viewer, else nobody, and why."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from . import grafana, viewer
from .children import ChildError
from .lifetime import StoppedError
from .viewer import NoViewerError

if TYPE_CHECKING:
    from pathlib import Path

    from .children import Children
    from .terminal import Terminal

_GIVE_UP_S = 10.0


class Drawing:
    """
    Gets ready while the history is made.

    Attributes:
        decided: set once it is known who draws; the viewer may still be being built.
        found: the Grafana to start, or None.
        built: the viewer's files, once they are there.
        why_not: why nobody draws, in one line; "" while somebody does or may yet.
    """

    def __init__(self, folder: Path, cache: Path, children: Children, terminal: Terminal) -> None:
        self._folder, self._cache = folder, cache
        self._children, self._terminal = children, terminal
        self.decided = threading.Event()
        self.found: grafana.Found | None = None
        self.built: Path | None = None
        self.why_not = ""
        self._thread: threading.Thread | None = None

    def begin(self, *, with_grafana: bool) -> None:
        """Find out and make ready, in a thread of its own."""
        self._thread = threading.Thread(target=self._prepare, args=(with_grafana,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until what is being built has been given up; its programs have been ended before."""
        if self._thread:
            self._thread.join(_GIVE_UP_S)

    def fall_back(self) -> None:
        """Grafana has failed: have the viewer instead."""
        self.found = None
        self.begin(with_grafana=False)

    def _prepare(self, with_grafana: bool) -> None:
        found = grafana.look() if with_grafana else None
        if found and self._fetched(found):
            self.found = found
            self.decided.set()
            return
        self.decided.set()
        self._build()

    def _fetched(self, found: grafana.Found) -> bool:
        try:
            grafana.fetch(found, self._children)
        except ChildError as err:
            self._terminal.line(f"{err}; the project's viewer draws the dashboards instead")
            return False
        return True

    def _build(self) -> None:
        sources = self._folder / "preview"
        try:
            self.built = viewer.built(sources, self._cache)
            if self.built is None:
                self._terminal.line("building the dashboards' viewer (npm), once")
                self.built = viewer.build(sources, self._cache, self._children, self._terminal.line)
                self._terminal.line("the dashboards' viewer is built")
        except (NoViewerError, ChildError, StoppedError, OSError) as err:
            if self._children.closing.is_set():
                return  # the demo is ending
            self.why_not = str(err)
            self._terminal.line(f"no dashboards: {err}")
