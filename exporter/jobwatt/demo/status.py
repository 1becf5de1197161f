"""What /status.json says: what everything costs, how many nodes answer, how many mails have come."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..alerts.promapi import Prometheus, PrometheusError
from .services import hostport

if TYPE_CHECKING:
    from .ensemble import Ensemble

_FRESH_S = 2.0  # asked more often, the same is said again
_LIMIT_S = 3.0


class Status:
    """Looks at an ensemble. Safe to ask from any thread."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._lock = threading.Lock()
        self._up: tuple[float, int] = (-_FRESH_S, 0)

    def now(self) -> dict[str, Any]:
        """The status as it is."""
        ensemble = self._ensemble
        costs = ensemble.costs()
        return {
            "processes": [asdict(one) for one in costs],
            "total": {
                "rss_bytes": sum(one.rss_bytes for one in costs),
                "cpu_percent": sum(one.cpu_percent for one in costs),
            },
            "nodes": len(ensemble.nodes),
            "nodes_up": self._nodes_up(),
            "mails": ensemble.mails,
            "dashboards_ready": ensemble.site.viewer is not None,
        }

    def _nodes_up(self) -> int:
        """How many nodes Prometheus has just scraped; 0 where it does not say."""
        address = self._ensemble.site.prometheus
        if address is None:
            return 0
        with self._lock:
            if time.monotonic() - self._up[0] >= _FRESH_S:
                self._up = (time.monotonic(), _asked(*address))
            return self._up[1]


def _asked(host: str, port: int) -> int:
    try:
        found = Prometheus(f"http://{hostport(host, port)}", timeout_s=_LIMIT_S).query(
            'sum(up{job="jobwatt"})', time.time()
        )
        return int(found[0].points[0][1]) if found else 0
    except PrometheusError:
        return 0
