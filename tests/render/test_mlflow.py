"""What is special about MLflow."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from support.helm import render
from support.objects import find, pod_template


def pod(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Spec of its pods."""
    return pod_template(find(render("laptop", values), "Deployment", "iml4e-mlflow"))["spec"]


def server(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The container of the server."""
    return next(container for container in pod(values)["containers"] if container["name"] == "mlflow")


def hosts(values: dict[str, Any] | None = None) -> set[str]:
    """Host names that it answers to."""
    flag = next(word for word in server(values)["command"] if word.startswith("--allowed-hosts="))
    return set(flag.removeprefix("--allowed-hosts=").split(","))


def test_schema_is_migrated_before_the_server_starts() -> None:
    assert [container["name"] for container in pod()["initContainers"]] == ["migrate"]
    assert pod()["initContainers"][0]["image"] == server()["image"], "the migration is the server's own"


def test_names_inside_the_cluster_and_the_front_door_are_allowed() -> None:
    assert {"iml4e-mlflow:*", "iml4e-mlflow.iml4e.svc:*", "iml4e-mlflow.iml4e.svc.cluster.local:*"} <= hosts()
    assert {"localhost:*", "127.0.0.1:*"} & hosts()


def test_both_ip_families_are_served() -> None:
    """An empty host is every address; `::` would be IPv6 alone."""
    assert "--host=" in server()["command"]
    assert any(fnmatch("[fd00::1]:5000", pattern) for pattern in hosts())


def test_public_address_is_allowed() -> None:
    assert "ml.example.com" in hosts({"global": {"publicUrl": "https://ml.example.com"}})


def test_not_every_host_is_allowed() -> None:
    """Else any web page could talk to it through its reader's browser."""
    assert "*" not in hosts()


def test_artifacts_go_through_it_into_its_bucket() -> None:
    values = {"global": {"s3": {"buckets": {"datasets": "data", "mlflow": "a-bucket", "pipelines": "steps"}}}}
    assert "--artifacts-destination=s3://a-bucket" in server(values)["command"]
    assert "--serve-artifacts" in server()["command"]


def test_an_external_database_is_used_as_named() -> None:
    values = {
        "mariadb": {"enabled": False},
        "global": {"database": {"host": "db.example.com", "port": 3307}},
        "mlflow": {"database": {"existingSecret": "my-db"}},
    }
    addresses = [
        v["value"] for c in (pod(values)["initContainers"][0], server(values)) for v in c["env"] if "URI" in v["name"]
    ]
    assert len(addresses) == 2
    assert all("@db.example.com:3307/" in address for address in addresses)
    assert "my-db" in str(server(values))
    assert "iml4e-db-mlflow" not in str(pod(values))


def test_no_password_stands_in_the_command_line() -> None:
    assert "PASSWORD" not in " ".join(server()["command"])


def test_an_update_never_leaves_it_without_a_pod() -> None:
    strategy = find(render("laptop"), "Deployment", "iml4e-mlflow")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
