"""values.yaml, its comments and its schema agree, and a misspelled value is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support import helm
from support.helm import CHART, render
from support.parts import EVERY

CHARTS = [pytest.param(path, id=path.name) for path in [CHART, *helm.subcharts()]]
Path_ = tuple[str, ...]


def comment(lines: list[str], line: int) -> bool:
    """Whether a `# --` comment stands right above a line."""
    above = line - 1
    while above >= 0 and lines[above].lstrip().startswith("#") and not lines[above].lstrip().startswith("# --"):
        above -= 1
    return above >= 0 and lines[above].lstrip().startswith("# -- ")


def leaves(text: str) -> Iterator[tuple[Path_, int, bool]]:
    """Path, line and whether it has a comment, of each value: a scalar, a list, or a map that is documented as a whole."""
    lines = text.splitlines()

    def walk(node: yaml.Node, path: Path_) -> Iterator[tuple[Path_, int, bool]]:
        for key, value in node.value:
            said = comment(lines, key.start_mark.line)
            if isinstance(value, yaml.MappingNode) and not value.flow_style and not said:
                yield from walk(value, (*path, key.value))
            else:
                yield (*path, key.value), key.start_mark.line + 1, said

    yield from walk(yaml.compose(text), ())


def values_of(chart: Path) -> str:
    """The text of a chart's values.yaml."""
    return (chart / "values.yaml").read_text()


def schema_of(chart: Path) -> dict[str, Any]:
    """A chart's schema."""
    return json.loads((chart / "values.schema.json").read_text())


def resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow `$ref` inside a schema."""
    while "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        schema = target
    return schema


def entry(schema: dict[str, Any], path: Path_) -> dict[str, Any] | None:
    """The schema of a value, or None where the schema does not know it by name."""
    root = schema
    for key in path:
        properties = resolve(schema, root).get("properties", {})
        if key not in properties:
            return None
        schema = properties[key]
    return resolve(schema, root)


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_has_a_comment(chart: Path) -> None:
    silent = [f"line {line}: {'.'.join(path)}" for path, line, said in leaves(values_of(chart)) if not said]
    assert silent == []


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_has_a_schema_entry(chart: Path) -> None:
    sections = set(EVERY) if chart == CHART else set()
    unknown = [
        ".".join(path)
        for path, *_ in leaves(values_of(chart))
        if path[0] not in sections and not entry(schema_of(chart), path)
    ]
    assert unknown == []


@pytest.mark.parametrize("chart", CHARTS)
def test_every_schema_entry_has_a_value(chart: Path) -> None:
    """A key that the schema knows and values.yaml does not show is a key that nobody finds."""
    values = yaml.safe_load(values_of(chart))
    root = schema_of(chart)

    def hidden(schema: dict[str, Any], node: Any, path: Path_) -> Iterator[str]:
        for key, child in resolve(schema, root).get("properties", {}).items():
            if child.get("$comment", "").startswith("removed"):
                continue  # let through, so that a sentence can say what became of it
            if not isinstance(node, dict) or key not in node:
                yield ".".join((*path, key))
            elif isinstance(node[key], dict) and node[key]:
                yield from hidden(child, node[key], (*path, key))

    # the umbrella's values.yaml shows of a part only whether it is on
    elsewhere = ("global", *(f"{part}." for part in EVERY)) if chart == CHART else ("global",)
    assert [name for name in hidden(root, values, ()) if not name.startswith(elsewhere)] == []


@pytest.mark.parametrize("chart", CHARTS)
def test_every_map_with_named_keys_is_closed(chart: Path) -> None:
    root = schema_of(chart)
    open_maps = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node and "type" in node and node.get("additionalProperties", True) is True:
                open_maps.append(path)
            for key, child in node.items():
                walk(child, f"{path}/{key}")

    walk(root, "#")
    # Charts take facts under `global` that only others read. A template of the umbrella names unknown ones
    others = "#/properties/global"
    assert [path for path in open_maps if path != others and (chart == CHART or not path.startswith(others))] == []


@pytest.mark.parametrize("chart", CHARTS)
def test_defaults_fit(chart: Path) -> None:
    jsonschema.Draft7Validator(schema_of(chart)).validate(yaml.safe_load(values_of(chart)))


@pytest.mark.parametrize("chart", CHARTS)
def test_a_leaf_says_its_type(chart: Path) -> None:
    typed = {"type", "enum", "const", "anyOf", "oneOf"}
    known = {path: entry(schema_of(chart), path) for path, *_ in leaves(values_of(chart))}
    assert [".".join(path) for path, schema in known.items() if schema is not None and not typed & set(schema)] == []


@pytest.mark.parametrize("chart", CHARTS[1:])
def test_every_value_is_read_by_a_template(chart: Path) -> None:
    """By itself, or as part of a map that is used as a whole."""
    folders = (chart / "templates", chart / "files", CHART / "templates")  # the umbrella hands some on to the steps
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    # values may be templates themselves
    text = "\n".join(path.read_text() for path in [*files, chart / "values.yaml"])

    def is_read(path: Path_) -> bool:
        ways = [".".join(path[:length]) for length in range(2 if path[0] == "global" else 1, len(path) + 1)]
        # helpers are handed `global` in a dict
        return any(re.search(rf"\.(Values\.)?{re.escape(way)}(?![\w.])", text) for way in ways)

    unread = [".".join(path) for path, *_ in leaves(values_of(chart)) if path != ("enabled",) and not is_read(path)]
    assert unread == []


def refusal(values: dict[str, Any]) -> str:
    """What Helm says of values: all that is wrong at once."""
    with pytest.raises(helm.HelmError) as refused:
        render("laptop", values)
    return str(refused.value)


def test_a_typo_is_rejected_by_name() -> None:
    said = refusal({section: {f"enabledd{section}": True} for section in ["global", *EVERY]})
    assert [part for part in EVERY if f"'enabledd{part}' not allowed" not in said] == []
    assert "enableddglobal" in refusal({"global": {"enableddglobal": True}})


def test_a_typo_in_a_part_that_is_off_is_rejected_by_name() -> None:
    said = refusal({part: {"enabled": False, f"nodeSelectr{part}": {}} for part in EVERY})
    assert [part for part in EVERY if f"'nodeSelectr{part}' not allowed" not in said] == []


def test_a_wrong_type_is_rejected() -> None:
    said = refusal({section: {"enabled": "yes"} for section in EVERY})
    assert [part for part in EVERY if f"at '/{part}/enabled'" not in said] == []


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "/global/imageRegistry": {"global": {"imageRegistry": "https://mirror.example.org"}},
    "/global/runtime/registry": {"global": {"runtime": {"registry": "mirror.example.org/"}}},
    "/global/database/host": {"global": {"database": {"host": "db.example.org:3306"}}},
    "/global/tolerations/0/value": {"global": {"tolerations": [{"key": "gpu", "operator": "Equal", "value": True}]}},
    "/minio/buckets/0/name": {"minio": {"buckets": [{"name": "Raw Scans", "versioned": False}]}},
    "/mlflow/nodeSelector/disk": {"mlflow": {"nodeSelector": {"disk": "very fast"}}},
    "/gateway/image/repository": {"gateway": {"image": {"repository": "library/traefik #3"}}},
    "/gateway/image/tag": {"gateway": {"image": {"tag": "v3: latest"}}},
    "/global/mlflow/url": {"global": {"mlflow": {"url": "http://ml flow:5000"}}},
    "/global/s3/endpoint": {"global": {"s3": {"endpoint": "https://s3:port"}}},
    "/global/publicUrl": {"global": {"publicUrl": "https://ml.example.org/%zz"}},
    "/mariadb/config/init_connect": {"mariadb": {"config": {"init_connect": "SET a=1\n[client]"}}},
    "/pipelines/runs/podSpec/volumes": {"pipelines": {"runs": {"podSpec": {"volumes": "all"}}}},
    "/prometheus/alertmanager/config/route/routes/0/routes": {
        "prometheus": {"alertmanager": {"config": {"route": {"routes": [{"routes": "none"}]}}}}
    },
    "/minio/tolerations/0": {"minio": {"tolerations": [{"key": "gpu", "effects": "NoSchedule"}]}},
}


@pytest.mark.parametrize("place", IMPOSSIBLE)
def test_what_kubernetes_would_refuse_later_is_refused_by_name(place: str) -> None:
    with pytest.raises(helm.HelmError, match=f"at '{place}'"):
        render("laptop", IMPOSSIBLE[place])


@pytest.mark.parametrize(
    "shared",
    [
        {"imageRegistry": "mirror.example.org:5000/team-a/hub"},
        {"database": {"host": "fd00::1"}},
        {"database": {"host": '{{ printf "db.%s.svc" .Release.Namespace }}'}},
        {
            "tolerations": [
                {"operator": "Exists"},
                {"key": "a", "value": "true", "effect": "NoExecute", "tolerationSeconds": 3},
            ]
        },
    ],
    ids=json.dumps,
)
def test_unusual_values_fit(shared: dict[str, Any]) -> None:
    assert render("laptop", {"global": shared})


def test_an_unknown_section_is_rejected_by_name() -> None:
    with pytest.raises(helm.HelmError, match="grafanna"):
        render("laptop", {"grafanna": {"enabled": True}})


@pytest.mark.parametrize("chart", CHARTS[1:])
def test_a_subchart_repeats_the_facts_that_the_umbrella_shares(chart: Path) -> None:
    """So that it renders alone as it does in the umbrella."""
    shared = yaml.safe_load(values_of(CHART))["global"]

    def differences(own: Any, theirs: Any, path: str) -> Iterator[str]:
        if isinstance(own, dict) and isinstance(theirs, dict):
            for key, value in own.items():
                yield from differences(value, theirs.get(key, "nothing of that name"), f"{path}.{key}")
        elif own != theirs:
            yield f"{path}: {own!r}, the umbrella has {theirs!r}"

    assert list(differences(yaml.safe_load(values_of(chart))["global"], shared, "global")) == []


@pytest.mark.parametrize("profile", helm.profiles()[1:])
def test_a_profile_holds_only_differences(profile: str) -> None:
    def default(path: Path_) -> Any:
        node: Any = yaml.safe_load(values_of(CHART))
        if path[0] in EVERY:
            own: Any = yaml.safe_load(values_of(CHART / "charts" / path[0]))
            node = {path[0]: {**own, **(node.get(path[0]) or {})}}
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        return node

    below = helm.ON_TOP_OF.get(profile)
    text = (helm.VALUES / f"{profile}.yaml").read_text()
    for path, line, _ in leaves(text):
        value: Any = yaml.safe_load(text)
        for key in path:
            value = value[key]
        assert below or value != default(path), f"line {line}: {'.'.join(path)} is the default anyway"
