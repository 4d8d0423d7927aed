"""The object store from outside the cluster: S3 has no path at the gateway, so a forwarded port leads there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config

from support.helm import RELEASE
from support.k8s import Cluster


def client(port: int, key: str, secret: str) -> Any:
    """An S3 client on a forwarded port."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}, connect_timeout=5),
    )


def consumer_client(cluster: Cluster, port: int, consumer: str) -> Any:
    """An S3 client with the key that the release gave a consumer."""
    keys = cluster.secret(f"{RELEASE}-s3-{consumer}")
    return client(port, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])


@contextlib.contextmanager
def opened(cluster: Cluster, consumer: str) -> Iterator[Any]:
    """An S3 client over a connection of its own, which a pod that was killed before cannot have cut."""
    with cluster.port_forward(f"service/{RELEASE}-minio", 9000) as port:
        yield consumer_client(cluster, port, consumer)
