"""The pipelines as wholes: what they compile to, how kfp.local takes the gate, and what the runner says."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from pipelines import run
from pipelines.common import settings
from pipelines.engines import StepFailed, Steps, last_sentence, local, own_words
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


def test_steps_of_an_image_that_lacks_packages_install_them(tmp_path: Path) -> None:
    """MLflow's public image: scripts/demo finds out, and says so by STEP_PACKAGES."""
    code = (
        "from kfp import compiler; from pipelines.tabular.pipeline import pipeline;"
        f"compiler.Compiler().compile(pipeline, '{tmp_path}/pipeline.yaml')"
    )
    environment = {**os.environ, "STEP_PACKAGES": "kfp==2.17.0\npandera"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True)
    compiled = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    executors = compiled["deploymentSpec"]["executors"]
    assert all("'kfp==2.17.0' 'pandera'" in " ".join(e["container"]["command"]) for e in executors.values())


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
    steps = local.run(gate, {"accuracy": 0.9}, out)
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
    assert local.run(gate, {"accuracy": 0.1}, io.StringIO()).outputs == {
        "register": {"Output": "rejected", "version": "7"}
    }


def test_a_failed_step_ends_with_its_own_sentence() -> None:
    with pytest.raises(StepFailed) as raised:
        local.run(gate, {"accuracy": 2.0}, io.StringIO())
    assert str(raised.value) == "Step check failed: /models/7 is\nnot 2.0"


# what a pod of Kubeflow Pipelines 2.17 wrote
LOG = """\
{"time":"2026-11-24T11:42:02.924302647Z","level":"INFO","msg":"capturing logs","argo":true}
I1124 11:42:03.054818      19 cache.go:89] Connecting to cache endpoint ml-pipeline.iml4e.svc.cluster.local:8887
[KFP Executor 2026-11-24 11:42:03,195 INFO]: Looking for component `bad` in --component_module_path `/tmp/x.py`
[KFP Executor 2026-11-24 11:42:03,195 INFO]: Got executor_input:
{
    "inputs": {
        "parameterValues": {
            "x": "passed"
        }
    }
}
{"rows": 3}
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
    raise ValueError(f"the data cannot be used: {x}")
ValueError: the data cannot be used: passed
see the report
I1124 11:42:03.105091      19 launcher_v2.go:1230] ExecutorOutput: {
  "parameterValues": {
    "Output": 1
  }
}
E1124 11:42:03.205051      19 launcher_v2.go:449] Component failed to execute successfully: exit status 1
F1124 11:42:03.384130      19 main.go:59] failed to execute component: exit status 1
{"time":"2026-11-24T11:42:03.411448396Z","level":"INFO","msg":"sub-process exited","argo":true,"error":"exit status 1"}
Error: exit status 1
"""


def test_a_pods_log_is_cut_down_to_the_words_of_its_step() -> None:
    lines = list(own_words(LOG.splitlines()))
    assert lines == ['{"rows": 3}', "ValueError: the data cannot be used: passed", "see the report"]
    assert last_sentence(lines) == "the data cannot be used: passed\nsee the report"


def test_engine_kfp_without_an_address_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    with pytest.raises(SystemExit) as raised:
        run.main(["tabular", "--engine", "kfp"])
    assert raised.value.code == 2
    assert "KF_PIPELINES_ENDPOINT" in capsys.readouterr().err


def test_a_backend_that_does_not_answer_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9/pipeline")
    monkeypatch.setattr("time.sleep", lambda _: None)  # kfp.Client tries five times
    assert run.main(["tabular"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pipelines.run: Kubeflow Pipelines at http://127.0.0.1:9/pipeline does not take the run")
    assert "Traceback" not in said


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
    steps = Steps(io.StringIO())
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
