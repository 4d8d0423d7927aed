"""The release as a whole: everything Ready, Pod Security restricted, no restarts, within its budgets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from pytest_helm_charts.clusters import Cluster as KubeCluster
from pytest_helm_charts.k8s.deployment import wait_for_deployments_to_run
from pytest_helm_charts.k8s.stateful_set import wait_for_stateful_sets_to_run

from support import helm
from support.k8s import Cluster
from support.objects import COMPONENT
from support.parts import EVERY, WORKLOADS, Workload

PARTS = f"{COMPONENT} in ({','.join(EVERY)})"


def memory(quantity: str) -> int:
    """Bytes of a quantity of memory as the metrics API writes it."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]] if quantity[-2:] in units else int(quantity)


def test_all_workloads_run(kube_cluster: KubeCluster, values: dict[str, Any]) -> None:
    there = [workload for workload in WORKLOADS if values[workload.part]["enabled"]]
    deployments = [workload.name for workload in there if workload.kind == "Deployment"]
    stateful_sets = [workload.name for workload in there if workload.kind == "StatefulSet"]
    wait_for_deployments_to_run(kube_cluster.kube_client, deployments, helm.NAMESPACE, 60)
    wait_for_stateful_sets_to_run(kube_cluster.kube_client, stateful_sets, helm.NAMESPACE, 60)


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_workload_is_up_to_date(cluster: Cluster, workload: Workload) -> None:
    cluster.wait_ready(workload.kind, workload.name)


def test_set_up_jobs_are_done(cluster: Cluster) -> None:
    def unfinished() -> list[str]:
        jobs = cluster.list("batch/v1", "Job", "app.kubernetes.io/instance=iml4e,app.kubernetes.io/managed-by=Helm")
        return [job["metadata"]["name"] for job in jobs if not job["status"].get("succeeded")]

    cluster.wait("the release's Jobs to succeed", lambda: not unfinished(), 120)


def test_namespace_enforces_restricted_pods(cluster: Cluster) -> None:
    labels = cluster.get("v1", "Namespace", helm.NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "e2e-privileged"},
        "spec": {"containers": [{"name": "shell", "image": "x", "securityContext": {"privileged": True}}]},
    }
    with pytest.raises(ApiException, match="violates PodSecurity"):
        cluster.core.create_namespaced_pod(helm.NAMESPACE, pod)


def test_no_container_restarts_or_runs_out_of_memory(cluster: Cluster) -> None:
    recently = datetime.now(UTC) - timedelta(minutes=10)
    trouble = []
    for pod in cluster.pods(PARTS):
        for status in pod["status"].get("containerStatuses", []):
            if last := status.get("lastState", {}).get("terminated"):
                late = last.get("finishedAt") and datetime.fromisoformat(str(last["finishedAt"])) > recently
                if late or last.get("reason") == "OOMKilled":
                    trouble.append(f"{pod['metadata']['name']} {status['name']}: {last['reason']}")
    assert trouble == []


def test_release_secret_is_at_most_half_of_what_fits(cluster: Cluster) -> None:
    secrets = cluster.core.list_namespaced_secret(helm.NAMESPACE, label_selector="owner=helm,name=iml4e").items
    newest = max(secrets, key=lambda secret: int(secret.metadata.labels["version"]))
    assert len(newest.data["release"]) * 3 // 4 < 512 * 1024


def usage(cluster: Cluster) -> dict[str, int]:
    """Memory of the parts' pods, by pod; empty until the metrics API knows them all."""
    items = cluster.read(f"/apis/metrics.k8s.io/v1beta1/namespaces/{helm.NAMESPACE}/pods")["items"]
    known = {item["metadata"]["name"]: sum(memory(c["usage"]["memory"]) for c in item["containers"]) for item in items}
    running = [p["metadata"]["name"] for p in cluster.pods(PARTS) if p["status"]["phase"] == "Running"]
    return {name: known[name] for name in running} if set(running) <= set(known) else {}


def test_metrics_api_knows_every_pod(cluster: Cluster) -> None:
    assert all(cluster.wait("the metrics API to know every pod", lambda: usage(cluster), 120).values())


def test_parts_fit_into_a_laptop(cluster: Cluster, values: dict[str, Any]) -> None:
    """The budget of the laptop profile, with Kubeflow Pipelines and without."""
    budget = (1.5 if values["pipelines"]["enabled"] else 1.2) * 2**30

    def idle() -> bool:
        used = usage(cluster)
        return bool(used) and sum(used.values()) < budget

    # some take more for the minute after their start
    cluster.wait("the parts to use less memory than their budget", idle, 180, pause=10)


def test_every_secret_of_the_release_is_strong(cluster: Cluster) -> None:
    for name in (
        "iml4e-minio",
        "iml4e-mariadb",
        "iml4e-db-mlflow",
        "iml4e-s3-mlflow",
        "iml4e-s3-pipelines",
        "iml4e-s3-models",
    ):
        for key, value in cluster.secret(name).items():
            if "password" in key.lower() or key == "AWS_SECRET_ACCESS_KEY":
                assert len(value) >= 16, f"{name} {key}"
                assert value.isalnum(), f"{name} {key}"
