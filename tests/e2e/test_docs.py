"""The commands of the documentation, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from support.helm import REPO
from support.platform import FrontDoor, Model


def bash(script: str, folder: Path, seconds: float) -> str:
    """Run a script, stop at its first error, and return what it printed."""
    path = f"{REPO / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "IML4E_"))}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment | {"PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def quickstart(front_door: FrontDoor, tmp_path: Path) -> Iterator[Path]:
    """A folder with a clone, as the quickstart expects it; what it registers is gone before and after."""

    def clean() -> None:
        for model in front_door.mlflow.search_registered_models("name='quickstart'"):
            front_door.mlflow.delete_registered_model(model.name)

    clean()
    clone = tmp_path / "iml4e"
    clone.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, clone)
    shutil.copytree(REPO / "src", clone / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    yield tmp_path
    clean()
    experiment = mlflow.get_experiment_by_name("quickstart")
    if experiment:
        front_door.mlflow.delete_experiment(experiment.experiment_id)


@pytest.mark.timeout(900)
def test_quickstart(quickstart: Path) -> None:
    page = REPO / "docs" / "quickstart.md"
    for name, code in re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        (quickstart / name).write_text(code)
    said = bash("\n".join(blocks(page, "bash")), quickstart, 840)
    versions = re.findall(r"quickstart version (\d+) answered 5 rows", said)
    assert versions == ["1", "2", "1"]
    assert re.search(r"^x-model-version: 1", said, re.MULTILINE | re.IGNORECASE)
    assert '{"predictions":[0]}' in said.replace(" ", "")


def test_curl_lines_of_the_readme(wine: Model, tmp_path: Path) -> None:
    text = (REPO / "README.md").read_text()
    lines = re.findall(r"^(?: {4})?(curl (?:[^\n]*\\\n)*[^\n]*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        assert "predictions" in bash(line, tmp_path, 60)
