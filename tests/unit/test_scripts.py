"""The layout of scripts/: launchers start with Python alone, imports run in one direction."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common.paths import REPO

SCRIPTS = REPO / "scripts"
MODULES = sorted(path for path in SCRIPTS.rglob("*.py") if path.name != "__init__.py")
LAUNCHERS = sorted(path.name for path in SCRIPTS.iterdir() if path.is_file() and not path.suffix)
#: Folders that the modules of a folder may import.
BELOW = {
    "common": {"common"},
    "bare": {"common", "bare"},
    "platform": {"common", "bare", "platform"},
    "harness": {"common", "bare", "harness"},
}


def imports(path: Path) -> set[str]:
    """The modules of scripts/ that a module imports, by their paths below it, without suffix."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join(["scripts", path.parent.name, *filter(None, [module])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    known = {f"scripts.{module.parent.name}.{module.stem}" for module in MODULES}
    return {name.removeprefix("scripts.") for name in found & known}


def test_imports_run_in_one_direction() -> None:
    wrong = [
        f"{path.relative_to(SCRIPTS)} imports {name}"
        for path in MODULES
        for name in imports(path)
        if name.split(".")[0] not in BELOW[path.parent.name]
    ]
    assert wrong == []


def test_no_import_circle() -> None:
    graph = {f"{path.parent.name}.{path.stem}": imports(path) for path in MODULES}
    assert graph["bare.cluster"] >= {"bare.host", "bare.node", "bare.processes", "common.console"}
    while leaves := [name for name, wanted in graph.items() if not wanted & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


@pytest.mark.parametrize(
    "module",
    [
        f"{path.parent.name}.{path.stem}"
        for path in MODULES
        if path.stem not in ("arms", "chart", "crds", "dashboards", "flows", "mutants", "mutate", "package", "scan")
    ],
)
def test_a_module_needs_the_standard_library_only(module: str) -> None:
    """-S leaves out every installed package: this code runs before anything is installed."""
    command = [sys.executable, "-S", "-c", f"import scripts.{module}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


#: For each launcher: arguments with which it changes nothing, and what it says then.
HARMLESS = {
    "arms": (["--help"], "usage: scripts/arms"),
    "availability": (["--help"], "usage: scripts/availability"),
    "bench": (["--help"], "usage: scripts/bench"),
    "chart": (["--help"], "usage: scripts/chart"),
    "crds": (["--help"], "usage: scripts/crds"),
    "dashboards": (["--help"], "usage: scripts/dashboards"),
    "demo": (["--help"], "usage: scripts/demo"),
    "doctor": ([], "runs on Linux"),
    "down": ([], "Nothing is up."),
    "images": (["what"], "usage: scripts/images"),
    "purge": (["--help"], "usage: scripts/purge"),
    "mutate": (["--help"], "usage: scripts/mutate"),
    "scan": (["--help"], "usage: scripts/scan"),
    "setup": (["what"], "usage: scripts/setup"),
    "status": ([], "none: nothing is up"),
    "up": ([], "IML4E_RUNTIME is mine, which names no image."),
}


def test_every_launcher_is_tried() -> None:
    assert set(LAUNCHERS) == HARMLESS.keys()


@pytest.mark.parametrize("safe_path", ["", "1"])
@pytest.mark.parametrize("launcher", HARMLESS)
def test_a_launcher_starts_in_any_folder_with_python_alone(launcher: str, safe_path: str, tmp_path: Path) -> None:
    """Python puts the launcher's folder on sys.path, where platform/ would hide the standard library's module."""
    arguments, said = HARMLESS[launcher]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "IML4E_RUNTIME": "mine", "PYTHONSAFEPATH": safe_path}
    env |= {"IML4E_STATE": str(tmp_path / "state"), "IML4E_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-S", SCRIPTS / launcher, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_is_executable_and_thin(launcher: str) -> None:
    path = SCRIPTS / launcher
    assert os.access(path, os.X_OK)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env python3"
    assert len(lines) <= 12
