"""PodSpecs that come from a render, wherever they stand."""

from __future__ import annotations

import json
from typing import Any

import yaml

from support.helm import merged, render
from support.objects import (
    COMPONENT,
    Object,
    containers,
    find,
    kind_and_name,
    labels,
    of_kind,
    pod_makers,
    pod_template,
    serving_runtimes,
)

#: Whatever makes pods is on.
ON: dict[str, Any] = {
    "pipelines": {"enabled": True, "retention": {"enabled": True}},
    "mlflow": {"gc": {"enabled": True}},
    "backup": {"enabled": True, "destination": {"existingClaim": "backups"}},
    "notebooks": {"enabled": True, "profiles": {"gpu": {"enabled": True}}},
}
#: What Kubeflow Pipelines itself states for its two containers.
DRIVER = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}}
LAUNCHER = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}
#: Containers that other programs make: JSON of KServe and settings of Argo, by what they are for.
MADE_BY_OTHERS = ("agent", "batcher", "logger", "router", "storageInitializer")
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_specs(objects: tuple[Object, ...]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every PodSpec that comes from a render, by its maker: whose pods they are, and the spec, ConfigMaps included."""
    found = {
        kind_and_name(thing): (labels(thing)[COMPONENT], pod_template(thing)["spec"]) for thing in pod_makers(objects)
    }
    found |= {kind_and_name(thing): ("models", thing["spec"]) for thing in serving_runtimes(objects)}
    argo = yaml.safe_load(find(objects, "ConfigMap", "iml4e-pipelines-argo")["data"]["config"])
    found["podSpecPatch"] = ("runs", yaml.safe_load(argo["workflowDefaults"]["spec"]["podSpecPatch"]))
    found |= {f"users' servers: {name}": ("users", spec) for name, spec in users(objects).items()}
    job = find(objects, "ConfigMap", "iml4e-runner")["data"]["JOB_POD_SPEC"]
    return {**found, "JOB_POD_SPEC": ("jobs", json.loads(job))}


def users(objects: tuple[Object, ...]) -> dict[str, dict[str, Any]]:
    """Pods of users' servers of notebooks by profile, as the hub makes them of its settings."""
    told = json.loads(find(objects, "ConfigMap", "iml4e-notebooks")["data"]["settings.json"])
    shared = {key: told["server"][key] for key in ("nodeSelector", "tolerations", "affinity")}
    shared |= {"imagePullSecrets": told["imagePullSecrets"], "securityContext": told["podSecurityContext"]}
    container = {"name": "notebook", "image": told["image"], "securityContext": told["containerSecurityContext"]}
    return {
        name: {
            **{key: value for key, value in shared.items() if value},
            "containers": [{**container, "resources": profile["resources"]}],
        }
        for name, profile in told["profiles"].items()
    }


def stated(objects: tuple[Object, ...]) -> dict[str, dict[str, Any]]:
    """Resources of every container that comes from a render, ConfigMaps included."""
    found = {container.name: container.spec["resources"] for container in containers(objects)}
    kserve = find(objects, "ConfigMap", "inferenceservice-config")["data"]
    settings = {name: json.loads(kserve[name]) for name in MADE_BY_OTHERS}
    settings["inferenceService"] = json.loads(kserve["inferenceService"])["resource"]
    for name, setting in settings.items():
        found[name] = {
            f"{kind}s": {what: setting[f"{what}{kind.capitalize()}"] for what in ("cpu", "memory")}
            for kind in ("request", "limit")
        }
    argo = yaml.safe_load(find(objects, "ConfigMap", "iml4e-pipelines-argo")["data"]["config"])
    found |= {name: argo[name]["resources"] for name in ("executor", "mainContainer")}
    found |= {f"users' servers: {name}": spec["containers"][0]["resources"] for name, spec in users(objects).items()}
    return {**found, "Job": json.loads(find(objects, "ConfigMap", "iml4e-runner")["data"]["JOB_RESOURCES"])}


def steps(objects: tuple[Object, ...]) -> dict[str, dict[str, Any]]:
    """Pods of a run: what Kubeflow Pipelines and Argo make, with what the chart lays over them."""
    argo = yaml.safe_load(find(objects, "ConfigMap", "iml4e-pipelines-argo")["data"]["config"])
    over = yaml.safe_load(argo["workflowDefaults"]["spec"]["podSpecPatch"])
    [main] = over.pop("containers")
    own = {"image": "any", **{key: argo["executor"][key] for key in ("resources", "securityContext")}}
    theirs = {"image": "any", "securityContext": RESTRICTED}
    launcher = {"name": "kfp-launcher", **theirs, "resources": LAUNCHER}

    def pod(resources: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
        together = [{**theirs, **main, "resources": resources}, {"name": "wait", **own}]
        return {**over, "initContainers": [{"name": "init", **own}, *more], "containers": together}

    return {"driver": pod(DRIVER), "step": pod(argo["mainContainer"]["resources"], launcher)}


def whole(profile: str, *values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every pod that a release brings about, by its maker, complete enough for the API server to look at."""
    objects = render(profile, merged(ON, *values))
    specs = {
        maker: spec for maker, (_, spec) in pod_specs(objects).items() if "image" in spec.get("containers", [{}])[0]
    }
    config = json.loads(find(objects, "ConfigMap", "inferenceservice-config")["data"]["storageInitializer"])
    sizes = {kind: {"cpu": config[f"cpu{kind}"], "memory": config[f"memory{kind}"]} for kind in ("Request", "Limit")}
    download = {"image": "any", "resources": {"requests": sizes["Request"], "limits": sizes["Limit"]}}
    for thing in of_kind(objects, "ClusterStorageContainer"):  # KServe adds it to pods of models
        specs[kind_and_name(thing)] = {"containers": [{**download, **thing["spec"]["container"]}]}
    return {**specs, **steps(objects)}
