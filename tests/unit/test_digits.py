"""The steps of the digits pipeline, as functions, on real images and on damaged ones."""

import csv
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from iml4e import Error
from pipelines.digits.components import onboard, put, validate
from pipelines.steps import prepare

DIGITS = load_digits()
ADDRESS = "s3://datasets/digits/manifest.csv?versionId=v-1"
Images = list[tuple[str, str, bytes]]  # key, label, content


def picture(array: Any, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, dtype="uint8")).save(file, kind)
    return file.getvalue()


def some(count: int = 400) -> Images:
    """The first images of the UCI data, as `onboard` stores them."""
    return [
        (f"digits/{DIGITS.target[n]}-{n:04d}.png", str(DIGITS.target[n]), picture(DIGITS.images[n] * 15))
        for n in range(count)
    ]


def pack(path: Path, images: Images, stored: dict[str, bytes] | None = None) -> None:
    """Write the ZIP file that `onboard` makes; `stored` replaces contents after the manifest was written."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["key", "version", "sha256", "label"])
    with zipfile.ZipFile(path, "w") as archive:
        for key, label, content in images:
            writer.writerow([key, "v-1", hashlib.sha256(content).hexdigest(), label])
            archive.writestr(key, (stored or {}).get(key, content))
        archive.writestr("manifest.csv", text.getvalue())


@pytest.fixture
def check(tmp_path: Path, artifact: Callable[[str], Any]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Validate images: number of them and report."""

    def run(images: Images, **options: Any) -> tuple[int, dict[str, Any]]:
        pack(tmp_path / "raw", images, **options)
        count = validate.python_func(artifact("raw"), ADDRESS, artifact("data"), artifact("report"))
        return count, json.loads((tmp_path / "report").read_text())

    return run


def test_the_real_images_are_fit_for_use(check: Any) -> None:
    count, report = check(some())
    assert count == 400
    assert report["valid"]
    assert sum(report["labels"].values()) == 400
    assert set(report["labels"]) == set("0123456789")


def changed(content: bytes | None = None, label: str | None = None, number: int = 7) -> Images:
    """Good images but for one."""
    images = some()
    key, old_label, old = images[number]
    images[number] = (key, label or old_label, old if content is None else content)
    return images


SEVEN = some(8)[7][2]
BAD: dict[str, tuple[Images, str]] = {
    "a truncated PNG": (changed(SEVEN[: len(SEVEN) // 2]), "'decodes': .*1 case.*7-0007.png: no: "),
    "a PNG of which the header is left": (changed(SEVEN[:20]), "'decodes': "),
    "an empty file": (changed(b""), "'decodes': .*cannot identify image file"),
    "noise": (changed(os.urandom(300)), "'decodes': "),
    "a flipped bit": (changed(SEVEN[:-30] + bytes([SEVEN[-30] ^ 1]) + SEVEN[-29:]), "'decodes': "),
    "a JPEG": (changed(picture(DIGITS.images[7] * 15, "JPEG")), "'form': .*JPEG L 8x8"),
    "another size": (changed(picture(np.zeros((16, 16)))), "'form': .*PNG L 16x16"),
    "colours": (changed(picture(np.zeros((8, 8, 3)))), "'form': .*PNG RGB 8x8"),
    "an unknown label": (changed(label="10"), "'label': isin"),
    "a word as label": (changed(label="seven"), "'label': wrong type, .*0007.png: seven"),
    "an image twice": (some() + some(1), "'key': not unique"),
    "too few images": (some(150), "needs at least 200 images"),
    "a digit that is too rare": (
        [image for image in some() if image[1] != "3"],
        "needs at least 10 images of each digit",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_bad_images_stop_the_run_with_a_sentence(check: Any, tmp_path: Path, case: str) -> None:
    images, words = BAD[case]
    with pytest.raises(Error, match=words) as raised:
        check(images)
    sentence = str(raised.value)
    assert sentence.startswith("the data cannot be used")
    assert "\n" not in sentence
    assert " at 0x" not in sentence
    assert len(sentence) < 500
    report = json.loads((tmp_path / "report").read_text())
    assert not report["valid"]
    assert report["problems"]


def test_content_that_is_not_the_manifests_stops_the_run(check: Any) -> None:
    images = some()
    with pytest.raises(Error, match=r"'content': .*differs from the manifest"):
        check(images, stored={images[3][0]: images[13][2]})


def test_the_split_has_the_uci_pixels_and_never_changes(check: Any, artifact: Callable[[str], Any]) -> None:
    def split(images: Images) -> tuple[pd.DataFrame, pd.DataFrame]:
        check(images)
        training, held_out = artifact("training"), artifact("held_out")
        count = prepare.python_func(artifact("data"), training, held_out)
        one, other = pd.read_csv(training.path), pd.read_csv(held_out.path)
        assert count == len(other)
        return one, other

    training, held_out = split(some(300))
    assert 0.15 < len(held_out) / 300 < 0.35
    pixels = {tuple(row) for row in pd.concat([training, held_out]).drop(columns="target").to_numpy()}
    assert pixels == {tuple(row) for row in DIGITS.data[:300]}
    _, later = split(some(400)[::-1])
    assert len(held_out.merge(later)) == len(held_out)


def test_the_built_in_images_are_stored_once_and_come_back_whole(
    store: Any, artifact: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = onboard.python_func("", "", "digits", artifact("raw"))
    assert onboard.python_func("", "", "digits", artifact("raw")) == first
    assert first[1] == "digits/manifest.csv"
    assert validate.python_func(artifact("raw"), ADDRESS, artifact("data"), artifact("report")) == len(DIGITS.data)


def test_own_images_have_a_key_of_their_own_and_are_stored_only_if_they_can_be_used(store: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for key, _, content in changed(SEVEN[:20]):
        (folder / Path(key).name).write_bytes(content)
    with pytest.raises(Error, match=r"'decodes': .*7-0007.png: no: .*; nothing was stored$"):
        put(folder)
    with pytest.raises(Error, match="there is no folder"):
        put(tmp_path / "no")
    assert not store.objects
    (folder / "7-0007.png").write_bytes(SEVEN)
    assert put(folder).key == "uploads/digits/mine/manifest.csv"
