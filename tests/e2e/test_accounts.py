"""Users choose the service account of models and pipeline runs; those of the parts, which have rights in the cluster, are refused."""

from __future__ import annotations

from typing import Any

import pytest

from support import releases
from support.helm import RELEASE
from support.k8s import Cluster

LABELS = {
    "a model": {"serving.kserve.io/inferenceservice": "fraud"},
    "a pipeline run": {"workflows.argoproj.io/workflow": "fraud-1"},
}
PARTS = ("gateway", "kserve", "prometheus", "secrets", "pipelines", "pipelines-argo")


def refused(cluster: Cluster, labels: dict[str, str], account: str) -> str:
    """Why a pod with these labels and this account is refused; empty if it is not."""
    container: dict[str, Any] = {
        "name": "any",
        "image": "any",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return releases.refused(cluster, {"containers": [container], "serviceAccountName": account}, labels)


@pytest.mark.parametrize("whose", LABELS)
@pytest.mark.parametrize("part", PARTS)
def test_the_account_of_a_part_is_refused(cluster: Cluster, values: dict[str, Any], part: str, whose: str) -> None:
    account = f"{RELEASE}-{part}"
    if not cluster.get("v1", "ServiceAccount", account):
        pytest.skip(f"{account} is not in this release")
    assert f"service account {account} belongs to a part of the platform" in refused(cluster, LABELS[whose], account)


@pytest.mark.parametrize("account", [f"{RELEASE}-runner", "default"])
def test_other_accounts_are_admitted(cluster: Cluster, account: str) -> None:
    assert {whose: refused(cluster, labels, account) for whose, labels in LABELS.items()} == dict.fromkeys(LABELS, "")
