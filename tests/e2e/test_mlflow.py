"""MLflow, through the gateway as a data scientist's laptop sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests

from support.k8s import Cluster
from support.platform import Gateway

SEARCH = "/mlflow/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture
def client(gateway: Gateway, unique: str) -> Iterator[mlflow.MlflowClient]:
    """A client, and an experiment of its own that goes away with the test."""
    experiment = gateway.mlflow.create_experiment(unique)
    yield gateway.mlflow
    gateway.mlflow.delete_experiment(experiment)


def test_a_run_is_kept_with_all_that_belongs_to_it(client: mlflow.MlflowClient, unique: str, tmp_path: Path) -> None:
    experiment = client.get_experiment_by_name(unique).experiment_id
    run = client.create_run(experiment).info.run_id
    client.log_param(run, "depth", 3)
    for step in range(3):
        client.log_metric(run, "loss", 1 / (step + 1), step=step)
    client.set_tag(run, "städte", "Zürich, 北京")
    client.set_terminated(run)
    kept = client.get_run(run)
    assert kept.data.params == {"depth": "3"}
    assert [point.value for point in client.get_metric_history(run, "loss")] == [1, 1 / 2, 1 / 3]
    assert kept.data.tags["städte"] == "Zürich, 北京"
    assert kept.info.status == "FINISHED"


def test_an_artifact_comes_back_as_it_went(client: mlflow.MlflowClient, unique: str, tmp_path: Path) -> None:
    run = client.create_run(client.get_experiment_by_name(unique).experiment_id).info.run_id
    content = bytes(range(256)) * 4096
    (tmp_path / "blob.bin").write_bytes(content)
    client.log_artifact(run, str(tmp_path / "blob.bin"), "some folder")
    assert [file.path for file in client.list_artifacts(run, "some folder")] == ["some folder/blob.bin"]
    back = client.download_artifacts(run, "some folder/blob.bin", str(tmp_path))
    assert Path(back).read_bytes() == content


def test_a_model_is_registered_and_found_by_alias_and_stage(
    client: mlflow.MlflowClient, unique: str, model_uri: str
) -> None:
    client.create_registered_model(unique)
    try:
        for _ in range(2):
            version = client.create_model_version(unique, model_uri, model_id=model_uri.rpartition("/")[2])
        client.set_registered_model_alias(unique, "champion", version.version)
        client.transition_model_version_stage(unique, version.version, "Production")
        champion = client.get_model_version_by_alias(unique, "champion")
        assert (int(champion.version), champion.current_stage, champion.status) == (2, "Production", "READY")
    finally:
        client.delete_registered_model(unique)


def test_a_webhook_with_a_secret_outlives_the_pod_that_made_it(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    # disabled, so nothing is ever sent
    made = gateway.mlflow.create_webhook(
        unique, "https://1.1.1.1/", ["registered_model.created"], secret="s3cret", status="DISABLED"
    )
    try:
        restarted = {"template": {"metadata": {"annotations": {"iml4e.org/restarted": unique}}}}
        cluster.apps.patch_namespaced_deployment("iml4e-mlflow", cluster.namespace, {"spec": restarted})

        def replaced() -> bool:
            pods = cluster.pods("app.kubernetes.io/name=mlflow")
            new = [pod["metadata"]["annotations"].get("iml4e.org/restarted") == unique for pod in pods]
            return all(new) and cluster.is_ready("Deployment", "iml4e-mlflow")

        cluster.wait("MLflow to be replaced", replaced, 240)
        assert unique in {each.name for each in gateway.mlflow.list_webhooks()}
    finally:
        gateway.mlflow.delete_webhook(made.webhook_id)
    assert unique not in {each.name for each in gateway.mlflow.list_webhooks()}


def test_page_asks_for_nothing_outside_its_path(gateway: Gateway) -> None:
    page = gateway.get("/mlflow/").text
    assert '<div id="root"' in page
    assert 'src="/static' not in page


def test_a_foreign_host_is_refused(gateway: Gateway) -> None:
    """Otherwise any web page could call MLflow through its visitor's browser."""
    answer = gateway.get(SEARCH, headers={"Host": "evil.example.com"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "host", ["iml4e-mlflow.iml4e.svc:5000", "iml4e-mlflow.iml4e.svc.cluster.local:5000", "iml4e-mlflow:5000"]
)
def test_names_inside_the_cluster_are_welcome(cluster: Cluster, host: str) -> None:
    with cluster.port_forward("service/iml4e-mlflow", 5000) as port:
        answer = requests.get(f"http://127.0.0.1:{port}{SEARCH}", headers={"Host": host}, timeout=15)
    assert answer.status_code == 200
