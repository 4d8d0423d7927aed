"""Nodes, DNS, webhooks, and what Helm installed: state of the release, CRDs, objects, and what pods refer to."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

from iml4e.cluster import AwayError, Object, RefusedError
from iml4e.doctor import certificates
from iml4e.doctor.faults import Finding
from iml4e.doctor.state import NAMES, State, age, is_ready, names, one_line

#: Conditions of a node that do not mean pressure or damage when they are true.
WELL = {"Ready"}
#: Groups of CRDs that the chart brings, and their folder.
CRDS = {
    "serving.kserve.io": "charts/iml4e/charts/kserve/crds",
    "gateway.networking.k8s.io": "charts/iml4e/charts/gateway/crds",
    "argoproj.io": "charts/iml4e/charts/pipelines/crds",
    "kubeflow.org": "charts/iml4e/charts/pipelines/crds",
    "monitoring.coreos.com": "the CRDs of the Prometheus Operator",
    "cert-manager.io": "the CRDs of cert-manager",
}
#: Kinds that may go without harm, or that the manifest has only for the time of the installation.
PASSING = {"Job", "Pod"}
#: Share of a node's disk that is almost full.
DISK = 0.88


def nodes(state: State) -> Iterator[Finding]:
    """Nodes that cannot run pods, or soon cannot."""
    for node in state.of("Node"):
        name, about = node["metadata"]["name"], f"Node {node['metadata']['name']}"
        for each in node["status"].get("conditions") or []:
            text = f"{each['type']} is {each['status']}: {each.get('reason', '')} {each.get('message', '')}"
            if each["type"] == "Ready" and each["status"] != "True":
                yield state.finding("node-not-ready", about, text, name=name)
            elif each["type"] not in WELL and each["status"] == "True":
                yield state.finding("node-pressure", about, text, name=name)
        if node["spec"].get("unschedulable"):
            yield state.finding("node-cordoned", about, "it is cordoned: it takes no new pods", name=name)


def namespace(state: State) -> Iterator[Finding]:
    """A namespace that somebody deletes: all else that is wrong follows from that."""
    space = state.space
    if not (since := space["metadata"].get("deletionTimestamp")):
        return
    said = [
        each["message"]
        for each in space.get("status", {}).get("conditions") or []
        if each["status"] == "True" and each["type"].startswith("Namespace")
    ]
    text = f"it is being deleted since {age(since):.0f} s{': ' if said else ''}{'; '.join(said)}"
    yield state.finding("namespace-deleted", f"Namespace {state.namespace}", text)


def dns(state: State) -> Iterator[Finding]:
    """The cluster's DNS."""
    query = {"labelSelector": "k8s-app=kube-dns"}
    pods = state.cluster.request("GET", "/api/v1/namespaces/kube-system/pods", **query)["items"]
    if pods and not any(is_ready(pod) for pod in pods):
        text = f"none of its {len(pods)} pods is ready: pods cannot resolve names"
        yield state.finding("dns", "Cluster DNS", text)
    if not pods:
        services = state.cluster.request("GET", "/api/v1/namespaces/kube-system/services", **query)["items"]
        if services:
            yield state.finding("dns", "Cluster DNS", "it has a Service and no pod: pods cannot resolve names")


def webhooks(state: State) -> Iterator[Finding]:
    """Webhooks that the API server asks about objects of this namespace."""
    labels: dict[str, str] = {}
    found: dict[tuple[str, str, str], list[Object]] = {}
    labels = state.cluster.request("GET", f"/api/v1/namespaces/{state.namespace}")["metadata"].get("labels") or {}
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for configuration in state.of(kind):
            for hook in configuration.get("webhooks") or []:
                service = hook["clientConfig"].get("service")
                if service and selects(hook.get("namespaceSelector") or {}, labels):
                    thing = f"{kind.lower()} {configuration['metadata']['name']}"
                    found.setdefault((service["namespace"], service["name"], thing), []).append(hook)
    for (namespace, name, thing), hooks in found.items():
        about = f"Webhook {names(sorted({hook['name'] for hook in hooks}), 2)}"
        yield from _webhook(state, namespace, name, thing, hooks, about)


def _webhook(state: State, namespace: str, name: str, thing: str, hooks: list[Object], about: str) -> Iterator[Finding]:
    place = f"service {name} in namespace {namespace}"
    try:
        service = state.cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/{name}")
        selector = ",".join(f"{key}={value}" for key, value in (service["spec"].get("selector") or {}).items())
        pods = state.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)["items"]
    except RefusedError as error:
        if error.status != 404:
            state.skip(about, state.why_not(error))
            return
        pods, place = [], f"{place}, which does not exist"
    fatal = any(hook.get("failurePolicy", "Fail") == "Fail" for hook in hooks)
    if not any(is_ready(pod) for pod in pods):
        what = ", ".join(sorted({r for hook in hooks for rule in hook.get("rules") or [] for r in rule["resources"]}))
        text = f"no ready pod answers at {place}; " + (f"{what} cannot be changed" if fatal else "it is passed over")
        if fatal:
            yield state.finding("webhook-away", about, text, other=namespace, name=name)
        return
    for volume in (volume for pod in pods[:1] for volume in pod["spec"].get("volumes") or []):
        if secret := (volume.get("secret") or {}).get("secretName"):
            yield from _served(state, namespace, secret, f"{name}.{namespace}.svc", thing, hooks, about)


def _served(
    state: State, namespace: str, secret: str, host: str, thing: str, hooks: list[Object], about: str
) -> Iterator[Finding]:
    """The certificate that a webhook's pod serves, and the authority that its configuration trusts."""
    pem = certificates.of_secret(state, namespace, secret, about)
    if not pem:
        return
    for found in certificates.dates(state, pem, f"Secret {secret}", secret, namespace):
        yield state.finding("webhook-certificate", found.about, found.problem, name=secret, other=namespace)
    if not certificates.covers(pem, host):
        text = f"its certificate in Secret {secret} is for {names(certificates.hosts(pem))}, not for {host}"
        yield state.finding("certificate-name", about, text, name=secret, other=namespace, host=host)
    for hook in hooks:
        bundle = base64.b64decode(hook["clientConfig"].get("caBundle") or "")
        if problem := certificates.untrusted(pem, bundle):
            text = f"the API server does not trust its certificate in Secret {secret}: {problem}"
            yield state.finding("webhook-ca", about, text, object=thing)
            return


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector of the API selects an object with these labels."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for each in selector.get("matchExpressions") or []:
        key, operator, values = each["key"], each["operator"], each.get("values") or []
        well = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not well[operator]:
            return False
    return True


# --- the release


def release(state: State) -> Iterator[Finding]:
    """State of the release by Helm, and whether its objects are there."""
    secrets = [each for each in state.of("Secret") if _is_release(state, each)]
    if not secrets:  # no right to see them, or installed by another tool
        return
    newest = max(secrets, key=lambda each: int(each["metadata"]["labels"]["version"]))
    labels = newest["metadata"]["labels"]
    status, revision = labels["status"], int(labels["version"])
    path = f"/api/v1/namespaces/{state.namespace}/secrets/{newest['metadata']['name']}"
    record = unpack(state.cluster.request("GET", path)["data"]["release"])
    about, said = f"Release {state.release}", one_line(record["info"].get("description", ""))[:300]
    well = [
        int(each["metadata"]["labels"]["version"])
        for each in secrets
        if each["metadata"]["labels"]["status"] in ("deployed", "superseded")
    ]
    if status.startswith("pending-"):
        if age(newest["metadata"]["creationTimestamp"]) < 5:
            return
        text = (
            f"revision {revision} is {status} since {age(newest['metadata']['creationTimestamp']) / 60:.0f} min: {said}"
        )
        if well:
            yield state.finding("helm-pending", about, text, revision=str(max(well)))
        else:
            cure = f"helm uninstall {state.release} -n {state.namespace}, then install it again"
            yield Finding("helm-pending", about, text, cure)
    elif status == "failed":
        yield state.finding("helm-failed", about, f"revision {revision} failed: {said}")
    if status not in ("uninstalling", "uninstalled") and not status.startswith("pending-"):
        yield from _objects(state, record["manifest"])


def _is_release(state: State, secret: Object) -> bool:
    labels = secret["metadata"].get("labels") or {}
    return labels.get("owner") == "helm" and labels.get("name") == state.release


def unpack(data: str) -> Any:
    """A record of Helm: base64 twice, gzip, JSON."""
    return json.loads(gzip.decompress(base64.b64decode(base64.b64decode(data))))


def _objects(state: State, manifest: str) -> Iterator[Finding]:
    """Objects of the manifest that do not exist, and kinds that the API server does not know."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    wanted: dict[tuple[str, str, str], list[str]] = {}
    for thing in yaml.load_all(manifest, loader):
        if thing and thing["kind"] not in PASSING:
            place = thing["metadata"].get("namespace", state.namespace)
            wanted.setdefault((thing["apiVersion"], thing["kind"], place), []).append(thing["metadata"]["name"])
    versions = {version for version, _, _ in wanted}
    roots = {version: f"/apis/{version}" if "/" in version else f"/api/{version}" for version in versions}

    def discover(path: str) -> list[Object]:
        try:
            return state.cluster.request("GET", path)["resources"]
        except RefusedError as error:
            if error.status == 404:
                return []
            raise

    known = state.together(
        {f"kinds of {version}": (lambda path=path: discover(path)) for version, path in roots.items()}
    )
    asked = {}
    for (version, kind, place), things in wanted.items():
        resources = known.get(f"kinds of {version}")
        if resources is None:
            continue
        found = [each for each in resources if each["kind"] == kind and "/" not in each["name"]]
        if not found:
            group = version.rpartition("/")[0]
            text = f"the cluster does not know this kind, of which the release has {names(things, 2)}"
            yield state.finding(
                "crd-missing", f"CRD {kind} ({version})", text, crds=CRDS.get(group, f"the CRDs of {group}")
            )
            continue
        where = f"/namespaces/{place}" if found[0]["namespaced"] else ""
        asked[(kind, place)] = (f"{roots[version]}{where}/{found[0]['name']}", things)

    def list_names(path: str) -> set[str]:
        return {each["metadata"]["name"] for each in state.cluster.request("GET", path, accept=NAMES)["items"]}

    there = state.together({f"{kind}s": (lambda path=path: list_names(path)) for (kind, _), (path, _) in asked.items()})
    for (kind, place), (_, things) in asked.items():
        have = there.get(f"{kind}s")
        for name in things:
            if have is not None and name not in have and _lone(asked, kind):
                where = f" of namespace {place}" if place != state.namespace else ""
                yield state.finding(
                    "object-missing", f"{kind} {name}", f"it belongs to the release and does not exist{where}"
                )


def _lone(asked: dict[tuple[str, str], Any], kind: str) -> bool:
    """Whether all objects of a kind are in one namespace: lists are kept by kind."""
    return sum(each == kind for each, _ in asked) == 1


# --- what pods refer to


def references(state: State) -> Iterator[Finding]:
    """Secrets, ConfigMaps and claims that the release's pods name and that do not exist."""
    told = set()
    for kind in ("Deployment", "StatefulSet", "DaemonSet", "CronJob"):
        for workload in state.ours(kind):
            spec = workload["spec"]
            spec = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
            for other, name in _named(spec["template"]["spec"]):
                if (other, name) in told or state.has(other, name) is not False:
                    continue
                told.add((other, name))
                text = f"it does not exist, and {kind} {workload['metadata']['name']} names it"
                yield state.finding("reference-missing", f"{other} {name}", text)


def _named(spec: Object) -> Iterator[tuple[str, str]]:
    for volume in spec.get("volumes") or []:
        sources = [volume, *(volume.get("projected") or {}).get("sources", [])]
        for source in sources:
            for key, kind, field in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
                found = source.get(key) or {}
                if (name := found.get(field) or found.get("name")) and not found.get("optional"):
                    yield kind, name
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            yield "PersistentVolumeClaim", claim
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        sources = [(each, "secretRef", "configMapRef") for each in container.get("envFrom") or []]
        sources += [
            (each["valueFrom"], "secretKeyRef", "configMapKeyRef")
            for each in container.get("env") or []
            if each.get("valueFrom")
        ]
        for source, secret, config in sources:
            for key, kind in ((secret, "Secret"), (config, "ConfigMap")):
                found = source.get(key) or {}
                if found.get("name") and not found.get("optional"):
                    yield kind, found["name"]
    for each in spec.get("imagePullSecrets") or []:
        yield "Secret", each["name"]


def clock(state: State) -> Iterator[Finding]:
    """The clock of this machine against the API server's."""
    import time
    from email.utils import parsedate_to_datetime

    try:
        answer = state.cluster.head()
    except AwayError:
        return
    if stamp := answer.get("Date"):
        ahead = time.time() - parsedate_to_datetime(stamp).timestamp()
        if abs(ahead) > 30:
            text = f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of the API server"
            yield state.finding("clock", "This machine", text)
