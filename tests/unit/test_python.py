"""pip and uv of our own, on hosts whose Python lacks a part of the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common import console, debian, python
from scripts.common.paths import REPO


def test_a_user_who_cannot_install_packages_gets_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(console.Failure, match="Packages are missing on this machine: python3-venv") as caught:
        debian.install(["python3-venv"])
    assert "sudo apt-get install python3-venv" in caught.value.cure


def test_nothing_is_installed_where_nothing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    debian.install([])


def test_a_python_without_ensurepip_is_noticed(tmp_path: Path) -> None:
    """Debian keeps that module in a package of its own; a path without the standard library stands for it."""
    code = (
        "import sys; from scripts.common import python; print(python.has_venv()); "
        "sys.path[:] = [sys.argv[1]]; print(python.has_venv())"
    )
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("broken", ["uv", "python"])
def test_half_of_an_environment_is_made_again(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an installation that was interrupted, or when the system's Python has been replaced."""
    monkeypatch.setattr(python, "CACHE", tmp_path)
    folder = tmp_path / "uv" / python.UV.replace("==", "-") / "bin"
    folder.mkdir(parents=True)
    for name in {"uv", "python", "pip"} - {broken}:
        (folder / name).touch()
    (folder / broken).symlink_to(tmp_path / "gone")
    ran: list[list[str]] = []
    monkeypatch.setattr(console, "run", lambda command, **_: ran.append([str(word) for word in command]))
    assert python.tools() == folder
    assert [command[1:3] for command in ran] == [["-m", "venv"], ["install", "--quiet"]]
    (folder / broken).unlink()
    (folder / broken).touch()
    ran.clear()
    python.tools()
    assert ran == []
