"""Data put into each part, to be found again after a restart or an upgrade: a run, a model, an object, a measurement."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

import mlflow

from support import store
from support.k8s import Cluster
from support.platform import Gateway


@dataclass
class Keepsake:
    """What was put in, and how to find it again."""

    cluster: Cluster
    gateway: Gateway
    model_uri: str
    name: str = field(default_factory=lambda: f"e2e-{uuid.uuid4().hex[:8]}")

    def put(self) -> None:
        """Leave something in every part."""
        client = self.gateway.mlflow
        experiment = client.create_experiment(self.name)
        self.run = client.create_run(experiment).info.run_id
        client.log_param(self.run, "kept", "yes")
        client.log_text(self.run, "kept", "note.txt")
        client.set_terminated(self.run)
        mlflow.register_model(self.model_uri, self.name)
        client.set_registered_model_alias(self.name, "champion", "1")
        with store.opened(self.cluster, "pipelines") as s3:
            answer = s3.put_object(Bucket="datasets", Key=f"{self.name}/kept.txt", Body=b"kept")
        self.version = answer["VersionId"]
        self.moment = time.time()

    def assert_there(self) -> None:
        """All the data is still there; a part that has just restarted gets some seconds."""
        self.cluster.wait("the keepsakes to be found", self._found, 60)

    def _found(self) -> bool:
        client = self.gateway.mlflow
        assert client.get_run(self.run).data.params == {"kept": "yes"}
        assert [file.path for file in client.list_artifacts(self.run)] == ["note.txt"]
        assert client.get_model_version_by_alias(self.name, "champion").version in ("1", 1)
        with store.opened(self.cluster, "pipelines") as s3:
            kept = s3.get_object(Bucket="datasets", Key=f"{self.name}/kept.txt", VersionId=self.version)
            assert kept["Body"].read() == b"kept"
        past = self.gateway.query(f"count(up offset {int(time.time() - self.moment) + 30}s)")
        return bool(past)

    def remove(self) -> None:
        """Take them out again."""
        client = self.gateway.mlflow
        client.delete_registered_model(self.name)
        client.delete_experiment(client.get_experiment_by_name(self.name).experiment_id)
