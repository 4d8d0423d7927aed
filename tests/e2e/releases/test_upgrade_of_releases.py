"""Every released chart is installed as it was packaged, upgraded to the present one, and rolled back: data and Secrets stay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from support import helm, releases
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(600)

NAME = "earlier"
PACKAGES = sorted((helm.REPO / "tests" / "releases").glob("iml4e-*.tgz"))


@contextlib.contextmanager
def tracking(there: Cluster) -> Iterator[mlflow.MlflowClient]:
    """A client of the release's MLflow."""
    with there.port_forward(f"service/{NAME}-gateway", 80) as port:
        uri = f"http://localhost:{port}/mlflow"
        yield mlflow.MlflowClient(uri, uri)


def secrets(there: Cluster) -> dict[str, dict[str, str]]:
    """The release's Secrets."""
    found = there.core.list_namespaced_secret(NAME, label_selector=f"app.kubernetes.io/instance={NAME}").items
    return {secret.metadata.name: secret.data for secret in found}


def chart_of(there: Cluster) -> str:
    """The chart that the gateway's Deployment is of."""
    deployment = there.get("apps/v1", "Deployment", f"{NAME}-gateway")
    assert deployment
    return deployment["metadata"]["labels"]["helm.sh/chart"]


#: Parts that a release did not have: their images may not be here.
NEWER = ("--set", "grafana.enabled=false")


def command(verb: str, *words: str | Path) -> None:
    """Change the release, and wait until it is Ready."""
    helm.helm(verb, NAME, *words, "--namespace", NAME, "--wait", "--timeout", "240s", timeout=300)


def test_there_are_releases() -> None:
    assert PACKAGES


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.stem)
def test_a_release_is_upgraded_and_rolled_back_without_loss(
    cluster: Cluster, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with (
        releases.namespace(cluster, NAME) as there,
        releases.installed(there, [package.with_suffix(".yaml")], chart=package),
    ):
        first, keys = chart_of(there), secrets(there)
        assert len(keys) >= 8
        with tracking(there) as client:
            run = client.create_run(client.create_experiment("kept")).info.run_id
            client.log_metric(run, "loss", 0.5)
            client.log_text(run, "kept", "note.txt")
            client.create_registered_model("kept")

        def unchanged() -> None:
            # a newer chart may add Secrets
            assert {name: data for name, data in secrets(there).items() if name in keys} == keys
            with tracking(there) as client:
                found = client.get_run(run)
                assert found.data.metrics == {"loss": 0.5}
                assert [model.name for model in client.search_registered_models()] == ["kept"]
                assert Path(client.download_artifacts(run, "note.txt", str(tmp_path))).read_text() == "kept"
                # a new run: MLflow's client keeps the address at which it sent an artifact of a run
                another = client.create_run(found.info.experiment_id).info.run_id
                client.log_text(another, "more", "more.txt")

        command("upgrade", helm.CHART, "--reset-then-reuse-values", *NEWER)
        unchanged()
        command("rollback", "1")
        assert chart_of(there) == first
        unchanged()
