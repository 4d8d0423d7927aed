"""The way from a user to the parts: Gateway, routes, Services, certificates, host names, and Prometheus' targets."""

import fnmatch
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from iml4e import platform
from iml4e.cluster import AwayError, Object, RefusedError
from iml4e.doctor import certificates
from iml4e.doctor.faults import Finding
from iml4e.doctor.foundations import CRDS
from iml4e.doctor.state import MODEL, State, age, is_ready, names, one_line
from iml4e.manifests import owned, unrouted

#: Seconds that a controller may take for a new object, and a new target of Prometheus until its first answer.
TAKEN = 15
#: Seconds that the gateway may take to answer.
ASK = 6


def gateways(state: State) -> Iterator[Finding]:
    """Gateways of the release and the one that its routes name."""
    own = (platform.find("GATEWAY_NAMESPACE", state.namespace), platform.find("GATEWAY_NAME"))
    if "HTTPRoute" in state.absent and own[1]:
        text = "the cluster does not know this kind, and the release has a gateway"
        yield state.finding("crd-missing", "CRD HTTPRoute", text, crds=CRDS["gateway.networking.k8s.io"])
        return
    gateways = state.ours("Gateway")
    if own[1] and not any(each["metadata"]["name"] == own[1] for each in gateways):
        there = _gateway(state, *own)
        if there is not None:
            gateways.append(there)
        elif "Gateway" not in state.absent:
            text = f"the routes of the release name it, and namespace {own[0]} has none of that name"
            yield state.finding("gateway-class", f"Gateway {own[1]}", text)
    for gateway in gateways:
        yield from _gateway_findings(state, gateway)
    yield from _services(state)


def _gateway(state: State, namespace: str, name: str) -> Object | None:
    try:
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{name}"
        return state.cluster.request("GET", path)
    except RefusedError as error:
        if error.status == 404:
            return None
        raise


def _gateway_findings(state: State, gateway: Object) -> Iterator[Finding]:
    name, place = gateway["metadata"]["name"], gateway["metadata"]["namespace"]
    about, conditions = f"Gateway {name}", gateway.get("status", {}).get("conditions") or []
    kind = gateway["spec"]["gatewayClassName"]
    ill = [each for each in conditions if each["type"] in ("Accepted", "Programmed") and each["status"] != "True"]
    listeners = [
        (listener["name"], each)
        for listener in gateway.get("status", {}).get("listeners") or []
        for each in listener.get("conditions") or []
        if each["type"] in ("Accepted", "ResolvedRefs", "Programmed") and each["status"] == "False"
    ]
    if listeners:
        listener, each = listeners[0]
        text = f"listener {listener} does not work: {each.get('reason', '')} {each.get('message', '')}"
        yield state.finding("gateway-listener", about, text, name=name)
    elif (ill or not conditions) and age(gateway["metadata"]["creationTimestamp"]) > TAKEN:
        known = names(sorted(each["metadata"]["name"] for each in state.of("GatewayClass"))) or "none"
        said = f"{ill[0].get('reason', '')} {ill[0].get('message', '')}" if ill else "no status"
        text = f"no controller serves it by class {kind} ({said.strip()}); classes: {known}"
        yield state.finding("gateway-class", about, text)
    host = urlsplit(_public(state)).hostname or ""
    for listener in gateway["spec"].get("listeners") or []:
        for reference in (listener.get("tls") or {}).get("certificateRefs") or []:
            secret, where = reference["name"], reference.get("namespace", place)
            pem = certificates.of_secret(state, where, secret, about)
            if not pem:
                continue
            yield from certificates.dates(state, pem, f"{about}, Secret {secret}", secret, where)
            if host and host not in ("localhost",) and not certificates.covers(pem, host):
                text = f"Secret {secret} has a certificate for {names(certificates.hosts(pem)) or 'no host'}, not for {host} of global.publicUrl"
                yield state.finding("certificate-name", about, text, name=secret, other=where, host=host)


def _services(state: State) -> Iterator[Finding]:
    for service in state.ours("Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        if spec.get("type") == "LoadBalancer":
            ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress")
            if not ingress and age(service["metadata"]["creationTimestamp"]) > TAKEN:
                yield state.finding(
                    "gateway-address", f"Service {name}", "no load balancer has given it an address", name=name
                )
        selector, labels = spec.get("selector"), service["metadata"].get("labels") or {}
        if not selector or MODEL in labels or "Pods" in state.unchecked:
            continue
        matching = [
            each
            for kind in ("Deployment", "StatefulSet", "DaemonSet")
            for each in state.of(kind)
            if selector.items() <= (each["spec"]["template"]["metadata"].get("labels") or {}).items()
        ]
        pods = [pod for pod in state.of("Pod") if selector.items() <= (pod["metadata"].get("labels") or {}).items()]
        if not matching and not pods:
            text = f"no pod has the labels that it selects ({names([f'{k}={v}' for k, v in selector.items()])})"
            yield state.finding("service-empty", f"Service {name}", text, name=name)


def routes(state: State) -> Iterator[Finding]:
    """Routes of the parts; those of models are told with the model."""
    for route in state.of("HTTPRoute"):
        name = route["metadata"]["name"]
        model = any(each["metadata"]["name"] == name for each in state.of("InferenceService"))
        if (
            not (state.is_ours(route) or (owned(route) and not model))
            or age(route["metadata"]["creationTimestamp"]) < TAKEN / 3
        ):
            continue
        said = unrouted(route)
        if not said:
            unresolved = [
                f"{each.get('reason', '')} {each.get('message', '')}".strip()
                for parent in (route.get("status") or {}).get("parents") or []
                for each in parent.get("conditions") or []
                if each["type"] == "ResolvedRefs" and each["status"] == "False"
            ]
            said = f"what it leads to is not there: {unresolved[0]}" if unresolved else ""
        if said:
            yield state.finding("route", f"HTTPRoute {name}", said, name=name)


# --- from this machine


def _public(state: State) -> str:
    return platform.find("PUBLIC_URL")


def address(state: State) -> Iterator[Finding]:
    """The platform's address, as a user of this machine reaches it, and MLflow's opinion of its host name."""
    import requests

    url = platform.find("GATEWAY_URL").rstrip("/")
    if not url or not platform.find("GATEWAY_NAME"):
        return
    servers = [each for each in state.ours("Deployment") if each["metadata"]["name"] == f"{state.release}-mlflow"]
    host = urlsplit(url).hostname or ""
    service = f"{platform.find('GATEWAY_NAME')}"
    try:
        answer = requests.post(
            f"{url}/mlflow/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            timeout=(3, ASK),
            allow_redirects=False,
        )
    except requests.exceptions.SSLError as error:
        text = f"this machine does not accept its certificate: {_root(error)}"
        yield state.finding("url-certificate", f"Address {url}", text)
        return
    except requests.RequestException as error:
        kinds = {each["metadata"]["name"]: each["spec"].get("type") for each in state.ours("Service")}
        if kinds.get(service) == "ClusterIP" and not _given():
            said = f"kubectl -n {state.namespace} port-forward service/{service} 30080:80; then iml4e --url http://localhost:30080 doctor"
            state.skip(f"Address {url}", f"only the cluster reaches the gateway: {said}")
            return
        text = f"this machine does not reach it: {_root(error)}"
        yield state.finding("url", f"Address {url}", text, service=service)
        return
    if answer.status_code == 403 and re.search("(?i)invalid host|host name|rebinding", answer.text):
        text = (
            f"MLflow refuses the host name {host}: {one_line(answer.text)[:120]}; global.publicUrl is {_public(state)}"
        )
        yield state.finding("url-host", f"Address {url}", text, host=host, url=url)
    elif answer.is_redirect:
        where = answer.headers.get("Location", "")
        text = f"it redirects to {where}, and requests that write lose their content"
        yield Finding("url-answer", f"Address {url}", text, f"export IML4E_URL={where.partition('/mlflow')[0]}")
    elif not answer.ok and servers:
        text = f"MLflow answers {answer.status_code} there: {one_line(answer.text)[:200]}"
        yield state.finding("url-answer", f"Address {url}", text)
    public = urlsplit(_public(state)).hostname or ""
    for server in servers:
        if answer.status_code != 403 and (allowed := _allowed(server)) and public and not _matches(public, allowed):
            text = f"MLflow does not answer to {public}, the host of global.publicUrl"
            yield state.finding(
                "url-host", f"Deployment {server['metadata']['name']}", text, host=public, url=_public(state)
            )


def _given() -> bool:
    import os

    return bool(os.environ.get("IML4E_URL"))


def _allowed(server: Object) -> list[str]:
    """Host names that MLflow answers to, as patterns."""
    container = server["spec"]["template"]["spec"]["containers"][0]
    found = [
        each.get("value", "") for each in container.get("env") or [] if each["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"
    ]
    return found[0].split(",") if found else []


def _matches(host: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(host.lower(), pattern) for pattern in patterns)


def _root(error: BaseException) -> str:
    """The first cause of an error of requests, in few words."""
    text = str(error)
    for word in (
        "Name or service not known",
        "Connection refused",
        "timed out",
        "No route to host",
        "certificate verify failed",
    ):
        if word.lower() in text.lower():
            tail = text.lower().partition("certificate verify failed")[2].strip(": ")
            return word + (f": {tail.split('(')[0].strip()}" if "certificate" in word else "")
    return one_line(text)[-160:]


def targets(state: State) -> Iterator[Finding]:
    """Targets that Prometheus cannot read."""
    name = f"{state.release}-prometheus"
    if not any(each["metadata"]["name"] == name for each in state.ours("StatefulSet")):
        return
    path = f"/api/v1/namespaces/{state.namespace}/services/{name}:9090/proxy/prometheus/api/v1/targets"
    try:
        answer = state.cluster.request("GET", path, state="active")
    except RefusedError as error:
        if error.status in (500, 502, 503):
            return  # Prometheus itself is away, which its pod tells
        raise
    except AwayError:
        state.skip("Prometheus' targets", "Prometheus does not answer")
        return
    pods = {pod["metadata"]["name"]: pod for pod in state.of("Pod")}
    for target in answer["data"]["activeTargets"]:
        labels, pod = target["labels"], target["labels"].get("pod", "")
        if target["health"] != "down" or labels.get("namespace", state.namespace) != state.namespace:
            continue
        if labels.get("job") in ("pods-not-running", "probes"):
            continue
        known = pods.get(pod)
        if pod and (not known or not is_ready(known) or age(known["metadata"]["creationTimestamp"]) < 2 * TAKEN):
            continue  # a pod that is not well is told by itself
        text = f"Prometheus cannot read it (job {labels.get('job')}): {target.get('lastError', '')}"
        about = f"Target {_owner(known) if known else labels.get('instance', target['scrapeUrl'])}"
        yield state.finding("target-down", about, text, pod=pod or f"{name}-0")


def _owner(pod: Object) -> str:
    """Name of what made a pod, without the hash of a Deployment's version."""
    metadata = pod["metadata"]
    owner = (metadata.get("ownerReferences") or [{"name": metadata["name"]}])[0]["name"]
    return owner.removesuffix("-" + (metadata.get("labels") or {}).get("pod-template-hash", "-"))
