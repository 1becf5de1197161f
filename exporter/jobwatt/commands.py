"""What each command does, below the command line and above the parts."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import agent, doctor
from .board import Board
from .ledger import Ledger
from .model import NS_PER_S

if TYPE_CHECKING:
    import argparse

    from .config import Config


def _serve(config: Config, _args: argparse.Namespace) -> int:
    agent.serve(config)
    return 0


def _once(config: Config, _args: argparse.Namespace) -> int:
    """Two samples and the page; the daemon's ledger is not touched."""
    board = Board(config.sample_interval / NS_PER_S)
    with _sampling(config) as sampler:
        one_off = agent.Agent(
            config, sampler, agent.pipeline(config, Ledger(None)), board, events=None
        )
        one_off.step(full=True, cause="tick")
        time.sleep(config.sample_interval / NS_PER_S)
        one_off.step(full=True, cause="tick")
    sys.stdout.write(board.metrics(openmetrics=False, names=frozenset()).decode())
    return 0


def _doctor(config: Config, args: argparse.Namespace) -> int:
    with _sampling(config) as sampler:
        findings = doctor.examine(config, sampler)
    sys.stdout.write(doctor.as_json(findings) if args.json else doctor.as_text(findings))
    return 0 if findings.measures else 1


def _record(config: Config, args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = Path(args.out).open("w", encoding="utf-8") if args.out else sys.stdout
