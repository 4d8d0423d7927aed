"""The steps of the tabular pipeline, as functions, on real data and on data that went wrong; nothing here needs S3."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from kfp import dsl
from sklearn.datasets import load_wine

from pipelines.common.components import evaluate, register
from pipelines.tabular.components import prepare, train, validate

WINE = load_wine(as_frame=True).frame
ADDRESS = "s3://datasets/wine/wine.csv?versionId=v-1"
SHA256 = "0123456789abcdef" * 4


def artifact(path: Path) -> Any:
    """What a step sees of an artifact."""
    return SimpleNamespace(path=str(path), metadata={})


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_PIPELINES_BUCKET", raising=False)


@pytest.fixture
def check(tmp_path: Path) -> Callable[[bytes], tuple[int, dict[str, Any]]]:
    """Validate the bytes of a file: number of rows and report."""

    def run(content: bytes) -> tuple[int, dict[str, Any]]:
        (tmp_path / "raw").write_bytes(content)
        raw, data, report = (artifact(tmp_path / name) for name in ("raw", "data", "report"))
        rows = validate.python_func(raw, ADDRESS, data, report)
        return rows, json.loads((tmp_path / "report").read_text())

    return run


def csv(table: pd.DataFrame) -> bytes:
    """A table as the bytes of a CSV file."""
    return table.to_csv(index=False).encode()


def test_the_real_data_is_fit_for_use(check: Any, tmp_path: Path) -> None:
    rows, report = check(csv(WINE))
    assert rows == 178
    assert report["valid"]
    assert report["dataset"] == ADDRESS
    assert report["figures"]["alcohol"]["max"] == 14.83
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "data"), WINE)


# What is wrong with the data, and what the sentence must say.
BAD: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "is no CSV file"),
    "binary": (os.urandom(5000), "is no CSV file"),
    "rows of unequal length": (csv(WINE) + b"1,2,3\n" + b"1," * 40 + b"1\n", "is no CSV file"),
    "cut off in the middle": (csv(WINE)[:3000], "line 4[0-9]: "),
    "a missing column": (csv(WINE.drop(columns="hue")), "missing column, 1 .*hue"),
    "another column": (csv(WINE.assign(colour="red")), "unknown column, 1 .*colour"),
    "another table": (csv(pd.DataFrame({"a": range(100), "b": range(100)})), "3 problem.*column"),
    "words for numbers": (csv(WINE.astype({"ash": object}).assign(ash="much")), "'ash': wrong type, 178 case"),
    "a flood of NaN": (
        csv(WINE.mask(np.random.default_rng(0).random(WINE.shape) < 0.4)),
        "': no value, .* case.* such as line",
    ),
    "one NaN": (csv(WINE.assign(ash=WINE["ash"].where(WINE.index != 5))), "'ash': no value, 1 case.*line 7"),
    "another unit": (csv(WINE.assign(alcohol=WINE["alcohol"] * 100)), "'alcohol': in_range.*178 case"),
    "an unknown class": (csv(WINE.assign(target=WINE["target"] + 1)), "'target': isin"),
    "a class that is too rare": (csv(WINE[WINE["target"] < 2]), "at least 10 rows of each class"),
    "too few rows": (csv(WINE.iloc[::5]), "at least 60 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_stops_the_run_with_a_sentence(check: Any, tmp_path: Path, case: str) -> None:
    content, words = BAD[case]
    with pytest.raises(ValueError, match=words) as raised:
        check(content)
    sentence = str(raised.value)
    assert sentence.startswith("the data cannot be used")
    assert "\n" not in sentence
    assert len(sentence) < 500
    report = json.loads((tmp_path / "report").read_text())
    assert not report["valid"]
    assert report["problems"]
    assert not (tmp_path / "data").exists()


@pytest.fixture
def split(tmp_path: Path) -> Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]:
    """Split a table: training rows and held-out rows."""

    def run(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        table.to_csv(tmp_path / "data", index=False)
        data, training, held_out = (artifact(tmp_path / name) for name in ("data", "training", "held_out"))
        count = prepare.python_func(data, training, held_out)
        one, other = pd.read_csv(training.path), pd.read_csv(held_out.path)
        assert count == len(other)
        return one, other

    return run


def test_the_split_is_complete_and_fair(split: Any) -> None:
    training, held_out = split(WINE)
    both = pd.concat([training, held_out]).sort_values(list(WINE.columns), ignore_index=True)
    pd.testing.assert_frame_equal(both, WINE.sort_values(list(WINE.columns), ignore_index=True))
    assert 0.15 < len(held_out) / len(WINE) < 0.35
    assert set(held_out["target"]) == set(training["target"]) == {0, 1, 2}


def test_the_split_is_the_same_for_more_data_in_another_order(split: Any) -> None:
    _, before = split(WINE.iloc[:120])
    _, after = split(WINE.sample(frac=1, random_state=1))
    known = before.merge(after, how="inner").drop_duplicates()
    assert len(known) == len(before.drop_duplicates())


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow.MlflowClient]:
    """An MLflow store of its own: a SQLite file, and artifacts beside it."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = os.getcwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri("")
    os.chdir(before)


@pytest.mark.usefixtures("tracking")
def run_to_registry(split: Any, tmp_path: Path, regularization: float, floor: float) -> tuple[Any, Any, str]:
    """Train, evaluate and register: what `train` and `evaluate` return, and the version."""
    split(WINE)
    training, held_out = artifact(tmp_path / "training"), artifact(tmp_path / "held_out")
    trained = train.python_func(training, ADDRESS, SHA256, "wine", regularization)
    metrics = dsl.Metrics(uri="metrics")
    verdict = evaluate.python_func(held_out, trained[2], trained[0], "wine", floor, metrics)
    version = tmp_path / "version"
    assert register.python_func(trained[2], trained[0], "wine", *verdict[:2], ADDRESS, str(version)) == verdict[0]
    assert metrics.metadata["accuracy"] == verdict[2]
    return trained, verdict, version.read_text()


def test_from_training_to_the_registry(tracking: mlflow.MlflowClient, split: Any, tmp_path: Path) -> None:
    """First a model below the floor, then a good one, then a worse one, then as good a one."""
    _, (gate, reason, *_), version = run_to_registry(split, tmp_path, regularization=1e-6, floor=0.9)
    assert (gate, version) == ("rejected", "1")
    assert "below the floor" in reason
    assert tracking.get_registered_model("wine").aliases == {}

    (run_id, _, model_uri), (gate, reason, accuracy, f1), version = run_to_registry(split, tmp_path, 1.0, 0.9)
    assert (gate, version) == ("passed", "2")
    assert "no champion yet" in reason
    assert accuracy >= 0.9
    assert f1 >= 0.9
    run = tracking.get_run(run_id)
    assert run.data.metrics["accuracy"] == accuracy
    assert run.data.params["regularization"] == "1.0"
    assert run.data.tags["dataset.sha256"] == SHA256
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("wine", SHA256[:36])
    assert json.loads(used.dataset.source)["uri"] == ADDRESS
    model = mlflow.models.get_model_info(model_uri)
    assert model.signature.inputs.input_names() == list(WINE.columns[:-1])
    assert model.saved_input_example_info
    champion = tracking.get_model_version_by_alias("wine", "champion")
    assert (str(champion.version), champion.current_stage, champion.tags["status"]) == ("2", "Production", "champion")
    assert champion.tags["dataset"] == ADDRESS

    _, (gate, reason, *_), version = run_to_registry(split, tmp_path, regularization=1e-6, floor=0.1)
    assert (gate, version) == ("rejected", "3")
    assert "below the champion's" in reason
    rejected = tracking.get_model_version("wine", "3")
    assert (rejected.current_stage, rejected.tags["status"]) == ("None", "rejected")
    assert tracking.get_model_version_by_alias("wine", "champion").version == champion.version

    _, (gate, *_), version = run_to_registry(split, tmp_path, regularization=1.0, floor=0.9)
    assert (gate, version) == ("passed", "4")
    former = tracking.get_model_version("wine", "2")
    assert (former.current_stage, former.tags["status"], former.aliases) == ("Archived", "archived", [])
    assert str(tracking.get_model_version_by_alias("wine", "champion").version) == "4"
