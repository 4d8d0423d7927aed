"""What our own programs do with S3 stores that are neither AWS nor MinIO: a small server of this machine has their habits."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from iml4e import Error, datasets
from support.programs import module

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}

LISTING = b"<ListBucketResult><Contents><Key>m/MLmodel</Key><Size>5</Size></Contents></ListBucketResult>"
GENERATIONS = b"""<ListBucketResult><Version><Key>m/MLmodel</Key><Generation>1</Generation><IsLatest>true</IsLatest>
<LastModified>2026-01-02T03:04:05Z</LastModified><Size>5</Size></Version></ListBucketResult>"""


class Store(http.server.ThreadingHTTPServer):
    """A store with one object, m/MLmodel, in any bucket."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.deleted: list[bytes] = []
        """Bodies of the requests that deleted objects."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Demands Content-MD5 as an older store does, and counts generations instead of versions as Google's does."""

    server: Store

    def do_GET(self) -> None:
        """A listing, or the object."""
        query = urlsplit(self.path).query
        if "list-type" in query:
            self.answer(200, LISTING)
        elif "versions" in query.split("&"):
            self.answer(200, GENERATIONS)
        else:
            self.answer(200, b"model", x_goog_generation="1")

    def do_HEAD(self) -> None:
        """Nothing is there yet."""
        self.answer(404)

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
    address = f"http://127.0.0.1:{server.server_port}"
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
