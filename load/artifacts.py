"""Users of MLflow's artifacts: they send and fetch files through MLflow's proxy, and compare checksums."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from typing import Any

from locust import task

import _session  # noqa: F401  its listeners make a run of locust a load test
from _mlflow import API, Tracking, missing, now
from _users import Http, PlatformUser, Wrong

PROXY = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
MIB = 2**20
SIZES = {"1 MiB": MIB, "20 MiB": 20 * MIB}
#: Bytes that a load test may upload, and files that a user keeps at a time: older ones are overwritten.
MOST_BYTES = 4 * 2**30
SLOTS = 3
#: Content of the files: each begins at another place of it, so that no two are alike.
CONTENT = os.urandom(21 * MIB)


def content(size: int) -> bytes:
    """A file of so many bytes that nothing knows yet."""
    start = random.randrange(len(CONTENT) - size)
    return CONTENT[start : start + size]


class Artifacts(Tracking):
    """MLflow's artifact proxy; what a run uploads is deleted from the store at the end."""

    name = "artifacts"
    part = "artifacts"

    def __init__(self) -> None:
        """Nothing is uploaded yet."""
        super().__init__()
        self.run = ""
        self.shared: dict[str, tuple[str, str]] = {}
        self.bytes = 0

    def prepare(self, http: Http, run: str) -> None:
        """Create a run, with a file of each size for all to read."""
        super().prepare(http, run)
        self.bytes, self.shared = 0, {}
        body = {"experiment_id": self.experiment, "start_time": now()}
        self.run = http.must("POST", f"{API}/runs/create", self.route, "A run", json=body)["run"]["info"]["run_id"]
        for label, size in SIZES.items():
            data, path = content(size), self.path(f"shared-{size}.bin")
            http.must("PUT", path, self.route, f"A file of {label}", data=data, timeout=120)
            self.shared[label] = (path, hashlib.sha256(data).hexdigest())

    def path(self, file: str) -> str:
        """Where the proxy keeps a file of the run."""
        return f"{PROXY}/{self.experiment}/{self.run}/artifacts/{file}"

    def remove(self, http: Http, experiment: str) -> None:
        """Delete the files of an experiment's runs from the store, then the experiment."""
        body = {"experiment_ids": [experiment], "max_results": 100}
        found = http.must("POST", f"{API}/runs/search", self.route, "To search runs", json=body)
        for run in found.get("runs", []):
            # by run and never by experiment: older MLflow takes the path for a prefix, and 7 is one of 70
            path = f"{PROXY}/{experiment}/{run['info']['run_id']}"
            http.must("DELETE", path, self.route, "To delete files", timeout=120)
        super().remove(http, experiment)

    def room(self, size: int) -> bool:
        """Whether so many bytes more may be uploaded."""
        if self.bytes + size > MOST_BYTES:
            return False
        self.bytes += size
        return True


ARTIFACTS = Artifacts()
NUMBERS = itertools.count()


def same(checksum: str) -> Any:
    """A check that an answer has this checksum."""

    def right(answer: Any) -> bool:
        if hashlib.sha256(answer.content).hexdigest() != checksum:
            raise Wrong(f"{len(answer.content)} bytes with another checksum")
        return True

    return right


class ArtifactUser(PlatformUser):
    """A user of artifacts."""

    abstract = True
    service: Any = ARTIFACTS
    every = 1.0
    timeout = 60

    @classmethod
    def missing(cls, http: Http) -> str:
        """Ask for MLflow's health."""
        return missing(http, cls.service.route)


class TrainerWithCheckpoints(ArtifactUser):
    """Uploads a checkpoint of 1 MiB every second, of 20 MiB now and then, and fetches what was stored."""

    def on_start(self) -> None:
        """Files of this user have a number of their own."""
        self.number, self.slot = next(NUMBERS), itertools.cycle(range(SLOTS))
        super().on_start()

    @task(12)
    def keep_a_checkpoint(self) -> None:
        """Upload and fetch 1 MiB."""
        self.store("1 MiB")

    @task(1)
    def keep_a_large_checkpoint(self) -> None:
        """Upload and fetch 20 MiB."""
        self.store("20 MiB")

    def store(self, label: str) -> None:
        """Upload a file, fetch it, compare checksums."""
        size = SIZES[label]
        if not self.service.room(size):
            self.fetch_shared(label)
            return
        data, path = content(size), self.service.path(f"{self.number}-{next(self.slot)}.bin")
        if self.ask("PUT", path, f"upload {label}", data=data):
            self.ask("GET", path, f"fetch own {label}", same(hashlib.sha256(data).hexdigest()))

    def fetch_shared(self, label: str) -> None:
        """Fetch what all read, when the limit of bytes is reached."""
        path, checksum = self.service.shared[label]
        self.ask("GET", path, f"fetch {label}", same(checksum))


class ReviewerOfResults(ArtifactUser):
    """Lists a run's files and downloads one: 1 MiB, now and then 20 MiB."""

    @task
    def review(self) -> None:
        """List, and fetch one file."""
        query = {"run_id": self.service.run}
        self.ask("GET", f"{API}/artifacts/list", "list files", lambda answer: answer.json()["files"], params=query)
        label = random.choices(list(SIZES), weights=[12, 1])[0]
        path, checksum = self.service.shared[label]
        self.ask("GET", path, f"fetch {label}", same(checksum))
