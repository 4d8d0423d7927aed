"""Modules of `iml4e` for steps whose image lacks the package: Kubeflow Pipelines embeds a folder with them."""

import ast
import inspect
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import iml4e

_PACKED = tempfile.TemporaryDirectory(prefix="iml4e-")


def packed(functions: Sequence[Callable], project: Path | None = None, files: Sequence[str] = ()) -> str:
    """Copy the modules of `iml4e` that a step needs, and files of a project, into a folder, for KFP to embed; return the folder.

    Without docstrings and comments: KFP writes an embedded folder into a run's state about five times for each step, and
    Argo keeps that state in one object of at most 1 MiB.
    """
    source = Path(iml4e.__file__).parent
    folder = Path(tempfile.mkdtemp(dir=_PACKED.name))
    for file in sorted({each for pattern in files for each in (project or Path()).glob(pattern)}):
        target = folder / file.relative_to(project or Path())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    if not functions:
        return str(folder)
    (folder / "iml4e").mkdir()
    wanted = _imported("\n".join(textwrap.dedent(inspect.getsource(function)) for function in functions))
    done: set[str] = set()
    while wanted - done:
        name = (wanted - done).pop()
        done.add(name)
        if (source / f"{name}.py").exists():
            text = (source / f"{name}.py").read_text()
            (folder / "iml4e" / f"{name}.py").write_text(_bare(text))
            wanted |= _imported(text)
    if "requirements" in done:  # compares a model with the list of the default image's packages
        shutil.copytree(source / "data", folder / "iml4e" / "data")
    return str(folder)


def _imported(text: str) -> set[str]:
    """Names of the modules of `iml4e` that a source imports."""
    found = {"__init__"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "iml4e":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iml4e."):
            found.add(node.module.split(".")[1])
    return found


def _bare(text: str) -> str:
    """Return a source without comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            strings = [
                each for each in node.body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            ]
            node.body = [each for each in node.body if each not in strings] or [ast.Pass()]
    return ast.unparse(tree)
