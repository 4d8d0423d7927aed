"""The program of backups: what is written can be read again or is refused, what is half written is no backup, what is old goes."""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from support.helm import CHART

sys.path.insert(0, str(CHART / "files"))
import backup

KEY = bytes(range(32))
NAME = "objects/ab/abc"


def sealed(content: bytes, key: bytes = KEY, name: str = NAME) -> bytes:
    """A file of a backup."""
    return b"".join(backup.seal(key, name, {"type": "text/plain"}, [content]))


def opened(data: bytes, key: bytes = KEY, name: str = NAME) -> bytes:
    """Its content."""
    chunks = backup.unseal(key, name, io.BytesIO(data))
    header, content = json.loads(next(chunks)), b"".join(chunks)
    assert header == {"type": "text/plain"}
    return content


# --- files


@pytest.mark.parametrize("key", [KEY, b""], ids=["encrypted", "plain"])
@pytest.mark.parametrize("size", [0, 1, 100, 2**20 - 30, 2**20 - 24, 2**20, 3 * 2**20 + 7])
def test_what_is_written_is_read_again(key: bytes, size: int) -> None:
    content = os.urandom(size)
    data = sealed(content, key)
    assert opened(data, key) == content
    if size > 30:
        assert (content in data) is (not key)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300)), st.integers(1, 97), st.booleans())
def test_chunks_of_any_length_are_the_same_file(chunks: list[bytes], length: int, encrypted: bool) -> None:
    key = KEY if encrypted else b""
    data = b"".join(backup.seal(key, NAME, {}, chunks))

    class Slow(io.BytesIO):
        """A network gives fewer bytes than asked for."""

        def read(self, count: int = -1) -> bytes:
            return super().read(min(count, length) if count > 0 else count)

    assert b"".join(list(backup.unseal(key, NAME, Slow(data)))[1:]) == b"".join(chunks)


@pytest.mark.parametrize("key", [KEY, b""], ids=["encrypted", "plain"])
def test_one_flipped_bit_anywhere_is_refused(key: bytes) -> None:
    data = sealed(b"some content", key)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(backup.Failure):
            opened(bytes(broken), key)


@pytest.mark.parametrize("key", [KEY, b""], ids=["encrypted", "plain"])
def test_a_file_that_is_cut_anywhere_is_refused(key: bytes) -> None:
    data = sealed(os.urandom(2 * 2**20), key)
    for end in (0, 5, 30, 50, 2**20, 2**20 + 62, len(data) - 17, len(data) - 1):
        with pytest.raises((backup.Failure, ValueError)):
            opened(data[:end], key)


def test_another_key_or_another_place_is_refused() -> None:
    data = sealed(b"text")
    for key, name in ((bytes(32), NAME), (KEY, "objects/ab/other"), (b"", NAME)):
        with pytest.raises(backup.Failure):
            opened(data, key, name)
    # a plain file that was put into the place of another one
    with pytest.raises(backup.Failure):
        opened(sealed(b"text", b""), b"", "objects/ab/other")


def test_the_same_object_is_encrypted_otherwise_each_time_and_has_one_name() -> None:
    assert sealed(b"text") != sealed(b"text")
    assert backup.name_of(KEY, "b", "k") == backup.name_of(KEY, "b", "k")
    assert backup.name_of(KEY, "b", "k") not in (backup.name_of(b"", "b", "k"), backup.name_of(KEY, "bk", ""))


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(b"x" * 31).decode(), "ä" * 44])
def test_a_key_that_is_none_is_refused_with_the_command_that_makes_one(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "FOLDER_OF_SECRETS", tmp_path)
    assert backup.key() == b""
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "key").write_text(text)
    with pytest.raises(backup.Unchanged, match="openssl rand -base64 32"):
        backup.key()
    (tmp_path / "key" / "key").write_text(base64.b64encode(KEY).decode() + "\n")
    assert backup.key() == KEY


# --- the destination


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def breaks() -> Any:
        yield b"half"
        raise OSError("no space left")

    folder = backup.Folder(str(tmp_path))
    with pytest.raises(OSError, match="space"):
        folder.put("objects/aa/aa", breaks())
    assert list(folder.list("objects")) == []
    assert folder.put("objects/aa/aa", [b"whole"]) == 5
    assert [(name, size) for name, size, _ in folder.list("objects")] == [("objects/aa/aa", 5)]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> backup.Folder:
    """A destination, and a release without a key."""
    monkeypatch.setattr(backup, "FOLDER_OF_SECRETS", tmp_path / "secrets")
    for name, value in {
        "RELEASE": "iml4e", "KEEP_FOR": "30d", "KEEP_AT_LEAST": "2", "BUCKETS": '{"mlflow": "mlflow"}', "DATABASES": "mlflow",
        "DESTINATION": str(tmp_path / "backups"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("BACKUP", raising=False)
    return backup.Folder(str(tmp_path / "backups"))


def make(there: backup.Folder, identity: str, days: float, *blobs: str, release: str = "iml4e", **more: Any) -> None:
    """A backup of some age."""
    for blob in blobs:
        if not (there.root / backup.place(blob)).exists():
            there.put(backup.place(blob), [b"content"])
    lines = "".join(json.dumps({"bucket": "mlflow", "key": blob, "blob": blob, "stored": 7}) + "\n" for blob in blobs)
    chunks = backup.seal(b"", f"{identity}/objects.jsonl.gz", {}, [gzip.compress(lines.encode())])
    there.put(f"backups/{identity}/objects.jsonl.gz", chunks)
    manifest = {
        "id": identity, "made": time.time() - days * 86400, "release": release, "key": "", "format": 1, "chart": "0.2.0",
        "buckets": {"mlflow": "mlflow"}, "databases": ["mlflow"], **more,
    }  # fmt: skip
    there.put(f"backups/{identity}/manifest.json", [json.dumps(manifest).encode()])


def age(there: backup.Folder, days: float) -> None:
    """Make all files older."""
    for file in there.root.rglob("*"):
        os.utime(file, (time.time() - days * 86400,) * 2)


def test_old_backups_go_and_the_newest_stay_however_old(there: backup.Folder) -> None:
    make(there, "a", 100, "shared", "old")
    make(there, "b", 90, "shared")
    make(there, "c", 80, "newest")
    make(there, "other", 200, "others", release="second")
    age(there, 3)
    backup.prune(there)
    # of another release nothing goes
    assert {manifest["id"] for manifest in backup.backups(there)} == {"b", "c", "other"}
    assert {name.rpartition("/")[2] for name, _, _ in there.list("objects")} == {"shared", "newest", "others"}
    assert not (there.root / "backups" / "a").exists()


def test_young_objects_of_a_backup_that_is_made_stay(there: backup.Folder) -> None:
    make(there, "a", 1, "named")
    age(there, 3)
    there.put(backup.place("coming"), [b"content"])
    there.put("backups/begun/mlflow.sql.gz", [b"half"])
    backup.prune(there)
    assert {name.rpartition("/")[2] for name, _, _ in there.list("objects")} == {"named", "coming"}
    age(there, 3)
    backup.prune(there)
    assert {name.rpartition("/")[2] for name, _, _ in there.list("objects")} == {"named"}
    assert not (there.root / "backups" / "begun").exists()


def test_objects_stay_while_a_list_cannot_be_read(there: backup.Folder) -> None:
    make(there, "a", 1, "named", key="12345678")
    there.put(backup.place("unnamed"), [b"content"])
    age(there, 3)
    backup.prune(there)
    assert len(list(there.list("objects"))) == 2


def test_backups_of_a_new_and_empty_installation_replace_none(
    there: backup.Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(there, "lost", 40, "x")
    make(there, "lost-too", 39, "x")
    for day in range(5):
        make(there, f"empty-{day}", day, empty=True)
    backup.prune(there)
    assert {"lost", "lost-too"} <= {manifest["id"] for manifest in backup.backups(there)}
    assert backup.chosen(there)["id"] == "lost-too"
    monkeypatch.setenv("BACKUP", "empty-0")
    assert backup.chosen(there)["id"] == "empty-0"
    # as soon as it holds something it is a backup as any other
    make(there, "full", 0, "x", empty=False)
    monkeypatch.delenv("BACKUP")
    assert backup.chosen(there)["id"] == "full"


class Versions:
    """A bucket that keeps versions, as the client of boto3 shows it; `chooses`: the store gives the ids itself, as AWS does."""

    def __init__(self, *, chooses: bool = False) -> None:
        self.chooses, self.written, self.refused = chooses, 0, 0
        self.kept: list[dict[str, Any]] = []

    def get_bucket_versioning(self, **_: str) -> dict[str, str]:
        return {"Status": "Enabled"}

    def get_paginator(self, name: str) -> Any:
        assert name == "list_object_versions"
        return self

    def paginate(self, **_: str) -> Iterator[dict[str, Any]]:
        newest = {each["Key"]: each["VersionId"] for each in self.kept}
        told = [each | {"IsLatest": newest[each["Key"]] == each["VersionId"]} for each in reversed(self.kept)]
        yield {
            "Versions": [each for each in told if "ETag" in each],
            "DeleteMarkers": [each for each in told if "ETag" not in each],
        }

    def _keep(self, key: str, version: str, **more: Any) -> dict[str, Any]:
        self.kept = [each for each in self.kept if each["VersionId"] != version]
        moment = datetime.datetime.fromtimestamp(len(self.kept) + self.written, datetime.UTC)
        self.kept.append({"Key": key, "VersionId": version, "LastModified": moment, **more})
        return {"VersionId": version}

    def put_object(self, *, Bucket: str, Key: str, Body: Any, **_: Any) -> dict[str, Any]:
        wanted = backup.WISH.get(threading.get_ident())
        if wanted and self.chooses:
            Body.read()
            self.refused += 1
            answer = {"Error": {"Code": "InvalidArgument", "Message": "This operation does not accept a version-id."}}
            raise ClientError(answer, "PutObject")
        self.written += 1
        content = Body.read()
        digest = hashlib.md5(content).hexdigest()
        return self._keep(Key, wanted or f"own-{self.written}", ETag=digest, Size=len(content), content=content)

    def upload_fileobj(self, file: Any, bucket: str, key: str, **_: Any) -> None:
        self.put_object(Bucket=bucket, Key=key, Body=file)

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"VersionId": [each for each in self.kept if each["Key"] == Key][-1]["VersionId"]}

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        self.written += 1
        self._keep(Key, f"mark-{self.written}")

    def now(self) -> dict[str, bytes]:
        """What readers get."""
        newest = {each["Key"]: each for each in self.kept}
        return {key: each["content"] for key, each in newest.items() if "ETag" in each}


def datasets(there: backup.Folder, contents: list[tuple[str, str, bytes]]) -> list[dict[str, Any]]:
    """Versions of objects in a backup: key, version, content."""
    found = []
    for key, version, content in contents:
        blob = backup.name_of(b"", key, version)
        there.put(backup.place(blob), backup.seal(b"", blob, {"type": "", "metadata": {}}, [content]))
        etag = hashlib.md5(content).hexdigest()
        found.append(
            {"bucket": "datasets", "key": key, "version": version, "etag": etag, "size": len(content), "blob": blob}
        )
    return found


def test_a_restore_brings_back_what_was_deleted_or_overwritten(
    there: backup.Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUCKETS", '{"datasets": "datasets"}')
    monkeypatch.setattr(backup, "WORK", tmp_path)
    found = [
        *datasets(there, [("a", "a1", b"old"), ("a", "a2", b"new"), ("b", "b1", b"kept"), ("c", "c1", b"gone")]),
        {"bucket": "datasets", "key": "c", "deleted": True},
    ]
    store = Versions()
    assert backup.put_back(there, b"", found, {"datasets": store}) == []
    assert store.now() == {"a": b"new", "b": b"kept"}
    written = store.written
    backup.put_back(there, b"", found, {"datasets": store})
    assert store.written == written  # nothing twice
    store.delete_object(Bucket="datasets", Key="a")
    store.put_object(Bucket="datasets", Key="b", Body=io.BytesIO(b"by mistake"))
    store.put_object(Bucket="datasets", Key="c", Body=io.BytesIO(b"again"))
    assert backup.put_back(there, b"", found, {"datasets": store}) == []
    assert store.now() == {"a": b"new", "b": b"kept"}


def test_a_store_that_gives_versions_its_own_ids_is_restored_too(
    there: backup.Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUCKETS", '{"datasets": "datasets"}')
    monkeypatch.setattr(backup, "WORK", tmp_path)
    found = datasets(there, [("a", "a1", b"old"), ("a", "a2", b"new"), ("b", "b1", b"kept")])
    store = Versions(chooses=True)
    renamed = backup.put_back(there, b"", found, {"datasets": store})
    assert store.now() == {"a": b"new", "b": b"kept"}
    assert sorted((key, old) for key, old, _ in renamed) == [("a", "a1"), ("a", "a2"), ("b", "b1")]
    assert {each["VersionId"] for each in store.kept} == {new for _, _, new in renamed}
    assert store.refused <= backup.THREADS  # it is not asked for each object


class Demanding(http.server.BaseHTTPRequestHandler):
    """An S3 store that takes no body without its MD5, as a bucket with Object Lock does."""

    def do_PUT(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(b"<DeleteResult></DeleteResult>")

    def answer(self, body: bytes) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        right = self.headers.get("Content-MD5") == digest
        if not right:
            body = b"<Error><Code>InvalidRequest</Code><Message>Content-MD5 is required</Message></Error>"
        self.send_response(200 if right else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def test_a_bucket_with_object_lock_takes_backups(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Demanding) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DESTINATION_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        bucket = backup.Bucket("s3://backups/iml4e")
        assert bucket.put("objects/aa/aa", [b"content", b"more"]) == 11
        bucket.delete(["objects/aa/aa"])
        server.shutdown()


def test_an_incomplete_backup_is_never_chosen(there: backup.Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    make(there, "whole", 1, "x")
    there.put("backups/begun/mlflow.sql.gz", [b"half"])
    # a manifest that was copied, or cut
    there.put("backups/copied/manifest.json", [(there.root / "backups/whole/manifest.json").read_bytes()])
    there.put("backups/cut/manifest.json", [b'{"id": "cut", "ma'])
    assert backup.chosen(there)["id"] == "whole"
    for name in ("begun", "copied", "cut"):
        monkeypatch.setenv("BACKUP", name)
        with pytest.raises(backup.Unchanged, match=f"{name} is incomplete .* choose one that is complete .whole."):
            backup.chosen(there)
    monkeypatch.setenv("BACKUP", "no-such")
    with pytest.raises(backup.Unchanged, match="there is no backup no-such"):
        backup.chosen(there)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"format": 2, "chart": "9.0.0"}, "made by a newer chart: install chart 9.0.0 first"),
        ({"key": "12345678"}, "was made with key 12345678: name the Secret with that key"),
        ({"buckets": {"mlflow": "old-mlflow"}}, "set mlflow=old-mlflow in global.s3.buckets"),
        ({"databases": ["mlflow", "metadb"]}, "this release has no database metadb: switch the part on"),
    ],
)
def test_a_backup_that_does_not_fit_is_refused(there: backup.Folder, more: dict[str, Any], sentence: str) -> None:
    make(there, "a", 1, **more)
    with pytest.raises(backup.Unchanged, match=sentence.replace(".", r"\.")):
        backup.chosen(there)


def test_a_database_that_people_added_is_left_out_where_it_is_not(
    there: backup.Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    make(there, "a", 1, databases=["mlflow", "feast"])
    assert backup.chosen(there)["databases"] == ["mlflow"]
    assert "WARNING: left out is feast" in capsys.readouterr().out


def test_a_copy_that_is_missing_or_cut_is_noticed(there: backup.Folder) -> None:
    make(there, "a", 1, "x", "y")
    found = list(backup.listed(there, b"", backup.chosen(there)))
    backup.check(there, found)
    there.put(backup.place("y"), [b"cont"])
    with pytest.raises(backup.Unchanged, match="lacks the copy of y of bucket mlflow, or has a part of it"):
        backup.check(there, found)


# --- custom resources

APPLIED = {
    "manager": "iml4e", "operation": "Apply",
    "fieldsV1": {"f:metadata": {"f:annotations": {"f:iml4e.org/model": {}}}, "f:spec": {"f:predictor": {"f:minReplicas": {}}}},
}  # fmt: skip
MODEL = {
    "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
    "metadata": {
        "name": "fraud", "namespace": "ml", "uid": "1", "resourceVersion": "7", "finalizers": ["x"], "managedFields": [APPLIED],
        "annotations": {
            "iml4e.org/model": "fraud", "other": "kept by KServe",
            "iml4e.org/previous": '{"spec":{"predictor":{"serviceAccountName":"iml4e-models"}}}',
        },
    },
    "spec": {"predictor": {"minReplicas": 1, "maxReplicas": 9, "serviceAccountName": "iml4e-models"}},
    "status": {"url": "x"},
}  # fmt: skip
ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
    "metadata": {
        "name": "fraud", "namespace": "ml", "uid": "2",
        "ownerReferences": [{"apiVersion": "v1", "kind": "InferenceService", "name": "fraud", "uid": "1"}],
    },
    "spec": {
        "parentRefs": [{"name": "iml4e-gateway", "namespace": "ml"}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/models/ml/fraud"}}]}],
    },
}  # fmt: skip
MANIFEST = {"release": "iml4e", "namespace": "ml", "gateway": {"name": "iml4e-gateway", "namespace": "ml"}}


def test_only_what_this_platform_applied_is_kept_and_no_state() -> None:
    kept = backup.stripped(MODEL)
    assert kept["spec"] == {"predictor": {"minReplicas": 1}}
    assert kept["metadata"] == {"name": "fraud", "namespace": "ml", "annotations": {"iml4e.org/model": "fraud"}}
    assert (kept["manager"], "status" in kept) == ("iml4e", False)
    others = backup.stripped({**MODEL, "metadata": {**MODEL["metadata"], "managedFields": []}})
    assert (others["spec"], others["manager"]) == (MODEL["spec"], "")
    assert backup.stripped(ROUTE)["owners"] == [{"kind": "InferenceService", "name": "fraud"}]


def test_a_release_of_another_name_gets_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEASE", "second")
    monkeypatch.setenv("NAMESPACE", "there")
    monkeypatch.setenv("GATEWAY", '{"name": "shared", "namespace": "infra"}')
    model = backup.moved(backup.stripped({**MODEL, "metadata": {**MODEL["metadata"], "managedFields": []}}), MANIFEST)
    assert model["metadata"]["namespace"] == "there"
    assert model["spec"]["predictor"]["serviceAccountName"] == "second-models"
    assert (
        json.loads(model["metadata"]["annotations"]["iml4e.org/previous"])["spec"]["predictor"]["serviceAccountName"]
        == "second-models"
    )
    route = backup.moved(backup.stripped(ROUTE), MANIFEST)
    assert route["spec"]["parentRefs"] == [{"name": "shared", "namespace": "infra"}]
    assert route["spec"]["rules"][0]["matches"][0]["path"]["value"] == "/models/there/fraud"
    assert not {"owners", "uid", "manager"} & route.keys()
    schedule = {"kind": "ScheduledWorkflow", "metadata": {"name": "nightly", "namespace": "ml"}}
    made = backup.moved(
        schedule | {"spec": {"serviceAccount": "iml4e-runner", "trigger": {"serviceAccount": {}}}}, MANIFEST
    )
    assert made["spec"] == {"serviceAccount": "second-runner", "trigger": {"serviceAccount": {}}}
    # a namespace of a team keeps its name
    team = backup.moved({**backup.stripped(ROUTE), "metadata": {"name": "fraud", "namespace": "team"}}, MANIFEST)
    assert team["metadata"]["namespace"] == "team"


def test_secrets_that_models_need_and_the_backup_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEASE", "iml4e")
    spec = {"predictor": {
        "imagePullSecrets": [{"name": "pull"}], "volumes": [{"secret": {"secretName": "token"}}],
        "model": {"env": [{"valueFrom": {"configMapKeyRef": {"name": "labels"}}}, {"valueFrom": {"secretKeyRef": {"name": "iml4e-s3-mlflow"}}}]},
    }}  # fmt: skip
    saved = {"kind": "Secret", "metadata": {"name": "token"}}
    said = list(backup.missing([{**MODEL, "spec": spec}, saved]))
    assert [sentence.split(",")[0] for sentence in said] == [
        "InferenceService fraud needs ConfigMap labels", "InferenceService fraud needs Secret pull",
    ]  # fmt: skip


# --- the shell program


def shell(tmp_path: Path, mode: str, dumper: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run backup.sh with programs of ours in the place of MariaDB's."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("mariadb-dump", "mariadb"):
        (programs / name).write_text(f"#!/bin/bash\n{dumper}\n")
        (programs / name).chmod(0o755)
    secrets = tmp_path / "secrets" / "databases" / "mlflow"
    secrets.mkdir(parents=True, exist_ok=True)
    for name in ("username", "password", "database"):
        (secrets / name).write_text("mlflow")
    program = (CHART / "files" / "backup.sh").read_text().replace("/secrets/", f"{tmp_path}/secrets/")
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}", "MODE": mode, "WORK": str(tmp_path), "DATABASES": "mlflow", "DATABASE_HOST": "db",
        "DATABASE_PORT": "3306", **environment,
    }  # fmt: skip
    return subprocess.run(["bash", "-c", program], env=env, capture_output=True, text=True, check=False)


def test_a_dump_is_kept_with_the_digest_of_its_rows(tmp_path: Path) -> None:
    done = shell(tmp_path, "backup", 'printf "CREATE TABLE t\\nINSERT INTO t VALUES (1)\\n"')
    assert done.returncode == 0, done.stderr
    assert (
        gzip.decompress((tmp_path / "dump" / "mlflow.sql.gz").read_bytes()).decode().splitlines()[-1]
        == "-- end of dump"
    )
    assert len((tmp_path / "dump" / "mlflow.sql.rows").read_text().strip()) == 64


def test_the_digest_is_of_every_row_and_of_nothing_else(tmp_path: Path) -> None:
    def digest(name: str, rows: str, after: str) -> str:
        (tmp_path / name).mkdir()
        done = shell(tmp_path / name, "backup", f'printf "INSERT INTO t VALUES\\n{rows};\\n{after}\\n"')
        assert done.returncode == 0, done.stderr
        return (tmp_path / name / "dump" / "mlflow.sql.rows").read_text()

    first = digest("first", "(1),\\n(2)", "UNLOCK;")
    assert first != digest("changed", "(1),\\n(3)", "UNLOCK;")
    assert first == digest("same", "(1),\\n(2)", "/* of another server */;")


@pytest.mark.parametrize("dumper", ['printf "INSERT INTO t VALUES (1)\\n"; exit 2', "kill -9 $$", "exit 1"])
def test_a_dump_that_is_cut_is_no_dump(tmp_path: Path, dumper: str) -> None:
    done = shell(tmp_path, "backup", dumper)
    assert done.returncode != 0
    assert "database mlflow cannot be dumped" in done.stderr
    assert not list((tmp_path / "dump").glob("*.sql.gz"))


def test_the_password_is_on_no_command_line(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets" / "databases" / "mlflow"
    secrets.mkdir(parents=True)
    done = shell(tmp_path, "backup", 'echo "$@" >>"$WORK/words"; echo "$MYSQL_PWD" >>"$WORK/given"')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "given").read_text().split() == ["mlflow"]
    assert "--password" not in (tmp_path / "words").read_text()


def test_steps_that_a_mode_does_not_have_do_nothing() -> None:
    program = CHART / "files" / "backup.py"
    done = subprocess.run(
        [sys.executable, program, "first"],
        env={**os.environ, "MODE": "list"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
