"""What containers are told and asked, and what accounts may: a change of the chart that changes it is seen, and wanted."""

from __future__ import annotations

import difflib

from support import contract


def test_the_page_says_what_the_chart_renders() -> None:
    written = contract.PAGE.read_text().partition("\n")[2].splitlines()
    found = list(difflib.unified_diff(written, contract.text().splitlines(), "page", "chart", lineterm="", n=1))
    assert found == [], "If the change is wanted, run `make contract`, and look at what it changes in the page."
