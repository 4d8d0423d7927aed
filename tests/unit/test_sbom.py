"""The list of licences, from bills of materials as Syft writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.platform import sbom


def package(name: str, purl: str, *licences: dict[str, Any]) -> dict[str, Any]:
    """A component of a bill."""
    return {"name": name, "purl": f"pkg:{purl}", "licenses": list(licences)}


BILL = [
    {"name": "a file", "type": "file"},
    package("flask", "pypi/flask@3", {"license": {"id": "BSD-3-Clause"}}),
    package("minio", "golang/github.com/minio/minio@v0", {"license": {"id": "AGPL-3.0-only"}}),
    package("both", "pypi/both@1", {"expression": "MIT OR GPL-2.0-only"}),
    package("text", "pypi/text@1", {"license": {"name": "Permission is hereby granted, " * 9}}),
    package("bash", "deb/debian/bash@5"),
]


def test_a_package_has_a_purl(tmp_path: Path) -> None:
    file = tmp_path / "a.cdx.json"
    file.write_text(json.dumps({"components": BILL}))
    assert [each["name"] for each in sbom.packages(file)] == ["flask", "minio", "both", "text", "bash"]


def test_licences_are_identifiers_and_no_whole_texts() -> None:
    assert [sbom.licences(each) for each in BILL[1:]] == [
        ["BSD-3-Clause"], ["AGPL-3.0-only"], ["MIT OR GPL-2.0-only"], ["(text)"], [],
    ]  # fmt: skip


def test_the_page_counts_and_names_what_has_duties_and_what_tells_nothing() -> None:
    page = sbom.page({"minio": BILL[1:3], "base": BILL[3:]})
    assert "| minio | 0 | 1 | 1 | 0 |" in page
    assert "| base | 1 | 0 | 2 | 0 |" in page
    assert "| AGPL-3.0-only | minio | minio | offer the source to users over the network too |" in page
    assert "| MIT OR GPL-2.0-only | both | base | pass the source on with the program |" in page
    assert "BSD-3-Clause" not in page.partition("## With duties")[2].partition("## All")[0]
    assert "- Debian, 1: bash" in page


def test_many_names_are_cut() -> None:
    assert sbom.listed([f"p{n:02}" for n in range(20)], 3) == "p00, p01, p02 and 17 more"


def test_each_family_has_its_own_duty() -> None:
    def duty(licence: str) -> str:
        page = sbom.page({"a": [package("p", "pypi/p@1", {"license": {"id": licence}})]})
        (found,) = [line.split(" | ")[3:] for line in page.splitlines() if line.startswith(f"| {licence} | ")][:1]
        return found[0].removesuffix(" |") if found else ""

    assert duty("AGPL-3.0-only") == sbom.DUTIES["AGPL"]
    assert duty("LGPL-2.1-or-later") == sbom.DUTIES["LGPL"]
    assert duty("GPL-2.0-only") == sbom.DUTIES["GPL"]
    assert duty("MPL-2.0") == sbom.DUTIES["MPL"]
    assert duty("MIT") == ""
