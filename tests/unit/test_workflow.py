"""Reasons out of a run's Workflow. The messages are what Kubeflow Pipelines 2.17 and Argo 4.0.5 wrote on a cluster."""

import base64
import gzip
import json
from typing import Any

import pytest

from iml4e.engines import workflow
from iml4e.engines.workflow import Pod, Workflow, parse, reason

JSON = '{"time":"2026-11-25T23:36:39.594305958Z","level":"INFO","msg":"sub-process exited","argo":true,"error":"exit status 1"}\n'


def ended(code: int, words: str = "", kind: str = "Error", own: int = 1) -> str:
    """Argo's message of a step whose program ended with a code."""
    return (
        f"main: {kind} (exit code {own}): {JSON}"
        "I1125 23:36:39.283669      16 main.go:67] Setting log level to: '1'\n"
        f"{words}E1125 23:36:39.742098      16 launcher_v2.go:449] Component failed to execute successfully: exit status {code}\n"
        f"F1125 23:36:39.763475      16 main.go:59] failed to execute component: exit status {code}\n{JSON}Error: exit status 1\n"
    )


def failed(message: str, limit: str = "", *, driver: bool = False) -> Pod:
    """A pod that failed."""
    return Pod("train", driver, "Failed", message, limit=limit)


@pytest.mark.parametrize(
    ("message", "limit", "told"),
    [
        (ended(137, "Killed\n", "OOMKilled"), "200M", "it used more than its 200M of memory; "),
        (
            ended(1, "subprocess.CalledProcessError: died\n", "OOMKilled"),
            "1Gi",
            "it used more than its 1Gi of memory; ",
        ),
        ("main: OOMKilled (exit code 137)", "", "it used more than its memory limit; "),
        ("kfp-launcher: OOMKilled (exit code 137)", "200M", "its container kfp-launcher used more than its 200M"),
        (ended(7), "", "exit code 7"),
        (ended(7, "hello\n"), "", "exit code 7: hello"),
        (ended(139), "", "ended by SIGSEGV (exit code 139)"),
        (ended(137), "", "ended by SIGKILL (exit code 137)"),
        (ended(1).replace("exit status 1", "signal: killed"), "", "ended by SIGKILL (exit code 137)"),
        (ended(127, "sh: 1: python3: not found\n"), "", "exit code 127: sh: 1: python3: not found"),
        (ended(1, "Traceback (most recent call last):\n  File x\nValueError: no rows\n"), "", "no rows"),
        ("main: Error (exit code 143): " + JSON, "", "ended by SIGTERM (exit code 143)"),
        ("Step exceeded its deadline", "", "the run was cancelled, or its time was up"),
        (
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi.",
            "",
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi",
        ),
        ("pod deleted", "", "its pod was deleted, or its node is gone"),
    ],
)
def test_how_a_step_ended(message: str, limit: str, told: str) -> None:
    found = reason(failed(message, limit))
    assert found.startswith(told)
    if not told.endswith(("; ", "200M")):
        assert found == told


def test_the_log_has_what_the_message_was_too_short_for() -> None:
    log = [
        "Traceback (most recent call last):",
        "  File x",
        "KeyError: 'price'",
        *["I1125 23:36:39.283669  16 x.go:1] y"] * 90,
    ]
    assert reason(failed(ended(1)), log) == "'price'"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "main: Error (exit code 1): exec /var/run/argo/argoexec: argument list too long\n",
            "its inputs, or its code, are larger than",
        ),
        (
            "task 'b.root.take.executor' errored: ConfigMap \"b-1\" is invalid: []: Too long: may not be more than 1048576 bytes",
            "its inputs, or its code, are larger than",
        ),
        (
            "main: Error (exit code 1): F1125 23:38:43.971121      15 main.go:127] KFP driver: failed to unmarshal runtime config, "
            "error: proto: syntax error (line 1:1): invalid value @\nruntimeConfig: 0x2a9b55b03510\n",
            "the run's arguments are larger than",
        ),
        (
            "workflow is longer than maximum allowed size. compressed size 1058391 > maxSize 1048576",
            "the run's values are larger",
        ),
    ],
)
def test_what_is_too_large_is_to_be_an_artifact(message: str, told: str) -> None:
    assert reason(failed(message)).startswith(told)
    assert "pass a large value as an artifact" in reason(failed(message))


def test_a_driver_ends_with_its_own_sentence() -> None:
    message = (
        f"main: Error (exit code 1): {JSON}F1125 23:38:43.971121      15 main.go:127] KFP driver: driver.Container(…) failed: "
        "resolving input parameter n: no such output\n"
        '{"time":"2026-11-25T23:38:44Z","level":"ERROR","msg":"cannot save parameter, does not exist","argo":true}\nError: exit status 1\n'
    )
    assert (
        reason(failed(message, driver=True))
        == "driver.Container(…) failed: resolving input parameter n: no such output"
    )
    assert failed(message, driver=True).name == "the driver of step train"
    assert Pod("", True, "Failed").name == "the driver of the run"


UNSCHEDULABLE = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 "


@pytest.mark.parametrize(
    ("message", "told", "queues"),
    [
        (
            UNSCHEDULABLE + "No preemption victims found for incoming pod.",
            "0/1 nodes are available: 1 Insufficient cpu",
            True,
        ),
        (
            UNSCHEDULABLE + "Preemption is not helpful for scheduling.",
            "0/1 nodes are available: 1 Insufficient cpu",
            False,
        ),
        (
            UNSCHEDULABLE.replace("cpu", "nvidia.com/gpu") + "No preemption victims found for incoming pod.",
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
            False,
        ),
        (
            'ImagePullBackOff: Back-off pulling image "a/b:1": ErrImagePull: failed to resolve image: no such host',
            "its image cannot be pulled: failed to resolve image: no such host",
            False,
        ),
        (
            'pods "x-1" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 0, limited: 0',
            "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 0, limited: 0",
            False,
        ),
        ("PodInitializing", "", False),
        ("", "", False),
    ],
)
def test_why_a_pod_waits(message: str, told: str, queues: bool) -> None:
    pod = Pod("train", False, "Pending", message)
    assert (pod.waits, pod.queues) == (told, queues)
    assert Pod("train", False, "Running", message).waits == ""


def node(number: int, kind: str, name: str, template: str, phase: str, *children: int, **more: Any) -> dict[str, Any]:
    """A node of a Workflow."""
    ids = [f"wf-{child}" for child in children]
    return {
        "id": f"wf-{number}",
        "type": kind,
        "displayName": name,
        "templateName": template,
        "phase": phase,
        "children": ids,
        **more,
    }


PATCH = json.dumps({"containers": [{"name": "main", "resources": {"limits": {"memory": "200M"}}}]})
NODES = {
    each["id"]: each
    for each in [
        node(1, "DAG", "wf", "entrypoint", "Failed", 2),
        node(2, "Pod", "root-driver", "system-dag-driver", "Succeeded", 3, finishedAt="2026-11-25T23:00:00Z"),
        node(3, "DAG", "root", "root", "Failed", 4),
        node(4, "Pod", "train-driver", "system-container-driver", "Succeeded", 5, finishedAt="2026-11-25T23:00:01Z"),
        node(5, "DAG", "train", "system-container-executor", "Failed", 6),
        node(6, "Retry", "executor", "retry-system-container-impl", "Failed", 7, 8),
        node(
            7, "Pod", "executor(0)", "system-container-impl", "Failed", finishedAt="2026-11-25T23:00:02Z", message="main: OOMKilled (exit code 1)",
            inputs={"parameters": [{"name": "pod-spec-patch", "value": PATCH}]},
        ),
        node(8, "Pod", "executor(1)", "system-container-impl", "Pending", message="Unschedulable: 1 Insufficient cpu."),
        node(9, "Skipped", "deploy-driver", "system-container-driver", "Omitted", message="omitted: depends condition not met"),
    ]
}  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True])
def test_pods_are_called_as_their_steps(compressed: bool) -> None:
    """Beyond 1 MiB Argo compresses the nodes."""
    packed = base64.b64encode(gzip.compress(json.dumps(NODES).encode())).decode()
    found = parse(
        json.dumps(
            {"status": {"phase": "Running", **({"compressedNodes": packed} if compressed else {"nodes": NODES})}}
        )
    )
    assert [(pod.name, pod.number) for pod in found.pods if pod.phase != "Omitted"] == [
        ("the driver of the run", "2"), ("the driver of step train", "4"), ("step train", "7"), ("step train", "8"),
    ]  # fmt: skip
    first = found.failed()
    assert first
    assert (first.number, first.limit) == ("7", "200M")
    assert [pod.number for pod in found.pods if pod.waits] == ["8"]
    assert not found.queued


def test_a_run_in_the_queue_has_no_pods() -> None:
    message = "Workflow processing has been postponed because too many workflows are already running"
    assert parse(json.dumps({"status": {"phase": "Pending", "message": message}})).queued
    assert not parse("").queued
    assert parse("") == Workflow()


def test_arguments_that_cannot_reach_the_run_are_refused_before_it() -> None:
    assert workflow.check({"text": "x" * 125_000, "seed": 1}) == ""
    told = workflow.check({"text": "x" * 140_000, "seed": 1})
    assert told.startswith(
        "the run's arguments have 137 KiB, of which text 137; all together may have 128 KiB; pass a large value"
    )
    assert workflow.check(dict.fromkeys("abcd", "x" * 40_000))  # many of middling size
    assert workflow.check({"rows": [["x" * 100] * 100] * 14})  # lists and maps
    assert workflow.check({"text": '"' * 70_000})  # two bytes each, as JSON
    assert workflow.check({"text": "🍷" * 33_000})  # four
