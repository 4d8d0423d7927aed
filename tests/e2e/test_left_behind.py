"""Upgrades that would leave data or models behind end with the reason, before anything changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from support import helm
from support.k8s import Cluster

MODEL: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "left-behind", "namespace": helm.NAMESPACE},
    "spec": {"predictor": {"model": {"modelFormat": {"name": "mlflow"}, "runtime": "mlflow", "storageUri": "s3://mlflow/none"}}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_changes(cluster: Cluster) -> Iterator[None]:
    """The release stays at its revision."""
    before = helm.revision()
    yield
    assert helm.revision() == before


def refused(*values: str) -> list[str]:
    """What an upgrade with some values on top would be refused with; the cluster is asked, nothing is changed."""
    sets = [word for value in values for word in ("--set-string" if "global." in value else "--set", value)]
    with pytest.raises(helm.HelmError) as error:
        helm.helm(
            "upgrade", helm.RELEASE, helm.CHART, "--namespace", helm.NAMESPACE, "--reset-then-reuse-values",
            "--dry-run=server", *sets,
        )  # fmt: skip
    return error.value.findings


@pytest.mark.parametrize(
    ("part", "address", "what"),
    [
        ("mariadb", "global.database.host=db.example.org", "databases"),
        ("minio", "global.s3.endpoint=https://s3.example.org", "buckets"),
    ],
)
def test_a_store_with_data(values: dict[str, Any], part: str, address: str, what: str) -> None:
    if not values[part]["enabled"]:
        pytest.skip(f"{part} is off")
    [said] = refused(f"{part}.enabled=false", address)
    assert f"StatefulSet {helm.RELEASE}-{part} has the {what} of this release" in said
    assert said.endswith(f"kubectl -n {helm.NAMESPACE} delete statefulset/{helm.RELEASE}-{part}")


def test_a_bucket_with_files(values: dict[str, Any]) -> None:
    former = values["global"]["s3"]["buckets"]["mlflow"]
    [said] = refused("global.s3.buckets.mlflow=another")
    assert said.startswith(f"Bucket {former} has files of this release")


def test_a_store_whose_address_changes(values: dict[str, Any]) -> None:
    if not values["minio"]["enabled"]:
        pytest.skip("minio is off")
    [said] = refused("global.s3.endpoint=https://s3.example.org")
    assert "has the buckets of this release, and https://s3.example.org would begin without them" in said


def test_models_without_their_controller(cluster: Cluster, values: dict[str, Any]) -> None:
    if not (values["kserve"]["enabled"] and values["kserve"]["controller"]["enabled"]):
        pytest.skip("the release has no controller of KServe")
    cluster.apply(MODEL)
    try:
        said = [line for line in refused("kserve.enabled=false") if line.startswith("The controller of KServe goes")]
        assert len(said) == 1
        assert re.search(rf"kubectl -n {helm.NAMESPACE} delete inferenceservices\b[\w -]* left-behind\b", said[0])
    finally:
        cluster.delete(MODEL["apiVersion"], MODEL["kind"], MODEL["metadata"]["name"])
