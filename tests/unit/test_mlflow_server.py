"""What MLflow's server tells clients when the S3 store refuses: answers as MinIO gave them."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from support.helm import CHART

MINIO = "We encountered an internal error, please try again."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program that the chart mounts."""
    for name, value in {"_MLFLOW_STATIC_PREFIX": "/mlflow", "MAX_UPLOADS": "2", "MAX_BODY_BYTES": "1"}.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("server", CHART / "charts" / "mlflow" / "files" / "server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refused(status: int, code: str, message: str = "") -> ClientError:
    """An answer of the store as boto3 raises it."""
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


@pytest.mark.parametrize(
    ("failure", "status", "sentence"),
    [
        (refused(500, "InternalError", f"{MINIO}: cause(no space left on device)"), 507, "is full"),
        (refused(400, "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded"), 507, "is full"),
        (
            refused(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
            507,
            "full",
        ),
        (refused(500, "InternalError", MINIO), 503, "failed"),
        (refused(503, "SlowDown", "Please reduce your request rate."), 503, "failed"),
        (refused(403, "AccessDenied", "Access Denied."), 501, "Access Denied"),
        (refused(404, "NoSuchBucket", "The specified bucket does not exist"), 501, "bucket does not exist"),
        (refused(404, "NoSuchKey", "The specified key does not exist."), 404, "no artifact"),
        (refused(404, "404", "Not Found"), 404, "no artifact"),
        (refused(416, "InvalidRange", "The requested range is not satisfiable"), 416, "shorter"),
        (EndpointConnectionError(endpoint_url="http://minio:9000/"), 503, "does not answer"),
    ],
    ids=lambda value: (
        getattr(value, "response", {}).get("Error", {}).get("Code") if isinstance(value, Exception) else ""
    ),
)
def test_refusal_of_the_store_is_a_sentence(
    server: ModuleType, failure: ClientError | BotoCoreError, status: int, sentence: str
) -> None:
    """Clients try 503 again, and none of the others."""
    answer = server.store_error(failure, "/mlflow/x/model.bin")
    said = json.loads(answer.body)
    assert (answer.status_code, bool(said["error_code"])) == (status, True)
    assert sentence in said["message"]
