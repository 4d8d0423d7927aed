"""Each part can be switched off, and then renders nothing."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from support import helm
from support.helm import CHART, RELEASE, render, render_text
from support.objects import COMPONENT, kind_and_name, labels
from support.parts import EVERY, WITH_UI
from support.wiring import dangling

# What an administrator brings in place of a part that is off.
INSTEAD_OF: dict[str, dict[str, Any]] = {
    "minio": {"global": {"s3": {"endpoint": "http://s3.example.com"}}},
    "mariadb": {"global": {"database": {"host": "db.example.com"}}},
    "mlflow": {"pipelines": {"mlflow": {"enabled": False}}},
    "prometheus": {"global": {"monitoring": {"url": "http://prometheus.example.com"}}},
    "home": {"gateway": {"errorPages": {"enabled": False}}},
    "gateway": helm.merged(
        {name: {"route": {"enabled": False}} for name in WITH_UI}, {"prometheus": {"probe": {"enabled": False}}}
    ),
}
GIVEN = {
    "minio": [f"{RELEASE}-s3-mlflow", f"{RELEASE}-s3-pipelines", f"{RELEASE}-s3-models"],
    "mariadb": [f"{RELEASE}-db-{name}" for name in ("mlflow", "mlpipeline", "metadb")],
    "grafana": [f"{RELEASE}-grafana"],
    # the landing page looks first whether the part is there
    "mlflow": [f"{RELEASE}-mlflow"],
}


def only(*names: str) -> dict[str, Any]:
    """Values that leave on just these parts, with what they need from elsewhere."""
    switches = {name: {"enabled": name in names} for name in EVERY}
    return helm.merged(switches, *(values for name, values in INSTEAD_OF.items() if name not in names))


def test_table_and_chart_name_the_same_parts() -> None:
    assert sorted(EVERY) == [path.name for path in helm.subcharts()]


def test_nothing_enabled_renders_nothing() -> None:
    assert [kind_and_name(thing) for thing in render(values=only())] == []


@pytest.mark.parametrize("part", EVERY)
def test_a_part_alone_renders_only_itself(part: str) -> None:
    objects = render(values=only(part))
    assert objects
    strangers = [
        kind_and_name(thing) for thing in objects if labels(thing).get(COMPONENT) not in (part, "runner", "secrets")
    ]
    assert strangers == []


@pytest.mark.parametrize("part", EVERY)
def test_a_part_that_is_off_leaves_nothing(part: str) -> None:
    objects = render(values=only(*(name for name in EVERY if name != part)))
    assert [kind_and_name(thing) for thing in objects if labels(thing).get(COMPONENT) == part] == []


@pytest.mark.parametrize("part", EVERY)
def test_a_part_that_is_off_is_missed_by_nobody(part: str) -> None:
    others = [name for name in EVERY if name != part]
    assert dangling(render(values=only(*others)), given=GIVEN.get(part, [])) == []


@pytest.mark.parametrize("part", EVERY)
def test_a_part_that_is_off_takes_nothing_else_along(part: str) -> None:
    without = {kind_and_name(thing) for thing in render(values=only(*(name for name in EVERY if name != part)))}
    missing = [thing for thing in render() if kind_and_name(thing) not in without]
    # a route and the probe are of no use without the gateway, nor the Job that ends MLflow's runs without MLflow; the Job
    # that makes Secrets has another name when it has another plan
    may_go = [
        thing
        for thing in missing
        if (part == "gateway" and thing["kind"] == "HTTPRoute")
        or (part == "gateway" and thing["metadata"]["name"] == "iml4e-prometheus-probe")
        or (part == "mlflow" and thing["metadata"]["name"] == "iml4e-pipelines-mlflow")
        or labels(thing).get(COMPONENT) == "secrets"
    ]
    assert [
        kind_and_name(thing)
        for thing in missing
        if labels(thing).get(COMPONENT) not in (part, None) and thing not in may_go
    ] == []


@pytest.mark.parametrize("profile", helm.profiles())
def test_rendering_twice_is_identical(profile: str) -> None:
    """Without a cluster, as GitOps tools render: what is made up at random would be a change at each sync."""
    assert render_text(profile, fresh=1) == render_text(profile, fresh=2)


def test_dependencies_are_all_in_the_tree() -> None:
    dependencies = yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]
    assert sorted(entry["name"] for entry in dependencies) == sorted(EVERY)
