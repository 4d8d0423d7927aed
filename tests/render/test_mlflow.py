"""What is special about MLflow."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow.server.security_utils import is_allowed_host_header
from sqlalchemy.engine import make_url

from support.helm import CHART, HelmError, render
from support.objects import find, planned_keys, planned_secrets, pod_template


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


def allowed(host: str, values: dict[str, Any] | None = None) -> bool:
    """Whether it answers to a host name, by MLflow's own rule."""
    return is_allowed_host_header(list(hosts(values)), host)


def test_names_inside_the_cluster_are_allowed() -> None:
    for name in ("iml4e-mlflow", "iml4e-gateway", "iml4e-gateway-internal"):
        for host in (name, f"{name}.iml4e", f"{name}.iml4e.svc", f"{name}.iml4e.svc.cluster.local"):
            assert allowed(host)
            assert allowed(f"{host}:5000")


def test_addresses_are_allowed_and_names_that_look_like_them_are_not() -> None:
    """Prometheus scrapes by address, people open by address; only a name can be rebound to another address."""
    for host in ("10.0.0.5", "172.31.255.1", "203.0.113.77", "127.0.0.1", "[fd00::1]", "[::1]", "localhost"):
        assert allowed(host), host
        assert allowed(f"{host}:5000"), host
    for host in ("10.evil.com", "192.168.1.evil.com", "evil.com", "localhost.evil.com", "1.2.3.4.evil.com:80", ""):
        assert not allowed(host), host


@pytest.mark.parametrize(
    ("url", "host", "origin"),
    [
        ("https://ml.example.com", "ml.example.com", "https://ml.example.com"),
        ("http://ml.example.com:80", "ml.example.com", "http://ml.example.com"),
        ("https://ml.example.com:443", "ml.example.com", "https://ml.example.com"),
        ("http://ml.example.com:443", "ml.example.com:443", "http://ml.example.com:443"),
        ("http://ML.Example.com:8080", "ml.example.com:8080", "http://ml.example.com:8080"),
        ("https://ml.example.com/tools/ml", "ml.example.com", "https://ml.example.com"),
        ("http://[fd00::1]:30080", "[fd00::1]:30080", "http://[fd00::1]:30080"),
        ("http://192.168.1.20:30080", "192.168.1.20:30080", "http://192.168.1.20:30080"),
    ],
)
def test_the_public_address_is_allowed_as_browsers_send_it(url: str, host: str, origin: str) -> None:
    values = {"global": {"publicUrl": url}}
    assert allowed(host, values)
    assert variables(values)["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == origin


@pytest.mark.parametrize(
    "url",
    [
        "http://ml.example.com/", "ml.example.com", "ftp://ml.example.com", "http://", "http:///mlflow", "http://a b",
        "http://ann:secret@ml.example.com", "http://ml.example.com?x", "http://ml.example.com/a//b", "http://ml.example.com:http",
        "http://[fd00::1", "http://größe.example.com",
    ],
)  # fmt: skip
def test_a_public_address_that_browsers_cannot_have_is_refused(url: str) -> None:
    with pytest.raises(HelmError, match="publicUrl"):
        render("laptop", {"global": {"publicUrl": url}})


def test_more_host_names_are_allowed() -> None:
    values = {"mlflow": {"allowedHosts": ["ML.internal", "*.example.com", "other.example.org:8080"]}}
    for host in ("ml.internal", "ml.internal:30080", "a.example.com", "a.example.com:1", "other.example.org:8080"):
        assert allowed(host, values), host
    assert not allowed("other.example.org", values)
    with pytest.raises(HelmError, match="allowedHosts"):
        render("laptop", {"mlflow": {"allowedHosts": ["http://ml.internal"]}})


def test_not_every_host_is_allowed() -> None:
    """Otherwise any web page could call MLflow through its visitor's browser."""
    assert "*" not in hosts()


def test_writers_at_once_see_what_others_have_written() -> None:
    """By SQLAlchemy's own reading of the address; and there is a connection for each of the ten threads, and a second one."""
    address = make_url(variables()["MLFLOW_BACKEND_STORE_URI"].replace("$(", "").replace(")", ""))
    assert address.query["init_command"] == "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    assert 5 + int(variables()["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"]) >= 2 * 10


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
    assert kept == {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
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


def test_all_its_processes_read_the_secrets_of_webhooks_with_one_key_that_no_rotation_changes() -> None:
    def key(values: dict[str, Any] | None = None) -> dict[str, str]:
        variables = {each["name"]: each for each in server(values)["env"]}
        return variables["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"]["valueFrom"]["secretKeyRef"]

    mine = {"mlflow": {"webhooks": {"existingSecret": "mine"}}}
    assert key() == {"name": "iml4e-mlflow-webhooks", "key": "encryptionKey"}
    assert key(mine) == {"name": "mine", "key": "encryptionKey"}
    planned = planned_secrets(render("laptop"))["iml4e-mlflow-webhooks"]
    assert planned["lasting"] == {"encryptionKey": 32}
    assert planned_keys(planned) == {"encryptionKey"}
    for values in (mine, {"mlflow": {"enabled": False}, "pipelines": {"enabled": False}}):
        assert "iml4e-mlflow-webhooks" not in planned_secrets(render("laptop", values))
