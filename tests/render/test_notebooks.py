"""What is special about notebooks: what users' pods are made of, and what the hub may do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from support.helm import CHART, HelmError, helm, merged, render
from support.objects import COMPONENT, Object, find, labels, of_kind, planned_secrets

NAME = "iml4e-notebooks"
OIDC = {
    "mode": "oidc",
    "oidc": {
        "clientId": "hub", "existingSecret": "idp", "authorizeUrl": "https://login.example.org/a",
        "tokenUrl": "http://idp.sso.svc:8080/t", "userinfoUrl": "https://login.example.org/u", "groups": ["ml"],
    },
}  # fmt: skip


def settings(values: Object | None = None, profile: str = "default") -> dict[str, Any]:
    """What the hub's configuration reads."""
    return json.loads(find(render(profile, values), "ConfigMap", NAME)["data"]["settings.json"])


def hub(values: Object | None = None) -> Object:
    """The PodSpec of the hub."""
    return find(render("default", values), "StatefulSet", NAME)["spec"]["template"]["spec"]


def refused(values: Object) -> list[str]:
    """What the chart says of values."""
    with pytest.raises(HelmError) as refusal:
        render("default", values)
    return refusal.value.findings


def test_it_is_off_by_default() -> None:
    assert not yaml.safe_load((CHART / "values.yaml").read_text())["notebooks"]["enabled"]
    off = render("default", {"notebooks": {"enabled": False}})
    assert [thing for thing in off if labels(thing).get(COMPONENT) == "notebooks"] == []
    assert NAME not in planned_secrets(off)


def test_the_hub_may_do_nothing_but_make_users_pods_and_volumes() -> None:
    objects = [thing for thing in render() if labels(thing).get(COMPONENT) == "notebooks"]
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    [role] = of_kind(objects, "Role")
    rights = {
        (group, resource): sorted(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {
        ("", "pods"): ["create", "delete", "get", "list", "watch"],
        ("", "persistentvolumeclaims"): ["create", "get"],
        ("", "events"): ["list", "watch"],
    }


def test_a_policy_holds_the_hub_to_users_pods() -> None:
    policy = find(render(), "ValidatingAdmissionPolicy", NAME)
    assert policy["spec"]["failurePolicy"] == "Fail"
    [condition] = policy["spec"]["matchConditions"]
    assert condition["expression"].endswith(f"== 'system:serviceaccount:iml4e:{NAME}'")
    said = [each["expression"] for each in policy["spec"]["validations"]]
    assert 'object.spec.serviceAccountName == "iml4e-runner"' in said[0]
    assert f'c.image == "{settings()["image"]}"' in said[1]
    assert "startsWith('iml4e-notebook-')" in said[2]
    assert 'f.secretRef.name in ["iml4e-s3-pipelines"]' in said[3]
    binding = find(render(), "ValidatingAdmissionPolicyBinding", NAME)
    assert binding["spec"] == {"policyName": NAME, "validationActions": ["Deny"]}


def test_the_policy_follows_the_values() -> None:
    own = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}]
    given = {
        "notebooks": {"server": {"serviceAccount": "", "s3Secret": "", "extraEnv": own}},
        "global": {"caCertificate": {"existingSecret": "ca"}},
    }
    said = [
        each["expression"]
        for each in find(render("default", given), "ValidatingAdmissionPolicy", NAME)["spec"]["validations"]
    ]
    assert '== "default"' in said[0]
    assert 'v.secret.secretName == "ca"' in said[2]
    assert 'f.secretRef.name in ["hf"]' in said[3]


def test_without_objects_of_the_whole_cluster_there_is_no_policy() -> None:
    other = {"gateway": {"name": "shared", "namespace": "infra", "url": "http://shared.infra.svc"}}
    given = {
        "global": other, "gateway": {"enabled": False}, "prometheus": {"enabled": False}, "grafana": {"enabled": False},
        "kserve": {"controller": {"enabled": False}},
    }  # fmt: skip
    assert not of_kind(render("default", given), "ValidatingAdmissionPolicy")


def test_no_password_has_a_default() -> None:
    assert planned_secrets(render())[NAME]["generated"] == {"password": 32, "adminPassword": 40, "cookieSecret": 64}
    own = {"notebooks": {"login": {"existingSecret": "{{ .Release.Name }}-mine"}}}
    assert NAME not in planned_secrets(render("default", own))
    [passwords] = [each for each in hub(own)["volumes"] if each["name"] == "passwords"]
    assert passwords["projected"]["sources"] == [{"secret": {"name": "iml4e-mine"}}]


def test_the_proxy_is_the_gateways_traefik() -> None:
    gateway = find(render(), "Deployment", "iml4e-gateway")["spec"]["template"]["spec"]["containers"][0]
    [proxy] = [each for each in hub()["containers"] if each["name"] == "proxy"]
    assert proxy["image"] == gateway["image"]


def test_the_proxys_interface_listens_in_the_pod_alone() -> None:
    [proxy] = [each for each in hub()["containers"] if each["name"] == "proxy"]
    assert "--entrypoints.auth_api.address=localhost:8099" in proxy["args"]
    assert 8099 not in [port["containerPort"] for each in hub()["containers"] for port in each["ports"]]


def test_the_path_arrives_as_it_was_asked_for() -> None:
    """The hub answers below /notebooks: a route that took the prefix away would lead nowhere."""
    [rule] = find(render(), "HTTPRoute", NAME)["spec"]["rules"]
    assert [match["path"] for match in rule["matches"]] == [{"type": "PathPrefix", "value": "/notebooks"}]
    assert "filters" not in rule
    [backend] = rule["backendRefs"]
    assert (backend["name"], backend["port"]) == (NAME, 8000)


def test_the_notes_say_how_to_log_in_and_that_the_image_is_to_be_made() -> None:
    def notes(**values: Any) -> str:
        flags = [word for key, value in values.items() for word in ("--set-json", f"{key}={json.dumps(value)}")]
        return helm("install", "ml", CHART, "--namespace", "team", "--dry-run=client", *flags)

    said = notes(**{"notebooks.enabled": True})
    assert "kubectl -n team get secret ml-notebooks -o jsonpath='{.data.password}'" in said
    assert "under a name of their choice" in said
    assert "scripts/images push REGISTRY notebooks" in said
    said = notes(
        **{
            "notebooks.enabled": True,
            "notebooks.image.registry": "registry.example.org",
            "notebooks.login.users": ["bob"],
        }
    )
    assert "scripts/images push" not in said
    assert "one of the names in notebooks.login.users" in said
    said = notes(**{"notebooks.enabled": True, "notebooks.login": OIDC})
    assert "/notebooks/hub/oauth_callback" in said
    assert "secret ml-notebooks" not in said


def test_users_pods_have_the_environment_of_pipeline_steps() -> None:
    assert settings()["envFrom"] == [
        {"configMapRef": {"name": "iml4e-runner", "optional": True}},
        {"secretRef": {"name": "iml4e-s3-pipelines"}},
    ]
    # the rights come from the cloud
    assert len(settings({"notebooks": {"server": {"s3Secret": ""}}})["envFrom"]) == 1


def test_users_pods_are_restricted() -> None:
    context = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "fsGroupChangePolicy": "OnRootMismatch",
    }
    users = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    assert settings()["podSecurityContext"] == {**context, **users}
    assert settings({"global": {"securityContext": "platform"}})["podSecurityContext"] == context


def test_users_pods_have_the_labels_of_their_policy() -> None:
    found = settings()["labels"]
    policy = find(render(), "NetworkPolicy", f"{NAME}-user")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= found.items()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"global": {"nodeSelector": {"a": "b"}}}, {"a": "b"}),
        ({"global": {"nodeSelector": {"a": "b"}}, "notebooks": {"server": {"nodeSelector": {"c": "d"}}}}, {"c": "d"}),
    ],
)
def test_nodes_of_all_reach_users_pods(given: Object, wanted: dict[str, str]) -> None:
    assert settings(given)["server"]["nodeSelector"] == wanted


def test_taints_of_all_reach_users_pods() -> None:
    given = {"global": {"tolerations": [{"key": "a", "operator": "Exists"}]}}
    assert settings(given)["server"]["tolerations"] == given["global"]["tolerations"]
    own = merged(given, {"notebooks": {"server": {"tolerations": [{"key": "b", "operator": "Exists"}]}}})
    assert settings(own)["server"]["tolerations"] == [{"key": "b", "operator": "Exists"}]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("idleAfter", "2d"),
        ("startTimeout", 900),
        ("podLabels", {"team": "ml"}),
        ("podAnnotations", {"sidecar.istio.io/inject": "false"}),
        ("priorityClassName", "people"),
        ("extraEnv", [{"name": "HF_HOME", "value": "/tmp/hf"}]),
    ],
)
def test_values_of_users_servers_arrive(key: str, value: Any) -> None:
    assert settings({"notebooks": {"server": {key: value}}})["server"][key] == value


def test_values_of_the_hub_arrive() -> None:
    given = {"maxServers": 7, "logLevel": "DEBUG", "login": {"users": ["bob"], "admins": ["carol"]}}
    found = settings({"notebooks": given})
    assert (found["maxServers"], found["logLevel"]) == (7, "DEBUG")
    assert (found["login"]["users"], found["login"]["admins"]) == (["bob"], ["carol"])
    [proxy] = [each for each in hub({"notebooks": given})["containers"] if each["name"] == "proxy"]
    assert "--log.level=DEBUG" in proxy["args"]


def test_the_account_and_the_volume_of_users_servers_arrive() -> None:
    assert settings()["server"]["serviceAccount"] == "iml4e-runner"
    assert settings({"notebooks": {"server": {"serviceAccount": ""}}})["server"]["serviceAccount"] == ""
    assert settings()["server"]["storage"] == {"size": "10Gi", "storageClass": ""}
    shared = {"global": {"storageClass": "fast"}}
    assert settings(shared)["server"]["storage"]["storageClass"] == "fast"
    own = merged(shared, {"notebooks": {"server": {"storage": {"size": "1Ti", "storageClass": "slow"}}}})
    assert settings(own)["server"]["storage"] == {"size": "1Ti", "storageClass": "slow"}


def test_only_offered_profiles_are_shown_and_a_gpu_where_there_are_some() -> None:
    assert sorted(settings()["profiles"]) == ["large", "small"]
    assert sorted(settings(profile="gpu-cluster")["profiles"]) == ["gpu", "large", "small"]
    assert settings(profile="gpu-cluster")["profiles"]["gpu"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    given = {"notebooks": {"profiles": {"small": None, "own": {"enabled": True}}, "defaultProfile": "own"}}
    found = settings(given)
    assert found["profiles"]["own"] == {"title": "own", "description": "", "resources": {}}
    assert (sorted(found["profiles"]), found["defaultProfile"]) == (["large", "own"], "own")


def test_profiles_have_a_cpu_limit_where_a_quota_asks_for_one() -> None:
    for name, profile in settings(profile="quota")["profiles"].items():
        assert {"cpu", "memory"} <= set(profile["resources"]["limits"]), name


def test_a_private_authority_reaches_hub_and_users() -> None:
    given = {"global": {"caCertificate": {"existingConfigMap": "ca", "key": "cabundle.crt"}}}
    found = settings(given)
    items = [{"key": "cabundle.crt", "path": "ca.crt"}]
    assert found["volumes"] == [{"name": "ca-certificate", "configMap": {"name": "ca", "items": items}}]
    assert found["volumeMounts"] == [{"name": "ca-certificate", "mountPath": "/etc/ssl/iml4e", "readOnly": True}]
    assert set(found["environment"].values()) == {"/etc/ssl/iml4e/ca.crt"}
    assert {"AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"} == set(found["environment"])
    [one] = [each for each in hub(given)["containers"] if each["name"] == "hub"]
    assert {"name": "SSL_CERT_FILE", "value": "/etc/ssl/iml4e/ca.crt"} in one["env"]
    assert settings()["volumes"] == settings()["volumeMounts"] == []


def test_an_identity_provider_takes_the_place_of_the_password() -> None:
    given = {"notebooks": {"login": OIDC}}
    assert settings(given)["login"]["oidc"]["clientId"] == "hub"
    [passwords] = [each for each in hub(given)["volumes"] if each["name"] == "passwords"]
    assert passwords["projected"]["sources"][1]["secret"]["name"] == "idp"
    # the hub asks it for tokens: in the cluster by its namespace, outside by its port
    rules = find(render("default", given), "NetworkPolicy", NAME)["spec"]["egress"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "sso"}}} in [
        peer for rule in rules for peer in rule.get("to", [])
    ]
    assert 443 in [port["port"] for rule in rules if "ipBlock" in str(rule) for port in rule["ports"]]


@pytest.mark.parametrize("key", ["clientId", "existingSecret", "authorizeUrl", "tokenUrl", "userinfoUrl"])
def test_an_identity_provider_is_named_completely(key: str) -> None:
    [said] = refused({"notebooks": {"login": merged(OIDC, {"oidc": {key: ""}})}})
    assert f"notebooks.login.oidc.{key} is empty" in said


@pytest.mark.parametrize(
    "values", [{"defaultProfile": "gpu"}, {"profiles": {"small": None}}, {"profiles": {"small": {"enabled": False}}}]
)
def test_the_first_profile_is_one_that_is_offered(values: Object) -> None:
    [said] = refused({"notebooks": values})
    assert "is no profile that is enabled: set it to one of large" in said
