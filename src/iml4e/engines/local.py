"""Runs a pipeline by `kfp.local`: each step a process with this environment, one after the other."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any

from iml4e.engines import StepFailed, Steps, last_sentence, own_words


class LocalSteps(Steps):
    """Runs the steps that `kfp.local` hands over: shows their output with times, keeps what they return."""

    failed = ""
    """The sentence with which a step failed."""

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run one step and return its exit code; has the signature of the function of kfp.local that it replaces."""
        name = full_command[full_command.index("--function_to_execute") + 1]
        executor_input = json.loads(full_command[full_command.index("--executor_input") + 1])
        self.say(f"→ {name}")
        begun = time.monotonic()
        last: deque[str] = deque(maxlen=40)
        with subprocess.Popen(
            full_command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env_vars or {})},
        ) as process:
            for line in own_words(process.stdout or ()):
                last.append(line)
                self.say(f"  {line}")
        self.ended(name, time.monotonic() - begun, ok=not process.returncode)
        if process.returncode:
            code = process.returncode
            how = f"exit code {code}" if code > 0 else f"ended by signal {-code}" + " (out of memory?)" * (code == -9)
            self.failed = f"Step {name} failed: {last_sentence(list(last)) if last else how}"
        else:
            self.outputs[name] = returned(executor_input["outputs"])
        return process.returncode


def returned(outputs: dict[str, Any]) -> dict[str, Any]:
    """Read a step's output parameters: returned ones are in one file, those written to a path in files of their own."""
    file = Path(outputs["outputFile"])
    values = json.loads(file.read_text()).get("parameterValues", {}) if file.exists() else {}
    for name, place in outputs.get("parameters", {}).items():
        if name not in values and Path(place["outputFile"]).exists():
            values[name] = Path(place["outputFile"]).read_text()
    return values


def run(pipeline: Any, arguments: dict[str, Any], out: Any = sys.stdout) -> Steps:
    """Run a compiled pipeline, or a single step, here.

    Raises:
        StepFailed: a step ended with an error.
    """
    from kfp import local
    from kfp.local import subprocess_task_handler

    # Of images and memory limits, which mean nothing here: the image is this environment.
    warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
    warnings.filterwarnings("ignore", message=".*non-Python base image")
    steps = LocalSteps(out)
    subprocess_task_handler.run_local_subprocess = steps.run
    logging.disable(logging.INFO)  # kfp.local's own story of the same
    stdout = sys.stdout
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder, open(os.devnull, "w") as sys.stdout:
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=folder)
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            raise StepFailed(steps.failed or str(error)) from None
        finally:
            sys.stdout = stdout
            logging.disable(logging.NOTSET)
    return steps
