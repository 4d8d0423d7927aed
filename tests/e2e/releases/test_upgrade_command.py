"""`iml4e upgrade` and `helm upgrade` where an upgrade goes wrong: nothing is lost, and a sentence says what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests

from support import helm, releases, upgrades
from support.helm import HelmError
from support.k8s import Cluster
from support.upgrades import REACHED, URL

pytestmark = pytest.mark.timeout(600)

NAME = "upgraded"
VALUES = {
    "kserve": {"enabled": False}, "prometheus": {"enabled": False}, "home": {"enabled": False},
    "gateway": {"errorPages": {"enabled": False}}, "mariadb": {"metrics": {"enabled": False}},
}  # fmt: skip
GATEWAY, MLFLOW = f"{NAME}-gateway", f"{NAME}-mlflow"


@pytest.fixture(scope="module")
def there(cluster: Cluster) -> Iterator[Cluster]:
    """A release."""
    with releases.namespace(cluster, NAME) as there, releases.installed(there, ["laptop"], VALUES, REACHED):
        yield there


@pytest.fixture(autouse=True)
def ready_again(there: Cluster) -> Iterator[None]:
    """Each test leaves the release Ready, on its present chart and values."""
    yield
    there.wait("the release to be Ready", lambda: upgrades.all_ready(there), 120)
    assert upgrades.history(NAME)[-1]["status"] == "deployed"


def replicas(there: Cluster, name: str) -> int:
    """Replicas that a Deployment is to have."""
    return there.workload("Deployment", name)["spec"]["replicas"]


def test_an_upgrade_tells_the_downtime_of_each_endpoint(there: Cluster, tmp_path: Path) -> None:
    before = {pod["metadata"]["uid"] for pod in there.pods()}
    code, out, _ = upgrades.command(
        NAME, "upgrade", "--chart", upgrades.copied(tmp_path, "9.9.9"), "--set", "mlflow.podAnnotations.note=one"
    )
    assert code == 0
    assert before - {pod["metadata"]["uid"] for pod in there.pods()}
    assert "upgrading release upgraded from chart" in out
    assert f"to 9.9.9 in {out.rpartition(' in ')[2]}" in out
    table = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert table["ENDPOINT"][1:3] == ["REQUESTS", "FAILED"]
    requests_, failed = table["MLflow"][1:3]
    assert int(requests_) >= 5
    # a new pod is Ready before the old one goes
    assert int(failed) <= 2
    # the values of the installation are still there, and the new one
    values = json.loads(helm.helm("get", "values", NAME, "--namespace", NAME, "--output", "json"))
    assert values["gateway"]["service"]["nodePort"] == upgrades.PORT
    assert values["mlflow"]["podAnnotations"] == {"note": "one"}


def test_replicas_that_kubectl_or_an_autoscaler_set_are_told(there: Cluster) -> None:
    there.kubectl("scale", "deployment", GATEWAY, "--replicas=2")
    revisions = len(upgrades.history(NAME))
    with pytest.raises(HelmError) as refused:
        releases.upgrade(there)
    assert refused.value.findings == [
        f"Deployment {GATEWAY} has 2 replicas by kubectl, and the values say 1: set gateway.replicas=2 to keep them, or run "
        f"`kubectl -n {NAME} scale deployment {GATEWAY} --replicas=1`, then upgrade."
    ]
    # what an autoscaler does
    there.kubectl("patch", "deployment", MLFLOW, "--subresource=scale", "--type=merge", "--field-manager=kube-controller-manager",
        "-p", '{"spec": {"replicas": 2}}',
    )  # fmt: skip
    code, _, said = upgrades.upgrade(NAME, helm.CHART)
    assert code == 1
    assert (
        f"Deployment {MLFLOW} has 2 replicas by kube-controller-manager, and the values say 1: set mlflow.replicas=2"
        in said
    )
    assert "nothing was changed" in said
    assert len(upgrades.history(NAME)) == revisions
    # both ways out
    there.kubectl("scale", "deployment", MLFLOW, "--replicas=1")
    releases.upgrade(there, gateway={"replicas": 2})
    assert replicas(there, GATEWAY) == 2
    there.kubectl("scale", "deployment", GATEWAY, "--replicas=1")
    releases.upgrade(there, gateway={"replicas": 1})
    assert (replicas(there, GATEWAY), replicas(there, MLFLOW)) == (1, 1)


def test_an_upgrade_leaves_replicas_to_the_autoscaler(there: Cluster) -> None:
    scaled = {"replicas": 2, "autoscaling": {"enabled": True, "maxReplicas": 3}}
    releases.upgrade(there, gateway=scaled)
    # the cluster's own autoscaler raises it to the least number, without metrics
    there.wait("the autoscaler", lambda: replicas(there, GATEWAY) == 2, 90)
    releases.upgrade(there, gateway=scaled | {"logLevel": "DEBUG"})
    assert replicas(there, GATEWAY) == 2
    with pytest.raises(HelmError) as refused:
        releases.upgrade(there, gateway={"replicas": 1, "autoscaling": {"enabled": False}})
    (finding,) = refused.value.findings
    assert f"Deployment {GATEWAY} has 2 replicas by kube-controller-manager, and the values say 1" in finding
    releases.upgrade(there, gateway={"replicas": 2, "autoscaling": {"enabled": False}})
    there.kubectl("scale", "deployment", GATEWAY, "--replicas=1")
    releases.upgrade(there, gateway={"replicas": 1})


def test_a_field_that_somebody_else_set_is_told_before_anything_changes(there: Cluster) -> None:
    revisions = len(upgrades.history(NAME))
    change = {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 2}}}}
    there.kubectl("patch", "deployment", GATEWAY, "--field-manager=kubectl-edit", "-p", json.dumps(change))
    code, _, said = upgrades.upgrade(NAME, helm.CHART)
    assert code == 1
    assert f"Deployment {GATEWAY} was changed since by kubectl-edit: .spec.strategy.rollingUpdate.maxSurge" in said
    assert "--force-conflicts; nothing was changed" in said
    assert len(upgrades.history(NAME)) == revisions
    code, _, _ = upgrades.upgrade(NAME, helm.CHART, "--force-conflicts")
    assert code == 0
    assert there.workload("Deployment", GATEWAY)["spec"]["strategy"]["rollingUpdate"]["maxSurge"] != 2


def test_what_the_api_server_refuses_is_told_before_anything_changes(there: Cluster) -> None:
    """What no schema knows: names of time zones, and ranges that end before they begin."""
    revisions, before = len(upgrades.history(NAME)), there.workload("Deployment", MLFLOW)["metadata"]["generation"]
    job = ("--set", "mlflow.gc.enabled=true", "--set", "mlflow.podAnnotations.note=refused")
    for value, said in (
        ("global.timeZone=Europe/Berln", 'Invalid value: "Europe/Berln": unknown time zone Europe/Berln; set global.timeZone to a name'),
        ("mlflow.gc.schedule=30-10 3 * * *", 'spec.schedule: Invalid value: "30-10 3 * * *": '),
    ):  # fmt: skip
        for force in ([], ["--force-conflicts"]):
            code, _, told = upgrades.upgrade(NAME, helm.CHART, *job, "--set", value, *force)
            assert code == 1
            assert f"the API server refuses CronJob {MLFLOW}-gc: " in told
            assert said in told
            assert "then upgrade again; nothing was changed" in told
    assert len(upgrades.history(NAME)) == revisions
    assert there.workload("Deployment", MLFLOW)["metadata"]["generation"] == before


def test_crds_are_upgraded_with_the_chart_unless_another_owner_has_them(there: Cluster, tmp_path: Path) -> None:
    chart = upgrades.copied(tmp_path, "9.9.8")
    name = "things.upgraded.iml4e.org"

    def crd(fields: dict[str, Any]) -> str:
        schema = {
            "openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}
        }
        return json.dumps({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
            "spec": {
                "group": "upgraded.iml4e.org", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"},
                "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
            },
        })  # fmt: skip

    def properties() -> set[str]:
        found = there.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name) or {}
        schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return set(schema["properties"]["spec"]["properties"])

    folder = chart / "charts" / "mlflow" / "crds"
    folder.mkdir()
    text = {"type": "string"}
    # as block text: Helm prints CRDs as they are
    file = folder / "things.yaml"
    file.write_text(_block(crd({"old": text, "new": text})))
    apply = ("apply", "--server-side", "-f", "-")
    try:
        there.kubectl(*apply, "--field-manager=company-gitops", stdin=crd({"old": text}))
        revisions = len(upgrades.history(NAME))
        code, _, said = upgrades.upgrade(NAME, chart)
        assert code == 1
        assert f"CRD {name} is kept by company-gitops in another version than the chart's: agree with its owner" in said
        assert "nothing was changed" in said
        assert len(upgrades.history(NAME)) == revisions
        assert properties() == {"old"}
        code, _, _ = upgrades.upgrade(NAME, chart, "--skip-crds")
        assert (code, properties()) == (0, {"old"})
        code, _, _ = upgrades.upgrade(NAME, chart, "--force-conflicts")
        assert (code, properties()) == (0, {"old", "new"})
        # what kubectl or Helm applied is the chart's own
        file.write_text(_block(crd({"old": text, "newer": text})))
        there.kubectl("delete", "crd", name)
        there.kubectl(*apply, stdin=crd({"old": text}))
        code, _, said = upgrades.upgrade(NAME, chart)
        assert (code, properties()) == (0, {"old", "newer"})
    finally:
        there.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)


def _block(text: str) -> str:
    """JSON as YAML in blocks."""
    import yaml

    return yaml.safe_dump(json.loads(text), sort_keys=False)


def test_a_migration_that_fails_leaves_the_old_version_serving(there: Cluster, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(f"{URL}/mlflow", f"{URL}/mlflow")
    run = client.create_run("0").info.run_id
    before = {
        pod["metadata"]["uid"] for pod in there.pods(f"app.kubernetes.io/name=mlflow,app.kubernetes.io/instance={NAME}")
    }
    chart = upgrades.copied(tmp_path, "9.9.7")
    migrate = chart / "charts" / "mlflow" / "files" / "migrate.py"
    line = "        warn_of_collation(connection)\n"
    assert line in migrate.read_text()
    migrate.write_text(
        migrate.read_text().replace(
            line, '        sys.exit("migrate: column novelty cannot be added: no such engine")\n'
        )
    )
    good = upgrades.history(NAME)[-1]["revision"]
    code, report, said = upgrades.upgrade(NAME, chart, "--timeout", "45")
    assert code == 1
    assert f"go back with `helm rollback {NAME} {good} -n {NAME} --wait`" in said
    (reason,) = [each for each in report["reasons"] if MLFLOW in each]
    assert "migrate: column novelty cannot be added: no such engine; the former pods go on" in reason
    # every request was answered, by the pods of before
    (asked,) = [each for each in report["endpoints"] if each["name"] == "MLflow"]
    assert asked["requests"] > 60
    assert asked["failed"] == 0
    assert before < {pod["metadata"]["uid"] for pod in there.pods()}
    client.log_metric(run, "loss", 1)
    helm.helm("rollback", NAME, str(good), "--namespace", NAME, "--wait", "--timeout", "120s", timeout=150)
    assert client.get_run(run).data.metrics == {"loss": 1}
    assert before == {
        pod["metadata"]["uid"] for pod in there.pods(f"app.kubernetes.io/name=mlflow,app.kubernetes.io/instance={NAME}")
    }


def test_an_mlflow_that_is_older_than_the_schema_says_so(there: Cluster, tmp_path: Path) -> None:
    def sql(statement: str) -> str:
        return there.exec(f"{NAME}-mariadb-0", "mariadb", "-N", "-e", statement, container="mariadb").strip()

    chart = upgrades.copied(tmp_path, "9.9.6")
    with (chart / "charts" / "mlflow" / "files" / "migrate.py").open("a") as file:
        file.write("# another file: the pods are replaced\n")
    good = upgrades.history(NAME)[-1]["revision"]
    former = sql("SELECT version_num FROM mlflow.alembic_version")
    assert former
    try:
        sql("UPDATE mlflow.alembic_version SET version_num = 'c0ffee000000'")
        code, report, _ = upgrades.upgrade(NAME, chart, "--timeout", "45")
    finally:
        sql(f"UPDATE mlflow.alembic_version SET version_num = '{former}'")
        helm.helm("rollback", NAME, str(good), "--namespace", NAME, "--wait", "--timeout", "120s", timeout=150)
    assert code == 1
    (reason,) = [each for each in report["reasons"] if MLFLOW in each]
    assert "the database has the schema of a newer MLflow" in reason
    assert "c0ffee000000" in reason
    (asked,) = [each for each in report["endpoints"] if each["name"] == "MLflow"]
    assert asked["failed"] == 0


def test_an_upgrade_that_was_killed_is_told_and_undone(there: Cluster) -> None:
    good = upgrades.history(NAME)[-1]["revision"]
    program = os.environ.get("HELM") or shutil.which("helm") or "helm"
    words = [
        "upgrade",
        NAME,
        helm.CHART,
        "--namespace",
        NAME,
        "--reset-then-reuse-values",
        "--set",
        "mlflow.podAnnotations.note=two",
        "--wait",
    ]
    with subprocess.Popen([program, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as helm_:
        there.wait("Helm to begin", lambda: upgrades.history(NAME)[-1]["status"] == "pending-upgrade", 60, pause=0.2)
        helm_.send_signal(signal.SIGKILL)
    with pytest.raises(HelmError, match="another operation"):
        releases.upgrade(there)
    code, _, said = upgrades.upgrade(NAME, helm.CHART)
    assert code == 1
    cure = f"helm rollback {NAME} {good} -n {NAME} --wait"
    assert f"undo its half-done step with `{cure}`, then upgrade again; nothing was changed" in said
    helm.helm(*cure.split()[1:], timeout=150)
    code, _, _ = upgrades.upgrade(NAME, helm.CHART)
    assert code == 0


def test_an_upgrade_that_is_interrupted_leaves_no_lock(there: Cluster, tmp_path: Path) -> None:
    environment = {
        **os.environ, "IML4E_RELEASE": NAME, "IML4E_NAMESPACE": NAME, "IML4E_URL": URL, "PYTHONPATH": str(helm.REPO / "src"),
    }  # fmt: skip
    program = [
        helm.REPO / ".venv" / "bin" / "iml4e",
        "upgrade",
        "--chart",
        upgrades.copied(tmp_path, "9.9.6"),
        "--set",
        "mlflow.podAnnotations.note=three",
    ]
    with subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        there.wait("Helm to begin", lambda: upgrades.history(NAME)[-1]["status"] == "pending-upgrade", 60, pause=0.2)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=90)
    print(out, said)
    assert process.returncode == 1
    assert "the upgrade was interrupted; go back with `helm rollback" in said
    assert upgrades.history(NAME)[-1]["status"] == "failed"
    code, _, _ = upgrades.upgrade(NAME, helm.CHART)
    assert code == 0
    assert requests.get(f"{URL}/mlflow/health", timeout=10).ok
