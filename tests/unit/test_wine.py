"""The wine pipeline's steps and the shared ones, as functions, on real data and on data that went wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from iml4e import Error, datasets
from pipelines.steps import prepare
from pipelines.wine.components import onboard, put, train, validate

WINE = load_wine(as_frame=True).frame
ADDRESS = "s3://datasets/wine/wine.csv?versionId=v-1"
SHA256 = "0123456789abcdef" * 4


@pytest.fixture
def check(tmp_path: Path, artifact: Callable[[str], Any]) -> Callable[[bytes], tuple[int, dict[str, Any]]]:
    """Validate the bytes of a file: number of rows and report."""

    def run(content: bytes) -> tuple[int, dict[str, Any]]:
        (tmp_path / "raw").write_bytes(content)
        raw, data, report = (artifact(name) for name in ("raw", "data", "report"))
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
    with pytest.raises(Error, match=words) as raised:
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
def split(
    tmp_path: Path, artifact: Callable[[str], Any]
) -> Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]:
    """Split a table: training rows and held-out rows."""

    def run(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        table.to_csv(tmp_path / "data", index=False)
        data, training, held_out = (artifact(name) for name in ("data", "training", "held_out"))
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


def test_training_is_tracked_with_its_exact_data(
    tracking: mlflow.MlflowClient, split: Any, artifact: Callable[[str], Any]
) -> None:
    split(WINE)
    run_id, experiment_id, model_uri = train.python_func(artifact("training"), ADDRESS, SHA256, "Wein Ärger", 1.0)
    run = tracking.get_run(run_id)
    assert tracking.get_experiment(experiment_id).name == "Wein Ärger"
    assert run.data.params["regularization"] == "1.0"
    assert run.data.tags["dataset.sha256"] == SHA256
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("Wein Ärger", SHA256[:36])
    assert json.loads(used.dataset.source)["uri"] == ADDRESS
    model = mlflow.models.get_model_info(model_uri)
    assert model.signature.inputs.input_names() == list(WINE.columns[:-1])
    assert model.saved_input_example_info


def test_the_built_in_data_is_stored_once(store: Any, artifact: Callable[[str], Any]) -> None:
    first = onboard.python_func("", "", "wine", artifact("raw"))
    assert onboard.python_func("", "", "wine", artifact("raw")) == first
    assert first[1] == "wine/wine.csv"
    assert Path(artifact("raw").path).read_bytes() == csv(WINE)
    datasets.put(b"x", "wine/wine.csv")
    address, _, version, _ = onboard.python_func("", first[2], "wine", artifact("raw"))
    assert (address, version) == (first[0], first[2])


def test_a_name_that_no_model_can_have_stores_nothing(store: Any, artifact: Callable[[str], Any]) -> None:
    with pytest.raises(Error, match="name"):
        onboard.python_func("", "", "a/b", artifact("raw"))
    assert not store.objects


def test_own_data_has_a_key_of_its_own_and_is_stored_only_if_it_can_be_used(store: Any, tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_bytes(BAD["one NaN"][0])
    with pytest.raises(Error, match=r"'ash': no value, 1 case.*line 7: nan; nothing was stored$"):
        put(tmp_path / "my.csv")
    with pytest.raises(Error, match="there is no file"):
        put(tmp_path)
    assert not store.objects
    (tmp_path / "my.csv").write_bytes(csv(WINE.iloc[::-1]))
    assert put(tmp_path / "my.csv").key == "uploads/wine/my.csv"
