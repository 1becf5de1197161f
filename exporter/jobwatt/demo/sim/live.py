"""The twelve nodes, live: each as an exporter of this process, on a port of its own."""

from __future__ import annotations

import errno
import logging
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...board import Board
from ...ledger import Ledger
from ...ownmetrics import own_metrics
from ...web import WebServer
from .account import Account, gap_ns, play
from .cluster import NODES, Cluster

if TYPE_CHECKING:
    from .truth import Truth

log = logging.getLogger(__name__)

# Between a history's end and now: steps as short as the history's own.
_CATCH_UP_S = 60


class Live:
    """
    The nodes as exporters of this process: real pipelines, boards and web servers.

    Args:
        ledgers: of a history (history.write), or an empty or missing folder; copied, never changed.
        first_port: the nodes serve on this and the following ports; 0: on any that are free.
        interval_s: the sampling interval, whole seconds.
        live_s: see Cluster; the same as the history's.
    """

    def __init__(
        self,
        *,
        seed: int,
        began_s: int,
        ledgers: Path,
        host: str = "127.0.0.1",
        first_port: int = 0,
        interval_s: int = 5,
        live_s: int | None = None,
    ) -> None:
        self._host, self._first_port, self._interval_s = host, first_port, interval_s
        self._cluster = Cluster(seed, began_s, live_s)
        self._kept = ledgers
        self._folder = tempfile.TemporaryDirectory(prefix="jobwatt-demo-")
        self._accounts: list[Account] = []
        self._boards: dict[str, Board] = {}
        self._servers: list[WebServer] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo cluster", daemon=True)

    def start(self) -> dict[str, int]:
        """
        Catch up with the present, serve, and go on from there.

        Returns:
            the port of each node.

        Raises:
            OSError: a port is taken; its message names it.
        """
        try:
            ports = self._serve()
        except OSError:
            self.stop()
            raise
        self._catch_up()
        self._thread.start()
        return ports

    def stop(self) -> None:
        """Stop sampling and serving. It cannot be started again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for server in self._servers:
            server.stop()
        for account in self._accounts:
            account.pipeline.ledger.close()
        self._folder.cleanup()

    def truth(self) -> Truth:
        """What the simulation itself knows, up to the last sample."""
        with self._lock:
            return self._cluster.truth()

    @property
    def now_s(self) -> int:
        """Unix time of the last sample."""
        return self._cluster.now_s

    # --- beginning -----------------------------------------------------------------------------

    def _serve(self) -> dict[str, int]:
        ports = {}
        for number, node in enumerate(NODES):
            port = self._first_port + number if self._first_port else 0
            # each node shows the process's own cost: the demo has one process for all of them
            self._boards[node] = Board(self._interval_s, own_metrics)
            server = WebServer(f"{self._host}:{port}", self._boards[node])
            try:
                server.start()
            except OSError as err:
                raise OSError(
                    err.errno or errno.EADDRINUSE,
                    f"port {port} of {self._host} for {node}: {err.strerror or err}; give other ports",
                ) from err
            self._servers.append(server)
            ports[node] = server.address[1]
        return ports

    def _catch_up(self) -> None:
        """From where the ledgers end to now, without anybody seeing the steps."""
        ends_s = [self._restore(node) for node in NODES]
        now_s = self._due_s() - self._interval_s
        at_s = max((end_s for end_s in ends_s if end_s), default=now_s)
        self._cluster.advance(at_s)
        for account in self._accounts:  # what ended until then is in the ledger
            self._cluster.snapshot(account.node)
            account.pipeline.regular_ns = gap_ns(_CATCH_UP_S)
        while at_s < now_s:
            at_s = min((at_s // _CATCH_UP_S + 1) * _CATCH_UP_S, now_s)
            play(self._cluster, self._accounts, at_s, stopped=self._stop.is_set)
            self._push(publish=at_s == now_s)
        for account in self._accounts:
            account.pipeline.regular_ns = gap_ns(self._interval_s)
        if all(board.view is None for board in self._boards.values()):
            self._push(publish=True)

    def _restore(self, node: str) -> int:
        """Take a node's account from a copy of its ledger; returns when that ends, 0 without one."""
        own = Path(self._folder.name) / f"{node}.db"
        kept = self._kept / own.name
        if kept.exists():
            shutil.copy(kept, own)
        ledger = Ledger(own)
        account = Account(self._cluster, node, ledger, self._interval_s)
        account.pipeline.restore(self._cluster.boot_id)
        self._accounts.append(account)
        last = ledger.restore(self._cluster.boot_id).last
        return int(last.wall_s) if last is not None else 0

    # --- going on ------------------------------------------------------------------------------

    def _due_s(self) -> int:
        """The next moment to sample at: multiples of the interval, as the behaviours change on those."""
        return (int(time.time()) // self._interval_s + 1) * self._interval_s

    def _run(self) -> None:
        while not self._stop.is_set():
            due_s = self._due_s()
            if self._stop.wait(max(due_s - time.time(), 0)):
                return
            try:
                with self._lock:
                    play(self._cluster, self._accounts, due_s, stopped=self._stop.is_set)
                    self._push(publish=True)
            except Exception:
                log.exception("a step of the demo failed; it goes on")

    def _push(self, *, publish: bool) -> None:
        for account in self._accounts:
            view = account.push()
            if publish:
                self._boards[account.node].publish(view)
