"""Users of MLflow: data scientists who log and compare runs, and people who look at the pages."""

from __future__ import annotations

import math
import random
from typing import Any

from locust import task

import _session  # noqa: F401  its listeners make a run of locust a load test
from _mlflow import API, Tracking, missing, now
from _users import Http, PlatformUser

#: What pages of MLflow ask.
PAGES = "/mlflow/ajax-api/2.0/mlflow"
EPOCHS = 20
TRACKING = Tracking()


class MlflowUser(PlatformUser):
    """A user of MLflow."""

    abstract = True
    service: Any = TRACKING

    @classmethod
    def missing(cls, http: Http) -> str:
        """Ask for MLflow's health."""
        return missing(http, cls.service.route)

    def post(self, path: str, body: dict[str, Any], name: str, right: Any = lambda answer: answer.json()) -> Any:
        """Call the API."""
        return self.ask("POST", API + path, name, right, json=body)

    def search(self, name: str, most: int = 20) -> list[dict[str, Any]]:
        """The best runs of the experiment."""
        body = {"experiment_ids": [self.service.experiment], "order_by": ["metrics.loss ASC"], "max_results": most}
        return self.post("/runs/search", body, name, lambda answer: answer.json().get("runs", [])) or []


class DataScientist(MlflowUser):
    """Logs a training run with its metrics, compares it with the best ones, and looks for the champion in the registry."""

    weight = 2
    every = 2.0

    @task(3)
    def train(self) -> None:
        """Log a run: parameters, then the metrics of twenty epochs in four batches, then its end."""
        if not self.service.bound.take():
            self.compare()
            return
        body = {"experiment_id": self.service.experiment, "start_time": now(), "run_name": "load"}
        run = self.post("/runs/create", body, "create a run", lambda answer: answer.json()["run"]["info"]["run_id"])
        if not run:
            return
        rate = random.choice([0.1, 0.01, 0.001])
        params = [{"key": "learning_rate", "value": str(rate)}, {"key": "epochs", "value": str(EPOCHS)}]
        for first in range(0, EPOCHS, 5):
            metrics = [
                {"key": name, "value": value, "timestamp": now(), "step": epoch}
                for epoch in range(first, first + 5)
                for name, value in (("loss", math.exp(-rate * epoch)), ("accuracy", 1 - math.exp(-rate * epoch)))
            ]
            batch = {"run_id": run, "metrics": metrics, "params": params if not first else []}
            self.post("/runs/log-batch", batch, "log metrics of 5 epochs")
        ended = {"run_id": run, "status": "FINISHED", "end_time": now()}
        self.post("/runs/update", ended, "end a run")

    @task(2)
    def compare(self) -> None:
        """Search the best runs and read the curves of the loss of some of them."""
        runs = [each["info"]["run_id"] for each in self.search("search the best runs")]
        if runs:
            query = [("run_ids", each) for each in runs[:5]] + [("metric_key", "loss"), ("max_results", "100")]
            path = f"{PAGES}/metrics/get-history-bulk-interval"
            self.ask("GET", path, "compare 5 curves", lambda answer: answer.json()["metrics"], params=query)

    @task(1)
    def look_for_the_champion(self) -> None:
        """Read the registry: models, and the versions of the first one."""
        path = f"{API}/registered-models/search?max_results=20"
        models = self.ask("GET", path, "list models", lambda answer: answer.json().get("registered_models", []))
        if models:
            query = {"filter": f"name='{models[0]['name']}'", "max_results": "20"}
            self.ask("GET", f"{API}/model-versions/search", "list versions", lambda answer: answer.json(), params=query)


class DashboardReader(MlflowUser):
    """Has MLflow's page open: the list of experiments, the table of runs, one run of it."""

    every = 1.0

    @task
    def look(self) -> None:
        """Open the page of experiments, the table, and a run."""
        query = {"max_results": 25}
        path = f"{PAGES}/experiments/search"
        self.ask("POST", path, "list experiments", lambda answer: answer.json()["experiments"], json=query)
        runs = self.search("table of 50 runs", 50)
        if runs:
            run = random.choice(runs)["info"]["run_id"]
            path = f"{PAGES}/runs/get"
            self.ask("GET", path, "open a run", lambda answer: answer.json()["run"]["info"], params={"run_id": run})
