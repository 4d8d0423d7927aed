"""The clients: an open-loop schedule for each endpoint, with connections that are new each time and connections that are kept.

Open loop: requests are sent when the schedule says so, whether or not former ones were answered, and the time of an answer counts
from that moment. A client that waits for one answer before it asks again would not see most of a stall (coordinated omission).
Nothing is tried twice: what a client library would hide by a retry is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import ssl
import threading
import time
from collections.abc import Iterator, Sequence

import httpx

from .endpoints import Endpoint
from .measurement import OK, Request

NEW, KEPT = "new", "kept"
REFUSED = {errno.ECONNREFUSED}
UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}
RESET = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything below it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def kind_of(error: BaseException) -> str:
    """Name the kind of a failure without an answer."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "timeout"
    numbers = {each.errno for each in causes(error) if isinstance(each, OSError)}
    for name, known in (("refused", REFUSED), ("unreachable", UNREACHABLE), ("reset", RESET)):
        if numbers & known:
            return name
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        return "closed without an answer"
    return type(error).__name__


def client(url: str, connection: str, timeout: float, verify: ssl.SSLContext) -> httpx.AsyncClient:
    """A client that keeps its connections, or closes each after its answer; it follows no redirect and retries nothing."""
    kept = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=300)
    limits = kept if connection == KEPT else httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout, verify=verify, trust_env=False)


class Load:
    """Constant load from a thread of its own, so that what happens meanwhile does not hold up the schedule."""

    def __init__(self, url: str, endpoints: Sequence[Endpoint]) -> None:
        """Nothing is sent yet."""
        self.url, self.endpoints = url, endpoints
        self.requests: list[Request] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        """Start to send."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send no more, and wait for the answers that are due."""
        self._stop.set()
        self._thread.join(max(each.patience for each in self.endpoints) + 10)

    async def _run(self) -> None:
        # this thread alone: a client elsewhere would not share the cores of the platform
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        verify = ssl.create_default_context()
        streams = [(endpoint, connection) for endpoint in self.endpoints for connection in (NEW, KEPT)]
        # spread over the period: not all streams in the same moment
        async with asyncio.TaskGroup() as group:
            for number, (endpoint, connection) in enumerate(streams):
                first = number / len(streams) / endpoint.rate
                group.create_task(self._stream(endpoint, connection, first, verify))

    async def _stream(self, endpoint: Endpoint, connection: str, first: float, verify: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        begun, wall = loop.time(), time.time()
        async with (
            client(self.url, connection, endpoint.patience, verify) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in itertools.count():
                due = begun + first + number / endpoint.rate
                while (left := due - loop.time()) > 0 and not self._stop.is_set():
                    await asyncio.sleep(min(left, 0.5))
                if self._stop.is_set():
                    return
                at = wall + due - begun
                group.create_task(self._ask(session, endpoint, connection, number, due, at))

    async def _ask(
        self, session: httpx.AsyncClient, endpoint: Endpoint, connection: str, number: int, due: float, at: float
    ) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - due
        try:
            async with asyncio.timeout(endpoint.patience):
                answer = await session.request(endpoint.method, endpoint.path, json=endpoint.body(number))
            outcome = endpoint.judge(answer.status_code, answer.content)
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            outcome = kind_of(error)
        self.requests.append(Request(endpoint.name, connection, at, loop.time() - due, late, outcome))


def once(url: str, endpoint: Endpoint) -> str:
    """Ask once, in the foreground: empty, or the kind of the failure."""
    try:
        with httpx.Client(base_url=url, timeout=endpoint.patience, trust_env=False) as session:
            answer = session.request(endpoint.method, endpoint.path, json=endpoint.body(0))
    except (httpx.HTTPError, OSError) as error:
        return kind_of(error)
    return endpoint.judge(answer.status_code, answer.content) or OK
