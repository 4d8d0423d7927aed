"""A request that a model takes: from its own input example, else from its signature."""

from __future__ import annotations

import json
import shlex
from typing import Any

#: Longest body in a command; what is longer is made by Python.
LONGEST = 3000
#: Values of V2 datatypes.
VALUES = {"BOOL": False, "BYTES": "text"}
CONTENT = {"base64": "AAAA", "datetime": "2026-01-01T00:00:00Z", "json": {}}


def from_example(example: Any) -> Any:
    """The first instance of a serving input example of MLflow; None if there is none in a form that is known."""
    if not isinstance(example, dict):
        return None
    split = example.get("dataframe_split")
    if isinstance(split, dict) and split.get("data") and isinstance(split.get("columns"), list):
        return dict(zip(map(str, split["columns"]), split["data"][0], strict=False))
    for key in ("dataframe_records", "instances", "inputs"):
        rows = example.get(key)
        if isinstance(rows, list) and rows:
            return rows[0]
        if (
            key == "inputs"
            and isinstance(rows, dict)
            and rows
            and all(isinstance(each, list) for each in rows.values())
        ):
            return {name: each[0] for name, each in rows.items() if each}
    return None


def from_metadata(metadata: Any) -> tuple[Any, str]:
    """An instance by the V2 metadata of a model: itself, or Python text that makes it where it is large."""
    inputs = metadata.get("inputs") if isinstance(metadata, dict) else None
    if not isinstance(inputs, list) or not inputs:
        return None, ""
    columns = {}
    for each in inputs:
        parameters = each.get("parameters") or {}
        if parameters.get("optional") and len(inputs) > 1:
            continue
        value = CONTENT.get(parameters.get("content_type", ""))
        if value is None:
            value = VALUES.get(each["datatype"], 0.0 if each["datatype"].startswith("FP") else 0)
        columns[each["name"]] = (value, [max(size, 1) for size in each.get("shape", [])[1:]])
    unnamed = len(inputs) == 1 and inputs[0]["name"] in ("input-0", "")
    if len(columns) == 1 and unnamed:
        value, shape = next(iter(columns.values()))
        return _nested(value, shape)
    made = {name: _nested(value, shape) for name, (value, shape) in columns.items()}
    if any(text for _, text in made.values()):
        pairs = (f"{name!r}: {text or repr(value)}" for name, (value, text) in made.items())
        return None, "{" + ", ".join(pairs) + "}"
    return {name: value for name, (value, _) in made.items()}, ""


def _nested(value: Any, shape: list[int]) -> tuple[Any, str]:
    size = 1
    for each in shape:
        size *= each
    if size > LONGEST // 5:
        text = repr(value)
        for each in reversed(shape):
            text = f"[{text}]*{each}"
        return None, text
    for each in reversed(shape):
        value = [value] * each
    return value, ""


def curl(url: str, instance: Any, python: str = "") -> str:
    """A command that asks a model."""
    body = json.dumps({"instances": [instance]}) if instance is not None else ""
    start = f"curl -s {shlex.quote(url)} -H 'Content-Type: application/json'"
    if body and len(body) <= LONGEST:
        return f"{start} -d {shlex.quote(body)}"
    if python:
        code = f"import json; print(json.dumps({{'instances': [{python}]}}))"
        return f"python3 -c {shlex.quote(code)} | {start} -d @-"
    return ""
