"""The commands of the documentation, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import pages
from support.helm import REPO
from support.pages import Session, blocks, prose, without
from support.platform import Gateway, Model


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that holds what a clone would have."""
    return pages.clone(tmp_path)


@pytest.mark.timeout(900)
def test_quickstart(gateway: Gateway, clone: Path) -> None:
    with without(gateway, "quickstart"), Session(clone) as reader:
        said = reader.page(REPO / "docs" / "quickstart.md")
    versions = re.findall(r"quickstart version (\d+) answered 5 rows", said)
    assert versions == ["1", "2", "1"]
    assert re.search(r"^x-model-version: 1", said, re.MULTILINE | re.IGNORECASE)
    assert '{"predictions":[0]}' in said.replace(" ", "")


#: Commands of the README that this test leaves out: `make test` runs it on the platform that they made.
HARNESS = {"make up", "helm install"}


@pytest.mark.disruptive  # last: its demos crown other champions than those that tests look at
@pytest.mark.timeout(900)
def test_commands_of_the_readme(gateway: Gateway, wine: Model, clone: Path) -> None:
    """All indented blocks, in order, in one shell that stands in a clone; its program is saved there before."""
    page = REPO / "README.md"
    for block in blocks(page):
        assert block.name, f"line {block.line}: a fenced block of the README is a program to save"
        (clone / "iml4e" / block.name).write_text(block.text)
    commands = re.findall(r"^ {4}(\S(?:[^\n]*\\\n)*[^\n]*)$", prose(page), re.MULTILINE)
    asked = [command for command in commands if " ".join(command.split()[:2]) not in HARNESS]
    assert "python first.py" in asked
    assert any(command.startswith("curl ") for command in asked)
    assert any(command.startswith("iml4e deploy") for command in asked)
    with without(gateway, "first"), Session(clone) as reader:
        said = reader.bash("\n".join(["python3 -m venv venv; source venv/bin/activate; cd iml4e", *asked]), 840)
    assert re.search(r"first version \d+ serves at .*\n\[0\]\n", said), said  # the first wine is of class 0
    assert re.search(r"^first +first +\d+ +- +ready", said, re.MULTILINE), said
    assert "first is not served any more" in said
    assert said.count("predictions") >= 2, said
    assert "wine version" in said
