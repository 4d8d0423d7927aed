"""An S3 store and a database of somebody else, in a namespace of their own, which speak TLS by a private authority."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from support import releases
from support.certificates import Signed, pem, signed
from support.k8s import Cluster

# characters that mean something in a URL; %41 is no A
DATABASE = {"username": "mlflow", "password": "some@body/el:se#s?%41&+$x", "database": "mlflow"}
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "somebody-elses"}


@dataclass(frozen=True)
class Elsewhere:
    """The store and the database."""

    namespace: Cluster
    """Where they are."""
    authority: Signed
    """Who signed their certificate, and its key."""
    bundle: Path
    """Its certificate, as a file of this machine."""
    s3: Any
    """The store, seen from here."""

    @property
    def endpoint(self) -> str:
        """Address of the store in the cluster."""
        return f"https://store.{self.namespace.namespace}.svc:9000"

    @property
    def values(self) -> dict[str, Any]:
        """What a release needs to know of them, under `global`."""
        database = {"host": f"database.{self.namespace.namespace}.svc"}
        return {"s3": {"endpoint": self.endpoint, "region": "us-east-1"}, "database": database}

    @property
    def annotations(self) -> dict[str, str]:
        """What the KServe of another release needs to know of the store: docs/install.md, Your own S3."""
        return {
            "serving.kserve.io/s3-endpoint": self.endpoint.removeprefix("https://"),
            "serving.kserve.io/s3-usehttps": "1",
            "serving.kserve.io/s3-region": "us-east-1",
        }

    def sql(self, statement: str) -> str:
        """Run a statement as the database's administrator."""
        (pod,) = self.namespace.pods("app=database")
        client = ("mariadb", "--socket=/tmp/socket", "--user=root", "--skip-ssl", "--batch", "--execute")
        return self.namespace.exec(pod["metadata"]["name"], *client, statement)


@contextlib.contextmanager
def stores(cluster: Cluster, values: dict[str, Any], name: str, folder: Path) -> Iterator[Elsewhere]:
    """Store and database, Ready, with empty buckets and an empty database; they go at the end."""
    authority = signed("e2e authority")
    certificate, key = signed(f"store.{name}.svc", f"database.{name}.svc", "127.0.0.1", by=authority)
    bundle = folder / "ca.crt"
    bundle.write_text(pem(authority[0]))
    taken = {
        part: f"{values['global']['imageRegistry'] or image['registry']}/{image['repository']}:{image['tag']}"
        for part in ("minio", "mariadb")
        if (image := values[part]["image"])
    }
    with releases.namespace(cluster, name) as there:
        there.apply(
            secret("certs", {"public.crt": pem(certificate), "private.key": pem(key), "init.sql": INIT}),
            *server("store", taken["minio"], 9000, 1000),
            *server("database", taken["mariadb"], 3306, 999),
        )
        there.wait_ready("Deployment", "store")
        there.wait_ready("Deployment", "database")
        with there.port_forward("service/store", 9000) as port:
            s3 = boto3.client(
                "s3", endpoint_url=f"https://127.0.0.1:{port}", region_name="us-east-1", verify=str(bundle),
                aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
                config=Config(s3={"addressing_style": "path"}),
            )  # fmt: skip
            for bucket in ("datasets", "mlflow", "pipelines"):
                s3.create_bucket(Bucket=bucket)
            s3.put_bucket_versioning(Bucket="datasets", VersioningConfiguration={"Status": "Enabled"})
            yield Elsewhere(there, authority, bundle, s3)


def trust(config_map: str) -> dict[str, str]:
    """What the same KServe needs to know of the authority: docs/install.md, A private certificate authority."""
    return {
        "serving.kserve.io/s3-cabundle-configmap": config_map,
        "serving.kserve.io/s3-cabundle": "/etc/ssl/custom-certs/cabundle.crt",
    }


def secret(name: str, data: dict[str, str], **annotations: str) -> dict[str, Any]:
    """A Secret."""
    metadata = {"name": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


SERVE = {
    "store": ["minio", "server", "/data", "--certs-dir", "/certs"],
    "database": [
        "sh", "-c",
        "mariadb-install-db --no-defaults --datadir=/data/db --auth-root-authentication-method=normal >/dev/null && "
        "exec mariadbd --no-defaults --datadir=/data/db --socket=/tmp/socket --pid-file=/tmp/pid --init-file=/certs/init.sql "
        "--ssl-cert=/certs/public.crt --ssl-key=/certs/private.key",
    ],
}  # fmt: skip
INIT = f"""
CREATE DATABASE mlflow CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
CREATE USER 'mlflow'@'%' IDENTIFIED BY '{DATABASE["password"]}';
GRANT ALL ON mlflow.* TO 'mlflow'@'%';
"""


def server(name: str, image: str, port: int, user: int) -> list[dict[str, Any]]:
    """A server of somebody else: a pod and its Service."""
    container = {
        "name": name,
        "image": image,
        "command": SERVE[name],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "MINIO_ROOT_USER", "value": KEYS["AWS_ACCESS_KEY_ID"]},
            {"name": "MINIO_ROOT_PASSWORD", "value": KEYS["AWS_SECRET_ACCESS_KEY"]},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "securityContext": {**RESTRICTED, "runAsUser": user},
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "certs", "mountPath": "/certs"}],
    }
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "certs", "secret": {"secretName": "certs"}}]
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}}
    deployment = {"selector": {"matchLabels": labels}, "template": pod}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": deployment},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": port}]},
        },
    ]  # fmt: skip
