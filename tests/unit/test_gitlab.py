"""The CI/CD component: what its jobs promise, without GitLab. tests/e2e/projects/test_gitlab.py runs them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import delivery
from support.helm import REPO

INPUTS, JOBS = delivery.component()
PROJECT = REPO / "template"
STAGES = {"lint": "check", "unit": "check", "data": "check", "compile": "check", "trial": "train", "run": "train", "gate": "gate"}  # fmt: skip
STAGES |= {"release": "release", "endpoint": "release"}
#: Jobs with rights on the platform.
PLATFORM = {"data", "trial", "run", "gate", "release", "endpoint"}


def bases(name: str) -> Iterator[dict[str, Any]]:
    """A job and what it extends."""
    yield JOBS[name]
    above = JOBS[name].get("extends", [])
    for each in reversed([above] if isinstance(above, str) else above):
        yield from bases(each)


def setting(job: str, key: str) -> Any:
    """What a job has or inherits."""
    return next((each[key] for each in bases(job) if key in each), None)


def test_projects_get_the_component_as_it_is() -> None:
    assert (PROJECT / ".gitlab" / "model.yml").read_text() == delivery.COMPONENT.read_text()


def test_the_jobs_are_those_of_the_documentation() -> None:
    assert {name: job["stage"] for name, job in JOBS.items() if not name.startswith(".")} == STAGES
    declared = re.search(r"^stages: \[(.+)\]$", (PROJECT / ".gitlab-ci.yml.jinja").read_text(), re.MULTILINE)
    assert declared
    assert declared[1].split(", ") == list(dict.fromkeys(STAGES.values()))


def test_every_input_is_used_and_described() -> None:
    text = delivery.COMPONENT.read_text()
    assert set(re.findall(r"\$\[\[ inputs\.(\w+) \]\]", text)) == set(INPUTS)
    assert all(each["description"].endswith(".") for each in INPUTS.values())
    assert [name for name, each in INPUTS.items() if "default" not in each] == ["model"]


def test_only_jobs_that_use_the_platform_get_a_token() -> None:
    assert {name for name in STAGES if setting(name, "id_tokens")} == PLATFORM
    assert {name for name in STAGES if any("kubeconfig" in str(line) or "KUBECONFIG" in str(line) for line in setting(name, "before_script"))} == PLATFORM  # fmt: skip


@pytest.mark.parametrize("job", sorted(PLATFORM))
def test_the_code_of_a_fork_gets_no_token(job: str) -> None:
    """A maintainer can run the merge request of a fork in the parent project: with the parent's tokens."""
    same = "$CI_MERGE_REQUEST_SOURCE_PROJECT_ID == $CI_PROJECT_ID"
    fork = 'CI_PIPELINE_SOURCE == "merge_request_event" && $CI_MERGE_REQUEST_SOURCE_PROJECT_ID != $CI_PROJECT_ID'
    rules = setting(job, "rules")
    for rule in rules:
        if rule.get("when") == "never":
            if fork in rule["if"]:
                return
            continue
        assert same in rule["if"] or rule["if"] == "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"


def test_what_changes_the_model_runs_one_at_a_time_and_is_not_interrupted() -> None:
    assert {job for job in STAGES if setting(job, "resource_group") == "$[[ inputs.model ]]"} == {"run", "release"}
    assert {job for job in STAGES if not setting(job, "interruptible")} == {"run", "gate", "release", "endpoint"}
    assert setting("run", "retry") == 0
    assert "script_failure" not in setting("gate", "retry")["when"]


def test_a_person_approves_the_release_in_a_protected_environment() -> None:
    assert JOBS["release"]["environment"]["name"] == "$[[ inputs.environment ]]"
    assert [(rule["when"], rule["allow_failure"]) for rule in JOBS["release"]["rules"]] == [("manual", False)]


def test_a_secret_is_written_nowhere() -> None:
    texts = [delivery.COMPONENT, *PROJECT.rglob("*.y*ml*"), *(REPO / "deploy").rglob("*.yaml")]
    for path in texts:
        text = path.read_text()
        assert not re.search(r"(?i)((password|passwd|secret_access_key)\s*[:=]|glpat-|glrt-\w)", text), path
        assert "secrets." not in text, path


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ""),
        ({"PLATFORM_TOKEN": "abc"}, ""),
        ({"KUBERNETES_API": "https://k.example.com:6443"}, ""),
        (
            {"KUBERNETES_API": "https://k.example.com:6443", "KUBERNETES_CA": "/ca", "PLATFORM_TOKEN": "abc"},
            "https://k.example.com:6443 /ca abc",
        ),
    ],
)
def test_a_job_has_a_kubeconfig_where_it_has_an_address_and_a_token(
    given: dict[str, str], wanted: str, tmp_path: Path
) -> None:
    """Both shells of GitLab's images; afterwards the file is gone."""
    (code,) = (line for line in JOBS[".iml4e:platform"]["before_script"] if "KUBECONFIG" in line)
    code = code.replace("$[[ inputs.kubernetes ]]", "$KUBERNETES_API")
    show = 'echo "file=${KUBECONFIG:-}"; [ -z "${KUBECONFIG:-}" ] || cat "$KUBECONFIG"'
    for shell in ("sh", "bash"):
        env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), **given}
        done = subprocess.run([shell, "-e", "-c", f"{code}\n{show}"], env=env, capture_output=True, text=True, check=True)  # fmt: skip
        name, _, text = done.stdout.partition("\n")
        assert bool(name.removeprefix("file=")) == bool(wanted), done.stdout
        if wanted:
            found = yaml.safe_load(text)
            cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
            assert f"{cluster['server']} {cluster['certificate-authority']} {user['token']}" == wanted
        assert list(tmp_path.iterdir()) == []


def test_github_actions_have_the_same_stages() -> None:
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "model.yml").read_text())
    jobs = workflow["jobs"]
    assert list(jobs) == ["check", "trial", "run", "gate", "release"]
    said = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    for name, commands in {
        "check": ["ruff check", "ruff format --check", "pytest", "project validate", "project compile"],
        "trial": ["project run --trial"],
        "run": ["project run\n"],
        "gate": ["project gate"],
        "release": ["project gate", "project release", "project check"],
    }.items():
        assert [command for command in commands if command not in said[name] + "\n"] == []
    assert jobs["release"]["environment"] == "production"
    assert jobs["run"]["concurrency"]
    assert jobs["release"]["concurrency"]
    assert "head.repo.full_name == github.repository" in jobs["trial"]["if"]
