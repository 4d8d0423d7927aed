"""Every released chart is installed as it was packaged, upgraded to the present one with each way to give values, and rolled back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from sklearn.datasets import load_wine

from support import helm, releases, upgrades
from support.helm import HelmError
from support.k8s import Cluster
from support.upgrades import REACHED, URL

pytestmark = pytest.mark.timeout(600)

NAME = "earlier"
PACKAGES = sorted((helm.REPO / "tests" / "releases").glob("iml4e-*.tgz"))
#: Parts that a release did not have: their images may not be here.
NEWER = ("--set", "grafana.enabled=false")
WAIT = ("--wait", "--timeout", "240s")
TRAIN = """
import mlflow
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

wines = load_wine(as_frame=True)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wines.data, wines.target)
mlflow.set_experiment("kept")
with mlflow.start_run():
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("kept", "note.txt")
    mlflow.sklearn.log_model(model, name="model", input_example=wines.data.head(2), registered_model_name="kept")
mlflow.MlflowClient().set_registered_model_alias("kept", "champion", "1")
"""


def secrets(there: Cluster) -> dict[str, dict[str, str]]:
    """The release's Secrets."""
    found = there.core.list_namespaced_secret(NAME, label_selector=f"app.kubernetes.io/instance={NAME}").items
    return {secret.metadata.name: secret.data for secret in found}


def chart_of(there: Cluster) -> str:
    """The chart that the gateway's Deployment is of."""
    deployment = there.get("apps/v1", "Deployment", f"{NAME}-gateway")
    assert deployment
    return deployment["metadata"]["labels"]["helm.sh/chart"]


def command(verb: str, *words: str | Path) -> None:
    """Change the release, and wait until it is Ready."""
    helm.helm(verb, NAME, *words, "--namespace", NAME, *WAIT, timeout=300)


def sees(tmp_path: Path) -> dict[str, Any]:
    """What users see: the run, its file, the model's versions, and what its endpoint predicts."""
    client = mlflow.MlflowClient(f"{URL}/mlflow", f"{URL}/mlflow")
    (run,) = client.search_runs([client.get_experiment_by_name("kept").experiment_id], "metrics.loss = 0.5")
    rows = load_wine().data[::20].tolist()
    answer = requests.post(f"{URL}/models/{NAME}/kept/v1/models/kept:predict", json={"instances": rows}, timeout=30)
    # a new run: MLflow's client keeps the address at which it sent an artifact of a run
    client.log_text(client.create_run(run.info.experiment_id).info.run_id, "more", "more.txt")
    return {
        "run": run.to_dictionary(),
        "file": Path(client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path))).read_text(),
        "versions": [(each.name, each.version, each.source, list(each.aliases)) for each in client.search_model_versions()],
        "answer": answer.json(),
    }  # fmt: skip


def test_there_are_releases() -> None:
    assert PACKAGES


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.stem)
def test_a_release_is_upgraded_and_rolled_back_without_loss(
    cluster: Cluster, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with (
        releases.namespace(cluster, NAME) as there,
        releases.installed(there, [package.with_suffix(".yaml")], REACHED, chart=package),
    ):
        first, keys = chart_of(there), secrets(there)
        assert len(keys) >= 8
        given = tmp_path / "values.json"
        given.write_text(helm.helm("get", "values", NAME, "--namespace", NAME, "--output", "json"))
        releases.run(NAME, URL, "python", "-W", "ignore", "-c", TRAIN)
        releases.run(NAME, URL, "iml4e", "deploy", "kept@champion")
        before = sees(tmp_path)
        assert before["file"] == "kept"
        assert len(before["answer"]["predictions"]) == 9
        matrix: list[tuple[str, str]] = []

        def unchanged() -> None:
            # a newer chart may add Secrets
            assert {name: data for name, data in secrets(there).items() if name in keys} == keys
            assert sees(tmp_path) == before

        # Helm itself gives the new chart no new default: a sentence, not a trace of a template, and nothing is changed
        with pytest.raises(HelmError) as refused:
            command("upgrade", helm.CHART, "--reuse-values", *NEWER)
        (finding,) = refused.value.findings
        assert "Upgrade with --reset-then-reuse-values instead of --reuse-values." in finding
        assert [each["status"] for each in upgrades.history(NAME)] == ["deployed"]
        matrix.append(("--reuse-values", "refused with a sentence, nothing changes"))

        code, report, _ = upgrades.upgrade(NAME, helm.CHART, *NEWER)
        assert (code, report["error"]) == (0, "")
        asked = {each["name"]: each for each in report["endpoints"]}
        assert asked.keys() >= {"landing page", "MLflow", "Prometheus", "model kept"}
        assert min(each["requests"] for each in asked.values()) >= 10
        # one replica each; MLflow and the model go on until others are Ready
        assert asked["MLflow"]["longest"] < 30
        assert asked["model kept"]["longest"] < 15
        unchanged()
        downtime = ", ".join(f"{name} {each['longest']:.1f} s" for name, each in asked.items())
        matrix.append(("--reset-then-reuse-values", f"nothing lost in {report['seconds']:.0f} s; downtime: {downtime}"))
        command("rollback", "1")
        assert chart_of(there) == first
        unchanged()
        matrix.append(("rollback", "nothing lost"))

        command("upgrade", helm.CHART, "--values", given, *NEWER)
        unchanged()
        matrix.append(("neither", "nothing lost"))
        version = helm.helm("version", "--template", "{{.Version}}")
        for mode, result in matrix:
            print(f"| {package.stem.rpartition('-')[2]} | Helm {version} | {mode} | {result} |")
