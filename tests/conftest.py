"""What all suites share. Fixtures of the live cluster are in e2e/conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder is its suite: e2e tests bear the marker, and those that disturb the release run last."""
    for item in items:
        if item.path.is_relative_to(HERE / "e2e"):
            item.add_marker("e2e")
    items.sort(key=lambda item: item.get_closest_marker("disruptive") is not None)
