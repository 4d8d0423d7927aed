"""Datasets: versions of files and folders in a bucket, which a small S3 in memory stands in for."""

from pathlib import Path
from typing import Any

import pytest

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
