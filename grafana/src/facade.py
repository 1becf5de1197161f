"""
The panels and variables of jobwatt's dashboards, over grafana-foundation-sdk.

A panel is made by what it shows: ``series`` over time, one or a few ``figures``, ``bars`` to compare, a ``grid`` of
rows, a ``note``. Each has a title, a description for a person who has never seen it, a unit, and words for the
case that there is nothing to show. ``size`` is (width, height) on Grafana's grid of 24 columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    MatcherConfig,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

from palette import SKY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Size = tuple[int, int]
Panel = Any  # the SDK's builders share no type that says so
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "jobwatt"
NOTHING = "Nothing in this period"
NOT_SET = "Set in site.toml"
KWH, WATT, SHARE, COUNT, COST = "kwatth", "watt", "percentunit", "short", "locale"
GPU_HOURS, HOURS, GRAMS, SECONDS, BYTES, TIME = (
    "suffix: GPU h",
    "suffix: h",
    "massg",
    "s",
    "bytes",
    "time:YYYY-MM-DD HH:mm",
)


@dataclass(frozen=True, slots=True)
class Q:
    """One query. ``legend``: what its series are called; ``step``: no finer than this (``5m``)."""

    expr: str
    legend: str = ""
    step: str = ""

    def over_time(self) -> prometheus.Dataquery:
        """As series over the range on show."""
        made = prometheus.Dataquery().expr(self.expr).legend_format(self.legend or "__auto").range()
        return made.interval(self.step) if self.step else made

    def at_the_end(self, *, rows: bool = False) -> prometheus.Dataquery:
        """As values at the end of the range on show; ``rows``: for a table."""
        made = prometheus.Dataquery().expr(self.expr).legend_format(self.legend or "__auto")
        shape = PromQueryFormat.TABLE if rows else PromQueryFormat.TIME_SERIES
        return made.instant().format(shape)


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of a grid: a label, or ``Value #A`` (the first query's value) and so on.

    ``link`` is a URL; ``bar`` draws the value as a bar; a column with ``hidden`` is there for links to use.
    """

    field: str
    title: str
    unit: str = ""
    link: str = ""
    width: int = 0
    bar: bool = False
    decimals: int | None = None
    colours: Mapping[str, str] | None = None
    hidden: bool = False


def series(
    title: str,
    description: str,
    unit: str,
    *queries: Q,
    size: Size = (12, 8),
    stack: bool = False,
    columns: bool = False,
    colours: Mapping[str, str] | None = None,
    lines: Sequence[str] = (),
    bounds: tuple[float | None, float | None] = (0, None),
    empty: str = NOTHING,
    step: str = "",
) -> Panel:
    """
    Lines over time; stacked areas with ``stack``, or ``columns`` for what is counted once a step. The ``lines``
    (legends) are drawn alone over them.
    """
    panel = _common(timeseries.Panel(), title, description, unit, size, empty)
    panel.line_width(1).fill_opacity(65 if stack else 8).show_points(kinds.VisibilityMode.NEVER)
    panel.gradient_mode(kinds.GraphGradientMode.NONE).tooltip(
        common.VizTooltipOptions()
        .mode(kinds.TooltipDisplayMode.MULTI)
        .sort(kinds.SortOrder.DESCENDING)
    )
    # a list: a table below a graph is cut off after three rows
    legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST)
    panel.legend(legend.placement(kinds.LegendPlacement.BOTTOM).show_legend(True).calcs([]))
    if stack:
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if columns:
        panel.draw_style(kinds.GraphDrawStyle.BARS)
    _bounded(panel, bounds)
    _coloured(panel, colours or {})
    for name in lines:
        panel.override_by_name(name, _alone())
    if step:
        panel.interval(step)
    for query in queries:
        panel.with_target(query.over_time())
    return panel


def _alone() -> list[DynamicConfigValue]:
    return [
        DynamicConfigValue("custom.stacking", {"group": "A", "mode": "none"}),
        DynamicConfigValue("custom.fillOpacity", 0),
        DynamicConfigValue("custom.lineWidth", 2),
        DynamicConfigValue("custom.lineStyle", {"dash": [8, 6], "fill": "dash"}),
    ]


def figures(
    title: str,
    description: str,
    unit: str,
    *queries: Q,
    size: Size = (6, 4),
    empty: str = NOTHING,
    decimals: int | None = None,
    steps: Sequence[tuple[float | None, str]] = (),
    spark: bool = False,
) -> Panel:
    """One number, or a few side by side; ``steps`` colour it; ``spark`` draws its past behind it."""
    panel = _common(stat.Panel(), title, description, unit, size, empty)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.graph_mode(kinds.BigValueGraphMode.AREA if spark else kinds.BigValueGraphMode.NONE)
    panel.color_mode(kinds.BigValueColorMode.VALUE if steps else kinds.BigValueColorMode.NONE)
    several = len(queries) > 1
    panel.text_mode(
        kinds.BigValueTextMode.VALUE_AND_NAME if several else kinds.BigValueTextMode.VALUE
    )
    panel.orientation(kinds.VizOrientation.AUTO).wide_layout(False)
    if decimals is not None:
        panel.decimals(decimals)
    if steps:
        panel.thresholds(_thresholds(steps))
    for query in queries:
        panel.with_target(query.over_time() if spark else query.at_the_end())
    return panel


def bars(
    title: str,
    description: str,
    unit: str,
    *queries: Q,
    size: Size = (8, 8),
    colours: Mapping[str, str] | None = None,
    empty: str = NOTHING,
    decimals: int | None = None,
) -> Panel:
    """Horizontal bars to compare, longest first where the query sorts them."""
    panel = _common(bargauge.Panel(), title, description, unit, size, empty)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.orientation(kinds.VizOrientation.HORIZONTAL).display_mode(
        kinds.BarGaugeDisplayMode.BASIC
    ).value_mode(kinds.BarGaugeValueMode.TEXT).show_unfilled(True).min(0)
    panel.name_placement(kinds.BarGaugeNamePlacement.LEFT)
    # a single bar would fill the panel, with figures as high as itself
    panel.sizing(kinds.BarGaugeSizing.MANUAL).min_viz_height(16).max_viz_height(34)
    panel.text(common.VizTextDisplayOptions().title_size(13).value_size(14))
    panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.FIXED).fixed_color("#0072B2"))
    if decimals is not None:
        panel.decimals(decimals)
    _coloured(panel, colours or {})
    if (
        len(queries) == 1
        and not colours
        and (label := re.fullmatch(r"\{\{(\w+)\}\}", queries[0].legend))
    ):
        panel.display_name(f"${{__field.labels.{label[1]}}}")  # else a single bar has no name
    for query in queries:
        panel.with_target(query.at_the_end())
    return panel


def grid(
    title: str,
    description: str,
    columns: Sequence[Column],
    *queries: Q,
    size: Size = (12, 9),
    sort: str = "",
    empty: str = NOTHING,
) -> Panel:
    """Rows: the queries' results joined by their labels, just these columns in this order; largest ``sort`` first."""
    panel = _common(table.Panel(), title, description, "", size, empty)
    panel.cell_height(kinds.TableCellHeight.SM)
    for query in queries:
        panel.with_target(query.at_the_end(rows=True))
    if len(queries) > 1:
        panel.with_transformation(DataTransformerConfig("merge", options={}))
    names = {"pattern": f"^({'|'.join(_escaped(c.field) for c in columns)})$"}
    panel.with_transformation(
        DataTransformerConfig("filterFieldsByName", options={"include": names})
    )
    order = {
        "excludeByName": {},
        "indexByName": {column.field: at for at, column in enumerate(columns)},
        "renameByName": {column.field: column.title for column in columns},
    }
    panel.with_transformation(DataTransformerConfig("organize", options=order))
    for column in columns:
        panel.override_by_name(column.title, _column(column))
    if sort:
        panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    return panel


def _escaped(field: str) -> str:
    return field.replace(".", "\\.")


def _column(column: Column) -> list[DynamicConfigValue]:
    found: list[tuple[str, object]] = [("noValue", "\N{EN DASH}")]
    if column.unit:
        found.append(("unit", column.unit))
    if column.decimals is not None:
        found.append(("decimals", column.decimals))
    if column.width:
        found.append(("custom.width", column.width))
    if column.link:
        found.append(("links", [{"title": "Open", "url": column.link}]))
    if column.bar:
        found.append(("custom.cellOptions", {"mode": "basic", "type": "gauge"}))
        # of this column alone: the largest number of all columns may be a time
        found += [("min", 0), ("fieldMinMax", True)]
        found.append(("color", {"mode": "fixed", "fixedColor": SKY}))
    if column.colours:
        options = {
            value: {"color": colour, "index": at, "text": value}
            for at, (value, colour) in enumerate(column.colours.items())
        }
        found.append(("mappings", [{"type": "value", "options": options}]))
        found.append(("custom.cellOptions", {"type": "color-text"}))
    if column.hidden:
        found += [("custom.hidden", True), ("custom.hideFrom", {"viz": True})]
    return [DynamicConfigValue(name, value) for name, value in found]


def note(title: str, words: str, size: Size = (24, 3)) -> Panel:
    """Words in Markdown; the title says what they are about."""
    panel = text.Panel().title(title).description(title).transparent(True)
    panel.mode(TextMode.MARKDOWN).content(words)
    return panel.span(size[0]).height(size[1])


def _common(panel: Panel, title: str, description: str, unit: str, size: Size, empty: str) -> Panel:
    panel.title(title).description(description).datasource(SOURCE).no_value(empty)
    if unit:
        panel.unit(unit)
    return panel.span(size[0]).height(size[1])


def _bounded(panel: Panel, bounds: tuple[float | None, float | None]) -> None:
    low, high = bounds
    if low is not None:
        panel.min(low)
    if high is not None:
        panel.max(high)


def _coloured(panel: Panel, colours: Mapping[str, str]) -> None:
    for name, colour in colours.items():
        fixed = DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
        panel.with_override(MatcherConfig("byName", name), [fixed])


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    made = [Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(made)


# --- variables and links ------------------------------------------------------------------------


def choice(
    name: str, label: str, query: str, *, several: bool = False, hidden: bool = False
) -> Any:
    """A variable with the values that a query gives; ``several`` may be chosen, or all."""
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE)
    made.query({"query": query, "refId": name})
    made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NATURAL_ASC)
    if several:
        made.multi(True).include_all(True)
    if hidden:
        made.hide(VariableHide.HIDE_VARIABLE)
    return made


def cluster() -> Any:
    """Which cluster: one, since numbers of jobs repeat. Nothing, which matches too, where a site has not named its only one."""
    # a job's series too: where each user is shown their own only, jobwatt_build_info is nobody's
    query = 'label_values({__name__=~"jobwatt_build_info|jobwatt_job_info"}, cluster)'
    return choice("cluster", "Cluster", query)


def datasource() -> Any:
    """Which Prometheus."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def links() -> list[Any]:
    """To the other dashboards, with the time range and the variables that they share."""
    made = dashboard.DashboardLink("jobwatt").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return [made.as_dropdown(True).keep_time(True).include_vars(True)]
