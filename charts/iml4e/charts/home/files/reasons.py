"""Why a workload or a model is not ready: one sentence, from its conditions and pods as the Kubernetes API gives them."""

from __future__ import annotations

import re
from typing import Any

Object = dict[str, Any]

#: Longest text of others in a sentence.
LONGEST = 300


def one_line(text: str) -> str:
    """Text of others in one line, without control characters."""
    plain = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(plain.split())[:LONGEST].rstrip(" .")


def is_true(thing: Object, kind: str) -> bool:
    """Whether a condition is true."""
    return any(each["type"] == kind and each["status"] == "True" for each in conditions(thing))


def conditions(thing: Object) -> list[Object]:
    """The conditions of an object."""
    return (thing.get("status") or {}).get("conditions") or []


def alive(pods: list[Object]) -> list[Object]:
    """Pods that do not end and have not ended."""
    return [
        pod
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")
    ]


def workload(thing: Object, pods: list[Object]) -> str:
    """Why a Deployment or StatefulSet is not ready; empty if it is. Only its own pods count."""
    wanted = thing["spec"].get("replicas", 1)
    ready = thing.get("status", {}).get("readyReplicas", 0)
    if wanted == 0:
        return "it is scaled to 0 replicas"
    if ready >= wanted:
        return ""
    labels = thing["spec"]["selector"].get("matchLabels", {})
    own = [pod for pod in alive(pods) if labels.items() <= (pod["metadata"].get("labels") or {}).items()]
    failed = [each.get("message", "") for each in conditions(thing) if each["type"] == "ReplicaFailure"]
    count = f"{ready} of {wanted} pods are ready"
    reason = of_pods(own) or refused(failed[0] if failed else "") or ("" if own else "its pod is not made yet")
    return f"{count}: {reason}" if reason else count


def model(service: Object, pods: list[Object] | None) -> str:
    """Why an InferenceService is not ready; empty if it is. `pods`: None where they may not be read."""
    if is_true(service, "Ready"):
        return ""
    said = [each.get("message", "") for each in conditions(service) if each["status"] == "False"]
    told = next((refused(each) for each in said if each), "")
    own = alive(pods or [])
    if not own and is_true(service, "Stopped"):
        return "it is stopped"
    if any(is_true(pod, "Ready") for pod in own) and (reason := of_pods(own)):
        return f"{sum(is_true(pod, 'Ready') for pod in own)} of {len(own)} pods are ready: {reason}"
    return of_pods(own) or told or ("its pod is not made yet" if pods == [] else "it is starting")


def refused(message: str) -> str:
    """What the API server said of a pod that it did not let in."""
    return one_line(re.sub(r'^(.*?Error creating: )?(pods "[^"]*" is forbidden: )?', "", message, flags=re.DOTALL))


def of_pods(pods: list[Object]) -> str:
    """Why pods are not ready: the first reason that somebody can act on, else what they are doing."""
    waiting = [pod for pod in pods if not is_true(pod, "Ready")]
    found = [reason for pod in waiting if (reason := of_pod(pod))]
    return next((text for text, final in found if final), found[0][0] if found else "")


def of_pod(pod: Object) -> tuple[str, bool] | None:
    """Why a pod is not ready, and whether it needs somebody."""
    status = pod.get("status") or {}
    for each in conditions(pod):
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"no node takes its pod: {one_line(each.get('message', '').partition('preemption:')[0])}", True
    going = ""
    for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state, last = each.get("state") or {}, (each.get("lastState") or {}).get("terminated") or {}
        wait, name = state.get("waiting") or {}, each["name"]
        ended = state.get("terminated") or last
        if each.get("ready") or (state.get("terminated") or {}).get("exitCode") == 0:
            continue
        if ended and ended.get("reason") == "OOMKilled":
            return f"container {name} needs more memory than its limit", True
        if ended and (wait or "terminated" in state):
            words = one_line(ended.get("message") or "").split("\n")[-1]
            return f"container {name} ends with exit code {ended.get('exitCode')}{f': {words}' if words else ''}", True
        kind = wait.get("reason", "")
        if kind not in ("", "ContainerCreating", "PodInitializing"):
            return f"container {name} does not start: {one_line(wait.get('message') or kind)}", True
        going = going or (f"container {name} runs and is not ready yet" if "running" in state else "")
    return going or "its containers are being made", False
