"""What happens to every request before MLflow sees it: the browser's address, the size of the body, writers at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

from anyio import Lock, Semaphore, move_on_after, to_thread
from artifacts import ARTIFACTS, PREFIX, STALL, drain, error
from starlette.requests import Request
from starlette.responses import PlainTextResponse

HEALTH = f"{PREFIX}/health"
"""Path of the probes."""
DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
"""Ports that browsers leave out."""
SMALL_BODY = 2**20
"""Bytes of a request body that needs no turn."""
MAX_BODY = int(os.environ["MAX_BODY_BYTES"])
"""Bytes of a request body, other than an artifact."""
SMALL_PAGE = 200
"""Results of a search that needs no turn."""
LARGEST_PAGE = 1000
"""Results of an answer; MLflow itself allows 50,000 runs, and 200,000 model versions."""
HISTORY_PAGE = 20_000
"""Points of a metric that are in memory."""
RACES = {
    HTTPStatus.BAD_REQUEST: b'{"error_code": "BAD_REQUEST", "message": "(pymysql.err.IntegrityError) (1062, ',
    HTTPStatus.SERVICE_UNAVAILABLE: b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "(pymysql.err.OperationalError) (1213, ',
}
"""By status, how answers begin that are a duplicate key or a deadlock, in the database's own words; 1062 and 1213 are MySQL's numbers of them."""
TRIES = 6
"""Times that a request is tried after a duplicate key or a deadlock."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Health:
    """Answers the probes of the kubelet, ahead of every request that waits for a thread.

    MLflow answers them in one of its threads: a queue of requests would take the pod's traffic away, and then end the server.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer for the process itself; pass every other request on."""
        if scope["type"] == "http" and scope["path"] == HEALTH and scope["method"] in ("GET", "HEAD"):
            await PlainTextResponse("OK")(scope, receive, send)
            return
        await self.app(scope, receive, send)


class Refusals:
    """Reads the rest of a request that MLflow refuses, then answers in one piece: proxies that are still sending miss parts of an answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and hold a refusal until the request is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        whole, start, text = False, None, bytearray()

        async def read() -> dict[str, Any]:
            nonlocal whole
            message = await receive()
            whole = not message.get("more_body", False)
            return message

        async def answer(message: dict[str, Any]) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.FORBIDDEN:
                start = message
            elif start is None:
                await send(message)
            else:
                text.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    with move_on_after(STALL):
                        while not whole:
                            await read()
                    headers = [header for header in start["headers"] if header[0].lower() != b"content-length"]
                    await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(text))]})
                    await send({"type": "http.response.body", "body": bytes(text)})

        await self.app(scope, read, answer)


class SameOrigin:
    """A request to its page's own address loses its Origin, and host names lose their case.

    MLflow compares the Origin of a write with one list of addresses, and the Host of every request with another. Without this,
    a page whose host is on the second list alone opens, and each of its own calls is refused.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            headers = [(key, value.lower() if key == b"host" else value) for key, value in scope["headers"]]
            host = dict(headers).get(b"host", b"")
            scheme, _, origin = dict(headers).get(b"origin", b"").lower().partition(b"://")
            port = DEFAULT_PORTS.get(scheme, b"")
            if origin and origin.removesuffix(port) == host.removesuffix(port):
                headers = [(key, value) for key, value in headers if key != b"origin"]
            scope = {**scope, "headers": headers}
        await self.app(scope, receive, send)


class Again:
    """A request that the database refused for what another writer does just now is tried again.

    Two writers who add the same tag, parameter or dataset both see that it is missing. MLflow answers the second one with 400,
    which no client repeats; at the second try the key is there. Of two who add the same keys in another order, each may wait for
    the other: the database rolls one of them back, and MLflow answers with 503.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; only an answer of 400 or 503 is held back until it is whole."""
        headers = dict(scope.get("headers", ()))
        is_json = headers.get(b"content-type", b"").startswith(b"application/json")
        if scope["type"] != "http" or not is_json or not 0 < int(headers.get(b"content-length", 0)) <= 4 * SMALL_BODY:
            await self.app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        for attempt in range(TRIES):
            held: list[dict[str, Any]] = []

            async def hold(message: dict[str, Any], held: list[dict[str, Any]] = held) -> None:
                if held or message.get("status") in RACES:
                    held.append(message)
                else:
                    await send(message)

            await self.app(dict(scope), replay(body, receive), hold)
            answer = b"".join(each.get("body", b"") for each in held)
            if attempt == TRIES - 1 or not held or not answer.startswith(RACES[held[0]["status"]]):
                break
        for message in held:
            await send(message)


class Pages:
    """Bounds the memory that answers take: at most a thousand results in one, and large ones one at a time.

    A run in an answer takes 40 kB of memory. MLflow's clients go on by the token of the next page, however many results came.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.turn = Lock()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Lower `max_results` of a search; let one large search at a time through."""
        body = b""
        if scope["type"] != "http" or not scope["path"].endswith("/search"):
            await self.app(scope, receive, send)
            return
        asked: dict[str, Any] = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if scope["method"] == "POST":
            body = await Request(scope, receive).body()
            with suppress(ValueError):
                content = json.loads(body)
                asked = content if isinstance(content, dict) else {}
        wanted = str(asked.get("max_results", ""))
        count = int(wanted) if wanted.isdigit() else LARGEST_PAGE
        if count > LARGEST_PAGE and body:
            body = json.dumps({**asked, "max_results": LARGEST_PAGE}).encode()
            headers = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
            scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        elif count > LARGEST_PAGE:
            query = re.sub(rb"(^|&)max_results=[0-9]+", rb"\g<1>max_results=%d" % LARGEST_PAGE, scope["query_string"])
            scope = {**scope, "query_string": query}
        async with self.turn if count > SMALL_PAGE else nullcontext():
            await self.app(scope, replay(body, receive) if scope["method"] == "POST" else receive, send)


class Histories:
    """Bounds the memory that the history of a metric takes: MLflow is asked for it in pages, which are sent as one answer.

    MLflow's client asks for all points at once, and each takes 2.5 kB of memory.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.turn = Lock()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer with all points of a metric; leave requests that name a page to MLflow."""
        whole = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith("/metrics/get-history")
        if not whole or b"max_results=" in scope["query_string"]:
            await self.app(scope, receive, send)
            return
        token, begun = "", False
        while True:
            asked = urlencode({"max_results": HISTORY_PAGE, **({"page_token": token} if token else {})}).encode()
            page: list[dict[str, Any]] = []
            async with self.turn:
                query = {**scope, "query_string": scope["query_string"] + b"&" + asked}
                await self.app(query, replay(b"", receive), keep(page))
            start, content = page[0], b"".join(message.get("body", b"") for message in page)
            if start["status"] != HTTPStatus.OK:
                # after the first page the answer stays unfinished, which clients notice: a part must not pass for the whole
                for message in () if begun else page:
                    await send(message)
                return
            answer = json.loads(content)
            points = json.dumps(answer.get("metrics", []))[1:-1].encode()
            if not begun:
                headers = [(key, value) for key, value in start["headers"] if key != b"content-length"]
                await send({**start, "headers": headers})
                await send({"type": "http.response.body", "body": b'{"metrics": [' + points, "more_body": True})
            elif points:
                await send({"type": "http.response.body", "body": b", " + points, "more_body": True})
            begun, token = True, answer.get("next_page_token", "")
            if not token:
                await send({"type": "http.response.body", "body": b"]}"})
                return


def keep(messages: list[dict[str, Any]]) -> Send:
    """An answer that is kept instead of sent."""

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    return send


class Bodies:
    """Bounds the memory that request bodies take: MLflow has each in memory, and parsed as JSON fifteen times as large."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.reading = Semaphore(4)
        self.parsing = Lock()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer 413 to a body above the limit; hand large bodies to MLflow one at a time, when they are complete."""
        if scope["type"] == "lifespan":
            # as many as have their two connections to the database (MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW)
            to_thread.current_default_thread_limiter().total_tokens = 10
        if scope["type"] != "http" or (scope["method"] == "PUT" and scope["path"].startswith(ARTIFACTS)):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = int(headers.get(b"content-length", b"0"))
        if length <= SMALL_BODY and b"transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        body, had = Request(scope, receive).stream(), bytearray()
        async with self.reading:
            if length <= MAX_BODY:
                with move_on_after(STALL) as reading:
                    async for chunk in body:
                        had += chunk
                        if (length := len(had)) > MAX_BODY:
                            break
                if reading.cancelled_caught:
                    message = f"The request body did not arrive within {STALL} s. Send it in smaller parts."
                    await error(408, "INVALID_PARAMETER_VALUE", message)(scope, receive, send)
                    return
            if length <= MAX_BODY:
                async with self.parsing:
                    await self.app(scope, replay(bytes(had), receive), send)
                return
        await drain(body)
        message = (
            f"The request body is larger than {MAX_BODY} bytes (mlflow.maxBodyBytes). "
            "Log large content as an artifact: log_artifact takes any size."
        )
        await error(413, "INVALID_PARAMETER_VALUE", message)(scope, receive, send)


def replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, for the application."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> dict[str, Any]:
        return pending.pop() if pending else await receive()

    return again
