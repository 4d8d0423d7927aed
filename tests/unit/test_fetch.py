"""The download of models with what KServe passes on of `storage` in an InferenceService."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bucket import Bucket
from support.helm import CHART


@pytest.fixture
def store() -> Iterator[tuple[str, list[str]]]:
    """Address of a bucket with one object, m/MLmodel, and the signatures of what it was asked."""
    signed: list[str] = []

    class Recording(Bucket):
        def do_GET(self) -> None:
            signed.append(self.headers["Authorization"])
            super().do_GET()

        do_HEAD = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recording)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", signed
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(uri: str, target: Path, **environment: str) -> tuple[int, str]:
    """Run the program as KServe does; exit code and what it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STORAGE_"))}
    command = [sys.executable, CHART / "charts/kserve/files/fetch.py", uri, str(target)]
    done = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_place_and_key_come_from_the_secret_that_storage_names(store: tuple[str, list[str]], tmp_path: Path) -> None:
    address, signed = store
    entry = {
        "type": "s3", "endpoint_url": address, "access_key_id": "reader", "secret_access_key": "s", "region": "eu-1", "bucket": "mlflow",
    }  # fmt: skip
    assert fetch("s3://mlflow/m", tmp_path, STORAGE_CONFIG=json.dumps(entry)) == (0, "")
    assert (tmp_path / "MLmodel").read_text() == "model"
    assert all("Credential=reader/" in each and "/eu-1/" in each for each in signed)


def test_parameters_of_storage_come_before_its_secret(store: tuple[str, list[str]], tmp_path: Path) -> None:
    address, signed = store
    entry = {
        "endpoint_url": "http://127.0.0.1:1",
        "access_key_id": "reader",
        "secret_access_key": "s",
        "region": "eu-1",
    }
    given = {"STORAGE_OVERRIDE_CONFIG": json.dumps({"type": "s3", "endpoint_url": address, "region": "eu-2"})}
    assert fetch("s3://mlflow/m", tmp_path, STORAGE_CONFIG=json.dumps(entry), **given) == (0, "")
    assert all("/eu-2/" in each for each in signed)


@pytest.mark.parametrize("entry", ["s3://mlflow", '["s3"]'])
def test_an_entry_that_is_no_json_is_told(entry: str, tmp_path: Path) -> None:
    code, said = fetch("s3://mlflow/m", tmp_path, STORAGE_CONFIG=entry)
    assert code == 2
    assert said == "the key of Secret storage-config that storage.key names must hold a JSON object of texts\n"


def test_another_type_of_store_is_told(tmp_path: Path) -> None:
    code, said = fetch("hdfs://models/m", tmp_path, STORAGE_CONFIG='{"type": "hdfs"}')
    assert code == 2
    assert said == "hdfs://models/m is no address like s3://BUCKET/FOLDER\n"
