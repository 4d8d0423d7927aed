"""The order of a rotation, against an API server of a few lines on which the release's own program makes the Secrets."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from iml4e import Error, rotate
from iml4e.cluster import RefusedError
from support.secrets import CERTIFICATE, KEY, LASTING, PASSWORD, Cluster, decoded, make, make_secrets, webhooks

PLAN = [
    PASSWORD | {"name": "r-db-mlflow"}, PASSWORD | {"name": "r-mariadb", "fixed": {}}, KEY | {"name": "r-s3-mlflow"},
    CERTIFICATE, LASTING,
]  # fmt: skip


def pod(name: str, *secrets: str, owner: str = "ReplicaSet", rotation: bool = False) -> dict[str, Any]:
    """A pod that has Secrets mounted, with the key `rotation` where the database has it."""
    items = {"items": [{"key": "rotation", "path": "x/rotation"}]} if rotation else {}
    sources = [{"secret": {"name": secret, **items}} for secret in secrets]
    return {
        "metadata": {"name": name, "creationTimestamp": "2020-01-01T00:00:00Z", "ownerReferences": [{"kind": owner}]},
        "spec": {
            "containers": [{"name": "c", "volumeMounts": [{"name": "v"}]}],
            "volumes": [{"name": "v", "projected": {"sources": sources}}],
        },
        "status": {"phase": "Running"},
    }


class Release:
    """A namespace with a release in it: it runs what it is given, and writes down in which order."""

    namespace = "ns"

    def __init__(self) -> None:
        """Made, and never rotated."""
        self.store = Cluster(webhooks(**{"iml4e/ca-from": "webhook"}))
        make(self.store, *PLAN)
        self.happened: list[str] = []
        self.pods = [
            pod("r-minio-0", "r-minio", owner="StatefulSet"),
            pod("r-mariadb-0", "r-mariadb", "r-db-mlflow", owner="StatefulSet", rotation=True),
            pod("r-mlflow-1", "r-db-mlflow", "r-s3-mlflow"),
        ]
        self.old_program = False
        self.fails = ""
        """A Job that fails."""

    def path(self, kind: str, name: str = "", namespace: str = "") -> str:
        return f"{namespace or self.namespace}/{kind}/{name}"

    def get(self, kind: str, name: str) -> Any:
        if kind == "ConfigMap":
            return {"data": {"plan.json": json.dumps({"secrets": PLAN})}}
        if kind == "Job":
            ended = "Failed" if self.fails and self.fails in name else "Complete"
            return {"status": {"conditions": [{"type": ended, "status": "True"}]}}
        if kind == "Deployment":
            counts = dict.fromkeys(("updatedReplicas", "replicas", "availableReplicas"), 1)
            return {
                "metadata": {"generation": 1},
                "spec": {"replicas": 1},
                "status": {"observedGeneration": 1, **counts},
            }
        return self.store.objects.get(name)

    def list(self, kind: str, labels: str = "") -> list[Any]:
        if kind == "Job":
            jobs = {"r-secrets-1-a": [], "r-minio-setup-1-a": ["r-minio", "r-s3-mlflow"]}
            return [
                {
                    "metadata": {"name": name, "creationTimestamp": "2020"},
                    "spec": {"template": {
                        "metadata": {"labels": {"a": "b", "job-name": name}},
                        "spec": pod(name, *secrets)["spec"] | {"containers": [{"name": "c", "command": ["run"], "volumeMounts": [{"name": "v"}]}]},
                    }},
                }
                for name, secrets in jobs.items()
            ]  # fmt: skip
        if kind == "Deployment":
            return [{"metadata": {"name": "r-mlflow"}, "spec": {"template": {"spec": self.pods[2]["spec"]}}}]
        return self.pods

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        if method == "GET":
            raise RefusedError("secrets is forbidden", 403)
        if method == "PATCH":
            if "/Deployment/" in path:
                self.happened.append("restart")
                self.pods[2] = pod("r-mlflow-2", "r-db-mlflow", "r-s3-mlflow")
                self.pods[2]["metadata"]["annotations"] = body["spec"]["template"]["metadata"]["annotations"]
            return {}
        name, words = body["metadata"]["name"], body["spec"]["template"]["spec"]["containers"][0]["command"]
        assert body["spec"]["template"]["metadata"]["labels"] == {"a": "b"}
        assert "app.kubernetes.io/instance" not in body["metadata"]["labels"]
        self.happened.append(name.removeprefix("r-rotate-"))
        if "-secrets-" in name and name != self.fails and not self.old_program:
            _, state, run, *names = words
            make_secrets.main({"secrets": PLAN}, "ns", self.store, state, run, *names)
        return {}

    def delete(self, *_: str) -> bool:
        return True

    def log(self, *_: str, **__: Any) -> str:
        return "no space left\n"


class Rotation(rotate.Rotation):
    """A rotation whose commands in pods are written down."""

    def _exec(self, pod: Any, container: str, command: list[str]) -> None:
        self.cluster.happened.append(f"{pod['metadata']['name']} {' '.join(command[2:])}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate, "BROUGHT", 0)
    monkeypatch.setattr(rotate, "LOOK", 0)


def run(release: Release, *, only: list[str] | None = None, keep: bool = False) -> list[str]:
    """Rotate; what is said goes to standard error."""
    return Rotation(release, "r", 0.2, lambda text: print(text, file=sys.stderr)).run(only, keep)


def values(release: Release) -> dict[str, dict[str, str]]:
    """What the Secrets have."""
    return {each["name"]: decoded(release.store.objects[each["name"]]) for each in PLAN}


def test_servers_know_a_credential_before_readers_have_it_and_until_none_has() -> None:
    release = Release()
    before = values(release)
    assert run(release) == ["r-db-mlflow", "r-mariadb", "r-s3-mlflow", "webhook"]
    steps = [each.split(" ")[0] for each in release.happened]
    assert steps == [
        "secrets-next", "minio-setup-next", "r-mariadb-0",
        "secrets-former", "minio-setup-former", "r-mariadb-0", "restart",
        "secrets-done", "minio-setup-done", "r-mariadb-0",
    ]  # fmt: skip
    identity = values(release)["webhook"]["rotation"].split(" ")[0]
    said = [each for each in release.happened if each.startswith("r-mariadb-0")]
    for state, command in zip(("next", "former", "done"), said, strict=True):
        assert command.count(f"/secrets/x/rotation {identity} {state}") == 1
    for name, secret in values(release).items():
        assert not [key for key in secret if key.startswith("second.")]
        assert (secret == before[name]) is (name == "lasting"), name


def test_kept_credentials_go_with_the_next_call() -> None:
    release = Release()
    before = values(release)
    run(release, keep=True)
    between = values(release)
    assert between["r-db-mlflow"]["second.password"] == before["r-db-mlflow"]["password"]
    release.happened.clear()
    run(release)
    assert release.happened[-1].endswith(" done")
    assert values(release)["r-db-mlflow"]["password"] == between["r-db-mlflow"]["password"], "no new one in between"
    assert "second.password" not in values(release)["r-db-mlflow"]


@pytest.mark.parametrize("state", ["next", "former", "done"])
@pytest.mark.parametrize("job", ["secrets", "minio-setup"])
def test_a_rotation_that_was_cut_short_goes_on_and_no_credential_is_lost(job: str, state: str) -> None:
    release = Release()
    before = values(release)["r-db-mlflow"]["password"]
    release.fails = f"r-rotate-{job}-{state}"
    with pytest.raises(
        Error, match=rf"Job r-rotate-{job}-{state} failed: no space left; the former credentials are still valid"
    ):
        run(release)
    cut = values(release)["r-db-mlflow"]
    if (job, state) != ("minio-setup", "done"):
        assert before in (cut["password"], cut.get("second.password"))
    release.fails = ""
    run(release)
    if (job, state) == ("minio-setup", "done"):  # it had come so far that a new one began
        assert "second.password" not in values(release)["r-db-mlflow"]
    after = values(release)["r-db-mlflow"]
    assert after["password"] != before
    assert after["rotation"].endswith(" done")


def test_one_secret_alone_leaves_the_others() -> None:
    release = Release()
    before = values(release)
    assert run(release, only=["r-mariadb"]) == ["r-mariadb"]
    after = values(release)
    assert [name for name in after if after[name] != before[name]] == ["r-mariadb"]
    assert not [each for each in release.happened if each.startswith(("minio", "restart"))]


def test_a_pod_that_does_not_end_keeps_the_former_credential_valid() -> None:
    release = Release()
    release.pods.append(pod("step-7", "r-s3-mlflow", owner="Workflow"))
    with pytest.raises(
        Error, match=r"step-7 may still use former credentials after 0 s; the former credentials are still valid"
    ):
        run(release)
    assert "second.AWS_SECRET_ACCESS_KEY" in values(release)["r-s3-mlflow"]
    release.pods.pop()
    run(release)
    assert "second.AWS_SECRET_ACCESS_KEY" not in values(release)["r-s3-mlflow"]


def test_wrong_names_and_older_charts_are_told() -> None:
    release = Release()
    with pytest.raises(
        Error, match=r"the release did not make nobody; it made r-db-mlflow, r-mariadb, r-s3-mlflow, webhook"
    ):
        run(release, only=["nobody"])
    with pytest.raises(Error, match=r"^lasting does not rotate: what was encrypted with its key"):
        run(release, only=["lasting", "r-mariadb"])
    assert release.happened == []
    release.old_program = True
    with pytest.raises(Error, match=r"did not rotate: the release's chart is older than this command"):
        run(release)


class WithHub(Release):
    """A release with notebooks, whose hub is a StatefulSet."""

    def get(self, kind: str, name: str) -> Any:
        if (kind, name) == ("StatefulSet", "r-notebooks"):
            hub = super().get("Deployment", name)
            hub["metadata"]["name"] = name
            return hub | {"spec": {"replicas": 1, "template": pod("hub", "r-s3-mlflow")}}
        return super().get(kind, name)

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        if method == "PATCH" and path == "ns/StatefulSet/r-notebooks":
            assert rotate.SEEN in body["spec"]["template"]["metadata"]["annotations"]
            self.happened.append("restart of the hub")
        return super().request(method, path, body, **options)


def test_the_hub_of_notebooks_restarts_where_it_reads_a_secret() -> None:
    release = WithHub()
    run(release, only=["r-s3-mlflow"])
    assert release.happened.count("restart of the hub") == 1
    release = WithHub()
    run(release, only=["r-db-mlflow"])
    assert "restart of the hub" not in release.happened
