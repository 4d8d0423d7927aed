"""GPUs that are none: to the scheduler a node has them, and what runs there needs none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kubernetes.client.exceptions import ApiException

from support.k8s import Cluster

GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}


def offer(cluster: Cluster, node: str, count: int, resource: str = GPU) -> None:
    """Give a node the resource that a GPU's device plugin would, or take the resource away."""
    given = {"capacity": {resource: str(count)}}
    status = given if count else {"capacity": {resource: None}, "allocatable": {resource: None}}
    cluster.core.patch_node_status(node, {"status": status})


def nodes_with_gpus(cluster: Cluster, resource: str = GPU) -> list[str]:
    """Nodes that have GPUs, real ones or not."""
    return [node.metadata.name for node in cluster.core.list_node().items if node.status.capacity.get(resource)]


@contextlib.contextmanager
def runtime_class(cluster: Cluster, name: str) -> Iterator[None]:
    """A runtime class of GPU containers, which runs them as all others; it goes at the end."""
    cluster.apply(
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "runc"}
    )
    try:
        yield
    finally:
        cluster.delete("node.k8s.io/v1", "RuntimeClass", name)


@contextlib.contextmanager
def gpu_node(cluster: Cluster, name: str, count: int, resource: str = GPU) -> Iterator[None]:
    """A further node with GPUs, tainted as GPU nodes are, without a kubelet: pods are bound to it, and start never."""
    large = {"cpu": "64", "memory": "256Gi", "pods": "200", "ephemeral-storage": "1Ti", resource: str(count)}
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "made by a test"}
    node: dict[str, Any] = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}
    cluster.core.create_node({**node, "spec": {"taints": [TAINT]}})
    try:
        status = {"capacity": large, "allocatable": large, "conditions": [ready]}
        cluster.core.patch_node_status(name, {"status": status})
        yield
    finally:
        for pod in cluster.core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={name}").items:
            # nobody would confirm its end
            with contextlib.suppress(ApiException):
                cluster.core.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0)
        cluster.core.delete_node(name)
