"""Volumes that are there, and values that ask for others. tests/e2e/test_volumes.py has those with data."""

from __future__ import annotations

from typing import Any

import pytest

from support import lookups
from support.helm import HelmError
from support.objects import Object, find

#: Parts with a volume by their values, and the names of their StatefulSets after the release's.
PARTS = {
    "mariadb": "mariadb",
    "minio": "minio",
    "prometheus": "prometheus",
    "prometheus.alertmanager": "alertmanager",
    "grafana": "grafana",
    "notebooks": "notebooks",
}


def nested(path: str, value: Any) -> dict[str, Any]:
    """A value at a path with dots."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def spec(size: str, storage_class: str = "") -> Object:
    """Spec of a claim, and of its template."""
    named = {"storageClassName": storage_class} if storage_class else {}
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **named}


def claim(name: str, phase: str, wanted: Object) -> Object:
    """Claim of a StatefulSet."""
    return lookups.owned("v1", "PersistentVolumeClaim", f"data-iml4e-{name}-0", spec=wanted, status={"phase": phase})


def stateful_set(name: str, template: Object) -> Object:
    """A StatefulSet."""
    templates = [{"metadata": {"name": "data"}, "spec": template}]
    return lookups.owned(
        "apps/v1", "StatefulSet", f"iml4e-{name}", spec={"replicas": 1, "volumeClaimTemplates": templates}
    )


def refused(*things: Object, part: str = "mariadb", **persistence: str) -> list[str]:
    """What an upgrade is refused with."""
    values = nested(f"{part}.persistence", persistence)
    with pytest.raises(HelmError) as error:
        lookups.render(*things, values=values)
    return error.value.findings


@pytest.mark.parametrize("part", PARTS)
def test_a_claim_without_a_volume_is_removed_and_made_anew(part: str) -> None:
    name = PARTS[part]
    wrong = spec("9Gi", "typo")
    assert refused(
        stateful_set(name, wrong), claim(name, "Pending", wrong), part=part, size="9Gi", storageClass="fast"
    ) == [
        f'Claim data-iml4e-{name}-0 waits for a volume of storage class "typo" with 9Gi, and {part}.persistence asks for class "fast" '
        "with 9Gi. Nothing was changed. The claim has no data: remove it, then repeat this command: "
        f"kubectl -n iml4e delete statefulset/iml4e-{name} pvc/data-iml4e-{name}-0"
    ]
    objects = lookups.render(values=nested(f"{part}.persistence", {"size": "9Gi", "storageClass": "fast"}))
    [template] = find(objects, "StatefulSet", f"iml4e-{name}")["spec"]["volumeClaimTemplates"]
    assert (template["spec"]["storageClassName"], template["spec"]["resources"]) == (
        "fast",
        {"requests": {"storage": "9Gi"}},
    )


@pytest.mark.parametrize("size", ["1Gi", "7Ti"])
def test_its_size_may_be_any_other(size: str) -> None:
    there = spec("9Gi")
    [said] = refused(stateful_set("mariadb", there), claim("mariadb", "Pending", spec("9Gi", "standard")), size=size)
    assert f"asks for the default class with {size}. Nothing was changed." in said
    assert said.endswith("delete statefulset/iml4e-mariadb pvc/data-iml4e-mariadb-0")


def test_back_to_the_default_class_is_a_change_as_well() -> None:
    wrong = spec("9Gi", "typo")
    [said] = refused(stateful_set("mariadb", wrong), claim("mariadb", "Pending", wrong), size="9Gi")
    assert 'of storage class "typo" with 9Gi, and mariadb.persistence asks for the default class' in said


def test_without_its_stateful_set_the_claim_alone_goes() -> None:
    [said] = refused(claim("mariadb", "Pending", spec("9Gi", "typo")), size="9Gi", storageClass="fast")
    assert said.endswith("repeat this command: kubectl -n iml4e delete pvc/data-iml4e-mariadb-0")


def test_a_claim_that_waits_for_what_the_values_say_is_fine() -> None:
    for template, values in ((spec("9Gi"), {}), (spec("9Gi", "standard"), {"storageClass": "standard"})):
        there = stateful_set("mariadb", template), claim("mariadb", "Pending", spec("9Gi", "standard"))
        assert lookups.render(*there, values=nested("mariadb.persistence", {"size": "9216Mi", **values}))
    assert lookups.render(there[1], values=nested("mariadb.persistence", {"size": "9Gi"}))


@pytest.mark.parametrize("more", [{"phase": "Bound"}, {"phase": "Pending", "volumeName": "pv"}], ids=["bound", "soon"])
def test_a_volume_with_data_is_not_removed(more: dict[str, str]) -> None:
    phase, there = more["phase"], spec("9Gi", "slow") | {key: more[key] for key in ("volumeName",) if key in more}
    [said] = refused(stateful_set("mariadb", there), claim("mariadb", phase, there), size="9Gi", storageClass="fast")
    assert said.startswith('Volume data-iml4e-mariadb-0 is of storage class "slow" and cannot change to "fast"')
