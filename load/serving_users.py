"""Users of the models that the reference pipelines deploy, with the data that these models were trained on."""

from __future__ import annotations

import random

from locust import task
from sklearn.datasets import load_digits, load_wine

from common import ModelUser

WINES = load_wine(as_frame=True).data
DIGITS = load_digits().images


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
    weight = 1

    @task
    def sort_the_crate(self) -> None:
        """Predict twelve rows."""
        crate = WINES.sample(12)
        columns = [
            {"name": name, "shape": [12], "datatype": "FP64", "data": crate[name].tolist()} for name in crate.columns
        ]
        self.infer(columns, "a crate (V2)")


class PostOfficeReader(ModelUser):
    """Sends one handwritten digit in a request, an image of 8 × 8 pixels."""

    model = "digits"
    weight = 1

    @task
    def read_a_digit(self) -> None:
        """Predict one image."""
        self.predict([random.choice(DIGITS).ravel().tolist()], "a digit (V1)")
