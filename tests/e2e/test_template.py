"""A partner's project on the live platform: made, trained, registered, served, updated; and the page that says so."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_breast_cancer

from iml4e import Error, scaffold, serving
from support import experiments
from support.helm import NAMESPACE, REPO
from support.k8s import Cluster
from support.platform import Gateway

NAME = "e2e-template"


@contextlib.contextmanager
def without(gateway: Gateway, name: str) -> Iterator[None]:
    """Endpoint and registered model of a name are gone before and after."""

    def clean() -> None:
        with contextlib.suppress(Error):
            serving.delete(name)
        for model in gateway.mlflow.search_registered_models(f"name='{name}'"):
            gateway.mlflow.delete_registered_model(model.name)

    clean()
    try:
        yield
    finally:
        clean()


class Partner:
    """Somebody with a laptop, a kubeconfig and a project."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def project(self, *words: str, code: int = 0) -> str:
        """Run a command of the project, which must end with an exit code; return what it printed."""
        command = [sys.executable, "-W", "ignore", "-m", "iml4e.cli", "project", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )  # fmt: skip
        assert done.returncode == code, f"{' '.join(words)}: {done.stdout[-3000:]}"
        return done.stdout

    def ran(self) -> dict[str, Any]:
        """The result of the last run."""
        return json.loads((self.folder / "build" / "run.json").read_text())


@pytest.fixture(scope="module")
def partner(cluster: Cluster, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Partner]:
    """A project of data that nobody here invented, as its owner's spreadsheet writes it."""
    folder = tmp_path_factory.mktemp("partner")
    frame = load_breast_cancer(as_frame=True).frame
    frame["target"] = frame["target"].map({0: "bösartig", 1: "gutartig"})
    frame["Zentrum"] = [["Köln", "Oslo", ""][i % 3] for i in range(len(frame))]
    frame = frame.rename(columns={"target": "Befund (Labor)"})
    text = frame.to_csv(index=False, sep=";", decimal=",", lineterminator="\r\n")
    (folder / "Proben.csv").write_bytes(("\ufeff" + text).encode())
    made = scaffold.new(
        NAME,
        data=str(folder / "Proben.csv"),
        target="Befund (Labor)",
        folder=str(folder),
        template=str(template(folder)),
    )
    environment = {**os.environ, **experiments.laptop(cluster, gateway), "PYTHONPATH": str(REPO / "src")}
    with without(gateway, NAME):
        yield Partner(made, environment)


def template(folder: Path) -> Path:
    """The template as it is here, in a folder that is no repository."""
    place = folder / "platform"
    (place / "template").parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", REPO / "template", REPO / "copier.yml", place], check=True)
    return place


@pytest.fixture(scope="module")
def served(partner: Partner) -> dict[str, Any]:
    """The project's first version, trained by Kubeflow Pipelines where the release has it, and released."""
    partner.project("validate")
    partner.project("run")
    result = partner.ran()
    partner.project("gate")
    partner.project("release")
    return result


def test_a_project_is_trained_registered_and_served(partner: Partner, gateway: Gateway, served: dict[str, Any]) -> None:
    assert served["gate"] == "passed"
    assert served["metrics"]["accuracy"] > 0.9
    champion = gateway.mlflow.get_model_version_by_alias(NAME, "champion")
    assert str(champion.version) == served["version"]
    assert champion.tags["status"] == "champion"
    run = gateway.mlflow.get_run(served["run_id"])
    assert run.data.tags["dataset"] == served["dataset"]["address"]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=partner.folder, capture_output=True, text=True, check=True
    )
    assert (
        run.data.tags["mlflow.source.git.commit"] == champion.tags["mlflow.source.git.commit"] == commit.stdout.strip()
    )
    assert "answers 50 rows as evaluated" in partner.project("check")


def test_the_served_model_answers_rows_as_the_data_has_them(
    partner: Partner, gateway: Gateway, served: dict[str, Any]
) -> None:
    said = partner.project("predict", "data/Proben.csv", "--json")
    answer = json.loads(said[said.index("{") :])
    assert answer["version"] == served["version"]
    truth = load_breast_cancer().target
    right = [
        {"bösartig": 0, "gutartig": 1}[each] == wanted
        for each, wanted in zip(answer["predictions"], truth, strict=True)
    ]
    assert sum(right) / len(right) > 0.95
    names = load_breast_cancer().feature_names
    row = dict(zip(names, load_breast_cancer().data[0].tolist(), strict=True)) | {
        "Zentrum": "a place that training never saw"
    }
    assert gateway.model(NAME, NAMESPACE).predict([row]).json()["predictions"] == ["bösartig"]


def test_a_worse_model_is_registered_as_rejected_and_not_released(
    partner: Partner, gateway: Gateway, served: dict[str, Any]
) -> None:
    partner.project("run", "--engine", "local", "--param", "strength=0.0000001")
    result = partner.ran()
    assert result["gate"] == "rejected"
    assert result["champion"] == served["version"]
    assert "rejected: accuracy" in partner.project("gate", code=1)
    assert "rejected: accuracy" in partner.project("release", code=1)
    assert "is rejected (accuracy" in partner.project("release", result["version"], code=1)
    assert gateway.mlflow.get_model_version(NAME, result["version"]).tags["status"] == "rejected"
    assert "answers 50 rows as evaluated" in partner.project("check")


def test_data_that_breaks_the_contract_starts_nothing(partner: Partner, gateway: Gateway, tmp_path: Path) -> None:
    before = len(gateway.mlflow.search_model_versions(f"name='{NAME}'"))
    broken = tmp_path / "broken.csv"
    broken.write_text((partner.folder / "data" / "Proben.csv").read_text().replace("17,99;", "viel;", 1))
    said = partner.project("run", "--data", str(broken), code=1)
    assert "first: 'mean radius': is no number, 1 case(s), such as line 2: 'viel'; nothing was stored" in said
    assert len(gateway.mlflow.search_model_versions(f"name='{NAME}'")) == before
