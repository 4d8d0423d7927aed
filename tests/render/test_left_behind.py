"""Upgrades that would leave data or models behind are refused until somebody says that they were moved."""

from __future__ import annotations

from typing import Any

import pytest

from support import lookups
from support.helm import HelmError, merged
from support.lookups import NAMESPACED, owned
from support.objects import Object

DATABASE: dict[str, Any] = {"mariadb": {"enabled": False}, "global": {"database": {"host": "db.example.org"}}}
STORE: dict[str, Any] = {"minio": {"enabled": False}, "global": {"s3": {"endpoint": "https://s3.example.org"}}}
BUCKETS: dict[str, Any] = {"global": {"s3": {"buckets": {"mlflow": "other"}}}}
CONTROLLER = owned("apps/v1", "Deployment", "iml4e-kserve", spec={"replicas": 1})
NOTE = owned(
    "v1", "ConfigMap", "iml4e-runner",
    data={"S3_MLFLOW_BUCKET": "mlflow", "S3_DATASETS_BUCKET": "datasets", "S3_PIPELINES_BUCKET": "pipelines"},
)  # fmt: skip


def stateful_set(part: str) -> Object:
    """StatefulSet of a store."""
    template = {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}
    return owned("apps/v1", "StatefulSet", f"iml4e-{part}", spec={"replicas": 1, "volumeClaimTemplates": [template]})


@pytest.mark.parametrize(
    ("former", "to", "told"),
    [
        ("http://iml4e-minio.iml4e.svc:9000", "https://s3.example.org", "https://s3.example.org"),
        ("http://iml4e-minio:9000", "", "AWS"),
        ("https://s3.example.org", "http://iml4e-minio.iml4e.svc:9000", "http://iml4e-minio.iml4e.svc:9000"),
    ],
)
def test_a_store_whose_address_changes_is_not_left(former: str, to: str, told: str) -> None:
    note = owned("v1", "ConfigMap", "iml4e-runner", data={"AWS_ENDPOINT_URL": former})
    assert refused(note, values={"global": {"s3": {"endpoint": to}}}) == [
        f"{former} has the buckets of this release, and {told} would begin without them. Nothing was changed. Set global.s3.endpoint={former} "
        "to keep them, or copy them (docs/operations.md, Move), then remove the note of the former address and repeat this command: kubectl "
        "-n iml4e delete configmap/iml4e-runner"
    ]
    assert lookups.render(note, values={"global": {"s3": {"endpoint": former}}})


def model(name: str, namespace: str) -> Object:
    """A model."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata, "spec": {}}


def refused(*things: Object, values: dict[str, Any]) -> list[str]:
    """What an upgrade is refused with."""
    with pytest.raises(HelmError) as error:
        lookups.render(*things, values=values)
    return error.value.findings


@pytest.mark.parametrize(
    ("part", "values", "what", "to"),
    [
        ("mariadb", DATABASE, "databases", "db.example.org"),
        ("minio", STORE, "buckets", "https://s3.example.org"),
        ("minio", merged(STORE, {"global": {"s3": {"endpoint": ""}}}), "buckets", "AWS"),
    ],
    ids=["mariadb", "minio", "aws"],
)
def test_a_store_with_data_is_not_left(part: str, values: dict[str, Any], what: str, to: str) -> None:
    assert refused(stateful_set(part), values=values) == [
        f"{part} is off, but StatefulSet iml4e-{part} has the {what} of this release, and {to} would begin without them. Nothing was "
        f"changed. Set {part}.enabled=true to keep them, or copy them (docs/operations.md, Move), then remove the StatefulSet (its volume "
        f"stays) and repeat this command: kubectl -n iml4e delete statefulset/iml4e-{part}"
    ]
    assert lookups.render(values=values)


@pytest.mark.parametrize(("part", "values"), [("mariadb", DATABASE), ("minio", STORE)], ids=["mariadb", "minio"])
def test_a_store_that_stays_or_that_nothing_reads_or_of_another_release_is_none_of_it(
    part: str, values: dict[str, Any]
) -> None:
    there = stateful_set(part)
    assert lookups.render(there, values={})
    readers = {name: {"enabled": False} for name in ("mlflow", "kserve", "pipelines")}
    assert lookups.render(there, values=merged(values, readers))
    there["metadata"]["annotations"]["meta.helm.sh/release-name"] = "another"
    assert lookups.render(there, values=values)


def test_a_store_whose_address_stays_is_told_by_its_address_alone() -> None:
    [said] = refused(stateful_set("mariadb"), values={"mariadb": {"enabled": False}})
    assert said.startswith("mariadb is off, but global.database.host still points to it")


@pytest.mark.parametrize("role", ["mlflow", "datasets", "pipelines"])
def test_a_bucket_with_files_is_not_left(role: str) -> None:
    values = {"global": {"s3": {"buckets": {role: "other"}}}}
    assert refused(NOTE, values=values) == [
        f"Bucket {role} has files of this release, and global.s3.buckets.{role}=other would begin without them. Nothing was changed. "
        f"Set it to {role} to keep them, or copy them (docs/operations.md, Move), then remove the note of the former name and repeat this "
        "command: kubectl -n iml4e delete configmap/iml4e-runner"
    ]
    assert lookups.render(values=values)


def test_the_same_buckets_and_those_that_an_earlier_chart_did_not_note_are_fine() -> None:
    assert lookups.render(NOTE, values={})
    assert lookups.render(owned("v1", "ConfigMap", "iml4e-runner"), values=BUCKETS)


@pytest.mark.parametrize("off", [{"enabled": False}, {"controller": {"enabled": False}}], ids=["part", "controller"])
def test_models_are_not_left_without_their_controller(off: dict[str, Any]) -> None:
    models = model("fraud", "iml4e"), model("spam", "iml4e"), model("churn", "team")
    values = {"kserve": off}
    assert refused(CONTROLLER, *models, values=values) == [
        "The controller of KServe goes, but serves models, which without it can neither change nor be deleted: it removes their finalizer. "
        "Nothing was changed. Delete them (kubectl -n iml4e delete inferenceservices fraud spam; kubectl -n team delete inferenceservices churn), "
        "or, where another KServe takes them over, remove the controller, and repeat this command: "
        "kubectl -n iml4e delete deployment/iml4e-kserve"
    ]
    assert lookups.render(*models, values=values)
    assert lookups.render(CONTROLLER, values=values)
    assert lookups.render(CONTROLLER, *models, values={})


def test_a_release_without_a_controller_reads_the_models_of_nobody() -> None:
    assert lookups.render(model("fraud", "team"), values=NAMESPACED, only="iml4e")
