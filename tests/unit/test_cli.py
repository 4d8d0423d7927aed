"""The command line, and MLflow's plug-in: what they take, and how they end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from iml4e import Error, cli, mlflow_plugin, serving


def test_help_is_quick_and_lists_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "iml4e.cli", "--help"], capture_output=True, text=True, check=True
    )
    for word in (
        "deploy",
        "models",
        "stats",
        "rollback",
        "delete",
        "logs",
        "predict",
        "data",
        "doctor",
        "backup",
        "restore",
        "rehearse",
        "upgrade",
    ):
        assert word in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"mlflow", "pandas", "kubernetes", "kfp", "boto3", "requests"}


@pytest.mark.parametrize(
    "arguments", [[], ["deploy"], ["no-such"], ["deploy", "a", "--replicas", "two"], ["predict", "a"]]
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: iml4e" in capsys.readouterr().err


def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--url", "http://127.0.0.1:9", "predict", "fraud", "--data", "no-such-file.csv"]) == 1
    assert capsys.readouterr().err == "iml4e: there is no file no-such-file.csv\n"


@pytest.mark.parametrize(
    ("trouble", "code", "told"),
    [
        (Error("no"), 1, "iml4e: no\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("two\nlines"), 1, "iml4e: ValueError: two lines; IML4E_DEBUG=1 shows where\n"),
    ],
)
def test_ends(
    trouble: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Any) -> None:
        raise trouble

    monkeypatch.setattr(cli, "_models", run)
    assert cli.main(["models"]) == code
    assert told in capsys.readouterr().err


def test_every_option_of_the_plug_in_is_one_of_deploy() -> None:
    options = set(serving.deploy.__kwdefaults__)
    assert {*mlflow_plugin.NUMBERS, *mlflow_plugin.TEXTS, *mlflow_plugin.LISTS} == options - {"name", "say"}


def test_config_of_the_plug_in() -> None:
    config = {
        "replicas": "2",
        "force": "true",
        "packages": "xgboost==3.0 lightgbm",
        "node_selector": "disk=ssd zone=a",
        "memory_limit": "2Gi",
    }
    assert mlflow_plugin.options_of(config) == {
        "replicas": 2,
        "force": True,
        "packages": ["xgboost==3.0", "lightgbm"],
        "node_selector": {"disk": "ssd", "zone": "a"},
        "memory_limit": "2Gi",
    }


@pytest.mark.parametrize("config", [{"replica": "2"}, {"replicas": "two"}, {"node_selector": "ssd"}])
def test_wrong_config_of_the_plug_in(config: dict[str, str]) -> None:
    with pytest.raises(Error):
        mlflow_plugin.options_of(config)


def test_plug_in_has_what_mlflow_looks_for() -> None:
    assert "memory_limit" in mlflow_plugin.target_help()
    with pytest.raises(MlflowException, match="mlflow models serve"):
        mlflow_plugin.run_local("iml4e", "fraud", "models:/fraud/1")
    mlflow_plugin.IML4EDeploymentClient("iml4e")


@pytest.mark.parametrize("arguments", [{"replicas": 0}, {"replicas": 3, "max_replicas": 2}, {"batching": "yes"}])
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(Error, match=r"replica|batching"):
        serving.deploy("fraud", "1", **arguments)


@pytest.mark.parametrize("text", ["fast", "250", "0ms", "11s", "250 ms", "-1s", "1m", "1.5.2s"])
def test_a_latency_objective_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Error, match=r"a latency objective is a time from 1ms to 10s, such as '250ms' or '1.5s', not"):
        serving.deploy("fraud", "1", latency_objective=text)
