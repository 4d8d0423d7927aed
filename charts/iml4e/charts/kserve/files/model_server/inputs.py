"""Requests to model input, as the model's MLflow signature says. Nothing is guessed: "1.5" is no number, true is no 1.

One class for each kind of signature: `Columns`, `Tensors` and `Values`; without a signature `Anything`. Each reads both
protocols into the same plain form, so that waiting requests can be merged before the model is called.

Everything here raises `InvalidInput`, with a sentence for the caller, when the request is at fault.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from mlflow.types import ColSpec, DataType, ParamSchema, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property

from . import InvalidInput

INTEGERS = {DataType.integer: "int32", DataType.long: "int64"}
FLOATS = {DataType.float: "float32", DataType.double: "float64"}
V2_OF_COLUMN = {
    DataType.boolean: "BOOL",
    DataType.integer: "INT32",
    DataType.long: "INT64",
    DataType.float: "FP32",
    DataType.double: "FP64",
}
#: Datatypes of the V2 protocol, and their NumPy types.
V2_TYPES = {
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BYTES": "object",
}
NUMPY_TO_V2 = {np.dtype(numpy): v2 for v2, numpy in V2_TYPES.items()}
#: Bytes of an array of NumPy's own string type, in which each string takes as much as the longest.
MAX_STRINGS = 64 * 2**20
#: What pandas makes of strings: an object array before version 3, its own string array since.
STRINGS = pd.Series(["text"]).dtype


@dataclass(slots=True)
class Request:
    """A prediction request in plain form."""

    data: Any
    """What `Signature.model_input` takes: a list of one of these for each request."""
    rows: int
    key: Any = None
    """Requests with the same key can be merged; None: never."""
    params: dict[str, Any] | None = None
    id: str = ""
    outputs: dict[str, bool] | None = None
    """Outputs that a V2 request asks for, and whether as binary; None: all."""
    binary: bool = False
    """Whether outputs leave as binary tensors unless said otherwise."""


@dataclass(slots=True)
class Tensor:
    """One input of a V2 request: its values are checked against its datatype already."""

    name: str
    shape: list[int]
    datatype: str
    values: list[Any]
    raw: bool = False
    """Whether strings came as bytes (binary extension)."""

    def array(self) -> np.ndarray:
        """Return an array without missing values."""
        if None in self.values and not self.datatype.startswith("FP"):  # where null is NaN
            raise InvalidInput(f"input {self.name!r} has null: the model takes only numbers, booleans or strings there")
        values = [_text(value, self.name) for value in self.values] if self.raw else self.values
        return np.array(values, dtype=V2_TYPES[self.datatype]).reshape(self.shape)


def signature_of(schema: Schema | None, params: ParamSchema | None, *, from_type_hints: bool = False) -> "Signature":
    """Choose how requests are read for a model's signature."""
    if schema is None or not schema.inputs:
        return Anything(None, params)
    if schema.is_tensor_spec():
        return Tensors(schema, params)
    if schema.has_input_names():
        return Columns(schema, params)
    return Values(schema, params, as_list=from_type_hints)


class Signature:
    """What is common to all kinds of signature: envelopes of both protocols, and parameters."""

    def __init__(self, schema: Schema | None, params: ParamSchema | None) -> None:
        self.schema = schema
        self.specs = (
            {str(number if spec.name is None else spec.name): spec for number, spec in enumerate(schema.inputs)}
            if schema
            else {}
        )
        self.params = {spec.name: spec for spec in params.params} if params else {}

    # --- one kind of signature: see the subclasses

    def rows(self, instances: list[Any]) -> Request:
        """Read the rows of a V1 request."""
        raise NotImplementedError

    def tensors(self, tensors: dict[str, Tensor]) -> Request:
        """Read the tensors of a V2 request."""
        raise NotImplementedError

    def model_input(self, requests: Sequence[Request]) -> Any:
        """Build what the model takes, of one request or of several with the same key."""
        raise NotImplementedError

    # --- the protocols

    def v1(self, body: Any) -> Request:
        """Read `{"instances": [...], "params": {...}}`."""
        instances = body.get("instances") if isinstance(body, dict) else None
        if not isinstance(instances, list) or not instances:
            raise InvalidInput('the request must be a JSON object like {"instances": [...]} with at least one instance')
        if len(body) > 1:
            _known(body, ("instances", "params"), "the request")
        request = self.rows(instances)
        request.params = self._params(body.get("params"))
        return request

    def v2(self, body: Any, binary: memoryview | None = None) -> Request:
        """Read `{"inputs": [...]}`; `binary` is what follows the JSON in a request with binary tensors."""
        inputs = body.get("inputs") if isinstance(body, dict) else None
        if not isinstance(inputs, list) or not inputs:
            raise InvalidInput('the request must be a JSON object like {"inputs": [...]} with at least one tensor')
        body = {name: value for name, value in body.items() if value is not None}  # as pydantic writes what is not set
        _known(body, ("inputs", "id", "parameters", "outputs"), "the request")
        if not isinstance(body.get("id", ""), str):
            raise InvalidInput("id must be a string")
        parameters = dict(_object(body.get("parameters"), "parameters"))
        as_binary = _flag(parameters.pop("binary_data_output", False), "parameters.binary_data_output")
        _content_type(parameters, "parameters")
        outputs = _outputs(body["outputs"], as_binary) if body.get("outputs", []) != [] else None
        tensors: dict[str, Tensor] = {}
        offset = 0
        for number, each in enumerate(inputs):
            tensor, offset = _tensor(each, f"inputs[{number}]", binary, offset)
            if tensor.name in tensors:
                raise InvalidInput(f"input {tensor.name!r} appears twice")
            tensors[tensor.name] = tensor
        if binary is not None and offset != len(binary):
            raise InvalidInput(f"{len(binary) - offset} bytes follow the last binary tensor")
        if (
            not isinstance(self, Tensors)
            and len({tensor.shape[0] if tensor.shape else 1 for tensor in tensors.values()}) > 1
        ):
            raise InvalidInput("inputs differ in their number of rows")
        request = self.tensors(tensors)
        request.params = self._params(parameters or None)
        request.id, request.outputs, request.binary = body.get("id", ""), outputs, as_binary
        return request

    def _params(self, given: Any) -> dict[str, Any] | None:
        """Check inference parameters against the signature, and fill in its defaults."""
        if given is None and not self.params:
            return None
        given = _object(given, "params")
        if unknown := [name for name in given if name not in self.params]:
            takes = f"it takes {_listed(self.params)}" if self.params else "it takes none"
            raise InvalidInput(f"the model does not know the parameter {_listed(unknown)}; {takes}")
        return {
            name: _param(given[name], spec) if name in given else spec.default for name, spec in self.params.items()
        }

    def describe(self) -> list[dict[str, Any]]:
        """List the inputs the way the V2 metadata endpoint wants them."""
        return describe(self.schema, "input")


class Columns(Signature):
    """A signature of named columns: the model takes a DataFrame."""

    def __init__(self, schema: Schema, params: ParamSchema | None) -> None:
        super().__init__(schema, params)
        self.names = tuple(self.specs)
        self.labels = {name: spec.name for name, spec in self.specs.items()}  # a table may have numbers as names
        self.index = pd.Index(list(self.labels.values()))
        self.required = sum(spec.required for spec in self.specs.values())
        # the common case, many numbers of one type, is read as one block; types of lists have no hash
        kinds = {spec.type if isinstance(spec.type, DataType) else None for spec in self.specs.values()}
        self.block = FLOATS.get(kinds.pop()) if len(kinds) == 1 and self.required == len(self.names) else None

    def rows(self, instances: list[Any]) -> Request:
        """Read rows as objects or as lists in the signature's order; trailing optional columns may be left out."""
        kinds = set(map(type, instances))
        if kinds == {dict}:
            return self._objects(instances)
        if dict in kinds:
            raise InvalidInput("either all instances are JSON objects, or none")
        width = len(self.names)
        for number, row in enumerate(instances):
            if type(row) is not list:
                raise InvalidInput(f"instance {number} must be a list of {width} values or a JSON object")
            if len(row) != width:
                self._width(number, row)
        if self.block:
            return self._as_block(instances)
        columns = {}
        for position, name in enumerate(self.names):
            values = [row[position] if position < len(row) else None for row in instances]
            if any(position < len(row) for row in instances):
                columns[name] = values
        return self._columns(columns, len(instances))

    def _width(self, number: int, row: list[Any]) -> None:
        """Refuse a row of the wrong length."""
        missing = list(self.specs.values())[len(row) :]
        if len(row) > len(self.names) or any(spec.required for spec in missing):
            raise InvalidInput(f"instance {number} has {len(row)} values, the model takes {len(self.names)}")

    def _objects(self, instances: list[dict[str, Any]]) -> Request:
        names = self.names
        if self.block:
            try:
                rows = [[row[name] for name in names] for row in instances]
                if all(len(row) == len(names) for row in instances):
                    return self._as_block(rows)
            except KeyError:
                pass  # told below
        for number, row in enumerate(instances):
            if unknown := [name for name in row if name not in self.specs]:
                where = f"instance {number}: " if len(instances) > 1 else ""
                raise InvalidInput(
                    f"{where}the model does not know: {_listed(unknown)}; it takes {_listed(self.specs)}"
                )
            if missing := [name for name, spec in self.specs.items() if spec.required and name not in row]:
                where = f"instance {number}: " if len(instances) > 1 else ""
                raise InvalidInput(f"{where}missing: {_listed(missing)}")
        present = [name for name in names if any(name in row for row in instances)]
        return self._columns({name: [row.get(name) for row in instances] for name in present}, len(instances))

    def _as_block(self, rows: list[list[Any]]) -> Request:
        """Read rows of numbers that are all of one floating-point type."""
        if not set(map(type, chain.from_iterable(rows))) <= {float, int, type(None)}:
            for name, values in zip(self.names, zip(*rows, strict=True), strict=True):
                _only(values, (int, float, type(None)), name, "a number")
        try:
            with np.errstate(over="ignore"):
                block = np.array(rows, dtype=self.block)
        except OverflowError:
            block = np.array(np.inf)
        if np.isinf(block).any():
            raise InvalidInput(f"a number is too large for the type {self.block}")
        return Request(block, len(rows), "block")

    def tensors(self, tensors: dict[str, Tensor]) -> Request:
        """Read one tensor per column, or a single one of shape [rows, columns]."""
        only = next(iter(tensors.values())) if len(tensors) == 1 else None
        if only is not None and len(only.shape) == 2 and only.name not in self.specs:
            rows, width = only.shape
            if width != len(self.names):
                raise InvalidInput(f"input has shape {only.shape}, the model takes {len(self.names)} columns")
            values = only.values
            if only.raw and not any(spec.type == DataType.binary for spec in self.specs.values()):
                values = [_text(value, only.name) for value in values]
            return self.rows([values[row * width : (row + 1) * width] for row in range(rows)])
        columns, rows = {}, 0
        for name, tensor in tensors.items():
            if name in self.specs and isinstance(self.specs[name].type, DataType):
                if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
                    raise InvalidInput(f"input {name!r} has shape {tensor.shape}, a column has [rows] or [rows, 1]")
                binary = self.specs[name].type == DataType.binary
                columns[name] = tensor.values if binary or not tensor.raw else [_text(v, name) for v in tensor.values]
            elif name in self.specs:
                columns[name] = _complex(tensor)
            else:
                raise InvalidInput(f"the model does not know: {name!r}; it takes {_listed(self.specs)}")
            rows = len(columns[name])
        if missing := [name for name, spec in self.specs.items() if spec.required and name not in columns]:
            raise InvalidInput(f"missing: {_listed(missing)}")
        if self.block:
            return self._as_block(list(map(list, zip(*(columns[name] for name in self.names), strict=True))))
        return self._columns({name: columns[name] for name in self.names if name in columns}, rows)

    def _columns(self, columns: dict[str, Sequence[Any]], rows: int) -> Request:
        """Convert columns to the types of the signature."""
        data = {name: _column(values, self.specs[name]) for name, values in columns.items()}
        flat = all(isinstance(self.specs[name].type, DataType) for name in data)
        return Request(data, rows, (*data, *(array.dtype for array in data.values())) if flat else None)

    def model_input(self, requests: Sequence[Request]) -> pd.DataFrame:
        """Build one DataFrame."""
        first = requests[0].data
        if isinstance(first, np.ndarray):
            block = first if len(requests) == 1 else np.concatenate([request.data for request in requests])
            return pd.DataFrame(block, columns=self.index, copy=False)
        if len(requests) > 1:
            first = {name: pd.concat([pd.Series(r.data[name]) for r in requests], ignore_index=True) for name in first}
        table = pd.DataFrame(first, copy=False) if first else pd.DataFrame(index=range(requests[0].rows))
        return table.set_axis([self.labels[name] for name in first], axis=1)


class Tensors(Signature):
    """A signature of tensors: the model takes an array, or a dict of arrays where the tensors have names."""

    def __init__(self, schema: Schema, params: ParamSchema | None) -> None:
        super().__init__(schema, params)
        self.named = schema.has_input_names()
        self.only: TensorSpec = schema.inputs[0]

    def rows(self, instances: list[Any]) -> Request:
        """Read nested lists, or rows as objects of nested lists."""
        if not self.named:
            if any(isinstance(row, dict) for row in instances) and self.only.type.kind != "O":
                raise InvalidInput("the model takes a tensor: send nested lists of numbers, not named values")
            return self._request(_fit(_array(instances, "instances", self.only), self.only))
        if not all(isinstance(row, dict) for row in instances):
            raise InvalidInput(f"the model takes named tensors: {_listed(self.specs)}; send instances as JSON objects")
        for number, row in enumerate(instances):
            if row.keys() != self.specs.keys():
                self._names(row, f"instance {number}: " if number else "")
        return self._request(
            {
                name: _fit(_array([row[name] for row in instances], repr(name), spec), spec, name)
                for name, spec in self.specs.items()
            }
        )

    def _names(self, given: Iterable[str], where: str = "") -> None:
        """Refuse tensors that are missing or unknown."""
        if missing := [name for name in self.specs if name not in given]:
            raise InvalidInput(f"{where}missing: {_listed(missing)}")
        if unknown := [name for name in given if name not in self.specs]:
            raise InvalidInput(f"{where}the model does not know: {_listed(unknown)}; it takes {_listed(self.specs)}")

    def tensors(self, tensors: dict[str, Tensor]) -> Request:
        """Read the named tensors, or the only one under any name."""
        if self.named:
            self._names(tensors)
            return self._request({name: _fit(tensors[name].array(), spec, name) for name, spec in self.specs.items()})
        if len(tensors) > 1:
            raise InvalidInput(f"the model takes one input, got {len(tensors)}")
        return self._request(_fit(next(iter(tensors.values())).array(), self.only))

    def _request(self, data: np.ndarray | dict[str, np.ndarray]) -> Request:
        arrays = list(data.values()) if isinstance(data, dict) else [data]
        by_row = [spec.shape[:1] == (-1,) for spec in self.schema.inputs]
        # inputs of a fixed first size, like a sample rate, have no rows
        lengths = {len(array) for array, each in zip(arrays, by_row, strict=True) if each} or {1}
        if len(lengths) > 1:
            raise InvalidInput("inputs differ in their number of rows")
        free = all(by_row)
        return Request(data, lengths.pop(), tuple(array.shape[1:] for array in arrays) if free else None)

    def model_input(self, requests: Sequence[Request]) -> Any:
        """Build one array, or a dict of arrays."""
        if len(requests) == 1:
            return requests[0].data
        if self.named:
            return {name: np.concatenate([request.data[name] for request in requests]) for name in self.specs}
        return np.concatenate([request.data for request in requests])


class Values(Signature):
    """A signature of columns without names, as type hints make it: an instance is a value, or a list of them."""

    def __init__(self, schema: Schema, params: ParamSchema | None, as_list: bool) -> None:
        super().__init__(schema, params)
        self.columns: list[ColSpec] = schema.inputs
        if as_list:  # a signature does not know defaults of fields: MLflow checks them against the type hint
            self.columns = [ColSpec(_optional(spec.type), spec.name, spec.required) for spec in schema.inputs]
        self.as_list = as_list

    def rows(self, instances: list[Any]) -> Request:
        """Read values of the only column, or rows as lists."""
        width = len(self.columns)
        if width == 1:
            spec = self.columns[0]
            if isinstance(spec.type, DataType):  # [[1], [2]] says the same as [1, 2]
                instances = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in instances]
            return self._request([instances])
        for number, row in enumerate(instances):
            if not isinstance(row, list) or len(row) != width:
                got = f"has {len(row)} values" if isinstance(row, list) else "is no list"
                raise InvalidInput(f"instance {number} {got}, the model takes {width}")
        return self._request(list(map(list, zip(*instances, strict=True))))

    def tensors(self, tensors: dict[str, Tensor]) -> Request:
        """Read one tensor of shape [rows] or [rows, columns]."""
        if len(tensors) > 1:
            raise InvalidInput(f"the model takes one input, got {len(tensors)}")
        tensor = next(iter(tensors.values()))
        width = len(self.columns)
        if width == 1 and not isinstance(self.columns[0].type, DataType):
            return self._request([_complex(tensor)])
        if math.prod(tensor.shape[1:]) != width:
            raise InvalidInput(f"input has shape {tensor.shape}, the model takes {width} columns")
        binary = self.columns[0].type == DataType.binary
        values = tensor.values if binary or not tensor.raw else [_text(v, tensor.name) for v in tensor.values]
        return self._request([values[position::width] for position in range(width)])

    def _request(self, columns: list[list[Any]]) -> Request:
        data = [
            [_nested(value, spec.type, f"instance {number}", spec.required) for number, value in enumerate(values)]
            for values, spec in zip(columns, self.columns, strict=True)
        ]
        return Request(data, len(data[0]), "values")

    def model_input(self, requests: Sequence[Request]) -> Any:
        """Build a list of values, or a DataFrame without column names."""
        columns = [
            list(chain.from_iterable(request.data[position] for request in requests))
            for position in range(len(self.columns))
        ]
        if self.as_list:
            return _python(columns[0])  # MLflow compares types with the hint's: NumPy's are others
        return pd.DataFrame(dict(enumerate(map(_series, columns))))


class Anything(Signature):
    """No signature: rows as objects make a DataFrame, nested lists an array."""

    def rows(self, instances: list[Any]) -> Request:
        """Read what there is."""
        kinds = {isinstance(row, dict) for row in instances}
        if kinds == {True}:
            for number, row in enumerate(instances):
                if row.keys() != instances[0].keys():
                    odd = _listed(row.keys() ^ instances[0].keys())
                    raise InvalidInput(f"instance {number} does not have the same names as instance 0: {odd}")
            return Request(pd.DataFrame(instances), len(instances))
        if True in kinds:
            raise InvalidInput("either all instances are JSON objects, or none")
        return Request(_array(instances, "instances", None), len(instances))

    def tensors(self, tensors: dict[str, Tensor]) -> Request:
        """Read one array, or several as columns."""
        if len(tensors) == 1:
            array = next(iter(tensors.values())).array()
            return Request(array, len(array) if array.ndim else 1)
        for tensor in tensors.values():
            if len(tensor.shape) not in (1, 2) or math.prod(tensor.shape[1:]) != 1:
                raise InvalidInput(f"input {tensor.name!r} has shape {tensor.shape}, a column has [rows] or [rows, 1]")
        table = pd.DataFrame({name: tensor.array().ravel() for name, tensor in tensors.items()})
        return Request(table, len(table))

    def model_input(self, requests: Sequence[Request]) -> Any:
        """Hand on; requests without a signature are never merged."""
        return requests[0].data


def describe(schema: Schema | None, prefix: str) -> list[dict[str, Any]]:
    """List a schema's columns or tensors the way the V2 metadata endpoint wants them."""
    described: list[dict[str, Any]] = []
    for number, spec in enumerate(schema.inputs if schema else []):
        if isinstance(spec, TensorSpec):
            datatype, shape = NUMPY_TO_V2.get(spec.type, "BYTES"), [int(size) for size in spec.shape]
        else:
            datatype, shape = _v2_type(spec.type)
        entry = {
            "name": str(spec.name if spec.name is not None else f"{prefix}-{number}"),
            "datatype": datatype,
            "shape": shape,
        }
        parameters: dict[str, Any] = {}
        if isinstance(spec, ColSpec):
            if isinstance(spec.type, DataType):
                if spec.type == DataType.binary:
                    parameters["content_type"] = "base64"
                elif spec.type == DataType.datetime:
                    parameters["content_type"] = "datetime"
            elif datatype == "BYTES" and not _is_list_of_scalars(spec.type):
                parameters["content_type"] = "json"
            if not spec.required:
                parameters["optional"] = True
        described.append(entry | ({"parameters": parameters} if parameters else {}))
    return described


def _v2_type(kind: Any) -> tuple[str, list[int]]:
    """Return the V2 datatype and shape of a column's type; what V2 has no type for is JSON in BYTES."""
    if isinstance(kind, DataType):
        return V2_OF_COLUMN.get(kind, "BYTES"), [-1]
    if isinstance(kind, Array) and isinstance(kind.dtype, (DataType, Array)):
        datatype, shape = _v2_type(kind.dtype)
        return datatype, [*shape, -1]
    return "BYTES", [-1]


def _is_list_of_scalars(kind: Any) -> bool:
    while isinstance(kind, Array):
        kind = kind.dtype
    return isinstance(kind, DataType)


# --- values


def _column(values: Sequence[Any], spec: ColSpec) -> Any:
    """Convert one column to the signature's type. Missing values of optional columns are null."""
    kind, name = spec.type, spec.name
    if not isinstance(kind, DataType):
        nested = [_nested(value, kind, f"{name!r} of instance {n}", spec.required) for n, value in enumerate(values)]
        return _series(nested)
    optional = () if spec.required else (type(None),)
    missing = None in values
    if kind in FLOATS:
        # None is a missing value: the model decides whether it takes NaN.
        _only(values, (int, float, type(None)), name, "a number")
        try:
            with np.errstate(over="ignore"):
                array = np.array(values, dtype=FLOATS[kind])
        except OverflowError:
            array = np.array(np.inf)
        if np.isinf(array).any():
            raise InvalidInput(f"{name!r} has a number that is too large for the type {FLOATS[kind]}")
        return array
    if kind in INTEGERS:
        _only(values, (int, float, *optional), name, "a whole number")
        whole = [value if value is None else _whole(value, kind, name) for value in values]
        # as in a table that was read with missing values: pandas' nullable integers
        return pd.array(whole, dtype=INTEGERS[kind].capitalize()) if missing else np.array(whole, dtype=INTEGERS[kind])
    if kind == DataType.boolean:
        _only(values, (bool, *optional), name, "true or false")
        return _series(values) if missing else np.array(values, dtype=bool)
    if kind == DataType.string:
        _only(values, (str, type(None)), name, "a string")
        if isinstance(STRINGS, pd.StringDtype) and any(value is not None for value in values):
            return pd.array(values, dtype=STRINGS)
    elif kind == DataType.datetime:
        _only(values, (str, type(None)), name, "a date as in ISO 8601")
        return np.array([_date(value, name) for value in values], dtype="datetime64[ns]")
    elif kind == DataType.binary:
        return _series([value if value is None else _bytes(value, repr(name)) for value in values])
    return _series(values)


def _series(values: Sequence[Any]) -> np.ndarray:
    """Make an array of Python objects; NumPy must not look into them."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _whole(value: Any, kind: DataType, name: Any) -> int:
    limit = np.iinfo(INTEGERS[kind])
    if type(value) is float and not value.is_integer():  # NaN and infinity are none either
        raise InvalidInput(f"{name!r} must be a whole number, got {value!r}")
    if not limit.min <= value <= limit.max:
        raise InvalidInput(f"{name!r} is out of range: {_short(value)}")
    return int(value)


def _date(value: str | None, name: Any) -> Any:
    """Read a date; what has an offset becomes UTC."""
    if value is None:
        return np.datetime64("NaT", "ns")
    try:
        date = pd.Timestamp(value) if value[:4].isdigit() else None
        if date is not None:
            return (date.tz_convert("UTC").tz_localize(None) if date.tzinfo else date).as_unit("ns").to_datetime64()
    except (ValueError, OverflowError):
        pass
    limits = "between the years 1678 and 2261"
    raise InvalidInput(f"{name!r} must be a date as in ISO 8601, {limits}, got {_short(value)}")


def _bytes(value: Any, what: str) -> bytes:
    """Decode base64; bytes of a binary tensor are what they are."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidInput(f"{what} must be a string of base64, got {_short(value)}")
    try:
        return base64.b64decode("".join(value.split()), validate=True)  # MLflow's examples have line ends
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{what} must be base64, got {_short(value)}") from None


def _text(value: Any, name: str) -> Any:
    """Decode a string of a binary tensor."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"input {name!r} has a string that is not valid UTF-8") from None


def _scalar(value: Any, kind: DataType, what: str) -> Any:
    """Convert a value inside a list or an object, to the NumPy type that MLflow gives the model there."""
    if kind in FLOATS:
        _only((value,), (int, float), what, "a number")
        try:
            with np.errstate(over="ignore"):
                number = np.dtype(FLOATS[kind]).type(value)
        except OverflowError:
            number = np.inf
        if np.isinf(number):
            raise InvalidInput(f"{what} is too large for the type {FLOATS[kind]}")
        return number
    if kind in INTEGERS:
        _only((value,), (int, float), what, "a whole number")
        return np.dtype(INTEGERS[kind]).type(_whole(value, kind, what))
    if kind == DataType.boolean:
        _only((value,), (bool,), what, "true or false")
        return np.bool_(value)
    if kind == DataType.string:
        _only((value,), (str,), what, "a string")
        return value
    if kind == DataType.datetime:
        _only((value,), (str,), what, "a date as in ISO 8601")
        return pd.Timestamp(_date(value, what))
    return _bytes(value, what)


def _nested(value: Any, kind: Any, what: str, required: bool = True) -> Any:
    """Check a value against a list, object or map type, and convert what is in it."""
    if isinstance(kind, AnyType):
        _shallow(value, what)
        return value
    if value is None:
        if required:
            raise InvalidInput(f"{what} must not be null")
        return None
    if isinstance(kind, DataType):
        return _scalar(value, kind, what)
    if isinstance(kind, Array):
        if not isinstance(value, list):
            raise InvalidInput(f"{what} must be a list, got {_short(value)}")
        if isinstance(kind.dtype, DataType) and kind.dtype in FLOATS:
            value = [math.nan if item is None else item for item in value]  # as MLflow does
        items = [_nested(item, kind.dtype, f"{what}[{number}]") for number, item in enumerate(value)]
        plain = isinstance(kind.dtype, DataType) and kind.dtype not in (
            DataType.binary,
            DataType.string,
            DataType.datetime,
        )
        return [item.item() for item in items] if plain else items  # as MLflow does: plain Python in lists
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be an object, got {_short(value)}")
    if isinstance(kind, Map):
        return {name: _nested(item, kind.value_type, f"{what}.{name}", required) for name, item in value.items()}
    assert isinstance(kind, Object), kind
    properties = {each.name: each for each in kind.properties}
    if missing := [name for name, each in properties.items() if each.required and name not in value]:
        raise InvalidInput(f"{what} lacks {_listed(missing)}")
    if unknown := [name for name in value if name not in properties]:
        raise InvalidInput(f"{what} has unknown {_listed(unknown)}; it takes {_listed(properties)}")
    return {
        name: _nested(item, properties[name].dtype, f"{what}.{name}", properties[name].required)
        for name, item in value.items()
    }


def _optional(kind: Any) -> Any:
    """Return a type whose fields may all be left out."""
    if isinstance(kind, Array):
        return Array(_optional(kind.dtype))
    if isinstance(kind, Map):
        return Map(_optional(kind.value_type))
    if isinstance(kind, Object):
        return Object([Property(each.name, _optional(each.dtype), required=False) for each in kind.properties])
    return kind


def _python(value: Any) -> Any:
    """Turn NumPy's scalars, at any depth, into Python's."""
    if isinstance(value, list):
        return [_python(item) for item in value]
    if isinstance(value, dict):
        return {name: _python(item) for name, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _shallow(value: Any, what: str, depth: int = 0) -> None:
    """Refuse what is nested so deeply that no answer could repeat it (see `outputs.plain`)."""
    if depth > 50:
        raise InvalidInput(f"{what} is nested more than 50 deep")
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _shallow(item, what, depth + 1)


def _param(value: Any, spec: Any) -> Any:
    """Convert one inference parameter to plain Python."""
    what = f"parameter {spec.name!r}"
    if value is None:
        return None

    def one(item: Any, where: str) -> Any:
        if not isinstance(spec.dtype, DataType):
            return _nested(item, spec.dtype, where)
        converted = _scalar(item, spec.dtype, where)
        if isinstance(converted, pd.Timestamp):
            return converted.to_pydatetime()
        return converted.item() if isinstance(converted, np.generic) else converted

    if spec.shape is None:
        return one(value, what)
    if not isinstance(value, list):
        raise InvalidInput(f"{what} must be a list, got {_short(value)}")
    return [one(item, f"{what}[{number}]") for number, item in enumerate(value)]


def _only(values: Sequence[Any], types: tuple[type, ...], name: Any, wanted: str) -> None:
    """Refuse values of other types; exact: a bool is an int in Python, but no number in a request."""
    if set(map(type, values)) <= set(types):
        return
    odd = next(value for value in values if type(value) not in types)
    what = name if isinstance(name, str) and name.startswith(("instance ", "parameter ", "'")) else repr(name)
    raise InvalidInput(f"{what} must be {wanted}, got {_short(odd)}")


# --- tensors


def _array(values: Any, what: str, spec: TensorSpec | None) -> np.ndarray:
    """Make an array of nested lists that are all of one shape; strings stay Python objects.

    NumPy must not choose the type by itself: an array of its own string type is as wide as the longest string,
    so that a small request could take all memory.
    """
    if spec is not None and spec.type.kind == "O" and len(spec.shape) == 1:
        return _series(values)
    try:
        array = np.array(values, dtype=object)
    except ValueError:  # ragged
        array = np.empty(0, dtype=object)
    flat = array.ravel().tolist()
    kinds = set(map(type, flat))
    if spec is not None and -1 in spec.shape[1:] and (list in kinds or not array.size):
        return _series([_array(row, what, None).astype(spec.type) for row in values])  # MLflow's form of ragged input
    if spec is not None and spec.type.kind == "O" and array.size and kinds <= {str, int, float, bool, type(None)}:
        if math.inf in flat or -math.inf in flat:
            raise InvalidInput(f"{what}: a number is too large")
        return array  # mixed, as rows of a table: ["a", 10]
    if spec is not None and spec.type.kind == "f" and type(None) in kinds:
        flat = [math.nan if value is None else value for value in flat]
        kinds = set(map(type, flat))
    elif spec is not None and spec.type.kind in "iu" and kinds == {int, float}:  # a float would take digits away
        flat = [int(value) if type(value) is float and value.is_integer() else value for value in flat]
    if kinds <= {int, float} and kinds:
        array = np.array(flat).reshape(array.shape)
    elif kinds == {bool}:
        array = array.astype(bool)
    elif spec is not None and spec.type.kind == "M" and kinds <= {str, type(None)}:
        return array  # null is a missing date
    elif kinds != {str}:
        raise InvalidInput(f"{what}: needs lists of equal lengths with only numbers, only booleans or only strings")
    if kinds != {str} and (array.dtype.kind == "O" or (array.dtype.kind == "f" and np.isinf(array).any())):
        raise InvalidInput(f"{what}: a number is too large")
    return array


def _fit(array: np.ndarray, spec: TensorSpec, name: str = "") -> np.ndarray:
    """Check an array against a tensor's shape and type, and convert it without loss."""
    what = f"{name!r}: " if name else ""
    sizes = list(spec.shape)
    ragged = array.dtype.kind == "O" and array.ndim == 1 and (-1 in sizes[1:] or spec.type.kind == "O")
    if ragged and len(array) and not isinstance(array[0], str):
        return array
    if array.ndim != len(sizes) or any(want not in (-1, got) for want, got in zip(sizes, array.shape, strict=True)):
        raise InvalidInput(f"{what}got shape {list(array.shape)}, the model takes {sizes} (-1: any size)")
    if spec.type.kind == "O":
        return array.astype(object, copy=False)
    if spec.type.kind in "US":
        if array.dtype.kind != "O":
            raise InvalidInput(f"{what}the model takes strings")
        if 4 * array.size * max(map(len, array.ravel()), default=0) > MAX_STRINGS:
            raise InvalidInput(f"{what}an array of strings as wide as the longest is too large: send fewer at a time")
        return array.astype(str)
    if spec.type.kind == "M":
        return _dates(array, spec, name)
    numeric = "iuf" if spec.type.kind in "iuf" else spec.type.kind
    if array.dtype.kind not in numeric:
        raise InvalidInput(f"{what}got values of type {array.dtype.name}, the model takes {spec.type.name}")
    if array.dtype == spec.type:
        return array
    with np.errstate(all="ignore"):
        converted = array.astype(spec.type)
    if spec.type.kind in "iu" and not np.array_equal(converted, array):
        raise InvalidInput(f"{what}values do not fit the model's type {spec.type.name}")
    if spec.type.kind == "f" and np.isinf(converted).any():
        raise InvalidInput(f"{what}a number is too large for the model's type {spec.type.name}")
    return converted


def _dates(array: np.ndarray, spec: TensorSpec, name: str) -> np.ndarray:
    """Convert strings, or null, to dates of the tensor's unit."""
    what = f"{name!r}: " if name else ""
    flat = array.ravel().tolist()
    if not set(map(type, flat)) <= {str, type(None)}:
        raise InvalidInput(f"{what}the model takes dates: strings as in ISO 8601")
    dates = np.array([_date(value, name or "instances") for value in flat], dtype="datetime64[ns]")
    converted = dates.astype(spec.type).reshape(array.shape)
    if not np.array_equal(converted.ravel().astype(dates.dtype), dates, equal_nan=True):
        raise InvalidInput(f"{what}a date is finer than the model's type {spec.type.name}")
    return converted


def _tensor(tensor: Any, what: str, binary: memoryview | None, offset: int) -> tuple[Tensor, int]:
    """Read one input of a V2 request, and say where in the binary part the next one starts."""
    if not isinstance(tensor, dict):
        raise InvalidInput(f"{what} must be an object with name, shape, datatype and data")
    _known(tensor, ("name", "shape", "datatype", "data", "parameters"), what)
    parameters = dict(_object(tensor.get("parameters"), f"{what}.parameters"))
    size = parameters.pop("binary_data_size", None)
    fields = {"name": str, "shape": list, "datatype": str} | ({"data": list} if size is None else {})
    for name, kind in fields.items():
        if not isinstance(tensor.get(name), kind):
            raise InvalidInput(f"{what}.{name} must be a {'string' if kind is str else 'list'}")
    kind = _content_type(parameters, f"{what}.parameters")
    if parameters:
        raise InvalidInput(f"{what}.parameters has unknown {_listed(parameters)}")
    name, shape, datatype = tensor["name"], tensor["shape"], tensor["datatype"]
    if len(shape) > 32 or not all(type(length) is int and 0 <= length <= 2**31 for length in shape):
        raise InvalidInput(f"{what}.shape must be a list of a few whole numbers")
    if datatype not in V2_TYPES:
        raise InvalidInput(f"input {name!r} has unknown datatype {datatype!r}")
    count = math.prod(shape)
    if size is not None:
        values, end = _binary(name, datatype, count, size, binary, offset)
        return Tensor(name, shape, datatype, values, datatype == "BYTES"), end
    data = tensor["data"]
    if list in set(map(type, data)):
        nested, data = flattened(data)
        if list in set(map(type, data)):
            raise InvalidInput(f"input {name!r} has lists of unequal lengths: needs lists of equal lengths")
        if nested != shape:
            raise InvalidInput(f"input {name!r} has shape {shape} but data nested as {nested}")
    if len(data) != count:
        raise InvalidInput(f"input {name!r} has shape {shape} but {len(data)} values")
    if not data:
        raise InvalidInput(f"input {name!r} is empty")
    values = _checked(name, datatype, data)
    if kind == "base64" and datatype == "BYTES":  # bytes, as if they had come in a binary tensor
        values = [value if value is None else _bytes(value, f"input {name!r}") for value in values]
        return Tensor(name, shape, datatype, values, True), offset
    return Tensor(name, shape, datatype, values), offset


def flattened(values: list[Any]) -> tuple[list[int], list[Any]]:
    """Return shape and items of nested lists; where lengths differ, the items are lists themselves."""
    shape, flat = [len(values)], values
    while flat and all(isinstance(item, list) for item in flat) and len(set(map(len, flat))) == 1 and flat[0]:
        shape.append(len(flat[0]))
        flat = list(chain.from_iterable(flat))
    return shape, flat


def _checked(name: str, datatype: str, data: list[Any]) -> list[Any]:
    """Check JSON values against a V2 datatype; null is a missing value."""
    dtype = np.dtype(V2_TYPES[datatype])
    kinds = set(map(type, data)) - {type(None)}
    allowed = {"b": {bool}, "i": {int, float}, "u": {int, float}, "f": {int, float}, "O": {str}}[dtype.kind]
    fits = kinds <= allowed
    if fits and dtype.kind in "iu":
        limit = np.iinfo(dtype)
        fits = all(value is None or (value == value // 1 and limit.min <= value <= limit.max) for value in data)
        if fits and float in kinds:
            data = [value if value is None else int(value) for value in data]
    elif fits and dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        fits = all(value is None or abs(value) <= limit for value in data)
    if not fits:
        raise InvalidInput(f"input {name!r} has values that are not {datatype}")
    return data


def _binary(
    name: str, datatype: str, count: int, size: Any, binary: memoryview | None, offset: int
) -> tuple[list[Any], int]:
    """Read a binary tensor: little-endian numbers, or strings that each follow their length in four bytes."""
    if binary is None:
        raise InvalidInput(
            f"input {name!r} has binary_data_size, but the header Inference-Header-Content-Length is missing"
        )
    if type(size) is not int or not 0 <= size <= len(binary) - offset:
        raise InvalidInput(
            f"input {name!r} has binary_data_size {_short(size)}, but {len(binary) - offset} bytes are left"
        )
    part = binary[offset : offset + size]
    if datatype != "BYTES":
        dtype = np.dtype(V2_TYPES[datatype]).newbyteorder("<")
        if size != count * dtype.itemsize:
            raise InvalidInput(f"input {name!r} needs {count * dtype.itemsize} bytes for {count} values, got {size}")
        values = np.frombuffer(part, dtype=dtype).tolist()
        if dtype.kind == "f" and not all(map(math.isfinite, values)):
            values = [value if math.isfinite(value) else None if math.isnan(value) else value for value in values]
    else:
        values, place = [], 0
        while place + 4 <= size:
            (length,) = struct.unpack_from("<I", part, place)
            values.append(bytes(part[place + 4 : place + 4 + length]))
            place += 4 + length
        if place != size or len(values) != count:
            raise InvalidInput(f"input {name!r} needs {count} strings, each after its length in four bytes")
    if not values:
        raise InvalidInput(f"input {name!r} is empty")
    return values, offset + size


def _complex(tensor: Tensor) -> list[Any]:
    """Turn a tensor into values of a column of lists or objects: nested lists, or JSON in strings."""
    values = [_text(value, tensor.name) for value in tensor.values] if tensor.raw else tensor.values
    if len(tensor.shape) == 1:
        if tensor.datatype != "BYTES":
            raise InvalidInput(f"input {tensor.name!r} must have one list per row, or BYTES with JSON in each string")
        try:
            return [value if value is None else json.loads(value) for value in values]
        except (ValueError, RecursionError):
            raise InvalidInput(f"input {tensor.name!r} must hold JSON in each string") from None
    nested: Any = values
    for length in reversed(tensor.shape[1:]):
        nested = [nested[start : start + length] for start in range(0, len(nested), length or 1)]
    return nested


# --- envelopes


def _known(given: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise InvalidInput(f"{what} has unknown {_listed(unknown)}; known are {_listed(known)}")


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object, got {_short(value)}")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{what} must be true or false, got {_short(value)}")
    return value


def _content_type(parameters: dict[str, Any], what: str) -> str | None:
    """Return MLServer's hint; all but base64, for an input, mean what happens here anyway, others are refused."""
    kind = parameters.pop("content_type", None)
    if kind not in (None, "pd", "np", "str", "base64", "datetime", "json"):
        raise InvalidInput(f"{what}.content_type {_short(kind)} is not supported; leave it out")
    return kind


def _outputs(outputs: Any, as_binary: bool) -> dict[str, bool]:
    """Read which outputs a V2 request asks for."""
    if not isinstance(outputs, list):
        raise InvalidInput("outputs must be a list of objects with a name")
    wanted = {}
    for number, output in enumerate(outputs):
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise InvalidInput(f"outputs[{number}] must be an object with a name")
        _known(output, ("name", "parameters"), f"outputs[{number}]")
        parameters = dict(_object(output.get("parameters"), f"outputs[{number}].parameters"))
        wanted[output["name"]] = _flag(
            parameters.pop("binary_data", as_binary), f"outputs[{number}].parameters.binary_data"
        )
        _content_type(parameters, f"outputs[{number}].parameters")
        if parameters:
            raise InvalidInput(f"outputs[{number}].parameters has unknown {_listed(parameters)}")
    return wanted


def _listed(names: Iterable[Any]) -> str:
    names = [str(name)[:100] for name in names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _short(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = (
        json.dumps(value, default=lambda _: "bytes")
        if not isinstance(value, int) or abs(value) < 2**70
        else "a huge number"
    )
    return text if len(text) <= 60 else text[:60] + "…"
