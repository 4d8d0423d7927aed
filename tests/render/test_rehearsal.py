"""The values of `iml4e rehearse`: whatever a release accepts renders as a copy, with stores of its own and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from iml4e import Error, rehearsal
from support import helm
from support.helm import CHART, OPTIONAL, merged, render
from support.objects import COMPONENT, find, labels, of_kind
from support.parts import EVERY

Object = dict[str, Any]
NAME = "iml4e-rehearsal"
BOTH, MLFLOW, PIPELINES = ("mlflow", "pipelines"), ("mlflow",), ("pipelines",)
#: What a release brings in place of a part that is off.
ELSEWHERE: dict[str, Object] = {
    "minio": {"global": {"s3": {"endpoint": "http://s3.example.com"}}},
    "mariadb": {"global": {"database": {"host": "db.example.com"}}},
    "mlflow": {"global": {"mlflow": {"url": "https://mlflow.example.com/mlflow"}}},
    "prometheus": {"global": {"monitoring": {"url": "http://prometheus.example.com"}}},
    "home": {"gateway": {"errorPages": {"enabled": False}}},
    "gateway": {
        "global": {"gateway": {"name": "shared", "namespace": "infra", "url": "http://shared.infra.svc"}},
        "prometheus": {"probe": {"enabled": False}},
    },
}
#: Releases with lists and names of their own, which a copy with stores of its own cannot have.
OWN: dict[str, Object] = {
    "other consumers, beside a store of somebody else": {
        "global": {"s3": {"endpoint": "https://s3.example.org"}},
        "minio": {"consumers": [{"name": "labelling", "buckets": [{"name": "scans", "access": "ro"}]}], "buckets": []},
    },
    "databases and keys in Secrets of their own": {
        "mariadb": {
            "databases": [{"name": each, "user": each, "existingSecret": "mine"} for each in ("mlflow", "mlpipeline", "metadb")]
        },
        "mlflow": {"database": {"existingSecret": "mine"}, "s3": {"existingSecret": "keys"}},
        "minio": {
            "consumers": [
                {"name": "mlflow", "existingSecret": "keys", "buckets": [{"name": "mlflow", "access": "rw"}]},
                {"name": "pipelines", "buckets": [{"name": "pipelines", "access": "rw"}]},
                {"name": "models", "buckets": [{"name": "mlflow", "access": "ro"}]},
            ]
        },
        "pipelines": {
            "api": {"database": {"existingSecret": "mine"}}, "metadata": {"database": {"existingSecret": "mine"}},
        },
    },
    "metrics by an operator": {
        "global": {"monitoring": {"mode": "operator", "url": "http://prometheus-operated.monitoring.svc:9090"}}
    },
    "receivers of alerts": {"prometheus": {"alertmanager": {"config": {"receivers": [{"name": "team"}]}}}},
    "backups": {"backup": {"enabled": True, "destination": {"existingClaim": "backups"}}},
    "runs by the cloud's identity": {
        "global": {"s3": {"endpoint": ""}}, "minio": {"enabled": False},
        "pipelines": {"s3": {"existingSecret": ""}, "runs": {"pipelineRoot": "s3://runs"}},
    },
    "autoscaling": {"mlflow": {"replicas": 3, "autoscaling": {"enabled": True, "maxReplicas": 4}}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for values; the program takes the helm of all render tests from the PATH."""
    program = os.environ.get("HELM") or shutil.which("helm") or "helm"
    (tmp_path / "helm").symlink_to(Path(program).resolve())
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("IML4E_RELEASE", helm.RELEASE)
    monkeypatch.setenv("IML4E_NAMESPACE", helm.NAMESPACE)
    return tmp_path


def switched(off: Sequence[str]) -> Object:
    """Values that switch parts off, with what the others need from elsewhere."""
    return merged({part: {"enabled": False} for part in off}, *(ELSEWHERE.get(part, {}) for part in off))


def copy(folder: Path, profile: str, values: Object, parts: Sequence[str]) -> list[Object]:
    """What a rehearsal renders for a release."""
    files = [yaml.safe_load(path.read_text()) for path in helm.profile_files(profile)]
    (folder / "own.json").write_text(json.dumps(merged(*files, OPTIONAL, values)))
    made = rehearsal._Rehearsal(str(CHART), [], folder, print)
    made._about()
    return made._rendered(parts)


def parts_of(objects: Sequence[Object]) -> set[str]:
    """Parts that have objects."""
    return {labels(each)[COMPONENT] for each in objects if COMPONENT in labels(each)} - {"runner", "secrets"}


@pytest.mark.parametrize("parts", [BOTH, MLFLOW, PIPELINES], ids="+".join)
@pytest.mark.parametrize("profile", helm.profiles())
def test_a_release_of_any_profile_has_a_copy(folder: Path, profile: str, parts: Sequence[str]) -> None:
    values = merged({part: {"enabled": True} for part in parts}, switched([each for each in BOTH if each not in parts]))
    assert parts_of(render(profile, values)) >= {*parts}
    objects = copy(folder, profile, values, parts)
    assert parts_of(objects) == {"minio", "mariadb", *parts}
    # the copy's pods reach its own stores, and nothing of the release
    assert not of_kind(objects, "HTTPRoute", "Gateway")
    if parts == BOTH:
        assert parts_of(copy(folder, profile, values, ())) == {"minio", "mariadb"}


@pytest.mark.parametrize("part", [each for each in EVERY if each not in BOTH])
def test_a_release_without_a_part_has_a_copy(folder: Path, part: str) -> None:
    values = switched([part])
    assert part not in parts_of(render(values=values))
    assert parts_of(copy(folder, "default", values, BOTH)) == {"minio", "mariadb", *BOTH}


@pytest.mark.parametrize("part", [each for each in EVERY if each not in BOTH])
def test_a_release_with_few_parts_has_a_copy(folder: Path, part: str) -> None:
    values = switched([each for each in EVERY if each not in ("mlflow", part)])
    assert parts_of(render(values=values)) >= {"mlflow", part}
    assert parts_of(copy(folder, "default", values, MLFLOW)) == {"minio", "mariadb", "mlflow"}


@pytest.mark.parametrize("what", OWN)
def test_a_release_with_values_of_its_own_has_a_copy(folder: Path, what: str) -> None:
    assert render(values=OWN[what])
    objects = copy(folder, "default", OWN[what], BOTH)
    assert parts_of(objects) == {"minio", "mariadb", *BOTH}
    assert rehearsal.named(objects) == {}
    plan = find(objects, "ConfigMap", f"{NAME}-minio-setup")["data"]["plan.sh"].split()
    assert {"mlflow", "pipelines", "datasets"} <= {*plan}


def test_a_copy_needs_the_secrets_and_configmaps_that_pods_name_and_no_others(folder: Path) -> None:
    """Those of parts that are off in the copy, and those that the chart makes, stay where they are."""
    values = {
        "global": {"imagePullSecrets": [{"name": "registry-key"}], "caCertificate": {"existingSecret": "company-ca"}},
        "mlflow": {
            "extraEnv": [
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "company-token", "key": "token"}}},
                {"name": "AREA", "valueFrom": {"configMapKeyRef": {"name": "company", "key": "area"}}},
                {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "perhaps", "key": "a", "optional": True}}},
            ]
        },
        "grafana": {
            "extraEnv": [{"name": "GF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "of-grafana", "key": "token"}}}]
        },
        "kserve": {"s3": {"existingSecret": "of-models"}},
    }  # fmt: skip
    assert render(values=values)
    assert rehearsal.named(copy(folder, "default", values, BOTH)) == {
        ("Secret", "registry-key"): False, ("Secret", "company-ca"): True, ("Secret", "company-token"): True,
        ("ConfigMap", "company"): True, ("ConfigMap", "perhaps"): False,
    }  # fmt: skip


def test_what_the_new_chart_refuses_ends_the_rehearsal_before_it_makes_anything(folder: Path) -> None:
    with pytest.raises(Error, match=r"cannot render the new chart for the copy: .*nothing of the release was changed"):
        copy(folder, "default", {"mlflow": {"workers": "many"}}, BOTH)
