"""Serves registered models: an InferenceService of KServe, an HTTPRoute below `/models/<namespace>/<name>`, and a PodDisruptionBudget.

A deployment that cannot work is refused before anything changes. A deployment that does not start ends with the reason, and the
former version goes on serving; a failed first deployment is removed.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iml4e import Error, checks, client, integrity, platform, registry, why
from iml4e.cluster import AwayError, Cluster, Object, RefusedError
from iml4e.manifests import (
    CONTAINER,
    FORMER,
    MODEL,
    OURS,
    PREVIOUS,
    REVISION,
    RUNTIME,
    VERSION,
    annotations_of,
    applied,
    digest,
    disruption_budget,
    endpoint_name,
    http_route,
    inference_service,
    is_true,
    legal_name,
    objective,
    owned,
    previous,
    replicas_of,
    resources_of,
    toleration,
    unrouted,
)  # fmt: skip

Say = Callable[[str], None]

TAG = "iml4e.endpoint"
"""Tag of the version in the registry that is served: NAMESPACE/NAME."""
#: Seconds between two looks at a deployment, and between two lines about it that say the same.
LOOK, SAY = 2, 15
#: Seconds that KServe may take to remove its finalizer from a deleted model, and a Gateway's controller to take a route.
GONE, ROUTED = 20, 10


@dataclass(frozen=True)
class Endpoint:
    """A served model."""

    name: str
    namespace: str
    model: str
    """Registered model; empty if its InferenceService does not say."""
    version: str
    ready: bool
    reason: str
    """Why it is not ready; empty if it is."""
    url: str
    """Address for predictions by V1."""

    def ask(self) -> client.Model:
        """A client of this model."""
        return client.Model(platform.get("GATEWAY_URL"), self.namespace, self.name)

    def curl(self, instances: Any) -> str:
        """A command that asks this model."""
        body = json.dumps({"instances": client.plain(instances)})
        quoted = body.replace("'", "'\\''")
        return f"curl -s {self.url} -H 'Content-Type: application/json' -d '{quoted}'"


def deploy(
    model: str,
    version: str,
    *,
    name: str = "",
    namespace: str = "",
    replicas: int | None = None,
    max_replicas: int | None = None,
    cpu: str | None = None,
    memory: str | None = None,
    cpu_limit: str | None = None,
    memory_limit: str | None = None,
    gpu: int | str | None = None,
    node_selector: dict[str, str] | None = None,
    tolerations: Sequence[Object | str] | None = None,
    image: str | None = None,
    runtime: str | None = None,
    packages: Sequence[str] = (),
    service_account: str | None = None,
    batching: str | None = None,
    latency_objective: str | None = None,
    force: bool = False,
    timeout: float = 300,
    say: Say = print,
) -> Endpoint:
    """Serve a version of a registered model, and wait until it answers for all requests.

    Args:
        model: registered model.
        version: its version.
        name: of the endpoint; empty: the model's, made legal.
        namespace: of the endpoint; empty: MODEL_NAMESPACE.
        replicas: minimum of replicas; None: MODEL_MIN_REPLICAS.
        max_replicas: maximum of replicas, when the load grows; None: MODEL_MAX_REPLICAS.
        cpu: CPU request of a pod, such as "500m"; None: the runtime's, as for all four.
        memory: memory request, such as "1Gi".
        cpu_limit: CPU limit.
        memory_limit: memory limit.
        gpu: GPUs of a pod, or "resource=count"; the resource is nvidia.com/gpu.
        node_selector: node selector of the pods.
        tolerations: tolerations of the pods, as Kubernetes writes them or as "key=value:Effect", "key:Effect", "key".
        image: image with Python and mlflow that replaces the runtime's.
        runtime: serving runtime; None: the release's.
        packages: requirements that the server installs as it starts, such as "xgboost==3.0".
        service_account: of its pods; None: MODEL_SERVICE_ACCOUNT.
        batching: "on" or "off"; None: the server decides by the model.
        latency_objective: time that 95 % of its requests may take, such as "250ms" or "1.5s"; None: no objective.
        force: deploy although requirements do not fit, or the endpoint serves another model.
        timeout: seconds until it must be ready.
        say: prints a line of progress.

    Raises:
        Error: it cannot be deployed, or does not start; the sentence has the reason, the next step, and what serves now.
    """
    options = {key: value for key, value in locals().items() if key not in ("model", "version", "say")}
    version = str(version)
    if (replicas is not None and replicas < 1) or (replicas and max_replicas and max_replicas < replicas):
        raise Error("a model needs 1 replica or more, and not fewer at most than at least")
    if batching not in (None, "on", "off"):
        raise Error(f"batching is 'on' or 'off', not {batching!r}")
    latency_objective = latency_objective and objective(latency_objective)
    cluster = _reach(namespace, say)
    if cluster is None:
        return Endpoint(**_by_pipeline("deploy", {"model": model, "version": version, **options}))
    name, account = _place(cluster, model, name, service_account, default=runtime is None, force=force)
    checks.fits(model, version, image or runtime, packages, force=force, say=say)

    settings = {
        "name": name,
        "namespace": cluster.namespace,
        "account": account,
        "replicas": replicas_of(replicas, max_replicas),
        "resources": resources_of(cpu, memory, cpu_limit, memory_limit, gpu),
        "node_selector": node_selector,
        "tolerations": [toleration(each) for each in tolerations or ()],
        "image": image,
        "runtime": runtime or RUNTIME,
        "packages": packages,
        "batching": batching,
        "latency_objective": latency_objective,
    }
    tags = registry.resolve(f"{model}/{version}").tags
    settings |= {"model_digest": tags.get(integrity.DIGEST, ""), "model_signature": tags.get(integrity.SIGNATURE, "")}
    service = inference_service(model, version, registry.storage_uri(model, version), **settings)
    # again: during the checks another deployment may have changed the endpoint
    former = checks.own(cluster, name, model, force=force)
    annotations = service["metadata"]["annotations"]
    if former and annotations_of(former).get(REVISION) == annotations[REVISION]:
        annotations |= {key: annotations_of(former)[key] for key in (FORMER, PREVIOUS) if key in annotations_of(former)}
    elif former:
        annotations[FORMER] = annotations_of(former).get(VERSION, "")
        annotations[PREVIOUS] = previous(former)
    return _roll(cluster, service, former, timeout, say)


def preflight(model: str, namespace: str = "") -> None:
    """Check, before there is a version, whether a model can be deployed: cluster, rights, namespace, and name.

    Raises:
        Error: it cannot.
    """
    cluster = Cluster(namespace or platform.get("MODEL_NAMESPACE"))
    checks.allowed(cluster)
    _place(cluster, model)


def _place(
    cluster: Cluster,
    model: str,
    name: str = "",
    account: str | None = None,
    *,
    default: bool = True,
    force: bool = False,
) -> tuple[str, str]:
    """Name and service account of an endpoint.

    Raises:
        Error: the name or the namespace cannot be used.
    """
    name = legal_name(name, cluster.namespace) if name else endpoint_name(model, cluster.namespace)
    account = account or platform.get("MODEL_SERVICE_ACCOUNT")
    checks.prepared(cluster, account, default=default)
    checks.own(cluster, name, model, force=force)
    return name, account


def rollback(name: str, *, namespace: str = "", timeout: float = 300, say: Say = print) -> Endpoint:
    """Serve the previous version again, with its settings.

    Raises:
        Error: there is none, or it does not start.
    """
    cluster = _reach(namespace, say)
    if cluster is None:
        return Endpoint(**_by_pipeline("rollback", {"name": name, "namespace": namespace, "timeout": timeout}))
    present = _served(cluster, name)
    if PREVIOUS not in annotations_of(present):
        raise Error(f"{name} has no version before the present one: deploy another with `iml4e deploy MODEL/VERSION`")
    before = json.loads(annotations_of(present)[PREVIOUS])
    metadata = {"name": name, "namespace": cluster.namespace, "labels": OURS, "annotations": before["annotations"]}
    metadata["annotations"] |= {FORMER: annotations_of(present).get(VERSION, ""), PREVIOUS: previous(present)}
    metadata["annotations"].setdefault(REVISION, digest(before))
    service = {
        "apiVersion": present["apiVersion"],
        "kind": present["kind"],
        "metadata": metadata,
        "spec": before["spec"],
    }
    return _roll(cluster, service, present, timeout, say)


def delete(name: str, *, namespace: str = "", say: Say = print) -> None:
    """Stop serving a model: delete the endpoint's InferenceService and route. The registry keeps the model.

    Raises:
        Error: there is no such endpoint, or another owner made the endpoint.
    """
    cluster = _reach(namespace, say)
    if cluster is None:
        _by_pipeline("delete", {"name": name, "namespace": namespace})
        return
    _remove(cluster, _served(cluster, name))
    _untag(f"{cluster.namespace}/{name}")
    say(f"{name} is not served any more")


def undo(name: str, *, version: str = "", namespace: str = "", say: Say = print) -> str:
    """Undo the last deployment, because the served version gives wrong answers.

    Args:
        name: endpoint.
        version: version that was deployed; a later deployment of another version stays. Empty: any version.
        namespace: of the endpoint; empty: MODEL_NAMESPACE.
        say: prints a line of progress.

    Returns:
        What serves now, as a part of a sentence.
    """
    cluster = Cluster(namespace or platform.get("MODEL_NAMESPACE"))
    present = annotations_of(_served(cluster, name))
    if version and present.get(VERSION) != version:
        return f"version {present.get(VERSION, '(unknown)')} of another deployment stays"
    if FORMER in present:
        return f"version {rollback(name, namespace=namespace, say=say).version} serves again"
    delete(name, namespace=namespace, say=say)
    return "nothing is served under that name now"


def check(
    name: str, rows: Any, wanted: Any, *, version: str = "", namespace: str = "", timeout: float = 60
) -> Endpoint:
    """Ask an endpoint through the gateway until the endpoint gives the expected answer.

    Args:
        name: endpoint.
        rows: what to ask: a DataFrame, an array, or lists.
        wanted: what the model itself predicts for them.
        version: version that must answer; empty: any.
        namespace: of the endpoint; empty: MODEL_NAMESPACE.
        timeout: seconds that the gateway may take to know a new route.

    Raises:
        TookOverError: another version was deployed meanwhile.
        Error: no such answer in time; the sentence has the last one.
    """
    endpoint = find(name, namespace)
    model, expected, start = endpoint.ask(), client.plain(wanted, answer=True), time.monotonic()
    while True:
        try:
            predictions = model.predict(rows)
            if client.same(predictions, expected) and version in ("", model.version):
                return endpoint
            found = f"version {model.version or '(unknown)'} answers {json.dumps(predictions)[:200]}"
        except Error as error:
            found = str(error)
        _still(name, version, namespace)
        if time.monotonic() - start > timeout:
            other = f", not {json.dumps(expected)[:200]}" + (f" of version {version}" if version else "")
            other = other if found.startswith("version ") else ""
            raise Error(f"{name} does not answer as its model predicts: {found}{other}")
        time.sleep(1)


def crown(name: str, version: str, *, namespace: str = "") -> None:
    """Make the version that an endpoint serves the champion of its model.

    Raises:
        TookOverError: another deployment put another version there, which is the champion or becomes it by its own check.
    """
    endpoint = _still(name, version, namespace)
    former = registry.champion(endpoint.model)
    registry.crown(endpoint.model, version)
    try:
        _still(name, version, namespace)
    except TookOverError:  # what is served stays the champion, or becomes it when its own check is through
        if former and former.version == find(name, namespace).version:
            registry.crown(endpoint.model, former.version)
        raise


def _still(name: str, version: str, namespace: str) -> Endpoint:
    """An endpoint whose present deployment serves the given version.

    Raises:
        TookOverError: it is that of another one.
    """
    endpoint = find(name, namespace)
    if version and endpoint.version != version:
        raise TookOverError(
            f"another deployment of {name} took over: version {endpoint.version or '(unknown)'} is served or starts now"
        )
    return endpoint


def endpoints(namespace: str = "") -> list[Endpoint]:
    """All InferenceServices of a namespace, with the reason of each that is not ready."""
    cluster = Cluster(namespace or platform.get("MODEL_NAMESPACE"))
    with cluster.told("list"):
        services = cluster.list("InferenceService")
    return [_endpoint(cluster, service) for service in services if not service["metadata"].get("deletionTimestamp")]


def find(name: str, namespace: str = "") -> Endpoint:
    """One endpoint.

    Raises:
        Error: there is none of that name.
    """
    cluster = Cluster(namespace or platform.get("MODEL_NAMESPACE"))
    return _endpoint(cluster, _served(cluster, name, own=False))


def logs(name: str, *, namespace: str = "", follow: bool = False, previous: bool = False) -> Iterator[str]:
    """The log of an endpoint's pods, line by line: of the model server, or of the download before the server starts.

    Args:
        name: endpoint.
        namespace: of the endpoint; empty: MODEL_NAMESPACE.
        follow: wait for more, from the newest pod.
        previous: of the instance before the present one, which ended.

    Raises:
        Error: no such endpoint, or no pod yet; the sentence has the reason.
    """
    cluster = Cluster(namespace or platform.get("MODEL_NAMESPACE"))
    service = _served(cluster, name, own=False)
    pods = sorted(_pods(cluster, name), key=lambda pod: pod["metadata"]["creationTimestamp"])
    if not pods:
        raise Error(f"{name} has no pod: {_reason(cluster, service, [], {}) or 'it is being made'}")
    for pod in pods[-1:] if follow else pods:
        started = any("waiting" not in each["state"] for each in pod["status"].get("containerStatuses", []))
        container = CONTAINER if started or previous else "storage-initializer"
        named = f"{pod['metadata']['name']}: " if len(pods) > 1 and not follow else ""
        for line in cluster.follow(pod["metadata"]["name"], container, previous=previous, follow=follow):
            yield named + line


# --- applying and waiting


def _roll(cluster: Cluster, service: Object, former: Object | None, timeout: float, say: Say) -> Endpoint:
    """Apply an InferenceService and its route, wait until the model serves, and restore the former state if the model does not.

    Raises:
        Error: the model does not start, or another client changed the InferenceService meanwhile.
    """
    name, version = service["metadata"]["name"], annotations_of(service)[VERSION]
    seen = {event["metadata"]["uid"]: event.get("count") for event in _warnings(cluster)}
    start = time.monotonic()
    try:
        with cluster.told("change"):
            made = cluster.apply(service, force=former is not None)
            if platform.find("GATEWAY_NAME"):
                cluster.apply(http_route(made), force=True)
        _protect(cluster, made, say)
        _wait(cluster, service, seen, timeout, say)
    except NotReadyError as error:
        text = f"{annotations_of(service).get(MODEL, name)} version {version} {error}"
        raise Error(f"{text}; {_restore(cluster, service, former, say)}") from None
    end = time.monotonic() + ROUTED
    while _unreachable(cluster, name) and time.monotonic() < end:
        time.sleep(0.5)
    endpoint = _endpoint(cluster, service, ready=True)
    _tag(annotations_of(service), f"{cluster.namespace}/{name}", say)
    if endpoint.reason:
        say(f"warning: {endpoint.reason}")
    say(f"{endpoint.model or name} version {version} serves at {endpoint.url} after {time.monotonic() - start:.0f} s")
    return endpoint


def _protect(cluster: Cluster, service: Object, say: Say) -> None:
    """Let drains of nodes take one replica at a time; without the right to say so, the model is served all the same."""
    try:
        cluster.apply(disruption_budget(service), force=True)
    except RefusedError as error:
        if service["spec"]["predictor"].get("minReplicas", 1) > 1:
            said = " ".join(str(error).split())
            say(f"warning: a drain of nodes may take all replicas at once, as there is no PodDisruptionBudget: {said}")


class TookOverError(Error):
    """Another version was deployed to the same endpoint meanwhile, and stays."""


class NotReadyError(Error):
    """A deployment does not become ready; the message continues a sentence that begins with "fraud version 3"."""


def _wait(cluster: Cluster, service: Object, seen: dict[str, Any], timeout: float, say: Say) -> None:
    """Wait until every pod of an InferenceService has the present spec and is ready.

    Raises:
        NotReadyError: the pods do not become ready in time, or for a reason that cannot change without action.
        TookOverError: another version was deployed meanwhile.
        Error: another client deleted the InferenceService meanwhile.
    """
    name, annotations = service["metadata"]["name"], annotations_of(service)
    least = service["spec"]["predictor"].get("minReplicas", 1)
    start, told, line, since = time.monotonic(), -SAY, "", {}
    reason: why.Reason | None = None
    while True:
        elapsed = time.monotonic() - start
        try:
            now = cluster.get("InferenceService", name)
            if now is None:
                raise Error(f"{name} was deleted while it was being deployed")
            if annotations_of(now).get(REVISION) != annotations[REVISION]:
                other = annotations_of(now).get(VERSION, "(unknown)")
                raise TookOverError(f"another deployment of {name} took over: version {other} is served or starts now")
            pods = _pods(cluster, name)
            new = [pod for pod in pods if annotations_of(pod).get(REVISION) == annotations[REVISION]]
            ready = [pod for pod in new if is_true(pod, "Ready")]
            if is_true(now, "Ready") and len(ready) == len(pods) >= least:
                return
            reason = None if len(ready) >= least else _reason(cluster, now, new, seen)
            text = f"{len(ready)} of {max(least, len(new))} pods ready with version {annotations[VERSION]}"
            if len(ready) >= least and len(ready) < len(pods):
                text += ", the former ones end"
            text += f": {_one_line(reason.text)}" if reason else ""
        except AwayError as error:
            text, reason = str(error), None
        if text != line or elapsed - told >= SAY:
            say(f"{elapsed:4.0f} s: {text}")
            line, told = text, elapsed
        kind = reason.text.partition(":")[0] if reason else ""
        since = {kind: since.get(kind, elapsed)}
        if reason and elapsed - since[kind] >= reason.patience:
            raise NotReadyError(f"does not start: {_one_line(str(reason))}")
        if elapsed > timeout:
            words = _one_line(str(reason)) if reason else text
            raise NotReadyError(f"is not ready after {elapsed:.0f} s: {words}; wait longer with --timeout")
        time.sleep(LOOK)


def _restore(cluster: Cluster, service: Object, former: Object | None, say: Say) -> str:
    """Undo a deployment that did not start; return what serves now."""
    name = service["metadata"]["name"]
    try:
        now = cluster.get("InferenceService", name)
        if now and annotations_of(now).get(REVISION) != annotations_of(service)[REVISION]:
            return f"another deployment took over: version {annotations_of(now).get(VERSION, '(unknown)')}"
        if former is None:
            _remove(cluster, now or service)
            return "it was taken away, nothing is served under that name"
        cluster.apply(applied(former), force=True)
    except Error as error:
        return f"taking it back failed too: {error}"
    version = annotations_of(former).get(VERSION, "(unknown)")
    serves = any(is_true(pod, "Ready") for pod in _pods(cluster, name))
    return f"version {version} goes on serving" if serves else f"version {version} is back, which was not ready"


def _remove(cluster: Cluster, service: Object) -> None:
    """Delete an InferenceService and its route, unless another deployment has made it anew.

    Raises:
        TookOverError: it has.
    """
    name, uid = service["metadata"]["name"], service["metadata"].get("uid", "")

    def route() -> Object | None:
        found = cluster.get("HTTPRoute", name) if platform.find("GATEWAY_NAME") else None
        owners = {each["uid"] for each in (found or {"metadata": {}})["metadata"].get("ownerReferences") or []}
        return found if found and owned(found) and owners <= {uid} else None

    try:
        cluster.delete("InferenceService", name, uid)
    except RefusedError as error:
        if error.status != 409:
            raise
        raise TookOverError(f"another deployment of {name} came in between, and stays") from None
    left = route()
    if left and not left["metadata"].get("ownerReferences"):  # made by hand; other routes are deleted with their owner
        cluster.delete("HTTPRoute", name, left["metadata"]["uid"])
    with contextlib.suppress(RefusedError):  # who may not read budgets made none
        budget = cluster.get("PodDisruptionBudget", f"{name}-predictor")
        if budget and owned(budget) and not budget["metadata"].get("ownerReferences"):
            cluster.delete("PodDisruptionBudget", f"{name}-predictor", budget["metadata"]["uid"])
    end = time.monotonic() + GONE
    while time.monotonic() < end:  # KServe lets go of it
        there = cluster.get("InferenceService", name)
        if (not there or there["metadata"]["uid"] != uid) and not route():
            return
        time.sleep(0.5)


# --- looking


def _served(cluster: Cluster, name: str, *, own: bool = True) -> Object:
    """The InferenceService of an endpoint.

    Raises:
        Error: there is no InferenceService, or with `own` another tool made it.
    """
    with cluster.told("read"):
        service = cluster.get("InferenceService", name)
        if not service:
            names = ", ".join(each["metadata"]["name"] for each in cluster.list("InferenceService")[:10])
            there = f"there are {names}" if names else "nothing is served there"
            raise Error(f"there is no endpoint {name} in namespace {cluster.namespace}; {there}")
    if own and not owned(service):
        raise Error(f"{name} in namespace {cluster.namespace} was not made by `iml4e deploy`: change it with kubectl")
    return service


def _endpoint(cluster: Cluster, service: Object, *, ready: bool = False) -> Endpoint:
    name, annotations = service["metadata"]["name"], annotations_of(service)
    reason = ""
    if not ready and not (ready := is_true(service, "Ready")):
        found = _reason(cluster, service, _pods(cluster, name), {})
        reason = _one_line(str(found)) if found else "it is being made"
    elif reason := _unreachable(cluster, name):
        ready = False
    base = platform.find("PUBLIC_URL") if platform.in_cluster() else platform.find("GATEWAY_URL")
    address = f"{base.rstrip('/')}/models/{cluster.namespace}/{name}"
    if not platform.find("GATEWAY_NAME") and platform.find("MODEL_SERVICE_ACCOUNT"):  # a release without a gateway
        address = f"http://{name}-predictor.{cluster.namespace}"
    url = f"{address}/v1/models/{name}:predict"
    model, version = annotations.get(MODEL, ""), annotations.get(VERSION, "")
    return Endpoint(name, cluster.namespace, model, version, ready, reason, url)


def _unreachable(cluster: Cluster, name: str) -> str:
    """Why the route of an endpoint leads nowhere; empty if it does not, or if this account may not look."""
    if not platform.find("GATEWAY_NAME"):
        return ""
    try:
        route = cluster.get("HTTPRoute", name)
    except RefusedError:
        return ""
    return unrouted(route) if route and owned(route) else ""


def _pods(cluster: Cluster, name: str) -> list[Object]:
    """Pods of an endpoint, without those that end or have ended."""
    pods = cluster.list("Pod", f"serving.kserve.io/inferenceservice={name}")
    return [
        pod
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") not in ("Failed", "Succeeded")
    ]


def _reason(cluster: Cluster, service: Object, pods: list[Object], seen: dict[str, Any]) -> why.Reason | None:
    """Why an InferenceService is not ready; events that were there before, in `seen`, are left out."""
    name, names = service["metadata"]["name"], {pod["metadata"]["name"] for pod in pods}
    waiting = next((pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == "Pending"), "")
    events = _warnings(cluster)
    if waiting:  # a node that is on its way is no warning
        events += _warnings(cluster, f"involvedObject.name={waiting},reason=TriggeredScaleUp")

    def about(event: Object) -> bool:
        kind, whose = event["involvedObject"]["kind"], event["involvedObject"]["name"]
        replica_set = kind == "ReplicaSet" and re.fullmatch(rf"{name}-predictor-[a-z0-9]+", whose)
        return whose in names or bool(replica_set) or (kind == "InferenceService" and whose == name)

    new = [e for e in events if about(e) and seen.get(e["metadata"]["uid"], 0) != e.get("count", 1)]
    return why.find(service, pods, new, lambda pod, container, before: cluster.log(pod, container, previous=before))


def _warnings(cluster: Cluster, about: str = "type=Warning") -> list[Object]:
    """Events of the namespace, the latest last; none without the right to read them."""
    try:
        events = cluster.request("GET", cluster.path("Event"), fieldSelector=about)["items"]
    except RefusedError:
        return []
    return sorted(events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _tag(annotations: dict[str, str], place: str, say: Say) -> None:
    """Tag the version that an endpoint serves in the registry, and untag the others."""
    model, version = annotations.get(MODEL), annotations.get(VERSION)
    if not (model and version):
        return
    try:
        registry.tag(model, version, **{TAG: place})
    except Exception as error:  # MLflow is away, or the version was deleted: what is served does not depend on it
        text = _one_line(str(error))[:200]
        say(f"warning: the registry does not know where {model} version {version} is served: {text}")
        return
    _untag(place, (model, version))


def _untag(place: str, served: tuple[str, str] = ("", "")) -> None:
    """Remove the tag of an endpoint from all versions but the served one."""
    with contextlib.suppress(Exception):  # as above
        for each in registry.client().search_model_versions(f"tags.`{TAG}` = '{place}'"):
            if (each.name, str(each.version)) != served:
                registry.tag(each.name, str(each.version), **{TAG: ""})


# --- without a kubeconfig or rights: through Kubeflow Pipelines


def _reach(namespace: str, say: Say) -> Cluster | None:
    """The namespace of an endpoint; None where this account may not change the endpoint but Kubeflow Pipelines can.

    Raises:
        Error: neither.
    """
    try:
        cluster = Cluster(namespace or platform.get("MODEL_NAMESPACE"))
        checks.allowed(cluster)
    except Error as error:
        if platform.in_cluster() or not _pipelines_answer():
            raise
        say(f"{error}: a pipeline does it")
        return None
    return cluster


def _pipelines_answer() -> bool:
    """Whether Kubeflow Pipelines answers; its own client needs half a minute to find out."""
    import requests

    try:
        answer = requests.get(f"{platform.get('KF_PIPELINES_ENDPOINT')}/apis/v2beta1/healthz", timeout=5)
        return answer.ok and isinstance(answer.json(), dict)
    except (Error, requests.RequestException, ValueError):
        return False


def _by_pipeline(function: str, arguments: Object) -> Any:
    """Call a function of this module in a pipeline of one step, with the rights of the release's runner.

    Raises:
        Error: the step failed, or Kubeflow Pipelines cannot be asked.
    """
    try:
        from kfp import dsl

        from iml4e.engines import embedding, kfp
    except ImportError:
        raise Error(
            "deploying through Kubeflow Pipelines needs its SDK: `pip install 'iml4e[pipelines]'`, or use a kubeconfig"
        ) from None

    def serve(function: str, arguments: str) -> str:
        import dataclasses
        import json

        from iml4e import serving

        answer = getattr(serving, function)(**json.loads(arguments))
        return json.dumps(dataclasses.asdict(answer) if answer else None)

    step = dsl.component(
        serve,
        base_image=platform.find("RUNTIME_IMAGE", "ghcr.io/mlflow/mlflow:v3.17.2-full"),
        packages_to_install=["kfp==2.17.0"],  # no download if the image has this version
        install_kfp_package=False,
        embedded_artifact_path=embedding.packed([serve]),
    )

    @dsl.pipeline(name=f"iml4e-{function}")
    def pipeline(function: str, arguments: str) -> None:
        step(function=function, arguments=arguments).set_caching_options(False)

    values = {"function": function, "arguments": json.dumps(arguments)}
    steps = kfp.run(platform.get("KF_PIPELINES_ENDPOINT"), pipeline, values)
    return json.loads(next(iter(steps.outputs["serve"].values())))
