"""Predictions to responses. What is missing is null, arrays are lists, bytes are base64; the rest is an error, never text."""

import base64
import dataclasses
import datetime
import decimal
import itertools
import json
import math
import struct
import types
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd
from mlflow.types import Schema

from . import InvalidInput
from .inputs import NUMPY_TO_V2, Request, describe, flattened

#: Items of a prediction that is a generator.
MAX_ITEMS = 1_000_000


class NoForm(Exception):
    """The model returned what JSON has no form for; the message is a sentence."""


def by_row(result: Any, rows: int) -> list[Any] | None:
    """Turn a prediction into one JSON value for each row; None if it does not have as many rows."""
    if isinstance(result, pd.DataFrame):
        return records(result) if len(result) == rows else None
    if isinstance(result, (np.ndarray, pd.Series, list)) and np.ndim(result) and len(result) == rows:
        return plain(result)
    return None


def v1(result: Any) -> Any:
    """Return what stands behind `predictions`."""
    return records(result) if isinstance(result, pd.DataFrame) else plain(result)


def v2(
    result: Any, request: Request, schema: Schema | None, model: str, version: str
) -> tuple[dict[str, Any], list[bytes]]:
    """Return a V2 response, and the binary tensors that follow it.

    One tensor for each output column, or a single one, named by the signature or `output-0`.

    Raises:
        LookupError: the request asks for an output that the model does not have.
    """
    if isinstance(result, pd.DataFrame):
        columns = dict(zip(_names(result), (result.iloc[:, number] for number in range(result.shape[1])), strict=True))
    elif isinstance(result, Mapping):
        columns = _named(result, lambda value: value)
    else:
        columns = {(describe(schema, "output") or [{"name": "output-0"}])[0]["name"]: result}
    if request.outputs is not None:
        if unknown := [name for name in request.outputs if name not in columns]:
            raise LookupError(f"the model has no output {unknown[0]!r}; it has {', '.join(columns)}")
        columns = {name: columns[name] for name in request.outputs}
    outputs, parts = [], []
    for name, column in columns.items():
        datatype, shape, data, parameters = _tensor(column)
        output = {"name": name, "shape": shape, "datatype": datatype}
        if (request.outputs or {}).get(name, request.binary):
            parts.append(_binary(name, datatype, data))
            output["parameters"] = {**parameters, "binary_data_size": len(parts[-1])}
        else:
            output["data"] = data
            if parameters:
                output["parameters"] = parameters
        outputs.append(output)
    response = {"model_name": model, "id": request.id or str(uuid.uuid4()), "outputs": outputs}
    return response | ({"model_version": version} if version else {}), parts


def encode(answer: Any) -> bytes:
    """Write JSON. NaN and infinity, which JSON does not know, are null already (see `plain`)."""
    return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a table into one object for each row."""
    names = _names(table)
    columns = [plain(table.iloc[:, number]) for number in range(len(names))]
    if not columns:
        return [{} for _ in range(len(table))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _names(table: pd.DataFrame) -> list[str]:
    names = [".".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in table.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise NoForm(f"the model returned two columns called {twice!r}; give each output column a name of its own")
    return names


def plain(value: Any, depth: int = 0) -> Any:
    """Turn a prediction into what JSON knows.

    Raises:
        NoForm: there is no such form.
    """
    kind = type(value)
    if kind is str or kind is bool or kind is int or value is None or value is pd.NA or value is pd.NaT:
        return None if value is pd.NA or value is pd.NaT else value
    if kind is float:
        return value if math.isfinite(value) else None
    if depth > 64:
        raise NoForm("the model returned values that are nested more than 64 deep")
    if isinstance(value, np.ndarray):
        return _array(value, depth)
    if isinstance(value, (pd.Series, pd.Index)):
        if isinstance(value.dtype, np.dtype):
            return _array(value.to_numpy(), depth)
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, pd.DataFrame):
        return records(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return plain(pd.Timestamp(value) if isinstance(value, np.datetime64) else pd.Timedelta(value), depth)
    if isinstance(value, datetime.timedelta):
        return pd.Timedelta(value).isoformat()
    if isinstance(value, np.generic):
        item = value.item()
        return plain(item, depth) if type(item) is not kind else _no_form(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return _named(value, lambda item: plain(item, depth + 1))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, decimal.Decimal):
        return plain(float(value))
    if isinstance(value, uuid.UUID):
        return str(value)
    if hasattr(value, "toarray") and hasattr(value, "nnz"):  # a sparse matrix
        return _array(value.toarray(), depth)
    if hasattr(value, "model_dump"):  # pydantic
        return plain(value.model_dump(), depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), depth + 1)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict(), depth + 1)
    if isinstance(value, (Sequence, Set)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, (Iterator, types.GeneratorType)):
        items = list(itertools.islice(value, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise NoForm(f"the model returned more than {MAX_ITEMS} items")
        return [plain(item, depth + 1) for item in items]
    if hasattr(value, "__array__"):  # a tensor of another library
        return _array(np.asarray(value), depth)
    return _no_form(value)


def _no_form(value: Any) -> Any:
    raise NoForm(f"the model returned a value of type {type(value).__name__}, for which JSON has no form")


def _array(array: np.ndarray, depth: int) -> Any:
    kind = array.dtype.kind
    if kind in "biuU":
        return array.tolist()
    if kind == "f":
        array = array.astype(float) if array.dtype.itemsize > 8 else array
        if np.isfinite(array).all():
            return array.tolist()
        array = array.astype(object)
        array[~np.isfinite(array.astype(float))] = None
        return array.tolist()
    if kind == "O":
        return [plain(item, depth + 1) for item in array] if array.ndim else plain(array.item(), depth + 1)
    if kind in "mM":
        return [plain(item, depth + 1) for item in array] if array.ndim else plain(array[()], depth + 1)
    if kind == "S":
        return plain(array.astype(object), depth)
    return _no_form(array.flat[0] if array.size else array)


def _named(value: Mapping[Any, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """Convert an object's values; its keys become strings."""
    named = {_key(name): convert(item) for name, item in value.items()}
    if len(named) < len(value):
        raise NoForm("the model returned an object with two keys that are one as text; give each a name of its own")
    return named


def _key(name: Any) -> str:
    if isinstance(name, str):
        return str.__str__(name)
    if isinstance(name, (bool, int, float, np.generic)):
        return str(name)
    raise NoForm(f"the model returned an object whose key is a {type(name).__name__}; keys must be strings")


def _tensor(column: Any) -> tuple[str, list[int], list[Any], dict[str, Any]]:
    """Return datatype, shape, data and parameters of a V2 output."""
    if isinstance(column, np.ndarray) and column.dtype in NUMPY_TO_V2 and column.dtype.kind != "O":
        return NUMPY_TO_V2[column.dtype], list(column.shape), _array(column.ravel(), 0), {}
    values = plain(column)
    if isinstance(column, pd.Series) and column.dtype in NUMPY_TO_V2 and column.dtype.kind != "O":
        return NUMPY_TO_V2[column.dtype], [len(values)], values, {}
    shape, flat = flattened(values) if isinstance(values, list) else ([1], [values])
    kinds = set(map(type, flat)) - {type(None)}
    if kinds <= {bool} and kinds:
        return "BOOL", shape, flat, {}
    if kinds <= {int} and kinds:
        if all(value is None or -(2**63) <= value < 2**63 for value in flat):
            return "INT64", shape, flat, {}
        raise NoForm("the model returned a whole number that does not fit 64 bits")
    if kinds <= {int, float} and kinds:
        return "FP64", shape, flat, {}
    if kinds <= {str}:
        encoded = any(
            isinstance(item, (bytes, bytearray)) for item in np.ravel(np.asarray(column, dtype=object))[:1000]
        )
        return "BYTES", shape, flat, {"content_type": "base64"} if encoded else {}
    rows = values if isinstance(values, list) else [values]
    return "BYTES", [len(rows)], [json.dumps(row, ensure_ascii=False) for row in rows], {"content_type": "json"}


def _binary(name: str, datatype: str, data: list[Any]) -> bytes:
    """Write a binary tensor: little-endian numbers, or strings that each follow their length in four bytes."""
    if datatype == "BYTES":
        if None in data:
            raise InvalidInput(f"output {name!r} has missing values, which a binary tensor cannot hold; ask for JSON")
        encoded = [text.encode() for text in data]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    numpy_type = next(dtype for dtype, v2_type in NUMPY_TO_V2.items() if v2_type == datatype)
    if None in data and numpy_type.kind != "f":
        raise InvalidInput(f"output {name!r} has missing values, which a binary tensor cannot hold; ask for JSON")
    return np.array(data, dtype=numpy_type).astype(numpy_type.newbyteorder("<")).tobytes()
