"""Runs a pipeline on Kubeflow Pipelines through the gateway; each step is a pod."""

import contextlib
import json
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from iml4e import Error, lineage, platform
from iml4e.engines import StepFailed, Steps, last_sentence, own_words, workflow

#: Seconds that a run started here may take from its first pod on; time in the queue does not count.
RUN_TIMEOUT = 1700
#: Seconds that a pod may wait for something that waiting alone rarely cures: an image, a volume, a node that fits, a quota.
START_TIMEOUT = 300
#: Seconds between two looks at a run's Workflow, whose JSON may have a MiB.
LOOK = 5
#: Seconds that Kubeflow Pipelines may not answer, for example during an upgrade.
AWAY_TIMEOUT = 180
#: Final states of a run.
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class Run:
    """A run on Kubeflow Pipelines, followed from outside."""

    def __init__(self, client: Any, run_id: str, host: str, out: Any) -> None:
        from kfp_server_api import ApiException

        self.client, self.id, self.host = client, run_id, host
        # RuntimeError: ML Metadata without its database
        self.away_errors = (ApiException, HTTPError, requests.RequestException, RuntimeError)
        self.steps = Steps(out)
        page = platform.find("KF_PIPELINES_UI_ENDPOINT", host)
        self.steps.url = f"{page}/#/runs/details/{self.id}"
        self.known: dict[str, lineage.Step] = {}
        self.begun = 0.0
        """When its first pod was made; 0 before."""
        self.looked = 0.0
        """When its Workflow was read."""
        self.waits: dict[str, tuple[float, str]] = {"": (0.0, "")}
        """Pods that have not started, by name, and the run itself: since when, and why."""

    def follow(self, timeout: float | None = None) -> Steps:
        """Print the progress of the run until the run ends; outages of Kubeflow Pipelines up to AWAY_TIMEOUT are waited out.

        Args:
            timeout: seconds that the run may take after it has left the queue; then the run is cancelled. None: no limit.

        Raises:
            StepFailed: a step ended with an error, its pod does not start, or the run ended otherwise.
        """
        self.steps.say(f"run {self.steps.url}")
        seen = time.monotonic()
        while True:
            try:
                run = self.client.get_run(self.id)
                self._look()
                if run.state not in ENDED:
                    self._waiting()
                seen = time.monotonic()
                if run.state in ENDED:
                    break
            except self.away_errors as error:
                if time.monotonic() - seen > AWAY_TIMEOUT:
                    raise StepFailed(f"Kubeflow Pipelines at {self.host} does not answer: {error}") from None
            if timeout and self.begun and time.monotonic() - self.begun > timeout:
                self.client.terminate_run(self.id)
                raise StepFailed(f"the run did not end within {timeout} s and was cancelled; see {self.steps.url}")
            time.sleep(1)
        if run.state != "SUCCEEDED":
            raise StepFailed(self._reason(run))
        return self.steps

    def _look(self) -> None:
        """Print what changed since the last look."""
        for step in lineage.steps(self.host, self.id):
            former = self.known.get(step.name)
            self.known[step.name] = step
            if former is None:
                self.steps.say(f"→ {step.name}")
            if step.state != "running" and (former is None or former.state == "running"):
                for line in own_words(self._log(step)):
                    self.steps.say(f"  {line}")
                self.steps.outputs[step.name] = step.outputs
                cached = "as before" if step.state == "cached" else ""
                self.steps.ended(step.name, step.seconds, ok=step.state in ("succeeded", "cached"), how=cached)

    def _waiting(self) -> None:
        """Print what the run and its pods wait for, each reason once.

        Raises:
            StepFailed: a pod has been waiting for too long; the run is cancelled.
        """
        started = {bool(step.pod) for step in self.known.values() if step.state == "running"}
        if started == {True} or time.monotonic() - self.looked < LOOK:
            return  # all pods of the run are running
        found, self.looked = workflow.fetch(self.host, self.id), time.monotonic()
        if found.queued:
            if not self.waits[""][1]:
                self.steps.say("  it waits in the queue: other runs come first (pipelines.runs.parallelism)")
                self.waits[""] = self.looked, "queue"
            return
        if found.pods and not self.begun:
            self.begun = self.looked
        names = {pod.name: pod for pod in found.pods if pod.waits}
        self.waits = {name: about for name, about in self.waits.items() if name in names or not name}
        for name, pod in names.items():
            since, told = self.waits.setdefault(name, (self.looked, ""))
            if self.looked - since < 2 * LOOK:
                continue
            if pod.waits != told:
                self.steps.say(f"  {name}: its pod waits: {pod.waits}")
            # a wait for CPU or memory that other pods hold has no limit
            self.waits[name] = self.looked if pod.queues else since, pod.waits
            if not pod.queues and self.looked - since > START_TIMEOUT:
                self.client.terminate_run(self.id)
                raise StepFailed(f"the pod of {name} does not start: {pod.waits}")

    def _reason(self, run: Any) -> str:
        """Why the run failed: of the pod that failed first, of the step that ML Metadata knows, or of the run."""
        if any(each.state == "CANCELING" for each in run.state_history or []):
            return f"the run was cancelled; see {self.steps.url}"
        found = workflow.Workflow()
        with contextlib.suppress(*self.away_errors):
            found = workflow.fetch(self.host, self.id)
        failed = [step for step in self.known.values() if step.state == "failed"]
        if pod := found.failed():
            log = [
                line for step in self.known.values() if step.pod.endswith(f"-{pod.number}") for line in self._log(step)
            ]
            return f"{pod.name[0].upper()}{pod.name[1:]} failed: {workflow.reason(pod, log)}"
        if failed:
            return f"Step {failed[0].name} failed: {last_sentence(list(own_words(self._log(failed[0]))))}"
        told = workflow.reason(workflow.Pod("", False, found.phase, found.message)) if found.message else ""
        return f"the run ended as {run.state}: {told or (run.error.message if run.error else f'see {self.steps.url}')}"

    def _log(self, step: lineage.Step) -> list[str]:
        """Read the log of a step: from the step's pod, or from the bucket when the pod is gone."""
        about = {"podname": step.pod, "podnamespace": step.namespace, "runid": self.id}
        with contextlib.suppress(requests.RequestException):
            if step.pod:
                answer = requests.get(f"{self.host}/k8s/pod/logs", params=about, timeout=15)
                answer.raise_for_status()
                return answer.text.splitlines()
        return []


def run(host: str, pipeline: Any, arguments: dict[str, Any], out: Any = sys.stdout) -> Steps:
    """Run a pipeline on Kubeflow Pipelines; an interrupt cancels the run.

    Args:
        host: its address at the gateway, as `kfp.Client` takes it.
        pipeline: what `dsl.pipeline` made.
        arguments: all parameters.
        out: where to print the progress.

    Raises:
        StepFailed: a step ended with an error, its pod does not start, or nothing answers at `host`.
        Error: the arguments are too large.
    """
    if large := workflow.check(arguments):
        raise Error(large)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _answering(host), warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        client = _client(host)
        run_id = client.create_run_from_pipeline_func(pipeline, arguments=arguments).run_id
    try:
        return Run(client, run_id, host, out).follow(RUN_TIMEOUT)
    except KeyboardInterrupt:
        client.terminate_run(run_id)
        raise


def wait(run_id: str, host: str = "", out: Any = sys.stdout) -> Steps:
    """Follow any run until the run ends, as `kfp.Client.wait_for_run_completion` does, and report why the run fails.

    Args:
        run_id: the run, from `kfp.Client.create_run_from_…`.
        host: address of Kubeflow Pipelines; empty: that of the release.
        out: where to print the progress.

    Returns:
        The outputs of each step, as `outputs`.

    Raises:
        StepFailed: a step ended with an error, its pod does not start, or nothing answers at `host`; the message says why.
        Error: the release has no Kubeflow Pipelines.
    """
    host = host or platform.get("KF_PIPELINES_ENDPOINT")
    with _answering(host):
        client = _client(host)
        client.get_run(run_id)
    return Run(client, run_id, host, out).follow()


def _client(host: str) -> Any:
    import kfp

    return kfp.Client(host=host)


@contextlib.contextmanager
def _answering(host: str) -> Iterator[None]:
    """Turn an error or a missing answer of Kubeflow Pipelines into one sentence."""
    from kfp_server_api import ApiException

    try:
        yield
    except ApiException as error:
        said = re.search(r'"(?:error|message)":\s*"((?:[^"\\]|\\.)+)"', str(error.body))
        reason = json.loads(f'"{said[1]}"') if said else f"{error.status} {error.reason}"
        raise StepFailed(f"Kubeflow Pipelines at {host} refuses: {workflow.explain(reason)}") from None
    except HTTPError as error:
        raise StepFailed(f"Kubeflow Pipelines at {host} does not answer: {error}") from None
