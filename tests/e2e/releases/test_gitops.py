"""The chart as GitOps tools handle it: rendered without a cluster, applied, and applied again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml

from support import helm, store
from support.k8s import Cluster
from support.objects import COMPONENT, Object, kind_and_name, labels

pytestmark = pytest.mark.timeout(900)

NAME = "gitops"
SMALL = {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}
VALUES: dict[str, Any] = {
    "kserve": {"controller": {"enabled": False}},
    "gateway": {"service": {"type": "ClusterIP"}, **SMALL},
    "pipelines": {"enabled": False},
    "prometheus": {"enabled": False},
    "grafana": {"enabled": False},
    "minio": {**SMALL, "setup": SMALL},
    "mariadb": SMALL,
    "mlflow": SMALL,
    "home": SMALL,
}
# lists whose elements are compared one by one, by their names
MERGED = (".containers", ".initContainers", ".volumes", ".spec.ports", ".webhooks", ".listeners")
WORKLOADS = (("StatefulSet", "minio"), ("StatefulSet", "mariadb"), ("Deployment", "mlflow"), ("Deployment", "gateway"))
# answers every question of the API server with a sentence, under the certificate of Secret `<release>-kserve-webhook`
WEBHOOK = """
import http.server, json, ssl

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": "reached by TLS"}}
        text = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

server = http.server.ThreadingHTTPServer(("", 9443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certificate/tls.crt", "/certificate/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def secrets(there: Cluster) -> dict[str, dict[str, str]]:
    """Secrets of the release."""
    found = there.core.list_namespaced_secret(NAME, label_selector=f"app.kubernetes.io/instance={NAME}").items
    return {secret.metadata.name: secret.data for secret in found}


def jobs_done(there: Cluster) -> bool:
    """Whether all Jobs of the release have succeeded."""
    found = there.list("batch/v1", "Job", f"app.kubernetes.io/instance={NAME}")
    return bool(found) and all(job["status"].get("succeeded") for job in found)


class Applied:
    """A release that kubectl applied."""

    def __init__(self, cluster: Cluster, values: dict[str, Any]) -> None:
        """Take the images of the live release."""
        self.there = Cluster(cluster.config, NAME)
        self.values = {**VALUES, "global": {key: values["global"][key] for key in ("imageRegistry", "runtime")}}

    def render(self, release: str = NAME, **values: Any) -> str:
        """The manifest, without a cluster."""
        sets = (
            word
            for part, value in (self.values | values).items()
            for word in ("--set-json", f"{part}={json.dumps(value)}")
        )
        return helm.helm(
            "template", release, helm.CHART, "--namespace", NAME, "--values", helm.VALUES / "laptop.yaml", *sets
        )

    def apply(self, manifest: str, *words: str) -> list[str]:
        """Apply a manifest; what kubectl says, a line for each object."""
        return self.there.kubectl("apply", "-f", "-", *words, stdin=manifest).stdout.splitlines()

    def wait(self) -> None:
        """Wait until all is Ready and all Jobs are done."""
        for kind, name in WORKLOADS:
            self.there.wait_ready(kind, f"{NAME}-{name}", 240)
        self.there.wait("the Jobs to succeed", lambda: jobs_done(self.there), 120)

    def generations(self) -> dict[str, int]:
        """Generations of the workloads: a number that each real change raises."""
        return {name: self.there.workload(kind, f"{NAME}-{name}")["metadata"]["generation"] for kind, name in WORKLOADS}


@pytest.fixture(scope="module")
def applied(cluster: Cluster, values: dict[str, Any]) -> Iterator[Applied]:
    """The release, applied once, and Ready."""
    release = Applied(cluster, values)
    manifest = release.render()
    metadata = {"name": NAME, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.core.create_namespace({"metadata": metadata})
    try:
        release.apply(manifest)
        release.wait()
        yield release
    finally:
        release.there.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=manifest, check=False)
        cluster.core.delete_namespace(NAME)


def test_a_second_apply_changes_nothing_and_everybody_is_let_in(applied: Applied) -> None:
    there = applied.there
    before, generations = secrets(there), applied.generations()
    assert len(before) == 10
    said = applied.apply(applied.render())
    # of a StatefulSet kubectl misses the status of its claims, which only the API server fills in
    assert [line for line in said if not line.endswith(" unchanged") and not line.startswith("statefulset.apps/")] == []
    assert there.kubectl("diff", "-f", "-", stdin=applied.render(), check=False).returncode == 0
    assert (secrets(there), applied.generations()) == (before, generations)

    keys = there.secret(f"{NAME}-s3-mlflow")
    with there.port_forward(f"service/{NAME}-minio", 9000) as port:
        s3 = store.client(port, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
        s3.put_object(Bucket="mlflow", Key="gitops", Body=b"kept")
    database = there.secret(f"{NAME}-db-mlflow")
    # --no-defaults: the pod's option file has the administrator's password, which comes before MYSQL_PWD
    login = f"MYSQL_PWD={database['password']} mariadb --no-defaults -h 127.0.0.1 -u {database['username']} {database['database']}"
    tables = there.exec(f"{NAME}-mariadb-0", "sh", "-c", f"{login} -e 'SHOW TABLES'", container="mariadb")
    assert "experiments" in tables
    with there.port_forward(f"service/{NAME}-gateway", 80) as port:
        url = f"http://localhost:{port}/mlflow/api/2.0/mlflow/experiments/create"
        assert requests.post(url, json={"name": "gitops"}, timeout=30).status_code == 200


def test_every_default_inside_a_list_is_written_out(applied: Applied) -> None:
    """A list is compared as a whole: what the API server adds to an element is a change at each sync. Nothing is made here."""
    manifest = applied.render("another", kserve={}, pipelines={})
    done = applied.there.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=manifest, check=False)
    wanted = {kind_and_name(thing): thing for thing in yaml.load_all(manifest, helm.LOADER) if thing}
    answers = [thing for thing in yaml.load_all(done.stdout, helm.LOADER) if thing]
    found = {kind_and_name(thing): thing for answer in answers for thing in answer.get("items", [answer])}
    # the release of the cluster has one of that name
    assert set(wanted) - set(found) <= {"ClusterServingRuntime/mlflow"}, done.stderr

    def added(own: Any, theirs: Any, path: str, inside: bool = False) -> Iterator[str]:
        if isinstance(own, dict) and isinstance(theirs, dict):
            yield from (f"{path}.{key}" for key in {*theirs} - {*own} if inside)
            yield from (f"{path}.{key} is gone" for key in {*own} - {*theirs})
            for key in {*own} & {*theirs}:
                yield from added(own[key], theirs[key], f"{path}.{key}", inside)
        elif isinstance(own, list) and isinstance(theirs, list) and not path.endswith(MERGED):
            for mine, other in zip(own, theirs, strict=True):
                yield from added(mine, other, f"{path}[]", True)

    assert [
        f"{name}: {finding}"
        for name in set(wanted) & set(found)
        for finding in added({**wanted[name], "metadata": {}}, found[name], "")
        if not finding.endswith(".volumeClaimTemplates[].status")
    ] == []


def test_the_account_makes_the_secrets_of_the_release_and_no_other(applied: Applied) -> None:
    there = applied.there
    account = f"--as=system:serviceaccount:{NAME}:{NAME}-secrets"
    there.kubectl("create", "secret", "generic", "strange", "--from-literal=a=b")

    def attempt(*words: str, name: str) -> str:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"a": "b"}}
        done = there.kubectl(account, *words, stdin=json.dumps(secret), check=False)
        return done.stderr if done.returncode else "allowed"

    apply = ("apply", "--server-side", "--field-manager=test", "--dry-run=server", "-f", "-")
    assert attempt(*apply, name=f"{NAME}-minio") == "allowed"
    for words, name in (
        (apply, "strange"),
        (apply, "new"),
        (("create", "--dry-run=server", "-f", "-"), f"{NAME}-minio"),
        (("create", "--dry-run=server", "-f", "-"), "new"),
        (("get", "secret", "strange"), ""),
        (("get", "secrets"), ""),
        (("delete", "secret", f"{NAME}-minio"), ""),
        (("get", "configmaps"), ""),
        (("get", "secrets", "--namespace=kube-system"), ""),
    ):
        assert "forbidden" in attempt(*words, name=name), (words, name)


def test_a_deleted_secret_is_made_again_and_one_of_the_administrators_is_left_alone(applied: Applied) -> None:
    there, name = applied.there, f"{NAME}-s3-models"
    old, data = there.secret(name), {"AWS_ACCESS_KEY_ID": "models", "AWS_SECRET_ACCESS_KEY": "chosen-by-hand"}
    there.delete("v1", "Secret", name)

    def again() -> None:
        for job in there.list("batch/v1", "Job", f"{COMPONENT}=secrets"):
            there.delete("batch/v1", "Job", job["metadata"]["name"])
        applied.apply(applied.render())

    again()
    there.wait("the Secret to be made again", lambda: name in secrets(there), 60)
    assert there.secret(name).keys() == old.keys()
    assert there.secret(name)["AWS_SECRET_ACCESS_KEY"] != old["AWS_SECRET_ACCESS_KEY"]

    for given, wanted in (({"AWS_ACCESS_KEY_ID": "models"}, "but lacks AWS_SECRET_ACCESS_KEY"), (data, "was there")):
        there.delete("v1", "Secret", name)
        there.core.create_namespaced_secret(NAME, {"metadata": {"name": name}, "stringData": given})
        again()

        def told(wanted: str = wanted) -> bool:
            pods = there.pods(f"app.kubernetes.io/name=secrets,app.kubernetes.io/instance={NAME}")
            logs = "\n".join(there.logs(pod["metadata"]["name"]) for pod in pods)
            return any(name in line and wanted in line for line in logs.splitlines())

        there.wait(f"the Job to say {wanted!r}", told, 90)
        assert there.secret(name) == given


def test_webhooks_trust_the_certificate_whenever_they_come_and_keep_it(applied: Applied, cluster: Cluster) -> None:
    """Only the Job, its rights, the Service and the webhook configurations, which here ask for this namespace alone."""
    there = applied.there
    rendered = [thing for thing in yaml.safe_load_all(applied.render(kserve={})) if thing]
    job = [thing for thing in rendered if labels(thing)[COMPONENT] == "secrets"]
    service = [thing for thing in rendered if kind_and_name(thing) == f"Service/{NAME}-kserve-webhook"]
    webhooks = [thing for thing in rendered if thing["kind"].endswith("WebhookConfiguration")]
    for thing in webhooks:
        for webhook in thing["webhooks"]:
            webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": NAME}}
    container = {
        "name": "webhook",
        "image": there.workload("Deployment", f"{NAME}-mlflow")["spec"]["template"]["spec"]["containers"][0]["image"],
        "command": ["python", "-c", WEBHOOK],
        "ports": [{"name": "webhook", "containerPort": 9443}],
        "readinessProbe": {"tcpSocket": {"port": 9443}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "certificate", "mountPath": "/certificate"}],
    }
    server = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "webhook", "labels": service[0]["spec"]["selector"]},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "certificate", "secret": {"secretName": f"{NAME}-kserve-webhook"}}],
        },
    }

    def bundles() -> set[str | None]:
        found = [there.get(thing["apiVersion"], thing["kind"], thing["metadata"]["name"]) or {} for thing in webhooks]
        return {webhook["clientConfig"].get("caBundle") for thing in found for webhook in thing["webhooks"]}

    def manifest(things: list[Object]) -> str:
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": things})

    try:
        applied.apply(manifest([*job, *service, server]))
        there.wait("the certificate", lambda: f"{NAME}-kserve-webhook" in secrets(there), 60)
        applied.apply(manifest(webhooks))
        authority = secrets(there)[f"{NAME}-kserve-webhook"]["ca.crt"]
        there.wait("the webhooks to trust it", lambda: bundles() == {authority}, 60)
        assert all(line.endswith(" unchanged") for line in applied.apply(manifest(webhooks)))
        for words in ((), ("--server-side", "--force-conflicts"), ("--server-side", "--field-manager=helm")):
            applied.apply(manifest(webhooks), *words)
            assert bundles() == {authority}, words

        # the API server, which checks name, chain and dates as it does for KServe's controller
        model = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "any"}}
        model["spec"] = {"predictor": {"model": {"modelFormat": {"name": "mlflow"}}}}

        def answer() -> str:
            create = ("create", "--dry-run=server", "-f", "-")
            return there.kubectl(*create, stdin=json.dumps(model), check=False).stderr

        there.wait("the webhook to answer", lambda: "reached by TLS" in answer(), 60)
    finally:
        there.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=manifest([*webhooks, server, *service, *job]))
