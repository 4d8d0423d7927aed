"""The pipelines as wholes: what they compile to, how kfp.local takes the gate, and what the runner says."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from pipelines import run
from pipelines.common import settings
from pipelines.images.pipeline import pipeline as images
from pipelines.tabular.pipeline import pipeline as tabular

STEPS = ["onboard", "validate", "prepare", "train", "evaluate", "register", "deploy", "check"]


@pytest.fixture(params=[tabular, images], ids=["tabular", "images"])
def compiled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pipeline as KFP takes it: its specification, and what is Kubernetes' own."""
    compiler.Compiler().compile(request.param, str(tmp_path / "pipeline.yaml"))
    specification, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    return specification, platform


def test_steps_need_nothing_but_the_image(compiled: Any) -> None:
    executors = compiled[0]["deploymentSpec"]["executors"]
    assert sorted(executors) == sorted(f"exec-{step}" for step in STEPS)
    for executor in executors.values():
        assert executor["container"]["image"] == settings.BASE_IMAGE
        assert "pip" not in " ".join(executor["container"]["command"][:3])
        assert "import pipelines" not in " ".join(executor["container"]["command"])
        assert "from pipelines" not in " ".join(executor["container"]["command"])


def test_every_step_gets_its_environment_from_the_release(compiled: Any) -> None:
    executors = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == len(STEPS)
    for executor in executors.values():
        (config,) = executor["configMapAsEnv"]
        (secret,) = executor["secretAsEnv"]
        assert config["configMapName"] == "iml4e-runner"
        assert {key["envVar"] for key in config["keyToEnv"]} == set(settings.CONFIG)
        assert secret["secretName"] == "iml4e-s3-pipelines"


def test_only_deploy_and_check_stand_behind_the_gate(compiled: Any) -> None:
    root = compiled[0]["root"]["dag"]["tasks"]
    (gate,) = (task for task in root.values() if "triggerPolicy" in task)
    assert gate["triggerPolicy"]["condition"].endswith("['pipelinechannel--register-Output'] == 'passed'")
    behind = compiled[0]["components"][gate["componentRef"]["name"]]["dag"]["tasks"]
    assert sorted(behind) == ["check", "deploy"]
    assert all(not task.get("cachingOptions", {}).get("enableCache") for task in root.values() if task is not gate)


@settings.step
def register(accuracy: float, version: dsl.OutputPath(str)) -> str:
    """Decide like the real one."""
    with open(version, "w") as file:
        file.write("7")
    print("  indented words of a step are shown as they are")
    return "passed" if accuracy > 0.5 else "rejected"


@settings.step
def deploy(version: str) -> str:
    """Hand on."""
    return f"/models/{version}"


@settings.step
def check(path: str, accuracy: float) -> str:
    """Fail when asked to."""
    if accuracy > 1:
        raise ValueError(f"{path} is\nnot {accuracy}")
    return path


@dsl.pipeline(name="gate")
def gate(accuracy: float = 1.0) -> None:
    """The shape of the gate."""
    registered = settings.configured(register(accuracy=accuracy)).outputs
    with dsl.If(registered["Output"] == "passed", name="passed"):
        deployed = settings.configured(deploy(version=registered["version"]))
        settings.configured(check(path=deployed.output, accuracy=accuracy))


def test_kfp_local_goes_through_the_gate() -> None:
    out = io.StringIO()
    steps = run.run_local(gate, {"accuracy": 0.9}, out)
    assert steps.outputs == {
        "register": {"Output": "passed", "version": "7"},
        "deploy": {"Output": "/models/7"},
        "check": {"Output": "/models/7"},
    }
    lines = out.getvalue().splitlines()
    assert [line[8:] for line in lines if "→" in line] == ["→ register", "→ deploy", "→ check"]
    assert any(line.endswith("indented words of a step are shown as they are") for line in lines)
    assert "KFP" not in out.getvalue()
    assert "executor" not in out.getvalue()


def test_kfp_local_stops_at_the_gate() -> None:
    assert run.run_local(gate, {"accuracy": 0.1}, io.StringIO()).outputs == {
        "register": {"Output": "rejected", "version": "7"}
    }


def test_a_failed_step_ends_with_its_own_sentence() -> None:
    with pytest.raises(run.StepFailed) as raised:
        run.run_local(gate, {"accuracy": 2.0}, io.StringIO())
    assert str(raised.value) == "Step check failed: /models/7 is\nnot 2.0"


def test_parameters_take_the_types_that_the_pipeline_declares() -> None:
    arguments = run.parameters(tabular, ["floor=0.5", "model_name=my-wine", "source=a=b"])
    assert arguments["floor"] == 0.5
    assert (arguments["model_name"], arguments["source"], arguments["namespace"]) == ("my-wine", "a=b", "")


@pytest.mark.parametrize("word", ["floor=high", "flour=0.5", "floor"])
def test_a_wrong_parameter_is_told(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run.main(["tabular", "--param", word])
    assert raised.value.code == 2
    assert "flo" in capsys.readouterr().err


def test_summary_of_a_rejected_model() -> None:
    steps = run.Steps(io.StringIO())
    steps.outputs = {
        "onboard": {"address": "s3://datasets/wine/wine.csv?versionId=1"},
        "train": {"run_id": "r", "experiment_id": "1"},
        "evaluate": {"accuracy": 0.3, "f1": 0.2, "gate": "rejected", "reason": "why"},
        "register": {"Output": "rejected", "version": "3"},
    }
    result = json.loads(json.dumps(run.summary(steps, run.parameters(tabular, []))))
    assert (result["model"], result["version"], result["gate"], result["deployed"]) == ("wine", "3", "rejected", False)
    assert result["prediction"] is None
    assert result["run"].endswith("/mlflow/#/experiments/1/runs/r")
