"""The landing page: rights, routes, and the errors that the gateway takes from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from support.helm import HelmError, render
from support.objects import Object, find, of_kind, pod_template
from support.parts import WITH_UI

OFF = {"home": {"enabled": False}, "gateway": {"errorPages": {"enabled": False}}}


def rules(objects: tuple[Object, ...], kind: str, name: str) -> list[tuple[list[str], list[str]]]:
    """Resources and verbs of a role."""
    return [(rule["resources"], rule["verbs"]) for rule in find(objects, kind, name)["rules"]]


def names(objects: tuple[Object, ...], kind: str) -> list[str]:
    """Names of the objects of a kind that belong to the part."""
    return [each["metadata"]["name"] for each in of_kind(objects, kind) if "-home" in each["metadata"]["name"]]


def test_it_lists_and_reads_nothing_else_in_its_own_namespace_alone() -> None:
    objects = render("laptop")
    assert rules(objects, "Role", "iml4e-home") == [
        (["deployments", "statefulsets"], ["list"]),
        (["pods"], ["list"]),
        (["httproutes"], ["list"]),
        (["inferenceservices"], ["list"]),
    ]
    assert names(objects, "ClusterRole") == names(objects, "ClusterRoleBinding") == []


def test_models_of_named_namespaces_are_listed_there_without_their_pods() -> None:
    objects = render("laptop", {"home": {"models": {"namespaces": ["team-a", "team-b", "iml4e"]}}})
    assert rules(objects, "ClusterRole", "iml4e-home-models") == [(["inferenceservices"], ["list"])]
    assert names(objects, "ClusterRoleBinding") == []
    bindings = [each for each in of_kind(objects, "RoleBinding") if each["metadata"]["name"] == "iml4e-home-models"]
    assert [each["metadata"]["namespace"] for each in bindings] == ["team-a", "team-b"]
    assert {each["subjects"][0]["namespace"] for each in bindings} == {"iml4e"}


def test_all_namespaces_are_one_binding() -> None:
    objects = render("laptop", {"home": {"models": {"namespaces": ["*"]}}})
    assert names(objects, "ClusterRoleBinding") == ["iml4e-home-models"]
    assert names(objects, "RoleBinding") == ["iml4e-home"]
    (variable,) = (
        each
        for each in pod_template(find(objects, "Deployment", "iml4e-home"))["spec"]["containers"][0]["env"]
        if each["name"] == "MODEL_NAMESPACES"
    )
    assert json.loads(variable["value"]) == ["*"]


@pytest.mark.parametrize("namespace", ["Team", "a_b", "", "-a", "team-*"])
def test_a_name_that_no_namespace_has_is_refused(namespace: str) -> None:
    with pytest.raises(HelmError, match="namespaces"):
        render("laptop", {"home": {"models": {"namespaces": [namespace]}}})


def test_the_gateway_takes_errors_from_a_port_that_no_route_leads_to() -> None:
    objects = render("laptop")
    config = yaml.safe_load(find(objects, "ConfigMap", "iml4e-gateway")["data"]["middlewares.yaml"])["http"]
    assert config["middlewares"]["errors"]["errors"]["status"] == ["502-504"]
    (server,) = config["services"]["errors"]["loadBalancer"]["servers"]
    assert server["url"] == "http://iml4e-home.iml4e.svc:8001"
    times = config["serversTransports"]["errors"]["forwardingTimeouts"]
    assert times == {"dialTimeout": "1s", "responseHeaderTimeout": "2s"}, "an error must not hang"
    backends = [
        backend
        for route in of_kind(objects, "HTTPRoute")
        for rule in route["spec"]["rules"]
        for backend in rule.get("backendRefs", [])
        if backend["name"] == "iml4e-home"
    ]
    assert {backend["port"] for backend in backends} == {80}


@pytest.mark.parametrize("tls", [False, True])
def test_every_entry_point_of_routes_has_the_errors(tls: bool) -> None:
    values: dict[str, Any] = {"gateway": {"tls": {"enabled": tls, "secretName": "tls" if tls else ""}}}
    if tls:
        values["global"] = {"publicUrl": "https://ml.example.org"}
    arguments = pod_template(find(render("laptop", values), "Deployment", "iml4e-gateway"))["spec"]["containers"][0][
        "args"
    ]
    points = ["web", "websecure", "internal"] if tls else ["web"]
    assert [each for each in arguments if ".http.middlewares=" in each] == [
        f"--entrypoints.{point}.http.middlewares=path@file,errors@file,retry@file" for point in points
    ]


def test_without_it_the_gateway_writes_its_own_errors() -> None:
    objects = render("laptop", OFF)
    config = yaml.safe_load(find(objects, "ConfigMap", "iml4e-gateway")["data"]["middlewares.yaml"])["http"]
    assert "errors" not in config["middlewares"]
    assert "services" not in config
    assert "errors@file" not in str(find(objects, "Deployment", "iml4e-gateway"))


def test_without_it_the_errors_are_switched_off_too() -> None:
    with pytest.raises(HelmError) as refused:
        render("laptop", {"home": {"enabled": False}})
    assert refused.value.findings == [
        "home is off, but gateway.errorPages takes the text of errors from it: set gateway.errorPages.enabled=false."
    ]


def root(values: dict[str, Any]) -> list[str]:
    """Where `/` leads to."""
    return [
        rule["filters"][0]["requestRedirect"]["path"]["replaceFullPath"]
        for route in of_kind(render("laptop", values), "HTTPRoute")
        if route["metadata"]["name"] == "iml4e-gateway-root"
        for rule in route["spec"]["rules"]
    ]


def test_without_it_the_root_leads_to_the_first_part_with_a_page() -> None:
    assert root({}) == []
    assert root(OFF) == ["/mlflow/"]
    assert root({"home": {"route": {"enabled": False}}}) == ["/mlflow/"]
    assert root({**OFF, "mlflow": {"route": {"enabled": False}}}) == ["/pipeline/"]
    assert root({**OFF, **{part: {"route": {"enabled": False}} for part in WITH_UI if part != "home"}}) == []


@pytest.mark.parametrize("value", [{"enabled": False}, {"to": "/pipeline/"}])
def test_the_former_redirect_is_refused_with_what_took_its_place(value: dict[str, Any]) -> None:
    with pytest.raises(HelmError) as refused:
        render("laptop", {"gateway": {"redirect": value}})
    assert "gateway.redirect is gone, because `/` is the landing page of the part home" in str(refused.value)


def test_two_replicas_are_spread_and_not_evicted_together() -> None:
    assert names(render("laptop"), "PodDisruptionBudget") == []
    objects = render("laptop", {"home": {"replicas": 2}})
    assert find(objects, "Deployment", "iml4e-home")["spec"]["replicas"] == 2
    assert find(objects, "PodDisruptionBudget", "iml4e-home")["spec"]["maxUnavailable"] == 1


def test_a_change_of_the_program_replaces_the_pods() -> None:
    assert (
        "checksum/config" in pod_template(find(render("laptop"), "Deployment", "iml4e-home"))["metadata"]["annotations"]
    )
