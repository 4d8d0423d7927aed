"""Why a pod or model does not start: one sentence, from conditions, events, container states and the ended container's log.

Everything here works on objects as the Kubernetes API gives them.
"""

import math
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Log = Callable[[str, str, bool], str]
"""Reads a log: pod, container, whether of the instance before the present one."""

# Seconds that a reason may last before a deployment gives up.
AT_ONCE = 0.0
#: A refusal by quota, policy or Pod Security: only a change of the request or of the rule helps. Two looks, not one.
REFUSED = 5.0
#: An image, a ConfigMap, a Secret: the kubelet tries again after 10 s, in case the registry failed for a moment.
MISSING = 12.0
#: No node fits: longer where pods that end free CPU or memory, short where no node has the label or the device.
NO_ROOM, NO_NODE = 60.0, 10.0
#: A webhook that does not answer restarts, most of the time.
WEBHOOK = 60.0
#: Errors of KServe's own work, which KServe repeats after conflicts.
KSERVE = 10.0
#: Waits on: only the deployment's own timeout ends the wait.
GOES_ON = math.inf
#: Starts after which a container that ends with an unknown exit code is given up: the first may meet a store that restarts.
STARTS = 3


@dataclass(frozen=True)
class Reason:
    """Why a model or another pod is not ready."""

    text: str
    cure: str = ""
    """The next step; empty if there is none to name."""
    patience: float = GOES_ON
    """Seconds that it may last before it counts as final."""
    kind: str = ""
    """Name of the reason, the same for models and other pods: `iml4e doctor` has a row for each."""

    def __str__(self) -> str:
        return f"{self.text}; {self.cure}" if self.cure else self.text


def find(service: Object, pods: list[Object], events: list[Object], log: Log) -> Reason | None:
    """Find why an InferenceService is not ready, the most exact reason first.

    Args:
        service: the InferenceService.
        pods: its pods of the wanted version.
        events: warnings about it, its ReplicaSets and these pods, the latest last.
        log: reads a container's log.
    """
    for pod in sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True):
        about = [event for event in events if event["involvedObject"]["name"] == pod["metadata"]["name"]]
        if reason := not_started(pod, about, log):
            return reason
    refused = [event["message"] for event in events if event["reason"] == "FailedCreate"]
    conditions = service.get("status", {}).get("conditions", [])
    refused += [each.get("message", "") for each in conditions if each.get("reason") == "FailedCreate"]
    if refused and not pods:
        return not_created(refused[-1])
    return _kserve(service, pods, events) or (_running(pods[-1], log) if pods else None)


def not_started(pod: Object, events: list[Object], log: Log) -> Reason | None:
    """Why a pod does not run: a container that ended or cannot be started, or no node. None if it runs or starts.

    Args:
        pod: of a model or of anything else; the cures are those of a model.
        events: warnings about it, the latest last.
        log: reads a container's log.
    """
    return _ended(pod, log) or _waiting(pod, events) or _unscheduled(pod, events)


def last_line(text: str) -> str:
    """The last line with content, without the name of the program at its start."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return (
        re.sub(r"^((model_server|fetch)(\.py)?: )?(cannot load the model in \S+: )?", "", lines[-1])[:400].rstrip(" .")
        if lines
        else ""
    )


def _statuses(pod: Object) -> Iterable[Object]:
    return [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]


def _ended(pod: Object, log: Log) -> Reason | None:
    """A container that ended: exit code or signal, and the last log line."""
    for status in _statuses(pod):
        now, before = status.get("state", {}).get("terminated"), status.get("lastState", {}).get("terminated")
        ended = now or before
        if status.get("ready") or not ended:
            continue
        container, code = status["name"], ended.get("exitCode", 0)
        words = last_line(ended.get("message", "")) or last_line(
            log(pod["metadata"]["name"], container, ended is not now)
        )
        said = f": {words}" if words else ""
        if ended.get("reason") == "OOMKilled":
            limit = limit_of(pod, container)
            text = f"the model needs more memory than its limit{f' of {limit}' if limit else ''}"
            return Reason(text, "deploy it with a larger --memory-limit", AT_ONCE, "memory")
        if ended.get("reason") in ("StartError", "ContainerCannotRun"):
            words = words.rpartition("unable to start container process: ")[2]
            text = f"its image cannot run the model server: {words}"
            return Reason(text, "an image must hold Python and mlflow", AT_ONCE, "start")
        if container == "storage-initializer":
            text = f"its files cannot be fetched{said or f' (exit code {code})'}"
            return Reason(text, "", AT_ONCE if code == 3 else _tries(status), "model-files")
        if code == 3:
            missing = re.search(r"No module named '([\w.]+)'", words)
            module = missing[1].split(".")[0] if missing else ""
            cure = f"add it with --packages {module}, log the model with code_paths, or use --image" if module else ""
            return Reason(f"the model cannot be loaded{said}", cure, AT_ONCE, "model-load")
        if code == 4:
            text = f"its extra packages cannot be installed{said}"
            return Reason(text, "correct --packages, or use --image", AT_ONCE, "model-packages")
        if code > 128:
            name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else str(code - 128)
            cure = "a model that another Python or other package versions pickled can do that: use an --image that has them"
            return Reason(f"its server was ended by signal {name}{said}", cure, _tries(status), "signal")
        return Reason(f"its server ends with exit code {code}{said}", "", _tries(status), "exit")
    return None


def _tries(status: Object) -> float:
    ends = status.get("restartCount", 0) + ("running" not in status.get("state", {}))
    return AT_ONCE if ends >= STARTS else GOES_ON


def limit_of(pod: Object, container: str) -> str:
    """Memory limit of a container; empty if it has none."""
    found = [each for each in pod.get("spec", {}).get("containers", []) if each["name"] == container]
    return found[0].get("resources", {}).get("limits", {}).get("memory", "") if found else ""


def _waiting(pod: Object, events: list[Object]) -> Reason | None:
    """A container that cannot be started."""
    for status in _statuses(pod):
        waiting = status.get("state", {}).get("waiting") or {}
        kind, message = waiting.get("reason", ""), waiting.get("message", "")
        if kind in ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"):
            message = message.partition("ErrImagePull: ")[2] or message
            cure = "check --image, and the pull secrets of the service account of models"
            return Reason(f"its image cannot be pulled: {message}", cure, MISSING, "image")
        if kind in ("InvalidImageName", "ErrImageNeverPull"):
            return Reason(f"its image cannot be used: {message or kind}", "check --image", AT_ONCE, "image-name")
        if kind.endswith("Error"):  # CreateContainerConfigError, CreateContainerError, RunContainerError
            return Reason(f"its container cannot be made: {message or kind}", "", MISSING, "container")
    mounts = [event["message"] for event in events if event["reason"] in ("FailedMount", "FailedAttachVolume")]
    if mounts and not any("running" in status.get("state", {}) for status in _statuses(pod)):
        return Reason(f"a volume cannot be mounted: {last_line(mounts[-1])}", "", MISSING, "mount")
    return None


def _unscheduled(pod: Object, events: list[Object]) -> Reason | None:
    """A pod that no node takes."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] != "PodScheduled" or condition["status"] != "False":
            continue
        message = re.split(r",? ?preemption:|no new claims to deallocate", condition.get("message", ""))[0].strip(" .,")
        lacking = set(re.findall(r"Insufficient ([\w./-]+)", message))
        passing = bool(lacking) and lacking <= {"cpu", "memory", "pods", "ephemeral-storage"}
        cure = "ask for less with --cpu and --memory, or free some" if passing else (
            "check --node-selector and --toleration" if not lacking else "no node has one free: check --gpu"
        )  # fmt: skip
        grows = any(event["reason"] == "TriggeredScaleUp" for event in events)
        patience = GOES_ON if grows else NO_ROOM if passing else NO_NODE
        kind = "no-room" if passing else "no-device" if lacking else "no-node"
        if "persistentvolumeclaim" in message.lower():
            kind, cure = "no-claim", "look at that volume claim"
        return Reason(f"no node takes its pod: {message}", cure, patience, kind)
    return None


def not_created(message: str) -> Reason:
    """A pod that the API server does not let in."""
    message = re.sub(r'^(.*?Error creating: )?(pods "[^"]*" is forbidden: )?', "", message, flags=re.DOTALL)
    if "failed calling webhook" in message:
        return Reason(f"its pod cannot be made: {message}", "look after that webhook's pods", WEBHOOK, "webhook")
    cure, kind = "", "refused"
    if "must specify" in message:
        kind = "quota-limits"
        options = {"limits.cpu": "--cpu-limit", "limits.memory": "--memory-limit", "requests.cpu": "--cpu"}
        options["requests.memory"] = "--memory"
        needed = [flag for name, flag in options.items() if re.search(rf"\b{re.escape(name)}\b", message)]
        cure = f"deploy it with {' and '.join(needed)}, or have the release upgraded with values/quota.yaml"
    elif "exceeded quota" in message:
        kind, cure = "quota", "ask for less with --cpu, --memory and --replicas, or have the quota raised"
    elif "violates PodSecurity" in message:
        kind, cure = "security", "the runtime or --image asks for rights that the namespace does not give"
    elif re.search("denied (the )?request", message):
        kind, cure = "policy", "ask the administrator of that policy"
    elif "error looking up service account" in message:
        kind, cure = "account", "make that service account; docs/serving.md, 'Other namespaces', has the steps"
    elif "PriorityClass" in message:
        kind = "priority"
    elif "minimum" in message or "maximum" in message:
        kind, cure = "limit-range", "the namespace has a LimitRange: choose --cpu, --memory and their limits within it"
    return Reason(f"its pod is refused: {message}", cure, REFUSED, kind)


def _kserve(service: Object, pods: list[Object], events: list[Object]) -> Reason | None:
    """An error of KServe itself."""
    name = service["metadata"]["name"]
    said = [
        e["message"] for e in events if e["involvedObject"]["kind"] == "InferenceService" and e["type"] == "Warning"
    ]
    for condition in service.get("status", {}).get("conditions", []):
        if condition["status"] == "False" and condition.get("reason") == "ReconcileFailed":
            said.append(condition.get("message", ""))
    said = [message for message in said if "the object has been modified" not in message]
    status = service.get("status", {}).get("modelStatus", {})
    if not said and not pods and status.get("transitionStatus") == "InvalidSpec":
        # an object that had 25 events gets one in five minutes: defaultSpamBurst in client-go, tools/record
        failure = status.get("lastFailureInfo", {})
        runtime = service.get("spec", {}).get("predictor", {}).get("model", {}).get("runtime", "")
        about = f" (ServingRuntime {runtime})" if runtime else ""
        said = [f"{failure.get('reason', 'InvalidSpec')}: {failure.get('message', '')}{about}"]
    if not said:
        return None
    invalid = rf'^.*Deployment.apps "{name}-predictor" is invalid: (spec\.template\.spec\.)?'
    message = re.sub(invalid, "", said[-1]).removeprefix("fails to reconcile predictor: ").replace("containers[0].", "")
    cure = ""
    if limit := re.search(r"must be less than or equal to (cpu|memory) limit", message):
        cure = f"deploy it with --{limit[1]}-limit as well"
    elif "no more than 63 characters" in message:
        cure = "choose a shorter --name"
    elif "runtime" in message.lower():
        cure = "check --runtime"
    return Reason(f"KServe cannot serve it: {message}", cure, KSERVE, "model-kserve")


def _running(pod: Object, log: Log) -> Reason:
    """Nothing is wrong yet: what the pod is doing."""
    for status in _statuses(pod):
        if "running" in status.get("state", {}) and not status.get("ready"):
            if status["name"] == "storage-initializer":
                return Reason("its files are being fetched", kind="starting")
            words = last_line(log(pod["metadata"]["name"], status["name"], False))
            text = "its server runs and is not ready" + (f"; its log ends with: {words}" if words else "")
            return Reason(text, kind="not-ready")
    return Reason("its containers are being made", kind="starting")
