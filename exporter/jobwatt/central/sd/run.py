"""
`jobwatt sd`: ask slurmctld for its nodes, again and again, and give them to Prometheus as targets.

One process per cluster. Where slurmctld does not answer, the list stays as it is: targets do not vanish
because somebody restarts a daemon.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import TYPE_CHECKING

from ...faults import FaultLog
from ...model import Failure
from ...ownmetrics import own_metrics
from ...web import WebServer
from . import kept
from .asking import Answer, ask
from .board import SdBoard
from .bounded import AskError
from .targets import GONE, Selection, settled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .settings import SdConfig
    from .targets import Groups

log = logging.getLogger(__name__)

_RETRY_S = 60.0  # after a failure, where the interval is longer
_STOP_S = 2.0
_MENDS = {
    "unreachable": "see that `scontrol show nodes` works here as this user",
    "timeout": "see that `scontrol ping` works here; --sd.timeout says how long is waited",
    "spawn": "install Slurm's commands here",
    "no_nodes": "let this user see them",
}


class Finder:
    """Asks once at a time; never raises."""

    def __init__(
        self,
        config: SdConfig,
        board: SdBoard,
        ask: Callable[[SdConfig], Answer] = ask,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._board, self._ask, self._now = config, board, ask, now
        self._faults = FaultLog()
        self._wake, self._stopped = threading.Event(), False

    def restore(self) -> None:
        """Give the board what the file still has."""
        try:
            groups, mtime_s = kept.load(self._config.out) if self._config.out else ({}, None)
        except AskError as err:
            self._faults.note([Failure("file", err.reason, str(err))])
            return
        if mtime_s is not None:
            self._board.restore(groups, mtime_s)

    def once(self) -> bool:
        """Ask, and write what comes; whether that worked."""
        try:
            failures = self._round()
            good = True
            self._board.polled("ok")
        except AskError as err:
            failures, good = [self._failure(err)], False
            self._board.polled(err.reason, str(err))
        except Exception as err:  # a fault nobody thought of must not end the loop
            log.debug("asking failed", exc_info=True)
            failures, good = [Failure("slurmctld", "exception", repr(err)[:300])], False
            self._board.polled("exception", type(err).__name__)
        self._faults.note(failures)
        return good

    def run(self) -> None:
        """Ask until stopped."""
        interval_s = self._config.interval_s
        while not self._stopped:
            self._wake.clear()
            good = self.once()
            self._wake.wait(interval_s if good else min(interval_s, _RETRY_S))

    def wake(self, *, stop: bool = False) -> None:
        """Ask now, or no more."""
        self._stopped = self._stopped or stop
        self._wake.set()

    def _round(self) -> list[Failure]:
        config, now_s = self._config, self._now()
        answer = self._ask(config)
        old = kept.load(config.out)[0] if config.out else self._board.groups
        chosen = Selection(answer.nodes, config, answer.cluster)
        groups = settled(chosen, old, now_s, config.hold_s)
        left_out = dict(chosen.left_out) | ({"unreadable": answer.odd} if answer.odd else {})
        self._board.put(groups, left_out, now_s)
        if config.out and kept.save(config.out, groups):
            log.info("%s: %d targets of %d nodes", config.out, len(groups), len(answer.nodes))
        return list(_doubts(answer, chosen, groups, config))

    def _failure(self, err: AskError) -> Failure:
        mend = _MENDS.get(err.reason)
        kept_too = "; the targets stay as they are" if err.reason != "unwritable" else ""
        message = f"{err}{kept_too}{f'; mend: {mend}' if mend else ''}"
        return Failure("slurmctld", err.reason, message)


def _doubts(answer: Answer, chosen: Selection, groups: Groups, config: SdConfig) -> list[Failure]:
    """What the operator should know of an answer that was used."""
    found = []
    held = sorted(name for name in groups if GONE in groups[name]["labels"])
    if held:
        found.append(Failure("slurmctld", "fewer_nodes", (
            f"{len(held)} targets ({', '.join(held[:3])} ...) are no longer among slurmctld's {len(answer.nodes)} "
            f"nodes or no longer wanted: too many at once to be believed, kept for {config.hold_s / 60:g} minutes; "
            f"to let them go now, {f'remove {config.out}' if config.out else 'restart'}"
        )))  # fmt: skip
    if not chosen.groups:
        found.append(Failure("slurmctld", "no_target", (
            f"none of {len(answer.nodes)} nodes is a target "
            f"({', '.join(f'{why}: {n}' for why, n in sorted(chosen.left_out.items()))})"
        )))  # fmt: skip
    for reason, what, mend in (
        ("shared_host", "are on another's host (NodeHostName)", "its page has their jobs as well"),
        ("shared_address", "have another's address", "if they are hosts of their own, --sd.address=host asks each by its NodeHostName"),
    ):  # fmt: skip
        if shared := chosen.left_out[reason]:
            found.append(Failure("slurmctld", reason, (
                f"{shared} nodes {what} and are left out: asked twice, a page's jobs would count twice; {mend}"
            )))  # fmt: skip
    return found


def once(config: SdConfig) -> bool:
    """Ask and write once; whether there is a list."""
    return Finder(config, SdBoard()).once()


def serve(config: SdConfig, address: str, web_config: Path | None) -> None:
    """Ask, write and serve until a signal."""
    board = SdBoard(own_metrics)
    finder = Finder(config, board)
    finder.restore()
    server = WebServer(address, board, web_config, names_users=False)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, lambda *_: finder.wake())
    server.start()
    host, port = server.address
    log.info("targets go to %s, and to http_sd on %s:%d/sd", config.out or "no file", host, port)
    thread = threading.Thread(target=finder.run, daemon=True)
    thread.start()
    try:
        stop.wait()
        finder.wake(stop=True)
        thread.join(_STOP_S)
    finally:
        server.stop()
