"""Wrong requests to a model: the answer names the mistake, and the model keeps serving."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from support.platform import Model

Bottle = dict[str, float]
V1, V2 = "/v1/models/wine:predict", "/v2/models/wine/infer"
JSON = {"Content-Type": "application/json"}


def column(name: str, *values: Any, kind: str = "FP64", shape: list[int] | None = None) -> dict[str, Any]:
    """A V2 tensor."""
    return {"name": name, "shape": shape or [len(values)], "datatype": kind, "data": list(values)}


def v2(bottle: Bottle, **changes: Any) -> dict[str, Any]:
    """A V2 request of one bottle, with some columns changed (to None: left out)."""
    columns = {name: column(name, value) for name, value in bottle.items()} | changes
    return {"inputs": [tensor for tensor in columns.values() if tensor]}


# what is wrong: (path, body of the request, statuses that say so)
Mistake = tuple[str, Callable[[Bottle], Any], set[int]]
MISTAKES: dict[str, Mistake] = {
    "an empty body": (V1, lambda _: b"", {400}),
    "no JSON": (V1, lambda _: b"alcohol=13", {400}),
    "JSON cut off": (V1, lambda b: json.dumps({"instances": [b]}).encode()[:-3], {400}),
    "bytes that are no text": (V1, lambda _: b'{"instances": "\xff\xfe"}', {400}),
    "a list": (V1, lambda b: [b], {400}),
    "a number": (V1, lambda _: 7, {400}),
    "no instances": (V1, lambda b: {"rows": [b]}, {400}),
    "instances that are no list": (V1, lambda b: {"instances": b}, {400}),
    "zero instances": (V1, lambda _: {"instances": []}, {400}),
    "too few values": (V1, lambda b: {"instances": [list(b.values())[:-1]]}, {400}),
    "too many values": (V1, lambda b: {"instances": [[*b.values(), 1.0]]}, {400}),
    "a missing column": (V1, lambda b: {"instances": [dict(list(b.items())[1:])]}, {400}),
    "an unknown column": (V1, lambda b: {"instances": [{**b, "colour": 1.0}]}, {400}),
    "a word for a number": (V1, lambda b: {"instances": [{**b, "alcohol": "strong"}]}, {400}),
    "true for a number": (V1, lambda b: {"instances": [{**b, "alcohol": True}]}, {400}),
    "null for a number": (V1, lambda b: {"instances": [{**b, "alcohol": None}]}, {400}),
    "not a number": (V1, lambda b: json.dumps({"instances": [{**b, "alcohol": float("nan")}]}).encode(), {400}),
    "infinity": (V1, lambda b: json.dumps({"instances": [{**b, "alcohol": float("inf")}]}).encode(), {400}),
    "a list for a number": (V1, lambda b: {"instances": [{**b, "alcohol": [1.0]}]}, {400}),
    "rows of different names": (V1, lambda b: {"instances": [b, {**b, "hue": 1.0, "colour": 1.0}]}, {400}),
    "rows of different kinds": (V1, lambda b: {"instances": [b, list(b.values())]}, {400}),
    "lists in lists in lists": (V1, lambda _: ("[" * 2000 + "]" * 2000).encode(), {400}),
    "three megabytes": (V1, lambda b: {"instances": [b] * 20_000}, {413}),
    "another model": ("/v1/models/beer:predict", lambda b: {"instances": [b]}, {404}),
    "another verb": ("/v1/models/wine:taste", lambda b: {"instances": [b]}, {404, 405}),
    "no inputs (V2)": (V2, lambda _: {"inputs": []}, {400}),
    "inputs that are no list (V2)": (V2, lambda b: {"inputs": b}, {400}),
    "a missing column (V2)": (V2, lambda b: v2(b, alcohol=None), {400}),
    "a column twice (V2)": (V2, lambda b: {"inputs": [*v2(b)["inputs"], column("alcohol", 13.0)]}, {400}),
    "a shape that does not fit (V2)": (V2, lambda b: v2(b, alcohol=column("alcohol", 13.0, shape=[2])), {400}),
    "a negative shape (V2)": (V2, lambda b: v2(b, alcohol=column("alcohol", 13.0, shape=[-1])), {400}),
    "an unknown datatype (V2)": (V2, lambda b: v2(b, alcohol=column("alcohol", 13.0, kind="DECIMAL")), {400}),
    "words of a number's type (V2)": (V2, lambda b: v2(b, alcohol=column("alcohol", "strong")), {400}),
    "columns of different length (V2)": (V2, lambda b: v2(b, alcohol=column("alcohol", 13.0, 14.0)), {400}),
    "a tensor without data (V2)": (V2, lambda b: v2(b, alcohol={"name": "alcohol", "shape": [1]}), {400}),
}  # fmt: skip


def assert_still_right(wine: Model, bottle: Bottle) -> None:
    """The model answers a good request as if nothing had happened."""
    answer = wine.predict([bottle], timeout=5)
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 1


def assert_told(answer: requests.Response, statuses: set[int]) -> None:
    """The answer has a status 4xx and one readable sentence, without a stack trace."""
    assert answer.status_code in statuses, answer.text[:300]
    sentence = answer.json()["error"]
    assert " " in sentence
    assert "Traceback" not in sentence
    assert "site-packages" not in sentence


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_forgotten(wine: Model, bottle: Bottle, mistake: str) -> None:
    path, make, statuses = MISTAKES[mistake]
    body = make(bottle)
    answer = wine.post(path, data=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=JSON)
    assert_told(answer, statuses)
    assert_still_right(wine, bottle)


@pytest.mark.parametrize("kind", ["text/csv", "application/octet-stream", "multipart/form-data; boundary=x"])
def test_another_content_type_is_told(wine: Model, bottle: Bottle, kind: str) -> None:
    assert_told(wine.post(V1, data=b"1,2,3", headers={"Content-Type": kind}), {415})
    assert_still_right(wine, bottle)


def test_binary_inputs_are_told(wine: Model, bottle: Bottle) -> None:
    answer = wine.post(V2, data=b"{}\x00\x00", headers={**JSON, "Inference-Header-Content-Length": "999999"})
    assert_told(answer, {400, 415})
    assert_still_right(wine, bottle)


def test_another_method_is_told(wine: Model, bottle: Bottle) -> None:
    assert_told(wine.get(V1), {405})
    assert_still_right(wine, bottle)


def test_nobody_unloads_the_model(wine: Model, bottle: Bottle) -> None:
    answer = wine.post("/v2/repository/models/wine/unload", json={})
    assert 400 <= answer.status_code < 500
    assert_still_right(wine, bottle)
