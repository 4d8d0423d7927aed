"""Alertmanager: its configuration is the values', and no password is in it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.bare import golang
from scripts.common import console
from support.flows import ELSEWHERE, PODS, Pod, Policies
from support.helm import REPO, HelmError, merged, render
from support.objects import Object, find, of_kind, pod_template

NAME = "iml4e-alertmanager"


def objects(**values: Any) -> tuple[Object, ...]:
    """The chart with values of Alertmanager."""
    return render("laptop", {"prometheus": {"alertmanager": values}})


def configuration(**values: Any) -> dict[str, Any]:
    """Its configuration file, which is JSON."""
    return json.loads(find(objects(**values), "ConfigMap", NAME)["data"]["alertmanager.yaml"])


@pytest.fixture(scope="session")
def amtool() -> Path:
    """Alertmanager's own tool, from the module that its image is built from."""
    try:
        return golang.build(golang.AMTOOL)
    except console.Failure as error:
        pytest.skip(f"amtool cannot be built here: {error}")


def example(heading: str) -> dict[str, Any]:
    """The values that docs/monitoring.md shows below a heading."""
    text = (REPO / "docs" / "monitoring.md").read_text().partition(f"\n## {heading}\n")[2]
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])


def alerting(*, enabled: bool = True, **values: Any) -> str:
    """The part of Prometheus' configuration that names an Alertmanager."""
    text = find(objects(enabled=enabled, **values), "ConfigMap", "iml4e-prometheus")["data"]["prometheus.yaml"]
    return text.partition("rule_files:")[2].partition("scrape_configs:")[0]


def test_by_default_alerts_are_sent_to_nobody() -> None:
    config = configuration()
    assert config["receivers"] == [{"name": "nobody"}]
    assert config["route"]["receiver"] == "nobody"


def test_receivers_arrive_as_they_are_written() -> None:
    """With the braces of messages, and with numbers that Helm would round: ids of Telegram's chats."""
    telegram = {"bot_token_file": "/etc/alertmanager/secrets/bot/token", "chat_id": -1001234567890123}
    webhook = {"url": "http://desk.example.com", "payload": {"title": "{{ .CommonLabels.alertname }}"}}
    receivers = [{"name": "team", "telegram_configs": [telegram], "webhook_configs": [webhook]}]
    config = configuration(config={"receivers": receivers, "route": {"receiver": "team"}}, secrets=["bot"])
    assert config["receivers"] == [{"name": "nobody"}, *receivers]
    text = find(objects(config={"receivers": receivers}, secrets=["bot"]), "ConfigMap", NAME)["data"]
    assert "-1001234567890123" in text["alertmanager.yaml"], "no 1.00e+15, which Alertmanager refuses"
    assert config["route"]["group_by"] == ["alertname", "namespace"], "what is not said keeps its default"


def test_a_receiver_called_nobody_may_be_ones_own() -> None:
    mine = [{"name": "nobody", "webhook_configs": [{"url": "http://desk.example.com"}]}]
    assert configuration(config={"receivers": mine})["receivers"] == mine


def test_no_alert_is_inhibited_for_what_both_lack() -> None:
    """A label of `equal` that source and target lack is equal: matchers name alerts that have it."""
    for rule in configuration()["inhibit_rules"]:
        assert rule["equal"] == ["route"]
        assert all(text.startswith("alertname=") for text in rule["source_matchers"] + rule["target_matchers"])


def test_secrets_are_files() -> None:
    secrets = ["slack", "a-very-long-name-of-a-secret-that-no-volume-could-have-as-its-own-name"]
    pod = pod_template(find(objects(secrets=secrets), "StatefulSet", NAME))["spec"]
    names = {volume["secret"]["secretName"]: volume["name"] for volume in pod["volumes"] if "secret" in volume}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert set(names) == set(secrets)
    assert {secret: mounts[name] for secret, name in names.items()} == {
        secret: f"/etc/alertmanager/secrets/{secret}" for secret in secrets
    }
    assert all(len(name) <= 63 for name in names.values())


def test_templates_are_files_that_the_configuration_names() -> None:
    text = '{{ define "ml.title" }}{{ .CommonLabels.alertname }}{{ end }}'
    data = find(objects(templates={"ml": text}), "ConfigMap", NAME)["data"]
    assert data["ml.tmpl"] == text
    assert json.loads(data["alertmanager.yaml"])["templates"] == ["/etc/alertmanager/config/*.tmpl"]


def test_a_new_configuration_replaces_the_pod() -> None:
    def checksum(**values: Any) -> str:
        template = pod_template(find(objects(**values), "StatefulSet", NAME))
        return template["metadata"]["annotations"]["checksum/config"]

    assert checksum() != checksum(config={"route": {"repeat_interval": "1h"}})


def test_the_gateway_only_reads() -> None:
    """Whoever reaches the gateway could else silence every alert, or invent one."""
    route = find(render("laptop"), "HTTPRoute", NAME)
    matches = [match for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert {match["method"] for match in matches} == {"GET"}
    assert {match["path"]["value"] for match in matches if match["path"]["type"] == "PathPrefix"} == {
        "/alertmanager/assets",
        "/alertmanager/api/v2",
    }
    for values in ({"route": {"enabled": False}}, {"alertmanager": {"route": {"enabled": False}}}):
        routes = of_kind(render("laptop", {"prometheus": values}), "HTTPRoute")
        assert NAME not in {each["metadata"]["name"] for each in routes}


def test_pods_of_users_cannot_silence_alerts() -> None:
    policies = Policies.of(render("laptop", {"pipelines": {"enabled": True}}))
    able = {
        str(pod)
        for pod in (Pod(), Pod(namespace=ELSEWHERE), *map(Pod, PODS))
        if policies.allow(pod, Pod("alertmanager"), 9093)
    }
    assert able == {"prometheus", "gateway"}


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ({}, '["iml4e-alertmanager.iml4e.svc:9093"]'),
        ({"enabled": False, "url": "https://alerts.example.com/am"}, '["alerts.example.com:443"]'),
        ({"enabled": False, "url": "http://alertmanager.{{ .Release.Namespace }}:9093"}, '["alertmanager.iml4e:9093"]'),
    ],
    ids=["its own", "another", "another, as a template"],
)
def test_prometheus_sends_there(values: dict[str, Any], target: str) -> None:
    assert target in alerting(**values)


def test_prometheus_sends_nowhere_without_an_alertmanager() -> None:
    assert "alertmanagers" not in alerting(enabled=False)
    assert "alertmanagers" not in alerting(enabled=False, url="")
    assert 'path_prefix: "/am"' in alerting(enabled=False, url="https://alerts.example.com/am")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"receivers": [{"slack_configs": []}]}, "name"),
        ({"receivers": [{"name": ""}]}, "name"),
        ({"receivers": [{"name": "team", "slack_config": []}]}, "slack_config"),
        ({"receivers": {"team": {}}}, "receivers"),
        ({"route": {"receiver": ""}}, "receiver"),
        ({"route": {"group_wait": "30"}}, "group_wait"),
        ({"route": {"group_intervall": "30s"}}, "group_intervall"),
    ],
    ids=str,
)
def test_what_is_no_configuration_is_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError, match=words):
        render("laptop", {"prometheus": {"alertmanager": {"config": config}}})


def test_alertmanager_itself_takes_the_configuration(amtool: Path, tmp_path: Path) -> None:
    documented = example("Alertmanager")["prometheus"]["alertmanager"]
    many = {
        "receivers": [
            {"name": "mail", "email_configs": [{"to": "ml@example.com"}]},
            {"name": "chat", "telegram_configs": [{"bot_token_file": "/run/token", "chat_id": -1001234567890123}]},
            {
                "name": "desk",
                "webhook_configs": [{"url": "http://desk.example.com", "payload": {"a": "{{ .Status }}"}}],
            },
        ],
        "time_intervals": [
            {"name": "nights", "time_intervals": [{"times": [{"start_time": "20:00", "end_time": "24:00"}]}]}
        ],
        "route": {"receiver": "mail", "routes": [{"receiver": "desk", "mute_time_intervals": ["nights"]}]},
        "global": {"smtp_smarthost": "mail.example.com:587", "smtp_from": "ml@example.com"},
    }
    for name, values in {"default": {}, "documented": documented, "many": {"config": many}}.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps(configuration(**values)))
        done = subprocess.run([amtool, "check-config", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=Watchdog", "severity=none"], "watchdog"),
        (["alertname=PartDown", "severity=critical"], "on-call"),
        (["alertname=PodFailed", "severity=warning"], "team"),
    ],
    ids=str,
)
def test_the_documented_routes_lead_where_the_text_says(
    amtool: Path, tmp_path: Path, labels: list[str], receiver: str
) -> None:
    file = tmp_path / "alertmanager.yaml"
    file.write_text(json.dumps(configuration(**example("Alertmanager")["prometheus"]["alertmanager"])))
    command = [amtool, "config", "routes", "test", f"--config.file={file}", *labels]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [receiver]


def test_the_documented_values_for_an_operator_are_its_own() -> None:
    values = merged(example("An existing Prometheus Operator"), {"grafana": {"enabled": False}})
    monitor = find(render("laptop", values), "PodMonitor", "iml4e-prometheus-parts")
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
