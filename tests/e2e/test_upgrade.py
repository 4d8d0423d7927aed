"""An upgrade and a rollback that replace every pod of the platform lose no data, and at most 1 % of requests fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from support import helm, serving
from support.k8s import Cluster
from support.keepsake import Keepsake
from support.objects import COMPONENT
from support.parts import EVERY, WORKLOADS
from support.platform import Model, Traffic

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(900)]

# reaches the template of every pod and hinders none: images are on the node, so nobody asks for the secret
CHANGE = {"global": {"imagePullSecrets": [{"name": "e2e-upgrade"}]}}


def secrets(cluster: Cluster) -> dict[str, dict[str, str]]:
    """All Secrets of the release."""
    found = cluster.core.list_namespaced_secret(helm.NAMESPACE, label_selector="app.kubernetes.io/instance=iml4e").items
    return {secret.metadata.name: secret.data for secret in found}


def pods(cluster: Cluster) -> set[str]:
    """Identities of the pods of all parts' workloads."""
    of_parts = f"{COMPONENT} in ({','.join(EVERY)}),!job-name"
    return {pod["metadata"]["uid"] for pod in cluster.pods(of_parts)}


@pytest.fixture
def back_again(cluster: Cluster) -> Iterator[int]:
    """The revision before the test, to which the release returns."""
    before = helm.revision()
    yield before
    if helm.release_values()["global"]["imagePullSecrets"] == CHANGE["global"]["imagePullSecrets"]:
        helm.rollback(before)


def test_upgrade_and_rollback_keep_secrets_data_and_the_endpoint(
    cluster: Cluster,
    values: dict[str, Any],
    keepsake: Keepsake,
    wine: Model,
    bottle: dict[str, float],
    back_again: int,
) -> None:
    secrets_before, pods_before = secrets(cluster), pods(cluster)
    with Traffic(f"{wine.base}/v1/models/{wine.name}:predict", {"instances": [bottle]}) as traffic:
        helm.upgrade(CHANGE)
        for workload in WORKLOADS:
            if values[workload.part]["enabled"]:
                cluster.wait_ready(workload.kind, workload.name)
        serving.wait_ready(cluster, wine.name)
        time.sleep(10)
    assert pods(cluster).isdisjoint(pods_before), "the upgrade did not replace every pod, so it proves little"
    assert traffic.ok >= 0.99, traffic.failures
    assert secrets(cluster) == secrets_before
    keepsake.assert_there()

    with Traffic(f"{wine.base}/v1/models/{wine.name}:predict", {"instances": [bottle]}) as traffic:
        helm.rollback(back_again)
        serving.wait_ready(cluster, wine.name)
    assert traffic.ok >= 0.99, traffic.failures
    assert secrets(cluster) == secrets_before
    keepsake.assert_there()


def test_an_upgrade_without_a_change_replaces_no_pod(cluster: Cluster) -> None:
    before = pods(cluster)
    helm.upgrade({})
    assert pods(cluster) == before
