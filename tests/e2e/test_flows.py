"""Every connection that charts/iml4e/flows.yaml allows is tried and answered; every other pair of pods and ports is tried and refused.

One pod in the release's namespace takes the labels of one part after the other and connects to the parts' own pods. It is never Ready,
so that no Service sends it requests.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.bare import node
from scripts.common.paths import KUBECONFIG
from support import helm, releases
from support.flows import FLOWS, PODS, Pod, labels, listed
from support.helm import NAMESPACE
from support.k8s import Cluster
from support.objects import NAME

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(900)]

TEAM = f"flows-{uuid.uuid4().hex[:6]}"
#: What a pod of a test listens on: a port that rows without ports open.
PORT = 8080
LISTEN = f"""
import http.server, socketserver
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    pass
Server(("", {PORT}), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
CONNECT = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def connects(target):
    try:
        socket.create_connection(target, SECONDS).close()
    except OSError:
        return False
    return True

targets = [tuple(target) for target in json.loads(sys.argv[1])]
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(connects, targets))))
"""
Target = tuple[Pod, int]
STRANGERS = (Pod(), Pod(namespace=TEAM), Pod("mlflow", TEAM), Pod("models", TEAM), Pod("steps", TEAM))
#: Seconds until labels of a pod count.
SETTLE = 20


class Probe:
    """A pod that changes its labels and connects."""

    def __init__(self, there: Cluster, name: str) -> None:
        """Start it; `ready` waits for it."""
        self.there, self.name = there, name
        spec = releases.pod_spec("python", "-c", LISTEN)
        spec["containers"][0]["readinessProbe"] = {"exec": {"command": ["false"]}, "periodSeconds": 3600}
        there.core.create_namespaced_pod(there.namespace, {"metadata": {"name": name}, "spec": spec})

    def running(self) -> str | None:
        """Its address, once it runs."""
        pod = self.there.core.read_namespaced_pod(self.name, self.there.namespace)
        return pod.status.pod_ip if pod.status.phase == "Running" else None

    def become(self, name: str) -> None:
        """Take the labels of pods of the table; without a name, none."""
        keys = {key for each in PODS for key in labels(each)}
        taken = dict.fromkeys(keys) | (labels(name) if name else {})
        self.there.core.patch_namespaced_pod(self.name, self.there.namespace, {"metadata": {"labels": taken}})

    def connects(self, targets: list[tuple[str, int]], seconds: float = 2) -> list[bool]:
        """Which connections are answered."""
        command = ("python", "-c", CONNECT.replace("SECONDS", str(seconds)), json.dumps(targets))
        return json.loads(self.there.exec(self.name, *command))

    def remove(self) -> None:
        """Delete it."""
        self.there.delete("v1", "Pod", self.name)


class Ground:
    """Probes, and the pods that they connect to."""

    def __init__(self, cluster: Cluster, team: Cluster, values: dict[str, Any]) -> None:
        """Start the probes."""
        self.cluster = cluster
        self.probes = {
            "own": Probe(cluster, f"flows-caller-{TEAM}"),
            "model": Probe(cluster, f"flows-model-{TEAM}"),
            "step": Probe(cluster, f"flows-step-{TEAM}"),
            "team": Probe(team, "caller"),
            "their model": Probe(team, "model"),
        }
        receivers = values["prometheus"].get("alertmanager", {}).get("config", {}).get("receivers")
        conditions = {
            ".Values.tls.enabled": values["gateway"].get("tls", {}).get("enabled"),
            ".Values.alertmanager.config.receivers": receivers,
        }
        self.off = [condition for condition, holds in conditions.items() if not holds]

    def settle(self) -> None:
        """Wait for the probes, give those that are connected to their labels, look up the parts' pods."""
        address = {
            name: self.cluster.wait(f"pod {probe.name} to run", probe.running, 120)
            for name, probe in self.probes.items()
        }
        for name, label in (("model", "models"), ("step", "steps"), ("their model", "models")):
            self.probes[name].become(label)
        self.hosts: dict[Target, str] = {
            (Pod("models"), PORT): address["model"],
            (Pod("steps"), PORT): address["step"],
            (Pod("models", TEAM), PORT): address["their model"],
        }
        for pod in self.cluster.pods(f"app.kubernetes.io/instance={helm.RELEASE}"):
            name = pod["metadata"]["labels"].get(NAME, "")
            if (
                pod["status"].get("phase") == "Running"
                and name in PODS
                and pod["metadata"]["name"] != self.probes["own"].name
            ):
                for container in pod["spec"]["containers"]:
                    for port in container.get("ports", []):
                        self.hosts.setdefault((Pod(name), port["containerPort"]), pod["status"]["podIP"])
        self.hosts = {(to, port): host for (to, port), host in self.hosts.items() if self.has_policy(to)}

    def tried(self, source: Pod) -> dict[Target, bool]:
        """Which connections of a pod are answered, once its labels count."""
        probe = self.probes["own" if source.namespace == NAMESPACE else "team"]
        probe.become(source.name)
        try:
            wanted, end = self.wanted(source), time.monotonic() + SETTLE
            targets = self.others(source)
            while True:
                answered = probe.connects([(self.hosts[target], target[1]) for target in targets])
                seen = dict(zip(targets, answered, strict=True))
                if seen == {target: wanted[target] for target in targets} or time.monotonic() > end:
                    return seen
        finally:
            probe.become("")

    def wanted(self, source: Pod) -> dict[Target, bool]:
        """Which of them the table allows."""
        return {(to, port): listed(source, to, port, self.off) for to, port in self.hosts}

    def others(self, source: Pod) -> list[Target]:
        """Targets that are no pods of the source's own policy: kube-router asks a policy's rules of both directions for one packet."""
        return [(to, port) for to, port in self.hosts if to != source or not source.known]

    def has_policy(self, pod: Pod) -> bool:
        """Whether the release has the policy of pods: parts that are off have none."""
        name = f"{helm.RELEASE}-{PODS[pod.name].policy}" if pod.known else ""
        return not name or bool(self.cluster.get("networking.k8s.io/v1", "NetworkPolicy", name))


@pytest.fixture(scope="module")
def ground(cluster: Cluster, values: dict[str, Any]) -> Iterator[Ground]:
    """Probes in the release's namespace and in another, where the cluster enforces policies."""
    if not values["global"]["networkPolicy"]["enabled"]:
        pytest.skip("global.networkPolicy.enabled is off in this release")
    team = Cluster(cluster.config, TEAM)
    metadata = {"name": TEAM, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.core.create_namespace({"metadata": metadata})
    found = None
    try:
        found = Ground(cluster, team, values)
        found.settle()
        if cluster.config != KUBECONFIG and found.tried(Pod(namespace=TEAM))[Pod("mariadb"), 3306]:
            pytest.skip("the network plug-in of this cluster does not enforce NetworkPolicies")
        yield found
    finally:
        for probe in found.probes.values() if found else ():
            probe.remove()
        cluster.core.delete_namespace(TEAM)


@pytest.mark.parametrize("source", [*(Pod(name) for name in PODS), *STRANGERS], ids=str)
def test_what_the_table_lists_is_answered_and_all_else_refused(ground: Ground, source: Pod) -> None:
    if not ground.has_policy(source):
        pytest.skip(f"{source} is off in this release")
    seen, wanted = ground.tried(source), ground.wanted(source)
    wrong = [
        f"{source} to {to}, port {port}: {'answered' if seen[to, port] else 'refused'}"
        for to, port in seen
        if seen[to, port] != wanted[to, port]
    ]
    assert wrong == []
    assert len(seen) >= 12, "the parts' ports"


def test_ports_that_nobody_may_reach_are_open_behind_the_policy(ground: Ground) -> None:
    """A refusal says nothing where nobody listens."""
    sources = [*(Pod(name) for name in PODS), *STRANGERS]
    unreachable = [(to, port) for to, port in ground.hosts if not any(listed(s, to, port, ground.off) for s in sources)]
    assert (Pod("minio"), 9001) in unreachable
    for to, port in unreachable:
        if to.name in ("steps", "models"):
            continue
        (pod, *_) = ground.cluster.pods(",".join(f"{key}={value}" for key, value in labels(to.name).items()))
        with ground.cluster.port_forward(f"pod/{pod['metadata']['name']}", port) as local:
            socket.create_connection(("127.0.0.1", local), 5).close()


@pytest.mark.parametrize("name", sorted(PODS))
def test_names_and_api_server(ground: Ground, name: str) -> None:
    """Every pod asks for names; those with objects to read reach the API server, by its Service."""
    if not ground.has_policy(Pod(name)):
        pytest.skip(f"{name} is off in this release")
    probe = ground.probes["own"]
    probe.become(name)
    try:
        wanted = any(flow.to == "api" and name in flow.sources for flow in FLOWS)
        hosts = [("kubernetes.default.svc.cluster.local", 443)]
        end = time.monotonic() + SETTLE
        while (seen := probe.connects(hosts)[0]) != wanted and time.monotonic() < end:
            time.sleep(0.5)
        assert seen == wanted
        code = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
        assert ground.cluster.exec(probe.name, "python", "-c", code).strip()
    finally:
        probe.become("")


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """A port of this machine that accepts connections."""
    with socket.create_server((host, port)) as server:
        server.settimeout(0.2)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    server.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize("name", ["steps", "demo", "models", "home", "mlflow", "minio"])
def test_addresses_outside_the_cluster(ground: Ground, values: dict[str, Any], name: str) -> None:
    """The node's own address stands for the world: no pod has it."""
    if ground.cluster.config != KUBECONFIG:
        pytest.skip("the tests are not on the node")
    if not ground.has_policy(Pod(name)):
        pytest.skip(f"{name} is off in this release")
    outside = values["global"]["networkPolicy"]["outside"]
    allowed = {"steps": outside["stepPorts"], "demo": outside["stepPorts"], "models": outside["modelPorts"]}.get(
        name, []
    )
    probe, ports = ground.probes["own"], [80, 8081]
    probe.become(name)
    try:
        with contextlib.ExitStack() as stack:
            for port in ports:
                stack.enter_context(listening(node.NODE_ADDRESS, port))
            end = time.monotonic() + SETTLE
            targets = [(node.NODE_ADDRESS, port) for port in ports]
            while (seen := probe.connects(targets)) != (wanted := [port in allowed for port in ports]):
                assert time.monotonic() < end, (ports, seen, wanted)
    finally:
        probe.become("")


def test_the_first_connection_of_a_new_pod_is_answered(ground: Ground) -> None:
    """The plug-in learns a pod's address a moment after the pod's start: the pod waits then, and is not refused."""
    code = "import socket, sys; socket.create_connection((sys.argv[1], 9000), 10).close(); print('answered')"
    minio = ground.hosts[Pod("minio"), 9000]
    spec = {"backoffLimit": 0, "template": {"spec": releases.pod_spec("python", "-c", code, minio)}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"flows-new-{TEAM}"}, "spec": spec}
    succeeded, output = ground.cluster.run_job(job, 90)
    assert succeeded, output
    assert "answered" in output
