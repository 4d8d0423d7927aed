"""The commands of the documentation, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.helm import REPO
from support.platform import Gateway, Model


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
def clone(tmp_path: Path) -> Path:
    """A folder that holds what a clone would have."""
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (REPO / name).is_file():
            (tmp_path / "iml4e" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, tmp_path / "iml4e" / name)
    return tmp_path


@pytest.fixture
def quickstart(gateway: Gateway, clone: Path) -> Iterator[Path]:
    """The same; the model that the quickstart registers is gone before and after."""

    def clean() -> None:
        for model in gateway.mlflow.search_registered_models("name='quickstart'"):
            gateway.mlflow.delete_registered_model(model.name)

    clean()
    yield clone
    clean()  # the experiment stays: MLflow lets nobody use the name of a deleted one


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


#: Commands of the README that the harness itself is: `make test` runs this test.
HARNESS = {"make up", "make test", "helm install"}


@pytest.mark.disruptive  # last: its demos crown other champions than those that tests look at
@pytest.mark.timeout(900)
def test_commands_of_the_readme(wine: Model, clone: Path) -> None:
    """All indented blocks, in order, in one shell that stands in a clone."""
    text = (REPO / "README.md").read_text()
    commands = re.findall(r"^ {4}(\S(?:[^\n]*\\\n)*[^\n]*)$", text, re.MULTILINE)
    asked = [command for command in commands if " ".join(command.split()[:2]) not in HARNESS]
    assert any(command.startswith("curl ") for command in asked)
    assert any(command.startswith("iml4e deploy") for command in asked)
    said = bash("\n".join(["python3 -m venv venv; source venv/bin/activate; cd iml4e", *asked]), clone, 840)
    assert said.count("predictions") >= 2, said
    assert "wine version" in said
