"""Grafana's boards before Prometheus itself: every expression is valid, and those whose series a cluster of tests lacks have an answer."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.metrics import SOURCES
from scripts.bare import golang
from scripts.common import console
from support.boards import metrics, panels, sources

QUERIES = [(str(panel), expression) for panel in panels() for expression in panel.expressions]
#: Sources that no cluster of tests has, or not always.
ELSEWHERE = ("NVIDIA's DCGM exporter", "the kubelet's cadvisor", "a model with a latency objective", "volumes")
RUN = {"namespace": "iml4e", "pod": "train-1"}
MODEL = {"namespace": "iml4e", "pod": "fraud-1"}
#: Labels of the series that an expression reads.
LABELS: dict[str, list[dict[str, str]]] = {
    "pod:info": [
        RUN | {"run": "r-1", "step": "train", "pipeline": "fraud"},
        MODEL | {"inferenceservice": "fraud", "version": "3"},
    ],
    "up": [{"job": "pods", **RUN}],
    "model:latency_objective:seconds": [{"namespace": "iml4e", "inferenceservice": "fraud"}],
    "model:latency_objective_ratio:rate5m": [{"namespace": "iml4e", "inferenceservice": "fraud"}],
    "kubelet_volume_stats_used_bytes": [{"namespace": "iml4e", "persistentvolumeclaim": "data"}],
    "kubelet_volume_stats_capacity_bytes": [{"namespace": "iml4e", "persistentvolumeclaim": "data"}],
    "container_cpu_cfs_periods_total": [MODEL],
    "container_cpu_cfs_throttled_periods_total": [MODEL],
}
GPU = {"Hostname": "node-1", "gpu": "0", "modelName": "H100", **RUN}


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Prometheus' tool, built once from images/go; a cache keeps it."""
    try:
        return golang.build(golang.PROMTOOL)
    except (console.Failure, OSError) as failure:
        pytest.skip(f"promtool cannot be built here: {failure}")


def run(promtool: Path, file: Path, content: dict[str, Any], *words: str) -> str:
    """Run promtool on a file of this content, and return what it says."""
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run([promtool, *words, file], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_every_expression_is_valid(promtool: Path, tmp_path: Path) -> None:
    rules = [{"record": f"query_{number}", "expr": expression} for number, (_, expression) in enumerate(QUERIES)]
    said = run(promtool, tmp_path / "rules.yaml", {"groups": [{"name": "boards", "rules": rules}]}, "check", "rules")
    assert f"SUCCESS: {len(rules)} rules found" in said


def test_what_a_cluster_of_tests_lacks_has_an_answer_elsewhere(promtool: Path, tmp_path: Path) -> None:
    asked = [
        expression
        for _, expression in QUERIES
        if any(source.name.startswith(ELSEWHERE) for source in sources(expression))
    ]
    assert len(asked) >= 18
    names = {name for expression in asked for name in metrics(expression)}
    series = [
        {"series": name + "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}", "values": "5+5x240"}
        for name in sorted(names)
        for labels in LABELS.get(name, [GPU])
        if not name.startswith("route:")
    ]
    expected = [
        {"expr": f"count({expression}) > bool 0", "eval_time": "90m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for expression in asked
    ]
    tests = [{"interval": "30s", "input_series": series, "promql_expr_test": expected}]
    assert run(promtool, tmp_path / "tests.yaml", {"tests": tests}, "test", "rules").strip().endswith("SUCCESS")


def test_each_source_that_may_lack_is_known() -> None:
    assert all(any(source.name.startswith(name) for source in SOURCES) for name in ELSEWHERE)
