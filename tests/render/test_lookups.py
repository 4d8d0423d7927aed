"""What the chart looks up in a cluster before an installation, by a stand-in of the API server."""

from __future__ import annotations

from typing import Any

import pytest

from support import lookups
from support.helm import HelmError
from support.objects import Object

OFF = {"enabled": False}


def endpoints(service: str, namespace: str, *ports: tuple[str, int]) -> Object:
    """The EndpointSlice of a Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports],
    }


def findings(there: Object, **policy: Any) -> list[str]:
    """What an installation says, in a cluster with this object."""
    try:
        lookups.render(there, values={"global": {"networkPolicy": policy}}, install=True)
    except HelmError as refused:
        return refused.findings
    return []


@pytest.mark.parametrize("port", [443, 6443, 8443, 16443])
def test_usual_ports_of_the_api_server_are_open(port: int) -> None:
    assert findings(endpoints("kubernetes", "default", ("https", port))) == []


def test_another_port_of_the_api_server_is_told() -> None:
    there = endpoints("kubernetes", "default", ("https", 26443))
    assert findings(there) == [
        "The API server of this cluster (kubernetes in default) listens on port 26443, which no pod of the release may reach: add 26443 to "
        "global.networkPolicy.apiServer.ports."
    ]
    assert findings(there, apiServer={"ports": [443, 26443]}) == []
    assert findings(there, **OFF) == []


def test_another_port_of_the_name_server_is_told() -> None:
    there = endpoints("kube-dns", "kube-system", ("dns", 8053), ("metrics", 9153))
    assert findings(there) == [
        "The name server of this cluster (kube-dns in kube-system) listens on port 8053, which no pod of the release may reach: add 8053 to "
        "global.networkPolicy.dns.ports."
    ]
    assert findings(there, dns={"ports": [53, 8053]}) == []
    assert findings(there, **OFF) == []
