"""The pipelines as a whole: compiled specification, and messages of the command line."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from iml4e import Error, platform
from iml4e.engines import Steps
from pipelines import run
from pipelines.wine.pipeline import pipeline as wine

STEPS = ["onboard", "validate", "prepare", "train", "evaluate", "register", "deploy", "check"]
COMPILE = """
import sys
from importlib import import_module
from kfp import compiler
pipeline = import_module(f"pipelines.{sys.argv[1]}.pipeline").pipeline
compiler.Compiler().compile(pipeline, sys.argv[2])
"""


def compiled(name: str, folder: Path, **environment: str) -> dict[str, Any]:
    """A pipeline as KFP takes it, compiled in an environment."""
    file = folder / "pipeline.yaml"
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, name, str(file)]
    subprocess.run(command, cwd=Path(run.__file__).parents[1], env={**os.environ, **environment}, check=True)
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize("name", run.PIPELINES)
def test_steps_of_the_runtime_image_need_nothing_but_the_image(tmp_path: Path, name: str) -> None:
    found = compiled(name, tmp_path, IML4E_IN_IMAGE="1", RUNTIME_IMAGE="r/i:1")
    executors = found["deploymentSpec"]["executors"]
    assert sorted(executors) == sorted(f"exec-{step}" for step in STEPS)
    for executor in executors.values():
        command = " ".join(executor["container"]["command"])
        assert executor["container"]["image"] == "r/i:1"
        assert "pip" not in " ".join(executor["container"]["command"][:3])
        assert "import pipelines" not in command
        assert "from pipelines" not in command
        assert "ARCHIVE" not in command
        assert executor["container"]["resources"]["resourceMemoryLimit"] == "1Gi"


def test_steps_of_another_image_bring_the_package_and_install_what_it_lacks(tmp_path: Path) -> None:
    executors = compiled("digits", tmp_path, IML4E_IN_IMAGE="", RUNTIME_IMAGE="")["deploymentSpec"]["executors"]
    commands = {name: executor["container"]["command"] for name, executor in executors.items()}
    assert all(executor["container"]["image"].startswith("ghcr.io/mlflow/") for executor in executors.values())
    assert all("'kfp==2.17.0'" in " ".join(command[:3]) for command in commands.values())
    assert {name for name, command in commands.items() if "'pandera'" in command[2]} == {"exec-validate"}
    # the state of a run, at most 1 MiB, repeats each about five times
    assert sum(len(word) for command in commands.values() for word in command) < 160 * 1024


@pytest.mark.parametrize("name", run.PIPELINES)
def test_only_deploy_and_check_stand_behind_the_gate_and_nothing_is_cached(tmp_path: Path, name: str) -> None:
    found = compiled(name, tmp_path)
    root = found["root"]["dag"]["tasks"]
    (gate,) = (task for task in root.values() if "triggerPolicy" in task)
    assert gate["triggerPolicy"]["condition"].endswith("['pipelinechannel--register-Output'] == 'passed'")
    behind = found["components"][gate["componentRef"]["name"]]["dag"]["tasks"]
    assert sorted(behind) == ["check", "deploy"]
    tasks = [task for task in (*root.values(), *behind.values()) if task is not gate]
    assert all(not task["cachingOptions"].get("enableCache") for task in tasks)


EMBED = """
import io
from kfp import dsl
from iml4e.engines import embedding, local

def probe():
    from iml4e import registry, serving

@dsl.component(embedded_artifact_path=embedding.packed([probe]), install_kfp_package=False, base_image="python")
def whence() -> str:
    import iml4e
    from iml4e import registry, serving
    return iml4e.__file__

print(local.run(whence, {}, io.StringIO()).outputs["whence"]["Output"])
"""


def test_an_embedded_package_is_the_one_that_a_step_imports(tmp_path: Path) -> None:
    (tmp_path / "embed.py").write_text(EMBED)
    repository = Path(run.__file__).parents[1]
    environment = {**os.environ, "IML4E_IN_IMAGE": "", "PYTHONPATH": str(repository)}
    command = [sys.executable, "-W", "ignore", tmp_path / "embed.py"]
    place = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    assert place.endswith("/iml4e/__init__.py")
    assert not Path(place).is_relative_to(repository)


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a pod of a release that serves no models."""
    monkeypatch.setenv(platform.MARK, "datasets")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/mlflow")
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    monkeypatch.setattr("iml4e.serving.preflight", lambda *_: None)


def test_without_a_release_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["wine"]) == 1
    assert capsys.readouterr().err.startswith("pipelines.run: MLFLOW_TRACKING_URI is not set: no access to Kubernetes")


@pytest.mark.usefixtures("release")
def test_engine_kfp_without_an_address_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["wine", "--engine", "kfp"]) == 1
    assert "KF_PIPELINES_ENDPOINT is not set: the release" in capsys.readouterr().err


@pytest.mark.usefixtures("release")
def test_a_backend_that_does_not_answer_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9/pipeline")
    monkeypatch.setattr("time.sleep", lambda _: None)  # kfp.Client tries five times
    # a handler that an earlier test left writes to that test's stream, which is closed
    monkeypatch.setattr("logging.raiseExceptions", False)
    assert run.main(["wine"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pipelines.run: Kubeflow Pipelines at http://127.0.0.1:9/pipeline does not answer")
    assert "Traceback" not in said


@pytest.mark.usefixtures("release")
def test_what_cannot_be_deployed_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Any, tmp_path: Path
) -> None:
    def refuse(model: str, namespace: str) -> None:
        raise Error(f"{model} cannot be served in {namespace}")

    monkeypatch.setattr("iml4e.serving.preflight", refuse)
    words = ["--data", str(tmp_path), "--param", "model_name=Bad Wine", "--param", "namespace=n"]
    assert run.main(["digits", *words]) == 1
    assert capsys.readouterr().err == "pipelines.run: Bad Wine cannot be served in n\n"
    assert not store.objects


@pytest.mark.usefixtures("release")
def test_a_name_that_mlflow_cannot_have_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["wine", "--param", "model_name=a/b"]) == 1
    assert capsys.readouterr().err.startswith("pipelines.run: 'a/b' cannot name a model: ")


@pytest.mark.usefixtures("release")
def test_own_data_that_cannot_be_used_starts_nothing(
    capsys: pytest.CaptureFixture[str], store: Any, tmp_path: Path
) -> None:
    (tmp_path / "my.csv").write_text("a,b\n1,2\n")
    assert run.main(["wine", "--data", str(tmp_path / "my.csv")]) == 1
    assert capsys.readouterr().err.startswith("pipelines.run: the data cannot be used, ")
    assert not store.objects


def test_parameters_take_the_types_that_the_pipeline_declares() -> None:
    arguments = run.parameters(wine, ["floor=0.5", "model_name=my-wine", "dataset_key=a=b"])
    assert arguments["floor"] == 0.5
    assert (arguments["model_name"], arguments["dataset_key"], arguments["namespace"]) == ("my-wine", "a=b", "")


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("word", ["floor=high", "flour=0.5", "floor"])
def test_a_wrong_parameter_is_told(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run.main(["wine", "--param", word])
    assert raised.value.code == 2
    assert "flo" in capsys.readouterr().err


def test_summary_of_a_rejected_model() -> None:
    steps = Steps(io.StringIO())
    steps.outputs = {
        "onboard": {"address": "s3://datasets/wine/wine.csv?versionId=1"},
        "train": {"run_id": "r", "experiment_id": "1"},
        "evaluate": {"accuracy": 0.3, "f1": 0.2, "gate": "rejected", "reason": "why"},
        "register": {"Output": "rejected", "version": "3"},
    }
    result = json.loads(json.dumps(run.summary(steps, run.parameters(wine, []))))
    assert (result["model"], result["version"], result["gate"], result["deployed"]) == ("wine", "3", "rejected", False)
    assert result["prediction"] is None
    assert result["run"].endswith("/mlflow/#/experiments/1/runs/r")
