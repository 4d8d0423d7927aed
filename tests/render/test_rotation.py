"""`iml4e rotate` reaches whatever reads a Secret that the release makes: a reader that it does not know would go on with a dead password."""

from __future__ import annotations

import datetime

import pytest

from iml4e import rotate
from support.helm import profiles, render
from support.objects import find, kind_and_name, planned_secrets, pod_makers, pod_template, serving_runtimes

#: StatefulSets that read Secrets: the command brings the new ones to them without a restart.
FOLLOW = {"StatefulSet/iml4e-minio", "StatefulSet/iml4e-mariadb", "StatefulSet/iml4e-grafana"}

#: A StatefulSet that the command restarts.
RESTARTED = {"StatefulSet/iml4e-notebooks"}


@pytest.mark.parametrize("profile", profiles())
def test_every_reader_of_a_secret_is_restarted_or_follows(profile: str) -> None:
    objects = render(profile)
    planned = set(planned_secrets(objects))
    readers = {
        kind_and_name(maker): planned & rotate.secrets_of(pod_template(maker)["spec"]) for maker in pod_makers(objects)
    }
    readers = {name: secrets for name, secrets in readers.items() if secrets}
    kinds = {name.partition("/")[0] for name in readers}
    assert kinds <= {"Deployment", "StatefulSet", "CronJob", "Job"}, "a kind that the command does not restart"
    assert {name for name in readers if name.startswith("StatefulSet/")} <= FOLLOW | RESTARTED
    # models read theirs by their account, steps by the runner's
    by_account = {"iml4e-s3-models", "iml4e-s3-pipelines"}
    assert planned - set().union(*readers.values()) <= by_account
    assert not any(planned & rotate.secrets_of(runtime["spec"]) for runtime in serving_runtimes(objects))


def test_the_database_shows_how_far_each_of_its_secrets_is() -> None:
    spec = pod_template(find(render("laptop"), "StatefulSet", "iml4e-mariadb"))["spec"]
    states = dict(rotate._state_files(spec))
    assert states == {
        "iml4e-mariadb": "root/rotation", "iml4e-mariadb-metrics": "metrics/rotation",
        **{f"iml4e-db-{name}": f"databases/{name}/rotation" for name in ("mlflow", "mlpipeline", "metadb")},
    }  # fmt: skip
    assert set(states) == rotate.secrets_of(spec, started=True)


def test_what_reads_a_secret_only_at_its_start_holds_none() -> None:
    """Such as a model, whose init container fetches its files."""
    key = {"valueFrom": {"secretKeyRef": {"name": "key", "key": "x"}}}
    volume = {"name": "v", "secret": {"secretName": "mounted"}}
    mount = {"volumeMounts": [{"name": "v"}]}
    spec = {"initContainers": [{"env": [key], **mount}], "containers": [{"env": [{"value": "1"}]}], "volumes": [volume]}
    assert rotate.secrets_of(spec) == {"key", "mounted"}
    assert rotate.secrets_of(spec, started=True) == set()
    spec["containers"][0] |= {"envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "no"}}], **mount}
    assert rotate.secrets_of(spec, started=True) == {"all", "mounted"}


NOW = datetime.datetime(2026, 1, 1, 12, 0, tzinfo=datetime.UTC)
BEFORE, AFTER = "2026-01-01T11:59:59Z", "2026-01-01T12:00:01Z"


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"created": AFTER}, False),
        ({"phase": "Succeeded"}, False),
        ({"annotations": {rotate.SEEN: "run"}}, False),
        ({"owner": "StatefulSet"}, False),
        ({"secret": "other"}, False),
        ({"secret": "other", "labels": {rotate.WORKFLOW: "a"}}, True),
        ({"secret": "other", "labels": {rotate.WORKFLOW: "a"}, "created": AFTER}, False),
    ],
    ids=str,
)  # fmt: skip
def test_which_pods_may_hold_a_former_credential(change: dict[str, str], holds: bool) -> None:
    work = rotate.Rotation(None, "iml4e", 1, print)
    work.id, work.names = "run", {"iml4e-s3-pipelines"}
    variable = {"valueFrom": {"secretKeyRef": {"name": change.get("secret", "iml4e-s3-pipelines"), "key": "x"}}}
    pod = {
        "metadata": {
            "creationTimestamp": change.get("created", BEFORE), "labels": change.get("labels"),
            "annotations": change.get("annotations"), "ownerReferences": [{"kind": change.get("owner", "Job")}],
        },
        "spec": {"containers": [{"env": [variable]}]},
        "status": {"phase": change.get("phase", "Running")},
    }  # fmt: skip
    assert work._holds(pod, NOW) is holds
