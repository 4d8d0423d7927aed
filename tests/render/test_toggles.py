"""Each part can be switched off, and then renders nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from support import helm
from support.helm import CHART, RELEASE, render
from support.objects import COMPONENT, Object, kind_and_name, labels
from support.parts import EVERY, WITH_UI
from support.wiring import dangling

# What an administrator brings in place of a part that is off.
INSTEAD_OF: dict[str, dict[str, Any]] = {
    "minio": {"global": {"s3": {"endpoint": "http://s3.example.com"}}},
    "mariadb": {"global": {"database": {"host": "db.example.com"}}},
    "mlflow": {"pipelines": {"mlflow": {"enabled": False}}},
    "gateway": {name: {"route": {"enabled": False}} for name in WITH_UI},
}
GIVEN = {
    "minio": [f"{RELEASE}-s3-mlflow", f"{RELEASE}-s3-pipelines", f"{RELEASE}-s3-models"],
    "mariadb": [f"{RELEASE}-db-{name}" for name in ("mlflow", "mlpipeline", "metadb")],
}


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Values on top of values, as helm does it."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def only(*names: str) -> dict[str, Any]:
    """Values that leave on just these parts, with what they need from elsewhere."""
    switches = {name: {"enabled": name in names} for name in EVERY}
    return merge(switches, *(values for name, values in INSTEAD_OF.items() if name not in names))


def test_table_and_chart_name_the_same_parts() -> None:
    assert sorted(EVERY) == [path.name for path in helm.subcharts()]


def test_nothing_enabled_renders_nothing() -> None:
    assert [kind_and_name(thing) for thing in render(values=only())] == []


@pytest.mark.parametrize("part", EVERY)
def test_a_part_alone_renders_only_itself(part: str) -> None:
    objects = render(values=only(part))
    assert objects
    strangers = [kind_and_name(thing) for thing in objects if labels(thing).get(COMPONENT) not in (part, "runner")]
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
    # a route is of no use without the gateway, nor the Job that ends MLflow's runs without MLflow
    may_go = [
        thing
        for thing in missing
        if (part == "gateway" and thing["kind"] == "HTTPRoute")
        or (part == "mlflow" and thing["metadata"]["name"] == "iml4e-pipelines-mlflow")
    ]
    assert [
        kind_and_name(thing)
        for thing in missing
        if labels(thing).get(COMPONENT) not in (part, None) and thing not in may_go
    ] == []


def settled(thing: Object) -> Object:
    """An object without what is made up anew where no cluster can be asked for the old one."""
    thing = json.loads(json.dumps(thing))
    if thing["kind"] == "Secret":
        for field in ("data", "stringData"):
            thing[field] = sorted(thing.get(field) or {})
    for webhook in thing.get("webhooks", []):
        webhook["clientConfig"].pop("caBundle", None)
    return thing


@pytest.mark.parametrize("profile", helm.profiles())
def test_rendering_twice_is_identical(profile: str) -> None:
    """No pod restarts because a password was made up that is then not used."""
    first, second = ([settled(thing) for thing in render(profile, fresh=attempt)] for attempt in (1, 2))
    assert [kind_and_name(old) for old, new in zip(first, second, strict=True) if old != new] == []


def test_dependencies_are_all_in_the_tree() -> None:
    dependencies = yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]
    assert sorted(entry["name"] for entry in dependencies) == sorted(EVERY)
