"""Training material without a cluster: form of the pages, references, the site, slides, and the page of requirements."""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts.common import console
from scripts.harness import docs, trace
from support import browser, pages
from support.helm import REPO

TRAINING = REPO / "docs" / "training"
TUTORIALS, PATHS = sorted(TRAINING.glob("tutorials/*.md")), sorted(TRAINING.glob("path-*.md"))
BROWSER = pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium on this machine")


def named(page: Path) -> str:
    return page.stem


def headings(page: Path) -> list[str]:
    return re.findall(r"^## (.+)$", pages.prose(page), re.MULTILINE)


@pytest.mark.parametrize("page", TUTORIALS, ids=named)
def test_a_tutorial_has_its_parts(page: Path) -> None:
    """And no block that the tests of the live platform would not run or look at."""
    text = pages.prose(page)
    assert text.startswith("# Tutorial: ")
    assert [
        re.search(rf"^\| {word} \| ", text, re.MULTILINE) is not None for word in ("Goal", "Time", "Before", "After")
    ] == [True] * 4
    assert "Exercises" in headings(page)
    assert text.count("<summary>Answers</summary>") == 1
    assert re.search(r"^ {4,}\S", text, re.MULTILINE) is None, "an indented block is not run"
    found = pages.blocks(page)
    assert {block.language for block in found if not block.name} <= {"bash", "python", "text"}
    assert len(found) == len(re.findall(r"^ *```\w", page.read_text(), re.MULTILINE)), "a block is not seen"
    assert found[0].language != "text"
    runs = [block for block in found if not block.name and block.language != "text"]
    shows = [block for block in found if block.language == "text"]
    assert len(shows) >= len(runs) / 2, "most cells show what they print"


@pytest.mark.parametrize("page", PATHS, ids=named)
def test_a_path_has_its_parts(page: Path) -> None:
    assert {"Goals", "Units", "Exercises", "Check yourself"} <= set(headings(page))
    text = page.read_text()
    units = re.findall(r"^\| \d+\. .*\| (\d+) \|", text, re.MULTILINE)
    assert len(units) >= 5
    hours = re.search(rf"\]\({page.name}\) \|[^|]*\| (\d+) \|", (TRAINING / "README.md").read_text())
    assert hours, "the overview lists the path"
    assert abs(sum(map(int, units)) / 60 - int(hours[1])) <= 0.5
    assert text.count("<summary>Answers</summary>") == 2
    questions = len(re.findall(r"^\d\. ", text.split("## Exercises")[1].split("<details")[0], re.MULTILINE))
    assert len(re.findall(r"^\*\*\d\.\*\*", text, re.MULTILINE)) == questions > 0, "every exercise has an answer"


def test_every_page_is_in_the_navigation_and_in_the_overview() -> None:
    navigation = (REPO / "docs" / "site" / "zensical.toml").read_text()
    overview = (TRAINING / "README.md").read_text()
    for page in (*TUTORIALS, *PATHS):
        assert f'"{page.relative_to(REPO)}"' in navigation
        assert f"({page.relative_to(TRAINING)})" in overview
    for page in (REPO / "docs").glob("*.md"):
        assert f'"{page.relative_to(REPO)}"' in navigation, page


def test_media_are_references() -> None:
    """The lint's reader of YAML and the script's own see the same."""
    entries = yaml.safe_load(docs.MEDIA.read_text())
    assert docs.media(docs.MEDIA.read_text()) == entries
    for entry in entries:
        assert set(entry) == {"url", "title", "licence", "sha256", "used_in"}
        assert entry["url"].startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{64}|stream|page", entry["sha256"])
        assert entry["url"] in (REPO / entry["used_in"]).read_text()


def test_no_large_file_is_stored() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "docs"], cwd=REPO, capture_output=True, text=True, check=True
    )
    files = [REPO / name for name in listed.stdout.splitlines() if (REPO / name).is_file()]
    assert {file.suffix for file in files} <= {".md", ".png", ".svg", ".yaml", ".toml", ".txt", ".css", ".js"}
    assert [file for file in files if file.suffix in (".png", ".svg") and file.stat().st_size > 400 * 1024] == []


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers HEAD with the status that the path names."""

    def do_HEAD(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server of statuses."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_a_dead_address_is_told(server: str) -> None:
    assert docs.answers(f"{server}/200") == ""
    assert "404" in docs.answers(f"{server}/404")
    assert "refused" in docs.answers("http://127.0.0.1:9/")


@pytest.fixture(scope="module")
def site() -> Path:
    """The site, built as `make docs` does."""
    docs.stage()
    return docs.generate()


@pytest.mark.timeout(300)
def test_every_page_is_on_the_site_and_loads_nothing_from_elsewhere(site: Path) -> None:
    built = {str(file.relative_to(site)) for file in site.rglob("*.html")}
    for page in (*TUTORIALS, *PATHS, *(REPO / "docs").glob("*.md")):
        assert str(page.relative_to(REPO).with_suffix(".html")) in built
    assert {"index.html", "docs/training/index.html", "docs/decisions/index.html"} <= built
    tutorial = (site / "docs/training/tutorials/own-data.html").read_text()
    assert "<details>" in tutorial
    assert "site.css" in tutorial


@pytest.mark.timeout(300)
@pytest.mark.parametrize("link", ["nowhere.md", "install.md#nowhere", "../nowhere/README.md"])
def test_a_broken_link_fails(site: Path, link: str) -> None:
    page = docs.BUILD / "pages" / "docs" / "broken.md"
    page.write_text(f"# Broken\n\n[here]({link})\n")
    try:
        with pytest.raises(console.Failure) as failure:
            docs.generate()
        assert "broken.md" in failure.value.log
    finally:
        page.unlink()
        docs.generate()


def test_links_to_what_the_site_lacks_become_text() -> None:
    there = {Path("docs/a.md"), Path("values/README.md")}
    text = "[a](a.md#x) [code](../src/iml4e) [values](../values) [gone](gone.md) [web](https://example.org/)\n\n```\n[a](../src)\n```\n"
    shown = docs.page(text, Path("docs/b.md"), there)
    assert shown == (
        "[a](a.md#x) code [values](../values/README.md) [gone](gone.md) [web](https://example.org/)\n\n```\n[a](../src)\n```\n"
    )


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site behind a server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@BROWSER
@pytest.mark.timeout(300)
def test_a_browser_shows_pages_and_slides(address: str) -> None:
    with browser.page() as tab:
        for path in (
            "index.html",
            "docs/values.html",
            "docs/training/path-manager.html",
            "docs/training/tutorials/search.html",
        ):
            for width in (360, 1600):
                tab.open(f"{address}/{path}", width=width)
                assert tab.complaints() == []
                assert [url for url in tab.requests() if not url.startswith((address, "data:"))] == []
                assert tab.value("document.documentElement.scrollWidth") <= width, f"{path} is wider than {width}"
        assert tab.value("document.querySelectorAll('.slide').length") > 4
        tab.value("document.querySelector('.slides-button').click()")
        shown = "document.querySelector('.slide.shown').innerText"
        assert tab.value(shown).startswith("Tutorial: search")
        tab.value("dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
        assert tab.value(shown).startswith("1. An objective")
        tab.value("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
        assert tab.value("getComputedStyle(document.querySelectorAll('.slide')[3]).display") == "block"


def test_requirements_name_what_exists() -> None:
    assert list(trace.findings()) == []
    names = [row["id"] for _, row in trace.rows()]
    assert names == [
        f"{letter}{number}"
        for letter, last in zip("DEGOATMC", (4, 5, 3, 4, 3, 4, 3, 6), strict=True)
        for number in range(1, last + 1)
    ]


def test_a_wrong_row_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.yaml"
    row = {
        "id": "X1",
        "text": "x",
        "where": ["mlflow.nothing", "src/nothing.py"],
        "tests": ["tests/unit/test_wine.py::test_nothing"],
        "state": "nearly",
    }
    table.write_text(
        yaml.safe_dump({"Area": [row, {**row, "where": ["mlflow.replicas", "global.imageRegistry"], "tests": []}]})
    )
    monkeypatch.setattr(trace, "TABLE", table)
    said = "\n".join(trace.findings())
    for part in (
        "no file or value mlflow.nothing",
        "src/nothing.py",
        "no test tests/unit/test_wine.py::test_nothing",
        "state is 'done'",
        "X1 names no test",
        "there twice",
    ):
        assert part in said
    assert "mlflow.replicas" not in said
    assert "global.imageRegistry" not in said


def test_results_come_from_reports_of_test_runs(tmp_path: Path) -> None:
    case = '<testcase classname="tests.e2e.test_x" name="{}">{}</testcase>'
    cases = [
        case.format("test_a[1]", ""),
        case.format("test_a[2]", ""),
        case.format("test_b", "<failure/>"),
        case.format("test_c", "<skipped/>"),
    ]
    (tmp_path / "e2e.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    results = trace.taken(tmp_path)
    assert re.fullmatch(r"2 passed \(\d{4}-\d\d-\d\d\)", trace.result("tests/e2e/test_x.py::test_a", results))
    assert trace.result("tests/e2e/test_x.py", results).startswith("2 passed, 1 failed, 1 skipped (")
    assert trace.result("tests/e2e/test_y.py", results) == "not recorded yet"


SAID = "epoch 1: loss 0.25\nserves at http://localhost:30080/x after 7 s\n['a', 'b']\n"


@pytest.mark.parametrize(
    "wanted", ["epoch 3: loss 0.5", "epoch 9: …", "serves at http://localhost:30080/x after 12 s\n['a', 'b']", "…'b']"]
)
def test_a_shown_output_is_compared_loosely(wanted: str) -> None:
    assert pages.missing(wanted, SAID) == ""


@pytest.mark.parametrize(
    "wanted", ["epoch x: loss 0.5", "['a', 'b']\nepoch 1: loss 0.25", "epoch 1: loss", "loss 0.25"]
)
def test_a_shown_output_that_was_not_printed_is_told(wanted: str) -> None:
    assert pages.missing(wanted, SAID) == wanted.splitlines()[-1]


PAGE = """# Page

```bash
export A=1
mkdir inner; cd inner
```

Save this as `a.py`:

```python
print("hello 12.5")
```

```bash
python a.py; echo $A
```

```text
hello 3
1
```

```python
import os
x = os.environ["A"]
x
```

```text
'1'
```
"""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, ""),
        ({"hello 3": "goodbye"}, r"page\.md, line 18: nothing like 'goodbye' was printed"),
        ({"python a.py;": "false;"}, r"page\.md, line 14: the block ends with an error"),
        ({"\nx\n": "\n1 / 0\n"}, r"page\.md, line 23: the block ends with an error:\n[\s\S]*ZeroDivisionError"),
        ({"```bash\npython": "```fish\npython"}, r"page\.md, line 14: nothing runs a block of 'fish'"),
        ({"python a.py": "sleep 3"}, r"page\.md, line 14: the block ends with its end after 1 s"),
    ],
)
def test_a_page_runs_as_it_stands(tmp_path: Path, change: dict[str, str], sentence: str) -> None:
    text = PAGE
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    page = tmp_path / "page.md"
    page.write_text(text)
    with pages.Session(tmp_path) as reader:
        if sentence:
            with pytest.raises(AssertionError, match=sentence):
                reader.page(page, seconds=1 if "sleep" in text else 60)
        else:
            assert "hello 12.5\n1\n" in reader.page(page)
