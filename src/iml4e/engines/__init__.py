"""The two engines that run a pipeline: `local`, without a backend, and `kfp`, on Kubeflow Pipelines. Here is what both share."""

import importlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from iml4e import Error, platform


class StepFailed(Error):
    """A step ended with an error; the message names the step and repeats the step's error message."""


class Steps:
    """Progress of a run: prints time-stamped lines and keeps the outputs of each step."""

    def __init__(self, out: Any) -> None:
        self.out = out
        self.start = time.monotonic()
        self.outputs: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.url = ""
        """Page of the run on Kubeflow Pipelines."""

    def say(self, text: str) -> None:
        """Print a line with the time since the start, in minutes and seconds."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", file=self.out, flush=True)

    def ended(self, name: str, seconds: float, *, ok: bool = True, how: str = "") -> None:
        """Print that a step ended, and keep the step's duration."""
        self.seconds[name] = round(seconds, 1)
        self.say(f"{'✓' if ok else '✗'} {name} ({how or f'{seconds:.1f} s'})")


def default() -> str:
    """The engine of this release: `kfp` where the release has Kubeflow Pipelines, else `local`."""
    return "kfp" if platform.find("KF_PIPELINES_ENDPOINT") else "local"


def run(pipeline: Any, arguments: dict[str, Any] | None = None, *, engine: str = "", out: Any = sys.stdout) -> Steps:
    """Run a pipeline to its end.

    Args:
        pipeline: what `dsl.pipeline` made.
        arguments: of the pipeline.
        engine: "kfp" or "local"; empty: the release's (see `default`).
        out: where to print the progress.

    Returns:
        Outputs and times of the steps.

    Raises:
        StepFailed: a step ended with an error.
        Error: the release is not known, or lacks the engine.
    """
    engine = engine or default()
    if engine not in ("kfp", "local"):
        raise Error(f"engine is 'kfp' or 'local', not {engine!r}")
    platform.get("MLFLOW_TRACKING_URI")
    # steps of engine `local` are processes with this environment: MLflow's address, its log level
    for name, value in platform.settings().items():
        if name.startswith(("MLFLOW_", "PYTHONWARNINGS")):
            os.environ.setdefault(name, value)
    start = importlib.import_module(f"iml4e.engines.{engine}").run
    host = [platform.get("KF_PIPELINES_ENDPOINT")] if engine == "kfp" else []
    return start(*host, pipeline, arguments or {}, out)


def own_words(lines: Iterable[str]) -> Iterator[str]:
    """The log lines of a step's own code: without lines of KFP and Argo, empty lines, and frames of stack traces."""
    hide_until = ""
    for line in (line.rstrip() for line in lines):
        if hide_until:
            if re.fullmatch(hide_until, line):
                if hide_until != r"\}":
                    yield line
                hide_until = ""
        elif re.match(r"\[KFP Executor|[IWEF]\d{4} \d\d:\d\d:", line):
            hide_until = r"\}" if line.endswith(("executor_input:", "{")) else ""  # and then JSON
        elif line.startswith("Traceback "):
            hide_until = r"\S.*"
        elif line and not re.match(r'\{"time":.*"argo":true|Error: (exit status \d+|signal: [\w ]+)$', line):
            yield line


def exception(lines: list[str]) -> str:
    """Find the message of the exception in a step's last log lines; empty if there is no exception."""
    for number in range(len(lines) - 1, -1, -1):
        if found := re.match(
            r"(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*)?(?:Error|Exception|Exit|Interrupt)\w*: (.+)", lines[number]
        ):
            return "\n".join([found[1], *lines[number + 1 :]]).strip()
    return ""


def last_sentence(lines: list[str]) -> str:
    """The message of the exception in a step's last log lines; without an exception, the last ten lines."""
    return exception(lines) or "\n".join(line for line in lines[-10:] if line) or "it said nothing"
