"""Models deployed by the package: by function, command line, MLflow's plug-in and the YAML of the documentation."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from iml4e import Error, integrity, manifests, serving
from support import serving as by_hand
from support.helm import NAMESPACE, RELEASE, REPO
from support.k8s import Cluster
from support.platform import URL, Gateway, Traffic

BIN = REPO / ".venv" / "bin"


def iml4e(*arguments: str, program: str = "iml4e", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does."""
    env = {**os.environ, "IML4E_URL": URL, "MLFLOW_TRACKING_URI": f"{URL}/mlflow", **environment}
    return subprocess.run(
        [BIN / program, *arguments], capture_output=True, text=True, timeout=400, env=env, check=False
    )


@pytest.fixture(scope="module")
def fraud(gateway: Gateway, model_uri: str) -> Iterator[str]:
    """A registered model of two versions that have the same files."""
    name = f"e2e-fraud-{time.time():.0f}"
    for _ in range(2):
        mlflow.register_model(model_uri, name)
    yield name
    gateway.mlflow.delete_registered_model(name)


@pytest.fixture
def endpoint(cluster: Cluster, unique: str) -> Iterator[str]:
    """A name for an endpoint that goes away with the test."""
    yield unique
    by_hand.remove(cluster, unique)


@pytest.fixture(scope="module")
def broken(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """A function that registers a model of Python code that cannot be served."""
    names: list[str] = []
    assert gateway.mlflow  # sets MLflow's address

    def register(code: str, **options: Any) -> str:
        names.append(f"e2e-broken-{len(names)}-{time.time():.0f}")
        file = tmp_path_factory.mktemp("code") / f"{names[-1]}.py"
        file.write_text(
            f"import mlflow\n{code}\nclass M(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input, params=None):\n        return [1]\nmlflow.models.set_model(M())\n"
        )
        options.setdefault("pip_requirements", ["mlflow"])
        with mlflow.start_run():
            mlflow.pyfunc.log_model(python_model=str(file), name="model", registered_model_name=names[-1], **options)
        return names[-1]

    yield register
    for name in names:
        gateway.mlflow.delete_registered_model(name)


def spec(cluster: Cluster, name: str) -> dict[str, Any]:
    """The InferenceService of an endpoint."""
    found = cluster.get(by_hand.SERVING, "InferenceService", name)
    assert found
    return found


def test_from_the_first_version_to_the_second_and_back(
    cluster: Cluster, gateway: Gateway, fraud: str, endpoint: str, bottle: dict[str, float], tmp_path: Path
) -> None:
    first = serving.deploy(fraud, "1", name=endpoint)
    assert (first.model, first.version, first.ready) == (fraud, "1", True)
    assert serving.check(endpoint, [list(bottle.values())], [0], version="1").url == first.url
    model = gateway.model(endpoint, NAMESPACE)

    def answers(version: str) -> None:
        # the former pod may answer for a moment more, until the gateway forgets it
        def alone() -> bool:
            return all(model.predict([bottle]).headers["x-model-version"] == version for _ in range(20))

        cluster.wait(f"version {version} to be the only one that answers", alone, 20)
        answer = model.predict([bottle])
        assert answer.json() == {"predictions": [0]}
        assert answer.headers["x-model-version"] == version
        assert model.get(model.v2).json()["versions"] == [version]
        tags = [gateway.mlflow.get_model_version(fraud, each).tags.get("iml4e.endpoint") for each in ("1", "2")]
        assert tags == [f"{NAMESPACE}/{endpoint}" if each == version else None for each in ("1", "2")]

    answers("1")
    with Traffic(model.base + model.v1, {"instances": [bottle]}, pause=0.02) as traffic:
        assert serving.deploy(fraud, "2", name=endpoint).version == "2"
        answers("2")
        assert spec(cluster, endpoint)["metadata"]["annotations"][manifests.FORMER] == "1"
        assert serving.rollback(endpoint).version == "1"
        answers("1")
    assert traffic.failures == []

    rows = tmp_path / "rows.csv"
    with rows.open("w") as file:
        writer = csv.DictWriter(file, list(bottle))
        writer.writeheader()
        writer.writerows([bottle, bottle])
    asked = iml4e("predict", endpoint, "--data", str(rows))
    assert asked.stdout == "prediction\n0\n0\n"
    assert f"{endpoint} version 1 answered 2 rows" in asked.stderr

    serving.delete(endpoint)
    assert cluster.get(by_hand.SERVING, "InferenceService", endpoint) is None
    assert cluster.get(by_hand.GATEWAY, "HTTPRoute", endpoint) is None
    assert "iml4e.endpoint" not in gateway.mlflow.get_model_version(fraud, "1").tags


def test_command_line(fraud: str, endpoint: str) -> None:
    done = iml4e("deploy", f"models:/{fraud}/2", "--name", endpoint, "--json", "--cpu", "60m", "--batching", "off")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "2"
    listed = {each["name"]: each for each in json.loads(iml4e("models", "--json").stdout)}
    assert listed[endpoint]["ready"]
    assert endpoint in iml4e("models").stdout
    assert iml4e("logs", endpoint).stdout
    refused = iml4e("rollback", endpoint)
    assert refused.returncode == 1
    assert refused.stderr.startswith("iml4e: ")
    assert refused.stderr.count("\n") == 1
    assert iml4e("delete", endpoint).returncode == 0
    gone = iml4e("predict", endpoint, "--data", "[[1]]")
    assert gone.returncode == 1
    assert "404" in gone.stderr


def test_plug_in_of_mlflow(fraud: str, endpoint: str, bottle: dict[str, float], tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = iml4e("deployments", *arguments, "-t", "iml4e", program="mlflow")
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([bottle]))
    run("create", "--name", endpoint, "-m", f"models:/{fraud}/1", "-C", "cpu=60m")
    assert endpoint in run("list")
    run("update", "--name", endpoint, "-m", f"models:/{fraud}/2")
    assert "version: 2" in run("get", "--name", endpoint)
    assert "[0]" in run("predict", "--name", endpoint, "-I", str(rows)).replace("\n", "").replace(" ", "")
    run("delete", "--name", endpoint)


def test_yaml_of_the_documentation(
    cluster: Cluster,
    gateway: Gateway,
    endpoint: str,
    model_uri: str,
    storage_uri: str,
    bottle: dict[str, float],
    tmp_path: Path,
) -> None:
    text = re.search(r"```yaml\n(.*?)```", (REPO / "docs" / "serving.md").read_text(), re.DOTALL)[1]
    text = re.sub(r"s3://\S+", storage_uri.rstrip("/") + "/", text)
    text = re.sub(r"\bfraud\b", endpoint, text)
    source = gateway.mlflow.get_logged_model(model_uri.removeprefix("models:/")).artifact_location
    files = mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path))
    text = text.replace("sha256:…", integrity.digest(Path(files)))
    cluster.apply(*yaml.safe_load_all(text))
    by_hand.wait_ready(cluster, endpoint)
    model = gateway.model(endpoint, NAMESPACE)
    cluster.wait("the route to be known", lambda: model.predict([bottle]).ok, 30)
    assert model.predict([bottle]).headers["x-model-version"] == "3"
    assert serving.find(endpoint).version == "3"


# what is asked for: (options, part of the reason, seconds within which it must be told)
IMPOSSIBLE: dict[str, tuple[dict[str, Any], str, float]] = {
    "a node that nobody has": ({"node_selector": {"no": "body"}}, r"no node takes its pod.*--node-selector", 40),
    "a GPU that nobody has": ({"gpu": 1}, r"nvidia\.com/gpu", 40),
    "memory above the limit": ({"memory": "4Gi"}, r"memory limit of.*--memory-limit", 40),
    "too little memory": ({"memory": "20Mi", "memory_limit": "40Mi"}, r"more memory than its limit of 40Mi", 40),
    "an image that does not exist": ({"image": "iml4e.local/no/such:1"}, r"image cannot be pulled", 60),
    "a runtime that does not exist": ({"runtime": "no-such"}, r"KServe cannot serve it.*no-such", 40),
    "a service account that does not exist": ({"service_account": "nobody"}, r"no ServiceAccount nobody", 5),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_start_is_told_and_the_former_version_serves(
    gateway: Gateway, fraud: str, bottle: dict[str, float], case: str, standing: str
) -> None:
    options, reason, seconds = IMPOSSIBLE[case]
    model = gateway.model(standing, NAMESPACE)
    start = time.monotonic()
    with Traffic(model.base + model.v1, {"instances": [bottle]}) as traffic, pytest.raises(Error, match=reason) as told:
        serving.deploy(fraud, "2", name=standing, **options)
    assert time.monotonic() - start < seconds
    assert traffic.failures == []
    assert "\n" not in str(told.value)
    assert model.predict([bottle]).headers["x-model-version"] == "1"
    assert serving.find(standing).version == "1"


@pytest.fixture(scope="module")
def standing(cluster: Cluster, fraud: str, bottle: dict[str, float]) -> Iterator[str]:
    """An endpoint that serves version 1 for several tests."""
    name = f"e2e-standing-{time.time():.0f}"
    try:
        serving.check(serving.deploy(fraud, "1", name=name).name, [list(bottle.values())], [0], version="1")
        yield name
    finally:
        by_hand.remove(cluster, name)


def test_a_first_deployment_that_fails_is_taken_away(
    cluster: Cluster, broken: Callable[..., str], endpoint: str
) -> None:
    name = broken("import os\nif os.path.exists('/mnt/models'): raise RuntimeError('these weights are damaged')")
    with pytest.raises(Error, match=r"these weights are damaged.*taken away"):
        serving.deploy(name, "1", name=endpoint)
    assert cluster.get(by_hand.SERVING, "InferenceService", endpoint) is None
    assert cluster.get(by_hand.GATEWAY, "HTTPRoute", endpoint) is None


def test_a_server_that_dies_is_told_by_its_signal(broken: Callable[..., str], endpoint: str) -> None:
    name = broken("import os\nif os.path.exists('/mnt/models'):\n    import ctypes; ctypes.string_at(0)")
    with pytest.raises(Error, match="SIGSEGV"):
        serving.deploy(name, "1", name=endpoint)


def test_missing_packages_are_told_before_anything_starts(
    cluster: Cluster, broken: Callable[..., str], endpoint: str
) -> None:
    name = broken("", pip_requirements=["mlflow", "xgboost==3.0.0"])
    start = time.monotonic()
    with pytest.raises(Error, match=r"xgboost==3\.0\.0.*--packages.*--image.*--force"):
        serving.deploy(name, "1", name=endpoint)
    assert time.monotonic() - start < 5
    assert cluster.get(by_hand.SERVING, "InferenceService", endpoint) is None


def test_extra_packages_are_installed(broken: Callable[..., str], gateway: Gateway, endpoint: str) -> None:
    name = broken(
        "import os\nif os.path.exists('/mnt/models'):\n    import inflection",
        pip_requirements=["mlflow", "inflection==0.5.1"],
    )
    served = serving.deploy(name, "1", name=endpoint, packages=["inflection==0.5.1"])
    serving.check(served.name, [[1]], [1], version="1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": f"{RELEASE}-mlflow"}, r"HTTPRoute .* was not made by"),
        ({"name": "Wine Model"}, r"lower-case letters"),
        ({"name": "x" * 60}, r"too long"),
        ({"namespace": "no-such-namespace"}, r"no namespace no-such-namespace"),
        ({"namespace": "default"}, r"namespace default has no ServiceAccount"),
        ({"version": "77"}, r"no version 77"),
    ],
)
def test_what_cannot_work_is_refused_at_once(fraud: str, arguments: dict[str, str], told: str) -> None:
    start = time.monotonic()
    with pytest.raises(Error, match=told):
        serving.deploy(fraud, **{"version": "1", **arguments})
    assert time.monotonic() - start < 5


def test_another_model_is_not_replaced(fraud: str, broken: Callable[..., str], standing: str) -> None:
    with pytest.raises(Error, match=f"serves the model {fraud}.*--force"):
        serving.deploy(broken(""), "1", name=standing)


def test_a_name_that_kubernetes_cannot_have(
    cluster: Cluster, gateway: Gateway, model_uri: str, bottle: dict[str, float]
) -> None:
    name = "E2E Größe.v1"
    version = mlflow.register_model(model_uri, name).version
    served = serving.deploy(name, version)
    try:
        assert re.fullmatch(r"e2e-gro-?e-v1-[0-9a-f]{6}", served.name)
        serving.check(served.name, [list(bottle.values())], [0], version=str(version))
        assert serving.find(served.name).model == name
    finally:
        serving.delete(served.name)
        gateway.mlflow.delete_registered_model(name)


def test_two_deployments_at_once_end_right_or_with_a_sentence(cluster: Cluster, fraud: str, endpoint: str) -> None:
    serving.deploy(fraud, "1", name=endpoint)
    ends: dict[str, Any] = {}

    def deploy(version: str, wait: float, **options: Any) -> None:
        time.sleep(wait)
        try:
            ends[version] = serving.deploy(fraud, version, name=endpoint, **options)
        except Error as error:
            ends[version] = error

    threads = [
        threading.Thread(target=deploy, args=("1", 0), kwargs={"cpu": "60m"}),
        threading.Thread(target=deploy, args=("2", 2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(ends["2"], serving.Endpoint)
    assert isinstance(ends["1"], serving.Endpoint) or "version 2" in str(ends["1"])
    assert serving.find(endpoint).version == "2"


def test_a_missing_right_is_a_sentence(cluster: Cluster, fraud: str, tmp_path: Path) -> None:
    """The runner may deploy in its own namespace; elsewhere the error names the missing right."""
    token = cluster.core.create_namespaced_service_account_token(
        f"{RELEASE}-runner", NAMESPACE, {"spec": {"expirationSeconds": 600}}
    ).status.token
    config = yaml.safe_load(cluster.config.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    # with Kubeflow Pipelines the command then tries a pipeline, whose steps have the same rights; this account cannot read their image
    runner = cluster.get("v1", "ConfigMap", f"{RELEASE}-runner")
    assert runner
    environment = {"KUBECONFIG": str(tmp_path / "config"), "RUNTIME_IMAGE": runner["data"]["RUNTIME_IMAGE"]}
    done = iml4e("deploy", f"{fraud}/1", "--namespace", "default", **environment)
    assert done.returncode == 1
    assert "you may not create inferenceservices in namespace default" in done.stderr
