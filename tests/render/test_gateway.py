"""What is special about the gateway."""

from __future__ import annotations

import pytest

from support.helm import HelmError, render
from support.objects import Object, find, of_kind, pod_template
from support.parts import PARTS
from support.wiring import dangling


def test_laptop_gets_a_fixed_node_port() -> None:
    service = find(render("laptop"), "Service", "iml4e-gateway")
    assert service["spec"]["type"] == "NodePort"
    assert [port["nodePort"] for port in service["spec"]["ports"]] == [30080]


@pytest.mark.parametrize("kind", ["ClusterIP", "LoadBalancer"])
def test_other_services_have_no_fixed_node_port(kind: str) -> None:
    values = {"gateway": {"service": {"type": kind}, "allowAnonymous": True}}
    service = find(render("laptop", values), "Service", "iml4e-gateway")
    assert service["spec"]["type"] == kind
    assert not any("nodePort" in port for port in service["spec"]["ports"])


@pytest.mark.parametrize(("kind", "wanted"), [("ClusterIP", None), ("NodePort", "Local"), ("LoadBalancer", "Local")])
def test_only_a_service_that_nodes_answer_for_has_a_traffic_policy(kind: str, wanted: str | None) -> None:
    """Kubernetes refuses the field of any other."""
    service = {"type": kind, "externalTrafficPolicy": "Local", "loadBalancerClass": "example.org/internal"}
    values = {"gateway": {"service": service, "allowAnonymous": True}}
    spec = find(render("laptop", values), "Service", "iml4e-gateway")["spec"]
    assert spec.get("externalTrafficPolicy") == wanted
    assert spec.get("loadBalancerClass") == ("example.org/internal" if kind == "LoadBalancer" else None)


def test_the_cluster_chooses_the_load_balancer_by_default() -> None:
    values = {"gateway": {"service": {"type": "LoadBalancer"}, "allowAnonymous": True}}
    spec = find(render("laptop", values), "Service", "iml4e-gateway")["spec"]
    assert (spec["externalTrafficPolicy"], "loadBalancerClass" in spec) == ("Cluster", False)


def test_listener_port_is_the_pods_own() -> None:
    """Traefik finds the entry point of a listener by its number."""
    listener = find(render("laptop"), "Gateway", "iml4e-gateway")["spec"]["listeners"][0]
    pod = pod_template(find(render("laptop"), "Deployment", "iml4e-gateway"))["spec"]["containers"][0]
    assert f"--entrypoints.web.address=:{listener['port']}" in pod["args"]
    assert listener["allowedRoutes"]["namespaces"]["from"] == "All"


def test_no_route_claims_a_host_name() -> None:
    """Any name, address or forwarded port reaches everything."""
    assert [route["spec"].get("hostnames") for route in of_kind(render("laptop"), "HTTPRoute")].count(None) == len(
        of_kind(render("laptop"), "HTTPRoute")
    )


def test_routes_are_told_apart_by_their_paths() -> None:
    paths = [
        match["path"]["value"]
        for route in of_kind(render("laptop"), "HTTPRoute")
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        if match["path"] != {"type": "Exact", "value": "/pipeline"}  # adds the slash
    ]
    assert len(paths) == len(set(paths))
    assert {"/", "/ping", *(part.ui.rstrip("/") or "/" for part in PARTS if part.ui)} <= set(paths)


def test_tls_without_a_certificate_is_refused_with_a_sentence() -> None:
    with pytest.raises(HelmError, match=r"gateway\.tls\.secretName"):
        render("laptop", {"gateway": {"tls": {"enabled": True}}})


def with_tls(url: str = "https://ml.example.com") -> tuple[Object, ...]:
    """The release behind TLS, under an address."""
    return render(
        "laptop", {"global": {"publicUrl": url}, "gateway": {"tls": {"enabled": True, "secretName": "gateway"}}}
    )


def target(objects: tuple[Object, ...], service: str, port: int) -> int:
    """Port of the gateway's pod that a Service leads to."""
    ports = {each["port"]: each["targetPort"] for each in find(objects, "Service", service)["spec"]["ports"]}
    pod = pod_template(find(objects, "Deployment", "iml4e-gateway"))["spec"]["containers"][0]
    return next(each["containerPort"] for each in pod["ports"] if each["name"] == ports[port])


def test_with_tls_no_route_of_anybody_is_served_on_port_80() -> None:
    """Routes of models name the Gateway and no listener, so they are on each of its listeners: port 80 belongs to another."""
    objects = with_tls()
    listeners = {
        each["port"]: each["protocol"] for each in find(objects, "Gateway", "iml4e-gateway")["spec"]["listeners"]
    }
    assert listeners == {8080: "HTTP", 8443: "HTTPS"}
    assert target(objects, "iml4e-gateway", 443) == 8443
    assert target(objects, "iml4e-gateway-internal", 80) == 8080, "pods of the cluster go on by http"
    (redirecting,) = find(objects, "Gateway", "iml4e-gateway-redirect")["spec"]["listeners"]
    assert redirecting["port"] == target(objects, "iml4e-gateway", 80) == 8000
    assert redirecting["allowedRoutes"]["namespaces"]["from"] == "Same"
    there = [
        route["metadata"]["name"]
        for route in of_kind(objects, "HTTPRoute")
        if {"name": "iml4e-gateway-redirect"} in route["spec"]["parentRefs"]
    ]
    assert there == ["iml4e-gateway-redirect"]


def test_without_tls_both_services_lead_to_the_same() -> None:
    objects = render("laptop")
    assert target(objects, "iml4e-gateway", 80) == target(objects, "iml4e-gateway-internal", 80) == 8000
    assert [gateway["metadata"]["name"] for gateway in of_kind(objects, "Gateway")] == ["iml4e-gateway"]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://ml.example.com", 443),
        ("https://10.0.0.5", 443),
        ("https://localhost:30443", 30443),
        ("https://[fd00::1]", 443),
        ("https://[fd00::1]:8443", 8443),
        ("https://ml.example.com:8443/tools", 8443),
    ],
)
def test_redirects_go_to_the_port_that_people_use(url: str, port: int) -> None:
    """Not to the pod's own 8443, and by a status that keeps method and body."""
    (rule,) = find(with_tls(url), "HTTPRoute", "iml4e-gateway-redirect")["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    (redirect,) = (each["requestRedirect"] for each in rule["filters"])
    assert redirect == {"scheme": "https", "port": port, "statusCode": 308}


def test_readiness_is_not_asked_where_everything_is_redirected() -> None:
    """A redirect would pass for health."""
    pod = pod_template(find(with_tls(), "Deployment", "iml4e-gateway"))["spec"]["containers"][0]
    assert pod["readinessProbe"]["httpGet"]["port"] == "internal"


def test_only_pods_of_the_cluster_may_leave_tls_out() -> None:
    rules = find(with_tls(), "NetworkPolicy", "iml4e-gateway")["spec"]["ingress"]
    everybody = [port["port"] for rule in rules if "from" not in rule for port in rule["ports"]]
    assert everybody == [8000, 8443]
    assert {"from": [{"namespaceSelector": {}}], "ports": [{"port": 8080, "protocol": "TCP"}]} in rules
    assert find(with_tls(), "Service", "iml4e-gateway-internal")["spec"]["type"] == "ClusterIP"


def test_steps_call_the_gateway_by_http() -> None:
    data = find(with_tls(), "ConfigMap", "iml4e-runner")["data"]
    assert data["GATEWAY_URL"] == "http://iml4e-gateway-internal.iml4e.svc"
    assert data["KF_PIPELINES_ENDPOINT"] == "http://iml4e-gateway-internal.iml4e.svc/pipeline"
    assert data["PUBLIC_URL"] == "https://ml.example.com"


def test_every_reference_leads_somewhere_with_tls() -> None:
    assert dangling(with_tls()) == []


def test_pods_of_a_larger_gateway_do_not_go_all_at_once() -> None:
    assert of_kind(render("laptop"), "PodDisruptionBudget") == []
    objects = render("laptop", {"gateway": {"replicas": 2}})
    assert find(objects, "PodDisruptionBudget", "iml4e-gateway")["spec"]["maxUnavailable"] == 1


def test_an_update_never_leaves_the_door_shut() -> None:
    strategy = find(render("laptop"), "Deployment", "iml4e-gateway")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0


#: What Traefik watches, in the versions of an older Gateway API and of the chart's.
OLDER = {
    "v1": ["Gateway", "GatewayClass", "GRPCRoute", "HTTPRoute"],
    "v1alpha2": ["TLSRoute"],
    "v1alpha3": ["BackendTLSPolicy", "TLSRoute"],
    "v1beta1": ["Gateway", "GatewayClass", "HTTPRoute", "ReferenceGrant"],
}
NEWER = {"v1": [*OLDER["v1"], "BackendTLSPolicy", "TLSRoute"]}


def serving(*versions: dict[str, list[str]]) -> tuple[str, ...]:
    """Options of helm: a cluster that serves these kinds of the Gateway API."""
    kinds = [
        f"gateway.networking.k8s.io/{v}/{kind}" for each in versions for v, names in each.items() for kind in names
    ]
    return tuple(f"--api-versions={kind}" for kind in kinds)


def test_an_older_gateway_api_is_told_before_the_gateway_waits_for_it() -> None:
    with pytest.raises(HelmError) as refused:
        render(options=serving(OLDER))
    assert refused.value.findings == [
        "The cluster has CRDs of an older Gateway API, without v1 of BackendTLSPolicy, TLSRoute, for which Traefik would wait for ever: "
        "agree with their owner and run `kubectl apply --server-side --force-conflicts -f charts/iml4e/charts/gateway/crds`, or set "
        "gateway.enabled=false and name a Gateway of yours in global.gateway."
    ]


@pytest.mark.parametrize("options", [serving(NEWER), serving(OLDER, NEWER), serving({"v1": OLDER["v1"]})])
def test_a_gateway_api_that_helm_completes_is_fine(options: tuple[str, ...]) -> None:
    """Kinds that a cluster lacks come with the chart."""
    assert render(options=options)


def test_an_older_gateway_api_is_fine_for_who_does_not_watch_it() -> None:
    gateway = {"name": "shared", "namespace": "infra", "url": "http://shared.infra.svc"}
    assert render(values={"gateway": {"enabled": False}, "global": {"gateway": gateway}}, options=serving(OLDER))
    # `iml4e upgrade` asks Helm first, and then brings the CRDs
    assert render(options=("--is-upgrade", *serving(OLDER)))
