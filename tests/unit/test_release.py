"""The values that `make up` gives to the chart."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from scripts.bare import images
from scripts.common import console
from scripts.platform import release


@pytest.mark.parametrize(
    ("setting", "cluster_of_others", "sentence"),
    [
        ("IML4E_RUNTIME=mine", False, "which names no image"),
        ("IML4E_RUNTIME=own", True, "cannot pull"),
        ("IML4E_NOTEBOOKS=1", False, "IML4E_NOTEBOOKS is 1"),
        ("IML4E_NOTEBOOKS=on", True, "cannot pull"),
    ],
)
def test_an_image_that_a_cluster_cannot_have_is_refused(
    setting: str, cluster_of_others: bool, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IML4E_RUNTIME", "IML4E_NOTEBOOKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(*setting.split("="))
    monkeypatch.setattr(release, "foreign_cluster", lambda: cluster_of_others)
    with pytest.raises(console.Failure, match=sentence) as caught:
        release.up()
    assert caught.value.cure


def test_the_cluster_made_here_gets_its_images_and_certificates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    applied = []
    monkeypatch.setattr(release, "_apply", lambda *objects: applied.extend(objects))
    monkeypatch.setattr(images, "CERTIFICATES", tmp_path / "ca.crt")
    monkeypatch.delenv("IML4E_RUNTIME", raising=False)
    monkeypatch.delenv("IML4E_NOTEBOOKS", raising=False)
    assert "runtime" not in str(release._own_values())
    assert "notebooks.enabled" not in str(release._own_values())
    assert not applied
    (tmp_path / "ca.crt").write_text("certificates")
    monkeypatch.setenv("IML4E_RUNTIME", "own")
    monkeypatch.setenv("IML4E_NOTEBOOKS", "on")
    said = " ".join(release._own_values())
    assert f"global.runtime.repository=iml4e/runtime,global.runtime.tag={images.named('runtime').tag}" in said
    notebooks = images.named("notebooks")
    assert (
        f"notebooks.enabled=true,notebooks.image.repository=iml4e/notebooks,notebooks.image.tag={notebooks.tag}" in said
    )
    assert "global.caCertificate.existingSecret=iml4e-ca" in said
    assert applied[0]["metadata"] == {"name": "iml4e-ca", "namespace": release.NAMESPACE}
    assert base64.b64decode(applied[0]["data"]["ca.crt"]) == b"certificates"


@pytest.mark.parametrize(
    ("lacking", "said"), [([], ""), (["iml4e.local/lab/server:2", "iml4e.local/lab/ui:2"], "2 of")]
)
def test_a_part_is_switched_on_where_its_images_are_present(
    lacking: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "missing", lambda: {"lab": lacking})
    monkeypatch.setattr(images, "CERTIFICATES", tmp_path / "none")
    assert ("lab.enabled=true" in release._own_values()) is not bool(lacking)
    out = capsys.readouterr().out
    assert ("lab is left out" in out) is bool(lacking)
    assert said in out
