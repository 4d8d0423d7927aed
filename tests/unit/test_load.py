"""The load generator: which address gets the load, and what decides the exit code.

Locust replaces parts of the standard library when it is imported: it runs as a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.common.paths import REPO

WINE = "/models/iml4e/wine"


def locust(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `locust -f load/` headless for a second, with the users of the model `wine` that send one row."""
    words = ["-f", "load/", "--headless", "--only-summary", "--users", "2", "--run-time", "1s", *arguments]
    return subprocess.run(
        [sys.executable, "-m", "locust", *words, "TasterWithOneBottle"],
        cwd=REPO,
        # a busy machine must not decide these tests by its latency
        env={"PATH": os.environ["PATH"], "HOME": "/", "IML4E_LOAD_MAX_P95": "60000", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Gateway(ThreadingHTTPServer):
    """A gateway of this machine with the model `wine` behind it."""

    daemon_threads = True
    paths: set[str]
    location = ""
    results = 1

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers readiness and V1 predictions."""

    protocol_version = "HTTP/1.1"
    server: Gateway

    def do_GET(self) -> None:
        """Ready, or moved."""
        self.respond(301 if self.server.location else 200 if self.path.startswith(f"{WINE}/v2/") else 404, {})

    def do_POST(self) -> None:
        """A prediction for each instance."""
        self.rfile.read(int(self.headers["content-length"]))
        self.respond(200, {"predictions": [0] * self.server.results})

    def respond(self, status: int, body: object) -> None:
        """Send an answer and keep the path."""
        self.server.paths.add(self.path)
        content = json.dumps(body).encode()
        self.send_response(status)
        if self.server.location:
            self.send_header("location", self.server.location)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that runs."""
    server = Gateway(("127.0.0.1", 0), Handler)
    server.paths = set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def target(host: str | None, url: str | None) -> tuple[str, str]:
    """A call of `common.target` with --host and IML4E_URL, as Python."""
    return f"common.URL = {url!r} or common.URL", f"common.target({host!r})"


def evaluate(*calls: tuple[str, str]) -> list[str]:
    """What `common.target` returns, or exits with, one after the other in one process."""
    code = "import common\n" + "".join(
        f"{setting}\ntry: print({call})\nexcept SystemExit as error: print(error)\n" for setting, call in calls
    )
    env = {"PYTHONPATH": f"{REPO / 'load'}:{REPO / 'src'}", "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_address_is_this_machine_or_what_host_names() -> None:
    others = ["http://iml4e.invalid", "https://localhost.iml4e.invalid", "http://192.0.2.1:30080"]
    answers = evaluate(
        target(None, None),
        target("https://iml4e.invalid/", None),
        target("iml4e.invalid:30080", None),
        *(target(None, url) for url in others),
    )
    assert answers == [
        "http://127.0.0.1:30080",  # the port of the bare machine
        "https://iml4e.invalid",
        "iml4e.invalid:30080 is no address: write --host http://iml4e.invalid:30080 or https://…",
        *(f"IML4E_URL is {url}, which is not this machine. To put load on it, add --host {url}." for url in others),
    ]


def test_another_port_of_this_machine_is_asked(gateway: Gateway) -> None:
    done = locust(IML4E_URL=gateway.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert gateway.paths == {f"{WINE}/v2/models/wine/ready", f"{WINE}/v1/models/wine:predict"}


def test_host_goes_before_everything_else(gateway: Gateway) -> None:
    """With a slash at the end, as browsers show it."""
    done = locust("--host", f"{gateway.url}/", IML4E_URL="http://iml4e.invalid")
    assert done.returncode == 0, done.stdout + done.stderr
    assert gateway.paths == {f"{WINE}/v2/models/wine/ready", f"{WINE}/v1/models/wine:predict"}


def test_another_machine_is_accepted_when_it_is_named() -> None:
    """The name exists nowhere, so that no load leaves this machine."""
    done = locust("--host", "http://iml4e.invalid")
    assert done.returncode == 1
    assert "http://iml4e.invalid/models/iml4e/wine does not answer" in done.stderr


def test_another_machine_is_refused_when_only_the_environment_names_it() -> None:
    done = locust(IML4E_URL="http://iml4e.invalid")
    assert done.returncode == 1
    assert "IML4E_URL is http://iml4e.invalid, which is not this machine." in done.stderr


def test_a_redirect_is_told(gateway: Gateway) -> None:
    """Behind it a POST would become a GET."""
    gateway.location = "https://iml4e.invalid/models"
    done = locust("--host", gateway.url)
    assert done.returncode == 1
    assert "redirects to https://iml4e.invalid/models: name that address by --host" in done.stderr


def test_no_model_is_told(gateway: Gateway) -> None:
    done = locust(IML4E_URL=gateway.url, IML4E_MODEL_NAMESPACE="empty")
    assert done.returncode == 1
    assert "No TasterWithOneBottle: model wine is not deployed (404" in done.stdout
    assert "No model is deployed" in done.stderr


def test_a_missing_result_is_a_failure(gateway: Gateway) -> None:
    gateway.results = 0
    done = locust(IML4E_URL=gateway.url)
    assert done.returncode == 1
    assert "100.00% of the requests failed; the limit is 1.00%." in done.stderr
    assert "1 instances, 0 results" in done.stdout + done.stderr
