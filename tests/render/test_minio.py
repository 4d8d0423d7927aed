"""What is special about the object store."""

from __future__ import annotations

import json

import pytest

from support.helm import render
from support.objects import (
    COMPONENT,
    Object,
    annotations,
    find,
    labels,
    of_kind,
    planned_secrets,
    pod_makers,
    pod_template,
    references,
)

BUCKETS = {"datasets", "mlflow", "pipelines"}
RIGHTS = {"mlflow": {"mlflow": "rw"}, "pipelines": {"datasets": "rw", "pipelines": "rw"}, "models": {"mlflow": "ro"}}


def setup(*values: Object) -> dict[str, str]:
    """What the set-up Job is given."""
    return find(render("laptop", *values), "ConfigMap", "iml4e-minio-setup")["data"]


@pytest.mark.parametrize("consumer", RIGHTS)
def test_consumer_has_a_key_and_a_policy_of_its_own(consumer: str) -> None:
    keys = planned_secrets(render("laptop"))[f"iml4e-s3-{consumer}"]
    assert keys["alternating"] == {"AWS_ACCESS_KEY_ID": consumer}
    assert keys["generated"]["AWS_SECRET_ACCESS_KEY"] >= 32
    policy = json.loads(setup()[f"policy-{consumer}.json"])
    named = {
        resource.removeprefix("arn:aws:s3:::").split("/")[0] for s in policy["Statement"] for resource in s["Resource"]
    }
    assert named == set(RIGHTS[consumer])


@pytest.mark.parametrize("consumer", RIGHTS)
def test_only_writers_may_write_and_nobody_forgets_a_version(consumer: str) -> None:
    statements = json.loads(setup()[f"policy-{consumer}.json"])["Statement"]
    allowed = {action for statement in statements if statement["Effect"] == "Allow" for action in statement["Action"]}
    denied = {action for statement in statements if statement["Effect"] == "Deny" for action in statement["Action"]}
    writes = "rw" in RIGHTS[consumer].values()
    assert ("s3:PutObject" in allowed) == ("s3:DeleteObject" in allowed) == writes
    assert not allowed & {"s3:*", "s3:DeleteObjectVersion", "s3:PutBucketPolicy", "s3:PutBucketVersioning"}
    # MinIO takes DeleteObject for leave to delete versions, unless that is denied
    assert ("s3:DeleteObjectVersion" in denied) == writes


def test_buckets_bear_the_names_that_others_use() -> None:
    buckets = {"datasets": "a-datasets", "mlflow": "a-mlflow", "pipelines": "a-pipelines"}
    plan = setup({"global": {"s3": {"buckets": buckets}}})["plan.sh"].splitlines()
    assert {"bucket a-datasets versioned", "bucket a-mlflow", "bucket a-pipelines"} <= set(plan)


def test_root_key_is_used_by_the_store_and_its_set_up_only() -> None:
    users = {
        maker["metadata"]["name"]
        for maker in pod_makers(render("laptop"))
        if ("Secret", "iml4e-minio") in {(kind, name) for kind, name, _ in references(maker)}
    }
    assert {name.partition("-setup-")[0] for name in users} == {"iml4e-minio"}


def test_set_up_is_no_hook() -> None:
    """`helm install --wait` would wait for pods that wait for buckets, and run the hook only then."""
    (job,) = [job for job in of_kind(render("laptop"), "Job") if labels(job)[COMPONENT] == "minio"]
    assert job["metadata"]["name"].startswith("iml4e-minio-setup-1-")
    assert "helm.sh/hook" not in annotations(job)


def test_an_existing_root_secret_replaces_the_generated_one() -> None:
    objects = render("laptop", {"minio": {"existingSecret": "my-root"}})
    assert "iml4e-minio" not in planned_secrets(objects)
    store = pod_template(find(objects, "StatefulSet", "iml4e-minio"))["spec"]
    assert [volume["secret"]["secretName"] for volume in store["volumes"] if "secret" in volume] == ["my-root"]


def test_the_store_reads_its_password_from_a_file_which_a_rotation_changes() -> None:
    """A variable is fixed for the life of a container; the server reads the files as it restarts within its container."""
    spec = pod_template(find(render("laptop"), "StatefulSet", "iml4e-minio"))["spec"]
    variables = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "secrets"]
    assert variables["MINIO_ROOT_USER_FILE"] == f"{mount['mountPath']}/rootUser"
    assert variables["MINIO_ROOT_PASSWORD_FILE"] == f"{mount['mountPath']}/rootPassword"
    assert "subPath" not in mount, "the kubelet never changes such a file"
    assert not {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"} & set(variables)


def test_the_set_up_reads_both_keys_of_a_consumer_and_both_passwords_while_they_rotate() -> None:
    (job,) = [job for job in of_kind(render("laptop"), "Job") if labels(job)[COMPONENT] == "minio"]
    (volume,) = [each["projected"] for each in pod_template(job)["spec"]["volumes"] if each["name"] == "keys"]
    sources = [source["secret"] for source in volume["sources"]]
    for consumer in RIGHTS:
        own = [source for source in sources if source["name"] == f"iml4e-s3-{consumer}"]
        paths = {item["path"]: source.get("optional", False) for source in own for item in source["items"]}
        assert paths == {
            f"{consumer}/{second}{key}": bool(second)
            for second in ("", "second.")
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        }
    (container,) = pod_template(job)["spec"]["containers"]
    (variable,) = [each for each in container["env"] if each["name"] == "SECOND_ROOT_PASSWORD"]
    assert variable["valueFrom"]["secretKeyRef"] == {
        "name": "iml4e-minio",
        "key": "second.rootPassword",
        "optional": True,
    }


def test_a_bucket_may_have_several_rules_of_retention() -> None:
    rules = [{"prefix": "tmp/", "days": 7}, {"prefix": "logs/", "days": 30}]
    plan = setup({"minio": {"buckets": [{"name": "scratch", "versioned": False, "expire": rules}]}})
    made = json.loads(plan["lifecycle-scratch.json"])["Rules"]
    assert [(rule["ID"], rule["Filter"]["Prefix"], rule["Expiration"]["Days"]) for rule in made] == [
        ("expire-0", "tmp/", 7), ("expire-1", "logs/", 30),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("expire", "says"),
    [
        ({"expire": [{"prefix": "tmp/", "days": 7}]}, "retention"),
        ({"expire": []}, "no_retention"),
        ({}, ""),
    ],
    ids=["rules", "no rules", "left alone"],
)
def test_retention_is_set_taken_away_or_left_alone(expire: Object, says: str) -> None:
    plan = setup({"minio": {"buckets": [{"name": "scratch", "versioned": False, **expire}]}})
    assert plan["plan.sh"].splitlines()[:2] == (
        ["bucket scratch", f"{says} scratch"] if says else ["bucket scratch", "consumer mlflow"]
    )
    rules = json.loads(plan.get("lifecycle-scratch.json", '{"Rules": []}'))["Rules"]
    assert [(rule["Filter"]["Prefix"], rule["Expiration"]["Days"]) for rule in rules] == (
        [("tmp/", 7)] if says == "retention" else []
    )


def test_logs_of_runs_go_after_a_month() -> None:
    (rule,) = json.loads(setup()["lifecycle-pipelines.json"])["Rules"]
    assert (rule["Filter"]["Prefix"], rule["Expiration"]["Days"], rule["Status"]) == ("logs/", 30, "Enabled")
