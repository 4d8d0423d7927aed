"""Tests of the data against its contract."""

from typing import Any

import pytest
from iml4e import delivery, quality, reading
from iml4e import project as projects

CURE = "no data here: `data` in iml4e.yaml names some in the platform's bucket"


@pytest.fixture
def data(project: projects.Project) -> Any:
    """The project's data, where it is in the repository."""
    if project.data.startswith("s3:"):
        pytest.skip(CURE)
    return project.folder / project.data


def test_the_data_keeps_its_contract(project: projects.Project, data: Any) -> None:
    problems = reading.read(project.contract, data)[1]
    quality.demand(problems, "see `iml4e project validate`")


def test_the_contract_refuses_data_that_is_none(project: projects.Project, tmp_path: Any) -> None:
    broken = tmp_path / "broken.csv"
    broken.write_text("")
    assert reading.read(project.contract, broken)[1]


def test_the_settings_name_what_is_there(project: projects.Project) -> None:
    assert project.function("build")
    assert project.function("metrics")
    assert delivery.BUILD == "build"
