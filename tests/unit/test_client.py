"""What is sent to a model, and what its answers become; the model is a real HTTP server."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iml4e import Error, cli, client


class Echo(BaseHTTPRequestHandler):
    """Answers what it is told to, and notes what it was asked."""

    answer: tuple[int, Any] = (200, {})
    asked: Any = None

    def do_POST(self) -> None:
        """Note the body."""
        Echo.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def do_GET(self) -> None:
        """Answer."""
        status, content = Echo.answer
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("x-model-version", "7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def model() -> Iterator[client.Model]:
    """A client of the echo."""
    server = HTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield client.Model(f"http://127.0.0.1:{server.server_port}/", "iml4e", "fraud")
    server.shutdown()
    server.server_close()


def test_prediction(model: client.Model) -> None:
    Echo.answer = 200, {"predictions": [1, 0]}
    assert model.predict(np.array([[1.5], [2.5]]), {"k": 1}) == [1, 0]
    assert Echo.asked == {"instances": [[1.5], [2.5]], "params": {"k": 1}}
    assert model.version == "7"
    assert model.base.endswith("/models/iml4e/fraud")


def test_tensors(model: client.Model) -> None:
    Echo.answer = 200, {"outputs": [{"name": "output-0", "data": [1]}]}
    assert model.infer([{"name": "x"}], {"k": 2})[0]["data"] == [1]
    assert Echo.asked == {"inputs": [{"name": "x"}], "parameters": {"k": 2}}


def predict(model: client.Model, monkeypatch: pytest.MonkeyPatch, data: str | Path, *more: str) -> int:
    """Run `iml4e predict` against the echo."""
    monkeypatch.setenv("GATEWAY_URL", model.url)
    return cli.main(["predict", "fraud", "--namespace", "iml4e", "--data", str(data), *more])


def test_params_of_a_file_are_sent(model: client.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Echo.answer = 200, {"predictions": [1]}
    file = tmp_path / "rows.json"
    file.write_text('{"instances": [[1]], "params": {"threshold": 0.9, "k": 1}}')
    assert predict(model, monkeypatch, file, "--param", "k=2") == 0
    assert Echo.asked == {"instances": [[1]], "params": {"threshold": 0.9, "k": 2}}


def test_v2_request_of_a_file_is_sent(
    model: client.Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Echo.answer = (
        200,
        {
            "outputs": [
                {"name": "y", "shape": [2], "datatype": "INT64", "data": [1, 0]},
                {"name": "p", "shape": [2, 2], "datatype": "FP64", "data": [0.1, 0.9, 0.8, 0.2]},
            ]
        },
    )
    tensor = {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.5, 2.5]}
    assert predict(model, monkeypatch, json.dumps({"inputs": [tensor], "parameters": {"k": 1}}), "--json") == 0
    assert Echo.asked == {"inputs": [tensor], "parameters": {"k": 1}}
    answer = json.loads(capsys.readouterr().out)
    assert answer["predictions"] == [{"y": 1, "p": [0.1, 0.9]}, {"y": 0, "p": [0.8, 0.2]}]


def test_answers_with_different_keys_are_printed_whole(
    model: client.Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Echo.answer = 200, {"predictions": [{"label": "x"}, {"label": "y", "reason": "z"}, {"reason": "w"}]}
    assert predict(model, monkeypatch, "[[1], [2], [3]]") == 0
    assert capsys.readouterr().out == "label,reason\nx,\ny,z\n,w\n"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ('{"instances": [[1]], "others": {}}', "others beside instances"),
        ('{"instances": null}', "must be a list of rows"),
        ('{"instances": [[1]], "params": 1}', "must be an object"),
        ("[1", "not JSON"),
        ("5", "5, which is no row"),
        ('{"dataframe_split": [[1]]}', "the lists columns and data"),
        ('{"dataframe_split": {"columns": ["a"], "data": [[1], [1, 2]]}}', 'row 2 of "dataframe_split"'),
        ('{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}', "a column twice"),
        ('{"dataframe_records": {"a": 1}}', "must be a list of rows"),
        ('{"inputs": {"a": [1], "b": [1, 2]}}', "equally long lists"),
    ],
)
def test_json_that_asks_nothing(data: str, told: str) -> None:
    with pytest.raises(Error, match=told):
        client.read_json(data)


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ({"dataframe_split": {"columns": ["a", "b"], "index": [7], "data": [[1, "x"]]}}, [{"a": 1, "b": "x"}]),
        ({"dataframe_split": {"data": [[1, "x"]]}}, [[1, "x"]]),
        ({"dataframe_records": [{"a": 1}]}, [{"a": 1}]),
        ({"inputs": [[1.5]]}, [[1.5]]),
        ({"inputs": {"a": [1, 2], "b": [3, 4]}}, [{"a": 1, "b": 3}, {"a": 2, "b": 4}]),
    ],
)
def test_envelopes_of_mlflow(body: dict[str, Any], rows: list[Any]) -> None:
    assert client.read_json(json.dumps({**body, "params": {"k": 1}})) == client.Question(rows, {"k": 1})


@pytest.mark.parametrize("row", [{"inputs": "text"}, {"inputs": [1], "a": 2}, {"a": 1}])
def test_one_row_as_an_object(row: dict[str, Any]) -> None:
    assert client.read_json(json.dumps(row)) == client.Question([row], {})


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_a_file_in_another_encoding(
    encoding: str,
    model: client.Model,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes("s\nZürich\n".encode(encoding))
    assert predict(model, monkeypatch, file) == 1
    assert capsys.readouterr().err.startswith(f"iml4e: {file} is not in UTF-8: save it as UTF-8")


def test_json_with_a_byte_order_mark(model: client.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Echo.answer = 200, {"predictions": [1]}
    file = tmp_path / "rows.json"
    file.write_text("[[1]]", encoding="utf-8-sig")
    assert predict(model, monkeypatch, file) == 0


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, {"error": "column x is missing"}, "answers 400: column x is missing"),
        (404, "404 page not found", "nothing is served there"),
        (503, "no available server", "nothing is served there"),
        (500, "", "answers 500: nothing"),
        (200, "<html>", "answers 200: <html>"),
    ],
)
def test_errors_are_sentences(model: client.Model, status: int, content: Any, told: str) -> None:
    Echo.answer = status, content
    with pytest.raises(Error, match=told):
        model.predict([[1]])


def test_nobody_answers() -> None:
    model = client.Model("http://127.0.0.1:9", "iml4e", "fraud")
    assert not model.ready()
    with pytest.raises(Error, match="does not answer"):
        model.metadata()


def test_values_of_python_become_json() -> None:
    frame = pd.DataFrame(
        {
            "number": [1.5, float("nan")],
            "count": pd.array([1, None], dtype="Int64"),
            "when": pd.to_datetime(["2026-11-25T10:00", None]),
            "raw": [b"\x00\xff", None],
            "many": [np.array([1, 2]), [3]],
        }
    )
    assert client.plain(frame) == [
        {"number": 1.5, "count": 1, "when": "2026-11-25T10:00:00", "raw": "AP8=", "many": [1, 2]},
        {"number": None, "count": None, "when": None, "raw": None, "many": [3]},
    ]
    assert client.plain(np.array(["2026-11-25T10:00:00.000000001"], dtype="datetime64[ns]")) == ["2026-11-25T10:00:00"]
    assert client.plain(datetime.date(2026, 11, 25)) == "2026-11-25"
    assert client.plain(np.float32("inf"), answer=True) is None
    with pytest.raises(Error, match="cannot be sent"):
        client.plain(object())


def test_times_with_a_zone() -> None:
    times = pd.Series(pd.to_datetime(["2026-11-25T10:00:00+02:00", None]))
    wanted = ["2026-11-25T10:00:00+02:00", None]
    assert client.plain(times) == client.plain(pd.Index(times)) == wanted


class Polars:
    """A table with the methods of polars, whose `to_dict` takes no argument and gives columns."""

    columns = ("a", "b")

    def to_dict(self) -> dict[str, Any]:
        """Columns."""
        return {"a": [1], "b": [None]}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Rows."""
        return [{"a": 1, "b": None}]


def test_table_of_polars() -> None:
    assert client.plain(Polars()) == [{"a": 1, "b": None}]


@pytest.mark.parametrize(
    "value", [np.float32("inf"), [{"x": float("-inf")}], pd.DataFrame({"x": [float("inf")]}), json.loads("[1e999]")]
)
def test_infinity_is_not_sent(value: Any) -> None:
    with pytest.raises(Error, match="infinity cannot be sent"):
        client.plain(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(JSON)
def test_what_is_json_stays_as_it_is(value: Any) -> None:
    assert client.plain(value) == value


COLUMNS = {
    "inputs": [
        {"name": "x", "datatype": "FP64", "shape": [-1]},
        {"name": "n", "datatype": "INT64", "shape": [-1], "parameters": {"optional": True}},
        {"name": "b", "datatype": "BOOL", "shape": [-1]},
        {"name": "s", "datatype": "BYTES", "shape": [-1], "parameters": {"optional": True}},
        {"name": "l", "datatype": "FP64", "shape": [-1, -1]},
        {"name": "o", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "json"}},
    ]
}


def test_csv_in_the_types_of_the_model() -> None:
    text = '\ufeffx,n,b,s,l,o\n1,2,true,007,"[1,2]","{""a"":1}"\n1.5,,0,,[],\n'
    assert client.read_csv(text, COLUMNS) == [
        {"x": 1.0, "n": 2, "b": True, "s": "007", "l": [1, 2], "o": {"a": 1}},
        {"x": 1.5, "n": None, "b": False, "s": None, "l": [], "o": None},
    ]


def test_csv_without_a_signature() -> None:
    text = "i,f,s,mixed\n2,1,x,1\n3,,,a\n,2.5,y,\n"
    assert client.read_csv(text, {"inputs": []}) == [
        {"i": 2, "f": 1.0, "s": "x", "mixed": "1"},
        {"i": 3, "f": None, "s": "", "mixed": "a"},
        {"i": None, "f": 2.5, "s": "y", "mixed": ""},
    ]
    with pytest.raises(Error, match="row 2 of the data, column f: infinity"):
        client.read_csv("f\n1\ninf\n", {"inputs": []})


def test_csv_as_pandas_writes_it() -> None:
    frame = pd.DataFrame({"x": [1.5, 2.5], "n": [2, None]})
    wanted = [{"x": 1.5, "n": 2}, {"x": 2.5, "n": None}]
    assert client.read_csv(frame.to_csv(), COLUMNS) == wanted
    assert type(client.read_csv(frame.to_csv(index=False), COLUMNS)[0]["n"]) is int
    assert client.read_csv(frame.to_csv(), {"inputs": []}) == wanted
    tensor = {"name": "input-0", "datatype": "FP64", "shape": [-1, 2]}
    assert client.read_csv(frame.to_csv(), {"inputs": [tensor]}) == [[1.5, 2.0], [2.5, None]]
    assert client.read_csv(",b\n1,2\n", {"inputs": [tensor]}) == [[1.0, 2.0]]
    unnamed = {"name": "", "datatype": "INT64", "shape": [-1]}
    assert client.read_csv(frame.to_csv(), {"inputs": [unnamed, *COLUMNS["inputs"]]})[1][""] == 1


def test_csv_with_a_long_field() -> None:
    text = "x" * 200_000
    assert client.read_csv(f"s\r\n{text}\r\n", COLUMNS) == [{"s": text}]


def test_csv_of_a_tensor() -> None:
    metadata = {"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [-1, 2]}]}
    assert client.read_csv("a,b\n1,2\n", metadata) == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,n\nstrong,1\n", "row 1 of the data, column x: 'strong' is not FP64"),
        ("x,n\n1,1.5\n", "column n: '1.5' is not INT64"),
        ("n\n1e300\n", "column n: '1e300' is not INT64"),
        ("n\ninf\n", "column n: 'inf' is not INT64"),
        ("x\n1\n-inf\n", "row 2 of the data, column x: infinity cannot be sent"),
        ("b\nyes\n", "is not BOOL"),
        ("l\nx\n", "is not JSON"),
        ("x,n\n1\n", "not as many fields"),
        ("x,n\n1,2,3\n", "not as many fields"),
        ("x,n,x\n1,2,3\n", "header of the data has 'x' more than once"),
        ("x,n\n", "no row"),
        ("", "no row"),
    ],
)
def test_csv_that_does_not_fit(text: str, told: str) -> None:
    with pytest.raises(Error, match=told):
        client.read_csv(text, COLUMNS)


def test_a_row_may_have_a_column_with_the_name_of_an_envelope() -> None:
    row = {"inputs": {"messages": [{"role": "user"}]}}
    assert client.read_json(json.dumps(row), lambda: ["inputs"]) == client.Question([row], {})
    assert client.read_json('{"inputs": {"a": [1, 2]}}', lambda: ["a"]).rows == [{"a": 1}, {"a": 2}]


def test_what_tensorflow_serving_s_clients_send_is_taken() -> None:
    assert client.read_json('{"signature_name": "serving_default", "instances": [[1]]}').rows == [[1]]


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "", "2"], [1, None, 2]),
        (["1.5", "2"], [1.5, 2.0]),
        (["007", "1"], ["007", "1"]),
        (["0", "0.5"], [0.0, 0.5]),
        (["inf", "Infinity"], ["inf", "Infinity"]),
        (["1_000"], ["1_000"]),
    ],
)
def test_columns_without_a_type_are_numbers_where_they_can_only_be_numbers(texts: list[str], values: list[Any]) -> None:
    assert client._numbers(texts) == values
