"""The model server as a client sees it: a real process on 127.0.0.1 with a real model of the UCI wine data."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow.models import infer_signature
from mlflow.types import ColSpec, Schema, TensorSpec
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from model_server import InvalidInput
from model_server.__main__ import bind
from model_server.inputs import signature_of

FILES = Path(__file__).parents[2] / "charts" / "iml4e" / "charts" / "kserve" / "files"
WINE = load_wine(as_frame=True)
NAMES = list(WINE.data.columns)
ROW = WINE.data.iloc[0].tolist()  # the first row is of class 0
LIMIT = 20_000  # bytes, the body limit that the tests set


class Server:
    """One running model server process."""

    def __init__(self, folder: Path, *options: str, name: str = "wine", wait: bool = True, **process: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "model_server", f"--model_name={name}", f"--model_dir={folder}",
             "--host=127.0.0.1", f"--http_port={self.port}", f"--max_body_bytes={LIMIT}", *options],
            env={**os.environ, "PYTHONPATH": str(FILES), "MODEL_VERSION": "7"}, stderr=subprocess.PIPE, text=True,
            **process,
        )  # fmt: skip
        self.log: list[str] = []
        threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True).start()
        deadline = time.monotonic() + 120
        while wait and not self.ready():
            assert self.process.poll() is None, "".join(self.log)
            assert time.monotonic() < deadline, "".join(self.log)
            time.sleep(0.2)

    def ready(self) -> bool:
        """Say whether the readiness probe of the runtime would pass."""
        try:
            return requests.get(f"{self.url}/v2/models/{self.name}/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def predict(self, instances: list[Any]) -> requests.Response:
        """Send a V1 request."""
        return requests.post(f"{self.url}/v1/models/{self.name}:predict", json={"instances": instances}, timeout=30)

    def count(self, protocol: str, code: int, model: str | None = None) -> float:
        """Read the request counter from /metrics."""
        version = "" if model else "7"
        labels = {"model": model or self.name, "version": version, "protocol": protocol, "code": str(code)}
        for family in text_string_to_metric_families(requests.get(f"{self.url}/metrics", timeout=5).text):
            for sample in family.samples:
                if sample.name == "model_server_requests_total" and sample.labels == labels:
                    return sample.value
        return 0.0

    def stop(self) -> int:
        """End the process at once: a second SIGTERM cuts the draining short."""
        self.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def slow(values: Any) -> Any:
    """Take two seconds when the first value asks for it."""
    if np.asarray(values)[0, 0] == 99:
        time.sleep(2)
    return values


def fit_wine() -> Any:
    """Train on the UCI wine data."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(WINE.data, WINE.target)


@pytest.fixture(scope="module")
def wine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wine model in MLflow's format, with named double columns."""
    folder = tmp_path_factory.mktemp("wine") / "model"
    model = fit_wine()
    signature = infer_signature(WINE.data, model.predict(WINE.data))
    mlflow.sklearn.save_model(
        model, folder, signature=signature, input_example=WINE.data.head(2), pip_requirements=["scikit-learn"]
    )
    return folder


@pytest.fixture(scope="module")
def wine(wine_folder: Path) -> Iterator[Server]:
    """A server with one worker."""
    server = Server(wine_folder)
    yield server
    server.stop()


def v2(
    data: Any = ROW, shape: Any = (1, 13), datatype: Any = "FP64", name: Any = "rows", **more: Any
) -> dict[str, Any]:
    """Build a V2 request of one tensor."""
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}], **more}


def columns(**changes: Any) -> dict[str, Any]:
    """Build a V2 request of one tensor per column; a change of None leaves the column out."""
    tensors = [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in zip(NAMES, ROW, strict=True)]
    return {"inputs": [t | changes.get(t["name"], {}) for t in tensors if changes.get(t["name"], {}) is not None]}


def named(**changes: Any) -> dict[str, Any]:
    """Build a V1 request of one row by names; a change of None leaves the column out."""
    row = dict(zip(NAMES, ROW, strict=True)) | changes
    return {"instances": [{name: value for name, value in row.items() if value is not None}]}


GOOD = {
    "rows as lists": ("/v1/models/wine:predict", {"instances": [ROW]}),
    "rows as objects": ("/v1/models/wine:predict", named()),
    "whole numbers in double columns": ("/v1/models/wine:predict", named(proline=1065, magnesium=127)),
    "one tensor, flat": ("/v2/models/wine/infer", v2()),
    "one tensor, nested": ("/v2/models/wine/infer", v2(data=[ROW])),
    "a tensor per column": ("/v2/models/wine/infer", columns()),
    "an FP32 tensor": ("/v2/models/wine/infer", v2(datatype="FP32")),
}


@pytest.mark.parametrize("case", GOOD)
def test_predicts(wine: Server, case: str) -> None:
    path, body = GOOD[case]
    answer = requests.post(wine.url + path, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    if path.startswith("/v1"):
        assert answer.json() == {"predictions": [0]}
    else:
        assert answer.json()["outputs"] == [{"name": "output-0", "shape": [1], "datatype": "INT64", "data": [0]}]


def test_predicts_like_the_model_in_process(wine: Server, wine_folder: Path) -> None:
    sample = WINE.data.iloc[::3]
    wanted = mlflow.pyfunc.load_model(str(wine_folder)).predict(sample).tolist()
    assert wine.predict(sample.to_numpy().tolist()).json()["predictions"] == wanted
    reply = requests.post(
        f"{wine.url}/v2/models/wine/infer",
        json=v2(data=sample.to_numpy().ravel().tolist(), shape=list(sample.shape), id="my-id"),
        timeout=30,
    ).json()
    assert reply["id"] == "my-id"
    assert reply["outputs"][0]["data"] == wanted


V1, V2 = "/v1/models/wine:predict", "/v2/models/wine/infer"
JSON = {"Content-Type": "application/json"}
# What is sent, the status that it gets, and a word that the sentence must hold.
BAD: dict[str, tuple[str, Any, int, str]] = {
    "no JSON": (V1, b"{nope", 400, "not JSON"),
    "NaN literal": (V1, json.dumps({"instances": [[float("nan")] * 13]}).encode(), 400, "not JSON"),
    "not UTF-8": (V1, b'{"instances": [["\xff"]]}', 400, "not JSON"),
    "empty body": (V1, b"", 400, "no body"),
    "no instances": (V1, {"rows": [ROW]}, 400, "instances"),
    "instances is no list": (V1, {"instances": {"a": 1}}, 400, "instances"),
    "empty instances": (V1, {"instances": []}, 400, "at least one"),
    "a JSON number": (V1, 7, 400, "JSON object"),
    "too few values": (V1, {"instances": [ROW, ROW[:12]]}, 400, "instance 1 has 12 values"),
    "too many values": (V1, {"instances": [[*ROW, 1.0]]}, 400, "14 values"),
    "no rows but numbers": (V1, {"instances": ROW}, 400, "list of 13"),
    "lists and objects mixed": (V1, {"instances": [ROW, named()["instances"][0]]}, 400, "none"),
    "missing column": (V1, named(alcohol=None), 400, "missing: alcohol"),
    "unknown column": (V1, named(colour=1.0), 400, "colour"),
    "rows with different names": (V1, {"instances": [named()["instances"][0], {"ash": 1}]}, 400, "instance 1"),
    "text in a number": (V1, named(ash="2.43"), 400, "'ash' must be a number"),
    "boolean in a number": (V1, named(ash=True), 400, "got true"),
    "list in a number": (V1, named(ash=[2.43]), 400, "got a list"),
    "null that the model refuses": (V1, {"instances": [[None, *ROW[1:]]]}, 400, "NaN"),
    "too large": (V1, {"instances": [ROW] * 1000}, 413, "larger than"),
    "deep nesting": (V1, b'{"instances": ' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "not JSON"),
    "nesting of 90": (V1, b'{"instances": ' + b"[" * 90 + b"]" * 90 + b"}", 400, "0"),
    "unknown model": ("/v1/models/beer:predict", {"instances": [ROW]}, 404, "beer"),
    "unknown path": ("/v3/models/wine:predict", {"instances": [ROW]}, 404, "Not Found"),
    "explain": ("/v1/models/wine:explain", {"instances": [ROW]}, 404, "wine:predict"),
    "MLflow's own protocol": ("/invocations", {"inputs": [ROW]}, 404, "/v1/models/wine:predict"),
    "a page": ("/v2/models/wine", {}, 405, "GET"),
    "unload": ("/v2/repository/models/wine/unload", {}, 404, "Not Found"),
    "V2: no inputs": (V2, {"instances": [ROW]}, 400, "inputs"),
    "V2: no JSON": (V2, b"[1, 2", 400, "not JSON"),
    "V2: input is no object": (V2, {"inputs": [1]}, 400, "inputs[0]"),
    "V2: no data": (V2, {"inputs": [{"name": "x", "shape": [1, 13], "datatype": "FP64"}]}, 400, "inputs[0].data"),
    "V2: shape is text": (V2, v2(shape="1,13"), 400, "inputs[0].shape"),
    "V2: negative shape": (V2, v2(shape=[-1, 13]), 400, "shape"),
    "V2: shape against data": (V2, v2(shape=[2, 13]), 400, "13 values"),
    "V2: nesting against shape": (V2, v2(data=[[v] for v in ROW]), 400, "nested"),
    "V2: too few columns": (V2, v2(data=ROW[:12], shape=[1, 12]), 400, "13 columns"),
    "V2: unknown datatype": (V2, v2(datatype="DECIMAL"), 400, "DECIMAL"),
    "V2: text as FP64": (V2, v2(data=["x"] * 13), 400, "not FP64"),
    "V2: strings for numbers": (V2, v2(data=["1"] * 13, datatype="BYTES"), 400, "must be a number"),
    "V2: fractions as INT32": (V2, v2(datatype="INT32"), 400, "not INT32"),
    "V2: booleans as FP64": (V2, v2(data=[True] * 13), 400, "not FP64"),
    "V2: null": (V2, v2(data=[None, *ROW[1:]]), 400, "NaN"),
    "V2: ragged data": (V2, v2(data=[[1.0, 2.0], [3.0]], shape=[3]), 400, "equal lengths"),
    "V2: empty data": (V2, v2(data=[], shape=[0, 13]), 400, "empty"),
    "V2: missing column": (V2, columns(ash=None), 400, "missing: ash"),
    "V2: column twice": (V2, {"inputs": columns()["inputs"] * 2}, 400, "twice"),
    "V2: columns of unequal length": (V2, columns(ash={"shape": [2], "data": [1.0, 2.0]}), 400, "number of rows"),
    "V2: id is a number": (V2, v2(id=7), 400, "id"),
    "V2: unknown model": ("/v2/models/beer/infer", v2(), 404, "beer"),
    "V2: a version": ("/v2/models/wine/versions/1/infer", v2(), 404, "has version 7"),
    "V2: one wide string": (
        V2,
        v2(data=["x" * 9000] + [""] * 2000, shape=[2001], datatype="BYTES"),
        400,
        "does not know",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_answers_a_bad_request_with_a_sentence(wine: Server, case: str) -> None:
    path, body, status, words = BAD[case]
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = requests.post(wine.url + path, data=content, headers=JSON, timeout=30)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert len(answer.text) < 1500


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", V1, {}, 405),
        ("PUT", V2, JSON, 405),
        ("POST", V1, {"Content-Type": "text/csv"}, 415),
        ("POST", V1, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", V2, JSON | {"Inference-Header-Content-Length": "x"}, 400),
        ("POST", V1, {"Content-Type": "application/json; charset=utf-8"}, 200),
        ("POST", V1, {"Content-Type": ""}, 415),
        ("POST", "/metrics", {}, 405),
        ("POST", V1, JSON | {"ce-id": "1", "ce-specversion": "1.0", "ce-source": "x", "ce-type": "y"}, 200),
    ],
)
def test_method_and_headers(wine: Server, method: str, path: str, headers: dict[str, str], status: int) -> None:
    answer = requests.request(
        method, wine.url + path, data=json.dumps({"instances": [ROW]}), headers=headers, timeout=9
    )
    assert answer.status_code == status, answer.text


def test_a_body_without_length_is_limited_too(wine: Server) -> None:
    answer = requests.post(wine.url + V1, data=(b" " * 1000 for _ in range(100)), headers=JSON, timeout=30)
    assert answer.status_code == 413


def test_metrics_count_by_protocol_and_status(wine: Server) -> None:
    before = wine.count("v1", 200), wine.count("v1", 400), wine.count("v2", 404, "unknown")
    wine.predict([ROW])
    wine.predict([])
    requests.post(f"{wine.url}/v2/models/made-up/infer", json=v2(), timeout=5)
    after = wine.count("v1", 200), wine.count("v1", 400), wine.count("v2", 404, "unknown")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]
    text = requests.get(f"{wine.url}/metrics", timeout=5).text
    assert 'model_server_request_duration_seconds_bucket{model="wine",version="7",protocol="v1",le="0.01"}' in text
    assert "made-up" not in text


def test_metadata_names_the_columns(wine: Server) -> None:
    metadata = requests.get(f"{wine.url}/v2/models/wine", timeout=5).json()
    assert [column["name"] for column in metadata["inputs"]] == NAMES
    assert {column["datatype"] for column in metadata["inputs"]} == {"FP64"}
    assert metadata["outputs"] == [{"name": "output-0", "datatype": "INT64", "shape": [-1]}]


def test_no_mistake_of_a_caller_was_a_server_error(wine: Server) -> None:
    """Runs after the bad requests above: same process, no 5xx, no stack trace in its log, and it still answers."""
    assert wine.process.poll() is None
    assert wine.predict([ROW]).json() == {"predictions": [0]}
    assert wine.count("v1", 500) == wine.count("v2", 500) == 0
    assert "Traceback" not in "".join(wine.log)


def test_both_ip_families_reach_it() -> None:
    """Clusters are IPv4, IPv6 or both; a kernel without IPv6 is served by IPv4."""
    with bind("", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        for address in ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]:
            socket.create_connection((address, port), timeout=5).close()


def test_not_reachable_before_the_model_is_loaded(wine_folder: Path) -> None:
    server = Server(wine_folder, wait=False)
    assert not server.ready()  # refused, so neither an HTTP nor a TCP probe passes
    server.process.kill()


def test_a_damaged_model_is_an_exit_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    for workers in ("1", "2"):
        server = Server(tmp_path, f"--workers={workers}", wait=False)
        assert server.process.wait(60) == 3
        assert f"cannot load the model in {tmp_path}" in "".join(server.log)


def test_a_killed_worker_is_replaced(wine_folder: Path) -> None:
    server = Server(wine_folder, "--workers=2", "--drain_seconds=0")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    first = children.read_text().split()
    assert len(first) == 2
    for _ in range(20):
        assert server.predict([ROW]).status_code == 200
    os.kill(int(first[0]), signal.SIGKILL)
    for _ in range(20):  # the other one answers meanwhile
        with contextlib.suppress(requests.ConnectionError):  # it may not have loaded the model yet itself
            assert server.predict([ROW]).status_code == 200
    deadline = time.monotonic() + 60
    while len(now := children.read_text().split()) != 2 or now == first:
        assert time.monotonic() < deadline, "".join(server.log)
        time.sleep(0.2)
    assert first[1] in now
    assert server.count("v1", 200) >= 20  # the sum over all workers, the dead one included
    assert server.stop() == 0
    assert not children.exists()


def test_signals_at_any_moment_end_the_supervisor_with_zero() -> None:
    """Workers end between one SIGTERM and the next: none of them is signalled in vain, none is left."""
    supervise = (
        "from model_server import __main__ as m; import time; m.work = lambda *_: time.sleep(60)\n"
        "raise SystemExit(m.supervise(m.parse(['--model_name=wine', '--workers=3']), None))"
    )
    for delay in (0.3, 0.2, 0.25, 0.22, 0.27) * 4:  # also while the workers are being forked
        process = subprocess.Popen(
            [sys.executable, "-c", supervise], env={**os.environ, "PYTHONPATH": str(FILES)}, stderr=subprocess.PIPE
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text():  # it handles signals from its first fork on
            time.sleep(0.01)
        time.sleep(delay - 0.2)
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.0005)
        assert process.returncode == 0, process.communicate()[1].decode()


def test_sigterm_drains(tmp_path: Path) -> None:
    """On SIGTERM: readiness fails, new requests are still answered, one in flight is finished, exit code 0."""
    model = make_pipeline(FunctionTransformer(slow), StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(WINE.data, WINE.target)
    mlflow.sklearn.save_model(
        model, tmp_path / "model", signature=infer_signature(WINE.data, model.predict(WINE.data)),
        serialization_format="cloudpickle", pip_requirements=["scikit-learn"],
    )  # fmt: skip
    server = Server(tmp_path / "model", "--drain_seconds=1")
    answers: list[requests.Response] = []
    thread = threading.Thread(target=lambda: answers.append(server.predict([[99.0, *ROW[1:]]])))
    thread.start()
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert not server.ready()
    late = server.predict([ROW])  # waits for its turn behind the slow one
    assert late.status_code == 200
    assert late.headers["connection"] == "close"
    thread.join()
    assert answers[0].status_code == 200
    assert server.process.wait(30) == 0


def test_tensor_model(tmp_path: Path) -> None:
    """A model of UCI handwritten digits whose signature is a tensor of [-1, 64]."""
    digits = load_digits()
    model = LogisticRegression(max_iter=200).fit(digits.data[:500], digits.target[:500])
    mlflow.sklearn.save_model(
        model, tmp_path / "model", signature=infer_signature(digits.data, digits.target),
        pip_requirements=["scikit-learn"],
    )  # fmt: skip
    server = Server(tmp_path / "model", name="digits")
    image = digits.data[0].tolist()
    assert server.predict([image]).json() == {"predictions": [0]}
    reply = requests.post(f"{server.url}/v2/models/digits/infer", json=v2(data=image, shape=[1, 64]), timeout=5)
    assert reply.json()["outputs"][0]["data"] == [0]
    assert "[-1, 64]" in server.predict([image[:63]]).json()["error"]
    assert "contains NaN" in server.predict([[None, *image[1:]]]).json()["error"]  # the model's own word
    assert "tensor" in server.predict([{"pixel": 1}]).json()["error"]
    assert requests.get(f"{server.url}/v2/models/digits", timeout=5).json()["inputs"][0]["shape"] == [-1, 64]
    server.stop()


TRACED = """
import mlflow

class Traced(mlflow.pyfunc.PythonModel):
    @mlflow.trace
    def predict(self, context, model_input, params=None):
        if model_input["a"].iloc[0] == 1:
            with mlflow.start_run():
                mlflow.log_metric("a", 1)
        return [1.0] * len(model_input)

mlflow.models.set_model(Traced())
"""


def test_a_traced_model_answers_at_once_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would try for 100 s to make `mlflow.db` in the working directory; in /proc not even root can."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    table = pd.DataFrame({"a": [0.0]})
    (tmp_path / "traced.py").write_text(TRACED)
    mlflow.pyfunc.save_model(
        tmp_path / "model", python_model=tmp_path / "traced.py", signature=infer_signature(table, [1.0]), input_example=table,
        pip_requirements=["mlflow"],
    )  # fmt: skip
    server = Server(tmp_path / "model", cwd="/proc")
    start = time.monotonic()
    assert server.predict([[0.0]]).json() == {"predictions": [1.0]}
    assert server.predict([[1.0]]).status_code == 500  # a run has no place
    assert time.monotonic() - start < 5
    server.stop()
    assert "set MLFLOW_TRACKING_URI" in "".join(server.log)


def read(body: Any, schema: Schema) -> Any:
    """Read a V1 request as the model would get it."""
    signature = signature_of(schema, None)
    return signature.model_input([signature.v1(body)])


TYPES = Schema([ColSpec("long", "n"), ColSpec("boolean", "b"), ColSpec("string", "s"), ColSpec("datetime", "t"),
                ColSpec("integer", "maybe", required=False)])  # fmt: skip
GOOD_ROW = {"n": 3, "b": True, "s": "red", "t": "2026-01-31T12:00:00"}


def test_columns_get_the_types_of_the_signature() -> None:
    table = read({"instances": [GOOD_ROW, GOOD_ROW | {"n": 4.0}]}, TYPES)
    assert [str(kind) for kind in table.dtypes] == ["int64", "bool", str(pd.Series(["text"]).dtype), "datetime64[ns]"]
    assert table["n"].tolist() == [3, 4]
    table = read({"instances": [GOOD_ROW | {"maybe": 2**31 - 1}]}, TYPES)
    assert str(table["maybe"].dtype) == "int32"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 3.5}, "whole number"),
        ({"n": None}, "got null"),
        ({"n": True}, "got true"),
        ({"n": float("inf")}, "whole number"),
        ({"n": 1e30}, "out of range"),
        ({"maybe": 2**31}, "out of range"),
        ({"b": 1}, "true or false, got 1"),
        ({"s": 1}, "a string, got 1"),
        ({"t": "yesterday"}, "ISO 8601"),
        ({"t": 1}, "ISO 8601"),
    ],
)
def test_a_value_of_another_type_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read({"instances": [GOOD_ROW | change]}, TYPES)


NAMED = Schema([TensorSpec(np.dtype("float32"), (-1, 2), "a"), TensorSpec(np.dtype("int8"), (-1,), "b")])


def test_named_tensors() -> None:
    found = read({"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]}, NAMED)
    assert found["a"].dtype == np.float32
    assert found["a"].tolist() == [[1, 2], [4, 5]]
    assert found["b"].tolist() == [3, 6]


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        ({"a": [1, 2, 3], "b": 3}, r"shape \[1, 3\]"),
        ({"a": ["x", "y"], "b": 3}, "type object"),
        ({"a": [[1], 2], "b": 3}, "equal lengths"),
        ({"a": [1, 2], "b": 300}, "do not fit"),
        ({"a": [1, 2]}, "missing: b"),
        ([1, 2], "named tensors: a, b"),
    ],
)
def test_named_tensors_that_do_not_fit(instance: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read({"instances": [instance]}, NAMED)
