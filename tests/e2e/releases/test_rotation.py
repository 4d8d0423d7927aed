"""Credentials of a second release rotate while clients use it: no call fails, and no former credential is left."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pymysql
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

from iml4e import platform, rotate
from support import helm, releases
from support.k8s import Cluster
from support.traffic import Traffic, forwarded

pytestmark = pytest.mark.timeout(900)

NAME = "rotates"
QUIET = {"resources": {"requests": {"cpu": "10m"}}}
CONSUMERS = {"mlflow": "mlflow", "pipelines": "datasets", "models": "mlflow"}
ADMINISTRATORS = ("minio", "mariadb", "grafana")
"""Secrets of administrators, who have one password at a time."""
DATABASES = ("mlflow", "mlpipeline", "metadb")
TEAM = "rotates-team"
"""A namespace whose models read the store by a copy of the release's Secret."""
Keys = dict[str, str]


@dataclass
class Release:
    """The second release, with a port of this machine for each way into it."""

    cluster: Cluster
    mlflow: str
    s3: int
    database: int
    grafana: str
    """Address of Grafana; empty where the images of this cluster do not have it."""

    def bucket(self, consumer: str, keys: Keys | None = None) -> None:
        """Read a consumer's bucket with its key, as a client that starts now does, with the retries of `iml4e data`."""
        keys = keys or self.cluster.secret(f"{NAME}-s3-{consumer}")
        client = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.s3}", region_name="us-east-1",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"], aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 9}),
        )  # fmt: skip
        client.list_objects_v2(Bucket=CONSUMERS[consumer], MaxKeys=1)

    def login(self, secret: str, keys: Keys | None = None) -> None:
        """Log in to the database, as a client that starts now does."""
        keys = keys or self.cluster.secret(secret)
        pymysql.connect(
            host="127.0.0.1", port=self.database, user=keys["username"], password=keys["password"],
            database=keys.get("database"), connect_timeout=10,
        ).close()  # fmt: skip

    def rotate(self, **options: Any) -> list[str]:
        """Do what the command does."""
        platform.kubernetes.cache_clear()
        before = {name: os.environ.get(name) for name in ("IML4E_RELEASE", "IML4E_NAMESPACE", "KUBECONFIG")}
        os.environ |= {"IML4E_RELEASE": NAME, "IML4E_NAMESPACE": NAME, "KUBECONFIG": str(self.cluster.config)}
        try:
            return rotate.rotate(timeout=300, **options)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    """A release of its own."""
    with_grafana = helm.release_values()["grafana"]["enabled"]
    with (
        releases.namespace(cluster, NAME) as there,
        releases.installed(there, ["laptop"], {"grafana": {"enabled": with_grafana, **QUIET}}),
        there.port_forward(f"service/{NAME}-gateway", 80) as gateway,
        forwarded(there, f"{NAME}-minio-0", 9000) as s3,
        there.port_forward(f"service/{NAME}-mariadb", 3306) as database,
    ):
        address = f"http://127.0.0.1:{gateway}"
        yield Release(there, f"{address}/mlflow", s3, database, f"{address}/grafana" if with_grafana else "")


def tracking(address: str) -> tuple[Any, Any]:
    """Calls that make MLflow write to its database, and to its bucket."""
    api = f"{address}/api/2.0"

    def ask(method: str, path: str, **options: Any) -> requests.Response:
        answer = requests.request(method, f"{api}/{path}", timeout=60, **options)
        assert answer.ok, f"{method} {path.partition('/')[0]}: {answer.status_code} {answer.text[:200]}"
        return answer

    made = ask("POST", "mlflow/experiments/create", json={"name": f"rotation-{uuid.uuid4().hex[:6]}"}).json()
    run = ask("POST", "mlflow/runs/create", json={"experiment_id": made["experiment_id"]}).json()["run"]["info"][
        "run_id"
    ]
    place = f"mlflow-artifacts/artifacts/{made['experiment_id']}/{run}/artifacts/file"

    def database() -> None:
        ask("POST", "mlflow/runs/log-metric", json={"run_id": run, "key": "m", "value": 1, "timestamp": 0, "step": 0})

    def bucket() -> None:
        text = uuid.uuid4().hex
        ask("PUT", place, data=text)
        assert ask("GET", place).text == text

    return database, bucket


def states(release: Release) -> dict[str, tuple[str, int]]:
    """The pods of the stores: identity, and restarts of their containers."""
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            sum(each["restartCount"] for each in pod["status"]["containerStatuses"]),
        )
        for pod in release.cluster.pods()
        if pod["metadata"]["name"] in [f"{NAME}-{each}-0" for each in ADMINISTRATORS]
    }


def secrets(release: Release) -> dict[str, Keys]:
    """All Secrets of the release."""
    names = [f"{NAME}-s3-{each}" for each in CONSUMERS] + [f"{NAME}-db-{each}" for each in DATABASES]
    names += [f"{NAME}-{each}" for each in ("mariadb-metrics", *ADMINISTRATORS)]
    return {name: release.cluster.secret(name) for name in names if release.grafana or name != f"{NAME}-grafana"}


def refused(release: Release, name: str, keys: Keys) -> bool:
    """Whether the servers refuse what a Secret had."""
    try:
        if "-s3-" in name:
            release.bucket(name.rpartition("-")[2], keys)
        elif name == f"{NAME}-minio":
            release.bucket(
                "mlflow", {"AWS_ACCESS_KEY_ID": keys["rootUser"], "AWS_SECRET_ACCESS_KEY": keys["rootPassword"]}
            )
        elif name == f"{NAME}-grafana":
            answer = requests.get(f"{release.grafana}/api/org", auth=("admin", keys["adminPassword"]), timeout=30)
            return answer.status_code == 401
        elif name == f"{NAME}-mariadb":
            root(release, keys["rootPassword"])
        else:
            release.login(name, keys)
    except (ClientError, pymysql.err.OperationalError, AssertionError):
        return True
    return False


def root(release: Release, password: str) -> None:
    """Log in to the database as its administrator."""
    said = release.cluster.exec(
        f"{NAME}-mariadb-0",
        "sh",
        "-c",
        f"MYSQL_PWD={password} mariadb --no-defaults -uroot -S /run/mysqld/mysqld.sock -e 'SELECT 11 * 11' 2>&1; true",
    )
    assert "121" in said, said


def test_a_rotation_under_traffic_fails_no_call(release: Release) -> None:
    before, pods = secrets(release), states(release)
    database, bucket = tracking(release.mlflow)
    with Traffic(
        database=database, bucket=bucket,
        **{f"key of {name}": lambda name=name: release.bucket(name) for name in CONSUMERS},
        **{f"user of {name}": lambda name=name: release.login(f"{NAME}-db-{name}") for name in DATABASES},
    ) as traffic:  # fmt: skip
        rotated = release.rotate()
    print(traffic.answered, *traffic.failures, sep="\n")
    assert traffic.failures == []
    assert min(traffic.answered.values()) > 20
    after = secrets(release)
    assert set(rotated) == set(after)
    for name, keys in after.items():
        assert not [key for key in keys if key.startswith("second.")], name
        assert refused(release, name, before[name]), name
        assert not refused(release, name, keys), name
    assert states(release) == pods, "the stores went on running"
    assert "Uptime" in release.cluster.exec(f"{NAME}-mariadb-0", "mariadb-admin", "status")


def test_former_credentials_stay_until_the_second_call(release: Release) -> None:
    before, name = secrets(release), f"{NAME}-s3-models"
    with releases.namespace(release.cluster, TEAM) as team:
        team.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": TEAM},
                "stringData": before[name],
            }
        )
        release.rotate(keep=True)
        copy = team.secret(name)
    between = secrets(release)
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert [copy[key] for key in pair] == [between[name][key] for key in pair] != [before[name][key] for key in pair]
    for name in before:
        assert between[name] != before[name]
        assert not refused(release, name, between[name]), name
        if name.removeprefix(f"{NAME}-") not in ADMINISTRATORS:
            assert not refused(release, name, before[name]), name
    release.rotate()
    for name, keys in secrets(release).items():
        assert not refused(release, name, keys), name
        assert refused(release, name, before[name]), name
