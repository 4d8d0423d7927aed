"""The load tests themselves, on every service in one short run: all is answered, all is removed, and a threshold can be missed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from support.helm import REPO
from support.platform import URL, Gateway, Model

#: Answers are judged; a busy machine must not decide these tests by its latency.
PATIENT = {"IML4E_LOAD_MAX_P95": "30000", "IML4E_LOAD_MAX_P99": "60000"}


def locust(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `locust -f load/` headless."""
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", "load/", "--headless", *arguments],
        cwd=REPO,
        env={**os.environ, "IML4E_URL": URL, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def report(
    wine: Model, values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, dict[str, Any]]:
    """A run of twelve seconds: what it printed, and its report."""
    folder = tmp_path_factory.mktemp("load")
    done = locust("--users", "12", "--run-time", "12s", "--report", str(folder), **PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = folder.iterdir()
    return done.stdout, (written / "report.md").read_text(), values


def test_a_short_run_asks_every_service_within_the_thresholds(report: tuple[str, str, dict[str, Any]]) -> None:
    printed, text, values = report
    expected = {"models", "MLflow", "artifacts"}
    if values["pipelines"]["enabled"]:
        expected.add("Pipelines API")
    else:
        assert "Kubeflow Pipelines is not there (404" in printed
    table = dict(re.findall(r"^\| (.+?) \| .* \| (met|missed) \|$", text, re.MULTILINE))
    assert table == dict.fromkeys(expected, "met")
    assert "**All thresholds were met.**" in text


def test_the_gateway_counted_at_least_what_was_sent(report: tuple[str, str, dict[str, Any]]) -> None:
    """Others may have used the same routes in this time: more is explained, less would not be."""
    rows = re.findall(r"^\| (\S+) \| ([\d,]+) \| ([\d,]+) \| ([+-][\d.]+)% ", report[1], re.MULTILINE)
    assert {"iml4e-wine", "iml4e-iml4e-mlflow"} <= {row[0] for row in rows}
    for route, _, _, difference in rows:
        assert float(difference) >= -1, f"{route}: {rows}"
    assert "not explained" not in report[1]


def test_everything_that_a_run_created_is_removed(report: tuple[str, str, dict[str, Any]], gateway: Gateway) -> None:
    experiments = gateway.mlflow.search_experiments(filter_string="name LIKE 'iml4e-load-%'")
    assert [each.name for each in experiments] == []
    if report[2]["pipelines"]["enabled"]:
        found = gateway.get(
            "/pipeline/apis/v2beta1/experiments", params={"page_size": 200, "sort_by": "created_at desc"}
        )
        names = [each["display_name"] for each in found.json().get("experiments", [])]
        assert [name for name in names if name.startswith("iml4e-load-")] == []


def test_a_missed_threshold_fails(wine: Model) -> None:
    done = locust(
        "--users", "1", "--run-time", "2s", "TasterWithOneBottle", **PATIENT | {"IML4E_LOAD_MAX_P95": "0.001"}
    )
    assert done.returncode == 1
    assert "models: the 95th percentile is" in done.stderr


def test_load_goes_where_host_names(wine: Model) -> None:
    """What IML4E_URL names is not asked; the slash at the end is not doubled."""
    words = ["--users", "1", "--run-time", "2s", "--host", f"{URL}/", "TasterWithOneBottle"]
    done = locust(*words, IML4E_URL="http://iml4e.invalid", **PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr
