"""Fixtures of tests of our own Python that more than one file uses."""

import datetime
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from botocore.exceptions import ClientError
from kubernetes.config import kube_config

from iml4e import datasets, platform


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[str], Any]:
    """A function that makes what a step sees of an artifact."""
    return lambda name: SimpleNamespace(path=str(tmp_path / name), metadata={})


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow.MlflowClient]:
    """An MLflow store of its own: a SQLite file, and artifacts beside it."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = os.getcwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    # MLflow keeps the number of an experiment that another test chose in another store
    mlflow.set_experiment("tests")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri("")
    os.chdir(before)


class Store:
    """An S3 client of one versioned bucket, in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.numbers = itertools.count(1)
        self.versioned = True

    def put_object(self, Bucket: str, Key: str, Body: Any, **more: Any) -> dict[str, Any]:
        """Store a version."""
        content = Body if isinstance(Body, bytes) else Body.read()
        version = f"v{next(self.numbers)}"
        self.objects.setdefault(Key, []).append({"VersionId": version, "content": content, "Metadata": {}, **more})
        return {"VersionId": version} if self.versioned else {}

    def get_object(self, Bucket: str, Key: str, VersionId: str = "") -> dict[str, Any]:
        """Read a version."""
        for stored in reversed(self.objects.get(Key, [])):
            if VersionId in ("", stored["VersionId"]):
                return {**stored, "Body": io.BytesIO(stored["content"])}
        raise ClientError(
            {"Error": {"Message": f"The specified {'version' if VersionId else 'key'} does not exist."}}, ""
        )

    head_object = get_object

    def get_paginator(self, _: str) -> Any:
        """List versions."""
        return self

    def paginate(self, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:
        """One page for each object."""
        when = datetime.datetime(2026, 1, 2, 3, 4)
        for key, versions in sorted(self.objects.items()):
            if key.startswith(Prefix):
                each = {"Key": key, "Size": 1, "LastModified": when}
                yield {"Versions": [{**each, **v, "IsLatest": v is versions[-1]} for v in versions]}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """The bucket of datasets."""
    made = Store()
    monkeypatch.setattr(datasets, "client", lambda: made)
    monkeypatch.setenv(platform.MARK, "datasets")
    return made


# steps that tests run here find all that they import
os.environ["IML4E_IN_IMAGE"] = "1"
CACHED = (platform._release, platform.kubernetes)


@pytest.fixture(autouse=True)
def _no_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on a cluster, or on what another has read of a release."""
    for name in (
        "KUBERNETES_SERVICE_HOST", "S3_PIPELINES_BUCKET", "IML4E_URL", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", platform.MARK,
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", "/nonexistent")
    for cached in CACHED:
        cached.cache_clear()
