"""Two releases and a store for backups: one is filled, the other one gets its backup."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from support import helm, releases, store
from support.k8s import Cluster

OLD, NEW = "drill-a", "drill-b"
USER, PASSWORD = "backups", "no-secret-of-anybody"
KEY = base64.b64encode(b"drill" * 6 + b"!!").decode()
VALUES: dict[str, Any] = {
    "kserve": {"controller": {"enabled": False}},
    "prometheus": {"enabled": False},
    "home": {"enabled": False},
    "gateway": {"errorPages": {"enabled": False}},
    "mariadb": {"metrics": {"enabled": False}},
    "backup": {
        "enabled": True, "schedule": "", "encryption": {"existingSecret": "backup-key"}, "secrets": ["token"],
        "destination": {"s3": "s3://backups/drill", "endpoint": f"http://backups.{OLD}.svc:9000", "existingSecret": "backups"},
        "resources": {"requests": {"cpu": "10m"}},
    },
}  # fmt: skip


@dataclass
class Release:
    """A release with its addresses on this machine."""

    name: str
    cluster: Cluster
    gateway: str
    s3: int

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a program as a user of it: what it prints, or, where it must fail, what it says."""
        keys = self.cluster.secret(f"{self.name}-s3-pipelines")
        environment = {
            **os.environ, **keys, "IML4E_URL": self.gateway, "IML4E_RELEASE": self.name, "IML4E_NAMESPACE": self.name,
            "MLFLOW_TRACKING_URI": f"{self.gateway}/mlflow", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3}",
            "PYTHONPATH": str(helm.REPO / "src"),
        }  # fmt: skip
        path = helm.REPO / ".venv" / "bin" / command[0]
        done = subprocess.run(
            [path, *command[1:]], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        print(f"$ {' '.join(command)[:80]}\n{done.stdout}{done.stderr}")
        assert bool(done.returncode) is fails, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stderr + done.stdout if fails else done.stdout


@contextlib.contextmanager
def installed(cluster: Cluster, values: dict[str, Any]) -> Iterator[Callable[[str], Cluster]]:
    """Two namespaces with a release each, and a store for backups beside the first; they go at the end."""
    name = f"{helm.RELEASE}-minio"
    minio = next(
        each for each in helm.release_objects() if (each["kind"], each["metadata"]["name"]) == ("StatefulSet", name)
    )
    image = minio["spec"]["template"]["spec"]["containers"][0]["image"]
    with contextlib.ExitStack() as stack:
        there = {name: stack.enter_context(releases.namespace(cluster, name)) for name in (OLD, NEW)}
        for each in there.values():
            account = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD}
            each.apply(secret("backups", account), secret("backup-key", {"key": KEY}))
        there[OLD].apply(secret("token", {"token": "abc"}), *other_store(image))

        def install(name: str) -> None:
            off = {"backup": {"enabled": False}} if name == OLD else {}
            stack.enter_context(releases.installed(there[name], ["laptop"], VALUES, values, off))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(install, there))
        # as people do who begin with backups later
        releases.upgrade(there[OLD], backup={"enabled": True})
        with bucket(there[OLD]):
            pass
        yield there.__getitem__


@contextlib.contextmanager
def bucket(there: Cluster) -> Iterator[Any]:
    """A client of the other store, which has the bucket."""
    with there.port_forward("service/backups", 9000) as port:
        client = store.client(port, USER, PASSWORD)
        if not client.list_buckets()["Buckets"]:
            client.create_bucket(Bucket="backups")
        yield client


def secret(name: str, content: dict[str, str]) -> dict[str, Any]:
    """A Secret."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


def other_store(image: str) -> list[dict[str, Any]]:
    """An S3 store that belongs to no release."""
    container = {
        "name": "s3", "image": image, "command": ["minio", "server", "/data", "--address", ":9000"],
        "env": [{"name": "MINIO_ROOT_USER", "value": USER}, {"name": "MINIO_ROOT_PASSWORD", "value": PASSWORD}, {"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"httpGet": {"path": "/minio/health/ready", "port": 9000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }  # fmt: skip
    user = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "automountServiceAccountToken": False, "securityContext": user, "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }  # fmt: skip
    metadata = {"name": "backups", "labels": {"app": "backups"}}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": "backups"}, "ports": [{"port": 9000}]},
        },
    ]


@contextlib.contextmanager
def opened(there: Cluster) -> Iterator[Release]:
    """A release, by forwarded ports."""
    name = there.namespace
    with (
        there.port_forward(f"service/{name}-gateway", 80) as port,
        there.port_forward(f"service/{name}-minio", 9000) as s3,
    ):
        yield Release(name, there, f"http://127.0.0.1:{port}", s3)
