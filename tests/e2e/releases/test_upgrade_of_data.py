"""A release that the first charts made, whose database takes `Loss` and `loss` for one, is upgraded: nothing is lost, and
names are what was written from then on. Its database starts on a volume that grew."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import pytest
from kubernetes.client.exceptions import ApiException

from support import helm
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(900)

COMMIT = "5ccae1f"
NAME = "first"
#: A part that the first chart did not have.
NEWER = ("--set", "grafana.enabled=false")
DATABASES = ("mlflow", "mlpipeline", "metadb")
VALUES = {
    "kserve": {"enabled": False},
    "prometheus": {"enabled": False},
    "gateway": {"service": {"type": "ClusterIP"}},
    "mariadb": {"persistence": {"size": "2Gi", "storageClass": NAME}},
}


@dataclass
class Release:
    """A small release in a namespace of its own."""

    cluster: Cluster
    values: dict[str, Any]

    def helm(self, verb: str, chart: Path, *options: str) -> str:
        """Install or upgrade it, with the laptop profile that its chart came with."""
        profile = chart.parent.parent / "values" / "laptop.yaml"
        sets = (word for part, value in self.values.items() for word in ("--set-json", f"{part}={json.dumps(value)}"))
        return helm.helm(
            verb, NAME, chart, "--namespace", NAME, "--skip-crds", "--values", profile, *sets,
            *options, timeout=400,
        )  # fmt: skip

    @contextlib.contextmanager
    def mlflow(self) -> Iterator[mlflow.MlflowClient]:
        """A client of its MLflow."""
        with self.cluster.port_forward(f"service/{NAME}-gateway", 80) as port:
            uri = f"http://localhost:{port}/mlflow"
            yield mlflow.MlflowClient(uri, uri)

    def sql(self, script: str) -> str:
        """Run a shell script beside its database server."""
        return self.cluster.exec(f"{NAME}-mariadb-0", "bash", "-c", script, container="mariadb")

    def secrets(self) -> dict[str, dict[str, str]]:
        """Its Secrets."""
        selector = f"app.kubernetes.io/instance={NAME}"
        found = self.cluster.core.list_namespaced_secret(NAME, label_selector=selector).items
        return {secret.metadata.name: secret.data for secret in found}

    def rows(self) -> dict[str, Counter[str]]:
        """All rows of its databases."""
        dump = "mariadb-dump --skip-extended-insert --no-create-info --skip-comments --hex-blob"
        return {
            name: Counter(line for line in self.sql(f"{dump} {name}").splitlines() if line.startswith("INSERT"))
            for name in DATABASES
        }

    def tables(self) -> list[str]:
        """Columns, keys and constraints of its tables, without collations and the order in which a table has its keys."""
        dump = "mariadb-dump --no-data --skip-comments --skip-triggers --databases"
        text = re.sub(r" (CHARACTER SET|COLLATE)[ =]\w+", "", self.sql(f"{dump} {' '.join(DATABASES)}"))
        found = re.findall(r"^CREATE TABLE `(\w+)` \((.*?)^\) ([^\n]*);$", text, re.MULTILINE | re.DOTALL)
        return sorted(f"{name} {line.rstrip(',')}" for name, lines, end in found for line in [*lines.splitlines(), end])


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of the first release."""
    archive = ["git", "-C", helm.REPO, "archive", "--format=tar", COMMIT, "charts/iml4e", "values"]
    done = subprocess.run(archive, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"commit {COMMIT} is not in this clone: `git fetch --unshallow` brings it. {done.stderr.decode()}")
    folder = tmp_path_factory.mktemp("first")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "charts" / "iml4e"


@pytest.fixture
def release(cluster: Cluster, values: dict[str, Any], chart: Path) -> Iterator[Release]:
    """The first release, installed, on a storage class that lets volumes grow."""
    cluster.core.create_namespace(
        {"metadata": {"name": NAME, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    (default,) = (
        found
        for found in cluster.list("storage.k8s.io/v1", "StorageClass")
        if found["metadata"].get("annotations", {}).get("storageclass.kubernetes.io/is-default-class") == "true"
    )
    cluster.apply({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": NAME},
        "provisioner": default["provisioner"], "allowVolumeExpansion": True,
        **{key: default[key] for key in ("volumeBindingMode", "parameters") if default.get(key)},
    })  # fmt: skip
    # the first chart knows no digests
    runtime = {key: value for key, value in values["global"]["runtime"].items() if key != "digest"}
    taken = {"imageRegistry": values["global"]["imageRegistry"], "runtime": runtime}
    pipelines = {"enabled": values["pipelines"]["enabled"]}
    release = Release(Cluster(cluster.config, NAME), {**VALUES, "global": taken, "pipelines": pipelines})
    try:
        release.helm("install", chart, "--wait", "--timeout", "300s")
        yield release
    finally:
        helm.helm("uninstall", NAME, "--namespace", NAME, "--wait", "--ignore-not-found", timeout=300)
        cluster.core.delete_namespace(NAME)
        cluster.delete("storage.k8s.io/v1", "StorageClass", NAME)


def fill(client: mlflow.MlflowClient) -> str:
    """A run, an artifact and models; names that the old collation took for others among them. Returns the run."""
    experiment = client.create_experiment("Größe 😀")
    run = client.create_run(experiment, run_name="Run").info.run_id
    for step in range(20):
        client.log_metric(run, "Loss", 1 / (step + 1), step=step)
    client.log_param(run, "Straße", "ß")
    client.set_tag(run, "Team", "A")
    client.log_text(run, "kept", "a b/ü.txt")
    with pytest.raises(mlflow.MlflowException):
        client.log_metric(run, "loss", 1)
    source = client.get_run(run).info.artifact_uri
    client.create_registered_model("Wine", tags={"Kind": "A"})
    client.create_registered_model("café")
    # accepted, and kept under the name as it is spelled here
    client.create_model_version("Wine", source, run)
    client.create_model_version("WINE", source, run)
    client.create_model_version("cafe", source, run)
    client.set_registered_model_tag("wine", "region", "north")
    client.set_model_version_tag("wine", "2", "checked", "yes")
    return run


def test_an_old_release_is_upgraded_without_loss(release: Release, tmp_path: Path) -> None:
    with release.mlflow() as client:
        run = fill(client)
    rows, tables, secrets = release.rows(), release.tables(), release.secrets()

    # the volume has to grow first, and the sentence says how
    release.values["mariadb"] = {"persistence": {"size": "3Gi", "storageClass": NAME}}
    with pytest.raises(helm.HelmError) as refused:
        release.helm("upgrade", helm.CHART, *NEWER)
    assert len(json.loads(helm.helm("history", NAME, "--namespace", NAME, "--output", "json"))) == 1
    (command,) = re.findall(r"kubectl -n .*$", str(refused.value), re.MULTILINE)
    subprocess.run(
        [*shlex.split(command), "--kubeconfig", str(release.cluster.config)], check=True, capture_output=True
    )
    release.helm("upgrade", helm.CHART, *NEWER)

    # the conversion is killed as soon as it is at work: the next start goes on
    pod = f"{NAME}-mariadb-0"

    def converting() -> bool:
        return "converting" in release.cluster.logs(pod, container="collation")

    release.cluster.wait("the conversion to begin", converting, 120, pause=0.2)
    with contextlib.suppress(ApiException):
        release.cluster.kill(pod)
    for kind, name in (("StatefulSet", "mariadb"), ("Deployment", "mlflow"), ("Deployment", "gateway")):
        release.cluster.wait_ready(kind, f"{NAME}-{name}", 240)
    claim = release.cluster.get("v1", "PersistentVolumeClaim", f"data-{pod}")
    assert claim
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"

    # the first chart made its Secrets itself; they are kept as they are, beside those of newer workloads
    assert len(secrets) == 8
    assert secrets.items() <= release.secrets().items()

    # all there; an index is new, and references that were spelled otherwise are spelled as what they refer to
    assert [line for line in release.tables() if "iml4e_fingerprint" not in line] == tables
    now = release.rows()
    assert {name: now[name].total() for name in DATABASES} == {name: rows[name].total() for name in DATABASES}
    assert (rows["mlpipeline"] - now["mlpipeline"], rows["metadb"] - now["metadb"]) == (Counter(), Counter())
    respelled = [re.match(r"INSERT INTO `(\w+)`", line)[1] for line in (rows["mlflow"] - now["mlflow"]).elements()]
    assert sorted(respelled) == ["model_version_tags", "model_versions", "model_versions", "registered_model_tags"]
    with release.mlflow() as client:
        assert len(client.get_metric_history(run, "Loss")) == 20
        assert Path(client.download_artifacts(run, "a b/ü.txt", str(tmp_path))).read_text() == "kept"
        models = {model.name: model for model in client.search_registered_models()}
        assert set(models) == {"Wine", "café"}
        assert models["Wine"].tags == {"Kind": "A", "region": "north"}
        versions = {(v.name, int(v.version)): v.tags for v in client.search_model_versions()}
        assert versions == {("Wine", 1): {}, ("Wine", 2): {"checked": "yes"}, ("café", 1): {}}
        client.log_metric(run, "loss", 2)
        metrics = client.get_run(run).data.metrics
        assert (metrics["Loss"], metrics["loss"]) == (1 / 20, 2)

    # a later start finds nothing to do
    release.cluster.replace(f"app.kubernetes.io/name=mariadb,app.kubernetes.io/instance={NAME}")
    assert release.cluster.logs(pod, container="collation") == ""
