"""Every profile, and every pile of them, renders into objects that Kubernetes and the CRDs of the release accept."""

from __future__ import annotations

import base64
import copy
import functools
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils as kubernetes_validate_utils

from support import helm
from support.helm import CHART, render
from support.objects import Object, containers, custom_resource_schemas, find, kind_and_name, of_kind, pod_template
from support.parts import REPLICAS

# The versions that the chart promises. From 1.36 on, the chart renders a kind that older ones lack (templates/runner)
OLDER, NEWER = ("1.30", "1.33", "1.34", "1.35"), ("1.36", "1.37")

# a megabyte of definitions, which the library would read anew for each object
kubernetes_validate_utils.schema_contents = functools.cache(kubernetes_validate_utils.schema_contents)

OUR_SCHEMAS = custom_resource_schemas(helm.custom_resource_definitions())


def for_version(profile: str, version: str, values: Object | None = None) -> Iterator[Object]:
    """The objects that a cluster of a version gets."""
    text = helm.render_text(profile, values, options=("--kube-version", version))
    return (thing for document in text.split("\n---\n") for thing in parsed(document))


@functools.cache
def parsed(document: str) -> tuple[Object, ...]:
    """One document, as piles of profiles share most of theirs."""
    return tuple(thing for thing in yaml.load_all(document, Loader=helm.LOADER) if thing)


@functools.cache
def complaints(text: str, version: str) -> list[str]:
    """What a version of Kubernetes has against an object."""
    thing = json.loads(text)
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{kind_and_name(thing)}: {'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        if (thing["apiVersion"], thing["kind"]) not in OUR_SCHEMAS:
            return [f"{kind_and_name(thing)}: nobody knows {thing['apiVersion']} {thing['kind']}"]
    return []


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


@pytest.mark.parametrize("pile", helm.combinations())
def test_objects_fit_the_schemas_of_kubernetes(pile: str) -> None:
    found = {
        (version, complaint)
        for versions in (OLDER, NEWER)
        for thing in for_version(pile, versions[0])
        for version in versions
        for complaint in complaints(json.dumps(thing, sort_keys=True), version)
    }
    assert found == set()


def test_older_versions_get_the_same_and_newer_ones_too() -> None:
    """So that the test above needs one render of each."""
    older, newer = (
        {helm.render_text("gpu-cluster", options=("--kube-version", version)) for version in versions}
        for versions in (OLDER, NEWER)
    )
    assert (len(older), len(newer)) == (1, 1)
    assert older != newer


@pytest.mark.parametrize("pile", helm.combinations())
def test_custom_resources_fit_their_definitions(pile: str) -> None:
    found = []
    for thing in for_version(pile, NEWER[-1]):
        if schema := OUR_SCHEMAS.get((thing["apiVersion"], thing["kind"])):
            errors = jsonschema.Draft202012Validator(strict(schema)).iter_errors(thing)
            found += [f"{kind_and_name(thing)}: {error.json_path}: {error.message[:200]}" for error in errors]
    assert found == []


def test_the_versions_are_those_that_the_chart_promises() -> None:
    promised = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert promised == f">={OLDER[0]}.0-0"
    assert kubernetes_validate.latest_version().startswith(f"{NEWER[-1]}.")
    text = (helm.REPO / "docs" / "install.md").read_text()
    assert f"manifests checked against the schemas of {OLDER[0]} and {OLDER[1]} to {NEWER[-1]}" in text


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


# --- what the larger profiles promise

CLOUDS = [name for name in helm.combinations() if name.startswith("cloud") and "quota" not in name]


def profile_values(name: str) -> dict[str, Any]:
    """A profile's own file."""
    return yaml.safe_load((helm.VALUES / f"{name}.yaml").read_text())


def leaves_of(node: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Values of a file by their paths."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {key: value for name, child in node.items() for key, value in leaves_of(child, (*path, name)).items()}


@pytest.mark.parametrize("profile", [name for name in helm.profiles() if name not in ("default", "quota")])
def test_every_line_of_a_profile_has_its_reason(profile: str) -> None:
    """A comment right above it, or above the key that it is in. The table of quota.yaml has one for all."""
    lines = (helm.VALUES / f"{profile}.yaml").read_text().splitlines()
    silent, reasons = [], [False] * 20
    for number, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        reasons[depth] = number > 0 and lines[number - 1].lstrip().startswith("#") and number > header(lines)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        is_map = line.rstrip().endswith(":") and not following.lstrip().startswith("- ")
        if not is_map and not line.lstrip().startswith("- ") and not any(reasons[: depth + 1]):
            silent.append(f"line {number + 1}: {line.strip()}")
    assert silent == []


def header(lines: list[str]) -> int:
    """Lines of the comment that a profile begins with: about the whole of it."""
    return next(number for number, line in enumerate(lines) if not line.startswith("#"))


@pytest.mark.parametrize("cloud", [name for name in helm.profiles() if name.startswith("cloud")])
def test_gpu_nodes_and_a_cloud_agree_in_either_order(cloud: str) -> None:
    ours, theirs = leaves_of(profile_values("gpu-cluster")), leaves_of(profile_values(cloud))
    assert {
        path: (ours[path], theirs[path]) for path in ours.keys() & theirs.keys() if ours[path] != theirs[path]
    } == {}


@pytest.mark.parametrize("pile", ["gpu-cluster", *CLOUDS])
def test_every_workload_that_can_has_two_replicas(pile: str) -> None:
    objects = tuple(for_version(pile, NEWER[-1]))
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each for each in of_kind(objects, "HorizontalPodAutoscaler")}
    for short in REPLICAS:
        name = f"{helm.RELEASE}-{short}"
        spec = (
            scaled[name]["spec"]["minReplicas"]
            if name in scaled
            else find(objects, "Deployment", name)["spec"]["replicas"]
        )
        assert spec == 2, name
        assert find(objects, "PodDisruptionBudget", name)
    assert set(scaled) == ({"iml4e-gateway", "iml4e-mlflow"} if pile in CLOUDS else set())


@pytest.mark.parametrize("pile", CLOUDS)
def test_a_cloud_has_its_stores_outside_and_checks_their_certificates(pile: str) -> None:
    objects = tuple(for_version(pile, NEWER[-1]))
    stores = {thing["metadata"]["name"] for thing in of_kind(objects, "StatefulSet")}
    assert stores & {"iml4e-minio", "iml4e-mariadb"} == (
        {"iml4e-minio"} if "azure" in pile or "google" in pile else set()
    )
    mlflow = pod_template(find(objects, "Deployment", "iml4e-mlflow"))["spec"]
    uris = [
        variable["value"]
        for container in [*mlflow["initContainers"], *mlflow["containers"]]
        for variable in container.get("env", [])
        if variable["name"] == "MLFLOW_BACKEND_STORE_URI"
    ]
    assert len(uris) == 2
    assert all("ssl_ca=/etc/ssl/iml4e/ca.crt" in uri for uri in uris)
    config = json.loads(find(objects, "ConfigMap", "iml4e-pipelines")["data"]["config.json"])
    assert config["DBConfig"]["MySQLConfig"]["ExtraParams"]["tls"] == "true"
    runner = find(objects, "ConfigMap", "iml4e-runner")["data"]
    assert (runner["CA_CONFIG_MAP"], runner["CA_KEY"]) == ("iml4e-ca", "cabundle.crt")
    assert (runner["MODEL_MIN_REPLICAS"], runner["MODEL_MAX_REPLICAS"]) == ("2", "6")


@pytest.mark.parametrize("pile", CLOUDS)
def test_nobody_reaches_a_cloud_s_gateway_without_a_proxy(pile: str) -> None:
    service = find(for_version(pile, NEWER[-1]), "Service", "iml4e-gateway")
    assert service["spec"]["type"] == "ClusterIP"
    insist = {"gateway": {"service": {"type": "LoadBalancer"}}}
    with pytest.raises(helm.HelmError, match="there is no authentication"):
        render(pile, insist)


def test_aws_needs_no_key() -> None:
    objects = tuple(for_version("cloud-aws", NEWER[-1]))
    assert not re.search(r"iml4e-s3-\w+", json.dumps(objects))
    roles = {
        thing["metadata"]["name"]: role.rpartition("/")[2].removeprefix("example-iml4e-")
        for thing in of_kind(objects, "ServiceAccount")
        if (role := (thing["metadata"].get("annotations") or {}).get("eks.amazonaws.com/role-arn"))
    }
    assert roles == {
        "iml4e-mlflow": "mlflow",
        "iml4e-models": "models",
        "iml4e-runner": "pipelines",
        "iml4e-pipelines": "pipelines",
        "iml4e-pipelines-ui": "pipelines",
    }
    assert find(objects, "ConfigMap", "iml4e-runner")["data"]["JOB_S3_SECRET"] == ""
    assert "AWS_ENDPOINT_URL" not in find(objects, "ConfigMap", "iml4e-runner")["data"]
    assert not [each for each in containers(objects) if "AWS_ENDPOINT_URL" in json.dumps(each.spec.get("env"))]
    load_balancer = {"gateway": {"service": {"type": "LoadBalancer"}, "allowAnonymous": True}}
    service = find(render("cloud-aws", load_balancer), "Service", "iml4e-gateway")
    assert service["spec"]["loadBalancerClass"] == "service.k8s.aws/nlb"
    assert service["metadata"]["annotations"]["service.beta.kubernetes.io/aws-load-balancer-scheme"] == "internal"


@pytest.mark.parametrize(
    ("profile", "storage_class"), [("cloud-azure", "managed-csi-premium"), ("cloud-google", "premium-rwo")]
)
def test_azure_and_google_keep_objects_in_the_release(profile: str, storage_class: str) -> None:
    objects = tuple(for_version(profile, NEWER[-1]))
    claim = find(objects, "StatefulSet", "iml4e-minio")["spec"]["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == (storage_class, "500Gi")
    assert find(objects, "ConfigMap", "iml4e-runner")["data"]["AWS_ENDPOINT_URL"] == "http://iml4e-minio.iml4e.svc:9000"


# --- sizes in the documentation


def size(quantity: Any) -> float:
    """A quantity of Kubernetes as a number."""
    number, suffix = re.fullmatch(r"([0-9.]+)(\D*)", str(quantity)).groups()
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[suffix]


def sizes(profile: str) -> str:
    """Cells of a profile in the table of values/README.md: pods of parts, what they request, and their volumes."""
    objects = tuple(for_version(profile, NEWER[-1], helm.AS_SHIPPED))
    least = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["minReplicas"]
        for each in of_kind(objects, "HorizontalPodAutoscaler")
    }
    pods, cpu, memory, disk = 0, 0.0, 0.0, 0.0
    for thing in of_kind(objects, "Deployment", "StatefulSet"):
        count = least.get(thing["metadata"]["name"]) or thing["spec"]["replicas"]
        requests = [container["resources"]["requests"] for container in pod_template(thing)["spec"]["containers"]]
        pods += count
        cpu += count * sum(size(each["cpu"]) for each in requests)
        memory += count * sum(size(each["memory"]) for each in requests)
        for claim in thing["spec"].get("volumeClaimTemplates", []):
            disk += size(claim["spec"]["resources"]["requests"]["storage"])
    return f"{pods} | {cpu:.1f} | {memory / 2**30:.1f} GiB | {disk / 2**30:.0f} GiB"


def test_the_documented_sizes_are_those_of_the_profiles() -> None:
    document = (helm.VALUES / "README.md").read_text()
    rows = {
        name: f"| `{name}.yaml` | {sizes(name)} |"
        for name in helm.profiles()
        if name not in ("default", "bare-machine", "quota")
    }
    assert [row for row in rows.values() if row not in document] == []
