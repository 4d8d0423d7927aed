"""Datasets: versions of files and folders in a bucket, which a small S3 in memory stands in for."""

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from kubernetes.config import kube_config

from iml4e import Error, datasets


def test_a_file_is_stored_once_for_each_content(store: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    first = datasets.put(tmp_path / "a.csv", "my data/Äpfel.csv")
    assert first == datasets.put(b"x\n1\n", "my data/Äpfel.csv")
    second = datasets.put(b"x\n2\n", "my data/Äpfel.csv")
    assert second.version != first.version
    assert first.address == f"s3://datasets/my data/Äpfel.csv?versionId={first.version}"
    assert datasets.read(first.address) == (first, b"x\n1\n")
    assert datasets.read("my data/Äpfel.csv")[0] == second
    assert datasets.read("my data/Äpfel.csv", first.version)[1] == b"x\n1\n"
    # back to the first content is a new version: the latest is what was put last
    assert datasets.put(b"x\n1\n", "my data/Äpfel.csv").version not in (first.version, second.version)


def test_a_folder_is_a_manifest_and_only_what_changed_is_stored(store: Any, tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog-2.png", "notes", ".hidden"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_text(name)
    first = datasets.put(tmp_path / "pets", "pets")
    rows = datasets.rows_of(datasets.read("pets/manifest.csv")[1])
    assert [(row["key"], row["label"]) for row in rows] == [
        ("pets/cat/1.png", "cat"),
        ("pets/dog-2.png", "dog"),
        ("pets/notes", ""),
    ]
    assert datasets.put(tmp_path / "pets", "pets/") == first
    (tmp_path / "pets" / "notes").write_text("new")
    second = datasets.put(tmp_path / "pets", "pets/manifest.csv")
    assert {key: len(versions) for key, versions in store.objects.items()} == {
        "pets/cat/1.png": 1, "pets/dog-2.png": 1, "pets/notes": 2, "pets/manifest.csv": 2,
    }  # fmt: skip
    assert datasets.get("pets", to=tmp_path / "now") == second
    assert (tmp_path / "now" / "cat" / "1.png").read_text() == "cat/1.png"
    assert (tmp_path / "now" / "notes").read_text() == "new"
    assert datasets.get(first.address, to=tmp_path / "then") == first
    assert (tmp_path / "then" / "notes").read_text() == "notes"
    datasets.put(b"1", "pets.csv")
    assert [each.key for each in datasets.listing()] == ["pets.csv", "pets/manifest.csv"]


def test_a_file_is_written_under_its_own_name(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.put(b"1", "a/b.csv")
    datasets.get("a/b.csv")
    assert (tmp_path / "b.csv").read_bytes() == b"1"


@pytest.mark.parametrize(
    "name", ["", "/a", "a//b", "a/", "../a", "a/../b", ".", "a\nb", "a\\b", "ä" * 126, "a/" * 500 + "a"]
)
def test_a_name_that_the_store_cannot_have_is_refused(store: Any, name: str) -> None:
    with pytest.raises(Error, match="cannot name a dataset: use"):
        datasets.put(b"1", name)
    assert not store.objects


def test_what_is_not_there_is_told(store: Any, tmp_path: Path) -> None:
    datasets.put(b"1", "a")
    with pytest.raises(Error, match=r"^cannot read b in bucket datasets: The specified key does not exist"):
        datasets.get("b")
    with pytest.raises(Error, match=r"^cannot read version v9 of a in bucket datasets: The specified version"):
        datasets.get("a", "v9")
    with pytest.raises(Error, match="there is no file or folder"):
        datasets.put(tmp_path / "nothing", "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Error, match="there is no file in folder"):
        datasets.put(tmp_path / "empty", "a")


@pytest.mark.parametrize("content", [b"", b"key,label\na,b\n", b"key,version,sha256,label\na,,c,d\n"])
def test_a_manifest_that_is_none_is_told(store: Any, tmp_path: Path, content: bytes) -> None:
    datasets.put(content, "f/manifest.csv")
    with pytest.raises(Error, match="is no manifest"):
        datasets.get("f", to=tmp_path / "f")


def test_a_manifest_never_writes_outside_of_the_folder(store: Any, tmp_path: Path) -> None:
    datasets.put(b"key,version,sha256,label\n../x,v1,c,d\n", "f/manifest.csv")
    with pytest.raises(Error, match="cannot name a dataset"):
        datasets.get("f", to=tmp_path / "f")


def test_a_bucket_without_versions_is_told(store: Any) -> None:
    store.versioned = False
    with pytest.raises(
        Error, match="bucket datasets gives no version ids, which datasets need: switch its versioning on"
    ):
        datasets.put(b"1", "a")


def test_an_address_alone_leads_to_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IML4E_URL", "http://127.0.0.1:9")
    with pytest.raises(
        Error, match="S3_DATASETS_BUCKET is not set: IML4E_URL alone does not tell it; use a kubeconfig"
    ):
        datasets.put(b"1", "a")


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A function that makes a client on a machine with a kubeconfig and a profile of AWS, for a release with that Secret."""
    secrets = {"mine": {"AWS_ACCESS_KEY_ID": "of-secret", "AWS_SECRET_ACCESS_KEY": "b"}}
    settings = {"S3_DATASETS_BUCKET": "datasets", "AWS_DEFAULT_REGION": "eu-test-1"}

    class Cluster(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, name = self.path.split("/")[-2:]
            data = settings if (kind, name) == ("configmaps", "iml4e-runner") else None
            if kind == "secrets" and name in secrets:
                data = {key: base64.b64encode(value.encode()).decode() for key, value in secrets[name].items()}
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"data": data}).encode())

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    (tmp_path / "aws").write_text("[profile-of-mine]\naws_access_key_id = of-profile\naws_secret_access_key = c\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "JOB_S3_SECRET"):
        monkeypatch.delenv(name, raising=False)

    def made(secret: str) -> Any:
        settings["JOB_S3_SECRET"] = secret
        return datasets.client()

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would remember the profile of another test
    datasets.client.cache_clear()
    yield made
    datasets.client.cache_clear()
    server.shutdown()
    server.server_close()


def key_of(client: Any) -> str:
    """The key that a client signs with."""
    return client._request_signer._credentials.access_key


def test_a_laptop_takes_the_key_of_the_secret_that_the_release_names(laptop: Callable[[str], Any]) -> None:
    assert key_of(laptop("mine")) == "of-secret"


def test_a_secret_that_is_not_there_is_told(laptop: Callable[[str], Any]) -> None:
    with pytest.raises(
        Error, match=r"^Secret other in namespace iml4e cannot be read .*: set AWS_ACCESS_KEY_ID and AWS_"
    ):
        laptop("other")


def test_without_a_secret_a_laptop_takes_its_own_identity(
    laptop: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "profile-of-mine")
    assert key_of(laptop("")) == "of-profile"


def test_a_laptop_without_any_identity_is_told_to_log_in(laptop: Callable[[str], Any]) -> None:
    laptop("")
    with pytest.raises(
        Error, match=r"^cannot list bucket datasets: Unable to locate credentials: log in \(AWS_PROFILE, aws"
    ):
        datasets.listing()
