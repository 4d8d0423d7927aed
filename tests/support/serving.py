"""Deploying a model the way a person with kubectl does: an InferenceService, and a route to it."""

from __future__ import annotations

from typing import Any

from support.helm import NAMESPACE, RELEASE
from support.k8s import Cluster

SERVING = "serving.kserve.io/v1beta1"
GATEWAY = "gateway.networking.k8s.io/v1"


def inference_service(name: str, storage_uri: str, runtime: str, **env: str) -> dict[str, Any]:
    """An InferenceService of an MLflow model."""
    model = {
        "modelFormat": {"name": "mlflow"},
        "runtime": runtime,
        "storageUri": storage_uri,
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    return {
        "apiVersion": SERVING,
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"predictor": {"serviceAccountName": f"{RELEASE}-models", "model": model}},
    }


def route(name: str) -> dict[str, Any]:
    """The route that makes it reachable under /models/<namespace>/<name>."""
    prefix = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": f"/models/{NAMESPACE}/{name}"}}],
        "filters": [{"type": "URLRewrite", "urlRewrite": {"path": prefix}}],
        "backendRefs": [{"name": f"{name}-predictor", "port": 80}],
    }
    return {
        "apiVersion": GATEWAY,
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"parentRefs": [{"name": f"{RELEASE}-gateway", "namespace": NAMESPACE}], "rules": [rule]},
    }


def status(cluster: Cluster, name: str) -> dict[str, Any]:
    """Status of an InferenceService."""
    return (cluster.get(SERVING, "InferenceService", name) or {}).get("status") or {}


def is_ready(cluster: Cluster, name: str) -> bool:
    """Whether an InferenceService is Ready for what its spec says now.

    Its observedGeneration does not tell: in Standard mode KServe copies the Deployment's, which an autoscaler moves too.
    """
    service = cluster.get(SERVING, "InferenceService", name) or {}
    deployment = cluster.get("apps/v1", "Deployment", f"{name}-predictor")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in service.get("status", {}).get("conditions", []))
    if not ready or not deployment:
        return False
    wanted, template = service["spec"]["predictor"]["model"], deployment["spec"]["template"]
    source = template["metadata"].get("annotations", {}).get("internal.serving.kserve.io/storage-initializer-sourceuri")
    env = [variable for container in template["spec"]["containers"] for variable in container.get("env", [])]
    # what KServe writes where `storage` names a key and a path instead of an address
    address = wanted.get("storageUri") or f"<scheme-placeholder>://{wanted['storage']['path']}"
    follows = source == address and all(variable in env for variable in wanted.get("env", []))
    return follows and cluster.is_ready("Deployment", f"{name}-predictor")


def wait_ready(cluster: Cluster, name: str, seconds: float = 240) -> None:
    """Wait until an InferenceService is Ready."""
    selector = f"serving.kserve.io/inferenceservice={name}"
    cluster.wait(f"InferenceService/{name} to be Ready", lambda: is_ready(cluster, name), seconds, selector=selector)


def remove(cluster: Cluster, name: str) -> None:
    """Delete an InferenceService and its route, and wait until its pods are gone."""
    cluster.delete(GATEWAY, "HTTPRoute", name)
    cluster.delete(SERVING, "InferenceService", name)
