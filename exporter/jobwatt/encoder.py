"""
Metric families as bytes, and as a prometheus_client collector.

Pure. The encoder is our own because the page must cost next to nothing (tests/bench compares it
with prometheus_client's, which takes several times as long); ``JobwattCollector`` gives the same
families to a prometheus_client registry, and a test holds the two to the same text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .metrics import Metric, Type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric as ClientMetric

    from .exposition import Rows
    from .jobview import Values


class Encoder:
    """
    Families to text. Label strings are kept from page to page: they are most of the work, and the
    same series come back every time.
    """

    _LIMIT = 50_000  # label strings kept; well above one node's series, so churn cannot fill memory

    def __init__(self) -> None:
        self._labels: dict[tuple[Values, Values], str] = {}

    def encode(self, page: Iterable[tuple[Metric, Rows]], *, openmetrics: bool) -> bytes:
        """Prometheus text 0.0.4, or OpenMetrics 1.0.0."""
        if len(self._labels) > self._LIMIT:
            self._labels.clear()
        lines: list[str] = []
        for metric, rows in page:
            name = metric.name.removesuffix("_total") if openmetrics else metric.name
            lines.append(f"# HELP {name} {metric.help}\n# TYPE {name} {metric.type}\n")
            for values, text in rows.items():
                lines.append(f"{metric.name}{self._label_string(metric.labels, values)} {text}\n")
        if openmetrics:
            lines.append("# EOF\n")
        return "".join(lines).encode()

    def _label_string(self, names: Values, values: Values) -> str:
        if not names:
            return ""
        known = self._labels.get((names, values))
        if known is None:
            pairs = ",".join(
                f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True)
            )
            known = self._labels[names, values] = f"{{{pairs}}}"
        return known


def escaped(value: str) -> str:
    """Label values as both formats have them."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class JobwattCollector:
    """
    A prometheus_client collector, for a registry that shows jobwatt beside other metrics.

    ``page`` gives the families of the view of the moment: ``lambda: families(board.view)``.
    """

    def __init__(self, page: Callable[[], Iterable[tuple[Metric, Rows]]]) -> None:
        self._page = page

    def collect(self) -> Iterator[ClientMetric]:
        """Yield every family."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for metric, rows in self._page():
            kind = CounterMetricFamily if metric.type is Type.COUNTER else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for values, text in rows.items():
                family.add_metric([str(value) for value in values], float(text))
            yield family
