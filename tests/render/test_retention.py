"""The CronJobs that delete what is old: off by default, harmless when they are first switched on."""

from __future__ import annotations

from typing import Any

import pytest

from support.helm import HelmError, render
from support.objects import Object, containers, find, kind_and_name, labels, of_kind, pod_makers, pod_template, selects
from support.pod_security import violations
from support.wiring import dangling

JOBS = {"mlflow": ("gc", "iml4e-mlflow-gc"), "pipelines": ("retention", "iml4e-pipelines-retention")}
EACH = pytest.mark.parametrize("part", JOBS)
ON = {part: {section: {"enabled": True}} for part, (section, _) in JOBS.items()}


def job(part: str, **settings: Any) -> Object:
    """A part's CronJob."""
    section, name = JOBS[part]
    return find(render("laptop", {part: {section: {"enabled": True, **settings}}}), "CronJob", name)


def environment(part: str, **settings: Any) -> dict[str, str]:
    """The plain variables of its container."""
    (container,) = containers([job(part, **settings)])
    return {variable["name"]: variable["value"] for variable in container.spec["env"] if "value" in variable}


def test_nothing_is_deleted_by_default() -> None:
    for profile in ("default", "laptop"):
        # the one that ends MLflow's runs deletes nothing
        names = [job["metadata"]["name"] for job in of_kind(render(profile), "CronJob")]
        assert names in ([], ["iml4e-pipelines-mlflow"])


@EACH
def test_the_first_passes_are_dry(part: str) -> None:
    assert environment(part)["DRY_RUN"] == "true"
    assert environment(part, dryRun=False)["DRY_RUN"] == "false"


@EACH
def test_only_one_pass_at_a_time_and_none_is_repeated(part: str) -> None:
    spec = job(part)["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert pod_template(job(part))["spec"]["restartPolicy"] == "Never"


@EACH
def test_settings_reach_it(part: str) -> None:
    assert job(part, schedule="@weekly")["spec"]["schedule"] == "@weekly"
    assert environment(part, olderThan="12h")["OLDER_THAN"] == "12h"


@EACH
@pytest.mark.parametrize(
    "setting", [{"olderThan": "30 days"}, {"olderThan": 30}, {"schedule": "daily"}, {"dryRun": "no"}]
)
def test_a_setting_that_means_nothing_is_refused_by_name(part: str, setting: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match=next(iter(setting))):
        job(part, **setting)


@EACH
def test_its_pod_is_as_any_other(part: str) -> None:
    spec = pod_template(job(part))["spec"]
    (container,) = containers([job(part)])
    assert violations(spec) == []
    assert spec["automountServiceAccountToken"] is False
    assert container.spec["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"cpu", "memory"} <= container.spec["resources"]["requests"].keys()
    assert "memory" in container.spec["resources"]["limits"]
    values = {**ON, "global": {"imageRegistry": "registry.example.com", "imagePullSecrets": [{"name": "key"}]}}
    there = find(render("laptop", values), "CronJob", JOBS[part][1])
    assert next(containers([there])).spec["image"].startswith("registry.example.com/")
    assert pod_template(there)["spec"]["imagePullSecrets"] == [{"name": "key"}]


def test_what_they_refer_to_is_there() -> None:
    assert dangling(render("laptop", ON)) == []


@EACH
def test_the_database_lets_it_in_and_no_service_sends_clients_to_it(part: str) -> None:
    pod = labels(pod_template(job(part)))
    (rule,) = find(render("laptop"), "NetworkPolicy", "iml4e-mariadb")["spec"]["ingress"]
    (names,) = rule["from"][0]["podSelector"]["matchExpressions"]
    assert pod["app.kubernetes.io/name"] in names["values"]
    services = of_kind(render("laptop", ON), "Service")
    assert [kind_and_name(service) for service in services if selects(service["spec"].get("selector"), pod)] == []


def test_other_stores_and_databases_are_used_as_named() -> None:
    values = {
        **ON,
        "minio": {"enabled": False},
        "mariadb": {"enabled": False},
        "global": {
            "s3": {"endpoint": "https://s3.example.com", "buckets": {"mlflow": "a-mlflow", "pipelines": "a-pipelines"}},
            "database": {"host": "db.example.com", "port": 3307},
            "caCertificate": {"existingSecret": "my-ca"},
        },
    }
    text = {thing["metadata"]["name"]: str(thing) for thing in of_kind(render("default", values), "CronJob")}
    for part, bucket in (("mlflow", "a-mlflow"), ("pipelines", "a-pipelines")):
        said = text[JOBS[part][1]]
        assert all(word in said for word in ("https://s3.example.com", "db.example.com", "3307", bucket))
    assert "my-ca" in text["iml4e-pipelines-retention"]


def test_switching_them_on_adds_only_them() -> None:
    added = {kind_and_name(thing) for thing in render("laptop", ON)} - {kind_and_name(t) for t in render("laptop")}
    assert added == {
        "CronJob/iml4e-mlflow-gc", "CronJob/iml4e-pipelines-retention",
        "ConfigMap/iml4e-pipelines-retention", "ServiceAccount/iml4e-pipelines-retention",
        "NetworkPolicy/iml4e-mlflow-gc", "NetworkPolicy/iml4e-pipelines-retention",
    }  # fmt: skip
    assert {kind_and_name(maker) for maker in pod_makers(render("laptop", ON))} >= {
        f"CronJob/{name}" for _, name in JOBS.values()
    }
