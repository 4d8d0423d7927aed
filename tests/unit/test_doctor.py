"""`iml4e doctor` without a cluster: what it makes of objects as Kubernetes gives them, and its table in the documentation."""

from __future__ import annotations

import base64
import email.utils
import gzip
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from iml4e import Error, cli, doctor, why
from iml4e.doctor import certificates, foundations, models, network, probe_path, stores, workloads
from iml4e.doctor.faults import FAULTS, Finding, markdown
from iml4e.doctor.state import State, one_line, telling
from support.certificates import pem, signed

REPO = Path(__file__).resolve().parents[2]
Object = dict[str, Any]


#: The time of these tests: ages in parameters are written when the tests are collected, and the run may take minutes.
NOW = datetime.now(UTC)


class Stopped(datetime):
    """The clock that ages are measured by."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return NOW


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iml4e.doctor.state.datetime", Stopped)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def thing(name: str, /, labels: Object | None = None, age: float = 600, **fields: Any) -> Object:
    own = {"app.kubernetes.io/instance": "iml4e", **(labels or {})}
    metadata = {"name": name, "namespace": "iml4e", "uid": f"uid-{name}", "labels": own, "creationTimestamp": ago(age)}
    return {"metadata": metadata | fields.pop("metadata", {}), **fields}


class Silent:
    """Stands in for a cluster that has no logs."""

    def log(self, *_: Any, **__: Any) -> str:
        return ""


def state(**objects: list[Object]) -> State:
    return State("iml4e", "iml4e", Silent(), objects)  # type: ignore[arg-type]


def faults(found: Iterator[Finding]) -> dict[str, str]:
    return {each.fault: each.problem for each in found}


# --- the table


def test_documentation_has_the_table() -> None:
    page = (REPO / "docs" / "troubleshooting.md").read_text()
    assert markdown() in page, "write it anew: python -W ignore -m iml4e.doctor.faults"


def test_every_fault_that_is_told_has_a_row() -> None:
    told = set()
    for path in (REPO / "src" / "iml4e" / "doctor").glob("*.py"):
        told |= set(re.findall(r'(?:finding|Finding)\(\s*"([\w-]+)"', path.read_text()))
        told |= (
            set(re.findall(r'"((?:s3|database)-[a-z]+|host-name|clock)"', path.read_text()))
            if path.name == "probe.py"
            else set()
        )
    told |= set(
        re.findall(
            r'(?:AT_ONCE|MISSING|GOES_ON|KSERVE|WEBHOOK|_tries\(status\)), "([\w-]+)"\)',
            (REPO / "src/iml4e/why.py").read_text(),
        )
    )
    assert len(told) > 50
    assert told <= FAULTS.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_every_cure_can_be_written(name: str) -> None:
    fields = set(re.findall(r"(?<!\{)\{(\w+)\}", FAULTS[name].cure))
    assert fields <= {
        "release",
        "namespace",
        "other",
        "name",
        "object",
        "pod",
        "container",
        "revision",
        "job",
        "larger",
        "value",
        "bucket",
        "host",
        "url",
        "service",
        "crds",
        "model",
    }
    assert FAULTS[name].symptom
    assert FAULTS[name].meaning


# --- texts


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("starting\nlistening on 80\n", "listening on 80"),
        ("Error: no such table\nbye\n", "Error: no such table"),
        ("ValueError: no\n  \n", "ValueError: no"),
        ('{"level":"ERROR","msg":"Failed to watch","error":"refused"}', "Failed to watch: refused"),
        ("cannot reach mysql://root:secret@db:3306/x", "cannot reach mysql://root:***@db:3306/x"),
    ],
)
def test_line_of_a_log_that_tells_most(log: str, line: str) -> None:
    assert telling(log) == line


def test_a_finding_is_one_line() -> None:
    found = state().finding("image", "Deployment a", "it\ncannot  be pulled", pod="a-1")
    assert str(found).startswith("Deployment a: it cannot be pulled → check the image's value")
    assert "\n" not in str(found)


def test_passwords_in_addresses_are_left_out() -> None:
    assert one_line("http://user:pass@host/ and //a:b") == "http://user:***@host/ and //a:b"


@pytest.mark.parametrize(
    ("findings", "code", "last"), [([], 0, "healthy"), ([Finding("a", "b", "c", "d")], 1, "1 finding")]
)
def test_exit_code_and_last_line(
    findings: list[Finding], code: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = doctor.Report("iml4e", "here", findings, {"Nodes": "this account may not list nodes of the cluster"}, 2)
    monkeypatch.setattr(doctor, "examine", lambda say: report)
    assert cli.main(["doctor"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"release iml4e in namespace here: {last}, 1 checks not made (2 s)"
    assert lines[-2] == "not checked: Nodes: this account may not list nodes of the cluster"
    assert cli.main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["healthy"] is (not findings)


def test_help_tells_the_two_doctors_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    assert "make doctor" in capsys.readouterr().out


# --- nothing to say


def test_a_report_about_nothing_is_an_error() -> None:
    with pytest.raises(Error, match="there is no release iml4e in namespace iml4e: the namespace has no release"):
        state()._refuse_nothing()
    model = thing(
        "wine-1", labels={"app.kubernetes.io/instance": "another", "serving.kserve.io/inferenceservice": "wine"}
    )
    with pytest.raises(Error, match="there is no release iml4e in namespace iml4e: there is another"):
        state(Pod=[model], Deployment=[model])._refuse_nothing()
    blind = state()
    blind.skip("Pods", "this account may not list pods in namespace iml4e")
    with pytest.raises(Error, match=r"nothing can be said .* may not list pods .* ClusterRole view"):
        blind._refuse_nothing()


def test_a_namespace_that_is_being_deleted_is_told_and_nothing_else_is_needed() -> None:
    going = state()
    held = "Some content in the namespace has finalizers remaining: inferenceservice.finalizers in 2 resource instances"
    told = [{"type": "NamespaceFinalizersRemaining", "status": "True", "message": held}]
    going.space = {"metadata": {"deletionTimestamp": ago(100)}, "status": {"conditions": told}}
    going._refuse_nothing()
    [found] = foundations.namespace(going)
    assert found.fault == "namespace-deleted"
    assert held in found.problem
    assert "scripts/purge --release iml4e --namespace iml4e" in found.cure
    assert not list(foundations.namespace(state()))


@pytest.mark.parametrize("kind", ["InferenceService", "HTTPRoute"])
def test_a_kind_that_the_cluster_does_not_know(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_NAMESPACE", "iml4e")
    monkeypatch.setenv("GATEWAY_NAME", "iml4e-gateway")
    lacking = state()
    lacking.absent = {kind}
    check = models.check if kind == "InferenceService" else network.gateways
    found = list(check(lacking))
    assert [(each.fault, each.about) for each in found] == [("crd-missing", f"CRD {kind}")]


# --- nodes


def node(*conditions: tuple[str, str], **spec: Any) -> Object:
    return thing(
        "one", spec=spec, status={"conditions": [{"type": kind, "status": status} for kind, status in conditions]}
    )


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (node(("Ready", "True"), ("DiskPressure", "False")), None),
        (node(("Ready", "Unknown")), "node-not-ready"),
        (node(("Ready", "False")), "node-not-ready"),
        (node(("Ready", "True"), ("DiskPressure", "True")), "node-pressure"),
        (node(("Ready", "True"), unschedulable=True), "node-cordoned"),
    ],
)
def test_nodes(found: Object, fault: str | None) -> None:
    assert set(faults(foundations.nodes(state(Node=[found])))) == ({fault} if fault else set())


class Answers(Silent):
    """Stands in for a cluster that answers what a path says."""

    def __init__(self, answers: dict[str, Any], ahead: float = 0) -> None:
        self.answers, self.ahead = answers, ahead

    def request(self, _: str, path: str, **__: Any) -> Any:
        return self.answers[path]

    def head(self) -> dict[str, str]:
        return {"Date": email.utils.format_datetime(datetime.now(UTC) - timedelta(seconds=self.ahead), usegmt=True)}


@pytest.mark.parametrize(
    ("pods", "services", "told"),
    [([True, False], [], False), ([False, False], [], True), ([], ["kube-dns"], True), ([], [], False)],
)
def test_dns_of_the_cluster(pods: list[bool], services: list[str], told: bool) -> None:
    items = {"pods": [pod(ready=ready) for ready in pods], "services": services}
    known = state()
    known.cluster = Answers({f"/api/v1/namespaces/kube-system/{kind}": {"items": each} for kind, each in items.items()})  # type: ignore[assignment]
    assert set(faults(foundations.dns(known))) == ({"dns"} if told else set())


@pytest.mark.parametrize(("ahead", "told"), [(0, False), (-20, False), (120, True), (-120, True)])
def test_clock_of_this_machine(ahead: float, told: bool) -> None:
    known = state()
    known.cluster = Answers({}, ahead)  # type: ignore[assignment]
    assert set(faults(foundations.clock(known))) == ({"clock"} if told else set())


@pytest.mark.parametrize(
    ("disk", "volume", "size", "told"),
    [
        (0.5, 0.5, 1000, set()),
        (0.95, 0.5, 1000, {"node-disk"}),
        (0.5, 0.97, 1000, {"volume-full"}),
        (0.86, 0.97, 5000, set()),
        (0.97, 0.97, 5000, {"node-disk"}),
    ],
    ids=["half", "disk", "volume", "folder of a disk", "folder of a full disk"],
)
def test_used_space(disk: float, volume: float, size: int, told: set[str]) -> None:
    one = pod("minio-0", phase="Running")
    one["spec"] |= {"nodeName": "one", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}
    stats = {
        "pvcRef": {"name": "data", "namespace": "iml4e"},
        "capacityBytes": size,
        "availableBytes": size * (1 - volume),
    }
    summary = {
        "node": {"fs": {"capacityBytes": 5000, "usedBytes": 5000 * disk, "availableBytes": 5000 * (1 - disk)}},
        "pods": [{"volume": [stats]}],
    }
    known = state(Pod=[one])
    known.cluster = Answers({"/api/v1/nodes/one/proxy/stats/summary": summary})  # type: ignore[assignment]
    assert set(faults(stores.volumes(known))) == told


# --- pods


def pod(
    name: str = "mlflow-1",
    *,
    ready: bool = False,
    owner: str = "",
    age: float = 600,
    metadata: Object | None = None,
    **status: Any,
) -> Object:
    owners = {"ownerReferences": [{"uid": owner, "kind": "ReplicaSet", "name": "x"}]} if owner else {}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    spec = {"containers": [{"name": "main", "resources": {"limits": {"memory": "1Gi"}}}]}
    return thing(
        name, age=age, metadata=owners | (metadata or {}), spec=spec, status={"conditions": conditions, **status}
    )


def container(**fields: Any) -> Object:
    return {"containerStatuses": [{"name": "main", "ready": False, **fields}]}


ENDED = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": ago(100)}


@pytest.mark.parametrize(
    ("found", "fault", "words"),
    [
        (pod(ready=True, **container(ready=True, state={"running": {}})), None, ""),
        (pod(ready=True, **container(ready=True, state={"running": {}}, lastState={"terminated": ENDED}, restartCount=1)), "memory", "needed more memory than its limit of 1Gi"),
        (pod(ready=True, **container(ready=True, state={"running": {}}, lastState={"terminated": ENDED | {"finishedAt": ago(90_000)}}, restartCount=9)), None, ""),
        (pod(ready=True, **container(ready=True, state={"running": {}}, lastState={"terminated": {"exitCode": 1, "finishedAt": ago(60)}}, restartCount=4)), "restarts", "restarted 4 times"),
        (pod(ready=True, **container(ready=True, state={"running": {}}, lastState={"terminated": {"exitCode": 255, "reason": "Unknown", "finishedAt": ago(60)}}, restartCount=4)), None, ""),
        (pod(**container(state={"running": {"startedAt": ago(5)}})), "starting", "and is not ready"),
        (pod(**container(state={"running": {"startedAt": ago(300)}})), "not-ready", "runs since 5 min"),
        (pod(age=1, **container(state={"waiting": {"reason": "ContainerCreating"}})), "starting", "being made"),
        (pod(age=500, **container(state={"waiting": {"reason": "ContainerCreating"}})), "mount", "being made since"),
        (pod(**container(state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})), "image", "not found"),
        (pod(**container(state={"terminated": {"exitCode": 1, "message": "no port"}})), "exit", "its program ends with exit code 1: no port"),
        (pod(conditions=[{"type": "PodScheduled", "status": "False", "message": 'persistentvolumeclaim "a" not found'}]), "no-claim", "not found"),
    ],
)  # fmt: skip
def test_pods(found: Object, fault: str | None, words: str) -> None:
    said = workloads.ailing(state(), "Deployment mlflow", found)
    assert (said and said.fault) == fault
    assert not said or words in said.problem


def deployment(**spec: Any) -> Object:
    return thing("mlflow", spec={"replicas": 1, **spec})


def replica_set(number: int) -> Object:
    metadata = {"ownerReferences": [{"uid": "uid-mlflow", "kind": "Deployment", "name": "mlflow"}]}
    metadata["annotations"] = {"deployment.kubernetes.io/revision": str(number)}
    return thing(f"rs-{number}", metadata=metadata)


def test_a_rollout_that_is_stuck_says_that_the_former_pods_go_on() -> None:
    waiting = container(state={"waiting": {"reason": "ErrImagePull", "message": "not found"}})
    pods = [pod("old", ready=True, owner="uid-rs-9"), pod("new", owner="uid-rs-10", **waiting)]
    [found] = workloads.check(state(Deployment=[deployment()], ReplicaSet=[replica_set(10), replica_set(9)], Pod=pods))
    assert (found.fault, found.about) == ("image", "Deployment mlflow")
    assert found.problem.endswith("not found; the former pods go on")


def test_a_rollout_that_goes_well_is_no_finding() -> None:
    pods = [
        pod("old", ready=True, owner="uid-rs-1"),
        pod("new", owner="uid-rs-2", **container(state={"running": {"startedAt": ago(5)}})),
    ]
    assert (
        list(workloads.check(state(Deployment=[deployment()], ReplicaSet=[replica_set(1), replica_set(2)], Pod=pods)))
        == []
    )


def test_a_part_without_pods_says_why() -> None:
    event = {"involvedObject": {"kind": "ReplicaSet", "name": "rs-1"}, "type": "Warning", "reason": "FailedCreate"}
    event["message"] = 'Error creating: pods "a" is forbidden: exceeded quota: q, requested: pods=1'
    [found] = workloads.check(state(Deployment=[deployment()], ReplicaSet=[replica_set(1)], Event=[event]))
    assert found.fault == "quota"
    assert "exceeded quota: q" in found.problem


def test_objects_of_others_are_left_alone() -> None:
    other = thing("other", labels={"app.kubernetes.io/instance": "another"}, spec={"replicas": 0})
    assert list(workloads.check(state(Deployment=[other]))) == []


def job(name: str, at: float, *, failed: bool, owner: str = "") -> Object:
    condition = {"type": "Failed" if failed else "Complete", "status": "True", "reason": "BackoffLimitExceeded"}
    owners = {"ownerReferences": [{"uid": owner, "kind": "CronJob", "name": "gc"}]} if owner else {}
    return thing(name, age=at, metadata=owners, status={"conditions": [condition]})


@pytest.mark.parametrize(("last", "told"), [(True, {"cron-job"}), (False, set())])
def test_the_last_job_of_a_cron_job_counts(last: bool, told: set[str]) -> None:
    jobs = [job("gc-2", 60, failed=last, owner="uid-gc"), job("gc-1", 600, failed=not last, owner="uid-gc")]
    assert set(faults(workloads.check(state(CronJob=[thing("gc", spec={})], Job=jobs)))) == told


@pytest.mark.parametrize(
    ("claim", "events", "fault"),
    [
        ({"phase": "Bound"}, [], None),
        ({"phase": "Lost"}, [], "claim-lost"),
        ({"phase": "Pending"}, ["WaitForFirstConsumer"], None),
        ({"phase": "Pending"}, ["ProvisioningFailed"], "claim"),
        ({"phase": "Pending"}, [], "claim"),
    ],
)
def test_volume_claims(claim: Object, events: list[str], fault: str | None) -> None:
    said = [
        {
            "involvedObject": {"name": "data"},
            "type": "Warning" if "Failed" in each else "Normal",
            "reason": each,
            "message": "no",
        }
        for each in events
    ]
    found = faults(workloads.check(state(PersistentVolumeClaim=[thing("data", spec={}, status=claim)], Event=said)))
    assert set(found) == ({fault} if fault else set())


def test_a_claim_without_a_volume_goes_with_the_stateful_set_that_would_make_it_again() -> None:
    spec = {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    sets = [thing(name, spec=spec) for name in ("iml4e-maria", "iml4e-mariadb")]
    for claim, named in (
        ("data-iml4e-mariadb-0", "statefulset/iml4e-mariadb pvc/data-iml4e-mariadb-0"),
        ("mine", "pvc/mine"),
    ):
        waiting = thing(claim, spec={}, status={"phase": "Pending"})
        [found] = workloads._claims(state(PersistentVolumeClaim=[waiting], StatefulSet=sets))
        assert f"kubectl -n iml4e delete {named}, which" in found.cure


def test_a_pod_that_goes_on_ending() -> None:
    held = pod("held", metadata={"deletionTimestamp": ago(100), "finalizers": ["example.org/hold"]})
    assert "finalizer example.org/hold" in faults(workloads.check(state(Pod=[held])))["terminating"]
    assert not faults(workloads.check(state(Pod=[pod("ends", metadata={"deletionTimestamp": ago(5)})])))


def test_a_spec_that_kserve_refuses_is_told_although_the_pods_of_before_serve() -> None:
    refused = {
        "transitionStatus": "InvalidSpec",
        "lastFailureInfo": {"reason": "RuntimeNotRecognized", "message": "Waiting for runtime to become available"},
    }
    status = {"conditions": [{"type": "Ready", "status": "True"}], "modelStatus": refused}
    service = thing("fraud", spec={"predictor": {"model": {"runtime": "no-such"}}}, status=status)
    service["metadata"]["annotations"] = {"iml4e.org/model": "fraud", "iml4e.org/model-version": "2"}
    one = pod("fraud-predictor-1")
    one["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    one["metadata"]["labels"]["serving.kserve.io/inferenceservice"] = "fraud"
    one["metadata"]["annotations"] = {"iml4e.org/model-version": "1"}
    [found] = models.check(state(InferenceService=[service], Pod=[one]))
    assert found.fault == "model-old"
    assert "version 1 goes on, version 2 does not start" in found.problem
    assert "no-such" in found.problem


def test_a_model_that_packages_cannot_be_installed_for() -> None:
    service = thing("fraud", spec={}, status={"conditions": [{"type": "Ready", "status": "False"}]})
    service["metadata"]["annotations"] = {"iml4e.org/model": "fraud", "iml4e.org/model-version": "3"}
    ended = {"terminated": {"exitCode": 4, "message": "model_server: cannot install xgboost: no such version"}}
    one = pod("fraud-predictor-1", **container(state=ended))
    one["metadata"]["labels"]["serving.kserve.io/inferenceservice"] = "fraud"
    [found] = models.check(state(InferenceService=[service], Pod=[one]))
    assert found.fault == "model-packages"
    assert "iml4e deploy fraud/3 --name fraud" in found.cure


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("no PriorityClass with name high was found", "priority"),
        ("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", "policy"),
        ("something new", "refused"),
    ],
)
def test_refusals(message: str, kind: str) -> None:
    assert why.not_created(f'pods "a" is forbidden: {message}').kind == kind


# --- Helm, webhooks, references


def test_record_of_helm() -> None:
    packed = base64.b64encode(base64.b64encode(gzip.compress(b'{"info": {"status": "failed"}}'))).decode()
    assert foundations.unpack(packed) == {"info": {"status": "failed"}}


@pytest.mark.parametrize(
    ("selector", "well"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
    ],
)
def test_selectors(selector: Object, well: bool) -> None:
    assert foundations.selects(selector, {"a": "1"}) is well


def test_references_that_may_be_missing_are_no_fault() -> None:
    source = [
        {"secretRef": {"name": "here"}},
        {"configMapRef": {"name": "gone"}},
        {"secretRef": {"name": "may", "optional": True}},
    ]
    spec = {
        "containers": [{"name": "main", "envFrom": source}],
        "volumes": [{"name": "v", "secret": {"secretName": "lost"}}],
    }
    workload = thing("mlflow", spec={"template": {"spec": spec}})
    known = state(Deployment=[workload], Secret=[thing("here")], ConfigMap=[])
    assert {each.about for each in foundations.references(known)} == {"ConfigMap gone", "Secret lost"}
    known.skip("Secrets", "this account may not list secrets")
    assert {each.about for each in foundations.references(known)} == {"ConfigMap gone"}


@pytest.mark.parametrize(
    ("writer", "seconds", "key", "told"),
    [
        ("kubectl-edit", 60, "password", True),
        ("external-secrets", 60, "password", True),
        ("kubectl-edit", 900, "password", False),  # before the pod started
        ("kubectl-edit", 60, "other", False),  # which the container does not read
        ("iml4e-rotate", 60, "password", False),  # which restarts readers itself
        ("iml4e-secrets", 60, "password", False),
    ],
)
@pytest.mark.parametrize("whole", [False, True], ids=["a key", "all keys"])
def test_a_secret_that_changed_under_a_running_pod(
    writer: str, seconds: float, key: str, told: bool, whole: bool
) -> None:
    one = {"env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]}
    reads = {"envFrom": [{"secretRef": {"name": "db"}}]} if whole else one
    maker = thing("mlflow", spec={"template": {"spec": {"containers": [{"name": "main", **reads}]}}})
    pod = thing("mlflow-0", spec=maker["spec"]["template"]["spec"], status={"phase": "Running"})
    pod["metadata"]["ownerReferences"] = [{"uid": "uid-mlflow"}]
    pod["status"]["containerStatuses"] = [{"name": "main", "state": {"running": {"startedAt": ago(600)}}}]
    entries = [
        {"manager": "iml4e-secrets", "time": ago(3600), "fieldsV1": {"f:data": {"f:password": {}}}},
        {"manager": writer, "time": ago(seconds), "fieldsV1": {"f:data": {f"f:{key}": {}}}},
        {"manager": "kubectl-label", "time": ago(10), "fieldsV1": {"f:metadata": {}}},
    ]
    known = state(StatefulSet=[maker], Pod=[pod], Secret=[thing("db", metadata={"managedFields": entries})])
    found = faults(workloads.unread(known))
    assert set(found) == ({"secret-unread"} if told or (whole and key == "other") else set())
    assert all("statefulset/mlflow" in text for text in found.values())
    # of the release's own, an upgrade changes labels
    known.of("Secret")[0]["metadata"]["annotations"] = {"meta.helm.sh/release-name": "iml4e"}
    assert not faults(workloads.unread(known))


# --- certificates


@pytest.mark.parametrize(
    ("days", "since", "fault"),
    [(365, 1, None), (5, 1, "certificate-soon"), (-1, 48, "certificate-expired"), (365, -48, "certificate-expired")],
)
def test_dates_of_certificates(days: float, since: float, fault: str | None) -> None:
    text = pem(signed("a.example.org", days=days, since=since)[0]).encode()
    assert set(faults(certificates.dates(state(), text, "Secret a", "a", "iml4e"))) == ({fault} if fault else set())


def test_text_that_is_no_certificate() -> None:
    assert set(faults(certificates.dates(state(), b"none", "Secret a", "a", "iml4e"))) == {"certificate-expired"}


def test_names_and_authority_of_certificates() -> None:
    authority, other = signed("authority"), signed("other")
    server = pem(signed("*.example.org", "10.0.0.1", by=authority)[0]).encode()
    assert [
        certificates.covers(server, host) for host in ("a.example.org", "10.0.0.1", "example.org", "a.b.example.org")
    ] == [True, True, False, False]
    assert certificates.untrusted(server, pem(authority[0]).encode()) == ""
    assert "CN=other" in certificates.untrusted(server, pem(other[0]).encode())
    assert certificates.untrusted(server, b"") == "its caBundle is empty"
    assert certificates.untrusted(server, b"no PEM") == "its caBundle is no certificate"


# --- the program that runs in a pod


class Store(http.server.BaseHTTPRequestHandler):
    """Answers as an S3 store: the bucket's name says what."""

    def do_GET(self) -> None:
        code = self.path.split("?")[0].strip("/")
        body = f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(200 if code == "well" else 403)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("bucket", "fault"),
    [
        ("well", None),
        ("NoSuchBucket", "s3-bucket"),
        ("InvalidAccessKeyId", "s3-key"),
        ("AccessDenied", "s3-rights"),
        ("RequestTimeTooSkewed", "clock"),
        ("Busy", "s3-address"),
    ],
)
def test_program_in_a_pod(bucket: str, fault: str | None) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        environment = {"MLFLOW_S3_ENDPOINT_URL": address, "PATH": os.environ["PATH"]}
        keys = json.dumps({"models": {"bucket": bucket, "key": "a", "secret": "hidden"}})
        done = subprocess.run(
            [sys.executable, "-c", probe_path().read_text()],
            input=keys + "\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        server.shutdown()
    said = json.loads(done.stdout.strip().splitlines()[-1])["models"]
    assert said.get("fault") == fault
    assert "hidden" not in done.stdout


def test_program_in_a_pod_takes_a_password_as_the_secret_has_it() -> None:
    """A server that closes each connection after the login that the program is to send."""
    password = "some@body/el:se#s?%41&+$x"
    code = probe_path().read_text().rpartition("\nmain()")[0] + (
        "\nimport pymysql, types\nasked = {}\n"
        "pymysql.connect = lambda **said: asked.update(said) or types.SimpleNamespace(close=lambda: None)\n"
        "database(); print(json.dumps(asked))"
    )
    environment = {"DATABASE_USER": "mlflow", "DATABASE_PASSWORD": password, "PATH": os.environ["PATH"]}
    for composed, meant in ((password, password), ("p%40", "p@")):
        environment["MLFLOW_BACKEND_STORE_URI"] = f"mysql+pymysql://mlflow:{composed}@127.0.0.1:9/mlflow?ssl_ca=/ca"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said = json.loads(done.stdout)
        assert (said["user"], said["password"], said["host"], said["port"]) == ("mlflow", meant, "127.0.0.1", 9)
        assert (said["database"], said["ssl"]) == ("mlflow", {"ca": "/ca"})


def test_clock_of_a_node_that_differs() -> None:
    one = pod("mlflow-1", ready=True)
    one["spec"]["nodeName"] = "one"
    early = {"dns": "", "time": datetime.now(UTC).timestamp() - 90}
    found = faults(stores._told(state(), "Deployment mlflow", one, {"env": []}, early))
    assert "differs from this machine's by 90 s" in found["clock"]


# --- addresses


@pytest.mark.parametrize(
    ("host", "well"), [("localhost", True), ("10.0.0.7", True), ("ml.example.org", False), ("ML.internal", True)]
)
def test_hosts_of_mlflow(host: str, well: bool) -> None:
    assert network._matches(host, ["localhost", "localhost:*", "*.[0-9]", "ml.internal"]) is well
