"""The landing page: reasons, sentences, requests that models take, and pages of hostile names."""

from __future__ import annotations

import asyncio
import html.parser
import http.server
import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "charts" / "iml4e" / "charts" / "home" / "files"
sys.path.insert(0, str(FOLDER))
try:
    import answers
    import example
    import home
    import page
    import reasons
    import sources
finally:
    sys.path.remove(str(FOLDER))

EVIL = "<script>alert('&\"')</script>"


def model(name: str = "wine", namespace: str = "iml4e", **values: Any) -> sources.Served:
    """A served model."""
    plain = {"model": name, "version": "3", "reason": "", "ready": 1, "wanted": 1, "key": ("uid", "rev")}
    return sources.Served(namespace, name, **(plain | values))


def part(name: str, reason: str = "") -> sources.Part:
    """A part that is on."""
    known = sources.KNOWN[name]
    return sources.Part(name, known.title, known.what, known.path, reason)


STATE = sources.State([part("mlflow"), part("minio"), part("mariadb")], [model(), model("digits", "team")])


# --- reasons


def pod(*, ready: bool = False, phase: str = "Running", conditions: list[Any] | None = None, **status: Any) -> Any:
    """A pod."""
    told = [{"type": "Ready", "status": str(ready)}, *(conditions or [])]
    return {
        "metadata": {"name": "p", "labels": {"app": "x"}},
        "status": {"phase": phase, "conditions": told, **status},
    }


def container(name: str = "main", *, ready: bool = False, last: Any = None, **state: Any) -> Any:
    """A container's status."""
    return {"name": name, "ready": ready, "state": state, "lastState": {"terminated": last} if last else {}}


WAITING = "no node takes its pod: 0/1 nodes are available: 1 Insufficient cpu"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            pod(
                phase="Pending",
                conditions=[
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/1 nodes are available: 1 Insufficient cpu. preemption: none",
                    }
                ],
            ),
            WAITING,
        ),
        (
            pod(containerStatuses=[container(waiting={"reason": "ImagePullBackOff", "message": "Back-off\npulling"})]),
            "container main does not start: Back-off pulling",
        ),
        (
            pod(
                containerStatuses=[
                    container(
                        waiting={"reason": "CrashLoopBackOff"}, last={"exitCode": 3, "message": "no\x1b[31m model"}
                    )
                ]
            ),
            "container main ends with exit code 3: no [31m model",
        ),
        (
            pod(
                containerStatuses=[
                    container(waiting={"reason": "CrashLoopBackOff"}, last={"exitCode": 137, "reason": "OOMKilled"})
                ]
            ),
            "container main needs more memory than its limit",
        ),
        (
            pod(
                initContainerStatuses=[container("migrate", running={})],
                containerStatuses=[container(waiting={"reason": "PodInitializing"})],
            ),
            "container migrate runs and is not ready yet",
        ),
        (
            # ended once, and runs again
            pod(containerStatuses=[container(running={}, last={"exitCode": 1})]),
            "container main runs and is not ready yet",
        ),
        (pod(containerStatuses=[container(waiting={"reason": "ContainerCreating"})]), "its containers are being made"),
        (pod(ready=True), ""),
    ],
)
def test_a_pod_says_why_it_is_not_ready(told: Any, reason: str) -> None:
    assert reasons.of_pods([told]) == reason


def load(wanted: int, ready: int, *conditions: Any) -> Any:
    """A Deployment."""
    return {
        "metadata": {"name": "d"},
        "spec": {"replicas": wanted, "selector": {"matchLabels": {"app": "x"}}},
        "status": {"readyReplicas": ready, "conditions": list(conditions)},
    }


def test_a_workload_counts_its_own_pods() -> None:
    quota = 'pods "d-5" is forbidden: exceeded quota: small'
    refused = {"type": "ReplicaFailure", "status": "True", "message": f"Error creating: {quota}"}
    other = pod(containerStatuses=[container(waiting={"reason": "ErrImagePull", "message": "no"})])
    other["metadata"]["labels"] = {"app": "y"}
    assert reasons.workload(load(2, 2), []) == ""
    assert reasons.workload(load(0, 0), []) == "it is scaled to 0 replicas"
    assert reasons.workload(load(1, 0, refused), [other]) == "0 of 1 pods are ready: exceeded quota: small"
    assert reasons.workload(load(1, 0), [other]) == "0 of 1 pods are ready: its pod is not made yet"


def test_a_model_of_another_namespace_says_what_its_conditions_say() -> None:
    failed = {
        "type": "PredictorReady",
        "status": "False",
        "message": 'Error creating: pods "w-1" is forbidden: no room',
    }
    service = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "False"}, failed]}}
    assert reasons.model(service, None) == "no room"
    assert reasons.model({"metadata": {}, "status": {}}, None) == "it is starting"
    assert reasons.model({"metadata": {}}, []) == "its pod is not made yet"


# --- requests that models take


@pytest.mark.parametrize(
    ("given", "instance"),
    [
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}}, {"a": 1, "b": "x"}),
        ({"dataframe_records": [{"a": 1}]}, {"a": 1}),
        ({"inputs": [[1.0, 2.0], [3.0, 4.0]]}, [1.0, 2.0]),
        ({"inputs": {"a": [1, 2], "b": [[3], [4]]}}, {"a": 1, "b": [3]}),
        ({"inputs": "text"}, None),
        ({"dataframe_split": {"columns": [], "data": []}}, None),
        ([1], None),
        (None, None),
    ],
)
def test_the_first_instance_of_an_input_example(given: Any, instance: Any) -> None:
    assert example.from_example(given) == instance


def column(name: str, datatype: str, *shape: int, **parameters: Any) -> dict[str, Any]:
    """An input in V2 metadata."""
    return {"name": name, "datatype": datatype, "shape": [-1, *shape], "parameters": parameters}


def test_a_signature_makes_an_instance() -> None:
    inputs = [
        column("x", "FP64"), column("n", "INT32"), column("b", "BOOL"), column("s", "BYTES"), column("o", "FP32", optional=True),
        column("when", "BYTES", content_type="datetime"), column("raw", "BYTES", content_type="base64"), column("v", "FP32", 2),
    ]  # fmt: skip
    made, python = example.from_metadata({"inputs": inputs})
    assert python == ""
    assert made == {
        "x": 0.0, "n": 0, "b": False, "s": "text", "when": "2026-01-01T00:00:00Z", "raw": "AAAA", "v": [0.0, 0.0],
    }  # fmt: skip
    assert example.from_metadata({"inputs": [column("input-0", "FP64", 2, -1)]}) == ([[0.0], [0.0]], "")
    assert example.from_metadata({"inputs": []}) == example.from_metadata("x") == (None, "")


def test_a_command_survives_the_shell(tmp_path: Path) -> None:
    """A column may have any name; the shell must not run it."""
    instance = {'it\'s $(touch pwned) `x` "q"\n': 1.5, "ü": None}
    words = shlex.split(example.curl("http://h/models/a/b?x=1&y='2'", instance))
    assert words[:3] == ["curl", "-s", "http://h/models/a/b?x=1&y='2'"]
    assert json.loads(words[-1]) == {"instances": [instance]}


def test_a_large_tensor_is_made_by_python() -> None:
    instance, python = example.from_metadata({"inputs": [column("input-0", "FP32", 224, 224, 3)]})
    command = example.curl("http://h/p", instance, python)
    assert len(command) < 300
    made = subprocess.run(
        command.partition(" | curl")[0].replace("python3", sys.executable, 1),
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    (image,) = json.loads(made.stdout)["instances"]
    assert (len(image), len(image[0]), image[0][0]) == (224, 224, [0.0, 0.0, 0.0])
    assert example.curl("http://h/p", None) == ""


# --- sentences


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/models/iml4e/wines/v1/models/wines:predict", "No model wines is served in namespace iml4e. Did you mean /models/iml4e/wine/?"),
        ("/models/other/nothing/x", "No model nothing is served in namespace other. Served are /models/iml4e/wine/, /models/team/digits/."),
        ("/models/iml4e", "Name a model: /models/iml4e/NAME/."),
        ("/models/team/digits/v2", "Model digits is in namespace team, and this gateway has no route to it"),
        ("/pipeline/apis", "Kubeflow Pipelines is off in this release"),
        ("/mlflow/x", "Nothing of MLflow is at /mlflow/x: its page is /mlflow/, if mlflow.route.enabled is true."),
        ("/mflow/", "Nothing is at /mflow/. Did you mean /mlflow/?"),
        ("/a%0d%0aSet-Cookie:x", "Nothing is at /a Set-Cookie:x."),
        ("//", "Nothing is at //."),
    ],
)  # fmt: skip
def test_what_is_not_there(path: str, sentence: str) -> None:
    assert answers.not_found(path, STATE).startswith(sentence)


@pytest.mark.parametrize(
    ("path", "status", "state", "sentence"),
    [
        ("/models/iml4e/wine/v2", 503, sources.State([], [model(reason="its pod is not made yet")]),
         "Model wine in namespace iml4e is not ready: its pod is not made yet."),
        ("/models/iml4e/wine/v2", 504, STATE, "Model wine in namespace iml4e is ready now, and did not answer in time"),
        ("/models/iml4e/gone/v2", 503, STATE, "Model gone in namespace iml4e is not served any more"),
        ("/mlflow/api", 503, sources.State([part("mlflow", "0 of 1 pods are ready")], []),
         "MLflow is not ready: 0 of 1 pods are ready."),
        ("/mlflow/api", 503, sources.State([part("mlflow"), part("mariadb", "0 of 1 pods are ready")], []),
         "MLflow is ready now, and could not answer this request"),
        ("/ml_metadata.MetadataStoreService/Get", 503, sources.State([part("pipelines", "x")], []),
         "Kubeflow Pipelines is not ready: x."),
        ("/models/iml4e/wine/v2", 503, sources.State(missing=["The Kubernetes API does not answer (timed out)"]),
         "Model wine in namespace iml4e does not answer; why cannot be told: The Kubernetes API does not answer"),
        ("/own-route", 502, STATE, "What serves /own-route does not answer."),
    ],
)  # fmt: skip
def test_what_does_not_answer(path: str, status: int, state: sources.State, sentence: str) -> None:
    assert answers.unavailable(path, status, state).startswith(sentence)


def test_a_store_that_is_away_is_named_where_mlflow_itself_is_ready() -> None:
    state = sources.State([part("mlflow"), part("mariadb", "it is scaled to 0 replicas")], [])
    assert "MariaDB (it is scaled to 0 replicas)" in answers.unavailable("/mlflow/api", 503, state)


def test_mlflows_clients_read_the_error_as_their_own() -> None:
    assert answers.body(503, "no", "/mlflow/x")["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert answers.body(503, "no", "/models/a/b") == {"error": "no", "status": 503}


# --- pages


class Tags(html.parser.HTMLParser):
    """Tags and addresses of a page, and whether each tag that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "text",
    [
        page.home(
            sources.State(
                [part("mlflow", EVIL), sources.Part("x", EVIL, EVIL, "/x/", EVIL)],
                [model(EVIL, EVIL, model=EVIL, version=EVIL, reason=EVIL, dataset=EVIL, champion=EVIL, instance={EVIL: EVIL})],
                [EVIL],
            ),
            "10m", "http://h", EVIL,
        ),
        page.error(503, EVIL, [sources.Part("x", EVIL, EVIL, f'/"{EVIL}/', "")], "http://h", f'/"{EVIL}'),
        page.home(sources.State(None, None, ["away"]), "10m", "http://h", "iml4e"),
        page.home(sources.State([], []), "3m", "http://h", "iml4e"),
    ],
)  # fmt: skip
def test_hostile_text_stays_text(text: str) -> None:
    parsed = Tags(text)
    assert parsed.open == []
    assert not {"script", "img", "iframe", "form", "object", "base"} & set(parsed.tags)
    assert all(link.startswith(("http://h", "?last=", "models/", "data:,")) for link in parsed.links)
    assert 'lang="en"' in text


def test_an_unknown_number_is_not_shown_as_0() -> None:
    for traffic, requests, ratio in ((None, None, None), ({}, 0, 0.0), ({"requests": 10.4, "errors": 1.2}, 10, 0.1)):
        (told,) = page.data(sources.State([], [model(traffic=traffic)]), "10m", "", "iml4e")["models"]
        assert (told["requests"], told["error_ratio"]) == (requests, ratio)


@pytest.mark.parametrize("text", ["", "0m", "10", "10s", "999d", "1m;", "١m", "10m\n", "-5m", "100000m"])
def test_a_wrong_window_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="write a number with m, h or d, from 1m to 30d"):
        home.window(text)
    assert [home.window(good) for good in ("1m", "90m", "24h", "30d")]


@pytest.mark.parametrize(
    ("host", "proto", "base"),
    [
        ("ml.example.org", "http", "https://ml.example.org/tools"),
        ("ML.example.org:443", "http", "https://ml.example.org/tools"),
        ("127.0.0.1:18080", "http", "http://127.0.0.1:18080"),
        ("[fd00::1]:30080", "https", "https://[fd00::1]:30080"),
        ("evil.example/path", "http", "https://ml.example.org/tools"),
        ('x"onclick="y', "http", "https://ml.example.org/tools"),
        ("", "http", "https://ml.example.org/tools"),
    ],
)
def test_links_lead_where_the_client_came_from(host: str, proto: str, base: str) -> None:
    assert home.base_url({"host": host, "x-forwarded-proto": proto}, "https://ml.example.org/tools") == base


# --- sources


class Slow(http.server.BaseHTTPRequestHandler):
    """A server that takes connections and does not answer."""

    def do_GET(self) -> None:
        time.sleep(4)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def slow() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_page_does_not_wait_for_sources_that_hang(slow: str) -> None:
    env = {
        "RELEASE": "iml4e", "NAMESPACE": "iml4e", "MLFLOW_URL": slow, "PROMETHEUS_URL": slow,
        "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": slow.rpartition(":")[2],
    }  # fmt: skip

    async def twice() -> list[sources.State]:
        platform = sources.Platform(env)
        platform.api = slow
        return [await platform.state(0.5, "10m"), await platform.state(0.5, "10m")]

    start = time.monotonic()
    states = asyncio.run(asyncio.wait_for(twice(), 10))
    assert time.monotonic() - start < 5, "it waits for threads only at its end"
    for state in states:
        assert state.parts is None
        assert [each.partition(" does not")[0] for each in state.missing] == ["The Kubernetes API", "Prometheus"]


def test_an_answer_is_asked_for_once_and_kept_for_a_while() -> None:
    asked: list[float] = []

    def fetch() -> int:
        asked.append(time.monotonic())
        time.sleep(0.1)
        return len(asked)

    async def many() -> list[Any]:
        cached = sources.Cached(fetch, "It", 60)
        return await asyncio.gather(*(cached.get(1) for _ in range(20)))

    assert asyncio.run(many()) == [(1, "")] * 20
    assert len(asked) == 1


def test_parts_come_from_workloads_and_pages_from_routes() -> None:
    def thing(name: str, component: str, **spec: Any) -> Any:
        labels = {"app.kubernetes.io/component": component}
        return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"readyReplicas": 0}}

    def route(component: str, *paths: tuple[str, str]) -> Any:
        matches = [{"path": {"type": kind, "value": value}} for kind, value in paths]
        return thing(component, component, rules=[{"matches": matches}])

    selector = {"selector": {"matchLabels": {"a": "b"}}}
    loads = [thing("r-echo", "echo", replicas=0, **selector), thing("r-mlflow", "mlflow", replicas=1, **selector)]
    loads += [
        thing("r-pipelines", "pipelines", replicas=1, **selector),
        thing("r-pipelines-ui", "pipelines", replicas=1, **selector),
    ]
    routes = [
        route("mlflow", ("Exact", "/mlflow/api/x"), ("PathPrefix", "/mlflow/api/2.0/y"), ("PathPrefix", "/mlflow")),
        route("home", ("PathPrefix", "/")),
        route("echo", ("PathPrefix", "/echo")),
    ]
    parts = sources.parts_of(loads, [], routes)
    assert [(each.name, each.title, each.path) for each in parts] == [
        ("mlflow", "MLflow", "/mlflow/"), ("pipelines", "Kubeflow Pipelines", ""), ("echo", "Echo", "/echo/"),
    ]  # fmt: skip
    assert parts[0].reason == "0 of 1 pods are ready: its pod is not made yet"
    assert parts[1].reason.startswith("r-pipelines: 0 of 1 pods are ready")
    assert "; r-pipelines-ui: " in parts[1].reason
