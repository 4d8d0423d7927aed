"""`iml4e rehearse`: the new version's migrations on a copy of the data; what would change is told, and nothing is left or changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from support import helm, releases
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(600)

NAME = "rehearsed"
COPY = f"{NAME}-rehearsal"
VALUES = {
    "kserve": {"controller": {"enabled": False}}, "prometheus": {"enabled": False}, "home": {"enabled": False},
    "gateway": {"errorPages": {"enabled": False}}, "mariadb": {"metrics": {"enabled": False}},
    # the copy's MLflow waits for both, too
    "mlflow": {"extraEnv": [
        {"name": "COMPANY_TOKEN", "valueFrom": {"secretKeyRef": {"name": "company-token", "key": "token"}}},
        {"name": "COMPANY_AREA", "valueFrom": {"configMapKeyRef": {"name": "company", "key": "area"}}},
    ]},
}  # fmt: skip
#: What an administrator made.
MADE: tuple[dict[str, Any], ...] = (
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "company-token", "namespace": NAME}, "stringData": {"token": "a"}},
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "company", "namespace": NAME}, "data": {"area": "b"}},
)  # fmt: skip


@pytest.fixture(scope="module")
def there(cluster: Cluster) -> Iterator[Cluster]:
    """A release with a run, a file and a model; its schema is one migration behind."""
    with releases.namespace(cluster, NAME, *MADE) as there, releases.installed(there, ["laptop"], VALUES):
        with there.port_forward(f"service/{NAME}-gateway", 80) as port:
            client = mlflow.MlflowClient(f"http://127.0.0.1:{port}/mlflow", f"http://127.0.0.1:{port}/mlflow")
            run = client.create_run(client.create_experiment("Größe 😀")).info.run_id
            for step in range(20):
                client.log_metric(run, "loss", 1 / (step + 1), step=step)
            client.log_text(run, "kept", "a b/ü.txt")
            client.create_registered_model("fraud")
        yield there


def rehearse(chart: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Rehearse: exit code, report, and what was said beside it."""
    environment = {
        **os.environ, "IML4E_RELEASE": NAME, "IML4E_NAMESPACE": NAME, "PYTHONPATH": str(helm.REPO / "src"),
        "HELM_PLUGINS": "/nonexistent",
    }  # fmt: skip
    command = [helm.REPO / ".venv" / "bin" / "iml4e", "rehearse", "--chart", chart, "--json", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    print(done.stdout, done.stderr)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def rows(there: Cluster) -> str:
    """All rows of the database."""
    dump = "mariadb-dump --skip-comments --hex-blob --order-by-primary mlflow"
    return there.exec(f"{NAME}-mariadb-0", "bash", "-c", dump, container="mariadb")


def gone(cluster: Cluster) -> bool:
    """Whether nothing is left of the rehearsal."""
    names = [each.metadata.name for each in cluster.core.list_namespace().items]
    roles = [each["metadata"]["name"] for each in cluster.list("rbac.authorization.k8s.io/v1", "ClusterRole")]
    return COPY not in names and not [name for name in roles if COPY in name]


def newer(tmp_path: Path) -> Path:
    """The chart with another number and another log level."""
    chart = tmp_path / "chart"
    shutil.copytree(helm.CHART, chart)
    file = chart / "Chart.yaml"
    file.write_text(file.read_text().replace("\nversion: ", "\nversion: 9.9.9 #", 1))
    return chart


def test_an_upgrade_is_tried_on_a_copy_and_leaves_nothing(there: Cluster, cluster: Cluster, tmp_path: Path) -> None:
    before, pods = rows(there), {pod["metadata"]["uid"] for pod in there.pods()}
    chart = newer(tmp_path)
    migrate = chart / "charts" / "mlflow" / "files" / "migrate.py"
    # a migration of the new version: a column, a table, and content that is written anew
    migrate.write_text(migrate.read_text().replace('        warn_of_collation(connection)\n', '''\
        for statement in (
            "ALTER TABLE runs ADD COLUMN novelty INT",
            "CREATE TABLE novelties (id INT PRIMARY KEY)",
            "UPDATE registered_models SET description = 'new'",
        ):
            connection.execute(text(statement))
        warn_of_collation(connection)
'''))  # fmt: skip
    # a part that the copy does without, although the new values want a route for it
    values = tmp_path / "values.json"
    values.write_text(json.dumps({"notebooks": {"enabled": True}}))
    code, report, _ = rehearse(chart, "--objects", "5", "-f", str(values))
    assert code == 0
    assert f"StatefulSet/{NAME}-notebooks" in report["added"]
    assert (report["new"], report["loses"]) == ("9.9.9", [])
    tables = {table["name"]: table for table in report["tables"]}
    assert tables["mlflow.metrics"] == {"name": "mlflow.metrics", "rows": 20, "now": 20, "changed": []}
    assert tables["mlflow.runs"]["changed"] == ["+ novelty"]
    assert tables["mlflow.registered_models"]["changed"] == ["~ description"]
    assert (tables["mlflow.novelties"]["rows"], tables["mlflow.novelties"]["now"]) == (None, 0)
    assert report["objects"]["mlflow"] == [1, 1]
    assert "Deployment/rehearsed-mlflow" in report["restarted"]
    assert set(report["seconds"]) >= {"copy of the databases", "migration and start of the new version", "removal"}
    # the release is as it was
    assert rows(there) == before
    assert {pod["metadata"]["uid"] for pod in there.pods()} == pods
    assert gone(cluster)


def test_a_secret_that_is_missing_is_told_by_its_name(there: Cluster, cluster: Cluster, tmp_path: Path) -> None:
    values = tmp_path / "values.json"
    source = {"secretKeyRef": {"name": "not-there", "key": "token"}}
    values.write_text(json.dumps({"mlflow": {"extraEnv": [{"name": "OTHER_TOKEN", "valueFrom": source}]}}))
    code, _, said = rehearse(newer(tmp_path), "-f", str(values))
    assert code == 1
    assert (
        f"Secret not-there is not in namespace {NAME}, and pods of the new version wait for it: make it first" in said
    )
    assert gone(cluster)


def test_a_migration_that_loses_rows_or_fails_is_told(there: Cluster, cluster: Cluster, tmp_path: Path) -> None:
    chart = newer(tmp_path)
    migrate = chart / "charts" / "mlflow" / "files" / "migrate.py"
    plain = migrate.read_text()
    line = "        warn_of_collation(connection)\n"
    migrate.write_text(
        plain.replace(line, f'        connection.execute(text("DELETE FROM metrics WHERE step > 9"))\n{line}')
    )
    code, report, _ = rehearse(chart, "--objects", "0")
    assert code == 1
    assert report["loses"] == ["table mlflow.metrics"]
    assert gone(cluster)
