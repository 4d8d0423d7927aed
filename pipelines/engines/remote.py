"""Runs a pipeline on Kubeflow Pipelines, each step a pod of its own, by its address at the front door."""

import contextlib
import os
import signal
import sys
import time
import warnings
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from pipelines.engines import StepFailed, Steps, last_sentence, lineage, own_words

#: Seconds that a whole run may take.
RUN_TIMEOUT = 1700
#: Seconds that the pod of a step may wait for its start: for a node, an image, a volume.
START_TIMEOUT = 300
#: Seconds that Kubeflow Pipelines may be away, as it is while it is upgraded.
AWAY_TIMEOUT = 180
#: States of a run that do not change any more.
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class Run:
    """A run on Kubeflow Pipelines, followed from outside."""

    def __init__(self, host: str, pipeline: Any, arguments: dict[str, Any], out: Any) -> None:
        import kfp
        from kfp_server_api import ApiException

        self.host = host
        # RuntimeError: ML Metadata without its database
        self.away_errors = (ApiException, HTTPError, requests.RequestException, RuntimeError)
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            self.client = kfp.Client(host=host)
            self.id = self.client.create_run_from_pipeline_func(pipeline, arguments=arguments).run_id
        self.steps = Steps(out)
        page = os.environ.get("KF_PIPELINES_UI_ENDPOINT", host)
        self.steps.url = f"{page}/#/runs/details/{self.id}"
        self.known: dict[str, lineage.Step] = {}
        self.waits: dict[str, tuple[float, str]] = {}
        """Steps whose pod has not started: since when, and why."""

    def follow(self) -> Steps:
        """Tell how the run goes until it ends; patient while Kubeflow Pipelines does not answer.

        Raises:
            StepFailed: a step ended with an error, its pod does not start, or the run ended otherwise.
        """
        self.steps.say(f"run {self.steps.url}")
        seen = time.monotonic()
        while True:
            try:
                run = self.client.get_run(self.id)
                self._look(run)
                seen = time.monotonic()
                if run.state in ENDED:
                    break
            except self.away_errors as error:
                if time.monotonic() - seen > AWAY_TIMEOUT:
                    raise StepFailed(f"Kubeflow Pipelines at {self.host} does not answer: {error}") from None
            if time.monotonic() - self.steps.start > RUN_TIMEOUT:
                self.client.terminate_run(self.id)
                raise StepFailed(f"the run did not end within {RUN_TIMEOUT} s and was cancelled; see {self.steps.url}")
            time.sleep(1)
        if run.state != "SUCCEEDED":
            failed = [step for step in self.known.values() if step.state == "failed"]
            if failed:
                raise StepFailed(f"Step {failed[0].name} failed: {last_sentence(self._log(failed[0]))}")
            reason = run.error.message if run.error else f"see {self.steps.url}"
            raise StepFailed(f"the run ended as {run.state}: {reason}")
        return self.steps

    def _look(self, run: Any) -> None:
        """Tell what is new since the last look."""
        for step in lineage.steps(self.host, self.id):
            former = self.known.get(step.name)
            self.known[step.name] = step
            if former is None:
                self.steps.say(f"→ {step.name}")
            if step.state == "running":
                self._waiting(run, step)
            elif former is None or former.state == "running":
                for line in self._log(step):
                    self.steps.say(f"  {line}")
                self.steps.outputs[step.name] = step.outputs
                cached = "as before" if step.state == "cached" else ""
                self.steps.ended(step.name, step.seconds, ok=step.state in ("succeeded", "cached"), how=cached)

    def _waiting(self, run: Any, step: lineage.Step) -> None:
        """Tell why the pod of a step does not start, each reason once.

        Raises:
            StepFailed: it has been waiting for too long; the run is cancelled.
        """
        if step.pod:
            return
        since, told = self.waits.setdefault(step.name, (time.monotonic(), ""))
        if time.monotonic() - since < 10:
            return
        reason = self._reason(run, step) or told
        if reason != told:
            self.steps.say(f"  its pod waits: {reason}")
            self.waits[step.name] = since, reason
        if reason and time.monotonic() - since > START_TIMEOUT:
            self.client.terminate_run(self.id)
            raise StepFailed(f"the pod of step {step.name} does not start: {reason}")

    def _reason(self, run: Any, step: lineage.Step) -> str:
        """Look up the last warning about the pod of a step that has not started."""
        tasks = run.run_details.task_details if run.run_details else []
        nodes = [child.pod_name for task in tasks if task.display_name == step.name for child in task.child_tasks or []]
        if not nodes:
            return ""
        workflow, _, number = nodes[0].rpartition("-")  # Argo's node, of which the pod has its name
        pod = f"{workflow}-system-container-impl-{number}"
        events = []
        with contextlib.suppress(requests.RequestException):
            events = self._ask("events", step, podname=pod).json().get("items", [])
        said = [event["message"] for event in events if event["type"] == "Warning"]
        # "Error: ImagePullBackOff" says less than the one before it
        return next((text for text in reversed(said) if not text.startswith("Error: ")), "".join(said[-1:]))

    def _log(self, step: lineage.Step) -> list[str]:
        """Read what a step said: from its pod, or from the bucket when that is gone."""
        if not step.pod:
            return []
        with contextlib.suppress(requests.RequestException):
            return list(own_words(self._ask("logs", step, podname=step.pod, runid=self.id).text.splitlines()))
        return []

    def _ask(self, what: str, step: lineage.Step, **about: str) -> requests.Response:
        """Ask the user interface's own endpoints about a pod."""
        # ML Metadata knows it once the pod has started
        about["podnamespace"] = step.namespace or os.environ.get("KF_PIPELINES_NAMESPACE", "")
        answer = requests.get(f"{self.host}/k8s/pod/{what}", params=about, timeout=15)
        answer.raise_for_status()
        return answer


def run(host: str, pipeline: Any, arguments: dict[str, Any], out: Any = sys.stdout) -> Steps:
    """Run a pipeline on Kubeflow Pipelines; interrupted, it cancels the run.

    Args:
        host: its address at the front door, as `kfp.Client` takes it.
        pipeline: what `dsl.pipeline` made.
        arguments: all parameters.
        out: where to tell how it goes.

    Raises:
        StepFailed: a step ended with an error, its pod does not start, or nothing answers at `host`.
    """
    from kfp_server_api import ApiException

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        started = Run(host, pipeline, arguments, out)
    except (ApiException, HTTPError) as error:
        raise StepFailed(f"Kubeflow Pipelines at {host} does not take the run: {error}") from None
    try:
        return started.follow()
    except KeyboardInterrupt:
        started.client.terminate_run(started.id)
        raise
