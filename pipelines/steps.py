"""The decorator of every step, and the steps that both pipelines share once there is a table of numbers.

A table is a CSV file: numbers in the model's order, and the truth in the last column, `target`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kfp import dsl

from iml4e.engines import steps
from iml4e.engines.steps import Step

REQUIREMENTS = (Path(__file__).parent / "requirements.txt").read_text().splitlines()
#: Requirement of each package that MLflow's public image lacks.
PINS = {re.split("[=<>~]", line)[0]: line for line in REQUIREMENTS if not line.startswith("#")}


def step(*packages: str, functions: tuple[Callable, ...] = ()) -> Callable[[Callable], Step]:
    """Decorator that makes a step of a function; `pipelines.run` sets RUNTIME_IMAGE, its image on Kubeflow Pipelines.

    Args:
        packages: packages of `requirements.txt` that the function imports, beside kfp.
        functions: functions of the same module that the function calls.
    """
    return lambda function: steps.step(function, *packages, functions=functions, pinned=PINS)


@step()
def prepare(data: dsl.Input[dsl.Dataset], training: dsl.Output[dsl.Dataset], held_out: dsl.Output[dsl.Dataset]) -> int:
    """Split into training rows and held-out rows by the hash of each row's content.

    A row falls on the same side in every run and every version of the dataset, so that a champion is never compared
    on rows that it was trained on.

    Args:
        data: a valid table.
        training: about three quarters of the rows.
        held_out: about one quarter.

    Returns:
        Number of held-out rows.
    """
    import hashlib

    import pandas as pd

    table = pd.read_csv(data.path)
    lines = table.to_csv(index=False, header=False).splitlines()
    aside = [hashlib.sha256(line.encode()).digest()[0] < 64 for line in lines]  # of 256
    chosen = pd.Series(aside, index=table.index)
    table[~chosen].to_csv(training.path, index=False)
    table[chosen].to_csv(held_out.path, index=False)
    print(f"{len(table) - sum(aside)} rows to train, {sum(aside)} held out")
    return sum(aside)


@step()
def evaluate(
    held_out: dsl.Input[dsl.Dataset],
    model_uri: str,
    run_id: str,
    model_name: str,
    floor: float,
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Evaluated", [("gate", str), ("reason", str), ("accuracy", float), ("f1", float)]):
    """Measure the new model and the present champion on the same held-out rows, and decide.

    Args:
        held_out: rows that training never saw.
        model_uri: MLflow address of the new model.
        run_id: MLflow run that trained the model; the metrics are logged to this run.
        model_name: registered model whose alias `champion` names the present champion.
        floor: least accuracy, from 0 to 1.
        metrics: the same figures for the KFP user interface.

    Returns:
        gate: "passed" or "rejected"; reason: one sentence; accuracy and macro-averaged F1, from 0 to 1.
    """
    import pandas as pd

    from iml4e import judge

    rows = pd.read_csv(held_out.path)
    truth = rows.pop("target")
    gate = judge.Gate("accuracy", floor)
    verdict = judge.judge(model_uri, run_id, model_name, rows.astype(float), truth, judge.classification, gate)
    for name, value in verdict.metrics.items():
        metrics.log_metric(name, value)
    return verdict.gate, verdict.reason, verdict.metrics["accuracy"], verdict.metrics["f1_macro"]


@step()
def register(
    model_uri: str, run_id: str, model_name: str, gate: str, reason: str, dataset: str, version: dsl.OutputPath(str)
) -> str:
    """Register the model as a new version: tag status=candidate if the model passed the gate, else status=rejected.

    Args:
        model_uri: MLflow address of the model.
        run_id: MLflow run that trained it.
        model_name: registered model; made if it does not exist.
        gate: "passed" or "rejected".
        reason: why, in one sentence.
        dataset: address of the exact dataset version.
        version: gets the number of the new version.

    Returns:
        The gate as given. (`version` is an output path instead, because kfp.local resolves only a single returned value in a condition.)
    """
    from iml4e import registry

    number = registry.register(model_uri, model_name, gate, reason, dataset, run_id)
    with open(version, "w") as file:
        file.write(number)
    print(f"{model_name} version {number}: {'candidate' if gate == 'passed' else 'rejected'} ({reason})")
    return gate


@step()
def deploy(model_name: str, version: str, namespace: str, timeout: int = 300) -> NamedTuple(
    "Deployed", [("endpoint", str), ("url", str)]
):
    """Serve a registered version. The former version serves until the new version is ready; if the new version fails, the former version stays.

    Args:
        model_name: registered model.
        version: version to serve.
        namespace: where to; empty: MODEL_NAMESPACE.
        timeout: seconds until it must be ready.

    Returns:
        endpoint: name of the InferenceService; url: its address.

    Raises:
        iml4e.Error: not ready; the sentence says why. The version gets the tag status=rejected.
    """
    import iml4e
    from iml4e import registry, serving

    try:
        served = serving.deploy(model_name, version, namespace=namespace, timeout=timeout)
    except serving.TookOverError:  # says nothing about this version
        raise
    except iml4e.Error as error:
        registry.reject(model_name, version, f"not served: {error}")
        raise
    return served.name, served.url


@step()
def check(
    held_out: dsl.Input[dsl.Dataset], model_name: str, version: str, endpoint: str, namespace: str, timeout: int = 60
) -> NamedTuple("Checked", [("prediction", str), ("curl", str)]):
    """Ask the served model through the gateway, compare the answers with the model's own in this process, and make the version the champion.

    Args:
        held_out: rows that training never saw; the first 50 are sent.
        model_name: registered model.
        version: version that must answer.
        endpoint: name of the InferenceService.
        namespace: where it is; empty: MODEL_NAMESPACE.
        timeout: seconds that the gateway may take to know the new route.

    Returns:
        prediction: the answer to the first row, as JSON; curl: the line that asks for it.

    Raises:
        iml4e.Error: no answer in time, or another answer than the model's own. The former version serves again.
    """
    import json

    import mlflow
    import pandas as pd

    import iml4e
    from iml4e import registry, serving

    rows = pd.read_csv(held_out.path).drop(columns="target").astype(float).head(50)
    asked = rows.to_numpy().tolist()
    registry.client()
    wanted = mlflow.pyfunc.load_model(f"models:/{model_name}/{version}").predict(rows)
    try:
        served = serving.check(endpoint, asked, wanted, version=version, namespace=namespace, timeout=timeout)
        prediction = {"predictions": served.ask().predict(asked[:1])}
    except serving.TookOverError:  # says nothing about this version
        raise
    except iml4e.Error as error:
        now = serving.undo(endpoint, version=version, namespace=namespace)
        registry.reject(model_name, version, f"not served: {error}")
        raise iml4e.Error(f"{error}; {now}") from None
    serving.crown(endpoint, version, namespace=namespace)
    print(f"{len(rows)} rows through the gateway: all as the model itself predicts; version {version} is the champion")
    return json.dumps(prediction), served.curl(asked[:1])
