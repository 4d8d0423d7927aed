"""A Gateway and an MLflow that are there already take the place of the chart's own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from support.helm import render
from support.objects import Object, find, kind_and_name, of_kind, pod_template
from support.parts import WITH_UI

KIND = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
GATEWAY = {"name": "shared", "namespace": "infra", "url": "http://envoy-shared.envoy-system.svc.cluster.local:8080"}
#: Routes of parts, by their names after the release's
ROUTES = (*WITH_UI, "alertmanager", "pipelines-probe")
MLFLOW = "https://tracking.example.com/mlflow"


def elsewhere(gateway: dict[str, str] | None = None, **values: Any) -> tuple[Object, ...]:
    """The release on somebody else's Gateway."""
    return render("laptop", {"gateway": {"enabled": False}, "global": {"gateway": gateway or GATEWAY}, **values})


def test_every_route_belongs_to_it() -> None:
    routes = {route["metadata"]["name"]: route["spec"]["parentRefs"] for route in of_kind(elsewhere(), "HTTPRoute")}
    assert routes == {f"iml4e-{part}": [{**KIND, "name": "shared", "namespace": "infra"}] for part in ROUTES}


def test_own_routes_name_the_namespace_too() -> None:
    for route in of_kind(render("laptop"), "HTTPRoute"):
        if route["metadata"]["name"] != "iml4e-gateway":
            assert route["spec"]["parentRefs"] == [{**KIND, "name": "iml4e-gateway", "namespace": "iml4e"}]


def test_steps_and_models_are_told_of_it() -> None:
    data = find(elsewhere(), "ConfigMap", "iml4e-runner")["data"]
    assert {key: value for key, value in data.items() if key.startswith("GATEWAY_")} == {
        "GATEWAY_NAME": "shared",
        "GATEWAY_NAMESPACE": "infra",
        "GATEWAY_URL": GATEWAY["url"],
    }
    assert data["KF_PIPELINES_ENDPOINT"] == f"{GATEWAY['url']}/pipeline"


def test_its_names_are_templates() -> None:
    gateway = {
        "name": "{{ .Release.Name }}-edge",
        "namespace": "{{ .Release.Namespace }}-edge",
        "url": "http://{{ .Release.Name }}-edge.{{ .Release.Namespace }}-edge.svc",
    }
    data = find(elsewhere(gateway), "ConfigMap", "iml4e-runner")["data"]
    assert [data[f"GATEWAY_{key}"] for key in ("NAME", "NAMESPACE", "URL")] == [
        "iml4e-edge", "iml4e-edge", "http://iml4e-edge.iml4e-edge.svc",
    ]  # fmt: skip
    parents = [parent for route in of_kind(elsewhere(gateway), "HTTPRoute") for parent in route["spec"]["parentRefs"]]
    assert parents == [{**KIND, "name": "iml4e-edge", "namespace": "iml4e-edge"}] * len(ROUTES)


@pytest.mark.parametrize(
    "name",
    [
        "envoy-shared.envoy-system.svc.cluster.local:8080",
        "envoy-shared.envoy-system.svc:8080",
        "envoy-shared.envoy-system",
    ],
)
def test_mlflow_answers_under_its_name_in_the_cluster(name: str) -> None:
    template = pod_template(find(elsewhere(), "Deployment", "iml4e-mlflow"))
    (allowed,) = (
        variable["value"]
        for variable in template["spec"]["containers"][0]["env"]
        if variable["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"
    )
    assert name.partition(":")[0] in allowed.split(",")
    assert f"{name.partition(':')[0]}:*" in allowed.split(",")


@pytest.mark.parametrize(
    "policy", ["iml4e-prometheus", "iml4e-alertmanager", "iml4e-grafana", "iml4e-home", "iml4e-pipelines-ui"]
)
def test_its_pods_are_let_in(policy: str) -> None:
    """They are in the Gateway's namespace (Istio, Traefik), or in that of the Service that leads to them (Envoy Gateway)."""
    names = [
        each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for rule in find(elsewhere(), "NetworkPolicy", policy)["spec"]["ingress"]
        for each in rule["from"]
        if "namespaceSelector" in each
    ]
    assert names == ["infra", "envoy-system"]
    outside = elsewhere({**GATEWAY, "url": "https://ml.example.com"})

    def clients(objects: tuple[Object, ...]) -> str:
        return str(find(objects, "NetworkPolicy", policy)["spec"]["ingress"])

    assert "infra" in clients(outside)
    assert "namespaceSelector" not in clients(render("laptop")), "the chart's own is inside"
    assert "namespaceSelector" not in clients(elsewhere(**{part: {"route": {"enabled": False}} for part in WITH_UI}))


def test_nothing_asks_for_traefik_or_the_gateway_that_is_off() -> None:
    """Whoever serves the routes: only kinds and features of the Gateway API."""
    for thing in elsewhere():
        assert not re.search(r"iml4e-gateway|traefik\.io", str(thing)), kind_and_name(thing)
    kinds = {thing["kind"] for thing in elsewhere() if "gateway.networking.k8s.io" in thing["apiVersion"]}
    assert kinds == {"HTTPRoute"}
    filters = {
        each["type"]
        for route in of_kind(elsewhere(), "HTTPRoute")
        for rule in route["spec"]["rules"]
        for each in rule.get("filters", [])
    }
    assert filters == {"URLRewrite", "RequestRedirect"}


def test_a_release_without_any_gateway_promises_none() -> None:
    values = {"gateway": {"enabled": False}, **{part: {"route": {"enabled": False}} for part in WITH_UI}}
    data = find(render("laptop", values), "ConfigMap", "iml4e-runner")["data"]
    assert [key for key in data if key.startswith(("GATEWAY_", "KF_"))] == []


def test_another_mlflow_is_told_to_everybody() -> None:
    objects = render("laptop", {"mlflow": {"enabled": False}, "global": {"mlflow": {"url": MLFLOW}}})
    assert find(objects, "ConfigMap", "iml4e-runner")["data"]["MLFLOW_TRACKING_URI"] == MLFLOW
    job = pod_template(find(objects, "CronJob", "iml4e-pipelines-mlflow"))["spec"]["containers"][0]
    assert {"name": "MLFLOW_URL", "value": MLFLOW} in job["env"]
    assert f'"endpoint": "{MLFLOW}"' in str(find(objects, "ConfigMap", "iml4e-pipelines")["data"]).replace(
        '":"', '": "'
    )
    assert [kind_and_name(thing) for thing in objects if "iml4e-mlflow" in str(thing)] == []


def test_without_any_mlflow_nobody_is_told_of_one() -> None:
    values = {"mlflow": {"enabled": False}, "pipelines": {"mlflow": {"enabled": False}}}
    assert "MLFLOW_TRACKING_URI" not in find(render("laptop", values), "ConfigMap", "iml4e-runner")["data"]


def test_routers_are_named_after_the_gateway_that_serves_them() -> None:
    text = find(render("laptop"), "ConfigMap", "iml4e-prometheus")["data"]["prometheus.yaml"]
    pattern = re.search(r"regex: (httproute-.+)", text)
    assert pattern
    for router in (
        "httproute-iml4e-wine-gw-iml4e-iml4e-gateway-ep-web-0-0123456789@kubernetesgateway",
        "httproute-iml4e-wine-gw-iml4e-iml4e-gateway-ep-internal-0-0123456789@kubernetesgateway",
    ):
        found = re.fullmatch(pattern[1], router)
        assert found
        assert found[1] == "iml4e-wine"
    redirect = (
        "httproute-iml4e-iml4e-gateway-redirect-gw-iml4e-iml4e-gateway-redirect-ep-web-0-0123456789@kubernetesgateway"
    )
    assert not re.fullmatch(pattern[1], redirect), "a redirect is no answer of a part"
