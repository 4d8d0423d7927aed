"""No panel of a board is ever empty: every query has an answer on the live Prometheus while the platform is used."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support.boards import boards, filled, panels, sources
from support.k8s import Cluster
from support.platform import Gateway, Model

QUERIES = [
    (f"{panel} {letter}", query)
    for panel in panels()
    for letter, query in zip("ABCDE", panel.expressions, strict=False)
]
CHOICES = [
    (f"{name}: {variable['name']}", variable["query"])
    for name, board in boards().items()
    for variable in board["templating"]["list"]
    if variable["type"] == "query"
]


@pytest.fixture(scope="module", autouse=True)
def used(gateway: Gateway, wine: Model, bottle: dict[str, float]) -> Iterator[None]:
    """Somebody who uses the platform, as long as the tests of this module run."""
    over = threading.Event()

    def use() -> None:
        while not over.wait(0.2):
            wine.predict([bottle])
            gateway.get("/mlflow/api/2.0/mlflow/experiments/search?max_results=1")
            gateway.get("/pipeline/apis/v2beta1/experiments?page_size=1")

    person = threading.Thread(target=use)
    person.start()
    yield
    over.set()
    person.join()


def there(gateway: Gateway, expression: str) -> bool:
    """Whether an expression has a number now."""
    return any(not math.isnan(value) for _, value in gateway.query(expression))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "expression"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_has_an_answer(
    cluster: Cluster, gateway: Gateway, values: dict[str, Any], name: str, expression: str
) -> None:
    if "-pipelines" in expression and not values["pipelines"]["enabled"]:
        pytest.skip(f"{name} needs Kubeflow Pipelines, which this release does not have")
    for source in sources(expression):
        if source.present and not gateway.query(source.present) and not there(gateway, expression):
            pytest.skip(f"{name} needs {source.name}, which this cluster does not have")
    # a route counts from five minutes after its first answer
    cluster.wait(f"{expression} to have a value", lambda: there(gateway, expression), 330, pause=5)


@pytest.mark.parametrize(("name", "query"), CHOICES, ids=[name for name, _ in CHOICES])
def test_a_choice_has_values(cluster: Cluster, gateway: Gateway, name: str, query: str) -> None:
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", filled(query))
    assert asked
    series, label = asked.groups()
    if 'run!=""' in series and not gateway.query(f"last_over_time({series}[1h])"):
        pytest.skip(f"{name} needs a run of a pipeline in the last hour")

    def values() -> list[str]:
        answer = gateway.get(f"/prometheus/api/v1/label/{label}/values", params={"match[]": series})
        return answer.json()["data"]

    assert cluster.wait(f"{query} to have values", values, 60)
