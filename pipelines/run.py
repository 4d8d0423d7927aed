"""Runs a reference pipeline: `python -m pipelines.run tabular|images [--engine local|kfp] [--param NAME=VALUE …]`.

Engine `local` needs no backend: each step is a process with this environment. Engine `kfp` hands the same pipeline to
Kubeflow Pipelines at KF_PIPELINES_ENDPOINT. Prints each step with its time, and at the end one JSON object. Exit code 1
and one sentence when a step fails, 2 when the command line is wrong.
"""

import argparse
import importlib
import inspect
import json
import os
import sys
import time
from typing import Any

from pipelines.common.settings import QUIET
from pipelines.engines import StepFailed, Steps, local, remote

PIPELINES = ("tabular", "images")


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


def summary(steps: Steps, arguments: dict[str, Any]) -> dict[str, Any]:
    """Collect what a person or a test wants to know of a finished run."""
    of = steps.outputs
    checked = of.get("check", {})
    run_id = of["train"]["run_id"]
    return {
        "parameters": arguments,
        "pipeline_run": steps.url or None,
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
    parser.add_argument(
        "--engine",
        choices=["local", "kfp"],
        help="processes here, or Kubeflow Pipelines; default: the latter where KF_PIPELINES_ENDPOINT is set",
    )
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    args = parser.parse_args(argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    module = importlib.import_module(f"pipelines.{args.pipeline}.pipeline")
    host = os.environ.get("KF_PIPELINES_ENDPOINT", "")
    engine = args.engine or ("kfp" if host else "local")
    try:
        arguments = parameters(module.pipeline, args.param)
        if engine == "kfp" and not host:
            raise ValueError("engine kfp needs KF_PIPELINES_ENDPOINT: the address of Kubeflow Pipelines")
    except ValueError as error:
        parser.error(str(error))
    try:
        if engine == "local":
            steps = local.run(module.pipeline, arguments)
        else:
            if arguments["source"]:
                # a file here, that the pods there do not see
                source = {"source": arguments["source"], "key": "", "version": ""}
                data = local.run(module.onboard, source).outputs["onboard"]
                arguments |= {"source": "", "dataset_key": data["key"], "dataset_version": data["version"]}
            steps = remote.run(host, module.pipeline, arguments)
    except StepFailed as error:
        print(f"pipelines.run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pipelines.run: interrupted, and the run with it", file=sys.stderr)
        return 130
    print(json.dumps(summary(steps, arguments), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
