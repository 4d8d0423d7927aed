"""What is special about MLflow."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import pytest

from support.helm import CHART, render
from support.objects import find, pod_template


def pod(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Spec of its pods."""
    return pod_template(find(render("laptop", values), "Deployment", "iml4e-mlflow"))["spec"]


def server(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The container of the server."""
    return next(container for container in pod(values)["containers"] if container["name"] == "mlflow")


def hosts(values: dict[str, Any] | None = None) -> set[str]:
    """Host names that it answers to."""
    return set(variables(values)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))


def variables(values: dict[str, Any] | None = None) -> dict[str, str]:
    """Environment of the server, without what comes from Secrets."""
    return {variable["name"]: variable["value"] for variable in server(values)["env"] if "value" in variable}


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
    assert variables(values)["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] == "s3://a-bucket"
    assert variables()["_MLFLOW_SERVER_SERVE_ARTIFACTS"] == "true"


def test_limits_of_bodies_reach_the_server_as_plain_numbers() -> None:
    """Helm makes 1.6e+07 of a large number."""
    assert variables()["MAX_BODY_BYTES"] == "16777216"
    assert variables({"mlflow": {"maxBodyBytes": 67108864, "maxUploads": 5}})["MAX_UPLOADS"] == "5"
    assert variables({"mlflow": {"maxBodyBytes": 67108864}})["MAX_BODY_BYTES"] == "67108864"


def test_a_changed_program_replaces_the_pod() -> None:
    folder = CHART / "charts" / "mlflow" / "files"
    template = pod_template(find(render("laptop"), "Deployment", "iml4e-mlflow"))
    kept = find(render("laptop"), "ConfigMap", "iml4e-mlflow")["data"]
    assert kept == {path.name: path.read_text() for path in folder.iterdir()}
    assert template["metadata"]["annotations"]["checksum/config"]


@pytest.mark.parametrize("reachable", [True, False])
def test_signed_urls_are_for_clients_that_can_reach_the_store(reachable: bool) -> None:
    rules = find(render("laptop", {"mlflow": {"route": {"signedUrls": reachable}}}), "HTTPRoute", "iml4e-mlflow")[
        "spec"
    ]["rules"]
    rewritten = {match["path"]["value"] for rule in rules if rule.get("filters") for match in rule["matches"]}
    offers = {
        "/mlflow/api/3.0/mlflow/server-info",
        "/mlflow/api/2.0/mlflow-artifacts/mpu",
        "/mlflow/api/2.0/mlflow-artifacts/presigned",
    }
    assert rewritten == (set() if reachable else offers)


def test_an_external_database_is_used_as_named() -> None:
    values = {
        "mariadb": {"enabled": False},
        "global": {"database": {"host": "db.example.com", "port": 3307}},
        "mlflow": {"database": {"existingSecret": "my-db"}},
    }
    containers = (pod(values)["initContainers"][0], server(values))
    addresses = [v["value"] for c in containers for v in c["env"] if v["name"] == "MLFLOW_BACKEND_STORE_URI"]
    assert len(addresses) == 2
    assert all("@db.example.com:3307/" in address for address in addresses)
    assert "my-db" in str(server(values))
    assert "iml4e-db-mlflow" not in str(pod(values))


def test_no_password_stands_in_the_command_line() -> None:
    assert "PASSWORD" not in " ".join(server()["command"])


def test_an_update_never_leaves_it_without_a_pod() -> None:
    strategy = find(render("laptop"), "Deployment", "iml4e-mlflow")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
