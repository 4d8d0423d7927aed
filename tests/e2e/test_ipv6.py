"""Servers listen on both IP families, so that an IPv6-only cluster reaches them as well."""

from __future__ import annotations

import pytest

from support.k8s import Cluster
from support.parts import WORKLOADS, Workload

ANY = "0" * 32
LISTENS = "0A"
#: Workload: why its sockets cannot be looked at from inside.
NO_SHELL = {
    "Deployment/iml4e-pipelines-argo": "an image of one Go program, which listens on `:port`",
    "Deployment/iml4e-kserve": "an image of one Go program, which listens on `:port`",
    "StatefulSet/iml4e-minio": "an image of one Go program, which listens on `:port`",
    "StatefulSet/iml4e-prometheus": "an image of one Go program, which listens on every address",
    "StatefulSet/iml4e-alertmanager": "an image of two Go programs; the server listens on `:port`",
    "Deployment/iml4e-prometheus-probe": "an image of one Go program, which listens on `:port`",
}


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_every_port_listens_on_ipv6_too(cluster: Cluster, workload: Workload) -> None:
    if reason := NO_SHELL.get(str(workload)):
        pytest.skip(reason)
    labels = cluster.workload(workload.kind, workload.name)["spec"]["selector"]["matchLabels"]
    pod = cluster.pods(",".join(f"{key}={value}" for key, value in labels.items()))[0]
    for container in pod["spec"]["containers"]:
        table = cluster.exec(pod["metadata"]["name"], "cat", "/proc/net/tcp6", container=container["name"])
        rows = [line.split() for line in table.splitlines()[1:]]
        listening = {address.split(":")[1] for _, address, _, state, *_ in rows if state == LISTENS and ANY in address}
        ports = {port["containerPort"] for port in container.get("ports", [])}
        assert {f"{port:04X}" for port in ports} <= listening, container["name"]
