"""One pod of each part is killed: the part recovers with its data, and models answer meanwhile."""

from __future__ import annotations

import time

import pytest

from support import serving
from support.k8s import Cluster
from support.keepsake import Keepsake
from support.parts import WORKLOADS, Workload
from support.platform import Model, Traffic

pytestmark = pytest.mark.disruptive


def selector_of(cluster: Cluster, workload: Workload) -> str:
    """The selector of a workload's pods."""
    labels = cluster.workload(workload.kind, workload.name)["spec"]["selector"]["matchLabels"]
    return ",".join(f"{key}={value}" for key, value in labels.items())


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_killed_part_comes_back_with_its_data(
    cluster: Cluster, workload: Workload, keepsake: Keepsake, wine: Model, bottle: dict[str, float]
) -> None:
    body = {"instances": [bottle]}
    with Traffic(f"{wine.base}/v1/models/{wine.name}:predict", body) as traffic:
        cluster.replace(selector_of(cluster, workload))
        time.sleep(5)
    if workload.part == "gateway":
        assert wine.predict([bottle]).ok
    else:
        assert traffic.ok >= 0.99, traffic.failures
    keepsake.assert_there()


def test_killed_model_comes_back(cluster: Cluster, wine: Model, bottle: dict[str, float]) -> None:
    cluster.replace(f"serving.kserve.io/inferenceservice={wine.name}")
    cluster.wait("the model to answer again", lambda: wine.predict([bottle]).ok, 30)
    serving.wait_ready(cluster, wine.name)
