"""The load generator: which address gets the load, and what decides the exit code.

Locust replaces parts of the standard library when it is imported: it runs as a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.common.paths import REPO

WINE = "/models/iml4e/wine"


def locust(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `locust -f load/` headless for a second, with the users of the model `wine` that send one row."""
    return subprocess.run(
        [*command("load/", *arguments), "TasterWithOneBottle"],
        cwd=REPO,
        env=PATIENT | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


#: A busy machine must not decide these tests by its latency.
PATIENT = {
    "PATH": os.environ["PATH"], "HOME": "/", "PYTHONUNBUFFERED": "1",
    "IML4E_LOAD_MAX_P95": "60000", "IML4E_LOAD_MAX_P99": "60000",
}  # fmt: skip


def command(files: str, *arguments: str) -> list[str]:
    """Locust without its page, for a second with two users unless the arguments say otherwise."""
    return [sys.executable, "-m", "locust", "-f", files, "--headless", "--users", "2", "--run-time", "1s", *arguments]


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
        found = self.path.startswith(f"{WINE}/v2/") or self.path == "/mlflow/health"
        self.respond(301 if self.server.location else 200 if found else 404, {})

    def do_POST(self) -> None:
        """A prediction for each instance; an MLflow with one experiment."""
        self.rfile.read(int(self.headers["content-length"]))
        self.respond(200, {"predictions": [0] * self.server.results, "experiment_id": "7", "experiments": []})

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
    """A call of `_users.target` with --host and IML4E_URL, as Python."""
    return f"_users.URL = {url!r} or _users.URL", f"_users.target({host!r})"


def evaluate(*calls: tuple[str, str]) -> list[str]:
    """What `_users.target` returns, or exits with, one after the other in one process."""
    code = "import _users\n" + "".join(
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
    assert (
        "http://iml4e.invalid/models/iml4e/wine/v2/models/wine/ready does not answer (ConnectionError)" in done.stderr
    )
    assert "is the port right (IML4E_URL, --host)" in done.stderr
    assert "Traceback" not in done.stderr


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
    assert "Nobody has anything to ask at" in done.stderr
    assert "`make demo` deploys a model" in done.stderr


def test_a_missing_result_is_a_failure(gateway: Gateway) -> None:
    gateway.results = 0
    done = locust(IML4E_URL=gateway.url)
    assert done.returncode == 1
    assert "models: 100.00% of the requests failed; the limit is 1.00%." in done.stderr
    assert "1 instances, 0 results" in done.stdout
    done = locust(IML4E_URL=gateway.url, IML4E_LOAD_MAX_FAILURES="1")
    assert done.returncode == 0, "failures within the limit"


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--shape", "square"], {}, "argument --shape: invalid choice: 'square' (choose from 'steady', 'ramp'"),
        ([], {"IML4E_LOAD_SHAPE": "square"}, "invalid choice: 'square'"),
        (["--thresholds", "none.toml"], {}, "The thresholds none.toml cannot be read: No such file or directory."),
        ([], {"IML4E_LOAD_MAX_P95": "1s"}, "IML4E_LOAD_MAX_P95 is '1s': write a number that is not below 0."),
        (["--users", "501"], {}, "A load test has at most 500 users and 4 hours."),
        (["--run-time", "5h"], {}, "A load test has at most 500 users and 4 hours."),
        (["--master"], {}, "A load test runs in one process: leave out --master"),
    ],
)
def test_what_cannot_be_is_told(arguments: list[str], environment: dict[str, str], sentence: str) -> None:
    """Nothing is asked: no gateway is there."""
    done = subprocess.run(
        command("load/tracking.py", *arguments), cwd=REPO, env=PATIENT | environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missed_threshold_fails_and_the_report_says_so(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[models]\np95 = 0.001\n")
    words = ["--thresholds", str(tmp_path / "mine.toml"), "--report", str(tmp_path / "reports"), "--shape", "spike"]
    done = subprocess.run(
        [*command("load/models.py", *words), "TasterWithOneBottle"], cwd=REPO,
        env={key: value for key, value in PATIENT.items() if key != "IML4E_LOAD_MAX_P95"} | {"IML4E_URL": gateway.url},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "models: the 95th percentile is " in done.stderr
    (folder,) = (tmp_path / "reports").iterdir()
    text = (folder / "report.md").read_text()
    assert "**Missed: models: the 95th percentile is " in text
    assert f"Prometheus does not answer at {gateway.url}/prometheus (" in text
    assert "shape spike, up to 2 users" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_run_created_is_removed_when_it_is_interrupted(gateway: Gateway, number: int) -> None:
    """Without a stack trace, and with the figures until then."""
    words = command("load/tracking.py", "--run-time", "60s", "DashboardReader")
    with subprocess.Popen(
        words, cwd=REPO, env=PATIENT | {"IML4E_URL": gateway.url}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            if line.startswith("Prepared MLflow"):
                process.send_signal(number)
                break
        rest = process.stdout.read()
    assert "/mlflow/api/2.0/mlflow/experiments/create" in gateway.paths
    assert "/mlflow/api/2.0/mlflow/experiments/delete" in gateway.paths
    assert "The run was interrupted after " in rest
    assert "Traceback" not in rest
