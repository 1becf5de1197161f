"""What the daemon itself costs: prometheus_client's process metrics, in our families."""

from __future__ import annotations

from functools import cache

from prometheus_client import ProcessCollector

from .exposition import Rows
from .metrics import Metric, Type


@cache
def _collector() -> ProcessCollector:
    return ProcessCollector(registry=None)


def own_metrics() -> list[tuple[Metric, Rows]]:
    """process_cpu_seconds_total, process_resident_memory_bytes and the like."""
    page: list[tuple[Metric, Rows]] = []
    for family in _collector().collect():
        kind = Type.COUNTER if family.type == "counter" else Type.GAUGE
        name = f"{family.name}_total" if kind is Type.COUNTER else family.name
        page.append((Metric(name, kind, family.documentation), {(): repr(family.samples[0].value)}))
    return page
