"""The platform by GitLab CI, Argo CD and Flux: the same objects, every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from support import delivery
from support.helm import LOADER, NAMESPACE, RELEASE
from support.objects import Object, kind_and_name, labels
from support.pod_security import violations

LABEL = "helm.sh/chart"


def objects(text: str) -> dict[str, Object]:
    """The objects of a manifest by kind and name."""
    return {kind_and_name(thing): thing for thing in yaml.load_all(text, LOADER) if thing}


def without_version(found: dict[str, Object]) -> dict[str, Object]:
    """Objects without the label that has the chart's version."""
    kept = {}
    for name, thing in found.items():
        metadata = thing["metadata"]
        own = {key: value for key, value in metadata["labels"].items() if key != LABEL}
        kept[name] = {**thing, "metadata": {**metadata, "labels": own}}
    return kept


@pytest.fixture(scope="module")
def by_flux(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Object]:
    """What Flux installs."""
    return objects(delivery.by_flux(tmp_path_factory.mktemp("flux")))


def test_gitlab_and_argo_cd_render_the_same_bytes_every_time() -> None:
    first = delivery.by_gitlab(RELEASE, NAMESPACE)
    assert first == delivery.by_gitlab(RELEASE, NAMESPACE) == delivery.by_argo_cd()
    assert "https://ml.example.com" in first  # of deploy/values.yaml


def test_flux_installs_the_same_objects(by_flux: dict[str, Object]) -> None:
    """Its chart has other defaults and another version, which only a label tells."""
    plain = objects(delivery.by_gitlab(RELEASE, NAMESPACE))
    assert without_version(by_flux) == without_version(plain)


def test_labels_stay_legal_with_the_version_that_flux_makes(by_flux: dict[str, Object]) -> None:
    """A `+` in a label's value would end the installation."""
    found = {labels(thing)[LABEL] for thing in by_flux.values()}
    assert any(value.endswith("_5f2a1c9d") for value in found)
    assert [value for value in found if "+" in value] == []


def test_flux_takes_all_that_the_chart_is_made_of() -> None:
    ignored = yaml.load((delivery.DEPLOY / "flux" / "gitrepository.yaml").read_text(), LOADER)["spec"]["ignore"]
    kept = {line.strip("!/") for line in ignored.splitlines() if line.startswith("!")}
    release = yaml.load((delivery.DEPLOY / "flux" / "helmrelease.yaml").read_text(), LOADER)["spec"]["chart"]["spec"]
    assert {Path(name).parts[0] for name in [release["chart"], *release["valuesFiles"]]} == kept


def test_the_application_is_called_like_the_release() -> None:
    """Argo CD may write its name into the label app.kubernetes.io/instance, by which the chart's selectors choose."""
    found = yaml.load((delivery.DEPLOY / "argocd" / "application.yaml").read_text(), LOADER)
    assert found["metadata"]["name"] == found["spec"]["source"]["helm"]["releaseName"] == RELEASE
    assert "finalizers" not in found["metadata"]


def test_every_way_enforces_pod_security() -> None:
    argo = yaml.load((delivery.DEPLOY / "argocd" / "application.yaml").read_text(), LOADER)
    flux = yaml.load((delivery.DEPLOY / "flux" / "namespace.yaml").read_text(), LOADER)
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    assert argo["spec"]["syncPolicy"]["managedNamespaceMetadata"]["labels"] == enforced
    assert flux["metadata"]["labels"] == enforced
    assert "pod-security.kubernetes.io/enforce=restricted" in (delivery.DEPLOY / "gitlab/platform.yml").read_text()


# --- the runner of GitLab


def test_pods_of_jobs_fit_pod_security_and_the_quota() -> None:
    pod = delivery.job_pod()
    assert violations(pod) == []
    hard = delivery.runner_objects("ResourceQuota")[0]["spec"]["hard"]
    values = delivery.runner_values()
    # the runner itself, twice while it is replaced
    runners = [{"resources": values["resources"]}] * 2
    all_containers = [*runners, *(each for each in pod["containers"] * values["concurrent"])]
    for kind in ("requests", "limits"):
        for name in ("cpu", "memory"):
            total = sum(amount(each["resources"][kind][name]) for each in all_containers)
            assert total <= amount(hard[f"{kind}.{name}"]), (kind, name)
    assert int(hard["pods"]) >= values["concurrent"] + 2


def amount(quantity: str) -> float:
    """A quantity of Kubernetes as a number."""
    units = {"m": 0.001, "Mi": 2**20, "Gi": 2**30}
    unit = next((unit for unit in units if quantity.endswith(unit)), "")
    return float(quantity.removesuffix(unit)) * units.get(unit, 1)


def test_the_runner_has_no_right_too_many() -> None:
    rules = delivery.runner_values()["rbac"]["rules"]
    assert rules  # without any, the official chart grants everything
    assert not [rule for rule in rules if "*" in [*rule["resources"], *rule["verbs"]] or "apiGroups" in rule]
    assert not {"services", "configmaps", "namespaces"} & {name for rule in rules for name in rule["resources"]}


def test_jobs_may_do_what_steps_may_and_read_objects_by_name_only() -> None:
    (role,) = delivery.runner_objects("Role")
    assert all(rule["resourceNames"] for rule in role["rules"])
    named = {name for rule in role["rules"] for name in rule["resourceNames"]}
    assert named == {"iml4e-runner", "iml4e-s3-pipelines", "iml4e-minio", "iml4e-minio-0"}
    assert {each["roleRef"]["name"] for each in delivery.runner_objects("RoleBinding")} == {"model-ci", "iml4e-runner"}
    (account,) = delivery.runner_objects("ServiceAccount")
    for each in delivery.runner_objects("RoleBinding"):
        wanted = {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": "gitlab-runner"}
        assert each["subjects"] == [wanted]
    assert delivery.job_pod()["serviceAccountName"] == account["metadata"]["name"]
