"""Write the custom resource definitions that the chart ships, from pinned Go modules.

scripts/crds           write charts/iml4e/charts/<part>/crds/
scripts/crds --check   fail when a file differs from its module, is missing or is one too many

Needs PyYAML, which the environment of the harness has. The schemas are upstream's, whole, without their prose:
descriptions are dropped, so that the API server has less to hold and a change of schema shows in a diff.
A kind that only a controller writes may be left without a schema of its spec and status, where that is very large.
"""

import argparse
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from scripts.bare import golang
from scripts.common import console
from scripts.common.paths import REPO

CHARTS = REPO / "charts" / "iml4e" / "charts"

#: A field that takes anything.
FREE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@dataclass(frozen=True)
class Source:
    """The definitions of one subchart: a Go module, its version, and files in it."""

    part: str
    module: str
    version: str
    files: tuple[str, ...]
    sum: str = ""
    """Its checksum, where Go's checksum database does not know the version."""
    loose: tuple[str, ...] = ()
    """Plurals of the kinds whose spec and status get no schema."""
    own: tuple[str, ...] = ()
    """Plurals of definitions in the same folder that are our own: written by hand, left alone."""


SOURCES = (
    Source(
        part="kserve",
        module="github.com/kserve/kserve",
        version="v0.20.0",
        # Each of these is watched or listed by the controller in any mode, whether it is used or not.
        files=(
            "config/crd/full/serving.kserve.io_inferenceservices.yaml",
            "config/crd/full/serving.kserve.io_servingruntimes.yaml",
            "config/crd/full/serving.kserve.io_clusterservingruntimes.yaml",
            "config/crd/full/serving.kserve.io_trainedmodels.yaml",
            "config/crd/full/serving.kserve.io_inferencegraphs.yaml",
            "config/crd/full/clusterstoragecontainer/serving.kserve.io_clusterstoragecontainers.yaml",
        ),
    ),
    Source(
        part="gateway",
        module="sigs.k8s.io/gateway-api",
        version="v1.6.3",
        # The platform uses the first three; Traefik routes nothing until it has listed the others as well.
        files=(
            "config/crd/standard/gateway.networking.k8s.io_gatewayclasses.yaml",
            "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
            "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
            "config/crd/standard/gateway.networking.k8s.io_referencegrants.yaml",
            "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",
            "config/crd/standard/gateway.networking.k8s.io_tlsroutes.yaml",
            "config/crd/standard/gateway.networking.k8s.io_backendtlspolicies.yaml",
        ),
    ),
    Source(
        part="pipelines",
        module="github.com/argoproj/argo-workflows/v4",
        version="v4.0.5",
        sum="h1:/1lru5oXUd+k6KEDUps6rLX5OKfi1jTfabgXTly/VFU=",
        # The controller waits for each of these, used or not; only without cronworkflows it would go on, and complain.
        files=(
            "manifests/base/crds/minimal/argoproj.io_workflows.yaml",
            "manifests/base/crds/minimal/argoproj.io_workflowtemplates.yaml",
            "manifests/base/crds/minimal/argoproj.io_cronworkflows.yaml",
            "manifests/base/crds/minimal/argoproj.io_workflowtasksets.yaml",
            "manifests/base/crds/minimal/argoproj.io_workflowtaskresults.yaml",
            "manifests/base/crds/minimal/argoproj.io_workflowartifactgctasks.yaml",
        ),
        # 440 kB, the whole of a Workflow again, in upstream's "minimal" set: its Workflow itself has no schema
        loose=("workflowtasksets",),
        # Kubeflow Pipelines' own, which is in no module
        own=("scheduledworkflows",),
    ),
)


def module_dir(source: Source) -> Path:
    """Download the module (the Go tool checks its checksum) and return the folder it was unpacked to."""
    done = subprocess.run(
        [golang.goroot() / "bin" / "go", "mod", "download", "-json", f"{source.module}@{source.version}"],
        cwd="/",  # outside any module, so that no go.mod has a say
        env={**os.environ, **golang.environment(), **({"GONOSUMDB": source.module} if source.sum else {})},
        capture_output=True,
        text=True,
    )
    try:
        answer = json.loads(done.stdout or "{}")
    except json.JSONDecodeError:
        answer = {}
    if done.returncode or "Dir" not in answer:
        reason = answer.get("Error") or done.stderr.strip()
        raise console.Failure(
            f"The module {source.module}@{source.version} cannot be downloaded.",
            "Check that this machine reaches the Go module proxy (GOPROXY).",
            str(reason),
        )
    if source.sum and answer.get("Sum") != source.sum:
        raise console.Failure(
            f"The module {source.module}@{source.version} has checksum {answer.get('Sum')}, not {source.sum}.",
            "Compare the module with its source: the module or the pinned checksum has changed.",
        )
    return Path(answer["Dir"])


def without_descriptions(schema: object, named: bool = False) -> object:
    """Copy a schema without its descriptions.

    `named` says that the keys at this level are names of fields, and a field may have the name "description".
    """
    if isinstance(schema, dict):
        return {
            key: without_descriptions(value, named=key in ("properties", "patternProperties") and not named)
            for key, value in schema.items()
            if named or key != "description"
        }
    if isinstance(schema, list):
        return [without_descriptions(item) for item in schema]
    return schema


def render(source: Source, text: str) -> str:
    """One definition as the chart ships it: a line on its origin, no descriptions, no status."""
    crd = yaml.safe_load(text)
    for version in crd["spec"]["versions"]:
        if crd["spec"]["names"]["plural"] in source.loose:
            for part in {"spec", "status"} & version["schema"]["openAPIV3Schema"]["properties"].keys():
                version["schema"]["openAPIV3Schema"]["properties"][part] = FREE
        version["schema"]["openAPIV3Schema"] = without_descriptions(version["schema"]["openAPIV3Schema"])
        for column in version.get("additionalPrinterColumns", ()):
            column.pop("description", None)
    crd.pop("status", None)
    body = yaml.safe_dump(crd, sort_keys=False, default_flow_style=None, width=4096, allow_unicode=True)
    return f"# Generated by scripts/crds from {source.module} {source.version}: do not edit.\n{body}"


def wanted() -> dict[Path, str]:
    """Every file that the crds/ folders must hold, with its content."""
    files = {}
    for source in SOURCES:
        root = module_dir(source)
        for name in source.files:
            plural = Path(name).stem.rpartition("_")[2]
            files[CHARTS / source.part / "crds" / f"{plural}.yaml"] = render(source, (root / name).read_text())
    return files


def main() -> None:
    """Write the files, or with --check only compare them."""
    parser = argparse.ArgumentParser(prog="scripts/crds", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is not as it should be")
    check = parser.parse_args().check

    files = wanted()
    present = {
        path
        for source in SOURCES
        for path in (CHARTS / source.part / "crds").glob("*.yaml")
        if path.stem not in source.own
    }
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    extra = sorted(present - files.keys())
    if check:
        if stale or extra:
            raise console.Failure(
                f"{len(stale + extra)} files below {CHARTS.relative_to(REPO)} differ from their modules.",
                "Run `scripts/crds`, and commit what it writes.",
                "\n".join(str(path.relative_to(CHARTS)) for path in stale + extra),
            )
        return
    for path in extra:
        path.unlink()
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
        print(f"wrote {path.relative_to(CHARTS)}")


if __name__ == "__main__":
    console.main(main)
