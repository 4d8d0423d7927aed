"""What the template's features.py makes of dates and of images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

TEMPLATE = Path(__file__).resolve().parents[2] / "template" / "project" / "features.py.jinja"


def features(variant: str) -> dict[str, Any]:
    """The names of the module of a variant."""
    found: dict[str, Any] = {}
    exec(jinja2.Template(TEMPLATE.read_text()).render(variant=variant), found)
    return found


# --- dates

SPELLINGS = [
    "2024-03-01", "2024-03-01T10:00:00", "2024-03-01T10:00:00.500000", "2024-03-01 10:00:00", "2024-03-01T10:00:00+02:00",
    "2024-03-01T10:00:00.25-05:00", "2024-03-01T10:00:00Z",
]  # fmt: skip


def test_dates_of_any_iso_spelling_are_the_same_alone_and_among_others() -> None:
    """gjoseph92/stackstac#235: one spelling made the others NaT, by the first row of the request."""
    derive = features("tabular")["derive"]
    rows = pd.DataFrame({"when": SPELLINGS}, dtype=object)
    together = derive(rows, dates=["when"])
    alone = pd.concat([derive(rows[at : at + 1], dates=["when"]) for at in range(len(rows))])
    pd.testing.assert_frame_equal(together, alone, check_dtype=False)
    assert together["when day"].tolist() == [8826] * len(SPELLINGS)
    assert together["when weekday"].tolist() == [4] * len(SPELLINGS)


def test_an_offset_counts() -> None:
    derive = features("tabular")["derive"]
    rows = pd.DataFrame({"when": ["2024-03-01T00:30:00+02:00", "2024-02-29T23:30:00-01:00"]}, dtype=object)
    assert derive(rows, dates=["when"])["when day"].tolist() == [8825, 8826]  # the day in UTC


@pytest.mark.parametrize("missing", [None, np.nan, "", "no date"])
def test_what_is_no_date_is_a_gap_and_spoils_no_other_row(missing: Any) -> None:
    derive = features("tabular")["derive"]
    made = derive(pd.DataFrame({"when": pd.Series([missing, "2024-03-01"], dtype=object)}), dates=["when"])
    assert made["when month"].isna().tolist() == [True, False]
    assert derive(pd.DataFrame({"when": pd.Series([missing], dtype=object)}), dates=["when"])["when day"].isna().all()


# --- images


def file_of(image: Image.Image, form: str = "PNG") -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(("form", "kind"), [("PNG", "uint16"), ("TIFF", "uint16"), ("TIFF", "int32")])
def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(form: str, kind: str) -> None:
    """python-pillow/Pillow#2574, #5991."""
    grey = np.repeat(np.array([[0, 16384, 32768, 65535]]), 4, axis=0).repeat(4, axis=0).repeat(4, axis=1)
    content = file_of(Image.fromarray(grey.astype(kind)), form)
    made = features("image")["pixels"](pd.DataFrame({"image": [content]}))[0].reshape(16, 16, 3)
    assert made[0, ::4, 0] == pytest.approx([0, 64 / 255, 128 / 255, 1])


def test_eight_bits_stay_as_they_are() -> None:
    content = file_of(Image.new("L", (16, 16), 51))
    assert features("image")["pixels"](pd.DataFrame({"image": [content]})) == pytest.approx(0.2)
