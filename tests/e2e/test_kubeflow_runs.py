"""Kubeflow Pipelines: runs of every kind, what they leave behind, and what a user sees of them."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from kfp import dsl

from iml4e.engines import StepFailed
from iml4e.engines import kfp as engine
from support import gpus
from support.gpus import GPU
from support.helm import NAMESPACE
from support.k8s import Cluster
from support.kubeflow import ARGO, BUCKET, Kubeflow, Run, step
from support.platform import Gateway

ABSENT = "iml4e.local/no/such-image:1"


@step
def measure(text: str, note: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]) -> None:
    from pathlib import Path

    print(f"measuring {text}")
    Path(note.path).write_text(text)
    metrics.log_metric("length", len(text))


@step
def fetch(key: str) -> str:
    import os

    import boto3

    s3 = boto3.client("s3")
    if not s3.list_objects_v2(Bucket=os.environ["S3_PIPELINES_BUCKET"], Prefix=key)["KeyCount"]:
        raise ValueError(f"there is nothing at {key}")
    return key


@step
def stumble(key: str) -> None:
    import os

    import boto3

    s3, bucket = boto3.client("s3"), os.environ["S3_PIPELINES_BUCKET"]
    if not s3.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"been here")
        raise RuntimeError("not at the first try")


@step
def rest(seconds: int) -> None:
    import time

    print(f"resting for {seconds} s", flush=True)
    time.sleep(seconds)


@dsl.component(base_image=ABSENT, packages_to_install=[], install_kfp_package=False)
def lost() -> None:
    pass


@dsl.pipeline(name="e2e-lost")
def lost_in_space() -> None:
    lost()


@dsl.pipeline(name="e2e-measure")
def measured(text: str) -> None:
    measure(text=text)


@dsl.pipeline(name="e2e-measure")
def measured_aloud(text: str) -> None:
    measure(text=f"{text}!")


@dsl.pipeline(name="e2e-fetch")
def fetched(key: str) -> None:
    measure(text=fetch(key=key).output)


@dsl.pipeline(name="e2e-stumble")
def stumbled(key: str) -> None:
    stumble(key=key).set_retry(num_retries=2, backoff_duration="1s")


@dsl.pipeline(name="e2e-rest")
def rested() -> None:
    rest(seconds=600)


@dsl.pipeline(name="e2e-gpu")
def accelerated() -> None:
    rest(seconds=0).set_accelerator_type(GPU).set_accelerator_limit(1)


@pytest.fixture(scope="module", autouse=True)
def runs(kubeflow: Kubeflow) -> dict[str, Run]:
    """Runs that the tests look at, submitted at once: they go on side by side."""
    name = kubeflow.name
    return {
        **{f"text {i}": kubeflow.submit(measured, text=f"{name} {i}", cached=True) for i in range(5)},
        "fetch": kubeflow.submit(fetched, key=f"{name}/fetch"),
        "stumble": kubeflow.submit(stumbled, key=f"{name}/stumble"),
        "rest": kubeflow.submit(rested),
        "gpu": kubeflow.submit(accelerated),
    }


@pytest.fixture(scope="module")
def run(runs: dict[str, Run]) -> Run:
    """The run that was first, when it is over."""
    return runs["text 0"].succeeded()


# --- how runs go


def test_runs_go_on_side_by_side(runs: dict[str, Run]) -> None:
    for i in range(5):
        assert runs[f"text {i}"].succeeded().said("measure/note").endswith(f" {i}")


def test_a_canceled_run_ends_and_its_pods_stop(kubeflow: Kubeflow, runs: dict[str, Run]) -> None:
    run = runs["rest"]
    run.pod("Running")
    kubeflow.client.terminate_run(run.id)
    # 2.17 has a state for a run that is being canceled, but calls its end as Argo does
    assert run.ended() in {"CANCELED", "FAILED"}
    run.wait("its pods to stop", lambda: not any(pod["status"]["phase"] == "Running" for pod in run.pods()), 60)


def test_a_step_is_tried_again_when_the_pipeline_says_so(runs: dict[str, Run]) -> None:
    run = runs["stumble"].succeeded()
    assert [pod["status"]["phase"] for pod in run.pods()].count("Failed") == 1


def test_a_step_with_known_inputs_is_not_run_again(kubeflow: Kubeflow, values: dict[str, Any], run: Run) -> None:
    if not values["pipelines"]["runs"]["cache"]:
        pytest.skip("reuse of steps is off in this release: pipelines.runs.cache")
    again, anew = (kubeflow.submit(measured, text=f"{kubeflow.name} 0", cached=cached) for cached in (True, False))
    again.succeeded()
    anew.succeeded()
    assert not again.pods()
    assert len(anew.pods()) == 1


@pytest.fixture(scope="module")
def uploaded(kubeflow: Kubeflow) -> Iterator[tuple[str, str]]:
    """Ids of an uploaded pipeline and of its second version."""
    client, name = kubeflow.client, kubeflow.name
    pipeline = client.upload_pipeline(kubeflow.package(measured), name).pipeline_id
    version = client.upload_pipeline_version(kubeflow.package(measured_aloud), f"{name}-2", pipeline)
    yield pipeline, version.pipeline_version_id
    for version in client.list_pipeline_versions(pipeline).pipeline_versions:
        client.delete_pipeline_version(pipeline, version.pipeline_version_id)
    client.delete_pipeline(pipeline)


def test_a_version_of_an_uploaded_pipeline_runs_by_its_id(kubeflow: Kubeflow, uploaded: tuple[str, str]) -> None:
    pipeline, version = uploaded
    versions = kubeflow.client.list_pipeline_versions(pipeline).pipeline_versions
    assert {v.display_name for v in versions} == {kubeflow.name, f"{kubeflow.name}-2"}
    started = kubeflow.client.run_pipeline(
        kubeflow.experiment, kubeflow.name, params={"text": "two"}, pipeline_id=pipeline, version_id=version
    )
    assert Run(kubeflow, started.run_id, measured.name).succeeded().said("measure/note") == "two!"


@pytest.mark.parametrize("what", ["a file", "an uploaded version"])
def test_a_recurring_run_starts_runs_until_it_is_disabled(
    kubeflow: Kubeflow, uploaded: tuple[str, str], what: str
) -> None:
    client, (pipeline, version) = kubeflow.client, uploaded
    source = {
        "a file": {"pipeline_package_path": kubeflow.package(measured)},
        "an uploaded version": {"pipeline_id": pipeline, "version_id": version},
    }[what]
    experiment = client.create_experiment(f"{kubeflow.name}-recurring").experiment_id
    recurring = client.create_recurring_run(
        experiment, kubeflow.name, interval_second=1, no_catchup=True, params={"text": what}, **source
    ).recurring_run_id
    try:
        kubeflow.cluster.wait("a run to be started", lambda: kubeflow.runs(experiment), 60)
        client.disable_recurring_run(recurring)
        assert client.get_recurring_run(recurring).status == "DISABLED"
        for run in kubeflow.runs(experiment):
            run.succeeded()
    finally:
        client.delete_recurring_run(recurring)
        kubeflow.remove(experiment)


# --- a run that fails


@dataclass(frozen=True)
class Failure:
    """A failed run, and what a user sees of it before it is tried again."""

    run: Run
    state: str
    log: str
    messages: list[str]


@pytest.fixture(scope="module")
def failure(runs: dict[str, Run]) -> Failure:
    """The run whose first step fails."""
    run = runs["fetch"]
    state = run.ended()
    return Failure(run, state, run.log(run.pod("Failed")), run.messages())


def test_the_reason_of_a_failure_reaches_the_user(kubeflow: Kubeflow, failure: Failure) -> None:
    reason = f"ValueError: there is nothing at {kubeflow.name}/fetch"
    assert failure.state == "FAILED"
    assert reason in failure.log
    assert any(reason in message for message in failure.messages), failure.messages


def test_a_failed_run_succeeds_when_it_is_tried_again_without_the_cause(kubeflow: Kubeflow, failure: Failure) -> None:
    run = failure.run
    kubeflow.s3.put_object(Bucket=BUCKET, Key=f"{kubeflow.name}/fetch", Body=b"now")
    address = f"{kubeflow.host}/apis/v2beta1/runs/{run.id}:retry"
    requests.post(address, timeout=30).raise_for_status()
    run.wait("the run to go on", lambda: run.state() != "FAILED", 30)
    assert run.succeeded().said("measure/note") == f"{kubeflow.name}/fetch"


def test_a_pod_that_never_starts_ends_the_run_with_its_reason(
    kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the engine `kfp`; `kfp.Client` alone would wait for ever."""
    monkeypatch.setattr(engine, "START_TIMEOUT", 45)
    monkeypatch.setenv("KF_PIPELINES_NAMESPACE", NAMESPACE)  # from the ConfigMap of runners
    out = io.StringIO()
    with pytest.raises(StepFailed) as raised:
        engine.run(kubeflow.host, lost_in_space, {}, out)
    assert str(raised.value).startswith("the pod of step lost does not start: ")
    assert ABSENT in str(raised.value)
    assert "its pod waits: " in out.getvalue()
    run = Run(kubeflow, re.search("details/(.+)", out.getvalue())[1])
    run.wait("the run to be cancelled", lambda: run.state() in {"CANCELING", "CANCELED", "FAILED"}, 60)
    kubeflow.client.delete_run(run.id)


# --- what a run leaves behind


def test_an_artifact_on_the_page_is_the_one_in_the_store(kubeflow: Kubeflow, run: Run) -> None:
    key = run.keys()["measure/note"]
    assert key.startswith(f"v2/artifacts/e2e-measure/{run.id}/")
    stored = kubeflow.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert stored == f"{kubeflow.name} 0".encode()
    assert kubeflow.artifact(key) == stored


def test_lineage_at_the_gateway_is_read_only(kubeflow: Kubeflow, gateway: Gateway) -> None:
    def ask(method: str) -> int:
        empty = b"\0\0\0\0\0"
        headers = {"Content-Type": "application/grpc-web+proto"}
        path = f"/ml_metadata.MetadataStoreService/{method}"
        return requests.post(gateway.url + path, data=empty, headers=headers, timeout=15).status_code

    assert ask("GetArtifactTypes") == 200
    assert {method: ask(method) for method in ("PutArtifacts", "PutContexts", "PutArtifactType")} == {
        "PutArtifacts": 404,
        "PutContexts": 404,
        "PutArtifactType": 404,
    }


def test_the_page_finds_an_artifact_by_its_lineage(kubeflow: Kubeflow, run: Run) -> None:
    key = run.keys()["measure/note"]
    known = kubeflow.lineage_of(f"minio://{BUCKET}/{key}")
    # how to open the store: the page hands it on as it stands
    provider = re.search(rb'\{"Provider":.*?\}\}', known)[0].decode()
    assert json.loads(provider)["Provider"] == "minio"
    assert kubeflow.artifact(key, providerInfo=provider, namespace=NAMESPACE) == f"{kubeflow.name} 0".encode()


def test_the_log_of_a_step_outlives_its_pod_and_its_workflow(
    cluster: Cluster, values: dict[str, Any], run: Run
) -> None:
    if not values["pipelines"]["runs"]["archiveLogs"]:
        pytest.skip("logs are not kept in this release: pipelines.runs.archiveLogs")
    pod, line = run.pod("Succeeded"), f"measuring {run.kubeflow.name} 0"
    assert line in run.log(pod)
    cluster.kill(pod)
    run.wait("the pod to go", lambda: not run.pods(), 60)
    assert line in run.log(pod)
    cluster.delete(ARGO, "Workflow", run.workflow()["metadata"]["name"])
    run.wait("the Workflow to go", lambda: not run.workflow(), 60)
    assert line in run.log(pod)


def test_mlflow_has_a_run_for_the_pipeline_and_one_for_each_step(
    gateway: Gateway, values: dict[str, Any], run: Run
) -> None:
    if not values["pipelines"]["mlflow"]["enabled"]:
        pytest.skip("tracking of runs in MLflow is off in this release: pipelines.mlflow.enabled")
    name = values["pipelines"]["mlflow"]["experiment"]
    experiment = gateway.mlflow.get_experiment_by_name(name).experiment_id
    (parent,) = gateway.mlflow.search_runs([experiment], f"tags.`kfp.pipeline_run_id` = '{run.id}'")
    assert parent.info.status == "FINISHED"
    children = gateway.mlflow.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    (measured,) = (child for child in children if child.info.run_name == "measure")
    assert measured.info.status == "FINISHED"
    assert measured.data.metrics == {"length": len(f"{run.kubeflow.name} 0")}
    assert measured.data.params == {"text": json.dumps(f"{run.kubeflow.name} 0")}


# --- accelerators


@pytest.fixture
def gpu(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """A function that gives a node the resource that a GPU's device plugin would: no device, but to the scheduler one."""
    if gpus.nodes_with_gpus(cluster):
        pytest.skip("the cluster has real GPUs: a step that wants one does not wait")
    node = cluster.core.list_node().items[0].metadata.name
    yield lambda: gpus.offer(cluster, node, 1)
    gpus.offer(cluster, node, 0)


def test_a_step_that_wants_a_gpu_waits_for_one_and_says_so(runs: dict[str, Run], gpu: Callable[[], None]) -> None:
    run = runs["gpu"]
    pod = run.pod("Pending")
    run.wait("the page to say why", lambda: f"Insufficient {GPU}" in run.events(pod))
    assert run.state() == "RUNNING"
    gpu()
    run.succeeded()
