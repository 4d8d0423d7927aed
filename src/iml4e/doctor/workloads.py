"""Pods, and what makes them: Deployments, StatefulSets, Jobs, CronJobs, volume claims, autoscalers."""

import re
from collections.abc import Iterable, Iterator

from iml4e import why
from iml4e.backup import BEFORE, MARK
from iml4e.cluster import Object, secrets_in_environment
from iml4e.doctor.faults import Finding
from iml4e.doctor.state import MODEL, MOST, RUN, State, age, is_ready, one_line, telling, troubled
from iml4e.manifests import annotations_of

#: Seconds in which a container may get ready before that is a finding of its own.
START = 60
#: Seconds after which an object that is being deleted is stuck.
GOING = 30
#: Restarts that are worth a word, and seconds since the last of them.
RESTARTS, RECENT = 3, 900

#: Who writes Secrets and restarts their readers: `iml4e rotate`, the Job that makes Secrets, `iml4e restore`.
WRITERS = {"iml4e-rotate", "iml4e-secrets", "iml4e-restore"}

#: Annotation of objects that Helm renders.
HELM = "meta.helm.sh/release-name"

#: Reasons with which a node ends a pod.
ENDED = {"Evicted", "NodeLost", "UnexpectedAdmissionError"}

#: How texts about models read for other pods.
WORDS = {
    "the model needs more memory": "it needs more memory",
    "its image cannot run the model server": "its image cannot run it",
    "its server ": "its program ",
    "no node takes its pod": "no node takes its pod",
}


def check(state: State) -> Iterator[Finding]:
    """Everything that runs pods, but the models."""
    asked = {
        f"{kind} {workload['metadata']['name']}": (
            lambda kind=kind, workload=workload: list(_workload(state, kind, workload))
        )
        for kind in ("Deployment", "StatefulSet", "DaemonSet")
        for workload in state.ours(kind)
        if MODEL not in (workload["metadata"].get("labels") or {})
    }
    found = state.together(asked, MOST)
    for name in asked:
        yield from found.get(name) or []
    yield from _jobs(state)
    yield from _loose(state)
    yield from _claims(state)
    for scaler in state.ours("HorizontalPodAutoscaler") + _of_models(state):
        yield from _autoscaler(state, scaler)


def _workload(state: State, kind: str, workload: Object) -> Iterator[Finding]:
    name, wanted = workload["metadata"]["name"], workload["spec"].get("replicas", 1)
    about = f"{kind} {name}"
    if kind != "DaemonSet" and wanted == 0:
        if BEFORE not in annotations_of(workload):  # else a restore stopped it
            yield state.finding("scaled-to-zero", about, "it has 0 replicas", object=f"{kind.lower()}/{name}")
        return
    makers = _makers(state, kind, workload)
    newest = makers[-1:] if kind == "Deployment" else makers
    pods = [pod for maker in newest for pod in state.owned_by("Pod", maker) if _lives(pod)]
    others = [pod for maker in makers[:-1] for pod in state.owned_by("Pod", maker) if is_ready(pod)]
    still = "; the former pods go on" if others else ""
    if not pods and kind != "DaemonSet":
        events = state.warnings(name, *(each["metadata"]["name"] for each in makers))
        refused = [each["message"] for each in events if each["reason"] == "FailedCreate"]
        refused += [
            each.get("message", "")
            for each in workload.get("status", {}).get("conditions") or []
            if each["type"] == "ReplicaFailure" and each["status"] == "True"
        ]
        if refused:
            yield refusal(state, about, f"{kind.lower()}/{name}", refused[-1], still)
        elif age(workload["metadata"]["creationTimestamp"]) > GOING:
            yield state.finding("refused", about, f"it has no pod{still}", object=f"{kind.lower()}/{name}")
        return
    for pod in sorted(pods, key=is_ready):
        if found := ailing(state, about, pod, still):
            yield found
            return  # one word for all replicas: they have the same template


def unread(state: State) -> Iterator[Finding]:
    """Secrets that somebody wrote after the containers started that have them in their environment."""
    # a Secret that Helm renders for this release keeps its content: an upgrade changes its labels alone
    others = [each for each in state.of("Secret") if annotations_of(each).get(HELM) != state.release]
    secrets = {each["metadata"]["name"]: each for each in others}
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        for workload in state.ours(kind):
            thing = f"{kind.lower()}/{workload['metadata']['name']}"
            pods = [pod for maker in _makers(state, kind, workload) for pod in state.owned_by("Pod", maker)]
            changed = {name: when for pod in pods if _lives(pod) for name, when in _changed_since(pod, secrets)}
            for name, when in changed.items():
                text = f"it was written {_span(age(when))} ago, and {thing} runs with what was in it before"
                yield state.finding("secret-unread", f"Secret {name}", text, object=thing)


def _changed_since(pod: Object, secrets: dict[str, Object]) -> Iterator[tuple[str, str]]:
    """Secrets in the environment of running containers that were written after these started, and when."""
    running = {each["name"]: each["state"].get("running") for each in pod["status"].get("containerStatuses") or []}
    for container in pod["spec"]["containers"]:
        began = (running.get(container["name"]) or {}).get("startedAt")
        for name, key in secrets_in_environment(container):
            fields = secrets.get(name, {"metadata": {}})["metadata"].get("managedFields") or []
            written = [each["time"] for each in fields if each.get("manager") not in WRITERS and _wrote(each, key)]
            if began and written and max(written) > began:  # of one format, whose order is that of the times
                yield name, max(written)


def _wrote(fields: Object, key: str) -> bool:
    """Whether an entry of managedFields is about a key of a Secret, or about any where the key is empty."""
    owned = fields.get("fieldsV1") or {}
    data = {**owned.get("f:data", {}), **owned.get("f:stringData", {})}
    return "time" in fields and (f"f:{key}" in data if key else bool(data))


def _makers(state: State, kind: str, workload: Object) -> list[Object]:
    """What owns the pods: ReplicaSets of a Deployment, the newest last, else the workload itself."""
    if kind != "Deployment":
        return [workload]
    sets = state.owned_by("ReplicaSet", workload)
    return sorted(sets, key=lambda each: int(annotations_of(each).get("deployment.kubernetes.io/revision", 0)))


def _lives(pod: Object) -> bool:
    return not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") not in ("Failed", "Succeeded")


def ailing(state: State, about: str, pod: Object, still: str = "") -> Finding | None:
    """Why a pod does not run, is not ready, or ends again and again; None if it is well."""
    name, events = pod["metadata"]["name"], state.warnings(pod["metadata"]["name"])
    if is_ready(pod):
        return _restarting(state, about, pod)
    reason = why.not_started(pod, events, lambda *which: telling(state.log(*which)))
    fields = {"pod": name, "container": _container(pod)}
    if reason:
        return state.finding(reason.kind, about, _plain(reason.text) + still, **fields)
    running = [each for each in _statuses(pod) if "running" in each.get("state", {}) and not each.get("ready")]
    if not running:
        if age(pod["metadata"].get("creationTimestamp")) < START:
            return None if still else state.finding("starting", about, "its pod is being made")
        return state.finding("mount", about, f"its pod is being made since {_minutes(pod)}{still}", **fields)
    container = running[0]
    began = container["state"]["running"].get("startedAt")
    probes = [each["message"] for each in events if each["reason"] == "Unhealthy"]
    said = f": {one_line(probes[-1])[:200]}" if probes else ""
    words = telling(state.log(name, container["name"], False))
    said += f"; its log says: {words}" if words else ""
    if age(began) < START and not (probes or troubled(words)):
        if still:
            return None
        return state.finding("starting", about, f"it runs since {age(began):.0f} s and is not ready{said}")
    return state.finding(
        "not-ready",
        about,
        f"{container['name']} runs since {_span(age(began))} and is not ready{said}{still}",
        **fields,
    )


def _restarting(state: State, about: str, pod: Object) -> Finding | None:
    """A pod that is ready, but one of whose containers ended for memory, or several times, a short while ago."""
    for status in _statuses(pod):
        ended = status.get("lastState", {}).get("terminated") or {}
        # Unknown: the container's machine or runtime ended
        if not ended or ended.get("reason") == "Unknown" or age(ended.get("finishedAt")) > RECENT:
            continue
        fields = {"pod": pod["metadata"]["name"], "container": status["name"]}
        ago = f"{_span(age(ended.get('finishedAt')))} ago"
        if ended.get("reason") == "OOMKilled":
            limit = why.limit_of(pod, status["name"])
            text = f"{status['name']} needed more memory than its limit{f' of {limit}' if limit else ''} {ago}"
            return state.finding("memory", about, text, **fields)
        if status.get("restartCount", 0) >= RESTARTS and ended.get("exitCode"):
            words = telling(state.log(pod["metadata"]["name"], status["name"], True))
            text = f"{status['name']} restarted {status['restartCount']} times, the last time {ago}, exit code {ended['exitCode']}"
            return state.finding("restarts", about, text + (f": {words}" if words else ""), **fields)
    return None


def refusal(state: State, about: str, thing: str, message: str, still: str = "") -> Finding:
    """A pod that the API server does not let in."""
    reason = why.not_created(message)
    return state.finding(reason.kind, about, reason.text + still, object=thing)


def _jobs(state: State) -> Iterator[Finding]:
    crons = {cron["metadata"]["uid"]: cron for cron in state.ours("CronJob")}
    last: dict[str, Object] = {}
    loose = []
    for job in sorted(state.of("Job"), key=lambda each: each["metadata"]["creationTimestamp"]):
        owners = [each["uid"] for each in job["metadata"].get("ownerReferences") or [] if each["uid"] in crons]
        if owners and _done(job):
            last[owners[0]] = job
        elif owners or state.is_ours(job):
            loose.append(job)
    for uid, cron in crons.items():
        name = cron["metadata"]["name"]
        notes = annotations_of(cron)
        if backup := notes.get(MARK):
            said = f"half of backup {backup} is restored, and MLflow and Kubeflow Pipelines stay stopped"
            yield state.finding("restore-unfinished", f"CronJob {name}", said, name=backup)
        if cron["spec"].get("suspend") and BEFORE not in notes:
            yield state.finding("cron-job-suspended", f"CronJob {name}", "it is suspended", name=name)
        if (job := last.get(uid)) and (failed := _failed(state, job)):
            yield state.finding("cron-job", f"CronJob {name}", failed, name=name, job=job["metadata"]["name"])
    for job in loose:
        name = job["metadata"]["name"]
        if failed := _failed(state, job):
            yield state.finding("job", f"Job {name}", failed, name=name)
        elif not _done(job):
            pods = [pod for pod in state.owned_by("Pod", job) if _lives(pod)]
            refused = [each["message"] for each in state.warnings(name) if each["reason"] == "FailedCreate"]
            if not pods and refused:
                yield refusal(state, f"Job {name}", f"job/{name}", refused[-1])
            for pod in pods[:1]:  # a Job is never ready: only what keeps it from running counts
                log = lambda *which: telling(state.log(*which))  # noqa: E731
                if reason := why.not_started(pod, state.warnings(pod["metadata"]["name"]), log):
                    fields = {"pod": pod["metadata"]["name"], "container": _container(pod)}
                    yield state.finding(reason.kind, f"Job {name}", _plain(reason.text), **fields)


def _done(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    return any(each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in conditions)


def _failed(state: State, job: Object) -> str:
    """Why a Job failed: its condition, and the last word of its last pod."""
    conditions = job.get("status", {}).get("conditions") or []
    failed = [each for each in conditions if each["type"] == "Failed" and each["status"] == "True"]
    if not failed:
        return ""
    text = f"it failed ({failed[0].get('reason', '')})"
    pods = sorted(state.owned_by("Pod", job), key=lambda pod: pod["metadata"]["creationTimestamp"])
    for pod in pods[-1:]:
        if reason := why.not_started(pod, [], lambda *which: telling(state.log(*which))):
            text += f": {_plain(reason.text)}"
    return text


def _loose(state: State) -> Iterator[Finding]:
    """Pods that were evicted, that stay although they are deleted, or that belong to nothing."""
    for pod in state.ours("Pod"):
        name, status = pod["metadata"]["name"], pod["status"]
        gone = pod["metadata"].get("deletionTimestamp")
        if gone and age(gone) > GOING:
            holds = pod["metadata"].get("finalizers")
            text = f"it is being deleted since {_span(age(gone))}"
            text += f", finalizer {', '.join(holds)} holds it" if holds else ""
            yield state.finding("terminating", f"Pod {name}", text, object=f"pod/{name}")
        elif status.get("phase") == "Failed" and status.get("reason") in ENDED:
            text = f"it was ended ({status['reason']}): {status.get('message', '')}"
            yield state.finding("evicted", f"Pod {name}", text, pod=name)
        elif RUN in (pod["metadata"].get("labels") or {}) and status.get("phase") == "Pending":
            reason = why.not_started(pod, state.warnings(name), state.log)
            if reason and reason.kind not in ("exit", "signal"):
                run = pod["metadata"]["labels"][RUN]
                yield state.finding("run-waits", f"Run {run}", f"it waits: {_plain(reason.text)}", pod=name)
        elif _lives(pod) and not pod["metadata"].get("ownerReferences"):
            yield from filter(None, [ailing(state, f"Pod {name}", pod)])


def _claims(state: State) -> Iterator[Finding]:
    used = {
        volume["persistentVolumeClaim"]["claimName"]: pod
        for pod in state.of("Pod")
        for volume in pod["spec"].get("volumes") or []
        if "persistentVolumeClaim" in volume
    }
    for claim in state.of("PersistentVolumeClaim"):
        name, phase = claim["metadata"]["name"], claim.get("status", {}).get("phase")
        if not (state.is_ours(claim) or (name in used and state.is_ours(used[name]))):
            continue
        if phase == "Lost":
            text = f"its volume {claim['spec'].get('volumeName', '')} is gone"
            yield state.finding("claim-lost", f"PersistentVolumeClaim {name}", text, name=name)
        elif phase == "Pending":
            told = [each["message"] for each in state.warnings(name)]
            if not told:
                events = [e for e in state.of("Event") if e["involvedObject"].get("name") == name]
                waits = any(e["reason"] == "WaitForFirstConsumer" for e in events)
                if waits or age(claim["metadata"]["creationTimestamp"]) < START:
                    continue  # its pod's own reason is the reason
                told = [e["message"] for e in events]
            said = f": {telling(told[-1])}" if told else ""
            text = f"no volume is made for storage class {claim['spec'].get('storageClassName') or '(none)'}{said}"
            yield state.finding(
                "claim", f"PersistentVolumeClaim {name}", text, object=f"{_maker(state, name)}pvc/{name}"
            )


def _maker(state: State, claim: str) -> str:
    """The StatefulSet of a claim, which would make the same claim again, as a word for kubectl; empty: somebody made the claim."""
    for each in state.of("StatefulSet"):
        name = each["metadata"]["name"]
        for template in each["spec"].get("volumeClaimTemplates") or []:
            if re.fullmatch(re.escape(f"{template['metadata']['name']}-{name}-") + r"\d+", claim):
                return f"statefulset/{name} "
    return ""


def _of_models(state: State) -> list[Object]:
    models = {f"{each['metadata']['name']}-predictor" for each in state.of("InferenceService")}
    return [
        each
        for each in state.of("HorizontalPodAutoscaler")
        if each["spec"]["scaleTargetRef"]["name"] in models and not state.is_ours(each)
    ]


def _autoscaler(state: State, scaler: Object) -> Iterator[Finding]:
    name, target = scaler["metadata"]["name"], scaler["spec"]["scaleTargetRef"]["name"]
    scaled = [each for each in state.of("Deployment") if each["metadata"]["name"] == target]
    if any(not each.get("status", {}).get("readyReplicas") for each in scaled):
        return  # its pods' own reason is the reason
    for each in scaler.get("status", {}).get("conditions") or []:
        if each["type"] != "ScalingActive" or each["status"] != "False" or each.get("reason") == "ScalingDisabled":
            continue
        # pods that start have no metrics yet
        if "missing request" in each.get("message", "") or age(each.get("lastTransitionTime")) > 3 * START:
            text = f"it cannot scale: {each.get('message', each.get('reason', ''))}"
            yield state.finding("autoscaler", f"HorizontalPodAutoscaler {name}", text[:400], name=name)


def _statuses(pod: Object) -> list[Object]:
    status = pod["status"]
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _container(pod: Object) -> str:
    """The container that is not well, or the first."""
    ill = [each["name"] for each in _statuses(pod) if not each.get("ready")]
    done = {
        each["name"] for each in _statuses(pod) if (each.get("state", {}).get("terminated") or {}).get("exitCode") == 0
    }
    left = [name for name in ill if name not in done]
    return (left or [pod["spec"]["containers"][0]["name"]])[0]


def _plain(text: str) -> str:
    """A reason of why.py in words for any pod."""
    for model, other in WORDS.items():
        text = text.replace(model, other)
    return re.sub(r"^its extra packages", "its packages", text)


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


def _minutes(thing: Object) -> str:
    return _span(age(thing["metadata"].get("creationTimestamp")))


def pods_of(state: State, kinds: Iterable[str]) -> Iterator[tuple[str, Object]]:
    """A running pod of each workload, with the workload's kind and name."""
    for kind in kinds:
        for workload in state.ours(kind):
            for maker in _makers(state, kind, workload)[-1:]:
                running = [pod for pod in state.owned_by("Pod", maker) if pod["status"].get("phase") == "Running"]
                if running:
                    yield f"{kind} {workload['metadata']['name']}", max(running, key=is_ready)
