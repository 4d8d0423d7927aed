"""The load tests themselves, for ten seconds: they pass on a healthy platform and can fail."""

from __future__ import annotations

import os
import subprocess
import sys

from support.helm import REPO
from support.platform import URL, Model


def locust(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `locust -f load/` headless."""
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", "load/", "--headless", "--only-summary", *arguments],
        cwd=REPO,
        env={**os.environ, "IML4E_URL": URL, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_ten_seconds_of_load_stay_within_the_thresholds(wine: Model, digits: Model) -> None:
    done = locust("--users", "8", "--spawn-rate", "8", "--run-time", "10s")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missed_threshold_fails(wine: Model) -> None:
    done = locust("--users", "1", "--run-time", "2s", IML4E_LOAD_MAX_P95="0.001")
    assert done.returncode == 1
    assert "The 95th percentile is" in done.stderr


def test_load_goes_where_host_names(wine: Model) -> None:
    """What IML4E_URL names is not asked; the slash at the end is not doubled."""
    done = locust("--users", "1", "--run-time", "2s", "--host", f"{URL}/", IML4E_URL="http://iml4e.invalid")
    assert done.returncode == 0, done.stdout + done.stderr
