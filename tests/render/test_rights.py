"""An account that may read one namespace: what the chart looks up for it, and that it looks up no more."""

from __future__ import annotations

from typing import Any

import pytest

from support import lookups
from support.helm import NAMESPACE, HelmError, merged
from support.lookups import NAMESPACED
from support.objects import Object, find, of_kind

NAME_SERVER: Object = {
    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
    "metadata": {"name": "kube-dns-1", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
    "ports": [{"name": "dns", "port": 9053, "protocol": "UDP"}],
}  # fmt: skip


@pytest.mark.parametrize("install", [True, False], ids=["install", "upgrade"])
def test_a_release_without_cluster_wide_objects_reads_its_namespace_alone(install: bool) -> None:
    objects = lookups.render(values=NAMESPACED, only=NAMESPACE, install=install)
    assert find(objects, "Deployment", "iml4e-mlflow")
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding", "GatewayClass") == []


@pytest.mark.parametrize(
    "wide",
    [
        {"gateway": {"enabled": True}, "global": {"gateway": {"name": "iml4e-gateway", "namespace": NAMESPACE}}},
        {"prometheus": {"enabled": True}},
        {"kserve": {"controller": {"enabled": True}}},
    ],
    ids=["gateway", "prometheus", "kserve"],
)
def test_a_name_server_on_another_port_is_told_where_the_release_has_cluster_wide_objects(wide: dict[str, Any]) -> None:
    with pytest.raises(HelmError) as refused:
        lookups.render(NAME_SERVER, values=merged(NAMESPACED, wide), install=True)
    assert refused.value.findings == [
        "The name server of this cluster (kube-dns in kube-system) listens on port 9053, which no pod of the release may reach: "
        "add 9053 to global.networkPolicy.dns.ports."
    ]
    assert lookups.render(NAME_SERVER, values=merged(NAMESPACED, wide))
