"""What all suites share. Fixtures of the live cluster are in e2e/conftest.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).parent

# libyaml reads many times faster
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # type: ignore[misc]

# Programs of the chart are imported from its folders: compiled files beside them would become part of the chart.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder is its suite: e2e tests bear the marker; those that disturb the release run last, long ones where asked for."""
    for item in items:
        if item.path.is_relative_to(HERE / "e2e"):
            item.add_marker("e2e")
        if item.get_closest_marker("long") and not os.environ.get("IML4E_LONG"):
            item.add_marker(pytest.mark.skip(reason="a long test: runs with IML4E_LONG=1"))
    items.sort(key=lambda item: item.get_closest_marker("disruptive") is not None)


class TwoLanes(LoadScopeScheduling):
    """One worker runs the tests of the folder e2e in order, the other those of its subfolders, which leave the release and its models alone."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("::")[0].rpartition("/")[0]
        return "e2e" if folder.endswith("/e2e") else "subfolders"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TwoLanes | None:
    """`-n 2 --dist loadscope` on the cluster: tests of the release, and beside them those with a release or models of their own."""
    return TwoLanes(config, log) if config.getvalue("dist") == "loadscope" else None
