"""Kubeflow Pipelines: why a run waits or failed, and the state of the MLflow runs afterwards."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

import io
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kfp import dsl
from mlflow import MlflowClient

from iml4e import Error
from iml4e.engines import StepFailed
from iml4e.engines import kfp as engine
from support import helm
from support.k8s import Cluster
from support.kubeflow import Kubeflow, Run, step
from support.platform import Gateway

QUOTA = "e2e-no-gpus"
GPU = "nvidia.com/gpu"


@step
def fill() -> None:
    kept = []
    while True:
        kept.append(bytearray(10_000_000))


@step
def leave(code: int) -> None:
    import os

    print("good bye")
    os._exit(code)


@step
def crash(number: int) -> None:
    import os

    os.kill(os.getpid(), number)


@step
def write(size: int) -> str:
    return "x" * size


@step
def read(text: str) -> int:
    return len(text)


@step
def track(experiment: str, how: str) -> None:
    import os
    import time

    import mlflow

    mlflow.set_experiment(experiment)
    mlflow.start_run(run_name=how)
    print("tracking", flush=True)
    if how == "dies":
        os._exit(1)
    time.sleep(600)


@dsl.pipeline(name="e2e-fill")
def filled() -> None:
    fill().set_memory_request("128M").set_memory_limit("200M")


@dsl.pipeline(name="e2e-leave")
def left(code: int) -> None:
    leave(code=code)


@dsl.pipeline(name="e2e-crash")
def crashed(number: int) -> None:
    crash(number=number)


@dsl.pipeline(name="e2e-large")
def large(size: int) -> None:
    read(text=write(size=size).output)


@dsl.pipeline(name="e2e-argument")
def argued(text: str) -> None:
    read(text=text)


@dsl.pipeline(name="e2e-gpu-quota")
def accelerated() -> None:
    leave(code=0).set_accelerator_type(GPU).set_accelerator_limit(1)


@dsl.pipeline(name="e2e-track")
def tracked(experiment: str, how: str) -> None:
    track(experiment=experiment, how=how)


@pytest.fixture(scope="module")
def quota(cluster: Cluster) -> Iterator[None]:
    """A quota that allows no GPU in the namespace."""
    spec = {"hard": {f"requests.{GPU}": "0"}}
    cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": QUOTA}, "spec": spec})
    yield
    cluster.delete("v1", "ResourceQuota", QUOTA)


@pytest.fixture(scope="module", autouse=True)
def runs(kubeflow: Kubeflow) -> dict[str, Run]:
    """Runs that fail, submitted at once."""
    return {
        "memory": kubeflow.submit(filled),
        "exit code": kubeflow.submit(left, code=7),
        "signal": kubeflow.submit(crashed, number=11),
        "output": kubeflow.submit(large, size=140_000),
    }


def reason(run: Run) -> str:
    """The sentence that a user of the SDK gets."""
    with pytest.raises(StepFailed) as raised:
        engine.wait(run.id, run.kubeflow.host, io.StringIO())
    return str(raised.value)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("memory", r"Step fill failed: it used more than its 200M of memory; task\.set_memory_limit.*"),
        ("exit code", r"Step leave failed: exit code 7: good bye"),
        ("signal", r"Step crash failed: ended by SIGSEGV \(exit code 139\).*"),
        ("output", r"Step read failed: its inputs, or its code, are larger than the 128 KiB .* as an artifact.*"),
    ],
)
def test_why_a_step_ended(runs: dict[str, Run], what: str, told: str) -> None:
    assert re.fullmatch(told, reason(runs[what]), re.DOTALL)


def test_a_reason_outlives_pod_and_workflow(cluster: Cluster, runs: dict[str, Run]) -> None:
    run = runs["memory"]
    run.ended()
    cluster.delete("argoproj.io/v1alpha1", "Workflow", run.workflow()["metadata"]["name"])
    run.wait("its pods to go", lambda: not run.pods(), 60)
    assert "used more than its 200M of memory" in reason(run)


def test_arguments_that_are_too_large_are_refused_before_the_run(kubeflow: Kubeflow) -> None:
    before = len(kubeflow.client.list_runs(page_size=200).runs or [])
    with pytest.raises(Error, match=r"text 137; all together may have 128 KiB; pass a large value as an artifact"):
        engine.run(kubeflow.host, argued, {"text": "x" * 140_000}, io.StringIO())
    assert len(kubeflow.client.list_runs(page_size=200).runs or []) == before


def test_a_driver_that_cannot_read_its_arguments_says_so_too(kubeflow: Kubeflow) -> None:
    """For a client that does not check its arguments before the run."""
    assert "the run's arguments are larger than the 128 KiB" in reason(kubeflow.submit(argued, text="x" * 140_000))


def test_a_run_whose_first_pod_cannot_be_made_says_why(kubeflow: Kubeflow) -> None:
    run = kubeflow.client.create_run_from_pipeline_package(
        kubeflow.package(argued), {"text": ""}, experiment_id=kubeflow.experiment, service_account="e2e-nobody"
    )
    told = reason(Run(kubeflow, run.run_id))
    assert told.startswith("The driver of the run failed: ")
    assert 'serviceaccount "e2e-nobody" not found' in told


def test_a_pod_that_a_quota_keeps_out_is_told_while_it_waits(
    kubeflow: Kubeflow, quota: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "START_TIMEOUT", 20)
    run, out = kubeflow.submit(accelerated), io.StringIO()
    with pytest.raises(StepFailed, match=f"the pod of step leave does not start: exceeded quota: {QUOTA}"):
        engine.wait(run.id, kubeflow.host, out)
    assert f"step leave: its pod waits: exceeded quota: {QUOTA}" in out.getvalue()


# --- the queue


def test_later_runs_wait_in_a_queue_and_are_not_cancelled(
    kubeflow: Kubeflow, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = values["pipelines"]["runs"]["parallelism"]
    if not places:
        pytest.skip("this release has no queue: pipelines.runs.parallelism is 0")
    monkeypatch.setattr(engine, "START_TIMEOUT", 5)
    running = [kubeflow.submit(tracked, experiment=kubeflow.name, how=f"holds {number}") for number in range(places)]
    for run in running:
        run.pod("Running")
    queued, cancelled, out = kubeflow.submit(argued, text="a"), kubeflow.submit(argued, text="b"), io.StringIO()
    follower = threading.Thread(target=engine.wait, args=(queued.id, kubeflow.host, out))
    follower.start()
    queued.wait("the queue to be told", lambda: "it waits in the queue" in out.getvalue(), 60)
    assert queued.state() == "PENDING"
    kubeflow.client.terminate_run(cancelled.id)
    for run in running:
        kubeflow.client.terminate_run(run.id)
    queued.succeeded()
    follower.join(30)
    assert "✓ read" in out.getvalue()
    assert cancelled.ended() in {"CANCELED", "FAILED"}
    assert not cancelled.pods()


# --- MLflow


def test_mlflow_runs_of_cancelled_deleted_and_dead_runs_end(
    cluster: Cluster, kubeflow: Kubeflow, gateway: Gateway, values: dict[str, Any]
) -> None:
    if not values["pipelines"]["mlflow"]["enabled"]:
        pytest.skip("tracking of runs in MLflow is off in this release: pipelines.mlflow.enabled")
    mlflow, name = gateway.mlflow, f"{kubeflow.name}-own"
    runs = {how: kubeflow.submit(tracked, experiment=name, how=how) for how in ("dies", "cancelled", "deleted")}
    try:
        for how in ("cancelled", "deleted"):
            run = runs[how]
            run.wait("it to open its MLflow run", lambda run=run: "tracking" in run.log(run.pod()), 120)
        kubeflow.client.terminate_run(runs["cancelled"].id)
        kubeflow.client.delete_run(runs["deleted"].id)
        for how in ("dies", "cancelled"):
            assert runs[how].ended() == "FAILED"
        job = cluster.get("batch/v1", "CronJob", f"{helm.RELEASE}-pipelines-mlflow")["spec"]["jobTemplate"]
        [container] = job["spec"]["template"]["spec"]["containers"]
        # at once, instead of two minutes later
        code = "import sys; sys.path.insert(0, '/opt/pipelines'); import mlflow_runs; mlflow_runs.GRACE = 0; mlflow_runs.main()"
        container["command"] = ["python", "-c", code]
        well, log = cluster.run_job(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": f"{kubeflow.name}-mlflow"},
                "spec": job["spec"],
            }
        )
        assert well, log
        own = mlflow.search_runs([mlflow.get_experiment_by_name(name).experiment_id])
        assert {run.info.run_name: run.info.status for run in own} == {
            "dies": "FAILED", "cancelled": "KILLED", "deleted": "KILLED",
        }, log  # fmt: skip
        assert {run.info.run_name: run.data.tags["iml4e.pipeline_run"] for run in own} == {
            how: run.id for how, run in runs.items()
        }
        assert tracked_statuses(mlflow, values, runs) == {
            "dies": {"FAILED"}, "cancelled": {"KILLED"}, "deleted": {"KILLED"},
        }, log  # fmt: skip
    finally:
        mlflow.delete_experiment(mlflow.get_experiment_by_name(name).experiment_id)


def tracked_statuses(mlflow: MlflowClient, values: dict[str, Any], runs: dict[str, Run]) -> dict[str, set[str]]:
    """Status of what Kubeflow Pipelines tracks of each run: the run itself, and its steps below it."""
    experiment = mlflow.get_experiment_by_name(values["pipelines"]["mlflow"]["experiment"]).experiment_id
    found = {}
    for how, run in runs.items():
        [parent] = mlflow.search_runs([experiment], f"tags.`kfp.pipeline_run_id` = {json.dumps(run.id)}")
        children = mlflow.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        found[how] = {each.info.status for each in [parent, *children]}
    return found
