"""Kubeflow Pipelines as its users meet it: the SDK's client and the page's own questions, both at the gateway."""

from __future__ import annotations

import functools
import re
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp
import requests
import urllib3
from kfp import dsl
from kfp.compiler import Compiler
from kfp_server_api import ApiException

from iml4e import lineage
from iml4e.engines.kfp import ENDED
from support.helm import NAMESPACE
from support.k8s import Cluster
from support.platform import Gateway

ARGO = "argoproj.io/v1alpha1"
BUCKET = "pipelines"
# stands in a compiled pipeline until it is submitted, as only the live release knows its image
IMAGE = "image-of-the-release"

step = functools.partial(dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)


@dataclass
class Kubeflow:
    """Kubeflow Pipelines of the live release; what is started here can be taken away again."""

    cluster: Cluster
    gateway: Gateway
    s3: Any
    image: str
    folder: Path
    name: str = field(default_factory=lambda: f"e2e-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        """Connect, and make an experiment for everything that is started from here."""
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            self.client = kfp.Client(host=self.host)
        self.experiment = self.client.create_experiment(self.name).experiment_id

    @property
    def host(self) -> str:
        """Its address at the gateway."""
        return f"{self.gateway.url}/pipeline"

    def package(self, pipeline: Any) -> str:
        """Compile a pipeline into a file whose steps run in the release's image."""
        file = self.folder / f"{uuid.uuid4().hex}.yaml"
        Compiler().compile(pipeline, str(file))
        file.write_text(file.read_text().replace(IMAGE, self.image))
        return str(file)

    def submit(self, pipeline: Any, *, cached: bool = False, **arguments: Any) -> Run:
        """Start a run of a pipeline."""
        run = self.client.create_run_from_pipeline_package(
            self.package(pipeline), arguments, experiment_id=self.experiment, enable_caching=cached
        )
        return Run(self, run.run_id, pipeline.name)

    def runs(self, experiment: str) -> list[Run]:
        """All runs of an experiment, whoever started them."""
        found = self.client.list_runs(experiment_id=experiment, page_size=200).runs or []
        return [Run(self, run.run_id) for run in found]

    def get(self, path: str, **parameters: str) -> requests.Response:
        """Ask the page's server, as the page does."""
        return self.gateway.get(f"/pipeline/{path}", params=parameters, timeout=30)

    def artifact(self, key: str, **more: str) -> bytes:
        """Content of an artifact, as the page shows it."""
        answer = self.get("artifacts/get", source="minio", bucket=BUCKET, key=key, **more)
        assert answer.ok, answer.text
        return answer.content

    def lineage_of(self, uri: str) -> bytes:
        """What ML Metadata knows of an artifact: the page's own question (gRPC-Web), its answer undecoded."""
        name = uri.encode()
        # GetArtifactsByURIRequest: field 2 is the URI
        message = b"\x12" + bytes([len(name) & 0x7F | 0x80, len(name) >> 7]) + name
        return lineage.ask(self.host, "GetArtifactsByURI", message)

    def remove(self, experiment: str) -> None:
        """Take away an experiment, its runs and their pods."""
        for run in self.runs(experiment):
            self.client.delete_run(run.id)
        self.client.delete_experiment(experiment)


@dataclass(frozen=True)
class Run:
    """A run of a pipeline."""

    kubeflow: Kubeflow = field(repr=False)
    id: str
    pipeline: str = ""
    """Name of the pipeline, which stands in the keys of its artifacts."""

    @property
    def now(self) -> Any:
        """The run, as the API tells it."""
        return self.kubeflow.client.get_run(self.id)

    def state(self) -> str:
        """State of the run; empty while the API server is away."""
        try:
            return self.now.state
        except (ApiException, urllib3.exceptions.HTTPError):
            return ""

    def ended(self, seconds: float = 240) -> str:
        """Wait for the end of the run and tell its state."""
        return self.wait("the run to end", lambda: (state := self.state()) in ENDED and state, seconds)

    def succeeded(self, seconds: float = 240) -> Run:
        """Wait for the end of the run, which must be a good one."""
        state = self.ended(seconds)
        assert state == "SUCCEEDED", f"run {self.id} ended {state}: {self.messages()}"
        return self

    def wait(self, what: str, ask: Callable[[], Any], seconds: float = 120) -> Any:
        """Wait for something about the run; the failure shows its pods."""
        return self.kubeflow.cluster.wait(what, ask, seconds, selector=f"pipeline/runid={self.id}")

    def step(self) -> lineage.Step:
        """The run's only step, as ML Metadata knows it."""
        (step,) = lineage.steps(self.kubeflow.host, self.id)
        return step

    # --- what is in the cluster

    def workflow(self) -> dict[str, Any]:
        """The run's Workflow."""
        found = self.kubeflow.cluster.list(ARGO, "Workflow", f"pipeline/runid={self.id}")
        return found[0] if found else {}

    def messages(self) -> list[str]:
        """What went wrong, in the Workflow's words."""
        nodes = self.workflow().get("status", {}).get("nodes", {}).values()
        return [f"{node['displayName']}: {node['message']}" for node in nodes if node.get("message")]

    def pods(self) -> list[dict[str, Any]]:
        """Pods of the steps' own code; each step has another one that prepares it."""
        pods = self.kubeflow.cluster.pods(f"pipeline/runid={self.id}")
        return [pod for pod in pods if "-system-container-impl-" in pod["metadata"]["name"]]

    def pod(self, phase: str = "Running", seconds: float = 120) -> str:
        """Name of the pod of a step, once it is in a phase."""

        def found() -> str | None:
            return next((p["metadata"]["name"] for p in self.pods() if p["status"]["phase"] == phase), None)

        return self.wait(f"a step to be {phase}", found, seconds)

    # --- what the page shows

    def log(self, pod: str) -> str:
        """Log of a pod, as the page shows it, whether or not the pod is there."""
        created = self.now.created_at.strftime("%Y-%m-%d")
        answer = self.kubeflow.get(
            "k8s/pod/logs", podname=pod, podnamespace=NAMESPACE, runid=self.id, createdat=created
        )
        assert answer.ok, answer.text
        return answer.text

    def events(self, pod: str) -> str:
        """Events of a pod, as the page shows them."""
        answer = self.kubeflow.get("k8s/pod/events", podname=pod, podnamespace=NAMESPACE)
        assert answer.ok, answer.text
        return " ".join(event["message"] for event in answer.json()["items"])

    def keys(self) -> dict[str, str]:
        """Keys of the run's artifacts by `step/name`; of those that a loop made, the last."""
        prefix = f"v2/artifacts/{self.pipeline}/{self.id}/"
        listed = self.kubeflow.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        keys = [thing["Key"] for thing in listed]
        # <step>/<execution>/<name>
        return {re.sub("/[^/]+/", "/", key.removeprefix(prefix), count=1): key for key in keys}

    def said(self, name: str) -> str:
        """An artifact by `step/name`, as text."""
        return self.kubeflow.artifact(self.keys()[name]).decode()
