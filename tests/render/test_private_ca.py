"""A private certificate authority reaches every container that speaks with something outside the release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.helm import render
from support.objects import Container, containers, find, of_kind, pod_template

ELSEWHERE = ("s3.example.org", "db.example.org", "mlflow.example.org")
"""The store, the database and a tracking server of somebody else."""
VALUES: dict[str, Any] = {
    "minio": {"enabled": False},
    "mariadb": {"enabled": False},
    "mlflow": {"database": {"tls": True}, "gc": {"enabled": True}},
    "pipelines": {"retention": {"enabled": True}},
}
SOURCES = {
    "existingConfigMap": {"configMap": {"name": "company-ca", "items": [{"key": "cabundle.crt", "path": "ca.crt"}]}},
    "existingSecret": {"secret": {"secretName": "company-ca", "items": [{"key": "cabundle.crt", "path": "ca.crt"}]}},
}
PYTHON = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
DATABASE = "MLFLOW_BACKEND_STORE_URI"
TRUST = {
    "Deployment/iml4e-mlflow migrate": (DATABASE,),
    "Deployment/iml4e-mlflow mlflow": (*PYTHON, DATABASE),
    "CronJob/iml4e-mlflow-gc gc": (*PYTHON, DATABASE),
    "Deployment/iml4e-home home": ("CA_FILE",),
    "Deployment/iml4e-pipelines api": ("SSL_CERT_DIR",),
    "Deployment/iml4e-pipelines-ui ui": ("NODE_EXTRA_CA_CERTS",),
    "CronJob/iml4e-pipelines-mlflow mlflow": ("CA_FILE",),
    "CronJob/iml4e-pipelines-retention retention": ("AWS_CA_BUNDLE",),
}
"""Containers that speak with one of those hosts, and the variables that name the authorities. A new one is added here."""
WITHOUT = {
    "Deployment/iml4e-pipelines-metadata metadata": "ML Metadata's server speaks no TLS with a database",
}


def trusting(source: str) -> tuple[dict[str, Any], ...]:
    """The chart with stores elsewhere, and their authority."""
    shared = {
        "s3": {"endpoint": "https://s3.example.org"},
        "database": {"host": "db.example.org"},
        "mlflow": {"url": "https://mlflow.example.org/mlflow"},
        "caCertificate": {source: "company-ca", "key": "cabundle.crt"},
    }
    return render("default", {**VALUES, "global": shared})


def speakers(objects: tuple[dict[str, Any], ...]) -> Iterator[Container]:
    """Containers that are told one of the hosts: in their own lines, or in a ConfigMap that they mount."""
    config = {thing["metadata"]["name"]: json.dumps(thing["data"]) for thing in of_kind(objects, "ConfigMap")}
    for container in containers(objects):
        mounted = {mount["name"] for mount in container.spec.get("volumeMounts", [])}
        names = [
            volume.get("configMap", {}).get("name", "")
            for volume in container.pod["volumes"]
            if volume["name"] in mounted
        ]
        text = json.dumps(container.spec) + "".join(config.get(name, "") for name in names)
        if any(host in text for host in ELSEWHERE):
            yield container


@pytest.mark.parametrize("source", SOURCES)
def test_every_container_that_speaks_with_others_trusts_it(source: str) -> None:
    found = {container.name: container for container in speakers(trusting(source))}
    assert set(found) == {*TRUST, *WITHOUT}
    for name, variables in TRUST.items():
        container = found[name]
        (mount,) = [mount for mount in container.spec["volumeMounts"] if mount["name"] == "ca-certificate"]
        assert mount["readOnly"], name
        (volume,) = [volume for volume in container.pod["volumes"] if volume["name"] == "ca-certificate"]
        assert {key: volume[key] for key in volume if key != "name"} == SOURCES[source], name
        env = {variable["name"]: variable.get("value", "") for variable in container.spec["env"]}
        for variable in variables:
            assert mount["mountPath"] in env[variable], (name, variable)


@pytest.mark.parametrize("source", SOURCES)
def test_every_pod_of_a_run_trusts_it(source: str) -> None:
    config = find(trusting(source), "ConfigMap", "iml4e-pipelines-argo")["data"]["config"]
    spec = yaml.safe_load(yaml.safe_load(config)["workflowDefaults"]["spec"]["podSpecPatch"])
    assert spec["volumes"] == [{"name": "ca-certificate", **SOURCES[source]}]
    # `wait` stores the archived log
    assert [container["name"] for container in spec["containers"]] == ["main", "wait"]
    for container in spec["containers"]:
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        assert env == dict.fromkeys(PYTHON, "/etc/ssl/iml4e/ca.crt")
        assert container["volumeMounts"] == [
            {"name": "ca-certificate", "mountPath": "/etc/ssl/iml4e", "readOnly": True}
        ]


def test_the_runner_tells_which_object_has_it() -> None:
    for source, variable in (("existingConfigMap", "CA_CONFIG_MAP"), ("existingSecret", "CA_SECRET")):
        data = find(trusting(source), "ConfigMap", "iml4e-runner")["data"]
        told = {key: value for key, value in data.items() if key.startswith("CA_")}
        assert told == {variable: "company-ca", "CA_KEY": "cabundle.crt"}


def test_kserve_downloads_with_a_config_map() -> None:
    for source, name in (("existingConfigMap", "company-ca"), ("existingSecret", "")):
        config = find(trusting(source), "ConfigMap", "inferenceservice-config")["data"]
        assert json.loads(config["storageInitializer"])["caBundleConfigMapName"] == name
    # the controller reads it in its own namespace, and copies it into those of models
    rules = find(trusting("existingConfigMap"), "ClusterRole", "iml4e-kserve")["rules"]
    (verbs,) = [set(rule["verbs"]) for rule in rules if "configmaps" in rule["resources"]]
    assert verbs >= {"get", "create", "update"}


def test_the_database_is_checked_by_the_public_authorities_where_there_is_no_other() -> None:
    objects = render("default", {"mlflow": {"database": {"tls": True}}})
    (server,) = pod_template(find(objects, "Deployment", "iml4e-mlflow"))["spec"]["containers"]
    (uri,) = [variable["value"] for variable in server["env"] if variable["name"] == DATABASE]
    assert uri.endswith("&ssl_ca=/etc/ssl/certs/ca-certificates.crt")


def test_nothing_of_it_is_there_by_default() -> None:
    text = json.dumps(
        [container.spec for container in containers(render("default", {"mlflow": {"gc": {"enabled": True}}}))]
    )
    assert not [word for word in ("ca-certificate", "CA_BUNDLE", "SSL_CERT", "ssl_ca", "CA_FILE") if word in text]
