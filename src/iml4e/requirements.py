"""Compares the requirements of a model with the packages of the image that serves the model, before anything starts."""

import importlib.metadata
import os
import platform as python
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Packages of the default image, one `name==version` a line, generated from images/mlflow/requirements.txt.
DEFAULT = Path(__file__).parent / "data" / "packages.txt"
#: Python of the default image and of the runtime image.
PYTHON = "3.11"
#: What markers such as `sys_platform == "darwin"` are compared with: images run Linux, whatever this machine runs. The processor
#: stays this machine's, as that of the cluster is unknown.
MARKERS = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "extra": "",
}

#: What MLflow notes of the process that logged a model (a notebook, a test), and no model needs to predict. A model that does
#: import one of them says so when it is loaded.
TOOLS = {
    "psutil",
    "pytest",
    "ipython",
    "ipykernel",
    "ipywidgets",
    "debugpy",
    "jupyter-client",
    "jupyterlab",
    "notebook",
    "tqdm",
}


@dataclass(frozen=True)
class Image:
    """Python version and packages of an image, as far as they are known."""

    python: str = ""
    """Version of Python; empty if nothing is known of the image."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions by canonical name."""


@dataclass(frozen=True)
class Wanted:
    """Python version and requirements of a model."""

    python: str = ""
    packages: tuple[str, ...] = ()
    """Lines of its requirements.txt."""
    pickled: bool = False
    """Whether it is Python code that was pickled, which only the same Python can read."""


@dataclass(frozen=True)
class Findings:
    """Differences between a model and an image, each as a part of a sentence."""

    missing: list[str]
    """Requirements of which the image has no version."""
    different: list[str]
    """Requirements of which the image has another version."""
    python: str = ""
    """Set if the image has another Python."""
    fatal: bool = False
    """Whether the model cannot work."""


def image(extra: Iterable[str] = (), *, known: bool = True) -> Image:
    """Packages of the image that serves models, with extra packages on top.

    Args:
        extra: requirements that are installed as the server starts.
        known: False for a user's own image.
    """
    if not known:
        return Image()
    added = {name: version for name, version in map(pinned, extra) if name}
    if os.environ.get("IML4E_IN_IMAGE"):
        installed = {_canonical(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
        return Image(python.python_version(), installed | added)
    if not DEFAULT.exists():
        return Image(PYTHON)
    return Image(PYTHON, dict(filter(None, map(pinned, DEFAULT.read_text().splitlines()))) | added)


def compare(wanted: Wanted, image: Image) -> Findings:
    """Compare a model with an image; what is unknown about either is left out."""
    missing, different = [], []
    for line in wanted.packages:
        requirement = _parse(line)
        if requirement is None or not image.packages or _canonical(requirement.name) in TOOLS:
            continue
        found = image.packages.get(_canonical(requirement.name))
        if found is None:
            missing.append(str(requirement))
        elif found and not requirement.specifier.contains(found, prereleases=True):
            different.append(f"{requirement} (the image has {found})")
    other = ""
    if wanted.python and image.python and _minor(wanted.python) != _minor(image.python):
        other = f"Python {wanted.python} (the image has {image.python})"
    return Findings(missing, different, other, bool(missing) or bool(other and wanted.pickled))


def pinned(line: str) -> tuple[str, str]:
    """Name and version of a requirement; the version is empty where it is not pinned, both where it is no requirement."""
    requirement = _parse(line)
    if requirement is None:
        return "", ""
    exact = [each.version for each in requirement.specifier if each.operator in ("==", "===")]
    return _canonical(requirement.name), exact[0] if exact else ""


def _parse(line: str) -> "Requirement | None":  # noqa: F821
    """Read a line of requirements.txt; None for options, comments, files, and what another platform needs."""
    from packaging.requirements import InvalidRequirement, Requirement

    text = re.split(r"\s#|\s--|\s\\$|^#", line.strip())[0].strip().rstrip("\\").strip()
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    applies = requirement.marker is None or requirement.marker.evaluate(MARKERS)
    return requirement if applies else None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
