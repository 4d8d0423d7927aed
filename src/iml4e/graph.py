"""The graph of every project: from raw data to a registered version, on either engine."""

import glob
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

from iml4e.engines.steps import step
from iml4e.project import PACKAGE, Project

#: Files of a project that its steps read.
TOLD = ("iml4e.yaml", "schema.yaml")
#: Most bytes of a project's files beside its modules: a run's state, at most 1 MiB, repeats each about ten times.
MOST = 32 * 1024


def onboard(key: str, version: str, raw: dsl.Output[dsl.Dataset]) -> NamedTuple(
    "Onboarded", [("address", str), ("key", str), ("version", str), ("sha256", str)]
):
    """Take exactly one version of a dataset from the bucket.

    Args:
        key: key in the bucket; `file:PATH` is a file of this machine, for a trial without a platform.
        version: S3 version id; empty: the latest.
        raw: the file as it came; of a folder a ZIP file with its manifest.

    Returns:
        address: s3://BUCKET/KEY?versionId=VERSION; key; version: S3 version id; sha256 of the content, hexadecimal.
    """
    from iml4e import datasets

    dataset = (
        datasets.copy(key, raw.path) if key.startswith("file:") else datasets.get(key, version, raw.path, packed=True)
    )
    raw.metadata.update(address=dataset.address, sha256=dataset.sha256)
    print(f"{dataset.address}: {dataset.size} bytes, sha256 {dataset.sha256}")
    return dataset.address, dataset.key, dataset.version, dataset.sha256


def validate(
    settings: dsl.EmbeddedInput[dsl.Artifact],
    raw: dsl.Input[dsl.Dataset],
    address: str,
    data: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> int:
    """Check the data against the data contract, keep a report, and stop the run if the data breaks the contract.

    The report is kept even if the run stops: s3://S3_PIPELINES_BUCKET/reports/KEY/VERSION.json (where that is set).

    Args:
        settings: the project.
        raw: a CSV file, or images.
        address: address of the exact dataset version, for the report.
        data: features and target as a table (Parquet).
        report: JSON: rows, problems (column, check, number of cases, an example).

    Returns:
        Number of rows.
    """
    from iml4e import contract, quality, reading

    table, problems = reading.read(contract.load(f"{settings.path}/schema.yaml"), raw.path)
    quality.report(report.path, address, len(table), problems)
    table.to_parquet(data.path)
    return len(table)


def prepare(
    data: dsl.Input[dsl.Dataset],
    sample: int,
    by: list,
    training: dsl.Output[dsl.Dataset],
    held_out: dsl.Output[dsl.Dataset],
) -> int:
    """Split into training rows and held-out rows by the hash of each row's content, so that held-out rows stay held out.

    Args:
        data: a valid table.
        sample: number of rows that are taken; 0: all.
        by: columns whose values alone count (`split_by` in schema.yaml); empty: all.
        training: about three quarters of the rows.
        held_out: about one quarter.

    Returns:
        Number of held-out rows.
    """
    import pandas as pd

    from iml4e import splits

    parts = splits.split(pd.read_parquet(data.path), sample, by)
    parts[0].to_parquet(training.path)
    parts[1].to_parquet(held_out.path)
    print(f"{len(parts[0])} rows to train, {len(parts[1])} held out")
    return len(parts[1])


def train(
    settings: dsl.EmbeddedInput[dsl.Artifact],
    training: dsl.Input[dsl.Dataset],
    address: str,
    sha256: str,
    model_name: str,
    parameters: str,
    tags: dict,
) -> NamedTuple("Trained", [("run_id", str), ("experiment_id", str), ("model_uri", str)]):
    """Fit the project's model (`build` in project/train.py), and track it in MLflow with the project's code.

    Args:
        settings: the project.
        training: rows to learn from.
        address: address of the exact dataset version; the run keeps it.
        sha256: digest of that version.
        model_name: name of the MLflow experiment.
        parameters: of the model, as JSON: Kubeflow Pipelines would hand on whole numbers of a mapping as floating ones, and knows no null.
        tags: of the run, such as the commit.

    Returns:
        run_id and experiment_id of the MLflow run; model_uri: MLflow address of the model.
    """
    import json

    import pandas as pd

    from iml4e import project

    where = {"address": address, "sha256": sha256, "model_name": model_name}
    table, chosen = pd.read_parquet(training.path), json.loads(parameters)
    return project.train(project.load(settings.path), table, parameters=chosen, tags=tags, **where)


def evaluate(
    settings: dsl.EmbeddedInput[dsl.Artifact],
    held_out: dsl.Input[dsl.Dataset],
    model_uri: str,
    run_id: str,
    model_name: str,
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple(
    "Evaluated", [("gate", str), ("reason", str), ("figures", dict), ("champion", str), ("champion_figures", dict)]
):
    """Measure the new model and the present champion on the same held-out rows (`metrics` in project/evaluate.py), and decide.

    Args:
        settings: the project; its gate decides.
        held_out: rows that training never saw.
        model_uri: MLflow address of the new model.
        run_id: MLflow run that trained the model; the metrics are logged to this run.
        model_name: registered model whose alias `champion` names the present champion.
        metrics: the same figures for the KFP user interface.

    Returns:
        gate: "passed" or "rejected"; reason: one sentence; figures of the model, version and figures of the champion.
    """
    import pandas as pd

    from iml4e import project

    where = {"model_uri": model_uri, "run_id": run_id, "model_name": model_name}
    verdict = project.evaluate(project.load(settings.path), pd.read_parquet(held_out.path), **where)
    for name, value in verdict.metrics.items():
        metrics.log_metric(name, value)
    return verdict.gate, verdict.reason, verdict.metrics, verdict.champion, verdict.champion_metrics


def register(
    model_uri: str, run_id: str, model_name: str, gate: str, reason: str, dataset: str, tags: dict, trial: bool
) -> str:
    """Register the model as a new version: tag status=candidate if the model passed the gate, else status=rejected.

    Args:
        model_uri: MLflow address of the model.
        run_id: MLflow run that trained it.
        model_name: registered model; made if it does not exist.
        gate: "passed" or "rejected".
        reason: why, in one sentence.
        dataset: address of the exact dataset version.
        tags: more tags of the version, such as the commit.
        trial: register nothing.

    Returns:
        Number of the new version; empty for a trial.
    """
    from iml4e import registry

    if trial:
        print(f"a trial: not registered; {gate}: {reason}")
        return ""
    number = registry.register(model_uri, model_name, gate, reason, dataset, run_id, tags)
    print(f"{model_name} version {number}: {'candidate' if gate == 'passed' else 'rejected'} ({reason})")
    return number


def code(project: Project) -> tuple[str, ...]:
    """Patterns of the files that steps get which run functions of the project: settings, modules, and files beside these."""
    beside = _beside(project.folder)
    if (size := sum(path.stat().st_size for path in beside)) > MOST:
        largest = max(beside, key=lambda path: path.stat().st_size).relative_to(project.folder)
        print(
            f"steps get none of the files beside the modules of {PACKAGE}/: they have {size / 1024:.0f} KiB, such as {largest}, and may "
            f"have {MOST // 1024}. Put what steps read into a package that `requirements` in iml4e.yaml names",
            file=sys.stderr,
        )
        beside = []
    names = (path.relative_to(project.folder).as_posix() for path in beside)
    return (*TOLD, f"{PACKAGE}/**/*.py", *map(glob.escape, names))


def _beside(folder: Path) -> list[Path]:
    """Files beside a project's modules that steps may read: no notebooks, hidden files or leftovers, and nothing that git ignores."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard", PACKAGE]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = [folder / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        found = list((folder / PACKAGE).rglob("*"))
    return [
        path
        for path in sorted(found)
        if path.is_file()
        and path.suffix not in (".py", ".pyc", ".ipynb")
        and not path.name.endswith("~")
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    ]


def pipeline(project: Project) -> Any:
    """Make the pipeline of a project (`kfp.dsl.pipeline`)."""
    packages = ("pandera", "pillow") if project.contract.kind == "images" else ("pandera",)
    files = code(project)
    steps = {
        "onboard": step(onboard),
        "validate": step(validate, *packages, project=project.folder, files=TOLD),
        "prepare": step(prepare),
        "train": step(train, *packages[1:], project=project.folder, files=files),
        "evaluate": step(evaluate, *packages[1:], project=project.folder, files=files),
        "register": step(register),
    }
    own, by = json.dumps(project.parameters), list(getattr(project.contract, "split_by", ()))

    @dsl.pipeline(name=project.name, description="From data to a registered version, by `iml4e project run`.")
    def graph(
        dataset_key: str,
        dataset_version: str = "",
        parameters: str = own,
        sample: int = 0,
        trial: bool = False,
        tags: dict = {},  # noqa: B006
        model_name: str = project.name,
    ) -> None:
        """Run all steps.

        Args:
            dataset_key: key of the dataset in the bucket.
            dataset_version: S3 version id of that dataset; empty: the latest.
            parameters: of the model, as JSON.
            sample: number of rows that are taken; 0: all.
            trial: register nothing.
            tags: of the MLflow run and of the version.
            model_name: registered model, and experiment.
        """
        data = steps["onboard"](key=dataset_key, version=dataset_version).outputs
        valid = steps["validate"](raw=data["raw"], address=data["address"]).outputs
        parts = steps["prepare"](data=valid["data"], sample=sample, by=by).outputs
        model = steps["train"](
            training=parts["training"],
            address=data["address"],
            sha256=data["sha256"],
            model_name=model_name,
            parameters=parameters,
            tags=tags,
        ).outputs
        trained = {"model_uri": model["model_uri"], "run_id": model["run_id"], "model_name": model_name}
        verdict = steps["evaluate"](held_out=parts["held_out"], **trained).outputs
        steps["register"](
            gate=verdict["gate"], reason=verdict["reason"], dataset=data["address"], tags=tags, trial=trial, **trained
        )

    return graph
