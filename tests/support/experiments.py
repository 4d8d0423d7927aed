"""Running the reference pipelines: `demo` as people do, in a pod; `run` from here, with data made to fail."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from support.helm import NAMESPACE, RELEASE, REPO
from support.k8s import Cluster
from support.platform import Gateway


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its result, or the sentence that it ended with."""

    code: int
    said: str
    result: dict[str, Any]


def _last_json(text: str) -> dict[str, Any]:
    """The JSON object that ends a run's output."""
    start = text.rfind("\n{\n") + 1
    return json.loads(text[start:]) if text[start:].startswith("{") else {}


def demo(pipeline: str, *words: str) -> dict[str, Any]:
    """Run a reference pipeline by the script that `make demo` calls, on Kubeflow Pipelines where the release has it."""
    where = ("--release", RELEASE, "--namespace", NAMESPACE)
    command = [sys.executable, REPO / "scripts" / "demo", pipeline, "--json", *where, *words]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return _last_json("\n" + done.stdout)


@contextlib.contextmanager
def outside(cluster: Cluster, gateway: Gateway) -> Iterator[dict[str, str]]:
    """The environment of a step, with addresses that lead into the cluster from this machine."""
    environment = cluster.core.read_namespaced_config_map(f"{RELEASE}-runner", NAMESPACE).data
    with cluster.port_forward(f"service/{RELEASE}-minio", 9000) as port:
        yield {
            **environment,
            **cluster.secret(f"{RELEASE}-s3-pipelines"),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "MLFLOW_TRACKING_URI": f"{gateway.url}/mlflow",
            "GATEWAY_URL": gateway.url,
            "KF_PIPELINES_ENDPOINT": f"{gateway.url}/pipeline",
            "KUBECONFIG": str(cluster.config),
        }


def laptop(cluster: Cluster, gateway: Gateway) -> dict[str, str]:
    """The environment of a laptop: a kubeconfig, the address of the platform, and nothing else."""
    return {
        "KUBECONFIG": str(cluster.config),
        "IML4E_URL": gateway.url,
        "IML4E_RELEASE": RELEASE,
        "IML4E_NAMESPACE": NAMESPACE,
    }


def run(pipeline: str, environment: dict[str, str], *words: str, engine: str = "local", **parameters: Any) -> Outcome:
    """Run a reference pipeline from here, with parameters of its own."""
    given = [word for name, value in parameters.items() for word in ("--param", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.run", pipeline, "--engine", engine, *words, *given],
        cwd=REPO,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Outcome(done.returncode, done.stderr, _last_json("\n" + done.stdout) if done.returncode == 0 else {})
