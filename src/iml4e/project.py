"""A partner's project: its settings (`iml4e.yaml`), data contract (`schema.yaml`) and functions (`project/`), and what the steps do with them."""

import difflib
import importlib
import importlib.metadata
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from iml4e import Error, contract, judge, registry

FILE = "iml4e.yaml"
PACKAGE = "project"
#: Rows that evaluation keeps with the model's answers: what the served model is asked.
KEPT = "held_out_rows.json"
#: Settings, and their types.
SETTINGS = {
    "name": str,
    "data": str,
    "sample": int,
    "parameters": dict,
    "gate": dict,
    "deploy": dict,
    "requirements": list,
}
#: What `deploy` may hold: options of `iml4e deploy`.
DEPLOY = (
    "namespace", "replicas", "max_replicas", "cpu", "memory", "cpu_limit", "memory_limit", "gpu", "node_selector", "tolerations",
    "image", "runtime", "packages", "service_account", "batching", "latency_objective", "timeout",
)  # fmt: skip
#: Functions that a project supplies: module, function, and what it is for.
FUNCTIONS = {
    "build": ("train", "makes the model that is to be fitted, of the contract and the parameters"),
    "metrics": ("evaluate", "measures predictions against the truth"),
}


@dataclass(frozen=True)
class Project:
    """A project in a folder."""

    folder: Path
    name: str
    """Registered model, experiment and endpoint."""
    data: str = ""
    """File or folder in the project, or `s3:KEY` in the platform's bucket."""
    sample: int = 500
    """Rows of a trial."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What `build` gets."""
    gate: judge.Gate = field(default_factory=judge.Gate)
    deploy: dict[str, Any] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    """Packages that the model imports beside scikit-learn; versions are those of the training step."""

    @cached_property
    def contract(self) -> contract.Contract:
        """The data contract.

        Raises:
            Error: it cannot be read.
        """
        return contract.load(self.folder / contract.FILE)

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the project: `build` of project/train.py, `metrics` of project/evaluate.py.

        Raises:
            Error: there is none, or its module cannot be imported.
        """
        module, purpose = FUNCTIONS[name]
        place = f"{PACKAGE}/{module}.py"
        folder = str(self.folder.resolve())
        loaded = sys.modules.get(PACKAGE)
        if loaded and str(self.folder.resolve() / PACKAGE) not in [
            str(Path(each).resolve()) for each in loaded.__path__
        ]:
            for each in [each for each in sys.modules if each == PACKAGE or each.startswith(f"{PACKAGE}.")]:
                del sys.modules[each]  # of another project
        if sys.path[0] != folder:
            sys.path[:] = [folder, *(each for each in sys.path if each != folder)]
        try:
            found = importlib.import_module(f"{PACKAGE}.{module}")
        except Exception as error:  # whatever a partner's module raises
            raise Error(f"{self.folder / place} cannot be imported: {type(error).__name__}: {error}") from None
        if not callable(getattr(found, name, None)):
            raise Error(f"{self.folder / place} has no function {name!r}: it {purpose}")
        return getattr(found, name)

    def arguments(self, given: list[str]) -> dict[str, Any]:
        """The parameters, with changes as `NAME=VALUE`, each of the type that it has in iml4e.yaml; null has none.

        Raises:
            Error: no such parameter, or a value of another type.
        """
        found = dict(self.parameters)
        for word in given:
            name, equals, text = word.partition("=")
            if not equals or name not in found:
                there = ", ".join(found) or "none"
                raise Error(f"{word!r} is no NAME=VALUE of a parameter; {FILE} has {there}")
            kind = type(found[name])
            if found[name] is None:  # of no type: what JSON makes of it, else a text
                try:
                    found[name] = json.loads(text)
                except ValueError:
                    found[name] = text
                continue
            try:
                value = text if kind is str else json.loads(text.lower() if kind is bool else text)
                if type(value) is not kind and not (kind is float and type(value) is int):
                    raise ValueError
            except ValueError:
                raise Error(f"parameter {name} is {text!r}; in {FILE} it is a {kind.__name__}") from None
            found[name] = kind(value)
        return found


def load(folder: str | Path = ".") -> Project:
    """Read the project in a folder.

    Raises:
        Error: there is none, or a setting has no meaning.
    """
    import yaml

    folder = Path(folder)
    path = folder / FILE
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Error(
            f"there is no {FILE} in {folder.resolve()}: go to the folder of a project; `iml4e new` makes one"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Error(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    try:
        return _project(folder, told)
    except Error as error:
        raise Error(f"{path}: {error}") from None


def check_name(name: str) -> str:
    """Return a name that can be that of a project, model and endpoint.

    Raises:
        Error: it cannot.
    """
    fits = 1 <= len(name) <= 40 and name[0].isascii() and name[0].isalpha() and name[-1] != "-"
    if not fits or not all(sign.isascii() and (sign.islower() or sign.isdigit() or sign == "-") for sign in name):
        raise Error(
            f"{name[:60]!r} cannot name a project: use 1 to 40 of a-z, 0-9 and '-', a letter first and no '-' last, as for the address of its model"
        )
    return name


# --- what the steps do


def train(
    project: Project,
    table: Any,
    *,
    address: str,
    sha256: str,
    model_name: str,
    parameters: dict[str, Any],
    tags: dict[str, str],
) -> tuple[str, str, str]:
    """Fit the project's model, and track it in MLflow with the project's code.

    Returns:
        run id, experiment id, MLflow address of the model.

    Raises:
        Error: the project's functions fail.
    """
    made = project.contract
    measure = project.function("metrics")
    truth = table[made.target]
    if made.task == "classification" and truth.nunique() < 2:
        raise Error(f"the {len(table)} training rows have one class only, {truth.iloc[0]!r}: there is too little data")
    try:
        model = project.function("build")(made, parameters)
    except KeyError as error:
        raise Error(
            f"build of {PACKAGE}/train.py asks for {error}, and {FILE} has {', '.join(project.parameters) or 'no parameters'}"
        ) from None
    required = _installed(project.requirements)
    metric = project.gate.metric

    def figure(truth: Any, predicted: Any) -> float:
        found = measure(truth, predicted)
        if metric not in found:
            raise Error(f"the gate asks for {metric!r}, and metrics of {PACKAGE}/evaluate.py has {', '.join(found)}")
        return float(found[metric])

    return registry.fit(
        model,
        table[made.features],
        truth,
        table=table,
        name=model_name,
        address=address,
        sha256=sha256,
        params=parameters,
        target=made.target,
        measure=(metric, figure),
        signature=made.signature(),
        code=[str(project.folder / PACKAGE)],
        requirements=required,
        tags=tags,
        example=made.kind == "table",
    )


def evaluate(project: Project, held_out: Any, *, model_uri: str, run_id: str, model_name: str) -> judge.Verdict:
    """Measure the model and the present champion, and decide by the project's gate."""
    made = project.contract
    rows, truth = held_out[made.features], held_out[made.target]
    return judge.judge(model_uri, run_id, model_name, rows, truth, project.function("metrics"), project.gate, KEPT)


def _installed(requirements: Iterable[str]) -> list[str]:
    """The requirements with the versions that are installed here.

    Raises:
        Error: one is not, or another version is.
    """
    from packaging.requirements import Requirement

    found = []
    for line in requirements:
        wanted = Requirement(line)
        if wanted.url:
            raise Error(f"requirement {line!r} of {FILE} names an address: name a version, NAME==VERSION")
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            raise Error(f"requirement {line!r} of {FILE} is not installed where the model is trained") from None
        if not wanted.specifier.contains(version, prereleases=True):
            raise Error(
                f"requirement {line!r} of {FILE} is not met where the model is trained: version {version} is installed; ask for that one, or install another"
            )
        extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
        found.append(f"{wanted.name}{extras}=={version}")
    return found


def _plain(value: Any, name: str) -> None:
    """Refuse what JSON, in which steps get the parameters, does not know: dates of YAML, keys that are no text."""
    for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _plain(each, name)
    strange = [key for key in value if not isinstance(key, str)] if isinstance(value, dict) else []
    if value is not None and not isinstance(value, str | int | float | dict | list):
        strange = [value]
    if strange:
        raise Error(
            f"parameter {name} has {str(strange[0])!r}, which is no text or number for YAML: write it in quotes"
        )


def _project(folder: Path, told: Any) -> Project:
    from packaging.requirements import InvalidRequirement, Requirement

    if not isinstance(told, dict):
        raise Error(f"it has settings: {', '.join(SETTINGS)}")
    for key, value in told.items():
        if key not in SETTINGS:
            near = difflib.get_close_matches(str(key), SETTINGS, 1)
            raise Error(
                f"{key!r} is no setting; {f'is it `{near[0]}`?' if near else 'there are ' + ', '.join(SETTINGS)}"
            )
        if value is not None and not isinstance(value, SETTINGS[key]):
            raise Error(f"`{key}` is {value!r}; it takes a {SETTINGS[key].__name__}")
    given = {key: value for key, value in told.items() if value is not None}
    check_name(given.get("name", ""))
    for name, value in given.get("parameters", {}).items():
        _plain({name: value}, str(name))
    if given.get("sample", 1) < 1:
        raise Error("`sample` is a number of rows, from 1 on")
    gate = given.get("gate", {"metric": "accuracy", "floor": 0.0})
    limits = [each for each in ("floor", "ceiling") if each in gate]
    if set(gate) - {"metric", "floor", "ceiling"} or len(limits) != 1 or not isinstance(gate.get("metric"), str):
        raise Error("`gate` has a `metric`, and a `floor` where more is better, or a `ceiling` where less is")
    limit = gate[limits[0]]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
        raise Error(f"`gate: {limits[0]}` is a number, not {limit!r}")
    for each in given.get("requirements", ()):
        try:
            Requirement(str(each))
        except InvalidRequirement:
            raise Error(
                f"`requirements` has {each!r}, which is no requirement: write the name of a package, such as pillow or pillow>=10"
            ) from None
    for key in given.get("deploy", {}):
        if key not in DEPLOY:
            near = difflib.get_close_matches(str(key), DEPLOY, 1)
            raise Error(
                f"{key!r} is no option of `deploy`; {f'is it `{near[0]}`?' if near else 'there are ' + ', '.join(DEPLOY)}"
            )
    return Project(
        folder,
        **given
        | {
            "gate": judge.Gate(gate["metric"], float(limit), limits[0] == "floor"),
            "requirements": tuple(map(str, given.get("requirements", ()))),
        },
    )
