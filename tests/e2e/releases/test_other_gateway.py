"""A release without a gateway of its own, on the Gateway of somebody else in another namespace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from sklearn.datasets import load_wine

from support import helm, releases
from support.flows import labels
from support.k8s import Cluster, Object

pytestmark = pytest.mark.timeout(400)

#: Namespace of the Gateway and of its controller, and the release that is a guest there.
EDGE, NAME = "e2e-edge", "e2e-guest"
GATEWAY = {"name": "shared", "namespace": EDGE, "url": f"http://door.{EDGE}.svc"}
SMALL = {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}
VALUES = {
    "gateway": {"enabled": False},
    "minio": SMALL,
    "mariadb": SMALL,
    "mlflow": SMALL,
    "kserve": {"controller": {"enabled": False}},
    "pipelines": {"enabled": False},
    "prometheus": {"enabled": False},
    "grafana": {"enabled": False},
}
LABELS = {"app": "edge"}
SEARCH = "/mlflow/api/2.0/mlflow/experiments/search"
TRAIN = """
import mlflow
import sklearn
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

wines = load_wine(as_frame=True)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wines.data, wines.target)
mlflow.set_experiment("guest")
with mlflow.start_run() as run:
    mlflow.log_metric("accuracy", 1)
    mlflow.log_text("x" * 2**20, "large.txt")
    packages = [f"scikit-learn=={sklearn.__version__}"]
    mlflow.sklearn.log_model(model, name="model", pip_requirements=packages, registered_model_name="fraud")
print(len(mlflow.artifacts.load_text(run.info.artifact_uri + "/large.txt")))
"""
INSIDE = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=15).read().decode())
"""


def controller(image: str) -> list[Object]:
    """Somebody else's Traefik: plain manifests, its own GatewayClass, a Gateway that admits every namespace."""
    api = "gateway.networking.k8s.io"
    kinds = [
        "gatewayclasses",
        "gateways",
        "httproutes",
        "grpcroutes",
        "tlsroutes",
        "referencegrants",
        "backendtlspolicies",
    ]
    core = ["namespaces", "services", "secrets", "configmaps"]
    here = {"name": EDGE, "namespace": EDGE}
    container = {
        "name": "traefik",
        "image": image,
        "args": [
            "--providers.kubernetesgateway=true",
            "--providers.kubernetesgateway.labelselector=app=edge",
            "--entrypoints.web.address=:8000",
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "serviceAccountName": EDGE,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    rules = [
        {"apiGroups": [""], "resources": core, "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": [api], "resources": kinds, "verbs": ["list", "watch"]},
        {"apiGroups": [api], "resources": [f"{kind}/status" for kind in kinds], "verbs": ["update"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": EDGE}
    listener = {"name": "http", "protocol": "HTTP", "port": 8000, "allowedRoutes": {"namespaces": {"from": "All"}}}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": EDGE},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": EDGE},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **here}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": here,
            "spec": {
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "door", "namespace": EDGE},
            "spec": {"selector": LABELS, "ports": [{"name": "http", "port": 80, "targetPort": 8000}]},
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": EDGE, "labels": LABELS},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "Gateway",
            "metadata": {"name": GATEWAY["name"], "namespace": EDGE, "labels": LABELS},
            "spec": {"gatewayClassName": EDGE, "listeners": [listener]},
        },
    ]


@pytest.fixture(scope="module")
def address(cluster: Cluster, values: dict[str, Any]) -> Iterator[str]:
    """Address of the Gateway on this machine, by a forwarded port, with the release behind it."""
    taken = {key: values["global"][key] for key in ("imageRegistry", "runtime")} | {"gateway": GATEWAY}
    edge = Cluster(cluster.config, EDGE)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    try:
        for name in (EDGE, NAME):
            cluster.core.create_namespace({"metadata": {"name": name, "labels": labels}})
        edge.apply(*controller(find_image(cluster)))
        helm.helm(
            "install", NAME, helm.CHART, "--namespace", NAME, "--skip-crds", "--values", helm.VALUES / "laptop.yaml",
            "--set-json", f"global={json.dumps(taken)}",
            *(word for part in VALUES for word in ("--set-json", f"{part}={json.dumps(VALUES[part])}")),
            "--wait", "--timeout", "200s", timeout=250,
        )  # fmt: skip
        edge.wait_ready("Deployment", EDGE, 30)
        with edge.port_forward("service/door", 80) as port:
            yield f"http://127.0.0.1:{port}"
    finally:
        helm.helm("uninstall", NAME, "--namespace", NAME, "--ignore-not-found", timeout=120)
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            edge.delete("rbac.authorization.k8s.io/v1", kind, EDGE)
        edge.delete("gateway.networking.k8s.io/v1", "GatewayClass", EDGE)
        for name in (EDGE, NAME):
            edge.delete("v1", "Namespace", name)


def find_image(cluster: Cluster) -> str:
    """The Traefik that this cluster has."""
    (container,) = cluster.workload("Deployment", f"{helm.RELEASE}-gateway")["spec"]["template"]["spec"]["containers"]
    return container["image"]


def test_nothing_of_the_release_is_a_gateway(cluster: Cluster, address: str) -> None:
    for kind in ("Gateway", "HTTPRoute"):
        found = cluster.list("gateway.networking.k8s.io/v1", kind, namespace=NAME)
        assert [thing["metadata"]["name"] for thing in found] == [
            f"{NAME}-{part}" for part in ("home", "mlflow") if kind == "HTTPRoute"
        ]


def test_mlflows_page_opens_and_offers_no_signed_urls(cluster: Cluster, address: str) -> None:
    cluster.wait("the route to be known", lambda: requests.get(f"{address}/mlflow/", timeout=5).ok, 30)
    page = requests.get(f"{address}/mlflow/", timeout=15)
    assert page.headers["Content-Type"].startswith("text/html")
    assert requests.get(f"{address}/mlflow/api/3.0/mlflow/server-info", timeout=15).status_code == 501


def test_a_model_is_logged_served_and_asked_through_it(cluster: Cluster, address: str) -> None:
    assert releases.run(NAME, address, "python", "-W", "ignore", "-c", TRAIN).split()[-1] == str(2**20)
    served = json.loads(releases.run(NAME, address, "iml4e", "deploy", "fraud/1", "--json"))
    assert (served["namespace"], served["version"], served["ready"]) == (NAME, "1", True)
    body = {"instances": [load_wine().data[0].tolist()]}
    path = f"/models/{NAME}/fraud/v1/models/fraud:predict"
    cluster.wait("the route to be known", lambda: requests.post(address + path, json=body, timeout=10).ok, 30)
    assert requests.post(address + path, json=body, timeout=10).json()["predictions"] == [0]

    # as steps do: by the address that the release tells its pods
    there = Cluster(cluster.config, NAME)
    told = there.core.read_namespaced_config_map(f"{NAME}-runner", NAME).data["GATEWAY_URL"]
    answers = [
        releases.said_in_pod(there, "python", "-c", INSIDE, told + where, content, labels=labels("steps", NAME))
        for where, content in ((path, json.dumps(body)), (SEARCH, '{"max_results": 1}'))
    ]
    assert json.loads(answers[0])["predictions"] == [0]
    assert "mlflow-artifacts:/" in answers[1]


def test_a_gateway_that_shuts_the_namespace_out_is_named(cluster: Cluster, address: str) -> None:
    """Not a model that looks ready and answers 404."""
    edge = Cluster(cluster.config, EDGE)
    shut = controller("")[-1]
    shut["spec"]["listeners"][0]["allowedRoutes"]["namespaces"]["from"] = "Same"
    edge.apply(shut)

    def refused() -> bool:
        route = edge.get("gateway.networking.k8s.io/v1", "HTTPRoute", "fraud", NAME)
        return "NotAllowedByListeners" in str(route["status"])

    cluster.wait("the Gateway to refuse the route", refused, 30)
    listed = releases.run(NAME, address, "iml4e", "models")
    assert f"Gateway shared in namespace {EDGE} does not accept its route (NotAllowedByListeners)" in listed
