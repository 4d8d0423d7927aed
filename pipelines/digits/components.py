"""The steps of the digits pipeline up to the trained model; the rest is in `pipelines.steps`.

The version id of a dataset's manifest (`iml4e.datasets`) pins every byte of its images.
"""

from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

from pipelines.steps import step


def schema() -> Any:
    """The pandera schema of the table that `look` returns: what valid images are."""
    import pandera.pandas as pa

    return pa.DataFrameSchema(
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


def look(rows: list[dict[str, str]], read: Any) -> tuple[Any, list[dict[str, Any]], list[list[float]]]:
    """Decode and check the images of a manifest.

    Args:
        rows: key, sha256 and label of each image.
        read: function from a key to the content.

    Returns:
        A table with a row for each image; problems; the 64 pixels of each image that decodes, 0 to 16 as in the UCI data.
    """
    import hashlib
    import io

    import pandas as pd
    from PIL import Image

    from iml4e import quality

    seen, pixels = [], []
    for row in rows:
        content = read(row["key"])
        same = hashlib.sha256(content).hexdigest() == row["sha256"]
        entry = {"key": row["key"], "label": row["label"], "decodes": "yes", "form": ""}
        entry["content"] = "as in the manifest" if same else "differs from the manifest"
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
            entry["form"] = f"{image.format} {image.mode} {image.width}x{image.height}"
            if entry["form"] == "PNG L 8x8":
                pixels.append([pixel / 15 for pixel in image.tobytes()])  # see `onboard`
        except Exception as error:  # Pillow raises many kinds for a damaged file
            entry["decodes"] = "no: " + str(error).split(" <")[0]  # without the address of an object
        seen.append(entry)
    table = pd.DataFrame(seen)
    return *quality.check(table, schema(), lambda index: table["key"][index]), pixels


def put(source: Path) -> Any:
    """Store a user's folder of PNG files, LABEL-ANYTHING.png, at uploads/digits/FOLDER, if the images are valid.

    Raises:
        iml4e.Error: there is no such folder, or it cannot be used; nothing was stored.
    """
    import iml4e
    from iml4e import datasets, quality

    if not source.is_dir():
        raise iml4e.Error(f"there is no folder {source}")
    rows = datasets.manifest(source)
    quality.demand(look(rows, lambda key: (source / key).read_bytes())[1], "nothing was stored")
    return datasets.put(source, f"uploads/digits/{source.resolve().name}")


@step("pillow")
def onboard(key: str, version: str, model_name: str, raw: dsl.Output[dsl.Dataset]) -> NamedTuple(
    "Onboarded", [("address", str), ("key", str), ("version", str), ("sha256", str)]
):
    """Take exactly one version of a dataset from the bucket; scikit-learn's copy of the UCI data is put there first.

    Args:
        key: key of a manifest in the bucket; empty: digits/manifest.csv, the UCI data as PNG files.
        version: S3 version id of that manifest; empty: the latest.
        model_name: registered model; a name that MLflow cannot have is refused before anything is stored.
        raw: a ZIP file of manifest.csv and the images as they came, each under its key.

    Returns:
        address: s3://BUCKET/KEY?versionId=VERSION of the manifest; its key; its S3 version id; its sha256, hexadecimal.

    Raises:
        iml4e.Error: there is no such key or version, or no model can have that name.
    """
    from iml4e import datasets, registry

    registry.check_name(model_name)
    if not (key or version):
        import tempfile

        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        with tempfile.TemporaryDirectory() as folder:
            for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
                # 0 to 16 becomes grey of 0 to 240
                Image.fromarray((pixels * 15).astype("uint8")).save(f"{folder}/{label}-{number:04d}.png")
            version = datasets.put(folder, "digits").version
    dataset = datasets.get(key or "digits/manifest.csv", version, raw.path, packed=True)
    raw.metadata.update(address=dataset.address, sha256=dataset.sha256)
    print(f"{dataset.address}: sha256 of the manifest {dataset.sha256}")
    return dataset.address, dataset.key, dataset.version, dataset.sha256


@step("pandera", "pillow", functions=(schema, look))
def validate(
    raw: dsl.Input[dsl.Dataset], address: str, data: dsl.Output[dsl.Dataset], report: dsl.Output[dsl.Artifact]
) -> int:
    """Decode every image, check the images with pandera, keep a report, and stop the run if the data is invalid.

    The report is kept even if the run stops: s3://S3_PIPELINES_BUCKET/reports/KEY/VERSION.json (where that is set).

    Args:
        raw: a ZIP file of manifest.csv and images.
        address: address of the exact dataset version, for the report.
        data: a row for each image: columns p0 to p63, pixels from 0 to 16 as in the UCI data, and `target`.
        report: JSON: rows, problems (column, check, number of cases, an example), images per label.

    Returns:
        Number of images.

    Raises:
        iml4e.Error: the data cannot be used; the sentence names the first problem and the place of the report.
    """
    import zipfile

    import pandas as pd

    from iml4e import datasets, quality

    with zipfile.ZipFile(raw.path) as archive:
        table, problems, pixels = look(datasets.rows_of(archive.read("manifest.csv")), archive.read)
    labels = table["label"].value_counts().sort_index().to_dict()
    quality.report(report.path, address, len(table), problems, labels=labels)
    numbers = pd.DataFrame(pixels, columns=[f"p{number}" for number in range(64)])
    numbers.assign(target=table["label"]).to_csv(data.path, index=False)
    return len(table)


@step()
def train(
    training: dsl.Input[dsl.Dataset], address: str, sha256: str, model_name: str, regularization: float
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
    import pandas as pd
    from sklearn.svm import SVC

    from iml4e import registry

    table = pd.read_csv(training.path)
    model = SVC(C=regularization, gamma=0.001)
    params = {"estimator": "SVM", "regularization": regularization, "gamma": 0.001}
    features = table.drop(columns="target").to_numpy(dtype=float)
    where = {"name": model_name, "address": address, "sha256": sha256}
    return registry.fit(model, features, table["target"], table=table, params=params, **where)
