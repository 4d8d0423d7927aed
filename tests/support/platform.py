"""The platform as its users see it: one gateway, and a client for each service behind it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import mlflow
import requests

from iml4e import client

URL = os.environ.get("IML4E_URL", "http://127.0.0.1:30080").rstrip("/")


class Gateway:
    """HTTP under the platform's one address."""

    def __init__(self, url: str = URL) -> None:
        """Remember the address; nothing is asked yet."""
        self.url = url

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path, without following redirects."""
        return requests.get(self.url + path, **{"timeout": 15, "allow_redirects": False, **options})

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Ask Prometheus: (labels, value) of each series."""
        answer = self.get("/prometheus/api/v1/query", params={"query": expression})
        answer.raise_for_status()
        return [(row["metric"], float(row["value"][1])) for row in answer.json()["data"]["result"]]

    def targets(self) -> list[dict[str, Any]]:
        """Prometheus' active targets."""
        answer = self.get("/prometheus/api/v1/targets", params={"state": "active"})
        answer.raise_for_status()
        return answer.json()["data"]["activeTargets"]

    @cached_property
    def mlflow(self) -> mlflow.MlflowClient:
        """MLflow, through the gateway like everybody."""
        # a server that restarts is met with some patience, one that is gone is not waited for
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        mlflow.set_tracking_uri(f"{self.url}/mlflow")
        return mlflow.MlflowClient(f"{self.url}/mlflow")

    def model(self, name: str, namespace: str) -> Model:
        """A deployed model."""
        return Model(self.url, namespace, name)


class Model(client.Model):
    """The package's client, of which a test sees every response: mistakes included."""

    def predict(self, instances: Any, **options: Any) -> requests.Response:
        """Ask by protocol V1."""
        return self.post(self.v1, json={"instances": instances}, **options)

    def infer(self, inputs: list[dict[str, Any]], **options: Any) -> requests.Response:
        """Ask by protocol V2."""
        return self.post(f"{self.v2}/infer", json={"inputs": inputs}, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """POST anything."""
        return requests.post(self.base + path, **{"timeout": 15, **options})

    def get(self, path: str) -> requests.Response:
        """GET anything."""
        return requests.get(self.base + path, timeout=15)


@dataclass
class Traffic:
    """A client who asks the same thing over and over, while something else happens, and counts the answers."""

    url: str
    body: dict[str, Any]
    pause: float = 0.05
    total: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> float:
        """Share of good answers."""
        return 1 - len(self.failures) / max(self.total, 1)

    def __enter__(self) -> Self:
        """Start to ask; the first answer must be good, or the test would measure nothing."""
        self._end = threading.Event()
        self._ask()
        assert not self.failures, f"{self.url} fails before anything happened: {self.failures}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask for a moment longer, as trouble may come late, then stop."""
        time.sleep(2)
        self._end.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        # bounded: a test that hangs does not leave a client behind for ever
        end = time.monotonic() + 600
        while not self._end.is_set() and time.monotonic() < end:
            self._ask()
            time.sleep(self.pause)

    def _ask(self) -> None:
        self.total += 1
        try:
            answer = requests.post(self.url, json=self.body, timeout=10)
            if not answer.ok:
                self.failures.append(f"{answer.status_code} {answer.text[:120]}")
        except requests.RequestException as error:
            self.failures.append(type(error).__name__)
