"""Every profile renders into objects that Kubernetes and the CRDs of the release accept."""

from __future__ import annotations

import base64
import copy
import functools
import gzip
import json
from collections import Counter
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils as kubernetes_validate_utils

from support import helm
from support.helm import CHART, render
from support.objects import custom_resource_schemas, kind_and_name, of_kind

# the oldest and the newest Kubernetes that the chart promises
KUBERNETES = ["1.30", kubernetes_validate.latest_version()]

# a megabyte of definitions, which the library would read anew for each object
kubernetes_validate_utils.schema_contents = functools.cache(kubernetes_validate_utils.schema_contents)

OUR_SCHEMAS = custom_resource_schemas(helm.custom_resource_definitions())


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema that refuses unknown fields as the API server's strict validation does."""
    schema = copy.deepcopy(schema)

    def close(node: dict[str, Any]) -> None:
        if "properties" in node:
            if not node.get("x-kubernetes-preserve-unknown-fields"):
                node.setdefault("additionalProperties", False)
            for child in node["properties"].values():
                close(child)
        for key in ("items", "additionalProperties"):
            if isinstance(node.get(key), dict):
                close(node[key])

    close(schema)
    schema.setdefault("properties", {}).update(apiVersion={}, kind={}, metadata={})
    return schema


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("profile", helm.profiles())
def test_objects_fit_the_schemas_of_kubernetes(profile: str, version: str) -> None:
    complaints = []
    for thing in render(profile):
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            complaints.append(f"{kind_and_name(thing)}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            if (thing["apiVersion"], thing["kind"]) not in OUR_SCHEMAS:
                complaints.append(f"{kind_and_name(thing)}: nobody knows {thing['apiVersion']} {thing['kind']}")
    assert not complaints


@pytest.mark.parametrize("profile", helm.profiles())
def test_custom_resources_fit_their_definitions(profile: str) -> None:
    complaints = []
    for thing in render(profile):
        if schema := OUR_SCHEMAS.get((thing["apiVersion"], thing["kind"])):
            errors = jsonschema.Draft202012Validator(strict(schema)).iter_errors(thing)
            complaints += [f"{kind_and_name(thing)}: {error.json_path}: {error.message[:200]}" for error in errors]
    assert not complaints


@pytest.mark.parametrize("profile", helm.profiles())
def test_lints(profile: str) -> None:
    helm.lint(profile)


@pytest.mark.parametrize("profile", helm.profiles())
def test_no_name_is_taken_twice(profile: str) -> None:
    taken = Counter((thing["metadata"].get("namespace"), kind_and_name(thing)) for thing in render(profile))
    assert [name for name, times in taken.items() if times > 1] == []


@pytest.mark.parametrize("chart", helm.subcharts(), ids=lambda path: path.name)
def test_subchart_lints_and_renders_alone(chart: helm.Path) -> None:
    helm.lint(chart=chart)
    assert render(chart=chart)


@pytest.mark.parametrize("chart", helm.subcharts(), ids=lambda path: path.name)
def test_subchart_is_a_dependency_with_its_own_switch(chart: helm.Path) -> None:
    dependencies = yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]
    entry = next((entry for entry in dependencies if entry["name"] == chart.name), None)
    assert entry == {"name": chart.name, "version": ">=0.0.0", "condition": f"{chart.name}.enabled"}


@pytest.mark.parametrize("profile", helm.profiles())
def test_release_fits_into_half_a_secret(profile: str) -> None:
    """Helm keeps a release, gzipped and in base64, in one Secret of at most 1 MiB."""
    of_chart = [path for path in CHART.rglob("*") if path.is_file() and "charts" not in path.relative_to(CHART).parts]
    release = {
        "manifest": helm.render_text(profile),
        "chart": {str(path): base64.b64encode(path.read_bytes()).decode() for path in of_chart},
    }
    assert len(base64.b64encode(gzip.compress(json.dumps(release).encode()))) < 512 * 1024


def test_no_definition_is_part_of_the_release() -> None:
    """They live in crds/ folders: uninstalling takes no model of the cluster along, and the release stays small."""
    assert of_kind(render("laptop"), "CustomResourceDefinition") == []
    assert OUR_SCHEMAS
