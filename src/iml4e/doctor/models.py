"""Served models, and runs that no controller takes."""

from collections.abc import Iterator

from iml4e import platform, why
from iml4e.cluster import Object
from iml4e.doctor.faults import Finding
from iml4e.doctor.foundations import CRDS
from iml4e.doctor.state import MODEL as LABEL
from iml4e.doctor.state import MOST, State, age, is_ready, one_line
from iml4e.manifests import MODEL, VERSION, annotations_of, is_true, owned, unrouted

#: Seconds after which an object without a status has no controller.
UNSEEN = 20


def check(state: State) -> Iterator[Finding]:
    """Models of the release's namespace, and its runs."""
    if "InferenceService" in state.absent and platform.find("MODEL_NAMESPACE"):
        text = "the cluster does not know this kind, and the release serves models"
        yield state.finding("crd-missing", "CRD InferenceService", text, crds=CRDS["serving.kserve.io"])
    asked = {
        f"Model {service['metadata']['name']}": (lambda service=service: list(_model(state, service)))
        for service in state.of("InferenceService")
    }
    found = state.together(asked, MOST)
    for name in asked:
        yield from found.get(name) or []
    for workflow in state.of("Workflow"):
        if not workflow.get("status", {}).get("phase") and age(workflow["metadata"]["creationTimestamp"]) > UNSEEN:
            name = workflow["metadata"]["name"]
            yield state.finding("run-unseen", f"Run {name}", "no controller has taken it", name=name)


def _model(state: State, service: Object) -> Iterator[Finding]:
    name, annotations = service["metadata"]["name"], annotations_of(service)
    about = f"Model {name}"
    if gone := service["metadata"].get("deletionTimestamp"):
        if age(gone) > UNSEEN:
            holds = ", ".join(service["metadata"].get("finalizers") or [])
            text = f"it is being deleted since {age(gone):.0f} s, finalizer {holds} holds it"
            yield state.finding("terminating", about, text, object=f"inferenceservice/{name}")
        return
    if is_true(service, "Stopped"):  # on purpose
        return
    decided = [each for each in service.get("status", {}).get("conditions") or [] if each["status"] != "Unknown"]
    pods, newest = _pods(state, name)
    lacking = [pod for pod in newest if not is_ready(pod)]
    ready = is_true(service, "Ready")
    # KServe leaves the pods of the former spec, and `Ready`, as they are
    refused = service.get("status", {}).get("modelStatus", {}).get("transitionStatus") == "InvalidSpec"
    if not ready or lacking or not newest or refused:
        sets = [
            each["metadata"]["name"]
            for each in state.of("ReplicaSet")
            if each["metadata"]["name"].startswith(f"{name}-predictor-")
        ]
        events = state.warnings(name, *sets, *(pod["metadata"]["name"] for pod in newest))
        reason = why.find(service, lacking, events, state.log)
        serving = [pod for pod in pods if is_ready(pod) and (refused or pod not in newest)]
        if reason and serving:
            old = {annotations_of(pod).get(VERSION, "") for pod in serving} - {""}
            new = annotations.get(VERSION, "(unknown)")
            change = "its changed InferenceService" if old == {new} else f"version {new}"
            text = f"version {' and '.join(sorted(old)) or '(unknown)'} goes on, {change} does not start: {reason.text}"
            yield state.finding("model-old", about, text, name=name)
        elif reason:
            yield _finding(state, about, service, lacking, reason)
        elif not decided and not sets:
            if age(service["metadata"]["creationTimestamp"]) > UNSEEN:
                yield state.finding("model-unseen", about, "no KServe controller has taken it", name=name)
        elif not ready:
            said = [each.get("message", "") for each in decided if each["status"] == "False"]
            text = f"KServe says that it is not ready{f': {said[-1]}' if any(said) else ''}"
            yield state.finding("model-kserve", about, text, name=name)
    if ready:
        yield from _route(state, about, name, annotations)


def _pods(state: State, name: str) -> tuple[list[Object], list[Object]]:
    """Pods of a model, and those of its newest ReplicaSet."""
    pods = [
        pod
        for pod in state.of("Pod")
        if (pod["metadata"].get("labels") or {}).get(LABEL) == name
        and not pod["metadata"].get("deletionTimestamp")
        and pod["status"].get("phase") not in ("Failed", "Succeeded")
    ]
    sets = [each for each in state.of("ReplicaSet") if (each["metadata"].get("labels") or {}).get(LABEL) == name]
    if not sets:
        return pods, pods
    newest = max(sets, key=lambda each: int(annotations_of(each).get("deployment.kubernetes.io/revision", 0)))
    return pods, [pod for pod in pods if newest in _makers(state, pod)]


def _makers(state: State, pod: Object) -> list[Object]:
    owners = {each["uid"] for each in pod["metadata"].get("ownerReferences") or []}
    return [each for each in state.of("ReplicaSet") if each["metadata"]["uid"] in owners]


def _finding(state: State, about: str, service: Object, pods: list[Object], reason: why.Reason) -> Finding:
    """A model's own reason, with the command that deploys it otherwise."""
    name, annotations = service["metadata"]["name"], annotations_of(service)
    text = one_line(reason.text)
    model = f"{annotations.get(MODEL, 'MODEL')}/{annotations.get(VERSION, 'VERSION')}"
    pod = pods[-1]["metadata"]["name"] if pods else ""
    fields = {
        "name": name,
        "model": model,
        "pod": pod,
        "object": f"inferenceservice/{name}",
        "container": "kserve-container",
    }
    found = state.finding(reason.kind or "not-ready", about, text, **fields)
    if reason.kind.startswith("model-") or not reason.cure:
        return found
    again = (
        f"iml4e deploy {model} --name {name}"
        if owned(service)
        else f"kubectl -n {state.namespace} edit inferenceservice {name}"
    )
    return Finding(reason.kind, about, text, f"{reason.cure}: {again}")


def _route(state: State, about: str, name: str, annotations: dict[str, str]) -> Iterator[Finding]:
    if not platform.find("GATEWAY_NAME"):
        return
    routes = [each for each in state.of("HTTPRoute") if each["metadata"]["name"] == name and owned(each)]
    for route in routes:
        if said := unrouted(route):
            model = f"{annotations.get(MODEL, 'MODEL')}/{annotations.get(VERSION, 'VERSION')}"
            yield state.finding("model-unreachable", about, said, name=name, model=model)
