"""A release that Helm 3 installed goes on with Helm 3, is taken over by Helm 4, and rolled back by both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from scripts.bare import golang
from scripts.common import console
from support import helm, releases, upgrades
from support.k8s import Cluster
from support.upgrades import REACHED, URL

pytestmark = pytest.mark.timeout(900)

NAME = "helm3"
PACKAGE = sorted((helm.REPO / "tests" / "releases").glob("iml4e-*.tgz"))[-1]
VALUES = {
    "kserve": {"enabled": False}, "prometheus": {"enabled": False},
}  # fmt: skip
#: Parts that the release did not have.
NEWER = (
    "--set",
    "grafana.enabled=false,mariadb.metrics.enabled=false,home.enabled=false,gateway.errorPages.enabled=false",
)
DEPLOYMENT = f"{NAME}-mlflow"
WAIT = ("--namespace", NAME, "--wait", "--timeout", "180s")


@pytest.fixture(scope="module")
def three() -> Callable[..., str]:
    """Helm 3, as a function."""
    given = os.environ.get("IML4E_HELM3") or shutil.which("helm3")
    try:
        program = Path(given) if given else golang.build(golang.HELM3)
    except console.Failure as failure:
        pytest.skip(f"no Helm 3: {failure.what} IML4E_HELM3 names one")

    def run(*words: str | Path) -> str:
        done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"helm3 {' '.join(map(str, words))}: {done.stderr[-2000:]}"
        return done.stdout

    assert run("version", "--template", "{{.Version}}").startswith("v3.")
    return run


@pytest.fixture
def there(cluster: Cluster, three: Callable[..., str], tmp_path: Path) -> Iterator[Cluster]:
    """The newest released chart, installed by Helm 3."""
    small = {part: values for part, values in releases.SMALL.items() if part not in ("home", "grafana", "backup")}
    with releases.namespace(cluster, NAME) as there:
        shared = {"imageRegistry": helm.release_values()["global"]["imageRegistry"], "runtime": releases.runtime(there)}
        values = tmp_path / "values.json"
        values.write_text(json.dumps(helm.merged(small, {"global": shared}, VALUES, REACHED)))
        files = ("--values", PACKAGE.with_suffix(".yaml"), "--values", values)
        try:
            three("install", NAME, PACKAGE, *files, "--skip-crds", *WAIT)
            yield there
        finally:
            helm.helm("uninstall", NAME, "--namespace", NAME, "--ignore-not-found", timeout=120)


def managers(there: Cluster) -> set[tuple[str, str]]:
    """Who manages fields of MLflow's Deployment, and how, the controllers left out."""
    found = there.workload("Deployment", DEPLOYMENT)["metadata"]["managedFields"]
    return {(each["manager"], each["operation"]) for each in found if not each.get("subresource")}


def fields(there: Cluster) -> dict[str, Any]:
    """What an upgrade changes of MLflow's Deployment."""
    template = there.workload("Deployment", DEPLOYMENT)["spec"]["template"]
    return {
        "annotation": template["metadata"].get("annotations", {}).get("note"),
        "memory": template["spec"]["containers"][0]["resources"]["limits"]["memory"],
    }


def changed(note: str, memory: str) -> tuple[str, ...]:
    """Values that change a field, and take one away again where empty."""
    set_ = f"mlflow.resources.limits.memory={memory},mlflow.podAnnotations.note={note or 'null'}"
    return ("--reset-then-reuse-values", "--set", set_)


def test_helm_4_takes_over_from_helm_3_and_back(
    there: Cluster, three: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    client = mlflow.MlflowClient(f"{URL}/mlflow", f"{URL}/mlflow")
    run = client.create_run("0").info.run_id
    client.log_metric(run, "loss", 0.5)

    def good(note: str | None, memory: str | None = None) -> None:
        now = fields(there)
        assert now["annotation"] == note
        assert memory in (None, now["memory"])
        assert upgrades.all_ready(there)
        assert client.get_run(run).data.metrics == {"loss": 0.5}

    # Helm 3 upgrades and rolls back by itself
    three("upgrade", NAME, helm.CHART, *changed("a", "1100Mi"), *NEWER, *WAIT)
    good("a", "1100Mi")
    three("rollback", NAME, "1", *WAIT)
    good(None)
    three("rollback", NAME, "2", *WAIT)
    assert ("helm", "Update") in managers(there)

    # Helm 4 goes on as Helm 3 did, in the client
    code, report, _ = upgrades.upgrade(NAME, helm.CHART, *changed("b", "1200Mi")[1:])
    assert (code, report["error"]) == (0, "")
    good("b", "1200Mi")
    assert ("helm", "Apply") not in managers(there)

    # the server takes over: no conflict, also of fields that go
    helm.helm("upgrade", NAME, helm.CHART, "--server-side=true", *changed("", "1300Mi"), *WAIT, timeout=240)
    good(None, "1300Mi")
    assert ("helm", "Apply") in managers(there)
    assert ("helm", "Update") not in managers(there)
    code, report, _ = upgrades.upgrade(NAME, helm.CHART, *changed("c", "1400Mi")[1:])
    assert (code, report["error"]) == (0, "")
    good("c", "1400Mi")

    # back to what Helm 3 installed; then Helm 3 goes on with what Helm 4 left
    helm.helm("rollback", NAME, "1", *WAIT, timeout=240)
    good(None)
    three("upgrade", NAME, helm.CHART, *changed("d", "1500Mi"), *NEWER, *WAIT)
    good("d", "1500Mi")
    version = three("version", "--template", "{{.Version}}"), helm.helm("version", "--template", "{{.Version}}")
    print(
        f"| {PACKAGE.stem.rpartition('-')[2]} | Helm {version[0]}, then {version[1]} in the client and in the server, and back | nothing lost |"
    )
