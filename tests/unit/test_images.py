"""Images that a bare machine builds: what their headers say, what they are keyed by, which parts they complete."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import lzma
import re
import tarfile
from pathlib import Path

import pytest

from scripts.bare import images
from scripts.common import console
from scripts.common.paths import REPO


def key(image: images.Image) -> str:
    """The key as a new process would compute it."""
    images.key.cache_clear()
    return images.key(image)


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
    before = key(images.named("runtime"))
    monkeypatch.setattr(images, "MMDEBSTRAP", ("mmdebstrap", "--variant=custom"))
    assert key(images.named("runtime")) != before


def test_every_image_has_its_files_and_a_name_of_its_own() -> None:
    for image in images.every():
        assert all(path.exists() for path in images._sources(image)), image.name
        assert image.base or "BASE" not in image.arguments, image.name
    assert len({image.reference for image in images.every()}) == len(images.every())


def test_the_tag_of_our_own_image_changes_with_its_content() -> None:
    """Pods that use it are replaced after a change; upstream's images keep upstream's tags."""
    runtime, mlflow = images.named("runtime"), images.named("mlflow")
    assert f"iml4e.local/iml4e/runtime:0.2.0-{key(runtime)}" == runtime.reference
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


def containerfile(folder: Path, text: str) -> Path:
    """A Containerfile in a folder of its own."""
    (folder / "tool").mkdir(parents=True, exist_ok=True)
    path = folder / "tool" / "Containerfile"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("# upstream: docker.io/library/tool:1\n", images.Image("tool", "docker.io/library/tool:1")),
        ("# upstream: r.example.org:5000/tool:1\n# part: lab\n", images.Image("tool", "r.example.org:5000/tool:1", "lab")),
        ("# own: iml4e/tool:1\n", images.Image("tool", "iml4e.local/iml4e/tool:1", own=True)),
    ],
)  # fmt: skip
def test_a_header_names_image_and_part(tmp_path: Path, header: str, expected: images.Image) -> None:
    assert images.read(containerfile(tmp_path, f"{header}# Why it is so.\nFROM scratch\n")) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "# upstream: tool\n",
        "# upstream: docker.io/library/tool\n",
        "# upstream:\n",
        "# part: lab\n",
        "\n# upstream: docker.io/library/tool:1\n",
        "#upstream: docker.io/library/tool:1\n",
    ],
)
def test_a_header_without_the_name_of_an_image_is_told_with_the_cure(tmp_path: Path, header: str) -> None:
    with pytest.raises(console.Failure, match="does not start with the name of its image") as caught:
        images.read(containerfile(tmp_path, f"{header}FROM scratch\n"))
    assert "# upstream: " in caught.value.cure


def test_header_lines_are_not_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is in it by itself, the part changes nothing; comments below the header are content as any line."""
    monkeypatch.setattr(images, "FOLDER", tmp_path / "images")
    tool = images.Image("tool", "docker.io/library/tool:1")
    keys = []
    for header in ("", "# upstream: docker.io/library/tool:1\n", "# upstream: docker.io/library/tool:1\n# part: lab\n"):
        containerfile(tmp_path / "images", f"{header}# Why it is so.\nFROM scratch\n")
        keys.append(key(tool))
    assert len(set(keys)) == 1
    containerfile(tmp_path / "images", "# upstream: docker.io/library/tool:1\n# Because.\nFROM scratch\n")
    assert key(tool) not in keys


def test_a_folder_below_images_has_the_name_of_one_image() -> None:
    for image in images.every():
        assert images.named(image.name) == image
    assert {image.name for image in images.every() if image.own} == {"runtime", "notebooks"}


def test_an_image_with_a_switch_is_built_only_where_that_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IML4E_NOTEBOOKS", raising=False)
    assert "notebooks" not in {image.name for image in images.wanted()}
    monkeypatch.setenv("IML4E_NOTEBOOKS", "on")
    assert "notebooks" in {image.name for image in images.wanted()}
    assert images.named("notebooks").base == images.named("runtime")


def test_a_base_is_built_only_for_an_image_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An archive is enough for a cluster; what starts from an image needs the image in the store."""
    built: list[str] = []
    monkeypatch.setattr(images, "CACHE", tmp_path)
    monkeypatch.setattr(images, "_in_store", lambda reference: False)
    monkeypatch.setattr(images, "_build", lambda image: built.append(image.name))
    monkeypatch.setattr(images, "_buildah", lambda *words, log: Path(words[2].split(":")[1]).touch())
    runtime, notebooks = images.named("runtime"), images.named("notebooks")
    images._make(runtime)
    images._make(runtime)
    assert built == ["mlflow", "runtime"]
    images._make(notebooks)
    assert built == ["mlflow", "runtime", "mlflow", "runtime", "notebooks"]
    images._make(notebooks)
    assert built[5:] == []


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chart with a part `lab` that is off on the bare machine, and the folder of brought images."""
    (tmp_path / "charts" / "lab").mkdir(parents=True)
    (tmp_path / "charts" / "lab" / "values.yaml").write_text(
        "# -- Image of the server\nserver:\n  image:\n    # -- Registry\n    registry: quay.io\n    # -- Repository, which\n"
        "    # has two lines of comment\n    repository: lab/server\n    # -- Tag\n    tag: \"2\"\n    # -- Digest\n"
        "    digest: ''\nimage:\n  registry: docker.io\n  repository: library/busybox\n  tag: 1.37\n"
    )  # fmt: skip
    (tmp_path / "bare-machine.yaml").write_text(
        "global:\n  imageRegistry: iml4e.local\n# off\nlab:\n  # why\n  enabled: false\ngateway:\n  enabled: true\n"
    )
    monkeypatch.setattr(images, "CHARTS", tmp_path / "charts")
    monkeypatch.setattr(images, "BARE_MACHINE", tmp_path / "bare-machine.yaml")
    monkeypatch.setattr(images, "EXTRA", tmp_path / "extra")
    (tmp_path / "extra").mkdir()
    return tmp_path / "extra"


def archive(path: Path, *tags: str) -> None:
    """An archive as `docker save` writes it, of images without layers."""
    manifest = json.dumps([{"RepoTags": list(tags)}]).encode()
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest)
        tar.addfile(info, io.BytesIO(manifest))


def test_a_part_lacks_the_images_that_are_neither_built_nor_brought(lab: Path) -> None:
    assert images.needed("lab") == {"iml4e.local/lab/server:2", "iml4e.local/library/busybox:1.37"}
    assert images.missing() == {"lab": ["iml4e.local/lab/server:2"]}
    archive(lab / "other.tar", "iml4e.local/lab/server:1", "quay.io/lab/server:2")
    assert images.missing() == {"lab": ["iml4e.local/lab/server:2"]}
    archive(lab / "server.tar", "iml4e.local/lab/server:2")
    assert images.missing() == {"lab": []}


def test_an_image_of_a_part_is_built_where_the_part_lacks_nothing(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = (images.Image("a", "docker.io/library/busybox:1.37"), images.Image("b", "docker.io/lab/b:1", "lab"))
    monkeypatch.setattr(images, "every", lambda: two)
    assert images.wanted() == two[:1]
    archive(lab / "server.tar", "iml4e.local/lab/server:2")
    assert images.wanted() == two


def test_a_file_that_is_still_being_copied_does_not_count(lab: Path) -> None:
    archive(lab / "server.tar", "iml4e.local/lab/server:2")
    for name in ("ui.tar.part", ".ui.tar.a1B2c3"):
        (lab / name).write_bytes(b"half")
    assert images.missing() == {"lab": []}


def whole() -> bytes:
    """An archive of Docker's kind."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("layer.tar"))
        tar.addfile(tarfile.TarInfo("index.json"))
    return content.getvalue()


BROKEN = {
    "empty": ("server.tar", b""),
    "no tar": ("server.tar", b"half of an archive"),
    "half": ("server.tar", whole()[:700]),
    "other kind": ("server.tar", whole()),
    "gzip": ("server.tar.gz", gzip.compress(whole())),
    "gzip by another name": ("server.tar", gzip.compress(whole())),
    "tgz": ("server.tgz", gzip.compress(whole())),
    "xz": ("server.tar.xz", lzma.compress(whole())),
    "zstd": ("server.tar.zst", b"\x28\xb5\x2f\xfd"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_archive_that_cannot_be_imported_is_told_with_the_cure(lab: Path, kind: str) -> None:
    name, content = BROKEN[kind]
    (lab / name).write_bytes(content)
    with pytest.raises(console.Failure, match=f"{name} is no complete archive") as caught:
        images.missing()
    assert "uncompressed" in caught.value.cure
    assert "'Images without a package'" in caught.value.cure
    assert "## Images without a package" in (REPO / "docs" / "install.md").read_text()


def test_an_image_without_a_name_is_told_with_the_cure(lab: Path) -> None:
    """`skopeo copy … docker-archive:FILE` without a name after the file."""
    archive(lab / "server.tar")
    with pytest.raises(console.Failure, match=r"server\.tar holds an image without a name") as caught:
        images.missing()
    assert caught.value.cure
