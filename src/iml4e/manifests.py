"""Manifests of an endpoint: InferenceService, HTTPRoute and PodDisruptionBudget, with their names, annotations and settings."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from iml4e import Error, platform
from iml4e.cluster import MANAGER, Object

RUNTIME = "mlflow"
"""ClusterServingRuntime of the release."""
CONTAINER = "kserve-container"
MODEL, VERSION, FORMER = "iml4e.org/model", "iml4e.org/model-version", "iml4e.org/previous-version"
DIGEST, SIGNATURE = "iml4e.org/model-digest", "iml4e.org/model-signature"
"""Of the version's files, which the model server checks before it loads them."""
LATENCY = "iml4e.org/latency-objective"
"""Time that 95 % of the requests may take; Prometheus reads this annotation of the pods."""
REVISION = "iml4e.org/revision"
"""Digest of the spec: KServe copies annotations to pods, so the digest identifies the new pods."""
PREVIOUS = "iml4e.org/previous"
"""Annotations and spec of the former version, as JSON, to go back to."""
OURS = {"app.kubernetes.io/managed-by": "iml4e"}
#: Seconds for requests in flight when a pod ends, after the 10 s in which the gateway forgets it.
GRACE = 60


def endpoint_name(model: str, namespace: str) -> str:
    """Name of the endpoint of a registered model: the model's name if Kubernetes and KServe accept it, else a legal name derived from it.

    Raises:
        Error: the name of the namespace leaves no room.
    """
    try:
        return legal_name(model, namespace)
    except Error:
        room = _room(namespace) - 7
        if room < 1:
            raise Error(
                f"namespace {namespace} has too long a name for models: use one of 44 characters at most"
            ) from None
        text = unicodedata.normalize("NFKD", model).encode("ascii", "ignore").decode().lower()
        stem = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
        stem = stem if stem[:1].isalpha() else f"m-{stem}".rstrip("-")
        return f"{stem[:room].strip('-')}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"


def legal_name(name: str, namespace: str) -> str:
    """Return a name that an endpoint can have.

    Raises:
        Error: it cannot.
    """
    room = _room(namespace)
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise Error(
            f"{name!r} cannot name an endpoint: use lower-case letters, digits and '-', and begin with a letter"
        )
    if len(name) > room:
        raise Error(f"{name!r} is too long for an endpoint in namespace {namespace}: {room} characters at most")
    return name


def _room(namespace: str) -> int:
    return 63 - len(f"-predictor-{namespace}")  # KServe makes a host name of one label of the three


def toleration(text: Object | str) -> Object:
    """Read a toleration as `kubectl taint` writes a taint: key=value:Effect, key:Effect, key."""
    if not isinstance(text, str):
        return text
    rest, _, effect = text.partition(":")
    key, equals, value = rest.partition("=")
    found = {"key": key, "operator": "Equal", "value": value} if equals else {"key": key, "operator": "Exists"}
    return found | ({"effect": effect} if effect else {})


def resources_of(
    cpu: str | None, memory: str | None, cpu_limit: str | None, memory_limit: str | None, gpu: int | str | None
) -> Object:
    """Requests and limits of a container; where an argument is missing, the runtime's apply."""
    requests, limits = {"cpu": cpu, "memory": memory}, {"cpu": cpu_limit, "memory": memory_limit}
    if gpu:
        resource, _, count = str(gpu).rpartition("=")
        limits[resource or "nvidia.com/gpu"] = requests[resource or "nvidia.com/gpu"] = count
    given = {"requests": requests, "limits": limits}
    given = {kind: {key: str(value) for key, value in wish.items() if value} for kind, wish in given.items()}
    return {kind: wish for kind, wish in given.items() if wish}


def objective(text: str) -> str:
    """Return a latency objective as the annotation has it.

    Raises:
        Error: it is no time, or one that the gateway's histogram, which ends at 10 s, cannot tell.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text.strip())
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0
    if not 0.001 <= seconds <= 10:
        raise Error(f"a latency objective is a time from 1ms to 10s, such as '250ms' or '1.5s', not {text!r}")
    return text.strip()


def replicas_of(least: int | None, most: int | None) -> tuple[int, int]:
    least = least or int(platform.find("MODEL_MIN_REPLICAS", "1"))
    return least, max(least, most or int(platform.find("MODEL_MAX_REPLICAS", "1")))


def inference_service(
    model: str,
    version: str,
    storage_uri: str,
    *,
    name: str,
    namespace: str,
    account: str,
    replicas: tuple[int, int] = (1, 1),
    resources: Object | None = None,
    node_selector: dict[str, str] | None = None,
    tolerations: Sequence[Object] = (),
    image: str | None = None,
    runtime: str = RUNTIME,
    packages: Sequence[str] = (),
    batching: str | None = None,
    latency_objective: str | None = None,
    model_digest: str = "",
    model_signature: str = "",
) -> Object:
    """The InferenceService of a version."""
    container = {
        "modelFormat": {"name": "mlflow"},
        "runtime": runtime,
        "storageUri": storage_uri,
        "resources": resources,
        "image": image,
        "env": [{"name": "MODEL_SERVER_PACKAGES", "value": " ".join(packages)}] if packages else None,
    }
    predictor = {
        "serviceAccountName": account,
        "minReplicas": replicas[0],
        "maxReplicas": replicas[1],
        "terminationGracePeriodSeconds": GRACE,
        "nodeSelector": node_selector,
        "tolerations": list(tolerations),
        "model": {key: value for key, value in container.items() if value},
    }
    annotations = {MODEL: model, VERSION: version} | ({"iml4e.org/batching": batching} if batching else {})
    annotations |= {LATENCY: latency_objective} if latency_objective else {}
    annotations |= {key: value for key, value in ((DIGEST, model_digest), (SIGNATURE, model_signature)) if value}
    spec = {"predictor": {key: value for key, value in predictor.items() if value}}
    annotations[REVISION] = digest({"annotations": annotations, "spec": spec})
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace, "labels": OURS, "annotations": annotations},
        "spec": spec,
    }


def _owner(service: Object) -> Object:
    """The reference by which what belongs to an InferenceService is deleted with it."""
    return {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": service["metadata"]["name"],
        "uid": service["metadata"]["uid"],
    }


def disruption_budget(service: Object) -> Object:
    """The PodDisruptionBudget of an InferenceService: drains of nodes take one replica, and the next when another serves in its place."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": f"{name}-predictor",
            "namespace": namespace,
            "labels": OURS,
            "ownerReferences": [_owner(service)],
        },
        "spec": {
            "maxUnavailable": 1,
            # a pod that is broken anyway must not block the drain of its node
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"serving.kserve.io/inferenceservice": name}},
        },
    }


def http_route(service: Object) -> Object:
    """The HTTPRoute to an InferenceService, which owns the route: both are deleted together."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": f"/models/{namespace}/{name}"}}],
        "filters": [{"type": "URLRewrite", "urlRewrite": rewrite}],
        "backendRefs": [{"name": f"{name}-predictor", "port": 80}],
    }
    gateway = {"name": platform.get("GATEWAY_NAME"), "namespace": platform.get("GATEWAY_NAMESPACE")}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace, "labels": OURS, "ownerReferences": [_owner(service)]},
        "spec": {"parentRefs": [gateway], "rules": [rule]},
    }


def unrouted(route: Object) -> str:
    """Why no Gateway serves a route, by the status that the Gateway's controller gave it; empty if one does."""
    own = route["metadata"]["namespace"]

    def place(parent: Object) -> tuple[str, str]:
        return parent.get("namespace") or own, parent["name"]

    wanted = place(route["spec"]["parentRefs"][0])
    gateway = f"Gateway {wanted[1]} in namespace {wanted[0]}"
    answers = [
        condition
        for parent in (route.get("status") or {}).get("parents") or []
        if place(parent["parentRef"]) == wanted
        for condition in parent.get("conditions") or []
        if condition["type"] == "Accepted"
    ]
    if not answers:
        return f"no controller has taken its route to {gateway}: global.gateway must name a Gateway that is there"
    if any(each["status"] == "True" for each in answers):
        return ""
    said = f"{answers[0]['reason']} {answers[0].get('message', '')}".strip()
    return f"{gateway} does not accept its route ({said}): its listeners must allow routes from namespace {own}"


def digest(thing: Object) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:10]


def annotations_of(thing: Object) -> dict[str, str]:
    return thing["metadata"].get("annotations") or {}


def owned(thing: Object) -> bool:
    """Whether an InferenceService or HTTPRoute was made by this package, or by a pipeline of an older release."""
    labels, owners = thing["metadata"].get("labels") or {}, thing["metadata"].get("ownerReferences") or []
    ours = any(o["kind"] == "InferenceService" and o["name"] == thing["metadata"]["name"] for o in owners)
    return ours or labels.items() >= OURS.items() or VERSION in annotations_of(thing)


def applied(thing: Object) -> Object:
    """The part of an object that this package has applied, to be applied again; all of its spec if others made it."""
    metadata = {key: thing["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations")}
    whole = {"metadata": {key: value for key, value in metadata.items() if value}, "spec": thing["spec"]}
    for entry in thing["metadata"].get("managedFields", []):
        if entry["manager"] == MANAGER and entry["operation"] == "Apply":
            whole = managed(whole, entry["fieldsV1"])
    whole["metadata"] |= {"name": metadata["name"], "namespace": metadata["namespace"]}
    return {"apiVersion": thing["apiVersion"], "kind": thing["kind"], **whole}


def managed(thing: Any, fields: Object) -> Any:
    """The part of an object that an entry of managedFields names."""
    below = {key: value for key, value in fields.items() if key != "."}
    if not below:
        return thing
    if isinstance(thing, list):  # keyed by the fields that tell its items apart
        keys = [(json.loads(key[2:]), value) for key, value in below.items() if key.startswith("k:")]
        pairs = [(item, value) for item in thing for key, value in keys if item.items() >= key.items()]
        return [managed(item, value) for item, value in pairs]
    return {key[2:]: managed(thing[key[2:]], value) for key, value in below.items() if key[2:] in thing}


def previous(thing: Object) -> str:
    """The state that a rollback restores, as JSON."""
    manifest = applied(thing)
    annotations = {k: v for k, v in annotations_of(manifest).items() if k not in (FORMER, PREVIOUS)}
    return json.dumps({"annotations": annotations, "spec": manifest["spec"]}, separators=(",", ":"))


def is_true(thing: Object, condition: str) -> bool:
    conditions = thing.get("status", {}).get("conditions") or []
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)
