"""What our own programs do with S3 stores that are neither AWS nor MinIO: a small server of this machine has their habits."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from iml4e import Error, datasets, rehearsal
from iml4e.doctor import probe_path
from support.programs import module

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}

LISTING = b"""<ListBucketResult><Contents><Key>m/MLmodel</Key><LastModified>2026-01-02T03:04:05Z</LastModified><Size>5</Size>
</Contents></ListBucketResult>"""
GENERATIONS = b"""<ListBucketResult><Version><Key>m/MLmodel</Key><Generation>1</Generation><IsLatest>true</IsLatest>
<LastModified>2026-01-02T03:04:05Z</LastModified><Size>5</Size></Version></ListBucketResult>"""


class Store(http.server.ThreadingHTTPServer):
    """A store with one object, m/MLmodel, in any bucket."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.deleted: list[bytes] = []
        """Bodies of the requests that deleted objects."""
        self.asked: list[tuple[str, str, bool]] = []
        """Host, path, and whether it was signed, of each request for a listing or an object."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Demands Content-MD5 as an older store does, and counts generations instead of versions as Google's does."""

    server: Store

    def do_GET(self) -> None:
        """A listing, or the object."""
        path, query = urlsplit(self.path)[2:4]
        self.server.asked.append((self.headers["Host"].partition(":")[0], path, "Authorization" in self.headers))
        if "list-type" in query:
            self.answer(200, LISTING)
        elif "versions" in query.split("&"):
            self.answer(200, GENERATIONS)
        else:
            self.answer(200, b"model", x_goog_generation="1")

    def do_HEAD(self) -> None:
        """The object, where the bucket is that of models; else nothing is there yet."""
        self.answer(*((200, b"model") if "m/MLmodel" in self.path else (404,)), ETag='"1"')

    def do_PUT(self) -> None:
        """Store an object."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, x_goog_generation="1", ETag='"1"')

    def do_POST(self) -> None:
        """Delete objects."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        given = self.headers.get("Content-MD5")
        if given != digest or "content-md5" not in self.headers["Authorization"]:
            code = "MissingContentMD5" if given is None else "BadDigest"
            self.answer(400, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
            return
        self.server.deleted.append(body)
        self.answer(200, b"<DeleteResult></DeleteResult>")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store, whose address and keys are everybody's."""
    server = Store()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://store.test:{server.server_port}"
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more: resolve("127.0.0.1" if host.endswith("store.test") else host, *more)
    )
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": address, "MLFLOW_S3_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)
    datasets.client.cache_clear()
    yield server
    datasets.client.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["mlflow/files/gc.py", "pipelines/files/retention.py"])
def test_clean_up_deletes_where_the_store_demands_content_md5(store: Store, path: str) -> None:
    assert module(path).Bucket("bucket", dry_run=False).clear("m/") == (1, 5)
    assert [b"<Key>m/MLmodel</Key>" in body for body in store.deleted] == [True]


@pytest.mark.parametrize(
    "tried",
    [
        lambda: datasets.put(b"1", "one.csv"),
        datasets.listing,
        lambda: datasets.get("one"),
        # the store answers with the latest generation
        lambda: datasets.read("one.csv", "v1"),
    ],
)
def test_datasets_tell_of_a_store_without_version_ids(
    store: Store, monkeypatch: pytest.MonkeyPatch, tried: Callable[[], object]
) -> None:
    monkeypatch.setenv("S3_DATASETS_BUCKET", "datasets")
    with pytest.raises(Error, match=r"^the bucket datasets gives no version ids, which datasets need: .* Google Cloud"):
        tried()
    assert datasets.read("one.csv")[1] == b"model"


def place(style: str) -> list[tuple[str, str, bool]]:
    """Host and path of a bucket with that name."""
    return {"path": [("store.test", "/bucket", True)], "virtual": [("bucket.store.test", "/", True)]}[style]


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda: module("mlflow/files/gc.py").Bucket("bucket", dry_run=True).clear("m/"),
        lambda: module("pipelines/files/retention.py").Bucket("bucket", dry_run=True).clear("m/"),
        lambda: datasets.client().list_objects_v2(Bucket="bucket"),
    ],
    ids=["gc", "retention", "datasets"],
)
def test_requests_name_the_bucket_as_the_release_says(
    store: Store, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], object], style: str
) -> None:
    monkeypatch.setenv("S3_DATASETS_BUCKET", "datasets")
    monkeypatch.setenv("S3_ADDRESSING_STYLE", style)
    monkeypatch.setenv("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", style)
    ask()
    assert store.asked == place(style)


def program(path: Path, line: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A program that runs in a pod, for which every name is this machine's."""
    named = (
        "import socket\nreal = socket.getaddrinfo\n"
        "socket.getaddrinfo = lambda host, *more, **much: real('127.0.0.1', *more, **much)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", named + path.read_text()], input=line, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_the_doctor_asks_the_store_as_the_release_says(store: Store, style: str) -> None:
    keys = '{"own": {"bucket": "bucket", "key": "a", "secret": "b"}}\n'
    done = program(probe_path(), keys, MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE=style)
    assert store.asked == place(style), done


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_a_rehearsal_copies_from_the_store_as_the_release_says(store: Store, style: str) -> None:
    address = os.environ["AWS_ENDPOINT_URL"]
    plan = {"do": "copy", "count": 1, "from": address, "to": address, "region": "us-east-1", "style": style, "buckets": {"mlflow": "bucket"}}  # fmt: skip
    keys = {f"{side}_MLFLOW_{word}": "any" for side in ("FROM", "TO") for word in ("KEY", "SECRET")}
    done = program(rehearsal.COPY, PLAN=json.dumps(plan), **keys)
    assert store.asked[:1] == place(style), done
    assert json.loads(done.stdout) == {"bucket": {"m/MLmodel": hashlib.sha256(b"model").hexdigest()}}


@pytest.mark.parametrize(
    ("variables", "host", "path", "signed"),
    [
        ({}, "store.test", "/bucket", True),
        ({"S3_USER_VIRTUAL_BUCKET": "false", "awsAnonymousCredential": "false"}, "store.test", "/bucket", True),
        ({"S3_USER_VIRTUAL_BUCKET": "true"}, "bucket.store.test", "/", True),
        ({"S3_USER_VIRTUAL_BUCKET": "1"}, "bucket.store.test", "/", True),
        ({"awsAnonymousCredential": "true"}, "store.test", "/bucket", False),
    ],
)
def test_a_model_is_fetched_as_kserve_says(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], host: str, path: str, signed: bool
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not signed:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert module("kserve/files/fetch.py").main(["s3://bucket/m", str(tmp_path)]) == 0
    assert (tmp_path / "MLmodel").read_text() == "model"
    assert store.asked == [(host, path, signed), (host, f"{path.rstrip('/')}/m/MLmodel", signed)]
