"""What the doctor reads: objects of the release with the rights of this account, all lists at once, each with a time limit."""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from iml4e import Error
from iml4e.cluster import AwayError, Cluster, Object, RefusedError
from iml4e.doctor.faults import FAULTS, Finding
from iml4e.manifests import annotations_of

T = TypeVar("T")
#: Seconds of one answer, and of everything: a dead platform takes two or three answers, only a busy one needs more.
ANSWER, ALL = 5.0, 40.0
#: Questions about pods at the same time.
MOST = 8
NAMES = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Asks for names and labels alone: contents of Secrets stay in the cluster."""
RUN = "workflows.argoproj.io/workflow"
MODEL = "serving.kserve.io/inferenceservice"

#: Kinds that are read for every check: path below the API's root.
LISTS = {
    "Pod": "api/v1/namespaces/{}/pods",
    "Event": "api/v1/namespaces/{}/events",
    "Service": "api/v1/namespaces/{}/services",
    "PersistentVolumeClaim": "api/v1/namespaces/{}/persistentvolumeclaims",
    "Deployment": "apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "apis/apps/v1/namespaces/{}/statefulsets",
    "DaemonSet": "apis/apps/v1/namespaces/{}/daemonsets",
    "ReplicaSet": "apis/apps/v1/namespaces/{}/replicasets",
    "Job": "apis/batch/v1/namespaces/{}/jobs",
    "CronJob": "apis/batch/v1/namespaces/{}/cronjobs",
    "HorizontalPodAutoscaler": "apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "InferenceService": "apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices",
    "HTTPRoute": "apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes",
    "Gateway": "apis/gateway.networking.k8s.io/v1/namespaces/{}/gateways",
    "Workflow": "apis/argoproj.io/v1alpha1/namespaces/{}/workflows",
    "Node": "api/v1/nodes",
    "GatewayClass": "apis/gateway.networking.k8s.io/v1/gatewayclasses",
    "MutatingWebhookConfiguration": "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "Secret": "api/v1/namespaces/{}/secrets",
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
}  # fmt: skip
ONLY_NAMES = {"Secret", "ConfigMap"}


class State:
    """Objects of a release, and the checks that could not be made."""

    def __init__(self, release: str, namespace: str, cluster: Cluster, objects: dict[str, list[Object]]) -> None:
        self.release, self.namespace, self.cluster, self.objects = release, namespace, cluster, objects
        self.end = time.monotonic() + ALL
        self.unchecked: dict[str, str] = {}
        """What could not be checked, and why."""
        self.absent: set[str] = set()
        """Kinds that the API server does not know."""
        self.space: Object = {"metadata": {}}
        """The namespace, as far as this account may read it."""

    @classmethod
    def read(cls, release: str, namespace: str) -> "State":
        """Read all lists at once.

        Raises:
            Error: Kubernetes does not answer, does not know this account, or has no such namespace.
        """
        start = time.monotonic()
        state = cls(release, namespace, Cluster(namespace, patience=ANSWER, tries=0), {})
        state.end = start + ALL
        state._knock()
        paths = {kind: "/" + path.format(namespace) for kind, path in LISTS.items()}
        read = state.together({kind: (lambda kind=kind: state._list(kind, paths[kind])) for kind in paths})
        state.objects = {kind: read.get(kind) or [] for kind in paths}
        state._refuse_nothing()
        return state

    def _refuse_nothing(self) -> None:
        """A report about nothing would say `healthy`."""
        if why := self.unchecked.get("Pods"):
            raise Error(
                f"nothing can be said about namespace {self.namespace}: {why}; the ClusterRole view suffices for most checks"
            )
        kinds = ("Deployment", "StatefulSet", "Pod", "Service", "Secret")
        parts = [each for kind in kinds for each in self.of(kind) if self._is_part(each)]
        if not parts and not any(f"{kind}s" in self.unchecked for kind in kinds[:4]):
            if "deletionTimestamp" in self.space["metadata"]:
                return  # which is told
            key = "app.kubernetes.io/instance"
            others = {(each["metadata"].get("labels") or {}).get(key) for each in self.of("Deployment")} - {None}
            there = f"there is {names(sorted(others))}" if others else "the namespace has no release"
            raise Error(
                f"there is no release {self.release} in namespace {self.namespace}: {there}; `helm list -A` has all"
            )

    def _knock(self) -> None:
        """Find out whether the API server answers at all."""
        host = self.cluster.api.configuration.host
        try:
            self.space = self.cluster.request("GET", f"/api/v1/namespaces/{self.namespace}")
        except AwayError as error:
            raise Error(f"{error}; check KUBECONFIG, VPN and `kubectl version`") from None
        except RefusedError as error:
            if error.status == 401:
                raise Error(
                    f"Kubernetes at {host} does not know this account: its token or certificate ended; get a new kubeconfig"
                ) from None
            if error.status == 404:
                raise Error(
                    f"there is no namespace {self.namespace} at {host}; name the release with --release and --namespace, "
                    "`helm list -A` has both"
                ) from None
            if error.status >= 500:
                raise Error(f"Kubernetes at {host} does not work: {error}; look at its control plane") from None

    def _list(self, kind: str, path: str) -> list[Object]:
        try:
            names = {"accept": NAMES} if kind in ONLY_NAMES else {}
            return self.cluster.request("GET", path, limit=2000, **names)["items"]
        except RefusedError as error:
            if error.status == 404:
                self.absent.add(kind)
            else:
                self.skip(f"{kind}s", self.why_not(error))
        except AwayError:
            self.skip(f"{kind}s", f"Kubernetes did not answer within {ANSWER:.0f} s")
        return []

    def together(self, asked: dict[str, Callable[[], T]], most: int = 100) -> dict[str, T | None]:
        """Call functions at the same time; those that do not end in time are left out, and those that fail."""
        found: dict[str, T | None] = {}
        places = threading.Semaphore(most)

        def call(name: str, function: Callable[[], T]) -> None:
            try:
                with places:
                    found[name] = function()
            except RefusedError as error:
                found[name] = None
                self.skip(name, self.why_not(error))
            except AwayError:
                found[name] = None
                self.skip(name, f"no answer within {ANSWER:.0f} s")
            except Error as error:
                self.skip(name, one_line(str(error)))
            except Exception as error:  # one check that fails must not hide what the others find
                if os.environ.get("IML4E_DEBUG"):
                    raise
                self.skip(name, f"{type(error).__name__}: {one_line(str(error))[:150]}; IML4E_DEBUG=1 shows where")

        threads = [threading.Thread(target=call, args=each, daemon=True) for each in asked.items()]
        for thread in threads:
            thread.start()
        for thread, name in zip(threads, asked, strict=True):
            thread.join(max(0.05, self.end - time.monotonic()))
            if thread.is_alive():
                self.skip(name, "it took too long")
        return dict(found)

    def skip(self, check: str, reason: str) -> None:
        """Note a check that cannot be made."""
        self.unchecked.setdefault(check, reason)

    def why_not(self, error: RefusedError) -> str:
        """A refusal as a reason: the missing right, in the words of an administrator."""
        text = " ".join(str(error).split())
        if right := re.search(
            r"cannot (\w+) resource \"([\w./-]+)\" in API group \"([\w.-]*)\"( in the namespace)?", text
        ):
            where = f" in namespace {self.namespace}" if right[4] else " of the cluster"
            return f"this account may not {right[1]} {right[2]}{where}"
        return text[:200]

    # --- objects

    def of(self, kind: str) -> list[Object]:
        """Objects of a kind in the namespace of the release, of the release or not."""
        return self.objects.get(kind, [])

    def ours(self, kind: str) -> list[Object]:
        """Objects of a kind that belong to the release."""
        return [each for each in self.of(kind) if self.is_ours(each)]

    def is_ours(self, thing: Object) -> bool:
        """Whether an object belongs to the release, one of its models, or one of its runs."""
        labels = thing["metadata"].get("labels") or {}
        return self._is_part(thing) or bool({MODEL, RUN, "serving.kserve.io/inferencegraph"} & labels.keys())

    def _is_part(self, thing: Object) -> bool:
        """Whether an object bears the name of the release."""
        label = (thing["metadata"].get("labels") or {}).get("app.kubernetes.io/instance")
        return self.release in (label, annotations_of(thing).get("meta.helm.sh/release-name"))

    def has(self, kind: str, name: str) -> bool | None:
        """Whether an object exists; None if this account may not see objects of its kind."""
        if f"{kind}s" in self.unchecked:
            return None
        return any(each["metadata"]["name"] == name for each in self.of(kind))

    def owned_by(self, kind: str, owner: Object) -> list[Object]:
        """Objects of a kind whose controller is another object."""
        return [each for each in self.of(kind) if owner["metadata"]["uid"] in _owners(each)]

    def warnings(self, *names: str) -> list[Object]:
        """Warnings about objects, the latest last."""
        events = [
            event
            for event in self.of("Event")
            if event["involvedObject"].get("name") in names and event.get("type") == "Warning"
        ]
        return sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    def log(self, pod: str, container: str, before: bool) -> str:
        """The last lines of a container, the line that tells most last."""
        try:
            text = self.cluster.log(pod, container, previous=before, lines=30)
        except AwayError:
            return ""
        return text if isinstance(text, str) else ""

    # --- findings

    def finding(self, fault: str, about: str, problem: str, **names: str) -> Finding:
        """A finding with the cure of its row."""
        known = {"release": self.release, "namespace": self.namespace, "other": self.namespace} | names
        return Finding(fault, about, one_line(problem), FAULTS[fault].cure.format(**known))


def telling(text: str) -> str:
    """The line of a log that tells most: the last one with a word of trouble among the last, else the last."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    telling = [line for line in lines[-15:] if troubled(line)]
    line = (telling or lines or [""])[-1]
    with contextlib.suppress(ValueError, AttributeError):  # a log of JSON: its message and error
        said = json.loads(line)
        line = ": ".join(str(said[key]) for key in ("msg", "message", "error", "err") if said.get(key)) or line
    return one_line(line)[:300].rstrip(" .")


def troubled(line: str) -> bool:
    """Whether a line of a log speaks of trouble."""
    words = (
        r"\w*error|fatal|panic|denied|refused|cannot|can't|could not|unable|failed|no such|not found|invalid|unknown"
    )
    return bool(re.search(rf"(?i)\b({words})\b", line))


def one_line(text: str) -> str:
    """Text without line breaks, and without passwords in addresses."""
    return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:***@", " ".join(text.split()))


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def age(stamp: str | None) -> float:
    """Seconds since a time of the API; 0 without one."""
    if not stamp:
        return 0.0
    return (datetime.now(UTC) - datetime.fromisoformat(stamp.replace("Z", "+00:00"))).total_seconds()


def _owners(thing: Object) -> set[str]:
    return {each["uid"] for each in thing["metadata"].get("ownerReferences") or []}


def names(things: list[Any], most: int = 4) -> str:
    """A list of names, shortened."""
    rest = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(map(str, things[:most])) + rest
