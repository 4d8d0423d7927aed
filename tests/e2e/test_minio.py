"""The object store: each consumer reaches its own buckets only, and no consumer can delete a version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from support import store
from support.k8s import Cluster

S3 = Callable[[str], Any]
BUCKETS = ("datasets", "mlflow", "pipelines")
# consumer: (buckets that it reads, buckets that it writes)
RIGHTS = {
    "mlflow": ({"mlflow"}, {"mlflow"}),
    "pipelines": ({"datasets", "pipelines"}, {"datasets", "pipelines"}),
    "models": ({"mlflow"}, set()),
}
EACH = pytest.mark.parametrize(
    ("consumer", "bucket"), [(consumer, bucket) for consumer in RIGHTS for bucket in BUCKETS]
)


def denied(call: Callable[..., Any], **arguments: Any) -> bool:
    """Whether the store refuses a call for lack of rights."""
    try:
        call(**arguments)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchKey", "404"):
            return False
        assert code in ("AccessDenied", "403"), code
        return True
    return False


@EACH
def test_consumer_reads_only_its_buckets(s3: S3, consumer: str, bucket: str) -> None:
    may = bucket in RIGHTS[consumer][0]
    assert denied(s3(consumer).list_objects_v2, Bucket=bucket, MaxKeys=1) is not may
    assert denied(s3(consumer).get_object, Bucket=bucket, Key="no-such-object") is not may


@EACH
def test_consumer_writes_only_its_buckets(s3: S3, unique: str, consumer: str, bucket: str) -> None:
    may = bucket in RIGHTS[consumer][1]
    assert denied(s3(consumer).put_object, Bucket=bucket, Key=f"{unique}/x", Body=b"x") is not may
    if may:
        s3(consumer).delete_object(Bucket=bucket, Key=f"{unique}/x")


@EACH
def test_consumer_deletes_nothing_in_other_buckets(
    s3: S3, cluster: Cluster, s3_port: int, unique: str, consumer: str, bucket: str
) -> None:
    root, key = cluster.secret("iml4e-minio"), f"{unique}/kept"
    administrator = store.client(s3_port, root["rootUser"], root["rootPassword"])
    administrator.put_object(Bucket=bucket, Key=key, Body=b"x")
    try:
        may = bucket in RIGHTS[consumer][1]
        assert denied(s3(consumer).delete_object, Bucket=bucket, Key=key) is not may
        readable = bucket in RIGHTS[consumer][0]
        source = {"Bucket": bucket, "Key": key}
        if not readable:  # nor by way of a bucket of its own
            for own in RIGHTS[consumer][1]:
                assert denied(s3(consumer).copy_object, Bucket=own, Key=key, CopySource=source)
    finally:
        for version in administrator.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", []):
            administrator.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])


@pytest.mark.parametrize("consumer", RIGHTS)
def test_consumer_lists_its_buckets_alone(s3: S3, consumer: str) -> None:
    assert {bucket["Name"] for bucket in s3(consumer).list_buckets()["Buckets"]} == RIGHTS[consumer][0]


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("consumer", RIGHTS)
def test_consumer_makes_removes_and_configures_no_buckets(s3: S3, unique: str, consumer: str, bucket: str) -> None:
    client = s3(consumer)
    assert denied(client.create_bucket, Bucket=unique)
    assert denied(client.delete_bucket, Bucket=bucket)
    assert denied(client.get_bucket_policy, Bucket=bucket)
    public = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [public]})
    assert denied(client.put_bucket_policy, Bucket=bucket, Policy=policy)
    assert denied(client.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    expire = {"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    assert denied(client.put_bucket_lifecycle_configuration, Bucket=bucket, LifecycleConfiguration={"Rules": [expire]})


@pytest.mark.parametrize("consumer", RIGHTS)
@pytest.mark.parametrize(
    "path", ["v3/info", "v3/list-users", "v3/list-canned-policies", "v3/list-service-accounts?user=admin"]
)
def test_consumer_is_no_administrator(cluster: Cluster, s3_port: int, consumer: str, path: str) -> None:
    keys = cluster.secret(f"iml4e-s3-{consumer}")
    url = f"http://127.0.0.1:{s3_port}/minio/admin/{path}"
    request = AWSRequest("GET", url, headers={"x-amz-content-sha256": hashlib.sha256(b"").hexdigest()})
    credentials = Credentials(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    answer = requests.get(url, headers=dict(request.headers), timeout=10)
    assert (answer.status_code, answer.json()["Code"]) == (403, "AccessDenied")


def test_old_versions_of_a_dataset_stay(s3: S3, unique: str) -> None:
    pipelines = s3("pipelines")
    key = f"{unique}/data.csv"
    first = pipelines.put_object(Bucket="datasets", Key=key, Body=b"one")["VersionId"]
    second = pipelines.put_object(Bucket="datasets", Key=key, Body=b"two")["VersionId"]
    pipelines.delete_object(Bucket="datasets", Key=key)
    for version, content in ((first, b"one"), (second, b"two")):
        assert pipelines.get_object(Bucket="datasets", Key=key, VersionId=version)["Body"].read() == content
        assert denied(pipelines.delete_object, Bucket="datasets", Key=key, VersionId=version)


def test_strangers_get_nothing(s3_port: int) -> None:
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
        store.client(s3_port, "admin", "minioadmin").list_buckets()
    assert requests.get(f"http://127.0.0.1:{s3_port}/datasets", timeout=10).status_code == 403


def test_root_is_used_by_nobody_else(cluster: Cluster) -> None:
    users = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in cluster.pods()
        if "'iml4e-minio'" in secrets_of(pod)
    }
    assert users == {"minio"}


def secrets_of(pod: dict[str, Any]) -> str:
    """Everything in a pod that names a Secret, as text to search."""
    spec = pod["spec"]
    sources = [variable.get("valueFrom", {}).get("secretKeyRef") for c in every(spec) for variable in c.get("env", [])]
    sources += [source.get("secretRef") for container in every(spec) for source in container.get("envFrom", [])]
    sources += [volume.get("secret") or volume.get("projected") for volume in spec.get("volumes", [])]
    return str(sources)


def every(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_old_logs_of_runs_are_deleted_and_nothing_else(cluster: Cluster, s3_port: int) -> None:
    root = cluster.secret("iml4e-minio")
    rules = store.client(s3_port, root["rootUser"], root["rootPassword"]).get_bucket_lifecycle_configuration(
        Bucket="pipelines"
    )["Rules"]
    assert [(rule["Filter"]["Prefix"], rule["Expiration"]["Days"], rule["Status"]) for rule in rules] == [
        ("logs/", 30, "Enabled")
    ]
