"""What the daemon itself costs: prometheus_client's process metrics, in our families."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector

from .metrics import Metric, Type

if TYPE_CHECKING:
    from .exposition import Rows


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
