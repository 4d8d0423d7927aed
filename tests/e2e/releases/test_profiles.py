"""The profiles for larger clusters, installed as releases of their own and used: from a pipeline to an answer, an upgrade, the removal."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from sklearn.datasets import load_wine

from support import gpus, releases
from support.certificates import pem, signed
from support.elsewhere import DATABASE, KEYS, Elsewhere, secret, stores, trust
from support.gpus import GPU
from support.k8s import Cluster, Object, is_ready
from support.platform import Model, Traffic

pytestmark = pytest.mark.timeout(600)

CLOUD, GPUS = "profile-cloud", "profile-gpus"
#: A slice of a GPU (MIG). Whole ones are what tests of the first release have, and have not, at the same time.
SLICE = "nvidia.com/mig-1g.10gb"
DEPLOY = ["iml4e", "deploy", "wine", "--name", "sharp", "--gpu", f"{SLICE}=1", "--replicas", "1", "--max-replicas", "1"]
ROW = load_wine().data[0].tolist()
#: What the first release of the cluster has already, and what a machine of two cores has no room for.
SMALL: Object = {"prometheus": {"enabled": False}}


def replicas(there: Cluster, *names: str) -> dict[str, int]:
    """Ready replicas of Deployments."""
    found = {name: there.workload("Deployment", f"{there.namespace}-{name}")["status"] for name in names}
    return {name: status.get("readyReplicas", 0) for name, status in found.items()}


# --- cloud


@dataclass(frozen=True)
class Cloud:
    """A release with the profile `cloud`."""

    there: Cluster
    elsewhere: Elsewhere
    url: str
    """Its address on this machine, https."""
    port: int
    """The same, without TLS."""


@pytest.fixture(scope="module")
def cloud(cluster: Cluster, values: Object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The release, its store and database outside, and everything that values/README.md asks for."""
    folder: Path = tmp_path_factory.mktemp("cloud")
    with (
        stores(cluster, values, f"{CLOUD}-stores", folder) as elsewhere,
        releases.namespace(cluster, CLOUD) as there,
        pytest.MonkeyPatch.context() as environment,
    ):
        certificate, key = signed("localhost", by=elsewhere.authority)
        edge = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "iml4e-tls"}, "type": "kubernetes.io/tls"}
        pull = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry-key"}}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "iml4e-ca"}}
        there.apply(
            {**edge, "stringData": {"tls.crt": pem(certificate), "tls.key": pem(key)}},
            {**pull, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": '{"auths": {}}'}},
            {**config, "data": {"cabundle.crt": elsewhere.bundle.read_text()}},
            secret(f"{CLOUD}-db-mlflow", DATABASE),
            secret(f"{CLOUD}-s3-mlflow", KEYS),
            secret(f"{CLOUD}-s3-pipelines", KEYS),
            secret(f"{CLOUD}-s3-models", KEYS, **elsewhere.annotations, **trust("iml4e-ca")),
        )
        # the profile asks for TLS, and this database lets in nobody without
        assert not elsewhere.sql("ALTER USER 'mlflow'@'%' REQUIRE SSL")
        own = {
            "global": {**elsewhere.values, "publicUrl": "https://localhost:30443"},
            # this machine does not reach the store by its name in the cluster
            "mlflow": {"route": {"signedUrls": False}},
            # their small requests of CPU would make every answer a reason for more replicas
            "kserve": {"models": {"replicas": {"max": 2}}},
        }
        with releases.installed(there, ["cloud"], SMALL, own):
            wanted = {"gateway": 2, "mlflow": 2, "home": 2}
            there.wait("two replicas of each", lambda: replicas(there, *wanted) == wanted, 120)
            for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
                environment.setenv(variable, str(elsewhere.bundle))
            service = f"service/{CLOUD}-gateway"
            with there.port_forward(service, 443) as https, there.port_forward(service, 80) as http:
                yield Cloud(there, elsewhere, f"https://localhost:{https}", http)


def test_cloud_scales_by_load_and_drains_one_pod_at_a_time(cloud: Cloud) -> None:
    there = cloud.there
    for name in ("gateway", "mlflow"):

        def measured(name: str = name) -> bool:
            scaler = there.get("autoscaling/v2", "HorizontalPodAutoscaler", f"{CLOUD}-{name}") or {}
            conditions = {each["type"]: each["status"] for each in scaler["status"].get("conditions", [])}
            return conditions.get("ScalingActive") == conditions.get("AbleToScale") == "True"

        there.wait(f"the metrics of {name}", measured, 90)
    for name in ("gateway", "home", "mlflow"):
        budget = there.get("policy/v1", "PodDisruptionBudget", f"{CLOUD}-{name}") or {}
        assert budget["status"]["disruptionsAllowed"] == 1, name
    for pod in there.pods(f"app.kubernetes.io/instance={CLOUD}"):
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry-key"}], pod["metadata"]["name"]
    assert not [each for each in there.pods() if re.search("minio|mariadb", each["metadata"]["name"])]


def test_cloud_from_a_pipeline_to_an_upgrade(cloud: Cloud) -> None:
    there = cloud.there
    answer = requests.get(f"http://localhost:{cloud.port}/mlflow/", allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["Location"]) == (308, "https://localhost:30443/mlflow/")

    code, result, said = releases.demo(there)
    assert code == 0, said
    assert result["deployed"], said
    assert releases.run(CLOUD, cloud.url, "iml4e", "predict", "wine", "--data", json.dumps([ROW])).split()[-1] == "0"
    pods = there.pods("serving.kserve.io/inferenceservice=wine")
    assert [is_ready(pod) for pod in pods] == [True, True]

    model = Model(cloud.url, CLOUD, "wine")
    tracking = f"{cloud.url}/mlflow/api/2.0/mlflow/experiments/search"
    with (
        Traffic(model.base + model.v1, {"instances": [ROW]}) as asked,
        Traffic(tracking, {"max_results": 1}, pause=0.2) as tracked,
    ):
        releases.upgrade(there, mlflow={"extraEnv": [{"name": "UPGRADED", "value": "yes"}]}, home={"replicas": 3})
    assert (asked.failures, tracked.failures) == ([], [])
    assert asked.total > 50
    deployment = there.workload("Deployment", f"{CLOUD}-mlflow")
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "UPGRADED", "value": "yes"} in env
    # the autoscaler's number, which the upgrade leaves alone
    assert deployment["spec"]["replicas"] == 2
    assert replicas(there, "home") == {"home": 3}
    found = releases.run(CLOUD, cloud.url, "iml4e", "models", "--json")
    assert [(each["name"], each["ready"], each["reason"]) for each in json.loads(found)] == [("wine", True, "")]


def test_cloud_leaves_nothing_but_the_data_outside(cloud: Cloud) -> None:
    assert releases.remove(cloud.there) == []
    objects = cloud.elsewhere.s3.list_objects_v2(Bucket="mlflow")["Contents"]
    assert any(each["Key"].endswith("/MLmodel") for each in objects)
    assert "wine" in cloud.elsewhere.sql("SELECT name FROM mlflow.registered_models")
    names = [each["metadata"]["name"] for each in cloud.there.list("v1", "Secret")]
    assert f"{CLOUD}-db-mlflow" in names
    assert cloud.there.list("v1", "PersistentVolumeClaim") == []


# --- gpu-cluster


@dataclass(frozen=True)
class Gpus:
    """A release with the profile `gpu-cluster`."""

    there: Cluster
    url: str
    node: str
    """The machine's node."""


@pytest.fixture(scope="module")
def gpu_cluster(cluster: Cluster) -> Iterator[Gpus]:
    """The release, on a cluster that has GPUs at first nowhere."""
    if gpus.nodes_with_gpus(cluster, SLICE) or cluster.get("node.k8s.io/v1", "RuntimeClass", "nvidia"):
        pytest.skip("the cluster has real GPUs: what wants one does not wait, and runs under a runtime class of theirs")
    if not cluster.has("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy"):
        pytest.skip("this Kubernetes has no stable MutatingAdmissionPolicy: GPU work names its settings itself")
    [node, *_] = (each.metadata.name for each in cluster.core.list_node().items)
    with (
        gpus.runtime_class(cluster, "nvidia"),
        releases.namespace(cluster, GPUS) as there,
        releases.installed(there, ["gpu-cluster"], SMALL),
        there.port_forward(f"service/{GPUS}-gateway", 80) as port,
    ):
        try:
            yield Gpus(there, f"http://127.0.0.1:{port}", node)
        finally:
            gpus.offer(cluster, node, 0, SLICE)


def worker(there: Cluster, name: str, resource: str = SLICE) -> None:
    """A pod that requests a GPU, as that of a pipeline step, and rests."""
    container = {
        "name": "main",
        "image": there.workload("Deployment", f"{GPUS}-mlflow")["spec"]["template"]["spec"]["containers"][0]["image"],
        "command": ["sleep", "600"],
        "resources": {"requests": {"cpu": "1m"}, "limits": {resource: "1"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"automountServiceAccountToken": False, "securityContext": security, "containers": [container]}
    spec["terminationGracePeriodSeconds"] = 1
    there.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "worker"}}, "spec": spec}
    )


def pod(there: Cluster, name: str) -> Object:
    """A pod by its name."""
    return there.get("v1", "Pod", name) or {}


def waits(there: Cluster, name: str) -> bool:
    """Whether no node takes a pod, for want of a slice."""
    conditions = pod(there, name).get("status", {}).get("conditions") or []
    said = [
        each.get("message", "") for each in conditions if each["type"] == "PodScheduled" and each["status"] == "False"
    ]
    return any(f"Insufficient {SLICE}" in text for text in said)


def is_placed(thing: Object) -> bool:
    """Whether a pod has the settings of the pool."""
    tolerated = [each["key"] for each in thing["spec"]["tolerations"] if each.get("operator") == "Exists"]
    return GPU in tolerated and thing["spec"].get("runtimeClassName") == "nvidia"


def test_gpu_cluster_serves_without_gpus_and_says_who_waits_for_one(gpu_cluster: Gpus) -> None:
    there = gpu_cluster.there
    twice = {"gateway": 2, "home": 2, "mlflow": 2}
    assert replicas(there, *twice) == twice
    code, result, said = releases.demo(there)
    assert code == 0, said
    assert result["deployed"], said
    plain = there.pods()
    assert len(plain) > 8
    assert [each["metadata"]["name"] for each in plain if is_placed(each) or each["spec"].get("runtimeClassName")] == []

    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"no node takes its pod: .*Insufficient nvidia\.com/mig-1g\.10gb"):
        releases.run(GPUS, gpu_cluster.url, *DEPLOY)
    assert time.monotonic() - start < 60
    # a whole GPU, and time-slicing under a name of its own
    for name, resource in {"whole": GPU, "share": f"{GPU}.shared"}.items():
        worker(there, name, resource)
        assert is_placed(pod(there, name))
        there.delete("v1", "Pod", name)


def test_gpu_work_lands_where_a_gpu_is_and_nothing_else_on_a_node_of_gpus(gpu_cluster: Gpus) -> None:
    there, node = gpu_cluster.there, gpu_cluster.node
    worker(there, "first")
    there.wait("the first to wait", lambda: waits(there, "first"), 30)
    gpus.offer(there, node, 1, SLICE)
    there.wait("the first to run", lambda: is_ready(pod(there, "first")), 60)
    assert pod(there, "first")["spec"]["nodeName"] == node
    there.delete("v1", "Pod", "first")
    there.wait("the GPU to be free", lambda: not pod(there, "first"), 30)

    releases.run(GPUS, gpu_cluster.url, *DEPLOY)
    row = json.dumps([ROW])
    assert releases.run(GPUS, gpu_cluster.url, "iml4e", "predict", "sharp", "--data", row).split()[-1] == "0"
    (sharp,) = there.pods("serving.kserve.io/inferenceservice=sharp")
    assert is_placed(sharp)

    # the one GPU is taken
    worker(there, "second")
    there.wait("the second to wait", lambda: waits(there, "second"), 30)
    with gpus.gpu_node(there, f"{GPUS}-node", 1, SLICE):
        # an empty node, which would get every pod that tolerates its taint
        there.wait("the second to be bound", lambda: pod(there, "second")["spec"].get("nodeName"), 60)
        assert pod(there, "second")["spec"]["nodeName"] == f"{GPUS}-node"
        releases.upgrade(there, home={"resources": {"requests": {"cpu": "11m"}}})
        placed = {each["metadata"]["name"]: each["spec"].get("nodeName") for each in there.pods()}
        assert len(placed) > 8
        assert [name for name, where in placed.items() if where != node] == ["second"]
    assert releases.run(GPUS, gpu_cluster.url, "iml4e", "predict", "sharp", "--data", row).split()[-1] == "0"


def test_gpu_cluster_leaves_nothing_but_its_data(gpu_cluster: Gpus) -> None:
    there = gpu_cluster.there
    policies: Any = ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy")
    ours = [each["metadata"]["name"] for each in there.list(*policies) if each["metadata"]["name"].startswith(GPUS)]
    assert sorted(ours) == [f"{GPUS}-gpu-nvidia", f"{GPUS}-gpu-nvidia-runtime"]
    assert releases.remove(there) == []
    assert [each for each in there.list(*policies) if each["metadata"]["name"].startswith(GPUS)] == []
    claims = [each["metadata"]["name"] for each in there.list("v1", "PersistentVolumeClaim")]
    assert sorted(claims) == [f"data-{GPUS}-mariadb-0", f"data-{GPUS}-minio-0"]
