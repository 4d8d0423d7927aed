"""What the load tests share: the address, the thresholds that decide the exit code, and the model behind a user."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from locust import HttpUser, between, events
from locust.env import Environment

from iml4e import Error
from iml4e.client import Model

URL = os.environ.get("IML4E_URL", "http://127.0.0.1:30080").rstrip("/")
NAMESPACE = os.environ.get("IML4E_MODEL_NAMESPACE", "iml4e")

# Requirement A3: 99 % of what clients ask is answered well.
MAX_FAILURES = float(os.environ.get("IML4E_LOAD_MAX_FAILURES", "0.01"))
# Nineteen of twenty answers come within this many milliseconds.
MAX_P95 = float(os.environ.get("IML4E_LOAD_MAX_P95", "500"))


def is_this_machine(url: str) -> bool:
    """Whether an address is of this machine: load never leaves it. A far platform is reached by a port-forward."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ModelUser(HttpUser):
    """Someone who uses a model; a kind of user whose model is not deployed stays away."""

    abstract = True
    host = URL
    wait_time = between(0.05, 0.2)
    model = ""

    @classmethod
    def served(cls, host: str = "") -> Model:
        """The model; without `host` its paths start at the platform's address."""
        return Model(host, NAMESPACE, cls.model)

    def predict(self, instances: list[Any], name: str) -> None:
        """Ask by V1."""
        self._ask(self.served().v1, {"instances": instances}, name, len(instances), lambda found: found["predictions"])

    def infer(self, inputs: list[dict[str, Any]], name: str) -> None:
        """Ask by V2."""
        path = f"{self.served().v2}/infer"
        self._ask(path, {"inputs": inputs}, name, inputs[0]["shape"][0], lambda found: found["outputs"][0]["data"])

    def _ask(
        self, path: str, body: dict[str, Any], name: str, answers: int, results: Callable[[Any], list[Any]]
    ) -> None:
        """POST a body; an answer is good when it holds as many results as there were questions."""
        address, name = self.served().base + path, f"{self.model}: {name}"
        with self.client.post(address, json=body, name=name, timeout=10, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {answer.text[:100]}")
                return
            count = len(results(answer.json()))
            if count != answers:
                answer.failure(f"{answers} questions, {count} answers")


@events.init.add_listener
def look_before_asking(environment: Environment, **_: object) -> None:
    """Refuse addresses of other machines, and leave out the users of models that are not there."""
    if not is_this_machine(environment.host or URL):
        sys.exit(f"{environment.host or URL} is not this machine. Forward a local port to the platform and use that.")
    there = []
    for user in environment.user_classes:
        model = user.served(environment.host or URL)
        try:
            status = model.request("GET", f"{model.v2}/ready", timeout=5).status_code
        except Error as error:
            sys.exit(str(error))
        if status == 200:
            there.append(user)
        else:
            print(f"No {user.__name__}: model {user.model} is not deployed ({status} from {model.base}).")
    if not there:
        sys.exit("No model to ask: `make demo` deploys the first.")
    environment.user_classes = there


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Turn the thresholds into the exit code, with a sentence for each that was missed."""
    total = environment.stats.total
    complaints = []
    if not total.num_requests:
        complaints.append("Nothing was asked.")
    if total.fail_ratio > MAX_FAILURES:
        complaints.append(f"{total.fail_ratio:.2%} of the requests failed, at most {MAX_FAILURES:.2%} may.")
    p95 = total.get_response_time_percentile(0.95) or 0
    if p95 > MAX_P95:
        complaints.append(f"The 95th percentile is {p95:.0f} ms, at most {MAX_P95:.0f} ms will do.")
    for complaint in dict.fromkeys(complaints):
        print(complaint, file=sys.stderr)
    environment.process_exit_code = 1 if complaints else 0
