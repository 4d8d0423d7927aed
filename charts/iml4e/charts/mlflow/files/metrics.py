"""Counters for Prometheus: the traffic of artifacts, and MLflow's own counters at 0 from the start.

Prometheus sees the first event of a counter only if the counter was there before: `increase()` of a counter that is born with
eleven errors is 0.
"""

from __future__ import annotations

from typing import Any

from artifacts import ARTIFACTS
from mlflow.version import VERSION
from prometheus_client import Counter, Histogram

DIRECTIONS = {"PUT": "upload", "GET": "download"}
#: Status codes that rules and dashboards tell apart; any other counts as the first of its hundred.
CODES = (200, 400, 403, 404, 413, 500, 503)
METHODS = ("GET", "POST", "PATCH", "DELETE")

BYTES = Counter("mlflow_artifact_bytes", "Bytes of artifacts, by direction.", ["direction"])
REQUESTS = Counter(
    "mlflow_artifact_requests", "Requests for artifacts, by direction and status.", ["direction", "status"]
)


def start() -> None:
    """Make the series that rules and dashboards read, at 0."""
    for direction in DIRECTIONS.values():
        BYTES.labels(direction)
        for code in CODES:
            REQUESTS.labels(direction, str(code))
    # Of MLflow's exporter, by the names and words that it uses: several processes share their values in files, and what is never
    # counted here adds nothing.
    total = Counter("mlflow_http_request", "Total number of HTTP requests", ["method", "status"], registry=None)
    duration = Histogram(
        "mlflow_http_request_duration_seconds",
        "Flask HTTP request duration in seconds",
        ["method", "mlflow_version", "status"],
        registry=None,
    )
    for method in METHODS:
        duration.labels(method, VERSION, "200")
        for code in CODES:
            total.labels(method, str(code))


class Traffic:
    """Counts requests for artifacts and their bytes."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        path = scope.get("path", "")
        content = path.startswith(ARTIFACTS) or path.endswith(("/get-artifact", "/artifacts/files"))
        direction = DIRECTIONS.get(scope.get("method", ""))
        if scope["type"] != "http" or not content or not direction:
            await self.app(scope, receive, send)
            return
        status, size = 500, 0

        async def receiving() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b"")) * (direction == "upload")
            return message

        async def sending(message: Any) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b"")) * (direction == "download")
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        finally:
            BYTES.labels(direction).inc(size)
            REQUESTS.labels(direction, str(status if status in CODES else status // 100 * 100)).inc()
