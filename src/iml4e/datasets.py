"""Datasets in the versioned bucket: a file is an object, a folder a manifest of objects; an address pins every byte.

A manifest is the CSV file NAME/manifest.csv: key, S3 version id, sha256 and label of each file. The same bytes are stored once.
"""

import atexit
import contextlib
import csv
import functools
import hashlib
import io
import os
import re
import select
import socket
import threading
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iml4e import Error, platform

FIELDS = ("key", "version", "sha256", "label")
MANIFEST = "manifest.csv"
#: Requests at the same time: with small files most of the time is spent waiting for the answer.
THREADS = 16
#: Largest object that S3 accepts in one request, in bytes.
LARGEST = 5 * 1024**3


@dataclass(frozen=True)
class Dataset:
    """A version of a dataset."""

    address: str
    """s3://BUCKET/KEY?versionId=VERSION"""
    key: str
    version: str
    sha256: str = ""
    """Of the content, hexadecimal; empty in a listing."""
    size: int = 0
    """Size in bytes; of a folder the size of its manifest."""
    modified: str = ""


def put(source: str | Path | bytes, name: str) -> Dataset:
    """Store a file, a folder or bytes as the next version of a dataset, unless its latest version has the same content.

    Args:
        source: path of a file or folder, or the content of a file.
        name: key in the bucket; of a folder the part before /manifest.csv.

    Raises:
        Error: nothing to store, a name that the store cannot have, or a bucket without version ids.
    """
    if isinstance(source, bytes):
        return _store(source, name)
    path = Path(source)
    if path.is_file():
        if path.stat().st_size > LARGEST:
            raise Error(f"{path} is larger than 5 GiB: split it, and put the folder of its parts")
        return _store(path, name)
    if not path.is_dir():
        raise Error(f"there is no file or folder {path}")
    rows = manifest(path)
    folder = check_key(name.rstrip("/").removesuffix(f"/{MANIFEST}"))
    try:
        known = {row["key"]: row for row in rows_of(read(f"{folder}/{MANIFEST}")[1])}
    except Error:  # the first time
        known = {}

    def stored(row: dict[str, str]) -> dict[str, str]:
        key = f"{folder}/{row['key']}"
        old = known.get(key, {})
        same = old.get("sha256") == row["sha256"]
        return row | {"key": key, "version": old["version"] if same else _store(path / row["key"], key).version}

    with ThreadPoolExecutor(THREADS) as pool:
        return _store(as_csv(pool.map(stored, rows)), f"{folder}/{MANIFEST}")


def manifest(folder: Path) -> list[dict[str, str]]:
    """List the files of a folder, hidden ones left out: path within it as key, sha256, label, and no version yet.

    The label is the folder that a file is in (`cat/1.png`), else the part of its name before the first `-` (`cat-1.png`).

    Raises:
        Error: there is no file.
    """
    rows = []
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in inner.parts) and str(inner) != MANIFEST:
            label = (
                inner.parts[-2] if len(inner.parts) > 1 else inner.name.partition("-")[0] if "-" in inner.name else ""
            )
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            rows.append({"key": inner.as_posix(), "version": "", "sha256": digest, "label": label})
    if not rows:
        raise Error(f"there is no file in folder {folder}")
    return rows


def read(name: str, version: str = "") -> tuple[Dataset, bytes]:
    """Read a version of a dataset; of a folder its manifest.

    Args:
        name: key in the bucket, or the address of a version.
        version: S3 version id; empty: that of the address, or the latest.

    Raises:
        Error: there is no such dataset or version.
    """
    bucket, key, version = parse(name, version)
    with _told(f"cannot read {f'version {version} of ' if version else ''}{key} in bucket {bucket}"):
        found = client().get_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))
        content = found["Body"].read()
    if version:  # a store without version ids ignores the question, and sends the latest
        _version(bucket, found)
    digest = hashlib.sha256(content).hexdigest()
    return _dataset(bucket, key, found.get("VersionId", ""), digest, len(content)), content


def get(name: str, version: str = "", to: str | Path = "", *, packed: bool = False) -> Dataset:
    """Write a version of a dataset to a file, or the files of a manifest into a folder.

    Args:
        name: key in the bucket, name of a folder, or the address of a version.
        version: S3 version id; empty: that of the address, or the latest.
        to: where to; empty: its own name, in the working directory.
        packed: write a folder as one ZIP file, each file under its key, with manifest.csv.

    Raises:
        Error: there is no such dataset or version, or its manifest is none.
    """
    if "?versionId=" not in name and not name.endswith(MANIFEST):
        inside = f"{name.rstrip('/')}/{MANIFEST}"
        name = inside if any(each.key == inside for each in listing(inside)) else name
    dataset, content = read(name, version)
    base, _, last = dataset.key.rpartition("/")
    if last != MANIFEST:
        Path(to or last).write_bytes(content)
        return dataset
    rows = rows_of(content)
    if not rows or any(not row.get(field) for row in rows for field in FIELDS[:3]):
        raise Error(f"{dataset.address} is no manifest: a CSV file with {', '.join(FIELDS)} in each row")
    bucket = parse(dataset.address)[0]
    places = [(row["key"], f"s3://{bucket}/{row['key']}?versionId={row['version']}") for row in rows]
    with ThreadPoolExecutor(THREADS) as pool:
        files = zip(places, pool.map(lambda place: read(place[1])[1], places), strict=True)
        if packed:
            with zipfile.ZipFile(to or f"{base.rpartition('/')[2]}.zip", "w") as archive:
                archive.writestr(MANIFEST, content)
                for (key, _), data in files:
                    archive.writestr(key, data)
            return dataset
        folder = Path(to or base.rpartition("/")[2])
        for (key, _), data in files:
            file = folder / check_key(key).removeprefix(f"{base}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    (folder / MANIFEST).write_bytes(content)
    return dataset


def copy(place: str, to: str | Path) -> Dataset:
    """Take a file or folder of this machine, `file:PATH`, as `get(…, packed=True)` takes one of the bucket: for trials without a platform.

    Raises:
        Error: there is none.
    """
    path = Path(place.removeprefix("file:"))
    if path.is_dir():
        rows = manifest(path)
        content = as_csv(rows)
        with zipfile.ZipFile(to, "w") as archive:
            archive.writestr(MANIFEST, content)
            for row in rows:
                archive.write(path / row["key"], row["key"])
    elif path.is_file():
        content = path.read_bytes()
        Path(to).write_bytes(content)
    else:
        raise Error(f"there is no file or folder {path}")
    return Dataset(place, place, "", hashlib.sha256(content).hexdigest(), len(content))


def listing(prefix: str = "") -> list[Dataset]:
    """List the latest version of each dataset whose key starts with `prefix`; the files of a folder are left out."""
    bucket = platform.get("S3_DATASETS_BUCKET")
    found = []
    with _told(f"cannot list bucket {bucket}"):
        for page in client().get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Versions", []):
                version = _version(bucket, each)
                if each["IsLatest"]:
                    dataset = _dataset(bucket, each["Key"], version, "", each["Size"])
                    found.append(Dataset(**{**vars(dataset), "modified": f"{each['LastModified']:%Y-%m-%d %H:%M}"}))
    folders = tuple(each.key.removesuffix(MANIFEST) for each in found if each.key.endswith(f"/{MANIFEST}"))
    return [each for each in found if each.key.endswith(f"/{MANIFEST}") or not each.key.startswith(folders)]


def check_key(name: str) -> str:
    """Return a name that can be a key in the bucket.

    Raises:
        Error: it is empty or too long, starts or ends with a slash, or holds `..`, an empty part or a control character.
    """
    parts = name.split("/")
    fits = len(name.encode()) <= 900 and all(
        part not in ("", ".", "..") and len(part.encode()) <= 250 for part in parts
    )
    if not fits or not name.isprintable() or "\\" in name:
        raise Error(
            f"{name[:80]!r} cannot name a dataset: use parts of 1 to 250 characters with '/' between them, at most 900 "
            "bytes in all, no part '.' or '..', no backslash and no control character"
        )
    return name


def parse(name: str, version: str = "") -> tuple[str, str, str]:
    """Take a key or an address apart: bucket, key, version id (empty: the latest)."""
    address, _, pinned = name.partition("?versionId=")
    if address.startswith("s3://"):
        bucket, _, key = address.removeprefix("s3://").partition("/")
        return bucket, check_key(key), version or pinned
    return platform.get("S3_DATASETS_BUCKET"), check_key(address), version or pinned


def rows_of(content: bytes) -> list[dict[str, str]]:
    """Read the rows of a manifest."""
    return list(csv.DictReader(io.StringIO(content.decode(errors="replace"))))


def as_csv(rows: Iterable[dict[str, str]]) -> bytes:
    """Write the rows of a manifest."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@functools.cache
def client() -> Any:
    """The S3 client: keys of the environment, else those of the release's Secret, read by the kubeconfig.

    Where the release has an identity instead of a Secret, boto3 finds keys by itself: AWS_PROFILE, `aws sso login` and others.
    An address that only the cluster knows is reached by a port-forward, for as long as this process lives.

    Raises:
        Error: there is no way to the object store.
    """
    import boto3
    from botocore.config import Config

    keys = {}
    platform.get("S3_DATASETS_BUCKET")  # a release, or one sentence
    if not (platform.in_cluster() or platform.MARK in os.environ or "AWS_ACCESS_KEY_ID" in os.environ):
        keys = _keys()
    endpoint = platform.find("AWS_ENDPOINT_URL")
    host = urlsplit(endpoint).hostname or ""
    if not platform.in_cluster() and (host.endswith(".svc") or ".svc." in host):
        if endpoint.startswith("https:"):
            raise Error(
                f"the object store {endpoint} shows a certificate for a name that the cluster alone knows: run this in a pod, or "
                "set AWS_ENDPOINT_URL to an address that this machine reaches"
            )
        endpoint = f"http://127.0.0.1:{_forward(*host.split('.')[:2], urlsplit(endpoint).port or 80)}"
    return boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=platform.find("AWS_DEFAULT_REGION") or None,
        config=Config(
            max_pool_connections=THREADS,
            connect_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 9},
            s3={"addressing_style": platform.find("S3_ADDRESSING_STYLE", "auto")},
        ),
        **keys,
    )


def _store(source: bytes | Path, name: str) -> Dataset:
    """Put the content of one file, unless the latest version has it already."""
    from botocore.exceptions import ClientError

    bucket, key, _ = parse(name)
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with _told(f"cannot store {key} in bucket {bucket}"):
            try:
                latest = client().head_object(Bucket=bucket, Key=key)
            except ClientError:
                latest = {"Metadata": {}}
        if latest["Metadata"].get("sha256") != digest:
            kind = (
                "text/csv" if key.endswith(".csv") else "image/png" if key.endswith(".png") else "binary/octet-stream"
            )
            with _told(f"cannot store {key} in bucket {bucket}"):
                latest = client().put_object(
                    Bucket=bucket, Key=key, Body=file, ContentType=kind, Metadata={"sha256": digest}
                )
    return _dataset(bucket, key, _version(bucket, latest), digest, size)


def _version(bucket: str, answer: dict[str, Any]) -> str:
    """Return the version id that the store gives an object.

    Raises:
        Error: the bucket has no versions, or the store counts them in a way of its own.
    """
    if "VersionId" not in answer:
        raise Error(
            f"the bucket {bucket} gives no version ids, which datasets need: switch its versioning on; a store that has "
            "none even so, such as Google Cloud Storage, cannot keep datasets (docs/install.md, Your own S3)"
        )
    return answer["VersionId"]


def _dataset(bucket: str, key: str, version: str, digest: str, size: int) -> Dataset:
    return Dataset(f"s3://{bucket}/{key}?versionId={version}", key, version, digest, size)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an error of the object store into one sentence that begins with the failed action."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, SSOError

    try:
        yield
    except ClientError as error:
        raise Error(f"{what}: {error.response['Error'].get('Message') or error}") from None
    except BotoCoreError as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, (NoCredentialsError, SSOError)):
            reason = f"{reason.rstrip('.')}: log in (AWS_PROFILE, aws sso login), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if found := re.search(r"certificate verify failed: (.+?) \(_ssl", reason):
            cure = "global.caCertificate of the release" if platform.in_cluster() else "a file that AWS_CA_BUNDLE names"
            reason = f"the certificate of the object store is not trusted: {found[1]}; put its authority into {cure}"
        raise Error(f"{what}: {reason}") from None


def _keys() -> dict[str, str]:
    """Read the release's key to its datasets; nothing where an identity takes its place (`runner.s3Secret` is empty)."""
    import base64

    from kubernetes import client

    name = platform.find("JOB_S3_SECRET")
    if not name:
        return {}
    try:
        secret = client.CoreV1Api(platform.kubernetes()).read_namespaced_secret(name, platform.namespace()).data
    except client.ApiException as error:
        raise Error(
            f"Secret {name} in namespace {platform.namespace()} cannot be read ({error.reason}): set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY"
        ) from None
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return {name.lower(): base64.b64decode(secret[name]).decode() for name in names}


def _forward(service: str, namespace: str, port: int) -> int:
    """Listen on a free port of 127.0.0.1, and hand each connection to a pod of a Service through the API server."""
    from kubernetes import client
    from kubernetes.stream import portforward

    core = client.CoreV1Api(platform.kubernetes())
    try:
        found = core.read_namespaced_service(service, namespace).spec
        selector = ",".join(f"{key}={value}" for key, value in found.selector.items())
        pods = core.list_namespaced_pod(namespace, label_selector=selector).items
    except client.ApiException as error:
        raise Error(f"Service {service} in namespace {namespace} cannot be reached: {error.reason}") from None
    ready = [pod for pod in pods if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])]
    if not ready:
        raise Error(f"no pod of Service {service} in namespace {namespace} is ready: `kubectl get pods` tells")
    target = next((each.target_port for each in found.ports if each.port == port), port)
    if isinstance(target, str):
        ports = [each for container in ready[0].spec.containers for each in container.ports or []]
        target = next(each.container_port for each in ports if each.name == target)

    def tunnel() -> Any:
        # an API client of its own: the library swaps the client's request function while it connects
        api = client.CoreV1Api(client.ApiClient(platform.kubernetes().configuration))
        connect = api.connect_get_namespaced_pod_portforward
        far = portforward(connect, ready[0].metadata.name, namespace, ports=str(target)).socket(target)
        far.setblocking(True)
        return far

    def carry(near: socket.socket) -> None:
        with contextlib.suppress(OSError, client.ApiException), near, contextlib.closing(tunnel()) as far:
            while True:
                for end in select.select([near, far], [], [])[0]:
                    if not (data := end.recv(65536)):
                        return
                    (far if end is near else near).sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=carry, args=listener.accept()[:1], daemon=True).start()

    try:
        tunnel().close()
    except client.ApiException as error:
        raise Error(f"Service {service} in namespace {namespace} cannot be reached: {error.reason}") from None
    listener = socket.create_server(("127.0.0.1", 0))
    atexit.register(listener.close)
    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]
