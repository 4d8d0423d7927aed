"""The CronJob of backups: off by default, restricted, with the keys that the parts have, and no place to write by mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from support import helm
from support.helm import HelmError, merged, render
from support.objects import Object, containers, find, kind_and_name, labels, of_kind, pod_template, selects
from support.pod_security import violations
from support.wiring import dangling

BUCKET = {"s3": "s3://backups/iml4e", "endpoint": "https://s3.example.org", "existingSecret": "backups"}
KEY = {"existingSecret": "backup-key"}
ON: dict[str, Any] = {"backup": {"enabled": True, "destination": BUCKET, "encryption": KEY}}


def objects(**backup: Any) -> tuple[Object, ...]:
    """The release with backups."""
    return render("laptop", merged(ON, {"backup": backup}))


def cron(**backup: Any) -> Object:
    """The CronJob."""
    return find(objects(**backup), "CronJob", "iml4e-backup")


def environment(thing: Object, name: str) -> dict[str, str]:
    """Variables of a container."""
    (found,) = (each for each in containers([thing]) if each.spec["name"] == name)
    return {variable["name"]: variable["value"] for variable in found.spec["env"]}


def volumes(thing: Object) -> dict[str, Object]:
    """Volumes of the pod, by name."""
    return {volume["name"]: volume for volume in pod_template(thing)["spec"]["volumes"]}


def test_switching_it_on_adds_only_it() -> None:
    plain = {kind_and_name(thing) for thing in render("laptop")}
    assert not any("backup" in name for name in plain)
    assert {kind_and_name(thing) for thing in objects()} - plain == {
        f"{kind}/iml4e-backup" for kind in ("ConfigMap", "CronJob", "NetworkPolicy", "Role", "RoleBinding", "ServiceAccount")
    }  # fmt: skip


def test_its_pod_is_restricted_and_named_as_any_other() -> None:
    values = merged(ON, {"global": {"imageRegistry": "registry.example.com", "imagePullSecrets": [{"name": "key"}]}})
    there = find(render("laptop", values), "CronJob", "iml4e-backup")
    spec = pod_template(there)["spec"]
    assert violations(spec) == []
    assert spec["imagePullSecrets"] == [{"name": "key"}]
    for container in containers([there]):
        assert container.spec["image"].startswith("registry.example.com/")
        assert container.spec["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"cpu", "memory"} <= container.spec["resources"]["requests"].keys()
        assert "memory" in container.spec["resources"]["limits"]
    assert [each["name"] for each in spec["initContainers"]] == ["objects", "database"]
    platform = find(
        render("laptop", merged(ON, {"global": {"securityContext": "platform"}})), "CronJob", "iml4e-backup"
    )
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod_template(platform)["spec"]["securityContext"].keys()


def test_one_at_a_time_and_none_is_repeated() -> None:
    spec = cron()["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert (spec["schedule"], spec["suspend"]) == ("0 2 * * *", False)
    assert cron(schedule="")["spec"]["suspend"] is True
    assert cron(schedule="@weekly")["spec"]["schedule"] == "@weekly"


def test_settings_reach_it() -> None:
    told = environment(
        cron(keep={"for": "12h", "minimum": 7}, alertAfter="3d", namespaces=["team-a", "iml4e"]), "backup"
    )
    assert (told["KEEP_FOR"], told["KEEP_AT_LEAST"], told["ALERT_AFTER"]) == ("12h", "7", "3d")
    assert (told["DESTINATION"], told["DESTINATION_ENDPOINT"]) == ("s3://backups/iml4e", "https://s3.example.org")
    assert told["NAMESPACES"] == "team-a"
    spec = pod_template(cron(nodeSelector={"disk": "big"}, tolerations=[{"key": "a"}], affinity={"nodeAffinity": {}}))[
        "spec"
    ]
    assert (spec["nodeSelector"], spec["tolerations"], spec["affinity"]) == (
        {"disk": "big"},
        [{"key": "a"}],
        {"nodeAffinity": {}},
    )
    account = find(objects(serviceAccount={"annotations": {"role": "arn"}}), "ServiceAccount", "iml4e-backup")
    assert account["metadata"]["annotations"] == {"role": "arn"}
    limits = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    assert all(each.spec["resources"] == limits for each in containers([cron(resources=limits)]))


def test_a_volume_instead_of_a_bucket() -> None:
    thing = cron(destination={"s3": "", "endpoint": "", "existingSecret": "", "existingClaim": "nfs"})
    assert environment(thing, "objects")["DESTINATION"] == "/backups"
    assert volumes(thing)["backups"]["persistentVolumeClaim"]["claimName"] == "nfs"
    assert "destination" not in volumes(thing)


def test_it_reads_the_databases_and_buckets_of_the_parts_that_are_on() -> None:
    for on, databases, buckets in (
        (True, "mlpipeline metadb mlflow", {"mlflow", "pipelines", "datasets"}),
        (False, "mlflow", {"mlflow", "datasets"}),
    ):
        thing = find(render("laptop", merged(ON, {"pipelines": {"enabled": on}})), "CronJob", "iml4e-backup")
        assert environment(thing, "database")["DATABASES"] == databases
        assert json.loads(environment(thing, "backup")["BUCKETS"]).keys() == buckets
        mounted = str(volumes(thing)["databases"])
        assert all(f"iml4e-db-{name}" in mounted for name in databases.split())
    assert json.loads(environment(cron(objects=False), "backup")["BUCKETS"]) == {}


def test_databases_that_people_added_are_backed_up_and_their_buckets_are_told() -> None:
    default = yaml.safe_load((helm.CHART / "charts" / "mariadb" / "values.yaml").read_text())["databases"]
    buckets = yaml.safe_load((helm.CHART / "charts" / "minio" / "values.yaml").read_text())["buckets"]
    added = {
        "mariadb": {"databases": [*default, {"name": "label_studio", "user": "labels"}, {"name": "b", "user": "b", "existingSecret": "own"}]},
        "minio": {"buckets": [*buckets, {"name": "scans", "versioned": False}]},
    }  # fmt: skip
    thing = find(render("laptop", merged(ON, added)), "CronJob", "iml4e-backup")
    assert environment(thing, "database")["DATABASES"] == "mlpipeline metadb mlflow label_studio b"
    assert {"iml4e-db-label-studio", "own"} <= {
        source["secret"]["name"] for source in volumes(thing)["databases"]["projected"]["sources"]
    }
    assert environment(thing, "objects")["BUCKETS_LEFT_OUT"] == "scans"
    assert environment(cron(), "objects")["BUCKETS_LEFT_OUT"] == ""
    elsewhere = {"global": {"database": {"host": "db.example.org"}}}
    thing = find(render("laptop", merged(merged(ON, added), elsewhere)), "CronJob", "iml4e-backup")
    assert environment(thing, "database")["DATABASES"] == "mlpipeline metadb mlflow"


def test_stores_elsewhere_are_used_as_named() -> None:
    values = merged(ON, {
        "minio": {"enabled": False}, "mariadb": {"enabled": False}, "pipelines": {"enabled": False},
        "mlflow": {"database": {"existingSecret": "my-db", "tls": True}, "s3": {"existingSecret": "my-s3"}},
        "runner": {"s3Secret": ""},
        "global": {
            "s3": {"endpoint": "https://store.example.com", "buckets": {"mlflow": "a-mlflow"}},
            "database": {"host": "db.example.com", "port": 3307}, "caCertificate": {"existingSecret": "my-ca"},
        },
    })  # fmt: skip
    thing = find(render("default", values), "CronJob", "iml4e-backup")
    told = environment(thing, "backup")
    assert (told["S3_ENDPOINT"], told["DATABASE_HOST"], told["DATABASE_PORT"]) == (
        "https://store.example.com",
        "db.example.com",
        "3307",
    )
    assert json.loads(told["BUCKETS"])["mlflow"] == "a-mlflow"
    # MariaDB's image may have no authorities: the first step copies them
    assert told["DATABASE_CA"] == "/etc/ssl/iml4e/ca.crt"
    assert environment(thing, "database")["DATABASE_CA"] == "/work/ca.crt"
    assert "my-db" in str(volumes(thing)["databases"])
    # datasets without a Secret: the identity of the account
    assert "my-s3" in str(volumes(thing)["s3"])
    assert "datasets/" not in str(volumes(thing)["s3"])
    assert "my-ca" in str(volumes(thing)["ca-certificate"])


@pytest.mark.parametrize(
    "values",
    [
        {"mlflow": {"database": {"tls": True}}},
        {"pipelines": {"api": {"database": {"parameters": {"tls": "preferred"}}}}},
    ],
    ids=["mlflow", "pipelines"],
)
def test_a_database_with_tls_is_checked_by_the_public_authorities(values: dict[str, Any]) -> None:
    thing = find(render("laptop", merged(ON, values)), "CronJob", "iml4e-backup")
    assert environment(thing, "backup")["DATABASE_CA"] == "/etc/ssl/certs/ca-certificates.crt"
    assert "AWS_CA_BUNDLE" not in environment(thing, "backup")
    assert environment(thing, "database")["DATABASE_CA"] == "/work/ca.crt"
    assert "DATABASE_CA" not in environment(cron(), "backup")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"backup": {"encryption": {"existingSecret": ""}, "destination": {"existingSecret": ""}}},
        {"backup": {"destination": {"s3": "", "endpoint": "", "existingSecret": "", "existingClaim": "nfs"}}},
        {"global": {"caCertificate": {"existingConfigMap": "my-ca", "key": "cabundle.crt"}}},
    ],
    ids=["bucket", "identity", "claim", "authority"],
)
def test_each_step_mounts_what_it_works_with(values: dict[str, Any]) -> None:
    """Both steps in Python mount every volume; MariaDB's programs get no key of a store."""
    thing = find(render("laptop", merged(ON, values)), "CronJob", "iml4e-backup")
    mounted = {
        each.spec["name"]: {mount["name"]: mount["mountPath"] for mount in each.spec["volumeMounts"]}
        for each in containers([thing])
    }
    assert mounted["objects"] == mounted["backup"]
    assert mounted["objects"].keys() == volumes(thing).keys()
    assert mounted["database"] == {
        "programs": "/opt/backup", "databases": "/secrets/databases", "work": "/work", "tmp": "/tmp",
    }  # fmt: skip


def test_what_it_refers_to_is_there() -> None:
    known = {"backups", "backup-key"}
    assert [each for each in dangling(objects()) if not any(name in str(each) for name in known)] == []


def test_it_may_read_only_what_it_backs_up() -> None:
    rules = find(objects(secrets=["mine"], configMaps=["labels"]), "Role", "iml4e-backup")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list"}
    core = {rule["resources"][0]: rule["resourceNames"] for rule in rules if rule["apiGroups"] == [""]}
    assert core == {"secrets": ["mine"], "configmaps": ["labels"]}
    assert not [rule for rule in find(objects(), "Role", "iml4e-backup")["rules"] if rule["apiGroups"] == [""]]
    there = objects(namespaces=["team-a", "iml4e"])
    assert find(there, "ClusterRole", "iml4e-backup")["rules"] == find(objects(), "Role", "iml4e-backup")["rules"]
    bindings = [
        each["metadata"].get("namespace")
        for each in of_kind(there, "RoleBinding")
        if each["metadata"]["name"] == "iml4e-backup"
    ]
    assert sorted(bindings, key=str) == [None, "team-a"]
    assert (
        "iml4e-backup"
        in find(objects(), "ValidatingAdmissionPolicy", "iml4e-runner")["spec"]["validations"][0]["expression"]
    )


def test_the_database_lets_it_in_and_only_prometheus_asks_it() -> None:
    pod = labels(pod_template(cron()))
    (rule,) = find(objects(), "NetworkPolicy", "iml4e-mariadb")["spec"]["ingress"]
    assert pod["app.kubernetes.io/name"] in rule["from"][0]["podSelector"]["matchExpressions"][0]["values"]
    policy = find(objects(), "NetworkPolicy", "iml4e-backup")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], pod)
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": 8080, "protocol": "TCP"}]]
    assert pod_template(cron())["metadata"]["annotations"]["prometheus.io/port"] == "8080"
    alone = find(
        render("laptop", merged(ON, {"prometheus": {"enabled": False}, "grafana": {"enabled": False}})),
        "CronJob",
        "iml4e-backup",
    )
    assert environment(alone, "backup")["METRICS"] == "false"
    assert "annotations" not in pod_template(alone)["metadata"]
    services = of_kind(objects(), "Service")
    assert [kind_and_name(service) for service in services if selects(service["spec"].get("selector"), pod)] == []


@pytest.mark.parametrize(
    "setting",
    [
        {"schedule": "daily"}, {"keep": {"for": "30 days"}}, {"keep": {"minimum": 0}}, {"alertAfter": 36},
        {"destination": {"s3": "backups"}}, {"destination": {"endpoint": "s3.example.org"}}, {"objects": "no"}, {"nonsense": 1},
        {"namespaces": ["Team A"]}, {"secrets": "key"},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_that_means_nothing_is_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match=next(iter(setting))):
        cron(**setting)
