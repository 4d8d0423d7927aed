"""What clients ask: every public endpoint that the release has, with a body and the right answer of each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from scripts.common import console

from .measurement import OK

#: Names of groups, as goals and tables use them.
GATEWAY, MODELS, MLFLOW, PIPELINES = "gateway", "models", "MLflow", "Pipelines API"
ARTIFACTS, PAGES = "artifacts", "pages"
#: Requests per second of each kind of connection: as many as a small machine answers without effort.
FAST, MEDIUM, SLOW, RARE = 10.0, 5.0, 2.0, 0.2
#: Seconds that clients of MLflow and of the Pipelines API wait for an answer: MLflow's own client waits 120, `kfp` without end.
PATIENCE = 60.0
ROW = 1.0
"""Value of each number in a model's input: the answer matters only in that it stays the same."""


@dataclass
class Endpoint:
    """Something that clients ask again and again."""

    name: str
    group: str
    method: str
    path: str
    rate: float
    """Requests per second of each kind of connection."""
    route: str = ""
    """What Prometheus calls it: `<namespace>-<HTTPRoute>`."""
    body: Callable[[int], Any] = lambda number: None
    """JSON of a request, by its number."""
    answers: Callable[[bytes], Any] = lambda content: True
    """What of an answer has to be right."""
    expected: Any = True
    moved: bool = False
    """Whether a redirect is a right answer."""
    patience: float = 10.0
    """Seconds that an answer may take."""
    replicas: int = 0
    """Of a model: how many; 0: not known."""

    def judge(self, status: int, content: bytes) -> str:
        """Empty for a right answer; otherwise the kind of failure."""
        if self.moved and 300 <= status < 400:
            return OK
        if status != 200:
            return str(status)
        try:
            return OK if self.answers(content) == self.expected else "wrong answer"
        except (ValueError, KeyError, IndexError, TypeError):
            return "wrong answer"


@dataclass
class Found:
    """Endpoints of a release, and what was left out and why."""

    endpoints: list[Endpoint] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def v2_body(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """A V2 request for one row, from the metadata of a model: a tensor for each input."""
    tensors = []
    for each in inputs:
        shape = [1, *(1 if size < 0 else size for size in each["shape"][1:])]
        count = 1
        for size in shape:
            count *= size
        value = "a" if each["datatype"] == "BYTES" else ROW
        tensors.append({"name": each["name"], "shape": shape, "datatype": each["datatype"], "data": [value] * count})
    return {"inputs": tensors}


def v1_body(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """A V1 request for one row: by column, or the row itself where the model has one input without columns."""
    values = v2_body(inputs)["inputs"]
    if len(values) == 1 and len(values[0]["shape"]) > 1:
        return {"instances": [values[0]["data"]]}
    return {"instances": [{each["name"]: each["data"][0] for each in values}]}


def model(
    session: httpx.Client, namespace: str, name: str, rate: float, replicas: int, called: str = ""
) -> list[Endpoint]:
    """Endpoints of a served model, by V1 and V2; tables call the model `called`.

    Raises:
        console.Failure: it does not answer a request that is made from its own metadata.
    """
    base = f"/models/{namespace}/{name}"
    metadata = session.get(f"{base}/v2/models/{name}")
    if metadata.status_code != 200:
        raise console.Failure(f"Its metadata answers {metadata.status_code}.")
    inputs = metadata.json().get("inputs") or []
    route, found = f"{namespace}-{name}", []
    for protocol, path, body, answers in (
        ("V1", f"/v1/models/{name}:predict", v1_body(inputs), lambda content: json.loads(content)["predictions"]),
        ("V2", f"/v2/models/{name}/infer", v2_body(inputs), lambda content: json.loads(content)["outputs"][0]["data"]),
    ):
        answer = session.post(base + path, json=body)
        if answer.status_code != 200:
            raise console.Failure(f"It answers {answer.status_code} to a row by {protocol}: {answer.text[:200]}")
        one = Endpoint(
            f"{called or f'model {name}'}, {protocol}", MODELS, "POST", base + path, rate, route, replicas=replicas
        )
        one.body, one.answers = (lambda number, body=body: body), answers
        one.expected = answers(answer.content)
        found.append(one)
    return found


#: Where a run's file is behind MLflow's proxy of the store, and what is in it.
ARTIFACT, CONTENT = (
    "/mlflow/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/note.txt",
    b"availability\n",
)


def mlflow(route: str, run: str, experiment: str) -> list[Endpoint]:
    """Reading and writing of MLflow: a search for runs, a metric of a run, a file of a run."""
    api = "/mlflow/api/2.0/mlflow/runs"
    search = {"experiment_ids": [experiment], "max_results": 5}
    read = Endpoint("MLflow, read", MLFLOW, "POST", f"{api}/search", SLOW, route)
    read.body = lambda number: search
    read.answers = lambda content: [each["info"]["run_id"] for each in json.loads(content)["runs"]]
    read.expected = [run]
    write = Endpoint("MLflow, write", MLFLOW, "POST", f"{api}/log-metric", SLOW, route)
    write.body = lambda number: {
        "run_id": run,
        "key": "loss",
        "value": 1 / (number + 1),
        "timestamp": int(time.time() * 1000),
        "step": number,
    }
    path = ARTIFACT.format(experiment=experiment, run=run)
    artifact = Endpoint("MLflow, artifact", ARTIFACTS, "GET", path, SLOW, route)
    artifact.answers, artifact.expected = bytes, CONTENT
    for each in (read, write, artifact):
        each.patience = PATIENCE
    return [read, write, artifact]


def pipelines(route: str, experiment: str) -> list[Endpoint]:
    """Reading and, rarely, writing of the Pipelines API: a list of experiments; an experiment goes in and out of the archive."""
    api = "/pipeline/apis/v2beta1/experiments"
    read = Endpoint("Pipelines API, read", PIPELINES, "GET", f"{api}?page_size=1", SLOW, route)
    read.answers = lambda content: len(json.loads(content)["experiments"])
    read.expected = 1
    write = Endpoint("Pipelines API, write", PIPELINES, "POST", f"{api}/{experiment}:archive", RARE, route)
    read.patience = write.patience = PATIENCE
    return [read, write]


def pages(session: httpx.Client, release: str, namespace: str) -> Found:
    """The gateway's own answer, the page at `/`, and Grafana: whatever of it is there."""
    gateway = f"{namespace}-{release}-gateway"
    ping = Endpoint("gateway, /ping", GATEWAY, "GET", "/ping", MEDIUM, gateway)
    home = Endpoint("landing page, /", PAGES, "GET", "/", SLOW, f"{namespace}-{release}-home", moved=True)
    grafana = Endpoint(
        "Grafana, /grafana/api/health", PAGES, "GET", "/grafana/api/health", SLOW, f"{namespace}-{release}-grafana"
    )
    found = Found()
    for each in (ping, home, grafana):
        status = session.request(each.method, each.path).status_code
        if status == 404:
            found.left_out.append(f"{each.name}: not part of this release (404)")
        else:
            found.endpoints.append(each)
    return found
