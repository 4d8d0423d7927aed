"""An existing Prometheus Operator gets the jobs and rules of the bundled Prometheus, and nothing runs twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from scripts.bare import golang
from scripts.common.paths import CACHE
from support.flows import picks
from support.helm import HelmError, merged, render
from support.objects import (
    COMPONENT,
    Object,
    annotations,
    containers,
    find,
    kind_and_name,
    labels,
    of_kind,
    pod_makers,
    pod_template,
)

URL = "http://prometheus-operated.monitoring.svc:9090"
OPERATOR: dict[str, Any] = {"global": {"monitoring": {"mode": "operator", "url": URL}}}
#: The definitions of the operator, where its Go module is in the cache: `go mod download MODULE` puts the module there.
MODULE = "github.com/prometheus-operator/prometheus-operator@v0.93.1"
GROUP = "monitoring.coreos.com/"
MONITORS = ("PodMonitor", "ScrapeConfig", "ServiceMonitor", "PrometheusRule")


def objects(*values: dict[str, Any], options: tuple[str, ...] = ()) -> tuple[Object, ...]:
    """The chart for an operator."""
    return render("laptop", merged(OPERATOR, *values), options=options)


def bundled() -> dict[str, Any]:
    """The configuration of the bundled Prometheus and its rules."""
    data = find(render("laptop"), "ConfigMap", "iml4e-prometheus")["data"]
    return {name: yaml.safe_load(text) for name, text in data.items()}


def jobs() -> dict[str, dict[str, Any]]:
    """Jobs of the bundled Prometheus, by name."""
    return {job["job_name"]: job for job in bundled()["prometheus.yaml"]["scrape_configs"]}


def spelled(rules: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Rules of relabelling in the operator's spelling."""

    def camel(key: str) -> str:
        return re.sub(r"_(.)", lambda found: found[1].upper(), key)

    return [{"action": "replace"} | {camel(key): value for key, value in rule.items()} for rule in rules or []]


def test_nothing_of_the_bundled_prometheus_is_left_but_the_probe() -> None:
    left = [thing for thing in objects() if labels(thing).get(COMPONENT) == "prometheus"]
    probe = [kind_and_name(thing) for thing in left if thing["apiVersion"].partition("/")[0] + "/" != GROUP]
    assert sorted(probe) == [
        "ConfigMap/iml4e-prometheus-probe",
        "Deployment/iml4e-prometheus-probe",
        "NetworkPolicy/iml4e-prometheus-probe",
        "Service/iml4e-prometheus-probe",
        "ServiceAccount/iml4e-prometheus-probe",
    ]
    assert not [thing for thing in render("laptop") if thing["apiVersion"].startswith(GROUP)]


def test_every_job_has_an_object_but_that_of_prometheus_itself() -> None:
    prefix = "iml4e-prometheus-"
    monitors = of_kind(objects(), "PodMonitor", "ScrapeConfig")
    names = {thing["metadata"]["name"].removeprefix(prefix) for thing in monitors}
    kubelet = find(objects(), "ServiceMonitor", f"{prefix}kubelet")
    names |= {endpoint["relabelings"][0]["replacement"] for endpoint in kubelet["spec"]["endpoints"]}
    assert names == jobs().keys() - {"prometheus", "gpus"}


@pytest.mark.parametrize("name", ["parts", "models"])
def test_a_pod_monitor_does_what_the_job_does(name: str) -> None:
    job, spec = jobs()[name], find(objects(), "PodMonitor", f"iml4e-prometheus-{name}")["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    own = endpoint["relabelings"]
    assert own[:-2] == spelled(job["relabel_configs"])
    assert own[-2:] == [
        {"action": "replace", "targetLabel": "job", "replacement": name},
        {"action": "labeldrop", "regex": "container|endpoint"},
    ]
    assert endpoint.get("metricRelabelings", []) == spelled(job.get("metric_relabel_configs"))
    assert endpoint["interval"] == bundled()["prometheus.yaml"]["global"]["scrape_interval"]


def test_a_pod_monitor_selects_what_the_job_discovers() -> None:
    parts = find(objects(), "PodMonitor", "iml4e-prometheus-parts")["spec"]
    assert parts["selector"] == {"matchLabels": {"app.kubernetes.io/instance": "iml4e"}}
    assert parts["namespaceSelector"] == {"matchNames": ["iml4e"]}
    models = find(objects(), "PodMonitor", "iml4e-prometheus-models")["spec"]
    present = {"key": "serving.kserve.io/inferenceservice", "operator": "Exists"}
    assert models["selector"] == {"matchExpressions": [present]}
    assert models["namespaceSelector"] == {"any": True}, "models run in any namespace"


@pytest.mark.parametrize("name", ["pods", "pods-not-running", "probes", "certificates"])
def test_a_scrape_config_does_what_the_job_does(name: str) -> None:
    job, spec = jobs()[name], find(objects(), "ScrapeConfig", f"iml4e-prometheus-{name}")["spec"]
    assert spec["jobName"] == name
    assert spec["relabelings"] == spelled(job["relabel_configs"])
    assert spec.get("metricRelabelings", []) == spelled(job.get("metric_relabel_configs"))
    assert spec.get("params") == job.get("params")
    discoveries = yaml.safe_load(
        re.sub(r"'role': '(\w)", lambda m: m[0][:-1] + m[1].upper(), str(job["kubernetes_sd_configs"]))
    )
    assert spec["kubernetesSDConfigs"] == discoveries
    default = bundled()["prometheus.yaml"]["global"]["scrape_interval"]
    assert spec["scrapeInterval"] == job.get("scrape_interval", default)


@pytest.mark.parametrize(
    ("url", "path"),
    [(URL, "/federate"), (f"{URL}/", "/federate"), ("https://metrics.example.com/team/prometheus", "/team/prometheus/federate")],
)  # fmt: skip
def test_what_asks_prometheus_itself_knows_its_path(url: str, path: str) -> None:
    values = {"global": {"monitoring": {"url": url.rstrip("/")}}}
    assert find(objects(values), "ScrapeConfig", "iml4e-prometheus-pods")["spec"]["metricsPath"] == path
    assert find(objects(values), "ScrapeConfig", "iml4e-prometheus-probes")["spec"]["metricsPath"] == "/probe"


def test_the_rules_are_those_of_the_bundled_prometheus() -> None:
    """All but the group on Prometheus itself, of which the operator's stack has its own."""
    groups = find(objects(), "PrometheusRule", "iml4e-prometheus")["spec"]["groups"]
    there = [group for group in bundled()["rules.yaml"]["groups"] if group["name"] != "prometheus"]
    interval = bundled()["prometheus.yaml"]["global"]["evaluation_interval"]
    assert groups == [{"interval": interval, **group} for group in there]
    assert len(groups) > 8


def test_without_the_kubelet_its_jobs_are_left_out() -> None:
    assert not of_kind(objects({"prometheus": {"kubelet": {"enabled": False}}}), "ServiceMonitor")


def test_the_kubelet_is_found_by_the_operators_service() -> None:
    kubelet = {"namespace": "openshift", "labels": {"k8s-app": "kubelet"}, "port": "metrics"}
    values = {"prometheus": {"operator": {"kubelet": kubelet}}}
    spec = find(objects(values), "ServiceMonitor", "iml4e-prometheus-kubelet")["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["openshift"]}
    assert spec["selector"]["matchLabels"]["k8s-app"] == "kubelet"
    assert {endpoint["port"] for endpoint in spec["endpoints"]} == {"metrics"}
    paths = {endpoint["relabelings"][0]["replacement"]: endpoint["path"] for endpoint in spec["endpoints"]}
    assert paths == {name: jobs()[name]["metrics_path"] for name in paths}


def test_labels_for_selectors_reach_every_object() -> None:
    values = {"prometheus": {"operator": {"labels": {"release": "kube-prometheus-stack"}}}}
    monitors = of_kind(objects(values), *MONITORS)
    assert {thing["kind"] for thing in monitors} == set(MONITORS)
    assert [kind_and_name(thing) for thing in monitors if labels(thing).get("release") != "kube-prometheus-stack"] == []


def test_the_operators_prometheus_reaches_metrics_from_its_namespace() -> None:
    [client] = find(objects(), "NetworkPolicy", "iml4e-mariadb-metrics")["spec"]["ingress"][0]["from"]
    assert client["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    assert client["namespaceSelector"] == {}
    assert not of_kind(objects({"global": {"networkPolicy": {"enabled": False}}}), "NetworkPolicy")


def admits(policy: Object, port: dict[str, Any], client: dict[str, str]) -> bool:
    """Whether a policy lets pods with these labels, of another namespace, reach a port of a container."""
    for rule in policy["spec"].get("ingress", []):
        peers = rule.get("from", [{"namespaceSelector": {}}])
        elsewhere = [peer for peer in peers if peer.get("namespaceSelector") == {}]
        known = [peer.get("podSelector", {}).get("matchLabels", {}).items() <= client.items() for peer in elsewhere]
        if any(known) and {port["containerPort"], port.get("name")} & {each["port"] for each in rule["ports"]}:
            return True
    return False


def test_the_operators_prometheus_reaches_every_port_that_is_scraped() -> None:
    """By the annotations of pods, which its jobs read; and the probe, which it asks."""
    found = objects()
    shut = []
    for maker in pod_makers(found):
        template = pod_template(maker)
        wanted = annotations(template).get("prometheus.io/port")
        wanted = "9115" if maker["metadata"]["name"] == "iml4e-prometheus-probe" else wanted
        policies = [
            each for each in of_kind(found, "NetworkPolicy") if picks(each["spec"]["podSelector"], labels(template))
        ]
        ports = [port for each in containers([maker]) for port in each.spec.get("ports", [])]
        for port in ports:
            if str(port["containerPort"]) == wanted and not any(
                admits(policy, port, {"app.kubernetes.io/name": "prometheus"}) for policy in policies
            ):
                shut.append(f"{kind_and_name(maker)} {wanted}")
    assert shut == []


def test_missing_definitions_are_told_before_helm_stumbles() -> None:
    """The API server's groups stand for a cluster: a rendering without one knows neither these nor the operator's."""
    cluster = ("--api-versions", "apiregistration.k8s.io/v1")
    with pytest.raises(HelmError) as refused:
        objects(options=cluster)
    assert refused.value.findings == [
        "global.monitoring.mode is operator, but the cluster does not know PodMonitor, PrometheusRule, ScrapeConfig, ServiceMonitor: "
        "install the Prometheus Operator, 0.75 or newer, with its CRDs first, or set global.monitoring.mode=bundled."
    ]
    for kind in MONITORS:
        version = "v1alpha1" if kind == "ScrapeConfig" else "v1"
        cluster += ("--api-versions", f"{GROUP}{version}/{kind}")
    assert objects(options=cluster)


def definitions() -> Path:
    """Folder of the operator's definitions in Go's cache of modules."""
    for cache in (CACHE / "go" / "mod", Path(golang.environment()["GOMODCACHE"])):
        folder = cache / MODULE / "example" / "prometheus-operator-crd"
        if folder.is_dir():
            return folder
    pytest.skip(f"Go's cache of modules lacks {MODULE}")


@pytest.mark.parametrize("kind", MONITORS)
def test_the_operators_own_schemas_admit_every_object(kind: str) -> None:
    text = (definitions() / f"monitoring.coreos.com_{kind.lower()}s.yaml").read_text()
    [version] = yaml.safe_load(text)["spec"]["versions"]
    schema = closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    found = of_kind(objects(), kind)
    assert found
    for thing in found:
        assert thing["apiVersion"] == f"{GROUP}{version['name']}"
        jsonschema.validate(thing["spec"], schema)


def closed(node: Any) -> Any:
    """A schema that refuses unknown fields, which the API server drops in silence, and knows Kubernetes' own types."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    out = {key: closed(value) for key, value in node.items()}
    if isinstance(out.get("properties"), dict) and out.get("type") == "object":
        out.setdefault("additionalProperties", False)
    if isinstance(out.get("pattern"), str):
        out["pattern"] = re.sub(r"^\^\(\?i\)", "(?i)^", out["pattern"])  # Go has the flag anywhere
    if out.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
    return out
