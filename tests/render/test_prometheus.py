"""What is special about Prometheus."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from support.helm import render
from support.objects import find, of_kind, pod_template


def configuration(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Its configuration file."""
    return yaml.safe_load(find(render("laptop", values), "ConfigMap", "iml4e-prometheus")["data"]["prometheus.yaml"])


def rules() -> list[dict[str, Any]]:
    """Its rules."""
    text = find(render("laptop"), "ConfigMap", "iml4e-prometheus")["data"]["rules.yaml"]
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_parts_and_models_are_scraped() -> None:
    assert {job["job_name"] for job in configuration()["scrape_configs"]} == {
        "prometheus", "parts", "models", "pods", "pods-not-running", "containers", "cgroups", "volumes", "probes",
        "certificates", "gpus",
    }  # fmt: skip


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
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == {"pods", "services"}
    assert "kubelet" not in str(configuration({"prometheus": {"kubelet": {"enabled": False}}})["scrape_configs"])


@pytest.mark.parametrize("rule", [r for r in rules() if "alert" in r], ids=lambda rule: rule["alert"])
def test_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical") or rule["alert"] == "Watchdog"
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert rule["for"]


@pytest.mark.parametrize("rule", [r for r in rules() if "record" in r], ids=lambda rule: rule["record"])
def test_recording_rule_is_named_level_metric_operation(rule: dict[str, Any]) -> None:
    assert rule["record"].count(":") == 2 or rule["record"] == "pod:info"


def test_page_is_under_the_public_address() -> None:
    objects = render("laptop", {"global": {"publicUrl": "https://ml.example.com"}})
    arguments = pod_template(find(objects, "StatefulSet", "iml4e-prometheus"))["spec"]["containers"][0]["args"]
    assert "--web.external-url=https://ml.example.com/prometheus" in arguments
    assert "--web.route-prefix=/prometheus" in arguments
    assert r"--web.cors.origin=https://ml\.example\.com" in arguments, "pages of others may not read metrics"


def test_nobody_stops_it_from_the_gateway() -> None:
    arguments = pod_template(find(render("laptop"), "StatefulSet", "iml4e-prometheus"))["spec"]["containers"][0]["args"]
    assert not [argument for argument in arguments if "enable-lifecycle" in argument or "enable-admin-api" in argument]


def job(name: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """A job of its configuration."""
    return next(job for job in configuration(values)["scrape_configs"] if job["job_name"] == name)


def relabel(rules: list[dict[str, Any]], labels: dict[str, str]) -> dict[str, str] | None:
    """What relabelling makes of a target's or a series' labels, as Prometheus does it; None where it is dropped."""
    labels = dict(labels)
    for rule in rules:
        text = ";".join(labels.get(name, "") for name in rule.get("source_labels", []))
        pattern, action = f"^(?:{rule.get('regex', '(.*)')})$", rule.get("action", "replace")
        found = re.search(pattern, text, re.DOTALL)
        if (action == "keep" and not found) or (action == "drop" and found):
            return None
        if action == "labeldrop":
            labels = {name: value for name, value in labels.items() if not re.search(pattern, name)}
        elif action == "replace" and found:
            value = found.expand(re.sub(r"\$(\d)", r"\\\1", rule.get("replacement", "$1")))
            labels[rule["target_label"]] = value
            labels = {name: value for name, value in labels.items() if value}
    return labels


POD = "__meta_kubernetes_pod_"
NODE_NAME = f"{POD}annotation_workflows_argoproj_io_node_name"


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({NODE_NAME: "my-wine-x2k8p.root.train.executor"}, {"pipeline": "my-wine", "step": "train"}),
        ({NODE_NAME: "my-wine-x2k8p.root.train-driver"}, {"pipeline": "my-wine", "step": "train (driver)"}),
        ({NODE_NAME: "my-wine-x2k8p.root-driver"}, {"pipeline": "my-wine", "step": "(driver)"}),
        ({NODE_NAME: "w-x2k8p.root.loop.iteration.0.a.executor"}, {"pipeline": "w", "step": "loop.iteration.0.a"}),
        ({f"{POD}label_pipeline_runid": "r1"}, {"run": "r1"}),
        (
            {f"{POD}label_iml4e_org_run": "demo-1", f"{POD}label_iml4e_org_pipeline": "wine"},
            {"run": "demo-1", "pipeline": "wine", "step": "all"},
        ),
        (
            {
                f"{POD}label_serving_kserve_io_inferenceservice": "fraud",
                f"{POD}annotation_iml4e_org_model": "Fraud",
                f"{POD}annotation_iml4e_org_model_version": "3",
                f"{POD}annotation_iml4e_org_latency_objective": "250ms",
            },
            {"inferenceservice": "fraud", "model": "Fraud", "version": "3", "latency_objective": "250ms"},
        ),
        # a label `component` of somebody else is no part
        ({f"{POD}label_app_kubernetes_io_component": "other"}, {}),
    ],
)
def test_a_pod_says_what_it_is(labels: dict[str, str], found: dict[str, str]) -> None:
    pod = {f"{POD}phase": "Running", f"{POD}ready": "true", f"{POD}name": "p", "__meta_kubernetes_namespace": "ns"}
    made = relabel(job("pods")["relabel_configs"], pod | labels)
    assert {name: value for name, value in (made or {}).items() if not name.startswith("__")} == {
        "namespace": "ns",
        "pod": "p",
        **found,
    }


@pytest.mark.parametrize(
    ("phase", "ready", "told"),
    [
        ("Running", "true", None), ("Succeeded", "false", None), ("Running", "false", "NotReady"),
        ("Pending", "false", "Pending"), ("Failed", "false", "Failed"), ("Unknown", "unknown", "Unknown"),
    ],
)  # fmt: skip
def test_pods_that_do_not_run_are_told_with_their_phase(phase: str, ready: str, told: str | None) -> None:
    made = relabel(job("pods-not-running")["relabel_configs"], {f"{POD}phase": phase, f"{POD}ready": ready})
    assert (made or {}).get("phase") == told


SERVICE = "__meta_kubernetes_service_"
PREDICTOR = {f"{SERVICE}label_serving_kserve_io_inferenceservice": "fraud", "__meta_kubernetes_namespace": "team"}
PART = {
    f"{SERVICE}label_app_kubernetes_io_part_of": "iml4e",
    f"{SERVICE}label_app_kubernetes_io_component": "mlflow",
    "__meta_kubernetes_namespace": "iml4e",
}
ASKED = f"{SERVICE}annotation_iml4e_org_probe"
AT = "http://iml4e-gateway-internal.iml4e.svc"


@pytest.mark.parametrize(
    ("labels", "module", "address", "route"),
    [
        (PREDICTOR, "head", f"{AT}/models/team/fraud/v2/health/ready", "team-fraud"),
        (PREDICTOR | {ASKED: "/healthz"}, "head", f"{AT}/models/team/fraud/healthz", "team-fraud"),
        (PART | {ASKED: "/mlflow/health"}, "head", f"{AT}/mlflow/health", "iml4e-iml4e-mlflow"),
        (PART | {ASKED: "GET /x?a=1"}, "get", f"{AT}/x?a=1", "iml4e-iml4e-mlflow"),
    ],
)
def test_a_service_is_asked_at_the_gateway(labels: dict[str, str], module: str, address: str, route: str) -> None:
    made = relabel(job("probes")["relabel_configs"], labels)
    assert made is not None
    assert (made["__param_module"], made["__param_target"], made["route"]) == (module, address, route)
    assert made["__address__"] == "iml4e-prometheus-probe.iml4e.svc:9115"


@pytest.mark.parametrize("labels", [PART, PREDICTOR | {ASKED: "off"}], ids=["a part that says no path", "switched off"])
def test_a_service_is_not_asked(labels: dict[str, str]) -> None:
    assert relabel(job("probes")["relabel_configs"], labels) is None


def test_every_route_of_a_part_is_asked() -> None:
    """By the path of a route; its name is what the gateway counts."""
    objects = render("laptop")
    routes = {route["metadata"]["name"]: route["spec"]["rules"] for route in of_kind(objects, "HTTPRoute")}
    asked = {}
    for service in of_kind(objects, "Service"):
        if path := (service["metadata"].get("annotations") or {}).get("iml4e.org/probe"):
            asked[f"iml4e-{service['metadata']['labels']['app.kubernetes.io/component']}"] = path.removeprefix("GET ")
    # the probe's own route, and a page that is no API
    assert set(asked) == set(routes) - {"iml4e-pipelines-probe", "iml4e-alertmanager"}
    matches = [m["path"]["value"] for rules in routes.values() for rule in rules for m in rule["matches"]]
    assert all(any(path.startswith(match) for match in matches) for path in asked.values())


def test_requests_of_the_probe_for_pipelines_are_counted_as_the_probe_s() -> None:
    router = "httproute-iml4e-iml4e-pipelines-probe-gw-iml4e-iml4e-gateway-ep-web-0-abc@kubernetesgateway"
    series = {"__name__": "traefik_router_requests_total", "router": router, "method": "GET", "component": "gateway"}
    made = relabel(job("parts")["metric_relabel_configs"], series)
    assert made is not None
    assert (made["route"], made["method"]) == ("iml4e-iml4e-pipelines", "HEAD")


@pytest.mark.parametrize(
    ("component", "name", "kept"),
    [
        ("minio", "minio_cluster_usage_buckets_objects_count", True), ("minio", "minio_api_requests_total", True),
        ("minio", "minio_cluster_usage_buckets_object_size_distribution", False), ("minio", "go_goroutines", False),
        ("minio", "minio_system_drive_used_bytes", False), ("mariadb", "mysql_up", True),
        ("mariadb", "mysql_global_status_slow_queries", True), ("mariadb", "mysql_global_status_com_select", False),
        ("gateway", "go_goroutines", True),
    ],
)  # fmt: skip
def test_only_series_that_somebody_reads_are_kept(component: str, name: str, kept: bool) -> None:
    made = relabel(job("parts")["metric_relabel_configs"], {"__name__": name, "component": component, "server": "s"})
    assert bool(made) == kept
    assert not made or set(made) == {"__name__", "component"}


def test_neighbours_volumes_are_no_concern() -> None:
    rules = job("volumes")["metric_relabel_configs"]
    name = "kubelet_volume_stats_used_bytes"
    assert relabel(rules, {"__name__": name, "namespace": "iml4e"})
    assert not relabel(rules, {"__name__": name, "namespace": "other"})


@pytest.mark.parametrize(("url", "host"), [("https://ml.example.org:8443", "ml.example.org"), ("https://1234", "1234")])
def test_the_probe_asks_for_the_certificate_by_the_public_name(url: str, host: str) -> None:
    values = {"global": {"publicUrl": url}, "gateway": {"tls": {"enabled": True, "secretName": "t"}}}
    config = yaml.safe_load(
        find(render("laptop", values), "ConfigMap", "iml4e-prometheus-probe")["data"]["blackbox.yaml"]
    )
    assert config["modules"]["certificate"]["tcp"]["tls_config"]["server_name"] == host


def test_without_the_probe_nothing_of_it_is_left() -> None:
    objects = render("laptop", {"prometheus": {"probe": {"enabled": False}}})
    assert not [thing for thing in objects if thing["metadata"]["name"] == "iml4e-prometheus-probe"]
    assert "probe.iml4e.svc" not in str(configuration({"prometheus": {"probe": {"enabled": False}}})["scrape_configs"])
    role = find(objects, "ClusterRole", "iml4e-prometheus")
    assert "services" not in str(role["rules"])


def test_only_prometheus_may_use_the_probe() -> None:
    policy = find(render("laptop"), "NetworkPolicy", "iml4e-prometheus-probe")["spec"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "prometheus"


@pytest.mark.parametrize("percent", [99, 99.5, "99.9"])
def test_the_objective_is_a_value(percent: float | str) -> None:
    values = {"prometheus": {"objectives": {"availability": percent, "window": "14d"}, "retention": {"time": "2w"}}}
    text = find(render("default", values), "ConfigMap", "iml4e-prometheus")["data"]["rules.yaml"]
    assert f"vector({percent} / 100)" in text
    assert "route:probe_reached:bool[14d]" in text
    assert "WINDOW" not in text
    assert "OBJECTIVE" not in text


@pytest.mark.parametrize(
    ("kept", "window", "used"),
    [("30d", "", "28d"), ("7d", "", "7d"), ("36h", "", "1d"), ("2w", "", "14d"), ("6h", "", "1d"), ("1y", "", "28d"), ("30d", "3d", "3d")],
)  # fmt: skip
def test_the_objective_holds_as_long_as_samples_are_kept(kept: str, window: str, used: str) -> None:
    values = {"prometheus": {"retention": {"time": kept}, "objectives": {"window": window}}}
    text = find(render("laptop", values), "ConfigMap", "iml4e-prometheus")["data"]["rules.yaml"]
    assert f"route:probe_reached:bool[{used}]" in text


def test_gpus_are_scraped_unless_switched_off() -> None:
    (job,) = [job for job in configuration()["scrape_configs"] if job["job_name"] == "gpus"]
    assert job["honor_labels"] is True
    off = configuration({"prometheus": {"gpus": {"enabled": False}}})
    assert "gpus" not in [job["job_name"] for job in off["scrape_configs"]]
