"""Rolling restarts lose no request, an upload of a minute included; with two replicas, a killed pod costs what it was working on."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from availability import endpoints
from availability.clients import KEPT, NEW, Load
from availability.measurement import OK
from support import helm, serving
from support.k8s import Cluster
from support.parts import REPLICAS
from support.platform import URL, Gateway, Model

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(600)]

NAME = "e2e-lossless"
# a slow answer is no lost one: the machine may be busy with something else
PATIENCE = 90.0
#: Rolling restarts of these show to clients of the gateway.
RESTARTED = ("gateway", "home", "mlflow", "pipelines", "pipelines-ui")


def deployments(cluster: Cluster, names: Iterable[str]) -> list[str]:
    """Those of some Deployments that the release has."""
    ours = [f"{helm.RELEASE}-{name}" for name in names]
    return [name for name in ours if cluster.get("apps/v1", "Deployment", name)]


def patch(cluster: Cluster, name: str, spec: dict[str, Any]) -> None:
    """Change a Deployment."""
    cluster.apps.patch_namespaced_deployment(name, cluster.namespace, {"spec": spec})


def restart(cluster: Cluster, name: str) -> None:
    """Replace all pods of a Deployment, as `kubectl rollout restart` does."""
    patch(cluster, name, {"template": {"metadata": {"annotations": {"iml4e.org/restarted": str(time.time())}}}})


def settled(cluster: Cluster, name: str) -> bool:
    """Whether a Deployment has its new pods, and the old ones have ended."""
    deployment = cluster.workload("Deployment", name)
    labels = deployment["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    return cluster.is_ready("Deployment", name) and len(cluster.pods(selector)) == deployment["spec"]["replicas"]


def wait_settled(cluster: Cluster, names: Sequence[str]) -> None:
    """Wait for the end of all rolling updates."""
    for name in names:
        cluster.wait(f"{name} to be replaced", lambda name=name: settled(cluster, name), 240)


@pytest.fixture(scope="module")
def model(cluster: Cluster, gateway: Gateway, storage_uri: str) -> Iterator[Model]:
    """A model of two replicas."""
    service = serving.inference_service(NAME, storage_uri, "mlflow")
    service["spec"]["predictor"] |= {"minReplicas": 2, "maxReplicas": 2, "terminationGracePeriodSeconds": 60}
    cluster.apply(service)
    serving.wait_ready(cluster, NAME)
    cluster.apply(serving.route(NAME))
    found = gateway.model(NAME, helm.NAMESPACE)
    cluster.wait("the route", lambda: found.get(f"/v2/models/{NAME}").ok, 60)
    yield found
    serving.remove(cluster, NAME)


@pytest.fixture(scope="module")
def asked(gateway: Gateway, model: Model, values: dict[str, Any]) -> Iterator[list[endpoints.Endpoint]]:
    """What clients ask meanwhile: the model by V1 and V2, the gateway, MLflow, Kubeflow Pipelines, the landing page."""
    mlflow = gateway.mlflow
    experiment = mlflow.create_experiment(f"{NAME}-{time.time():.0f}")
    run = mlflow.create_run(experiment).info.run_id
    with httpx.Client(base_url=URL, timeout=PATIENCE, trust_env=False) as session:
        found = endpoints.model(session, helm.NAMESPACE, NAME, 10.0, 2)
        found += endpoints.pages(session, helm.RELEASE, helm.NAMESPACE).endpoints
    found += [each for each in endpoints.mlflow("", run, experiment) if each.group != endpoints.ARTIFACTS]
    if values["pipelines"]["enabled"]:
        found += [each for each in endpoints.pipelines("", "") if each.name.endswith("read")]
    for each in found:
        each.patience = PATIENCE
    yield [each for each in found if "Grafana" not in each.name]
    mlflow.delete_experiment(experiment)


def lost(load: Load) -> dict[tuple[str, str], Counter[str]]:
    """Failures of each stream of requests; every stream must have asked often enough to notice something."""
    total = Counter((each.endpoint, each.connection) for each in load.requests)
    wanted = {(each.name, connection) for each in load.endpoints for connection in (NEW, KEPT)}
    assert {stream for stream in wanted if total[stream] >= 20} == wanted, total
    found: dict[tuple[str, str], Counter[str]] = {}
    for each in load.requests:
        if each.outcome != OK:
            found.setdefault((each.endpoint, each.connection), Counter())[each.outcome] += 1
    return found


class Upload(threading.Thread):
    """An artifact that takes half a minute on its way through gateway and MLflow."""

    def __init__(self, experiment: str, seconds: int = 30) -> None:
        super().__init__(daemon=True)
        self.path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{experiment}/{NAME}.bin"
        self.seconds, self.answer = seconds, "none"

    def run(self) -> None:
        """Send a little every second."""
        connection = http.client.HTTPConnection(urlsplit(URL).netloc, timeout=PATIENCE)

        def body() -> Iterator[bytes]:
            for _ in range(self.seconds):
                time.sleep(1)
                yield b"." * 1000

        try:
            headers = {"Content-Length": str(self.seconds * 1000)}
            connection.request("PUT", self.path, body=body(), headers=headers)
            self.answer = str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            self.answer = repr(error)


def test_rolling_restarts_lose_no_request(cluster: Cluster, asked: list[endpoints.Endpoint], gateway: Gateway) -> None:
    names = deployments(cluster, RESTARTED)
    upload = Upload(gateway.mlflow.search_experiments()[0].experiment_id)
    with Load(URL, asked) as load:
        time.sleep(3)
        upload.start()
        time.sleep(2)
        for name in names:
            restart(cluster, name)
        wait_settled(cluster, names)
        upload.join(PATIENCE)
        time.sleep(3)
    assert lost(load) == {}
    assert upload.answer == "200"


def test_a_changed_model_loses_no_request(
    cluster: Cluster, model: Model, asked: list[endpoints.Endpoint], storage_uri: str
) -> None:
    """Two replicas stay two: KServe once set the Deployment back to one until the autoscaler noticed (kserve#3768)."""
    service = serving.inference_service(NAME, storage_uri, "mlflow", E2E="changed")
    service["spec"]["predictor"] |= {"minReplicas": 2, "maxReplicas": 2, "terminationGracePeriodSeconds": 60}
    available: list[int] = []

    def changed() -> bool:
        status = cluster.workload("Deployment", f"{NAME}-predictor")["status"]
        available.append(status.get("availableReplicas", 0))
        return serving.is_ready(cluster, NAME) and settled(cluster, f"{NAME}-predictor")

    with Load(URL, [each for each in asked if each.group == endpoints.MODELS]) as load:
        time.sleep(3)
        cluster.apply(service)
        cluster.wait("the changed model", changed, 240, selector=f"serving.kserve.io/inferenceservice={NAME}")
        time.sleep(3)
    assert lost(load) == {}
    assert min(available) >= 2


@pytest.fixture
def doubled(cluster: Cluster) -> Iterator[list[str]]:
    """Every workload that can have two replicas has two."""
    names = deployments(cluster, REPLICAS)
    before = {name: cluster.workload("Deployment", name)["spec"]["replicas"] for name in names}
    try:
        for name in names:
            patch(cluster, name, {"replicas": 2})
        wait_settled(cluster, names)
        yield names
    finally:
        for name in names:
            patch(cluster, name, {"replicas": before[name]})
        wait_settled(cluster, names)


def test_a_killed_pod_of_two_costs_next_to_nothing(
    cluster: Cluster, doubled: list[str], asked: list[endpoints.Endpoint]
) -> None:
    killed = [*doubled, f"{NAME}-predictor"]
    with Load(URL, asked) as load:
        time.sleep(5)
        for name in killed:
            labels = cluster.workload("Deployment", name)["spec"]["selector"]["matchLabels"]
            first = cluster.pods(",".join(f"{key}={value}" for key, value in labels.items()))[0]
            cluster.core.delete_namespaced_pod(first["metadata"]["name"], cluster.namespace, grace_period_seconds=0)
            time.sleep(2)
        for name in killed:
            cluster.wait(f"{name} to have two pods again", lambda name=name: settled(cluster, name), 120)
    found = lost(load)
    # what the killed pods worked on, and connections to the killed gateway: two streams of each endpoint
    assert sum(sum(each.values()) for each in found.values()) <= max(len(asked) * 2, len(load.requests) // 100), found
