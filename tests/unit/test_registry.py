"""The registry on an MLflow store of its own: references, the gate, and who is the champion."""

import functools
import operator
import re
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import ImageOps
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from iml4e import Error, judge, registry

ADDRESS, SHA256 = "s3://datasets/wine/wine.csv?versionId=v-1", "0123456789abcdef" * 4
WINE = load_wine(as_frame=True).frame
DEAR = 1e-6
"""A regularization that makes a weak model."""


@pytest.fixture(autouse=True)
def _store(tracking: mlflow.MlflowClient) -> None:
    pass


def candidate(name: str, regularization: float, floor: float) -> tuple[judge.Verdict, registry.Version]:
    """Fit, evaluate and register: the verdict, and the version."""
    training, held_out = WINE.iloc[::2], WINE.iloc[1::2]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=regularization))
    features = training.drop(columns="target")
    how = {"table": training, "name": name, "address": ADDRESS, "sha256": SHA256, "params": {"C": regularization}}
    run_id, _, uri = registry.fit(model, features, training["target"], **how)
    rows = held_out.drop(columns="target")
    gate = judge.Gate("accuracy", floor)
    verdict = judge.judge(uri, run_id, name, rows, held_out["target"], judge.classification, gate)
    version = registry.register(uri, name, verdict.gate, verdict.reason, ADDRESS, run_id)
    return verdict, registry.resolve(f"{name}/{version}")


@pytest.mark.parametrize(
    "model", [RandomForestClassifier(3, random_state=0), KNeighborsClassifier()], ids=lambda m: type(m).__name__
)
def test_models_with_types_that_the_file_format_wants_named(model: Any) -> None:
    features = WINE.drop(columns="target")
    how = {"table": WINE, "name": "types", "address": ADDRESS, "sha256": SHA256, "params": {}}
    _, _, uri = registry.fit(model, features, WINE["target"], **how)
    assert list(mlflow.pyfunc.load_model(uri).predict(features)) == list(model.predict(features))


def halve(rows: Any) -> Any:
    """Of a module that does not travel with a model."""
    return rows / 2


def test_a_model_with_types_of_packages_that_it_does_not_require_is_refused() -> None:
    model = make_pipeline(FunctionTransformer(halve), LogisticRegression())
    how = {"table": WINE, "name": "types", "address": ADDRESS, "sha256": SHA256, "params": {}}
    with pytest.raises(Error, match=r"halve, of no package that it requires: name the package in `requirements`"):
        registry.fit(model, WINE.drop(columns="target"), WINE["target"], **how)


def test_a_requirement_is_known_by_the_name_of_its_package() -> None:
    model = FunctionTransformer(ImageOps.invert)
    assert registry._trusted(model, (), ["Pillow==12"]) == ["PIL.ImageOps.invert"]
    with pytest.raises(Error, match="PIL"):
        registry._trusted(model, (), ["pandera==1"])


def test_functions_of_python_itself_need_no_requirement() -> None:
    model = make_pipeline(
        FunctionTransformer(functools.partial(np.clip, a_min=0, a_max=1)), FunctionTransformer(operator.pos)
    )
    assert "functools.partial" in registry._trusted(model, (), [])


def test_from_training_to_the_champion(tracking: mlflow.MlflowClient) -> None:
    """First a model below the floor, then a good one, then a worse one, then as good a one."""
    name = "Wein: nein".replace(":", "")  # spaces are fine
    verdict, rejected = candidate(name, DEAR, floor=0.9)
    assert (verdict.gate, rejected.version, rejected.tags["status"]) == ("rejected", "1", "rejected")
    assert "below the floor" in verdict.reason
    assert registry.champion(name) is None

    verdict, good = candidate(name, 1.0, floor=0.9)
    assert (verdict.gate, good.tags["status"], good.tags["dataset"]) == ("passed", "candidate", ADDRESS)
    assert "no champion yet" in verdict.reason
    assert tracking.get_run(good.run_id).data.metrics["accuracy"] == verdict.metrics["accuracy"] >= 0.9
    assert registry.champion(name) is None, "crowned before it was checked"
    registry.crown(name, good.version)
    champion = registry.champion(name)
    assert champion
    assert (champion.version, champion.tags["status"]) == (good.version, "champion")
    assert tracking.get_model_version(name, good.version).current_stage == "Production"

    verdict, worse = candidate(name, DEAR, floor=0.1)
    assert verdict.gate == "rejected"
    assert re.search(r"below the champion's 0\.9\d+ \(version 2\)", verdict.reason)
    assert worse.tags["status"] == "rejected"
    assert registry.resolve(name) == champion

    verdict, later = candidate(name, 1.0, floor=0.9)
    assert verdict.gate == "passed"
    registry.crown(name, later.version)
    registry.crown(name, later.version)  # twice changes nothing
    former = tracking.get_model_version(name, good.version)
    assert (former.current_stage, former.tags["status"], former.aliases) == ("Archived", "archived", [])
    assert registry.resolve(name).tags["status"] == "champion"
    registry.crown(name, good.version)  # a rollback
    assert registry.resolve(f"{name}/{later.version}").tags["status"] == "archived"
    registry.reject(name, later.version, "does not answer")
    assert registry.resolve(f"{name}/{later.version}").tags["gate_reason"] == "does not answer"


@pytest.fixture(scope="module")
def model(tracking: mlflow.MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registered model with two versions, of which the first is called `champion` and `blue`."""
    tracking.create_registered_model("fraud")
    for number in range(2):
        tracking.create_model_version("fraud", f"{tmp_path_factory.mktemp('model')}/{number}")
    tracking.set_registered_model_alias("fraud", "champion", "1")
    tracking.set_registered_model_alias("fraud", "blue", "1")
    return "fraud"


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("fraud", "1"),
        ("fraud@champion", "1"),
        ("fraud@blue", "1"),
        ("fraud/2", "2"),
        ("fraud/latest", "2"),
        ("models:/fraud/1", "1"),
        ("models:/fraud@blue", "1"),
    ],
)
def test_a_reference_is_one_version(model: str, reference: str, version: str) -> None:
    found = registry.resolve(reference)
    assert (found.name, found.version, found.uri) == (model, version, f"models:/fraud/{version}")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nobody", "there is no registered model 'nobody': register one"),
        ("fraud@green", "model fraud has no alias green; name a version: fraud/2, fraud/1"),
        ("fraud@", "model fraud has no alias ; name a version"),
        ("fraud/7", "model fraud has no version 7; name a version: fraud/2, fraud/1"),
        ("fraud/Production", "model fraud has no version Production; name a version"),
        ("", "cannot name a model"),
        ("a/b/1", "cannot name a model: MLflow wants"),
    ],
)
def test_a_wrong_reference_is_told_with_those_that_there_are(model: str, reference: str, says: str) -> None:
    with pytest.raises(Error, match=re.escape(says)):
        registry.resolve(reference)


class Stub:
    """An MLflow client that knows where a version's files are."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get_model_version_download_uri(self, *_: str) -> str:
        """Say so."""
        return self.address


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("mlflow-artifacts:/1/models/m-1/artifacts", "s3://mlflow/1/models/m-1/artifacts/"),
        ("mlflow-artifacts:/1/models/m-1/artifacts/", "s3://mlflow/1/models/m-1/artifacts/"),
        ("mlflow-artifacts://host:5000/1/r/artifacts/my model", None),
        ("mlflow-artifacts://h/mlflow/api/2.0/mlflow-artifacts/artifacts/1/r/a b", "s3://mlflow/1/r/a b/"),
        ("s3://elsewhere/model", "s3://elsewhere/model/"),
    ],
)
def test_the_address_in_the_store_ends_with_a_slash(
    monkeypatch: pytest.MonkeyPatch, address: str, uri: str | None
) -> None:
    monkeypatch.setenv("S3_MLFLOW_BUCKET", "mlflow")
    monkeypatch.setattr(registry, "client", lambda: Stub(address))
    assert registry.storage_uri("fraud", "1") == (uri or "s3://mlflow/1/r/artifacts/my model/")


def test_files_outside_of_the_store_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "client", lambda: Stub("file:///home/me/mlruns/1"))
    with pytest.raises(
        Error, match="lie at file:///home/me/mlruns/1, outside the object store: log the model with MLFLOW"
    ):
        registry.storage_uri("fraud", "1")


def test_a_mlflow_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tracking: Any) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9/mlflow")
    try:
        for ask in (
            lambda: registry.resolve("fraud"),
            lambda: registry.champion("fraud"),
            lambda: registry.versions("f'"),
        ):
            with pytest.raises(Error, match=r"^MLflow at http://127.0.0.1:9/mlflow does not answer: ") as raised:
                ask()
            assert "\n" not in str(raised.value)
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "x" * 257])
def test_a_name_that_mlflow_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(Error, match="cannot name a model"):
        registry.register("runs:/1/model", name, "passed", "")
