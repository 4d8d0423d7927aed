"""What is special about the gateway."""

from __future__ import annotations

import pytest

from support.helm import HelmError, render
from support.objects import find, of_kind, pod_template
from support.parts import PARTS


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
    assert {"/", "/ping", *(part.ui.rstrip("/") for part in PARTS if part.ui)} <= set(paths)


def test_tls_without_a_certificate_is_refused_with_a_sentence() -> None:
    with pytest.raises(HelmError, match=r"gateway\.tls\.secretName"):
        render("laptop", {"gateway": {"tls": {"enabled": True}}})


def test_tls_opens_a_second_listener() -> None:
    values = {
        "gateway": {"tls": {"enabled": True, "secretName": "gateway"}},
        "global": {"publicUrl": "https://localhost"},
    }
    objects = render("laptop", values)
    listeners = find(objects, "Gateway", "iml4e-gateway")["spec"]["listeners"]
    assert [listener["protocol"] for listener in listeners] == ["HTTP", "HTTPS"]
    assert {port["port"] for port in find(objects, "Service", "iml4e-gateway")["spec"]["ports"]} == {80, 443}


def test_pods_of_a_larger_gateway_do_not_go_all_at_once() -> None:
    assert of_kind(render("laptop"), "PodDisruptionBudget") == []
    objects = render("laptop", {"gateway": {"replicas": 2}})
    assert find(objects, "PodDisruptionBudget", "iml4e-gateway")["spec"]["maxUnavailable"] == 1


def test_an_update_never_leaves_the_door_shut() -> None:
    strategy = find(render("laptop"), "Deployment", "iml4e-gateway")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
