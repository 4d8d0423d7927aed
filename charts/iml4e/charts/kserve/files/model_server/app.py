"""The ASGI application, and the server around it."""

import argparse
import gc
import json
import logging
import os
import signal
import socket
import threading
import time
import types
import zlib
from typing import Any

import mlflow
import uvicorn

from . import InvalidInput, outputs
from .inputs import describe
from .metrics import CONTENT_TYPE, Metrics
from .model import Model

log = logging.getLogger("model_server")

#: How many times the largest request is read before the connection is cut: a proxy in between passes an answer on only
#: when it could send its whole request.
DROPPED = 16
#: Largest requests that may be in memory at once; more get 429: a gateway replaces the text of a 503 by its own.
IN_MEMORY = 32
#: A tracking URI that MLflow refuses at once.
NO_TRACKING = "none://MLFLOW_TRACKING_URI-is-not-set"
STOP = (signal.SIGTERM, signal.SIGINT)
JSON = (b"content-type", b"application/json")
EXPOSED = (b"access-control-expose-headers", b"x-model-version")


class Refused(Exception):
    """An answer other than 200: status, sentence, headers."""

    def __init__(self, status: int, sentence: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class App:
    """Paths of both protocols for one model."""

    def __init__(self, model: Model, args: argparse.Namespace, metrics: Metrics) -> None:
        self.model, self.metrics = model, metrics
        self.limit: int = args.max_body_bytes
        self.draining = False
        self._bytes = 0  # of requests that are being read
        self._origins = {origin.strip() for origin in args.cors_origins.split(",") if origin.strip()}
        version = [(b"x-model-version", model.version.encode())] if model.version else []
        self._headers = [JSON, *version]
        name = model.name
        self._predict = {f"/v1/models/{name}:predict": "v1", f"/v2/models/{name}/infer": "v2"}
        self._pages = {
            "/": {"status": "alive"},
            "/v1/models": {"models": [name]},
            f"/v1/models/{name}": {"name": name, "ready": True},
            "/v2": {"name": "model_server", "version": mlflow.__version__, "extensions": ["binary_tensor_data"]},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            f"/v2/models/{name}": {
                "name": name,
                "versions": [model.version] if model.version else [],
                "platform": "mlflow",
                "inputs": model.signature.describe(),
                "outputs": describe(model.output_schema, "output"),
                "parameters": {each: str(spec.dtype) for each, spec in model.signature.params.items()},
            },
            f"/v2/models/{name}/ready": {"name": name, "ready": True},
        }
        if model.version:
            base = f"/v2/models/{name}/versions/{model.version}"
            self._predict[f"{base}/infer"] = "v2"
            self._pages |= {base: self._pages[f"/v2/models/{name}"], f"{base}/ready": {"name": name, "ready": True}}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if len(path) > 1 and path.endswith("/"):
            path = path.rstrip("/") or "/"
        protocol = self._predict.get(path)
        if protocol and method == "POST":
            await self._answer(scope, receive, send, protocol)
            return
        try:
            status, headers, body = 200, self._headers, b""
            if method == "OPTIONS":
                status, headers, body = 204, self._preflight(scope, bool(protocol)), b""
            elif protocol:
                raise Refused(405, "use POST", (b"allow", b"POST, OPTIONS"))
            elif path != "/metrics" and path not in self._pages:
                raise self._not_found(path)
            elif method not in ("GET", "HEAD"):
                raise Refused(405, "use GET", (b"allow", b"GET, HEAD, OPTIONS"))
            elif path == "/metrics":
                headers, body = [(b"content-type", CONTENT_TYPE.encode())], self.metrics.text().encode()
            elif self.draining and path.endswith("/ready"):
                raise Refused(503, "shutting down")
            else:
                body = outputs.encode(self._pages[path])
        except Refused as error:
            status, headers, body = error.status, [*self._headers, *error.headers], _error(error)
            if path.endswith((":predict", "/infer")):
                self.metrics.request(bool(protocol), "v1" if path.startswith("/v1/") else "v2", status, 0.0)
        await self._send(scope, send, status, headers, body, head=method == "HEAD")

    def _not_found(self, path: str) -> Refused:
        """Say what the path got wrong: the model, its version, or all of it."""
        words = path.split("/")
        if len(words) > 3 and words[2] == "models":
            asked = words[3].split(":")[0]
            if asked != self.model.name:
                return Refused(404, f"there is no model {asked[:100]!r} here; this server has {self.model.name!r}")
            if "versions" in words[4:5]:
                has = f"version {self.model.version}" if self.model.version else "no model versions"
                return Refused(404, f"this server has {has}: leave /versions/… out")
        return Refused(404, f"Not Found: {path[:100]}; predictions are at /v1/models/{self.model.name}:predict")

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any, protocol: str) -> None:
        """Answer a prediction request, count it and measure it."""
        start = time.perf_counter()
        headers, reserved = self._headers, [0]
        try:
            body, json_size = await self._body(scope, receive, reserved)
            status = 200
            if protocol == "v1":
                request = self.model.signature.v1(_loads(body))
                content = outputs.encode({"predictions": outputs.v1(await self.model.predict(request))})
            else:
                whole = json_size is None
                parsed = _loads(body if whole else body[:json_size])
                request = self.model.signature.v2(parsed, None if whole else memoryview(body)[json_size:])
                result = await self.model.predict(request)
                model = self.model
                answer, parts = outputs.v2(result, request, model.output_schema, model.name, model.version)
                content = outputs.encode(answer)
                if parts:
                    size = str(len(content)).encode()
                    headers = [
                        *headers[1:],
                        (b"content-type", b"application/octet-stream"),
                        (b"inference-header-content-length", size),
                    ]
                    content += b"".join(parts)
        except InvalidInput as error:
            status, content = 400, _error(error)
        except Refused as error:
            status, content, headers = error.status, _error(error), [*headers, *error.headers]
        except LookupError as error:
            status, content = 400, _error(error.args[0])
        except outputs.NoForm as error:
            log.error("%s", error)
            status, content = 500, _error(error)
        except Exception as error:  # only what is nobody's mistake but the model's is a 500, and only that is logged
            log.error("a prediction failed", exc_info=error)
            status, content = 500, _error("the model failed; the reason is in the server's log")
        finally:
            self._bytes -= reserved[0]
        await self._send(scope, send, status, headers, content)
        self.metrics.request(True, protocol, status, time.perf_counter() - start)

    async def _body(self, scope: dict[str, Any], receive: Any, reserved: list[int]) -> tuple[bytes, int | None]:
        """Read the body; return it with the size of its JSON part, None: all of it.

        Raises:
            Refused: wrong type, encoding or size.
        """
        kind, encoding, json_size = b"application/json", b"", None
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value.split(b";")[0].strip().lower()
            elif name == b"content-encoding":
                encoding = value.strip().lower()
            elif name == b"inference-header-content-length":
                json_size = value
        if json_size is not None:
            if not json_size.isdigit() or not scope["path"].startswith("/v2/"):
                raise Refused(400, "Inference-Header-Content-Length must be the size of the JSON part, for protocol V2")
            json_size = int(json_size)
            if kind == b"application/octet-stream":
                kind = b"application/json"
        if kind != b"application/json":
            raise Refused(415, "send JSON with Content-Type: application/json")
        if encoding not in (b"", b"identity", b"gzip", b"deflate"):
            raise Refused(
                415,
                f"Content-Encoding {encoding.decode('latin-1')[:50]!r} is not supported: send gzip, deflate or none",
            )
        message = await receive()
        body = message.get("body", b"")
        if message.get("more_body") or len(body) > self.limit:
            body = await self._rest(bytearray(body), message.get("more_body", False), receive, reserved)
        if encoding in (b"gzip", b"deflate"):
            body = self._unpacked(body, encoding)
        if not body.strip():
            raise Refused(400, "the request has no body")
        if json_size is not None and json_size > len(body):
            raise Refused(400, f"Inference-Header-Content-Length is {json_size}, but the body has {len(body)} bytes")
        return body, json_size

    async def _rest(self, body: bytearray, more: bool, receive: Any, reserved: list[int]) -> bytes:
        """Read a body of several pieces."""
        size = len(body)
        while True:
            kept = min(size, self.limit)
            self._bytes += kept - reserved[0]
            reserved[0] = kept
            busy = self._bytes > IN_MEMORY * self.limit
            if busy or size > self.limit:
                body.clear()
            if not more or size > DROPPED * self.limit:
                break
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the connection ended before the request did")
            chunk = message.get("body", b"")
            size += len(chunk)
            more = message.get("more_body", False)
            if size <= self.limit and not busy:
                body += chunk
        if size > self.limit:
            sentence = f"the request is larger than {self.limit} bytes: send fewer rows at a time"
            raise Refused(413, sentence, (b"connection", b"close"))
        if len(body) < size:
            raise Refused(429, "too many large requests at once: try again", (b"retry-after", b"1"))
        return bytes(body)

    def _unpacked(self, body: bytes, encoding: bytes) -> bytes:
        """Unpack a body, up to the limit."""
        unpack = zlib.decompressobj(wbits=47 if encoding == b"gzip" else zlib.MAX_WBITS)
        try:
            unpacked = unpack.decompress(body, self.limit + 1)
        except zlib.error:
            raise Refused(400, f"the body is not {encoding.decode()}, as Content-Encoding says") from None
        if len(unpacked) > self.limit:
            raise Refused(413, f"the unpacked request is larger than {self.limit} bytes: send fewer rows at a time")
        if not unpack.eof or unpack.unused_data:
            wrong = "goes on after its end" if unpack.eof else "is cut off"
            raise Refused(400, f"the {encoding.decode()} body {wrong}")
        return unpacked

    def _preflight(self, scope: dict[str, Any], predicts: bool) -> list[tuple[bytes, bytes]]:
        """Answer OPTIONS: the methods, and for pages of allowed origins what they may send."""
        methods = b"POST, OPTIONS" if predicts else b"GET, HEAD, OPTIONS"
        headers = [(b"allow", methods)]
        if self._origin(scope):
            headers += [(b"access-control-allow-methods", methods), (b"access-control-max-age", b"600")]
            headers += [(b"access-control-allow-headers", b"content-type, content-encoding")]
        return headers

    def _origin(self, scope: dict[str, Any]) -> str:
        """Return the allowed web origin that a request comes from."""
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        return origin if origin and ("*" in self._origins or origin in self._origins) else ""

    async def _send(
        self, scope: dict[str, Any], send: Any, status: int, headers: list[Any], body: bytes, head: bool = False
    ) -> None:
        if status != 204:
            headers = [*headers, (b"content-length", str(len(body)).encode())]
        if self.draining:  # let keep-alive clients go elsewhere
            headers = [*headers, (b"connection", b"close")]
        if self._origins and (origin := self._origin(scope)):
            headers = [*headers, (b"access-control-allow-origin", origin.encode()), (b"vary", b"origin"), EXPOSED]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else body})


def _loads(body: bytes) -> Any:
    """Parse JSON.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InvalidInput(f"the request is not JSON: {reason[:300]}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; null says that a value is missing")


def _error(error: object) -> bytes:
    """Build the one form of error that callers see."""
    return outputs.encode({"error": str(error)[:1000]})


class Server(uvicorn.Server):
    """Uvicorn that goes on answering for a while after SIGTERM, until no proxy sends it new requests any more."""

    def __init__(self, config: uvicorn.Config, app: App, drain_seconds: float) -> None:
        super().__init__(config)
        self.app = app
        self.drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        """Start draining; a second signal, or SIGINT, ends it."""
        delay = 0 if self.app.draining or sig == signal.SIGINT else self.drain_seconds
        self.app.draining = True
        timer = threading.Timer(delay, setattr, (self, "should_exit", True))
        timer.daemon = True
        timer.start()


def _default_signals() -> None:
    """Let signals end a forked process."""
    signal.set_wakeup_fd(-1)
    for number in STOP:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


def without_tracking() -> None:
    """Turn off MLflow's traces and runs where nobody says where they go.

    MLflow's default is a database in the working directory, which is read-only: it would try for 100 s a request.
    """
    if os.environ.get("MLFLOW_TRACKING_URI") or mlflow.tracking.is_tracking_uri_set():
        return
    os.environ["MLFLOW_TRACKING_URI"] = NO_TRACKING
    if not any(os.environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_")):
        mlflow.tracing.disable()


def serve(args: argparse.Namespace, listener: socket.socket, metrics: Metrics) -> None:
    """Load the model, then listen and answer until SIGTERM.

    Raises:
        CannotLoad: the model cannot be loaded.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    without_tracking()
    start = time.perf_counter()
    model = Model(args.model_name, args.version, args.model_dir, args.batching, metrics)
    log.info(
        "model %s version %s loaded from %s in %.1f s, batching %s",
        args.model_name, model.version or "unknown", args.model_dir, time.perf_counter() - start,
        "on" if model.batching else "off",
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # what is loaded now stays: no collection has to look through it
    app = App(model, args, metrics)
    # A process that a model forks would inherit the handlers of this server, and SIGTERM would not end it.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, STOP),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP),
        after_in_child=_default_signals,
    )
    # No line per request: the metrics tell, and each would cost as much as a prediction.
    config = uvicorn.Config(
        app, access_log=False, log_config=None, lifespan="off", server_header=False, date_header=False,
        timeout_keep_alive=120, timeout_graceful_shutdown=args.grace_seconds, ws="none", proxy_headers=False,
    )  # fmt: skip
    Server(config, app, args.drain_seconds).run(sockets=[listener])
