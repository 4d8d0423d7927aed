"""Least rights: no wildcard, no way to more rights, and cluster-wide ones only for controllers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support.exceptions import EXCEPTIONS, resources
from support.helm import RELEASE, profiles, render
from support.objects import Object, find, kind_and_name, of_kind, planned_secrets

ROLES = [
    pytest.param(role, id=f"{profile} {kind_and_name(role)}")
    for profile in profiles()
    for role in of_kind(render(profile), "Role", "ClusterRole")
]
WRITE = {"create", "update", "patch", "delete", "deletecollection"}


def rules(role: Object) -> Iterator[Object]:
    """Rules of a role; one that only aggregates has none."""
    yield from role.get("rules") or []


@pytest.mark.parametrize("role", ROLES)
def test_no_wildcard(role: Object) -> None:
    for rule in rules(role):
        assert "*" not in [*rule["verbs"], *rule.get("resources", []), *rule.get("apiGroups", [])]


# Kind/name: why it may run commands in pods
SENDS_SIGNALS: dict[str, str] = EXCEPTIONS["exec"]


@pytest.mark.parametrize("role", ROLES)
def test_no_way_to_more_rights(role: Object) -> None:
    for rule in rules(role):
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
        if "rbac.authorization.k8s.io" in rule.get("apiGroups", []):
            assert not WRITE & set(rule["verbs"])
        doors = {"pods/exec", "pods/attach", "serviceaccounts/token", "nodes/proxy"} & set(rule.get("resources", []))
        assert not doors or (doors == {"pods/exec"} and kind_and_name(role) in SENDS_SIGNALS)


@pytest.mark.parametrize("role", ROLES)
def test_secrets_are_not_written_or_listed(role: Object) -> None:
    for rule in rules(role):
        if "secrets" in rule.get("resources", []):
            if reason := LISTS_SECRETS.get(kind_and_name(role)):
                assert not WRITE & set(rule["verbs"]), reason
            elif reason := MAKES_SECRETS.get(kind_and_name(role)):
                assert set(rule["verbs"]) == {"get", "create", "patch"}, reason
                assert rule["resourceNames"], reason
                assert set(rule["resourceNames"]) <= set(planned_secrets(render())), reason
            else:
                assert set(rule["verbs"]) <= {"get"}


# Kind/name: why it may read Secrets that it cannot name
LISTS_SECRETS: dict[str, str] = EXCEPTIONS["secretsListed"]
# Kind/name: why it may write the Secrets that it names
MAKES_SECRETS: dict[str, str] = EXCEPTIONS["secretsWritten"]


def in_the_whole_cluster(objects: list[Object]) -> Iterator[tuple[str, str]]:
    """Role and resource of each right that an account has in the whole cluster."""
    roles = {role["metadata"]["name"]: role for role in of_kind(objects, "ClusterRole")}
    for binding in of_kind(objects, "ClusterRoleBinding"):
        name = binding["roleRef"]["name"]
        yield from ((name, resource) for rule in rules(roles[name]) for resource in rule["resources"])


def test_every_right_in_the_whole_cluster_has_a_reason_why_a_namespace_would_not_do() -> None:
    everywhere = {"home": {"models": {"namespaces": ["*"]}}}
    renders = [*(render(profile) for profile in profiles()), render("default", everywhere)]
    found = {right for objects in renders for right in in_the_whole_cluster(objects)}
    reasons = EXCEPTIONS["cluster"]
    assert found == {(role, name) for role, entries in reasons.items() for key in entries for name in resources(key)}


@pytest.mark.parametrize("profile", profiles())
def test_nobody_is_bound_to_a_role_of_the_cluster_itself(profile: str) -> None:
    for binding in of_kind(render(profile), "RoleBinding", "ClusterRoleBinding"):
        assert binding["roleRef"]["name"].startswith(RELEASE), kind_and_name(binding)
        assert all(subject["kind"] == "ServiceAccount" for subject in binding["subjects"]), kind_and_name(binding)


@pytest.mark.parametrize("profile", profiles())
def test_models_and_runs_cannot_have_the_account_of_a_part(profile: str) -> None:
    """Every account with a right, save the runner's own, is one that the policy refuses."""
    objects = render(profile)
    accounts = {
        subject["name"]
        for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding")
        for subject in binding["subjects"]
    }
    policy = find(objects, "ValidatingAdmissionPolicy", f"{RELEASE}-runner")["spec"]
    (rule,) = policy["validations"]
    assert accounts - {f"{RELEASE}-runner"} <= set(re.findall(r"'([^']+)'", rule["expression"]))
    assert policy["failurePolicy"] == "Fail"
    binding = find(objects, "ValidatingAdmissionPolicyBinding", f"{RELEASE}-runner")["spec"]
    assert binding == {"policyName": f"{RELEASE}-runner", "validationActions": ["Deny"]}


def test_a_release_without_rights_in_the_cluster_has_no_object_outside_its_namespace() -> None:
    values = {
        "gateway": {"enabled": False},
        "prometheus": {"enabled": False},
        "grafana": {"enabled": False},
        "kserve": {"controller": {"enabled": False}},
        "global": {"gateway": {"name": "shared", "namespace": "infra", "url": "http://shared.infra.svc"}},
    }
    outside = (
        "ClusterRole", "ClusterRoleBinding", "GatewayClass", "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration",
        "ClusterServingRuntime", "ClusterStorageContainer",
    )  # fmt: skip
    assert of_kind(render("default", values), *outside) == []


def test_pipeline_steps_may_only_deploy_models() -> None:
    role = find(render("laptop"), "Role", f"{RELEASE}-runner")
    writes = {
        (group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if WRITE & set(rule["verbs"])
    }
    assert writes == {
        ("serving.kserve.io", "inferenceservices"),
        ("gateway.networking.k8s.io", "httproutes"),
        ("policy", "poddisruptionbudgets"),
    }
    assert of_kind(render("laptop"), "ClusterRoleBinding") == [
        binding
        for binding in of_kind(render("laptop"), "ClusterRoleBinding")
        if binding["subjects"][0]["name"] != f"{RELEASE}-runner"
    ]
