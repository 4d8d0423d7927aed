"""The landing page, and the gateway's answers where nothing else answers."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from iml4e import Error, client
from support import browser, helm, releases, serving
from support.k8s import Cluster, Object
from support.platform import Gateway, Model

BROWSER = pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium on this machine")
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
EVIL = "<script>document.title='pwned'</script>"


@pytest.fixture(autouse=True)
def _only_where_it_is_on(values: dict[str, Any]) -> None:
    if not values["home"]["enabled"]:
        pytest.skip("home is off in this release")


def shown(gateway: Gateway, **query: str) -> dict[str, Any]:
    """What `/models/` says."""
    answer = gateway.get("/models/", params=query)
    assert answer.status_code == 200
    return answer.json()


@contextlib.contextmanager
def broken(cluster: Cluster, name: str, **annotations: str) -> Iterator[str]:
    """A model whose image does not exist, with a route: its path at the gateway."""
    metadata = {"name": name, "namespace": cluster.namespace}
    predictor = {
        "minReplicas": 1,
        "containers": [{"name": "kserve-container", "image": "iml4e.local/no-such-image:1", "ports": [{"containerPort": 8080}],
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "100m", "memory": "16Mi"}}}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    }  # fmt: skip
    path = f"/models/{cluster.namespace}/{name}"
    service: Object = {
        "apiVersion": releases.MODELS[0], "kind": "InferenceService",
        "metadata": {**metadata, "annotations": annotations}, "spec": {"predictor": predictor},
    }  # fmt: skip
    rewrite = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "filters": [rewrite],
        "backendRefs": [{"name": f"{name}-predictor", "port": 80}],
    }
    route = {
        "apiVersion": serving.GATEWAY, "kind": "HTTPRoute", "metadata": metadata,
        "spec": {"parentRefs": [{"name": f"{helm.RELEASE}-gateway", "namespace": helm.NAMESPACE}], "rules": [rule]},
    }  # fmt: skip
    try:
        cluster.apply(service, route)
        yield path
    finally:
        cluster.delete(*releases.MODELS, name)
        cluster.delete(serving.GATEWAY, "HTTPRoute", name)


def test_it_shows_parts_and_models_within_two_seconds(gateway: Gateway, values: dict[str, Any], wine: Model) -> None:
    start = time.monotonic()
    answer = gateway.get("/")
    assert time.monotonic() - start < 2
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"{helm.NAMESPACE}/{wine.name}" in answer.text
    parts = {each["name"]: each for each in shown(gateway)["parts"]}
    on = {name for name, value in values.items() if isinstance(value, dict) and value.get("enabled") is True}
    assert {"gateway", "home", "mlflow"} <= set(parts) <= on
    assert "/mlflow/#/experiments?workflowType=machine_learning" in answer.text


def test_what_it_says_of_a_model_is_what_others_say(gateway: Gateway, wine: Model, wine_run: dict[str, Any]) -> None:
    served = next(each for each in shown(gateway)["models"] if each["name"] == wine.name)
    version = gateway.mlflow.get_model_version_by_alias("wine", "champion")
    assert served["champion"] == version.version
    assert served["dataset"] == version.tags["dataset"]
    assert wine.get(wine.v2).headers["x-model-version"] == served["version"]
    assert served["replicas"]["ready"] >= 1


def test_its_command_works_as_it_stands(gateway: Gateway, wine: Model) -> None:
    """By the name by which the page was asked: a forwarded port, a node's address."""
    served = next(each for each in shown(gateway)["models"] if each["name"] == wine.name)
    assert served["url"].startswith(gateway.url)
    done = subprocess.run(["sh", "-c", served["curl"]], capture_output=True, text=True, check=True, timeout=30)
    assert len(json.loads(done.stdout)["predictions"]) == 1
    asked = {"Host": "ml.example.com:8443", "X-Forwarded-Proto": "https"}
    other = gateway.get("/models/", headers=asked).json()["models"]
    assert all("://ml.example.com:8443/models/" in each["url"] for each in other)


def test_it_counts_requests_and_errors(cluster: Cluster, gateway: Gateway, values: dict[str, Any], wine: Model) -> None:
    if not values["prometheus"]["enabled"]:
        pytest.skip("prometheus is off in this release")

    def count() -> int:
        # a time from which nothing falls out while the test waits
        return next(each["requests"] for each in shown(gateway, last="6h")["models"] if each["name"] == wine.name)

    before = count()
    for _ in range(60):
        wine.get(wine.v2)
    cluster.wait("the requests to be counted", lambda: count() >= before + 40, 90, pause=3)


def test_the_command_line_prints_the_same(gateway: Gateway, wine: Model) -> None:
    said = releases.run(helm.RELEASE, gateway.url, "iml4e", "stats", wine.name, "--last", "1h", "--json")
    (told,) = json.loads(said)
    (page,) = [each for each in shown(gateway, last="1h")["models"] if each["name"] == wine.name]
    assert {key: told[key] for key in ("version", "champion", "url")} == {
        key: page[key] for key in ("version", "champion", "url")
    }
    said = releases.run(helm.RELEASE, gateway.url, "iml4e", "stats", wine.name)
    header, row = said.splitlines()[:2]
    assert header.split() == ["ENDPOINT", "VERSION", "READY", "REQUESTS", "ERRORS", "ERROR", "%", "P50", "P95", "P99"]
    assert row.split()[:2] == [f"{helm.NAMESPACE}/{wine.name}", told["version"]]


@pytest.mark.parametrize("path", ["/models/?last=1y", "/?last=<b>", "/models/?last="])
def test_an_unknown_time_is_a_sentence(gateway: Gateway, path: str) -> None:
    answer = gateway.get(path)
    assert answer.status_code == 400
    assert "write a number with m, h or d" in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_an_unknown_model_is_named_and_the_served_ones_too(gateway: Gateway, wine: Model, method: str) -> None:
    path = f"/models/{helm.NAMESPACE}/{wine.name}x/v1/models/{wine.name}x:predict"
    answer = requests.request(method, gateway.url + path, json={"instances": [[1]]}, timeout=15)
    assert answer.status_code == 404
    assert f"No model {wine.name}x is served in namespace {helm.NAMESPACE}. " in answer.json()["error"]
    assert f"/models/{helm.NAMESPACE}/{wine.name}/" in answer.json()["error"]
    page = gateway.get(path, headers=HTML)
    assert (page.status_code, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")


def test_the_client_says_the_same_sentence(gateway: Gateway, wine: Model) -> None:
    with pytest.raises(Error, match=f"answers 404: No model nobody is served in namespace {helm.NAMESPACE}"):
        client.Model(gateway.url, helm.NAMESPACE, "nobody").predict([[1]])


def test_a_large_body_for_nobody_is_refused_and_not_kept(gateway: Gateway) -> None:
    zeros = (b"\0" * 2**20 for _ in range(300))
    with contextlib.suppress(requests.ConnectionError):  # a client may still be sending
        assert requests.put(f"{gateway.url}/models/nobody/nothing", data=zeros, timeout=60).status_code == 404
    assert gateway.get("/").status_code == 200


def test_a_model_that_does_not_start_says_why(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    with broken(cluster, unique, **{"iml4e.org/model": EVIL, "iml4e.org/model-version": EVIL}) as path:
        cluster.wait("the route to be known", lambda: gateway.get(path).status_code == 503, 60)
        cluster.wait("the reason", lambda: "does not start" in gateway.get(f"{path}/v2").text, 60)
        answer = requests.post(f"{gateway.url}{path}/v1/models/{unique}:predict", json={"instances": [1]}, timeout=15)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        said = answer.json()["error"]
        assert said.startswith(
            f"Model {unique} in namespace {cluster.namespace} is not ready: container kserve-container"
        )
        assert "no-such-image" in said
        page = gateway.get(path, headers=HTML)
        assert page.status_code == 503
        assert page.text.startswith("<!doctype html>")
        assert "no-such-image" in page.text
        for text in (gateway.get("/").text, page.text):
            assert EVIL not in text
        assert EVIL in [each["model"] for each in shown(gateway)["models"]]
        with pytest.raises(Error, match=r"answers 503: Model .* is not ready: container"):
            client.Model(gateway.url, cluster.namespace, unique).predict([[1]])


def test_the_gateways_metrics_go_on_counting_the_errors(
    cluster: Cluster, gateway: Gateway, values: dict[str, Any], unique: str
) -> None:
    if not values["prometheus"]["enabled"]:
        pytest.skip("prometheus is off in this release")
    with broken(cluster, unique) as path:
        cluster.wait("the route to be known", lambda: gateway.get(path).status_code == 503, 60)
        count = f'sum(traefik_router_requests_total{{route="{cluster.namespace}-{unique}",code="503"}})'
        cluster.wait("the count", lambda: [value for _, value in gateway.query(count) if value >= 1], 90, pause=3)


def test_a_large_artifact_goes_through_as_before(gateway: Gateway, unique: str) -> None:
    """The errors of the gateway keep no body, in either direction."""
    path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{unique}/zeros"
    sent = 64
    answer = requests.put(gateway.url + path, data=(b"\0" * 2**20 for _ in range(sent)), timeout=120)
    assert answer.status_code == 200
    try:
        with requests.get(gateway.url + path, stream=True, timeout=120) as back:
            assert sum(len(chunk) for chunk in back.iter_content(2**20)) == sent * 2**20
    finally:
        requests.delete(gateway.url + path, timeout=30)


def test_many_readers_at_once(gateway: Gateway, wine: Model) -> None:
    def read(_: int) -> tuple[int, float]:
        start = time.monotonic()
        return gateway.get("/").status_code, time.monotonic() - start

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(read, range(80)))
    assert {status for status, _ in answers} == {200}
    assert statistics.median(took for _, took in answers) < 5


def test_it_asks_for_little_memory(cluster: Cluster) -> None:
    selector = "app.kubernetes.io/name=home"
    (pod,) = cluster.core.list_namespaced_pod(helm.NAMESPACE, label_selector=selector).items[:1]
    status = cluster.exec(pod.metadata.name, "cat", "/proc/1/status")
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 60 * 1024


@BROWSER
@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_a_complaint(
    cluster: Cluster, gateway: Gateway, wine: Model, tmp_path: Path, width: int, dark: bool
) -> None:
    with browser.page() as page:
        page.open(f"{gateway.url}/", width=width, dark=dark)
        assert page.complaints() == [], "its own Content-Security-Policy lets all of it through"
        assert page.requests() == [f"{gateway.url}/"], "one file, nothing of the internet"
        assert page.value("document.documentElement.scrollWidth") == width, "nothing is wider than the window"
        assert page.value("document.querySelectorAll('h1').length") == 1
        back = page.value("getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(18, 22, 29)" if dark else "rgb(246, 247, 249)"), "the style is applied"
        page.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 5000


@BROWSER
def test_the_link_to_mlflow_opens_model_training(gateway: Gateway) -> None:
    with browser.page() as page:
        page.open(f"{gateway.url}/", settle=0.2)
        link = page.value("[...document.querySelectorAll('a')].find(a => a.textContent == 'MLflow').href")
        page.open(link, settle=6)
        text = page.value("document.body.innerText")
        assert "Experiments" in text
        assert "Prompts" not in text, "the menu of generative AI"


@BROWSER
def test_a_hostile_name_stays_text_in_a_browser(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    with broken(cluster, unique, **{"iml4e.org/model": EVIL, "iml4e.org/model-version": "1"}), browser.page() as page:
        cluster.wait("the model to be listed", lambda: unique in gateway.get("/").text, 30)
        page.open(f"{gateway.url}/")
        assert EVIL in page.value("document.body.innerText")
        page.open(f"{gateway.url}/{EVIL}?{EVIL}")
        assert page.value("document.title") == "404 Nothing is here"
        assert not [line for line in page.complaints() if "Content Security" in line]


@pytest.mark.disruptive
def test_without_prometheus_the_page_says_what_is_missing(
    cluster: Cluster, gateway: Gateway, values: dict[str, Any]
) -> None:
    if not values["prometheus"]["enabled"]:
        pytest.skip("prometheus is off in this release")
    name = f"{helm.RELEASE}-prometheus"

    def asked() -> str:
        # for some seconds the gateway may still try the address of the pod that went
        with contextlib.suppress(requests.RequestException):
            return gateway.get("/prometheus/-/ready", timeout=5).text
        return ""

    cluster.apps.patch_namespaced_stateful_set_scale(name, helm.NAMESPACE, {"spec": {"replicas": 0}})
    try:
        cluster.wait(
            "Prometheus to be away", lambda: any("Prometheus" in each for each in shown(gateway)["missing"]), 120
        )
        start = time.monotonic()
        page = gateway.get("/")
        assert time.monotonic() - start < 2
        assert page.status_code == 200
        assert "requests, errors and latency are missing" in page.text
        cluster.wait("the reason", lambda: f"{name}: it is scaled to 0 replicas" in asked(), 90)
    finally:
        cluster.apps.patch_namespaced_stateful_set_scale(name, helm.NAMESPACE, {"spec": {"replicas": 1}})
        cluster.wait("Prometheus to be back", lambda: "Ready" in asked(), 120)
