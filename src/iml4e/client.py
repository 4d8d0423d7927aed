"""Asks a served model, in the protocols V1 and V2."""

import base64
import json
import math
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iml4e import Error

INFINITE = (
    "infinity cannot be sent to a model, as JSON has no number for it: leave the value empty, or send a finite one"
)


@dataclass
class Model:
    """A model behind the gateway."""

    url: str
    """Address of the platform, such as http://localhost:30080."""
    namespace: str
    name: str
    timeout: float = 30
    """Seconds that an answer may take."""
    version: str = field(default="", compare=False)
    """Version that gave the last answer."""

    @property
    def base(self) -> str:
        """Address below which the model's own paths start."""
        return f"{self.url.rstrip('/')}/models/{self.namespace}/{self.name}"

    @property
    def v1(self) -> str:
        """Path of predictions by V1."""
        return f"/v1/models/{self.name}:predict"

    @property
    def v2(self) -> str:
        """Path of metadata and readiness by V2; inference is below it."""
        return f"/v2/models/{self.name}"

    def predict(self, instances: Any, params: dict[str, Any] | None = None) -> Any:
        """Predict by V1.

        Args:
            instances: rows as lists or as dicts by column, or a pandas DataFrame, or a NumPy array.
            params: inference parameters of the model's signature.

        Returns:
            The predictions, as JSON has them.

        Raises:
            Error: no answer, or an error; the sentence is the model's own.
        """
        body = {"instances": plain(instances)} | ({"params": plain(params)} if params else {})
        return self._answer("POST", self.v1, json=body)["predictions"]

    def infer(self, inputs: list[dict[str, Any]], parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Predict by V2: tensors in (`name`, `shape`, `datatype`, `data`), tensors out.

        Raises:
            Error: no answer, or an error; the sentence is the model's own.
        """
        body = {"inputs": inputs} | ({"parameters": parameters} if parameters else {})
        return self._answer("POST", self.v2 + "/infer", json=body)["outputs"]

    def metadata(self) -> dict[str, Any]:
        """Names, types and shapes of the inputs and outputs, and the version.

        Raises:
            Error: no answer, or an error.
        """
        return self._answer("GET", self.v2)

    def ready(self) -> bool:
        """Whether the model answers."""
        try:
            return self.request("GET", self.v2 + "/ready").ok
        except Error:
            return False

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Send any request below the model's address, and return the response (`requests.Response`), errors included.

        Raises:
            Error: there is no answer.
        """
        import requests

        try:
            answer = requests.request(method, self.base + path, **{"timeout": self.timeout, **options})
        except requests.RequestException as error:
            kind = "in time" if isinstance(error, requests.Timeout) else f"({type(error).__name__})"
            raise Error(f"{self.base} does not answer {kind}: is IML4E_URL right, and the platform up?") from None
        self.version = answer.headers.get("x-model-version", "")
        return answer

    def _answer(self, method: str, path: str, **options: Any) -> Any:
        answer = self.request(method, path, **options)
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.ok and isinstance(content, dict):
            return content
        said = content.get("error") if isinstance(content, dict) else ""
        if not said and answer.status_code in (404, 502, 503):
            said = "nothing is served there; `iml4e models` lists what is"
        raise Error(f"{self.name} answers {answer.status_code}: {said or answer.text[:200] or 'nothing'}")


def wait(model: Model, seconds: float = 60) -> None:
    """Wait until a model answers at the gateway: a new route takes some seconds to reach the gateway.

    Raises:
        Error: it does not.
    """
    start = time.monotonic()
    while not model.ready():
        if time.monotonic() - start > seconds:
            raise Error(f"{model.base} does not answer after {seconds:.0f} s; `iml4e models` says why")
        time.sleep(0.5)


def same(answer: Any, wanted: Any) -> bool:
    """Whether an answer is the expected one: numbers may differ in the last digits, which depend on the batch and the machine."""
    if isinstance(answer, list) and isinstance(wanted, list):
        return len(answer) == len(wanted) and all(map(same, answer, wanted))
    if isinstance(answer, dict) and isinstance(wanted, dict):
        return answer.keys() == wanted.keys() and all(same(answer[key], wanted[key]) for key in wanted)
    if isinstance(answer, float) and isinstance(wanted, float | int):
        return math.isclose(answer, wanted, rel_tol=1e-6, abs_tol=1e-9)
    return answer == wanted


@dataclass
class Question:
    """What a JSON file asks: rows by V1, or tensors by V2."""

    rows: list[Any]
    params: dict[str, Any]
    tensors: list[dict[str, Any]] = field(default_factory=list)
    """Of a V2 request, which has no rows then."""


def read_file(path: Path) -> str:
    """Text of a file in UTF-8, with or without a byte order mark.

    Raises:
        Error: it cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise Error(f"cannot read {path}: {error.strerror}") from None
    if "\0" in text:  # UTF-16 without a mark
        raise Error(f"{path} is not in UTF-8: save it as UTF-8, with `iconv -f ENCODING -t UTF-8` for example")
    return text


def read_json(text: str, columns: Callable[[], Collection[str]] = tuple) -> Question:
    """Read rows as JSON: a list, one object by column, or the body of a request by V1, V2 or MLflow's own server.

    Args:
        text: the JSON.
        columns: tells the model's columns, of which one may be named `inputs`.

    Raises:
        Error: it is none of these.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Error(f"--data is not JSON: {error}") from None
    if isinstance(body, list):
        return Question(body, {})
    if not isinstance(body, dict):
        raise Error(
            f'--data is {json.dumps(body)[:40]}, which is no row: give a list of rows, or {{"instances": [...]}}'
        )
    tensors = body.get("inputs")
    if isinstance(tensors, list) and tensors and all(_is_tensor(each) for each in tensors):
        _only(body, "inputs", "parameters", "id")
        return Question([], _params(body, "parameters"), tensors)
    envelope = next((name for name in ("instances", "dataframe_split", "dataframe_records") if name in body), "")
    if not envelope and isinstance(tensors, list | dict) and body.keys() <= {"inputs", "params"}:
        envelope = "" if "inputs" in columns() else "inputs"
    if not envelope:
        return Question([body], {})
    _only(body, envelope, "params", "signature_name")  # TensorFlow Serving's clients send the last one
    rows = body[envelope]
    if envelope == "dataframe_split":
        rows = _split(rows)
    elif envelope == "inputs" and isinstance(rows, dict):
        rows = _columns(rows)
    if not isinstance(rows, list):
        raise Error(f'"{envelope}" in the data must be a list of rows')
    return Question(rows, _params(body, "params"))


def _split(table: Any) -> list[Any]:
    """Rows of MLflow's `dataframe_split`: objects by column, or lists where it names no columns."""
    rows = table.get("data") if isinstance(table, dict) else None
    names = table.get("columns") if isinstance(table, dict) else None
    if not isinstance(rows, list) or not isinstance(names, list | None):
        raise Error('"dataframe_split" in the data must be an object with the lists columns and data')
    if names is None:
        return rows
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise Error('"dataframe_split" in the data has a column twice')
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            raise Error(
                f'row {number} of "dataframe_split" in the data is no list of {len(names)} values, one a column'
            )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _columns(table: dict[str, Any]) -> list[Any]:
    """Rows of MLflow's `inputs` as lists by column."""
    if not all(isinstance(each, list) for each in table.values()) or len(set(map(len, table.values()))) > 1:
        raise Error('"inputs" in the data must be a list of rows, or an object of equally long lists by column')
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and {"name", "shape", "datatype", "data"} <= value.keys()


def _only(body: dict[str, Any], *known: str) -> None:
    if unknown := [name for name in body if name not in known]:
        raise Error(
            f"the data has {', '.join(unknown)} beside {known[0]}: only {' and '.join(known[1:])} may stand there"
        )


def _params(body: dict[str, Any], name: str) -> dict[str, Any]:
    params = body.get(name)
    if params is not None and not isinstance(params, dict):
        raise Error(f'"{name}" in the data must be an object')
    return params or {}


def by_row(outputs: list[dict[str, Any]]) -> list[Any]:
    """Rows of the tensors that V2 answers: values of one tensor, objects of several; one object where the lengths differ."""
    columns = {each["name"]: _nested(each["data"], each["shape"]) for each in outputs}
    if len(columns) == 1:
        return next(iter(columns.values()))
    if len(set(map(len, columns.values()))) > 1:
        return [columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _nested(values: list[Any], shape: list[int]) -> list[Any]:
    """Nest flat values as a shape says."""
    if math.prod(shape) != len(values):  # nested already
        return values
    for length in reversed(shape[1:]):
        values = [values[start : start + length] for start in range(0, len(values), length or 1)]
    return values


def read_csv(text: str, metadata: dict[str, Any]) -> list[Any]:
    """Rows of a CSV file with a header, in the types that a model's V2 metadata names.

    Rows are objects by column, or lists for a model that takes one tensor. An empty field is null. For a model without a
    signature, a column of numbers alone is numbers.

    Raises:
        Error: no row, or a field that is not of its column's type.
    """
    import csv
    import io

    columns = {each["name"]: each for each in metadata.get("inputs", [])}
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a field may be an image
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    try:
        names = list(reader.fieldnames or [])
        found = list(reader)
    except csv.Error as error:
        raise Error(f"the data is not CSV: {error} in line {reader.line_num}") from None
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise Error(
            f"the header of the data has {', '.join(map(repr, twice))} more than once: give each column its own name"
        )
    tensor = next(iter(columns.values())) if len(columns) == 1 and not columns.keys() & set(names) else None
    known = "" in columns or (tensor and tensor["shape"][1:] == [len(names)])
    taken = names[1:] if names[:1] == [""] and not known else names  # the index that pandas writes
    rows = []
    for number, row in enumerate(found, 1):
        if None in row or None in row.values():
            raise Error(f"row {number} of the data has not as many fields as the header has names ({len(names)})")
        fields = {name: _field(row[name], tensor or columns.get(name, {}), number, name) for name in taken}
        rows.append(list(fields.values()) if tensor else fields)
    if not rows:
        raise Error("the data has no row below its header")
    if not columns:
        for name in taken:
            for number, (row, value) in enumerate(zip(rows, _numbers([row[name] for row in rows]), strict=True), 1):
                if isinstance(value, float) and math.isinf(value):
                    raise Error(f"row {number} of the data, column {name}: {INFINITE}")
                row[name] = value
    return rows


def _whole(text: str) -> int:
    """A whole number, also as 2.0, as pandas writes whole numbers of a column with missing values."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer() or abs(value) > 2**53:  # beyond, a float has lost digits
            raise
        return int(value)


def _numbers(texts: list[str]) -> list[Any]:
    """A column without a type as numbers if all its fields are some or empty, as pandas reads it; else as it is."""
    for kind in (int, float):
        try:
            # 1_000 is a number to Python only; 007 is a name
            if any("_" in text or re.match(r"\s*[+-]?0\d", text) for text in texts):
                break
            found = [kind(text) if text else None for text in texts]
            if any(value is not None and not math.isinf(value) for value in found):  # inf alone is a word
                return found
        except ValueError:
            continue
    return list(texts)


def _field(text: str, column: dict[str, Any], number: int, name: str) -> Any:
    """A field of a CSV file in a V2 type."""
    kind, parameters = column.get("datatype", "BYTES"), column.get("parameters") or {}
    nested = len(column.get("shape", [])) > 1 and "name" in column and column["name"] == name
    try:
        if nested or parameters.get("content_type") == "json":
            return json.loads(text) if text else None
        if kind == "BYTES":
            return None if not text and parameters.get("optional") else text
        if not text:
            return None
        if kind == "BOOL":
            return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
        if not kind.startswith("FP"):
            return _whole(text)
        value = float(text)
    except (ValueError, KeyError):
        wanted = "JSON" if nested or kind == "BYTES" else kind
        raise Error(f"row {number} of the data, column {name}: {text[:40]!r} is not {wanted}") from None
    if math.isinf(value):
        raise Error(f"row {number} of the data, column {name}: {INFINITE}")
    return value


def plain(value: Any, *, answer: bool = False) -> Any:
    """Convert values of Python, NumPy, pandas and polars to JSON.

    A table becomes a list of objects by column, bytes become base64, dates ISO 8601; missing values and NaN become null.

    Args:
        value: what to convert.
        answer: whether a model answered it: infinity becomes null, as in the model server's answers.

    Raises:
        Error: a value that no model takes.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value) and not answer:
            raise Error(INFINITE)
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): plain(each, answer=answer) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each, answer=answer) for each in value]
    if hasattr(value, "to_dicts"):  # a table of polars
        return plain(value.to_dicts(), answer=answer)
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a DataFrame
        return [plain(row, answer=answer) for row in value.to_dict("records")]
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    dtype = getattr(value, "dtype", None)
    if getattr(dtype, "kind", "") == "M" and hasattr(value, "astype") and not hasattr(dtype, "tz"):
        value = value.astype("datetime64[us]")  # nanoseconds would become plain integers
    if hasattr(value, "tolist"):  # an array, a Series, a scalar of NumPy
        return plain(value.tolist(), answer=answer)
    if hasattr(value, "to_list"):  # a column of polars
        return plain(value.to_list(), answer=answer)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise Error(f"{type(value).__name__} cannot be sent to a model: use numbers, text, bytes, dates, lists and dicts")
