"""Runs a pipeline by `kfp.local`: each step a process with this environment, one after the other."""

import contextlib
import errno
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iml4e.engines import StepFailed, Steps, exception, last_sentence, own_words, workflow

#: Tag of the MLflow runs that steps open, with the id of the run here.
TAG = "iml4e.local_run"
#: Seconds that a step has to end when the run is interrupted.
GRACE = 10


class LocalSteps(Steps):
    """Runs the steps of `kfp.local`: prints the steps' output with times, and keeps the steps' outputs."""

    failed = ""
    """The sentence with which a step failed."""

    def __init__(self, out: Any) -> None:
        super().__init__(out)
        self.id = uuid.uuid4().hex

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run one step and return its exit code; has the signature of the function of kfp.local that it replaces."""
        name = full_command[full_command.index("--function_to_execute") + 1]
        executor_input = json.loads(full_command[full_command.index("--executor_input") + 1])
        self.say(f"→ {name}")
        begun = time.monotonic()
        last: deque[str] = deque(maxlen=40)
        # MLflow's own variable: the runs that a step opens can be found, and ended, when it is killed
        context = {**json.loads(os.environ.get("MLFLOW_RUN_CONTEXT") or "{}"), TAG: self.id}
        env = {**os.environ, "MLFLOW_RUN_CONTEXT": json.dumps(context), **(env_vars or {})}
        code = 0
        try:
            process = subprocess.Popen(
                full_command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env,
                start_new_session=True,  # a group of its own: the command is a shell, and the step its child
            )  # fmt: skip
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            code, last = 1, deque(["argument list too long"])
        else:
            with process, _ending(process):
                for line in own_words(process.stdout or ()):
                    last.append(line)
                    self.say(f"  {line}")
            code = process.returncode
        self.ended(name, time.monotonic() - begun, ok=not code)
        if code:
            self.failed = f"Step {name} failed: {_reason(code, list(last))}"
            self.end_tracking("KILLED" if code in (-signal.SIGINT, -signal.SIGTERM) else "FAILED")
        else:
            self.outputs[name] = returned(executor_input["outputs"])
        return code

    def end_tracking(self, status: str) -> None:
        """End the MLflow runs that a step left open: it was killed, or interrupted.

        Args:
            status: KILLED or FAILED.
        """
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            return
        from iml4e import Error, registry

        try:
            client = registry.client()
            with registry.told():
                experiments = [each.experiment_id for each in client.search_experiments()]
                mine = f"tags.`{TAG}` = '{self.id}' and attributes.status = 'RUNNING'"
                for run in client.search_runs(experiments, mine):
                    client.set_terminated(run.info.run_id, status)
        except Error as error:
            self.say(f"an MLflow run may still be called running: {error}")


@contextlib.contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no process behind when the run is interrupted: end the step's whole process group."""

    def send(number: int) -> bool:
        process.poll()  # a child that ended counts until it is reaped
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return False
        return True

    try:
        yield
    except BaseException:
        end = time.monotonic() + GRACE
        there = send(signal.SIGTERM)
        while there and time.monotonic() < end:
            time.sleep(0.1)
            there = send(0)
        if there:
            send(signal.SIGKILL)
        raise


def _reason(code: int, said: list[str]) -> str:
    """Why a step failed: the exception, or the exit code and the last log lines."""
    if "argument list too long" in said:
        return workflow.too_large("its inputs")
    if code == 1 and exception(said):
        return last_sentence(said)
    how = workflow.how(code if code > 0 else 128 - code) + " (out of memory?)" * (code == -signal.SIGKILL)
    return how + (f": {last_sentence(said)}" if said else "")


def returned(outputs: dict[str, Any]) -> dict[str, Any]:
    """Read a step's output parameters: returned values are in one file, values written to a path in a file each."""
    file = Path(outputs["outputFile"])
    values = json.loads(file.read_text()).get("parameterValues", {}) if file.exists() else {}
    for name, place in outputs.get("parameters", {}).items():
        if name not in values and Path(place["outputFile"]).exists():
            values[name] = Path(place["outputFile"]).read_text()
    return values


@functools.cache
def _kfps_iteration() -> Any:
    """The function of kfp.local that `_iteration` replaces."""
    from kfp.local.orchestrator import task_spec_utils

    return task_spec_utils.create_parameter_loop_iteration_task_spec


def _iteration(task: Any, item: Any, name: str) -> Any:
    """One iteration of dsl.ParallelFor: outputs of earlier steps stay themselves. kfp.local 2.17 hands the loop's item on in their place."""
    found = _kfps_iteration()(task, item, name)
    for key, source in task.inputs.parameters.items():
        if source.HasField("task_output_parameter"):
            found.inputs.parameters[key].CopyFrom(source)
    return found


def run(pipeline: Any, arguments: dict[str, Any], out: Any = sys.stdout) -> Steps:
    """Run a pipeline, or a single step, on this machine; an interrupt ends the step and the MLflow runs that the step opened.

    Raises:
        StepFailed: a step ended with an error.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from kfp import local
    from kfp.local import subprocess_task_handler
    from kfp.local.orchestrator import task_spec_utils

    # these warnings are about images and memory limits, which kfp.local ignores: steps run in this environment
    warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
    warnings.filterwarnings("ignore", message=".*non-Python base image")
    steps = LocalSteps(out)
    subprocess_task_handler.run_local_subprocess = steps.run
    _kfps_iteration()  # kept before it is replaced
    task_spec_utils.create_parameter_loop_iteration_task_spec = _iteration
    logging.disable(logging.INFO)  # kfp.local's own progress lines
    stdout = sys.stdout
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder, open(os.devnull, "w") as sys.stdout:
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=folder)
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            raise StepFailed(steps.failed or str(error)) from None
        except KeyboardInterrupt:
            steps.end_tracking("KILLED")
            raise
        finally:
            sys.stdout = stdout
            logging.disable(logging.NOTSET)
    return steps
