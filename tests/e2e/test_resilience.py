"""One pod of each part is killed: it comes back by itself, with its data, and models answer meanwhile."""

from __future__ import annotations

import time

import pytest

from support import serving
from support.components import COMPONENTS, Component
from support.k8s import Cluster
from support.keepsake import Keepsake
from support.objects import COMPONENT
from support.platform import Model, Traffic

pytestmark = pytest.mark.disruptive


def kill(cluster: Cluster, component: Component) -> None:
    """Kill all pods of a part's workload and wait until others are Ready in their place."""
    selector = f"app.kubernetes.io/name={component.name},{COMPONENT}={component.name}"
    killed = {pod["metadata"]["uid"] for pod in cluster.pods(selector)}
    assert killed, "nothing to kill"
    for pod in cluster.pods(selector):
        cluster.kill(pod["metadata"]["name"])

    def replaced() -> bool:
        now = {pod["metadata"]["uid"] for pod in cluster.pods(selector)}
        return bool(now) and now.isdisjoint(killed)

    cluster.wait(f"a new pod of {component.name}", replaced, 60, selector=selector)
    cluster.wait_ready(component.kind, component.fullname, 120)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_killed_part_comes_back_with_its_data(
    cluster: Cluster, component: Component, keepsake: Keepsake, wine: Model, bottle: dict[str, float]
) -> None:
    body = {"instances": [bottle]}
    with Traffic(f"{wine.base}/v1/models/{wine.name}:predict", body) as traffic:
        kill(cluster, component)
        time.sleep(5)
    if component.name == "gateway":
        assert wine.predict([bottle]).ok
    else:
        assert traffic.ok >= 0.99, traffic.failures
    keepsake.assert_there()


def test_killed_model_comes_back(cluster: Cluster, wine: Model, bottle: dict[str, float]) -> None:
    selector = f"serving.kserve.io/inferenceservice={wine.name}"
    for pod in cluster.pods(selector):
        cluster.kill(pod["metadata"]["name"])
    cluster.wait("the model to answer again", lambda: wine.predict([bottle]).ok, 120, selector=selector)
    serving.wait_ready(cluster, wine.name)
