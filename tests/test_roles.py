"""
Who sees what: the dashboards of users and lab heads behind prom-label-proxy, as docs/security.md has it.

The proxy adds user="..." (or account="...") to each selector of each query. A series without that
label is then empty: which panels are is written down here and in the guide, and nowhere are there more.
"""

from __future__ import annotations

import re
from pathlib import Path

import promql_parser as p
import pytest
import yaml

import dashqueries
import secure
from promqlcheck import OPTIONAL, Checker, selectors

RULES = Path(__file__).parents[1] / "alerts/rules"
RECORDED = {
    rule["record"]: rule["expr"]
    for path in sorted(RULES.glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}
# board -> label that is enforced for those it is made for
FOR = {"user": "user", "job": "user", "account": "account"}


def names(expr):
    values = dict.fromkeys(re.findall(r"\$\{?(\w+)", expr), "x")
    times = {name: "300s" for name in values if name.startswith("__") and not name.endswith("_s")}
    numbers = dict.fromkeys(("__range_s", "__to", "__from"), "300")
    return {
        one.name or ""
        for one in selectors(p.parse(dashqueries.filled(expr, values | times | numbers)))
    }


def labels(name):
    """Labels that a series may have."""
    return frozenset() if name in OPTIONAL else Checker(RECORDED)._of_name(name)


def empty(board, label):
    """Panel -> series of its queries that have not the label, and so give nothing behind the proxy."""
    found: dict[str, set[str]] = {}
    for query in dashqueries.queries(board):
        lost = {name for name in names(query.expr) if label not in labels(name)}
        if lost:
            found.setdefault(query.panel, set()).update(lost)
    return found


def told(board):
    """What the guide says is empty: panel -> series."""
    _, _, rest = secure.GUIDE.read_text().partition("What is empty then")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", rest, re.MULTILINE)
    return {
        panel: set(re.findall(r"`([^`]+)`", series))
        for name, panels, series in rows
        if name == board
        for panel in panels.strip().split("; ")
    }


@pytest.mark.parametrize(("board", "label"), FOR.items())
def test_what_is_empty_behind_the_proxy(board, label):
    """Of the dashboards for users and lab heads, the panels that lack the enforced label are those that the guide names."""
    assert empty(board, label) == told(board)


@pytest.mark.parametrize(("board", "label"), FOR.items())
def test_choices_are_enforced_too(board, label):
    """The lists at a dashboard's top ask for series that have the label: nobody is offered another's name."""
    for variable in dashqueries.boards()[board]["templating"]["list"]:
        query = variable.get("query", "")
        text = query if isinstance(query, str) else query.get("query", "")
        found = re.search(r'label_values\((?:\{__name__=~")?([\w:|]+)', text)
        if found and variable["name"] in {"cluster", "user", "account", "jobid"}:
            assert any(label in labels(name) for name in found[1].split("|")), variable["name"]
