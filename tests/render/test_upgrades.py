"""Upgrades from every released chart, without a cluster: what the API server never lets change, and values of an earlier chart."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from iml4e import upgrade
from support import helm
from support.helm import HelmError

PACKAGES = sorted((helm.REPO / "tests" / "releases").glob("iml4e-*.tgz"))
#: Fields that cannot be changed, by kind.
FIXED = {
    "Deployment": ("spec.selector",),
    "StatefulSet": ("spec.selector", "spec.serviceName", "spec.podManagementPolicy", "spec.volumeClaimTemplates"),
    "DaemonSet": ("spec.selector",),
    "Job": ("spec.template", "spec.selector", "spec.completionMode"),
    "Service": ("spec.clusterIP",),
    "PersistentVolumeClaim": ("spec",),
    "RoleBinding": ("roleRef",),
    "ClusterRoleBinding": ("roleRef",),
    "GatewayClass": ("spec.controllerName",),
    "Secret": ("type", "immutable"),
    "ConfigMap": ("immutable",),
}
EVERYTHING = {"pipelines": {"enabled": True, "retention": {"enabled": True}}, "mlflow": {"gc": {"enabled": True}}}


def rendered(chart: Path, package: Path) -> dict[tuple[str, str], Any]:
    """Objects of a chart with a released profile and all parts, by kind and name."""
    text = helm._with_values(
        ["template", helm.RELEASE, chart, "--namespace", helm.NAMESPACE, "--is-upgrade"], [package.with_suffix(".yaml")], EVERYTHING
    )  # fmt: skip
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in yaml.load_all(text, helm.LOADER) if thing}


def field(thing: Any, path: str) -> Any:
    """A field of an object; what differs by the chart's version alone is left out."""
    for key in path.split("."):
        thing = (thing or {}).get(key)
    return thing


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.stem)
def test_no_upgrade_changes_what_cannot_be_changed(package: Path) -> None:
    before, after = rendered(package, package), rendered(helm.CHART, package)
    common = [key for key in before.keys() & after.keys() if key[0] in FIXED]
    assert {kind for kind, _ in common} >= {"Deployment", "StatefulSet", "Service", "RoleBinding", "ClusterRoleBinding"}
    changed = [
        f"{kind} {name}: {path}"
        for kind, name in sorted(common)
        for path in FIXED[kind]
        if field(before[kind, name], path) != field(after[kind, name], path)
    ]
    assert not changed


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.stem)
def test_values_of_an_earlier_chart_are_refused_with_a_sentence(package: Path, tmp_path: Path) -> None:
    """As `--reuse-values` has it: the defaults of the umbrella are the earlier chart's, those of its parts lie below."""
    chart = tmp_path / "iml4e"
    subprocess.run(["cp", "-r", helm.CHART, chart], check=True)
    earlier = yaml.load(helm.helm("show", "values", package), helm.LOADER)
    (chart / "values.yaml").write_text(json.dumps(earlier))
    with pytest.raises(HelmError) as refused:
        helm.helm("template", helm.RELEASE, chart, "--is-upgrade", "--values", package.with_suffix(".yaml"))
    (finding,) = refused.value.findings
    assert re.fullmatch(
        r"The values lack [\w., ]+: they are those of an earlier version of the chart\. Upgrade with --reset-then-reuse-values "
        r"instead of --reuse-values\. Where null removed one, give it an empty value instead\.",
        finding,
    )


def test_objects_are_told_apart_by_their_text() -> None:
    """`iml4e upgrade` hands CRDs and objects to kubectl as text, and names those with conflicts."""
    text = "\n---\n".join(path.read_text() for path in helm.CHART.rglob("crds/*.yaml"))
    found = upgrade.documents(text)
    assert all(map(upgrade.is_crd, found))
    assert sorted(map(upgrade._name, found)) == sorted(
        crd["metadata"]["name"] for crd in helm.custom_resource_definitions()
    )
    objects = upgrade.documents(helm.render_text())
    assert not any(map(upgrade.is_crd, objects))
    wanted = [f"{thing['kind']} {thing['metadata']['name']}" for thing in helm.render()]
    assert sorted(map(upgrade._name, objects)) == sorted(wanted)
