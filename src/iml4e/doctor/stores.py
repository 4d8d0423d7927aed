"""Store, database and volumes, as a pod of the release reaches them: a small program runs in it and prints what it finds."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iml4e import platform
from iml4e.cluster import AwayError, Object, RefusedError
from iml4e.doctor.faults import Finding
from iml4e.doctor.foundations import DISK
from iml4e.doctor.state import MOST, State
from iml4e.doctor.workloads import pods_of

#: Seconds that a command in a pod may take.
COMMAND = 11.0
#: Used share of a volume that is told; the alert on volumes has the same limit.
FULL = 0.9
#: Seconds by which a node's clock may differ.
SKEW = 15


def stores(state: State) -> Iterator[Finding]:
    """Database and buckets, from every workload that has MLflow's settings."""
    pods = [
        (about, pod, container)
        for about, pod in pods_of(state, ("Deployment", "StatefulSet"))
        for container in pod["spec"]["containers"]
        if "MLFLOW_BACKEND_STORE_URI" in {each["name"] for each in container.get("env") or []}
        and any(
            s["name"] == container["name"] and "running" in s.get("state", {})
            for s in pod["status"].get("containerStatuses") or []
        )
    ]
    if not pods:
        if any(each["metadata"]["name"] == f"{state.release}-mlflow" for each in state.ours("Deployment")):
            state.skip("S3 store and database", "no pod of MLflow runs, from which to ask them")
        return
    keys = _keys(state)
    program = Path(__file__).with_name("probe.py").read_text()

    def ask(number: int) -> dict[str, Any]:
        about, pod, container = pods[number]
        first = about == f"Deployment {state.release}-mlflow"
        line = json.dumps(keys if first else {}) + "\n"
        said = execute(state, pod["metadata"]["name"], container["name"], ["python", "-c", program], line)
        found = [text for text in said.splitlines() if text.startswith("{")]
        return json.loads(found[-1]) if found else {}

    asked = {
        f"S3 store and database from {about}": (lambda number=number: ask(number))
        for number, (about, _, _) in enumerate(pods)
    }
    answers = state.together(asked, MOST)
    for check, (about, pod, container) in zip(asked, pods, strict=True):
        answer = answers.get(check)
        if not answer:
            state.skip(check, "the program in the pod printed nothing")
            continue
        yield from _told(state, about, pod, container, answer)


def _told(state: State, about: str, pod: Object, container: Object, answer: dict[str, Any]) -> Iterator[Finding]:
    name = pod["metadata"]["name"]
    if answer.get("dns"):
        text = f"its pod resolves no name, not even kubernetes.default.svc: {answer['dns']}"
        yield state.finding("dns-of-pod", about, text, pod=name, object=about)
        return
    behind = answer.get("time", time.time()) - time.time()
    if abs(behind) > SKEW:
        text = f"the clock of node {pod['spec'].get('nodeName')} differs from this machine's by {abs(behind):.0f} s"
        yield state.finding("clock", about, text)
    secrets = {
        each["name"]: each["valueFrom"]["secretKeyRef"]["name"]
        for each in container["env"]
        if (each.get("valueFrom") or {}).get("secretKeyRef")
    }
    for which, found in answer.items():
        if not isinstance(found, dict) or "fault" not in found:
            continue
        if which == "database":
            secret = secrets.get("DATABASE_PASSWORD", f"{state.release}-db-mlflow")
            place = f"database {found['database']} at {found['host']}:{found['port']}"
        else:
            secret = which if which != "own" else secrets.get("AWS_ACCESS_KEY_ID", f"{state.release}-s3-mlflow")
            place = f"bucket {found['bucket']} at {found['endpoint']} with the key of Secret {secret}"
        value = "global.database.host" if which == "database" else "global.s3.endpoint"
        text = f"it cannot use {place}: {found['error']}"
        yield state.finding(
            found["fault"],
            about if which in ("own", "database") else f"Secret {which}",
            text,
            name=secret,
            value=value,
            bucket=found.get("bucket", ""),
        )


def _keys(state: State) -> dict[str, Any]:
    """Keys of models and runs, with the bucket that each must reach; only those that this account may read."""
    wanted = {platform.find("JOB_S3_SECRET"): platform.find("S3_PIPELINES_BUCKET")}
    if account := platform.find("MODEL_SERVICE_ACCOUNT"):
        try:
            found = state.cluster.get("ServiceAccount", account) or {}
            wanted |= {each["name"]: platform.find("S3_MLFLOW_BUCKET") for each in found.get("secrets") or []}
        except RefusedError as error:
            state.skip("S3 key of models", state.why_not(error))
    keys = {}
    for name, bucket in wanted.items():
        try:
            data = (
                state.cluster.request("GET", f"/api/v1/namespaces/{state.namespace}/secrets/{name}").get("data") or {}
                if name
                else {}
            )
        except RefusedError as error:
            if error.status != 404:
                state.skip(f"S3 key in Secret {name}", state.why_not(error))
            continue
        if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= data.keys():
            plain = {key: base64.b64decode(value).decode() for key, value in data.items()}
            keys[name] = {"bucket": bucket, "key": plain["AWS_ACCESS_KEY_ID"], "secret": plain["AWS_SECRET_ACCESS_KEY"]}
    return keys


def execute(state: State, pod: str, container: str, command: list[str], line: str = "") -> str:
    """Run a command in a pod and return what it prints.

    Raises:
        RefusedError: this account may not, or the pod does not take it.
        AwayError: there is no answer.
    """
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream import stream

    try:
        api = client.CoreV1Api(client.ApiClient(state.cluster.api.configuration))  # of its own: `stream` changes it
        channel = stream(
            api.connect_get_namespaced_pod_exec, pod, state.namespace, container=container, command=command,
            stdin=bool(line), stdout=True, stderr=False, tty=False, _preload_content=False, _request_timeout=5,
        )  # fmt: skip
    except ApiException as error:
        words = str(error.reason or error)
        denied = "403" in words or error.status == 403
        raise RefusedError(
            "this account may not create pods/exec" if denied else words[:200], 403 if denied else error.status or 500
        ) from None
    except OSError as error:
        raise AwayError(str(error)) from None
    if line:
        channel.write_stdin(line)
    said, end = "", min(time.monotonic() + COMMAND, state.end)
    while channel.is_open() and time.monotonic() < end:
        channel.update(timeout=1)
        if channel.peek_stdout():
            said += channel.read_stdout()
    channel.close()
    return said


# --- volumes


def volumes(state: State) -> Iterator[Finding]:
    """Used space of volumes and of the nodes' disks, by the kubelet, or by `df` in the pod.

    A volume that is a folder of a node's disk is told with the node: a larger claim would not give it more space.
    """
    used: dict[str, tuple[float, float, float]] = {}
    disks = set()
    nodes = {pod["spec"].get("nodeName") for pod in state.ours("Pod")} - {None}
    asked = {
        f"used space of volumes on node {node}": (lambda node=node: _summary(state, node)) for node in sorted(nodes)
    }
    for check, summary in state.together(asked).items():
        if not summary:
            continue
        node, disk = check.rpartition(" ")[2], summary["node"].get("fs") or {}
        disks.add(disk.get("capacityBytes"))
        taken, free = disk.get("usedBytes", 0), disk.get("availableBytes", 1)
        if taken / max(1, taken + free) > DISK:
            text = f"its disk is {taken / (taken + free):.0%} full, {_size(free)} are free"
            yield state.finding("node-disk", f"Node {node}", text, name=node)
        for pod in summary.get("pods") or []:
            for volume in pod.get("volume") or []:
                claim = volume.get("pvcRef") or {}
                if claim.get("namespace") == state.namespace and volume.get("capacityBytes"):
                    size = volume["capacityBytes"]
                    used[claim["name"]] = (size - volume.get("availableBytes", 0), size, size)
    mine = {
        claim: (pod, volume)
        for pod in state.ours("Pod")
        for claim, volume in _claimed(pod)
        if pod["status"].get("phase") == "Running"
    }
    rest = {
        f"used space of claim {claim}": (lambda each=each: _df(state, *each))
        for claim, each in mine.items()
        if claim not in used
    }
    for check, found in state.together(rest).items():
        if found:
            used[check.rpartition(" ")[2]] = found
    for claim, (taken, whole, size) in sorted(used.items()):
        if claim in mine and size not in disks and taken / max(1, whole) >= FULL:
            text = f"it is {taken / whole:.0%} full: {_size(whole - taken)} of {_size(whole)} are free"
            yield state.finding(
                "volume-full", f"PersistentVolumeClaim {claim}", text, name=claim, larger=_size(whole * 2)
            )


def _claimed(pod: Object) -> Iterator[tuple[str, str]]:
    for volume in pod["spec"].get("volumes") or []:
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            yield claim, volume["name"]


def _summary(state: State, node: str) -> Any:
    return state.cluster.request("GET", f"/api/v1/nodes/{node}/proxy/stats/summary")


def _df(state: State, pod: Object, volume: str) -> tuple[float, float, float] | None:
    """Used space of a volume by `df`, used and free space, and the file system's size; None where the image lacks the program."""
    for container in pod["spec"]["containers"]:
        for mount in container.get("volumeMounts") or []:
            if mount["name"] == volume:
                said = execute(state, pod["metadata"]["name"], container["name"], ["df", "-Pk", mount["mountPath"]])
                fields = said.strip().splitlines()[-1].split() if said.strip() else []
                if len(fields) >= 6 and all(field.isdigit() for field in fields[1:4]):
                    size, taken, free = (int(field) * 1024 for field in fields[1:4])
                    return taken, taken + free, size
    return None


def _size(count: float) -> str:
    for unit, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if count >= size:
            return f"{count / size:.0f}{unit}"
    return f"{count:.0f}"
