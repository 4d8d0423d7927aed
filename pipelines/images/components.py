"""The steps of the image pipeline up to the trained model; the rest is in `pipelines.common.components`.

A dataset of images is a manifest: a CSV file that names each image's key, S3 version id, sha256 and label. So the
version id of the manifest pins every byte of the dataset.
"""

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
    """Put images into the versioned bucket, or take a version that is there; read back exactly that version.

    An image that the latest manifest already lists with the same content is not stored again, nor is a manifest that
    would be the same: the same data has one version.

    Args:
        source: folder of PNG files called LABEL-ANYTHING.png to put; empty: scikit-learn's copy of the UCI handwritten
            digits as PNG files, unless `key` is given.
        key: key of a manifest in the bucket to take as it is; empty: put `source` at digits/.
        version: S3 version id of that manifest; empty: the latest.
        raw: a ZIP file of manifest.csv and the images as they came, each under its key.

    Returns:
        address: s3://BUCKET/KEY?versionId=VERSION of the manifest; its key; its S3 version id; its sha256, hexadecimal.

    Raises:
        ValueError: there is no such folder, key or version, or the bucket keeps no versions.
    """
    import csv
    import hashlib
    import io
    import os
    import zipfile
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError
    from PIL import Image

    threads = 16  # images are small: waiting for answers is what takes the time
    s3 = boto3.client("s3", config=Config(max_pool_connections=threads))  # where and who: AWS_… in the environment
    bucket = os.environ["S3_DATASETS_BUCKET"]
    fields = ["key", "version", "sha256", "label"]

    def read(key: str, version: str) -> tuple[bytes, str]:
        try:
            stored = s3.get_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))
            return stored["Body"].read(), stored["VersionId"]
        except ClientError as error:
            which = f"version {version} of " if version else ""
            message = error.response["Error"]["Message"]
            raise ValueError(f"cannot read {which}{key} in bucket {bucket}: {message}") from None

    def store(key: str, content: bytes, kind: str) -> str:
        stored = s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType=kind)
        if "VersionId" not in stored:
            raise ValueError(f"the bucket {bucket} keeps no versions: switch its versioning on")
        return stored["VersionId"]

    def raw_images() -> list[tuple[str, str, bytes]]:
        """List (file name, label, content)."""
        if source:
            if not Path(source).is_dir():
                raise ValueError(f"there is no folder {source}")
            files = sorted(Path(source).glob("*.png"))
            return [(file.name, file.name.split("-")[0], file.read_bytes()) for file in files]
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = []
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            file = io.BytesIO()
            Image.fromarray((pixels * 15).astype("uint8")).save(file, "PNG")  # 0 to 16 becomes grey of 0 to 240
            images.append((f"{label}-{number:04d}.png", str(label), file.getvalue()))
        return images

    if not key:
        key = "digits/manifest.csv"
        try:
            latest, version = read(key, "")
            known = {row["key"]: row for row in csv.DictReader(io.StringIO(latest.decode()))}
        except ValueError:  # the first time
            latest, known = b"", {}

        def put(image: tuple[str, str, bytes]) -> dict[str, str]:
            name, label, content = image
            row = {"key": f"digits/{name}", "sha256": hashlib.sha256(content).hexdigest(), "label": label}
            old = known.get(row["key"], {})
            same = old.get("sha256") == row["sha256"]
            return row | {"version": old["version"] if same else store(row["key"], content, "image/png")}

        with ThreadPoolExecutor(threads) as pool:
            rows = list(pool.map(put, raw_images()))
        text = io.StringIO()
        writer = csv.DictWriter(text, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if text.getvalue().encode() != latest:
            version = store(key, text.getvalue().encode(), "text/csv")

    manifest, version = read(key, version)
    digest = hashlib.sha256(manifest).hexdigest()
    address = f"s3://{bucket}/{key}?versionId={version}"
    rows = list(csv.DictReader(io.StringIO(manifest.decode(errors="replace"))))
    if not rows or any(row.get(field) in (None, "") for row in rows for field in fields):
        raise ValueError(f"{address} is no manifest, a CSV file with a {', a '.join(fields)} in each row")
    places = [(row["key"], row["version"]) for row in rows]
    with zipfile.ZipFile(raw.path, "w") as archive, ThreadPoolExecutor(threads) as pool:
        archive.writestr("manifest.csv", manifest)
        for (name, _), (content, _) in zip(places, pool.map(lambda place: read(*place), places), strict=True):
            archive.writestr(name, content)
    raw.metadata.update(address=address, sha256=digest)
    print(f"{address}: {len(rows)} images, sha256 of the manifest {digest}")
    return address, key, version, digest


@step
def validate(
    raw: dsl.Input[dsl.Dataset],
    address: str,
    report: dsl.Output[dsl.Artifact],
) -> int:
    """Decode every image, check what comes out with pandera, keep a report, and stop the run if the data is unfit.

    The report is kept even if the run stops: s3://S3_PIPELINES_BUCKET/reports/KEY/VERSION.json (where that is set).

    Args:
        raw: a ZIP file of manifest.csv and images.
        address: address of the exact dataset version, for the report.
        report: JSON: rows, problems (column, check, number of cases, an example), images per label.

    Returns:
        Number of images.

    Raises:
        ValueError: the data cannot be used; the sentence names the first problem and the place of the report.
    """
    import hashlib
    import io
    import json
    import os
    import zipfile
    from pathlib import Path
    from urllib.parse import parse_qs, urlsplit

    import boto3
    import pandas as pd
    import pandera.pandas as pa
    from PIL import Image

    schema = pa.DataFrameSchema(
        {
            "key": pa.Column(str, unique=True),
            "label": pa.Column(int, pa.Check.isin(range(10)), coerce=True),
            "decodes": pa.Column(str, pa.Check.equal_to("yes")),
            "content": pa.Column(str, pa.Check.equal_to("as in the manifest")),
            "form": pa.Column(str, pa.Check.isin(["PNG L 8x8", ""])),  # empty: does not decode, told already
        },
        checks=[
            pa.Check(lambda table: len(table) >= 200, error="needs at least 200 images"),
            pa.Check(
                lambda table: table["label"].value_counts().reindex(range(10), fill_value=0).min() >= 10,
                error="needs at least 10 images of each digit",
            ),
        ],
    )
    found = []
    with zipfile.ZipFile(raw.path) as archive:
        manifest = pd.read_csv(archive.open("manifest.csv"), dtype=str, keep_default_na=False)
        for row in manifest.itertuples():
            content = archive.read(row.key)
            same = hashlib.sha256(content).hexdigest() == row.sha256
            entry = {"key": row.key, "label": row.label, "decodes": "yes", "form": ""}
            entry["content"] = "as in the manifest" if same else "differs from the manifest"
            try:
                image = Image.open(io.BytesIO(content))
                image.load()
                entry["form"] = f"{image.format} {image.mode} {image.width}x{image.height}"
            except Exception as error:  # Pillow raises many kinds for a damaged file
                entry["decodes"] = "no: " + str(error).split(" <")[0]  # without the address of an object
            found.append(entry)
    table = pd.DataFrame(found, columns=list(schema.columns))
    problems = []
    try:
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
            example = "" if check.startswith("needs") else f"{table['key'][index]}: {case}"
            check = plain.get(check.split("(")[0], check)
            problems.append({"column": column, "check": check, "cases": len(group), "example": example})
        mistyped = {problem["column"] for problem in problems if problem["check"] == "wrong type"}
        # Other findings in a column of the wrong type follow from that, those about the whole from the rest.
        problems = [p for p in problems if p["check"] == "wrong type" or p["column"] not in mistyped]
        problems.sort(key=lambda problem: problem["example"] == "")

    labels = table["label"].value_counts().sort_index().to_dict()
    summary = {"dataset": address, "valid": not problems, "rows": len(table), "problems": problems, "labels": labels}
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
    print(f"{len(table)} images are fit for use; report: {place}")
    return len(table)


@step
def prepare(
    raw: dsl.Input[dsl.Dataset],
    images: int,
    training: dsl.Output[dsl.Dataset],
    held_out: dsl.Output[dsl.Dataset],
) -> int:
    """Decode the images to rows of 64 pixels, and split them by the hash of each image's content.

    An image falls on the same side in every run and every version of the dataset, so that a champion is never compared
    on images that it was trained on.

    Args:
        raw: a valid ZIP file of manifest.csv and images.
        images: how many it holds, from `validate`: none is used before all were checked.
        training: about three quarters; columns p0 to p63, pixels from 0 to 16 as in the UCI data, and `target`.
        held_out: about one quarter.

    Returns:
        Number of held-out images.
    """
    import io
    import zipfile

    import numpy as np
    import pandas as pd
    from PIL import Image

    pixels = []
    with zipfile.ZipFile(raw.path) as archive:
        manifest = pd.read_csv(archive.open("manifest.csv"))
        for key in manifest["key"]:
            pixels.append(np.asarray(Image.open(io.BytesIO(archive.read(key)))).ravel() / 15)  # see `onboard`
    table = pd.DataFrame(np.stack(pixels), columns=[f"p{number}" for number in range(64)])
    table["target"] = manifest["label"]
    aside = manifest["sha256"].str[:2].map(lambda digits: int(digits, 16) < 64)  # of 256
    table[~aside].to_csv(training.path, index=False)
    table[aside].to_csv(held_out.path, index=False)
    print(f"{images} images: {sum(~aside)} to train, {sum(aside)} held out")
    return int(aside.sum())


@step
def train(
    training: dsl.Input[dsl.Dataset],
    address: str,
    sha256: str,
    model_name: str,
    regularization: float,
) -> NamedTuple("Trained", [("run_id", str), ("experiment_id", str), ("model_uri", str)]):
    """Fit a support vector machine and track it in MLflow. The model takes a tensor of shape [-1, 64].

    Args:
        training: images to learn from, as rows of pixels.
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
    from sklearn.svm import SVC

    table = pd.read_csv(training.path)
    # MLflow allows 36 characters for a digest; the whole one is a tag.
    dataset = mlflow.data.from_pandas(table, source=address, targets="target", name=model_name, digest=sha256[:36])
    truth = table.pop("target")
    pixels = table.to_numpy(dtype=float)
    mlflow.set_experiment(model_name)
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training")
        mlflow.set_tags({"dataset": address, "dataset.sha256": sha256})
        mlflow.log_params({"estimator": "SVM", "regularization": regularization, "gamma": 0.001, "rows": len(table)})
        model = SVC(C=regularization, gamma=0.001).fit(pixels, truth)
        mlflow.log_metric("training_accuracy", model.score(pixels, truth))
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=mlflow.models.infer_signature(pixels, model.predict(pixels)),
            input_example=pixels[:2],
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"scikit-learn=={sklearn.__version__}"],
        )
    print(f"run {run.info.run_id}: {len(table)} images, model {logged.model_uri}")
    return run.info.run_id, run.info.experiment_id, logged.model_uri
