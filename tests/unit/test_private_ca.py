"""What our own programs do with a store whose certificate a private authority signed: real TLS on this machine."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import SSLError

from iml4e import Error, datasets
from support.bucket import Bucket
from support.certificates import Signed, pem, signed
from support.helm import CHART
from support.programs import module

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
MISSING = "unable to get local issuer certificate"


class Quiet(http.server.ThreadingHTTPServer):
    """A server that does not tell of clients that hang up."""

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def authority() -> Signed:
    """A private authority."""
    return signed("e2e authority")


@pytest.fixture
def bundle(tmp_path: Path, authority: Signed) -> Path:
    """Its certificate, as KServe mounts it."""
    file = tmp_path / "cabundle.crt"
    file.write_text(pem(authority[0]))
    return file


@pytest.fixture
def serve(tmp_path: Path, authority: Signed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A function that starts a store with a certificate for names; returns its address, and makes it everybody's."""
    servers = []

    def start(*names: str) -> str:
        certificate, key = signed(*names, by=authority)
        file = tmp_path / "server.pem"
        file.write_text(pem(key) + pem(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        server = Quiet(("127.0.0.1", 0), Bucket)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        address = f"https://127.0.0.1:{server.server_port}"
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address, "MLFLOW_S3_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(name, raising=False)
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(target: Path, **environment: str) -> tuple[int, str]:
    """Run the download of models: its exit code, and what it said."""
    command = [sys.executable, CHART / "charts/kserve/files/fetch.py", "s3://mlflow/m/", str(target)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def refused() -> SSLError:
    """What boto3 raises for the store."""
    with pytest.raises(SSLError) as caught:
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).list_objects_v2(Bucket="mlflow")
    return caught.value


def test_a_model_is_fetched_with_the_authorities_that_kserve_mounts(
    serve: Callable[..., str], bundle: Path, tmp_path: Path
) -> None:
    serve("127.0.0.1")
    mounted = {"CA_BUNDLE_CONFIGMAP_NAME": "global-ca-bundle", "CA_BUNDLE_VOLUME_MOUNT_POINT": str(bundle.parent)}
    elsewhere = {**mounted, "CA_BUNDLE_VOLUME_MOUNT_POINT": "/nowhere"}
    for environment in (mounted, {"AWS_CA_BUNDLE": str(bundle)}, {**elsewhere, "AWS_CA_BUNDLE": str(bundle)}):
        code, said = fetch(tmp_path / "model", **environment)
        assert code == 0, said
        assert (tmp_path / "model" / "MLmodel").read_text() == "model"
        (tmp_path / "model" / "MLmodel").unlink()


def test_a_model_is_not_fetched_from_a_store_that_nobody_vouches_for(serve: Callable[..., str], tmp_path: Path) -> None:
    address = serve("127.0.0.1")
    code, said = fetch(tmp_path / "model")
    assert code == 1
    assert f"the certificate of {address} is not trusted: {MISSING}" in said
    assert "global.caCertificate.existingConfigMap" in said
    assert len(said.splitlines()) == 1
    assert fetch(tmp_path / "model", S3_VERIFY_SSL="0")[0] == 0


def test_a_model_is_not_fetched_from_a_store_of_another_name(
    serve: Callable[..., str], bundle: Path, tmp_path: Path
) -> None:
    serve("store.example.org")
    code, said = fetch(tmp_path / "model", AWS_CA_BUNDLE=str(bundle))
    assert code == 1
    assert "is not trusted: hostname '127.0.0.1' doesn't match 'store.example.org'" in said


def test_a_bundle_without_certificates_is_told(serve: Callable[..., str], tmp_path: Path) -> None:
    serve("127.0.0.1")
    (tmp_path / "empty.crt").write_text("not PEM")
    code, said = fetch(tmp_path / "model", AWS_CA_BUNDLE=str(tmp_path / "empty.crt"))
    assert code == 1
    assert "is not trusted: no certificate or crl found" in said


@pytest.mark.parametrize(
    ("name", "trusts", "reason"),
    [("127.0.0.1", False, MISSING), ("store.example.org", True, "hostname '127.0.0.1' doesn't match")],
)
def test_mlflow_answers_with_what_to_set_and_no_status_that_clients_repeat(
    serve: Callable[..., str], bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusts: bool, reason: str
) -> None:
    serve(name)
    if trusts:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    monkeypatch.setenv("_MLFLOW_STATIC_PREFIX", "/mlflow")
    monkeypatch.setenv("MAX_UPLOADS", "2")
    answer = module("mlflow/files/artifacts.py").store_error(refused(), "/note.txt")
    assert answer.status_code == 501
    message = json.loads(answer.body)["message"]
    assert f"not trusted: {reason}" in message
    assert "global.caCertificate" in message


@pytest.mark.parametrize(("path", "name"), [("mlflow/files/gc.py", "why"), ("pipelines/files/retention.py", "reason")])
def test_clean_up_says_what_to_set(serve: Callable[..., str], path: str, name: str) -> None:
    serve("127.0.0.1")
    said = getattr(module(path), name)(refused())
    assert MISSING in said
    assert said.endswith("(global.caCertificate names the authorities that are trusted)")


def test_datasets_say_what_to_set(serve: Callable[..., str], bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve("127.0.0.1")
    monkeypatch.setenv("S3_DATASETS_BUCKET", "datasets")
    try:
        for tried in (lambda: datasets.put(b"1", "one.csv"), lambda: datasets.read("one.csv"), datasets.listing):
            datasets.client.cache_clear()
            with pytest.raises(
                Error, match=f"not trusted: {MISSING}; put its authority into a file that AWS_CA_BUNDLE"
            ):
                tried()
        datasets.client.cache_clear()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        assert datasets.read("one.csv")[1] == b"model"
    finally:
        datasets.client.cache_clear()


def test_a_store_that_speaks_tls_in_the_cluster_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_DATASETS_BUCKET", "datasets")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.somewhere.svc:9000")
    datasets.client.cache_clear()
    with pytest.raises(Error, match="run this in a pod, or set AWS_ENDPOINT_URL"):
        datasets.client()


def test_models_trust_the_authorities_where_their_namespace_has_them(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE")
    for name in names:
        monkeypatch.setenv(name, "restored afterwards")
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(CHART / "charts/kserve/files"))
    from model_server.__main__ import trust

    monkeypatch.setenv("CA_FILE", str(bundle.parent / "missing.crt"))
    trust()
    assert not any(name in os.environ for name in names)
    # a value of the InferenceService stays
    monkeypatch.setenv("PIP_CERT", "/own.crt")
    monkeypatch.setenv("CA_FILE", str(bundle))
    trust()
    assert [os.environ[name] for name in names] == ["/own.crt", str(bundle), str(bundle), str(bundle)]
