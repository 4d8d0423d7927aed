"""Names, objects and reasons of served models: from objects as a cluster gave them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kfp import compiler

from iml4e import Error, manifests, serving, why
from iml4e.cluster import Cluster, RefusedError

#: Recorded on KServe 0.20 and Kubernetes 1.36: what a model looks like that does not start, by what is wrong with it.
RECORDED = json.loads((Path(__file__).parent / "data" / "not_ready.json").read_text())

#: What is wrong: part of the text, part of the cure, whether it ends a deployment within a quarter of a minute.
REASONS: dict[str, tuple[str, str, bool]] = {
    "cm": ('configmap "nope" not found', "", True),
    "gpu": ("1 Insufficient nvidia.com/gpu", "--gpu", True),
    "image": ("no such host", "--image", True),
    "invalidimage": ("couldn't parse image name", "--image", True),
    "memory": ("1 Insufficient memory", "--memory", False),
    "name": ("must be no more than 63 characters", "--name", True),
    "nopython": ('exec: "nosuchprogram": executable file not found', "Python", True),
    "notready": ("its log ends with: loading", "", False),
    "oom": ("more memory than its limit of 50Mi", "--memory-limit", True),
    "privileged": ('violates PodSecurity "restricted:latest"', "", True),
    "quota": ("must specify limits.cpu", "deploy it with --cpu-limit", True),
    "reqlimit": ("must be less than or equal to memory limit of 2Gi", "--memory-limit", True),
    "runtime": ("with the name: no-such", "--runtime", True),
    "sa": ('serviceaccount "nobody" not found', "service account", True),
    "segv": ("exit code 0: hello", "", True),
    "selector": ("didn't match Pod's node affinity/selector", "--node-selector", True),
    "uri": ("No model found in no/such/", "", True),
}


def find(recorded: dict[str, Any]) -> why.Reason | None:
    """The reason of a recorded model, with its recorded logs."""
    return why.find(
        recorded["service"],
        recorded["pods"],
        recorded["events"],
        lambda _, container, before: recorded["logs"].get(f"{container} {'previous' if before else 'now'}", ""),
    )


@pytest.mark.parametrize("case", REASONS)
def test_reason_is_found(case: str) -> None:
    text, cure, final = REASONS[case]
    reason = find(RECORDED[case])
    assert reason
    assert text in reason.text
    assert cure in reason.cure
    assert (reason.patience <= 15) is final
    assert "Error creating" not in reason.text
    assert "preemption" not in reason.text


@pytest.mark.parametrize("case", ["runtime", "reqlimit"])
def test_an_error_of_kserve_is_found_without_its_event(case: str) -> None:
    """Kubernetes drops further events of an object that had many."""
    reason = find({**RECORDED[case], "events": []})
    assert reason
    assert reason.patience == why.KSERVE
    assert reason.cure


def test_every_recorded_case_is_tested() -> None:
    assert set(REASONS) == set(RECORDED) - {"good"}


def pod(**status: Any) -> dict[str, Any]:
    """A pod of which the model server's container has a status."""
    container = {"name": "kserve-container", "ready": False, "restartCount": 0, **status}
    return {
        "metadata": {"name": "fraud-predictor-1"},
        "spec": {"containers": [{"name": "kserve-container", "resources": {"limits": {"memory": "1Gi"}}}]},
        "status": {"phase": "Running", "containerStatuses": [container]},
    }


SERVICE = {"metadata": {"name": "fraud"}, "status": {}}


@pytest.mark.parametrize(
    ("ended", "text", "cure", "final"),
    [
        ({"exitCode": 3, "message": "model_server: cannot load: No module named 'xgboost'"}, "No module named", "--packages xgboost", True),
        ({"exitCode": 4, "message": "pip says\nmodel_server: cannot install xgboost: no such version"}, "no such version", "--packages", True),
        ({"exitCode": 139, "reason": "Error"}, "signal SIGSEGV", "another Python", False),
        ({"exitCode": 137, "reason": "OOMKilled"}, "limit of 1Gi", "--memory-limit", True),
        ({"exitCode": 7, "message": "ValueError: no\n"}, "exit code 7: ValueError: no", "", False),
    ],
)  # fmt: skip
def test_ended_container_is_told_by_its_end(ended: dict[str, Any], text: str, cure: str, final: bool) -> None:
    for status in (
        {"state": {"terminated": ended}},
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}},
    ):
        reason = why.find(SERVICE, [pod(**status)], [], lambda *_: "")
        assert reason
        assert text in reason.text
        assert cure in reason.cure
        assert (reason.patience == why.AT_ONCE) is final


def test_a_container_that_ends_again_and_again_is_given_up() -> None:
    ended = {"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}
    patience = [why.find(SERVICE, [pod(restartCount=n, **ended)], [], lambda *_: "").patience for n in range(4)]
    assert patience == [why.GOES_ON, why.GOES_ON, why.AT_ONCE, why.AT_ONCE]


def test_log_is_that_of_the_instance_that_ended() -> None:
    asked: list[bool] = []

    def log(_pod: str, _container: str, before: bool) -> str:
        asked.append(before)
        return ""

    why.find(SERVICE, [pod(state={"terminated": {"exitCode": 1}})], [], log)
    why.find(SERVICE, [pod(state={"running": {}}, lastState={"terminated": {"exitCode": 1}})], [], log)
    assert asked == [False, True]


def test_a_node_that_is_on_its_way_is_waited_for() -> None:
    recorded = json.loads(json.dumps(RECORDED["gpu"]))
    name = recorded["pods"][0]["metadata"]["name"]
    about = {"kind": "Pod", "name": name}
    recorded["events"].append(
        {"involvedObject": about, "type": "Normal", "reason": "TriggeredScaleUp", "message": "1->2"}
    )
    assert find(recorded).patience == why.GOES_ON


@pytest.mark.parametrize(
    ("message", "cure", "patience"),
    [
        ('exceeded quota: q, requested: pods=1, used: pods=4, limited: pods=4', "quota", why.REFUSED),
        ('admission webhook "policy.example.org" denied the request: no', "policy", why.REFUSED),
        ('Internal error occurred: failed calling webhook "x": connection refused', "webhook", why.WEBHOOK),
        ("maximum memory usage per Container is 1Gi, but limit is 2Gi", "LimitRange", why.REFUSED),
        (
            "failed quota: q: must specify limits.cpu for: kserve-container; limits.memory for: kserve-container",
            "--cpu-limit and --memory-limit, or have the release upgraded with values/quota.yaml", why.REFUSED,
        ),
    ],
)  # fmt: skip
def test_refused_pod_is_told(message: str, cure: str, patience: float) -> None:
    event = {
        "involvedObject": {"kind": "ReplicaSet", "name": "fraud-predictor-1"},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": f'Error creating: pods "fraud-predictor-1-x" is forbidden: {message}',
    }
    reason = why.find(SERVICE, [], [event], lambda *_: "")
    assert reason.text.endswith(message)
    assert cure in reason.cure
    assert reason.patience == patience


NAMESPACES = st.from_regex(r"[a-z]([-a-z0-9]{0,42}[a-z0-9])?", fullmatch=True)


@given(st.text(min_size=1).filter(lambda text: not set("/:") & set(text)), NAMESPACES)
@example("Bug_Wine", "iml4e")
@example("9 lives", "iml4e")
@example("Größe.v2", "iml4e")
@example("日本", "iml4e")
def test_every_model_gets_a_legal_and_stable_name(model: str, namespace: str) -> None:
    name = manifests.endpoint_name(model, namespace)
    assert manifests.legal_name(name, namespace) == name
    assert len(f"{name}-predictor-{namespace}") <= 63
    assert manifests.endpoint_name(model, namespace) == name


@given(st.lists(st.text(alphabet="aA-_ .9é", min_size=1, max_size=8), unique=True, max_size=30))
def test_two_models_never_share_a_name(models: list[str]) -> None:
    assert len({manifests.endpoint_name(model, "iml4e") for model in models}) == len(models)


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?", fullmatch=True))
def test_a_legal_name_is_kept(model: str) -> None:
    assert manifests.endpoint_name(model, "iml4e") == model


@pytest.mark.parametrize("name", ["", "Fraud", "1st", "a_b", "a.b", "-a", "a-", "ä", "x" * 60])
def test_an_illegal_name_is_told(name: str) -> None:
    with pytest.raises(Error, match=r"letter|long"):
        manifests.legal_name(name, "iml4e")


def service(**settings: Any) -> dict[str, Any]:
    """An InferenceService of a version."""
    return manifests.inference_service(
        "Fraud", "3", "s3://mlflow/1/", name="fraud", namespace="iml4e", account="iml4e-models", **settings
    )


def test_what_is_not_asked_for_is_left_to_the_runtime() -> None:
    made = service()
    assert set(made["spec"]["predictor"]["model"]) == {"modelFormat", "runtime", "storageUri"}
    assert set(made["spec"]["predictor"]) == {
        "serviceAccountName", "minReplicas", "maxReplicas", "terminationGracePeriodSeconds", "model",
    }  # fmt: skip
    assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "iml4e"}


def test_what_is_asked_for_is_in_the_object() -> None:
    made = service(
        replicas=(2, 4),
        resources=manifests.resources_of("500m", "1Gi", None, "2Gi", 1),
        node_selector={"disk": "ssd"},
        tolerations=[manifests.toleration("gpu=yes:NoSchedule"), manifests.toleration("spot")],
        packages=["xgboost==3.0", "lightgbm"],
        batching="off",
        latency_objective="250ms",
    )
    predictor = made["spec"]["predictor"]
    assert predictor["model"]["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "1"},
        "limits": {"memory": "2Gi", "nvidia.com/gpu": "1"},
    }
    assert predictor["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Exists"},
    ]
    assert predictor["model"]["env"] == [{"name": "MODEL_SERVER_PACKAGES", "value": "xgboost==3.0 lightgbm"}]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 4)
    assert made["metadata"]["annotations"]["iml4e.org/batching"] == "off"
    assert made["metadata"]["annotations"]["iml4e.org/latency-objective"] == "250ms"


def test_gpus_of_another_kind() -> None:
    assert manifests.resources_of(None, None, None, None, "amd.com/gpu=2")["limits"] == {"amd.com/gpu": "2"}


def test_a_revision_tells_specs_apart() -> None:
    revisions = [
        each["metadata"]["annotations"][manifests.REVISION] for each in (service(), service(), service(image="x"))
    ]
    assert revisions[0] == revisions[1] != revisions[2]


def test_only_what_this_package_applied_is_applied_again() -> None:
    made = service(packages=["xgboost"])
    stored = json.loads(json.dumps(made))
    stored["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = "Standard"
    stored["spec"]["predictor"]["automountServiceAccountToken"] = False
    stored["spec"]["predictor"]["model"] |= {"name": "", "resources": {}}
    stored["metadata"]["managedFields"] = [
        {"manager": "manager", "operation": "Update", "fieldsV1": {"f:status": {}}},
        {"manager": "iml4e", "operation": "Apply", "fieldsV1": fields(made)},
    ]
    assert manifests.applied(stored) == made


def fields(thing: Any) -> dict[str, Any]:
    """What the API server notes of an applied object: lists are keyed by name, leaves are empty."""
    if isinstance(thing, dict):
        skipped = ("apiVersion", "kind", "name", "namespace")
        return {f"f:{key}": fields(value) for key, value in thing.items() if key not in skipped or "value" in thing}
    if isinstance(thing, list) and thing and isinstance(thing[0], dict):
        return {f"k:{json.dumps({'name': each['name']})}": {".": {}, **fields(each)} for each in thing}
    return {}


def test_a_spec_that_others_made_is_kept_whole() -> None:
    stored = service() | {"status": {}}
    stored["metadata"]["managedFields"] = [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]
    assert manifests.applied(stored)["spec"] == stored["spec"]


def test_what_to_go_back_to_does_not_nest() -> None:
    made = service()
    made["metadata"]["annotations"] |= {manifests.PREVIOUS: "x" * 1000, manifests.FORMER: "2"}
    before = json.loads(manifests.previous(made))
    assert set(before["annotations"]) == {manifests.MODEL, manifests.VERSION, manifests.REVISION}
    assert before["spec"] == made["spec"]


@pytest.mark.parametrize(
    ("metadata", "ours"),
    [
        ({"labels": {"app.kubernetes.io/managed-by": "iml4e"}}, True),
        ({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, False),
        ({"annotations": {"iml4e.org/model-version": "1"}}, True),
        ({"ownerReferences": [{"kind": "InferenceService", "name": "fraud"}]}, True),
        ({"ownerReferences": [{"kind": "InferenceService", "name": "other"}]}, False),
        ({}, False),
    ],
)
def test_objects_of_others_are_known(metadata: dict[str, Any], ours: bool) -> None:
    assert manifests.owned({"metadata": {"name": "fraud", **metadata}}) is ours


def test_people_without_kubectl_deploy_by_a_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would be submitted compiles, and carries the package and the arguments."""
    asked: list[Any] = []

    def run(host: str, pipeline: Any, arguments: dict[str, Any]) -> Any:
        compiler.Compiler().compile(pipeline, str(tmp_path / "pipeline.yaml"))
        asked.append((host, arguments))
        return SimpleNamespace(outputs={"serve": {"Output": '{"name": "fraud"}'}})

    monkeypatch.setattr("iml4e.engines.kfp.run", run)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://localhost/pipeline")
    monkeypatch.setenv("RUNTIME_IMAGE", "example.org/runtime:1")
    assert serving._by_pipeline("deploy", {"model": "fraud", "version": "3", "force": True}) == {"name": "fraud"}
    host, arguments = asked[0]
    assert host == "http://localhost/pipeline"
    assert arguments["function"] == "deploy"
    assert json.loads(arguments["arguments"]) == {"model": "fraud", "version": "3", "force": True}
    compiled = (tmp_path / "pipeline.yaml").read_text()
    assert "image: example.org/runtime:1" in compiled
    assert len(compiled) < 120_000


def route(*conditions: tuple[str, str, str], namespace: str | None = "infra", name: str = "shared") -> dict[str, Any]:
    """A model's route to the Gateway infra/shared, with what Traefik 3.7 said of a Gateway: type, status, reason."""
    said = [{"type": kind, "status": status, "reason": reason, "message": ""} for kind, status, reason in conditions]
    where = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "metadata": {"name": "fraud", "namespace": "team"},
        "spec": {"parentRefs": [{"name": "shared", "namespace": "infra"}]},
        "status": {"parents": [{"parentRef": where, "conditions": said}]} if said else {},
    }


ACCEPTED, REFUSED = ("Accepted", "True", "Accepted"), ("Accepted", "False", "NotAllowedByListeners")
RESOLVED = ("ResolvedRefs", "True", "ResolvedRefs")


def test_a_route_that_its_gateway_accepts_is_fine() -> None:
    assert manifests.unrouted(route(ACCEPTED, RESOLVED)) == ""


def test_a_route_that_its_gateway_refuses_says_what_the_gateway_must_allow() -> None:
    assert manifests.unrouted(route(REFUSED, RESOLVED)) == (
        "Gateway shared in namespace infra does not accept its route (NotAllowedByListeners): "
        "its listeners must allow routes from namespace team"
    )


@pytest.mark.parametrize("lost", [route(), route(ACCEPTED, name="former"), route(ACCEPTED, namespace=None)])
def test_a_route_that_nobody_has_taken_says_that_the_gateway_is_missing(lost: dict[str, Any]) -> None:
    """No status at all, or only that of a former Gateway; without a namespace that is the route's own."""
    assert manifests.unrouted(lost).startswith("no controller has taken its route to Gateway shared in namespace infra")


def test_a_route_that_names_no_namespace_means_its_own() -> None:
    own = route(ACCEPTED, namespace=None)
    own["spec"]["parentRefs"] = [{"name": "shared"}]
    assert manifests.unrouted(own) == ""


def test_the_route_of_a_model_names_the_gateway_and_its_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"S3_DATASETS_BUCKET": "x", "GATEWAY_NAME": "shared", "GATEWAY_NAMESPACE": "infra"}.items():
        monkeypatch.setenv(key, value)
    service = {
        "apiVersion": "v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "m", "namespace": "team", "uid": "1"},
    }
    assert manifests.http_route(service)["spec"]["parentRefs"] == [{"name": "shared", "namespace": "infra"}]


def budgeted(replicas: int) -> dict[str, Any]:
    """An InferenceService that the API server has."""
    made = {"name": "m", "namespace": "team", "uid": "1"}
    spec = {"predictor": {"minReplicas": replicas}}
    return {"apiVersion": "v1beta1", "kind": "InferenceService", "metadata": made, "spec": spec}


def test_drains_take_one_replica_of_a_model_at_a_time() -> None:
    budget = manifests.disruption_budget(budgeted(2))
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"] == {"serving.kserve.io/inferenceservice": "m"}
    # deleted with the model
    assert budget["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1beta1", "kind": "InferenceService", "name": "m", "uid": "1"}
    ]


@pytest.mark.parametrize(("replicas", "warnings"), [(1, 0), (2, 1)])
def test_a_model_is_served_without_the_right_to_protect_it(
    monkeypatch: pytest.MonkeyPatch, replicas: int, warnings: int
) -> None:
    def refuse(self: Cluster, thing: dict[str, Any], *, force: bool) -> None:
        raise RefusedError("poddisruptionbudgets is forbidden", 403)

    monkeypatch.setattr(Cluster, "apply", refuse)
    said: list[str] = []
    serving._protect(Cluster.__new__(Cluster), budgeted(replicas), said.append)
    assert len([line for line in said if "poddisruptionbudgets is forbidden" in line]) == warnings
