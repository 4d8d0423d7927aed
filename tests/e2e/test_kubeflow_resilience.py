"""Kubeflow Pipelines: a running run succeeds, whichever part is killed meanwhile."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

import pytest
from kfp import dsl

from support.k8s import Cluster
from support.kubeflow import BUCKET, Kubeflow, Run, step

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(600)]

# The run itself loses no time. But after an outage of the API server the persistence agent waits, longer with each change
# of the run that it could not report, and at most six minutes: so late may the API know how the run ended.
PATIENCE = 420

# what is killed: selector of its pods
PARTS = {
    "API server": "app.kubernetes.io/name=pipelines",
    "Argo controller": "app.kubernetes.io/name=pipelines-argo",
    "persistence agent": "app.kubernetes.io/name=pipelines-agent",
    "ML Metadata": "app.kubernetes.io/name=pipelines-metadata",
    "database": "app.kubernetes.io/name=mariadb",
}


@step
def hold(key: str) -> str:
    import os
    import time

    import boto3

    s3 = boto3.client("s3")
    for _ in range(1800):
        if s3.list_objects_v2(Bucket=os.environ["S3_PIPELINES_BUCKET"], Prefix=key)["KeyCount"]:
            return key
        time.sleep(1)
    raise TimeoutError(f"nobody put {key}")


@step
def follow(key: str, said: dsl.Output[dsl.Artifact]) -> None:
    from pathlib import Path

    Path(said.path).write_text(key)


@dsl.pipeline(name="e2e-hold")
def held(key: str) -> None:
    follow(key=hold(key=key).output)


@pytest.fixture(scope="module", autouse=True)
def runs(kubeflow: Kubeflow) -> dict[str, Run]:
    """A run for each part, whose first step goes on until the test lets it."""
    # without reuse of steps: with it they ask the API server as they begin and end, once, and fail when it has no answer
    return {part: kubeflow.submit(held, key=f"{kubeflow.name}/{part}") for part in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_a_run_outlives_a_part_that_is_killed(
    cluster: Cluster, kubeflow: Kubeflow, runs: dict[str, Run], part: str
) -> None:
    run = runs[part]
    run.pod("Running")
    cluster.replace(PARTS[part])
    kubeflow.s3.put_object(Bucket=BUCKET, Key=f"{kubeflow.name}/{part}", Body=b"go on")
    assert run.succeeded(PATIENCE).said("follow/said") == f"{kubeflow.name}/{part}"
