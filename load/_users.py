"""What all users share: the address of the platform, a plan of when to send, and requests whose answers are checked."""

from __future__ import annotations

import ipaddress
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from locust import HttpUser
from requests import RequestException, Response, Session, Timeout
from requests.exceptions import SSLError

from _measure import Record

URL = os.environ.get("IML4E_URL", "http://127.0.0.1:30080").rstrip("/")
#: Release and namespace are in the names of the gateway's routes, by which Prometheus counts.
RELEASE = os.environ.get("IML4E_RELEASE") or "iml4e"
NAMESPACE = os.environ.get("IML4E_NAMESPACE") or "iml4e"
#: What a run creates is named so, and so found again when that run could not remove it.
MARK = "iml4e-load"


class Problem(Exception):
    """Why there can be no load; the message is a sentence for the user."""


def is_this_machine(url: str) -> bool:
    """Whether an address is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def target(host: str | None) -> str:
    """The address that gets the load: this machine, or the one that the user names by `--host`.

    IML4E_URL alone does not name another machine: it is often set for other programs.
    """
    if host and urlsplit(host).scheme not in ("http", "https"):
        sys.exit(f"{host} is no address: write --host http://{host.rpartition('//')[2]} or https://…")
    if not host and not is_this_machine(URL):
        sys.exit(f"IML4E_URL is {URL}, which is not this machine. To put load on it, add --host {URL}.")
    return (host or URL).rstrip("/")


class Http(Session):
    """A client for preparing and removing: counted by route, but no user."""

    def __init__(self, url: str, record: Record) -> None:
        """Remember the address; nothing is asked yet."""
        super().__init__()
        self.url, self.record = url, record
        # a proxy of the environment would be another machine
        self.trust_env = not is_this_machine(url)

    def ask(self, method: str, path: str, route: str, timeout: float = 30, **options: Any) -> Response:
        """Send a request below the address; every status is an answer, a redirect is not followed.

        Raises:
            Problem: no answer.
        """
        self.record.routes[route] += 1
        try:
            return self.request(method, self.url + path, timeout=timeout, allow_redirects=False, **options)
        except SSLError:
            self.record.unanswered[route] += 1
            raise Problem(
                f"The certificate of {self.url} is not trusted: set REQUESTS_CA_BUNDLE to the authority's file."
            ) from None
        except RequestException as error:
            self.record.unanswered[route] += 1
            kind = "in time" if isinstance(error, Timeout) else f"({type(error).__name__})"
            raise Problem(
                f"{self.url + path} does not answer {kind}: is the port right (IML4E_URL, --host), and the platform up?"
            ) from None

    def must(self, method: str, path: str, route: str, what: str, **options: Any) -> Any:
        """Send a request and return the answer's JSON.

        Raises:
            Problem: no answer, or an error.
        """
        answer = self.ask(method, path, route, **options)
        if not answer.ok:
            raise Problem(f"{what} was refused with {answer.status_code}: {answer.text[:200].strip()}")
        return answer.json() if answer.content else {}


class Service:
    """Something behind the gateway that users ask, with what its users need to be there."""

    name = ""
    #: The HTTPRoute, as Prometheus names it.
    route = ""

    def prepare(self, http: Http, run: str) -> None:
        """Create what users work on, before the first of them starts; `run` names this run."""

    def clean(self, http: Http) -> None:
        """Remove all of that. It may be called again after it was interrupted."""


class PlatformUser(HttpUser):
    """A user of a service.

    Each user sends at the moments of a plan (`every`), and not a while after the last answer: when answers take long, requests
    go out late, and that time counts as response time. Without that, a server that stands still would be asked less often, and its
    standstill would be in the figures once for each user ('coordinated omission').
    """

    abstract = True
    host = URL
    service: ClassVar[Service]
    every: float = 1.0
    """Seconds from one task to the next."""
    timeout: float = 30.0
    record: ClassVar[Record] = Record()
    """Of the present run."""

    @classmethod
    def missing(cls, http: Http) -> str:
        """Why this user has nothing to ask on this platform; empty: it has."""
        raise NotImplementedError

    @property
    def route(self) -> str:
        """The HTTPRoute that this user's requests take."""
        return self.service.route

    def on_start(self) -> None:
        """Begin at a random moment of the plan: users that start together do not send together."""
        self.client.trust_env = not is_this_machine(self.client.base_url)
        self._due = time.time() + random.random() * self.every
        self._first = True
        time.sleep(max(0.0, self._due - time.time()))

    def wait_time(self) -> float:
        """Seconds until the next task is due."""
        self._due += self.every
        self._first = True
        return max(0.0, self._due - time.time())

    def ask(
        self,
        method: str,
        path: str,
        name: str,
        right: Callable[[Response], Any] = lambda answer: True,
        **options: Any,
    ) -> Any:
        """Send a request.

        Args:
            method: of HTTP.
            path: below the platform's address.
            name: what the user does by it, in tables.
            right: what the caller needs of the answer; whatever it raises makes the request a failure.
            options: of requests.

        Returns:
            What `right` returned, or None after a failure.
        """
        # only the first request of a task has a time in the plan; the others follow the answer before
        late = max(0.0, time.time() - self._due) if self._first else 0.0
        self._first = False
        self.record.routes[self.route] += 1
        options = {"timeout": self.timeout, "allow_redirects": False, **options}
        context = {"service": self.service.name, "late": late}
        with self.client.request(method, path, name, catch_response=True, context=context, **options) as answer:
            if not answer.status_code:
                self.record.unanswered[self.route] += 1
                answer.failure(f"no answer: {type(answer.error).__name__}")
                return None
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {' '.join(answer.text[:100].split())}")
                return None
            try:
                return right(answer)
            except Wrong as error:
                answer.failure(str(error))
            except (ValueError, LookupError, TypeError) as error:
                answer.failure(f"not the answer that was asked for: {type(error).__name__} {str(error)[:80]}")
        return None


class Wrong(Exception):
    """An answer with status 200 that is wrong; the message says how."""


class Bounded:
    """How often something may be created in a run."""

    def __init__(self, most: int) -> None:
        """Nothing is created yet."""
        self.left = most

    def take(self) -> bool:
        """Whether one more may be created; it counts as created."""
        self.left -= 1
        return self.left >= 0
