"""What charts/iml4e/flows.yaml allows, and what rendered NetworkPolicies allow: both are asked the same question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scripts.harness.flows import Flow, table
from support.helm import NAMESPACE, RELEASE
from support.objects import INSTANCE, NAME, Object, of_kind

PODS, FLOWS = table()
ELSEWHERE = "elsewhere"
#: Ports that rows to the cluster's services open to every address: name servers, API server, nodes; and those outside by the values.
ANYWHERE = {"dns": (53, 1053, 5353), "api": (443, 6443, 8443, 16443), "nodes": None}


def labels(name: str, release: str = RELEASE) -> dict[str, str]:
    """Labels of pods of the table."""
    return PODS[name].labels or {NAME: name, INSTANCE: release}


@dataclass(frozen=True)
class Pod:
    """One side of a connection: pods of the table, or somebody else (no name), in the release's namespace or another."""

    name: str = ""
    namespace: str = NAMESPACE

    @property
    def known(self) -> bool:
        """Whether policies of the release pick it."""
        return bool(self.name) and self.namespace == NAMESPACE

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return labels(self.name) if self.name else {}

    def __str__(self) -> str:
        """How tests call it."""
        return f"{self.name or 'somebody'}{'' if self.namespace == NAMESPACE else ' elsewhere'}"


def _groups(pod: Pod) -> set[str]:
    found = {"everywhere", "clients"}
    if pod.known:
        found |= {pod.name, "release"} | ({"scrapers"} if pod.name == "prometheus" else set())
        found |= {"gateways"} if pod.name == "gateway" else set()
    elif pod.namespace != NAMESPACE:
        found.add("others")
    return found


def _matches(flow: Flow, port: int) -> bool:
    return not flow.ports or port in flow.ports


def listed(source: Pod, to: Pod, port: int, off: Iterable[str] = ()) -> bool:
    """Whether the table allows a connection; `off`: conditions of rows (`when`) that do not hold."""
    rows = [flow for flow in FLOWS if flow.when not in off]
    to_groups = _groups(to) - {"clients", "release", "scrapers", "gateways"}
    opens = not source.known or any(
        _groups(source) & set(row.sources)
        and (
            (row.to in to_groups and _matches(row, port))
            or (row.to in ANYWHERE and port in (ANYWHERE[row.to] or row.ports))
        )
        for row in rows
        # who is a client may be connected to by clients, but does not connect as one: its own rows say what it opens
        if {source.name, "release"} & set(row.sources) or {"scrapers", "gateways"} & _groups(source) & set(row.sources)
    )
    accepts = not to.known or any(
        row.to == to.name and _groups(source) & set(row.sources) and _matches(row, port) for row in rows
    )
    return opens and accepts


@dataclass
class Policies:
    """Rendered NetworkPolicies, as a network plug-in reads them."""

    objects: list[Object]
    namespaces: Mapping[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, objects: Iterable[Object]) -> Policies:
        """The policies of a render."""
        names = (NAMESPACE, ELSEWHERE)
        return cls(of_kind(objects, "NetworkPolicy"), {name: {"kubernetes.io/metadata.name": name} for name in names})

    def allow(self, source: Pod, to: Pod, port: int) -> bool:
        """Whether they allow a TCP connection between two pods."""
        return self._side(source, to, port, "egress", "to") and self._side(to, source, port, "ingress", "from")

    def _side(self, pod: Pod, peer: Pod, port: int, direction: str, key: str) -> bool:
        of_pod = [
            policy["spec"]
            for policy in self.objects
            if pod.namespace == NAMESPACE
            and direction.capitalize() in policy["spec"]["policyTypes"]
            and picks(policy["spec"]["podSelector"], pod.labels)
        ]
        return not of_pod or any(
            self._rule(rule, key, peer, port, direction, pod) for spec in of_pod for rule in spec.get(direction) or []
        )

    def _rule(self, rule: Object, key: str, peer: Pod, port: int, direction: str, pod: Pod) -> bool:
        ports = rule.get("ports")
        if ports and port not in [each["port"] for each in ports if each.get("protocol", "TCP") == "TCP"]:
            return False
        # an empty list means everybody, as a missing one does
        return not rule.get(key) or any(self._peer(each, peer) for each in rule[key])

    def _peer(self, peer: Object, pod: Pod) -> bool:
        if "ipBlock" in peer:
            return False  # addresses outside the cluster
        if "namespaceSelector" in peer:
            if not picks(peer["namespaceSelector"], self.namespaces[pod.namespace]):
                return False
        elif pod.namespace != NAMESPACE:
            return False
        return picks(peer.get("podSelector", {}), pod.labels)


def picks(selector: Object, of: Mapping[str, str]) -> bool:
    """Whether a label selector picks an object with these labels."""
    if any(of.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        match term["operator"]:
            case "In":
                good = of.get(term["key"]) in term["values"]
            case "NotIn":
                good = of.get(term["key"]) not in term["values"]
            case "Exists":
                good = term["key"] in of
            case "DoesNotExist":
                good = term["key"] not in of
            case other:
                raise AssertionError(other)
        if not good:
            return False
    return True
