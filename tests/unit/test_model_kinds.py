"""Every kind of MLflow signature, both protocols: what a client gets is what `pyfunc.predict` gives, batched or not."""

# type hints of `predict` would change how MLflow calls a model
# ruff: noqa: ANN201, ANN202

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import json
import string
import struct
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.llm import ChatCompletionResponse
from mlflow.types.schema import AnyType, Array, Map, Object, Property

from model_server import outputs
from model_server.app import App
from model_server.metrics import Metrics
from model_server.model import Model

OFTEN = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


class Echo(mlflow.pyfunc.PythonModel):
    """Answers each row with the types and values that it got, so that no conversion goes unseen."""

    def predict(self, model_input, params=None):
        """Describe each row."""
        if isinstance(model_input, pd.DataFrame):
            columns = [[f"{name}={seen(value)}" for value in model_input[name]] for name in model_input]
            return ["; ".join(row) for row in zip(*columns, strict=True)]
        if isinstance(model_input, dict):
            rows = [f"{name}:{v.dtype}{[v[i].tolist() for i in range(len(v))]}" for name, v in model_input.items()]
            return rows if len(next(iter(model_input.values()))) == len(rows) else [str(rows)]
        return [f"{model_input.dtype}{row.tolist()}" for row in model_input]


def seen(value: Any) -> str:
    """Return type and value, missing ones alike."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return "missing"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return f"{type(value).__name__}:{value}"


class Served:
    """A model behind the ASGI application, without a socket."""

    def __init__(self, folder: Path, batching: str = "auto", **options: Any) -> None:
        import argparse

        self.metrics = Metrics("m", "3")
        self.model = Model("m", "3", str(folder), batching, self.metrics)
        limits = {"max_body_bytes": 10_000_000, "cors_origins": ""} | options
        self.app = App(self.model, argparse.Namespace(**limits), self.metrics)

    def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Send one request; return status, parsed body, headers."""
        return self.ask_all([(path, body, method, headers)])[0]

    def ask_all(self, requests: list[tuple[str, Any, str, dict[str, str]]]) -> list[tuple[int, Any, dict[str, str]]]:
        """Send requests at the same time."""

        async def one(path: str, body: Any, method: str, headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
            content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
            scope = {
                "type": "http", "path": path, "method": method,
                "headers": [(k.encode(), v.encode()) for k, v in given.items()],
            }  # fmt: skip
            sent: list[dict[str, Any]] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": content}

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            await self.app(scope, receive, send)
            got = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
            text = sent[1]["body"]
            parsed = json.loads(text) if got.get("content-type") == "application/json" and text else text
            return sent[0]["status"], parsed, got

        async def every() -> list[tuple[int, Any, dict[str, str]]]:
            return await asyncio.gather(*(one(*request) for request in requests))

        return asyncio.run(every())

    def v1(self, instances: list[Any], **more: Any) -> Any:
        """Return the predictions of a V1 request."""
        status, answer, _ = self.ask("/v1/models/m:predict", {"instances": instances, **more})
        assert status == 200, answer
        return answer["predictions"]

    def refused(self, instances: Any, *words: str, status: int = 400, **more: Any) -> str:
        """Expect a refusal whose sentence holds the words."""
        got, answer, _ = self.ask("/v1/models/m:predict", {"instances": instances, **more})
        assert got == status, answer
        for word in words:
            assert word in answer["error"]
        assert "\n" not in answer["error"]
        return answer["error"]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Save a model and return its folder."""

    def make(signature: ModelSignature | None, model: Any = None, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("model") / "model"
        mlflow.pyfunc.save_model(
            folder, python_model=model or Echo(), signature=signature, pip_requirements=["mlflow"], **options
        )
        return folder

    return make


# --- columns: a strategy of JSON values for each type, and what Python value each means

TEXT = st.text(string.printable + "äß€🙂", max_size=8)
DATES = st.datetimes(
    min_value=pd.Timestamp("1800-01-01").to_pydatetime(), max_value=pd.Timestamp("2200-01-01").to_pydatetime()
)
SCALARS: dict[DataType, tuple[st.SearchStrategy[Any], Any]] = {
    DataType.double: (st.floats(allow_nan=False, allow_infinity=False), lambda v: v),
    DataType.float: (st.floats(width=32, allow_nan=False, allow_infinity=False), np.float32),
    DataType.long: (st.integers(-(2**63), 2**63 - 1), lambda v: v),
    DataType.integer: (st.integers(-(2**31), 2**31 - 1), np.int32),
    DataType.boolean: (st.booleans(), lambda v: v),
    DataType.string: (TEXT, lambda v: v),
    DataType.binary: (st.binary(max_size=8).map(lambda b: base64.b64encode(b).decode()), lambda v: base64.b64decode(v)),
    DataType.datetime: (DATES.map(lambda d: d.isoformat()), lambda v: pd.Timestamp(v)),
}
NUMPY = {DataType.float: np.float32, DataType.integer: np.int32}
EVERY = Schema([ColSpec(kind, f"c {kind.name}") for kind in SCALARS])
ROWS = st.lists(
    st.fixed_dictionaries({f"c {kind.name}": strategy for kind, (strategy, _) in SCALARS.items()}),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module", params=["on", "off"])
def every(request: pytest.FixtureRequest, save: Any) -> Served:
    return Served(save(ModelSignature(EVERY)), batching=request.param)


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return what a person would hand to `pyfunc.predict`."""
    return pd.DataFrame(
        {
            f"c {kind.name}": pd.Series([convert(row[f"c {kind.name}"]) for row in rows]).astype(
                NUMPY.get(kind) or None
            )
            if kind in NUMPY
            else pd.Series([convert(row[f"c {kind.name}"]) for row in rows])
            for kind, (_, convert) in SCALARS.items()
        }
    )


@OFTEN
@given(rows=ROWS)
def test_all_scalar_columns_are_as_in_process(every: Served, rows: list[dict[str, Any]]) -> None:
    wanted = every.model._model.predict(table(rows))
    assert every.v1(rows) == wanted
    assert every.v1([[row[spec.name] for spec in EVERY] for row in rows]) == wanted
    inputs = []
    for kind in SCALARS:
        name = f"c {kind.name}"
        datatype = {entry["name"]: entry["datatype"] for entry in every.model.signature.describe()}[name]
        inputs.append({"name": name, "shape": [len(rows)], "datatype": datatype, "data": [row[name] for row in rows]})
    status, answer, headers = every.ask("/v2/models/m/infer", {"inputs": inputs})
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == wanted
    assert headers["x-model-version"] == answer["model_version"] == "3"


@OFTEN
@given(requests=st.lists(ROWS, min_size=2, max_size=6))
def test_requests_at_the_same_time_get_their_own_rows(every: Served, requests: list[list[dict[str, Any]]]) -> None:
    answers = every.ask_all([("/v1/models/m:predict", {"instances": rows}, "POST", {}) for rows in requests])
    for rows, (status, answer, _) in zip(requests, answers, strict=True):
        assert status == 200
        assert answer["predictions"] == every.model._model.predict(table(rows))


def test_batching_calls_the_model_once(save: Any) -> None:
    rows = [dict.fromkeys((f"c {kind.name}" for kind in SCALARS), None) | {"c double": 1.0}]
    schema = ModelSignature(Schema([ColSpec("double", "c double"), ColSpec("string", "s")]))
    folder = save(schema)
    for batching, calls in (("on", 1), ("off", 8)):
        served = Served(folder, batching)
        body = {"instances": [{"c double": rows[0]["c double"], "s": "x"}]}
        answers = served.ask_all([("/v1/models/m:predict", body, "POST", {})] * 8)
        assert {status for status, _, _ in answers} == {200}
        # the first call starts before the others wait where the model runs in a thread
        total = float(
            served.metrics.text().split('model_server_model_calls_total{model="m",version="3"} ')[1].split()[0]
        )
        assert total == calls


def test_batching_is_proven_or_off(tmp_path: Path, save: Any) -> None:
    class Centred(mlflow.pyfunc.PythonModel):
        """Depends on its neighbours."""

        def predict(self, model_input, params=None):
            return (model_input["x"] - model_input["x"].mean()).tolist()

    class Alone(mlflow.pyfunc.PythonModel):
        """Does not."""

        def predict(self, model_input, params=None):
            return (model_input["x"] * 2).tolist()

    signature = ModelSignature(Schema([ColSpec("double", "x")]))
    example = pd.DataFrame({"x": [1.0, 2.0]})
    zero = pd.DataFrame({"x": [0.0]})
    assert not Served(save(signature, Centred(), input_example=zero)).model.batching, "equal rows prove nothing"
    assert Served(save(signature, Alone(), input_example=zero)).model.batching
    assert not Served(save(signature, Centred(), input_example=example)).model.batching
    assert Served(save(signature, Alone(), input_example=example)).model.batching
    assert not Served(save(signature, Alone(), input_example=example), "off").model.batching
    assert not Served(save(signature, Alone())).model.batching, "without an example nothing is proven"
    assert Served(save(signature, Centred()), "on").model.batching, "declared"


def test_one_bad_request_does_not_spoil_the_others_of_its_batch(save: Any) -> None:
    class Picky(mlflow.pyfunc.PythonModel):
        """Refuses negative numbers."""

        def predict(self, model_input, params=None):
            if (model_input["x"] < 0).any():
                raise ValueError("no negative numbers")
            return model_input["x"].tolist()

    served = Served(save(ModelSignature(Schema([ColSpec("double", "x")])), Picky()), "on")
    answers = served.ask_all([("/v1/models/m:predict", {"instances": [[x]]}, "POST", {}) for x in (1, -1, 2)])
    assert [status for status, _, _ in answers] == [200, 400, 200]
    assert answers[1][1]["error"] == "the model refuses this input: no negative numbers"
    assert answers[2][1] == {"predictions": [2.0]}


# --- lists, objects, maps, anything


NESTED = Schema(
    [
        ColSpec(Array(DataType.double), "numbers"),
        ColSpec(Array(Array(DataType.long)), "matrix"),
        ColSpec(Object([Property("name", DataType.string), Property("age", DataType.long, required=False)]), "person"),
        ColSpec(Map(DataType.double), "scores"),
        ColSpec(AnyType(), "any", required=False),
    ]
)
NESTED_ROW = {
    "numbers": [1.5, 2.0],
    "matrix": [[1, 2], [3]],
    "person": {"name": "Ada", "age": 36},
    "scores": {"a": 1.5, "b": 2.5},
    "any": [1, {"x": None}],
}


@pytest.fixture(scope="module")
def nested(save: Any) -> Served:
    return Served(save(ModelSignature(NESTED)))


def test_lists_objects_and_maps_pass(nested: Served) -> None:
    wanted = nested.model._model.predict(pd.DataFrame([copy.deepcopy(NESTED_ROW)]))  # MLflow changes it
    assert nested.v1([NESTED_ROW]) == wanted
    assert nested.v1([list(NESTED_ROW.values())]) == wanted
    columns = {
        name: {"name": name, "shape": [1], "datatype": "BYTES", "data": [json.dumps(value)]}
        for name, value in NESTED_ROW.items()
    }
    columns["numbers"] = {"name": "numbers", "shape": [1, 2], "datatype": "FP64", "data": [1.5, 2.0]}
    status, answer, _ = nested.ask("/v2/models/m/infer", {"inputs": list(columns.values())})
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == wanted


def test_null_in_a_list_of_floats_is_nan(nested: Served) -> None:
    row = NESTED_ROW | {"numbers": [1.5, None]}
    wanted = nested.model._model.predict(pd.DataFrame([copy.deepcopy(row)]))
    assert "[1.5, nan]" in wanted[0]
    assert nested.v1([row]) == wanted


def test_metadata_says_what_lists_and_objects_are(nested: Served) -> None:
    status, metadata, _ = nested.ask("/v2/models/m", method="GET")
    assert status == 200
    assert metadata["versions"] == ["3"]
    found = {entry["name"]: (entry["datatype"], entry["shape"]) for entry in metadata["inputs"]}
    assert found["numbers"] == ("FP64", [-1, -1])
    assert found["matrix"] == ("INT64", [-1, -1, -1])
    assert found["person"] == ("BYTES", [-1])
    optional = {entry["name"] for entry in metadata["inputs"] if entry.get("parameters", {}).get("optional")}
    assert optional == {"any"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"numbers": 1.5}, "must be a list"),
        ({"numbers": ["x"]}, "instance 0[0] must be a number"),
        ({"person": {"age": 3}}, "lacks name"),
        ({"person": {"name": "A", "height": 3}}, "unknown height"),
        ({"person": None}, "must not be null"),
        ({"scores": {"a": "high"}}, "a number"),
        ({"matrix": [[1.5]]}, "whole number"),
        ({"matrix": [[1, None]]}, "must not be null"),
    ],
)
def test_a_wrong_value_inside_is_told_with_its_place(nested: Served, change: dict[str, Any], word: str) -> None:
    nested.refused([NESTED_ROW | change], word, next(iter(change)))


def test_type_hints_make_signatures_too(save: Any) -> None:
    class Hinted(mlflow.pyfunc.PythonModel):
        """Takes a list of strings."""

        def predict(self, model_input: list[str], params=None) -> list[str]:
            return [text.upper() for text in model_input]

    served = Served(save(None, Hinted(), input_example=["a"]))
    assert served.v1(["red", "blue"]) == ["RED", "BLUE"]
    served.refused([1], "a string")


# --- parameters


class Order(pydantic.BaseModel):
    """A row with numbers, a boolean, and fields that have defaults."""

    n: int
    ok: bool
    tags: list[str] = []


@pytest.mark.parametrize(
    ("hint", "instances", "answer"),
    [
        (list[int], [1, 2], ["1", "2"]),
        (list[bool], [True], ["True"]),
        (list[dict[str, int]], [{"a": 1}], ["{'a': 1}"]),
        (list[Order], [{"n": 1, "ok": True}], ["Order(n=1, ok=True, tags=[])"]),
        (list[Order], [{"n": 1, "ok": False, "tags": ["x"]}], ["Order(n=1, ok=False, tags=['x'])"]),
    ],
)
def test_type_hints_of_numbers_and_fields_with_defaults(save: Any, hint: Any, instances: Any, answer: Any) -> None:
    """MLflow compares each value's type with the hint's: an int64 is no int."""

    class Hinted(mlflow.pyfunc.PythonModel):
        def predict(self, model_input, params=None):
            """Describe each row."""
            return [repr(row) for row in model_input]

        predict.__annotations__["model_input"] = hint
        predict = mlflow.pyfunc.utils.pyfunc(predict)

    assert Served(save(None, Hinted())).v1(instances) == answer


def test_a_field_of_a_type_hint_without_default_is_refused_by_mlflow(save: Any) -> None:
    class Hinted(mlflow.pyfunc.PythonModel):
        def predict(self, model_input, params=None):
            """Describe each row."""
            return [repr(row) for row in model_input]

        predict.__annotations__["model_input"] = list[Order]
        predict = mlflow.pyfunc.utils.pyfunc(predict)

    Served(save(None, Hinted())).refused([{"ok": True}], "Field required")


def test_a_chat_model_takes_one_conversation_a_request(save: Any) -> None:
    """MLflow would answer the first of several, and be silent on the others."""

    class Chat(mlflow.pyfunc.ChatModel):
        def predict(self, context, messages, params):
            """Repeat the last message."""
            message = {"role": "assistant", "content": messages[-1].content}
            return ChatCompletionResponse.from_dict(
                {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            )

    served = Served(save(None, Chat()), batching="on")
    one = {"messages": [{"role": "user", "content": "hello"}]}
    assert served.v1([one])["choices"][0]["message"]["content"] == "hello"
    served.refused([one, one], "one conversation at a time, got 2")


@pytest.fixture(scope="module")
def tuned(save: Any) -> Served:
    class Tuned(mlflow.pyfunc.PythonModel):
        """Multiplies by a parameter."""

        def predict(self, model_input, params=None):
            return [x * params["factor"] + sum(params["add"]) for x in model_input["x"]]

    params = ParamSchema([ParamSpec("factor", DataType.double, 1.0), ParamSpec("add", DataType.long, [0], shape=(-1,))])
    return Served(save(ModelSignature(Schema([ColSpec("double", "x")]), params=params), Tuned()), "on")


def test_parameters_reach_the_model(tuned: Served) -> None:
    assert tuned.v1([[2.0]]) == [2.0]
    assert tuned.v1([[2.0]], params={"factor": 3, "add": [1, 2]}) == [9.0]
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [2.0]}], "parameters": {"factor": 5.0}}
    assert tuned.ask("/v2/models/m/infer", body)[1]["outputs"][0]["data"] == [10.0]
    answers = tuned.ask_all(
        [("/v1/models/m:predict", {"instances": [[1]], "params": {"factor": f}}, "POST", {}) for f in (1, 2, 3)]
    )
    assert [answer["predictions"] for _, answer, _ in answers] == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"params": {"facto": 3}}, "takes factor, add"),
        ({"params": {"factor": "3"}}, "a number"),
        ({"params": {"add": 3}}, "must be a list"),
        ({"params": [1]}, "JSON object"),
        ({"parameters": {}}, "unknown parameters"),
        ({"signature_name": "x"}, "unknown signature_name"),
    ],
)
def test_what_is_not_understood_is_refused(tuned: Served, more: dict[str, Any], word: str) -> None:
    tuned.refused([[1.0]], word, **more)


def test_a_model_without_parameters_takes_none(nested: Served) -> None:
    nested.refused([NESTED_ROW], "takes none", params={"x": 1})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"output": []}, "unknown output"),
        ({"outputs": [{"name": "nope"}]}, "no output 'nope'"),
        ({"outputs": {}}, "list"),
        ({"parameters": {"temperature": 1}}, "temperature"),
        ({"parameters": {"content_type": "xml"}}, "not supported"),
    ],
)
def test_what_is_not_understood_is_refused_by_v2(tuned: Served, change: dict[str, Any], word: str) -> None:
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [2.0]}], **change}
    status, answer, _ = tuned.ask("/v2/models/m/infer", body)
    assert status == 400
    assert word in answer["error"]


# --- missing values, dates, bytes

OPTIONAL = Schema([ColSpec(kind, kind.name, required=False) for kind in SCALARS] + [ColSpec("double", "x")])


@pytest.fixture(scope="module")
def optional(save: Any) -> Served:
    return Served(save(ModelSignature(OPTIONAL)))


@pytest.mark.parametrize("kind", SCALARS, ids=lambda kind: kind.name)
def test_an_optional_value_may_be_missing(optional: Served, kind: DataType) -> None:
    value = {"double": 1.5, "float": 1.5, "long": 2**53 + 1, "integer": 7, "boolean": True, "string": "a",
             "binary": "YQ==", "datetime": "2026-01-31T12:00:00"}[kind.name]  # fmt: skip
    some = optional.v1([{"x": 1, kind.name: value}, {"x": 2}, {"x": 3, kind.name: None}])
    assert "missing" not in some[0]
    assert str(2**53 + 1) in some[0] or kind != DataType.long
    assert all(f"{kind.name}=missing" in row for row in some[1:])
    entry = next(entry for entry in optional.model.signature.describe() if entry["name"] == kind.name)
    column = {"name": kind.name, "shape": [3], "datatype": entry["datatype"], "data": [value, None, None]}
    body = {"inputs": [column, {"name": "x", "shape": [3], "datatype": "FP64", "data": [1, 2, 3]}]}
    status, answer, _ = optional.ask("/v2/models/m/infer", body)
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == some


def test_rows_as_lists_may_leave_out_trailing_optional_values(save: Any) -> None:
    schema = Schema([ColSpec("double", "x"), ColSpec("string", "s", required=False)])
    served = Served(save(ModelSignature(schema)))
    assert served.v1([[1.0, "a"], [2.0]])[1].endswith("s=missing")
    assert "s" not in served.v1([[2.0]])[0]
    served.refused([["a"]], "a number")


def test_dates_with_an_offset_become_utc(optional: Served) -> None:
    (row,) = optional.v1([{"x": 1, "datetime": "2026-01-31T12:00:00+02:00"}])
    assert "2026-01-31 10:00:00" in row
    mixed = optional.v1([{"x": 1, "datetime": "2026-01-31"}, {"x": 1, "datetime": "2026-01-31T00:00:00Z"}])
    assert mixed[0] == mixed[1]
    sentence = optional.refused([{"x": 1, "datetime": "31.1.2026"}], "ISO 8601", "31.1.2026")
    assert len(sentence) < 200
    optional.refused([{"x": 1, "datetime": "9999-12-31"}], "1678")
    optional.refused([{"x": 1, "datetime": "today"}], "ISO 8601")


@pytest.mark.parametrize("named", [True, False])
def test_dates_of_an_example_may_have_parts_of_a_second_or_none(save: Any, named: bool) -> None:
    class Known(mlflow.pyfunc.PythonModel):
        """Refuses what is no time."""

        def predict(self, model_input, params=None):
            assert model_input.iloc[:, 0].dtype == "datetime64[ns]"
            return [str(value) for value in model_input.iloc[:, 0]]

    example = pd.DataFrame({"t" if named else 0: pd.date_range("2026-01-01", periods=3, freq="500ms"), "x": 1.0})
    columns = [ColSpec("datetime", "t"), ColSpec("double", "x")]
    schema = Schema(columns if named else [ColSpec(column.type) for column in columns])
    served = Served(save(ModelSignature(schema), Known(), input_example=example))
    assert served.v1([["2026-01-01T00:00:00.5", 1.0]]) == ["2026-01-01 00:00:00.500000"]


def test_bytes_are_base64_both_ways(save: Any) -> None:
    class Reverse(mlflow.pyfunc.PythonModel):
        """Turns bytes around."""

        def predict(self, model_input, params=None):
            assert all(type(value) is bytes for value in model_input["b"])
            return pd.DataFrame({"r": [value[::-1] for value in model_input["b"]]})

    served = Served(save(ModelSignature(Schema([ColSpec("binary", "b")])), Reverse()))
    assert served.v1([{"b": base64.b64encode(b"\xff\x00a").decode()}]) == [
        {"r": base64.b64encode(b"a\x00\xff").decode()}
    ]
    served.refused([{"b": "not base64!"}], "base64")
    served.refused([{"b": 5}], "base64")
    raw = struct.pack("<I", 3) + b"\xff\x00a"
    body = {"inputs": [{"name": "b", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}]}
    text = json.dumps(body).encode()
    status, answer, _ = served.ask(
        "/v2/models/m/infer",
        text + raw,
        content_type="application/octet-stream",
        inference_header_content_length=str(len(text)),
    )
    assert status == 200, answer
    assert answer["outputs"][0] == {
        "name": "r", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(b"a\x00\xff").decode()],
        "parameters": {"content_type": "base64"},
    }  # fmt: skip


COLUMNS = [ColSpec("string", "t"), ColSpec("binary", "t"), ColSpec(AnyType(), "t"), ColSpec("datetime", "t")]


@pytest.mark.parametrize("spec", [*COLUMNS, ColSpec("string"), TensorSpec(np.dtype(str), (-1,), "t"), None], ids=str)
def test_base64_of_an_input_is_decoded(save: Any, spec: Any) -> None:
    served = Served(save(None if spec is None else ModelSignature(Schema([spec]))))
    text = "2026-01-31" if spec is not None and spec.type == DataType.datetime else '"grün"'

    def ask(data: str, kind: str | None) -> tuple[int, Any]:
        shape = [1] if spec else [1, 1]
        tensor = {
            "name": "t",
            "shape": shape,
            "datatype": "BYTES",
            "data": [data],
            "parameters": {"content_type": kind},
        }
        status, answer, _ = served.ask("/v2/models/m/infer", {"inputs": [tensor]})
        return status, answer["outputs"][0]["data"] if status == 200 else answer["error"]

    packed = base64.b64encode(text.encode()).decode()
    binary = spec is not None and spec.type == DataType.binary
    wanted = ask(packed if binary else text, None)  # a column of bytes takes base64 with the hint and without
    assert wanted[0] == 200
    assert ask(packed, "base64") == wanted
    assert ask("no base64!", "base64") == (400, "input 't' must be base64, got \"no base64!\"")
    if not binary:
        assert ask("/w==", "base64") == (400, "input 't' has a string that is not valid UTF-8")


@OFTEN
@given(rows=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=4))
def test_binary_tensors_go_in_and_out(numbers: Served, rows: list[list[float]]) -> None:
    raw = np.array(rows, dtype="<f8").tobytes()
    head = {
        "inputs": [
            {"name": "t", "shape": [len(rows), 3], "datatype": "FP64", "parameters": {"binary_data_size": len(raw)}}
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    status, body, headers = numbers.ask(
        "/v2/models/m/infer", text + raw, inference_header_content_length=str(len(text))
    )
    assert status == 200, body
    size = int(headers["inference-header-content-length"])
    (output,) = json.loads(body[:size])["outputs"]
    assert output["shape"] == [len(rows)]
    assert np.frombuffer(body[size:], "<f8").tolist() == numbers.model._model.predict(np.array(rows)).tolist()


@pytest.fixture(scope="module")
def numbers(save: Any) -> Served:
    class Sum(mlflow.pyfunc.PythonModel):
        """Adds the numbers of a row."""

        def predict(self, model_input, params=None):
            return model_input.sum(axis=1)

    return Served(save(ModelSignature(Schema([TensorSpec(np.dtype("float64"), (-1, 3))])), Sum()))


@pytest.mark.parametrize(
    ("size", "tail", "word"),
    [
        ("24", b"", "bytes are left"),
        ("24", b"\0" * 32, "bytes follow"),
        ("8", b"\0" * 8, "needs 24 bytes"),
        ("-1", b"", "binary_data_size"),
    ],
)
def test_a_binary_tensor_of_the_wrong_size_is_told(numbers: Served, size: str, tail: bytes, word: str) -> None:
    head = {
        "inputs": [{"name": "t", "shape": [1, 3], "datatype": "FP64", "parameters": {"binary_data_size": int(size)}}]
    }
    text = json.dumps(head).encode()
    status, answer, _ = numbers.ask("/v2/models/m/infer", text + tail, inference_header_content_length=str(len(text)))
    assert status == 400
    assert word in answer["error"]


# --- tensors

TENSORS = [
    TensorSpec(np.dtype(kind), (-1, 2), "t")
    for kind in ("bool", "int8", "uint8", "int16", "int32", "int64", "uint32", "float32", "float64")
]


@pytest.mark.parametrize("spec", TENSORS, ids=lambda spec: spec.type.name)
@pytest.mark.parametrize("named", [True, False])
def test_tensors_of_every_type(save: Any, spec: TensorSpec, named: bool) -> None:
    spec = spec if named else TensorSpec(spec.type, spec.shape)
    served = Served(save(ModelSignature(Schema([spec]))), "on")
    values = np.array([[0, 1], [1, 0]]).astype(spec.type)
    wanted = served.model._model.predict({"t": values} if named else values)
    instances = [{"t": row} for row in values.tolist()] if named else values.tolist()
    assert served.v1(instances) == wanted
    datatype = served.model.signature.describe()[0]["datatype"]
    body = {"inputs": [{"name": "t", "shape": [2, 2], "datatype": datatype, "data": values.ravel().tolist()}]}
    assert served.ask("/v2/models/m/infer", body)[1]["outputs"][0]["data"] == wanted


def test_tensors_of_strings_and_ragged_ones(save: Any) -> None:
    served = Served(save(ModelSignature(Schema([TensorSpec(np.dtype(object), (-1, 1))]))))
    assert served.v1([["a"], ["b"]]) == served.model._model.predict(np.array([["a"], ["b"]], dtype=object))
    ragged = Served(save(ModelSignature(Schema([TensorSpec(np.dtype("float64"), (-1, -1))])), Ragged()))
    assert ragged.v1([[1.0], [1.0, 2.0]]) == [1.0, 3.0]


@pytest.mark.parametrize("name", [None, "t"])
def test_tensors_of_objects_may_be_mixed(save: Any, name: str | None) -> None:
    served = Served(save(ModelSignature(Schema([TensorSpec(np.dtype(object), (-1, 2), name)]))), "on")
    rows = [["a", 10], ["b", None], ["c", 1.5], ["d", True], [1, 2]]
    values = np.array(rows, dtype=object)
    wanted = served.model._model.predict({"t": values} if name else values)
    assert served.v1([{"t": row} for row in rows] if name else rows) == wanted
    body = {"inputs": [{"name": "t", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}]}
    wanted = served.model._model.predict({"t": values[-1:]} if name else values[-1:])
    assert served.ask("/v2/models/m/infer", body)[1]["outputs"][0]["data"] == wanted
    for wrong in ([["a"]], [["a", [1]]], [["a", {}]], [["a", 1], ["b"]]):
        served.refused([{"t": row} for row in wrong] if name else wrong)


@pytest.mark.parametrize("unit", ["ns", "D"])
@pytest.mark.parametrize("name", [None, "t"])
def test_tensors_of_dates_take_strings(save: Any, name: str | None, unit: str) -> None:
    spec = TensorSpec(np.dtype(f"datetime64[{unit}]"), (-1, 2), name)
    served = Served(save(ModelSignature(Schema([spec]))), "on")
    rows = [["2026-01-31", "2026-01-31T02:00:00+02:00"], ["1999-12-31", None]]
    values = np.array([["2026-01-31", "2026-01-31"], ["1999-12-31", "NaT"]], dtype=spec.type)
    result = served.model._model.predict({"t": values} if name else values)
    wanted = [json.loads(json.dumps(row, default=str)) for row in result]
    assert served.v1([{"t": row} for row in rows] if name else rows) == wanted
    body = {"inputs": [{"name": "t", "shape": [1, 2], "datatype": "BYTES", "data": rows[0]}]}
    status, answer, _ = served.ask("/v2/models/m/infer", body)
    assert status == 200, answer
    for wrong, word in ([[5, 6]], "ISO 8601"), ([["today", None]], "ISO 8601"), ([[True, "2026-01-31"]], "only"):
        served.refused([{"t": row} for row in wrong] if name else wrong, word)
    if unit == "D":
        fine = ["2026-01-31T00:00:01", None]
        served.refused([{"t": fine}] if name else [fine], "finer than the model's type datetime64[D]")


class Ragged(mlflow.pyfunc.PythonModel):
    """Adds the numbers of rows of any length."""

    def predict(self, model_input, params=None):
        """Add."""
        return [float(np.sum(row)) for row in model_input]


# --- outputs

ANSWERS: dict[str, tuple[Any, Any]] = {
    "missing in a table": (
        pd.DataFrame(
            {
                "a": [1.0, None],
                "s": ["x", None],
                "n": pd.array([1, None], dtype="Int64"),
                "t": [pd.Timestamp("2026-01-31"), pd.NaT],
            }
        ),
        [{"a": 1.0, "s": "x", "n": 1, "t": "2026-01-31T00:00:00"}, {"a": None, "s": None, "n": None, "t": None}],
    ),
    "NumPy strings in dicts": ([{"k": np.str_("v"), np.str_("l"): [np.int64(1)]}], [{"k": "v", "l": [1]}]),
    "a tuple, a set, bytes": ([(1, 2), {3}, b"a"], [[1, 2], [3], "YQ=="]),
    "a generator": ((x for x in (1, 2)), [1, 2]),
    "arrays in a list": ([np.array([1.5, np.nan]), np.float32(2)], [[1.5, None], 2.0]),
    "nested table cells": (pd.DataFrame({"l": [[1, 2], np.array([3.0])]}), [{"l": [1, 2]}, {"l": [3.0]}]),
    "large integers": ([2**70], [2**70]),
    "dates": (np.array(["2026-01-31", "NaT"], dtype="datetime64[ns]"), ["2026-01-31T00:00:00", None]),
    "a category": (pd.Series(["a", None], dtype="category"), ["a", None]),
    "a dict of arrays": ({"p": np.array([1, 2]), "q": [None, "x"]}, {"p": [1, 2], "q": [None, "x"]}),
    "infinity": ([float("inf")], [None]),
    "an empty table": (pd.DataFrame({"a": []}), []),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_predictions_have_a_json_form(case: str) -> None:
    result, wanted = ANSWERS[case]
    assert json.loads(outputs.encode(outputs.v1(result))) == wanted


def test_a_sparse_matrix_is_an_array() -> None:
    from scipy.sparse import csr_matrix

    assert outputs.v1(csr_matrix([[0, 1.5]])) == [[0.0, 1.5]]


@pytest.mark.parametrize(
    ("result", "word"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns"),
        ([object()], "type object"),
        ([1 + 2j], "complex"),
        ([{(1, 2): 3}], "key"),
    ],
    ids=["two columns of one name", "an object", "a complex number", "a key"],
)
def test_what_has_no_form_is_an_error_with_a_sentence(result: Any, word: str) -> None:
    with pytest.raises(outputs.NoForm, match=word):
        outputs.v1(result)


def test_v2_outputs_of_every_kind() -> None:
    from model_server.inputs import Request

    columns = pd.DataFrame({
        "f": [1.5, None], "i": [1, 2], "b": [True, False], "s": ["x", None], "l": [[1, 2], [3, 4]], "r": [[1], [2, 3]],
        "o": [{"k": 1}, {"k": None}], "n": pd.array([1, None], dtype="Int32"),
    })  # fmt: skip
    answer, parts = outputs.v2(columns, Request(None, 2), None, "m", "")
    found = {o["name"]: (o["datatype"], o["shape"], o["data"]) for o in answer["outputs"]}
    assert not parts
    assert found == {
        "f": ("FP64", [2], [1.5, None]), "i": ("INT64", [2], [1, 2]), "b": ("BOOL", [2], [True, False]),
        "s": ("BYTES", [2], ["x", None]), "l": ("INT64", [2, 2], [1, 2, 3, 4]), "r": ("BYTES", [2], ["[1]", "[2, 3]"]),
        "o": ("BYTES", [2], ['{"k": 1}', '{"k": null}']), "n": ("INT64", [2], [1, None]),
    }  # fmt: skip


def test_a_v2_request_chooses_its_outputs(save: Any) -> None:
    class Two(mlflow.pyfunc.PythonModel):
        """Has two output columns."""

        def predict(self, model_input, params=None):
            return pd.DataFrame({"a": model_input["x"], "b": model_input["x"] * 2})

    served = Served(save(ModelSignature(Schema([ColSpec("double", "x")])), Two()))
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [2.0]}], "outputs": [{"name": "b"}]}
    (output,) = served.ask("/v2/models/m/infer", body)[1]["outputs"]
    assert output["name"] == "b"
    assert output["data"] == [4.0]


# --- the model's own mistakes


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        """Fail."""
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (ValueError("first\n  the reason"), 400, "first the reason"),
        (RuntimeError("broken"), 500, "log"),
        (SystemExit(3), 500, "log"),
        (MemoryError(), 500, "log"),
        (KeyError("colour"), 400, "colour"),
        (StopIteration(), 500, "log"),
        (Mute(), 500, "log"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_model_that_raises_does_not_end_its_server(save: Any, error: BaseException, status: int, word: str) -> None:
    class Raising(mlflow.pyfunc.PythonModel):
        """Raises."""

        def predict(self, model_input, params=None):
            raise error

    served = Served(save(ModelSignature(Schema([ColSpec("double", "x")])), Raising()))
    assert word in served.refused([[1.0]], status=status)
    served.refused([[1.0]], status=status)


class Sleepy(mlflow.pyfunc.PythonModel):
    """Runs an event loop of its own, as models do that call other services."""

    def predict(self, model_input, params=None):
        """Sleep and answer."""
        return asyncio.run(self.answer(model_input["x"].tolist()))

    async def answer(self, values):
        """Answer after a moment."""
        await asyncio.sleep(0)
        return values


def test_a_model_may_run_an_event_loop_of_its_own(save: Any) -> None:
    served = Served(save(ModelSignature(Schema([ColSpec("double", "x")])), Sleepy()))
    assert [served.v1([[1.0]]) for _ in range(3)] == [[1.0]] * 3


def test_probabilities_of_a_pipeline(tmp_path: Path) -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_iris(as_frame=True).data
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(data, load_iris().target)
    signature = mlflow.models.infer_signature(data, model.predict_proba(data))
    mlflow.sklearn.save_model(
        model, tmp_path / "m", signature=signature, pyfunc_predict_fn="predict_proba", pip_requirements=["scikit-learn"]
    )
    rows = data.head(3)
    assert Served(tmp_path / "m").v1(rows.to_numpy().tolist()) == model.predict_proba(rows).tolist()


def test_columns_may_have_numbers_as_names(save: Any) -> None:
    schema = Schema([ColSpec("double", 0), ColSpec("double", 1)])
    served = Served(save(ModelSignature(schema)))
    wanted = served.model._model.predict(pd.DataFrame({0: [1.5], 1: [2.5]}))
    assert served.v1([[1.5, 2.5]]) == served.v1([{"1": 2.5, "0": 1.5}]) == wanted


def test_a_tensor_of_floats_may_miss_values(save: Any) -> None:
    served = Served(save(ModelSignature(Schema([TensorSpec(np.dtype("float64"), (-1, 2))]))))
    assert served.v1([[None, 1.0]]) == ["float64[nan, 1.0]"]
    body = {"inputs": [{"name": "t", "shape": [1, 2], "datatype": "FP64", "data": [None, 1.0]}]}
    assert served.ask("/v2/models/m/infer", body)[1]["outputs"][0]["data"] == ["float64[nan, 1.0]"]


def test_inputs_of_a_fixed_size_have_no_rows(save: Any) -> None:
    schema = Schema([TensorSpec(np.dtype("float32"), (-1, 2), "sound"), TensorSpec(np.dtype("int64"), (1,), "rate")])
    served = Served(save(ModelSignature(schema), Ragged2()))
    body = {
        "inputs": [
            {"name": "sound", "shape": [3, 2], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]},
            {"name": "rate", "shape": [1], "datatype": "INT64", "data": [16000]},
        ]
    }
    assert served.ask("/v2/models/m/infer", body)[1]["outputs"][0]["data"] == [3, 16000]


class Ragged2(mlflow.pyfunc.PythonModel):
    """Tells the sizes of its inputs."""

    def predict(self, model_input, params=None):
        """Tell."""
        return [len(model_input["sound"]), int(model_input["rate"][0])]


@pytest.mark.parametrize("change", [{"id": None}, {"outputs": None}, {"outputs": []}, {"parameters": None}])
def test_what_is_null_is_not_set(numbers: Served, change: dict[str, Any]) -> None:
    body = {"inputs": [{"name": "t", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]} | change
    status, answer, _ = numbers.ask("/v2/models/m/infer", body)
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == [6.0]


def test_no_caller_gets_a_server_error_for_depth(nested: Served) -> None:
    deep: Any = 1
    for _ in range(80):
        deep = [deep]
    nested.refused([NESTED_ROW | {"any": deep}], "50 deep")


# --- HTTP


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_packed_bodies(numbers: Served, encoding: str) -> None:
    import zlib

    body = json.dumps({"instances": [[1, 2, 3]]}).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    assert numbers.ask("/v1/models/m:predict", packed, content_encoding=encoding)[1] == {"predictions": [6.0]}
    status, answer, _ = numbers.ask("/v1/models/m:predict", packed[:-9], content_encoding=encoding)
    assert status == 400
    assert encoding in answer["error"]
    status, answer, _ = numbers.ask("/v1/models/m:predict", body, content_encoding="br")
    assert status == 415
    assert "Content-Encoding" in answer["error"]


def test_a_packed_bomb_is_too_large(save: Any) -> None:
    served = Served(save(ModelSignature(Schema([ColSpec("double", "x")]))), max_body_bytes=100_000)
    assert served.ask("/v1/models/m:predict", gzip.compress(b" " * 10_000_000), content_encoding="gzip")[0] == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("OPTIONS", "/v1/models/m:predict", 204),
        ("OPTIONS", "/v2/health/live", 204),
        ("HEAD", "/v2/models/m/ready", 200),
        ("GET", "/v2/models/m/ready/", 200),
        ("POST", "/v1/models/m:predict/", 400),
        ("GET", "/v2/models/m/versions/3/ready", 200),
        ("GET", "/v2/models/m/versions/4/ready", 404),
        ("POST", "/v2/models/m/versions/3/infer", 400),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/m", 200),
        ("GET", "/v2", 200),
        ("GET", "/", 200),
        ("DELETE", "/v2/models/m", 405),
    ],
)
def test_paths_and_methods(numbers: Served, method: str, path: str, status: int) -> None:
    got, body, headers = numbers.ask(path, b"", method)
    assert got == status, body
    if method == "OPTIONS":
        assert "OPTIONS" in headers["allow"]
        assert "access-control-allow-origin" not in headers
    if method == "HEAD":
        assert body == b""
        assert int(headers["content-length"]) > 0


def test_pages_of_allowed_origins_may_ask(save: Any) -> None:
    served = Served(
        save(ModelSignature(Schema([ColSpec("double", "x")]))), cors_origins="https://a.example, https://b.example"
    )
    _, _, headers = served.ask("/v1/models/m:predict", method="OPTIONS", origin="https://b.example")
    assert headers["access-control-allow-origin"] == "https://b.example"
    assert "POST" in headers["access-control-allow-methods"]
    _, _, headers = served.ask("/v1/models/m:predict", {"instances": [[1]]}, origin="https://evil.example")
    assert "access-control-allow-origin" not in headers


def test_every_series_is_there_before_the_first_request(save: Any) -> None:
    text = Served(save(ModelSignature(Schema([ColSpec("double", "x")])))).metrics.text()
    for protocol in ("v1", "v2"):
        for code in (200, 400, 429, 500, 503):
            assert f'model_server_requests_total{{model="m",version="3",protocol="{protocol}",code="{code}"}} 0' in text
