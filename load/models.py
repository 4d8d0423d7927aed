"""Users of the models that the reference pipelines deploy, with the data that these models were trained on."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from locust import task
from sklearn.datasets import load_digits, load_wine

import _session  # noqa: F401  its listeners make a run of locust a load test
from _users import Http, PlatformUser, Problem, Service, Wrong
from iml4e.client import Model

NAMESPACE = os.environ.get("IML4E_MODEL_NAMESPACE", "iml4e")
WINES = load_wine(as_frame=True).data
DIGITS = load_digits().images
CELLAR = 500


class Models(Service):
    """The served models."""

    name = "models"


MODELS = Models()


class ModelUser(PlatformUser):
    """A user of a model."""

    abstract = True
    service = MODELS
    every = 0.2
    timeout = 10
    model = ""

    @classmethod
    def served(cls, host: str = "") -> Model:
        """The model; without `host` its paths are relative to locust's host."""
        return Model(host, NAMESPACE, cls.model)

    @classmethod
    def missing(cls, http: Http) -> str:
        """Ask for the model's readiness."""
        model = cls.served()
        answer = http.ask("GET", f"{model.base}{model.v2}/ready", f"{NAMESPACE}-{cls.model}", timeout=5)
        if answer.is_redirect:
            raise Problem(
                f"{http.url}{model.base} redirects to {answer.headers['location']}: name that address by --host."
            )
        if answer.status_code == 200:
            return ""
        return f"model {cls.model} is not deployed ({answer.status_code} from {http.url}{model.base})"

    @property
    def route(self) -> str:
        """Each model has a route of its own."""
        return f"{NAMESPACE}-{self.model}"

    def predict(self, instances: list[Any], name: str) -> None:
        """Ask by V1."""
        self._predict(
            self.served().v1, {"instances": instances}, name, len(instances), lambda found: found["predictions"]
        )

    def infer(self, inputs: list[dict[str, Any]], name: str) -> None:
        """Ask by V2."""
        path = f"{self.served().v2}/infer"
        self._predict(path, {"inputs": inputs}, name, inputs[0]["shape"][0], lambda found: found["outputs"][0]["data"])

    def _predict(
        self, path: str, body: dict[str, Any], name: str, answers: int, results: Callable[[Any], list[Any]]
    ) -> None:
        """POST a body; an answer without one result for each instance counts as a failure."""

        def right(answer: Any) -> bool:
            count = len(results(answer.json()))
            if count != answers:
                raise Wrong(f"{answers} instances, {count} results")
            return True

        self.ask("POST", self.served().base + path, f"{self.model}: {name}", right, json=body)


class TasterWithOneBottle(ModelUser):
    """Sends one wine in a request, by protocol V1."""

    model = "wine"
    weight = 3

    @task
    def name_the_cultivar(self) -> None:
        """Predict one row."""
        self.predict(WINES.sample(1).to_dict("records"), "one bottle (V1)")


class MerchantWithACrate(ModelUser):
    """Sends twelve wines in a request, by protocol V2."""

    model = "wine"

    @task
    def sort_the_crate(self) -> None:
        """Predict twelve rows."""
        crate = WINES.sample(12)
        columns = [
            {"name": name, "shape": [12], "datatype": "FP64", "data": crate[name].tolist()} for name in crate.columns
        ]
        self.infer(columns, "a crate of 12 (V2)")


class CellarInInventory(ModelUser):
    """Sends the wines of a whole cellar in one request, by protocol V1, every few seconds."""

    model = "wine"
    every = 3.0

    @task
    def take_stock(self) -> None:
        """Predict 500 rows."""
        self.predict(WINES.sample(CELLAR, replace=True).to_dict("records"), f"a cellar of {CELLAR} (V1)")


class PostOfficeReader(ModelUser):
    """Sends one handwritten digit in a request, an image of 8 × 8 pixels."""

    model = "digits"

    @task
    def read_a_digit(self) -> None:
        """Predict one image."""
        self.predict([random.choice(DIGITS).ravel().tolist()], "a digit (V1)")
