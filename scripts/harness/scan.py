"""Scan the rendered chart with checkov's policies for Kubernetes; every finding is fixed, or explained in tests/exceptions.yaml.

Checkov has its own environment in the cache: its pins fit none of ours.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from scripts.common import console, debian, python
from scripts.common.paths import BIN, CACHE, REPO

CHECKOV = "checkov==3.3.30"
PROFILES = ("default", "laptop", "gpu-cluster", "cloud")
EXCEPTIONS = REPO / "tests" / "exceptions.yaml"


def checkov() -> Path:
    """Install checkov unless the cache has it; return its program."""
    folder = CACHE / "tools" / CHECKOV.replace("==", "-")
    complete = folder / "complete"
    if not complete.exists():
        if not python.has_venv():
            debian.install(["python3-venv"])
        with console.step(f"install {CHECKOV}"):
            console.run([sys.executable, "-m", "venv", "--clear", folder])
            cure = "Check that this machine reaches PyPI."
            console.run([folder / "bin" / "pip", "install", "--quiet", CHECKOV], cure=cure)
            complete.touch()
    return folder / "bin" / "checkov"


def findings(program: Path, profile: str) -> dict[str, set[str]]:
    """Checks that fail on a profile: identifier and title, and the resources."""
    helm = os.environ.get("HELM") or shutil.which("helm") or BIN / "helm"
    values = [] if profile == "default" else ["-f", REPO / "values" / f"{profile}.yaml"]
    text = console.run(
        [helm, "template", "iml4e", REPO / "charts" / "iml4e", "-n", "iml4e", *values],
        cure="Install Helm, or run `make up` once.",
    )
    with tempfile.TemporaryDirectory() as rendered:
        (Path(rendered) / "all.yaml").write_text(text)
        words = [
            program, "-d", rendered, "--framework", "kubernetes",
            "-o", "json", "--quiet", "--compact", "--soft-fail", "--skip-download",
        ]  # fmt: skip
        answer = json.loads(console.run(words, env={"LOG_LEVEL": "ERROR", "PYTHONPATH": ""}))
    found: dict[str, set[str]] = {}
    for each in answer["results"]["failed_checks"]:
        found.setdefault(f"{each['check_id']} {each['check_name']}", set()).add(each["resource"])
    return found


def main() -> None:
    """Compare the findings of all profiles with the explained ones."""
    argparse.ArgumentParser(prog="scripts/scan", description=__doc__).parse_args()
    program = checkov()
    found: dict[str, set[str]] = {}
    for profile in PROFILES:
        with console.step(f"scan the profile {profile}"):
            for check, resources in findings(program, profile).items():
                found.setdefault(check, set()).update(resources)
    explained = {entry.split(" ")[0] for entry in yaml.safe_load(EXCEPTIONS.read_text()).get("scan") or {}}
    new = {check: resources for check, resources in found.items() if check.split(" ")[0] not in explained}
    gone = explained - {check.split(" ")[0] for check in found}
    for check, resources in sorted(found.items()):
        console.say(f"{check}: {len(resources)} resources{'' if check in new else ', explained'}")
    if new or gone:
        raise console.Failure(
            f"{len(new)} findings are new, {len(gone)} explained ones are gone.",
            f"Fix what is new, or explain it under `scan` in {EXCEPTIONS.relative_to(REPO)}; remove what is gone; run `scripts/chart`.",
            "\n".join([*(f"{check}: {', '.join(sorted(resources)[:8])}" for check, resources in new.items()), *gone]),
        )
    console.say(f"{len(found)} kinds of findings in {len(PROFILES)} profiles, all explained")


if __name__ == "__main__":
    console.main(main)
