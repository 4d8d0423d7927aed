"""The measurement of availability in its shortest form: a rolling restart, and an event that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.helm import RELEASE, REPO
from support.k8s import Cluster
from support.platform import Gateway

pytestmark = pytest.mark.disruptive


def command(out: Path, *words: str) -> list[str]:
    """The words of a measurement without a model of its own."""
    return [sys.executable, "-m", "availability", "--no-model", "--pause", "4", "--out", str(out), *words]


def environment() -> dict[str, str]:
    """The programs of the measurement import the repository."""
    return {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'src'}"}


def experiments(gateway: Gateway) -> list[str]:
    """Experiments that a measurement left in MLflow."""
    return [each.name for each in gateway.mlflow.search_experiments() if each.name.startswith("availability-")]


def uids(cluster: Cluster) -> set[str]:
    """The pods of MLflow's server."""
    selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=mlflow"
    return {pod["metadata"]["uid"] for pod in cluster.pods(selector) if "job-name" not in pod["metadata"]["labels"]}


def test_a_rolling_restart_costs_no_prediction(
    cluster: Cluster, gateway: Gateway, values: dict[str, Any], tmp_path: Path
) -> None:
    before = uids(cluster)
    done = subprocess.run(
        command(tmp_path, "--events", "restart-mlflow"),
        cwd=REPO, env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert (tmp_path / "availability.json").exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "availability.json").read_text())
    (event,) = found["events"]
    assert (event["name"], event["error"]) == ("restart-mlflow", "")
    assert uids(cluster).isdisjoint(before)
    asked = {name: figures["requests"] for name, figures in found["endpoints"].items()}
    wanted = {"model wine, V1", "model wine, V2", "gateway, /ping", "MLflow, read", "MLflow, write"}
    wanted |= {"Pipelines API, read"} if values["pipelines"]["enabled"] else set()
    assert {name for name in wanted if asked.get(name, 0) >= 10} == wanted, done.stdout[-4000:]
    lost = {name: each["kinds"] for name, each in event["endpoints"].items() if each["lost"]}
    assert {name for name in lost if name.startswith(("model", "gateway"))} == set(), lost
    assert found["availability"] >= 0.99, lost
    # the exit code says what the goals say
    missed = [goal["goal"] for goal in found["goals"] if goal["met"] is False]
    assert done.returncode == bool(missed)
    assert all(goal in done.stderr for goal in missed)
    assert experiments(gateway) == []


def test_an_interrupted_event_is_undone(cluster: Cluster, gateway: Gateway, tmp_path: Path) -> None:
    store = f"{RELEASE}-minio"
    with subprocess.Popen(
        command(tmp_path, "--events", "away-minio", "--hold", "60"),
        cwd=REPO, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # a shell starts what runs in the background deaf to Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            cluster.wait("MinIO to be gone", lambda: not cluster.workload("StatefulSet", store)["spec"]["replicas"], 60)
            time.sleep(2)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert cluster.is_ready("StatefulSet", store), said
    assert cluster.workload("StatefulSet", store)["spec"]["replicas"] == 1
    assert experiments(gateway) == []
    assert not (tmp_path / "availability.json").exists()
