"""Runs a reference pipeline: `python -m pipelines.run wine|digits [--engine local|kfp] [--data PATH] [--param NAME=VALUE …]`.

Engine `local` needs no backend: each step is a process with this environment. Engine `kfp` hands the same pipeline to
Kubeflow Pipelines. Works in a pod with the release's environment, and with a kubeconfig (see `iml4e.platform`). Prints each
step with its time, and at the end one JSON object. Exit code 1 and one sentence when a step fails, 2 when the command line
is wrong.
"""

import argparse
import importlib
import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from iml4e import Error, engines, platform, registry
from iml4e.engines import Steps

PIPELINES = ("wine", "digits")


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
    """Summarise a finished run: dataset, MLflow run, metrics, gate, version, endpoint, prediction and times."""
    of = steps.outputs
    checked = of.get("check", {})
    run_id = of["train"]["run_id"]
    return {
        "parameters": arguments,
        "pipeline_run": steps.url or None,
        "dataset": of["onboard"],
        "run_id": run_id,
        "run": f"{platform.find('PUBLIC_URL')}/mlflow/#/experiments/{of['train']['experiment_id']}/runs/{run_id}",
        "metrics": {name: of["evaluate"][name] for name in ("accuracy", "f1")},
        "gate": of["evaluate"]["gate"],
        "reason": of["evaluate"]["reason"],
        "model": arguments["model_name"],
        "version": of["register"]["version"],
        "deployed": bool(checked),
        "name": of["deploy"]["endpoint"] if checked else None,
        "endpoint": of["deploy"]["url"] if checked else None,
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
        help="processes here, or Kubeflow Pipelines; default: the latter where the release has it",
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="your own data: a CSV file, or a folder of PNG files")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    args = parser.parse_args(argv)
    try:
        platform.get("MLFLOW_TRACKING_URI")
        engine = args.engine or engines.default()
        if engine == "kfp":
            platform.get("KF_PIPELINES_ENDPOINT")
        else:
            os.environ["IML4E_IN_IMAGE"] = "1"  # steps run in this environment: nothing is embedded or installed
        if image := platform.find("RUNTIME_IMAGE"):
            os.environ["RUNTIME_IMAGE"] = image  # pipelines.steps reads the image of the steps from there
        module = importlib.import_module(f"pipelines.{args.pipeline}.pipeline")
        try:
            arguments = parameters(module.pipeline, args.param)
        except ValueError as error:
            parser.error(str(error))
        registry.check_name(arguments["model_name"])
        if platform.find(platform.MARK):  # with IML4E_URL alone, step `deploy` makes these checks
            from iml4e import serving

            serving.preflight(arguments["model_name"], arguments["namespace"])
        if args.data:
            data = module.put(args.data)
            print(f"{args.data} is {data.address}", flush=True)
            arguments |= {"dataset_key": data.key, "dataset_version": data.version}
        steps = engines.run(module.pipeline, arguments, engine=engine)
    except Error as error:
        print(f"pipelines.run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pipelines.run: interrupted, and the run with it", file=sys.stderr)
        return 130
    print(json.dumps(summary(steps, arguments), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
