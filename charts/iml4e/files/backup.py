"""Back up a release, and restore it. Runs in the pods of CronJob `<release>-backup`, on the runtime image.

A backup is a folder `backups/<id>` with the databases, the custom resources and a list of objects, and the objects themselves in
`objects/`, which all backups of the destination share: an object is copied once. `manifest.json` is written last, so a
folder without one is no backup. Every file ends in its checksum, or is encrypted and authenticated.

Order, without locks: copy objects (first), dump the databases (database.sh), copy what is new (last). So every object that a row
names is in the backup, also one that somebody deletes meanwhile; some objects are newer than all rows.
Restore in the same order: check and objects (first), databases (database.sh), custom resources (last).
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import hashlib
import hmac
import http.server
import itertools
import json
import os
import re
import shutil
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

Object = dict[str, Any]

FORMAT = 1
WORK = Path(os.environ.get("WORK", "/work"))
FOLDER_OF_SECRETS = Path(os.environ.get("FOLDER_OF_SECRETS", "/secrets"))
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
THREADS = 8
CHUNK = 2**20
DIGEST = 32
PLAIN, SEALED = b"iml4e-plain-1\n", b"iml4e-sealed-1\n"
#: Exit code of a restore that ends before it changes anything.
UNCHANGED = 3
#: Seconds that Prometheus may take to read the time of a backup.
PATIENCE = 150
#: Age of unreferenced objects that retention deletes, in seconds: a backup that runs may still name younger ones.
YOUNG = 86400
MANAGER = "iml4e"
#: What models and schedules consist of: path of the API and kind. Runs (Workflows) are left out: started again, they would report
#: about runs that ended long ago.
KINDS = {
    "ServingRuntime": ("serving.kserve.io/v1alpha1", "servingruntimes"),
    "InferenceService": ("serving.kserve.io/v1beta1", "inferenceservices"),
    "InferenceGraph": ("serving.kserve.io/v1alpha1", "inferencegraphs"),
    "TrainedModel": ("serving.kserve.io/v1alpha1", "trainedmodels"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes"),
    "ScheduledWorkflow": ("kubeflow.org/v1beta1", "scheduledworkflows"),
}
CORE = {"ConfigMap": "configmaps", "Secret": "secrets"}
#: Tables of which an empty installation has no row, by database; MLflow has its experiment `Default`. Any other database has no table.
EMPTY = {
    "mlflow": ("runs", "registered_models", "logged_models", "experiments WHERE experiment_id <> 0"),
    "mlpipeline": ("run_details", "jobs", "pipelines"),
    "metadb": (),
}


class Failure(Exception):
    """A sentence for the log: what is wrong, and what to do."""


class Unchanged(Failure):
    """A failure before anything was changed."""


def say(sentence: str) -> None:
    """Tell the log of the pod."""
    print(f"{MODE}: {sentence}", flush=True)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.{0 if unit == 'B' else 1}f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def why(error: BaseException) -> str:
    """What an exception says, in a line."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if "certificate verify failed" in said:
        said += " (global.caCertificate names the authorities that are trusted)"
    return said


# --- files of a backup: a header, the content, and what proves both


def key() -> bytes:
    """The key that encrypts, or nothing.

    Raises:
        Failure: the Secret has another thing in its place.
    """
    file = FOLDER_OF_SECRETS / "key" / "key"
    if not file.exists():
        return b""
    with contextlib.suppress(ValueError):
        found = base64.b64decode(file.read_text().strip(), validate=True)
        if len(found) == 32:
            return found
    raise Unchanged(
        "the Secret of backup.encryption.existingSecret has no key of 32 bytes in base64: make one with "
        "`openssl rand -base64 32`, and keep a copy outside the cluster"
    )


def key_id(secret: bytes) -> str:
    """Name of a key, which tells nothing of the key; empty without one."""
    return hmac.new(secret, b"iml4e backup: name of the key", "sha256").hexdigest()[:8] if secret else ""


def name_of(secret: bytes, *parts: object) -> str:
    """Name of an object's copy: the same object has the same name, and the name tells nothing without the key."""
    text = "\0".join(map(str, parts)).encode()
    return hmac.new(secret, text, "sha256").hexdigest() if secret else hashlib.sha256(text).hexdigest()


def cipher(secret: bytes, salt: bytes, name: str) -> Any:
    """AES-256-GCM with a key for this file alone."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), 32, salt, f"iml4e backup\0{name}".encode()).derive(secret))


def nonce(number: int, last: bool) -> bytes:
    """Number of a chunk, and whether it is the last: chunks can neither be exchanged nor left out."""
    return number.to_bytes(11, "big") + bytes([last])


def pieces(chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
    """The same bytes in pieces of equal length; at least one, the last one shorter."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) > length:
            yield bytes(rest[:length])
            del rest[:length]
    yield bytes(rest)


def seal(secret: bytes, name: str, header: Object, content: Iterable[bytes]) -> Iterator[bytes]:
    """Write a file of a backup."""
    whole = itertools.chain([json.dumps(header).encode() + b"\n"], content)
    if not secret:
        yield PLAIN
        digest = hashlib.sha256(name.encode() + b"\n")
        for chunk in whole:
            digest.update(chunk)
            yield chunk
        yield digest.digest()
        return
    salt = os.urandom(32)
    yield SEALED + salt
    box, number = cipher(secret, salt, name), 0
    parts = pieces(whole, CHUNK)
    current = next(parts)
    for following in parts:
        yield box.encrypt(nonce(number, False), current, None)
        current, number = following, number + 1
    yield box.encrypt(nonce(number, True), current, None)


def unseal(secret: bytes, name: str, source: IO[bytes]) -> Iterator[bytes]:
    """Read a file of a backup: the header first, then the content. The last chunk comes when all is proved.

    Raises:
        Failure: another file, a damaged one, or one of another key.
    """
    damaged = Failure(f"{name} is damaged, or another key encrypted it: use another backup, or the right key")
    head = read(source, len(PLAIN))
    if head == PLAIN:
        chunks = unplain(name, source, damaged)
    else:
        head += read(source, len(SEALED) - len(PLAIN))
        if head != SEALED:
            raise damaged
        if not secret:
            raise Failure(f"{name} is encrypted: name the Secret with its key in backup.encryption.existingSecret")
        chunks = unbox(secret, name, source, damaged)
    first = b""
    for chunk in chunks:
        first += chunk
        if b"\n" in first:
            break
    line, _, rest = first.partition(b"\n")
    try:
        json.loads(line)
    except ValueError:
        raise damaged from None
    yield line
    yield rest
    yield from chunks


def unplain(name: str, source: IO[bytes], damaged: Failure) -> Iterator[bytes]:
    """Content of a file that is not encrypted."""
    digest, held = hashlib.sha256(name.encode() + b"\n"), b""
    while chunk := source.read(CHUNK):
        held += chunk
        ready, held = held[:-DIGEST], held[-DIGEST:]
        digest.update(ready)
        yield ready
    if digest.digest() != held:
        raise damaged


def unbox(secret: bytes, name: str, source: IO[bytes], damaged: Failure) -> Iterator[bytes]:
    """Content of an encrypted file."""
    from cryptography.exceptions import InvalidTag

    box, number = cipher(secret, read(source, 32), name), 0
    current = read(source, CHUNK + 16)
    try:
        while following := read(source, CHUNK + 16):
            yield box.decrypt(nonce(number, False), current, None)
            current, number = following, number + 1
        yield box.decrypt(nonce(number, True), current, None)
    except InvalidTag:
        raise damaged from None


def read(source: IO[bytes], count: int) -> bytes:
    """As many bytes as asked for, fewer at the end only."""
    found = b""
    while len(found) < count and (chunk := source.read(count - len(found))):
        found += chunk
    return found


class Reader:
    """Chunks as a file that can be read once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks, self.rest, self.count = iter(chunks), b"", 0

    def read(self, count: int = -1) -> bytes:
        """Read as a file does."""
        held = [self.rest]
        total = len(self.rest)
        while count < 0 or total < count:
            chunk = next(self.chunks, None)
            if chunk is None:
                break
            held.append(chunk)
            total += len(chunk)
        whole = b"".join(held)
        out, self.rest = (whole, b"") if count < 0 else (whole[:count], whole[count:])
        self.count += len(out)
        return out


# --- where backups are kept


class Folder:
    """A folder of a volume."""

    def __init__(self, path: str) -> None:
        self.root, self.place = Path(path), f"the volume at {path}"

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        """Write a file, whole or not at all; its size."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.new-{os.getpid()}-{threading.get_ident()}")
        try:
            with new.open("wb") as out:
                count = sum(out.write(chunk) for chunk in chunks)
                out.flush()
                os.fsync(out.fileno())
            new.rename(file)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        return count

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""
        return (self.root / name).open("rb")

    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """Files below a folder: name, size, time."""
        for file in sorted((self.root / prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if file.is_file():
                    told = file.stat()
                    yield str(file.relative_to(self.root)), told.st_size, told.st_mtime

    def delete(self, names: list[str]) -> None:
        """Delete files, and the folders that they leave empty."""
        for name in names:
            file = self.root / name
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                file.parent.rmdir()


class Bucket:
    """A folder of an S3 bucket."""

    def __init__(self, address: str) -> None:
        self.name, _, prefix = address.removeprefix("s3://").partition("/")
        self.prefix, self.place = prefix.strip("/") + "/" if prefix.strip("/") else "", address
        self.s3 = client(
            FOLDER_OF_SECRETS / "destination",
            os.environ.get("DESTINATION_ENDPOINT", ""),
            os.environ.get("DESTINATION_REGION", ""),
        )
        # of every kind of proof the one that all stores take: a bucket with Object Lock wants one, and so does the deletion of many
        for name in ("PutObject", "UploadPart", "DeleteObjects"):
            self.s3.meta.events.register(f"before-call.s3.{name}", digested)

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        """Write an object, whole or not at all; its size."""
        from boto3.s3.transfer import TransferConfig

        reader = Reader(chunks)
        # parts of 64 MiB: an object may have 10,000 of them
        rules = TransferConfig(multipart_threshold=2**26, multipart_chunksize=2**26, use_threads=False)
        self.s3.upload_fileobj(reader, self.name, self.prefix + name, Config=rules)
        return reader.count

    def open(self, name: str) -> IO[bytes]:
        """Open an object."""
        from botocore.exceptions import ClientError

        try:
            return self.s3.get_object(Bucket=self.name, Key=self.prefix + name)["Body"]
        except ClientError as error:
            if code(error) in ("NoSuchKey", "404"):
                raise FileNotFoundError(name) from None
            raise

    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """Objects below a folder: name, size, time."""
        for page in self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=f"{self.prefix}{prefix}/"
        ):
            for each in page.get("Contents", []):
                yield each["Key"].removeprefix(self.prefix), each["Size"], each["LastModified"].timestamp()

    def delete(self, names: list[str]) -> None:
        """Delete objects."""
        for start in range(0, len(names), 1000):
            objects = [{"Key": self.prefix + name} for name in names[start : start + 1000]]
            answer = self.s3.delete_objects(Bucket=self.name, Delete={"Objects": objects, "Quiet": True})
            if failed := answer.get("Errors"):
                raise Failure(f"{self.place} does not let old backups be deleted: {failed[0].get('Message')}")


def destination() -> Folder | Bucket:
    """Where the values say that backups are kept."""
    address = os.environ["DESTINATION"]
    return Bucket(address) if address.startswith("s3://") else Folder(address)


def client(secret: Path, endpoint: str, region: str, style: str = "path") -> Any:
    """A client of an S3 store, with the key of a mounted Secret; without one, the account of the pod decides."""
    import boto3
    from botocore.config import Config

    def held(name: str) -> str | None:
        return (secret / name).read_text().strip() if (secret / name).exists() else None

    rules = Config(
        s3={"addressing_style": style} if endpoint else {}, retries={"mode": "standard", "total_max_attempts": 5},
        max_pool_connections=2 * THREADS, connect_timeout=10, read_timeout=60,
        # stores other than AWS refuse the newer checksums
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
    )  # fmt: skip
    return boto3.client(
        "s3", endpoint_url=endpoint or None, region_name=region or None, config=rules,
        aws_access_key_id=held("AWS_ACCESS_KEY_ID"), aws_secret_access_key=held("AWS_SECRET_ACCESS_KEY"),
    )  # fmt: skip


def digested(params: Object, **_: Any) -> None:
    """Name the MD5 of a request's body in its header Content-MD5 (RFC 1864)."""
    body, digest = params["body"], hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes | bytearray):
        digest.update(body)
    else:
        start = body.tell()
        while chunk := body.read(CHUNK):
            digest.update(chunk)
        body.seek(start)
    params["headers"]["Content-MD5"] = base64.b64encode(digest.digest()).decode()


def code(error: Any) -> str:
    """Code of an error of S3."""
    return str(error.response.get("Error", {}).get("Code", ""))


# --- the release's buckets


def bucket_client(name: str) -> Any:
    """A client of the release's S3 store that may use a bucket."""
    store = client(
        FOLDER_OF_SECRETS / "s3" / name, os.environ.get("S3_ENDPOINT", ""), os.environ.get("S3_REGION", ""),
        os.environ.get("S3_ADDRESSING_STYLE", "path"),
    )  # fmt: skip

    def pin(params: Object, context: Object, **_: Any) -> None:
        # MinIO gives a new object the version that its writer asks for; boto3 has no argument for that
        if version := WISH.get(threading.get_ident()):
            params["url"] += f"?versionId={version}"

    store.meta.events.register("before-call.s3.PutObject", pin)
    return store


#: Version that the object written by a thread shall have.
WISH: dict[int, str] = {}


def buckets() -> dict[str, str]:
    """The release's buckets: role and name."""
    return json.loads(os.environ["BUCKETS"])


def versioned(store: Any, bucket: str) -> bool:
    """Whether a bucket keeps versions."""
    return store.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"


def objects(store: Any, bucket: str, role: str) -> Iterator[Object]:
    """Objects of a bucket; of a versioned one every version, oldest first, and marks of deletion that count."""
    if not versioned(store, bucket):
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for each in page.get("Contents", []):
                yield {"bucket": role, "key": each["Key"], "etag": each["ETag"], "size": each["Size"]}
        return

    def told() -> Iterator[Object]:
        for page in store.get_paginator("list_object_versions").paginate(Bucket=bucket):
            here = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            # newest first, as the store lists them
            yield from sorted(here, key=lambda each: (each["Key"], -each["LastModified"].timestamp()))

    for _, versions in itertools.groupby(told(), lambda each: each["Key"]):
        oldest_first = list(versions)[::-1]
        for each in sorted(oldest_first, key=lambda each: each["IsLatest"]):
            if "ETag" in each:
                yield {
                    "bucket": role, "key": each["Key"], "version": each["VersionId"], "etag": each["ETag"],
                    "size": each["Size"],
                }  # fmt: skip
            elif each["IsLatest"]:
                yield {"bucket": role, "key": each["Key"], "deleted": True}


def together(work: Callable[[Object], None], things: Iterable[Object]) -> None:
    """Work on many things at once; the first error ends it."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: set[Any] = set()
        try:
            for thing in things:
                waiting.add(pool.submit(work, thing))
                if len(waiting) >= 8 * THREADS:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for each in done:
                        each.result()
            for each in waiting:
                each.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class Progress:
    """A line every ten seconds."""

    def __init__(self, what: str) -> None:
        self.what, self.lock, self.told = what, threading.Lock(), time.monotonic()
        self.count = self.bytes = 0

    def add(self, count: int) -> None:
        """Count an object."""
        with self.lock:
            self.count, self.bytes = self.count + 1, self.bytes + count
            if time.monotonic() > self.told + 10:
                self.told = time.monotonic()
                say(f"{self.what}: {self.count} objects, {size(self.bytes)} so far")


# --- backup


def place(blob: str) -> str:
    """Path of an object's copy."""
    return f"objects/{blob[:2]}/{blob}"


def copy_objects(there: Folder | Bucket, secret: bytes) -> tuple[list[Object], Counter[str]]:
    """Copy objects that the destination does not have: what the buckets hold, and what was done."""
    from botocore.exceptions import ClientError

    known = {name.rpartition("/")[2]: count for name, count, _ in there.list("objects")}
    found: list[Object] = []
    progress = Progress("copied")

    def copy(thing: Object) -> None:
        if thing.get("deleted"):
            return
        version = thing.get("version", "")
        blob = name_of(secret, buckets()[thing["bucket"]], thing["key"], version, thing["etag"], thing["size"])
        thing["blob"] = blob
        if blob in known:
            thing["stored"] = known[blob]
            return
        store, bucket = stores[thing["bucket"]], buckets()[thing["bucket"]]
        # an object that was replaced since it was listed is another one
        wanted = {"VersionId": version} if version else {"IfMatch": thing["etag"]}
        try:
            answer = store.get_object(Bucket=bucket, Key=thing["key"], **wanted)
        except ClientError as error:
            if code(error) not in ("NoSuchKey", "NoSuchVersion", "PreconditionFailed", "404", "412"):
                raise
            thing["gone"] = True
            return
        header = {"type": answer.get("ContentType", ""), "metadata": answer.get("Metadata", {})}
        content = source(answer["Body"].iter_chunks(CHUNK), bucket)
        with to(there):
            thing["stored"] = there.put(place(blob), seal(secret, blob, header, content))
        progress.add(thing["size"])

    stores = {role: bucket_client(role) for role in buckets()}
    for role, bucket in buckets().items():
        here = list_into(found, objects(stores[role], bucket, role))
        try:
            together(copy, here)
        except ClientError as error:
            raise Failure(f"bucket {bucket} cannot be read: {why(error)}; look at the Secret with its key") from None
    done = Counter(objects=progress.count, bytes=progress.bytes)
    return [thing for thing in found if not thing.get("gone")], done


def source(chunks: Iterator[bytes], bucket: str) -> Iterator[bytes]:
    """The same chunks; an error that they end in is one of the bucket."""
    from botocore.exceptions import BotoCoreError

    try:
        yield from chunks
    except (BotoCoreError, OSError) as error:
        raise Failure(f"bucket {bucket} cannot be read: {why(error)}; run the backup again: it goes on") from None


def list_into(found: list[Object], things: Iterable[Object]) -> Iterator[Object]:
    """The same things, noted in their order: versions are written again in it."""
    for thing in things:
        found.append(thing)
        yield thing


def backup_first() -> None:
    """Copy objects before the databases are dumped."""
    start = time.time()
    there, secret = destination(), key()
    shutil.rmtree(WORK / "dump", ignore_errors=True)
    with to(there):
        there.put(f"{os.environ['RELEASE']}.probe", [b""])  # the right to write is known before hours of reading
        found, done = copy_objects(there, secret)
    if left := os.environ.get("BUCKETS_LEFT_OUT"):
        say(f"WARNING: left out are buckets that people added to minio.buckets: {left}; copy them by other means")
    (WORK / "first.json").write_text(json.dumps({"start": start, "objects": found, "done": done}))
    say(f"{done['objects']} objects copied, {size(done['bytes'])}; {len(found) - done['objects']} were there")


@contextlib.contextmanager
def to(there: Folder | Bucket) -> Iterator[None]:
    """Name the destination in its errors."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, OSError) as error:
        raise Failure(
            f"{there.place} does not take or give files: {why(error)}; look at backup.destination and its Secret"
        ) from None


def backup_last() -> None:
    """Copy what is new since the databases were dumped, then write the manifest."""
    serve()
    first = json.loads((WORK / "first.json").read_text())
    there, secret = destination(), key()
    identity = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    folder = f"backups/{identity}"
    empty = not any(occupied())
    with locked(), to(there):
        # read before the objects: a model that is deployed meanwhile finds its files in the backup
        things = resources()
        found, done = copy_objects(there, secret)
        now = {where(thing) for thing in found}
        # deleted since the dump, whose rows may name it
        deleted = [thing for thing in first["objects"] if thing.get("blob") and where(thing) not in now]
        if deleted:
            found = sorted(deleted + found, key=lambda thing: (thing["bucket"], thing["key"]))
        check(there, found)
        files: list[Object] = []

        def add(name: str, header: Object, content: Iterable[bytes]) -> None:
            stored = there.put(f"{folder}/{name}", seal(secret, f"{identity}/{name}", header, content))
            files.append({"name": name, "stored": stored})

        dumps = sorted((WORK / "dump").glob("*.sql.gz"))
        if wanted := set(os.environ["DATABASES"].split()) - {dump.name.removesuffix(".sql.gz") for dump in dumps}:
            raise Failure(f"there is no dump of {', '.join(sorted(wanted))}: look at the log of container database")
        for dump in dumps:
            with dump.open("rb") as file:
                add(dump.name, {"rows": (dump.with_suffix(".rows")).read_text().strip()}, chunks_of(file))
        add("resources.json.gz", {}, [gzip.compress(json.dumps(things).encode(), mtime=0)])
        lines = "".join(json.dumps(thing) + "\n" for thing in found).encode()
        add("objects.jsonl.gz", {}, [gzip.compress(lines, 6, mtime=0)])
        copies = {thing["blob"]: thing["stored"] for thing in found if thing.get("blob")}
        manifest = {
            "format": FORMAT, "id": identity, "release": os.environ["RELEASE"], "namespace": os.environ["NAMESPACE"],
            "gateway": json.loads(os.environ["GATEWAY"]), "chart": os.environ["CHART"], "key": key_id(secret),
            "buckets": buckets(), "databases": [dump.name.removesuffix(".sql.gz") for dump in dumps],
            "resources": Counter(thing["kind"] for thing in things),
            "objects": len(found), "bytes": sum(thing.get("size", 0) for thing in found),
            "stored": sum(copies.values()) + sum(file["stored"] for file in files),
            "new": first["done"].get("bytes", 0) + done["bytes"] + sum(file["stored"] for file in files),
            "files": files, "begun": first["start"], "made": time.time(), "empty": empty,
        }  # fmt: skip
        there.put(f"{folder}/manifest.json", [json.dumps(manifest, indent=1).encode()])
        kinds = ", ".join(f"{count} {kind}s" for kind, count in manifest["resources"].items()) or "none"
        say(
            f"{identity} is complete: databases {', '.join(manifest['databases'])}; {len(found)} objects, "
            f"{size(manifest['bytes'])}; custom resources: {kinds}; {size(manifest['new'])} new of {size(manifest['stored'])} at "
            f"{there.place}; {manifest['made'] - manifest['begun']:.0f} s{'' if secret else '; not encrypted'}"
        )
        METRICS.update(
            iml4e_backup_last_success_timestamp_seconds=manifest["made"], iml4e_backup_stored_bytes=manifest["stored"],
            iml4e_backup_duration_seconds=manifest["made"] - manifest["begun"],
            iml4e_backup_max_age_seconds=seconds(os.environ["ALERT_AFTER"]),
        )  # fmt: skip
        try:
            with to(there):
                prune(there)
        except Failure as failure:  # a key that may not delete keeps backups from whoever steals it
            say(f"WARNING: the backup is complete, but old ones stay: {failure}")
    wait_for_scrape()


def chunks_of(file: IO[bytes]) -> Iterator[bytes]:
    """Content of a file."""
    while chunk := file.read(CHUNK):
        yield chunk


def where(thing: Object) -> tuple[str, str, str]:
    """What tells an object from others."""
    return thing["bucket"], thing["key"], thing.get("version", "")


def check(there: Folder | Bucket, found: list[Object]) -> None:
    """Look whether all copies are there, whole.

    Raises:
        Failure: one is not.
    """
    known = {name.rpartition("/")[2]: count for name, count, _ in there.list("objects")}
    for thing in found:
        if thing.get("blob") and known.get(thing["blob"]) != thing["stored"]:
            raise Unchanged(
                f"{there.place} lacks the copy of {thing['key']} of bucket {thing['bucket']}, or has a part of it: "
                "use another backup; the next backup copies the object again"
            )


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One backup at a time writes its manifest and deletes old ones; the lock goes with the connection."""
    role = os.environ["DATABASES"].split()[0]
    with contextlib.closing(database(role)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(CONCAT(DATABASE(), '.backup'), 3600)")
        if cursor.fetchone()[0] != 1:
            raise Failure("another backup has been at work for an hour: wait for its end, or delete its Job")
        # a long copy would let the server close an idle connection
        cursor.execute("SET SESSION wait_timeout = 604800")
        yield


def database(role: str) -> Any:
    """Connect to a database as its own user."""
    import pymysql

    def held(name: str) -> str:
        return (FOLDER_OF_SECRETS / "databases" / role / name).read_text()

    authority = os.environ.get("DATABASE_CA")
    try:
        return pymysql.connect(
            host=os.environ["DATABASE_HOST"], port=int(os.environ["DATABASE_PORT"]), user=held("username"),
            password=held("password"), database=held("database"), autocommit=True, connect_timeout=10,
            ssl={"ca": authority} if authority else None,
        )  # fmt: skip
    except (pymysql.MySQLError, OSError) as error:
        raise Unchanged(
            f"database {role} did not let us in: {why(error)}; look at the server and at global.database"
        ) from None


def newest(whole: list[Object]) -> Object:
    """The newest backup that holds something: a new installation may have made some before its restore."""
    return next((manifest for manifest in reversed(whole) if not manifest.get("empty")), whole[-1])


def seconds(age: str) -> int:
    """Seconds of `30d`."""
    return int(age[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[age[-1]]


def backups(there: Folder | Bucket) -> list[Object]:
    """Manifests of the complete backups of this destination, oldest first."""
    found = []
    names = [name for name, _, _ in there.list("backups") if name.endswith("/manifest.json")]
    for name in names:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError), there.open(name) as file:
            manifest = json.loads(file.read())
            if name == f"backups/{manifest['id']}/manifest.json":
                found.append(manifest)
    return sorted(found, key=lambda manifest: manifest["made"])


def prune(there: Folder | Bucket) -> None:
    """Delete old backups, what interrupted ones left, and objects that no backup names.

    A manifest goes first: what is half deleted is no backup.
    """
    secret = key()
    whole = backups(there)
    own = [manifest for manifest in whole if manifest["release"] == os.environ["RELEASE"]]
    limit = time.time() - seconds(os.environ["KEEP_FOR"])
    # backups of an empty installation do not replace those that hold something
    kept = [manifest for manifest in own if not manifest.get("empty")] or own
    stay = {manifest["id"] for manifest in kept[-int(os.environ["KEEP_AT_LEAST"]) :]}
    old = [manifest["id"] for manifest in own if manifest["id"] not in stay and manifest["made"] < limit]
    there.delete([f"backups/{identity}/manifest.json" for identity in old])
    left = {manifest["id"] for manifest in whole} - set(old)
    waste = [
        name
        for name, _, changed in there.list("backups")
        if (identity := name.split("/")[1]) not in left and (identity in old or changed < time.time() - YOUNG)
    ]
    there.delete(waste)
    keys = {manifest["key"] for manifest in whole}
    if keys - {key_id(secret)}:
        say("objects of old backups stay: backups with another key are there, whose lists of objects cannot be read")
        return
    named: set[str] = set()
    for manifest in whole:
        if manifest["id"] in left:
            named.update(thing["blob"] for thing in listed(there, secret, manifest) if thing.get("blob"))
    unnamed = [
        name
        for name, _, changed in there.list("objects")
        if name.rpartition("/")[2] not in named and changed < time.time() - YOUNG
    ]
    there.delete(unnamed)
    if old or unnamed:
        say(f"deleted {len(old)} old backups and {len(unnamed)} objects; {len(left)} backups stay")


def listed(there: Folder | Bucket, secret: bytes, manifest: Object) -> Iterator[Object]:
    """The objects of a backup."""
    content = b"".join(fetch(there, secret, manifest, "objects.jsonl.gz")[1])
    for line in gzip.decompress(content).splitlines():
        yield json.loads(line)


def fetch(there: Folder | Bucket, secret: bytes, manifest: Object, name: str) -> tuple[Object, Iterator[bytes]]:
    """A file of a backup: header and content."""
    chunks = unseal(secret, f"{manifest['id']}/{name}", there.open(f"backups/{manifest['id']}/{name}"))
    return json.loads(next(chunks)), chunks


# --- the Kubernetes API


def api(method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
    """Ask the API server with the account of the pod: status and answer."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")))
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": kind}
    data = None if body is None else json.dumps(body).encode()
    for attempt in range(5):
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trust)
            request = urllib.request.Request(url + path, data, headers, method=method)
            with opener.open(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with contextlib.suppress(ValueError):
                text = json.loads(text)["message"]
            if attempt < 4 and (error.code in (401, 403, 409, 429) or error.code >= 500):
                time.sleep(2)  # rights that were granted a moment ago, or a webhook that starts
                continue
            return error.code, text
        except OSError as error:
            if attempt == 4:
                raise Failure(
                    f"the Kubernetes API does not answer: {why(error)}; run this again when it does"
                ) from None
            time.sleep(2)
    raise AssertionError("unreachable")


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """Path of a kind's objects, or of one."""
    if kind in CORE:
        return f"/api/v1/namespaces/{namespace}/{CORE[kind]}" + (f"/{name}" if name else "")
    version, plural = KINDS[kind]
    return f"/apis/{version}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def resources() -> list[Object]:
    """Custom resources of models and schedules, and the ConfigMaps and Secrets that the values name."""
    found, own = [], os.environ["NAMESPACE"]
    for namespace in [own, *os.environ["NAMESPACES"].split()]:
        for kind in KINDS:
            status, answer = api("GET", path_of(kind, namespace))
            if status == 404:
                continue
            if status != 200:
                raise Failure(f"{kind}s of namespace {namespace} cannot be listed: {answer}")
            found += [thing | {"kind": kind, "apiVersion": KINDS[kind][0]} for thing in answer["items"]]
    found = [thing for thing in found if not of_helm(thing)]
    for kind in CORE:
        for name in os.environ[f"{kind.upper()}S"].split():
            status, answer = api("GET", path_of(kind, own, name))
            if status != 200:
                raise Failure(f"{kind} {name} of backup.{kind[0].lower() + kind[1:]}s cannot be read: {answer}")
            found.append(answer)
    for sentence in missing(found):
        say(f"WARNING: {sentence}")
    return [stripped(thing) for thing in found]


def of_helm(thing: Object) -> bool:
    """Whether a release brings an object, and with it the next installation."""
    return (thing["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") == "Helm"


def missing(found: list[Object]) -> Iterator[str]:
    """Secrets and ConfigMaps that models name and this backup leaves out."""
    release = os.environ["RELEASE"]
    saved = {(thing["kind"], thing["metadata"]["name"]) for thing in found}

    def walk(node: Any) -> Iterator[tuple[str, str]]:
        if isinstance(node, list):
            for each in node:
                yield from walk(each)
        if isinstance(node, dict):
            for name, value in node.items():
                if name in ("secretKeyRef", "secretRef", "configMapKeyRef", "configMapRef") and isinstance(value, dict):
                    yield ("Secret" if name.startswith("secret") else "ConfigMap"), str(value.get("name"))
                elif name == "secretName":
                    yield "Secret", str(value)
                elif name == "imagePullSecrets":
                    yield from (("Secret", str(each.get("name"))) for each in value or [])
                else:
                    yield from walk(value)

    for thing in found:
        if thing["kind"] not in KINDS:
            continue
        for kind, name in sorted(set(walk(thing["spec"]))):
            if (kind, name) not in saved and not name.startswith(f"{release}-"):
                yield (
                    f"{thing['kind']} {thing['metadata']['name']} needs {kind} {name}, which is not in the backup: "
                    f"add the name to backup.{kind[0].lower() + kind[1:]}s, or keep it elsewhere"
                )


def stripped(thing: Object) -> Object:
    """What a restore needs of an object: no state, and of what this platform applied only that."""
    metadata = {name: thing["metadata"].get(name) for name in ("name", "namespace", "labels", "annotations")}
    metadata = {name: value for name, value in metadata.items() if value}
    metadata.get("annotations", {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    wanted = ["spec", "data", "binaryData", "type", "immutable"]
    # when it last started a run: its API takes no object without
    wanted += ["status"] if thing["kind"] == "ScheduledWorkflow" else []
    content = {name: thing[name] for name in wanted if name in thing}
    whole, manager = {"metadata": metadata, **content}, ""
    for entry in thing["metadata"].get("managedFields") or []:
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply":
            whole, manager = managed(whole, entry["fieldsV1"]), MANAGER
    whole["metadata"] = {**whole["metadata"], "name": metadata["name"], "namespace": metadata["namespace"]}
    owners = thing["metadata"].get("ownerReferences") or []
    return {
        "kind": thing["kind"], "apiVersion": thing["apiVersion"], **whole, "manager": manager, "uid": thing["metadata"]["uid"],
        "owners": [{"kind": each["kind"], "name": each["name"]} for each in owners if each["kind"] in KINDS],
    }  # fmt: skip


def managed(thing: Any, fields: Object) -> Any:
    """The part of an object that an entry of managedFields names."""
    below = {name: value for name, value in fields.items() if name != "."}
    if not below:
        return thing
    if isinstance(thing, list):
        keys = [(json.loads(name[2:]), value) for name, value in below.items() if name.startswith("k:")]
        return [managed(item, value) for item in thing for name, value in keys if item.items() >= name.items()]
    return {
        name[2:]: managed(thing[name[2:]], value)
        for name, value in below.items()
        if name.startswith("f:") and name[2:] in thing
    }


# --- restore


def chosen(there: Folder | Bucket) -> Object:
    """The backup that the caller names, or the newest of this destination.

    Raises:
        Unchanged: there is no such complete backup, or its key or buckets are others.
    """
    whole, wanted = backups(there), os.environ.get("BACKUP", "")
    found = [manifest for manifest in whole if manifest["id"] == wanted] if wanted else whole
    if not found:
        begun = wanted and any(name.startswith(f"backups/{wanted}/") for name, _, _ in there.list("backups"))
        reason = f"{wanted} is incomplete" if begun else f"there is no backup {wanted}".rstrip()
        known = ", ".join(manifest["id"] for manifest in whole[-5:]) or "none"
        raise Unchanged(f"{reason} at {there.place}: choose one that is complete ({known})")
    manifest = newest(found)
    if manifest["format"] > FORMAT:
        raise Unchanged(f"backup {manifest['id']} was made by a newer chart: install chart {manifest['chart']} first")
    if manifest["key"] != key_id(key()):
        known = f"key {manifest['key']}" if manifest["key"] else "no key"
        raise Unchanged(
            f"backup {manifest['id']} was made with {known}: name the Secret with that key in backup.encryption.existingSecret, "
            "or none for a backup without one"
        )
    other = [f"{role}={name}" for role, name in manifest["buckets"].items() if buckets().get(role) != name]
    if other:
        raise Unchanged(
            f"addresses in the databases name the buckets of the backup, and this release has others: set {', '.join(other)} in "
            "global.s3.buckets, and install again"
        )
    lacking = set(manifest["databases"]) - set(os.environ["DATABASES"].split())
    if (
        added := lacking - EMPTY.keys()
    ):  # of mariadb.databases, and this release has another server, or has not added them
        say(f"WARNING: left out is {', '.join(sorted(added))}: this release has no such database")
        manifest["databases"] = [name for name in manifest["databases"] if name not in added]
    if lacking := lacking & EMPTY.keys():
        raise Unchanged(f"this release has no database {', '.join(sorted(lacking))}: switch the part on that uses it")
    return manifest


def occupied() -> Iterator[str]:
    """What the target has already."""
    for role in os.environ["DATABASES"].split():
        with contextlib.closing(database(role)) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            tables = {row[0] for row in cursor.fetchall()}
            if role not in EMPTY and tables:
                yield f"{len(tables)} tables in {role}"
            for each in EMPTY.get(role, ()):
                if (table := each.split()[0]) in tables:
                    cursor.execute(f"SELECT COUNT(*) FROM {each}")
                    if count := cursor.fetchone()[0]:
                        yield f"{count} rows in {role}.{table}"
    for role, bucket in buckets().items():
        if bucket_client(role).list_objects_v2(Bucket=bucket, MaxKeys=1).get("KeyCount"):
            yield f"objects in bucket {bucket}"


def looked_at(there: Folder | Bucket, secret: bytes) -> tuple[Object, list[Object], dict[str, Any]]:
    """A backup that is whole and fits an empty target: manifest, objects, and clients of the buckets.

    Raises:
        Unchanged: it is not, or the target is not empty.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with to(there):
            manifest = chosen(there)
            found = list(listed(there, secret, manifest))
            check(there, found)
            sizes = {name: count for name, count, _ in there.list(f"backups/{manifest['id']}")}
            for file in manifest["files"]:
                if sizes.get(f"backups/{manifest['id']}/{file['name']}") != file["stored"]:
                    raise Unchanged(f"{file['name']} of backup {manifest['id']} is not whole: use another backup")
        if os.environ.get("FORCE") != "true" and (held := list(occupied())):
            raise Unchanged(
                f"the target is not empty ({'; '.join(held)}): restore into a new release, or replace what is there with --force"
            )
        stores = {role: bucket_client(role) for role in manifest["buckets"]}
        for role in {each["bucket"] for each in found if each.get("version")}:
            if not versioned(stores[role], buckets()[role]):
                raise Unchanged(
                    f"bucket {buckets()[role]} keeps no versions, and the backup has some: switch versioning on"
                )
    except Failure as failure:
        raise Unchanged(str(failure)) from None
    except (BotoCoreError, ClientError) as error:
        raise Unchanged(
            f"the S3 store of the release does not answer: {why(error)}; `iml4e doctor` looks why"
        ) from None
    return manifest, found, stores


def restore_check() -> None:
    """Look whether a restore can begin, and change nothing."""
    manifest = looked_at(destination(), key())[0]
    say(
        f"{manifest['id']} of release {manifest['release']}, chart {manifest['chart']}: complete, {manifest['objects']} objects, "
        f"{size(manifest['bytes'])}"
    )


def restore_first() -> None:
    """Read the databases and custom resources, then write the objects."""
    start = time.time()
    there, secret = destination(), key()
    manifest, found, stores = looked_at(there, secret)
    shutil.rmtree(WORK / "dump", ignore_errors=True)
    (WORK / "dump").mkdir()
    try:
        with to(there):
            for role in manifest["databases"]:
                header, content = fetch(there, secret, manifest, f"{role}.sql.gz")
                with (WORK / "dump" / f"{role}.sql.gz").open("wb") as out:
                    for chunk in content:
                        out.write(chunk)
                (WORK / "dump" / f"{role}.sql.rows").write_text(header["rows"] + "\n")
            content = fetch(there, secret, manifest, "resources.json.gz")[1]
            (WORK / "resources.json.gz").write_bytes(b"".join(content))
    except Failure as failure:
        raise Unchanged(str(failure)) from None
    (WORK / "restore.json").write_text(json.dumps({"manifest": manifest, "start": start}))
    # what follows is a change
    renamed = put_back(there, secret, found, stores)
    if renamed:
        lines = "key,old,new\n" + "".join(",".join(map(json.dumps, row)) + "\n" for row in renamed)
        name = f"restored-{manifest['id']}-versions.csv"
        role = next(each["bucket"] for each in found if each.get("version"))
        stores[role].put_object(Bucket=buckets()[role], Key=name, Body=lines.encode())
        say(
            f"WARNING: the S3 store gave {len(renamed)} versions new ids, so addresses with ?versionId= of these datasets do not "
            f"resolve; {name} in bucket {buckets()[role]} lists old and new ids"
        )


def put_back(
    there: Folder | Bucket, secret: bytes, found: list[Object], stores: dict[str, Any]
) -> list[tuple[str, str, str]]:
    """Write objects to the release's buckets; versions that have another id now."""
    from botocore.exceptions import ClientError

    renamed: list[tuple[str, str, str]] = []
    unpinned: set[str] = set()  # buckets whose store chooses the versions itself
    progress = Progress("restored")
    have: dict[tuple[str, str, str], str] = {}
    latest: dict[tuple[str, str], str | None] = {}  # version of each key, None where it is deleted
    for role in stores:
        for thing in objects(stores[role], buckets()[role], role):
            latest[role, thing["key"]] = thing.get("version", "") if "etag" in thing else None
            if "etag" in thing:
                have[where(thing)] = thing["etag"]

    def write(versions: list[Object]) -> None:
        # versions of a key one after another, oldest first: the last one written is the one that readers get
        for position, thing in enumerate(versions):
            role, key = thing["bucket"], thing["key"]
            newest = position == len(versions) - 1
            if thing.get("deleted"):
                if latest.get((role, key), "") is not None:
                    stores[role].delete_object(Bucket=buckets()[role], Key=key)
                continue
            there_already = have.get(where(thing)) == thing["etag"]
            if there_already and ("version" in thing if not newest else latest[role, key] == thing.get("version", "")):
                continue
            latest[role, key] = version = put(thing)
            if version != thing.get("version", version):
                renamed.append((key, thing["version"], version))
            progress.add(thing["size"])

    def put(thing: Object) -> str:
        """Write an object; the id of its version, if it has one."""
        store, bucket = stores[thing["bucket"]], buckets()[thing["bucket"]]
        with SpooledTemporaryFile(8 * CHUNK, dir=WORK) as file, there.open(place(thing["blob"])) as source:
            chunks = unseal(secret, thing["blob"], source)
            header = json.loads(next(chunks))
            for chunk in chunks:
                file.write(chunk)
            if file.tell() != thing["size"]:
                raise Failure(f"the copy of {thing['key']} has {file.tell()} bytes instead of {thing['size']}")
            file.seek(0)
            extra = {"Metadata": header["metadata"]} | ({"ContentType": header["type"]} if header["type"] else {})
            if "version" not in thing:
                store.upload_fileobj(file, bucket, thing["key"], ExtraArgs=extra)
                return ""
            if thing["bucket"] not in unpinned:
                WISH[threading.get_ident()] = thing["version"]
                try:
                    return store.put_object(Bucket=bucket, Key=thing["key"], Body=file, **extra).get("VersionId", "")
                except ClientError as error:
                    if code(error) not in ("InvalidArgument", "InvalidRequest", "NotImplemented", "EntityTooLarge"):
                        raise
                    if code(error) != "EntityTooLarge":
                        unpinned.add(thing["bucket"])  # AWS: "This operation does not accept a version-id"
                finally:
                    WISH.pop(threading.get_ident())
                file.seek(0)
            store.upload_fileobj(file, bucket, thing["key"], ExtraArgs=extra)
            return store.head_object(Bucket=bucket, Key=thing["key"]).get("VersionId", "")

    groups = itertools.groupby(found, lambda thing: (thing["bucket"], thing["key"]))
    together(lambda group: write(group["versions"]), ({"versions": list(things)} for _, things in groups))
    say(f"{progress.count} objects written, {size(progress.bytes)}; {len(found) - progress.count} were there")
    return renamed


def restore_last() -> None:
    """Apply the custom resources."""
    state = json.loads((WORK / "restore.json").read_text())
    manifest = state["manifest"]
    things = json.loads(gzip.decompress((WORK / "resources.json.gz").read_bytes()))
    uids: dict[tuple[str, str, str], str] = {}
    schedules: dict[str, str] = {}
    order = [*CORE, *KINDS]
    skipped: Counter[str] = Counter()
    for thing in sorted(things, key=lambda thing: order.index(thing["kind"])):
        made = moved(thing, manifest)
        kind, metadata = made["kind"], made["metadata"]
        owners = [
            {"apiVersion": KINDS[each["kind"]][0], **each, "uid": uid}
            for each in thing["owners"]
            if (uid := uids.get((each["kind"], metadata["namespace"], each["name"])))
        ]
        if owners:
            metadata["ownerReferences"] = owners
        query = urllib.parse.urlencode({"fieldManager": thing["manager"] or "iml4e-restore", "force": "true"})
        path = path_of(kind, metadata["namespace"], metadata["name"])
        status, answer = api("PATCH", f"{path}?{query}", made, "application/apply-patch+yaml")
        if status == 404 and kind in KINDS:
            skipped[kind] += 1
            continue
        if status not in (200, 201):
            raise Failure(
                f"{kind} {metadata['name']} in namespace {metadata['namespace']} is refused: {answer}; data are restored; correct that "
                "and restore again"
            )
        uids[kind, metadata["namespace"], metadata["name"]] = answer["metadata"]["uid"]
        if kind == "ScheduledWorkflow":
            schedules[thing["uid"]] = answer["metadata"]["uid"]
    rename_runs(schedules, manifest)
    for kind, count in skipped.items():
        say(f"WARNING: {count} {kind}s are left out: the cluster does not know this kind")
    say(
        f"{manifest['id']} is restored: {len(things) - skipped.total()} custom resources, {manifest['objects']} objects, databases "
        f"{', '.join(manifest['databases'])}; {size(manifest['bytes'])}, {time.time() - state['start']:.0f} s"
    )


def moved(thing: Object, manifest: Object) -> Object:
    """An object of the backup as the target has it: its release, namespace and gateway may have other names."""
    made = {name: value for name, value in thing.items() if name not in ("manager", "uid", "owners")}
    made = json.loads(json.dumps(made))
    old, new = manifest["namespace"], os.environ["NAMESPACE"]
    accounts = dict(accounts_of(manifest, part) for part in ("models", "runner"))
    here = made["metadata"]["namespace"] == old
    gateway, now = manifest["gateway"], json.loads(os.environ["GATEWAY"])
    for parent in made.get("spec", {}).get("parentRefs") or []:
        if (parent.get("name"), parent.get("namespace", made["metadata"]["namespace"])) == (
            gateway["name"],
            gateway["namespace"],
        ):
            parent.update(now)
    if here:
        made["metadata"]["namespace"] = new
        made["spec"] = renamed_in(made["spec"], old, new, accounts) if "spec" in made else None
        for name, value in (made["metadata"].get("annotations") or {}).items():
            if value.startswith("{"):
                with contextlib.suppress(ValueError):
                    inner = renamed_in(json.loads(value), old, new, accounts)
                    made["metadata"]["annotations"][name] = json.dumps(inner, separators=(",", ":"))
        if made["spec"] is None:
            del made["spec"]
    return made


def accounts_of(manifest: Object, part: str) -> tuple[str, str]:
    """Names of a service account in the release of the backup, and in this one."""
    return f"{manifest['release']}-{part}", f"{os.environ['RELEASE']}-{part}"


def renamed_in(node: Any, old: str, new: str, accounts: dict[str, str]) -> Any:
    """Paths below /models/NAMESPACE/, and the accounts of models and of runs, as the target names them."""
    if isinstance(node, list):
        return [renamed_in(each, old, new, accounts) for each in node]
    if isinstance(node, dict):
        return {
            name: accounts[value]
            if name in ("serviceAccountName", "serviceAccount") and isinstance(value, str) and value in accounts
            else renamed_in(value, old, new, accounts)
            for name, value in node.items()
        }
    if isinstance(node, str):
        return re.sub(rf"^/models/{re.escape(old)}(?=/|$)", f"/models/{new}", node)
    return node


def rename_runs(uids: dict[str, str], manifest: Object) -> None:
    """Name in Kubeflow Pipelines' database the new uid of each ScheduledWorkflow, and the namespace and service account of runs here."""
    columns = {
        "jobs": ("UUID",), "run_details": ("JobUUID",), "resource_references": ("ResourceUUID", "ReferenceUUID"),
    }  # fmt: skip
    changed = [(table, column, old, new) for old, new in uids.items() for table in columns for column in columns[table]]
    place = {
        "Namespace": (manifest["namespace"], os.environ["NAMESPACE"]),
        "ServiceAccount": accounts_of(manifest, "runner"),
    }
    changed += [(table, column, *names) for table in ("jobs", "run_details") for column, names in place.items()]
    changed = [each for each in changed if each[2] != each[3]]
    if not changed or "mlpipeline" not in os.environ["DATABASES"].split():
        return
    with contextlib.closing(database("mlpipeline")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()")
        there = {(table, column) for table, column in cursor.fetchall()}
        connection.begin()
        for table, column, old, new in changed:
            if (table, column) in there:
                cursor.execute(f"UPDATE {table} SET {column} = %s WHERE {column} = %s", (new, old))
        connection.commit()
    say(f"{sum(old != new for old, new in uids.items())} recurring runs have new ids")


# --- listing, metrics


def tell() -> None:
    """Print a line of JSON for each complete backup, and one for each folder that is none."""
    there = destination()
    with to(there):
        whole = backups(there)
        ids = {manifest["id"] for manifest in whole}
        begun = sorted({name.split("/")[1] for name, _, _ in there.list("backups")} - ids)
    names = (
        "id",
        "made",
        "begun",
        "release",
        "namespace",
        "chart",
        "key",
        "objects",
        "bytes",
        "stored",
        "new",
        "empty",
    )
    for manifest in whole:
        print("listed " + json.dumps({name: manifest.get(name) for name in names}), flush=True)
    for identity in begun:
        print("listed " + json.dumps({"id": identity, "incomplete": True}), flush=True)


METRICS: dict[str, float] = {}
SCRAPED = threading.Event()


class Page(http.server.BaseHTTPRequestHandler):
    """Answers Prometheus."""

    def do_GET(self) -> None:
        """Send the metrics."""
        known = dict(METRICS)
        body = "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in known.items()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if known:
            SCRAPED.set()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Listens on IPv6 and IPv4, where the kernel has both."""

    import socket

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET


def serve() -> None:
    """Answer Prometheus while this process lives."""
    if os.environ.get("METRICS") == "true":
        server = Server(("::" if Server.address_family == Server.socket.AF_INET6 else "", 8080), Page)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def wait_for_scrape() -> None:
    """Stay until Prometheus has read the time of this backup: nobody can ask a pod that is gone."""
    if os.environ.get("METRICS") == "true" and not SCRAPED.wait(PATIENCE):
        say(
            f"WARNING: no Prometheus asked for metrics within {PATIENCE} s: the alert on the age of backups does not see this one"
        )


MODE = os.environ.get("MODE", "backup")


def main() -> None:
    """Do a step: `first`, before the databases, or `last`, after them."""
    if authority := os.environ.get("DATABASE_CA"):
        shutil.copyfile(authority, WORK / "ca.crt")  # for MariaDB's client, whose image may have no authorities
    steps = {
        ("backup", "first"): backup_first, ("backup", "last"): backup_last, ("check", "first"): restore_check,
        ("restore", "first"): restore_first, ("restore", "last"): restore_last, ("list", "last"): tell,
    }  # fmt: skip
    try:
        steps.get((MODE, sys.argv[1]), lambda: None)()
    except Unchanged as failure:
        print(f"{MODE}: {failure}", file=sys.stderr, flush=True)
        sys.exit(UNCHANGED if sys.argv[1] == "first" else 1)
    except Failure as failure:
        print(f"{MODE}: {failure}", file=sys.stderr, flush=True)
        sys.exit(1)
    except Exception as error:
        print(
            f"{MODE}: {type(error).__name__}: {why(error)}; run it again, and report it if that does not help",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        sys.exit(1)


if __name__ == "__main__":
    main()
