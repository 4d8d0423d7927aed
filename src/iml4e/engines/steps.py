"""Makes steps of functions: the image, packages and modules that a step's pod gets."""

import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_task import TaskState
from kfp.dsl.python_component import PythonComponent

from iml4e.engines import embedding

#: Image of the steps where neither RUNTIME_IMAGE nor the release names one.
DEFAULT_IMAGE = "ghcr.io/mlflow/mlflow:v3.17.2-full"


class Step(PythonComponent):
    """A component whose tasks are never cached: steps change MLflow, S3 and the cluster, which a cached result would not."""

    def __call__(self, *args: Any, **kwargs: Any) -> dsl.PipelineTask:
        """Make a task that is never cached, with a memory request and limit."""
        task = super().__call__(*args, **kwargs)
        if task.state is TaskState.FUTURE:  # kfp.local alone has run the task by now
            task.set_caching_options(False).set_memory_request("256Mi").set_memory_limit("1Gi")
        return task


def image() -> str:
    """Image of the steps on Kubeflow Pipelines."""
    return os.environ.get("RUNTIME_IMAGE") or DEFAULT_IMAGE


def complete() -> bool:
    """Whether the steps' image has the package `iml4e` and all that steps import."""
    return os.environ.get("IML4E_IN_IMAGE") == "1"


def pins() -> dict[str, str]:
    """Requirement of each package that MLflow's public image lacks, by name."""
    needed = [each.partition(";")[0].strip() for each in metadata.requires("iml4e") or () if "extra ==" in each]
    return {re.split(r"[=<>~! \[]", each)[0]: each for each in needed}


def step(
    function: Callable,
    *packages: str,
    functions: tuple[Callable, ...] = (),
    pinned: dict[str, str] | None = None,
    project: Path | None = None,
    files: tuple[str, ...] = (),
) -> Step:
    """Make a step of a function.

    Args:
        function: imports what it needs itself, of the standard library, `iml4e`, and what the image has.
        packages: packages that it imports beside kfp, and that MLflow's public image lacks.
        functions: functions of the same module that it calls.
        pinned: requirement of each package, by name; None: those of `iml4e[pipelines]`.
        project: folder of a project, of which the step gets `files`.
        files: patterns below `project`.
    """
    pinned = pins() if pinned is None else pinned
    modules = () if complete() else (function, *functions)
    embedded = embedding.packed(modules, project, files) if modules or project else None
    component = dsl.component(
        function,
        base_image=image(),
        packages_to_install=[] if complete() else [pinned[name] for name in ("kfp", *packages)],
        embedded_artifact_path=embedded,
        install_kfp_package=False,
        additional_funcs=list(functions),
    )
    return Step(component.component_spec, function)
