"""
What a PromQL expression of jobwatt may say, checked on its syntax tree (promql-parser: the grammar of 3.x).

``problems`` names what is wrong with an expression; promtool 2.42 has its own say in test_rules.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import promql_parser as p

from jobwatt.metrics import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TARGET = frozenset({"cluster", "instance", "job"})  # what the scrape adds
OTHERS = {
    "process_start_time_seconds": frozenset(),  # of each of our pages (ownmetrics.py)
    "up": frozenset(),
    # labels of the alert's own, and those of what it is about
    "ALERTS": frozenset(
        {"alertname", "alertstate", "audience", "severity", "jobid", "user", "account"}
    ),
    "alertmanager_notification_requests_failed_total": frozenset({"integration"}),
    "alertmanager_notifications_failed_total": frozenset({"integration", "reason"}),
}
OPTIONAL = frozenset(  # series that a site may leave out
    {
        "jobwatt:site_pue:ratio",
        "jobwatt:site_carbon_intensity:grams_per_kwh",
        "jobwatt:site_price:per_kwh",
        "jobwatt:site_price:per_gpu_hour",
        "jobwatt:site_embodied:grams_per_node_hour",
        "jobwatt:site_price_changes:bool",
    }
)
# Unknown to Prometheus 2.42, each tried on its server.
TOO_NEW = frozenset(
    {
        "mad_over_time",
        "sort_by_label",
        "sort_by_label_desc",
        "info",
        "histogram_avg",
        "histogram_stddev",
        "histogram_stdvar",
        "histogram_quantiles",
        "double_exponential_smoothing",
        "first_over_time",
        "ts_of_first_over_time",
        "ts_of_last_over_time",
        "ts_of_max_over_time",
        "ts_of_min_over_time",
        "range",
        "step",
        "max_of",
        "min_of",
    }
)
TOO_NEW_OPERATORS = ("limitk", "limit_ratio")
_SETS = ("and", "or", "unless")
_CHOOSING = ("topk", "bottomk")  # leave the series that they choose as they are


@dataclass
class Checker:
    """
    ``recorded``: name -> expression. ``bare``: whether recorded series must stand alone. ``board``: a query
    of a dashboard, which chooses its cluster by a variable and is never written out over raw metrics.
    """

    recorded: Mapping[str, str]
    bare: bool = True
    board: bool = False
    found: list[str] = field(default_factory=list)

    def labels(self, node: p.Expr) -> frozenset[str] | None:
        """The labels that the result may have; None for a number. Writes down what is wrong."""
        match node:
            case p.VectorSelector():
                return self._selector(node)
            case p.MatrixSelector():
                return self._range(node)
            case p.SubqueryExpr():
                if node.offset is not None or node.at is not None:
                    self._say("offset or @ on a subquery")
                return self.labels(node.expr)
            case p.ParenExpr() | p.UnaryExpr():
                return self.labels(node.expr)
            case p.Call():
                return self._call(node)
            case p.AggregateExpr():
                return self._aggregate(node)
            case p.BinaryExpr():
                return self._binary(node)
        return None

    def _say(self, text: str) -> None:
        self.found.append(text)

    def _selector(self, node: p.VectorSelector) -> frozenset[str]:
        name, matchers = node.name or "", node.matchers.matchers
        if node.matchers.or_matchers:
            self._say(f"{name}: `or` between matchers is not PromQL")
        if any(matcher.name == "__name__" for matcher in matchers):
            self._say("a metric is named, not matched")
        touched = matchers or node.offset is not None or node.at is not None
        if _is_recorded(name) and self.bare and touched:
            self._say(f"{name} is recorded and must stand bare")
        labels = self._of_name(name)
        for matcher in matchers:
            if matcher.name not in labels | {"__name__"}:
                self._say(f"{name} has no label {matcher.name}")
        return labels

    def _of_name(self, name: str) -> frozenset[str]:
        if name in CATALOGUE:
            return TARGET | set(CATALOGUE[name].labels)
        if name in OTHERS:
            return TARGET | OTHERS[name]
        if name in self.recorded:
            return Checker(self.recorded).labels(p.parse(self.recorded[name])) or frozenset()
        if name not in OPTIONAL:
            self._say(f"there is no series {name or '{...}'}")
        return frozenset()

    def _range(self, node: p.MatrixSelector) -> frozenset[str]:
        name = node.vector_selector.name or ""
        if _is_recorded(name) and not self.board:
            self._say(f"{name} is recorded and must stand bare, not with a range")
        return self._selector(node.vector_selector)

    def _call(self, node: p.Call) -> frozenset[str] | None:
        name = node.func.name
        if name in TOO_NEW:
            self._say(f"{name} is unknown to Prometheus 2.42")
        inner = [labels for arg in node.args if (labels := self.labels(arg)) is not None]
        if node.func.return_type is p.ValueType.Scalar:
            return None
        made = {node.args[1].val} if name == "label_replace" else set()
        return inner[0] | made if inner else frozenset()

    def _aggregate(self, node: p.AggregateExpr) -> frozenset[str]:
        inner = self.labels(node.expr) or frozenset()
        by = node.modifier
        if by is None and self.board:
            return inner if str(node.op) in _CHOOSING else frozenset()
        kept = by is not None and ("cluster" in by.labels or self.board)
        if by is None or by.type is not p.AggModifierType.By or not kept:
            self._say(
                f"aggregation without by (cluster, ...): {str(node.prettify()).split('(')[0]}"
            )
            return inner
        for label in set(by.labels) - inner:
            self._say(f"by ({label}): there is no such label")
        return inner if str(node.op) in _CHOOSING else frozenset(by.labels)

    def _binary(self, node: p.BinaryExpr) -> frozenset[str] | None:
        left, right = self.labels(node.lhs), self.labels(node.rhs)
        if left is None or right is None:
            return right if left is None else left
        matching = node.modifier.matching if node.modifier else None
        if matching is None:
            recorded = map(_is_recorded, (*_names(node.lhs), *_names(node.rhs)))
            if any(recorded) and not self.board:
                self._say("recorded series are matched by on (...): a ruler may add labels")
            return left | right
        on = frozenset(matching.labels)
        if matching.type is not p.LabelModifierType.Include:
            self._say("matching names its labels by on (...)")
        if on and "cluster" not in on and not self.board:
            self._say("on (...) without cluster")
        for side in (left, right):
            for label in on - side:
                self._say(f"on ({label}): a side has no such label")
        if str(node.op) in _SETS:
            return left | right if str(node.op) == "or" else left
        card = node.modifier.card
        if card is p.VectorMatchCardinality.ManyToOne:
            return left
        return right if card is p.VectorMatchCardinality.OneToMany else on


def _is_recorded(name: str) -> bool:
    return ":" in name


def _names(node: p.Expr) -> Iterator[str]:
    """Names of the series in an expression that give the result its labels."""
    match node:
        case p.VectorSelector():
            yield node.name or ""
        case p.MatrixSelector():
            yield node.vector_selector.name or ""
        case p.ParenExpr() | p.UnaryExpr() | p.SubqueryExpr():
            yield from _names(node.expr)
        case p.Call() if node.func.name not in {"scalar", "vector"}:
            for arg in node.args:
                yield from _names(arg)
        case p.BinaryExpr():
            yield from _names(node.lhs)
            yield from _names(node.rhs)


def board_problems(expr: str, recorded: Mapping[str, str]) -> tuple[list[str], frozenset[str]]:
    """What is wrong with a dashboard's query, and the labels that its result may have."""
    checker = Checker(recorded, bare=False, board=True)
    try:
        tree = p.parse(expr)
    except ValueError as err:
        return [f"promql-parser: {err}"], frozenset()
    labels = checker.labels(tree)
    everywhere = [f"{name} of every cluster" for name in without_cluster(tree)]
    return checker.found + everywhere, labels or frozenset()


def selectors(node: p.Expr) -> Iterator[p.VectorSelector]:
    """Every selector of an expression, those in aggregations, calls and subqueries too."""
    match node:
        case p.VectorSelector():
            yield node
        case p.MatrixSelector():
            yield node.vector_selector
        case p.ParenExpr() | p.UnaryExpr() | p.SubqueryExpr() | p.AggregateExpr():
            yield from selectors(node.expr)
        case p.Call():
            for arg in node.args:
                yield from selectors(arg)
        case p.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)


def without_cluster(node: p.Expr) -> Iterator[str]:
    """Names of the series in a dashboard's query that are not chosen by `cluster`; a site's settings have none."""
    for one in selectors(node):
        chosen = any(matcher.name == "cluster" for matcher in one.matchers.matchers)
        if not chosen and not (one.name or "").startswith(("jobwatt:waste_", "jobwatt:site_")):
            yield one.name or ""


def problems(expr: str, recorded: Mapping[str, str], *, bare: bool = True) -> list[str]:
    """What is wrong with an expression; ``bare=False`` in a mail's query, which may use matchers."""
    words = set(expr.replace("(", " ").split())
    found = [f"{name} is unknown to Prometheus 2.42" for name in TOO_NEW_OPERATORS if name in words]
    try:
        tree = p.parse(expr)
    except ValueError as err:
        return [*found, f"promql-parser: {err}"]
    checker = Checker(recorded, bare)
    checker.labels(tree)
    return found + checker.found
