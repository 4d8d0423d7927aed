"""What is special about Grafana."""

from __future__ import annotations

import configparser
import json
from typing import Any

import pytest
import yaml

from support.helm import HelmError, render
from support.objects import Object, find, kind_and_name, labels, pod_template

NAME = "iml4e-grafana"


def configuration(values: Object | None = None, profile: str = "default") -> dict[str, str]:
    """Its ConfigMap."""
    return find(render(profile, values), "ConfigMap", NAME)["data"]


def settings(values: Object | None = None, profile: str = "default") -> configparser.ConfigParser:
    """Its grafana.ini, as Grafana reads it: a section that comes again adds to the first, and the last value wins."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.read_string(configuration(values, profile)["grafana.ini"])
    return found


def boards(values: Object | None = None) -> list[Object]:
    """ConfigMaps of dashboards."""
    return [
        thing
        for thing in render("default", values)
        if thing["kind"] == "ConfigMap" and thing["metadata"]["name"].startswith(f"{NAME}-")
    ]


def test_a_login_is_asked_for_except_on_a_laptop() -> None:
    assert settings()["auth.anonymous"]["enabled"] == "false"
    assert settings(profile="laptop")["auth.anonymous"]["enabled"] == "true"
    assert settings(profile="laptop")["auth.anonymous"]["org_role"] == "Viewer"


def test_the_internet_is_neither_asked_nor_told() -> None:
    found = settings()
    for key in ("reporting_enabled", "check_for_updates", "check_for_plugin_updates"):
        assert found["analytics"][key] == "false"
    assert found["news"]["news_feed_enabled"] == "false"
    assert found["plugins"]["preinstall_disabled"] == "true"
    assert found["security"]["disable_gravatar"] == "true"


def test_settings_of_the_administrator_win() -> None:
    given = {
        "auth.generic_oauth": {"enabled": True, "scopes": "openid email"},
        "analytics": {"reporting_enabled": True},
    }
    found = settings({"grafana": {"settings": given}})
    assert found["auth.generic_oauth"]["scopes"] == "openid email"
    assert found["analytics"]["reporting_enabled"] == "true"
    assert found["analytics"]["check_for_updates"] == "false"


@pytest.mark.parametrize("value", [{"a": {"b": "c\n[server]"}}, {"a]\n[server": {"b": "c"}}, {"a": {"b = c\nd": "e"}}])
def test_a_setting_is_one_line(value: Object) -> None:
    with pytest.raises(HelmError, match="grafana"):
        render("default", {"grafana": {"settings": value}})


def test_secret_settings_are_environment_variables() -> None:
    pod = pod_template(find(render("default", {"grafana": {"settingsSecret": "oidc"}}), "StatefulSet", NAME))
    assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "oidc"}}]


def test_the_data_source_is_the_prometheus_that_the_values_name() -> None:
    def source(values: Object | None = None) -> Object:
        return yaml.safe_load(configuration(values)["datasources.yaml"])["datasources"][0]

    assert source()["url"] == "http://iml4e-prometheus.iml4e.svc:9090/prometheus"
    assert source()["uid"] == "prometheus"
    assert source()["jsonData"]["timeInterval"] == "15s"
    assert source({"grafana": {"timeInterval": "1m"}})["jsonData"]["timeInterval"] == "1m"
    other = {"monitoring": {"mode": "operator", "url": "http://prometheus-operated.monitoring.svc:9090"}}
    assert source({"global": other})["url"] == "http://prometheus-operated.monitoring.svc:9090"


def test_every_dashboard_is_mounted_and_labelled() -> None:
    found = boards()
    assert found
    for board in found:
        assert labels(board)["grafana_dashboard"] == "1"
        assert board["metadata"]["annotations"] == {"grafana_folder": "IML4E"}
        assert [f"{NAME}-{name.removesuffix('.json')}" for name in board["data"]] == [board["metadata"]["name"]]
    pod = pod_template(find(render("default"), "StatefulSet", NAME))
    volume = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "dashboards")
    mounted = {source["configMap"]["name"] for source in volume["projected"]["sources"]}
    assert mounted == {board["metadata"]["name"] for board in found}
    home = settings()["dashboards"]["default_home_dashboard_path"]
    assert home.removeprefix("/etc/dashboards/iml4e/") in {name for board in found for name in board["data"]}


def test_an_existing_grafana_gets_the_dashboards_alone() -> None:
    values: dict[str, Any] = {"grafana": {"server": {"enabled": False}, "dashboards": {"labels": {"team": "ml"}}}}
    objects = [
        thing for thing in render("default", values) if labels(thing).get("app.kubernetes.io/component") == "grafana"
    ]
    assert {thing["kind"] for thing in objects} == {"ConfigMap"}
    assert [kind_and_name(thing) for thing in objects] == [kind_and_name(thing) for thing in boards()]
    assert {labels(thing)["team"] for thing in objects} == {"ml"}
    plan = find(render("default", values), "ConfigMap", "iml4e-secrets")["data"]["plan.json"]
    assert NAME not in [secret["name"] for secret in json.loads(plan)["secrets"]]


def test_dashboards_of_others_have_a_folder_of_their_own() -> None:
    values = {"grafana": {"dashboards": {"extraConfigMaps": ["sales"]}}}
    providers = yaml.safe_load(configuration(values)["dashboards.yaml"])["providers"]
    pod = pod_template(find(render("default", values), "StatefulSet", NAME))
    paths = [mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
    assert [provider["folder"] for provider in providers] == ["IML4E", "More"]
    assert "/etc/dashboards/more/sales" in paths


def test_the_password_comes_from_the_secret_that_the_values_name() -> None:
    def secret(values: Object | None = None) -> str:
        pod = pod_template(find(render("default", values), "StatefulSet", NAME))
        return next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "password")["secret"]["secretName"]

    assert secret() == NAME
    assert secret({"grafana": {"existingSecret": "{{ .Release.Name }}-admins"}}) == "iml4e-admins"
