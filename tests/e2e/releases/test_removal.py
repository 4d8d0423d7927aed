"""`helm uninstall` leaves the data and what opens it; `scripts/purge` leaves nothing: objects before and after are compared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support import helm, releases, upgrades
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(600)

NAME = "removed"
VALUES = {
    "kserve": {"controller": {"enabled": False}},
    "prometheus": {"probe": {"enabled": False}, "alertmanager": {"enabled": False}},
    "backup": {"enabled": True, "schedule": "", "destination": {"existingClaim": "none"}},
}
#: What goes by itself, or is every namespace's.
PASSING = ("events", "endpoints", "metrics.k8s.io", "leases.coordination.k8s.io/kube", "nodes", "csinodes", "pods.")
MODEL = {
    "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "stays", "namespace": NAME},
    "spec": {"predictor": {"model": {"modelFormat": {"name": "mlflow"}, "runtime": "mlflow", "storageUri": "s3://mlflow/none"}}},
}  # fmt: skip


def kubectl(*words: str) -> str:
    """What kubectl prints."""
    return subprocess.run(["kubectl", *words], capture_output=True, text=True, check=False).stdout


def objects() -> set[str]:
    """All objects of the namespace, and all others that have its name in theirs."""
    found = set()
    for scope in ("true", "false"):
        kinds = kubectl("api-resources", "--verbs=list", f"--namespaced={scope}", "-o", "name").split()
        wanted = ",".join(kind for kind in kinds if not kind.startswith(PASSING) and "metrics" not in kind)
        where = ["-n", NAME] if scope == "true" else []
        for line in kubectl("get", wanted, *where, "-o", "name").split():
            if scope == "true" or NAME in line.rpartition("/")[2]:
                found.add(line)
    return found


def purge(*words: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/purge."""
    command = [sys.executable, helm.REPO / "scripts" / "purge", "--release", NAME, "--namespace", NAME, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture
def there(cluster: Cluster) -> Iterator[Cluster]:
    """A release beside the first; what the test does not remove goes at its end."""
    releases.wait_until("an earlier namespace to be gone", lambda: objects() == set(), 90)
    crds = kubectl("get", "crds", "-o", "name")
    with releases.namespace(cluster, NAME) as there:
        try:
            values = helm.merged(
                releases.SMALL, VALUES, {"global": {"imageRegistry": helm.release_values()["global"]["imageRegistry"]}}
            )
            helm.install(NAME, [helm.VALUES / "laptop.yaml"], values)
            yield there
        finally:
            purge("--yes", NAME)
            # `namespace` deletes it at its end
            if not kubectl("get", "namespace", NAME, "--ignore-not-found", "-o", "name"):
                kubectl("create", "namespace", NAME)
    assert kubectl("get", "crds", "-o", "name") == crds


def test_what_stays_after_uninstall_and_nothing_after_purge(there: Cluster, values: dict[str, Any]) -> None:
    there.apply(MODEL)
    # a lease that a controller of the release made
    there.apply({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "leader", "namespace": NAME},
        "spec": {"holderIdentity": f"{NAME}-pipelines-argo-1"},
    })  # fmt: skip
    secrets = {
        f"secret/{each.metadata.name}"
        for each in there.core.list_namespaced_secret(NAME).items
        if each.type != "helm.sh/release.v1"
    }
    helm.helm("uninstall", NAME, "--namespace", NAME, "--wait", "--timeout", "180s", timeout=300)

    def left() -> set[str]:
        return {name for name in objects() if not name.endswith(("kube-root-ca.crt", "serviceaccount/default"))}

    assert secrets == {f"secret/{NAME}-{name}" for name in ("db-metadb", "db-mlflow", "db-mlpipeline", "mariadb", "mariadb-metrics", "minio", "mlflow-webhooks", "s3-mlflow", "s3-models", "s3-pipelines")}  # fmt: skip
    claims = {f"persistentvolumeclaim/data-{NAME}-{name}-0" for name in ("mariadb", "minio", "prometheus")}
    own = (
        secrets
        | claims
        | {"inferenceservice.serving.kserve.io/stays", "lease.coordination.k8s.io/leader", f"namespace/{NAME}"}
    )
    # they end as they answered their last request
    releases.wait_until("pods to be gone", lambda: not any(name.startswith(f"pod/{NAME}-") for name in objects()), 60)
    # what the first release's KServe made of the model belongs to the model
    others = {name for name in left() - own if "stays" not in name}
    assert others == set()
    assert left() >= own

    refused = purge()
    assert refused.returncode == 1
    assert f"Run it with --yes {NAME}" in refused.stderr
    assert left() >= own
    done = purge("--yes", NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    assert objects() == set()
    # a namespace that somebody deleted took the release's record with it, and left what is outside of the namespace
    there.apply({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": [],
        "metadata": {
            "name": f"{NAME}-gateway", "labels": {"app.kubernetes.io/instance": NAME},
            "annotations": {"meta.helm.sh/release-name": NAME, "meta.helm.sh/release-namespace": NAME},
        },
    })  # fmt: skip
    assert "cluster-wide objects: ClusterRole/removed-gateway" in purge("--yes", NAME).stdout
    again = purge("--yes", NAME)
    assert "Nothing is there of release removed" in again.stdout
    assert "CRDs" not in again.stdout  # the platform uses them


def test_a_namespace_with_objects_of_others_stays(there: Cluster) -> None:
    there.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": NAME}, "data": {"a": "b"}}
    )
    done = purge("--yes", NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"namespace {NAME} stays, as these are in it: ConfigMap/mine" in done.stdout
    assert {name for name in objects() if "kube-root-ca" not in name} == {
        "configmap/mine",
        "serviceaccount/default",
        f"namespace/{NAME}",
    }


def test_a_namespace_that_was_deleted_by_hand_is_freed(there: Cluster) -> None:
    """A webhook whose pod went with the namespace lets nobody remove the finalizer of a model."""
    there.apply(MODEL)
    releases.wait_until(
        "KServe to hold the model",
        lambda: "finalizer" in kubectl("get", "inferenceservice", "stays", "-n", NAME, "-o", "jsonpath={.metadata.finalizers}"),
        60,
    )  # fmt: skip
    there.apply({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {
            "name": f"{NAME}-kserve", "labels": {"app.kubernetes.io/instance": NAME},
            "annotations": {"meta.helm.sh/release-name": NAME, "meta.helm.sh/release-namespace": NAME},
        },
        "webhooks": [{
            "name": "validator.removed.iml4e.org", "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": NAME, "name": f"{NAME}-kserve-webhook"}},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAME}},
            "rules": [{"apiGroups": ["serving.kserve.io"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["inferenceservices"]}],
        }],
    })  # fmt: skip
    # the deletion of a namespace waits for half of the grace period of each pod
    kubectl("delete", "deployments,statefulsets", "--all", "-n", NAME, "--wait=false")
    kubectl("delete", "pods", "--all", "-n", NAME, "--grace-period=1")
    kubectl("delete", "namespace", NAME, "--wait=false")
    releases.wait_until(
        "the namespace to be held", lambda: "finalizers remaining" in kubectl("get", "namespace", NAME, "-o", "json"), 120
    )  # fmt: skip
    code, told, _ = upgrades.command(NAME, "doctor")
    assert code == 1
    assert told.startswith(f"Namespace {NAME}: it is being deleted since")
    assert "finalizers remaining: inferenceservice.finalizers" in told.splitlines()[0]
    done = purge("--yes", NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    assert objects() == set()
