"""What `scripts/bench` needs of the harness's Python: the model, what it does without a server, and its bare memory."""

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make(folder: Path) -> dict[str, Any]:
    """Train the wine model, save it for MLflow and for joblib, and call it in a loop.

    Returns:
        columns, rows, what `pyfunc.predict` gives for each row, and `limits`: figures by API and number of rows in a call.
    """
    import joblib
    import mlflow
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    wine = load_wine(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(wine.data, wine.target)
    mlflow.sklearn.save_model(
        model,
        folder / "model",
        signature=mlflow.models.infer_signature(wine.data, model.predict(wine.data)),
        input_example=wine.data.head(2),
        pip_requirements=["scikit-learn"],
    )
    joblib.dump(model, folder / "model.joblib")
    loaded = mlflow.pyfunc.load_model(folder / "model")
    expected = [loaded.predict(wine.data.iloc[[row]]).tolist()[0] for row in range(len(wine.data))]
    limits: dict[str, dict[int, Any]] = {"scikit-learn": {}, "`pyfunc.predict`": {}}
    for rows in (1, 16):
        parts = [wine.data.iloc[start : start + rows] for start in range(len(wine.data) - rows)]
        for api, predict in zip(limits, (model.predict, loaded.predict), strict=True):
            limits[api][rows] = in_process(predict, parts, rows)
    found = {"columns": list(wine.data), "rows": wine.data.to_numpy().tolist(), "expected": expected, "limits": limits}
    (folder / "wine.json").write_text(json.dumps(found))
    return found


def in_process(predict: Callable[[Any], Any], parts: list[Any], rows: int) -> dict[str, float]:
    """Call a model for a second: p50 and p99 in milliseconds, rate in rows per second."""
    took: list[float] = []
    end = time.perf_counter() + 1
    while (begun := time.perf_counter()) < end:
        predict(parts[len(took) % len(parts)])
        took.append(time.perf_counter() - begun)
    hundredths = statistics.quantiles(took, n=100)
    return {"p50": hundredths[49] * 1000, "p99": hundredths[98] * 1000, "rate": rows * len(took) / sum(took)}


def memory(folder: Path) -> dict[str, int]:
    """Load nothing but the model's own libraries and the model, predict, and return the process's memory in KiB."""
    import joblib
    import pandas as pd

    wine = json.loads((folder / "wine.json").read_text())
    joblib.load(folder / "model.joblib").predict(pd.DataFrame(wine["rows"][:1], columns=wine["columns"]))
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "RssAnon:")}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps({"make": make, "memory": memory}[sys.argv[1]](Path(sys.argv[2]))))
