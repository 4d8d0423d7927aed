"""No render holds a Secret: a Job makes those that are missing, in the cluster, and may do nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from support.helm import CHART, profiles, render
from support.objects import (
    COMPONENT,
    Object,
    annotations,
    find,
    labels,
    of_kind,
    planned_keys,
    planned_secrets,
    pod_template,
)
from support.parts import EVERY

# parts of the chart that make something up at random, or ask the clock or the cluster
FUNCTIONS = (
    "rand",
    "genCA",
    "genSelfSigned",
    "genSigned",
    "genPrivateKey",
    "uuidv4",
    "now",
    "Capabilities",
    "IsInstall",
    "IsUpgrade",
)


def jobs(values: dict[str, Any] | None = None) -> dict[str, Object]:
    """The Jobs of a render, by component."""
    return {labels(job)[COMPONENT]: job for job in of_kind(render("laptop", values), "Job")}


@pytest.mark.parametrize("profile", profiles())
def test_no_secret_is_rendered(profile: str) -> None:
    assert of_kind(render(profile), "Secret") == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_template_asks_chance_clock_or_cluster(function: str) -> None:
    """`lookup` may be asked: without a cluster it finds nothing. The guards that ask the cluster render no object.

    The version of Kubernetes is what whoever renders says: `helm template --kube-version`.
    """
    guards = ("_cluster.tpl", "_data.tpl")
    files = [path for path in CHART.rglob("templates/**/*") if path.is_file() and path.name not in guards]
    texts = {path: path.read_text() for path in files}
    actions = {path: [part.partition("}}")[0] for part in text.split("{{")[1:]] for path, text in texts.items()}
    found = [
        path.name
        for path, parts in actions.items()
        for part in parts
        if not part.startswith(("/*", "- /*")) and re.search(rf"\b{function}\b(?!\.KubeVersion)", part)
    ]
    assert found == []


@pytest.mark.parametrize("profile", profiles())
def test_the_job_may_make_the_secrets_of_its_plan_and_nothing_else(profile: str) -> None:
    plan = planned_secrets(render(profile))
    roles = [role for role in of_kind(render(profile), "Role", "ClusterRole") if labels(role)[COMPONENT] == "secrets"]
    rights = {
        (resource, name, verb)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        for name in rule["resourceNames"]
        for verb in rule["verbs"]
    }
    wanted = {("secrets", name, verb) for name in plan for verb in ("get", "create", "patch")}
    trusting = [path.split("/") for secret in plan.values() for path in secret.get("trustedBy", [])]
    wanted |= {(resource, name, verb) for resource, name in trusting for verb in ("get", "patch")}
    assert rights == wanted


def test_every_key_is_given_once_and_strong() -> None:
    for name, secret in planned_secrets(render("laptop")).items():
        assert planned_keys(secret)
        assert not set(secret.get("fixed", {})) & set(secret.get("generated", {})), name
        assert all(length >= 32 for length in secret.get("generated", {}).values()), name
        assert not any("pass" in key.lower() or "secret" in key.lower() for key in secret.get("fixed", {})), name


def test_secrets_outlive_the_release_whatever_tool_removes_it() -> None:
    """As the volumes do that they belong to. A reference to an owner would take a restored Secret away again."""
    for secret in planned_secrets(render("laptop")).values():
        assert secret["annotations"]["helm.sh/resource-policy"] == "keep"
        assert secret["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
        assert secret["annotations"]["argocd.argoproj.io/compare-options"] == "IgnoreExtraneous"
        assert labels({"metadata": secret})["app.kubernetes.io/instance"] == "iml4e"
        assert labels({"metadata": secret})[COMPONENT] in EVERY
        assert "helm.sh/chart" not in secret["labels"]


CHANGES: dict[str, dict[str, Any]] = {
    "image": {"global": {"imageRegistry": "registry.example.com"}},
    "pull secrets": {"global": {"imagePullSecrets": [{"name": "key"}]}},
    "resources": {
        "secrets": {"resources": {"limits": {"memory": "1Gi"}}},
        "minio": {"setup": {"resources": {"limits": {"memory": "1Gi"}}}},
    },
    "nodes": {"secrets": {"nodeSelector": {"a": "b"}}, "minio": {"nodeSelector": {"a": "b"}}},
    "taints": {
        "secrets": {"tolerations": [{"operator": "Exists"}]},
        "minio": {"tolerations": [{"operator": "Exists"}]},
    },
    "affinity": {"secrets": {"affinity": {"podAffinity": {}}}, "minio": {"affinity": {"podAffinity": {}}}},
    "plan": {
        "minio": {
            "consumers": [
                {"name": name, "buckets": [{"name": "a-bucket", "access": "ro"}]}
                for name in ("mlflow", "pipelines", "models", "new")
            ]
        }
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_job_has_another_name_when_its_pod_changes(change: str) -> None:
    """The pod template of a Job cannot be changed: `kubectl apply` would fail."""
    before, after = jobs(), jobs(CHANGES[change])
    assert set(before) == set(after) == {"secrets", "minio"}
    for part, job in after.items():
        assert job["metadata"]["name"] != before[part]["metadata"]["name"], part


def test_a_job_keeps_its_name_when_it_has_nothing_new_to_do() -> None:
    other = jobs({"prometheus": {"scrapeInterval": "1m"}, "mlflow": {"workers": 3}})
    assert {part: job["metadata"]["name"] for part, job in other.items()} == {
        part: job["metadata"]["name"] for part, job in jobs().items()
    }


def test_jobs_stay_when_they_are_done() -> None:
    """One that is deleted after a time is missing to a GitOps tool, which makes it again."""
    for job in jobs().values():
        assert "ttlSecondsAfterFinished" not in job["spec"]
        assert "helm.sh/hook" not in annotations(job)


def test_the_job_runs_where_the_values_say() -> None:
    values = {
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    }
    spec = pod_template(jobs({"secrets": values})["secrets"])["spec"]
    assert {key: spec[key] for key in values} == values


def test_where_no_secret_is_to_be_made_there_is_no_job() -> None:
    values = {part: {"enabled": False} for part in ("minio", "mariadb", "kserve", "notebooks")}
    values["grafana"] = {"existingSecret": "grafana-password"}
    values["mlflow"] = {"webhooks": {"existingSecret": "webhooks-key"}}
    values |= {"global": {"s3": {"endpoint": "http://s3.example.com"}, "database": {"host": "db.example.com"}}}
    assert [thing for thing in render("laptop", values) if labels(thing)[COMPONENT] == "secrets"] == []


def test_no_key_is_made_for_a_consumer_with_a_secret_of_its_own() -> None:
    consumers = yaml.safe_load((CHART / "charts" / "minio" / "values.yaml").read_text())["consumers"]

    def made(**more: str) -> set[str]:
        one = {"name": "labelling", "buckets": [{"name": "datasets", "access": "ro"}], **more}
        objects = render("laptop", {"minio": {"consumers": [*consumers, one]}})
        plan = json.loads(find(objects, "ConfigMap", "iml4e-secrets")["data"]["plan.json"])
        return {each["name"] for each in plan["secrets"]}

    assert made() - made(existingSecret="mine") == {"iml4e-s3-labelling"}


def test_plan_and_program_travel_together() -> None:
    data = find(render("laptop"), "ConfigMap", "iml4e-secrets")["data"]
    assert data["make_secrets.py"] == (CHART / "files" / "make_secrets.py").read_text()
    assert json.loads(data["plan.json"])["secrets"]
