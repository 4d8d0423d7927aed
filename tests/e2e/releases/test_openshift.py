"""A platform that assigns users: OpenShift's `restricted-v2`, imitated by admission policies in one namespace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support import openshift, releases
from support.k8s import Cluster, is_ready
from support.openshift import FIRST
from support.pods import whole

pytestmark = pytest.mark.timeout(300)

NAME = "openshift"
PLATFORM: dict[str, Any] = {
    "global": {
        "securityContext": "platform",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    }
}
#: KServe's own way to give the download of one namespace's models another user.
DOWNLOAD = {"serving.kserve.io/storage-initializer-uid": str(FIRST)}


@pytest.fixture(scope="module")
def there(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace whose pods get their users from the platform."""
    if not cluster.has(openshift.API, "MutatingAdmissionPolicy"):
        pytest.skip(f"the imitation needs MutatingAdmissionPolicy of {openshift.API}: Kubernetes 1.36")
    with releases.namespace(cluster, NAME, *openshift.policies(NAME)) as namespace:
        pod = "StatefulSet/iml4e-mariadb"
        fixed, free = whole("laptop")[pod], whole("laptop", PLATFORM)[pod]

        def assigned() -> bool:
            return "runAsUser" in releases.admit(namespace, free)["spec"]["securityContext"]

        releases.wait_until("the policies to refuse users", lambda: "range" in releases.refused(namespace, fixed))
        releases.wait_until("the policies to assign users", assigned)
        yield namespace


def test_every_pod_of_the_chart_is_admitted_and_gets_its_user(there: Cluster) -> None:
    specs = whole("laptop", PLATFORM)
    assert len(specs) > 12
    for maker, spec in specs.items():
        admitted = releases.admit(there, spec)["spec"]
        assert admitted["securityContext"]["runAsUser"] == FIRST, maker
        assert admitted["securityContext"]["fsGroup"] == FIRST, maker


def test_the_charts_own_users_are_refused_there(there: Cluster) -> None:
    assert [maker for maker, spec in whole("laptop").items() if "range" not in releases.refused(there, spec)] == []


def test_the_platform_works_under_any_user(there: Cluster) -> None:
    """From data to an answer: parts, a pipeline's steps, MLflow with artifacts, a model."""
    with releases.installed(there, ["laptop"], PLATFORM):
        # the KServe of the first release fixes a user for downloads, which one of this release would not
        runtime = there.get("serving.kserve.io/v1alpha1", "ServingRuntime", "mlflow")
        runtime["spec"]["annotations"] |= DOWNLOAD
        there.apply({key: runtime[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "mlflow"}})
        code, result, said = releases.demo(there)
        assert code == 0, said
        assert result["deployed"], said
        pods = [pod for pod in there.pods() if pod["metadata"]["ownerReferences"][0]["kind"] != "Job"]
        assert len(pods) == 10, [pod["metadata"]["name"] for pod in pods]  # nine of the parts and the model
        for pod in pods:
            assert is_ready(pod), pod["metadata"]["name"]
            spec = pod["spec"]
            assert spec["securityContext"]["runAsUser"] == FIRST
            assert spec["nodeSelector"] == PLATFORM["global"]["nodeSelector"], pod["metadata"]["name"]
            assert PLATFORM["global"]["tolerations"][0] in spec["tolerations"], pod["metadata"]["name"]
        mlflow = next(pod["metadata"]["name"] for pod in pods if "-mlflow-" in pod["metadata"]["name"])
        assert there.exec(mlflow, "id", "-u", container="mlflow").strip() == str(FIRST)
