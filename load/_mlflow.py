"""What the users of MLflow and of its artifacts share: an experiment for each run, which is deleted at the end."""

from __future__ import annotations

import time

from _users import MARK, NAMESPACE, RELEASE, Bounded, Http, Service

API = "/mlflow/api/2.0/mlflow"
#: Runs that a load test may log.
MOST_RUNS = 500


def missing(http: Http, route: str) -> str:
    """Why MLflow does not answer; empty: it does."""
    answer = http.ask("GET", "/mlflow/health", route, timeout=5)
    return (
        "" if answer.status_code == 200 else f"MLflow is not there ({answer.status_code} from {http.url}/mlflow/health)"
    )


class Tracking(Service):
    """MLflow's tracking server and registry; a run works in an experiment of its own, which is deleted at the end."""

    name = "MLflow"
    route = f"{NAMESPACE}-{RELEASE}-mlflow"
    part = "runs"

    def __init__(self) -> None:
        """There is no experiment yet."""
        self.experiment = ""
        self.bound = Bounded(MOST_RUNS)

    def prepare(self, http: Http, run: str) -> None:
        """Create the experiment."""
        self.bound = Bounded(MOST_RUNS)
        name = f"{MARK}-{self.part}-{run}"
        self.experiment = http.must(
            "POST", f"{API}/experiments/create", self.route, f"The experiment {name}", json={"name": name}
        )["experiment_id"]

    def clean(self, http: Http) -> None:
        """Delete the experiment with its runs, and experiments that runs left behind which were killed."""
        for experiment in {self.experiment, *old(http, self.route, self.part)} - {""}:
            self.remove(http, experiment)
        self.experiment = ""

    def remove(self, http: Http, experiment: str) -> None:
        """Delete an experiment."""
        body = {"experiment_id": experiment}
        http.must("POST", f"{API}/experiments/delete", self.route, "To delete an experiment", json=body)


def old(http: Http, route: str, part: str) -> list[str]:
    """Experiments that a load test of more than a day ago left behind."""
    body = {"filter": f"name LIKE '{MARK}-{part}-%'", "max_results": 100}
    found = http.must("POST", f"{API}/experiments/search", route, "To search experiments", json=body)
    day_ago = (time.time() - 24 * 3600) * 1000
    return [each["experiment_id"] for each in found.get("experiments", []) if int(each["creation_time"]) < day_ago]


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
