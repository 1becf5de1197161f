"""The page's encoder beside prometheus_client's, on the same families."""

from __future__ import annotations

import gzip
import time

from figures import Figures, timed
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from rig import Rig

import nvmlshim
from jobwatt import agent, assembly
from jobwatt.board import Board
from jobwatt.encoder import Encoder, JobwattCollector
from jobwatt.exposition import families
from jobwatt.ledger import Ledger

SECTION = "rendering a page, in one thread"


def measure(figures: Figures, jobs: int, rounds: int) -> None:
    rig = Rig(jobs)
    try:
        with nvmlshim.loaded(rig.script):
            config = rig.config()
            board = Board(1.0)
            daemon = agent.Agent(
                config,
                assembly.sampler(config),
                assembly.pipeline(config, Ledger(None)),
                board,
                None,
            )
            for _ in range(3):
                rig.advance()
                daemon.step(full=True, cause="tick")
                time.sleep(0.01)
            _compare(figures, jobs, board, rounds)
            daemon.close()
    finally:
        rig.close()


def _compare(figures: Figures, jobs: int, board: Board, rounds: int) -> None:
    view = board.view
    assert view is not None
    page = families(view)
    encoder, registry = Encoder(), CollectorRegistry()
    registry.register(JobwattCollector(lambda: page))
    body = encoder.encode(page, openmetrics=False)
    own = timed(lambda: encoder.encode(page, openmetrics=False), rounds)
    theirs = timed(lambda: generate_latest(registry), rounds)
    own_open = timed(lambda: encoder.encode(page, openmetrics=True), rounds)
    theirs_open = timed(lambda: generate_openmetrics(registry), rounds)
    rows = (
        ("families of a view", timed(lambda: families(view), rounds), "ms"),
        ("text: jobwatt's encoder", own, "ms"),
        ("text: prometheus_client", theirs, "ms"),
        ("  text: prometheus_client / jobwatt", theirs / own, "times"),
        ("OpenMetrics: jobwatt's encoder", own_open, "ms"),
        ("OpenMetrics: prometheus_client", theirs_open, "ms"),
        ("  OpenMetrics: prometheus_client / jobwatt", theirs_open / own_open, "times"),
        ("gzip, level 1", timed(lambda: gzip.compress(body, 1, mtime=0), rounds), "ms"),
    )
    for name, value, unit in rows:
        figures.set(SECTION, name, jobs, value, unit)
