"""What Helm says after an installation is right for what was installed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from support import helm
from support.helm import CHART
from support.parts import EVERY, PARTS, WITH_UI

PATHS = {part.name: part.ui for part in PARTS if part.ui}
#: A Gateway of another controller.
SHARED = {"global": {"gateway": {"name": "shared", "namespace": "infra", "url": "http://shared.infra.svc"}}}
NO_ROUTES = {part: {"route": {"enabled": False}} for part in WITH_UI}


def notes(profile: str = "default", values: dict[str, Any] | None = None) -> str:
    """What Helm says after an installation as `ml` in namespace `team`."""
    flags = [flag for file in helm.profile_files(profile) for flag in ("--values", file)]
    given = helm.merged(helm.OPTIONAL, values or {})
    flags += [word for key, value in given.items() for word in ("--set-json", f"{key}={json.dumps(value)}")]
    said = helm.helm("install", "ml", CHART, "--namespace", "team", "--dry-run=client", *flags)
    return said.partition("NOTES:\n")[2]


def url_of(profile: str) -> str:
    """The public address of a profile."""
    files = [CHART / "values.yaml", *helm.profile_files(profile)]
    values = [yaml.safe_load(file.read_text()) for file in files]
    return [each["global"]["publicUrl"] for each in values if "publicUrl" in each.get("global", {})][-1]


def test_table_and_chart_name_the_same_pages() -> None:
    said = {
        part: yaml.safe_load((CHART / "charts" / part / "Chart.yaml").read_text()).get("annotations", {})
        for part in EVERY
    }
    pages = {part: each["iml4e.org/path"] for part, each in said.items() if "iml4e.org/path" in each}
    assert pages == {**PATHS, "kserve": "/models/<namespace>/<name>/"}
    assert all("iml4e.org/title" in said[part] for part in pages)


@pytest.mark.parametrize("profile", helm.profiles())
def test_every_page_is_named_under_the_public_address(profile: str) -> None:
    said, url = notes(profile), url_of(profile)
    on = [part for part in WITH_UI if not (profile == "bare-machine" and part in ("pipelines", "grafana"))]
    assert [part for part in WITH_UI if f"{url}{PATHS[part]}\n" in said] == on
    assert f"{url}/models/<namespace>/<name>/" in said
    assert f"MLFLOW_TRACKING_URI={url}/mlflow" in said
    assert "No authentication: anyone who reaches the gateway" in said
    assert not [word for word in ("<no value>", "%!", "<nil>", "map[") if word in said]


@pytest.mark.parametrize("part", [*WITH_UI, "kserve"])
def test_a_part_that_is_off_is_not_named(part: str) -> None:
    values: dict[str, Any] = {part: {"enabled": False}}
    if part == "mlflow":
        values["pipelines"] = {"mlflow": {"enabled": False}}
    if part == "home":
        values["gateway"] = {"errorPages": {"enabled": False}}
    if part == "prometheus":
        values["global"] = {"monitoring": {"url": "http://prometheus.example.com"}}
    said = notes(values=values)
    assert ("Landing page" if part == "home" else PATHS.get(part, "/models/")) not in said


def test_a_page_without_a_route_is_not_named() -> None:
    said = notes(values={"prometheus": {"route": {"enabled": False}}})
    assert "/prometheus" not in said


def test_without_a_gateway_the_services_are_named() -> None:
    said = notes(values={"gateway": {"enabled": False}, **NO_ROUTES})
    assert "localhost:30080" not in said
    assert "No authentication" not in said
    assert "port-forward service/ml-mlflow 5000" in said
    assert "MLFLOW_TRACKING_URI=http://localhost:5000/mlflow" in said
    assert 'kfp.Client(host="http://localhost:8888")' in said


def test_the_gateway_of_another_controller_is_named() -> None:
    said = notes(values={"gateway": {"enabled": False}, **SHARED})
    assert "http://localhost:30080/mlflow/\n" in said
    assert (
        "Routes belong to Gateway shared in namespace infra: its listeners must admit routes of namespace team." in said
    )
    assert "ml-gateway" not in said


def test_what_is_open_is_said_where_somebody_insisted() -> None:
    insist = {"service": {"type": "LoadBalancer"}, "allowAnonymous": True}
    said = notes("cloud", {"gateway": insist})
    assert "The load balancer lets in every address" in said
    assert "To close it, set gateway.service.type=ClusterIP" in said
    insist["service"]["loadBalancerSourceRanges"] = ["203.0.113.0/24"]
    assert "The load balancer lets in 203.0.113.0/24." in notes("cloud", {"gateway": insist})


@pytest.mark.parametrize(("tls", "command"), [(False, "30080:80"), (True, "30443:443")])
def test_an_inner_gateway_is_reached_by_a_forwarded_port(tls: bool, command: str) -> None:
    values = {
        "gateway": {"service": {"type": "ClusterIP"}, "tls": {"enabled": tls, "secretName": "tls" if tls else ""}},
        "global": {"publicUrl": "https://ml.example.org"},
    }
    said = notes(values=values)
    assert f"kubectl -n team port-forward service/ml-gateway {command}" in said
    assert "MLflow answers to these names, and to IP addresses: ml.example.org, localhost." in said


def test_secrets_that_somebody_brings_are_named() -> None:
    said = notes(
        values={"minio": {"existingSecret": "store"}, "mariadb": {"existingSecret": "{{ .Release.Name }}-root"}}
    )
    assert "kubectl -n team get secret store -o jsonpath='{.data.rootPassword}'" in said
    assert "kubectl -n team get secret ml-root -o jsonpath='{.data.rootPassword}'" in said
    assert "Pods wait until these Secrets exist" not in said
    said = notes("cloud")
    assert "  ml-s3-pipelines, ml-s3-mlflow, ml-s3-models: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY\n" in said
    assert "  ml-db-mlflow, ml-db-mlpipeline, ml-db-metadb: username, password, database\n" in said
    assert "rootPassword" not in said


def test_alerts_that_nobody_gets_are_told() -> None:
    assert "Alerts are sent to nobody: prometheus.alertmanager.config.receivers is empty" in notes()
    told = {"receivers": [{"name": "team", "webhook_configs": [{"url": "http://desk.example.com"}]}]}
    for values in (
        {"prometheus": {"alertmanager": {"config": told}}},
        {"prometheus": {"alertmanager": {"enabled": False}}},
    ):
        assert "Alerts are sent to nobody" not in notes(values=values)


def test_an_operator_is_told_of_by_its_labels() -> None:
    operator = {"global": {"monitoring": {"mode": "operator", "url": "http://prometheus.example.com"}}}
    said = notes(values=operator)
    assert "prometheus.operator.labels gives them that label" in said
    assert "/prometheus/" not in said
    assert "Alerts are sent" not in said
    labelled = {**operator, "prometheus": {"operator": {"labels": {"release": "stack"}}}}
    assert "prometheus.operator.labels" not in notes(values=labelled)
