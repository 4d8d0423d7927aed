"""Users of Kubeflow Pipelines' API: people who watch runs, and an engineer who now and then starts a small one and ends it."""

from __future__ import annotations

import random
import time
from typing import Any

from locust import task

import _session  # noqa: F401  its listeners make a run of locust a load test
from _mlflow import API as MLFLOW
from _mlflow import Tracking
from _users import MARK, NAMESPACE, RELEASE, Bounded, Http, PlatformUser, Service

API = "/pipeline/apis/v2beta1"
MLFLOW_ROUTE = Tracking.route
#: Runs that a load test may start: each makes two small pods.
MOST_RUNS = 5
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
#: A pipeline of one step whose condition is never met: it runs on every cluster, as no image of its own is started.
NOTHING = {
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
    "pipelineInfo": {"name": MARK},
    "deploymentSpec": {"executors": {"exec": {"container": {"image": "none", "command": ["true"]}}}},
    "components": {
        "step": {"executorLabel": "exec", "inputDefinitions": {"parameters": {"work": {"parameterType": "STRING"}}}}
    },
    "root": {
        "dag": {
            "tasks": {
                "step": {
                    "componentRef": {"name": "step"},
                    "taskInfo": {"name": "step"},
                    "inputs": {"parameters": {"work": {"runtimeValue": {"constant": "none"}}}},
                    "triggerPolicy": {"condition": "inputs.parameter_values['work'] == 'some'"},
                }
            }
        }
    },
}


class Pipelines(Service):
    """The API; a run works in an experiment of its own, which is deleted at the end with its runs."""

    name = "Pipelines API"
    route = f"{NAMESPACE}-{RELEASE}-pipelines"

    def __init__(self) -> None:
        """There is no experiment yet."""
        self.experiment = ""
        self.bound = Bounded(MOST_RUNS)

    def prepare(self, http: Http, run: str) -> None:
        """Create the experiment."""
        self.bound = Bounded(MOST_RUNS)
        name = f"{MARK}-{run}"
        self.experiment = http.must(
            "POST", f"{API}/experiments", self.route, f"The experiment {name}", json={"display_name": name}
        )["experiment_id"]

    def clean(self, http: Http) -> None:
        """End and delete the runs, MLflow's record of them, and the experiment; also what a killed load test left behind."""
        day_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 24 * 3600))
        query = {"page_size": 200, "sort_by": "created_at desc"}
        found = http.must("GET", f"{API}/experiments", self.route, "To list experiments", params=query)
        old = {
            each["experiment_id"]
            for each in found.get("experiments", [])
            if each["display_name"].startswith(f"{MARK}-") and each["created_at"] < day_ago
        }
        for experiment in {self.experiment, *old} - {""}:
            query = {"experiment_id": experiment, "page_size": 100}
            runs = http.must("GET", f"{API}/runs", self.route, "To list runs", params=query).get("runs", [])
            for run in runs:
                self.remove(http, run)
            http.must("DELETE", f"{API}/experiments/{experiment}", self.route, "To delete an experiment")
        self.experiment = ""

    def remove(self, http: Http, run: dict[str, Any]) -> None:
        """End a run and delete it, with what MLflow has of it."""
        if run.get("state") not in ENDED:
            http.ask("POST", f"{API}/runs/{run['run_id']}:terminate", self.route)
        http.must("DELETE", f"{API}/runs/{run['run_id']}", self.route, "To delete a run")
        entries = run.get("plugins_output", {}).get("mlflow", {}).get("entries", {})
        experiment, record = (entries.get(name, {}).get("value") for name in ("experiment_id", "root_run_id"))
        if experiment and record:
            body = {"experiment_ids": [experiment], "filter": f"tags.mlflow.parentRunId = '{record}'"}
            found = http.must("POST", f"{MLFLOW}/runs/search", MLFLOW_ROUTE, "To search runs", json=body)
            for each in [*(child["info"]["run_id"] for child in found.get("runs", [])), record]:
                http.ask("POST", f"{MLFLOW}/runs/delete", MLFLOW_ROUTE, json={"run_id": each})


PIPELINES = Pipelines()


class PipelinesUser(PlatformUser):
    """A user of the API."""

    abstract = True
    service: Any = PIPELINES

    @classmethod
    def missing(cls, http: Http) -> str:
        """Ask for the API's health."""
        answer = http.ask("GET", f"{API}/healthz", cls.service.route, timeout=5)
        if answer.status_code == 200:
            return ""
        return f"Kubeflow Pipelines is not there ({answer.status_code} from {http.url}{API}/healthz)"


class RunWatcher(PipelinesUser):
    """Has the page of Kubeflow Pipelines open: lists of runs, pipelines, experiments; one run of the list."""

    every = 1.0

    @task(3)
    def watch_runs(self) -> None:
        """List the newest runs and open one."""
        query = {"page_size": 20, "sort_by": "created_at desc"}
        runs = self.ask("GET", f"{API}/runs", "list runs", lambda answer: answer.json().get("runs", []), params=query)
        # a run of this load test may be gone by the time that it is opened
        kept = [each for each in runs or [] if each.get("experiment_id") != self.service.experiment]
        if kept:
            run = random.choice(kept)["run_id"]
            self.ask("GET", f"{API}/runs/{run}", "open a run", lambda answer: answer.json()["run_id"])

    @task(1)
    def look_for_a_pipeline(self) -> None:
        """List pipelines and experiments."""
        self.ask("GET", f"{API}/pipelines?page_size=20", "list pipelines", lambda answer: answer.json())
        path = f"{API}/experiments?page_size=20"
        self.ask("GET", path, "list experiments", lambda answer: answer.json()["experiments"])


class EngineerWithASmallRun(PipelinesUser):
    """One in all: starts a small run every twenty seconds, looks at it twice, and ends it. Five runs at most in a load test."""

    every = 20.0
    fixed_count = 1

    def on_start(self) -> None:
        """Begin within five seconds: a short load test has a run too."""
        self.every = 5.0
        super().on_start()
        self.every = type(self).every

    @task
    def try_a_pipeline(self) -> None:
        """Start a run, look, end it, delete it."""
        if not self.service.bound.take():
            return
        body = {
            "display_name": MARK,
            "experiment_id": self.service.experiment,
            "pipeline_spec": NOTHING,
        }
        run = self.ask("POST", f"{API}/runs", "start a run", lambda answer: answer.json()["run_id"], json=body)
        if not run:
            return
        state = ""
        for _ in range(2):
            time.sleep(1)
            found = self.ask("GET", f"{API}/runs/{run}", "look at it", lambda answer: answer.json()) or {}
            # a run that has just begun has none
            state = found.get("state", "")
        if state not in ENDED:
            self.ask("POST", f"{API}/runs/{run}:terminate", "end it")
