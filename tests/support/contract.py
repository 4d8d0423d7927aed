"""What every container of a release is told and asked, and every right that an account has: a page that people can read.

Tests state rules, which hold for all; this page states what is so for each: a flag, a variable, a port, a probe, a verb. A template whose change
changes the page is reviewed with it. `make contract` writes tests/render/data/contract.yaml anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from support.helm import merged, render
from support.objects import Object, kind_and_name, of_kind, pod_makers, pod_template, serving_runtimes
from support.pods import ON

PAGE = Path(__file__).parents[1] / "render" / "data" / "contract.yaml"
#: What is off by default and changes a container: each part's container is in the page once, as it is with these.
VALUES: dict[str, Any] = merged(
    ON,
    {
        "gateway": {"tls": {"enabled": True, "secretName": "tls"}},
        "mlflow": {"database": {"tls": True}},
        "pipelines": {"mlflow": {"authType": "bearer"}, "proxy": {"http": "http://proxy:3128"}},
        "home": {"models": {"namespaces": ["team"]}, "replicas": 2},
        "global": {
            "publicUrl": "https://ml.example.org",
            "caCertificate": {"existingConfigMap": "ca", "key": "cabundle.crt"},
        },
    },
)
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
ROLES = ("Role", "ClusterRole")
#: Kinds that the page has as they are.
WHOLE = (
    "ClusterStorageContainer", "Gateway", "GatewayClass", "MutatingWebhookConfiguration", "PodDisruptionBudget",
    "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
)  # fmt: skip


def flat(node: Any, path: str = "") -> Iterator[str]:
    """The leaves of a tree, as `path=value`."""
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from flat(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and any(isinstance(each, dict) for each in node):
        for number, child in enumerate(node):
            yield from flat(child, f"{path}[{number}]")
    elif isinstance(node, list):
        yield f"{path}={','.join(map(str, node))}"
    else:
        yield f"{path}={node}"


def variable(given: Object) -> str:
    """A variable's value, or where the value is from."""
    return given["value"] if "value" in given else "from " + " ".join(flat(given.get("valueFrom") or {}))


def container(spec: Object) -> Object:
    """What a container is told, and how it is asked."""
    said: Object = {}
    if words := [*spec.get("command", []), *spec.get("args", [])]:
        said["runs"] = words
    if "workingDir" in spec:
        said["in"] = spec["workingDir"]
    if env := spec.get("env"):
        said["env"] = {each["name"]: variable(each) for each in env}
    if ports := spec.get("ports"):
        said["ports"] = {each["name"]: each["containerPort"] for each in ports}
    said |= {key: " ".join(flat(spec[key])) for key in (*PROBES, "lifecycle") if key in spec}
    if mounts := spec.get("volumeMounts"):
        said["mounts"] = {each["mountPath"]: each["name"] + " ro" * bool(each.get("readOnly")) for each in mounts}
    return said


def volume(given: Object) -> str:
    """What is in a volume."""
    (kind,) = given.keys() - {"name"}
    return f"{kind} {json.dumps(given[kind], sort_keys=True)}" if given[kind] else kind


def pod(thing: Object) -> Object:
    """How a pod is told apart from what Kubernetes does by itself, and its containers."""
    spec = (pod_template(thing) or thing)["spec"]
    own = (
        "terminationGracePeriodSeconds",
        "enableServiceLinks",
        "restartPolicy",
        "automountServiceAccountToken",
        "serviceAccountName",
    )
    said: Object = {key: spec[key] for key in own if key in spec}
    notes = ((pod_template(thing) or {}).get("metadata") or {}).get("annotations") or {}
    said["annotations"] = {key: "…" if key.startswith("checksum/") else value for key, value in notes.items()}
    said["securityContext"] = " ".join(flat(spec.get("securityContext") or {}))
    said["volumes"] = {each["name"]: volume(each) for each in spec.get("volumes", [])}
    for key in ("initContainers", "containers"):
        said |= {each["name"]: container(each) for each in spec.get(key, [])}
    return {key: value for key, value in said.items() if value not in ("", "=", {})}


def how(thing: Object) -> Object:
    """What the maker of pods says beside their template."""
    spec = thing["spec"]
    inner = spec.get("jobTemplate", {}).get("spec", {})
    plain = {key: value for key, value in {**inner, **spec}.items() if not isinstance(value, dict | list)}
    claims = {each["metadata"]["name"]: " ".join(flat(each["spec"])) for each in spec.get("volumeClaimTemplates", [])}
    plain |= {"claims": claims} if claims else {}
    return {**plain, **({"strategy": " ".join(flat(spec["strategy"]))} if "strategy" in spec else {})}


def rule(given: Object) -> str:
    """A rule of a role, in a line."""
    groups = ",".join(given["apiGroups"]) or "core"
    named = f" named {','.join(given['resourceNames'])}" if given.get("resourceNames") else ""
    return f"{','.join(given['verbs'])}: {groups} {','.join(given['resources'])}{named}"


def step(given: Object) -> str:
    """A rule of a route, in a line."""
    ways = " or ".join(f"{each['path']['type']} {each['path']['value']}" for each in given["matches"])
    to = [f"{each['name']}:{each.get('port', '')}" for each in given.get("backendRefs", [])]
    return " ".join([ways, "->", *to, *(part for each in given.get("filters", []) for part in flat(each))])


def name(thing: Object) -> str:
    """Kind and name, of a Job without its changing end."""
    return kind_and_name(thing).rpartition("-1-")[0] if thing["kind"] == "Job" else kind_and_name(thing)


def page() -> dict[str, Any]:
    """The page, by the names of objects."""
    objects = render("laptop", VALUES)
    makers = [*pod_makers(objects), *serving_runtimes(objects)]
    said = {name(thing): {**how(thing), **pod(thing)} for thing in makers}
    said |= {name(role): [rule(each) for each in role["rules"]] for role in of_kind(objects, *ROLES)}
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        place = binding["metadata"].get("namespace")
        subjects = ", ".join(f"{each['namespace']}/{each['name']}" for each in binding["subjects"])
        said[name(binding) + (f" in {place}" if place else "")] = (
            f"{binding['roleRef']['kind']}/{binding['roleRef']['name']} to {subjects}"
        )
    for service in of_kind(objects, "Service"):
        said[name(service)] = [
            f"{each['name']} {each['port']} -> {each['targetPort']}" for each in service["spec"]["ports"]
        ]
    for route in of_kind(objects, "HTTPRoute"):
        gateways = [
            f"to {each['namespace']}/{each['name']}" for each in route["spec"]["parentRefs"] if "namespace" in each
        ]
        said[name(route)] = [*gateways, *map(step, route["spec"]["rules"])]
    for thing in of_kind(objects, *WHOLE):
        rest = {key: value for key, value in thing.items() if key not in ("apiVersion", "kind", "metadata")}
        said[name(thing)] = list(flat(rest))
    return dict(sorted(said.items()))


def text() -> str:
    """The page as YAML."""
    return yaml.safe_dump(page(), width=10**6, sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    PAGE.write_text("# Written by `make contract`: look at what changed.\n" + text())
