"""Write docs/traceability.md: each requirement, where it is met, the tests that prove it, and their last result.

scripts/trace           write the page from docs/traceability.yaml and docs/traceability-results.yaml
scripts/trace --take    first take the results of reports/junit/*.xml, which `make render`, `make unit` and `make e2e` write
scripts/trace --check   change nothing; fail when the page is not as it would be written, or names a value, file or test that does not exist
"""

from __future__ import annotations

import argparse
import ast
import datetime
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts.common import console
from scripts.common.paths import REPO

TABLE = REPO / "docs" / "traceability.yaml"
RESULTS = REPO / "docs" / "traceability-results.yaml"
PAGE = REPO / "docs" / "traceability.md"
CHART = REPO / "charts" / "iml4e"
HEAD = """# Requirements and evidence

Each requirement of IML4E's deliverable D4.1 (June 2022) and of the design card, in our words and with our identifiers: where it is met, the tests that prove it, and
the last recorded result of these tests (skipped: the machine that ran them lacks the part, as Kubeflow Pipelines). `scripts/trace` writes this page from `docs/traceability.yaml`; `scripts/trace --take` records the results of a test run.
"""


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Area and row of each requirement."""
    for area, found in yaml.safe_load(TABLE.read_text()).items():
        for row in found:
            yield area, row


def value_exists(name: str) -> bool:
    """Whether the chart has a value of this name: in the umbrella's values, or in those of the part."""
    part, *rest = name.split(".")
    for file, path in ((CHART / "values.yaml", name.split(".")), (CHART / "charts" / part / "values.yaml", rest)):
        if file.exists():
            there: Any = yaml.safe_load(file.read_text())
            for key in path:
                there = there.get(key, ...) if isinstance(there, dict) else ...
            if there is not ...:
                return True
    return False


def functions(file: Path) -> set[str]:
    """The tests of a file."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def findings() -> Iterator[str]:
    """What is wrong with the table."""
    seen: set[str] = set()
    for _, row in rows():
        name, state = row["id"], row["state"]
        if name in seen:
            yield f"{name} is there twice"
        seen.add(name)
        if state != "done" and not state.startswith(("part: ", "not done, because ")):
            yield f"{name}: state is 'done', or begins with 'part: ' or 'not done, because '"
        if not row["tests"] and not state.startswith("not done, because "):
            yield f"{name} names no test"
        for place in row["where"]:
            if not ((REPO / place).exists() if "/" in place or (REPO / place).exists() else value_exists(place)):
                yield f"{name}: there is no file or value {place}"
        for test in row["tests"]:
            file, _, function = test.partition("::")
            if not (REPO / file).exists() or (function and function not in functions(REPO / file)):
                yield f"{name}: there is no test {test}"


def taken(folder: Path) -> dict[str, dict[str, int | str]]:
    """Results of the test runs whose reports lie in a folder: for each FILE::FUNCTION the day, and the number of each outcome."""
    found: dict[str, dict[str, int | str]] = {}
    for report in sorted(folder.glob("*.xml")):
        day = f"{datetime.datetime.fromtimestamp(report.stat().st_mtime):%Y-%m-%d}"
        for case in ET.parse(report).iter("testcase"):
            file = case.get("classname", "").replace(".", "/") + ".py"
            outcome = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
            entry = found.setdefault(f"{file}::{case.get('name', '').partition('[')[0]}", {"day": day})
            entry[outcome] = int(entry.get(outcome, 0)) + 1
    return found


def result(test: str, results: dict[str, dict[str, int | str]]) -> str:
    """The last result of a test, or of all tests of a file, in words."""
    found = [entry for name, entry in results.items() if name == test or name.startswith(f"{test}::")]
    if not found:
        return "not recorded yet"
    counts = {
        kind: sum(int(entry.get(kind, 0)) for entry in found) for kind in ("passed", "failure", "error", "skipped")
    }
    words = [f"{count} {kind.replace('failure', 'failed')}" for kind, count in counts.items() if count]
    return f"{', '.join(words)} ({max(str(entry['day']) for entry in found)})"


def page(results: dict[str, dict[str, int | str]]) -> str:
    """The page."""
    out, states = [HEAD], [row["state"].split(":")[0].split(",")[0] for _, row in rows()]
    counts = {state: states.count(state) for state in ("done", "part", "not done")}
    out.append(
        "Of {} requirements, {done} are done, {part} in part, {not done} not done.".format(len(states), **counts)
    )
    areas: dict[str, list[dict[str, Any]]] = {}
    for area, row in rows():
        areas.setdefault(area, []).append(row)
    for area, found in areas.items():
        out += ["", f"## {area}", "", "| | requirement | state |", "| --- | --- | --- |"]
        out += [f"| {row['id']} | {row['text']} | {row['state']} |" for row in found]
        for row in found:
            where = ", ".join(
                f"[`{place}`](../{place})" if (REPO / place).exists() else f"`{place}`" for place in row["where"]
            )
            tests = [f"- `{test.removeprefix('tests/')}`: {result(test, results)}" for test in row["tests"]]
            out += ["", f"**{row['id']}**: {where}", "", *(tests or ["- no test"])]
    return "\n".join(out) + "\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/trace", description="Write docs/traceability.md.")
    parser.add_argument("--take", action="store_true", help="first take the results of reports/junit/*.xml")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail when the page is not as it would be written"
    )
    options = parser.parse_args()
    if wrong := list(findings()):
        raise console.Failure("docs/traceability.yaml is wrong.", "Correct the lines above.", "\n".join(wrong))
    results = (yaml.safe_load(RESULTS.read_text()) if RESULTS.exists() else None) or {}
    if options.take:
        named = {test for _, row in rows() for test in row["tests"]}
        new = {
            name: entry
            for name, entry in taken(REPO / "reports" / "junit").items()
            if name in named or name.split("::")[0] in named
        }
        results = {
            name: entry
            for name, entry in sorted({**results, **new}.items())
            if name in named or name.split("::")[0] in named
        }
        RESULTS.write_text(
            "# Last results of the tests that docs/traceability.yaml names: `scripts/trace --take` writes this file.\n"
            + yaml.safe_dump(results)
        )
    text = page(results)
    if options.check:
        if not PAGE.exists() or PAGE.read_text() != text:
            raise console.Failure("docs/traceability.md is not what its sources give.", "Run `scripts/trace`.")
        return
    PAGE.write_text(text)
    print(f"wrote {PAGE.relative_to(REPO)}")


if __name__ == "__main__":
    console.main(main)
