"""Registered models in MLflow: versions, the gate that a model must pass, and the champion."""

import contextlib
import importlib.metadata
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from iml4e import Error, platform


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: str
    uri: str
    """Its address in MLflow: models:/NAME/VERSION."""
    run_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def client() -> Any:
    """An `MlflowClient` of the release's MLflow, or of the tracking URI that this process has chosen.

    Raises:
        Error: the address of MLflow is not known.
    """
    # a line for each file would fill the logs of steps
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    if not mlflow.is_tracking_uri_set():
        mlflow.set_tracking_uri(platform.get("MLFLOW_TRACKING_URI"))
    return mlflow.MlflowClient()


@contextlib.contextmanager
def told(absent: str = "") -> Iterator[None]:
    """Turn errors of MLflow into a sentence; `absent` is the sentence for an object that does not exist.

    Raises:
        Error: MLflow does not answer, refuses, or does not have the object.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if absent and error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise Error(absent) from None
        import mlflow

        first = str(error.message).strip().splitlines()[0]
        if "API request to" in first:
            raise Error(f"MLflow at {mlflow.get_tracking_uri()} does not answer: {first}") from None
        raise Error(f"MLflow refuses: {first}") from None


def check_name(name: str) -> None:
    """Refuse a name that MLflow cannot register.

    Raises:
        Error: it is empty, too long, or holds a slash or colon.
    """
    if not name.strip() or any(sign in name for sign in "/:") or len(name) > 256 or name in (".", ".."):
        raise Error(f"{name!r} cannot name a model: MLflow wants 1 to 256 characters without '/' and ':'")


def resolve(reference: str) -> Version:
    """Find the version that a reference means: `fraud@ALIAS`, `fraud/3`, `fraud/latest`, `fraud` (the champion).

    MLflow's own spelling, `models:/` before it, is understood as well.

    Raises:
        Error: there is no such model, alias or version; the sentence names the existing ones.
    """
    text = reference.removeprefix("models:").strip("/")
    name, at, alias = text.rpartition("@")
    if not at:
        name, _, number = text.rpartition("/")
        name, alias = (name, "") if name else (text, "champion")
    check_name(name)
    mlflow = client()
    with told(f"there is no registered model {name!r}: register one, `mlflow.register_model(model_uri, {name!r})`"):
        model = mlflow.get_registered_model(name)
    if at or alias:
        number = str(model.aliases.get(alias, ""))
    problem = f"model {name} has no {f'alias {alias}' if at or alias else f'version {number}'}"
    numbers = versions(name) if number == "latest" or not number.isdigit() else []
    if number == "latest" and numbers:
        return numbers[0]
    if number.isdigit():
        with contextlib.suppress(Error), told(problem):
            return _version(mlflow.get_model_version(name, number))
    there = ", ".join(f"{name}/{each.version}" for each in (numbers or versions(name))[:5])
    raise Error(f"{problem}; " + (f"name a version: {there}" if there else "it has no version at all"))


def versions(name: str) -> list[Version]:
    """List the versions of a registered model, the newest first."""
    quoted = name.replace("'", "\\'")
    with told():
        found = client().search_model_versions(f"name='{quoted}'", max_results=1000)
    return [_version(each) for each in sorted(found, key=lambda each: -int(each.version))]


def champion(name: str) -> Version | None:
    """The version that has the alias `champion`, if any.

    Raises:
        Error: MLflow does not answer. (A missing answer must not look like a missing champion.)
    """
    from mlflow.exceptions import MlflowException

    try:
        return _version(client().get_model_version_by_alias(name, "champion"))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        with told():
            raise


def storage_uri(name: str, version: str) -> str:
    """Address of a version's files in the object store; ends with a slash, without which `model` also means `model2`.

    Raises:
        Error: there is no such version, or its files lie where KServe cannot read them.
    """
    with told(f"model {name} has no version {version}"):
        address = client().get_model_version_download_uri(name, str(version))
    if address.startswith("mlflow-artifacts:"):
        # mlflow-artifacts:/1/models/… (perhaps with host and API path) lies at s3://BUCKET/1/models/…
        path = re.sub(r"^mlflow-artifacts:(//[^/]*)?", "", address)
        folder = path.split("/mlflow-artifacts/artifacts/")[-1].strip("/")
        address = f"s3://{platform.get('S3_MLFLOW_BUCKET')}/{folder}"
    if not address.startswith("s3://"):
        raise Error(
            f"the files of {name} version {version} lie at {address}, outside the object store: log the model with "
            "MLFLOW_TRACKING_URI set to this platform, and register it anew"
        )
    return address.rstrip("/") + "/"


def fit(
    model: Any,
    features: Any,
    truth: Any,
    *,
    table: Any,
    name: str,
    address: str,
    sha256: str,
    params: dict[str, Any],
    target: str = "target",
    measure: tuple[str, Callable[[Any, Any], float]] | None = None,
    signature: Any = None,
    code: Sequence[str] = (),
    requirements: Sequence[str] = (),
    tags: dict[str, str] | None = None,
    example: bool = True,
) -> tuple[str, str, str]:
    """Fit a scikit-learn model in an MLflow run, and log it with its data, signature, example and requirements.

    Args:
        model: an estimator that is not fitted.
        features: what it learns from, as its callers will send it.
        truth: what it should answer.
        table: `pandas.DataFrame` of both, with the truth in column `target`.
        name: MLflow experiment; made if it does not exist.
        address: address of the exact dataset version.
        sha256: digest of that version.
        params: parameters to log.
        target: column of the truth in `table`.
        measure: name of a metric, and its function of truth and predictions, for the training rows; None: accuracy.
        signature: what the model takes and answers; None: what features and predictions look like.
        code: folders of modules that the model imports; they travel with it.
        requirements: packages that the model imports beside MLflow and scikit-learn, as `name==version`.
        tags: more tags of the run.
        example: whether the first rows are kept with the model.

    Returns:
        run id, experiment id, MLflow address of the model.
    """
    import mlflow
    import sklearn

    client()
    with warnings.catch_warnings():  # of two names of MLflow's for one kind of source, a file
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted in multiple ways")
        # MLflow allows 36 characters for a digest; the whole one is a tag
        dataset = mlflow.data.from_pandas(table, source=address, targets=target, name=name, digest=sha256[:36])
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training")
        mlflow.set_tags({"dataset": address, "dataset.sha256": sha256, **(tags or {})})
        mlflow.log_params({**params, "rows": len(table)})
        model.fit(features, truth)
        predicted = model.predict(features)
        metric, figure = measure or ("accuracy", lambda truth, _: model.score(features, truth))
        mlflow.log_metric(f"training_{metric}", figure(truth, predicted))
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature or mlflow.models.infer_signature(features, predicted),
            input_example=features[:2] if example else None,
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"scikit-learn=={sklearn.__version__}", *requirements],
            code_paths=list(code) or None,
            skops_trusted_types=_trusted(model, code, requirements),
        )
    print(f"run {run.info.run_id}: {len(table)} rows, model {logged.model_uri}")
    return run.info.run_id, run.info.experiment_id, logged.model_uri


def _trusted(model: Any, code: Sequence[str], requirements: Sequence[str]) -> list[str]:
    """Types in a model that skops, MLflow's file format, wants named: of Python itself, of scikit-learn and what it needs, of the model's code and requirements.

    Raises:
        Error: a type of another package, which the model's pods would not have.
    """
    import skops.io

    def normal(package: str) -> str:
        return re.sub(r"[-_.]+", "-", package).lower()

    told = {normal(re.split(r"[^\w.-]", name)[0]) for name in requirements}
    known = {
        "sklearn",
        "numpy",
        "scipy",
        "pandas",
        *sys.stdlib_module_names,
        *(PurePath(folder).name for folder in code),
    }
    known |= {
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if told & set(map(normal, packages))
    }
    found = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    if foreign := [name for name in found if name.partition(".")[0] not in known]:
        raise Error(
            f"the model holds {', '.join(foreign)}, of no package that it requires: name the package in `requirements`, or use a function of its own code"
        )
    return found


def decide(
    value: float,
    limit: float,
    best: float | None = None,
    version: str = "",
    metric: str = "accuracy",
    *,
    higher: bool = True,
) -> tuple[str, str]:
    """The gate: the metric must reach the limit, and must not be worse than the champion's on the same rows.

    Args:
        value: of the new model.
        limit: the worst that passes.
        best: that of the champion; None if there is none.
        version: version of the champion.
        metric: name of the metric.
        higher: whether a higher value is better.

    Returns:
        "passed" or "rejected", and why in one sentence.
    """
    present = "no champion yet" if best is None else f"the champion's {best:.3f} (version {version})"
    worse, bound = ("below", "floor") if higher else ("above", "ceiling")
    sign = 1 if higher else -1
    if sign * value < sign * limit:
        return "rejected", f"{metric} {value:.3f} is {worse} the {bound} {limit:.3f}"
    if best is not None and sign * value < sign * best:
        return "rejected", f"{metric} {value:.3f} is {worse} {present}"
    reaches = "reaches" if higher else "stays within"
    return "passed", f"{metric} {value:.3f} {reaches} the {bound} {limit:.3f}; {present}"


def register(
    model_uri: str,
    name: str,
    gate: str,
    reason: str,
    dataset: str = "",
    run_id: str = "",
    more: dict[str, str] | None = None,
) -> str:
    """Register a model as a new version, tagged status=candidate, or status=rejected where `gate` is not "passed".

    The digest of its files is a tag as well, and a signature where IML4E_SIGNING_KEY names a key: the model server checks both.

    Args:
        model_uri: MLflow address of the model.
        name: registered model; made if it does not exist.
        gate: "passed" or "rejected".
        reason: why, in one sentence.
        dataset: address of the exact dataset version.
        run_id: MLflow run that trained it.
        more: more tags of the version.

    Returns:
        Number of the new version.
    """
    import mlflow

    from iml4e import integrity

    check_name(name)
    tags = {"status": "candidate" if gate == "passed" else "rejected", "gate_reason": reason}
    tags |= {key: value for key, value in {"dataset": dataset, "run_id": run_id, **(more or {})}.items() if value}
    client()
    with told():
        version = str(mlflow.register_model(model_uri, name, tags=tags).version)
    integrity.sign(name, version)
    return version


def crown(name: str, version: str) -> None:
    """Make a version the champion: alias `champion`, tag status=champion, and the stage Production for older tools.

    Former champions get the tag status=archived and the stage Archived. Of several concurrent calls the last alias stays, and tags
    and stages follow that alias: each call reads the alias again after it has written tags and stages.
    """
    import warnings

    warnings.filterwarnings("ignore", message=".*stages", category=FutureWarning)
    mlflow, quoted = client(), name.replace("'", "\\'")
    with told():
        tag(name, version, status="champion")
        mlflow.set_registered_model_alias(name, "champion", str(version))
        settled = ""
        while settled != (best := str(mlflow.get_registered_model(name).aliases.get("champion", ""))):
            settled = best
            if settled:
                tag(name, settled, status="champion")
                mlflow.transition_model_version_stage(name, settled, "Production", archive_existing_versions=True)
            for each in mlflow.search_model_versions(f"name='{quoted}' and tags.status = 'champion'"):
                if str(each.version) != settled:
                    tag(name, each.version, status="archived")
                    mlflow.transition_model_version_stage(name, each.version, "Archived")


def reject(name: str, version: str, reason: str) -> None:
    """Mark a version that cannot be used: tags status=rejected and gate_reason."""
    tag(name, version, status="rejected", gate_reason=reason)


def tag(name: str, version: str, **tags: str) -> None:
    """Set tags of a version; an empty value removes one. A dot in a name is written as in `**{"iml4e.endpoint": url}`."""
    mlflow = client()
    with told():
        for key, value in tags.items():
            if value:
                mlflow.set_model_version_tag(name, str(version), key, value)
            elif key in mlflow.get_model_version(name, str(version)).tags:
                mlflow.delete_model_version_tag(name, str(version), key)


def _version(found: Any) -> Version:
    """Take what this package uses of MLflow's own object."""
    number = str(found.version)
    return Version(found.name, number, f"models:/{found.name}/{number}", found.run_id or "", dict(found.tags))
