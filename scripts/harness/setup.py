"""The Python environment of the harness: kept in the cache by content, linked as .venv."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.common import console, python
from scripts.common.paths import CACHE, REPO

LOCK = REPO / "requirements-dev.txt"
#: The generator of the documentation's site, which `make docs` alone installs.
SITE_LOCK = REPO / "docs" / "site" / "requirements.txt"
GROUPS = ("lint", "dashboards", "render", "unit", "e2e", "load", "availability")


def uv() -> list[str | Path]:
    """The package manager, with the options of every call."""
    return [python.tools() / "uv", "--quiet", "--system-certs"]


def pin(target: Path, *words: str | Path) -> None:
    """Resolve requirements into `target`, with hashes and without addresses; a version that it holds is kept where it fits."""
    options = ["--generate-hashes", "--no-annotate", "--no-emit-index-url", "--custom-compile-command", "make lock"]
    console.run([*uv(), "pip", "compile", *options, *words, "-o", target], cwd=REPO)


def packages(lock_file: Path) -> list[str]:
    """The packages of a lock file, each with its hashes."""
    return re.findall(r"^[a-z0-9].*\n(?: .*\n)*", lock_file.read_text(), re.MULTILINE)


def lock() -> None:
    """Write the lock files: MLflow's image, what the images runtime and notebooks change in it, and the harness with the versions of both."""
    image = ["--python-version", "3.11", "--python-platform", "linux"]
    mlflow, runtime = REPO / "images/mlflow/requirements", REPO / "images/runtime/requirements"
    base = mlflow.with_suffix(".txt")
    pin(base, *image, mlflow.with_suffix(".in"))
    # `iml4e deploy` compares a model's requirements with the default image
    pinned = re.findall(r"^([a-z0-9][^ ;]*==[^ ;]+)", base.read_text(), re.MULTILINE)
    (REPO / "src/iml4e/data/packages.txt").write_text("\n".join(pinned) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        both = Path(shutil.copy(base, folder))
        pin(both, *image, mlflow.with_suffix(".in"), runtime.with_suffix(".in"))
        changed = [package for package in packages(both) if package not in packages(base)]
        runtime.with_suffix(".txt").write_text(
            "# On top of images/mlflow/requirements.txt, by\n#    make lock\n" + "".join(changed)
        )
        notebooks = REPO / "images/notebooks/requirements"
        three = Path(shutil.copy(both, Path(folder) / "notebooks.txt"))
        pin(three, *image, *(each.with_suffix(".in") for each in (mlflow, runtime, notebooks)))
        changed = [package for package in packages(three) if package not in packages(both)]
        notebooks.with_suffix(".txt").write_text(
            "# On top of images/runtime/requirements.txt, by\n#    make lock\n" + "".join(changed)
        )
        groups = [word for group in GROUPS for word in ("--group", group)]
        # A model that is trained on a laptop loads in the images: what both have is the same version.
        every_python = ["--universal", "--python-version", "3.11", "-c", both]
        pin(LOCK, *every_python, "--extra", "pipelines", "--extra", "search", *groups, "pyproject.toml")
        pin(SITE_LOCK, "--universal", "--python-version", "3.11", "--group", "docs")


def environment() -> None:
    """Install the packages of the lock file and link the environment as .venv."""
    version = subprocess.run(["python3", "-V"], text=True, capture_output=True).stdout
    sources = LOCK.read_bytes() + (REPO / "pyproject.toml").read_bytes()
    key = hashlib.sha256(sources + f"{REPO} {version}".encode()).hexdigest()[:16]
    folder = CACHE / "venv" / key
    if not (folder / "complete").exists():
        with console.step("install the harness's Python packages"):
            tool, log = uv(), CACHE / "log" / "venv.log"
            env = {"UV_CACHE_DIR": str(CACHE / "uv" / "cache"), "VIRTUAL_ENV": str(folder)}
            console.run([*tool, "venv", "--clear", folder], log=log)
            console.run([*tool, "pip", "sync", LOCK], env=env, log=log)
            # The package of this repository, editable, with its command and its MLflow plug-in.
            console.run([*tool, "pip", "install", "--no-deps", "--no-build-isolation", "-e", REPO], env=env, log=log)
            (folder / "complete").touch()
    link = REPO / ".venv"
    if not (link.is_symlink() and link.readlink() == folder):
        if link.exists() and not link.is_symlink():
            raise console.Failure(
                ".venv is a folder that this project did not make.", "Move it away and run `make setup` again."
            )
        link.unlink(missing_ok=True)
        link.symlink_to(folder)


def hand_over(module: str) -> None:
    """Run a module of ours in place of this program, in the environment of the harness, with the same arguments."""
    interpreter = REPO / ".venv" / "bin" / "python"
    if not interpreter.exists():
        raise console.Failure("The Python environment of the harness is missing.", "Run `make setup`.")
    env = os.environ | {"PYTHONPATH": str(REPO)}
    os.execve(interpreter, [str(interpreter), "-P", "-m", module, *sys.argv[1:]], env)


def main() -> None:
    """Make the environment, or with --lock write the lock files."""
    match sys.argv[1:]:
        case []:
            environment()
        case ["--lock"]:
            lock()
        case _:
            raise console.Failure("usage: scripts/setup [--lock]")
