"""What one worker runs: the KServe SDK's REST server with one MLflow model, and a gate in front of it."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

# The SDK's package imports its Kubernetes client, which a server never uses: 37 MiB and two seconds per worker.
sys.modules.setdefault("kserve.api.kserve_client", types.SimpleNamespace(KServeClient=None))  # type: ignore[arg-type]

import fastapi  # noqa: E402
import kserve  # noqa: E402
import mlflow.pyfunc  # noqa: E402
import orjson  # noqa: E402
import uvicorn  # noqa: E402
from fastapi.exceptions import FastAPIDeprecationWarning  # noqa: E402
from fastapi.responses import JSONResponse, PlainTextResponse, Response  # noqa: E402
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady  # noqa: E402
from kserve.model_server import app as kserve_app  # noqa: E402
from kserve.protocol.dataplane import DataPlane  # noqa: E402
from kserve.protocol.model_repository_extension import ModelRepositoryExtension  # noqa: E402
from kserve.protocol.rest.server import RESTServer  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model as MlflowMetadata  # noqa: E402
from prometheus_client import (  # noqa: E402
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.requests import ClientDisconnect  # noqa: E402

from . import tensors  # noqa: E402

log = logging.getLogger("kserve")

REQUESTS = Counter("model_server_requests_total", "Answered prediction requests.", ["model", "protocol", "code"])
SECONDS = Histogram(
    "model_server_request_duration_seconds",
    "Time from the head of a prediction request to its answer, in seconds.",
    ["model", "protocol"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
STATUS = {
    InvalidInput: HTTPStatus.BAD_REQUEST,
    ClientDisconnect: HTTPStatus.BAD_REQUEST,
    ModelNotFound: HTTPStatus.NOT_FOUND,
    NotImplementedError: HTTPStatus.NOT_FOUND,  # an explainer, a model version: there is none
    ModelNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
}


class CannotLoad(Exception):
    """The model's files are missing, damaged, or of a kind that this image cannot load."""


class MlflowModel(kserve.Model):
    """An MLflow model behind the KServe SDK's model interface."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name)
        self._folder = folder
        # One thread: predictions do not hold up health checks, and models need not be thread-safe.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")

    def load(self) -> bool:
        """Load the model and let it predict its own input example once.

        Raises:
            CannotLoad: the model cannot be loaded, or fails on its own example.
        """
        try:
            self._model = mlflow.pyfunc.load_model(self._folder)
            metadata = MlflowMetadata.load(str(Path(self._folder) / "MLmodel"))
            self._inputs = metadata.get_input_schema()
            self._outputs = metadata.get_output_schema()
            example = metadata.load_input_example(self._folder)
            if example is not None:
                self._model.predict(example)
        except Exception as error:
            raise CannotLoad(f"cannot load the model in {self._folder}: {type(error).__name__}: {error}") from error
        self.ready = True
        return True

    async def predict(self, payload: tuple[str, bytes], headers: Any = None, response_headers: Any = None) -> Any:
        """Answer one request, given as protocol ("v1" or "v2") and body.

        Raises:
            InvalidInput: the request is at fault: 400.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, *payload)

    def _answer(self, protocol: str, body: bytes) -> dict[str, Any]:
        # Parsed here, in the one thread, so that only one request at a time takes the memory of its parsed form.
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the request is not JSON: {error}") from None
        if protocol == "v1":
            return tensors.to_v1(self._run(tensors.from_v1(parsed, self._inputs)))
        request = tensors.read_v2(parsed, self.name)
        return tensors.to_v2(self._run(tensors.from_v2(request, self._inputs)), request, self._outputs)

    def _run(self, data: Any) -> Any:
        try:
            return self._model.predict(data)
        except (MlflowException, ValueError, TypeError, LookupError, ArithmeticError) as error:
            # The values have the right form and the model refuses them (NaN, an unknown category, …).
            raise InvalidInput("the model refuses this input: " + str(error).strip().split("\n")[0][:300]) from error

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the input columns or tensors for the V2 metadata endpoint."""
        return tensors.describe(self._inputs, "input")

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the output columns or tensors for the V2 metadata endpoint."""
        return tensors.describe(self._outputs, "output")


#: How many times the largest request is read before the connection is cut.
DROPPED = 16


class Gate:
    """Stands before all endpoints (ASGI): keeps the read-only ones read-only, and says when the server is leaving."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.draining = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request."""
        answer = self.app
        if scope["type"] != "http":
            pass  # start-up and shutdown
        elif scope["method"] not in ("GET", "HEAD") and not scope["path"].endswith((":predict", "/infer")):
            # The SDK would let any caller unload the model.
            answer = error_response(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", {"allow": "GET"})
        elif self.draining and scope["path"].endswith("/ready"):
            answer = error_response(HTTPStatus.SERVICE_UNAVAILABLE, "shutting down")

        async def reply(message: dict[str, Any]) -> None:
            if self.draining and message["type"] == "http.response.start":  # let keep-alive clients go elsewhere
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await answer(scope, receive, reply)


class Uvicorn(uvicorn.Server):
    """Uvicorn that goes on answering for a while after SIGTERM, until no proxy sends it new requests any more."""

    def __init__(self, config: uvicorn.Config, gate: Gate, drain_seconds: float) -> None:
        super().__init__(config)
        self.gate = gate
        self.drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        """Start draining; a second signal, or SIGINT, ends it."""
        delay = 0 if self.gate.draining or sig == signal.SIGINT else self.drain_seconds
        self.gate.draining = True
        timer = threading.Timer(delay, setattr, (self, "should_exit", True))
        timer.daemon = True
        timer.start()


class Server(RESTServer):
    """The SDK's REST server with our prediction endpoint, our error answers and our way to stop.

    The SDK's own V2 endpoint checks the body with Pydantic, which collects every error: 2 MB of the wrong JSON took
    it 21 seconds and 3.4 GiB. Its V1 endpoint takes bodies of any size.
    """

    def __init__(self, model: MlflowModel, args: argparse.Namespace) -> None:
        repository = kserve.ModelRepository()
        repository.update(model)
        super().__init__(
            "kserve.model_server:app",
            DataPlane(repository),
            ModelRepositoryExtension(repository),
            args.http_port,
            grace_period=args.grace_seconds,
        )
        self.args = args
        self.gate = Gate(kserve_app)
        self.config.app = self.gate

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until stopped."""
        # Routes of ours come before the SDK's own: the first that matches wins.
        for path in ("/v1/models/{name}:predict", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{_}/infer"):
            kserve_app.add_route(path, self.predict, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            kserve_app.add_route("/metrics", merged_metrics)
        self.create_application()
        # The SDK's own handlers log a stack trace for every bad request, FastAPI's use another form of answer.
        for error in (ModelNotFound, NotImplementedError, ModelNotReady, HTTPException):
            kserve_app.add_exception_handler(error, handle)
        Uvicorn(self.config, self.gate, self.args.drain_seconds).run(sockets=sockets)

    async def predict(self, request: fastapi.Request) -> Response:
        """Answer a prediction request of either protocol, count it and measure it."""
        start = time.perf_counter()
        name = request.path_params["name"]
        protocol = "v1" if request.url.path.startswith("/v1/") else "v2"
        try:
            body = await self.body(request)
            if not await self.dataplane.model_ready(name):
                raise ModelNotReady(name)
            answer, _ = await self.dataplane.infer(name, (protocol, body))
            content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str)
            response = Response(content, media_type="application/json")
        except Exception as error:
            response = await handle(request, error)
        label = name if name == self.args.model_name else "unknown"  # callers must not be able to invent time series
        REQUESTS.labels(label, protocol, response.status_code).inc()
        SECONDS.labels(label, protocol).observe(time.perf_counter() - start)
        return response

    async def body(self, request: fastapi.Request) -> bytes:
        """Read the body.

        Raises:
            HTTPException: wrong path, method, type or size; its status is the one to answer with.
        """
        if request.method != "POST":
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, "use POST", {"allow": "POST"})
        if "_" in request.path_params:
            raise HTTPException(HTTPStatus.NOT_FOUND, "this server has no model versions: leave /versions/… out")
        kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if kind != "application/json" or "inference-header-content-length" in request.headers:
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON with Content-Type: application/json")
        body, size = bytearray(), 0
        # A proxy in between passes our answer on only when it could send its whole request: the rest of one that is
        # too large is read and dropped, up to a point.
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self.args.max_body_bytes:
                body += chunk
            elif size > DROPPED * self.args.max_body_bytes:
                break
        if size > self.args.max_body_bytes:
            message = f"the request is larger than {self.args.max_body_bytes} bytes: send fewer rows at a time"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, {"connection": "close"})
        if not body.strip():
            raise HTTPException(HTTPStatus.BAD_REQUEST, "the request has no body")
        return bytes(body)


def error_response(status: int, message: str, headers: Any = None) -> JSONResponse:
    """Build the one form of error that callers see."""
    return JSONResponse({"error": message}, status, headers=headers)


async def handle(_request: fastapi.Request, error: Exception) -> JSONResponse:
    """Answer for any exception. Only what is nobody's mistake but ours is a 500, and only that is logged."""
    if isinstance(error, HTTPException):
        return error_response(error.status_code, error.detail, error.headers)
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            return error_response(status, str(error)[:1000])  # it may repeat a long name
    log.error("a prediction failed", exc_info=error)
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed; the reason is in the server's log")


async def merged_metrics(_request: fastapi.Request) -> PlainTextResponse:
    """Answer with the sum over all workers, those that died included."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return PlainTextResponse(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def serve(args: argparse.Namespace, listener: socket.socket) -> None:
    """Load the model, then listen and answer until SIGTERM.

    Raises:
        CannotLoad: the model cannot be loaded.
    """
    kserve.logging.configure_logging()
    # No line per request: the metrics tell, and each would cost as much as a prediction.
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").handlers.clear()
    disable_created_metrics()
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # the SDK's response class
    start = time.perf_counter()
    model = MlflowModel(args.model_name, args.model_dir)
    model.load()
    log.info("model %s loaded from %s in %.1f s", args.model_name, args.model_dir, time.perf_counter() - start)
    Server(model, args).run(sockets=[listener])
