"""Grafana's boards: files as written, expressions that parse, series that exist, and panels that a stranger understands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dashboards.metrics import SOURCES
from scripts.common import console
from scripts.harness import dashboards
from support.boards import Panel, boards, filled, metrics, panels

REPO = Path(__file__).resolve().parents[2]
RULES = sorted((REPO / "charts/iml4e/charts/prometheus/files").glob("rules*.yaml"))
EACH_BOARD = pytest.mark.parametrize("name", sorted(boards()))
EACH_PANEL = pytest.mark.parametrize("panel", panels(), ids=str)


def recorded() -> set[str]:
    """Names of recorded series."""
    return {name for path in RULES for name in re.findall(r"^\s*- record: (\S+)", path.read_text(), re.MULTILINE)}


def test_the_boards_are_there() -> None:
    assert set(boards()) == {"platform", "models", "availability", "data", "pipelines", "costs"}


@EACH_BOARD
def test_the_file_is_as_written(name: str) -> None:
    assert (dashboards.FOLDER / f"{name}.json").read_text() == dashboards.files()[f"{name}.json"]


def test_check_names_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards, "FOLDER", tmp_path)
    monkeypatch.setattr(dashboards, "REPO", tmp_path)
    monkeypatch.setattr("sys.argv", ["scripts/dashboards"])
    dashboards.main()
    monkeypatch.setattr("sys.argv", ["scripts/dashboards", "--check"])
    dashboards.main()
    (tmp_path / "models.json").write_text("{}")
    (tmp_path / "data.json").unlink()
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(console.Failure, match=r"data\.json, models\.json, old\.json"):
        dashboards.main()
    monkeypatch.setattr("sys.argv", ["scripts/dashboards"])
    dashboards.main()
    assert {path.name for path in tmp_path.iterdir()} == dashboards.files().keys()


def test_uids_and_titles_are_unique() -> None:
    for key in ("uid", "title"):
        values = [board[key] for board in boards().values()]
        assert len(set(values)) == len(values)


@EACH_BOARD
def test_a_board_has_what_all_have(name: str) -> None:
    board = boards()[name]
    # links to boards hold the uid, which Grafana cuts at 40 characters
    assert board["uid"] == f"iml4e-{name}"
    assert len(board["uid"]) <= 40
    assert board["tags"] == ["iml4e"]
    assert board["description"]
    assert board["refresh"] == "30s"
    # 9.4's number: a newer one would keep a newer Grafana from migrating the fields of 9.4
    assert board["schemaVersion"] == 37
    # variables are filled in this order, and the others need the data source
    assert board["templating"]["list"][0] == board["templating"]["list"][0] | {
        "type": "datasource",
        "name": "datasource",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"},
    }
    assert [link["title"] for link in board["links"]] == ["Boards", "MLflow", "Pipelines", "Prometheus"]
    # Grafana puts its own path before a link that begins with a slash
    assert [link["url"] for link in board["links"][1:]] == [
        "${platform}/mlflow/",
        "${platform}/pipeline/",
        "${platform}/prometheus/",
    ]


def test_every_board_fits_an_annotation() -> None:
    """`kubectl apply`, and tools that call it, keep what they applied in an annotation of 256 KiB at most."""
    assert max(path.stat().st_size for path in dashboards.FOLDER.glob("*.json")) < 200 * 1024


@EACH_BOARD
def test_panels_fill_the_width_and_have_numbers_of_their_own(name: str) -> None:
    everything = [inner for panel in boards()[name]["panels"] for inner in (panel, *panel.get("panels", ()))]
    ids = [panel["id"] for panel in everything]
    assert len(set(ids)) == len(ids)
    lines: dict[int, int] = {}
    for panel in everything:
        place = panel["gridPos"]
        lines[place["y"]] = lines.get(place["y"], 0) + place["w"]
    assert set(lines.values()) == {24}


@EACH_BOARD
def test_every_variable_is_known(name: str) -> None:
    board = boards()[name]
    known = {variable["name"] for variable in board["templating"]["list"]}
    named = set(re.findall(r"\$\{?([a-z]+)\b", yaml.safe_dump(board)))
    assert named <= known


@EACH_PANEL
def test_a_panel_explains_itself(panel: Panel) -> None:
    defaults = panel.json["fieldConfig"]["defaults"]
    assert panel.json["title"][0].isupper()
    assert panel.json["description"][0].isupper()
    assert panel.json["description"].endswith(".")
    assert defaults["unit"]
    # what is read where there is no series
    assert defaults["noValue"]
    assert panel.json["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@EACH_PANEL
def test_a_panel_asks_what_can_be_answered(panel: Panel) -> None:
    known = recorded() | {name for source in SOURCES for name in source.metrics}
    assert panel.expressions
    for expression in panel.expressions:
        assert metrics(expression) - known == set()
    for target in panel.json["targets"]:
        assert target["datasource"] == panel.json["datasource"]
        # a 0 that comes from nowhere hides that nobody measures
        assert "vector(0)" not in target["expr"]
        # a rate over a fixed time has no value where Prometheus scrapes less often
        assert not re.search(r"\b(i?rate|increase)\([^\[\]]*\[(?!\$__|5m|1h)", target["expr"])


@EACH_PANEL
def test_a_legend_names_labels_that_are_kept(panel: Panel) -> None:
    for target in panel.json["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            raw = re.fullmatch(r"(?:sort_desc)?\(?(route|slo|model|component|pod):[\w:]+.*", target["expr"])
            assert raw or any(label in re.split(r",\s*", names) for names in kept), target["expr"]


def test_no_source_is_named_for_nothing() -> None:
    read = {name for panel in panels() for expression in panel.expressions for name in metrics(expression)}
    assert {name for source in SOURCES for name in source.metrics} <= read


def test_an_expression_is_filled_as_grafana_does() -> None:
    expression = 'rate(a{namespace=~"$namespace", model=~"${model}"}[$__rate_interval])'
    assert filled(expression) == 'rate(a{namespace=~".*", model=~".*"}[5m])'


def test_names_are_found_in_every_corner_of_an_expression() -> None:
    expression = (
        "-(sum by (x) (rate(a[5m])) / on (x) (b offset 1h) or topk(scalar(c), d)) > bool max_over_time((e)[1h:30s])"
    )
    assert metrics(expression) == {"a", "b", "c", "d", "e"}
