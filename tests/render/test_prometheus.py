"""What is special about Prometheus."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from support.helm import render
from support.objects import find, pod_template


def configuration(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Its configuration file."""
    return yaml.safe_load(find(render("laptop", values), "ConfigMap", "iml4e-prometheus")["data"]["prometheus.yaml"])


def rules() -> list[dict[str, Any]]:
    """Its rules."""
    text = find(render("laptop"), "ConfigMap", "iml4e-prometheus")["data"]["rules.yaml"]
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_parts_and_models_are_scraped() -> None:
    assert {"prometheus", "parts", "models"} <= {job["job_name"] for job in configuration()["scrape_configs"]}


def test_only_pods_of_this_release_count_as_its_parts() -> None:
    parts = next(job for job in configuration()["scrape_configs"] if job["job_name"] == "parts")[
        "kubernetes_sd_configs"
    ][0]
    assert parts["namespaces"]["names"] == ["iml4e"]
    assert parts["selectors"] == [{"role": "pod", "label": "app.kubernetes.io/instance=iml4e"}]


def test_no_series_is_kept_for_each_run() -> None:
    parts = next(job for job in configuration()["scrape_configs"] if job["job_name"] == "parts")
    dropped = [rule["regex"] for rule in parts["metric_relabel_configs"] if rule.get("action") == "drop"]
    assert [bool(re.fullmatch(dropped[0], f"resource_manager_workflow_runs_{end}")) for end in ("success", "gc")] == [
        True,
        False,
    ]


def test_without_the_kubelet_no_right_to_nodes_is_asked_for() -> None:
    objects = render("laptop", {"prometheus": {"kubelet": {"enabled": False}}})
    role = find(objects, "ClusterRole", "iml4e-prometheus")
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == {"pods"}
    assert "kubelet" not in str(configuration({"prometheus": {"kubelet": {"enabled": False}}})["scrape_configs"])


@pytest.mark.parametrize("rule", [r for r in rules() if "alert" in r], ids=lambda rule: rule["alert"])
def test_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert rule["for"]


@pytest.mark.parametrize("rule", [r for r in rules() if "record" in r], ids=lambda rule: rule["record"])
def test_recording_rule_is_named_level_metric_operation(rule: dict[str, Any]) -> None:
    assert rule["record"].count(":") == 2


def test_page_is_under_the_public_address() -> None:
    objects = render("laptop", {"global": {"publicUrl": "https://ml.example.com"}})
    arguments = pod_template(find(objects, "StatefulSet", "iml4e-prometheus"))["spec"]["containers"][0]["args"]
    assert "--web.external-url=https://ml.example.com/prometheus" in arguments
    assert "--web.route-prefix=/prometheus" in arguments
    assert r"--web.cors.origin=https://ml\.example\.com" in arguments, "pages of others may not read metrics"


def test_nobody_stops_it_from_the_gateway() -> None:
    arguments = pod_template(find(render("laptop"), "StatefulSet", "iml4e-prometheus"))["spec"]["containers"][0]["args"]
    assert not [argument for argument in arguments if "enable-lifecycle" in argument or "enable-admin-api" in argument]
