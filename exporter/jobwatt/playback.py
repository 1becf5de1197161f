"""
A recording instead of hardware: the same pipeline and the same page.

Live, the recording's clock is shifted to now, so that Prometheus sees a node of today. Each time it
begins again its counters start a new epoch.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from . import __version__, record
from .assembly import pipeline, terms
from .board import Board
from .exposition import SourceStatus, View
from .ledger import Ledger
from .model import NS_PER_S, Job, Snapshot
from .sampler import now_ns
from .web import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .config import Config

log = logging.getLogger(__name__)


class Player:
    """Pushes snapshots through a pipeline of its own and publishes what comes out."""

    def __init__(self, config: Config) -> None:
        self.pipeline = pipeline(config, Ledger(None))
        self._terms = terms(config)
        self.board = Board(config.sample_interval / NS_PER_S)

    def push(self, snapshot: Snapshot) -> None:
        """Play one snapshot."""
        names = sorted({reading.device.source for reading in snapshot.readings})
        self.board.publish(
            View(
                totals=self.pipeline.push(snapshot),
                snapshot=snapshot,
                idle=self.pipeline.idle,
                node="replay",
                version=__version__,
                sources=tuple(SourceStatus(name, up=True) for name in names),
                terms=self._terms,
            )
        )


def final_page(config: Config, path: Path) -> str:
    """The page after the last snapshot."""
    player = Player(config)
    for snapshot in record.read(path):
        player.push(snapshot)
    return player.board.metrics(openmetrics=False, names=frozenset()).decode()


def serve(config: Config, path: Path, *, speed: float, loop: bool) -> None:
    """Serve the recording until a signal; after its end the last page stays."""
    player = Player(config)
    server = WebServer(config.web_listen_address, player.board, config.web_config_file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    host, port = server.address
    log.info("replaying %s on http://%s:%d/", path, host, port)
    try:
        for snapshot in _live(path, speed=speed, loop=loop, stop=stop):
            player.push(snapshot)
        stop.wait()
    finally:
        server.stop()


def _live(path: Path, *, speed: float, loop: bool, stop: threading.Event) -> Iterator[Snapshot]:
    """Snapshots at their time, shifted to now."""
    epoch, shift_ns = 0, 0
    while not stop.is_set():
        began_ns, began_s = now_ns(), time.time()
        first_ns = last_ns = 0
        for snapshot in record.read(path):
            if not first_ns:
                first_ns, shift_s = snapshot.t_ns, began_s - snapshot.wall_s
            due_ns = began_ns + int((snapshot.t_ns - first_ns) / speed)
            stop.wait(max(due_ns - now_ns(), 0) / NS_PER_S)
            if stop.is_set():
                return
            last_ns = snapshot.t_ns
            yield _moved(snapshot, shift_ns, shift_s, epoch)
        if not loop or last_ns == first_ns:
            return
        epoch += 1
        shift_ns += last_ns - first_ns + NS_PER_S


def _moved(snapshot: Snapshot, shift_ns: int, shift_s: float, epoch: int) -> Snapshot:
    readings = tuple(
        replace(reading, t_ns=reading.t_ns + shift_ns, epoch=reading.epoch + epoch)
        for reading in snapshot.readings
    )
    return replace(
        snapshot,
        wall_s=snapshot.wall_s + shift_s,
        t_ns=snapshot.t_ns + shift_ns,
        readings=readings,
        jobs=tuple(_job(job, shift_ns, shift_s) for job in snapshot.jobs),
        ended=tuple(_job(job, shift_ns, shift_s) for job in snapshot.ended),
    )


def _job(job: Job, shift_ns: int, shift_s: float) -> Job:
    """The job's times, moved as the clock was."""
    meta, usage = job.meta, job.usage
    return Job(
        replace(usage, first_ns=usage.first_ns + shift_ns if usage.first_ns else 0),
        replace(
            meta,
            start_s=int(meta.start_s + shift_s) if meta.start_s else 0,
            end_s=int(meta.end_s + shift_s) if meta.end_s else 0,
            limit_end_s=int(meta.limit_end_s + shift_s) if meta.limit_end_s else 0,
            start_ns=meta.start_ns + shift_ns if meta.start_ns else 0,
            end_ns=meta.end_ns + shift_ns if meta.end_ns else 0,
        ),
    )
