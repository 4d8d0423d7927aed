"""Several users at once: each request succeeds or ends with a sentence, and the stored data is consistent."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests

from iml4e import Error, datasets, registry, serving
from iml4e.cluster import Cluster as Namespace
from support import experiments
from support import serving as by_hand
from support.helm import NAMESPACE
from support.k8s import Cluster
from support.platform import Gateway

CLIENTS = 20


class Clients:
    """Clients of MLflow's REST API that start at the same moment, and repeat nothing."""

    def __init__(self, gateway: Gateway) -> None:
        self.url = f"{gateway.url}/mlflow/api/2.0/mlflow"

    def post(self, path: str, bodies: list[dict[str, Any]]) -> list[requests.Response]:
        """Send each body, `CLIENTS` at a time."""
        start = threading.Barrier(min(CLIENTS, len(bodies)))

        def send(numbered: tuple[int, dict[str, Any]]) -> requests.Response:
            number, body = numbered
            if number < start.parties:
                start.wait(timeout=60)
            return requests.post(f"{self.url}/{path}", json=body, timeout=90)

        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(send, enumerate(bodies)))


@pytest.fixture
def clients(gateway: Gateway) -> Clients:
    """Twenty clients of MLflow."""
    return Clients(gateway)


@pytest.fixture
def run_id(gateway: Gateway, unique: str) -> Iterator[str]:
    """A run in an experiment of its own."""
    experiment = gateway.mlflow.create_experiment(unique)
    yield gateway.mlflow.create_run(experiment).info.run_id
    gateway.mlflow.delete_experiment(experiment)


@pytest.fixture
def model(gateway: Gateway, unique: str) -> Iterator[str]:
    """Name of a registered model without versions."""
    gateway.mlflow.create_registered_model(unique)
    yield unique
    gateway.mlflow.delete_registered_model(unique)


def accepted(answers: list[requests.Response]) -> bool:
    """Whether every answer is 200; a failure shows the others."""
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}, {
        answer.text[:300] for answer in answers if not answer.ok
    }
    return True


def test_registrations_of_one_name_are_versions_without_a_gap(
    gateway: Gateway, clients: Clients, model: str, run_id: str
) -> None:
    source = f"{gateway.mlflow.get_run(run_id).info.artifact_uri}/model"
    body = {"name": model, "source": source, "run_id": run_id, "tags": [{"key": "k", "value": "v"}]}
    answers = clients.post("model-versions/create", [body] * 5 * CLIENTS)
    assert accepted(answers)
    numbers = sorted(int(answer.json()["model_version"]["version"]) for answer in answers)
    assert numbers == list(range(1, 5 * CLIENTS + 1))


@pytest.mark.parametrize(
    ("path", "name"), [("registered-models/create", "Registered Model"), ("experiments/create", "Experiment")]
)
def test_one_of_many_makes_a_name_and_the_others_are_told(
    gateway: Gateway, clients: Clients, unique: str, path: str, name: str
) -> None:
    answers = clients.post(path, [{"name": unique}] * CLIENTS)
    try:
        assert Counter(answer.status_code for answer in answers) == {200: 1, 400: CLIENTS - 1}
        told = [answer.json() for answer in answers if not answer.ok]
        assert {each["error_code"] for each in told} == {"RESOURCE_ALREADY_EXISTS"}
        assert all(each["message"].startswith((f"{name}(name={unique})", f"{name} (name={unique})")) for each in told)
    finally:
        if path.startswith("exp"):
            gateway.mlflow.delete_experiment(gateway.mlflow.get_experiment_by_name(unique).experiment_id)
        else:
            gateway.mlflow.delete_registered_model(unique)


@pytest.mark.parametrize("what", ["metrics", "params", "tags"])
def test_the_same_keys_of_a_run_by_many_are_kept(gateway: Gateway, clients: Clients, run_id: str, what: str) -> None:
    """Like the processes of a distributed training: each process writes all keys, in its own order."""
    rows = [{"key": f"k{number}", "value": 1 if what == "metrics" else "1"} for number in range(20)]
    if what == "metrics":
        rows = [row | {"timestamp": 1, "step": 0} for row in rows]
    bodies = [{"run_id": run_id, what: rows[first:] + rows[:first]} for first in range(len(rows))]
    assert accepted(clients.post("runs/log-batch", bodies))
    kept = getattr(gateway.mlflow.get_run(run_id).data, what)
    assert {row["key"] for row in rows} <= set(kept)


@pytest.mark.parametrize("path", ["runs/set-tag", "runs/log-inputs", "experiments/set-experiment-tag"])
def test_a_key_that_many_add_at_once_is_added(gateway: Gateway, clients: Clients, run_id: str, path: str) -> None:
    experiment = gateway.mlflow.get_run(run_id).info.experiment_id
    dataset = {"name": "wine", "digest": "1", "source_type": "s3", "source": "s3://datasets/wine.csv"}
    body = {
        "runs/set-tag": {"run_id": run_id, "key": "owner", "value": "ann"},
        "runs/log-inputs": {"run_id": run_id, "datasets": [{"dataset": dataset, "tags": []}]},
        "experiments/set-experiment-tag": {"experiment_id": experiment, "key": "owner", "value": "ann"},
    }[path]
    assert accepted(clients.post(path, [body] * 2 * CLIENTS))


def test_several_who_crown_leave_one_champion(gateway: Gateway, model: str, run_id: str) -> None:
    source = f"{gateway.mlflow.get_run(run_id).info.artifact_uri}/model"
    for _ in range(6):
        gateway.mlflow.create_model_version(model, source, run_id)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda version: registry.crown(model, str(version)), range(1, 7)))
    champion = registry.champion(model)
    assert champion
    found = gateway.mlflow.search_model_versions(f"name = '{model}'")
    assert [str(each.version) for each in found if each.current_stage == "Production"] == [champion.version]
    assert [str(each.version) for each in found if each.tags["status"] == "champion"] == [champion.version]
    assert {each.tags["status"] for each in found} == {"champion", "archived"}


def test_two_who_put_one_dataset_get_what_they_put(
    cluster: Cluster, gateway: Gateway, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with experiments.outside(cluster, gateway) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        datasets.client.cache_clear()
        folders = []
        for user in ("ann", "bob"):
            folder = tmp_path / user
            folder.mkdir()
            (folder / "same.txt").write_text("same")
            (folder / "own.txt").write_text(user)
            folders.append(folder)
        with ThreadPoolExecutor(8) as pool:
            stored = list(pool.map(lambda folder: datasets.put(folder, unique), folders * 4))
        for folder, dataset in zip(folders * 4, stored, strict=True):
            back = tmp_path / f"back-{dataset.version}"
            datasets.get(dataset.address, to=back)
            assert (back / "own.txt").read_text() == folder.name
            assert (back / "same.txt").read_text() == "same"
        latest = datasets.get(unique, to=tmp_path / "latest")
        assert latest.address in {each.address for each in stored}
        for name in ("own.txt", "same.txt", "manifest.csv"):
            datasets.client().delete_object(Bucket="datasets", Key=f"{unique}/{name}")
    datasets.client.cache_clear()


@pytest.fixture
def endpoint(cluster: Cluster, gateway: Gateway, model_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model with two versions, of which the first is served; the endpoint has the model's name."""
    for name, value in experiments.laptop(cluster, gateway).items():
        monkeypatch.setenv(name, value)
    name = f"users-{time.time():.0f}"
    for _ in range(2):
        mlflow.register_model(model_uri, name)
    try:
        serving.deploy(name, "1")
        yield name
    finally:
        by_hand.remove(cluster, name)
        gateway.mlflow.delete_registered_model(name)


def test_a_deployment_that_another_took_over_changes_nothing_more(
    cluster: Cluster, gateway: Gateway, endpoint: str, bottle: dict[str, float]
) -> None:
    """Check, champion, rollback and removal of the earlier deployment come too late: version 2 stays, and stays the champion."""
    before = serving._served(Namespace(NAMESPACE), endpoint)
    serving.crown(endpoint, "1")
    serving.deploy(endpoint, "2")
    serving.crown(endpoint, "2")
    row = [list(bottle.values())]
    for late in (
        lambda: serving.check(endpoint, row, [99], version="1"),
        lambda: serving.crown(endpoint, "1"),
    ):
        with pytest.raises(serving.TookOverError, match=f"another deployment of {endpoint} took over: version 2"):
            late()
    assert serving.undo(endpoint, version="1") == "version 2 of another deployment stays"
    gone = {**before, "metadata": {**before["metadata"], "uid": "00000000-0000-0000-0000-000000000000"}}
    with pytest.raises(serving.TookOverError, match="came in between"):
        serving._remove(Namespace(NAMESPACE), gone)
    served = serving.find(endpoint)
    assert (served.version, served.ready) == ("2", True)
    model = gateway.model(endpoint, NAMESPACE)
    # the pod of version 1 answers until the gateway has learned that it goes
    cluster.wait("version 2 to answer", lambda: model.predict(row).headers["x-model-version"] == "2", 30)
    champion = registry.champion(endpoint)
    assert champion
    assert (champion.version, champion.tags[serving.TAG]) == ("2", f"{NAMESPACE}/{endpoint}")
    assert serving.TAG not in registry.resolve(f"{endpoint}/1").tags
    assert serving.rollback(endpoint).version == "1"


def test_a_deployment_beside_a_removal_is_told(cluster: Cluster, gateway: Gateway, endpoint: str) -> None:
    ends: dict[str, Any] = {}

    def act(name: str, wait: float, action: Callable[[], Any]) -> None:
        time.sleep(wait)
        try:
            ends[name] = action()
        except Error as error:
            ends[name] = error

    threads = [
        threading.Thread(target=act, args=("deploy", 0, lambda: serving.deploy(endpoint, "2"))),
        threading.Thread(target=act, args=("delete", 2.5, lambda: serving.delete(endpoint))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = serving.endpoints()
    assert isinstance(ends["deploy"], serving.Endpoint | Error), ends
    if isinstance(ends["deploy"], Error):
        assert "deleted" in str(ends["deploy"])
    assert endpoint not in [each.name for each in there]
    assert cluster.get(by_hand.GATEWAY, "HTTPRoute", endpoint) is None
    assert serving.TAG not in registry.resolve(f"{endpoint}/2").tags
