"""The stages of a project, for people and for CI: validate, compile, run, gate, release, check, predict; and try, without a platform."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iml4e import Error, client, contract, platform, quality, reading, registry
from iml4e.project import KEPT, Project

#: Folder of a project for what the stages write.
BUILD = "build"
RUN, REPORT, METRICS, RELEASE, VALIDATION, PIPELINE = (
    "run.json", "report.md", "metrics.txt", "release.json", "validation.json", "pipeline.yaml",
)  # fmt: skip
#: Seconds that the gateway may take to know a new route.
ROUTED = 60
Say = Callable[[str], None]


def validate(project: Project, data: str = "", say: Say = print) -> None:
    """Check data of this machine, or of the bucket, against the data contract; keep build/validation.json.

    Args:
        project: the project.
        data: file or folder, or `s3:KEY`; empty: the project's.
        say: prints a line.

    Raises:
        Error: it cannot be used.
    """
    place = data or project.data
    if place.startswith("s3:"):
        import tempfile

        from iml4e import datasets

        with tempfile.TemporaryDirectory(prefix="data-") as folder:
            found = datasets.get(_key(place), to=Path(folder, "data"), packed=True)
            rows, problems = reading.read(project.contract, Path(folder, "data"))
            place = found.address
    else:
        rows, problems = reading.read(project.contract, _local(project, place))
    summary = {"data": place, "valid": not problems, "rows": len(rows), "problems": problems}
    path = _write(project, VALIDATION, json.dumps(summary, indent=2, ensure_ascii=False))
    for each in problems:
        what = f"{each['column']!r} " if each["column"] else ""
        say(f"  {what}{each['check']}" + (f" ({each['cases']}x, such as {each['example']})" if each["example"] else ""))
    quality.demand(problems, f"see {path}")
    say(f"{place}: {len(rows)} rows are valid")


def compile_(project: Project, output: str = "") -> Path:
    """Write the pipeline as Kubeflow Pipelines takes it; return the file.

    Raises:
        Error: the project's settings or contract have no meaning.
    """
    import warnings

    from kfp import compiler

    from iml4e import graph

    for name in ("build", "metrics"):
        project.function(name)
    _image()
    path = Path(output) if output else _write(project, PIPELINE, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiler.Compiler().compile(graph.pipeline(project), str(path))
    return path


def run(
    project: Project,
    *,
    engine: str = "",
    trial: bool = False,
    data: str = "",
    parameters: list[str] | None = None,
    out: Any = None,
) -> dict[str, Any]:
    """Run the project's pipeline to its end: validate, train, evaluate, register; keep run.json, report.md and metrics.txt in build.

    Args:
        project: the project.
        engine: "kfp" or "local"; empty: the release's.
        trial: take `sample` rows, and register nothing.
        data: file or folder, or `s3:KEY`; empty: the project's.
        parameters: NAME=VALUE, in place of those of iml4e.yaml.
        out: where to print the progress; None: standard output.

    Returns:
        What run.json has.

    Raises:
        Error: the data or the settings cannot be used, a step failed, or nothing answers.
    """
    from iml4e import engines, graph

    out = out or sys.stdout
    chosen = project.arguments(parameters or [])
    for name in ("build", "metrics"):
        project.function(name)
    place = data or project.data
    _reachable(platform.get("MLFLOW_TRACKING_URI"))
    engine = engine or engines.default()
    if engine == "kfp":
        platform.get("KF_PIPELINES_ENDPOINT")
    if place.startswith("s3:"):
        key, _, version = _key(place).partition("?versionId=")
    else:
        key, version = _put(project, _local(project, place), out)
    arguments = {
        "dataset_key": key,
        "dataset_version": version,
        "parameters": json.dumps(chosen),
        "sample": project.sample if trial else 0,
        "trial": trial,
        "tags": source(project.folder),
        "model_name": project.name,
    }
    _image()
    with _engine(engine):
        steps = engines.run(graph.pipeline(project), arguments, engine=engine, out=out)
    result = _summary(project, steps, arguments)
    _write(project, RUN, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    _write(project, REPORT, report(result))
    _write(project, METRICS, metrics(result))
    return result


def gate(project: Project, say: Say = print) -> None:
    """Judge the last run: print its report, and end with an error unless its model may be released.

    Raises:
        Error: there was no run, the model was rejected, or another champion came in between.
    """
    result = last(project)
    say(report(result))
    if result["gate"] != "passed":
        raise Error(f"rejected: {result['reason']}")
    _same_champion(project, result)


def release(project: Project, version: str = "", *, force: bool = False, say: Say = print) -> dict[str, Any]:
    """Deploy a version, ask it the rows that evaluation kept, and make it the champion; on failure the former version serves again.

    Args:
        project: the project.
        version: of the project's model; empty: that of the last run.
        force: release although the version was rejected, or another champion came after its evaluation.
        say: prints a line.

    Returns:
        What release.json has: model, version, endpoint, url, curl.

    Raises:
        Error: it may not be released, does not start, or answers otherwise than the model itself.
    """
    from iml4e import serving

    if not version:
        result = last(project)
        version = result["version"]
        if not version:
            raise Error(
                "the last run was a trial, which registers nothing: `iml4e project run` without --trial, or name a version"
            )
        if not force:
            if result["gate"] != "passed":
                raise Error(f"rejected: {result['reason']}; --force releases it all the same")
            _same_champion(project, result)
    found = registry.resolve(f"{project.name}/{version}")
    if found.tags.get("status") == "rejected" and not force:
        reason = found.tags.get("gate_reason", "no reason given")
        raise Error(f"{project.name} version {version} is rejected ({reason}); --force releases it all the same")
    rows = kept(found)
    former = _model(project).ready()
    options = {key: value for key, value in project.deploy.items() if key != "timeout"}
    timeout = project.deploy.get("timeout", 300)
    try:
        endpoint = serving.deploy(project.name, version, timeout=timeout, say=say, **options)
    except serving.TookOverError:  # says nothing about this version
        raise
    except Error as error:
        registry.reject(project.name, version, f"not served: {error}")
        raise
    try:
        _ask(endpoint.ask(), rows, version)
    except Error as error:
        now = _back(endpoint, former, say)
        registry.reject(project.name, version, f"not served: {error}")
        raise Error(f"{error}; {now}") from None
    registry.crown(project.name, version)
    first = client.plain(rows["rows"][:1])
    made = {
        "model": project.name, "version": version, "endpoint": endpoint.name, "namespace": endpoint.namespace,
        "url": endpoint.url, "curl": endpoint.curl(first),
    }  # fmt: skip
    _write(project, RELEASE, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    say(
        f"{len(rows['rows'])} rows through the gateway: all as the model itself predicts; version {version} is the champion"
    )
    return made


def check(project: Project, say: Say = print) -> None:
    """Ask the served champion the rows that its evaluation kept, and compare.

    Raises:
        Error: nothing is served, another version than the champion, or it answers otherwise.
    """
    best = registry.champion(project.name)
    if not best:
        raise Error(f"{project.name} has no champion: `iml4e project release` makes one")
    rows = kept(best)
    model = _model(project)
    _ask(model, rows, best.version, seconds=5)
    say(f"{model.base}: champion version {best.version} answers {len(rows['rows'])} rows as evaluated")


def predict(project: Project, data: str) -> tuple[list[Any], str]:
    """Ask the served model about rows as the project's data has them: a CSV file as the contract spells it, or images.

    Returns:
        The predictions, and the version that gave them.

    Raises:
        Error: the data cannot be used, or the model does not answer.
    """
    rows, problems = reading.features_of(project.contract, Path(data))
    quality.demand(problems, "nothing was asked")
    model, found = _model(project), []
    size = 200 if project.contract.kind == "table" else 8
    for start in range(0, len(rows), size):
        found += model.predict(rows.iloc[start : start + size])
    return found, model.version


def try_out(project: Project, folder: Path, *, data: str = "", rows: int = 120, out: Any = None) -> dict[str, Any]:
    """Run the whole pipeline on this machine, without a platform.

    Args:
        project: the project.
        folder: where MLflow's database and files go.
        data: file or folder; empty: rows that fit the contract and that nobody has measured.
        rows: number of these.
        out: where to print the progress; None: standard output.

    Returns:
        What `run` returns; a version is registered in that database only.

    Raises:
        Error: a step failed.
    """
    import mlflow

    from iml4e import engines, graph

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    place = _local(project, data) if data else _made_up(project, folder, rows)
    uri = f"sqlite:///{folder}/mlflow.db"
    told = {
        "MLFLOW_TRACKING_URI": uri,
        platform.MARK: "none",
        "S3_PIPELINES_BUCKET": "",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    before, tracking = {name: os.environ.get(name) for name in told}, mlflow.get_tracking_uri()
    os.environ.update(told)
    mlflow.set_tracking_uri(uri)
    platform._release.cache_clear()
    try:
        api = mlflow.MlflowClient(uri)
        if not api.get_experiment_by_name(project.name):
            api.create_experiment(project.name, (folder / "artifacts").as_uri())
        arguments = {"dataset_key": f"file:{place.resolve()}", "parameters": json.dumps(project.parameters)}
        with _engine("local"):
            steps = engines.run(graph.pipeline(project), arguments, engine="local", out=out or sys.stdout)
        return _summary(project, steps, {**arguments, "tags": {}})
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        mlflow.set_tracking_uri(tracking)
        platform._release.cache_clear()


def _made_up(project: Project, folder: Path, rows: int) -> Path:
    """Write rows that fit the contract; where none can be made, take the project's own."""
    from iml4e import example

    made = project.contract
    path = folder / ("images" if made.kind == "images" else "data.csv")
    least = 3 * made.rows_per_class * max(2, example.classes(made))
    try:
        example.write(made, path, max(rows, 2 * made.rows, least))
    except Error:
        if project.data.startswith("s3:"):
            raise
        return _local(project, project.data)
    return path


def last(project: Project) -> dict[str, Any]:
    """What the last run wrote to build/run.json.

    Raises:
        Error: there is no such file.
    """
    path = project.folder / BUILD / RUN
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Error(f"there is no {path}: `iml4e project run` writes it") from None
    except ValueError as error:
        raise Error(f"{path} is no JSON: {error}") from None


def kept(version: registry.Version) -> dict[str, list[Any]]:
    """The rows that evaluation kept in a version's run, with the model's own predictions.

    Raises:
        Error: there are none.
    """
    import mlflow

    registry.client()
    try:
        return json.loads(mlflow.artifacts.load_text(f"runs:/{version.run_id}/{KEPT}"))
    except Exception as error:  # MLflow, its store or JSON, each in words of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Error(
            f"the run of {version.name} version {version.version} has no {KEPT}: only versions of `iml4e project run` have one ({reason})"
        ) from None


def source(folder: Path) -> dict[str, str]:
    """Where the code comes from: tags of the MLflow run and of the version, of CI's variables or of git itself.

    Names of the tags of the commit and the repository are MLflow's own.
    """
    environment = os.environ

    def git(*words: str) -> str:
        with contextlib.suppress(OSError):
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
            return done.stdout.strip() if done.returncode == 0 else ""
        return ""

    repository = environment.get("GITHUB_REPOSITORY", "")
    github = f"{environment.get('GITHUB_SERVER_URL', '')}/{repository}" if repository else ""
    run_id = environment.get("GITHUB_RUN_ID", "")
    remote = environment.get("CI_PROJECT_URL") or github or git("remote", "get-url", "origin")
    parts = urlsplit(remote)
    if parts.username or parts.password:  # a token in the address is nobody's business
        remote = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    commit = environment.get("CI_COMMIT_SHA") or environment.get("GITHUB_SHA") or git("rev-parse", "HEAD")
    in_ci = any(environment.get(name) for name in ("CI_COMMIT_SHA", "GITHUB_SHA"))
    changed = "" if in_ci or not commit else git("status", "--porcelain", "--untracked-files=no")
    found = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.repoURL": remote,
        "git.ref": environment.get("CI_COMMIT_REF_NAME")
        or environment.get("GITHUB_REF_NAME")
        or git("branch", "--show-current"),
        "git.changed": "yes, files differ from the commit" if changed else "",
        "ci.pipeline": environment.get("CI_PIPELINE_URL") or (f"{github}/actions/runs/{run_id}" if run_id else ""),
    }
    return {name: value for name, value in found.items() if value}


def report(result: dict[str, Any]) -> str:
    """A run as Markdown: for people, and for a note in a merge request."""
    theirs = result["champion_metrics"]
    lines = [
        f"### {result['model']}{' version ' + result['version'] if result['version'] else ', a trial'}: {result['gate']}",
        "",
        result["reason"],
        "",
        f"| metric | this model | champion{' (version ' + result['champion'] + ')' if result['champion'] else ''} |",
        "| --- | --- | --- |",
    ]
    for name, value in result["metrics"].items():
        lines.append(f"| {name} | {value:.4g} | {format(theirs[name], '.4g') if name in theirs else '-'} |")
    lines += ["", f"- data: `{result['dataset']['address']}`"]
    lines += [f"- run: {result['run']}"] if result["run"] else []
    lines += [f"- pipeline: {result['pipeline_run']}"] if result["pipeline_run"] else []
    lines += [f"- commit: {result['commit']}"] if result["commit"] else []
    return "\n".join(lines) + "\n"


def metrics(result: dict[str, Any]) -> str:
    """Metrics of a run as GitLab's metrics report and Prometheus take them."""
    figures = {**result["metrics"], **{f"champion_{name}": value for name, value in result["champion_metrics"].items()}}
    return "".join(f"{re.sub('[^a-zA-Z0-9_]', '_', name)} {value}\n" for name, value in figures.items())


def _summary(project: Project, steps: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Summarise a finished run."""
    of = steps.outputs
    trained, verdict = of["train"], of["evaluate"]
    public = platform.find("PUBLIC_URL")
    page = f"{public}/mlflow/#/experiments/{trained['experiment_id']}/runs/{trained['run_id']}" if public else ""
    return {
        "model": project.name,
        "version": of["register"].get("Output", ""),
        "gate": verdict["gate"],
        "reason": verdict["reason"],
        "metrics": _figures(verdict["figures"]),
        "champion": verdict["champion"],
        "champion_metrics": _figures(verdict["champion_figures"]),
        "run_id": trained["run_id"],
        "run": page,
        "pipeline_run": steps.url or None,
        "dataset": of["onboard"],
        "parameters": json.loads(arguments["parameters"]),
        "commit": arguments["tags"].get("mlflow.source.git.commit", ""),
        "seconds": {**steps.seconds, "all": round(time.monotonic() - steps.start, 1)},
    }


def _figures(told: Any) -> dict[str, float]:
    """Metrics of a step's output, which is text where the engine knows no mappings."""
    return json.loads(told) if isinstance(told, str) else dict(told)


def _put(project: Project, path: Path, out: Any) -> tuple[str, str]:
    """Store data of this machine, if it is valid: key and version."""
    from iml4e import datasets

    quality.demand(reading.read(project.contract, path)[1], "nothing was stored")
    try:
        data = datasets.put(path, f"{project.name}/{path.name}")
    except Error as error:
        if platform.find(platform.MARK):
            raise
        raise Error(
            f"{path} cannot be put into the platform's bucket: {error}; or let somebody put it there, and write `data: s3:{project.name}/{path.name}`"
        ) from None
    print(f"{path} is {data.address}", file=out, flush=True)
    return data.key, data.version


def _local(project: Project, place: str) -> Path:
    """Data of this machine: a path as given, or below the project.

    Raises:
        Error: there is none.
    """
    path = Path(place)
    path = path if path.exists() else project.folder / place
    if not place or not path.exists():
        raise Error(
            f"there is no file or folder {place or '(nothing)'}: `data` in {project.folder / 'iml4e.yaml'} names it, or --data"
        )
    if path.is_dir() != (project.contract.kind == "images"):
        raise Error(
            f"{place} is a {'folder' if path.is_dir() else 'file'}, and {contract.FILE} says `kind: {project.contract.kind}`"
        )
    return path


def _key(place: str) -> str:
    """Key of `s3:KEY`, or the address of a version."""
    return place if place.startswith("s3://") else place.removeprefix("s3:")


def _image() -> None:
    """Steps get the release's image, unless RUNTIME_IMAGE names one."""
    if image := platform.find("RUNTIME_IMAGE"):
        os.environ["RUNTIME_IMAGE"] = image


def _reachable(address: str) -> None:
    """Refuse a platform that does not answer, before data is uploaded and steps start; MLflow's client would try for minutes.

    Raises:
        Error: nothing answers at the address of MLflow.
    """
    import requests

    if not address.startswith("http"):
        return
    try:
        requests.get(f"{address}/health", timeout=10)
    except requests.RequestException:
        raise Error(f"MLflow at {address} does not answer: is IML4E_URL right, and the platform up?") from None


@contextlib.contextmanager
def _engine(engine: str) -> Iterator[None]:
    """Engine `local` runs steps in this environment, which has all that they import."""
    before = os.environ.get("IML4E_IN_IMAGE")
    if engine == "local":
        os.environ["IML4E_IN_IMAGE"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("IML4E_IN_IMAGE", None)


def _same_champion(project: Project, result: dict[str, Any]) -> None:
    """Refuse a verdict about another champion than the present one."""
    best = registry.champion(project.name)
    now = best.version if best else ""
    if now not in (result["champion"], result["version"]):
        was = f"version {result['champion']}" if result["champion"] else "no version"
        raise Error(
            f"the champion is version {now or '(none)'} now, and the run compared with {was}: `iml4e project run` compares again"
        )


def _model(project: Project) -> client.Model:
    """A client of the project's endpoint."""
    namespace = project.deploy.get("namespace") or platform.get("MODEL_NAMESPACE")
    return client.Model(platform.get("GATEWAY_URL"), namespace, project.name)


def _ask(model: client.Model, rows: dict[str, list[Any]], version: str, seconds: float = ROUTED) -> None:
    """Ask until the version answers as its model predicted, without the kubeconfig that `serving.check` needs.

    Raises:
        Error: it does not.
    """
    start = time.monotonic()
    while True:
        try:
            answer = model.predict(rows["rows"])
            if model.version == version and client.same(answer, rows["predictions"]):
                return
            pair = next((p for p in zip(answer, rows["predictions"], strict=False) if not client.same(*p)), ("", ""))
            other = (
                f"{pair[0]!r} where its model predicts {pair[1]!r}"
                if model.version == version
                else f"and not version {version}"
            )
            found = f"version {model.version or '(unknown)'} answers {other}"
        except Error as error:
            found = str(error)
        if time.monotonic() - start > seconds:
            raise Error(f"{model.base} does not answer as evaluated: {found}")
        time.sleep(1)


def _back(endpoint: Any, former: bool, say: Say) -> str:
    """Undo a deployment, without the kubeconfig that `serving.undo` needs; what serves now, as a part of a sentence.

    Args:
        endpoint: what was deployed.
        former: whether a version served before.
        say: prints a line.
    """
    from iml4e import serving

    model = endpoint.ask()
    if model.ready() and model.version not in ("", endpoint.version):
        return f"version {model.version} of another deployment stays"
    if former:
        now = serving.rollback(endpoint.name, namespace=endpoint.namespace, say=say)
        return f"version {now.version} serves again"
    serving.delete(endpoint.name, namespace=endpoint.namespace, say=say)
    return "nothing is served under that name now"


def _write(project: Project, name: str, text: str) -> Path:
    path = project.folder / BUILD / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
