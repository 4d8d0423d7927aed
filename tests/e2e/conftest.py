"""Fixtures of the live platform: the cluster, the gateway, a client for each service, the two reference models."""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scripts.bare import images
from support import experiments, helm, store
from support.k8s import Cluster, kubeconfig
from support.keepsake import Keepsake
from support.kubeflow import Kubeflow
from support.platform import Gateway, Model


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that KUBECONFIG names, with the release in it."""
    config = kubeconfig()
    if not config:
        pytest.skip("no cluster: KUBECONFIG is not set (`make e2e` brings one up)")
    return Cluster(config)


@pytest.fixture(scope="session")
def kube_config(cluster: Cluster) -> str:
    """The same cluster for the fixtures of pytest-helm-charts."""
    return str(cluster.config)


@pytest.fixture(scope="session")
def values(cluster: Cluster) -> dict[str, Any]:
    """All values that the release was installed with."""
    return helm.release_values()


@pytest.fixture(scope="session")
def gateway(cluster: Cluster) -> Gateway:
    """The platform's one address."""
    return Gateway()


@pytest.fixture(scope="module")
def s3_port(cluster: Cluster) -> Iterator[int]:
    """A port of this machine that leads to the object store."""
    with cluster.port_forward("service/iml4e-minio", 9000) as port:
        yield port


@pytest.fixture(scope="module")
def s3(cluster: Cluster, s3_port: int) -> Callable[[str], Any]:
    """A function that makes an S3 client with the key of a consumer."""
    return functools.partial(store.consumer_client, cluster, s3_port)


def s3_folder(source: str) -> str:
    """Where the store keeps what MLflow calls by an address of its own proxy."""
    return source.replace("mlflow-artifacts:/", "s3://mlflow/", 1)


@pytest.fixture(scope="session")
def model_uri(gateway: Gateway) -> Iterator[str]:
    """Address in MLflow of a model that tells wines apart, logged from here as from a laptop."""
    client = gateway.mlflow
    wines = load_wine(as_frame=True)
    experiment = f"e2e-{uuid.uuid4().hex[:8]}"
    mlflow.set_experiment(experiment)
    with mlflow.start_run():
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wines.data, wines.target)
        logged = mlflow.sklearn.log_model(model, name="model", input_example=wines.data.head(2))
    yield logged.model_uri
    client.delete_experiment(client.get_experiment_by_name(experiment).experiment_id)


@pytest.fixture(scope="session")
def storage_uri(gateway: Gateway, model_uri: str) -> str:
    """Address of the same model in the object store, as an InferenceService wants it."""
    return s3_folder(gateway.mlflow.get_logged_model(model_uri.removeprefix("models:/")).artifact_location)


@pytest.fixture(scope="session")
def bottle() -> dict[str, float]:
    """One wine, by column."""
    return load_wine(as_frame=True).data.iloc[0].to_dict()


@pytest.fixture(scope="session")
def keepsake(cluster: Cluster, gateway: Gateway, model_uri: str) -> Iterator[Keepsake]:
    """Something left in every part, to be found again."""
    kept = Keepsake(cluster, gateway, model_uri)
    kept.put()
    yield kept
    kept.remove()


@pytest.fixture(scope="session")
def wine_run(cluster: Cluster) -> dict[str, Any]:
    """A run of the pipeline `wine` in a pod of the cluster: what it returned."""
    return experiments.demo("wine")


@pytest.fixture(scope="session")
def digits_run(cluster: Cluster) -> dict[str, Any]:
    """A run of the pipeline `digits` in a pod of the cluster: what it returned."""
    return experiments.demo("digits")


@pytest.fixture(scope="session")
def wine(gateway: Gateway, wine_run: dict[str, Any]) -> Model:
    """The model that the pipeline `wine` deployed."""
    return gateway.model("wine", helm.NAMESPACE)


@pytest.fixture(scope="session")
def digits(gateway: Gateway, digits_run: dict[str, Any]) -> Model:
    """The model that the pipeline `digits` deployed."""
    return gateway.model("digits", helm.NAMESPACE)


@pytest.fixture(autouse=True)
def only_parts_that_are_on(request: pytest.FixtureRequest) -> None:
    """A test of a part that this release does without is skipped."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    part = getattr(parameters.get("part"), "name", None) or getattr(parameters.get("workload"), "part", None)
    if part and not request.getfixturevalue("values")[part]["enabled"]:
        pytest.skip(f"{part} is off in this release")


@pytest.fixture(scope="module")
def kubeflow(
    cluster: Cluster,
    gateway: Gateway,
    values: dict[str, Any],
    s3: Callable[[str], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kubeflow]:
    """Kubeflow Pipelines, with an experiment of its own for the runs of a module."""
    if not values["pipelines"]["enabled"]:
        pytest.skip("pipelines is off in this release: `make up` leaves it out where its images are missing")
    image = cluster.core.read_namespaced_config_map(f"{helm.RELEASE}-runner", helm.NAMESPACE).data["RUNTIME_IMAGE"]
    if image.startswith(images.REGISTRY):
        image = images.named("runtime").reference  # has the SDK: steps of tests install nothing
    kubeflow = Kubeflow(cluster, gateway, s3("pipelines"), image, tmp_path_factory.mktemp("packages"))
    yield kubeflow
    kubeflow.remove(kubeflow.experiment)


@pytest.fixture
def unique() -> str:
    """A name that nothing else has, good for any kind of object."""
    return f"e2e-{uuid.uuid4().hex[:8]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure shows what the cluster looked like at that moment."""
    report = yield
    platform = item.funcargs.get("cluster") if hasattr(item, "funcargs") else None
    if report.failed and isinstance(platform, Cluster):
        with contextlib.suppress(Exception):
            report.sections.append(("the cluster", platform.describe()))
    return report
