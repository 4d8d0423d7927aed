"""Measures a model and the present champion on the same rows, and decides which one may serve."""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iml4e import Error, client, registry


@dataclass(frozen=True)
class Gate:
    """What a model must reach."""

    metric: str = "accuracy"
    limit: float = 0.0
    """The worst value that passes."""
    higher: bool = True
    """Whether a higher value is better."""


@dataclass(frozen=True)
class Verdict:
    """A model, beside the present champion, on the same held-out rows."""

    gate: str
    """passed or rejected"""
    reason: str
    metrics: dict[str, float]
    champion: str
    """Version of the champion; empty if there is none."""
    champion_metrics: dict[str, float]


def classification(truth: Any, predicted: Any) -> dict[str, float]:
    """Accuracy and macro-averaged F1, from 0 to 1."""
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": accuracy_score(truth, predicted),
        "f1_macro": f1_score(truth, predicted, average="macro", zero_division=0),
    }


def judge(
    model_uri: str,
    run_id: str,
    name: str,
    rows: Any,
    truth: Any,
    measure: Callable[[Any, Any], dict[str, float]],
    gate: Gate,
    keep: str = "",
) -> Verdict:
    """Measure a model and the present champion by any metrics on the same held-out rows, decide, and keep all in the model's run.

    Args:
        model_uri: MLflow address of the new model.
        run_id: MLflow run that trained it.
        name: registered model, whose champion is to be beaten.
        rows: `pandas.DataFrame` that training never saw.
        truth: the right answers.
        measure: metrics of truth and predictions.
        gate: what the model must reach.
        keep: file in the run for some of the rows with the model's predictions, to ask the served model the same; empty: none.

    Raises:
        Error: a model cannot predict, or a metric is none.
    """
    import mlflow
    import pandas as pd

    present = registry.champion(name)

    def measured(predicted: list[Any]) -> dict[str, float]:
        found = {key: float(value) for key, value in measure(truth, pd.Series(predicted, index=truth.index)).items()}
        for key, value in found.items():
            if not re.fullmatch(r"[\w./ -]{1,250}", key) or not math.isfinite(value):
                raise Error(
                    f"the metric {key!r} is {value}: MLflow takes finite numbers, and names of letters, digits and '_-. /'"
                )
        if gate.metric not in found:
            raise Error(f"the gate asks for {gate.metric!r}, and the evaluation measures {', '.join(found)}")
        return found

    predicted = predict(model_uri, rows)
    figures, theirs = measured(predicted), {}
    version, unable = (present.version if present else ""), ""
    if present:
        try:
            theirs = measured(predict(present.uri, rows))
        except Error as error:  # it was trained by another data contract
            unable = f"; not compared with the champion (version {version}), which cannot answer these rows: {error}"
    best = theirs.get(gate.metric)
    decided, reason = registry.decide(figures[gate.metric], gate.limit, best, version, gate.metric, higher=gate.higher)
    if unable:
        reason = reason.removesuffix("; no champion yet") + unable
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metrics(
            {**figures, "held_out_rows": len(rows), **{f"champion_{key}": value for key, value in theirs.items()}}
        )
        mlflow.log_param("gate", f"{gate.metric} {'>=' if gate.higher else '<='} {gate.limit}")
        mlflow.set_tags({"gate": decided, "gate_reason": reason})
        if keep:
            mlflow.log_dict(_some(client.plain(rows, answer=True), client.plain(predicted, answer=True)), keep)
    print(f"{decided}: {reason}")
    return Verdict(decided, reason, figures, version, theirs)


def _some(rows: list[Any], predictions: list[Any], most: int = 50, size: int = 256 * 1024) -> dict[str, list[Any]]:
    """The first rows with their predictions, as many as fit into one request to a model."""
    while most > 1 and len(json.dumps(rows[:most])) > size:
        most //= 2
    return {"rows": rows[:most], "predictions": predictions[:most]}


#: Program that predicts in a process of its own: address of a model, file of rows, file for the answers.
_PREDICT = """
import json, sys, mlflow, pandas
from iml4e import client
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = client.plain(model.predict(pandas.read_parquet(sys.argv[2])), answer=True)
open(sys.argv[3], "w").write(json.dumps(answers))
"""


def predict(uri: str, rows: Any) -> list[Any]:
    """Predict in a process of its own: of two models that bring modules of the same name, each gets its own.

    Args:
        uri: MLflow address of a model.
        rows: `pandas.DataFrame` of its features.

    Raises:
        Error: it cannot be loaded, or fails.
    """
    import mlflow

    registry.client()
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        asked, answers = Path(folder, "rows.parquet"), Path(folder, "answers.json")
        rows.to_parquet(asked)
        command = [sys.executable, "-W", "ignore", "-P", "-c", _PREDICT, uri, asked, answers]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise Error(f"model {uri} cannot predict: {last}")
        return json.loads(answers.read_text())
