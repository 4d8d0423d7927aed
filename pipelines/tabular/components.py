"""The steps of the tabular pipeline up to the trained model; the rest is in `pipelines.common.components`."""

from typing import NamedTuple

from kfp import dsl

from pipelines.common.settings import step


@step
def onboard(
    source: str,
    key: str,
    version: str,
    raw: dsl.Output[dsl.Dataset],
) -> NamedTuple("Onboarded", [("address", str), ("key", str), ("version", str), ("sha256", str)]):
    """Put raw data into the versioned bucket, or take a version that is there; read back exactly that version.

    Content that is already the latest version is not stored again: the same data has one version.

    Args:
        source: path of a CSV file to put; empty: scikit-learn's copy of the UCI wine data, unless `key` is given.
        key: key of a dataset in the bucket to take as it is; empty: put `source` at wine/wine.csv.
        version: S3 version id of that dataset; empty: the latest.
        raw: the bytes of the file as they came.

    Returns:
        address: s3://BUCKET/KEY?versionId=VERSION; key; version: S3 version id; sha256 of the content, hexadecimal.

    Raises:
        ValueError: there is no such file, key or version, or the bucket keeps no versions.
    """
    import hashlib
    import os
    from pathlib import Path

    import boto3
    from botocore.exceptions import ClientError

    s3 = boto3.client("s3")  # endpoint, region and keys: AWS_… in the environment
    bucket = os.environ["S3_DATASETS_BUCKET"]
    if not key:
        key = "wine/wine.csv"
        if source and not Path(source).is_file():
            raise ValueError(f"there is no file {source}")
        if source:
            content = Path(source).read_bytes()
        else:
            from sklearn.datasets import load_wine

            content = load_wine(as_frame=True).frame.to_csv(index=False).encode()
        digest = hashlib.sha256(content).hexdigest()
        try:
            latest = s3.head_object(Bucket=bucket, Key=key)
        except ClientError:
            latest = {"Metadata": {}}
        if latest["Metadata"].get("sha256") == digest:
            version = latest["VersionId"]
        else:
            stored = s3.put_object(
                Bucket=bucket, Key=key, Body=content, ContentType="text/csv", Metadata={"sha256": digest}
            )
            if "VersionId" not in stored:
                raise ValueError(f"the bucket {bucket} keeps no versions: switch its versioning on")
            version = stored["VersionId"]
    try:
        stored = s3.get_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))
        content, version = stored["Body"].read(), stored["VersionId"]
    except ClientError as error:
        which = f"version {version} of " if version else ""
        raise ValueError(f"cannot read {which}{key} in bucket {bucket}: {error.response['Error']['Message']}") from None
    Path(raw.path).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    address = f"s3://{bucket}/{key}?versionId={version}"
    raw.metadata.update(address=address, sha256=digest)
    print(f"{address}: {len(content)} bytes, sha256 {digest}")
    return address, key, version, digest


@step
def validate(
    raw: dsl.Input[dsl.Dataset],
    address: str,
    data: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
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
        ValueError: the data cannot be used; the sentence names the first problem and the place of the report.
    """
    import json
    import os
    from pathlib import Path
    from urllib.parse import parse_qs, urlsplit

    import boto3
    import pandas as pd
    import pandera.pandas as pa

    # What a chemist would believe: about three times the range of the UCI data, in the units of its description.
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
    schema = pa.DataFrameSchema(
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
    table, problems = pd.DataFrame(), []
    try:
        table = pd.read_csv(raw.path)
        table = schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as error:
        plain = {
            "column_in_dataframe": "missing column",
            "column_in_schema": "unknown column",
            "not_nullable": "no value",
            "coerce_dtype": "wrong type",
            "field_uniqueness": "not unique",
        }
        cases = error.failure_cases.fillna({"column": ""})
        for (column, check), group in cases.groupby(["column", "check"], sort=False):
            index, case = group[["index", "failure_case"]].iloc[0]
            place = "" if pd.isna(index) else f"line {index + 2}: "
            example = "" if check.startswith("needs") else f"{place}{case}"
            check = plain.get(check.split("(")[0], check)
            problems.append({"column": column, "check": check, "cases": len(group), "example": example})
        mistyped = {problem["column"] for problem in problems if problem["check"] == "wrong type"}
        # Other findings in a column of the wrong type follow from that, those about the whole from the rest.
        problems = [p for p in problems if p["check"] == "wrong type" or p["column"] not in mistyped]
        problems.sort(key=lambda problem: problem["example"] == "")
    except ValueError as error:  # cut off, binary, rows of unequal length, empty
        problems.append({"column": "", "check": "is no CSV file", "cases": 1, "example": str(error).strip()[:200]})

    figures = json.loads(table.describe().to_json()) if len(table.columns) else {}
    summary = {"dataset": address, "valid": not problems, "rows": len(table), "problems": problems, "figures": figures}
    text = json.dumps(summary, indent=2)
    Path(report.path).write_text(text)
    place = "the report"
    if bucket := os.environ.get("S3_PIPELINES_BUCKET"):
        parts = urlsplit(address)
        key = f"reports{parts.path}/{parse_qs(parts.query)['versionId'][0]}.json"
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json")
        place = f"s3://{bucket}/{key}"
    if problems:
        first = problems[0]
        what = f"{first['column']!r}: {first['check']}" if first["column"] else first["check"]
        cases = f", {first['cases']} case(s), such as {first['example']}" if first["example"] else ""
        raise ValueError(f"the data cannot be used, {len(problems)} problem(s), first: {what}{cases}; see {place}")
    table.to_csv(data.path, index=False)
    print(f"{len(table)} rows are fit for use; report: {place}")
    return len(table)


@step
def prepare(
    data: dsl.Input[dsl.Dataset],
    training: dsl.Output[dsl.Dataset],
    held_out: dsl.Output[dsl.Dataset],
) -> int:
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


@step
def train(
    training: dsl.Input[dsl.Dataset],
    address: str,
    sha256: str,
    model_name: str,
    regularization: float,
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
    import mlflow
    import pandas as pd
    import sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = pd.read_csv(training.path)
    # MLflow allows 36 characters for a digest; the whole one is a tag.
    dataset = mlflow.data.from_pandas(table, source=address, targets="target", name=model_name, digest=sha256[:36])
    truth = table.pop("target")
    table = table.astype(float)
    mlflow.set_experiment(model_name)
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training")
        mlflow.set_tags({"dataset": address, "dataset.sha256": sha256})
        mlflow.log_params({"estimator": "logistic regression", "regularization": regularization, "rows": len(table)})
        model = make_pipeline(StandardScaler(), LogisticRegression(C=regularization, max_iter=1000))
        model.fit(table, truth)
        mlflow.log_metric("training_accuracy", model.score(table, truth))
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=mlflow.models.infer_signature(table, model.predict(table)),
            input_example=table.head(2),
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"scikit-learn=={sklearn.__version__}"],
        )
    print(f"run {run.info.run_id}: {len(table)} rows, model {logged.model_uri}")
    return run.info.run_id, run.info.experiment_id, logged.model_uri
