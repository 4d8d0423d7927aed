"""What the chart looks up in a cluster before an installation, by a stand-in of the API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.api_server import api_server
from support.helm import CHART, NAMESPACE, RELEASE, HelmError, helm, render
from support.objects import Object

SLICE = "discovery.k8s.io/v1"
#: Kinds that the chart looks up.
KINDS = [("v1", "Service"), (SLICE, "EndpointSlice")]
OFF = "global.networkPolicy.enabled=false"


def endpoints(service: str, namespace: str, *ports: tuple[str, int]) -> Object:
    """The EndpointSlice of a Service."""
    return {
        "apiVersion": SLICE,
        "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports],
    }


@pytest.fixture
def findings(tmp_path: Path) -> Any:
    """What an installation says, in a cluster with these objects."""

    def ask(*objects: Object, sets: tuple[str, ...] = ()) -> list[str]:
        kinds = [(each["apiVersion"], each["kind"]) for each in render()]
        with api_server(tmp_path, objects, [*KINDS, *kinds]) as kubeconfig:
            try:
                helm(
                    "template", RELEASE, CHART, "--namespace", NAMESPACE, "--skip-crds", "--dry-run=server",
                    "--disable-openapi-validation", "--kubeconfig", kubeconfig, *(f"--set={each}" for each in sets),
                )  # fmt: skip
            except HelmError as error:
                if not error.findings:
                    raise
                return error.findings
        return []

    return ask


@pytest.mark.parametrize("port", [443, 6443, 8443, 16443])
def test_usual_ports_of_the_api_server_are_open(findings: Any, port: int) -> None:
    assert findings(endpoints("kubernetes", "default", ("https", port))) == []


def test_another_port_of_the_api_server_is_told(findings: Any) -> None:
    there = endpoints("kubernetes", "default", ("https", 26443))
    assert findings(there) == [
        "The API server of this cluster (kubernetes in default) listens on port 26443, which no pod of the release may reach: add 26443 to "
        "global.networkPolicy.apiServer.ports."
    ]
    assert findings(there, sets=("global.networkPolicy.apiServer.ports={443,26443}",)) == []
    assert findings(there, sets=(OFF,)) == []


def test_another_port_of_the_name_server_is_told(findings: Any) -> None:
    there = endpoints("kube-dns", "kube-system", ("dns", 8053), ("metrics", 9153))
    assert findings(there) == [
        "The name server of this cluster (kube-dns in kube-system) listens on port 8053, which no pod of the release may reach: add 8053 to "
        "global.networkPolicy.dns.ports."
    ]
    assert findings(there, sets=("global.networkPolicy.dns.ports={53,8053}",)) == []
    assert findings(there, sets=(OFF,)) == []
