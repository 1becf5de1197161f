"""What the demo costs and how it is: memory and CPU of its processes, nodes that answer, mails that have come."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

from ..alerts.promapi import Prometheus, PrometheusError
from .ports import hostport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .children import Child
    from .ensemble import Ensemble

_FRESH_S = 2.0  # asked more often, the same is said again
_LIMIT_S = 3.0
_HISTORY_S = 10.0  # CPU is a mean over so long, or since it was last asked


class Status:
    """What /status.json says of an ensemble. Safe to ask from any thread."""

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

    def _nodes_up(self) -> int | None:
        """How many nodes Prometheus has just scraped; 0 where it does not say, None where there is none."""
        address = self._ensemble.site.prometheus
        if address is None:
            return None
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


# --- costs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """One program with all it has started. ``cpu_percent``: 100 is one CPU."""

    name: str
    rss_bytes: int
    cpu_percent: float


class Usage:
    """Looks at this process and its children."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[float, dict[str, float]]] = []
        self._last: tuple[float, list[Cost]] = (0.0, [])

    def now(self, children: Iterable[Child]) -> list[Cost]:
        """The demo itself and each child, whichever of them are alive."""
        with self._lock:
            at = time.monotonic()
            if at - self._last[0] >= _FRESH_S:
                self._last = (at, self._look(at, children))
            return self._last[1]

    def _look(self, at: float, children: Iterable[Child]) -> list[Cost]:
        programs = {"jobwatt (nodes, page, mails)": [psutil.Process()]}
        for child in children:
            with suppress(psutil.Error):
                top = psutil.Process(child.process.pid)
                programs[child.name] = [top, *top.children(recursive=True)]
        found = {name: _sums(processes) for name, processes in programs.items()}
        cpu_s = {name: cpu for name, (_, cpu) in found.items()}
        self._seen.append((at, cpu_s))
        while len(self._seen) > 2 and at - self._seen[1][0] >= _HISTORY_S:
            del self._seen[0]
        then, before = self._seen[0]
        return [
            Cost(name, rss, _percent(before.get(name), cpu, at - then))
            for name, (rss, cpu) in found.items()
            if rss
        ]


def _sums(processes: Iterable[psutil.Process]) -> tuple[int, float]:
    """Memory in bytes and CPU seconds so far."""
    rss, cpu = 0, 0.0
    for process in processes:
        with suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            rss, cpu = rss + process.memory_info().rss, cpu + times.user + times.system
    return rss, cpu


def _percent(before: float | None, now: float, seconds: float) -> float:
    return 100 * max(now - before, 0.0) / seconds if before is not None and seconds > 0 else 0.0
