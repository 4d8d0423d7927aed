"""The release on its cluster: kubectl, helm, workloads and pods, and waiting until everything is Ready again."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from scripts.common import console

Object = dict[str, Any]
MODEL_LABEL = "serving.kserve.io/inferenceservice"
KINDS = ("deployment", "statefulset", "daemonset")


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet or DaemonSet."""

    kind: str
    name: str
    part: str
    """Part of the release, or the name of the model."""
    replicas: int
    selector: str

    @property
    def path(self) -> str:
        """As kubectl writes it."""
        return f"{self.kind}/{self.name}"


def _workload(item: Object) -> Workload:
    labels = item["metadata"].get("labels", {})
    selector = ",".join(f"{key}={value}" for key, value in item["spec"]["selector"]["matchLabels"].items())
    part = labels.get(MODEL_LABEL) or labels.get("app.kubernetes.io/component", item["metadata"]["name"])
    return Workload(item["kind"].lower(), item["metadata"]["name"], part, item["spec"].get("replicas", 1), selector)


def _up_to_date(item: Object) -> bool:
    status, spec = item.get("status", {}), item["spec"]
    if status.get("observedGeneration") != item["metadata"]["generation"]:
        return False
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled")
        return wanted == status.get("numberReady") == status.get("updatedNumberScheduled")
    wanted = spec.get("replicas", 1)
    return {status.get(f"{which}eplicas", 0) for which in ("r", "readyR", "updatedR")} == {wanted}


def pod_is_ready(pod: Object) -> bool:
    """Whether a pod is Ready."""
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class Release:
    """A release of the chart."""

    def __init__(self, name: str, namespace: str, url: str) -> None:
        """Remember which; nothing is asked yet."""
        self.name, self.namespace, self.url = name, namespace, url

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 90) -> str:
        """Run kubectl in the release's namespace and return what it prints."""
        command = ["kubectl", "--namespace", self.namespace, "--request-timeout=20s", *words]
        return console.run(command, stdin=stdin, timeout=timeout)

    def get(self, *words: str) -> list[Object]:
        """Objects that kubectl gets; of one object, a list of it."""
        found = json.loads(self.kubectl("get", *words, "--output", "json") or "{}")
        return found["items"] if found.get("kind", "").endswith("List") else [found]

    def helm(self, *words: str, timeout: float = 420) -> str:
        """Run helm with the release's namespace and return what it prints."""
        return console.run(["helm", *words, "--namespace", self.namespace], timeout=timeout)

    def values(self) -> Object:
        """All values of the release."""
        return json.loads(self.helm("get", "values", self.name, "--all", "--output", "json"))

    def revision(self) -> tuple[int, str]:
        """The release's present revision, and its status."""
        found = json.loads(self.helm("status", self.name, "--output", "json"))
        return found["version"], found["info"]["status"]

    def _items(self) -> list[Object]:
        """Workloads of the release's parts and of models."""
        found = self.get(",".join(KINDS))
        return [
            item
            for item in found
            if (labels := item["metadata"].get("labels", {})).get("app.kubernetes.io/instance") == self.name
            or MODEL_LABEL in labels
        ]

    def workloads(self) -> list[Workload]:
        """Workloads of the release's parts and of models, those with no replica left out."""
        return [each for each in map(_workload, self._items()) if each.replicas]

    def parts(self) -> dict[str, list[Workload]]:
        """Workloads of each part, without models."""
        found: dict[str, list[Workload]] = {}
        for item in self._items():
            if MODEL_LABEL not in item["metadata"]["labels"] and (each := _workload(item)).replicas:
                found.setdefault(each.part, []).append(each)
        return found

    def pods(self, selector: str) -> list[Object]:
        """Pods that a selector picks, those that end included."""
        return self.get("pods", "--selector", selector)

    def running(self, selector: str) -> list[Object]:
        """Ready pods that a selector picks and that do not end.

        Raises:
            console.Failure: there is none.
        """
        found = [pod for pod in self.pods(selector) if pod_is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
        if not found:
            raise console.Failure(f"No pod of {selector} is Ready.")
        return found

    def unsettled(self) -> str:
        """What is not up to date and Ready, or still ends; empty if nothing is."""
        items = self._items()
        found = [f"{item['kind']}/{item['metadata']['name']}" for item in items if not _up_to_date(item)]
        for pod in self.get("pods"):
            owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences", [])}
            if owners & {"ReplicaSet", "StatefulSet", "DaemonSet"}:
                ends = "deletionTimestamp" in pod["metadata"]
                if ends or not pod_is_ready(pod):
                    found.append(f"Pod/{pod['metadata']['name']}{' (ends)' if ends else ''}")
        return ", ".join(found)

    def settle(self, seconds: float = 180) -> None:
        """Wait until all workloads are up to date and Ready and no pod of them is left that ends.

        Raises:
            console.Failure: they are not, after so many seconds.
        """
        deadline, last = time.monotonic() + seconds, "the API server does not answer"
        while time.monotonic() < deadline:
            try:
                if not (last := self.unsettled()):
                    return
            except console.Failure as failure:  # the API server may be away
                last = failure.what
            time.sleep(1)
        raise console.Failure(
            f"Not Ready again after {seconds:.0f} s: {last}.", f"kubectl --namespace {self.namespace} get pods"
        )
