"""Which arms of the chart's templates no render test reaches.

The render tests run once and note what they ask Helm for. Then every arm gets a `fail` with its number, and the same is rendered again: the arm
that fails is reached, loses its `fail`, and the render is repeated, until the render says nothing new.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.common import console
from scripts.common.paths import REPO
from scripts.harness import templates
from scripts.harness.templates import CHART, Arm
from tests.support import helm

#: Renders side by side.
LANES = os.cpu_count() or 1
#: File, or text of an action: why no render without a cluster reaches its arms.
ELSEWHERE = {
    "validate/_cluster.tpl": "reads the cluster: tests/e2e/test_owners.py, test_gateway.py, test_gitops.py, tests/render/test_lookups.py",
    "validate/_volumes.tpl": "reads the cluster: tests/e2e/test_volumes.py",
    "with lookup ": "reads the cluster: tests/e2e/test_volumes.py",
    "meta.helm.sh/release-name": "reads the cluster: tests/e2e/test_upgrade_of_releases.py",
    # `with` that only shortens names
    "no with .Values.global.runtime": "the schema wants its keys",
    "no with .Values.global.caCertificate": "the schema wants its keys",
    "no with .Values.proxy": "the schema wants its keys",
    "no with $global.runtime": "the schema wants its keys",
    "no with $global.caCertificate": "the schema wants its keys",
    "no with .Subcharts.notebooks": "stands where notebooks are on",
    "no with .Values.backup": "its keys are wanted before",
    "no if .Chart.IsRoot": "the chart as a dependency: tests/render/test_validation.py",
    "alertmanager/networkpolicy.yaml": "written from the table of flows; with the operator, the release has no Alertmanager",
}
Input = tuple[list[str], dict[str, str]]


class Chart:
    """A copy of the chart whose arms say their number when they are reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(shutil.copytree(CHART, folder / "iml4e"))
        numbers: dict[tuple[str, int], int] = {}
        self.arms: dict[int, tuple[str, Arm]] = {}
        self.files: dict[Path, list[tuple[Arm, int]]] = {}
        counter = itertools.count()
        for path in templates.templates():
            name = str(path.relative_to(CHART))
            # every part has the same helpers: what one part reaches is reached
            shared = "_helpers.tpl" if path.name == "_helpers.tpl" and "charts/" in name else name
            found = list(templates.arms(path.read_text()))
            for number, arm in enumerate(found):
                identity = numbers.setdefault((shared, number), next(counter))
                self.arms.setdefault(identity, (shared, arm))
            self.files[path.relative_to(CHART)] = [(arm, numbers[shared, at]) for at, arm in enumerate(found)]

    def write(self, live: set[int], only: set[int] | None = None) -> None:
        """Write the templates so that the arms of `live` fail; with `only`, the files that have one of these arms."""
        for path, found in self.files.items():
            if only is not None and not only & {number for _, number in found}:
                continue
            text = (CHART / path).read_text()
            for arm, number in reversed(found):
                if number in live:
                    said = f'{{{{ fail "iml4e-arm-{number}." }}}}'
                    # `{{- end }}` takes the space before it away, and so must the `else` that comes first
                    trim = "{{-" if text.startswith("{{-", arm.at) else "{{"
                    text = text[: arm.at] + (f"{trim} else }}}}" if arm.implied else "") + said + text[arm.at :]
            (self.folder / path).write_text(text)


def record() -> list[Input]:
    """Run the render tests, and return what they asked Helm for, each once."""
    with tempfile.TemporaryDirectory() as folder, console.step("render tests"):
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(LANES), "-p", "no:cacheprovider", "tests/render"]
        done = subprocess.run(
            command, cwd=REPO, env=os.environ | {"IML4E_RECORD": folder}, capture_output=True, text=True
        )
        if done.returncode:
            raise console.Failure("The render tests fail.", "Run `make render`.", done.stdout[-3000:])
        lines = [line for file in Path(folder).iterdir() for line in file.read_text().splitlines()]
    found: dict[str, Input] = {}
    for line in lines:
        arguments, own = json.loads(line)
        found.setdefault(json.dumps([[own.get(word, word) for word in arguments]]), (arguments, own))
    # what sets more values reaches more arms
    return sorted(found.values(), key=lambda each: -len(json.dumps(each)))


def reached(inputs: list[Input]) -> tuple[Chart, set[int]]:
    """The arms that some render reaches."""
    seen: set[int] = set()
    todo = iter(inputs)
    lock = threading.Lock()
    charts = []

    def lane(folder: Path) -> None:
        chart = Chart(folder)
        charts.append(chart)
        fails = set(chart.arms)
        chart.write(fails)
        while True:
            with lock:
                current = next(todo, None)
            if current is None:
                return
            arguments, own = current
            words = [word.replace(str(CHART), str(chart.folder)) for word in arguments]
            for word, text in own.items():
                (folder / Path(word).name).write_text(text)
                words = [str(folder / Path(word).name) if each == word else each for each in words]
            while True:
                if fails - (live := set(chart.arms) - seen):
                    chart.write(live, only=fails - live)
                    fails = live
                try:
                    helm.helm(*words)
                    break
                except helm.HelmError as said:
                    number = re.search(r"iml4e-arm-(\d+)\.", str(said))
                    if not number:
                        break  # the chart's own words
                    seen.add(int(number[1]))

    with tempfile.TemporaryDirectory() as folder, console.step(f"render {len(inputs)} inputs"):
        places = [Path(folder) / str(number) for number in range(LANES)]
        for place in places:
            place.mkdir()
        with ThreadPoolExecutor(LANES) as pool:
            # the list asks for each result, so that an error of a lane ends the program
            list(pool.map(lane, places))
    return charts[0], seen


def main() -> None:
    """Print the arms that nothing reaches; fail where one has no reason."""
    parser = argparse.ArgumentParser(prog="scripts/arms", description=__doc__.splitlines()[0])
    parser.parse_args()
    chart, seen = reached(record())
    missing: dict[str, list[str]] = defaultdict(list)
    excused = 0
    for number, (file, arm) in chart.arms.items():
        if number in seen:
            continue
        if any(key in f"{file} {arm.said}" for key in ELSEWHERE):
            excused += 1
        else:
            missing[file].append(f"{file}:{arm.line}: {arm.said}")
    print(
        f"{len(seen)} of {len(chart.arms)} arms are reached; {excused} have a reason not to be (ELSEWHERE in scripts/harness/arms.py)."
    )
    if missing:
        lines = "\n".join(line for each in missing.values() for line in each)
        raise console.Failure("No render test reaches these arms.", "Write a test for each, or remove the arm.", lines)


if __name__ == "__main__":
    console.main(main)
