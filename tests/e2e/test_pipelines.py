"""The reference pipelines: from raw data to a prediction, and with invalid data and bad models."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_wine

from support import experiments, serving
from support.helm import NAMESPACE, RELEASE
from support.k8s import Cluster
from support.kubeflow import Kubeflow
from support.platform import Gateway, Model

Result = dict[str, Any]
BOTH = pytest.mark.parametrize("name", ["wine", "digits"])


@pytest.fixture
def result(request: pytest.FixtureRequest, name: str) -> Result:
    """What a pipeline returned."""
    return request.getfixturevalue(f"{name}_run")


@pytest.fixture(scope="module")
def environment(cluster: Cluster, gateway: Gateway, wine_run: Result) -> Iterator[dict[str, str]]:
    """Where things are for a run from here; the good run comes first, so that there is a champion to beat."""
    with experiments.outside(cluster, gateway) as environment:
        yield environment


# --- a good run


@BOTH
def test_run_ends_with_a_served_champion(gateway: Gateway, result: Result, name: str) -> None:
    assert result["deployed"] is True
    assert result["gate"] == "passed"
    assert result["metrics"]["accuracy"] >= 0.9
    champion = gateway.mlflow.get_model_version_by_alias(name, "champion")
    assert str(champion.version) == str(result["version"])
    assert champion.current_stage == "Production"
    assert champion.tags["status"] == "champion"
    assert champion.tags["iml4e.endpoint"].endswith(f"/{result['name']}")


@BOTH
def test_run_knows_the_exact_data(gateway: Gateway, s3: Callable[[str], Any], result: Result, name: str) -> None:
    dataset = result["dataset"]
    stored = s3("pipelines").get_object(Bucket="datasets", Key=dataset["key"], VersionId=dataset["version"])
    assert hashlib.sha256(stored["Body"].read()).hexdigest() == dataset["sha256"]
    run = gateway.mlflow.get_run(result["run_id"])
    assert run.data.tags["dataset"] == dataset["address"]
    tracked = run.inputs.dataset_inputs[0].dataset
    assert dataset["sha256"].startswith(tracked.digest)
    assert f"/{dataset['key']}?" in tracked.source


@BOTH
def test_run_keeps_a_report_on_the_data(s3: Callable[[str], Any], result: Result, name: str) -> None:
    assert report(s3, result["dataset"]["key"], result["dataset"]["version"])["valid"] is True


@BOTH
def test_served_version_is_the_champion(cluster: Cluster, gateway: Gateway, result: Result, name: str) -> None:
    service = cluster.get(serving.SERVING, "InferenceService", name)
    address = gateway.mlflow.get_model_version_download_uri(name, result["version"])
    assert service["spec"]["predictor"]["model"]["storageUri"].endswith(address.split(":")[-1].strip("/") + "/")
    serving.wait_ready(cluster, name)
    answer = gateway.get(f"/models/{NAMESPACE}/{name}/v2/models/{name}")
    assert answer.headers["x-model-version"] == str(result["version"])


@BOTH
def test_printed_line_makes_the_prediction(result: Result, name: str) -> None:
    done = subprocess.run(result["curl"], shell=True, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout) == result["prediction"]


# --- on Kubeflow Pipelines


@BOTH
def test_run_is_one_of_kubeflow_pipelines(kubeflow: Kubeflow, result: Result, name: str) -> None:
    """The fixtures run the pipelines on the default engine, which is Kubeflow Pipelines where the release has it."""
    run = kubeflow.client.get_run(result["pipeline_run"].split("/")[-1])
    assert run.state == "SUCCEEDED"
    # its steps read, write and deploy with this account's rights and no others
    assert run.service_account == f"{RELEASE}-runner"


@pytest.mark.usefixtures("kubeflow")
def test_the_other_engine_is_a_word_away(wine_run: Result) -> None:
    result = experiments.demo("wine", "--engine", "local")
    assert result["pipeline_run"] is None
    assert {**result["metrics"], "gate": result["gate"]} == {**wine_run["metrics"], "gate": wine_run["gate"]}
    assert result["dataset"] == wine_run["dataset"]


def test_own_data_goes_to_the_steps_by_the_bucket(wine_run: Result, tmp_path: Path) -> None:
    CSV.sample(frac=0.9, random_state=1).to_csv(tmp_path / "mine.csv", index=False)
    result = experiments.demo("wine", "--data", str(tmp_path / "mine.csv"), "--param", "regularization=1e-6")
    assert result["dataset"]["key"] == "uploads/wine/mine.csv"
    assert result["dataset"]["sha256"] == hashlib.sha256((tmp_path / "mine.csv").read_bytes()).hexdigest()
    assert result["gate"] == "rejected"


@pytest.mark.usefixtures("kubeflow")
def test_a_failed_step_ends_with_its_own_sentence_there_too(environment: dict[str, str]) -> None:
    outcome = experiments.run("wine", environment, engine="kfp", dataset_key="no/such/file.csv")
    assert outcome.code == 1
    assert outcome.said.strip().endswith(
        "Step onboard failed: cannot read no/such/file.csv in bucket datasets: The specified key does not exist."
    )


# --- data that will not do

CSV = load_wine(as_frame=True).frame


def bad(column: str, value: Any, rows: int = 1) -> bytes:
    """The wine data with a value in the first rows of a column."""
    table = CSV.astype({column: object})
    table.loc[: rows - 1, column] = value
    return table.to_csv(index=False).encode()


# what is wrong: (content of the file, what the sentence says); tests/unit has more of them, without a cluster
UNFIT: dict[str, tuple[bytes, str]] = {
    "a corrupt file": (b"\x89PNG\r\n\x1a\n\x00\xff\xfe" * 50, "CSV file"),
    "a file cut off": (CSV.to_csv(index=False).encode() + b'13.2,"1.7', "CSV file"),
    "a missing column": (CSV.drop(columns="alcohol").to_csv(index=False).encode(), "alcohol"),
    "another schema": (bad("magnesium", "much"), "magnesium"),
    "a flood of NaN": (bad("proline", None, rows=100), "proline"),
}


@pytest.fixture
def untouched(
    cluster: Cluster, gateway: Gateway, wine_run: Result, wine: Model, bottle: dict[str, float]
) -> Iterator[None]:
    """The champion is the same after the test, and still answers."""

    def state() -> tuple[Any, ...]:
        champion = gateway.mlflow.get_model_version_by_alias("wine", "champion").version
        service = cluster.get(serving.SERVING, "InferenceService", "wine")
        return champion, service["spec"]["predictor"]["model"]["storageUri"], service["metadata"]["generation"]

    before = state()
    yield
    assert state() == before
    assert wine.predict([bottle]).ok


def versions(gateway: Gateway, name: str) -> int:
    """How many versions of a model are registered."""
    return len(gateway.mlflow.search_model_versions(f"name='{name}'"))


def report(s3: Callable[[str], Any], key: str, version: str) -> dict[str, Any]:
    """The report on a version of a dataset."""
    stored = s3("pipelines").get_object(Bucket="pipelines", Key=f"reports/{key}/{version}.json")
    return json.loads(stored["Body"].read())


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("what", UNFIT)
def test_unfit_data_stops_the_run_with_a_report(
    gateway: Gateway, s3: Callable[[str], Any], environment: dict[str, str], unique: str, what: str
) -> None:
    content, says = UNFIT[what]
    key, before = f"{unique}/wine.csv", versions(gateway, "wine")
    version = s3("pipelines").put_object(Bucket="datasets", Key=key, Body=content)["VersionId"]
    outcome = experiments.run("wine", environment, dataset_key=key, dataset_version=version)
    assert outcome.code == 1
    assert "Step validate failed: the data cannot be used" in outcome.said
    assert says in outcome.said
    kept = report(s3, key, version)
    assert kept["valid"] is False
    assert kept["problems"]
    assert versions(gateway, "wine") == before


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (
            {"dataset_key": "wine/wine.csv", "dataset_version": "00000000-0000-0000-0000-000000000000"},
            "cannot read version",
        ),
        ({"dataset_key": "no/such/file.csv"}, "cannot read no/such/file.csv"),
    ],
    ids=["unknown version", "unknown key"],
)
def test_unknown_data_stops_the_run(environment: dict[str, str], parameters: dict[str, str], says: str) -> None:
    outcome = experiments.run("wine", environment, **parameters)
    assert outcome.code == 1
    assert f"Step onboard failed: {says}" in outcome.said


def test_a_truncated_image_stops_the_run(
    s3: Callable[[str], Any], environment: dict[str, str], digits_run: Result, unique: str
) -> None:
    store, dataset = s3("pipelines"), digits_run["dataset"]
    manifest = store.get_object(Bucket="datasets", Key=dataset["key"], VersionId=dataset["version"])["Body"].read()
    rows = list(csv.DictReader(io.StringIO(manifest.decode())))[:300]
    whole = store.get_object(Bucket="datasets", Key=rows[0]["key"], VersionId=rows[0]["version"])["Body"].read()
    cut = whole[: len(whole) // 2]
    stored = store.put_object(Bucket="datasets", Key=f"{unique}/cut.png", Body=cut)
    rows[0] |= {"key": f"{unique}/cut.png", "version": stored["VersionId"], "sha256": hashlib.sha256(cut).hexdigest()}
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    store.put_object(Bucket="datasets", Key=f"{unique}/manifest.csv", Body=text.getvalue().encode())
    outcome = experiments.run("digits", environment, dataset_key=f"{unique}/manifest.csv")
    assert outcome.code == 1
    assert "Step validate failed: the data cannot be used" in outcome.said
    assert f"{unique}/cut.png" in outcome.said


@pytest.mark.usefixtures("untouched")
def test_own_data_that_cannot_be_used_never_becomes_a_version(
    s3: Callable[[str], Any], environment: dict[str, str], unique: str, tmp_path: Path
) -> None:
    (tmp_path / f"{unique}.csv").write_bytes(bad("proline", None))
    outcome = experiments.run("wine", environment, "--data", str(tmp_path / f"{unique}.csv"))
    assert outcome.code == 1
    assert "'proline': no value, 1 case(s), such as line 2: nan; nothing was stored" in outcome.said
    listed = s3("pipelines").list_object_versions(Bucket="datasets", Prefix=f"uploads/wine/{unique}.csv")
    assert not listed.get("Versions")


# --- from a laptop


@pytest.mark.usefixtures("untouched")
def test_a_kubeconfig_is_enough(
    cluster: Cluster, gateway: Gateway, wine_run: Result, s3: Callable[[str], Any], tmp_path: Path
) -> None:
    """Settings, S3 keys and the way to the object store come from the cluster; only the weak model is not deployed."""
    laptop = experiments.laptop(cluster, gateway)
    CSV.sample(frac=0.8, random_state=2).to_csv(tmp_path / "laptop.csv", index=False)
    words = ["--data", str(tmp_path / "laptop.csv")]
    outcome = experiments.run("wine", laptop, *words, regularization=1e-6)
    assert outcome.code == 0, outcome.said
    assert outcome.result["gate"] == "rejected"
    dataset = outcome.result["dataset"]
    stored = s3("pipelines").get_object(Bucket="datasets", Key="uploads/wine/laptop.csv", VersionId=dataset["version"])
    assert stored["Body"].read() == (tmp_path / "laptop.csv").read_bytes()


# --- a model that will not do


@pytest.mark.usefixtures("untouched")
def test_a_model_below_the_gate_is_registered_as_rejected_and_not_deployed(
    gateway: Gateway, environment: dict[str, str]
) -> None:
    outcome = experiments.run("wine", environment, regularization=1e-6)
    assert outcome.code == 0, outcome.said
    assert outcome.result["gate"] == "rejected"
    assert outcome.result["deployed"] is False
    version = gateway.mlflow.get_model_version("wine", outcome.result["version"])
    assert version.tags["status"] == "rejected"
    assert "below" in version.tags["gate_reason"]
    assert version.current_stage == "None"
    assert not version.aliases


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("parameters", "says"),
    [({"model_name": "a/b"}, "'a/b' cannot name a model"), ({"namespace": "no-such-namespace"}, "no-such-namespace")],
    ids=["name", "namespace"],
)
def test_what_cannot_be_deployed_is_refused_before_anything_runs(
    environment: dict[str, str], parameters: dict[str, str], says: str
) -> None:
    outcome = experiments.run("wine", environment, **parameters)
    assert outcome.code == 1
    assert outcome.said.startswith("pipelines.run: ")
    assert says in outcome.said
    assert outcome.said.count("\n") == 1


@pytest.mark.usefixtures("untouched")
def test_a_wrong_parameter_is_told_before_anything_runs(environment: dict[str, str]) -> None:
    outcome = experiments.run("wine", environment, flour=0.9)
    assert outcome.code == 2
    assert "floor" in outcome.said


def test_the_same_data_keeps_its_version(s3: Callable[[str], Any], wine_run: Result) -> None:
    """However often a file is onboarded, two versions in a row are never the same."""
    listed = s3("pipelines").list_object_versions(Bucket="datasets", Prefix="wine/wine.csv")["Versions"]
    assert all(newer["ETag"] != older["ETag"] for newer, older in itertools.pairwise(listed))
