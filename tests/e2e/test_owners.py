"""What another release owns, and names of every kind, as the API server sees them. Nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support import helm
from support.helm import CHART, NAMESPACE, RELEASE, HelmError
from support.k8s import Cluster
from support.lookups import NAMESPACED

ELSEWHERE = "owners"
#: A release beside another one.
BESIDE = ("kserve.controller.enabled=false", "gateway.service.type=ClusterIP")
#: Everything that is optional.
EVERYTHING = ("gateway.replicas=2", "mlflow.gc.enabled=true", "pipelines.retention.enabled=true")


@pytest.fixture(scope="module")
def elsewhere(cluster: Cluster) -> Iterator[str]:
    """Another namespace."""
    metadata = {"name": ELSEWHERE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.core.create_namespace({"metadata": metadata})
    yield ELSEWHERE
    cluster.core.delete_namespace(ELSEWHERE)


def install(name: str, *sets: str, namespace: str = ELSEWHERE) -> str:
    """What an installation would do; the cluster is asked, nothing is changed."""
    return helm.helm(
        "install", name, CHART, "--namespace", namespace, "--skip-crds", "--dry-run=server",
        *(f"--set={each}" for each in sets),
    )  # fmt: skip


def test_a_release_name_that_another_namespace_has_is_refused(elsewhere: str) -> None:
    with pytest.raises(HelmError) as refused:
        install(RELEASE, *BESIDE)
    assert refused.value.findings == [
        f"Release {RELEASE} in namespace {NAMESPACE} owns the cluster-wide objects of this name, ClusterRole "
        f"{RELEASE}-gateway for example: choose another release name."
    ]


def test_a_second_kserve_is_refused(elsewhere: str, values: dict[str, Any]) -> None:
    assert values["kserve"]["enabled"]
    with pytest.raises(HelmError) as refused:
        install("other", BESIDE[1])
    assert refused.value.findings == [
        f"Release {RELEASE} in namespace {NAMESPACE} runs KServe's controller, and there can be one in a cluster: set "
        "kserve.controller.enabled=false, and install with --skip-crds."
    ]


def test_kserve_of_somebody_else_is_refused(cluster: Cluster, elsewhere: str) -> None:
    name = "inferenceservice.serving.kserve.io"
    cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
        }
    )
    try:
        with pytest.raises(HelmError) as refused:
            install("other")
        assert [line for line in refused.value.findings if line.startswith("A KServe that is not of this chart runs")]
    finally:
        cluster.delete("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", name)


def test_a_second_kubeflow_pipelines_in_a_namespace_is_refused(cluster: Cluster, elsewhere: str) -> None:
    owner = {"meta.helm.sh/release-name": "first", "meta.helm.sh/release-namespace": ELSEWHERE}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ml-pipeline", "namespace": ELSEWHERE, "annotations": owner},
        "spec": {"ports": [{"port": 8888}]},
    }
    Cluster(cluster.config, ELSEWHERE).apply(service)
    try:
        with pytest.raises(HelmError) as refused:
            install("other", *BESIDE)
        assert refused.value.findings == [
            f"Release first in namespace {ELSEWHERE} has Kubeflow Pipelines, and there can be one in a namespace: set "
            "pipelines.enabled=false, or choose another namespace."
        ]
    finally:
        Cluster(cluster.config, ELSEWHERE).delete("v1", "Service", "ml-pipeline")


def test_models_of_two_releases_in_a_namespace_are_refused(cluster: Cluster, elsewhere: str) -> None:
    owner = {"meta.helm.sh/release-name": "first", "meta.helm.sh/release-namespace": ELSEWHERE}
    container = {"name": "kserve-container", "image": "iml4e.local/none:1"}
    runtime = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "mlflow", "namespace": ELSEWHERE, "annotations": owner},
        "spec": {"containers": [container]},
    }
    there = Cluster(cluster.config, ELSEWHERE)
    there.apply(runtime)
    try:
        with pytest.raises(HelmError) as refused:
            install("other", *BESIDE)
        assert refused.value.findings == [
            f"Release first in namespace {ELSEWHERE} serves models, and there can be one such release in a namespace: set "
            "kserve.enabled=false, or choose another namespace."
        ]
    finally:
        there.delete("serving.kserve.io/v1alpha1", "ServingRuntime", "mlflow")


def test_a_node_port_that_another_service_has_is_refused(elsewhere: str, values: dict[str, Any]) -> None:
    taken = values["gateway"]["service"]
    if taken["type"] != "NodePort" or not taken["nodePort"]:
        pytest.skip("the release takes no port of the nodes")
    with pytest.raises(HelmError) as refused:
        install("other", BESIDE[0], f"gateway.service.nodePort={taken['nodePort']}")
    assert refused.value.findings == [
        f"Port {taken['nodePort']} of the nodes belongs to Service {RELEASE}-gateway in namespace {NAMESPACE}: set "
        "gateway.service.nodePort to another (0 lets Kubernetes choose), and global.publicUrl to the address that results."
    ]
    assert "STATUS: pending-install" in install("other", BESIDE[0], "gateway.service.nodePort=0")


def test_a_release_beside_this_one_is_fine(elsewhere: str) -> None:
    assert "STATUS: pending-install" in install("other", *BESIDE)


def test_an_account_with_rights_in_one_namespace_installs_there(cluster: Cluster, elsewhere: str) -> None:
    there, group, name = Cluster(cluster.config, elsewhere), "rbac.authorization.k8s.io", "namespaced"
    subjects = [{"apiGroup": group, "kind": "User", "name": name}]
    binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "subjects": subjects}
    # Kubernetes gives routes to nobody but cluster-admin
    routes = [{"apiGroups": ["gateway.networking.k8s.io"], "resources": ["httproutes"], "verbs": ["get", "create"]}]
    there.apply({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "routes"}, "rules": routes})
    for kind, role in (("ClusterRole", "admin"), ("Role", "routes")):
        reference = {"apiGroup": group, "kind": kind, "name": role}
        there.apply(binding | {"metadata": {"name": role}, "roleRef": reference})
    values = (f"--set-json={key}={json.dumps(value)}" for key, value in NAMESPACED.items())
    said = helm.helm(
        "install", name, CHART, "--namespace", elsewhere, "--skip-crds", "--dry-run=server", "--kube-as-user", name,
        *values,
    )  # fmt: skip
    assert "STATUS: pending-install" in said


def test_the_release_is_no_stranger_to_itself() -> None:
    said = helm.helm(
        "upgrade", RELEASE, CHART, "--namespace", NAMESPACE, "--reset-then-reuse-values", "--dry-run=server"
    )
    assert "STATUS: pending-upgrade" in said


@pytest.mark.parametrize("release", ["a" * 31 + "9", "true", "null", "on", "e3"])
def test_the_api_server_takes_every_object_of_such_a_release(cluster: Cluster, elsewhere: str, release: str) -> None:
    kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl")
    assert kubectl
    text = helm.helm(
        "template", release, CHART, "--namespace", elsewhere, *(f"--set={each}" for each in (*BESIDE, *EVERYTHING))
    )
    done = subprocess.run(
        [kubectl, "--kubeconfig", str(cluster.config), "--namespace", elsewhere, "apply", "--dry-run=server",
         "--filename", "-"], input=text, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("created (server dry run)") > 50
