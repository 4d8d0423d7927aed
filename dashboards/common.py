"""What all boards share: the frame of a board, the kinds of panels, and helpers for PromQL.

The classic model of dashboards, with fields that Grafana 9.4 and 12 both read. 37 is 9.4's version of that model: older
than what the SDK writes, so that every newer Grafana applies its own migrations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SCHEMA_VERSION = 37
#: Where Kubeflow Pipelines shows the run that a cell names.
RUN_PAGE = "/pipeline/#/runs/details/${__value.raw}"
#: Expressions with a series where somebody measures: pods, requests at the gateway, pipelines, rules.
PODS = 'up{job="pods"}'
REQUESTS = "route:requests:rate5m"
ARGO = "argo_workflows_gauge"
WATCHDOG = 'ALERTS{alertname="Watchdog"}'
SOURCE = kinds.DataSourceRef(type_val="prometheus", uid="${datasource}")
#: From a board's address up to the root of the host. A chart that serves the boards elsewhere replaces it by the platform's address.
PLATFORM = "../../../.."
RATE = "$__rate_interval"
#: In place of a panel of GPUs without series.
NO_GPU = "no GPU metrics: needs NVIDIA's DCGM exporter"

Thresholds = tuple[tuple[float | None, str], ...]
#: Nothing to judge.
PLAIN: Thresholds = ((None, "blue"),)
#: 0 is good.
ZERO: Thresholds = ((None, "green"), (1, "red"))
#: Shares of what there is.
FULL: Thresholds = ((None, "green"), (0.8, "orange"), (0.9, "red"))
#: Where the axis of a curve ends at least: a curve of zeros is not drawn on an axis up to 10,000 %.
SOFT_TOP = {"none": 4, "short": 0.1, "percentunit": 0.02, "s": 0.1, "bytes": 2**20, "Bps": 1024}
#: Colours of HTTP status codes.
CODES = {"^2..$": "green", "^3..$": "blue", "^4..$": "orange", "^5..$": "red"}
#: Colours of phases of runs and pods.
PHASES = {"^Succeeded$": "green", "^Running$": "blue", "^Pending$": "orange", "^(Failed|Error)$": "red"}
#: Share of failed requests, of which 1 % may.
FAILED: Thresholds = ((None, "green"), (0.005, "orange"), (0.01, "red"))


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expr: str
    legend: str = ""


def zero(expr: str, where: str) -> str:
    """The expression, or 0 where it has no series but `where` has: what nobody measures is not 0."""
    return f"({expr}) or 0 * count({where})"


def none(expr: str, label: str, where: str) -> str:
    """The expression, or one series of value 0 whose label says `none`, where it has no series but `where` has."""
    return f'({expr}) or on() label_replace(0 * count({where}), "{label}", "none", "", "")'


def _thresholds(steps: Thresholds) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _words(values: dict[str, tuple[str, str]] | None, nothing: str) -> list[model.ValueMapping]:
    """Words in place of values, and in place of a number that does not exist (0 requests have no quantile)."""
    found: list[model.ValueMapping] = []
    if values:
        texts = {value: model.ValueMappingResult(text=text, color=color) for value, (text, color) in values.items()}
        found.append(model.ValueMap(options=texts))
    no_number = model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NULL_AND_NAN, result=model.ValueMappingResult(text=nothing, color="text")
    )
    return [*found, model.SpecialValueMap(options=no_number)]


def _targets(queries: Iterable[Query], instant: bool, as_table: bool = False) -> list[prometheus.Dataquery]:
    targets = []
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().datasource(SOURCE).ref_id(letter).expr(query.expr)
        target = target.legend_format(query.legend) if query.legend else target
        target = target.instant() if instant else target.range()
        targets.append(target.format(PromQueryFormat.TABLE if as_table else PromQueryFormat.TIME_SERIES))
    return targets


def _frame(panel: Any, title: str, text: str, unit: str, size: tuple[int, int], nothing: str) -> Any:
    width, height = size
    return (
        panel.title(title).description(text).datasource(SOURCE).unit(unit).span(width).height(height).no_value(nothing)
    )


def value(
    title: str,
    text: str,
    expr: str,
    unit: str = "short",
    *,
    thresholds: Thresholds = PLAIN,
    texts: dict[str, tuple[str, str]] | None = None,
    nothing: str = "no data",
    decimals: int | None = None,
    width: int = 4,
    spark: bool = True,
) -> stat.Panel:
    """One number of now, with its course in the background."""
    panel = _frame(stat.Panel(), title, text, unit, (width, 4), nothing)
    panel.targets(_targets([Query(expr, title)], instant=not spark))
    panel.thresholds(_thresholds(thresholds)).mappings(_words(texts, nothing))
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.color_mode(kinds.BigValueColorMode.VALUE).text_mode(kinds.BigValueTextMode.VALUE)
    panel.graph_mode(kinds.BigValueGraphMode.AREA if spark else kinds.BigValueGraphMode.NONE)
    return panel if decimals is None else panel.decimals(decimals)


def course(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    thresholds: Thresholds | None = None,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    bars: bool = False,
    top: float | None = None,
    floor: float = 0,
    soft_top: float | None = None,
    calcs: tuple[str, ...] = ("lastNotNull", "max"),
    dashed: str = "",
    colors: dict[str, str] | None = None,
    nothing: str = "no data",
) -> timeseries.Panel:
    """Lines over time.

    `thresholds` are drawn as lines; series whose name matches `dashed` are dashed and red; `colors` gives names that match
    an expression their colour.
    """
    panel = _frame(timeseries.Panel(), title, text, unit, (width, height), nothing)
    panel.targets(_targets(queries, instant=False)).line_width(1).fill_opacity(0)
    panel.show_points(kinds.VisibilityMode.AUTO).span_nulls(120000)
    panel.tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
    legend = common.VizLegendOptions().show_legend(True).placement(kinds.LegendPlacement.BOTTOM)
    legend.display_mode(kinds.LegendDisplayMode.TABLE).calcs(list(calcs)).sort_by("Max").sort_desc(True)
    panel.legend(legend)
    if stacked:
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A")).fill_opacity(60).line_width(
            0
        )
    if bars:
        panel.draw_style(kinds.GraphDrawStyle.BARS).fill_opacity(80)
    if thresholds:
        panel.thresholds(_thresholds(((None, "transparent"), *thresholds)))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED))
    if dashed:
        style = {"fill": "dash", "dash": [8, 6]}
        panel.override_by_regexp(
            dashed,
            [
                model.DynamicConfigValue(id_val="custom.lineStyle", value=style),
                model.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": "red"}),
            ],
        )
    for names, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_regexp(names, [model.DynamicConfigValue(id_val="color", value=fixed)])
    panel.min(floor).axis_soft_max(soft_top or SOFT_TOP.get(unit, 1))
    if top is not None:
        panel.max(top)
    return panel


def bars(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    thresholds: Thresholds = FULL,
    top: float | None = None,
    width: int = 8,
    height: int = 8,
    nothing: str = "no data",
) -> bargauge.Panel:
    """A bar of now for each series."""
    panel = _frame(bargauge.Panel(), title, text, unit, (width, height), nothing).min(0)
    panel.targets(_targets(queries, instant=True)).thresholds(_thresholds(thresholds))
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)).show_unfilled(True)
    panel.orientation(kinds.VizOrientation.HORIZONTAL).display_mode(kinds.BarGaugeDisplayMode.BASIC)
    return panel if top is None else panel.max(top)


def states(
    title: str,
    text: str,
    query: Query,
    texts: dict[str, tuple[str, str]],
    *,
    width: int = 12,
    height: int = 8,
    nothing: str = "no data",
) -> statetimeline.Panel:
    """States over time, a row for each series."""
    panel = _frame(statetimeline.Panel(), title, text, "none", (width, height), nothing)
    panel.targets(_targets([query], instant=False)).mappings(_words(texts, nothing)).thresholds(_thresholds(PLAIN))
    panel.show_value(kinds.VisibilityMode.NEVER).row_height(0.8).merge_values(True).line_width(0).fill_opacity(80)
    return panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(kinds.LegendDisplayMode.LIST)
        .placement(kinds.LegendPlacement.BOTTOM)
    )


@dataclass(frozen=True)
class Column:
    """A column of a table: a label of the series, or the value of the query of this letter."""

    source: str
    title: str
    unit: str = ""
    thresholds: Thresholds | None = None
    width: int = 0
    link: str = ""
    """Path below the platform's address that a value leads to."""


def rows(
    title: str,
    text: str,
    *queries: Query,
    columns: tuple[Column, ...],
    sort: str = "",
    width: int = 12,
    height: int = 8,
    nothing: str = "-",
) -> table.Panel:
    """A table of now: a row for each set of labels, a column for each query."""
    panel = _frame(table.Panel(), title, text, "none", (width, height), nothing)
    panel.targets(_targets(queries, instant=True, as_table=True))
    fields = {f"Value #{c.source}" if len(c.source) == 1 else c.source: c for c in columns}
    if len(queries) == 1:
        fields = {name.replace("Value #A", "Value"): column for name, column in fields.items()}
    else:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    keep = {"include": {"names": list(fields)}}
    panel.with_transformation(model.DataTransformerConfig(id_val="filterFieldsByName", options=keep))
    order = {
        "indexByName": {name: number for number, name in enumerate(fields)},
        "renameByName": {name: column.title for name, column in fields.items()},
        "excludeByName": {},
    }
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=order))
    for column in columns:
        found = []
        if column.unit:
            found.append(model.DynamicConfigValue(id_val="unit", value=column.unit))
        if column.width:
            found.append(model.DynamicConfigValue(id_val="custom.width", value=column.width))
        if column.thresholds:
            steps = [{"value": limit, "color": color} for limit, color in column.thresholds]
            found.append(model.DynamicConfigValue(id_val="thresholds", value={"mode": "absolute", "steps": steps}))
            # the name of 9.4; newer Grafanas migrate it
            found.append(model.DynamicConfigValue(id_val="custom.displayMode", value="color-text"))
        if column.link:
            link = {"title": "Open", "url": "${platform}" + column.link, "targetBlank": True}
            found.append(model.DynamicConfigValue(id_val="links", value=[link]))
        if found:
            panel.override_by_name(column.title, found)
    if sort:
        panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    return panel


class Board:
    """A dashboard: rows of panels under a frame that all boards share."""

    def __init__(self, name: str, title: str, text: str, hours: int = 1) -> None:
        """Start a board without rows.

        Args:
            name: name of its file; with `iml4e-` before it, its uid.
            title: its title.
            text: one sentence on what it answers.
            hours: length of the time range that it opens with.
        """
        self.name = name
        self._build = (
            build.Dashboard(title)
            .uid(f"iml4e-{name}")
            .description(text)
            .tags(["iml4e"])
            .time(f"now-{hours}h", "now")
            .refresh("30s")
            .timezone("browser")
            .editable()
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .link(
                build.DashboardLink("Boards")
                .type(model.DashboardLinkType.DASHBOARDS)
                .tags(["iml4e"])
                .as_dropdown(True)
                .keep_time(True)
                .icon("dashboard")
            )
        )
        for label, path in (("MLflow", "/mlflow/"), ("Pipelines", "/pipeline/"), ("Prometheus", "/prometheus/")):
            self._build.link(
                build.DashboardLink(label)
                .type(model.DashboardLinkType.LINK)
                .url("${platform}" + path)
                .tooltip(f"Open {label}")
                .icon("external link")
                .target_blank(True)
            )
        source = build.DatasourceVariable("datasource").label("Data source").type("prometheus")
        self._build.with_variable(source.current(model.VariableOption(text="Prometheus", value="prometheus")))
        self._build.with_variable(build.ConstantVariable("platform").label("Address of the platform").value(PLATFORM))

    def choice(self, name: str, label: str, query: str, every: str = ".*") -> Board:
        """Add a variable with the values of a label, of which one, some or all are chosen.

        Args:
            name: its name in expressions.
            label: what people read.
            query: Grafana's `label_values(…)`.
            every: what "All" means: anything, also no such label, or with "" each value of the label.
        """
        variable = (
            build.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query(query)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .current(model.VariableOption(text="All", value="$__all"))
        )
        self._build.with_variable(variable.all_value(every) if every else variable)
        return self

    def row(self, title: str, *panels: Any, collapsed: bool = False) -> Board:
        """Add a row of panels."""
        row = build.Row(title).collapsed(collapsed)
        if collapsed:
            for panel in panels:
                row.with_panel(panel)
        self._build.with_row(row)
        if not collapsed:
            for panel in panels:
                self._build.with_panel(panel)
        return self

    def json(self) -> str:
        """The board as Grafana reads it."""
        board = self._build.build()
        board.schema_version = SCHEMA_VERSION
        for number, panel in enumerate(_all(board.panels or []), start=1):
            panel.id_val = number
        for link in board.links or []:
            # the SDK hides links in a menu that only the newest Grafana has
            link.placement = None
        return JSONEncoder(sort_keys=True, indent=1).encode(board) + "\n"


def _all(panels: Iterable[Any]) -> Iterator[Any]:
    """Panels and rows, and the panels in collapsed rows."""
    for panel in panels:
        yield panel
        yield from getattr(panel, "panels", None) or []
