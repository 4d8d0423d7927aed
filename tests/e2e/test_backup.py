"""The restore drill: a release is backed up to a store elsewhere and restored into an empty one, where everything answers the same."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from sklearn.datasets import load_wine

from support import helm, releases, store
from support.k8s import Cluster

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(600)]

OLD, NEW = "drill-a", "drill-b"
USER, PASSWORD = "backups", "no-secret-of-anybody"
KEY = base64.b64encode(b"drill" * 6 + b"!!").decode()
VALUES: dict[str, Any] = {
    "kserve": {"controller": {"enabled": False}},
    "prometheus": {"enabled": False},
    "home": {"enabled": False},
    "gateway": {"errorPages": {"enabled": False}},
    "mariadb": {"metrics": {"enabled": False}},
    "backup": {
        "enabled": True, "schedule": "", "encryption": {"existingSecret": "backup-key"}, "secrets": ["token"],
        "destination": {"s3": "s3://backups/drill", "endpoint": f"http://backups.{OLD}.svc:9000", "existingSecret": "backups"},
        "resources": {"requests": {"cpu": "10m"}},
    },
}  # fmt: skip
TRAIN = """
import mlflow
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

wines = load_wine(as_frame=True)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wines.data, wines.target)
mlflow.set_experiment("Größe 😀")
with mlflow.start_run():
    mlflow.log_params({"Straße": "ß"})
    for step in range(20):
        mlflow.log_metric("Loss", 1 / (step + 1), step=step)
    mlflow.log_text("kept", "a b/ü.txt")
    mlflow.sklearn.log_model(model, name="model", input_example=wines.data.head(2), registered_model_name="fraud")
mlflow.MlflowClient().set_registered_model_alias("fraud", "champion", "1")
"""


@dataclass
class Release:
    """A release with its addresses on this machine."""

    name: str
    cluster: Cluster
    gateway: str
    s3: int

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a program as a user of it: what it prints, or, where it must fail, what it says."""
        keys = self.cluster.secret(f"{self.name}-s3-pipelines")
        environment = {
            **os.environ, **keys, "IML4E_URL": self.gateway, "IML4E_RELEASE": self.name, "IML4E_NAMESPACE": self.name,
            "MLFLOW_TRACKING_URI": f"{self.gateway}/mlflow", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3}",
            "PYTHONPATH": str(helm.REPO / "src"),
        }  # fmt: skip
        path = helm.REPO / ".venv" / "bin" / command[0]
        done = subprocess.run(
            [path, *command[1:]], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        print(f"$ {' '.join(command)[:80]}\n{done.stdout}{done.stderr}")
        assert bool(done.returncode) is fails, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stderr if fails else done.stdout

    def sees(self, address: str, folder: Path) -> dict[str, Any]:
        """What its users see: runs, models, files, a dataset by its address, answers of the endpoint."""
        client = mlflow.MlflowClient(f"{self.gateway}/mlflow", f"{self.gateway}/mlflow")
        folder.mkdir()
        experiments = client.search_experiments()
        runs = client.search_runs([each.experiment_id for each in experiments])
        (run,) = runs
        self.run("iml4e", "data", "get", address, "-o", str(folder / "dataset"))
        rows = load_wine().data[::9].tolist()
        url = f"{self.gateway}/models/{self.name}/fraud/v1/models/fraud:predict"
        return {
            "experiments": sorted(each.name for each in experiments),
            "runs": [each.to_dictionary() for each in runs],
            "history": [each.value for each in client.get_metric_history(run.info.run_id, "Loss")],
            "file": Path(client.download_artifacts(run.info.run_id, "a b/ü.txt", str(folder))).read_text(),
            "versions": [
                (each.name, each.version, each.source, each.run_id, list(each.aliases))
                for each in client.search_model_versions()
            ],
            "dataset": {file.name: file.read_text() for file in sorted((folder / "dataset").iterdir())},
            "listing": self.run("iml4e", "data", "list").split()[3::4],
            "answers": requests.post(url, json={"instances": rows}, timeout=30).json(),
            "endpoints": [
                (each["name"], each["model"], each["version"], each["ready"], each["champion"])
                for each in json.loads(self.run("iml4e", "models", "--json"))
            ],
            "token": self.cluster.secret("token"),
        }


@pytest.fixture(scope="module")
def clusters(cluster: Cluster, values: dict[str, Any]) -> Iterator[Callable[[str], Cluster]]:
    """Two namespaces with a release each, and a store for backups beside the first."""
    image = next(
        each
        for each in helm.release_objects()
        if each["kind"] == "StatefulSet" and each["metadata"]["name"] == "iml4e-minio"
    )
    with contextlib.ExitStack() as stack:
        there = {name: stack.enter_context(releases.namespace(cluster, name)) for name in (OLD, NEW)}
        for each in there.values():
            account = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD}
            each.apply(secret("backups", account), secret("backup-key", {"key": KEY}))
        there[OLD].apply(
            secret("token", {"token": "abc"}), *other_store(image["spec"]["template"]["spec"]["containers"][0]["image"])
        )

        def install(name: str) -> None:
            stack.enter_context(releases.installed(there[name], ["laptop"], VALUES))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(install, there))
        yield there.__getitem__


def secret(name: str, content: dict[str, str]) -> dict[str, Any]:
    """A Secret."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


def other_store(image: str) -> list[dict[str, Any]]:
    """An S3 store that belongs to no release."""
    container = {
        "name": "s3", "image": image, "command": ["minio", "server", "/data", "--address", ":9000"],
        "env": [{"name": "MINIO_ROOT_USER", "value": USER}, {"name": "MINIO_ROOT_PASSWORD", "value": PASSWORD}, {"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"httpGet": {"path": "/minio/health/ready", "port": 9000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }  # fmt: skip
    user = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "automountServiceAccountToken": False, "securityContext": user, "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }  # fmt: skip
    metadata = {"name": "backups", "labels": {"app": "backups"}}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": "backups"}, "ports": [{"port": 9000}]},
        },
    ]


@contextlib.contextmanager
def opened(there: Cluster) -> Iterator[Release]:
    """A release, by forwarded ports."""
    name = there.namespace
    with (
        there.port_forward(f"service/{name}-gateway", 80) as port,
        there.port_forward(f"service/{name}-minio", 9000) as s3,
    ):
        yield Release(name, there, f"http://127.0.0.1:{port}", s3)


@pytest.fixture(scope="module")
def backups(clusters: Callable[[str], Cluster]) -> Iterator[Any]:
    """A client of the other store, which has the bucket."""
    with clusters(OLD).port_forward("service/backups", 9000) as port:
        client = store.client(port, USER, PASSWORD)
        client.create_bucket(Bucket="backups")
        yield client


def test_a_restored_release_answers_as_the_one_that_was_backed_up(
    clusters: Callable[[str], Cluster], backups: Any, tmp_path: Path
) -> None:
    started = time.monotonic()
    with opened(clusters(OLD)) as old:
        # datasets: two versions of a file, the first one pinned; a folder, and a file that was removed
        old.run("python", "-W", "ignore", "-c", TRAIN)
        folder = tmp_path / "folder"
        folder.mkdir()
        for name in ("a.csv", "b.csv"):
            (folder / name).write_text(f"{name}\n1\n")
        first = old.run("iml4e", "data", "put", str(folder), "fraud/2026").strip()
        (folder / "a.csv").write_text("changed\n2\n")
        old.run("iml4e", "data", "put", str(folder), "fraud/2026")
        old.run("iml4e", "deploy", "fraud@champion")
        before = old.sees(first, tmp_path / "old")
        assert before["dataset"]["a.csv"] == "a.csv\n1\n"
        assert before["endpoints"] == [("fraud", "fraud", "1", True, "1")]

        one = json.loads(old.run("iml4e", "backup", "--json"))["id"]
        two = json.loads(old.run("iml4e", "backup", "--json"))["id"]
        listed = {each["id"]: each for each in json.loads(old.run("iml4e", "backup", "--list", "--json"))}
        assert listed.keys() == {one, two}
        assert listed[one]["objects"] == listed[two]["objects"] > 10
        # objects are copied once
        assert listed[two]["new"] < listed[one]["new"] / 2
        # nothing is readable without the key
        files = [each["Key"] for each in backups.list_objects_v2(Bucket="backups")["Contents"]]
        assert all(
            backups.get_object(Bucket="backups", Key=key)["Body"].read(13) == b"iml4e-sealed-"
            for key in files
            if not key.endswith(("/manifest.json", ".probe"))
        )
        # an incomplete one is listed as such, and never restored
        backups.delete_object(Bucket="backups", Key=f"drill/backups/{two}/manifest.json")
        assert f"{two}  incomplete" in old.run("iml4e", "backup", "--list")

    with opened(clusters(NEW)) as new:
        said = new.run("iml4e", "restore", two, fails=True)
        assert f"nothing was changed: {two} is incomplete" in said
        blob = max((key for key in files if "/objects/" in key), key=len)
        content = backups.get_object(Bucket="backups", Key=blob)["Body"].read()
        backups.put_object(Bucket="backups", Key=blob, Body=content[:-1])
        assert "nothing was changed" in new.run("iml4e", "restore", one, fails=True)
        backups.put_object(Bucket="backups", Key=blob, Body=content)
        # what a refused restore stopped runs again
        new.cluster.wait_ready("Deployment", f"{NEW}-mlflow", 60)

        begun = time.monotonic()
        said = new.run("iml4e", "restore")
        took = time.monotonic() - begun
        assert f"{one} is restored" in said
        new.cluster.wait("the model to be ready", lambda: '"ready": true' in new.run("iml4e", "models", "--json"), 120)
        after = new.sees(first, tmp_path / "new")
        assert after == before
        roles = new.cluster.list("rbac.authorization.k8s.io/v1", "Role")
        assert f"{NEW}-restore" not in [role["metadata"]["name"] for role in roles]
        print(
            f"restored {listed[one]['bytes'] / 1e6:.1f} MB in {took:.0f} s; the drill took {time.monotonic() - started:.0f} s"
        )

        # what is there is not replaced by mistake
        assert "the target is not empty" in new.run("iml4e", "restore", one, fails=True)
        # the restored release is one to work with: the same requests that change it
        assert "fraud" in new.run("iml4e", "deploy", "fraud/1", "--replicas", "1")
        new.run("iml4e", "delete", "fraud")


def test_a_restore_that_is_interrupted_goes_on(clusters: Callable[[str], Cluster], backups: Any) -> None:
    there = clusters(NEW)
    with opened(there) as new:
        (identity,) = [
            each["id"]
            for each in json.loads(new.run("iml4e", "backup", "--list", "--json"))
            if not each.get("incomplete")
        ]
        # MariaDB refuses the load in the middle: its user may no longer write
        pod = f"{NEW}-mariadb-0"
        there.exec(pod, "mariadb", "-e", "REVOKE INSERT ON mlflow.* FROM mlflow", container="mariadb")
        said = new.run("iml4e", "restore", identity, "--force", fails=True)
        assert f"backup {identity} is restored in part" in said
        assert f"go on with `iml4e restore {identity}`" in said
        # nobody works on half of the data, and nobody keeps it as a backup
        assert there.workload("Deployment", f"{NEW}-mlflow")["spec"]["replicas"] == 0
        assert f"half of backup {identity} is restored" in new.run("iml4e", "backup", fails=True)
        there.exec(pod, "mariadb", "-e", "GRANT ALL PRIVILEGES ON mlflow.* TO mlflow", container="mariadb")
        assert f"{identity} is restored" in new.run("iml4e", "restore")
        assert there.is_ready("Deployment", f"{NEW}-mlflow")
        client = mlflow.MlflowClient(f"{new.gateway}/mlflow", f"{new.gateway}/mlflow")
        assert [each.name for each in client.search_registered_models()] == ["fraud"]
