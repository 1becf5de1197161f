"""
`jobwatt bmc-proxy`: ask the BMCs of many nodes from where they can be reached, and serve their power.

BMCs are rarely reachable from compute nodes. One process on a host of the management network asks
them all; Prometheus scrapes it, and the nodes' own jobwatt takes their row from it (remote.url).
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING

from ... import __version__
from ...web import Limits, WebServer
from . import targets
from .board import BmcBoard
from .meter import BmcMeter
from .poll import Poller

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

# Of systemd's 90 s; a BMC's session that is not deleted by then expires by itself.
_CLOSE_S = 15.0
# No job's CPU is taken here, and a whole cluster's nodes may come from one address (SNAT).
_LIMITS = Limits(cpu_share=1.0, cpu_burst_s=10.0)


def serve(config: Path, address: str, web_config: Path | None) -> None:
    """Ask and serve until SIGTERM or SIGINT; ConfigError or OSError where it cannot start."""
    wanted = targets.read(config)
    poller = Poller([BmcMeter(entry) for entry in wanted.entries], wanted.threads)
    server = WebServer(address, BmcBoard(poller), web_config, _LIMITS, names_users=False)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    _say(wanted, server.address)
    try:
        poller.run(stop)
    finally:
        server.stop()
        if not poller.close(_CLOSE_S):
            log.warning("some BMCs did not let their session be deleted within %.0f s", _CLOSE_S)


def _say(wanted: targets.BmcList, address: tuple[str, int]) -> None:
    log.info(
        "jobwatt %s bmc-proxy asks %d BMCs, serves on %s:%d",
        __version__,
        len(wanted.entries),
        *address,
    )
    unverified = [entry.node for entry in wanted.entries if entry.url and not entry.verify]
    if unverified:
        log.warning(
            "certificates of %d BMCs are not checked (%s%s): whoever answers in their place gets the "
            "password",
            len(unverified),
            ", ".join(unverified[:3]),
            ", ..." if len(unverified) > 3 else "",
        )
