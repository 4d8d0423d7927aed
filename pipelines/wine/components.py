"""The steps of the wine pipeline up to the trained model; the rest is in `pipelines.steps`."""

from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

from pipelines.steps import step


def schema() -> Any:
    """The pandera schema of a valid table: limits of about three times the range of the UCI data, in the units of that data's description."""
    import pandera.pandas as pa

    limits = {
        "alcohol": (5, 25),
        "malic_acid": (0, 20),
        "ash": (0, 10),
        "alcalinity_of_ash": (0, 90),
        "magnesium": (0, 500),
        "total_phenols": (0, 12),
        "flavanoids": (0, 15),
        "nonflavanoid_phenols": (0, 3),
        "proanthocyanins": (0, 12),
        "color_intensity": (0, 40),
        "hue": (0, 5),
        "od280/od315_of_diluted_wines": (0, 12),
        "proline": (0, 5000),
    }
    columns = {name: pa.Column(float, pa.Check.in_range(*limit), coerce=True) for name, limit in limits.items()}
    columns["target"] = pa.Column("Int64", pa.Check.isin([0, 1, 2]), coerce=True)
    return pa.DataFrameSchema(
        columns,
        strict=True,  # no other columns
        checks=[
            pa.Check(lambda table: len(table) >= 60, error="needs at least 60 rows"),
            pa.Check(
                lambda table: table["target"].value_counts().reindex([0, 1, 2], fill_value=0).min() >= 10,
                error="needs at least 10 rows of each class",
            ),
        ],
    )


def put(source: Path) -> Any:
    """Store a user's CSV file at uploads/wine/FILE, if the data is valid.

    Raises:
        iml4e.Error: there is no such file, or it cannot be used; nothing was stored.
    """
    import iml4e
    from iml4e import datasets, quality

    if not source.is_file():
        raise iml4e.Error(f"there is no file {source}")
    content = source.read_bytes()
    quality.demand(quality.read_csv(content, schema())[1], "nothing was stored")
    return datasets.put(content, f"uploads/wine/{source.name}")


@step()
def onboard(key: str, version: str, model_name: str, raw: dsl.Output[dsl.Dataset]) -> NamedTuple(
    "Onboarded", [("address", str), ("key", str), ("version", str), ("sha256", str)]
):
    """Take exactly one version of a dataset from the bucket; scikit-learn's copy of the UCI data is put there first.

    Args:
        key: key of a CSV file in the bucket; empty: wine/wine.csv, the UCI data.
        version: S3 version id of that file; empty: the latest.
        model_name: registered model; a name that MLflow cannot have is refused before anything is stored.
        raw: the bytes of the file as they came.

    Returns:
        address: s3://BUCKET/KEY?versionId=VERSION; key; version: S3 version id; sha256 of the content, hexadecimal.

    Raises:
        iml4e.Error: there is no such key or version, or no model can have that name.
    """
    from iml4e import datasets, registry

    registry.check_name(model_name)
    if not (key or version):
        from sklearn.datasets import load_wine

        version = datasets.put(load_wine(as_frame=True).frame.to_csv(index=False).encode(), "wine/wine.csv").version
    dataset = datasets.get(key or "wine/wine.csv", version, raw.path)
    raw.metadata.update(address=dataset.address, sha256=dataset.sha256)
    print(f"{dataset.address}: {dataset.size} bytes, sha256 {dataset.sha256}")
    return dataset.address, dataset.key, dataset.version, dataset.sha256


@step("pandera", functions=(schema,))
def validate(
    raw: dsl.Input[dsl.Dataset], address: str, data: dsl.Output[dsl.Dataset], report: dsl.Output[dsl.Artifact]
) -> int:
    """Check the data with pandera, keep a report, and stop the run if the data cannot be used.

    The report is kept even if the run stops: s3://S3_PIPELINES_BUCKET/reports/KEY/VERSION.json (where that is set).

    Args:
        raw: a CSV file.
        address: address of the exact dataset version, for the report.
        data: the same table, with the types that the schema asks for.
        report: JSON: rows, problems (column, check, number of cases, an example), figures per column.

    Returns:
        Number of rows.

    Raises:
        iml4e.Error: the data cannot be used; the sentence names the first problem and the place of the report.
    """
    import json

    from iml4e import quality

    table, problems = quality.read_csv(raw.path, schema())
    figures = json.loads(table.describe().to_json()) if len(table.columns) else {}
    quality.report(report.path, address, len(table), problems, figures=figures)
    table.to_csv(data.path, index=False)
    return len(table)


@step()
def train(
    training: dsl.Input[dsl.Dataset], address: str, sha256: str, model_name: str, regularization: float
) -> NamedTuple("Trained", [("run_id", str), ("experiment_id", str), ("model_uri", str)]):
    """Fit a scikit-learn pipeline (scaling, logistic regression) and track it in MLflow.

    Args:
        training: rows to learn from.
        address: address of the exact dataset version; the run keeps it.
        sha256: digest of that version.
        model_name: name of the MLflow experiment.
        regularization: inverse strength `C` of the regularization, above 0; small values make a weak model.

    Returns:
        run_id and experiment_id of the MLflow run; model_uri: MLflow address of the model.
    """
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from iml4e import registry

    table = pd.read_csv(training.path)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=regularization, max_iter=1000))
    params = {"estimator": "logistic regression", "regularization": regularization}
    features = table.drop(columns="target").astype(float)
    where = {"name": model_name, "address": address, "sha256": sha256}
    return registry.fit(model, features, table["target"], table=table, params=params, **where)
