"""The package of the chart: it holds what its reader needs, renders as the folder does, and says the truth of itself to Artifact Hub."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import helm
from support.helm import CHART, REPO, profiles, render_text
from support.registry import registry

#: Rancher keeps a package in a Secret, which holds 1 MiB.
BUDGET = 512 * 1024
#: Profiles that only `make up` uses.
NOT_SHIPPED = {"bare-machine"}


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `helm package` makes of the folder."""
    folder = tmp_path_factory.mktemp("package")
    helm.helm("package", CHART, "--destination", folder)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def unpacked(package: Path) -> Path:
    """The same, unpacked beside it."""
    with tarfile.open(package) as archive:
        archive.extractall(package.parent, filter="data")
    return package.parent / "iml4e"


@pytest.fixture(scope="session")
def annotations(unpacked: Path) -> dict[str, Any]:
    """What the package tells Artifact Hub: each annotation without its prefix, read as YAML."""
    found = yaml.safe_load((unpacked / "Chart.yaml").read_text())["annotations"]
    return {name.removeprefix("artifacthub.io/"): yaml.safe_load(text) for name, text in found.items()}


@pytest.mark.parametrize("profile", profiles())
def test_it_renders_as_the_folder_does(profile: str, package: Path) -> None:
    assert render_text(profile, chart=package) == render_text(profile)


def test_it_is_small(package: Path) -> None:
    assert package.stat().st_size < BUDGET


def test_it_lints(package: Path) -> None:
    helm.lint(chart=package)


def test_it_holds_what_its_reader_needs_and_nothing_else(unpacked: Path) -> None:
    files = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert {path.parts[0] for path in files} == {
        ".helmignore", "Chart.yaml", "LICENSE", "README.md", "charts", "files", "profiles", "templates", "values.schema.json", "values.yaml",
    }  # fmt: skip
    kinds = {path.suffix or path.name for path in files}
    assert kinds <= {".yaml", ".json", ".tpl", ".txt", ".py", ".sh", ".cnf", ".md", "LICENSE", ".helmignore"}
    assert {path.name for path in files if path.suffix == ".md"} == {"README.md"}
    assert (unpacked / "LICENSE").read_text() == (REPO / "LICENSE").read_text()


def test_its_profiles_are_those_of_the_repository(package: Path, unpacked: Path) -> None:
    shipped = {path.stem: path for path in (unpacked / "profiles").iterdir()}
    assert shipped.keys() == set(profiles()) - {"default"} - NOT_SHIPPED
    for name, path in shipped.items():
        files = [shipped[file.stem] for file in helm.profile_files(name)]
        words = [word for file in files for word in ("--values", file)]
        assert path == files[-1]
        assert helm.helm("template", helm.RELEASE, package, "--namespace", helm.NAMESPACE, *words) == render_text(name)


def test_it_travels_through_a_registry(package: Path, tmp_path: Path) -> None:
    version = package.stem.removeprefix("iml4e-")
    with registry() as address:
        helm.helm("push", package, f"oci://{address}/charts", "--plain-http")
        chart = f"oci://{address}/charts/iml4e"
        helm.helm("pull", chart, "--version", version, "--plain-http", "--destination", tmp_path, "--untar")
        rendered = helm.helm(
            "template", helm.RELEASE, chart, "--version", version, "--plain-http", "--namespace", helm.NAMESPACE
        )
    profile = tmp_path / "iml4e" / "profiles" / "laptop.yaml"
    pulled = helm.helm("template", helm.RELEASE, tmp_path / "iml4e", "--namespace", helm.NAMESPACE, "--values", profile)
    assert pulled == render_text("laptop")
    # Helm 4 says there, too, what it pulled
    assert rendered.endswith(render_text())


# --- what it says of itself


def test_its_page_stands_alone(unpacked: Path) -> None:
    """Artifact Hub shows README.md without the repository around it: a link to another file would lead nowhere."""
    page = (unpacked / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", page, re.M)
    }
    assert links
    assert [link for link in links if not link.startswith("https://") and link.removeprefix("#") not in anchors] == []
    rows = re.findall(
        r"^\| `([\w.-]+)\.yaml` \|", page.partition("## Profiles")[2].partition("What the parts request")[0], re.M
    )
    assert set(rows) == {path.stem for path in (unpacked / "profiles").iterdir()}
    named = re.findall(r"iml4e/profiles/([\w-]+\.yaml)", page)
    assert named
    assert all((unpacked / "profiles" / name).exists() for name in named)


def test_it_prints_the_crds_that_an_upgrade_applies(package: Path) -> None:
    printed = re.findall(r"^(?:  |metadata: {)name: ([\w.-]+)}?$", helm.helm("show", "crds", package), re.M)
    assert sorted(printed) == sorted(crd["metadata"]["name"] for crd in helm.custom_resource_definitions())


def test_artifact_hub_gets_the_kinds_that_it_knows(annotations: dict[str, Any]) -> None:
    assert annotations.keys() == {
        "category", "license", "prerelease", "containsSecurityUpdates", "links", "images", "crds", "changes",
    }  # fmt: skip
    assert annotations["category"] == "ai-machine-learning"
    assert f'license = "{annotations["license"]}"' in (REPO / "pyproject.toml").read_text()
    assert {entry["kind"] for entry in annotations["changes"]} <= {
        "added",
        "changed",
        "deprecated",
        "removed",
        "fixed",
        "security",
    }
    assert annotations["containsSecurityUpdates"] is any(
        entry["kind"] == "security" for entry in annotations["changes"]
    )


def test_artifact_hub_gets_the_changes_of_this_version(annotations: dict[str, Any]) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    changelog = (REPO / "CHANGELOG.md").read_text()
    section = changelog.partition(f"\n## [{version}]")[2].partition("\n## [")[0]
    assert len(annotations["changes"]) == len(re.findall(r"^- ", section, re.M)) > 0
    assert annotations["prerelease"] is ("-" in version)


def test_artifact_hub_scans_every_image(annotations: dict[str, Any]) -> None:
    """Those that pods start with, and those that KServe's ConfigMap names."""
    on = {
        "backup": {"enabled": True, "destination": {"existingClaim": "backups"}},
        "pipelines": {"retention": {"enabled": True}},
    }
    hosts = {each["image"].partition("/")[0] for each in annotations["images"]}
    rendered = set(re.findall(rf"(?:{'|'.join(map(re.escape, hosts))})/[\w./-]+:[\w.-]+", render_text("default", on)))
    assert {each["image"] for each in annotations["images"]} == rendered


def test_artifact_hub_shows_every_crd(annotations: dict[str, Any]) -> None:
    wanted = {
        (crd["spec"]["names"]["kind"], crd["metadata"]["name"], version["name"])
        for crd in helm.custom_resource_definitions()
        for version in crd["spec"]["versions"]
        if version["storage"]
    }
    assert {(each["kind"], each["name"], each["version"]) for each in annotations["crds"]} == wanted
    assert all(each["displayName"] and each["description"] for each in annotations["crds"])
