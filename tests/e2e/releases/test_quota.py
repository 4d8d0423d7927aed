"""Namespaces with a ResourceQuota or a LimitRange, as shared clusters have them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import releases
from support.k8s import Cluster, is_ready
from support.pods import whole

pytestmark = pytest.mark.timeout(300)

NAME = "quota"
#: What docs/install.md says that a laptop's platform without Kubeflow Pipelines needs, with one model and one pipeline.
HARD = {"requests.cpu": "1", "requests.memory": "4Gi", "limits.cpu": "22", "limits.memory": "18Gi", "pods": "26"}
LIMITS = [
    {
        "type": "Container",
        "default": {"cpu": "500m", "memory": "512Mi"},
        "defaultRequest": {"cpu": "20m", "memory": "64Mi"},
        "max": {"cpu": "1", "memory": "2Gi"},
        "min": {"cpu": "10m", "memory": "32Mi"},
    },
    {"type": "Pod", "max": {"cpu": "2", "memory": "4Gi"}},
]


#: Larger than this namespace allows: whoever offers these sizes of notebooks gives them the room.
LARGE = ("users' servers: large", "users' servers: gpu")


@pytest.fixture(scope="module")
def there(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace with a quota of all four."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota", "namespace": NAME}}
    with releases.namespace(cluster, NAME, {**quota, "spec": {"hard": HARD}}) as namespace:
        # it lacks what the chart leaves out by default
        lacking = whole("laptop")["StatefulSet/iml4e-mariadb"]
        told = "must specify limits.cpu"
        releases.wait_until("the quota to count", lambda: told in releases.refused(namespace, lacking))
        yield namespace


def test_every_pod_of_the_chart_states_what_a_quota_asks_for(there: Cluster) -> None:
    refused = {maker: releases.refused(there, spec) for maker, spec in whole("quota").items() if maker not in LARGE}
    assert len(refused) > 12
    assert {maker: why for maker, why in refused.items() if why} == {}


def test_the_platform_fits_into_the_documented_quota(there: Cluster) -> None:
    """From data to an answer: parts, Jobs, a pipeline, a model, whose pods the quota counts."""
    with releases.installed(there, ["laptop", "quota"]):
        code, result, said = releases.demo(there)
        assert code == 0, said
        assert result["deployed"], said

        def running() -> list[bool]:
            return [is_ready(pod) for pod in there.pods() if pod["status"]["phase"] == "Running"]

        assert len(running()) >= 6
        # with limits on CPU, a busy machine answers a probe late
        there.wait("every pod to be ready", lambda: all(running()), 60)
        events = there.core.list_namespaced_event(there.namespace, field_selector="reason=FailedCreate").items
        assert [event.message for event in events] == []


def test_every_pod_of_the_chart_fits_into_a_limit_range(cluster: Cluster) -> None:
    name = f"{NAME}-limits"
    limits = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits", "namespace": name}}
    with releases.namespace(cluster, name, {**limits, "spec": {"limits": LIMITS}}) as namespace:
        for maker, spec in whole("laptop").items():
            if maker in LARGE:
                continue
            admitted = releases.admit(namespace, spec)["spec"]
            every = [*admitted.get("initContainers", []), *admitted["containers"]]
            assert all("cpu" in each["resources"]["limits"] for each in every), maker
        larger = {"containers": [{"name": "large", "image": "any", "resources": {"limits": {"memory": "3Gi"}}}]}
        assert "maximum memory usage" in releases.refused(namespace, larger)
