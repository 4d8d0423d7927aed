"""The program that ends MLflow runs: its verdict over each. The cluster tests run it against MLflow and Kubeflow Pipelines."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "charts/iml4e/charts/pipelines/files/mlflow_runs.py"
NOW = 1_764_115_200.0  # 2025-11-26T00:00:00Z


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, as a module."""
    monkeypatch.setenv("MLFLOW_URL", "http://mlflow/mlflow")
    monkeypatch.setenv("PIPELINES_URL", "http://pipelines")
    spec = importlib.util.spec_from_file_location("mlflow_runs", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(status: str = "RUNNING", age: float = 600, ended: float = 0, own: bool = False) -> dict[str, Any]:
    """An MLflow run; `own` was opened by the code of a step."""
    info = {"run_id": "r", "status": status, "start_time": (NOW - age) * 1000}
    info |= {"end_time": (NOW - ended) * 1000} if ended else {}
    return {"info": info, "data": {"tags": [{"key": "iml4e.pipeline_run", "value": "p"}] if own else []}}


def pipeline(*states: str) -> dict[str, Any]:
    """A pipeline run that changed its state each minute, the last time at 23:55."""
    history = [
        {"state": state, "update_time": f"2025-11-25T23:{56 - len(states) + n}:00Z"} for n, state in enumerate(states)
    ]
    return {"state": states[-1], "state_history": [{"update_time": "2025-11-25T23:00:00Z"}, *history], "finished_at": "2025-11-25T23:55:00Z"}


@pytest.mark.parametrize(
    ("found", "of", "status"),
    [
        (run(), None, "KILLED"),
        (run(own=True), None, "KILLED"),
        # being made: Kubeflow Pipelines tracks a run before it stores it
        (run(age=60), None, ""),
        (run("FAILED", ended=300), None, ""),
        # just made: the API server leaves an unspecified state out
        (run(), {"state_history": [{"update_time": "2025-11-25T23:55:00Z"}]}, ""),
        (run(), pipeline("PENDING", "RUNNING"), ""),
        (run(), pipeline("PENDING", "RUNNING", "CANCELING"), ""),
        (run(), pipeline("PENDING", "RUNNING", "SUCCEEDED"), "FINISHED"),
        # a step that was killed, and succeeded at the second try
        (run(own=True), pipeline("PENDING", "RUNNING", "SUCCEEDED"), "FAILED"),
        (run(), pipeline("PENDING", "RUNNING", "FAILED"), "FAILED"),
        (run("FAILED", ended=300), pipeline("PENDING", "RUNNING", "FAILED"), ""),
        (run(), pipeline("PENDING", "RUNNING", "CANCELING", "FAILED"), "KILLED"),
        (run(), pipeline("PENDING", "CANCELING", "CANCELED"), "KILLED"),
        (run("FAILED", ended=300), pipeline("PENDING", "RUNNING", "CANCELING", "FAILED"), "KILLED"),
        # a step that had failed by itself before the run was cancelled
        (run("FAILED", ended=500), pipeline("PENDING", "RUNNING", "CANCELING", "FAILED"), ""),
        # cancelled, tried again, failed by itself
        (run(), pipeline("RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED"), "FAILED"),
    ],
)  # fmt: skip
def test_verdict(program: ModuleType, found: dict[str, Any], of: dict[str, Any] | None, status: str) -> None:
    assert program.verdict(found, of, NOW)[0] == status


def test_kubeflow_pipelines_has_two_minutes_to_end_a_run_itself(program: ModuleType) -> None:
    ended = pipeline("PENDING", "RUNNING", "SUCCEEDED")
    assert program.verdict(run(), ended, program.seconds(ended["finished_at"]) + 100) == ("", 0)


def test_a_run_belongs_to_the_pipeline_run_of_the_one_it_is_nested_in(program: ModuleType) -> None:
    def tagged(**tags: str) -> dict[str, Any]:
        return {"data": {"tags": [{"key": key.replace("__", "."), "value": value} for key, value in tags.items()]}}

    known = {"a": tagged(mlflow__parentRunId="b"), "b": tagged(kfp__pipeline_run_id="p")}
    assert program.owner(tagged(mlflow__parentRunId="a"), known) == "p"
    assert program.owner(tagged(iml4e__pipeline_run="q", mlflow__parentRunId="a"), known) == "q"
    assert program.owner(tagged(), known) == ""
