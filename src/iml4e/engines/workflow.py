"""Why a run on Kubeflow Pipelines waits or failed: read from its Argo Workflow, which the API server keeps.

Kubeflow Pipelines' own API has no reasons, and ML Metadata knows a step only when its driver has run.
"""

import base64
import gzip
import json
import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import requests

from iml4e.engines import exception, last_sentence, own_words

#: Bytes that one argument of a program may have (Linux, MAX_ARG_STRLEN): drivers and launchers get values as arguments.
MOST_BYTES = 128 * 1024 - 1
#: Cure for a value that is too large.
CURE = "pass a large value as an artifact: dsl.Output[dsl.Artifact] in the step that makes it, dsl.importer for what is in the store"
#: Messages of pods that are only starting.
STARTING = ("PodInitializing", "ContainerCreating", "")
#: Errors of drivers, launchers and Argo that a too large value causes, and whose value is too large.
TOO_LARGE = {
    r"failed to unmarshal runtime config.*invalid value @": "the run's arguments",
    r"argument list too long": "its inputs, or its code,",
    r"Too long: may not be more than \d+ bytes": "its inputs, or its code,",
    r"workflow is longer than maximum allowed size|request is too large|Request entity too large": "the run's values",
}


@dataclass(frozen=True)
class Pod:
    """A pod of a run, as Argo's Workflow describes the pod."""

    step: str
    """Name of the step; empty for the run itself, which also has a driver."""
    driver: bool
    """Whether it prepares the step, rather than running it."""
    phase: str
    message: str = ""
    number: str = ""
    """The end of its name."""
    ended: str = ""
    limit: str = ""
    """Its memory limit; empty if the pipeline sets none."""

    @property
    def name(self) -> str:
        """Name of the pod in a sentence."""
        step = f"step {self.step}" if self.step else "the run"
        return f"the driver of {step}" if self.driver else step

    @property
    def queues(self) -> bool:
        """Whether the pod waits for CPU or memory that other pods hold now."""
        lacking = set(re.findall(r"Insufficient ([\w/-]+(?:\.[\w/-]+)*)", self.message))
        # the scheduler's message where no node could ever meet the request
        fits = "Preemption is not helpful" not in self.message
        return bool(lacking) and lacking <= {"cpu", "memory", "pods", "ephemeral-storage"} and fits

    @property
    def waits(self) -> str:
        """Why the pod does not start; empty if the pod is only starting."""
        if self.phase != "Pending" or self.message in STARTING:
            return ""
        if "ErrImagePull: " in self.message:
            return f"its image cannot be pulled: {self.message.rpartition('ErrImagePull: ')[2]}"
        text = re.sub(r'^(Unschedulable: |pods "[^"]+" is forbidden: )', "", self.message)
        return re.split(r",? ?preemption:|\.? no new claims to deallocate", text)[0].strip(" .,")


@dataclass(frozen=True)
class Workflow:
    """A run's Workflow, as far as it has come."""

    phase: str = ""
    message: str = ""
    pods: list[Pod] = field(default_factory=list)

    @property
    def queued(self) -> bool:
        """Whether the run waits in the queue (`pipelines.runs.parallelism`)."""
        return self.phase == "Pending" and not self.pods

    def failed(self) -> Pod | None:
        """The pod that failed first, if one did."""
        failed = [pod for pod in self.pods if pod.phase in ("Failed", "Error")]
        return min(failed, key=lambda pod: pod.ended, default=None)


def fetch(host: str, run_id: str) -> Workflow:
    """Read the Workflow of a run; the API server keeps the Workflow after the cluster has deleted it.

    Args:
        host: address of Kubeflow Pipelines at the gateway.
        run_id: the run.

    Raises:
        requests.RequestException: nothing answers there.
    """
    answer = requests.get(f"{host}/apis/v1beta1/runs/{run_id}", timeout=30)
    answer.raise_for_status()
    return parse(answer.json().get("pipeline_runtime", {}).get("workflow_manifest", ""))


def parse(manifest: str) -> Workflow:
    """Parse the JSON of a Workflow; empty text means a run that Argo has not seen yet."""
    status = json.loads(manifest or "{}").get("status", {})
    nodes = status.get("nodes") or {}
    if "compressedNodes" in status:  # beyond 1 MiB
        nodes = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
    return Workflow(status.get("phase", ""), status.get("message", ""), list(_pods(nodes)))


def _pods(nodes: dict[str, Any]) -> Iterator[Pod]:
    parents = {child: node for node in nodes.values() for child in node.get("children", [])}
    for node in nodes.values():
        if node["type"] not in ("Pod", "Skipped"):
            continue
        parent = parents.get(node["id"], {})
        while parent.get("type") == "Retry":
            parent = parents.get(parent["id"], {})
        template, step = node.get("templateName", ""), node["displayName"]
        driver = template.endswith("-driver")
        if driver:
            step = step.removesuffix("-driver").removesuffix("driver").removesuffix("root")
        elif template == "system-container-impl":
            step = parent.get("displayName", step)
        limit = ""
        for parameter in node.get("inputs", {}).get("parameters", []):
            if parameter["name"] == "pod-spec-patch" and parameter.get("value"):
                containers = json.loads(parameter["value"]).get("containers") or [{}]
                limit = (containers[0].get("resources", {}).get("limits") or {}).get("memory", "")
        yield Pod(
            step,
            driver,
            node["phase"],
            node.get("message", ""),
            node["id"].rpartition("-")[2],
            node.get("finishedAt") or "",
            limit,
        )


def reason(pod: Pod, log: Iterable[str] = ()) -> str:
    """Why a pod failed; one sentence where possible.

    Args:
        pod: the pod.
        log: its log, if there is one; Argo's message has the end of it.
    """
    found = re.match(r"(?:([\w-]+): )?(\w+) \(exit code (\d+)\)(?:: (.*))?$", pod.message, re.DOTALL)
    text = "\n".join([found[4] or "" if found else pod.message, *log])
    if (told := explain(text)) != text:
        return told
    if not found:
        known = {
            "Step exceeded its deadline": "the run was cancelled, or its time was up",
            "pod deleted": "its pod was deleted, or its node is gone",
        }
        return known.get(pod.message, pod.message.strip(" .")) or "its pod said nothing"
    container, kind, code = found[1] or "main", found[2], int(found[3])
    if kind == "OOMKilled":
        whose = "it" if container == "main" else f"its container {container}"
        limit = f"its {pod.limit} of memory" if pod.limit else "its memory limit"
        return f"{whose} used more than {limit}; task.set_memory_limit(…) gives it more"
    if fatal := re.findall(
        r"^F\d{4} [\d:.]+ +\d+ \S+\] (?:KFP driver: )?(?!.*: (?:exit status|signal:) )(.+)$", text, re.MULTILINE
    ):
        return fatal[-1].removeprefix("failed to execute component: ")
    lines = list(own_words(log)) or list(own_words((found[4] or "").splitlines()))
    if ended := re.findall(r"failed to execute component: (?:exit status (\d+)|signal: ([\w ]+))", text):
        status, name = ended[-1]
        code = int(status) if status else _number(name)
    if code == 1 and exception(lines):
        return last_sentence(lines)
    said = last_sentence(lines) if lines else ""
    return how(code) + (f": {said}" if said else "")


def explain(text: str) -> str:
    """Replace an error that a too large value causes by a sentence with its cure; return any other text unchanged."""
    return next((too_large(whose) for pattern, whose in TOO_LARGE.items() if re.search(pattern, text)), text)


def too_large(whose: str) -> str:
    """The sentence for values that are too large for a step."""
    return f"{whose} are larger than the {MOST_BYTES // 1024 + 1} KiB that a step can be given; {CURE}"


def how(code: int) -> str:
    """Describe an exit code as a shell counts exit codes: above 128 the code is a signal."""
    if code > 128 and code - 128 in set(signal.Signals):
        return f"ended by {signal.Signals(code - 128).name} (exit code {code})"
    return f"exit code {code}"


def _number(name: str) -> int:
    """Exit code of a signal as Go calls it: `killed`, `segmentation fault`."""
    for known in signal.Signals:
        if (signal.strsignal(known) or "").lower() == name.strip().lower():
            return 128 + known
    return 1


def check(arguments: dict[str, Any]) -> str:
    """Why the arguments of a run are too large, else empty text: the run's driver gets all arguments as one argument of a program."""
    sizes = {name: len(json.dumps(value, ensure_ascii=False).encode()) for name, value in arguments.items()}
    if sum(sizes.values()) + 32 * len(sizes) < MOST_BYTES:
        return ""
    largest = max(sizes, key=lambda name: sizes[name])
    return (
        f"the run's arguments have {sum(sizes.values()) / 1024:.0f} KiB, of which {largest} {sizes[largest] / 1024:.0f}; "
        f"all together may have {MOST_BYTES // 1024 + 1} KiB; {CURE}"
    )
