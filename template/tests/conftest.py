"""What the tests share: the project, and rows that fit its data contract."""

from pathlib import Path
from typing import Any

import pytest
from iml4e import example
from iml4e import project as projects

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def project() -> projects.Project:
    """This project."""
    return projects.load(ROOT)


@pytest.fixture
def rows(project: projects.Project) -> Any:
    """Valid rows that nobody has measured."""
    return example.rows(project.contract, 120)
