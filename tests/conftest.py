"""What all suites share. Fixtures of the live cluster are in e2e/conftest.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# Programs of the chart are imported from its folders: compiled files beside them would become part of the chart.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder is its suite: e2e tests bear the marker, and those that disturb the release run last.

    Two workers share the cluster (`pytest -n 2 --dist loadgroup`): one has the tests of the release, in their order, the other those
    with a release of their own.
    """
    for item in items:
        if item.path.is_relative_to(HERE / "e2e"):
            item.add_marker("e2e")
            own = item.get_closest_marker("own_release")
            item.add_marker(pytest.mark.xdist_group("own releases" if own else "the release"))
    items.sort(key=lambda item: item.get_closest_marker("disruptive") is not None)
