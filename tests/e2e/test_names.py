"""Names are compared exactly in all three databases: case, accents, trailing spaces and look-alike characters count."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

import json
from collections.abc import Iterator

import mlflow
import pytest
from kfp import dsl
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from support.kubeflow import BUCKET, Kubeflow, step
from support.platform import Gateway

# case; accents, composed and combined; a trailing space; letters that fold to two; full width; emoji
NAMES = (
    "Loss",
    "loss",
    "LOSS",
    "café",
    "cafe",
    "cafe\u0301",
    "a b",
    "a b ",
    "straße",
    "strasse",
    "ＡＢ",
    "AB",
    "ﬁ",
    "fi",
    "😀",
    "😁",
)
# what MLflow takes as the name of a metric, a parameter or a tag
KEYS = ("Loss", "loss", "LOSS", "café", "cafe", "a b", "a b ", "straße", "strasse", "ＡＢ", "AB", "ﬁ", "fi")


@pytest.fixture
def client(gateway: Gateway) -> mlflow.MlflowClient:
    """MLflow."""
    return gateway.mlflow


@pytest.fixture
def experiment(client: mlflow.MlflowClient, unique: str) -> Iterator[str]:
    """An experiment that goes away with the test."""
    experiment = client.create_experiment(unique)
    yield experiment
    client.delete_experiment(experiment)


def test_experiments(client: mlflow.MlflowClient, unique: str) -> None:
    made: dict[str, str] = {}
    try:
        for name in NAMES:
            made[name] = client.create_experiment(unique + name)
        assert {name: client.get_experiment_by_name(unique + name).experiment_id for name in NAMES} == made
    finally:
        for experiment in made.values():
            client.delete_experiment(experiment)


def test_metrics_parameters_and_tags_of_a_run(client: mlflow.MlflowClient, experiment: str) -> None:
    numbers = {key: float(number) for number, key in enumerate(KEYS)}
    texts = {key: str(number) for number, key in enumerate(KEYS)}
    run = client.create_run(experiment).info.run_id
    client.log_batch(
        run,
        metrics=[Metric(key, number, 1, 0) for key, number in numbers.items()],
        params=[Param(key, value) for key, value in texts.items()],
        tags=[RunTag(key, value) for key, value in texts.items()],
    )
    data = client.get_run(run).data
    assert (data.metrics, data.params) == (numbers, texts)
    assert {key: value for key, value in data.tags.items() if key in KEYS} == texts
    for key, number in numbers.items():
        assert [(point.key, point.value) for point in client.get_metric_history(run, key)] == [(key, number)]
    assert client.search_runs([experiment], "metrics.`loss` = 1 AND params.`Loss` = '0' AND tags.`LOSS` = '2'")
    assert not client.search_runs([experiment], "metrics.`Loss` = 1")
    assert not client.search_runs([experiment], "tags.`loss` = '2'")


def test_registered_models_with_their_aliases_and_tags(
    client: mlflow.MlflowClient, experiment: str, unique: str
) -> None:
    names = [name for name in NAMES if name == name.strip()]
    tags = {key: str(number) for number, key in enumerate(KEYS)}
    run = client.create_run(experiment).info
    try:
        for name in names:
            client.create_registered_model(unique + name, tags=tags)
            client.create_model_version(unique + name, run.artifact_uri, run.run_id, tags=tags)
        for name in names:
            model = client.get_registered_model(unique + name)
            assert (model.name, model.tags) == (unique + name, tags)
            assert client.get_model_version(unique + name, "1").tags == tags
        first = unique + names[0]
        for alias in ("Best", "best", "BEST"):
            version = client.create_model_version(first, run.artifact_uri, run.run_id).version
            client.set_registered_model_alias(first, alias, version)
        assert {alias: int(version) for alias, version in client.get_registered_model(first).aliases.items()} == {
            "Best": 2, "best": 3, "BEST": 4,
        }  # fmt: skip
    finally:
        for model in client.search_registered_models(f"name LIKE '{unique}%'"):
            client.delete_registered_model(model.name)


def test_datasets_and_traces(client: mlflow.MlflowClient, experiment: str) -> None:
    run = client.create_run(experiment).info.run_id
    datasets = [mlflow.data.from_numpy(numpy_one(), name=name)._to_mlflow_entity() for name in KEYS]
    client.log_inputs(run, [DatasetInput(dataset, [InputTag("Of", "1"), InputTag("of", "2")]) for dataset in datasets])
    inputs = client.get_run(run).inputs.dataset_inputs
    assert sorted(found.dataset.name for found in inputs) == sorted(KEYS)
    assert all({tag.key: tag.value for tag in found.tags} == {"Of": "1", "of": "2"} for found in inputs)
    for name in ("Ask", "ask"):
        span = client.start_trace(name, experiment_id=experiment, tags={"Of": name, "of": f"{name} too"})
        client.end_trace(span.trace_id)
    mlflow.flush_trace_async_logging()
    (trace,) = client.search_traces(experiment_ids=[experiment], filter_string="trace.name = 'ask'")
    assert (trace.info.tags["Of"], trace.info.tags["of"]) == ("ask", "ask too")


def numpy_one() -> object:
    """The smallest dataset."""
    import numpy

    return numpy.zeros((1, 1))


def test_searches_mean_what_mlflow_documents(client: mlflow.MlflowClient, experiment: str, unique: str) -> None:
    for name in ("Run", "run", "RUN ", "Rün"):
        client.create_run(experiment, run_name=name)

    def found(condition: str) -> set[str]:
        runs = client.search_runs([experiment], f"attributes.run_name {condition}")
        return {run.info.run_name for run in runs}

    assert found("= 'run'") == {"run"}
    assert found("= 'RUN'") == set()
    assert found("!= 'run'") == {"Run", "RUN ", "Rün"}
    assert found("LIKE 'Ru%'") == {"Run"}
    assert found("ILIKE 'ru%'") == {"Run", "run", "RUN "}
    assert found("ILIKE 'rün'") == {"Rün"}
    ordered = client.search_runs([experiment], order_by=["attributes.run_name ASC"])
    assert [run.info.run_name for run in ordered] == ["RUN ", "Run", "Rün", "run"], "code points, as on SQLite"


# --- Kubeflow Pipelines and ML Metadata

METRICS = ("acc", "Acc", "ACC", "acc ", "straße", "strasse", "ﬁ", "fi")


@step
def name_much(names: str, out: dsl.Output[dsl.Metrics], Out: dsl.Output[dsl.Metrics]) -> None:
    import json

    for number, name in enumerate(json.loads(names)):
        out.log_metric(name, float(number))
    Out.log_metric("other", 1.0)
    for artifact in (out, Out):
        with open(artifact.path, "w") as file:
            file.write("kept")


@dsl.pipeline(name="e2e-names")
def names_pipeline(names: str) -> None:
    """One step, whose outputs and metrics have names alike."""
    name_much(names=names)


def test_experiments_pipelines_and_versions_of_kubeflow(kubeflow: Kubeflow) -> None:
    client = kubeflow.client
    names = [name for name in NAMES if name.isascii() or name in ("café", "straße", "ＡＢ")]
    package = kubeflow.package(names_pipeline)
    experiments: dict[str, str] = {}
    pipelines: dict[str, str] = {}
    try:
        for name in names:
            experiments[name] = client.create_experiment(kubeflow.name + name).experiment_id
        found = {name: client.get_experiment(experiment_name=kubeflow.name + name).experiment_id for name in names}
        assert found == experiments
        for name in ("Pipe", "pipe"):
            pipelines[name] = client.upload_pipeline(package, pipeline_name=kubeflow.name + name).pipeline_id
            for version in ("V", "v"):
                client.upload_pipeline_version(package, version, pipeline_id=pipelines[name])
            versions = client.list_pipeline_versions(pipelines[name]).pipeline_versions
            assert {"V", "v"} < {version.display_name for version in versions}
        assert {name: client.get_pipeline_id(kubeflow.name + name) for name in pipelines} == pipelines
    finally:
        for experiment in experiments.values():
            client.delete_experiment(experiment)
        for pipeline in pipelines.values():
            for version in client.list_pipeline_versions(pipeline).pipeline_versions:
                client.delete_pipeline_version(pipeline, version.pipeline_version_id)
            client.delete_pipeline(pipeline)


def test_metrics_and_outputs_of_a_step(kubeflow: Kubeflow) -> None:
    run = kubeflow.submit(names_pipeline, names=json.dumps(METRICS)).succeeded()
    for output, metrics in (("out", METRICS), ("Out", ("other",))):
        known = kubeflow.lineage_of(f"minio://{BUCKET}/{run.keys()[f'name-much/{output}']}")
        # custom_properties: a map, whose entries begin with the key
        for name in metrics:
            key = name.encode()
            assert known.count(b"\x0a" + bytes([len(key)]) + key + b"\x12") == 1, (output, name)
