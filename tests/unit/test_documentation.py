"""Links and paths of the documentation lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FOLDERS = "charts|dashboards|docs|images|load|pipelines|scripts|src|tests|values"
#: Pages that name files which their reader makes, or which are gone.
PATHS_OF_OTHERS = {"CONTRIBUTING.md", "CHANGELOG.md"}


def pages() -> list[Path]:
    """All pages of the repository, also those that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=REPO, capture_output=True, text=True, check=True
    )
    return [REPO / name for name in listed.stdout.splitlines() if (REPO / name).is_file()]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^(?: {4}).*$", "", text, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


EACH = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPO)))


def test_there_are_pages() -> None:
    assert {REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "docs" / "security.md"} <= set(pages())


@EACH
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@EACH
def test_paths_exist(page: Path) -> None:
    if str(page.relative_to(REPO)) in PATHS_OF_OTHERS:
        pytest.skip("names files that are not there")
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", prose(page))
    assert [name for name in named if not (REPO / name).exists()] == []


def test_each_operation_is_a_tested_command() -> None:
    """Each section of docs/operations.md names its tests, and the command of each line is in one of them."""
    sections = re.split(r"^## ", (REPO / "docs" / "operations.md").read_text(), flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in sections]
    wanted = ["Install", "Upgrade", "Roll back", "Back up", "Restore", "Rotate", "Scale", "Remove"]
    assert [title for title in titles if title in wanted] == wanted
    untested = []
    for title, section in zip(titles, sections, strict=True):
        tests = [REPO / name for name in re.findall(r"`(tests/[\w/]+\.py)`", section)]
        text = "\n".join(test.read_text() for test in tests)
        commands = re.findall(r"^ {4}(helm|iml4e|make) (\w+)", section, re.MULTILINE)
        untested += [f"{title}: {program} {verb}" for program, verb in commands if not re.search(rf"\b{verb}\b", text)]
    assert untested == []
