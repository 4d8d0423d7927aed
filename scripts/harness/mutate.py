"""Break the chart's templates in a hundred ways, one at a time, and count the ways that the render tests catch.

make mutate                      100 mutants of seed 1; stops with a list of the survivors where fewer than 95 are caught
scripts/mutate --minutes 8       stop after that time; the next call goes on (reports/mutation)
scripts/mutate --again           try the survivors once more, after a test was written for them
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.common import console
from scripts.common.paths import REPO
from scripts.harness import mutants
from scripts.harness.mutants import CHART, Mutant

REPORTS = REPO / "reports" / "mutation"
TESTS = REPO / "tests" / "render"
#: Mutants side by side.
LANES = os.cpu_count() or 1
#: Share of the mutants that must be caught.
GOAL = 0.95
#: Tests that come first: many objects, few renders.
FIRST = ("pods", "labels", "wiring", "profiles", "networkpolicy", "rbac")
#: Tests of one part, where the name does not say which.
OF_PART = {
    "alertmanager": "prometheus", "prometheus_operator": "prometheus", "rules": "prometheus", "dashboards": "grafana",
    "demo": "runner", "validation": "validate", "release_names": "validate", "retention": "mlflow",
}  # fmt: skip
#: Tests that need no mutant of other parts: they read the part's files alone, and take long.
ONLY_OF = ("rules", "dashboards")
#: Values at random find mutants too, but others each time; so the score is without them.
NOT_COUNTED = ("random_values",)


def modules(mutant: Mutant) -> list[list[str]]:
    """The files of tests that can catch a mutant: the page of containers and rights, what most likely does, and all others."""
    names = [path.stem.removeprefix("test_") for path in sorted(TESTS.glob("test_*.py"))]
    part = mutant.file.split("/")[1]
    own = [name for name in names if part in (name, OF_PART.get(name)) and name not in ONLY_OF]
    first = [*own, *(name for name in FIRST if name not in own)]
    slow = [name for name in ONLY_OF if OF_PART[name] == part]
    rest = [name for name in names if name not in ("contract", *first, *ONLY_OF, *NOT_COUNTED)]
    return [[f"tests/render/test_{name}.py" for name in group] for group in (["contract"], first, [*rest, *slow])]


def copy_of_repository(folder: Path) -> Path:
    """The files of the working tree, in another place."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    (folder / ".venv").symlink_to((REPO / ".venv").resolve())
    return folder


def run(repository: Path, files: list[str], *options: str) -> tuple[int, str]:
    """Run tests, and return how pytest ended and what it said."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        *options,
        *files,
    ]
    env = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


def caught_by(repository: Path, mutant: Mutant) -> str:
    """The first test that fails for a mutant; nothing where all pass."""
    mutant.apply(repository / "charts" / "iml4e")
    try:
        for files in modules(mutant):
            code, said = run(repository, files, "-x")
            if code:
                lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return (lines or [f"pytest ended with {code}"])[0].split(" - ")[0]
        return ""
    finally:
        shutil.copy(CHART / mutant.file, repository / "charts" / "iml4e" / mutant.file)


def state(*folders: Path) -> str:
    """The content of folders, in a few letters."""
    digest = hashlib.sha256(Path(mutants.__file__).read_bytes())
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc" and "crds" not in path.parts:
            digest.update(str(path.relative_to(REPO)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Report:
    """What is known of the mutants of a seed: kept in a file, so that a run can stop and go on."""

    def __init__(self, seed: int, count: int) -> None:
        self.path = REPORTS / f"{seed}-{count}-{state(CHART)}.json"
        self.lock = threading.Lock()
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.found: dict[str, str] = kept.get("found", {})
        #: Tests and chart that pass without a mutant.
        self.passes: str = kept.get("passes", "")
        if not kept:
            with console.step(f"find {count} mutants that render and differ"):
                self.mutants = mutants.generate(seed, count)
        else:
            self.mutants = [Mutant(**each) for each in kept["mutants"]]
        self.save()

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"mutants": [vars(each) for each in self.mutants], "found": self.found, "passes": self.passes}
        self.path.write_text(json.dumps(content, indent=1))

    def tell(self, mutant: Mutant, by: str) -> None:
        """Note who caught a mutant."""
        with self.lock:
            self.found[str(mutant)] = by
            self.save()
            console.say(f"{len(self.found)}/{len(self.mutants)} {'caught' if by else 'SURVIVED'} {mutant} {by}")


def try_all(report: Report, minutes: float) -> None:
    """Try the mutants that nothing is known of, as long as there is time."""
    todo = iter([each for each in report.mutants if str(each) not in report.found])
    end = time.monotonic() + 60 * minutes

    def lane(folder: Path) -> None:
        repository = copy_of_repository(folder)
        while time.monotonic() < end:
            with report.lock:
                mutant = next(todo, None)
            if mutant is None:
                return
            report.tell(mutant, caught_by(repository, mutant))

    with tempfile.TemporaryDirectory() as folder:
        # what fails without a mutant catches none
        if report.passes != (now := state(CHART, TESTS, REPO / "tests" / "support")):
            (whole := Path(folder) / "whole").mkdir()
            without = [f"--ignore=tests/render/test_{name}.py" for name in NOT_COUNTED]
            with console.step("render tests without a mutant"):
                code, said = run(copy_of_repository(whole), ["tests/render"], "-n", str(LANES), *without)
            if code:
                raise console.Failure("The render tests fail without a mutant.", "Run `make render`.", said[-3000:])
            report.passes = now
            report.save()
        places = [Path(folder) / str(number) for number in range(LANES)]
        for place in places:
            place.mkdir()
        with ThreadPoolExecutor(LANES) as pool:
            # the list asks for each result, so that an error of a lane ends the program
            list(pool.map(lane, places))


def main() -> None:
    """Try the mutants, print the score by kind and the survivors."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="which mutants")
    parser.add_argument("--count", type=int, default=100, help="how many")
    parser.add_argument("--minutes", type=float, default=600, help="begin no further one after this time")
    parser.add_argument("--again", action="store_true", help="try the survivors once more")
    parser.add_argument("--list", action="store_true", help="only print the mutants, and what is known of them")
    options = parser.parse_args()
    report = Report(options.seed, options.count)
    if options.again:
        report.found = {name: by for name, by in report.found.items() if by}
    if not options.list and len(report.found) < len(report.mutants):
        try_all(report, options.minutes)
    for mutant in report.mutants if options.list else ():
        print(f"{mutant}: {report.found.get(str(mutant), '?') or 'SURVIVED'}")
    survivors = [name for name, by in report.found.items() if not by]
    by_kind = Counter(each.kind for each in report.mutants if report.found.get(str(each)))
    for kind, all_ in Counter(each.kind for each in report.mutants).items():
        print(f"{by_kind[kind]:4} of {all_:3}  {kind}")
    caught = len(report.found) - len(survivors)
    print(
        f"{caught} of {len(report.found)} caught; {len(report.mutants) - len(report.found)} not tried yet (seed {options.seed})"
    )
    if survivors:
        print("Survivors:\n" + "\n".join(survivors))
    if len(report.found) == len(report.mutants) and caught < GOAL * len(report.mutants):
        raise console.Failure(
            f"The render tests catch {caught} of {len(report.mutants)} mutants, fewer than {GOAL:.0%}.",
            "Write tests for the survivors, then run `scripts/mutate --again`.",
        )


if __name__ == "__main__":
    console.main(main)
