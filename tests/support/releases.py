"""A second release, in a namespace with rules of its own, beside the one that all tests share."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from support import helm
from support.k8s import Cluster
from support.objects import kind_and_name

Object = dict[str, Any]
MODELS = ("serving.kserve.io/v1beta1", "InferenceService")
#: Fits beside the first release: it has the cluster's one KServe and the NodePort, and this one asks for little CPU.
SMALL: dict[str, Any] = {
    "kserve": {"controller": {"enabled": False}, "runtimes": {"mlflow": {"resources": {"requests": {"cpu": "10m"}}}}},
    "gateway": {"service": {"type": "ClusterIP"}, "resources": {"requests": {"cpu": "10m"}}},
    "pipelines": {"enabled": False},
    "prometheus": {"kubelet": {"enabled": False}, "resources": {"requests": {"cpu": "10m"}}},
    "grafana": {"enabled": False},
    "minio": {"resources": {"requests": {"cpu": "10m"}}},
    "mariadb": {"resources": {"requests": {"cpu": "10m"}}},
    "mlflow": {"resources": {"requests": {"cpu": "10m"}}},
    "home": {"resources": {"requests": {"cpu": "10m"}}},
    "runner": {"resources": {"requests": {"cpu": "10m"}}},
}


@contextlib.contextmanager
def namespace(cluster: Cluster, name: str, *rules: Object) -> Iterator[Cluster]:
    """A namespace that enforces Pod Security `restricted`, with objects that restrict it further; it goes at the end."""
    there = Cluster(cluster.config, name)
    metadata = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    selector = f"metadata.name={name}"
    gone = f"namespace {name} of a former test to be gone"
    wait_until(gone, lambda: not cluster.core.list_namespace(field_selector=selector).items, 120)
    cluster.core.create_namespace({"metadata": metadata})
    try:
        there.apply(*rules)
        yield there
    finally:
        for rule in rules:
            if rule["metadata"].get("namespace") != name:
                there.delete(rule["apiVersion"], rule["kind"], rule["metadata"]["name"])
        # a namespace with pods stays for half of their termination grace period, which may be minutes
        with contextlib.suppress(AssertionError):
            wait_until("pods to be gone", lambda: not cluster.core.list_namespaced_pod(name).items)
        cluster.core.delete_namespace(name)


@contextlib.contextmanager
def installed(
    there: Cluster, profiles: Sequence[str | Path], *values: Object, chart: Path = helm.CHART
) -> Iterator[None]:
    """A release of the namespace's name, all Ready; it and its models go at the end."""
    shared = {"imageRegistry": helm.release_values()["global"]["imageRegistry"], "runtime": runtime(there)}
    # an earlier chart refuses the names of parts that it lacks
    parts = yaml.safe_load(helm.helm("show", "values", chart))
    small = {part: values for part, values in SMALL.items() if part in parts}
    files = [profile if isinstance(profile, Path) else helm.VALUES / f"{profile}.yaml" for profile in profiles]
    try:
        helm.install(there.namespace, files, helm.merged(small, {"global": shared}, *values), chart=chart)
        yield
    finally:
        for model in there.list(*MODELS):
            there.delete(*MODELS, model["metadata"]["name"])
        with contextlib.suppress(AssertionError):  # the namespace's end takes them too
            wait_until("models to be gone", lambda: not there.list(*MODELS), 60)
        helm.helm("uninstall", there.namespace, "--namespace", there.namespace, "--ignore-not-found")


def upgrade(there: Cluster, **values: Any) -> None:
    """Upgrade the release of a namespace: values of parts on top of its own."""
    sets = (word for part, value in values.items() for word in ("--set-json", f"{part}={json.dumps(value)}"))
    name, options = there.namespace, ("--reset-then-reuse-values", "--wait", "--timeout", "180s")
    helm.helm("upgrade", name, helm.CHART, "--namespace", name, *options, *sets, timeout=240)


def remove(there: Cluster) -> list[str]:
    """Delete the models of a release and uninstall it: objects of its manifest that are there a minute later."""
    name = there.namespace
    manifest = [thing for thing in yaml.safe_load_all(helm.helm("get", "manifest", name, "--namespace", name)) if thing]
    for model in there.list(*MODELS):
        there.delete(*MODELS, model["metadata"]["name"])
    wait_until("models to be gone", lambda: not there.list(*MODELS), 60)
    helm.helm("uninstall", name, "--namespace", name, "--wait", "--timeout", "120s", timeout=180)

    def left() -> list[str]:
        found = (there.get(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in manifest)
        return [kind_and_name(thing) for thing in found if thing]

    with contextlib.suppress(AssertionError):
        wait_until("the release to be gone", lambda: not left(), 60)
    return left()


def on_nodes(cluster: Cluster) -> list[str]:
    """Names of the images that nodes have."""
    nodes = cluster.core.list_node().items
    return [name for node in nodes for image in node.status.images or () for name in image.names or ()]


def runtime(cluster: Cluster) -> Object:
    """The image with all that pipelines import, if the node has one; else the release's, whose steps install packages."""
    own = helm.release_values()["global"]["runtime"]
    for name in on_nodes(cluster):
        registry, _, rest = name.partition("/")
        repository, _, tag = rest.partition(":")
        if repository == "iml4e/runtime" and tag:
            return {**own, "registry": registry, "repository": repository, "tag": tag}
    return own


def demo(there: Cluster, pipeline: str = "wine") -> tuple[int, Object, str]:
    """Run a reference pipeline as people do: exit code, result, and what was said beside it."""
    name = there.namespace
    words = [pipeline, "--json", "--engine", "local", "--release", name, "--namespace", name]
    command = [sys.executable, helm.REPO / "scripts" / "demo", *words]
    done = subprocess.run(command, cwd=helm.REPO, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr[-3000:]


def run(name: str, address: str, *command: str) -> str:
    """Run a program of the harness's environment as a user of a release does, with the package of this working tree."""
    environment = {
        **os.environ, "IML4E_URL": address, "IML4E_RELEASE": name, "IML4E_NAMESPACE": name,
        "MLFLOW_TRACKING_URI": f"{address}/mlflow", "PYTHONPATH": str(helm.REPO / "src"),
    }  # fmt: skip
    path = helm.REPO / ".venv" / "bin" / command[0]
    done = subprocess.run(
        [path, *command[1:]], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


def pod_spec(*command: str) -> Object:
    """A pod of the first release's runtime image that Pod Security `restricted` accepts."""
    values = helm.release_values()["global"]
    runtime = values["runtime"]
    container = {
        "name": "main",
        "image": f"{values['imageRegistry'] or runtime['registry']}/{runtime['repository']}:{runtime['tag']}",
        "command": [*command],
        "workingDir": "/tmp",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
    }
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "restartPolicy": "Never",
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    }


def said_in_pod(there: Cluster, *command: str, labels: dict[str, str] | None = None) -> str:
    """What a command prints in a pod of the namespace, as one of a pipeline step or of a user's own Deployment."""
    template = {"metadata": {"labels": labels or {}}, "spec": pod_spec(*command)}
    job = {"metadata": {"name": f"said-{time.time_ns() % 10**9}"}, "spec": {"template": template, "backoffLimit": 0}}
    good, said = there.run_job(job)
    assert good, said
    return said


def admit(there: Cluster, spec: Object, labels: dict[str, str] | None = None) -> Object:
    """What the API server makes of a PodSpec, without making the pod. With labels, its account is one that exists.

    Raises:
        ApiException: it refuses the pod.
    """
    # without labels, the spec is from a render, whose accounts are not there
    spec = {key: value for key, value in spec.items() if labels or key != "serviceAccountName"}
    mounted = {volume["name"] for volume in spec.get("volumes", [])}
    claimed = {
        mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])
    } - mounted
    spec["volumes"] = [*spec.get("volumes", []), *({"name": name, "emptyDir": {}} for name in sorted(claimed))]
    pod = {
        "metadata": {"generateName": "admitted-", "labels": labels or {}},
        "spec": {"restartPolicy": "Always", **spec},
    }
    made = there.core.create_namespaced_pod(there.namespace, pod, dry_run="All")
    return ApiClient().sanitize_for_serialization(made)


def refused(there: Cluster, spec: Object, labels: dict[str, str] | None = None) -> str:
    """Why the API server refuses a PodSpec; empty if it does not."""
    try:
        admit(there, spec, labels)
    except ApiException as error:
        return json.loads(error.body)["message"]
    return ""


def wait_until(what: str, ask: Callable[[], Any], seconds: float = 30) -> None:
    """Ask until the answer is true: a rule takes a moment to count."""
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.5)
