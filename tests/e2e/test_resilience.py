"""One pod of each part is killed: it comes back by itself, with its data, and models answer meanwhile."""

from __future__ import annotations

import time

import pytest

from support import serving
from support.components import WORKLOADS, Workload
from support.k8s import Cluster, is_ready
from support.keepsake import Keepsake
from support.platform import Model, Traffic

pytestmark = pytest.mark.disruptive


def kill(cluster: Cluster, selector: str) -> None:
    """Kill all pods that a selector picks, and wait until others are Ready in their place."""
    killed = {pod["metadata"]["uid"] for pod in cluster.pods(selector)}
    assert killed, f"nothing to kill: {selector}"
    for pod in cluster.pods(selector):
        cluster.kill(pod["metadata"]["name"])

    def replaced() -> bool:
        now = cluster.pods(selector)
        return bool(now) and all(pod["metadata"]["uid"] not in killed and is_ready(pod) for pod in now)

    cluster.wait(f"new pods of {selector} to be Ready", replaced, 120, selector=selector)


def selector_of(cluster: Cluster, workload: Workload) -> str:
    """What picks the pods of a workload."""
    labels = cluster.workload(workload.kind, workload.name)["spec"]["selector"]["matchLabels"]
    return ",".join(f"{key}={value}" for key, value in labels.items())


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_killed_part_comes_back_with_its_data(
    cluster: Cluster, workload: Workload, keepsake: Keepsake, wine: Model, bottle: dict[str, float]
) -> None:
    body = {"instances": [bottle]}
    with Traffic(f"{wine.base}/v1/models/{wine.name}:predict", body) as traffic:
        kill(cluster, selector_of(cluster, workload))
        time.sleep(5)
    if workload.part == "gateway":
        assert wine.predict([bottle]).ok
    else:
        assert traffic.ok >= 0.99, traffic.failures
    keepsake.assert_there()


def test_killed_model_comes_back(cluster: Cluster, wine: Model, bottle: dict[str, float]) -> None:
    kill(cluster, f"serving.kserve.io/inferenceservice={wine.name}")
    cluster.wait("the model to answer again", lambda: wine.predict([bottle]).ok, 30)
    serving.wait_ready(cluster, wine.name)
