"""What the chart puts around MLflow's server: artifacts, limits of bodies, same-origin requests, repeated requests."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from support.helm import CHART

FOLDER = CHART / "charts" / "mlflow" / "files"
ENVIRONMENT = {
    "_MLFLOW_STATIC_PREFIX": "/mlflow",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "s3://mlflow",
    "AWS_DEFAULT_REGION": "us-east-1",
    "MAX_BODY_BYTES": str(2 << 20),
    "MAX_UPLOADS": "2",
}
sys.path.insert(0, str(FOLDER))
with mock.patch.dict(os.environ, ENVIRONMENT):
    import artifacts
    import middleware as app


def ask(
    middleware: Any,
    headers: dict[str, str],
    *body: bytes,
    kind: str = "http",
    method: str = "POST",
    path: str = "/",
    query: bytes = b"",
) -> list[dict[str, Any]]:
    """Send a request, its body in parts; return the messages of the answer."""
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts.append({"type": "http.request", "body": b"", "more_body": False})
    receiving = iter(parts)

    async def receive() -> Any:
        return next(receiving, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "query_string": query, "headers": raw}
    asyncio.run(middleware(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    ("host", "origin", "passes"),
    [
        ("192.168.1.20:30080", "http://192.168.1.20:30080", True),
        ("ml.example.com", "https://ml.example.com", True),
        ("ml.example.com:443", "https://ml.example.com", True),
        ("ml.example.com", "http://ml.example.com:80", True),
        ("ML.Example.com", "http://ml.example.COM", True),
        ("[fd00::1]:30080", "http://[fd00::1]:30080", True),
        ("ml.example.com:80", "https://ml.example.com", False),
        ("localhost:30080", "http://localhost:8888", False),
        ("ml.example.com", "http://ml.example.com.evil.com", False),
        ("ml.example.com", "http://evil.com", False),
        ("ml.example.com", "null", False),
        ("", "null", False),
        ("", "http://", False),
    ],
)
def test_a_request_to_the_pages_own_address_is_not_cross_origin(host: str, origin: str, passes: bool) -> None:
    seen: dict[bytes, bytes] = {}

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        seen.update(scope["headers"])

    ask(app.SameOrigin(inner), {"Host": host, "Origin": origin, "Accept": "*/*"})
    assert seen[b"host"] == host.lower().encode()
    assert seen[b"accept"] == b"*/*"
    assert (b"origin" not in seen) is passes


@pytest.mark.parametrize(("status", "read"), [(403, 2), (200, 0)])
def test_a_refusal_is_one_piece_after_the_request_is_read(status: int, read: int) -> None:
    """A gateway that still sends the body cut one of a hundred refusals after their headers."""
    order: list[Any] = []
    parts = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request", "body": b"b"}]

    async def inner(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"not ", "more_body": True})
        await send({"type": "http.response.body", "body": b"here"})

    async def receive() -> Any:
        order.append("read")
        return parts.pop(0)

    async def send(message: Any) -> None:
        order.append(message)

    asyncio.run(app.Refusals(inner)({"type": "http"}, receive, send))
    assert order[:read] == ["read"] * read
    assert "read" not in order[read:]
    assert b"".join(each.get("body", b"") for each in order[read:]) == b"not here"
    headers = [(b"content-type", b"text/plain"), *([(b"content-length", b"8")] if read else [])]
    assert order[read]["headers"] == headers
    assert len(order[read:]) == (2 if read else 3)


class Server:
    """An application that answers with one status after the other, and keeps the bodies that it was sent."""

    def __init__(self, *answers: tuple[int, dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        """Read the body to its end, and answer in two parts."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        status, answer = self.answers.pop(0)
        text = json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text[:40], "more_body": True})
        await send({"type": "http.response.body", "body": text[40:]})


RACE = (400, {"error_code": "BAD_REQUEST", "message": "(pymysql.err.IntegrityError) (1062, \"Duplicate entry 'k-1'\")"})
DEADLOCK = (
    503,
    {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "(pymysql.err.OperationalError) (1213, 'Deadlock')"},
)
BUSY = (503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "(pymysql.err.OperationalError) (1205, 'Lock wait')"})
EXISTS = (
    400,
    {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "Experiment … (pymysql.err.IntegrityError) (1062, …"},
)
FINE = (200, {"ok": True})
JSON = {"Content-Type": "application/json; charset=utf-8", "Content-Length": "12"}


def told(messages: list[dict[str, Any]]) -> tuple[int, Any]:
    """Status and content of an answer."""
    assert [message["type"] for message in messages].count("http.response.start") == 1
    return messages[0]["status"], json.loads(b"".join(message.get("body", b"") for message in messages))


@pytest.mark.parametrize("race", [RACE, DEADLOCK], ids=["duplicate", "deadlock"])
def test_what_another_writer_caused_is_tried_again_with_the_same_body(race: tuple[int, Any]) -> None:
    server = Server(race, race, FINE)
    assert told(ask(app.Again(server), JSON, b'{"run_', b'id": 1}')) == FINE
    assert server.bodies == [b'{"run_id": 1}'] * 3


def test_what_does_not_go_away_is_told() -> None:
    server = Server(*[RACE] * app.TRIES)
    assert told(ask(app.Again(server), JSON, b"{}")) == RACE
    assert server.answers == []


@pytest.mark.parametrize(
    "answer", [FINE, EXISTS, BUSY, (503, RACE[1]), (400, {"error_code": "INVALID_PARAMETER_VALUE"})]
)
def test_other_answers_are_the_first_ones(answer: tuple[int, Any]) -> None:
    server = Server(answer)
    assert told(ask(app.Again(server), JSON, b"{}")) == answer


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "application/json"}, JSON | {"Content-Length": str(1 << 30)}, JSON | {"Content-Type": "text/csv"}],
)  # fmt: skip
def test_uploads_are_neither_kept_nor_repeated(headers: dict[str, str]) -> None:
    server = Server(RACE)
    assert told(ask(app.Again(server), headers, b"x")) == RACE


def test_what_is_no_request_passes() -> None:
    kinds: list[str] = []

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        kinds.append(scope["type"])

    for middleware in (app.Again, app.SameOrigin):
        ask(middleware(inner), {}, kind="lifespan")
    assert kinds == ["lifespan"] * 2


def test_mlflows_application_is_wrapped_and_refuses_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """By MLflow's own application: the names that this file sets exist there, and a page of a foreign host is told what to do."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "localhost,localhost:*")
    monkeypatch.setenv("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "https://ml.example.com")
    from mlflow.server import fastapi_app, fastapi_security

    before = fastapi_security.INVALID_HOST_MSG, fastapi_security.CORS_BLOCKED_MSG
    assert all(isinstance(each, str) for each in before)
    monkeypatch.setattr(fastapi_app, "app", fastapi_app.create_fastapi_app())
    try:
        import server

        wrapped = server.create()
        from starlette.testclient import TestClient

        client = TestClient(wrapped, base_url="http://evil.example.com")
        answer = client.get("/")
        assert answer.status_code == 403
        assert "open https://ml.example.com/mlflow/" in answer.text
        assert "global.publicUrl" in answer.text
        client = TestClient(wrapped, base_url="http://LOCALHOST:30080")
        path = "/mlflow/ajax-api/2.0/mlflow/no-such-thing"
        assert client.post(path, headers={"Origin": "http://localhost:30080"}).status_code == 404
        answer = client.post(path, headers={"Origin": "http://evil.example.com"})
        assert answer.status_code == 403
        assert "global.publicUrl" in answer.text
    finally:
        fastapi_security.INVALID_HOST_MSG, fastapi_security.CORS_BLOCKED_MSG = before


@pytest.mark.parametrize(
    ("headers", "size", "passes"),
    [
        ({"Content-Length": "100"}, 100, True),
        ({"Content-Length": str(2 << 20)}, 2 << 20, True),
        ({"Content-Length": str((2 << 20) + 1)}, (2 << 20) + 1, False),
        ({"Transfer-Encoding": "chunked"}, 2 << 20, True),
        ({"Transfer-Encoding": "chunked"}, (2 << 20) + 1, False),
    ],
)
def test_bodies_have_a_limit_however_they_are_sent(headers: dict[str, str], size: int, passes: bool) -> None:
    server = Server(FINE)
    block = bytes(64 << 10)
    parts = [block[: min(len(block), size - start)] for start in range(0, size, len(block))]
    status, answer = told(ask(app.Bodies(server), headers, *parts))
    if passes:
        assert (status, [len(body) for body in server.bodies]) == (200, [size])
    else:
        assert (status, server.bodies) == (413, [])
        assert "mlflow.maxBodyBytes" in answer["message"]


@pytest.mark.parametrize(
    ("method", "query", "body", "seen"),
    [
        ("POST", b"", b'{"max_results": 50000, "filter": "\xc3\xa4"}', {"max_results": 1000, "filter": "ä"}),
        ("POST", b"", b'{"max_results": 7}', {"max_results": 7}),
        ("POST", b"", b"{}", {}),
        ("POST", b"", b"[1", None),
        ("GET", b"max_results=200000&filter=a%3D%27b%27", b"", b"max_results=1000&filter=a%3D%27b%27"),
        ("GET", b"filter=x&max_results=5", b"", b"filter=x&max_results=5"),
        ("GET", b"", b"", b""),
    ],
)
def test_answers_have_a_limit(method: str, query: bytes, body: bytes, seen: Any) -> None:
    got: dict[str, Any] = {}

    async def inner(scope: Any, receive: Any, _send: Any) -> None:
        got["query"] = scope["query_string"]
        got["body"] = (await receive())["body"]
        length = dict(scope["headers"])[b"content-length"]
        assert int(length) == len(got["body"])

    ask(app.Pages(inner), {"Content-Length": str(len(body))}, body, method=method, path="/x/runs/search", query=query)
    if method == "GET":
        assert got["query"] == seen
    elif seen is None:
        assert got["body"] == body
    else:
        assert json.loads(got["body"]) == seen


POINTS = [{"key": "loss", "step": step} for step in range(3)]


def test_a_history_is_one_answer_of_all_pages() -> None:
    server = Server((200, {"metrics": POINTS[:2], "next_page_token": "more"}), (200, {"metrics": POINTS[2:]}))
    messages = ask(app.Histories(server), {}, method="GET", path="/x/metrics/get-history", query=b"metric_key=loss")
    assert told(messages) == (200, {"metrics": POINTS})


def test_a_history_that_fails_is_told() -> None:
    server = Server((404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}))
    messages = ask(app.Histories(server), {}, method="GET", path="/x/metrics/get-history")
    assert told(messages) == (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})


def test_a_history_that_fails_in_the_middle_does_not_pass_for_whole() -> None:
    server = Server((200, {"metrics": POINTS, "next_page_token": "more"}), (500, {"error_code": "INTERNAL_ERROR"}))
    messages = ask(app.Histories(server), {}, method="GET", path="/x/metrics/get-history")
    assert messages[-1]["more_body"], "the answer must stay unfinished"


MINIO = "We encountered an internal error, please try again."


def refused(status: int, code: str, message: str = "") -> ClientError:
    """An answer of the store as boto3 raises it."""
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


@pytest.mark.parametrize(
    ("failure", "status", "sentence"),
    [
        (refused(500, "InternalError", f"{MINIO}: cause(no space left on device)"), 507, "is full"),
        (refused(400, "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded"), 507, "is full"),
        (
            refused(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
            507,
            "full",
        ),
        (refused(500, "InternalError", MINIO), 500, "failed"),
        (refused(503, "SlowDown", "Please reduce your request rate."), 500, "failed"),
        (refused(403, "AccessDenied", "Access Denied."), 501, "Access Denied"),
        (refused(404, "NoSuchBucket", "The specified bucket does not exist"), 501, "bucket does not exist"),
        (refused(404, "NoSuchKey", "The specified key does not exist."), 404, "no artifact"),
        (refused(404, "404", "Not Found"), 404, "no artifact"),
        (refused(416, "InvalidRange", "The requested range is not satisfiable"), 416, "shorter"),
        (EndpointConnectionError(endpoint_url="http://minio:9000/"), 500, "does not answer"),
    ],
    ids=lambda value: (
        getattr(value, "response", {}).get("Error", {}).get("Code") if isinstance(value, Exception) else ""
    ),
)
def test_refusal_of_the_store_is_a_sentence(failure: ClientError | BotoCoreError, status: int, sentence: str) -> None:
    """Clients try 500 again, and none of the others; the gateway leaves its text."""
    answer = artifacts.store_error(failure, "/mlflow/x/model.bin")
    said = json.loads(answer.body)
    assert (answer.status_code, bool(said["error_code"])) == (status, True)
    assert sentence in said["message"]


@pytest.mark.parametrize("workers", [1, 2])
def test_it_listens_on_all_addresses_of_both_families(workers: int, tmp_path: Path) -> None:
    """uvicorn's own choice for more than one process is IPv4 alone. Each process has the database's password percent-encoded."""
    for name in ("serve.py", "backend.py"):
        shutil.copy(FOLDER / name, tmp_path)
    # in place of MLflow, which takes seconds to load
    (tmp_path / "server.py").write_text(
        "import os\n"
        "stores = [os.environ[f'{name}_STORE{end}'] for name, end in "
        "(('MLFLOW_BACKEND', '_URI'), ('_MLFLOW_SERVER_FILE', ''), ('_MLFLOW_SERVER_REGISTRY', ''))]\n"
        "assert stores == ['mysql+pymysql://u:p%40%2F%2541@db:3306/d'] * 3, stores\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        await send({'type': 'http.response.start', 'status': 204, 'headers': []})\n"
        "        await send({'type': 'http.response.body', 'body': b''})\n"
        "def create():\n"
        "    return app\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, tmp_path / "serve.py", f"--port={port}", f"--workers={workers}"]
    composed = "mysql+pymysql://u:p@/%41@db:3306/d"
    settings = {"DATABASE_USER": "u", "DATABASE_PASSWORD": "p@/%41", "MLFLOW_BACKEND_STORE_URI": composed}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | settings) as server:
        try:
            for host in ("127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])):
                assert status_of(f"http://{host}:{port}/") == 204, host
        finally:
            server.terminate()
            server.communicate(timeout=20)


def status_of(url: str) -> int:
    """Ask until there is an answer."""
    end = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def test_probes_are_answered_ahead_of_requests_that_wait() -> None:
    """By the process itself: behind a queue of requests, the kubelet would end the server that works on them."""

    async def busy(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("a probe waits for a thread")

    for method in ("GET", "HEAD"):
        start, *rest = ask(app.Health(busy), {}, method=method, path="/mlflow/health")
        assert (start["status"], b"".join(each.get("body", b"") for each in rest)) == (200, b"OK")
    with pytest.raises(AssertionError):
        ask(app.Health(busy), {}, method="GET", path="/mlflow/health/")
