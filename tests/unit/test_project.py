"""A partner's project: settings, functions, split, verdicts, and what its stages refuse."""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from iml4e import Error, cli, client, delivery, graph, judge, project, reading, registry, splits
from iml4e.engines import embedding
from iml4e.judge import Gate

SETTINGS = """
name: fraud
data: data/fraud.csv
sample: 50
parameters: {strength: 1.0, depth: 3, kind: fast, quick: true}
gate: {metric: accuracy, floor: 0.8}
deploy: {cpu: 500m}
requirements: [pillow]
"""
CONTRACT = "kind: table\ntarget: y\nrows: 4\ncolumns: {x: {type: number}, y: {type: integer}}\n"
TRAIN = "from sklearn.tree import DecisionTreeClassifier\n\ndef build(contract, parameters):\n    return DecisionTreeClassifier()\n"
EVALUATE = "def metrics(truth, predicted):\n    return {'accuracy': float((truth == predicted).mean())}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a project."""
    return write(tmp_path / "fraud")


def write(place: Path, **changes: str) -> Path:
    """Write a project; `changes` are files by name, with `__` for a slash."""
    files = {
        "iml4e.yaml": SETTINGS,
        "schema.yaml": CONTRACT,
        "project/train.py": TRAIN,
        "project/evaluate.py": EVALUATE,
    }
    files |= {"project/__init__.py": "", "data/fraud.csv": "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40))}
    for name, text in (files | {name.replace("__", "/"): text for name, text in changes.items()}).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_settings(folder: Path) -> None:
    found = project.load(folder)
    assert (found.name, found.sample, found.gate) == ("fraud", 50, Gate("accuracy", 0.8, True))
    assert found.arguments(["strength=2", "depth=4", "kind=slow", "quick=False"]) == {
        "strength": 2.0, "depth": 4, "kind": "slow", "quick": False,
    }  # fmt: skip
    lower = write(folder, **{"iml4e.yaml": "name: fraud\ngate: {metric: rmse, ceiling: 3}\n"})
    assert project.load(lower).gate == Gate("rmse", 3.0, False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("name: fraud", "name: Fraud!"), "'Fraud!' cannot name a project: use 1 to 40 of a-z, 0-9 and '-'"),
        (("sample:", "samples:"), "'samples' is no setting; is it `sample`?"),
        (("sample: 50", "sample: all"), "`sample` is 'all'; it takes a int"),
        (("sample: 50", "sample: 0"), "`sample` is a number of rows, from 1 on"),
        (("floor: 0.8", "floors: 0.8"), "`gate` has a `metric`, and a `floor` where more is better, or a `ceiling`"),
        (("floor: 0.8", "floor: 0.8, ceiling: 1"), "`gate` has a `metric`"),
        (("floor: 0.8", "floor: .nan"), "`gate: floor` is a number, not nan"),
        (("depth: 3", "since: 2024-01-01"), "parameter since has '2024-01-01', which is no text or number for YAML"),
        (
            ("depth: 3", "depth: [{1: a}]"),
            "parameter depth has '1', which is no text or number for YAML: write it in quotes",
        ),
        (
            ("[pillow]", "[pillow 10]"),
            "`requirements` has 'pillow 10', which is no requirement: write the name of a package",
        ),
        (("cpu:", "cpus:"), "'cpus' is no option of `deploy`; is it `cpu`?"),
        (("name: fraud", "name: [fraud"), "cannot be read"),
        ((SETTINGS, "hello"), "it has settings: name, data"),
    ],
)
def test_settings_without_meaning_are_told(folder: Path, change: tuple[str, str], told: str) -> None:
    write(folder, **{"iml4e.yaml": SETTINGS.replace(*change)})
    with pytest.raises(Error) as raised:
        project.load(folder)
    assert told in str(raised.value)
    assert "iml4e.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("stregnth=1", "'stregnth=1' is no NAME=VALUE of a parameter; iml4e.yaml has strength, depth"),
        ("strength", "is no NAME=VALUE"),
        ("strength=high", "parameter strength is 'high'; in iml4e.yaml it is a float"),
        ("depth=1.5", "parameter depth is '1.5'; in iml4e.yaml it is a int"),
        ("quick=1", "parameter quick is '1'; in iml4e.yaml it is a bool"),
    ],
)
def test_a_wrong_parameter_is_told(folder: Path, word: str, told: str) -> None:
    with pytest.raises(Error) as raised:
        project.load(folder).arguments([word])
    assert told in str(raised.value)


PARAMETERS = "parameters: {layers: [10, 5], deep: {a: 1, b: [2.0]}, depth: null, strength: 1.0}"


def test_parameters_arrive_as_they_are_written(tmp_path: Path) -> None:
    """kubeflow/pipelines#11004: whole numbers became floating ones; dssg/triage#211: null was no value."""
    build = """
from sklearn.tree import DecisionTreeClassifier

def build(contract, parameters):
    told = repr(parameters)
    assert told == "{'layers': [10, 5], 'deep': {'a': 1, 'b': [2.0]}, 'depth': None, 'strength': 1.0}", told
    return DecisionTreeClassifier(max_depth=parameters["depth"])
"""
    settings = re.sub("parameters:.*", PARAMETERS, SETTINGS).replace("pillow", "")
    found = project.load(write(tmp_path / "fraud", **{"iml4e.yaml": settings, "project/train.py": build}))
    assert delivery.compile_(found).exists()
    assert delivery.try_out(found, tmp_path / "tried")["parameters"]["layers"] == [10, 5]


def test_a_parameter_that_is_null_takes_any_value(folder: Path) -> None:
    found = project.load(write(folder, **{"iml4e.yaml": re.sub("parameters:.*", PARAMETERS, SETTINGS)}))
    assert [found.arguments([f"depth={text}"])["depth"] for text in ("3", "null", "fast", "0.5")] == [
        3,
        None,
        "fast",
        0.5,
    ]
    assert found.arguments(["layers=[7, 8]"])["layers"] == [7, 8]


def test_requirements_may_name_versions() -> None:
    version = importlib.metadata.version("pillow")
    assert project._installed(["pillow>=1", "Pillow", "pillow[xmp] != 1"]) == [
        f"{name}=={version}" for name in ("pillow", "Pillow", "pillow[xmp]")
    ]
    with pytest.raises(
        Error, match=f"requirement 'pillow<1' of iml4e.yaml is not met .*: version {version} is installed"
    ):
        project._installed(["pillow<1"])
    with pytest.raises(Error, match=r"requirement 'nothing-like-this>=1' of iml4e.yaml is not installed"):
        project._installed(["nothing-like-this>=1"])
    assert project._installed(['nothing-like-this>=1; sys_platform == "win32"']) == []
    with pytest.raises(Error, match="names an address: name a version"):
        project._installed(["pillow @ https://example.org/pillow.whl"])


def test_try_says_whose_rows_these_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "try_out", lambda *_, **__: result())
    for words, told in (([], True), (["--data", "data/fraud.csv"], False)):
        assert cli.main(["project", "try", "-C", str(folder), *words]) == 0
        said = capsys.readouterr().out
        assert "The pipeline works" in said
        assert ("made up" in said) is told


def test_no_project_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["project", "validate", "-C", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"iml4e: there is no iml4e.yaml in {tmp_path}: go to the folder of a project; `iml4e new` makes one\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "has no function 'build': it makes the model"),
        ("import nothing_like_this\n", "cannot be imported: ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def build(:\n", "cannot be imported: SyntaxError"),
    ],
)
def test_a_function_that_is_missing_is_told(tmp_path: Path, text: str, told: str) -> None:
    found = project.load(write(tmp_path / "fraud", **{"project/train.py": text}))
    with pytest.raises(Error) as raised:
        found.function("build")
    assert told in str(raised.value)


def test_two_projects_in_one_process_keep_their_own_functions(tmp_path: Path) -> None:
    one, two = (
        project.load(write(tmp_path / name, **{"project/evaluate.py": f"def metrics(t, p):\n    return {name!r}\n"}))
        for name in ("one", "two")
    )
    assert [each.function("metrics")(0, 0) for each in (one, two, one)] == ["one", "two", "one"]


# --- the split


def table(number: int) -> pd.DataFrame:
    """Rows of numbers, texts, gaps and bytes."""
    rows = [{"a": i / 3, "b": f"é{i}" if i % 5 else None, "image": bytes([i % 256, i // 256])} for i in range(number)]
    return pd.DataFrame(rows)


def test_a_row_falls_on_the_same_side_whatever_is_beside_it() -> None:
    training, held_out = splits.split(table(400))
    assert 60 <= len(held_out) <= 140
    more = splits.split(table(500).sample(frac=1, random_state=1))[1]
    assert set(held_out["a"]) == {value for value in more["a"] if value < 400 / 3}
    assert not set(training["a"]) & set(held_out["a"])


def test_a_sample_is_a_part_of_the_same_split() -> None:
    training, held_out = splits.split(table(400), 80)
    assert len(training) + len(held_out) == 80
    whole = splits.split(table(400))
    assert set(training["a"]) <= set(whole[0]["a"])
    assert set(held_out["a"]) <= set(whole[1]["a"])


def test_rows_of_the_same_key_fall_on_one_side_whatever_the_other_columns_become() -> None:
    """ibis-project/ibis-ml#124, ageron/handson-ml#71: a new column must not put rows that a champion learnt from aside."""
    rows = table(400).assign(customer=[i // 4 for i in range(400)])
    training, held_out = splits.split(rows, by=["customer"])
    assert not set(training["customer"]) & set(held_out["customer"])
    assert 40 <= len(held_out) <= 160
    changed = rows.assign(new=1, customer=rows["customer"].astype(float)).drop(columns="b")
    assert set(splits.split(changed, by=["customer"])[1]["customer"]) == set(held_out["customer"])


def test_the_contract_names_the_columns_that_split(tmp_path: Path) -> None:
    columns = "{x: {type: number}, customer: {type: text, use: false}, y: {type: category, values: [a, b]}}"
    text = f"kind: table\ntarget: y\nsplit_by: [customer]\ncolumns: {columns}\n"
    settings = SETTINGS.replace("pillow", "")
    found = project.load(write(tmp_path / "fraud", **{"schema.yaml": text, "iml4e.yaml": settings}))
    data = delivery._made_up(found, tmp_path, 120)
    rows, problems = reading.read(found.contract, data)
    assert (problems, list(rows.columns)) == ([], ["x", "customer", "y"])
    held_out = len(splits.split(rows, by=["customer"])[1])
    assert held_out != len(splits.split(rows)[1])
    out = io.StringIO()
    delivery.try_out(found, tmp_path / "tried", data=str(data), out=out)
    assert f"{held_out} held out" in out.getvalue()


def test_too_few_rows_are_told() -> None:
    with pytest.raises(Error, match="9 rows with 1 different values of a are too few"):
        splits.split(table(9).assign(a=1), by=["a"])
    with pytest.raises(Error, match="1 rows are too few"):
        splits.split(table(1))


# --- the verdict


def test_numbers_are_the_same_when_only_their_last_digits_differ() -> None:
    assert client.same([{"a": 0.1 + 0.2}, 1, None, "x"], [{"a": 0.3}, 1, None, "x"])
    assert client.same([1.0], [1])
    for answer, wanted in (([1.0], [1.1]), ([1], [1, 2]), ([True], ["True"]), ({"a": 1}, {"b": 1}), ("1", 1)):
        assert not client.same(answer, wanted)


@pytest.mark.parametrize(
    ("value", "limit", "best", "higher", "gate", "reason"),
    [
        (3.0, 4.0, None, False, "passed", "rmse 3.000 stays within the ceiling 4.000; no champion yet"),
        (5.0, 4.0, None, False, "rejected", "rmse 5.000 is above the ceiling 4.000"),
        (3.0, 4.0, 2.5, False, "rejected", "rmse 3.000 is above the champion's 2.500 (version 7)"),
        (3.0, 1.0, 3.0, True, "passed", "rmse 3.000 reaches the floor 1.000; the champion's 3.000 (version 7)"),
    ],
)
def test_a_gate_knows_which_way_is_better(
    value: float, limit: float, best: float | None, higher: bool, gate: str, reason: str
) -> None:
    assert registry.decide(value, limit, best, "7", "rmse", higher=higher) == (gate, reason)


ROWS = pd.DataFrame({"x": [float(i) for i in range(40)]})
TRUTH = pd.Series([i % 2 for i in range(40)])


def log(place: Path, source: str, name: str) -> tuple[str, str]:
    """Fit a model that brings a module `project`: run id and address."""
    import importlib
    import sys

    write(place, **{"project/features.py": source})
    sys.path.insert(0, str(place))
    for each in [each for each in sys.modules if each.partition(".")[0] == "project"]:
        del sys.modules[each]
    importlib.invalidate_caches()
    features = importlib.import_module("project.features")
    model = make_pipeline(FunctionTransformer(features.see), DecisionTreeClassifier())
    where = {"name": name, "address": "file:x", "sha256": "0" * 64, "params": {}, "target": "y"}
    told = registry.fit(model, ROWS, TRUTH, table=ROWS.assign(y=TRUTH), code=[str(place / "project")], **where)
    sys.path.remove(str(place))
    return told[0], told[2]


def accuracy(truth: Any, predicted: Any) -> dict[str, float]:
    """The share of right answers."""
    return {"accuracy": float((truth == predicted).mean())}


def test_two_models_with_modules_of_the_same_name_are_each_measured_with_their_own(
    tracking: mlflow.MlflowClient, tmp_path: Path
) -> None:
    """MLflow alone would give the second model the module of the first (mlflow/mlflow#4061, #12377)."""
    _, blind = log(tmp_path / "a", "def see(rows):\n    return rows * 0\n", "same-name")
    registry.crown("same-name", registry.register(blind, "same-name", "passed", "", ""))
    run_id, seeing = log(tmp_path / "b", "def see(rows):\n    return rows\n", "same-name")
    verdict = judge.judge(seeing, run_id, "same-name", ROWS, TRUTH, accuracy, Gate("accuracy", 0.9), "kept.json")
    assert verdict.gate == "passed"
    assert verdict.metrics == {"accuracy": 1.0}
    assert (verdict.champion, verdict.champion_metrics) == ("1", {"accuracy": 0.5})
    kept = mlflow.artifacts.load_dict(f"runs:/{run_id}/kept.json")
    assert kept["rows"][1] == {"x": 1.0}
    assert kept["predictions"][:3] == [0, 1, 0]


def test_a_champion_that_cannot_answer_the_rows_is_told_and_not_in_the_way(
    tracking: mlflow.MlflowClient, tmp_path: Path
) -> None:
    _, former = log(tmp_path / "a", "def see(rows):\n    return rows\n", "contract")
    registry.crown("contract", registry.register(former, "contract", "passed", "", ""))
    renamed = ROWS.rename(columns={"x": "z"})
    model = LogisticRegression()
    where = {"name": "contract", "address": "file:x", "sha256": "0" * 64, "params": {}, "target": "y"}
    run_id, _, uri = registry.fit(model, renamed, TRUTH, table=renamed.assign(y=TRUTH), **where)
    verdict = judge.judge(uri, run_id, "contract", renamed, TRUTH, accuracy, Gate("accuracy", 0.1))
    assert verdict.gate == "passed"
    assert "not compared with the champion (version 1), which cannot answer these rows" in verdict.reason


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        (lambda t, p: {"f1": 1.0}, "the gate asks for 'accuracy', and the evaluation measures f1"),
        (lambda t, p: {"accuracy": float("nan")}, "the metric 'accuracy' is nan: MLflow takes finite numbers"),
        (
            lambda t, p: {"accuracy": 1.0, "f1 %": 1.0},
            "the metric 'f1 %' is 1.0: MLflow takes finite numbers, and names of",
        ),
    ],
)
def test_metrics_that_mlflow_refuses_are_told(
    tracking: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, measure: Any, told: str
) -> None:
    monkeypatch.setattr(judge, "predict", lambda uri, rows: TRUTH.tolist())
    with pytest.raises(Error) as raised:
        judge.judge("models:/m", "r", "no-such-model", ROWS, TRUTH, measure, Gate("accuracy"))
    assert told in str(raised.value)


# --- stages


def result(**changes: Any) -> dict[str, Any]:
    """What a run wrote."""
    return {
        "model": "fraud", "version": "3", "gate": "passed", "reason": "why", "metrics": {"accuracy": 0.91234, "f1-macro": 0.5},
        "champion": "2", "champion_metrics": {"accuracy": 0.9}, "run": "http://p/run", "pipeline_run": None,
        "dataset": {"address": "s3://datasets/fraud/f.csv?versionId=1"}, "commit": "abc", **changes,
    }  # fmt: skip


@pytest.fixture
def ran(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that leaves the result of a run, and the champion of now."""

    def leave(now: str = "2", **changes: Any) -> project.Project:
        (folder / "build").mkdir(exist_ok=True)
        (folder / "build" / "run.json").write_text(json.dumps(result(**changes)))
        found = registry.Version("fraud", now, f"models:/fraud/{now}") if now else None
        monkeypatch.setattr(registry, "champion", lambda name: found)
        return project.load(folder)

    return leave


def test_the_gate_prints_the_report(ran: Any) -> None:
    said: list[str] = []
    delivery.gate(ran(), said.append)
    assert "| accuracy | 0.9123 | 0.9 |" in said[0]
    assert "| f1-macro | 0.5 | - |" in said[0]
    assert "- commit: abc" in said[0]
    assert delivery.metrics(result()) == "accuracy 0.91234\nf1_macro 0.5\nchampion_accuracy 0.9\n"


@pytest.mark.parametrize(
    ("champion", "changes", "told"),
    [
        ("2", {"gate": "rejected"}, "rejected: why"),
        (
            "4",
            {},
            "the champion is version 4 now, and the run compared with version 2: `iml4e project run` compares again",
        ),
        ("", {}, "the champion is version (none) now, and the run compared with version 2"),
        ("1", {"champion": ""}, "the champion is version 1 now, and the run compared with no version"),
    ],
)
def test_the_gate_refuses(ran: Any, champion: str, changes: dict[str, str], told: str) -> None:
    found = ran(champion, **changes)
    for stage in (lambda: delivery.gate(found, lambda _: None), lambda: delivery.release(found)):
        with pytest.raises(Error) as raised:
            stage()
        assert told in str(raised.value)


def test_a_version_that_is_the_champion_already_passes_again(ran: Any) -> None:
    delivery.gate(ran("3"), lambda _: None)


def test_a_trial_is_not_released(ran: Any) -> None:
    with pytest.raises(Error, match="the last run was a trial, which registers nothing"):
        delivery.release(ran(version=""))


def test_without_a_run_there_is_nothing_to_judge(folder: Path) -> None:
    with pytest.raises(Error, match=r"there is no .*run\.json: `iml4e project run` writes it"):
        delivery.gate(project.load(folder))


def test_validation_leaves_a_report_and_names_every_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["project", "validate", "-C", str(folder)]) == 0
    assert json.loads((folder / "build" / "validation.json").read_text())["valid"] is True
    (folder / "data" / "fraud.csv").write_text("x,y\na,1\n2,b\n")
    assert cli.main(["project", "validate", "-C", str(folder)]) == 1
    said = capsys.readouterr()
    assert "'y' is no integer (1x, such as line 3: 'b')" in said.out
    assert "iml4e: the data cannot be used, 2 problem(s), first: 'x': is no number" in said.err
    assert len(json.loads((folder / "build" / "validation.json").read_text())["problems"]) == 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("data/none.csv", "there is no file or folder data/none.csv"),
        ("data", "data is a folder, and schema.yaml says `kind: table`"),
    ],
)
def test_data_that_is_not_there_is_told(folder: Path, data: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["project", "validate", "-C", str(folder), "--data", data]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "target",
    [
        f"{{type: category, values: {[f'c{i}' for i in range(22)]}}}",
        "{type: integer, minimum: 0, maximum: 21}",
    ],
)
def test_rows_that_are_made_up_are_enough_for_many_classes(tmp_path: Path, target: str) -> None:
    """unionai-oss/pandera#988: rows that are made up break the very checks that they are made for."""
    text = f"kind: table\ntarget: y\nrows_per_class: 10\ncolumns: {{x: {{type: number}}, y: {target}}}\n"
    found = project.load(write(tmp_path / "fraud", **{"schema.yaml": text}))
    path = delivery._made_up(found, tmp_path, 120)
    assert reading.read(found.contract, path)[1] == []


def test_steps_get_the_project_and_stay_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IML4E_IN_IMAGE", "")
    path = delivery.compile_(project.load(folder))
    text = path.read_text()
    assert "pandera" in text
    # the state of a run, at most 1 MiB, repeats each about five times
    assert len(text) < 140 * 1024


def test_steps_get_files_beside_the_modules(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mlflow/mlflow#11806: a project's words.json was there on this machine, and nowhere else."""
    write(folder, **{"project/a/words[1].json": "{}", "project/__pycache__/train.pyc": "", "project/.cache/x.txt": ""})
    write(folder, **{"project/look.ipynb": "x" * 40 * 1024, "project/train.py~": "", "project/keys.env": "secret"})
    write(folder, **{".gitignore": "*.env\n"})
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    sent = Path(embedding.packed((), folder, graph.code(project.load(folder))))
    assert sorted(each.relative_to(sent).as_posix() for each in sent.rglob("*") if each.is_file()) == [
        "iml4e.yaml", "project/__init__.py", "project/a/words[1].json", "project/evaluate.py", "project/train.py", "schema.yaml",
    ]  # fmt: skip
    write(folder, **{"project/words.txt": "x" * 40 * 1024})
    assert graph.code(project.load(folder)) == ("iml4e.yaml", "schema.yaml", "project/**/*.py")
    assert "they have 40 KiB, such as project/words.txt, and may have 32" in capsys.readouterr().err


def test_the_code_of_a_run_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "CI_COMMIT_SHA",
        "CI_PROJECT_URL",
        "GITHUB_REPOSITORY",
        "GITHUB_SHA",
        "CI_PIPELINE_URL",
        "GITHUB_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    assert delivery.source(folder) == {}
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (
        ["init", "-q", "-b", "main"], ["add", "-A"], [*identity, "commit", "-qm", "x"],
        ["remote", "add", "origin", "https://oauth2:glpat-secret@git.example.org/a/fraud.git"],
    ):  # fmt: skip
        subprocess.run(["git", *words], cwd=folder, check=True)
    found = delivery.source(folder)
    assert len(found["mlflow.source.git.commit"]) == 40
    assert found["mlflow.source.git.repoURL"] == "https://git.example.org/a/fraud.git"  # without the token
    assert found["git.ref"] == "main"
    assert "git.changed" not in found
    (folder / "iml4e.yaml").write_text(SETTINGS + "\n")
    assert "git.changed" in delivery.source(folder)
    monkeypatch.setenv("CI_COMMIT_SHA", "f" * 40)
    monkeypatch.setenv("CI_PROJECT_URL", "https://gitlab.example.org/g/p")
    monkeypatch.setenv("CI_PIPELINE_URL", "https://gitlab.example.org/g/p/-/pipelines/7")
    found = delivery.source(folder)
    assert found["mlflow.source.git.commit"] == "f" * 40
    assert found["ci.pipeline"].endswith("/pipelines/7")
    assert "git.changed" not in found
