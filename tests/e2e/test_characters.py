"""Characters of four bytes, in every text that a user writes: names, descriptions, arguments, tags, outputs, metadata."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
from kfp import dsl

from iml4e import lineage
from support.kubeflow import Kubeflow, Run, step
from support.platform import Gateway

WINE, PARTY = "🍷", "Zürich 🎉 北京"


# --- MLflow


@pytest.fixture
def client(gateway: Gateway, unique: str) -> Iterator[mlflow.MlflowClient]:
    """A client, and an experiment of four-byte characters that goes away with the test."""
    experiment = gateway.mlflow.create_experiment(f"{unique} {WINE}", tags={"about": WINE})
    yield gateway.mlflow
    gateway.mlflow.delete_experiment(experiment)


def test_mlflow_keeps_them(client: mlflow.MlflowClient, unique: str) -> None:
    experiment = client.get_experiment_by_name(f"{unique} {WINE}")
    assert experiment.tags["about"] == WINE
    run = client.create_run(experiment.experiment_id, run_name=PARTY, tags={"mlflow.note.content": PARTY}).info.run_id
    client.log_param(run, "text", PARTY)
    client.set_tag(run, "text", WINE)
    kept = client.get_run(run)
    assert kept.info.run_name == kept.data.params["text"] == kept.data.tags["mlflow.note.content"] == PARTY
    found = client.search_runs([experiment.experiment_id], f"tags.text = '{WINE}' and params.text = '{PARTY}'")
    assert [each.info.run_id for each in found] == [run]
    assert not client.search_runs([experiment.experiment_id], "tags.text = '🎉'")


def test_mlflows_registry_keeps_them(gateway: Gateway, unique: str) -> None:
    client, name = gateway.mlflow, f"{unique} {WINE}"
    client.create_registered_model(name, tags={"about": WINE}, description=PARTY)
    try:
        version = client.create_model_version(name, f"s3://mlflow/{unique}", description=PARTY, tags={"text": WINE})
        client.set_registered_model_alias(name, "champion", version.version)
        kept = client.get_model_version_by_alias(name, "champion")
        assert (kept.name, kept.description, kept.tags["text"]) == (name, PARTY, WINE)
        assert client.get_registered_model(name).description == PARTY
    finally:
        client.delete_registered_model(name)


# --- Kubeflow Pipelines, ML Metadata


@step
def say(text: str, note: dsl.Output[dsl.Artifact]) -> str:
    from pathlib import Path

    note.metadata["🍷"] = text
    Path(note.path).write_text(text)
    print(text)
    return text


@step
def tell(text: str, words: list, sizes: dict) -> str:
    return text + words[0] + "".join(sizes)


@dsl.pipeline(name="e2e-characters", display_name="e2e 🍷", description="e2e 🍷")
def talk(text: str, words: list, sizes: dict) -> None:
    tell(text=say(text=text).outputs["Output"], words=words, sizes=sizes)


@pytest.fixture(scope="module")
def stored(kubeflow: Kubeflow) -> Iterator[dict[str, str]]:
    """Ids of all that can have a name: experiment, pipeline, version, run, recurring run."""
    client, name = kubeflow.client, f"{kubeflow.name} {WINE}"
    experiment = client.create_experiment(name, description=PARTY).experiment_id
    package = kubeflow.package(talk)
    pipeline = client.upload_pipeline(package, name, description=PARTY).pipeline_id
    version = client.upload_pipeline_version(package, f"{name} 2", pipeline, description=PARTY).pipeline_version_id
    about: dict[str, Any] = {"pipeline_id": pipeline, "version_id": version}
    about["params"] = {"text": PARTY, "words": [WINE], "sizes": {WINE: 1}}
    run = client.run_pipeline(experiment, name, enable_caching=False, **about).run_id
    recurring = client.create_recurring_run(
        experiment, name, description=PARTY, interval_second=86400, enabled=False, **about
    ).recurring_run_id
    yield {"experiment": experiment, "pipeline": pipeline, "version": version, "run": run, "recurring": recurring}
    client.delete_recurring_run(recurring)
    kubeflow.remove(experiment)
    for each in client.list_pipeline_versions(pipeline).pipeline_versions:
        client.delete_pipeline_version(pipeline, each.pipeline_version_id)
    client.delete_pipeline(pipeline)


def test_kubeflow_pipelines_keeps_them(kubeflow: Kubeflow, stored: dict[str, str]) -> None:
    client, name = kubeflow.client, f"{kubeflow.name} {WINE}"
    experiment = client.get_experiment(experiment_name=name)
    assert (experiment.experiment_id, experiment.description) == (stored["experiment"], PARTY)
    assert client.get_pipeline_id(name) == stored["pipeline"]
    assert client.get_pipeline(stored["pipeline"]).description == PARTY
    version = client.get_pipeline_version(stored["pipeline"], stored["version"])
    assert (version.display_name, version.description) == (f"{name} 2", PARTY)
    recurring = client.get_recurring_run(stored["recurring"])
    assert (recurring.display_name, recurring.description) == (name, PARTY)
    assert recurring.runtime_config.parameters["words"] == [WINE]


def test_steps_and_ml_metadata_keep_them(kubeflow: Kubeflow, stored: dict[str, str]) -> None:
    run = Run(kubeflow, stored["run"], talk.name).succeeded()
    assert run.now.display_name == f"{kubeflow.name} {WINE}"
    steps = {each.name: each for each in lineage.steps(kubeflow.host, run.id)}
    assert steps["say"].outputs == {"Output": PARTY}
    assert steps["tell"].outputs == {"Output": PARTY + WINE * 2}
    assert run.said("say/note") == PARTY
    assert PARTY in run.log(steps["say"].pod)
    known = kubeflow.lineage_of(f"minio://pipelines/{run.keys()['say/note']}")
    assert WINE.encode() in known
    assert PARTY.encode() in known
