"""The model: loading, predicting, and one prediction for all requests that wait."""

import asyncio
import contextlib
import copy
import inspect
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

from . import CannotLoad, InvalidInput, outputs
from .inputs import Anything, Request, signature_of
from .metrics import Metrics

log = logging.getLogger("model_server")

#: Rows of one call of the model when requests are merged; the proof (`_rows_are_independent`) goes as far.
MAX_ROWS = 32
#: Seconds that a call may hold up the event loop; a longer one goes to a thread, which costs a switch.
INLINE_SECONDS = 0.005
#: Loaders of MLflow whose models may run in the event loop.
INLINE = {f"mlflow.{flavor}" for flavor in ("sklearn", "xgboost", "lightgbm", "catboost", "onnx", "statsmodels")}
#: Loaders of MLflow whose models take one conversation at a time: of several they would answer the first.
SINGLE = {f"mlflow.pyfunc.loaders.{kind}" for kind in ("chat_model", "chat_agent", "responses_agent")}
#: Seconds that the proof at the start may take.
PROOF_SECONDS = 5.0


@dataclass(slots=True)
class Waiting:
    """A request that waits for its prediction."""

    request: Request
    future: asyncio.Future


class Model:
    """An MLflow model. All methods but `predict` belong to the start of the server."""

    def __init__(self, name: str, version: str, folder: str, batching: str, metrics: Metrics) -> None:
        """Load the model and let it predict its own input example.

        Args:
            name: name in the URL.
            version: version in the registry, empty if it is not known.
            folder: holds the file MLmodel.
            batching: "on" merges waiting requests, "off" never does, "auto" where rows are proven independent.
            metrics: counts calls.

        Raises:
            CannotLoad: the model cannot be loaded, or fails on its own example.
        """
        self.name, self.metrics = name, metrics
        warned = _another_python(Path(folder))
        try:
            self._model = mlflow.pyfunc.load_model(folder)
            metadata = self._model.metadata
            self.version = version or metadata.model_uuid or ""
            schema, params = metadata.get_input_schema(), metadata.get_params_schema()
            self.output_schema = metadata.get_output_schema()
            hints = _says(metadata, "_is_signature_from_type_hint")
            self.signature = signature_of(schema, params, from_type_hints=hints)
            # What `inputs` returns has the signature's types already. Where MLflow does more than to check them
            # (type hints), or calls the model by another name, its own `predict` is the way.
            direct = not hints and not _says(metadata, "_is_type_hint_from_example") and schema is not None
            self._function = getattr(self._model, "_predict_fn", None) if direct else None
            if self._function:
                # `**params`, as in the pipelines of scikit-learn, means something else
                parameter = inspect.signature(self._function).parameters.get("params")
                self._takes_params = parameter is not None and parameter.kind != parameter.VAR_KEYWORD
            example = _example(metadata, schema, folder)
            if example is not None:
                self._model.predict(example, params=metadata.load_input_example_params(folder))
        except (Exception, SystemExit) as error:
            raise CannotLoad(_why(error, folder) + warned) from error
        # Only flavors that do nothing but compute run in the event loop; code of users may want a loop of its own.
        self._inline = metadata.flavors["python_function"].get("loader_module") in INLINE
        self._seconds = float("inf")  # of the last call, for the choice between loop and thread
        self._busy = self._scheduled = False
        self._waiting: deque[Waiting] = deque()
        # One thread: predictions do not hold up health checks, and models need not be thread-safe.
        # It has an event loop, as the main thread of a script does, for models that ask for one.
        self._thread = ThreadPoolExecutor(1, "predict", lambda: asyncio.set_event_loop(asyncio.new_event_loop()))
        self.batching = batching == "on" or (batching == "auto" and example is not None and self._independent(example))
        self._single = metadata.flavors["python_function"].get("loader_module") in SINGLE
        if isinstance(self.signature, Anything) or self._single:
            self.batching = False

    def _independent(self, example: Any) -> bool:
        """Say whether the rows of the example, and varied copies of them, give the same alone and in one call.

        Equality is exact, to the last bit of a float: a model whose arithmetic depends on the number of rows is not
        batched, and what a client gets never depends on who else asks.
        """
        start = time.perf_counter()
        with contextlib.suppress(Exception):
            rows = _varied(example, MAX_ROWS)
            if rows is None:
                return False
            single = []
            for number in range(MAX_ROWS):
                single.append(outputs.by_row(self._call(_slice(rows, number, number + 1), None), 1))
                if time.perf_counter() - start > PROOF_SECONDS:
                    log.info("batching is off: the model takes too long to prove that its rows are independent")
                    return False
            for size in (2, 3, 7, 16, MAX_ROWS):
                for begin in range(0, MAX_ROWS - size + 1, size):
                    together = outputs.by_row(self._call(_slice(rows, begin, begin + size), None), size)
                    if together is None or [[row] for row in together] != single[begin : begin + size]:
                        return False
            self._seconds = (time.perf_counter() - start) / MAX_ROWS / 3
            return True
        return False

    async def predict(self, request: Request) -> Any:
        """Predict the rows of one request, perhaps in one call with other requests that wait.

        Raises:
            InvalidInput: the model refuses the values.
        """
        if self._single and request.rows > 1:
            raise InvalidInput(f"the model takes one conversation at a time, got {request.rows}: send one a request")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(Waiting(request, future))
        if not self._scheduled and not self._busy:
            self._scheduled = True
            loop.call_soon(self._next)  # after all requests that have arrived by now
        return await future

    def _next(self) -> None:
        """Call the model for the requests that wait, until none does or a thread has taken over."""
        self._scheduled = False
        while self._waiting and not self._busy:
            group = self._group()
            if self._inline and self._seconds < INLINE_SECONDS and sum(w.request.rows for w in group) <= MAX_ROWS:
                self._settle(group, self._outcomes(group))
            else:
                self._busy = True
                loop = asyncio.get_running_loop()
                done = loop.run_in_executor(self._thread, self._outcomes, group)
                done.add_done_callback(lambda done, group=group: self._thread_done(group, done))

    def _thread_done(self, group: list[Waiting], done: asyncio.Future) -> None:
        self._busy = False
        self._settle(group, done.result())
        self._next()

    def _group(self) -> list[Waiting]:
        """Take the first waiting request, and those that can be merged with it."""
        group = [self._waiting.popleft()]
        first = group[0].request
        if self.batching and first.key is not None:
            rows = first.rows
            while self._waiting and rows < MAX_ROWS:
                other = self._waiting[0].request
                if other.key != first.key or other.params != first.params or rows + other.rows > MAX_ROWS:
                    break
                rows += other.rows
                group.append(self._waiting.popleft())
        return group

    def _outcomes(self, group: list[Waiting]) -> list[Any]:
        """Return a result or an exception for each request of a group."""
        requests = [waiting.request for waiting in group]
        if len(group) > 1:
            with contextlib.suppress(BaseException):  # one bad row must not spoil the others': each alone
                result = self._call(
                    self.signature.model_input(requests), requests[0].params, sum(r.rows for r in requests)
                )
                return _split(result, [request.rows for request in requests])
        found: list[Any] = []
        for request in requests:
            try:
                found.append(self._call(self.signature.model_input([request]), request.params, request.rows))
            except BaseException as error:  # SystemExit too: a model does not end its server
                found.append(error)
        return found

    def _settle(self, group: list[Waiting], outcomes: list[Any]) -> None:
        for waiting, outcome in zip(group, outcomes, strict=True):
            if waiting.future.done():
                continue
            if isinstance(outcome, BaseException):
                try:
                    blamed = self._blame(outcome)
                except Exception:  # whose text cannot be had
                    blamed = RuntimeError(f"the model raised {type(outcome).__name__}")
                waiting.future.set_exception(blamed)
            else:
                waiting.future.set_result(outcome)

    def _call(self, data: Any, params: dict[str, Any] | None, rows: int = 0) -> Any:
        """Call the model with input of the signature's types."""
        start = time.perf_counter()
        try:
            if not self._function:
                result = self._model.predict(data, params=params)
            else:
                result = self._function(data, params=params) if self._takes_params else self._function(data)
            # a generator runs the model's code where it is read: here, not where the answer is written
            return outputs.plain(result) if isinstance(result, Iterator) else result
        finally:
            if rows:
                self._seconds = time.perf_counter() - start
                self.metrics.call(rows)

    def _blame(self, error: BaseException) -> Exception:
        """Tell what is the request's fault from what is the model's."""
        refused = (MlflowException, ValueError, TypeError, LookupError, ArithmeticError)
        if isinstance(self.signature, Anything):
            refused = (*refused, RuntimeError)  # shapes that nobody could check before
        if isinstance(error, InvalidInput):
            return error
        if isinstance(error, UnsupportedModelRegistryStoreURIException):
            return RuntimeError(
                f"the model uses MLflow's tracking server: set MLFLOW_TRACKING_URI of its pods ({error})"
            )
        if isinstance(error, refused) and not isinstance(error, RecursionError):
            # The values have the right form and the model refuses them (NaN, an unknown category, …).
            text = " ".join(str(error).split()).split(" Error: ")[-1] or type(error).__name__
            return InvalidInput("the model refuses this input: " + (text if len(text) <= 500 else text[:500] + "…"))
        if isinstance(error, Exception) and not isinstance(error, StopIteration):  # which no future takes
            return error
        return RuntimeError(f"the model raised {type(error).__name__}")


def _split(result: Any, sizes: list[int]) -> list[Any]:
    """Give each request its rows of one prediction.

    Raises:
        ValueError: the prediction does not have a row for each row of input.
    """
    if isinstance(result, dict):
        parts = [_split(value, sizes) for value in result.values()]
        return [dict(zip(result, each, strict=True)) for each in zip(*parts, strict=True)]
    if not isinstance(result, (np.ndarray, pd.DataFrame, pd.Series, list)) or len(result) != sum(sizes):
        raise ValueError("the prediction has another number of rows")
    found, start = [], 0
    for size in sizes:
        found.append(_slice(result, start, start + size))
        start += size
    return found


def _slice(rows: Any, start: int, end: int) -> Any:
    if isinstance(rows, (pd.DataFrame, pd.Series)):
        return rows.iloc[start:end].reset_index(drop=True)
    if isinstance(rows, dict):
        return {name: value[start:end] for name, value in rows.items()}
    return rows[start:end]


def _varied(example: Any, count: int) -> Any:
    """Repeat the rows of an example until there are enough, with other numbers: equal rows would prove nothing."""
    rng = np.random.default_rng(0)

    def vary(values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f":
            factor = rng.uniform(0.5, 1.5, values.shape)
            return np.where(values == 0, factor, values * factor).astype(values.dtype)
        if values.dtype.kind == "b":
            return rng.random(values.shape) < 0.5
        if values.dtype.kind in "iu" and (values == values[:1]).all(axis=0).any():
            return values + rng.integers(0, 3, values.shape).astype(values.dtype)
        return values

    if isinstance(example, pd.DataFrame) and len(example):
        table = pd.concat([example] * -(-count // len(example)), ignore_index=True).head(count)
        for position, kind in enumerate(table.dtypes):
            if isinstance(kind, np.dtype) and kind.kind in "fbiu":
                table.isetitem(position, vary(table.iloc[:, position].to_numpy()))
        columns = (table.iloc[:, position] for position in range(table.shape[1]))
        return table if all(len(set(map(repr, column))) > 1 for column in columns) else None
    if isinstance(example, np.ndarray) and example.ndim and len(example):
        rows = vary(np.concatenate([example] * -(-count // len(example)))[:count])
        return rows if any(repr(row) != repr(rows[0]) for row in rows) else None
    if isinstance(example, dict) and all(isinstance(v, np.ndarray) and v.ndim and len(v) for v in example.values()):
        varied = {name: _varied(value, count) for name, value in example.items()}
        return None if any(value is None for value in varied.values()) else varied
    return None


def _example(metadata: Any, schema: Schema | None, folder: str) -> Any:
    """Read the model's input example, with dates of any form in ISO 8601."""
    if schema is None or schema.is_tensor_spec() or all(s.type != DataType.datetime for s in schema.inputs):
        return metadata.load_input_example(folder)
    # MLflow takes the form of the first date for all, so that those with and without fractions of a second fail:
    # it reads the dates as they are, and they are parsed here.
    unparsed = copy.copy(metadata)
    unparsed.signature = ModelSignature(
        Schema([ColSpec(AnyType(), s.name, s.required) if s.type == DataType.datetime else s for s in schema.inputs])
    )
    example = unparsed.load_input_example(folder)
    if isinstance(example, pd.DataFrame):
        names = schema.input_names() if schema.has_input_names() else list(example)
        for name, spec in zip(names, schema.inputs, strict=False):  # an example may lack optional columns
            if spec.type == DataType.datetime and name in example:
                example[name] = pd.to_datetime(example[name], format="ISO8601").dt.as_unit("ns")
    return example


def _says(metadata: Any, name: str) -> bool:
    """Ask a question that only newer versions of MLflow know."""
    return bool(getattr(metadata, name, bool)())


def _another_python(folder: Path) -> str:
    """Return a sentence if the model was made with another Python, and log it: what follows may be a crash."""
    with contextlib.suppress(Exception):
        made = str(yaml.safe_load((folder / "python_env.yaml").read_text())["python"])
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if made.split(".")[:2] != here.split("."):
            sentence = f"the model was made with Python {made}, this image has {here}: make it with Python {here}, or serve it with an image that has Python {made}"
            print(f"model_server: {sentence}", file=sys.stderr, flush=True)
            return f" ({sentence})"
    return ""


def _why(error: BaseException, folder: str) -> str:
    """Say in one sentence why a model cannot be loaded."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        package = cause.name.split(".")[0]
        return f"cannot load the model in {folder}: this image lacks the Python package {package}; deploy with --packages {package}, or with an image that has it (docs/serving.md)"
    text = " ".join(str(error).split())
    return f"cannot load the model in {folder}: {type(error).__name__}: {text[:1000]}"
