"""Write what the package of the chart says of itself: README.md, profiles, licence, annotations for Artifact Hub. Called by scripts/chart."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.common import console
from scripts.common.paths import REPO
from scripts.harness import marks

CHART = REPO / "charts" / "iml4e"
#: Profiles that make no sense without the repository.
OWN_PROFILES = {"bare-machine"}
#: Line in Chart.yaml below which the annotations are written.
MARK = "  # Written by scripts/chart, from CHANGELOG.md, the values, the CRDs and Chart.yaml of the parts"
#: Values that README.md shows; docs/values.md has all.
VALUES = (
    "global.publicUrl", "gateway.service.type", "gateway.service.nodePort", "gateway.tls.enabled", "gateway.allowAnonymous",
    "global.imageRegistry", "global.imagePullSecrets", "global.storageClass", "minio.persistence.size", "mariadb.persistence.size",
    "minio.enabled", "global.s3.endpoint", "mariadb.enabled", "global.database.host", "global.caCertificate.existingConfigMap",
    "pipelines.enabled", "kserve.controller.enabled", "grafana.anonymous.enabled", "prometheus.retention.time", "global.monitoring.mode",
    "global.gateway.name", "global.networkPolicy.enabled", "global.securityContext", "global.nodeSelector", "global.gpuPools",
    "backup.enabled", "backup.destination.s3",
)  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def images(node: Any) -> Iterator[dict[str, str]]:
    """The images that values name: maps with registry, repository and tag."""
    if isinstance(node, dict):
        if {"registry", "repository", "tag"} <= node.keys():
            yield node
        for child in node.values():
            yield from images(child)


def parts() -> dict[str, tuple[dict[str, Any], list[dict[str, str]]]]:
    """Each part's Chart.yaml, and its images; without any of its own, those that all parts share."""
    shared = list(images(read(CHART / "values.yaml")["global"]))
    found = {}
    for dependency in read(CHART / "Chart.yaml")["dependencies"]:
        folder = CHART / "charts" / dependency["name"]
        own = {key: value for key, value in read(folder / "values.yaml").items() if key != "global"}
        found[dependency["name"]] = (read(folder / "Chart.yaml"), list(images(own)) or shared)
    return found


def changes(version: str) -> list[dict[str, str]]:
    """The entries of a version in CHANGELOG.md, whose headings are the kinds of Artifact Hub."""
    found = re.search(
        rf"^## \[{re.escape(version)}\].*?\n(.*?)(?=^## |\Z)", (REPO / "CHANGELOG.md").read_text(), re.M | re.S
    )
    if not found:
        raise console.Failure(
            f"CHANGELOG.md has no section {version}.", "Call the section of the release by the version in Chart.yaml."
        )
    entries = []
    for kind, text in re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", found[1], re.M | re.S):
        for entry in re.findall(r"^- (.*?)(?=^- |\Z)", text, re.M | re.S):
            entries.append({"kind": kind.lower(), "description": " ".join(entry.split())})
    return entries


def crds() -> Iterator[dict[str, str]]:
    """The CRDs of the parts."""
    for path in sorted(CHART.glob("charts/*/crds/*.yaml")):
        # a megabyte of schemas, which would take seconds to read
        crd = yaml.safe_load(re.sub(r"^ {8,}.*\n", "", path.read_text(), flags=re.M))
        kind = crd["spec"]["names"]["kind"]
        (stored,) = (version["name"] for version in crd["spec"]["versions"] if version["storage"])
        yield {
            "kind": kind, "version": stored, "name": crd["metadata"]["name"], "displayName": kind,
            "description": f"Part {path.parts[-3]}",
        }  # fmt: skip


def annotations() -> dict[str, Any]:
    """What Artifact Hub shows of a version, https://artifacthub.io/docs/topics/annotations/helm."""
    version = read(CHART / "Chart.yaml")["version"]
    entries = changes(version)
    named = {
        f"{each['registry']}/{each['repository']}:{each['tag']}" for _, found in parts().values() for each in found
    }
    return {
        "prerelease": "true" if "-" in version else "false",
        "containsSecurityUpdates": "true" if any(entry["kind"] == "security" for entry in entries) else "false",
        "links": [{"name": name, "url": chart["home"]} for name, (chart, _) in parts().items() if "home" in chart],
        "images": [{"name": re.split("[/:]", image)[-2], "image": image} for image in sorted(named)],
        "crds": list(crds()),
        "changes": entries,
    }


def chart_yaml() -> str:
    """Chart.yaml with the annotations of its version."""
    before, mark, _ = (CHART / "Chart.yaml").read_text().partition(MARK)
    if not mark:
        raise console.Failure(f"Chart.yaml lacks the line {MARK}.", "Put it back at the end of the annotations.")
    text = f"{before}{MARK}\n  # yamllint disable rule:line-length\n"
    for name, value in annotations().items():
        if isinstance(value, str):
            text += f'  artifacthub.io/{name}: "{value}"\n'
        else:
            lines = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10000, default_flow_style=None)
            text += f"  artifacthub.io/{name}: |\n{textwrap.indent(lines, '    ')}"
    return text


def plain(text: str) -> str:
    """Markdown without links to other pages of the repository, which a reader of the package does not have."""
    text = re.sub(r"\[([^]]+)\]\((?:\.\./)?(docs/[\w.-]+)[^)]*\)", r"\1 (`\2`)", text)
    return re.sub(r"\[([^]]+)\]\((?![a-z]+:)[^)]*\)", r"\1", text)


def table(page: str, heading: str) -> str:
    """The table of values/README.md whose first column is called so."""
    found = re.search(rf"^\| {re.escape(heading)} \|(?:.*\n)(?:\|.*\n)+", page, re.M)
    if not found:
        raise console.Failure(
            f"values/README.md has no table with a column '{heading}'.",
            "Call it so again, or change scripts/harness/package.py.",
        )
    return plain(found[0])


def readme(described: Mapping[str, tuple[str, str]]) -> str:
    """README.md with its tables: parts, values, and what values/README.md says of the profiles."""
    page = (REPO / "values" / "README.md").read_text()
    rows = ["| part | what it is | version | images |", "| --- | --- | --- | --- |"]
    for name, (chart, found) in parts().items():
        listed = ", ".join(sorted({f"`{image['repository']}:{image['tag']}`" for image in found}))
        rows.append(f"| `{name}` | {chart['description']} | {chart.get('appVersion', chart['version'])} | {listed} |")
    values = ["| value | default | meaning |", "| --- | --- | --- |"]
    for name in VALUES:
        if name not in described:
            raise console.Failure(f"There is no value {name}.", "Correct VALUES in scripts/harness/package.py.")
        default, said = described[name]
        values.append(f"| `{name}` | {default} | {plain(said).replace('|', chr(92) + '|')} |")
    profiles = table(page, "profile").splitlines()
    written = {
        "parts": "\n".join(rows),
        "values": "\n".join(values),
        "profiles": "\n".join(line for line in profiles if not any(f"`{name}.yaml`" in line for name in OWN_PROFILES)),
        "sizes": table(page, "file, on what it needs").rstrip(),
        "cloud": table(page, "object in the release's namespace").rstrip(),
    }
    text = (CHART / "README.md").read_text()
    for name, content in written.items():
        begin, end = f"<!-- {name}: written by scripts/chart -->\n", f"<!-- end of {name} -->\n"
        text = marks.between(text, begin, end, f"\n{content}\n\n", "charts/iml4e/README.md")
    return text


def files(described: Mapping[str, tuple[str, str]]) -> dict[Path, str]:
    """The files that only the package needs, with their content. `described`: default and meaning of each value."""
    out = {
        CHART / "Chart.yaml": chart_yaml(),
        CHART / "README.md": readme(described),
        CHART / "LICENSE": (REPO / "LICENSE").read_text(),
    }
    for path in sorted((REPO / "values").glob("*.yaml")):
        if path.stem not in OWN_PROFILES:
            head = f"# Written by scripts/chart from values/{path.name} of the repository: do not edit.\n"
            out[CHART / "profiles" / path.name] = head + path.read_text()
    return out
