"""Runs a pipeline on Kubeflow Pipelines, each step a pod of its own, by its address at the gateway."""

import contextlib
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from iml4e import lineage, platform
from iml4e.engines import StepFailed, Steps, last_sentence, own_words

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

    def __init__(self, client: Any, run_id: str, host: str, out: Any) -> None:
        from kfp_server_api import ApiException

        self.client, self.id, self.host = client, run_id, host
        # RuntimeError: ML Metadata without its database
        self.away_errors = (ApiException, HTTPError, requests.RequestException, RuntimeError)
        self.steps = Steps(out)
        page = platform.find("KF_PIPELINES_UI_ENDPOINT", host)
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
        about["podnamespace"] = step.namespace or platform.find("KF_PIPELINES_NAMESPACE", platform.namespace())
        answer = requests.get(f"{self.host}/k8s/pod/{what}", params=about, timeout=15)
        answer.raise_for_status()
        return answer


def run(host: str, pipeline: Any, arguments: dict[str, Any], out: Any = sys.stdout) -> Steps:
    """Run a pipeline on Kubeflow Pipelines; interrupted, it cancels the run.

    Args:
        host: its address at the gateway, as `kfp.Client` takes it.
        pipeline: what `dsl.pipeline` made.
        arguments: all parameters.
        out: where to print the progress.

    Raises:
        StepFailed: a step ended with an error, its pod does not start, or nothing answers at `host`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _answering(host), warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        client = _client(host)
        run_id = client.create_run_from_pipeline_func(pipeline, arguments=arguments).run_id
    try:
        return Run(client, run_id, host, out).follow()
    except KeyboardInterrupt:
        client.terminate_run(run_id)
        raise


def wait(run_id: str, host: str = "", out: Any = sys.stdout) -> Steps:
    """Follow any run until it ends, as `kfp.Client.wait_for_run_completion` does, and tell why it fails.

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
    """Turn a refusal or a silence of Kubeflow Pipelines into one sentence."""
    from kfp_server_api import ApiException

    try:
        yield
    except ApiException as error:
        said = re.search(r'"error":\s*"([^"]+)', str(error.body))
        reason = said[1] if said else f"{error.status} {error.reason}"
        raise StepFailed(f"Kubeflow Pipelines at {host} refuses: {reason}") from None
    except HTTPError as error:
        raise StepFailed(f"Kubeflow Pipelines at {host} does not answer: {error}") from None
