"""Text stays text: what YAML could read as a number, a truth value, a date or nothing arrives in every object as it was given."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support import helm
from support.helm import CHART
from support.parts import EVERY

#: What YAML reads as something else than text, where nothing quotes it.
WORDS = ["123", "1.10", "true", "null", "1e3", "0x10", "on", "2026-11-25"]
#: What it reads as text.
PLAIN = "plain"
Step = str | int
#: A value that excludes another one, which MORE sets.
OTHER = ("caCertificate", "existingConfigMap")

#: A host of two labels may be a Service in another namespace, which NetworkPolicies then name.
HOST = ("database", "host")

#: Values that are empty by default.
MORE: dict[str, dict[str, Any]] = {
    "global": {
        "imagePullSecrets": [{"name": "some"}],
        "caCertificate": {"existingSecret": "some", "key": "some"},
        "nodeSelector": {"disk": "some"},
    },
    "gateway": {"service": {"annotations": {"note": "some"}}, "tls": {"enabled": True, "secretName": "some"}},
    "minio": {"extraEnv": [{"name": "NOTE", "value": "some"}]},
    "mariadb": {"config": {"init_connect": "some"}},
    "mlflow": {"extraEnv": [{"name": "NOTE", "value": "some"}], "gc": {"enabled": True}, "allowedHosts": ["some"]},
    "pipelines": {
        "retention": {"enabled": True},
        "mlflow": {"authType": "basic-auth"},
        "proxy": {"http": "http://proxy:3128"},
        "serviceAccountAnnotations": {"note": "some"},
        "runs": {
            "env": [{"name": "NOTE", "value": "some"}],
            "podSpec": {"priorityClassName": "some", "nodeSelector": {"disk": "some"}},
        },
    },
    "prometheus": {"alertmanager": {"config": {"receivers": [{"name": "some"}], "route": {"receiver": "some"}}}},
    "kserve": {
        "models": {"serviceAccount": {"annotations": {"note": "some"}}},
        "runtimes": {"mlflow": {"nodeSelector": {"disk": "some"}}},
    },
}
for _part in EVERY:
    MORE.setdefault(_part, {})
    MORE[_part] |= {"podLabels": {"team": "some"}, "podAnnotations": {"note": "some"}, "priorityClassName": "some"}
    MORE[_part].setdefault("extraEnv", [{"name": "NOTE", "value": "some"}])
#: Shared facts that a section's values need.
SETTING: dict[str, dict[str, Any]] = {
    "gateway": {"global": {"publicUrl": "https://localhost:30443"}},
    # parts that use other stores do not miss the names that change here
    "minio": {"global": {"s3": {"endpoint": "https://s3.example.org"}}},
    "mariadb": {"global": {"database": {"host": "db.example.org"}}},
}


class Loader(helm.LOADER):
    """Reads plain scalars as Go's YAML does, which knows floats without a dot."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("+-0123456789")
)
Loader.add_constructor(
    "tag:yaml.org,2002:float", lambda loader, node: float(loader.construct_scalar(node).replace("_", ""))
)


def merge(below: Any, above: Any) -> Any:
    """Values on top of values."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: merge(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}
    return copy.deepcopy(below if above is None else above)


def texts(node: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Paths of the text in values; of lists, the first entry stands for all."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from texts(child, (*path, key))
    elif isinstance(node, list):
        for child in node[:1]:
            yield from texts(child, (*path, 0))
    elif isinstance(node, str):
        yield path


def put(values: Any, path: tuple[Step, ...], text: str) -> Any:
    """Values with another text in one place."""
    values = copy.deepcopy(values)
    node = values
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = text
    return values


@functools.cache
def schema(chart: Path) -> jsonschema.Draft7Validator:
    """A chart's schema."""
    return jsonschema.Draft7Validator(json.loads((chart / "values.schema.json").read_text()))


@functools.cache
def section(name: str) -> tuple[Path, dict[str, Any]]:
    """The chart of a section of the umbrella's values, and its own values without the shared facts."""
    chart = CHART if name == "global" else CHART / "charts" / name
    values = yaml.safe_load((chart / "values.yaml").read_text())
    values = values["global"] if name == "global" else {key: value for key, value in values.items() if key != "global"}
    return chart, merge(values, MORE.get(name))


def accepted(name: str, word: str) -> list[tuple[Step, ...]]:
    """Places of a section that take both plain text and a word."""
    both = [path for path in taking(name, PLAIN) if path in taking(name, word)]
    return [path for path in both if path != HOST or "." not in word]


@functools.cache
def taking(name: str, text: str) -> list[tuple[Step, ...]]:
    """Places of a section that take a text."""
    chart, values = section(name)
    around = yaml.safe_load((chart / "values.yaml").read_text())

    def takes(path: tuple[Step, ...]) -> bool:
        tried = put(values, path, text)
        return schema(chart).is_valid({**around, "global": tried} if name == "global" else {**around, **tried})

    return [path for path in texts(values) if path != OTHER and takes(path)]


def settled(node: Any, key: str = "") -> Any:
    """A rendered object with its embedded documents parsed, without what is made up or computed from the rest."""
    if isinstance(node, dict):
        if node.get("kind") == "Secret":
            node = {name: child for name, child in node.items() if name != "data"}
        return {settled(name): settled(child, name) for name, child in node.items() if name != "caBundle"}
    if isinstance(node, list):
        return [settled(child) for child in node]
    if isinstance(node, str):
        if "\n" in node and key.endswith((".yaml", ".json", "config", "providers", "podSpecPatch")):
            return settled(yaml.load(node, Loader))
        # programs do not hang on values, and take long to compare
        return key if key.endswith(".py") else re.sub(r"\b[0-9a-f]{8,64}\b", "#", node)
    return node


def objects(text: str) -> list[Any]:
    """The settled objects of a render."""
    return [settled(document) for document in yaml.load_all(text, Loader) if document]


def said(node: Any, replacements: dict[str, str]) -> Any:
    """Objects with other words in their text."""
    if isinstance(node, dict):
        return {said(key, replacements): said(child, replacements) for key, child in node.items()}
    if isinstance(node, list):
        return [said(child, replacements) for child in node]
    if isinstance(node, str):
        for old, new in replacements.items():
            node = node.replace(old, new)
    return node


def differences(wanted: Any, there: Any, path: str) -> Iterator[str]:
    """Where two objects are not the same, with both sides."""
    if isinstance(wanted, dict) and isinstance(there, dict) and wanted.keys() == there.keys():
        for key in wanted:
            yield from differences(wanted[key], there[key], f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        for number, (left, right) in enumerate(zip(wanted, there, strict=True)):
            yield from differences(left, right, f"{path}[{number}]")
    elif wanted != there or type(wanted) is not type(there):
        yield f"{path}: {wanted!r} became {there!r}"


def changes(plain: list[Any], ambiguous: list[Any], replacements: dict[str, str]) -> list[str]:
    """What became of text on its way into the objects."""
    assert len(plain) == len(ambiguous)
    found = []
    for before, after in zip(plain, ambiguous, strict=True):
        where = f"{before['kind']}/{before['metadata']['name']}"
        found += differences(said(before, replacements), after, where)
    return found


@pytest.mark.parametrize("name", ["global", *EVERY])
def test_a_part_with_text_among_its_values_is_tried(name: str) -> None:
    assert all(accepted(name, word) for word in WORDS)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("names", [["global"], EVERY], ids=["shared facts", "parts"])
def test_values_arrive_as_they_were_given(names: list[str], word: str) -> None:
    """All parts at once: what a value of one part changes is told by the object's name."""
    places = {name: accepted(name, word) for name in names}
    rendered = []
    for text in (PLAIN, word):
        together: dict[str, Any] = {}
        for name in names:
            _, values = section(name)
            for path in places[name]:
                values = put(values, path, text)
            together = merge(merge(SETTING.get(name, {}), together), {name: values})
        rendered.append(objects(helm.render_text(values=together)))
    seen = json.dumps(rendered[0]).count(PLAIN)
    assert seen >= sum(map(len, places.values())) // 2, "the text is hardly seen in the objects"
    assert changes(*rendered, {PLAIN: word}) == []


@pytest.mark.parametrize(
    ("release", "namespace"),
    [("true", "123"), ("null", "1e3"), ("on", "0x10"), ("y", "2026-11-25"), ("no", "true"), ("off", "null")],
)
def test_names_of_release_and_namespace_stay_text(release: str, namespace: str) -> None:
    values = ["--values", helm.VALUES / "laptop.yaml"]
    plain, ambiguous = (
        objects(helm.helm("template", name, CHART, "--namespace", where, *values))
        for name, where in (("release-name", "its-namespace"), (release, namespace))
    )
    assert changes(plain, ambiguous, {"release-name": release, "its-namespace": namespace}) == []


def test_large_numbers_are_not_written_as_floats() -> None:
    """Helm reads every number of values as a float: 1073741824 would become 1.073741824e+09."""
    values = {
        "mariadb": {"config": {"innodb_log_file_size": 1073741824}},
        "mlflow": {"maxBodyBytes": 1073741824},
        "kserve": {"runtimes": {"mlflow": {"maxBodyBytes": 1073741824}}},
        "pipelines": {"runs": {"user": 1000660000, "ttlSecondsAfterFinished": 31536000, "parallelism": 1000000}},
    }
    text = helm.render_text(values=values)
    assert not re.search(r"\b[0-9.]+e\+[0-9]{2}\b", text)
    assert text.count("1073741824") == 3
