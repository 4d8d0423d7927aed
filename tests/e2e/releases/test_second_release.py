"""A second release in another namespace, installed from a package, serves its models with the KServe controller of the first release."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_wine

from support import helm, releases
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(900)

NAME = "second"
VALUES = {
    "kserve": {"controller": {"enabled": False}},
    "gateway": {"service": {"type": "ClusterIP"}},
    "pipelines": {"enabled": False},
    "prometheus": {"enabled": False},
    "grafana": {"enabled": False},
}
TRAIN = """
import mlflow
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

wines = load_wine(as_frame=True)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wines.data, wines.target)
mlflow.set_experiment("second")
with mlflow.start_run():
    mlflow.sklearn.log_model(model, name="model", input_example=wines.data.head(2), registered_model_name="fraud")
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as a package, with its profiles beside it: all that somebody has who got it from a registry."""
    folder = tmp_path_factory.mktemp("package")
    helm.helm("package", helm.CHART, "--destination", folder)
    (made,) = folder.iterdir()
    with tarfile.open(made) as archive:
        archive.extractall(folder, [file for file in archive if file.name.startswith("iml4e/profiles/")], filter="data")
    return made


@pytest.fixture(scope="module")
def address(cluster: Cluster, values: dict[str, Any], package: Path) -> Iterator[str]:
    """Address of the second release on this machine, by a forwarded port."""
    taken = {key: values["global"][key] for key in ("imageRegistry", "runtime")}
    metadata = {"name": NAME, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.core.create_namespace({"metadata": metadata})
    try:
        helm.helm(
            "install", NAME, package, "--namespace", NAME, "--skip-crds",
            "--values", package.parent / "iml4e" / "profiles" / "laptop.yaml",
            "--set-json", f"global={json.dumps(taken)}",
            *(word for part in VALUES for word in ("--set-json", f"{part}={json.dumps(VALUES[part])}")),
            "--wait", "--timeout", "300s", timeout=400,
        )  # fmt: skip
        there = Cluster(cluster.config, NAME)
        with there.port_forward(f"service/{NAME}-gateway", 80) as port:
            yield f"http://127.0.0.1:{port}"
    finally:
        helm.helm("uninstall", NAME, "--namespace", NAME, "--wait", "--ignore-not-found", timeout=300)
        cluster.core.delete_namespace(NAME)


def test_its_models_are_served(cluster: Cluster, address: str) -> None:
    releases.run(NAME, address, "python", "-W", "ignore", "-c", TRAIN)
    served = json.loads(releases.run(NAME, address, "iml4e", "deploy", "fraud/1", "--json"))
    assert (served["namespace"], served["version"], served["ready"]) == (NAME, "1", True)
    row = json.dumps([load_wine().data[0].tolist()])
    assert releases.run(NAME, address, "iml4e", "predict", "fraud", "--data", row).split() == ["prediction", "0"]
    assert "fraud" in releases.run(NAME, address, "iml4e", "models")
    runtimes = Cluster(cluster.config, NAME).list("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert [runtime["metadata"]["name"] for runtime in runtimes] == ["mlflow"]
    releases.run(NAME, address, "iml4e", "delete", "fraud")
