"""KServe without the package: an InferenceService as kubectl applies it, its update, and wrong ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from support import serving
from support.helm import NAMESPACE, RELEASE
from support.k8s import Cluster
from support.platform import Gateway, Model, Traffic


@pytest.fixture
def name(cluster: Cluster, unique: str) -> Iterator[str]:
    """A name for an InferenceService that goes away with the test."""
    yield unique
    serving.remove(cluster, unique)


def deploy(cluster: Cluster, name: str, storage_uri: str, runtime: str, **env: str) -> None:
    """Apply an InferenceService and its route, and wait until it is Ready."""
    cluster.apply(serving.inference_service(name, storage_uri, runtime, **env), serving.route(name))
    serving.wait_ready(cluster, name)


def answers(cluster: Cluster, model: Model, path: str, body: dict[str, Any]) -> Any:
    """The model's answer, once the gateway knows its route and its pod."""
    cluster.wait(f"a route to {model.name}", lambda: model.post(path, json=body).status_code not in (404, 503), 30)
    answer = model.post(path, json=body)
    assert answer.ok, answer.text
    return answer.json()


def test_runtime_of_the_release_speaks_both_protocols(
    cluster: Cluster, gateway: Gateway, name: str, storage_uri: str, bottle: dict[str, float]
) -> None:
    deploy(cluster, name, storage_uri, "mlflow")
    model = gateway.model(name, NAMESPACE)
    first = answers(cluster, model, f"/v1/models/{name}:predict", {"instances": [bottle]})
    columns = [{"name": k, "shape": [1], "datatype": "FP64", "data": [v]} for k, v in bottle.items()]
    second = answers(cluster, model, f"/v2/models/{name}/infer", {"inputs": columns})
    assert first["predictions"] == second["outputs"][0]["data"] == [0]
    assert {entry["name"] for entry in model.get(f"/v2/models/{name}").json()["inputs"]} == set(bottle)


def test_a_model_is_its_folder_and_not_its_neighbours(
    cluster: Cluster, name: str, storage_uri: str, s3: Callable[[str], Any]
) -> None:
    """`storageUri` without a slash at its end, and a second model whose name begins with the first one's."""
    store = s3("mlflow")
    bucket, _, folder = storage_uri.removeprefix("s3://").partition("/")
    for each in store.list_objects_v2(Bucket=bucket, Prefix=folder)["Contents"]:
        file = each["Key"].removeprefix(folder).lstrip("/")
        source = {"Bucket": bucket, "Key": each["Key"]}
        store.copy_object(Bucket=bucket, Key=f"{name}/model/{file}", CopySource=source)
    for neighbour in (f"{name}/model2/MLmodel", f"{name}/model-old/MLmodel"):
        store.put_object(Bucket=bucket, Key=neighbour, Body=b"not a model")
    deploy(cluster, name, f"s3://{bucket}/{name}/model", "mlflow")
    (pod,) = cluster.pods(f"serving.kserve.io/inferenceservice={name}")
    said = cluster.core.read_namespaced_pod_log(pod["metadata"]["name"], NAMESPACE, container="storage-initializer")
    there = store.list_objects_v2(Bucket=bucket, Prefix=f"{name}/model/")["KeyCount"]
    assert f"{there} files" in said
    for each in store.list_objects_v2(Bucket=bucket, Prefix=f"{name}/")["Contents"]:
        store.delete_object(Bucket=bucket, Key=each["Key"])


def test_a_model_is_read_with_the_key_that_storage_names(
    cluster: Cluster, gateway: Gateway, name: str, storage_uri: str, bottle: dict[str, float]
) -> None:
    """`storage` in place of `storageUri`: place and key are in Secret storage-config."""
    if cluster.get("v1", "Secret", "storage-config"):
        pytest.skip("the namespace has a Secret storage-config of somebody else")
    keys = cluster.secret(f"{RELEASE}-s3-models")
    bucket, _, path = storage_uri.removeprefix("s3://").partition("/")
    entry = {
        "type": "s3",
        "bucket": bucket,
        "endpoint_url": f"http://{RELEASE}-minio.{NAMESPACE}.svc:9000",
        "region": "us-east-1",
        "access_key_id": keys["AWS_ACCESS_KEY_ID"],
        "secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
    }
    service = serving.inference_service(name, storage_uri, "mlflow")
    del service["spec"]["predictor"]["model"]["storageUri"]
    service["spec"]["predictor"]["model"]["storage"] = {"key": name, "path": path}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage-config", "namespace": NAMESPACE}}
    try:
        cluster.apply({**secret, "stringData": {name: json.dumps(entry)}}, service, serving.route(name))
        serving.wait_ready(cluster, name)
        answers(cluster, gateway.model(name, NAMESPACE), f"/v1/models/{name}:predict", {"instances": [bottle]})
        (pod,) = cluster.pods(f"serving.kserve.io/inferenceservice={name}")
        (download,) = [each for each in pod["spec"]["initContainers"] if each["name"] == "storage-initializer"]
        assert download["args"][0] == f"s3://{bucket}/{path}"
        assert download["securityContext"]["readOnlyRootFilesystem"]
    finally:
        cluster.delete("v1", "Secret", "storage-config")


def test_extra_packages_are_installed_at_the_start(
    cluster: Cluster, gateway: Gateway, name: str, storage_uri: str, bottle: dict[str, float]
) -> None:
    deploy(cluster, name, storage_uri, "mlflow", MODEL_SERVER_PACKAGES="cowsay==6.1")
    answers(cluster, gateway.model(name, NAMESPACE), f"/v1/models/{name}:predict", {"instances": [bottle]})
    (pod,) = cluster.pods(f"serving.kserve.io/inferenceservice={name}")
    said = cluster.core.read_namespaced_pod_log(pod["metadata"]["name"], NAMESPACE, container="kserve-container")
    assert "installing cowsay==6.1" in said


def test_a_package_that_does_not_exist_is_told_with_the_exit_code(
    cluster: Cluster, name: str, storage_uri: str
) -> None:
    service = serving.inference_service(name, storage_uri, "mlflow", MODEL_SERVER_PACKAGES="mlflow==0.0.0")
    cluster.apply(service)

    def ended() -> Any:
        for pod in cluster.pods(f"serving.kserve.io/inferenceservice={name}"):
            for status in pod["status"].get("containerStatuses", []):
                for state in (status["state"], status.get("lastState", {})):
                    if "terminated" in state:
                        return state["terminated"]
        return None

    end = cluster.wait("the model server to end", ended, 90)
    assert end["exitCode"] == 4
    assert "cannot install mlflow==0.0.0" in end["message"]


def test_rolling_update_drops_no_request(
    cluster: Cluster, gateway: Gateway, name: str, storage_uri: str, bottle: dict[str, float]
) -> None:
    deploy(cluster, name, storage_uri, "mlflow")
    model = gateway.model(name, NAMESPACE)
    body = {"instances": [bottle]}
    answers(cluster, model, f"/v1/models/{name}:predict", body)
    with Traffic(f"{model.base}/v1/models/{name}:predict", body, pause=0.02) as traffic:
        before = {pod["metadata"]["name"] for pod in cluster.pods(f"serving.kserve.io/inferenceservice={name}")}
        cluster.apply(serving.inference_service(name, storage_uri, "mlflow", UPDATED="yes"))
        cluster.wait(
            "the old pod to be gone",
            lambda: before.isdisjoint(
                p["metadata"]["name"] for p in cluster.pods(f"serving.kserve.io/inferenceservice={name}")
            ),
            180,
        )
        serving.wait_ready(cluster, name)
        time.sleep(15)  # the old pod goes on for a while
    assert traffic.failures == []
    assert traffic.total > 100


def test_a_wrong_address_is_told_in_the_status(cluster: Cluster, name: str) -> None:
    cluster.apply(serving.inference_service(name, "s3://mlflow/no/such/model", "mlflow"))

    def failure() -> dict[str, Any]:
        return serving.status(cluster, name).get("modelStatus", {}).get("lastFailureInfo", {})

    told = cluster.wait("a failure in the status", failure, 120)
    assert told["reason"] == "ModelLoadFailed"
    assert "no/such/model" in told["message"]
    assert not serving.is_ready(cluster, name)


def test_an_impossible_service_is_refused_with_a_reason(cluster: Cluster, storage_uri: str) -> None:
    with pytest.raises(ApiException, match="denied the request"):
        cluster.apply(serving.inference_service("1-starts-with-a-digit", storage_uri, "mlflow"))


def test_an_unknown_runtime_is_told_in_an_event(cluster: Cluster, name: str, storage_uri: str) -> None:
    cluster.apply(serving.inference_service(name, storage_uri, "no-such-runtime"))

    def told() -> bool:
        return "no-such-runtime" in str(cluster.events("InferenceService", name))

    cluster.wait("an event that names the runtime", told, 60)


def test_model_of_the_pipeline_scales_by_load(cluster: Cluster, wine: Model) -> None:
    """Its HPA gets numbers from the metrics API."""

    def active() -> bool:
        scalers = cluster.list("autoscaling/v2", "HorizontalPodAutoscaler")
        conditions = [
            c
            for s in scalers
            if s["metadata"]["name"] == f"{wine.name}-predictor"
            for c in s["status"].get("conditions", [])
        ]
        return any(c["type"] == "ScalingActive" and c["status"] == "True" for c in conditions)

    cluster.wait("the HPA of the model to be active", active, 120)


def test_model_pod_keeps_to_restricted(cluster: Cluster, wine: Model) -> None:
    for pod in cluster.pods(f"serving.kserve.io/inferenceservice={wine.name}"):
        assert pod["spec"]["serviceAccountName"] == "iml4e-models"
        assert pod["spec"].get("automountServiceAccountToken") is False
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in pod["spec"]["containers"])
