"""pip and uv in an environment of our own: nothing is installed into the system's Python."""

import importlib.util
import sys
from pathlib import Path

from . import console, debian
from .paths import CACHE

UV = "uv==0.13.8"


def has_venv() -> bool:
    """Whether this Python can make environments: Debian keeps that in a package of its own."""
    return importlib.util.find_spec("ensurepip") is not None


def tools() -> Path:
    """The folder of the programs pip and uv."""
    folder = CACHE / "uv" / UV.replace("==", "-")
    # `python` is a link that breaks when the system's Python is replaced
    if not ((folder / "bin" / "uv").exists() and (folder / "bin" / "python").exists()):
        if not has_venv():
            debian.install(["python3-venv"])
        with console.step(f"install {UV}"):
            console.run([sys.executable, "-m", "venv", "--clear", folder])
            console.run([folder / "bin" / "pip", "install", "--quiet", UV])
    return folder / "bin"
