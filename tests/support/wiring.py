"""Whether what the objects of a render refer to is in the render: the heart of an umbrella."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from support.helm import NAMESPACE, RELEASE
from support.objects import (
    Object,
    containers,
    find,
    keys_of,
    kind_and_name,
    labels,
    of_kind,
    planned_keys,
    planned_secrets,
    pod_makers,
    pod_template,
    references,
    selects,
)

# a Service of the release as it stands in arguments, variables and configuration files
HOST = re.compile(rf"\b({RELEASE}-[a-z0-9-]+)\.{NAMESPACE}(?:\.svc(?:\.cluster\.local)?)?\b(?::(\d+))?")


def dangling(objects: Iterable[Object], *, given: Sequence[str] = ()) -> list[str]:
    """Every reference that leads nowhere, as a sentence. `given`: names that an administrator made beforehand."""
    objects = list(objects)
    # what the release's Job makes is there as well
    objects += [
        {"kind": "Secret", "metadata": {"name": name}, "data": dict.fromkeys(planned_keys(secret), "")}
        for name, secret in planned_secrets(objects).items()
    ]
    checks = (
        _pods, _service_accounts, _services, _roles, _webhooks, _routes, _selectors, _stateful_sets, _hosts,
    )  # fmt: skip
    return [f"{owner}: {sentence}" for check in checks for owner, name, sentence in check(objects) if name not in given]


Finding = tuple[str, str, str]


def _exists(objects: list[Object], kind: str, name: str) -> bool:
    return any((thing["kind"], thing["metadata"]["name"]) == (kind, name) for thing in objects)


def _pods(objects: list[Object]) -> Iterator[Finding]:
    for maker in pod_makers(objects):
        for kind, name, key in references(maker):
            if not _exists(objects, kind, name):
                yield kind_and_name(maker), name, f"wants {kind}/{name}, which nothing renders"
            elif key and key not in keys_of(find(objects, kind, name)):
                yield kind_and_name(maker), name, f"wants key {key} of {kind}/{name}, which it lacks"


def _service_accounts(objects: list[Object]) -> Iterator[Finding]:
    for account in of_kind(objects, "ServiceAccount"):
        for secret in account.get("secrets", []):
            if not _exists(objects, "Secret", secret["name"]):
                yield kind_and_name(account), secret["name"], f"names Secret/{secret['name']}, which nothing renders"


def _port_names(maker: Object) -> set[str | int]:
    ports = [port for container in containers([maker]) for port in container.spec.get("ports", [])]
    return {port["containerPort"] for port in ports} | {port["name"] for port in ports if "name" in port}


def _services(objects: list[Object]) -> Iterator[Finding]:
    for service in of_kind(objects, "Service"):
        name = service["metadata"]["name"]
        selector = service["spec"].get("selector")
        chosen = [maker for maker in pod_makers(objects) if selects(selector, labels(pod_template(maker)))]
        if len(chosen) != 1:
            what = ", ".join(map(kind_and_name, chosen)) or "no workload"
            yield kind_and_name(service), name, f"selects {what} instead of one workload"
            continue
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            if target not in _port_names(chosen[0]):
                yield kind_and_name(service), name, f"port {port['port']} leads to {target}, which no container opens"


def _roles(objects: list[Object]) -> Iterator[Finding]:
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        role = binding["roleRef"]
        if not _exists(objects, role["kind"], role["name"]):
            yield kind_and_name(binding), role["name"], f"binds {role['kind']}/{role['name']}, which nothing renders"
        for subject in binding.get("subjects", []):
            if subject["kind"] == "ServiceAccount" and not _exists(objects, "ServiceAccount", subject["name"]):
                yield kind_and_name(binding), subject["name"], f"binds account {subject['name']}, which nothing renders"


def _service_port(objects: list[Object], owner: str, name: str, port: int | None) -> Iterator[Finding]:
    if not _exists(objects, "Service", name):
        yield owner, name, f"leads to Service/{name}, which nothing renders"
    elif port and port not in {p["port"] for p in find(objects, "Service", name)["spec"]["ports"]}:
        yield owner, name, f"leads to port {port} of Service/{name}, which it lacks"


def _webhooks(objects: list[Object]) -> Iterator[Finding]:
    for configuration in of_kind(objects, "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for webhook in configuration["webhooks"]:
            service = webhook["clientConfig"]["service"]
            yield from _service_port(objects, kind_and_name(configuration), service["name"], service.get("port", 443))


def _routes(objects: list[Object]) -> Iterator[Finding]:
    for route in of_kind(objects, "HTTPRoute"):
        owner = kind_and_name(route)
        for parent in route["spec"]["parentRefs"]:
            if not _exists(objects, "Gateway", parent["name"]):
                yield owner, parent["name"], f"belongs to Gateway/{parent['name']}, which nothing renders"
        for rule in route["spec"]["rules"]:
            for backend in rule.get("backendRefs", []):
                if backend.get("kind", "Service") != "Service":
                    continue  # the gateway itself
                yield from _service_port(objects, owner, backend["name"], backend.get("port"))
    for gateway in of_kind(objects, "Gateway"):
        name = gateway["spec"]["gatewayClassName"]
        if not _exists(objects, "GatewayClass", name):
            yield kind_and_name(gateway), name, f"is of GatewayClass/{name}, which nothing renders"


def _selectors(objects: list[Object]) -> Iterator[Finding]:
    pods = [labels(pod_template(maker)) for maker in pod_makers(objects)]
    for thing in of_kind(objects, "NetworkPolicy", "PodDisruptionBudget"):
        selector = thing["spec"].get("podSelector") or thing["spec"].get("selector") or {}
        wanted = selector.get("matchLabels", {})
        keys = {*wanted, *(term["key"] for term in selector.get("matchExpressions", []))}
        # KServe, Argo and JupyterHub make pods of models, runs and users later, `scripts/demo` its Job; an empty selector means every pod
        later = any(key.startswith(("serving.kserve.io/", "pipelines.kubeflow.org/")) for key in keys)
        later |= wanted.get("app.kubernetes.io/name") in ("demo", "notebooks-user")
        if keys and not later and not any(selects(wanted, pod) for pod in pods):
            yield kind_and_name(thing), thing["metadata"]["name"], "selects no pod of the render"
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if not _exists(objects, target["kind"], target["name"]):
            yield kind_and_name(scaler), target["name"], f"scales {target['kind']}/{target['name']}, not rendered"


def _stateful_sets(objects: list[Object]) -> Iterator[Finding]:
    for thing in of_kind(objects, "StatefulSet"):
        name = thing["spec"].get("serviceName", "")
        if name and not _exists(objects, "Service", name):
            yield kind_and_name(thing), name, f"governs itself by Service/{name}, which nothing renders"


def _hosts(objects: list[Object]) -> Iterator[Finding]:
    for thing in objects:
        # to be allowed is not to be connected to
        text = re.sub(r"--allowed-hosts=[^\"]*", "", json.dumps(thing))
        for name, port in sorted(set(HOST.findall(text))):
            yield from _service_port(objects, kind_and_name(thing), name, int(port) if port else None)
