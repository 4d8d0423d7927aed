"""PodSpecs that come from a render, wherever they stand."""

from __future__ import annotations

import json
from typing import Any

import yaml

from support.objects import COMPONENT, Object, find, kind_and_name, labels, pod_makers, pod_template, serving_runtimes


def pod_specs(objects: tuple[Object, ...]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every PodSpec that comes from a render, by its maker: whose pods they are, and the spec, ConfigMaps included."""
    found = {
        kind_and_name(thing): (labels(thing)[COMPONENT], pod_template(thing)["spec"]) for thing in pod_makers(objects)
    }
    found |= {kind_and_name(thing): ("models", thing["spec"]) for thing in serving_runtimes(objects)}
    argo = yaml.safe_load(find(objects, "ConfigMap", "iml4e-pipelines-argo")["data"]["config"])
    found["podSpecPatch"] = ("runs", yaml.safe_load(argo["workflowDefaults"]["spec"]["podSpecPatch"]))
    job = find(objects, "ConfigMap", "iml4e-runner")["data"]["JOB_POD_SPEC"]
    return {**found, "JOB_POD_SPEC": ("jobs", json.loads(job))}
