"""Pods open and accept the connections that charts/iml4e/flows.yaml lists, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.harness import flows
from support.flows import ELSEWHERE, FLOWS, PODS, Pod, Policies, listed
from support.helm import HelmError, merged, profiles, render
from support.objects import NAME, Object, containers, find, kind_and_name, labels, of_kind, pod_makers, pod_template
from support.parts import PARTS, WORKLOADS, Part, Workload

EACH = pytest.mark.parametrize("workload", WORKLOADS, ids=str)
#: All that has pods is on.
ON: dict[str, Any] = {
    "pipelines": {"enabled": True, "retention": {"enabled": True}},
    "mlflow": {"gc": {"enabled": True}},
    "grafana": {"enabled": True},
    "backup": {"enabled": True, "destination": {"s3": "s3://backups", "endpoint": "https://s3.example.org"}},
}
#: Conditions of rows that do not hold in ON.
OFF = (".Values.tls.enabled", ".Values.alertmanager.config.receivers")
EVERYBODY = [
    *(Pod(name) for name in PODS),
    Pod(),
    Pod(namespace=ELSEWHERE),
    Pod("models", ELSEWHERE),
    Pod("mlflow", ELSEWHERE),
]
POLICIES = "global.networkPolicy"


def policies(values: dict[str, Any] | None = None, profile: str = "laptop") -> Policies:
    """The policies of a release in which all is on."""
    return Policies.of(render(profile, merged(ON, values or {})))


def policy(name: str, values: dict[str, Any] | None = None) -> Object:
    """The specification of one policy."""
    return find(render("laptop", merged(ON, values or {})), "NetworkPolicy", f"iml4e-{name}")["spec"]


def network_policy(**values: Any) -> dict[str, Any]:
    """Values below global.networkPolicy."""
    return {"global": {"networkPolicy": values}}


def rules(name: str, direction: str, values: dict[str, Any] | None = None) -> str:
    """Rules of a policy, as text to search."""
    return json.dumps(policy(name, values).get(direction))


#: Ports that tests ask of: all in the table, those that containers open, and one that nobody knows.
def ports() -> list[int]:
    numbers = {port for flow in FLOWS for port in flow.ports if isinstance(port, int)}
    opened = [port for each in containers(render("laptop", ON)) for port in each.spec.get("ports", [])]
    return sorted(numbers | {port["containerPort"] for port in opened} | {12345})


@pytest.mark.parametrize("source", EVERYBODY, ids=str)
def test_policies_allow_what_the_table_lists_and_nothing_else(source: Pod) -> None:
    there = policies()
    for to in EVERYBODY:
        for port in ports():
            assert there.allow(source, to, port) == listed(source, to, port, OFF), f"{source} to {to}, port {port}"


def test_tls_opens_its_ports() -> None:
    tls = {
        "gateway": {"tls": {"enabled": True, "secretName": "tls"}},
        "global": {"publicUrl": "https://ml.example.org"},
    }
    there, outsider = policies(tls), Pod(namespace=ELSEWHERE)
    for port in (8000, 8080, 8443):
        assert there.allow(outsider, Pod("gateway"), port)
    assert not policies().allow(outsider, Pod("gateway"), 8443)


@pytest.mark.parametrize(("named", "allowed"), [([ELSEWHERE, "iml4e"], True), (["team-a"], False), ([], False)])
def test_the_port_without_tls_is_for_some_namespaces(named: list[str], allowed: bool) -> None:
    tls = {
        "gateway": {"tls": {"enabled": True, "secretName": "tls"}},
        "global": {"publicUrl": "https://ml.example.org"},
    }
    there = policies(merged(tls, network_policy(clientNamespaces=named)))
    assert there.allow(Pod(namespace=ELSEWHERE), Pod("gateway"), 8080) is allowed
    assert there.allow(Pod(), Pod("gateway"), 8080), "the release's own namespace always"


@pytest.mark.parametrize("profile", profiles())
def test_every_pod_has_a_row_and_a_policy_for_both_directions(profile: str) -> None:
    objects = render(profile, ON)
    for maker in pod_makers(objects):
        pod = labels(pod_template(maker))
        assert pod[NAME] in PODS, f"{kind_and_name(maker)}: add it to charts/iml4e/flows.yaml"
        name = f"iml4e-{PODS[pod[NAME]].policy}"
        assert find(objects, "NetworkPolicy", name)["spec"]["policyTypes"] == ["Ingress", "Egress"]
    deny = find(objects, "NetworkPolicy", "iml4e-default-deny")["spec"]
    assert deny == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/instance": "iml4e"}},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_no_rule_is_open_by_an_empty_list() -> None:
    """`from: []` and `to: []` mean everybody: whatever the values leave out must leave out the rule."""
    empty = network_policy(
        clientNamespaces=[], outside={"blocks": [], "stepPorts": [], "modelPorts": []}, extraIngress={}, extraEgress={}
    )
    s3 = {"global": {"s3": {"endpoint": "https://s3.example.org"}}, "minio": {"enabled": False}}
    for values in (empty, merged(empty, s3)):
        for each in of_kind(render("laptop", merged(ON, values)), "NetworkPolicy"):
            for direction, peers in (("ingress", "from"), ("egress", "to")):
                for rule in each["spec"].get(direction) or []:
                    assert rule.get(peers, True), kind_and_name(each)
                    assert rule.get("ports", True), kind_and_name(each)
    there = policies(empty)
    assert not there.allow(Pod(namespace=ELSEWHERE), Pod("minio"), 9000)
    assert not there.allow(Pod("gateway"), Pod("models", ELSEWHERE), 8080)
    assert there.allow(Pod("models"), Pod("minio"), 9000)
    assert there.allow(Pod(), Pod("mlflow"), 5000), "the release's own namespace always"


def test_clients_of_some_namespaces() -> None:
    named = network_policy(clientNamespaces=[ELSEWHERE, "iml4e"])
    other = network_policy(clientNamespaces=["team-a"])
    for to, port in (("minio", 9000), ("mlflow", 5000), ("pipelines", 8888), ("models", 8080)):
        assert policies(named).allow(Pod(namespace=ELSEWHERE), Pod(to), port)
        assert not policies(other).allow(Pod(namespace=ELSEWHERE), Pod(to), port)
    assert policies(named).allow(Pod("gateway"), Pod("models", ELSEWHERE), 8080)
    assert not policies(other).allow(Pod("prometheus"), Pod("models", ELSEWHERE), 8080)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_services_and_metrics_are_reachable(part: Part) -> None:
    """Somebody may reach every port of a Service, and Prometheus every port of metrics."""
    there, objects = policies(), render("laptop", ON)
    if part.metrics and part.name != "prometheus":
        assert there.allow(Pod("prometheus"), Pod(part.name), part.metrics[0])
    for name, numbers in part.services.items():
        service = find(objects, "Service", name)["spec"]
        pod = service["selector"][NAME]
        opened = [
            port
            for maker in pod_makers(objects)
            if labels(pod_template(maker))[NAME] == pod
            for each in pod_template(maker)["spec"]["containers"]
            for port in each.get("ports", [])
        ]
        targets = {port["port"]: port.get("targetPort", port["port"]) for port in service["ports"]}
        for number in numbers:
            port = next(
                each["containerPort"] for each in opened if targets[number] in (each["containerPort"], each["name"])
            )
            assert any(there.allow(source, Pod(pod), port) for source in EVERYBODY), (name, port)


@EACH
def test_workload_names_its_ports_in_the_table(workload: Workload) -> None:
    """A row names a port that its pods open: a wrong number opens nothing, and nobody would see why."""
    made = find(render("laptop", ON), workload.kind, workload.name)
    opened = {port["containerPort"] for each in containers([made]) for port in each.spec.get("ports", [])}
    name = labels(pod_template(made))[NAME]
    rows = {port for flow in FLOWS if flow.to == name and flow.when not in OFF for port in flow.ports}
    assert rows - {8080, 8443} if name == "gateway" else rows <= opened


def test_policies_can_be_left_out() -> None:
    """For a cluster whose administrator writes the NetworkPolicies."""
    assert of_kind(render("laptop", merged(ON, network_policy(enabled=False))), "NetworkPolicy") == []


def test_addresses_elsewhere_are_egress() -> None:
    outside = {
        "global": {
            "s3": {"endpoint": "https://s3.example.org:9443"},
            "database": {"host": "fd00::17", "port": 3307},
            "mlflow": {"url": "http://mlflow.tracking.svc:5000"},
            "networkPolicy": {"outside": {"blocks": [{"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}]}},
        },
        "minio": {"enabled": False},
        "mariadb": {"enabled": False},
    }
    out = policy("pipelines", outside)["egress"]
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}
    assert {"to": [block], "ports": [{"port": 9443, "protocol": "TCP"}]} in out
    assert {"to": [block], "ports": [{"port": 3307, "protocol": "TCP"}]} in out
    assert {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracking"}}}]} in out
    assert "minio" not in json.dumps(out)


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("", 443), ("http://store.example.org", 80), ("https://[fd00::1]:9000", 9000), ("https://s3", 443)],
)
def test_port_of_an_address_elsewhere(endpoint: str, port: int) -> None:
    values = {"global": {"s3": {"endpoint": endpoint}}, "minio": {"enabled": False}}
    assert {"port": port, "protocol": "TCP"} in [
        each for rule in policy("mlflow", values)["egress"] for each in rule.get("ports", [])
    ]
    assert "9000" in rules("mlflow", "egress")
    assert port == 9000 or "9000" not in rules("mlflow", "egress", values)


@pytest.mark.parametrize(
    ("host", "namespace", "outside"),
    [
        ("store.rook-ceph.svc", "rook-ceph", False),
        ("store.rook-ceph.svc.cluster.local", "rook-ceph", False),
        ("store-0.store.rook-ceph.svc", "rook-ceph", False),
        ("store-0.svc.rook-ceph.svc.cluster.local", "rook-ceph", False),
        ("store.rook-ceph", "rook-ceph", True),
        ("store.lan", "lan", True),
        ("store", "iml4e", True),
        ("store.example.org", "", True),
        ("10.0.0.17", "", True),
        ("[fd00::17]", "", True),
    ],
)
def test_services_by_their_names(host: str, namespace: str, outside: bool) -> None:
    """A Service's port says nothing of its pods': their namespace is open; what may be a host outside is open as well."""
    values = {"global": {"s3": {"endpoint": f"http://{host}:81"}}, "minio": {"enabled": False}}
    out = policy("mlflow", values)["egress"]
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    assert ({"to": [selector]} in out) == bool(namespace)
    assert ('"port": 81' in json.dumps(out)) == outside


def test_proxy_of_steps() -> None:
    values = {
        "pipelines": {"proxy": {"http": "http://proxy.example.org:3128", "https": "http://proxy.example.org:3128"}}
    }
    for name in ("pipelines", "pipelines-steps"):
        proxied = [rule for rule in policy(name, values)["egress"] if "3128" in json.dumps(rule)]
        assert len(proxied) == 1
        assert "ipBlock" in json.dumps(proxied)


@pytest.mark.parametrize("suffix", ["", ".cluster.local", "."])
def test_own_services_by_their_long_names(suffix: str) -> None:
    values = {"global": {"s3": {"endpoint": f"http://iml4e-minio.iml4e.svc{suffix}:9000"}}}
    assert policies(values).allow(Pod("mlflow"), Pod("minio"), 9000)


def test_another_gateway_stands_for_the_gateway() -> None:
    values = {
        "gateway": {"enabled": False},
        "global": {"gateway": {"name": "g", "namespace": "infra", "url": f"http://g.{ELSEWHERE}.svc"}},
    }
    there = policies(values)
    for to, port in (
        ("home", 8000),
        ("pipelines-ui", 3000),
        ("prometheus", 9090),
        ("alertmanager", 9093),
        ("grafana", 3000),
    ):
        assert there.allow(Pod(namespace=ELSEWHERE), Pod(to), port)
        assert not policies().allow(Pod(namespace=ELSEWHERE), Pod(to), port)
    assert there.allow(Pod("steps"), Pod(namespace=ELSEWHERE), 8080)


def test_an_existing_prometheus_stands_for_prometheus() -> None:
    there = policies({"global": {"monitoring": {"mode": "operator", "url": "http://prometheus.monitoring.svc:9090"}}})
    scraper = Pod("prometheus", ELSEWHERE)
    for part in PARTS:
        if part.metrics and part.name != "prometheus":
            assert there.allow(scraper, Pod(part.name), part.metrics[0])
            assert part.name in ("minio", "mlflow", "pipelines") or not policies().allow(
                scraper, Pod(part.name), part.metrics[0]
            )
    assert there.allow(scraper, Pod("prometheus-probe"), 9115)


@pytest.mark.parametrize("part", ["grafana", "home"])
def test_a_prometheus_outside_is_reached_where_values_name_addresses(part: str) -> None:
    elsewhere = {"monitoring": {"mode": "operator", "url": "https://prometheus.example.org:9443"}}
    assert "9443" in rules(part, "egress", {"global": elsewhere})
    assert "9443" not in rules(part, "egress", merged({"global": elsewhere}, network_policy(outside={"blocks": []})))


def test_dns_and_api_server() -> None:
    every = policy("home")["egress"]
    names = [{"port": port, "protocol": protocol} for port in (53, 1053, 5353) for protocol in ("UDP", "TCP")]
    assert {"ports": names} in every
    assert {"ports": [{"port": port, "protocol": "TCP"} for port in (443, 6443, 8443, 16443)]} in every
    peer, block = (
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
        {"cidr": "10.0.0.1/32"},
    )
    narrow = network_policy(dns={"peers": [peer], "ports": [53]}, apiServer={"blocks": [block], "ports": [26443]})
    every = policy("home", narrow)["egress"]
    assert {"to": [peer], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]} in every
    assert {"to": [{"ipBlock": block}], "ports": [{"port": 26443, "protocol": "TCP"}]} in every
    for name in PODS:
        spec = policy(PODS[name].policy, narrow)
        asks = any(flow.to == "api" and name in flow.sources for flow in FLOWS)
        assert ("26443" in json.dumps(spec)) == asks, name
        assert "kube-system" in json.dumps(spec), name


def test_what_is_outside_for_steps_and_models() -> None:
    metadata = "169.254.169.254/32"
    assert metadata in rules("pipelines-steps", "egress")
    assert metadata in rules("demo", "egress")
    assert metadata in rules("kserve-models", "egress")
    some = network_policy(outside={"stepPorts": [], "modelPorts": [8443]})
    assert "ipBlock" not in rules("pipelines-steps", "egress", some)
    assert '{"port": 8443, "protocol": "TCP"}' in rules("kserve-models", "egress", some)
    assert "ipBlock" not in rules("kserve-models", "egress", network_policy(outside={"modelPorts": []}))


def test_alertmanager_sends_messages_where_it_has_receivers() -> None:
    assert {} not in policy("alertmanager")["egress"]
    receivers = [{"name": "team", "webhook_configs": [{"url": "http://desk.example.com"}]}]
    assert (
        {} in policy("alertmanager", {"prometheus": {"alertmanager": {"config": {"receivers": receivers}}}})["egress"]
    )


@pytest.mark.parametrize("name", sorted(PODS))
def test_values_add_rules(name: str) -> None:
    more_in = [{"from": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"port": 7007}]}]
    more_out = [{"to": [{"ipBlock": {"cidr": "192.0.2.8/32"}}], "ports": [{"port": 8008}]}]
    spec = policy(PODS[name].policy, network_policy(extraIngress={name: more_in}, extraEgress={name: more_out}))
    assert more_in[0] in spec["ingress"]
    assert more_out[0] in spec["egress"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"clientNamespaces": "team-a"}, "clientNamespaces"),
        ({"clientNamespaces": ["Team_A"]}, "clientNamespaces"),
        ({"extraEgress": {"grafanna": []}}, "grafanna"),
        ({"extraEgress": {"grafana": [{"from": []}]}}, "extraEgress"),
        ({"extraIngress": {"grafana": [{"from": [{"namespace": "x"}]}]}}, "extraIngress"),
        ({"outside": {"blocks": ["10.0.0.0/8"]}}, "blocks"),
        ({"outside": {"stepPorts": [0]}}, "stepPorts"),
        ({"dns": {"ports": []}}, "dns"),
        ({"apiServer": {"ports": []}}, "apiServer"),
        ({"egress": []}, "egress"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError, match=said):
        render("laptop", network_policy(**values))


def test_other_clients_of_the_database() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "backup"}}}
    spec = policy("mariadb", {"mariadb": {"networkPolicy": {"extraFrom": [peer]}}})
    assert {"from": [peer], "ports": [{"port": 3306, "protocol": "TCP"}]} in spec["ingress"]


def test_the_schema_knows_the_pods_of_the_table() -> None:
    schema = json.loads((flows.CHART / "values.schema.json").read_text())["properties"]["global"]["properties"]
    for key in ("extraIngress", "extraEgress"):
        assert schema["networkPolicy"]["properties"][key]["propertyNames"]["enum"] == sorted(PODS)


def test_policies_are_written_by_the_generator_alone() -> None:
    own = flows.CHART / "templates" / "networkpolicy.yaml"
    assert set(flows.CHART.rglob("*networkpolicy*.yaml")) == {
        *(pods.template for pods in PODS.values()),
        own,
    }
