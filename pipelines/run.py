"""Runs a reference pipeline without a KFP backend: `python -m pipelines.run tabular|images [--param NAME=VALUE …]`.

Uses `kfp.local`, each step a process of its own with this environment. Prints each step with its time, and at the end
one JSON object. Exit code 1 and one sentence when a step fails, 2 when the command line is wrong.
"""

import argparse
import importlib
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PIPELINES = ("tabular", "images")


class StepFailed(Exception):
    """A step ended with an error; the message names the step and repeats its last sentence."""


class Steps:
    """Runs the steps that `kfp.local` hands over: shows their output with times, keeps what they return."""

    def __init__(self, out: Any) -> None:
        self.out = out
        self.start = time.monotonic()
        self.outputs: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.failed = ""

    def say(self, text: str) -> None:
        """Print a line with the time since the start, in minutes and seconds."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", file=self.out, flush=True)

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
        self.seconds[name] = round(time.monotonic() - begun, 1)
        self.say(f"{'✗' if process.returncode else '✓'} {name} ({self.seconds[name]} s)")
        if process.returncode:
            self.failed = f"Step {name} failed: {last_sentence(list(last))}"
        else:
            self.outputs[name] = returned(executor_input["outputs"])
        return process.returncode


def own_words(lines: Iterable[str]) -> Iterator[str]:
    """Leave out what KFP says around a step, empty lines, and the frames of a stack trace."""
    hide_until = ""
    for line in (line.rstrip() for line in lines):
        if line.startswith("[KFP Executor"):
            hide_until = r"\}" if line.endswith("executor_input:") else ""  # and then the whole input as JSON
        elif line.startswith("Traceback "):
            hide_until = r"\S.*"
        elif hide_until:
            if re.fullmatch(hide_until, line):
                if hide_until != r"\}":
                    yield line
                hide_until = ""
        elif line:
            yield line


def returned(outputs: dict[str, Any]) -> dict[str, Any]:
    """Read a step's output parameters: returned ones are in one file, those written to a path in files of their own."""
    file = Path(outputs["outputFile"])
    values = json.loads(file.read_text()).get("parameterValues", {}) if file.exists() else {}
    for name, place in outputs.get("parameters", {}).items():
        if name not in values and Path(place["outputFile"]).exists():
            values[name] = Path(place["outputFile"]).read_text()
    return values


def last_sentence(lines: list[str]) -> str:
    """Dig the message of the exception out of a step's last lines; without one, all that was said last."""
    for number in range(len(lines) - 1, -1, -1):
        if found := re.match(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)\w*: (.+)", lines[number]):
            return "\n".join([found[1], *lines[number + 1 :]]).strip()
    return "\n".join(line for line in lines[-10:] if line) or "it said nothing"


def parameters(pipeline: Any, given: list[str]) -> dict[str, Any]:
    """Turn NAME=VALUE words into all arguments of a pipeline, of the types that it declares.

    Raises:
        ValueError: no such parameter, or not of its type.
    """
    known = inspect.signature(pipeline.pipeline_func).parameters
    arguments = {name: parameter.default for name, parameter in known.items()}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise ValueError(f"{word!r} is no NAME=VALUE of a parameter; there are {', '.join(known)}")
        try:
            arguments[name] = known[name].annotation(value)
        except ValueError:
            raise ValueError(f"{name} must be a number, got {value!r}") from None
    return arguments


def run_local(pipeline: Any, arguments: dict[str, Any], out: Any = sys.stdout) -> Steps:
    """Run a compiled pipeline here.

    Raises:
        StepFailed: a step ended with an error.
    """
    from kfp import local
    from kfp.local import subprocess_task_handler

    # Of images and memory limits, which mean nothing here: the image is this environment.
    warnings.filterwarnings("ignore", category=UserWarning, module="kfp")
    warnings.filterwarnings("ignore", message=".*non-Python base image")
    steps = Steps(out)
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


def summary(steps: Steps, arguments: dict[str, Any]) -> dict[str, Any]:
    """Collect what a person or a test wants to know of a finished run."""
    of = steps.outputs
    checked = of.get("check", {})
    run_id = of["train"]["run_id"]
    return {
        "parameters": arguments,
        "dataset": of["onboard"],
        "run_id": run_id,
        "run": f"{os.environ.get('PUBLIC_URL', '')}/mlflow/#/experiments/{of['train']['experiment_id']}/runs/{run_id}",
        "metrics": {name: of["evaluate"][name] for name in ("accuracy", "f1")},
        "gate": of["evaluate"]["gate"],
        "reason": of["evaluate"]["reason"],
        "model": arguments["model_name"],
        "version": of["register"]["version"],
        "deployed": bool(checked),
        "endpoint": checked.get("endpoint"),
        "prediction": json.loads(checked["prediction"]) if checked else None,
        "curl": checked.get("curl"),
        "seconds": {**steps.seconds, "all": round(time.monotonic() - steps.start, 1)},
    }


def main(argv: list[str] | None = None) -> int:
    """Read the command line, run the pipeline, print the result."""
    parser = argparse.ArgumentParser(prog="pipelines.run", description="Run a reference pipeline.")
    parser.add_argument("pipeline", choices=PIPELINES)
    parser.add_argument("--engine", choices=["local"], default="local", help="kfp.local, in this environment")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    args = parser.parse_args(argv)
    # MLflow tells of an address that only pods reach, of waiting, and of a missing pip; pandera of its future.
    quiet = {
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **quiet}.items():
        os.environ.setdefault(name, value)
    pipeline = importlib.import_module(f"pipelines.{args.pipeline}.pipeline").pipeline
    try:
        arguments = parameters(pipeline, args.param)
    except ValueError as error:
        parser.error(str(error))
    try:
        steps = run_local(pipeline, arguments)
    except StepFailed as error:
        print(f"pipelines.run: {error}", file=sys.stderr)
        return 1
    print(json.dumps(summary(steps, arguments), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
