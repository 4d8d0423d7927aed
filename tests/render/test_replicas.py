"""Every workload has a value for its replicas, and then all that replicas need, or a reason to have one."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import pytest

from support.helm import CHART, RELEASE, REPO, render
from support.objects import Object, annotations, labels, of_kind, pod_template
from support.parts import ONE_REPLICA, REPLICAS

WORKLOADS = [
    thing for thing in render("default") if thing["kind"] in ("Deployment", "StatefulSet")
]  # every part is on by default


def short(thing: Object) -> str:
    """Name of a workload after that of its release."""
    return thing["metadata"]["name"].removeprefix(f"{RELEASE}-")


def nested(path: str, value: Any) -> dict[str, Any]:
    """Values with one leaf."""
    return reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)


def workload(name: str, replicas: int = 1) -> tuple[Object, tuple[Object, ...]]:
    """A workload with so many replicas, and all objects beside it."""
    values = nested(REPLICAS[name], replicas) if name in REPLICAS else {}
    objects = render("default", values)
    [found] = [each for each in of_kind(objects, "Deployment", "StatefulSet") if short(each) == name]
    return found, objects


def budgets(thing: Object, objects: tuple[Object, ...]) -> list[Object]:
    """The disruption budgets that pick the pods of a workload."""
    own = labels(pod_template(thing)).items()
    return [
        each
        for each in of_kind(objects, "PodDisruptionBudget")
        if each["spec"]["selector"]["matchLabels"].items() <= own
    ]


def test_every_workload_has_replicas_or_a_reason() -> None:
    assert sorted(map(short, WORKLOADS)) == sorted({**REPLICAS, **ONE_REPLICA})
    assert not REPLICAS.keys() & ONE_REPLICA.keys()


@pytest.mark.parametrize("name", REPLICAS)
def test_replicas_spread_and_do_not_go_all_at_once(name: str) -> None:
    thing, objects = workload(name, 2)
    assert thing["spec"]["replicas"] == 2
    selector = thing["spec"]["selector"]["matchLabels"]
    [spread] = pod_template(thing)["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"]["matchLabels"] == selector
    # while a revision replaces another, pods of both are there
    assert spread["matchLabelKeys"] == ["pod-template-hash"]
    [budget] = budgets(thing, objects)
    assert budget["spec"]["selector"]["matchLabels"] == selector
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", REPLICAS)
def test_replicas_spread_over_each_label_of_nodes_that_is_named(name: str) -> None:
    keys = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    [found] = [
        each
        for each in of_kind(render("default", {"global": {"topologyKeys": keys}}), "Deployment")
        if short(each) == name
    ]
    spread = pod_template(found)["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == keys
    # a zone that is lost, or full, must not hold back a replica
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}
    assert all(each["labelSelector"]["matchLabels"] == found["spec"]["selector"]["matchLabels"] for each in spread)


AUTOSCALED = ["gateway", "mlflow"]


@pytest.mark.parametrize("name", AUTOSCALED)
def test_an_autoscaler_owns_the_number_of_replicas(name: str) -> None:
    """An upgrade must not set the number back, nor conflict with its owner."""
    values = {name: {"replicas": 2, "autoscaling": {"enabled": True, "maxReplicas": 5, "averageCpu": "250m"}}}
    objects = render("default", values)
    [found] = [each for each in of_kind(objects, "Deployment") if short(each) == name]
    assert "replicas" not in found["spec"]
    [scaler] = of_kind(objects, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": found["metadata"]["name"],
    }
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 5)
    [metric] = scaler["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "250m"}}
    assert len(budgets(found, objects)) == 1


@pytest.mark.parametrize("name", AUTOSCALED)
def test_what_may_have_more_replicas_later_has_its_budget_at_once(name: str) -> None:
    objects = render("default", {name: {"autoscaling": {"enabled": True}}})
    [found] = [each for each in of_kind(objects, "Deployment") if short(each) == name]
    assert len(budgets(found, objects)) == 1


def test_nothing_scales_by_default() -> None:
    assert of_kind(render("default"), "HorizontalPodAutoscaler") == []


@pytest.mark.parametrize("name", [*REPLICAS, *ONE_REPLICA])
def test_a_single_replica_blocks_no_drain(name: str) -> None:
    thing, objects = workload(name)
    assert thing["spec"]["replicas"] == 1
    assert budgets(thing, objects) == []


@pytest.mark.parametrize("name", REPLICAS)
def test_more_replicas_replace_no_pod(name: str) -> None:
    assert pod_template(workload(name, 2)[0]) == pod_template(workload(name)[0])


@pytest.mark.parametrize("name", [*REPLICAS, "pipelines-metadata"])
def test_an_update_takes_no_pod_away_before_another_is_ready(name: str) -> None:
    strategy = workload(name)[0]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


@pytest.mark.parametrize("name", [*REPLICAS, "pipelines-metadata"])
def test_a_terminating_pod_answers_until_its_clients_know(name: str) -> None:
    """By preStop, or as the gateway by its own setting; and the kubelet waits longer than that."""
    if name == "pipelines-argo":
        pytest.skip("nobody calls the workflow controller")
    pod = pod_template(workload(name)[0])["spec"]
    if name == "gateway":
        [waits] = [
            int(found[1])
            for word in pod["containers"][0]["args"]
            if (found := re.fullmatch(r"--entrypoints.web.*requestacceptgracetimeout=(\d+)s", word))
        ]
    else:
        waits = min(each["lifecycle"]["preStop"]["sleep"]["seconds"] for each in pod["containers"])
    # the EndpointSlice, and then Traefik, which takes changes every two seconds
    assert waits >= 5
    assert pod.get("terminationGracePeriodSeconds", 30) >= waits + 10


def test_what_is_in_flight_has_time_to_end() -> None:
    """Uploads and downloads of minutes, at the gateway and at MLflow; Traefik waits twice, one after the other."""
    values = {"gateway": {"terminationGracePeriodSeconds": 90}, "mlflow": {"terminationGracePeriodSeconds": 70}}
    pods = {
        short(each): pod_template(each)["spec"]
        for each in of_kind(render("default", values), "Deployment")
        if short(each) in ("gateway", "mlflow")
    }
    assert pods["gateway"]["terminationGracePeriodSeconds"] == 90
    assert "--entrypoints.web.transport.lifecycle.gracetimeout=60s" in pods["gateway"]["containers"][0]["args"]
    assert pods["mlflow"]["terminationGracePeriodSeconds"] == 70
    assert "--grace-seconds=50" in pods["mlflow"]["containers"][0]["command"]


def test_a_terminating_gateway_says_that_it_serves() -> None:
    arguments = pod_template(workload("gateway")[0])["spec"]["containers"][0]["args"]
    assert "--ping.terminatingstatuscode=200" in arguments


def test_a_request_that_reached_nobody_goes_to_another_pod() -> None:
    """Inside of the error pages, which would otherwise see the first try."""
    for enabled, wanted in ((True, "path@file,errors@file,retry@file"), (False, "retry@file")):
        objects = render("default", {"gateway": {"errorPages": {"enabled": enabled}}})
        [gateway] = [each for each in of_kind(objects, "Deployment") if short(each) == "gateway"]
        pod = pod_template(gateway)["spec"]
        assert f"--entrypoints.web.http.middlewares={wanted}" in pod["containers"][0]["args"]
        [config] = [each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"] == f"{RELEASE}-gateway"]
        assert "attempts: 4" in config["data"]["middlewares.yaml"]
        assert ("errors:" in config["data"]["middlewares.yaml"]) is enabled
        assert "checksum/config" in annotations(gateway["spec"]["template"])


@pytest.mark.parametrize("name", ["gateway", "mlflow", "pipelines"])
def test_a_slow_pod_keeps_its_traffic(name: str) -> None:
    """Without spare CPU on a node, probes of every replica are late: were all taken out, nobody would answer."""
    probe = pod_template(workload(name)[0])["spec"]["containers"][0]["readinessProbe"]
    assert probe["failureThreshold"] >= 6
    assert probe["timeoutSeconds"] >= 5


# a value, and the workloads of which it may replace pods
CHANGES = {
    "gateway.logLevel": ("DEBUG", {"gateway"}),
    "mlflow.workers": (2, {"mlflow"}),
    "kserve.logLevel": ("debug", {"kserve"}),
    "kserve.models.replicas.max": (3, set()),
    "minio.resources.requests.cpu": ("60m", {"minio"}),
    "pipelines.runs.parallelism": (3, {"pipelines-argo"}),
    "prometheus.retention.time": ("60d", {"prometheus"}),
    "runner.resources.requests.cpu": ("60m", set()),
    "global.networkPolicy.enabled": (False, set()),
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_changed_value_replaces_only_the_pods_that_it_concerns(path: str) -> None:
    value, wanted = CHANGES[path]
    before = {short(each): pod_template(each) for each in WORKLOADS}
    after = of_kind(render("default", nested(path, value)), "Deployment", "StatefulSet")
    assert {short(each) for each in after if pod_template(each) != before[short(each)]} == wanted


def test_the_documentation_has_every_workload() -> None:
    text = (REPO / "docs" / "availability.md").read_text()
    section = text.partition("\n## Replicas\n")[2].partition("\n## ")[0]
    for name in [*REPLICAS.values(), *ONE_REPLICA]:
        assert f"`{name}`" in section, name
    for name, path in REPLICAS.items():
        assert path.split(".")[0] in {folder.name for folder in (CHART / "charts").iterdir()}, name
