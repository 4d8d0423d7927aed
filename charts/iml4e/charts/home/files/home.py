"""The landing page at `/`, the same as JSON at `/models/`, and the gateway's answers where nothing else answers.

Two ports: on one the gateway asks for paths that no other route has; on the other, which no route leads to, for the text of a
502, 503 or 504.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import answers
import page
import uvicorn
from sources import Platform, State

Send = Callable[[dict[str, Any]], Awaitable[None]]

#: Ports of pages and of error texts.
PAGES, ERRORS = 8000, 8001
#: Windows that `?last=` takes, in seconds: less than a minute has too few scrapes, more than a month is not kept.
SHORTEST, LONGEST = 60, 30 * 86400
SECONDS = {"m": 60, "h": 3600, "d": 86400}
#: Seconds that a page waits for what it shows. Error texts are waited for by clients that repeat their request.
WAIT, WAIT_ERROR = 1.2, 0.7
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", page.POLICY.encode()),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]


def window(text: str) -> str:
    """Read `?last=`.

    Raises:
        ValueError: it is no window; the sentence says what is.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text, re.ASCII)
    if not found or not SHORTEST <= int(found[1]) * SECONDS[found[2]] <= LONGEST:
        raise ValueError(f"last={text[:40]!r} is no time: write a number with m, h or d, from 1m to 30d, as last=10m")
    return text


def base_url(headers: dict[str, str], public_url: str) -> str:
    """The address by which a client reaches the gateway: the public one, or the name by which this client asked."""
    public, host = urlsplit(public_url), headers.get("host", "").lower()
    ports = {"http": ":80", "https": ":443"}
    if not re.fullmatch(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", host, re.ASCII):
        return public_url
    if host.removesuffix(ports[public.scheme]) == public.netloc.lower().removesuffix(ports[public.scheme]):
        return public_url
    scheme = "https" if headers.get("x-forwarded-proto") == "https" else "http"
    return f"{scheme}://{host}"


class Home:
    """The ASGI application."""

    def __init__(self, platform: Platform, public_url: str) -> None:
        self.platform = platform
        self.public_url = public_url.rstrip("/")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["server"][1] == ERRORS:
            await self._internal(scope, headers, query, send)
        elif scope["path"] in ("/", "/models", "/models/"):
            await self._page(scope, headers, query, send)
        elif scope["path"] == "/favicon.ico":
            await respond(send, 204, "text/plain", "")
        else:
            state = await self.platform.state(WAIT_ERROR)
            said = answers.not_found(scope["path"], state)
            await self._error(404, said, scope["path"], headers, state, send)

    async def _page(
        self, scope: dict[str, Any], headers: dict[str, str], query: dict[str, list[str]], send: Send
    ) -> None:
        """Answer with the landing page, or with the same as JSON."""
        as_json = scope["path"] != "/"
        base = base_url(headers, self.public_url)
        if scope["method"] not in ("GET", "HEAD"):
            said = {"error": "Use GET here; predictions are at /models/NAMESPACE/NAME/v1/models/NAME:predict."}
            await respond_json(send, 405, said, (b"allow", b"GET, HEAD"))
            return
        try:
            last = window(query.get("last", ["10m"])[-1])
        except ValueError as error:
            if as_json:
                await respond_json(send, 400, {"error": str(error)})
            else:
                await respond(send, 400, "text/html", page.error(400, str(error), [], base))
            return
        state = await self.platform.state(WAIT, last)
        if as_json:
            await respond_json(send, 200, page.data(state, last, base, self.platform.release))
        else:
            await respond(send, 200, "text/html", page.home(state, last, base, self.platform.release))

    async def _internal(
        self, scope: dict[str, Any], headers: dict[str, str], query: dict[str, list[str]], send: Send
    ) -> None:
        """Answer the kubelet, and the gateway that asks for the text of an error."""
        if scope["path"] == "/healthz":
            await respond(send, 200, "text/plain", "ok\n")
            return
        status = int(status) if (status := query.get("status", [""])[-1]) in ("502", "503", "504") else 503
        # a model's route takes the model's path off, and the gateway keeps it here
        path = headers.get("x-replaced-path") or urlsplit(query.get("url", ["/"])[-1]).path or "/"
        state = await self.platform.state(WAIT_ERROR)
        said = answers.unavailable(path, status, state)
        await self._error(status, said, path, headers, state, send)

    async def _error(
        self, status: int, said: str, path: str, headers: dict[str, str], state: State, send: Send
    ) -> None:
        """Answer with an error: a page for browsers, JSON for everybody else."""
        more = [(b"vary", b"accept")] + ([(b"retry-after", b"5")] if status >= 500 else [])
        if "text/html" in headers.get("accept", ""):
            base = base_url(headers, self.public_url)
            await respond(send, status, "text/html", page.error(status, said, state.pages(), base, path), *more)
        else:
            await respond_json(send, status, answers.body(status, said, path), *more)


async def respond(send: Send, status: int, kind: str, text: str, *headers: tuple[bytes, bytes]) -> None:
    """Send an answer."""
    body = text.encode("utf-8", "replace")
    sent = [*HEADERS, *headers, (b"content-length", str(len(body)).encode())]
    sent += [(b"content-type", f"{kind}; charset=utf-8".encode())] if body else []
    if status == 204:
        sent.pop()
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, content: Any, *headers: tuple[bytes, bytes]) -> None:
    """Send an answer as JSON."""
    await respond(send, status, "application/json", json.dumps(content, indent=1) + "\n", *headers)


def listener(port: int) -> socket.socket:
    """A socket on all addresses, IPv6 and IPv4."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
    return socket.create_server(("", port), backlog=256)


def main() -> None:
    """Serve until SIGTERM."""
    app = Home(Platform(os.environ), os.environ["PUBLIC_URL"])
    # one process with the standard library's loop: uvloop would take 6 MiB
    config = uvicorn.Config(
        app, loop="asyncio", lifespan="off", ws="none", interface="asgi3", access_log=False, log_level="warning",
        server_header=False, proxy_headers=False, timeout_keep_alive=120, timeout_graceful_shutdown=10,
    )  # fmt: skip
    asyncio.run(uvicorn.Server(config).serve([listener(PAGES), listener(ERRORS)]))


if __name__ == "__main__":
    main()
