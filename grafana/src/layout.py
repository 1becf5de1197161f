"""A dashboard from its rows of panels: places, ids, and the JSON that Grafana 10 to 13 load."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

import facade

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = 24
# What Grafana 10 writes. Later releases read it and bring it up to date themselves; an older one would leave a
# newer schema as it is.
SCHEMA = 39

Row = tuple[str, "Sequence[facade.Panel]"]


def board(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    variables: Sequence[Any] = (),
    *,
    since: str = "now-24h",
) -> dashboard.Dashboard:
    """A dashboard: its rows of panels, laid out from left to right, below the common variables and links."""
    made = dashboard.Dashboard(f"jobwatt / {title}").uid(uid).tags([facade.TAG])
    made.description(description).readonly().refresh("1m").time(since, "now").timezone("browser")
    made.tooltip(DashboardCursorSync.CROSSHAIR).links(facade.links())
    for variable in (facade.datasource(), facade.cluster(), *variables):
        made.with_variable(variable)
    for name, panels in rows:
        made.with_row(dashboard.Row(name))
        for panel in panels:
            made.with_panel(panel)
    return made


def as_json(made: dashboard.Dashboard) -> str:
    """The dashboard as committed."""
    plain = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    return json.dumps(_finished(plain), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _finished(plain: dict[str, Any]) -> dict[str, Any]:
    """With what the SDK leaves out: ids, letters of the queries, places."""
    plain["schemaVersion"] = SCHEMA
    plain["graphTooltip"] = 1
    for variable in plain["templating"]["list"]:
        for unused in ("auto", "auto_count", "auto_min"):
            variable.pop(unused, None)
    for number, panel in enumerate(plain["panels"], 1):
        panel["id"] = number
        for letter, target in zip("ABCDEFGHIJ", panel.get("targets", []), strict=False):
            target["refId"] = letter
    _place(plain["panels"])
    return plain


def _place(panels: Sequence[dict[str, Any]]) -> None:
    """From left to right and down; a row begins anew."""
    x = y = height = 0
    for panel in panels:
        pos = panel["gridPos"]
        if panel["type"] == "row":
            pos.update(h=1, w=COLUMNS)
        if panel["type"] == "row" or x + pos["w"] > COLUMNS:
            x, y, height = 0, y + height, 0
        pos.update(x=x, y=y)
        x, height = x + pos["w"], max(height, pos["h"])
        if panel["type"] == "row":
            x, y, height = 0, y + 1, 0
