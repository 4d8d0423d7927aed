"""`iml4e doctor`: faults injected into a release of its own, each named in one sentence with its cure."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from iml4e.doctor.faults import FAULTS
from support import faults, helm, releases, store
from support.faults import Case, Lab
from support.k8s import Cluster

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(900)]

NAME = "doctor"
#: Faults are pods with labels of the release that no NetworkPolicy knows, so the default one would let them ask no name server.
OPEN = {"global": {"networkPolicy": {"enabled": False}}}
Object = dict[str, Any]
#: Seconds within which the doctor answers for a healthy or dead platform, and for one with eighty faults.
LIMIT, BUSY = 20, 45
MODEL = {
    "MLmodel": "flavors:\n  python_function:\n    loader_module: nosuchpackage\n    data: .\n    python_version: 3.11.0\n",
    "requirements.txt": "",
}


def ask(*words: str, release: str = NAME, limit: float = BUSY, **environment: str) -> tuple[int, Object, str]:
    """What the doctor says: exit code, JSON, and standard error."""
    command = [
        sys.executable,
        "-m",
        "iml4e.cli",
        "--release",
        release,
        "--namespace",
        release,
        *words,
        "doctor",
        "--json",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IML4E_")}
    there = {**clean, "PYTHONPATH": str(helm.REPO / "src"), **environment}
    start = time.monotonic()
    done = subprocess.run(command, env=there, capture_output=True, text=True, timeout=120, check=False)
    assert time.monotonic() - start < limit, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stderr


@pytest.fixture(scope="module")
def limit() -> float:
    """Seconds that an answer may take here: other work on this machine may delay the start of a program, so that is measured."""
    start = time.monotonic()
    ask(KUBECONFIG=os.devnull)
    return LIMIT + time.monotonic() - start


def named(case: Case, report: Object) -> bool:
    """Whether a report names a fault as its row says."""
    about, words = case.about.format(NAME), [word.format(NAME) if "{}" in word else word for word in case.words]
    return any(
        (each["fault"], each["about"]) == (case.fault, about) and all(word in each["problem"] for word in words)
        for each in report["findings"]
    )  # fmt: skip


def until(cases: Sequence[Case], seconds: float, *words: str) -> Object:
    """Ask the doctor until it names all faults; its last report."""
    end = time.monotonic() + seconds
    while True:
        code, report, said = ask(*words)
        assert report, said
        if all(named(case, report) for case in cases) or time.monotonic() > end:
            assert code == (0 if report["healthy"] else 1)
            return report
        time.sleep(3)


@pytest.fixture(scope="module")
def lab(cluster: Cluster) -> Iterator[Lab]:
    """A small release, and a port of this machine that leads to its gateway."""
    with releases.namespace(cluster, NAME) as there, releases.installed(there, ["laptop"], OPEN):
        yield Lab(there, NAME)


@pytest.fixture(scope="module")
def port(lab: Lab) -> Iterator[int]:
    with lab.cluster.port_forward(f"service/{NAME}-gateway", 80) as number:
        yield number


@pytest.fixture(scope="module")
def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_a_healthy_release_is_healthy(lab: Lab, url: str, limit: float) -> None:
    lab.cluster.wait("a healthy release", lambda: ask("--url", url)[1]["healthy"], 60, pause=3)
    code, report, _ = ask("--url", url, limit=limit)
    assert (code, report["findings"], report["unchecked"]) == (0, [], {})


@pytest.fixture(scope="module")
def applied(lab: Lab, cluster: Cluster) -> Iterator[list[Case]]:
    """All faults that can be there together; objects of the whole cluster go at the end."""
    cases = [case for case in faults.TOGETHER if not case.needs or lab.cluster.has(*case.needs.rsplit("/", 1))]
    with lab.cluster.port_forward(f"service/{NAME}-minio", 9000) as s3:
        root = lab.cluster.secret(f"{NAME}-minio")
        for name, content in MODEL.items():
            store.client(s3, root["rootUser"], root["rootPassword"]).put_object(
                Bucket="mlflow", Key=f"fault/{name}", Body=content.encode()
            )
    things = [thing for case in cases for thing in case.things(lab)]
    wide = [thing for thing in things if thing["kind"] in faults.CLUSTER_WIDE]
    try:
        lab.cluster.apply(*things)
        for case in cases:
            case.act(lab)
        yield cases
    finally:
        for thing in wide:
            lab.cluster.delete(thing["apiVersion"], thing["kind"], thing["metadata"]["name"])
        with contextlib.suppress(Exception):
            cluster.core.patch_namespaced_pod("held", NAME, {"metadata": {"finalizers": None}})


@pytest.fixture(scope="module")
def together(lab: Lab, url: str, applied: list[Case]) -> Object:
    """What the doctor says when all of them had time to show."""
    return until(applied, 150, "--url", url)


@pytest.mark.parametrize("case", faults.TOGETHER, ids=str)
def test_fault_is_named_with_its_cure(case: Case, applied: list[Case], together: Object) -> None:
    if case not in applied:
        pytest.skip(f"this cluster has no {case.needs}")
    about = case.about.format(NAME)
    said = [each for each in together["findings"] if each["about"] == about]
    assert named(case, together), said or [str(each) for each in together["findings"]]
    [cure] = {each["cure"] for each in said if each["fault"] == case.fault}
    assert cure
    assert not re.search(r"\{\w+\}(?!')", cure), cure


def test_nothing_else_is_wrong(applied: list[Case], together: Object) -> None:
    """No finding but those that were injected: a healthy part is not blamed."""
    known = {case.about.format(NAME) for case in applied}
    others = [each for each in together["findings"] if each["about"] not in known]
    assert others == []
    assert together["unchecked"] == {}


def test_no_secret_is_told(lab: Lab, together: Object) -> None:
    text = json.dumps(together)
    for secret in lab.cluster.core.list_namespaced_secret(NAME).items:
        for key, value in (secret.data or {}).items():
            if "assword" in key or key == "AWS_SECRET_ACCESS_KEY":
                assert base64.b64decode(value).decode() not in text, (secret.metadata.name, key)


def test_a_report_for_people_has_one_line_for_each(lab: Lab, url: str, together: Object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iml4e.cli", "--release", NAME, "--namespace", NAME, "--url", url, "doctor"],
        env={**os.environ, "PYTHONPATH": str(helm.REPO / "src")}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[-1].startswith(f"release {NAME} in namespace {NAME}: ")
    assert sum(" → " in line for line in lines) >= len(together["findings"]) - 5
    assert all(" → " in line for line in lines[:-1])


# --- rights


def test_a_missing_right_is_told_and_hides_nothing_else(lab: Lab, url: str, together: Object, tmp_path: Path) -> None:
    """An account that may only look, as of a user of the namespace."""
    with limited(lab, tmp_path, "view") as config:
        _, report, _ = ask("--url", url, KUBECONFIG=str(config))
    assert "this account may not list secrets" in report["unchecked"]["Secrets"]
    assert any("pods/exec" in reason for reason in report["unchecked"].values())
    assert any("nodes" in reason for reason in report["unchecked"].values())
    assert {("image", "Deployment wrong-tag"), ("quota", "Deployment quota")} <= {
        (each["fault"], each["about"]) for each in report["findings"]
    }
    assert not [
        each
        for each in report["findings"]
        if each["fault"] == "reference-missing" and each["about"].startswith("Secret")
    ]


@contextlib.contextmanager
def limited(lab: Lab, folder: Path, role: str) -> Iterator[Path]:
    """A kubeconfig of an account with a role in the namespace alone."""
    subject = {"kind": "ServiceAccount", "name": "limited", "namespace": NAME}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "limited"}}
    lab.cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "limited"}},
        {**binding, "subjects": [subject], "roleRef": reference},
    )
    token = lab.cluster.core.create_namespaced_service_account_token("limited", NAME, {"spec": {}}).status.token
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(as_user(lab.cluster.config, token)))
    yield path


def as_user(config: Path, token: str, server: str = "") -> Object:
    """A kubeconfig of the same cluster with another account, or another address."""
    known = yaml.safe_load(config.read_text())
    cluster = known["clusters"][0]["cluster"]
    cluster = {"server": server} if server else cluster
    user = {"token": token}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}], "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }  # fmt: skip


# --- the platform itself


@pytest.fixture(scope="module")
def without_parts(lab: Lab, url: str, together: Object) -> Iterator[Object]:
    """Store and database are away, and Helm was ended in the middle of an upgrade."""
    for part in ("minio", "mariadb"):
        lab.cluster.apps.patch_namespaced_stateful_set_scale(f"{NAME}-{part}", NAME, {"spec": {"replicas": 0}})
    record(lab, 2, "pending-upgrade", "Preparing upgrade")
    time.sleep(6)
    yield until(PARTS, 60, "--url", url)
    for revision in (2, 3):  # helm uninstalls by the newest
        lab.cluster.delete("v1", "Secret", f"sh.helm.release.v1.{NAME}.v{revision}")


PARTS = [
    Case("scaled-to-zero", "StatefulSet {}-minio", ("0 replicas",)),
    Case("scaled-to-zero", "StatefulSet {}-mariadb", ("0 replicas",)),
    Case("s3-address", "Deployment {}-mlflow", ("bucket mlflow at http://{}-minio",)),
    Case("database-address", "Deployment {}-mlflow", ("database mlflow at {}-mariadb",)),
    Case("helm-pending", "Release {}", ("revision 2 is pending-upgrade",)),
]


@pytest.mark.parametrize("case", PARTS, ids=str)
def test_parts_that_are_away_are_named(case: Case, without_parts: Object) -> None:
    assert named(case, without_parts), without_parts["findings"]


FAILED = [
    Case("helm-failed", "Release {}", ("revision 3 failed", "timed out")),
    Case("crd-missing", "CRD ServiceMonitor (monitoring.example.org/v1)", ("does not know this kind",)),
    Case("object-missing", "ConfigMap {}-runner", ("does not exist",)),
]


@pytest.fixture(scope="module")
def failed(lab: Lab, url: str, without_parts: Object) -> Object:
    """An upgrade that failed, with a kind that the cluster does not know; and the ConfigMap of the platform is gone."""
    monitor = "---\napiVersion: monitoring.example.org/v1\nkind: ServiceMonitor\nmetadata:\n  name: doctor\n"
    record(lab, 3, "failed", 'Upgrade "doctor" failed: timed out waiting for the condition', monitor)
    lab.cluster.delete("v1", "ConfigMap", f"{NAME}-runner")
    return until(FAILED, 30, "--url", url)


@pytest.mark.parametrize("case", FAILED, ids=str)
def test_a_failed_release_is_named(case: Case, failed: Object) -> None:
    assert named(case, failed), failed["findings"]


def record(lab: Lab, revision: int, status: str, description: str, manifest: str = "") -> None:
    """A revision of the release as Helm leaves one."""
    first = lab.cluster.core.read_namespaced_secret(f"sh.helm.release.v1.{NAME}.v1", NAME)
    release = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(first.data["release"]))))
    release["info"] |= {"status": status, "description": description}
    release |= {"version": revision, "manifest": release["manifest"] + manifest}
    data = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
    labels = {**first.metadata.labels, "version": str(revision), "status": status}
    metadata = {"name": f"sh.helm.release.v1.{NAME}.v{revision}", "labels": labels}
    lab.cluster.apply(
        {"apiVersion": "v1", "kind": "Secret", "type": first.type, "metadata": metadata, "data": {"release": data}}
    )


# --- nodes: for seconds only, because every pod of the cluster has them


def test_nodes_that_take_no_pods_are_named(lab: Lab, url: str, applied: list[Case]) -> None:
    node = lab.cluster.core.list_node().items[0].metadata.name
    taint = {"key": "iml4e.org/test", "value": "fault", "effect": "NoSchedule"}
    before = lab.cluster.core.read_node(node).spec.taints or []
    if len(lab.cluster.core.list_node().items) > 1:
        pytest.skip("a pod goes to another node")
    damage = {"type": "ReadonlyFilesystem", "status": "True", "reason": "TestFault", "message": "the disk is read-only"}
    tolerated = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]
    cases = [
        Case("node-cordoned", f"Node {node}", ("cordoned",)),
        Case("node-pressure", f"Node {node}", ("ReadonlyFilesystem", "the disk is read-only")),
        Case("no-node", "Deployment tainted", ("untolerated taint",)),
    ]
    try:
        lab.cluster.core.patch_node_status(node, {"status": {"conditions": [damage]}})
        lab.cluster.core.patch_node(node, {"spec": {"unschedulable": True, "taints": [*map(plain, before), taint]}})
        lab.cluster.apply(lab.deployment("tainted", pod={"tolerations": tolerated}))
        report = until(cases, 20, "--url", url)
    finally:
        lab.cluster.core.patch_node(node, {"spec": {"unschedulable": None, "taints": [*map(plain, before)] or None}})
        lab.cluster.core.patch_node_status(
            node, {"status": {"conditions": [{"type": "ReadonlyFilesystem", "$patch": "delete"}]}}
        )
    assert [str(case) for case in cases if not named(case, report)] == [], report["findings"]


def plain(taint: Any) -> Object:
    return {key: value for key, value in taint.to_dict().items() if value and key != "time_added"}


# --- addresses


@pytest.mark.parametrize(
    ("address", "fault", "words"),
    [
        ("http://0:{port}", "url-host", "MLflow refuses the host name 0"),
        ("http://127.0.0.1:9", "url", "refused"),
        ("{server}", "url-certificate", "does not accept its certificate"),
    ],
)
def test_address_that_does_not_work_is_named(cluster: Cluster, address: str, fault: str, words: str) -> None:
    """Against the first release, which is only read: host names are refused by its MLflow too."""
    with cluster.port_forward(f"service/{helm.RELEASE}-gateway", 80) as port:
        server = yaml.safe_load(cluster.config.read_text())["clusters"][0]["cluster"]["server"]
        _, report, _ = ask("--url", address.format(port=port, server=server), release=helm.RELEASE)
    found = [each for each in report["findings"] if each["about"].startswith("Address ")]
    assert [each["fault"] for each in found] == [fault]
    assert words in found[0]["problem"]


# --- a full volume


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_a_volume_that_is_almost_full_is_named(lab: Lab, url: str, applied: list[Case]) -> None:
    node = lab.cluster.core.list_node().items[0].metadata
    if node.name != "iml4e" and node.name != socket.gethostname():
        pytest.skip("the node is another machine")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
        try:
            Path(folder, "data").write_bytes(bytes(15 * 2**20))
            Path(folder).chmod(0o777)
            lab.cluster.apply(*full(lab, folder, node.labels["kubernetes.io/hostname"]))
            case = Case("volume-full", "PersistentVolumeClaim full", ("94% full",))
            report = until([case], 90, "--url", url)
            assert named(case, report), report["findings"]
        finally:
            lab.cluster.delete("apps/v1", "Deployment", "full")
            lab.cluster.delete("v1", "PersistentVolumeClaim", "full")
            lab.cluster.delete("v1", "PersistentVolume", f"{NAME}-full")
            lab.cluster.wait(
                "its pod to go",
                lambda: not lab.cluster.core.list_namespaced_pod(NAME, label_selector="fault=full").items,
                60,
            )
            subprocess.run(["umount", folder], check=False)


def full(lab: Lab, folder: str, host: str) -> list[Object]:
    size = {"storage": "16Mi"}
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}
    kept = {
        "capacity": size,
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "none-at-all",
        "local": {"path": folder},
    }
    kept["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "none-at-all",
        "resources": {"requests": size},
        "volumeName": f"{NAME}-full",
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "full"}}
    mounts = [{"name": "data", "mountPath": "/data"}]
    return [
        lab.thing("v1", "PersistentVolume", f"{NAME}-full", spec=kept),
        lab.thing("v1", "PersistentVolumeClaim", "full", spec=claim),
        lab.deployment("full", pod={"volumes": [volume]}, volumeMounts=mounts),
    ]


# --- no platform at all


def test_an_account_that_kubernetes_does_not_know(cluster: Cluster, limit: float, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(as_user(cluster.config, "no-such-token")))
    code, report, said = ask(limit=limit, KUBECONFIG=str(path))
    assert (code, report) == (1, {})
    assert "does not know this account" in said


def test_a_namespace_that_is_not_there(cluster: Cluster) -> None:
    code, _, said = ask(release="no-such-release")
    assert code == 1
    assert said.splitlines()[-1].startswith("iml4e: there is no namespace no-such-release at https://")


def test_a_release_that_is_not_there(cluster: Cluster) -> None:
    code, _, said = ask("--namespace", helm.NAMESPACE, release="no-such-release")
    assert code == 1
    assert said.splitlines()[-1].startswith(
        f"iml4e: there is no release no-such-release in namespace {helm.NAMESPACE}: there is {helm.RELEASE};"
    )


@pytest.mark.parametrize("answers", ["nothing listens", "accepts and is silent"])
def test_a_cluster_that_does_not_answer(cluster: Cluster, limit: float, tmp_path: Path, answers: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if answers == "accepts and is silent":
            silent.listen(50)
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(as_user(cluster.config, "any", server)))
        code, _, said = ask(limit=limit, KUBECONFIG=str(path))
    assert code == 1
    assert (
        said.splitlines()[-1]
        == f"iml4e: Kubernetes at {server} does not answer; check KUBECONFIG, VPN and `kubectl version`"
    )


# --- the table


def test_rows_that_are_injected() -> None:
    """Thirty rows and more are injected on a cluster; the others are in tests/unit/test_doctor.py."""
    injected = {case.fault for case in [*faults.TOGETHER, *PARTS, *FAILED]}
    assert injected <= FAULTS.keys()
    assert len(injected) >= 50
