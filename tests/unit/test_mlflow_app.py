"""What the chart puts before MLflow's server: same-origin requests, and requests that are tried again."""

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "charts/iml4e/charts/mlflow/files"
SPEC = importlib.util.spec_from_file_location("iml4e_mlflow", FOLDER / "app.py")
app = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(app)


def ask(middleware: Any, headers: dict[str, str], *body: bytes, kind: str = "http") -> list[dict[str, Any]]:
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
    asyncio.run(middleware({"type": kind, "headers": raw}, receive, send))
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


def test_a_key_that_another_added_is_tried_again_with_the_same_body() -> None:
    server = Server(RACE, RACE, FINE)
    assert told(ask(app.Again(server), JSON, b'{"run_', b'id": 1}')) == FINE
    assert server.bodies == [b'{"run_id": 1}'] * 3


def test_what_does_not_go_away_is_told() -> None:
    server = Server(*[RACE] * app.TRIES)
    assert told(ask(app.Again(server), JSON, b"{}")) == RACE
    assert server.answers == []


@pytest.mark.parametrize("answer", [FINE, EXISTS, (503, RACE[1]), (400, {"error_code": "INVALID_PARAMETER_VALUE"})])
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
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "localhost,localhost:*")
    monkeypatch.setenv("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "https://ml.example.com")
    from mlflow.server import fastapi_app, fastapi_security

    before = fastapi_security.INVALID_HOST_MSG, fastapi_security.CORS_BLOCKED_MSG
    assert all(isinstance(each, str) for each in before)
    monkeypatch.setattr(fastapi_app, "app", fastapi_app.create_fastapi_app())
    try:
        wrapped = app.create()
        from starlette.testclient import TestClient

        client = TestClient(wrapped, base_url="http://evil.example.com")
        answer = client.get("/")
        assert answer.status_code == 403
        assert "open https://ml.example.com/mlflow/" in answer.text
        assert "global.publicUrl" in answer.text
        client = TestClient(wrapped, base_url="http://LOCALHOST:30080")
        path = "/ajax-api/2.0/mlflow/no-such-thing"
        assert client.post(path, headers={"Origin": "http://localhost:30080"}).status_code == 404
        answer = client.post(path, headers={"Origin": "http://evil.example.com"})
        assert answer.status_code == 403
        assert "global.publicUrl" in answer.text
    finally:
        fastapi_security.INVALID_HOST_MSG, fastapi_security.CORS_BLOCKED_MSG = before


def test_mlflow_finds_it() -> None:
    """The entry point names the module and the factory, and the factory is a function, which MLflow looks for."""
    group, entry = (FOLDER / "entry_points.txt").read_text().split("\n")[:2]
    assert (group, entry) == ("[mlflow.app]", "iml4e = iml4e_mlflow:create")
    assert type(app.create).__name__ == "function"
