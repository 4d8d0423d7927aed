"""Test of the whole pipeline on this machine, without a platform: every step a process, MLflow in a file."""

from typing import Any

from iml4e import delivery
from iml4e import project as projects


def test_the_pipeline_ends_with_a_verdict_and_a_version(project: projects.Project, tmp_path: Any) -> None:
    result = delivery.try_out(project, tmp_path)
    assert result["gate"] in ("passed", "rejected")
    assert result["version"] == "1"
    assert project.gate.metric in result["metrics"]
