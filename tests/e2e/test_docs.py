"""The commands of the documentation, run as they stand."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iml4e import Error, serving
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


def programs(page: Path) -> dict[str, str]:
    """The programs that a page tells to save: name and content."""
    found = re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert found, page
    return dict(found)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


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


@contextlib.contextmanager
def without(gateway: Gateway, name: str) -> Iterator[None]:
    """Endpoint and registered model of a name are gone before and after. The experiment stays: its name could not be used again."""

    def clean() -> None:
        with contextlib.suppress(Error):  # the page deletes its endpoint itself, unless it fails
            serving.delete(name)
        for model in gateway.mlflow.search_registered_models(f"name='{name}'"):
            gateway.mlflow.delete_registered_model(model.name)

    clean()
    try:
        yield
    finally:
        clean()


@pytest.mark.timeout(900)
def test_quickstart(gateway: Gateway, clone: Path) -> None:
    page = REPO / "docs" / "quickstart.md"
    for name, code in programs(page).items():
        (clone / name).write_text(code)
    with without(gateway, "quickstart"):
        said = bash("\n".join(blocks(page, "bash")), clone, 840)
    versions = re.findall(r"quickstart version (\d+) answered 5 rows", said)
    assert versions == ["1", "2", "1"]
    assert re.search(r"^x-model-version: 1", said, re.MULTILINE | re.IGNORECASE)
    assert '{"predictions":[0]}' in said.replace(" ", "")


@pytest.mark.timeout(900)
def test_a_project_of_your_own(gateway: Gateway, clone: Path) -> None:
    page = REPO / "docs" / "template.md"
    with without(gateway, "tumours"):
        said = bash("\n".join(blocks(page, "bash")), clone, 840)
    assert "data/tumours.csv: 569 rows are valid" in said
    assert re.search(r"answers 50 rows as evaluated\nprediction\n", said), said[-2000:]
    assert "version 1 answered 569 rows" in said


#: Commands of the README that this test leaves out: `make test` runs it on the platform that they made.
HARNESS = {"make up", "helm install"}


@pytest.mark.disruptive  # last: its demos crown other champions than those that tests look at
@pytest.mark.timeout(900)
def test_commands_of_the_readme(gateway: Gateway, wine: Model, clone: Path) -> None:
    """All indented blocks, in order, in one shell that stands in a clone; its program is saved there before."""
    page = REPO / "README.md"
    for name, code in programs(page).items():
        (clone / "iml4e" / name).write_text(code)
    commands = re.findall(r"^ {4}(\S(?:[^\n]*\\\n)*[^\n]*)$", prose(page), re.MULTILINE)
    asked = [command for command in commands if " ".join(command.split()[:2]) not in HARNESS]
    assert "python first.py" in asked
    assert any(command.startswith("curl ") for command in asked)
    assert any(command.startswith("iml4e deploy") for command in asked)
    with without(gateway, "first"):
        said = bash("\n".join(["python3 -m venv venv; source venv/bin/activate; cd iml4e", *asked]), clone, 840)
    assert re.search(r"first version \d+ serves at .*\n\[0\]\n", said), said  # the first wine is of class 0
    assert re.search(r"^first +first +\d+ +- +ready", said, re.MULTILINE), said
    assert "first is not served any more" in said
    assert said.count("predictions") >= 2, said
    assert "wine version" in said
