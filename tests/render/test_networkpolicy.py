"""A pod takes connections on the ports of its Services and metrics, and no others."""

from __future__ import annotations

import pytest

from support.helm import render
from support.objects import Object, containers, find, labels, of_kind, pod_template, selects
from support.parts import PARTS, WORKLOADS, Part, Workload

EACH = pytest.mark.parametrize("workload", WORKLOADS, ids=str)


def policies_of(workload: Workload) -> list[Object]:
    """NetworkPolicies that pick the pods of a workload."""
    pod = labels(pod_template(find(render("laptop"), workload.kind, workload.name)))
    return [
        policy
        for policy in of_kind(render("laptop"), "NetworkPolicy")
        if selects(policy["spec"]["podSelector"].get("matchLabels"), pod)
    ]


@EACH
def test_workload_has_a_policy_for_what_comes_in(workload: Workload) -> None:
    assert policies_of(workload)
    assert all("Ingress" in policy["spec"]["policyTypes"] for policy in policies_of(workload))


@EACH
def test_every_rule_names_ports(workload: Workload) -> None:
    for policy in policies_of(workload):
        assert all(rule.get("ports") for rule in policy["spec"].get("ingress") or [])


def numbers(workload: Workload) -> dict[str | int, int]:
    """Ports of a workload's containers: by name and by number."""
    found = find(render("laptop"), workload.kind, workload.name)
    opened = [port for container in containers([found]) for port in container.spec.get("ports", [])]
    return {key: port["containerPort"] for port in opened for key in (port.get("name"), port["containerPort"]) if key}


def open_ports(workload: Workload) -> set[int]:
    """Ports that the policies of a workload let somebody reach."""
    rules = [rule for policy in policies_of(workload) for rule in policy["spec"].get("ingress") or []]
    return {numbers(workload)[port["port"]] for rule in rules for port in rule["ports"]}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_services_and_metrics_are_reachable(part: Part) -> None:
    if part.metrics:
        assert part.metrics[0] in open_ports(part.workloads[0])
    for name, ports in part.services.items():
        service = find(render("laptop"), "Service", name)["spec"]
        behind = [
            workload
            for workload in part.workloads
            if selects(service["selector"], labels(pod_template(find(render("laptop"), workload.kind, workload.name))))
        ]
        targets = {port["port"]: port.get("targetPort", port["port"]) for port in service["ports"]}
        assert {numbers(behind[0])[targets[port]] for port in ports} <= open_ports(behind[0]), name


def test_policies_can_be_left_out() -> None:
    """For a cluster whose administrator writes the NetworkPolicies."""
    assert of_kind(render("laptop", {"global": {"networkPolicy": {"enabled": False}}}), "NetworkPolicy") == []
