"""Counters of MLflow's server: they exist before their first event, and count the traffic of artifacts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.helm import CHART

FOLDER = CHART / "charts" / "mlflow" / "files"
ENVIRONMENT = {
    "_MLFLOW_STATIC_PREFIX": "/mlflow",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "s3://mlflow",
    "AWS_DEFAULT_REGION": "us-east-1",
    "MAX_BODY_BYTES": "1000000",
    "MAX_UPLOADS": "2",
}
#: A server of two processes, as uvicorn starts them; prints what Prometheus reads.
SERVE = """
import asyncio, os, sys
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
import metrics

async def app(scope, receive, send):
    size = 0
    while True:
        message = await receive()
        size += len(message["body"])
        if not message.get("more_body"):
            break
    status = 507 if scope["path"].endswith("full") else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"y" * 70})

def ask(method, path, *parts):
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b""})
    waiting = iter(messages)
    async def receive(): return next(waiting)
    async def send(message): pass
    asyncio.run(metrics.Traffic(app)({"type": "http", "method": method, "path": path}, receive, send))

metrics.start()
if not os.fork():
    metrics.start()
    ask("PUT", "/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a/full", b"x" * 20)
    os._exit(0)
os.wait()
ask("PUT", "/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a", b"x" * 100, b"x" * 50)
ask("GET", "/mlflow/get-artifact")
ask("POST", "/mlflow/api/2.0/mlflow/runs/create", b"x" * 5000)
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
sys.stdout.write(generate_latest(registry).decode())
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Series and values of the server."""
    folder: Path = tmp_path_factory.mktemp("metrics")
    env = {**os.environ, **ENVIRONMENT, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(FOLDER)}
    done = subprocess.run([sys.executable, "-c", SERVE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.rpartition(" ") for line in done.stdout.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


@pytest.mark.parametrize(
    "series",
    [
        'mlflow_http_request_total{method="POST",status="500"}',
        'mlflow_http_request_total{method="GET",status="404"}',
        'mlflow_artifact_requests_total{direction="download",status="503"}',
    ],
)
def test_a_series_is_there_before_its_first_event(told: dict[str, float], series: str) -> None:
    assert told[series] == 0


def test_the_histogram_is_there_before_its_first_request(told: dict[str, float]) -> None:
    buckets = [name for name in told if name.startswith("mlflow_http_request_duration_seconds_bucket")]
    assert any('method="POST"' in name and 'status="200"' in name for name in buckets)


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ('mlflow_artifact_bytes_total{direction="upload"}', 170),
        ('mlflow_artifact_bytes_total{direction="download"}', 70),
        ('mlflow_artifact_requests_total{direction="upload",status="200"}', 1),
        ('mlflow_artifact_requests_total{direction="upload",status="500"}', 1),
        ('mlflow_artifact_requests_total{direction="download",status="200"}', 1),
    ],
)
def test_artifacts_are_counted_over_all_processes(told: dict[str, float], series: str, value: float) -> None:
    """And nothing else is: the body of an API call is no artifact; a 507 counts as a 500."""
    assert told[series] == value
