"""Settings of a release: from the environment, by a kubeconfig from a stand-in of the API server, from an address alone."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes.config import kube_config

from iml4e import Error, platform

CONFIG = {
    "RELEASE": "iml4e",
    "MLFLOW_TRACKING_URI": "http://iml4e-mlflow.iml4e.svc:5000/mlflow",
    "KF_PIPELINES_ENDPOINT": "http://iml4e-gateway-internal.iml4e.svc/pipeline",
    "PUBLIC_URL": "http://ml.example.com",
    "GATEWAY_URL": "http://iml4e-gateway-internal.iml4e.svc",
    "S3_DATASETS_BUCKET": "datasets",
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int, dict[str, str]], None]]:
    """A kubeconfig that names an API server, which answers with a status and the data of a ConfigMap."""
    answer: dict[str, object] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"kind": "ConfigMap", "data": answer["data"]}).encode()
            self.send_response(answer["status"] if self.path.endswith("/iml4e/configmaps/iml4e-runner") else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    yield lambda status, data: answer.update(status=status, data=data)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CONFIG, "IML4E_RELEASE", "IML4E_NAMESPACE", "MODEL_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


def test_the_environment_of_a_pod_is_all_that_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CONFIG.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "kubernetes", lambda: pytest.fail("asked Kubernetes"))
    assert platform.get("MLFLOW_TRACKING_URI") == CONFIG["MLFLOW_TRACKING_URI"]
    assert platform.find("GATEWAY_NAME", "none") == "none"
    with pytest.raises(
        Error, match=r"^MODEL_NAMESPACE is not set: the release iml4e has no model server \(kserve.enab"
    ):
        platform.get("MODEL_NAMESPACE")


@pytest.mark.parametrize("url", ["", "http://localhost:8080/"])
def test_a_kubeconfig_tells_all_with_addresses_that_answer_here(
    cluster: Callable[[int, dict[str, str]], None], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    cluster(200, CONFIG)
    monkeypatch.setenv("IML4E_URL", url)
    address = url.rstrip("/") or "http://ml.example.com"
    assert platform.get("GATEWAY_URL") == address
    assert platform.get("MLFLOW_TRACKING_URI") == f"{address}/mlflow"
    assert platform.get("KF_PIPELINES_ENDPOINT") == f"{address}/pipeline"
    assert platform.settings()["S3_DATASETS_BUCKET"] == "datasets"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://another")
    assert platform.get("MLFLOW_TRACKING_URI") == platform.settings()["MLFLOW_TRACKING_URI"] == "http://another"


@pytest.mark.parametrize("tracking", ["", "https://tracking.example.com/mlflow"])
def test_an_mlflow_of_somebody_else_keeps_its_address(
    cluster: Callable[[int, dict[str, str]], None], monkeypatch: pytest.MonkeyPatch, tracking: str
) -> None:
    """It is not behind the gateway, nor is the gateway where it is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    cluster(200, {**CONFIG, "MLFLOW_TRACKING_URI": "https://tracking.example.com/mlflow"})
    assert platform.get("MLFLOW_TRACKING_URI") == "https://tracking.example.com/mlflow"
    assert platform.get("GATEWAY_URL") == "http://ml.example.com"
    assert platform.get("KF_PIPELINES_ENDPOINT") == "http://ml.example.com/pipeline"


def test_a_part_that_is_off_has_no_address(cluster: Callable[[int, dict[str, str]], None]) -> None:
    cluster(200, {name: value for name, value in CONFIG.items() if name != "KF_PIPELINES_ENDPOINT"})
    with pytest.raises(Error, match=r"has no Kubeflow Pipelines \(pipelines.enabled\)"):
        platform.get("KF_PIPELINES_ENDPOINT")


@pytest.mark.parametrize(
    ("name", "value"), [("IML4E_URL", "http://h:1/"), ("MLFLOW_TRACKING_URI", "http://h:1/mlflow")]
)
def test_an_address_alone_tells_what_is_behind_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert platform.get("MLFLOW_TRACKING_URI") == "http://h:1/mlflow"
    assert platform.get("KF_PIPELINES_ENDPOINT") == "http://h:1/pipeline"
    assert platform.get("GATEWAY_URL") == "http://h:1"
    with pytest.raises(Error, match="IML4E_URL alone does not tell it; use a kubeconfig"):
        platform.get("S3_DATASETS_BUCKET")


@pytest.mark.parametrize(
    ("status", "why"),
    [(403, "may not be read by this account"), (404, "does not exist"), (0, "no access to Kubernetes")],
)
def test_nothing_at_all_is_one_sentence_with_the_next_step(
    cluster: Callable[[int, dict[str, str]], None], monkeypatch: pytest.MonkeyPatch, status: int, why: str
) -> None:
    if not status:
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", "/nonexistent")
    cluster(status, {})
    with pytest.raises(Error, match=f"^MLFLOW_TRACKING_URI is not set: .*{why}.*set IML4E_URL") as raised:
        platform.get("MLFLOW_TRACKING_URI")
    assert "\n" not in str(raised.value)
