"""A software bill of materials (CycloneDX JSON) of every image that this repository builds, and the list of their licences.

Syft, built from the Go module proxy, reads the images' archives in the cache: what is inside, not what was asked for.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.bare import golang, images
from scripts.common import console
from scripts.common.paths import CACHE, REPO

SYFT = "v1.57.1"
FOLDER = REPO / "reports" / "sbom"
PAGE = REPO / "docs" / "licences.md"
#: Ecosystem of a package URL: how the page calls it.
KINDS = {"deb": "Debian", "golang": "Go", "pypi": "Python"}
#: Licences that ask for more than to be named, by the beginning of their identifiers, strongest first.
DUTIES = {
    "AGPL": "offer the source to users over the network too",
    "GPL": "pass the source on with the program",
    "LGPL": "pass the library's source on; users may replace it",
    "MPL": "pass changed files on as source",
    "EPL": "pass changed files on as source",
}

Component = dict[str, Any]


def syft() -> Path:
    """Build Syft unless the cache has it."""
    folder = CACHE / "programs" / f"syft-{SYFT}"
    built = folder / "syft"
    if not built.exists():
        with console.step(f"build Syft {SYFT}"):
            environment = golang.environment() | {"GOBIN": str(folder), "GOFLAGS": "-trimpath"}
            console.run(
                ["go", "install", "-ldflags=-s -w", f"github.com/anchore/syft/cmd/syft@{SYFT}"],
                env=environment,
                log=CACHE / "log" / "go-build.log",
                cure="Run the same command again: what was compiled is kept.",
            )
    return built


def scan(image: images.Image, program: Path) -> Path:
    """Write the bill of materials of an image."""
    bill = FOLDER / f"{image.name}.cdx.json"
    environment = {
        "SYFT_CHECK_FOR_APP_UPDATE": "false",
        # the modules that the images were built from lie there, with their licences
        "SYFT_GOLANG_SEARCH_LOCAL_MOD_CACHE_LICENSES": "true",
        "SYFT_GOLANG_LOCAL_MOD_CACHE_DIR": str(CACHE / "go" / "mod"),
        "SYFT_PARALLELISM": "1",
        "TMPDIR": str(CACHE / "tmp"),
    }
    name, _, tag = image.reference.rpartition(":")
    source = ["--source-name", name, "--source-version", tag]
    words = [program, "scan", f"docker-archive:{images.archive(image)}", "-q", *source, "-o", f"cyclonedx-json={bill}"]
    console.run(words, env=environment)
    return bill


def packages(bill: Path) -> list[Component]:
    """The packages in a bill of materials: a purl tells them from files and from the image itself."""
    found = json.loads(bill.read_text()).get("components", [])
    return [each for each in found if each.get("purl")]


def kind(package: Component) -> str:
    """Debian, Go, Python, or whatever else a package is."""
    ecosystem = re.match(r"pkg:(\w+)", package["purl"])[1]
    return KINDS.get(ecosystem, ecosystem)


def licences(package: Component) -> list[str]:
    """Licences of a package: identifiers of SPDX, or names where it has none."""
    found = []
    for each in package.get("licenses", []):
        entry = each.get("license", {})
        text = each.get("expression") or entry.get("id") or entry.get("name") or ""
        # some packages give the whole text instead of a name
        found.append(" ".join(text.split()) if len(text) < 80 else "(text)")
    return sorted(set(filter(None, found)))


def page(bills: dict[str, list[Component]]) -> str:
    """docs/licences.md."""
    by_licence: dict[str, dict[str, set[str]]] = {}
    silent: dict[str, set[str]] = {}
    for name, found in bills.items():
        for package in found:
            said = licences(package)
            if not said:
                silent.setdefault(kind(package), set()).add(package["name"])
            for licence in said:
                entry = by_licence.setdefault(licence, {"packages": set(), "images": set()})
                entry["packages"].add(package["name"])
                entry["images"].add(name)
    lines = [
        "# Licences",
        "",
        "Written by `make sbom` from the images that `make images` builds. The same command writes a bill of materials of each image, CycloneDX JSON, into",
        "`reports/sbom/`: every package with version, package URL and licence. This repository's own code is under Apache-2.0.",
        "",
        "| image | Debian | Go | Python | other |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in bills.items():
        counts = [sum(kind(each) == wanted for each in found) for wanted in KINDS.values()]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {len(found) - sum(counts)} |")
    lines += ["", "## With duties", "", "| licence | packages | images | duty |", "| --- | --- | --- | --- |"]
    for licence, entry in sorted(by_licence.items()):
        if duty := next((DUTIES[name] for name in DUTIES if re.search(rf"\b{name}(-|v|\b)", licence)), ""):
            lines.append(f"| {licence} | {listed(entry['packages'])} | {listed(entry['images'])} | {duty} |")
    lines += ["", "## All", "", "| licence | packages |", "| --- | --- |"]
    lines += [
        f"| {licence.replace('|', '/')} | {len(entry['packages'])} |"
        for licence, entry in sorted(by_licence.items(), key=lambda item: (-len(item[1]["packages"]), item[0]))
    ]
    lines += ["", "## Not told", "", "Packages whose image holds no licence of theirs:", ""]
    told = set().union(*(entry["packages"] for entry in by_licence.values()))
    untold = {which: names - told for which, names in sorted(silent.items())}
    lines += [f"- {which}, {len(names)}: {listed(names)}" for which, names in untold.items() if names] or ["- none"]
    return "\n".join(lines) + "\n"


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names, the first of many."""
    found = sorted(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def main() -> None:
    """Write the bills and the page."""
    wanted = [image for image in images.wanted() if images.archive(image).exists()]
    if lacking := [image.name for image in images.wanted() if image not in wanted]:
        raise console.Failure(f"The images {', '.join(lacking)} are not built.", "Run `make images` first.")
    program = syft()
    FOLDER.mkdir(parents=True, exist_ok=True)
    bills = {}
    for image in wanted:
        with console.step(f"read the image {image.name}"):
            bills[image.name] = packages(scan(image, program))
    PAGE.write_text(page(bills))
    console.say(f"{sum(map(len, bills.values()))} packages in {len(bills)} images: {FOLDER}/*.cdx.json, {PAGE}")
