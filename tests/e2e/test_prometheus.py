"""Prometheus scrapes every part and every model, and requests show up in the metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from support import serving
from support.helm import RELEASE
from support.k8s import Cluster
from support.parts import PARTS, Part
from support.platform import Gateway, Model


@pytest.mark.parametrize("part", [c for c in PARTS if c.metrics], ids=lambda part: part.name)
def test_part_is_scraped(cluster: Cluster, gateway: Gateway, part: Part) -> None:
    up = f'up{{job="{part.job}",component="{part.name}"}}'

    def values() -> list[float]:
        return [value for _, value in gateway.query(up)]

    assert cluster.wait(f"{up} to be 1", lambda: values() and all(value == 1 for value in values()), 90)


def test_model_is_scraped(cluster: Cluster, gateway: Gateway, wine: Model) -> None:
    up = f'up{{job="models",namespace="{wine.namespace}",inferenceservice="{wine.name}"}}'
    cluster.wait(f"{up} to be 1", lambda: any(value == 1 for _, value in gateway.query(up)), 90)


def test_no_target_is_down(cluster: Cluster, gateway: Gateway) -> None:
    def down() -> list[str]:
        return [f"{t['labels']} {t['lastError']}" for t in gateway.targets() if t["health"] != "up"]

    cluster.wait("all targets to be up", lambda: not down(), 90)


@pytest.mark.parametrize(
    "counter",
    [
        'model_server_requests_total{model="wine",protocol="v1",code="200"}',
        'model_server_request_duration_seconds_count{model="wine"}',
        'traefik_service_requests_total{code="200",service=~".*wine.*"}',
    ],
    ids=["the model's own", "the model's histogram", "the gateway's"],
)
def test_counter_moves_with_predictions(
    cluster: Cluster, gateway: Gateway, wine: Model, bottle: dict[str, float], counter: str
) -> None:
    def values() -> dict[str, float]:
        return {str(labels): value for labels, value in gateway.query(counter)}

    before = values()

    def growth() -> float:
        """A series of a pod that ended meanwhile vanishes: a sum would fall."""
        return sum(value - before.get(series, 0) for series, value in values().items())

    for _ in range(5):
        assert wine.predict([bottle]).ok
    cluster.wait(f"{counter} to grow by 5", lambda: growth() >= 5, 90, pause=3)


def rules_of(gateway: Gateway) -> list[dict[str, Any]]:
    """All rules, with their states."""
    groups = gateway.get("/prometheus/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_rules_are_loaded_and_healthy(gateway: Gateway) -> None:
    rules = rules_of(gateway)
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}
    assert [
        f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] not in ("ok", "unknown")
    ] == []


def test_a_first_burst_of_errors_is_counted(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    """The series of a new route's 503 is born with its first value; the rules count that value too."""
    service = {"name": unique, "namespace": cluster.namespace}
    route = serving.route(unique)
    route["spec"]["rules"][0]["backendRefs"] = [{"name": unique, "port": 80}]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {"selector": {"nobody": "there"}, "ports": [{"port": 80}]},
        },
        route,
    )
    try:
        path = f"/models/{cluster.namespace}/{unique}/v2/health/live"
        cluster.wait("the route to be known", lambda: gateway.get(path).status_code == 503, 30)
        for _ in range(11):
            assert gateway.get(path).status_code == 503
        ratio = f'route:error_ratio:rate5m{{route="{cluster.namespace}-{unique}"}}'
        cluster.wait(f"{ratio} to be 1", lambda: [v for _, v in gateway.query(ratio)] == [1], 90, pause=3)
        count = f'sum(increase(traefik_router_requests_total{{route="{cluster.namespace}-{unique}",code="503"}}[5m]))'
        assert gateway.query(count)[0][1] >= 11
    finally:
        cluster.delete(serving.GATEWAY, "HTTPRoute", unique)
        cluster.delete("v1", "Service", unique)


#: Recording rules without data, and when.
WITHOUT_DATA = {
    "backup:last_success:timestamp_seconds": "this release makes no backups",
    "backup:max_age:seconds": "this release makes no backups",
    "route:rests:bool": "no model is scaled to zero",
    "pod:cpu_limit:cores": "pods have no CPU limit",
    "model:latency_objective:seconds": "no model has a latency objective",
    "model:latency_objective_ratio:rate5m": "no model has a latency objective",
    "run_step:cpu_seconds:total": "no pipeline runs",
    "run_step:memory:bytes": "no pipeline runs",
    "runs:ended:increase1h": "no pipeline has run, or rules are younger than an hour",
}


@pytest.mark.timeout(700)
def test_recording_rules_have_data_after_load(
    cluster: Cluster, gateway: Gateway, wine: Model, bottle: dict[str, float]
) -> None:
    names = {rule["name"] for rule in rules_of(gateway) if rule["type"] == "recording"}

    def empty() -> set[str]:
        assert wine.predict([bottle]).ok
        gateway.mlflow.search_registered_models(max_results=1)
        return {name for name in names if not gateway.query(name)} - set(WITHOUT_DATA)

    # a route counts from five minutes after its first answer, the objective's window is computed every five minutes
    cluster.wait("every recording rule to have data", lambda: not empty(), 660, pause=10)


def test_every_alert_can_be_evaluated(gateway: Gateway) -> None:
    alerts = {rule["name"]: rule["query"] for rule in rules_of(gateway) if rule["type"] == "alerting"}
    assert len(alerts) > 30
    for query in alerts.values():
        gateway.query(query)  # raises where it cannot be


def test_the_watchdog_always_fires(cluster: Cluster, gateway: Gateway) -> None:
    watchdog = 'ALERTS{alertname="Watchdog",alertstate="firing"}'
    cluster.wait("the watchdog to fire", lambda: gateway.query(watchdog), 60)


def test_the_probe_reaches_every_part_and_the_model(
    cluster: Cluster, gateway: Gateway, values: dict[str, Any], wine: Model
) -> None:
    parts = ["gateway", "mlflow", "prometheus"] + ["pipelines"] * values["pipelines"]["enabled"]
    routes = {f"{cluster.namespace}-{RELEASE}-{part}" for part in parts} | {f"{wine.namespace}-{wine.name}"}

    def reached() -> set[str]:
        return {labels["route"] for labels, value in gateway.query('probe_success{route!=""} == 1') if value == 1}

    cluster.wait("the probe to reach every route", lambda: routes <= reached(), 90, pause=3)


def test_the_probe_is_no_user(cluster: Cluster, gateway: Gateway) -> None:
    """Nobody else asks Kubeflow Pipelines or MLflow's registry by HEAD; the probe's requests are counted apart."""
    route = f'route="{cluster.namespace}-{RELEASE}-mlflow"'
    probes = f'sum(traefik_router_requests_total{{{route},method="HEAD"}})'
    before = gateway.query(probes)
    cluster.wait("another probe", lambda: gateway.query(probes) > before, 60, pause=3)
    counted = f'sum(increase(traefik_router_requests_total{{{route},method="HEAD"}}[5m]))'
    assert gateway.query(counted)[0][1] > 0
    pipelines = 'traefik_router_requests_total{router=~".*-pipelines-probe-gw-.*",method!="HEAD"}'
    assert gateway.query(pipelines) == []


def test_every_model_pod_says_its_model_and_version(gateway: Gateway, wine: Model) -> None:
    info = gateway.query(f'pod:info{{namespace="{wine.namespace}",inferenceservice="{wine.name}"}}')
    assert info
    assert all(labels["model"] == wine.name and int(labels["version"]) > 0 for labels, _ in info)


def test_counters_are_there_before_their_first_event(gateway: Gateway, wine: Model) -> None:
    for series in (
        f'model_server_requests_total{{inferenceservice="{wine.name}",code="500"}}',
        'mlflow_http_request_total{method="POST",status="500"}',
        'mlflow_artifact_requests_total{direction="upload",status="500"}',
        'mlflow_artifact_bytes_total{direction="download"}',
    ):
        assert gateway.query(f"count({series})"), series


def test_artifact_traffic_is_counted(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    total = 'sum(mlflow_artifact_bytes_total{direction="upload"})'
    cluster.wait(f"{total}", lambda: gateway.query(total), 60)
    before = gateway.query(total)[0][1]
    experiment = gateway.mlflow.create_experiment(unique)
    run = gateway.mlflow.create_run(experiment)
    try:
        gateway.mlflow.log_text(run.info.run_id, "x" * 100_000, "text.txt")
        cluster.wait("the bytes to be counted", lambda: gateway.query(total)[0][1] >= before + 100_000, 60, pause=3)
    finally:
        gateway.mlflow.delete_experiment(experiment)


def pod(name: str, namespace: str, image: str, *command: str) -> dict[str, Any]:
    """A pod of the release."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    labels = {
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/part-of": "iml4e",
        "app.kubernetes.io/component": "trial",
    }
    container = {"name": "trial", "image": image, "command": list(command), "securityContext": context}
    container["resources"] = {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}}
    spec = {"automountServiceAccountToken": False, "containers": [container]}
    spec["securityContext"] = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    }


def alert(gateway: Gateway, name: str, **labels: str) -> Callable[[], list[str]]:
    """The states of an alert with these labels, `pending` or `firing`."""
    wanted = "".join(f',{key}="{value}"' for key, value in labels.items())
    return lambda: [found["alertstate"] for found, _ in gateway.query(f'ALERTS{{alertname="{name}"{wanted}}}')]


@pytest.mark.parametrize(
    ("phase", "image", "command"),
    [("Pending", "registry.invalid/none:1", ()), ("NotReady", "", ("sh", "-c", "sleep 2; exit 1"))],
    ids=["cannot start", "ends again and again"],
)
def test_a_pod_that_does_not_run_raises_an_alert(
    cluster: Cluster, gateway: Gateway, unique: str, phase: str, image: str, command: tuple[str, ...]
) -> None:
    """Its alert is pending until its ten minutes are over, which promtool's tests prove."""
    running = cluster.get("apps/v1", "StatefulSet", f"{RELEASE}-mariadb")["spec"]["template"]["spec"]["containers"][0]
    cluster.apply(pod(unique, cluster.namespace, image or running["image"], *command))
    try:
        pending = alert(gateway, "PodNotRunning", pod=unique, phase=phase)
        cluster.wait(f"PodNotRunning of phase {phase}", pending, 150, pause=3)
    finally:
        cluster.delete("v1", "Pod", unique)


@pytest.mark.timeout(420)
def test_a_burst_of_errors_raises_an_alert_in_its_time(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    """A route without a ready pod: pending at once, firing two minutes later."""
    route = serving.route(unique)
    route["spec"]["rules"][0]["backendRefs"] = [{"name": unique, "port": 80}]
    service = {"selector": {"nobody": "there"}, "ports": [{"port": 80}]}
    metadata = {"name": unique, "namespace": cluster.namespace}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service}, route)
    path = f"/models/{cluster.namespace}/{unique}/v2/health/live"
    firing = alert(gateway, "RouteFailing", route=f"{cluster.namespace}-{unique}")
    try:
        cluster.wait("the route to be known", lambda: gateway.get(path).status_code == 503, 30)
        start = time.monotonic()

        def states() -> list[str]:
            gateway.get(path)
            return firing()

        cluster.wait("RouteFailing to be pending", states, 90, pause=3)
        cluster.wait("RouteFailing to fire", lambda: "firing" in states(), 180, pause=3)
        assert time.monotonic() - start > 100, "it waits for two minutes"
    finally:
        cluster.delete(serving.GATEWAY, "HTTPRoute", unique)
        cluster.delete("v1", "Service", unique)


#: What DCGM exporter 4 serves on a node with one GPU that a pod uses: no machine of these tests has a GPU.
DCGM = """
import http.server
LABELS = 'gpu="0",UUID="GPU-1",modelName="NVIDIA H100",Hostname="node-1",container="main",namespace="elsewhere",pod="training-1"'
VALUES = {"DCGM_FI_DEV_GPU_UTIL": 80, "DCGM_FI_DEV_FB_USED": 1000, "DCGM_FI_DEV_SM_CLOCK": 1980}
TEXT = "".join("# TYPE %s gauge\\n%s{%s} %s\\n" % (name, name, LABELS, value) for name, value in VALUES.items())
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(TEXT.encode())
http.server.HTTPServer(("", 9400), Handler).serve_forever()
"""


def test_a_gpu_belongs_to_the_pod_that_uses_it(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    mlflow = cluster.get("apps/v1", "Deployment", f"{RELEASE}-mlflow")["spec"]["template"]["spec"]["containers"][0]
    exporter = pod(unique, cluster.namespace, mlflow["image"], "python", "-c", DCGM)
    exporter["metadata"]["labels"] = {"app": "nvidia-dcgm-exporter"}
    (container,) = exporter["spec"]["containers"]
    container["ports"] = [{"name": "metrics", "containerPort": 9400}]
    container["resources"]["limits"]["memory"] = "64Mi"
    cluster.apply(exporter)
    try:
        used = 'DCGM_FI_DEV_FB_USED{namespace="elsewhere",pod="training-1",container="main",job="gpus"}'
        found = cluster.wait("the GPU's series", lambda: gateway.query(used), 90)
        assert [value for _, value in found] == [1000]
        assert gateway.query("DCGM_FI_DEV_SM_CLOCK") == []
    finally:
        cluster.delete("v1", "Pod", unique)
