"""Prometheus' own unit tests of the rules, tests/rules/*.yaml: each alert fires when it should, in its time, and is silent otherwise."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.bare import golang
from scripts.common import console
from support.helm import render
from support.objects import find

TESTS = sorted((Path(__file__).parents[1] / "rules").glob("*.yaml"))


def rules() -> str:
    """The rules of the default profile as Prometheus reads them."""
    return find(render("default"), "ConfigMap", "iml4e-prometheus")["data"]["rules.yaml"]


def every() -> list[dict[str, Any]]:
    """All rules."""
    return [rule for group in yaml.safe_load(rules())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prometheus' tool, built once from images/go; a cache keeps it."""
    try:
        return golang.build(golang.PROMTOOL)
    except (console.Failure, OSError) as failure:
        pytest.skip(f"promtool cannot be built here: {failure}")


def run(promtool: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool beside the rules."""
    (folder / "rules.yaml").write_text(rules())
    # less garbage collection takes a third less time
    env = {"GOGC": "400", **os.environ}
    return subprocess.run([promtool, *words], cwd=folder, capture_output=True, text=True, check=False, env=env)


def test_rules_are_as_prometheus_wants_them(promtool: Path, tmp_path: Path) -> None:
    done = run(promtool, tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("test", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent(promtool: Path, tmp_path: Path, test: Path) -> None:
    (tmp_path / "test.yaml").write_text(test.read_text())
    done = run(promtool, tmp_path, "test", "rules", "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing() -> None:
    expected: set[str] = set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test["promql_expr_test"]:
                named = re.findall(r'alertname="(\w+)"', check["expr"])
                for sample in check["exp_samples"]:
                    expected.update(re.findall(r'alertname="(\w+)"', sample["labels"]) or named)
    assert expected == {rule["alert"] for rule in every() if "alert" in rule}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("test", [path for path in TESTS if path.stem != "budgets"], ids=lambda path: path.stem)
def test_sentences_of_firing_alerts_are_complete(promtool: Path, tmp_path: Path, test: Path) -> None:
    """Their templates find labels and values: promtool tells the alerts that fire although none is expected."""
    content = yaml.safe_load(test.read_text())
    names = {rule["alert"] for rule in every() if "alert" in rule}
    for each in content["tests"]:
        last = {}
        for check in each.pop("promql_expr_test"):
            seen = " ".join([check["expr"], *(sample["labels"] for sample in check["exp_samples"])])
            for name in set(re.findall(r"\w+", seen)) & names if check["exp_samples"] else ():
                last[name] = check["eval_time"]
        each["alert_rule_test"] = [{"alertname": n, "eval_time": t, "exp_alerts": []} for n, t in last.items()]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(content))
    done = run(promtool, tmp_path, "test", "rules", "test.yaml")
    told = done.stdout + done.stderr
    sentences = re.findall(r'(?:summary|description)="((?:[^"\\]|\\.)*)"', told)
    assert len(sentences) > 1, told
    assert [s for s in sentences if "<error" in s or "no value" in s or "{{" in s or "  " in s] == []
