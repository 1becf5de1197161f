"""
`jobwatt grid`: ask the sources of carbon intensity, keep what they said, and serve it.

One process per cluster. Each source has a thread: one that hangs or is away holds up no other, and
nobody who scrapes waits for any.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Protocol

from ...faults import FaultLog
from ...model import Failure
from ...ownmetrics import own_metrics
from ...web import WebServer
from . import kept, settings
from .board import GridBoard
from .electricitymaps import ElectricityMaps
from .fetch import Fetcher
from .intensity import GridError, Intensity, pause_s
from .promql import PromQl
from .rte import Rte
from .uk import UkGrid
from .watttime import WattTime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .fetch import Get
    from .settings import GridConfig, SourceConfig

log = logging.getLogger(__name__)

_STOP_S = 2.0


class Asker(Protocol):
    """A source of figures. Asked from one thread only."""

    def ask(self, get: Get, now_s: float) -> Intensity:
        """Return the newest figure; GridError where there is none."""
        ...


_ASKERS: dict[str, Callable[[SourceConfig], Asker]] = {
    "rte": Rte,
    "electricitymaps": ElectricityMaps,
    "uk": UkGrid,
    "watttime": WattTime,
    "promql": PromQl,
}


class Poller:
    """
    One source, asked again and again.

    Args:
        kept: called when there is a new figure.
    """

    def __init__(
        self,
        config: SourceConfig,
        board: GridBoard,
        kept: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._board, self._kept, self._now = config, board, kept, now
        self._asker = _ASKERS[config.kind](config)
        self._faults = FaultLog()
        self._failures = 0

    def once(self) -> float:
        """Ask once; returns the seconds to wait before the next time. Never raises."""
        name = self._config.name
        try:
            fetcher = Fetcher(self._config.timeout_s, self._config.ca_file)
            figure = self._asker.ask(fetcher, self._now())
        except GridError as err:
            return self._failed(err.reason, str(err), err.retry_after_s)
        except Exception as err:  # noqa: BLE001  an answer nobody thought of must not end the thread
            return self._failed("exception", type(err).__name__, None)  # its text may show a token
        self._failures = 0
        self._faults.note([])
        if self._board.put(name, figure):
            self._kept()
        return pause_s(self._config.interval_s, 0)

    def run(self, stop: threading.Event) -> None:
        """Ask until stopped."""
        while not stop.wait(self.once()):
            pass

    def _failed(self, reason: str, message: str, retry_after_s: float | None) -> float:
        name = self._config.name
        self._failures += 1
        self._board.failed(name, reason, message)
        self._faults.note([Failure(name, reason, f"{name}: {message}")])
        return pause_s(self._config.interval_s, self._failures, retry_after_s)


class Keeper:
    """Writes the figures to disk when there are new ones; complains once where that cannot be."""

    def __init__(self, path: Path | None, board: GridBoard) -> None:
        self._path, self._board = path, board
        self._lock = threading.Lock()
        self._faults = FaultLog()

    def restore(self, now_s: float) -> None:
        """Give the board what was kept."""
        if self._path is None:
            return
        try:
            self._board.restore(kept.load(self._path, self._board.config, now_s))
        except GridError as err:
            log.warning("%s; it will be written anew", err)

    def save(self) -> None:
        """Write what the board has."""
        if self._path is None:
            return
        with self._lock:
            try:
                kept.save(self._path, self._board.config, self._board.figures)
                self._faults.note([])
            except OSError as err:
                message = f"{self._path}: {err.strerror}; a restart will not know the last figures; see --grid.cache"
                self._faults.note([Failure("cache", "unwritable", message)])


class Grid:
    """Everything but the web server."""

    def __init__(
        self, config: GridConfig, cache: Path | None, now: Callable[[], float] = time.time
    ) -> None:
        self.board = GridBoard(config, now, own_metrics)
        keeper = Keeper(cache, self.board)
        keeper.restore(now())
        self.pollers = [
            Poller(source, self.board, keeper.save, now)
            for source in config.sources
            if source.kind != "table"
        ]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=poller.run, args=(self._stop,), daemon=True)
            for poller in self.pollers
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more; a question under way is not waited for longer than two seconds in all."""
        self._stop.set()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))


def once(config_file: Path, cache: Path | None) -> tuple[str, bool]:
    """Ask every source once; the metrics page, and whether a figure is in use."""
    grid = Grid(settings.read(config_file), cache)
    for poller in grid.pollers:
        poller.once()
    page = grid.board.metrics(openmetrics=False, names=frozenset())
    return page.decode(), grid.board.chosen() is not None


def serve(config_file: Path, cache: Path | None, address: str, web_config: Path | None) -> None:
    """Ask and serve until a signal."""
    config = settings.read(config_file)
    for note in settings.notes(config):
        log.info("%s", note)
    grid = Grid(config, cache)
    server = WebServer(address, grid.board, web_config, names_users=False)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    grid.start()
    host, port = server.address
    names = ", ".join(source.name for source in config.sources)
    log.info("zone %s from %s; serves on %s:%d", config.zone, names, host, port)
    try:
        stop.wait()
    finally:
        grid.stop()
        server.stop()
