"""Shared by all kinds of users: the address of the platform, the thresholds that decide the exit code, requests to a model."""

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

# Share of failed requests. Requirement A3 is 99 % availability.
MAX_FAILURES = float(os.environ.get("IML4E_LOAD_MAX_FAILURES", "0.01"))
# Limit of the 95th percentile of the response time, in milliseconds.
MAX_P95 = float(os.environ.get("IML4E_LOAD_MAX_P95", "500"))


def is_this_machine(url: str) -> bool:
    """Whether an address is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def target(host: str | None) -> str:
    """The address that gets the load: this machine, or the one that the user names by `--host`.

    IML4E_URL alone does not name another machine: it is often set for other programs.
    """
    if host and urlsplit(host).scheme not in ("http", "https"):
        sys.exit(f"{host} is no address: write --host http://{host.rpartition('//')[2]} or https://…")
    if not host and not is_this_machine(URL):
        sys.exit(f"IML4E_URL is {URL}, which is not this machine. To put load on it, add --host {URL}.")
    return (host or URL).rstrip("/")


class ModelUser(HttpUser):
    """A user of a model."""

    abstract = True
    host = URL
    wait_time = between(0.05, 0.2)
    model = ""

    @classmethod
    def served(cls, host: str = "") -> Model:
        """The model; without `host` its paths are relative to locust's host."""
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
        """POST a body; an answer without one result for each instance counts as a failure."""
        address, name = self.served().base + path, f"{self.model}: {name}"
        with self.client.post(address, json=body, name=name, timeout=10, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {answer.text[:100]}")
                return
            count = len(results(answer.json()))
            if count != answers:
                answer.failure(f"{answers} instances, {count} results")


@events.init.add_listener
def prepare(environment: Environment, **_: object) -> None:
    """Settle the address, and leave out the users whose model is not deployed."""
    environment.host = target(environment.host)
    found = []
    for user in environment.user_classes:
        model = user.served(environment.host)
        try:
            answer = model.request("GET", f"{model.v2}/ready", timeout=5, allow_redirects=False)
        except Error as error:
            sys.exit(str(error))
        if answer.is_redirect:
            sys.exit(f"{model.base} redirects to {answer.headers['location']}: name that address by --host.")
        if answer.status_code == 200:
            found.append(user)
        else:
            print(f"No {user.__name__}: model {user.model} is not deployed ({answer.status_code} from {model.base}).")
    if not found:
        sys.exit(
            "No model is deployed. `make demo` deploys one; IML4E_MODEL_NAMESPACE names the namespace of the models."
        )
    environment.user_classes = found


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Exit with 1 and a sentence for each threshold that was missed."""
    total = environment.stats.total
    complaints = []
    if not total.num_requests:
        complaints.append("No request was sent.")
    if total.fail_ratio > MAX_FAILURES:
        complaints.append(f"{total.fail_ratio:.2%} of the requests failed; the limit is {MAX_FAILURES:.2%}.")
    p95 = total.get_response_time_percentile(0.95) or 0
    if p95 > MAX_P95:
        complaints.append(f"The 95th percentile is {p95:.0f} ms; the limit is {MAX_P95:.0f} ms.")
    for complaint in dict.fromkeys(complaints):
        print(complaint, file=sys.stderr)
    environment.process_exit_code = 1 if complaints else 0
