"""Requests to model input, and predictions to responses, as the model's MLflow signature says.

Everything here raises `kserve.errors.InvalidInput`, with a sentence for the caller, when the request is at fault.
"""

import json
import math
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput
from kserve.utils.numpy_codec import from_np_dtype, to_np_dtype
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

INTEGERS = {DataType.integer: np.int32, DataType.long: np.int64}
FLOATS = {DataType.float: np.float32, DataType.double: np.float64}
V2_NAMES = {
    DataType.boolean: "BOOL",
    DataType.integer: "INT32",
    DataType.long: "INT64",
    DataType.float: "FP32",
    DataType.double: "FP64",
}


def from_v1(body: Any, schema: Schema | None) -> Any:
    """Read `{"instances": [...]}`: rows as lists in the signature's order, rows as objects, or nested tensors."""
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list) or not instances:
        raise InvalidInput('the request must be a JSON object like {"instances": [...]} with at least one instance')
    if all(isinstance(row, dict) for row in instances):
        names = list(dict.fromkeys(name for row in instances for name in row))
        for number, row in enumerate(instances):
            if row.keys() != instances[0].keys():
                odd = _listed(row.keys() ^ instances[0].keys())
                raise InvalidInput(f"instance {number} does not have the same names as instance 0: {odd}")
        return _named({name: [row[name] for row in instances] for name in names}, schema)
    if any(isinstance(row, dict) for row in instances):
        raise InvalidInput("either all instances are JSON objects, or none")
    if schema is None or schema.is_tensor_spec():
        return _tensor(_array(instances, "instances"), schema)
    names = schema.input_names()
    for number, row in enumerate(instances):
        if not isinstance(row, list):
            raise InvalidInput(f"instance {number} must be a list of {len(names)} values or a JSON object")
        if len(row) != len(names):
            raise InvalidInput(f"instance {number} has {len(row)} values, the model takes {len(names)}")
    return _named(dict(zip(names, zip(*instances, strict=True), strict=True)), schema)


def read_v2(body: Any, model_name: str) -> InferRequest:
    """Check the form of a V2 request, and make the SDK's object of it."""
    inputs = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput('the request must be a JSON object like {"inputs": [...]} with at least one tensor')
    if not isinstance(body.get("id", ""), str):
        raise InvalidInput("id must be a string")
    tensors = []
    for number, tensor in enumerate(inputs):
        if not isinstance(tensor, dict):
            raise InvalidInput(f"inputs[{number}] must be an object with name, shape, datatype and data")
        for field, kind in {"name": str, "shape": list, "datatype": str, "data": list}.items():
            if not isinstance(tensor.get(field), kind):
                raise InvalidInput(f"inputs[{number}].{field} must be a {'string' if kind is str else 'list'}")
        shape = tensor["shape"]
        if len(shape) > 32 or not all(type(size) is int and 0 <= size <= 2**31 for size in shape):
            raise InvalidInput(f"inputs[{number}].shape must be a list of a few whole numbers")
        tensors.append(InferInput(tensor["name"], shape, tensor["datatype"], tensor["data"]))
    return InferRequest(model_name, tensors, request_id=body.get("id"))


def from_v2(request: InferRequest, schema: Schema | None) -> Any:
    """Read V2 tensors: one per column or named tensor, or a single one of shape [rows, columns]."""
    tensors = {}
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise InvalidInput(f"input {tensor.name!r} appears twice")
        tensors[tensor.name] = _v2_array(tensor)
    only = next(iter(tensors.values())) if len(tensors) == 1 else None
    if schema is None or (schema.is_tensor_spec() and not schema.has_input_names()):
        if only is None:
            raise InvalidInput(f"the model takes one input, got {len(tensors)}")
        return _tensor(only, schema)
    if schema.is_tensor_spec():
        return _named(tensors, schema)
    if only is not None and only.ndim == 2 and not tensors.keys() & set(schema.input_names()):
        if only.shape[1] != len(schema.inputs):
            raise InvalidInput(f"input has shape {list(only.shape)}, the model takes {len(schema.inputs)} columns")
        return _named({name: only[:, i].tolist() for i, name in enumerate(schema.input_names())}, schema)
    for name, array in tensors.items():
        if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
            raise InvalidInput(f"input {name!r} has shape {list(array.shape)}, a column has shape [rows] or [rows, 1]")
    return _named({name: array.ravel().tolist() for name, array in tensors.items()}, schema)


def to_v1(result: Any) -> dict[str, Any]:
    """Answer with `{"predictions": [...]}`; NaN becomes null."""
    if isinstance(result, pd.DataFrame):
        return {"predictions": result.to_dict("records")}
    return {"predictions": result.tolist() if hasattr(result, "tolist") else result}


def to_v2(result: Any, request: InferRequest, schema: Schema | None) -> dict[str, Any]:
    """Answer with one tensor per output column, or with a single one, named by the signature or `output-0`."""
    if isinstance(result, (pd.DataFrame, dict)):
        columns = {str(name): result[name] for name in result}
    else:
        columns = {(describe(schema, "output") or [{"name": "output-0"}])[0]["name"]: result}
    outputs = []
    for name, column in columns.items():
        text = isinstance(column, list) and any(isinstance(value, str) for value in column)
        array = np.array(column, dtype=object) if text else np.asarray(column)
        data = array.ravel().tolist()
        datatype = from_np_dtype(array.dtype) if array.dtype.kind in "biuf" else "BYTES"
        if datatype == "BYTES":
            data = [str(value) for value in data]
        outputs.append({"name": name, "shape": list(array.shape), "datatype": datatype, "data": data})
    return {"model_name": request.model_name, "id": request.id or str(uuid.uuid4()), "outputs": outputs}


def describe(schema: Schema | None, prefix: str) -> list[dict[str, Any]]:
    """List a schema's columns or tensors the way the V2 metadata endpoint wants them."""
    described = []
    for number, spec in enumerate(schema.inputs if schema else []):
        tensor = isinstance(spec, TensorSpec)
        datatype = from_np_dtype(spec.type) if tensor else V2_NAMES.get(spec.type)
        shape = [int(size) for size in spec.shape] if tensor else [-1]
        name = str(spec.name or f"{prefix}-{number}")
        described.append({"name": name, "datatype": datatype or "BYTES", "shape": shape})
    return described


def _named(values: dict[Any, Any], schema: Schema | None) -> Any:
    """Check names against the schema, convert every column, and build a DataFrame (or a dict of tensors)."""
    if schema is None:
        return pd.DataFrame(values)
    if not schema.has_input_names() and schema.is_tensor_spec():
        raise InvalidInput("the model takes a tensor: send nested lists of numbers, not named values")
    specs = dict(zip(schema.input_names(), schema.inputs, strict=True))
    if missing := [name for name, spec in specs.items() if spec.required and name not in values]:
        raise InvalidInput(f"missing: {_listed(missing)}")
    if unknown := [name for name in values if name not in specs]:
        raise InvalidInput(f"the model does not know: {_listed(unknown)}; it takes {_listed(specs)}")
    if len({len(column) for column in values.values()}) > 1:
        raise InvalidInput("inputs differ in their number of rows")
    if schema.is_tensor_spec():
        arrays = {name: v if isinstance(v, np.ndarray) else _array(v, repr(name)) for name, v in values.items()}
        return {name: _fit(array, specs[name]) for name, array in arrays.items()}
    return pd.DataFrame({name: _column(values[name], spec) for name, spec in specs.items() if name in values})


def _column(values: Sequence[Any], spec: ColSpec) -> Any:
    """Convert one column to the signature's type; never guess: "1.5" is no number and true is no 1."""
    kind, name = spec.type, spec.name
    if kind in FLOATS:
        # None is a missing value: the model decides whether it takes NaN.
        _only(values, (int, float, type(None)), name, "a number")
        return np.array(values, dtype=FLOATS[kind])
    if kind in INTEGERS:
        _only(values, (int, float), name, "a whole number")
        limit = np.iinfo(INTEGERS[kind])
        for value in values:
            if type(value) is float and not value.is_integer():  # NaN and infinity are none either
                raise InvalidInput(f"{name!r} must be a whole number, got {value!r}")
            if not limit.min <= value <= limit.max:
                raise InvalidInput(f"{name!r} is out of range: {value!r}")
        return np.array([int(value) for value in values], dtype=INTEGERS[kind])
    if kind == DataType.boolean:
        _only(values, (bool,), name, "true or false")
        return np.array(values, dtype=bool)
    if kind == DataType.string:
        _only(values, (str, type(None)), name, "a string")
    if kind == DataType.datetime:
        _only(values, (str, type(None)), name, "a date as in ISO 8601")
        try:
            return pd.to_datetime(pd.Series(values), format="ISO8601")
        except ValueError as error:
            raise InvalidInput(f"{name!r} must be a date as in ISO 8601: {error}") from None
    return pd.Series(values, dtype=object)  # lists and objects: MLflow checks these against the signature itself


def _only(values: Sequence[Any], types: tuple[type, ...], name: str, wanted: str) -> None:
    for value in values:
        if type(value) not in types:  # exact: a bool is an int in Python, but no number in a request
            raise InvalidInput(f"{name!r} must be {wanted}, got {_short(value)}")


def _array(values: Any, what: str) -> np.ndarray:
    """Make an array of nested lists that are all of one shape; strings stay Python objects.

    NumPy must not choose the type by itself: an array of its own string type is as wide as the longest string,
    so that a small request could take all memory.
    """
    array = np.array(values, dtype=object)
    flat = array.ravel().tolist()
    kinds = set(map(type, flat))
    if kinds <= {int, float}:
        array = np.array(flat).reshape(array.shape)
    elif kinds == {bool}:
        array = array.astype(bool)
    elif kinds != {str}:
        raise InvalidInput(f"{what}: needs lists of equal lengths with only numbers, only booleans or only strings")
    if kinds != {str} and array.dtype.kind == "O":
        raise InvalidInput(f"{what}: a number is too large")
    return array


def _tensor(array: np.ndarray, schema: Schema | None) -> np.ndarray:
    if schema is None:
        return array
    if schema.has_input_names():
        raise InvalidInput(f"the model takes named tensors: {_listed(schema.input_names())}")
    return _fit(array, schema.inputs[0])


def _fit(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Check an array against a tensor's shape and type, and convert it without loss."""
    sizes = list(spec.shape)
    if array.ndim != len(sizes) or any(want not in (-1, got) for want, got in zip(sizes, array.shape, strict=True)):
        raise InvalidInput(f"got shape {list(array.shape)}, the model takes {sizes} (-1: any size)")
    if spec.type.kind in "OUS":
        if array.dtype.kind != "O":
            raise InvalidInput("the model takes strings")
        return array
    numeric = "iuf" if spec.type.kind in "iuf" else spec.type.kind
    if array.dtype.kind not in numeric:
        raise InvalidInput(f"got values of type {array.dtype.name}, the model takes {spec.type.name}")
    with np.errstate(all="ignore"):
        converted = array.astype(spec.type)
    if spec.type.kind in "iu" and not np.array_equal(converted, array):
        raise InvalidInput(f"values do not fit the model's type {spec.type.name}")
    return converted


def _v2_array(tensor: Any) -> np.ndarray:
    """Check a V2 tensor's data against its own datatype and shape."""
    name, datatype, shape = tensor.name, tensor.datatype, tensor.shape
    dtype = to_np_dtype(datatype)
    if dtype is None:
        raise InvalidInput(f"input {name!r} has unknown datatype {datatype!r}")
    array = _array(tensor.data, f"input {name!r}")
    if array.size != math.prod(shape):
        raise InvalidInput(f"input {name!r} has shape {shape} but {array.size} values")
    if array.ndim > 1 and list(array.shape) != shape:
        raise InvalidInput(f"input {name!r} has shape {shape} but data nested as {list(array.shape)}")
    if not array.size:
        raise InvalidInput(f"input {name!r} is empty")
    dtype = np.dtype(dtype)
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "O": "O"}[dtype.kind]
    converted = array.astype(dtype) if array.dtype.kind in allowed else None
    if converted is None or (dtype.kind in "iu" and not np.array_equal(converted, array)):
        raise InvalidInput(f"input {name!r} has values that are not {datatype}")
    return converted.reshape(shape)


def _listed(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _short(value: Any) -> str:
    return {list: "a list", dict: "an object"}.get(type(value)) or json.dumps(value)[:60]
