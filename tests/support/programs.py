"""Programs of the chart that the tests import."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from support.helm import CHART


def module(path: str) -> ModuleType:
    """A program of the chart, imported."""
    spec = importlib.util.spec_from_file_location(f"chart_{Path(path).stem}", CHART / "charts" / path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look there
    sys.path.append(str((CHART / "charts" / path).parent))  # programs beside it
    spec.loader.exec_module(made)
    return made
