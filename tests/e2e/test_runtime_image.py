"""The runtime image: the release switches from MLflow's public image to the runtime image, is used, and switches back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.bare import images
from support import helm, serving
from support.k8s import Cluster
from support.platform import Model, Traffic

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def reference(
    cluster: Cluster, values: dict[str, Any], wine: Model, digits: Model, bottle: dict[str, float]
) -> Iterator[str]:
    """The runtime image, while the release uses it; models serve meanwhile."""
    if values["global"]["imageRegistry"] != images.REGISTRY:
        pytest.skip("the runtime image is in no registry of this release: `scripts/images push` puts it there")
    runtime, before = images.named("runtime"), helm.revision()
    if values["global"]["runtime"]["repository"] == runtime.repository:
        pytest.skip("this release uses the runtime image already")
    with Traffic(wine.base + wine.v1, {"instances": [bottle]}) as traffic:
        helm.upgrade({"global": {"runtime": {"repository": runtime.repository, "tag": runtime.tag}}})
        cluster.wait("the model to run in the other image", lambda: image_of(cluster, wine) == runtime.reference, 120)
        serving.wait_ready(cluster, wine.name)
    assert traffic.ok >= 0.99, traffic.failures
    yield runtime.reference
    helm.rollback(before)
    for model in (wine, digits):
        cluster.wait(
            "the model to run in the first image", lambda m=model: image_of(cluster, m) != runtime.reference, 120
        )
        serving.wait_ready(cluster, model.name)


def image_of(cluster: Cluster, model: Model) -> str:
    """Image of a model's Deployment."""
    pod = cluster.workload("Deployment", f"{model.name}-predictor")["spec"]["template"]["spec"]
    return pod["containers"][0]["image"]


def test_every_role_runs_in_it(cluster: Cluster, reference: str, wine: Model) -> None:
    assert image_of(cluster, wine) == reference
    mlflow = cluster.workload("Deployment", f"{helm.RELEASE}-mlflow")["spec"]["template"]["spec"]
    assert {container["image"] for container in mlflow["containers"]} == {reference}
    config = cluster.core.read_namespaced_config_map(f"{helm.RELEASE}-runner", helm.NAMESPACE).data
    assert config["RUNTIME_IMAGE"] == reference


@pytest.mark.parametrize("pipeline", ["wine", "digits"])
def test_pipeline_installs_nothing_and_its_model_answers(
    reference: str, pipeline: str, request: pytest.FixtureRequest, bottle: dict[str, float]
) -> None:
    where = ("--release", helm.RELEASE, "--namespace", helm.NAMESPACE)
    command = [sys.executable, helm.REPO / "scripts" / "demo", pipeline, *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "lacks packages" not in done.stdout
    (curl,) = [line.split("try it", 1)[1].strip() for line in done.stdout.splitlines() if "try it" in line]
    assert "predictions" in subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout


def test_load_finds_both_models(reference: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "locust", "-f", "load/", "--headless", "--run-time", "5s", "--report", tmp_path]
    done = subprocess.run(command, cwd=helm.REPO, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = tmp_path.glob("*/report.md")
    text = report.read_text()
    assert "| digits: " in text
    assert "| wine: " in text
