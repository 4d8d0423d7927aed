"""Clusters of other kinds: tainted nodes and other architectures, users that the platform assigns, quotas, IPv6."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.helm import CHART, REPO, HelmError, merged, profiles, render, render_text
from support.objects import (
    Object,
    containers,
    find,
    kind_and_name,
    of_kind,
    pod_template,
    serving_runtimes,
)
from support.parts import EVERY
from support.pod_security import violations
from support.pods import ON, pod_specs, stated, steps, users

ARM = {"nodeSelector": {"kubernetes.io/arch": "arm64"}, "tolerations": [{"key": "arm", "operator": "Exists"}]}
OWN = {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}]}
AFFINITY = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
#: Where a part's own values are, and whose pods have them: a part's, those of models, those of pipeline steps.
PLACES = {
    **{f"{part}.": part for part in EVERY},
    "secrets.": "secrets",
    "backup.": "backup",
    "kserve.runtimes.mlflow.": "models",
    "notebooks.server.": "users",
    "pipelines.runs.podSpec.": "runs",
}


def nested(path: str, value: Any) -> dict[str, Any]:
    """A value at a path with dots."""
    for key in reversed(path.strip(".").split(".")):
        value = {key: value}
    return value


def leaves(name: str, part: str) -> Iterator[str]:
    """Paths of all values of a part that are called so."""

    def walk(node: Any, path: str) -> Iterator[str]:
        for key, child in node.items() if isinstance(node, dict) else ():
            if key == name:
                yield f"{path}{key}"
            elif key != "global":
                yield from walk(child, f"{path}{key}.")

    folder = CHART / "charts" / part if part else CHART
    own = yaml.safe_load((folder / "values.yaml").read_text())
    yield from (f"{part}.{path}" if part else path for path in walk(own, ""))


def all_leaves(name: str) -> list[str]:
    """The same of all parts and of the umbrella."""
    return [path for part in ("", *EVERY) for path in leaves(name, part)]


# --- nodes


def test_the_table_of_places_is_complete() -> None:
    assert {path.removesuffix("nodeSelector") for path in all_leaves("nodeSelector")} == PLACES.keys() - {
        "pipelines.runs.podSpec."
    }
    assert {whose for whose, _ in pod_specs(render("laptop", ON)).values()} == {*PLACES.values(), "jobs"}


def test_nodes_of_all_reach_every_pod() -> None:
    specs = pod_specs(render("laptop", merged(ON, {"global": ARM})))
    wrong = [maker for maker, (_, spec) in specs.items() if {key: spec.get(key) for key in ARM} != ARM]
    assert wrong == []
    assert len(specs) > 15


@pytest.mark.parametrize("place", PLACES)
def test_nodes_of_a_part_replace_those_of_all_in_every_pod_of_it(place: str) -> None:
    own = {**OWN, "affinity": AFFINITY}
    specs = pod_specs(render("laptop", merged(ON, {"global": ARM}, nested(place, own))))
    for maker, (whose, spec) in specs.items():
        expected = own if whose == PLACES[place] else ARM
        assert {key: spec.get(key) for key in own} == {"affinity": None, **expected}, maker


def test_nothing_about_nodes_is_said_by_default() -> None:
    for maker, (_, spec) in pod_specs(render("laptop", ON)).items():
        assert not {"nodeSelector", "tolerations", "affinity"} & spec.keys(), maker


@pytest.mark.parametrize("path", all_leaves("annotations") + all_leaves("serviceAccountAnnotations"))
def test_annotations_arrive(path: str) -> None:
    text = render_text("laptop", merged(ON, nested(path, {"example.org/mark": "arrived"})))
    assert "example.org/mark: arrived" in text


# --- users

PLATFORM = {"global": {"securityContext": "platform"}}


@pytest.mark.parametrize("profile", profiles())
def test_users_are_the_platforms_when_it_assigns_them(profile: str) -> None:
    objects = render(profile, merged(ON, PLATFORM))
    assert re.findall(r"runAs(?:User|Group)|fsGroup\b", json.dumps(objects)) == []
    specs = {maker: spec for maker, (_, spec) in pod_specs(objects).items() if "containers" in spec}
    del specs["podSpecPatch"]
    assert [f"{maker}: {sentence}" for maker, spec in specs.items() for sentence in violations(spec)] == []


def test_every_pod_runs_as_no_root_whoever_chooses() -> None:
    for values in (ON, merged(ON, PLATFORM)):
        objects = render("laptop", values)
        for maker, (whose, spec) in pod_specs(objects).items():
            contexts = [spec] if whose != "models" else spec["containers"]
            assert all(each["securityContext"]["runAsNonRoot"] is True for each in contexts), maker
        for container in of_kind(objects, "ClusterStorageContainer"):
            context = container["spec"]["container"]["securityContext"]
            assert (context["runAsNonRoot"], context["capabilities"]) == (True, {"drop": ["ALL"]})


def test_the_chart_chooses_the_users_by_default() -> None:
    for maker, (whose, spec) in pod_specs(render("laptop", ON)).items():
        contexts = [spec] if whose != "models" else spec["containers"]
        assert all(each["securityContext"]["runAsUser"] > 0 for each in contexts), maker


def test_another_answer_is_refused_by_name() -> None:
    with pytest.raises(HelmError, match="securityContext"):
        render("laptop", {"global": {"securityContext": "openshift"}})


# --- quotas

#: Path of a value: what it does without, and why.
UNBOUNDED = {
    "pipelines.runs.resources": "a step that asks for more than a limit given here would have to state its own"
}


@pytest.mark.parametrize("path", all_leaves("resources"))
def test_requests_and_memory_limits_are_stated(path: str) -> None:
    part, _, rest = path.partition(".")
    folder, rest = (CHART / "charts" / part, rest) if part in EVERY else (CHART, path)
    node: Any = yaml.safe_load((folder / "values.yaml").read_text())
    for key in rest.split("."):
        node = node[key]
    assert {"cpu", "memory"} <= node["requests"].keys()
    assert path in UNBOUNDED or "memory" in node["limits"]


def test_a_quota_finds_all_four_on_every_container() -> None:
    found = stated(render("quota", ON))
    for name, resources in found.items():
        for kind in ("requests", "limits"):
            assert all(resources[kind].get(what) for what in ("cpu", "memory")), f"{name}: {kind}"
    assert len(found) > 25


def usage(*specs: dict[str, Any]) -> str:
    """What a quota counts for some pods, as the table of docs/install.md has it: init containers run before the others."""
    sizes = {"m": 1, "": 1000, "Mi": 1, "Gi": 1024}
    cells = []
    for kind, what, unit in (
        ("requests", "cpu", "m"), ("requests", "memory", "Mi"), ("limits", "cpu", "m"), ("limits", "memory", "Mi"),
    ):  # fmt: skip

        def size(container: dict[str, Any], kind: str = kind, what: str = what) -> int:
            number, suffix = re.fullmatch(r"(\d+)(\D*)", str(container["resources"][kind][what])).groups()
            return int(number) * sizes[suffix]

        together = [sum(map(size, spec["containers"])) for spec in specs]
        first = [max(map(size, spec.get("initContainers", [])), default=0) for spec in specs]
        cells.append(f"{sum(map(max, together, first))}{unit}")
    return " | ".join([*cells, str(len(specs))])


def test_the_documented_quota_is_what_the_pods_state() -> None:
    def specs(objects: tuple[Object, ...], *kinds: str) -> list[dict[str, Any]]:
        return [pod_template(thing)["spec"] for thing in of_kind(objects, *kinds)]

    on = merged(ON, {"notebooks": {"enabled": False}})
    without, objects = render("quota", merged(on, {"pipelines": {"enabled": False}})), render("quota", on)
    hub = [pod_template(find(render("quota", ON), "StatefulSet", "iml4e-notebooks"))["spec"]]
    servers = {name: [spec] for name, spec in users(render("quota+gpu-cluster", ON)).items()}
    replaced = [
        pod_template(thing)["spec"]
        for thing in of_kind(objects, "Deployment")
        if thing["spec"]["strategy"].get("type") != "Recreate"
    ]
    settings = stated(render("quota", ON))
    of_runs = steps(objects)
    rows = {
        "parts without Kubeflow Pipelines": usage(*specs(without, "Deployment", "StatefulSet")),
        "parts with Kubeflow Pipelines": usage(*specs(objects, "Deployment", "StatefulSet")),
        "in addition, while an upgrade replaces pods": usage(*replaced),
        "in addition, Jobs of the parts": usage(*specs(objects, "Job", "CronJob")),
        "each pod of a model, and one more while a version replaces another": usage(
            {**serving_runtimes(objects)[0]["spec"], "initContainers": [{"resources": settings["storageInitializer"]}]}
        ),
        "each pipeline in one pod (`scripts/demo`)": usage({"containers": [{"resources": settings["Job"]}]}),
        "each step on Kubeflow Pipelines": usage(of_runs["step"]),
        "notebooks: hub and proxy": usage(*hub),
        **{f"each user's server, profile `{name}`": usage(*spec) for name, spec in servers.items()},
        "each driver, which comes before the step": usage(of_runs["driver"]),
    }
    document = (REPO / "docs" / "install.md").read_text()
    assert [row for name, cells in rows.items() if (row := f"| {name} | {cells} |") not in document] == []


# --- IPv6

#: Where an IPv4 address stands in the render, and why it may.
IPV4 = {
    "127.0.0.1": "what no proxy is asked for, beside ::1",
    "169.254.169.254": "the metadata service of clouds, which policies exclude beside fd00:ec2::254",
}


@pytest.mark.parametrize("profile", profiles())
def test_no_address_of_one_ip_family_is_written_down(profile: str) -> None:
    values = merged(ON, {"pipelines": {"proxy": {"http": "http://proxy:3128"}}})
    # comments and programs of the chart are strings of the render, and names of versions look like addresses
    text = json.dumps(render(profile, values))
    found = set(re.findall(r"(?<![\d.v:-])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])", text))
    assert found - IPV4.keys() <= {"0.0.0.0"}
    listening = [place for place in places(render(profile, values), "0.0.0.0") if not place.endswith(".py")]
    # policies name all addresses of both families
    assert [place for place in listening if not place.startswith("NetworkPolicy/")] == []
    assert {"::/0", "fd00:ec2::254/128"} <= set(re.findall(r'"([0-9a-f:]*::[0-9a-f:]*/\d+)"', text))
    [no_proxy] = set(re.findall(r"[^\"]*127\.0\.0\.1[^\"]*", text))
    assert "::1" in no_proxy.split(",")


def places(objects: tuple[Object, ...], word: str) -> Iterator[str]:
    """Where a word stands: programs of ConfigMaps by the key of their file."""
    for thing in objects:
        for key, value in (thing.get("data") or {}).items() if thing["kind"] == "ConfigMap" else ():
            if word in value:
                yield f"{kind_and_name(thing)} {key}"
        if thing["kind"] != "ConfigMap" and word in json.dumps(thing):
            yield kind_and_name(thing)


def test_the_cluster_chooses_the_ip_family_of_services() -> None:
    for service in of_kind(render("laptop", ON), "Service"):
        assert not {"ipFamilyPolicy", "ipFamilies", "clusterIP"} & (service["spec"].keys()), kind_and_name(service)


def test_an_ipv6_address_of_the_database_is_bracketed_where_a_port_follows() -> None:
    values = merged(ON, {"mariadb": {"enabled": False}, "global": {"database": {"host": "fd00::10"}}})
    objects = render("laptop", values)
    uris = [
        variable["value"]
        for container in containers(objects)
        for variable in container.spec.get("env") or []
        if variable["name"] == "MLFLOW_BACKEND_STORE_URI"
    ]
    assert len(uris) == 3
    assert all("@[fd00::10]:3306/" in uri for uri in uris)
    config = json.loads(find(objects, "ConfigMap", "iml4e-pipelines")["data"]["config.json"])
    assert config["DBConfig"]["MySQLConfig"]["Host"] == "[fd00::10]"
    metadata = pod_template(find(objects, "Deployment", "iml4e-pipelines-metadata"))["spec"]["containers"][0]
    assert "--mysql_config_host=fd00::10" in metadata["args"]
    with pytest.raises(HelmError, match="host"):
        render("laptop", {"global": {"database": {"host": "[fd00::10]"}}})


# --- two releases in one cluster


def test_objects_of_the_whole_cluster_carry_the_name_of_the_release() -> None:
    """KServe is the cluster's; a second release leaves it to the first."""
    kinds = {thing["kind"] for thing in render("laptop", ON)}
    wide = {kind for kind in kinds if kind.startswith("Cluster") or kind.endswith(("Class", "WebhookConfiguration"))}
    assert len(wide) > 5
    second = render("laptop", merged(ON, {"kserve": {"controller": {"enabled": False}}}))
    names = [kind_and_name(thing) for thing in of_kind(second, *wide)]
    assert [name for name in names if not name.partition("/")[2].startswith("iml4e")] == []
