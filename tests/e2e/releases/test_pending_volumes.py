"""A volume that nobody can make is no dead end: the refused upgrade has the command after which it works."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from support import helm, releases
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(600)

NAME = "pending"
CLAIM = f"data-{NAME}-minio-0"
#: An object store alone.
PARTS = ("gateway", "home", "kserve", "mariadb", "mlflow", "pipelines", "prometheus", "grafana")
VALUES: dict[str, Any] = {
    **{part: {"enabled": False} for part in PARTS},
    "minio": {
        "resources": {"requests": {"cpu": "10m"}},
        "persistence": {"size": "1Gi", "storageClass": "no-such-class"},
    },
}  # fmt: skip


def phase(there: Cluster) -> str:
    """Phase of the claim; empty where there is none."""
    found = there.get("v1", "PersistentVolumeClaim", CLAIM)
    return found["status"].get("phase", "") if found else ""


def test_a_wrong_storage_class_is_corrected_by_an_upgrade(cluster: Cluster) -> None:
    shared = {"imageRegistry": helm.release_values()["global"]["imageRegistry"], "runtime": releases.runtime(cluster)}
    values = {**VALUES, "global": shared}
    sets = [word for part in values for word in ("--set-json", f"{part}={json.dumps(values[part])}")]
    right = json.dumps({"persistence": {"storageClass": ""}})
    upgrade = (
        "upgrade",
        NAME,
        helm.CHART,
        "--namespace",
        NAME,
        "--reset-then-reuse-values",
        "--set-json",
        f"minio={right}",
    )
    with releases.namespace(cluster, NAME) as there:
        try:
            helm.helm("install", NAME, helm.CHART, "--namespace", NAME, "--skip-crds", *sets)
            there.wait("the claim to wait", lambda: phase(there) == "Pending", 60)
            with pytest.raises(helm.HelmError) as refused:
                helm.helm(*upgrade)
            [said] = refused.value.findings
            assert said.startswith(f'Claim {CLAIM} waits for a volume of storage class "no-such-class" with 1Gi')
            command = shlex.split(said.rpartition("repeat this command: ")[2])
            assert command[0] == "kubectl"
            there.kubectl(*command[1:])
            helm.helm(*upgrade)
            there.wait_ready("StatefulSet", f"{NAME}-minio", 180)
            assert phase(there) == "Bound"
        finally:
            helm.helm("uninstall", NAME, "--namespace", NAME, "--ignore-not-found")
