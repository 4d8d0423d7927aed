"""A pod takes connections on the ports of its Services and metrics, and no others."""

from __future__ import annotations

import pytest

from support.components import COMPONENTS, Component
from support.helm import render
from support.objects import Object, containers, find, labels, of_kind, pod_template, selects


def policies_of(component: Component) -> list[Object]:
    """NetworkPolicies that pick the pods of a part."""
    pod = labels(pod_template(find(render("laptop"), component.kind, component.fullname)))
    return [
        policy
        for policy in of_kind(render("laptop"), "NetworkPolicy")
        if selects(policy["spec"]["podSelector"].get("matchLabels"), pod)
    ]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_part_has_a_policy_for_what_comes_in(component: Component) -> None:
    assert policies_of(component)
    assert all("Ingress" in policy["spec"]["policyTypes"] for policy in policies_of(component))


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_every_rule_names_ports(component: Component) -> None:
    for policy in policies_of(component):
        assert all(rule.get("ports") for rule in policy["spec"].get("ingress", []))


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_services_and_metrics_are_reachable(component: Component) -> None:
    workload = find(render("laptop"), component.kind, component.fullname)
    opened = [port for container in containers([workload]) for port in container.spec.get("ports", [])]
    number = {port["name"]: port["containerPort"] for port in opened if "name" in port}
    allowed = {
        number.get(port["port"], port["port"])
        for policy in policies_of(component)
        for rule in policy["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    wanted = {component.metrics[0]} if component.metrics else set()
    for suffix, ports in component.services.items():
        for port in find(render("laptop"), "Service", f"iml4e-{suffix}")["spec"]["ports"]:
            if port["port"] in ports:
                target = port.get("targetPort", port["port"])
                wanted.add(number.get(target, target))
    assert wanted <= allowed


def test_policies_can_be_left_out() -> None:
    """For a cluster whose administrator writes them."""
    assert of_kind(render("laptop", {"global": {"networkPolicy": {"enabled": False}}}), "NetworkPolicy") == []
