"""The scripts that make a cluster: what they say when something fails, and what the cache is keyed by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bare import cluster, console, doctor, golang, images


def test_a_failed_command_ends_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(console.Failure) as caught:
        console.run(["sh", "-c", "echo first; echo the disk is full; exit 3"], log=log, cure="Free some.")
    assert "exit code 3" in caught.value.what
    assert caught.value.log.splitlines()[-1] == "the disk is full"
    assert "Free some." in caught.value.cure
    assert str(log) in caught.value.cure


def test_a_missing_program_is_named() -> None:
    with pytest.raises(console.Failure, match="no-such-program is not installed"):
        console.run(["no-such-program"])


def test_what_never_gets_ready_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(f"line {number}" for number in range(99)))
    with pytest.raises(console.Failure) as caught:
        console.wait_until(lambda: False, "etcd", 0.1, tmp_path / "log")
    assert caught.value.what.startswith("etcd is not ready")
    assert caught.value.log.endswith("line 98")


def test_a_failure_ends_in_a_sentence_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise console.Failure("It broke.", "Mend it.", "last words")

    with pytest.raises(SystemExit) as caught:
        console.main(body)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "Error: It broke." in said
    assert "Next:  Mend it." in said
    assert "last words" in said


def test_a_full_disk_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(SystemExit) as caught:
        console.main(body)
    assert caught.value.code == 1
    assert "No space left" in capsys.readouterr().err


def test_an_image_is_keyed_by_what_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    (folder / "tool" / "code").mkdir(parents=True)
    (folder / "tool" / "Containerfile").write_text("FROM scratch\nCOPY tool/code /code\nCOPY --from=build /out /out\n")
    (folder / "tool" / "code" / "main.py").write_text("1")
    monkeypatch.setattr(images, "FOLDER", folder)
    tool = images.Image("tool", "docker.io/library/tool:1")
    before = images.key(tool)
    (folder / "tool" / "notes.txt").write_text("not copied")
    assert images.key(tool) == before
    (folder / "tool" / "code" / "main.py").write_text("2")
    changed = images.key(tool)
    assert changed != before
    assert images.key(dataclasses.replace(tool, upstream="docker.io/library/tool:2")) != changed


def test_an_image_changes_with_its_base() -> None:
    derived = images.BY_NAME["storage-initializer"]
    assert images.key(derived) != images.key(dataclasses.replace(derived, base=None))


def test_every_image_has_its_files_and_a_name_of_its_own() -> None:
    assert all(images._sources(image) for image in images.IMAGES)
    assert len({image.reference for image in images.IMAGES}) == len(images.IMAGES)


def test_a_process_is_ours_only_while_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that the kernel gave to another program since is not ended."""
    monkeypatch.setattr(cluster, "RUN", tmp_path)
    (tmp_path / "etcd.json").write_text(json.dumps({"pid": 1, "started": "another time", "signature": ""}))
    assert cluster.pid_of("etcd") is None
    (tmp_path / "etcd.json").write_text(json.dumps({"pid": 1, "started": cluster._started_at(1), "signature": ""}))
    assert cluster.pid_of("etcd") == 1


def test_every_finding_has_a_cure() -> None:
    assert all(finding.cure for finding in doctor.findings() if not finding.fine)


def test_the_toolchain_that_is_fetched_is_new_enough() -> None:
    fetched = tuple(int(part) for part in golang.GO_WHEEL.split("==")[1].split("."))
    assert fetched >= golang.required_version()
