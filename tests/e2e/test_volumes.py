"""Values that ask for another volume end with the command to run, before anything changes."""

from __future__ import annotations

from typing import Any

import pytest

from support import helm
from support.k8s import Cluster

PARTS = ("mariadb", "minio", "prometheus", "prometheus.alertmanager")


@pytest.fixture(autouse=True)
def nothing_changes(cluster: Cluster) -> Any:
    """The release stays at its revision."""
    before = helm.revision()
    yield
    assert helm.revision() == before


def upgrade(**values: str) -> str:
    """What an upgrade with some values on top would do; the cluster is asked, nothing is changed."""
    sets = (word for path, value in values.items() for word in ("--set-string", f"{path}={value}"))
    return helm.helm(
        "upgrade", helm.RELEASE, helm.CHART, "--namespace", helm.NAMESPACE, "--reset-then-reuse-values",
        "--dry-run=server", *sets,
    )  # fmt: skip


def claim(cluster: Cluster, part: str) -> dict[str, Any]:
    """Spec of a part's claim."""
    found = cluster.get("v1", "PersistentVolumeClaim", f"data-{helm.RELEASE}-{part}-0")
    assert found
    return found["spec"]


def test_larger_volumes_are_told_all_at_once_with_the_commands(cluster: Cluster, values: dict[str, Any]) -> None:
    parts = [part for part in PARTS if values[part.partition(".")[0]]["enabled"]]
    with pytest.raises(helm.HelmError) as refused:
        upgrade(**{f"{part}.persistence.size": "7Ti" for part in parts})
    for part in parts:
        name = part.removeprefix("prometheus.")
        patch = f"""kubectl -n {helm.NAMESPACE} patch pvc data-{helm.RELEASE}-{name}-0 -p '{{"spec":"""
        assert patch in str(refused.value)
    assert "Nothing was changed" in str(refused.value)


def test_smaller_volumes_are_refused(cluster: Cluster) -> None:
    there = claim(cluster, "mariadb")["resources"]["requests"]["storage"]
    sentence = f"has {there} and cannot shrink to 900M: set mariadb.persistence.size to {there}."
    with pytest.raises(helm.HelmError, match=sentence):
        upgrade(**{"mariadb.persistence.size": "900M"})


def test_another_storage_class_is_refused(cluster: Cluster) -> None:
    there = claim(cluster, "minio")["storageClassName"]
    with pytest.raises(helm.HelmError, match=f'set minio.persistence.storageClass to "{there}"'):
        upgrade(**{"minio.persistence.storageClass": "another"})


def test_the_same_volume_in_other_words_is_fine(cluster: Cluster) -> None:
    spec = claim(cluster, "mariadb")
    size = spec["resources"]["requests"]["storage"]
    assert size.endswith("Gi")
    mebibytes = f"{int(float(size.removesuffix('Gi')) * 1024)}Mi"
    upgrade(**{"mariadb.persistence.size": mebibytes, "mariadb.persistence.storageClass": spec["storageClassName"]})
