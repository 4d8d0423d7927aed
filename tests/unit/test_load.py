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
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment},
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


def test_the_default_is_the_port_of_the_bare_machine() -> None:
    code = "import common; print(common.target(None))"
    env = {"PYTHONPATH": f"{REPO / 'load'}:{REPO / 'src'}", "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "http://127.0.0.1:30080", done.stderr


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


@pytest.mark.parametrize("url", ["http://iml4e.invalid", "https://localhost.iml4e.invalid", "http://192.0.2.1:30080"])
def test_another_machine_is_refused_when_only_the_environment_names_it(url: str) -> None:
    done = locust(IML4E_URL=url)
    assert done.returncode == 1
    assert f"IML4E_URL is {url}, which is not this machine. To put load on it, add --host {url}." in done.stderr


def test_an_address_without_a_scheme_is_refused() -> None:
    done = locust("--host", "iml4e.invalid:30080")
    assert done.returncode == 1
    assert "iml4e.invalid:30080 is no address: write --host http://iml4e.invalid:30080" in done.stderr


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
