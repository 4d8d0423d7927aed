"""Reading rendered objects: names, pods, containers, and what they refer to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

NAME, INSTANCE, COMPONENT = (f"app.kubernetes.io/{word}" for word in ("name", "instance", "component"))


def kind_and_name(thing: Object) -> str:
    """`Kind/name`: how tests and messages call an object."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    """The objects of some kinds."""
    return [thing for thing in objects if thing["kind"] in kinds]


def find(objects: Iterable[Object], kind: str, name: str) -> Object:
    """The object of that kind and name; its absence is the caller's failure."""
    objects = list(objects)
    for thing in objects:
        if (thing["kind"], thing["metadata"]["name"]) == (kind, name):
            return thing
    there = ", ".join(sorted(kind_and_name(thing) for thing in of_kind(objects, kind))) or "none"
    raise AssertionError(f"No {kind}/{name} in the render; of that kind there is: {there}")


def labels(thing: Object) -> dict[str, str]:
    """Labels of an object."""
    return thing["metadata"].get("labels") or {}


def annotations(thing: Object) -> dict[str, str]:
    """Annotations of an object."""
    return thing["metadata"].get("annotations") or {}


def pod_template(thing: Object) -> Object | None:
    """The pod template of an object that makes pods, a Pod itself included; None for all else."""
    match thing["kind"]:
        case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
            return thing["spec"]["template"]
        case "CronJob":
            return thing["spec"]["jobTemplate"]["spec"]["template"]
        case "Pod":
            return thing
    return None


def pod_makers(objects: Iterable[Object]) -> list[Object]:
    """Objects that make pods."""
    return [thing for thing in objects if pod_template(thing)]


def serving_runtimes(objects: Iterable[Object]) -> list[Object]:
    """KServe's runtimes: their containers become the model pods."""
    return of_kind(objects, "ClusterServingRuntime", "ServingRuntime")


@dataclass(frozen=True)
class Container:
    """A container, and where it was found."""

    owner: str
    spec: Object
    pod: Object
    init: bool

    @property
    def name(self) -> str:
        """`Kind/name container`: how tests and messages call it."""
        return f"{self.owner} {self.spec['name']}"


def containers(objects: Iterable[Object]) -> Iterator[Container]:
    """Every container that the objects bring about: of workloads, and of serving runtimes."""
    for thing in objects:
        template = pod_template(thing)
        pod = template["spec"] if template else thing["spec"] if serving_runtimes([thing]) else None
        if pod:
            for key, init in (("initContainers", True), ("containers", False)):
                for spec in pod.get(key) or []:
                    yield Container(kind_and_name(thing), spec, pod, init)


def references(thing: Object) -> Iterator[tuple[str, str, str | None]]:
    """(kind, name, key) of each Secret, ConfigMap, ServiceAccount and claim that a pod maker cannot do without."""
    template = pod_template(thing)
    if not template:
        return
    pod = template["spec"]
    own_claims = {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", [])}
    if name := pod.get("serviceAccountName"):
        yield "ServiceAccount", name, None
    for volume in pod.get("volumes", []):
        yield from _volume_references(volume)
        if (claim := volume.get("persistentVolumeClaim")) and volume["name"] not in own_claims:
            yield "PersistentVolumeClaim", claim["claimName"], None
    for container in containers([thing]):
        for source in container.spec.get("envFrom", []):
            for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if (reference := source.get(field)) and not reference.get("optional"):
                    yield kind, reference["name"], None
        for variable in container.spec.get("env", []):
            source = variable.get("valueFrom") or {}
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if (reference := source.get(field)) and not reference.get("optional"):
                    yield kind, reference["name"], reference["key"]


def _volume_references(volume: Object) -> Iterator[tuple[str, str, str | None]]:
    sources = [volume, *(volume.get("projected") or {}).get("sources", [])]
    for source in sources:
        for field, kind, label in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
            if (reference := source.get(field)) and not reference.get("optional"):
                name = reference.get(label) or reference["name"]
                keys = [item["key"] for item in reference.get("items", [])] or [None]
                yield from ((kind, name, key) for key in keys)


def keys_of(thing: Object) -> set[str]:
    """Keys of a Secret or ConfigMap."""
    return {*thing.get("data", {}), *thing.get("stringData", {}), *thing.get("binaryData", {})}


def planned_secrets(objects: Iterable[Object]) -> dict[str, Object]:
    """Secrets that the release's Job makes in the cluster, as its plan has them, by name."""
    plans = [thing["data"]["plan.json"] for thing in of_kind(objects, "ConfigMap") if "plan.json" in thing["data"]]
    return {secret["name"]: secret for plan in plans for secret in json.loads(plan)["secrets"]}


def planned_keys(secret: Object) -> set[str]:
    """Keys of a Secret of the plan."""
    certificate = ("ca.crt", "tls.crt", "tls.key") if "host" in secret else ()
    kinds = ("fixed", "alternating", "generated", "lasting")
    return {*(key for kind in kinds for key in secret.get(kind, {})), *certificate}


def selects(selector: dict[str, str] | None, target: dict[str, str]) -> bool:
    """Whether equality labels of a selector pick a target; an empty selector picks nothing here."""
    return bool(selector) and all(target.get(key) == value for key, value in selector.items())


def custom_resource_schemas(objects: Iterable[Object]) -> dict[tuple[str, str], Object]:
    """(apiVersion, kind) → OpenAPI schema, of every CRD among the objects."""
    schemas = {}
    for crd in of_kind(objects, "CustomResourceDefinition"):
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = version.get("schema", {}).get("openAPIV3Schema", {})
            schemas[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return schemas
