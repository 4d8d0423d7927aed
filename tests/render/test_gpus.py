"""GPU pools: what a pod that requests a GPU gets, and that no other pod gets it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.helm import CHART, HelmError, merged, render
from support.objects import Object, find, kind_and_name, of_kind, pod_makers
from support.pods import ON, pod_specs

POLICY, BINDING = "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
POOL = {
    "resources": ["nvidia.com/gpu", "nvidia.com/mig-"],
    "nodeSelector": {"nvidia.com/gpu.present": "true", "disk": "s.s_d-1"},
    "tolerations": [TAINT, {"key": "lent", "effect": "NoExecute", "tolerationSeconds": 30}],
    "runtimeClassName": "nvidia",
}


def rendered(pool: dict[str, Any], version: str = "1.36", **values: Any) -> tuple[Object, ...]:
    """The release with one pool."""
    pools = {"global": {"gpuPools": {"one": pool}}}
    return render("laptop", merged(pools, values), options=("--kube-version", version))


def patches(policy: Object) -> str:
    """The expression of a policy, without the folds of YAML."""
    [mutation] = policy["spec"]["mutations"]
    return re.sub(r"\s+", " ", mutation["jsonPatch"]["expression"])


def test_pods_get_the_settings_of_their_pool() -> None:
    objects = rendered(POOL)
    place, run = (find(objects, POLICY, f"iml4e-gpu-one{suffix}") for suffix in ("", "-runtime"))
    said = patches(place)
    assert '"/spec/nodeSelector/nvidia.com~1gpu.present", value: "true"' in said
    assert '"/spec/nodeSelector/disk", value: "s.s_d-1"' in said
    assert 'Object.spec.tolerations{effect: "NoSchedule", key: "nvidia.com/gpu", operator: "Exists"}' in said
    assert 'Object.spec.tolerations{effect: "NoExecute", key: "lent", tolerationSeconds: 30}' in said
    assert "runtimeClassName" not in said
    # the class is the parameter: a cluster without the class asks for none
    assert 'path: "/spec/runtimeClassName", value: params.metadata.name' in patches(run)
    assert run["spec"]["paramKind"] == {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass"}
    assert find(objects, BINDING, "iml4e-gpu-one-runtime")["spec"]["paramRef"] == {
        "name": "nvidia",
        "parameterNotFoundAction": "Allow",
    }
    assert "paramRef" not in find(objects, BINDING, "iml4e-gpu-one")["spec"]


def test_only_pods_of_the_release_that_request_a_gpu_are_changed() -> None:
    for policy in of_kind(rendered(POOL), POLICY):
        where = policy["spec"]["matchConstraints"]
        assert where["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "iml4e"}}
        [rule] = where["resourceRules"]
        assert (rule["resources"], rule["operations"]) == (["pods"], ["CREATE"])
        [condition] = policy["spec"]["matchConditions"]
        assert 'exists(r, r == "nvidia.com/gpu" || r.startsWith("nvidia.com/mig-"))' in condition["expression"]
        # a second time would add each toleration again
        assert policy["spec"]["reinvocationPolicy"] == "Never"


@pytest.mark.parametrize("key", ["nodeSelector", "tolerations", "runtimeClassName"])
def test_each_setting_works_alone(key: str) -> None:
    objects = rendered({"resources": ["amd.com/gpu"], key: POOL[key]})
    [policy], [binding] = of_kind(objects, POLICY), of_kind(objects, BINDING)
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert f"/spec/{key}" in patches(policy)


def test_what_needs_no_policy_has_none() -> None:
    for objects in (
        render("laptop"),
        rendered({"resources": ["nvidia.com/gpu"]}),
        rendered(POOL, "1.35"),
        rendered(POOL, mlflow={"enabled": False}, kserve={"enabled": False}, pipelines={"enabled": False}),
    ):
        assert of_kind(objects, POLICY, BINDING) == []


def test_an_older_kubernetes_is_told_in_the_notes(tmp_path: Path) -> None:
    """`helm template` says no notes, and `helm install` knows no other version: a chart whose notes are a ConfigMap."""
    chart = tmp_path / "iml4e"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("crds"))
    notes = chart / "templates" / "NOTES.txt"
    (chart / "templates" / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{notes.read_text()}{{{{ end }}}}')
    (chart / "templates" / "notes.yaml").write_text(
        'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {said: {{ include "notes" . | toJson }}}\n'
    )
    notes.unlink()

    def said(version: str) -> str:
        values = {"global": {"gpuPools": {"one": POOL}}}
        return find(render(values=values, chart=chart, options=("--kube-version", version)), "ConfigMap", "notes")[
            "data"
        ]["said"]

    assert "do not get the settings of global.gpuPools, which needs Kubernetes 1.36: models name them" in said("1.35")
    assert "global.gpuPools" not in said("1.36")


def test_the_profile_keeps_parts_and_plain_work_off_gpu_nodes() -> None:
    objects = render("gpu-cluster", ON, options=("--kube-version", "1.36"))
    specs = pod_specs(objects)
    assert len(specs) > 20
    assert [maker for maker, (_, spec) in specs.items() if {"tolerations", "nodeSelector"} & spec.keys()] == []
    assert [kind_and_name(maker) for maker in pod_makers(objects) if "nvidia" in json.dumps(maker)] == []
    conditions = {policy["spec"]["matchConditions"][0]["expression"] for policy in of_kind(objects, POLICY)}
    [condition] = conditions
    for name in ("nvidia.com/gpu", "nvidia.com/gpu.shared"):
        assert f'r == "{name}"' in condition
    assert 'r.startsWith("nvidia.com/mig-")' in condition
    assert 'key: "nvidia.com/gpu", operator: "Exists"' in patches(find(objects, POLICY, "iml4e-gpu-nvidia"))


@pytest.mark.parametrize(
    ("pools", "place"),
    [
        ({"one": {"nodeSelector": {"a": "b"}}}, "global.gpuPools.one names no resources"),
        ({"one": None}, "/global/gpuPools/one"),
        ({"one": {}}, "global.gpuPools.one names no resources"),
        ({"one": {"resources": []}}, "/global/gpuPools/one/resources"),
        ({"one": {"resources": ["gpu"]}}, "/global/gpuPools/one/resources/0"),
        ({"one": {"resources": ["nvidia.com/gpu"], "nodeSelectr": {}}}, "/global/gpuPools/one"),
        ({"One": {"resources": ["nvidia.com/gpu"]}}, "'One' does not match pattern"),
        ({"one": {"resources": ["nvidia.com/gpu"], "runtimeClassName": "NVIDIA"}}, "runtimeClassName"),
    ],
    ids=json.dumps,
)
def test_a_pool_that_could_not_work_is_refused_by_name(pools: dict[str, Any], place: str) -> None:
    with pytest.raises(HelmError, match=re.escape(place)):
        render("laptop", {"global": {"gpuPools": pools}})
