"""Exceptions to the rules of security with their reasons: tests/exceptions.yaml, which docs/security.md shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).resolve().parents[1] / "exceptions.yaml"
EXCEPTIONS: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())


def resources(key: str) -> set[str]:
    """Resources of an entry of `cluster`: `a, b, c of Somebody`."""
    return {name.partition(" of ")[0] for name in key.split(", ")}
