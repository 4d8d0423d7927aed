"""The restore drill: a release is backed up to a store elsewhere and restored into an empty one, where everything answers the same."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from sklearn.datasets import load_wine

from support import drill, helm, releases
from support.drill import NEW, OLD, Release, opened
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(600)

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


def sees(release: Release, address: str, folder: Path) -> dict[str, Any]:
    """What its users see: runs, models, files, a dataset by its address, answers of the endpoint."""
    client = mlflow.MlflowClient(f"{release.gateway}/mlflow", f"{release.gateway}/mlflow")
    folder.mkdir()
    experiments = client.search_experiments()
    runs = client.search_runs([each.experiment_id for each in experiments])
    (run,) = runs
    release.run("iml4e", "data", "get", address, "-o", str(folder / "dataset"))
    rows = load_wine().data[::9].tolist()
    url = f"{release.gateway}/models/{release.name}/fraud/v1/models/fraud:predict"
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
        "listing": release.run("iml4e", "data", "list").split()[3::4],
        "answers": requests.post(url, json={"instances": rows}, timeout=30).json(),
        "endpoints": [
            (each["name"], each["model"], each["version"], each["ready"], each["champion"])
            for each in json.loads(release.run("iml4e", "models", "--json"))
        ],
        "token": release.cluster.secret("token"),
    }


@pytest.fixture(scope="module")
def clusters(cluster: Cluster) -> Iterator[Callable[[str], Cluster]]:
    """Two releases."""
    with drill.installed(cluster, {}) as there:
        yield there


@pytest.fixture(scope="module")
def backups(clusters: Callable[[str], Cluster]) -> Iterator[Any]:
    """A client of the store of backups."""
    with drill.bucket(clusters(OLD)) as client:
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
        before = sees(old, first, tmp_path / "old")
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

        # a new installation that backs itself up before its restore, as its CronJob does in the first night
        new.cluster.apply(drill.secret("token", {"token": "another"}))
        empty = json.loads(new.run("iml4e", "backup", "--json"))["id"]
        assert [
            each["id"] for each in json.loads(new.run("iml4e", "backup", "--list", "--json")) if each.get("empty")
        ] == [empty]
        begun = time.monotonic()
        said = new.run("iml4e", "restore")
        took = time.monotonic() - begun
        assert f"{one} is restored" in said
        new.cluster.wait("the model to be ready", lambda: '"ready": true' in new.run("iml4e", "models", "--json"), 120)
        after = sees(new, first, tmp_path / "new")
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


@contextlib.contextmanager
def kept_as_in_git(there: Cluster, name: str) -> Iterator[None]:
    """A GitOps controller that sets the replicas of a Deployment back to 1, as Argo CD's `selfHeal` does."""
    stopped = threading.Event()
    replicas = ("patch", "deployment", name, "--field-manager=argocd-controller", "-p", '{"spec": {"replicas": 1}}')

    def heal() -> None:
        while not stopped.wait(0.5):
            if there.workload("Deployment", name)["spec"]["replicas"] == 0:
                there.kubectl(*replicas)

    there.kubectl("annotate", "deployment", name, "argocd.argoproj.io/tracking-id=iml4e")
    thread = threading.Thread(target=heal)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        there.kubectl("annotate", "deployment", name, "argocd.argoproj.io/tracking-id-")


def test_a_restore_that_is_interrupted_goes_on(
    clusters: Callable[[str], Cluster], backups: Any, tmp_path: Path
) -> None:
    there = clusters(NEW)
    with opened(there) as new:
        (identity,) = [
            each["id"]
            for each in json.loads(new.run("iml4e", "backup", "--list", "--json"))
            if not each.get("incomplete") and not each.get("empty")
        ]
        # somebody overwrites a dataset
        (tmp_path / "a.csv").write_text("by mistake\n3\n")
        new.run("iml4e", "data", "put", str(tmp_path), "fraud/2026")
        with kept_as_in_git(there, f"{NEW}-mlflow"):
            said = new.run("iml4e", "restore", identity, "--force", fails=True)
        assert f"Deployment {NEW}-mlflow was started during the restore by argocd-controller" in said
        # MariaDB refuses the load in the middle: its user may no longer write
        pod = f"{NEW}-mariadb-0"
        there.exec(pod, "mariadb", "-e", "REVOKE INSERT ON mlflow.* FROM mlflow", container="mariadb")
        said = new.run("iml4e", "restore", identity, "--force", fails=True)
        assert f"backup {identity} is restored in part" in said
        assert f"go on with `iml4e restore {identity}`" in said
        # nobody works on half of the data, and nobody keeps it as a backup
        assert there.workload("Deployment", f"{NEW}-mlflow")["spec"]["replicas"] == 0
        assert f"half of backup {identity} is restored" in new.run("iml4e", "backup", fails=True)
        report = new.run("iml4e", "doctor", fails=True)
        assert f"half of backup {identity} is restored" in report
        assert "it has 0 replicas" not in report
        with pytest.raises(helm.HelmError, match=f"half of backup {identity} is restored"):
            releases.upgrade(there)
        there.exec(pod, "mariadb", "-e", "GRANT ALL PRIVILEGES ON mlflow.* TO mlflow", container="mariadb")
        assert f"{identity} is restored" in new.run("iml4e", "restore")
        assert there.is_ready("Deployment", f"{NEW}-mlflow")
        client = mlflow.MlflowClient(f"{new.gateway}/mlflow", f"{new.gateway}/mlflow")
        assert [each.name for each in client.search_registered_models()] == ["fraud"]
        new.run("iml4e", "data", "get", "fraud/2026", "-o", str(tmp_path / "restored"))
        assert (tmp_path / "restored" / "a.csv").read_text() == "changed\n2\n"
        # the next upgrade may change replicas
        deployment = there.workload("Deployment", f"{NEW}-mlflow")
        assert "iml4e-restore" not in [each["manager"] for each in deployment["metadata"]["managedFields"]]
        releases.upgrade(there, mlflow={"podAnnotations": {"note": "restored"}})
