"""The live cluster: the only file that uses the Kubernetes clients. A wait that fails reports the time and the last state."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError
from kubernetes.stream import stream
from pytest_helm_charts.clusters import ExistingCluster

from support.helm import NAMESPACE

T = TypeVar("T")
Object = dict[str, Any]
WORKLOADS = {"Deployment": "deployment", "StatefulSet": "stateful_set", "DaemonSet": "daemon_set"}


class NoClusterError(Exception):
    """There is no cluster to talk to."""


def kubeconfig() -> Path | None:
    """Where the cluster's address is: KUBECONFIG, or the place where kubectl looks by default."""
    candidates = [*os.environ.get("KUBECONFIG", "").split(":"), str(Path.home() / ".kube" / "config")]
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


class Cluster:
    """A namespace of a cluster, seen from outside."""

    def __init__(self, config: Path, namespace: str = NAMESPACE) -> None:
        """Connect; a cluster that does not answer is an error here and not in the first test."""
        self.namespace = namespace
        self.config = config
        # pytest-helm-charts' own handle, for its waits
        self.pykube = ExistingCluster(str(config)).create()
        api = kubernetes.config.new_client_from_config(str(config))
        self.core = kubernetes.client.CoreV1Api(api)
        self.apps = kubernetes.client.AppsV1Api(api)
        self.batch = kubernetes.client.BatchV1Api(api)
        self._plain = api.sanitize_for_serialization
        try:
            self.version = kubernetes.client.VersionApi(api).get_code(_request_timeout=10).git_version
            self._dynamic = DynamicClient(api)
        except Exception as error:
            raise NoClusterError(f"The cluster of {config} does not answer; `make up` heals it. {error}") from error

    # --- reading

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """An object of any kind, or None."""
        resource = self._dynamic.resources.get(api_version=api_version, kind=kind)
        where = {"namespace": namespace or self.namespace} if resource.namespaced else {}
        try:
            return resource.get(name=name, **where).to_dict()
        except NotFoundError:
            return None

    def list(self, api_version: str, kind: str, selector: str = "", namespace: str | None = None) -> list[Object]:
        """Objects of any kind."""
        resource = self._dynamic.resources.get(api_version=api_version, kind=kind)
        where = {"namespace": namespace or self.namespace} if resource.namespaced else {}
        return resource.get(label_selector=selector, **where).to_dict()["items"]

    def has(self, api_version: str, kind: str) -> bool:
        """Whether the API server knows a kind."""
        return bool(self._dynamic.resources.search(api_version=api_version, kind=kind))

    def pods(self, selector: str = "") -> list[Object]:
        """Pods of the namespace, the ones that are going away left out."""
        pods = self._plain(self.core.list_namespaced_pod(self.namespace, label_selector=selector).items)
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def secret(self, name: str) -> dict[str, str]:
        """A Secret, decoded."""
        data = self.core.read_namespaced_secret(name, self.namespace).data or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def read(self, path: str) -> Any:
        """GET of a path of the API server, such as the metrics API."""
        return self._dynamic.request("get", path).to_dict()

    def logs(self, pod: str, *, lines: int = 20, container: str | None = None, previous: bool = False) -> str:
        """The last lines that a pod wrote; what hinders them stands in their place."""
        try:
            # as it was written: a preloaded answer turns JSON into Python
            answer = self.core.read_namespaced_pod_log(
                pod, self.namespace, container=container, tail_lines=lines, previous=previous, _preload_content=False
            )
            return answer.data.decode(errors="replace")
        except ApiException as error:
            return f"(no log: {error.reason})"

    def events(self, kind: str, name: str) -> list[str]:
        """What was said about an object."""
        selector = f"involvedObject.kind={kind},involvedObject.name={name}"
        return [
            event.message for event in self.core.list_namespaced_event(self.namespace, field_selector=selector).items
        ]

    def describe(self, selector: str = "") -> str:
        """Pods that are not done, the ends of the logs of those not Ready, and the latest warnings: for messages."""
        text = []
        for pod in self.pods(selector):
            name = pod["metadata"]["name"]
            if pod["status"].get("phase") == "Succeeded":
                continue
            text.append(f"pod {name}: {_state(pod)}")
            if not is_ready(pod):
                for container in _troubled(pod):
                    text += [f"  {container} | {line}" for line in self.logs(name, container=container).splitlines()]
        events = self.core.list_namespaced_event(self.namespace, field_selector="type!=Normal").items
        events.sort(key=lambda event: str(event.last_timestamp or event.event_time or ""))
        text += [f"event {e.involved_object.kind}/{e.involved_object.name}: {e.message}" for e in events[-12:]]
        return "\n".join(text)

    # --- waiting

    def wait(
        self, what: str, ask: Callable[[], T | None], seconds: float, *, selector: str = "", pause: float = 1
    ) -> T:
        """Ask until the answer is true; the failure says what was waited for, how long, and what the pods look like."""
        end = time.monotonic() + seconds
        trouble: Exception | None = None
        while True:
            try:
                if answer := ask():
                    return answer
            except (ApiException, OSError) as error:
                trouble = error
            if time.monotonic() > end:
                why = f"\nlast error: {trouble}" if trouble else ""
                raise AssertionError(f"Waited {seconds:.0f} s in vain for {what}.{why}\n{self.describe(selector)}")
            time.sleep(pause)

    def workload(self, kind: str, name: str) -> Object:
        """A Deployment, StatefulSet or DaemonSet."""
        return self._plain(getattr(self.apps, f"read_namespaced_{WORKLOADS[kind]}")(name, self.namespace))

    def is_ready(self, kind: str, name: str) -> bool:
        """Whether a workload runs what it should, up to date and Ready."""
        workload = self.workload(kind, name)
        status, wanted = workload.get("status", {}), workload["spec"].get("replicas", 1)
        settled = status.get("observedGeneration") == workload["metadata"]["generation"]
        counts = {status.get(f"{count}eplicas", 0) for count in ("r", "readyR", "updatedR")}
        return settled and counts == {wanted}

    def wait_ready(self, kind: str, name: str, seconds: float = 120) -> None:
        """Wait until a workload is Ready."""
        labels = self.workload(kind, name)["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        self.wait(f"{kind}/{name} to be Ready", lambda: self.is_ready(kind, name), seconds, selector=selector)

    # --- changing

    def apply(self, *things: Object) -> None:
        """Apply objects as `kubectl apply --server-side` does."""
        for thing in things:
            resource = self._dynamic.resources.get(api_version=thing["apiVersion"], kind=thing["kind"])
            where = {"namespace": thing["metadata"].get("namespace", self.namespace)} if resource.namespaced else {}
            resource.server_side_apply(
                body=thing, name=thing["metadata"]["name"], field_manager="iml4e-tests", force_conflicts=True, **where
            )

    def delete(self, api_version: str, kind: str, name: str) -> None:
        """Delete an object; one that is gone already is fine."""
        resource = self._dynamic.resources.get(api_version=api_version, kind=kind)
        with contextlib.suppress(NotFoundError):
            resource.delete(name=name, namespace=self.namespace, body={"propagationPolicy": "Background"})

    def kill(self, pod: str) -> None:
        """End a pod without a grace period. Not by a forced deletion, after which two pods could share a volume for a moment."""
        self.core.delete_namespaced_pod(pod, self.namespace, grace_period_seconds=1)

    def replace(self, selector: str) -> None:
        """Kill all pods that a selector picks, and wait until others are Ready in their place."""
        killed = {pod["metadata"]["uid"] for pod in self.pods(selector)}
        assert killed, f"nothing to kill: {selector}"
        for pod in self.pods(selector):
            self.kill(pod["metadata"]["name"])

        def replaced() -> bool:
            now = self.pods(selector)
            return bool(now) and all(pod["metadata"]["uid"] not in killed and is_ready(pod) for pod in now)

        self.wait(f"new pods of {selector} to be Ready", replaced, 120, selector=selector)

    def exec(self, pod: str, *command: str, container: str | None = None) -> str:
        """Run a command in a pod and return what it printed."""
        where = {"container": container} if container else {}
        answer = stream(
            self.core.connect_get_namespaced_pod_exec, pod, self.namespace, command=[*command],
            stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False, **where,
        )  # fmt: skip
        # as it was printed: a preloaded answer turns JSON into Python
        answer.run_forever()
        return answer.read_all()

    def run_job(self, job: Object, seconds: float = 180) -> tuple[bool, str]:
        """Run a Job to its end and clean it away: whether it succeeded, and what it printed."""
        name = job["metadata"]["name"]
        selector = f"job-name={name}"
        self.batch.create_namespaced_job(self.namespace, job)

        def ended() -> str | None:
            conditions = self.batch.read_namespaced_job(name, self.namespace).status.conditions or []
            return next((c.type for c in conditions if c.type in ("Complete", "Failed") and c.status == "True"), None)

        try:
            outcome = self.wait(f"Job/{name} to end", ended, seconds, selector=selector)
            output = "\n".join(self.logs(pod["metadata"]["name"], lines=1000) for pod in self.pods(selector))
            return outcome == "Complete", output
        finally:
            self.delete("batch/v1", "Job", name)

    # --- kubectl

    def _kubectl(self, *words: str) -> list[str]:
        program = os.environ.get("KUBECTL") or shutil.which("kubectl")
        if not program:
            raise NoClusterError(
                "No kubectl found: install kubectl, set KUBECTL to its path, or run `make up` on a bare machine, which brings one."
            )
        return [program, "--kubeconfig", str(self.config), "--namespace", self.namespace, *words]

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the namespace; a failure fails the test unless `check` is false."""
        command = self._kubectl(*words)
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        return done

    # --- reaching in

    @contextlib.contextmanager
    def port_forward(self, target: str, port: int) -> Iterator[int]:
        """Forward a free port of 127.0.0.1 to a port of a pod or Service; yields the local one."""
        command = self._kubectl("port-forward", "--address", "127.0.0.1", target, f":{port}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout
                said = process.stdout.readline()
                if not (match := re.search(r"127\.0\.0\.1:(\d+)", said)):
                    raise AssertionError(f"kubectl port-forward {target} {port}: {said}{process.stdout.read()}")
                yield int(match.group(1))
            finally:
                process.terminate()


def is_ready(pod: Object) -> bool:
    """Whether a pod is Ready."""
    conditions = pod["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _statuses(pod: Object) -> list[Object]:
    return [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]


def _state(pod: Object) -> str:
    """One line about a pod: its phase, and what each container that is not well waits for."""
    parts = ["Ready" if is_ready(pod) else pod["status"].get("phase", "?")]
    for status in _statuses(pod):
        if restarts := status.get("restartCount"):
            parts.append(f"{status['name']} restarted {restarts} times")
        for word in ("waiting", "terminated"):
            if (state := status.get("state", {}).get(word)) and state.get("reason") != "Completed":
                parts.append(f"{status['name']} {state.get('reason')}: {state.get('message', '')}".rstrip(": "))
    return ", ".join(parts)


def _troubled(pod: Object) -> list[str]:
    """Containers of a pod that did not come up; those that were never started have no log to read."""
    started = [s for s in _statuses(pod) if s.get("restartCount") or "waiting" not in s.get("state", {})]
    return [s["name"] for s in started if s.get("state", {}).get("terminated", {}).get("reason") != "Completed"]
