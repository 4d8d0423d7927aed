"""kube-router on a cluster of two processes: pods are network namespaces that listen on every port of charts/iml4e/flows.yaml.

Run in network and mount namespaces of its own (`unshare --net --mount`), with the folder of etcd, kube-apiserver and kube-router as
argument. Prints what it saw, as JSON. KServe, Kubeflow Pipelines and images are not needed: only labels and addresses count.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from scripts.bare import host, node
from support.flows import ELSEWHERE, FLOWS, PODS, Pod, labels
from support.helm import NAMESPACE, render
from support.objects import containers, of_kind

API = "https://127.0.0.1:6443"
HEALTH = "http://127.0.0.1:10258/healthz"
#: All that has pods is on; of the ports outside the cluster, none: kube-router takes pods for addresses.
ON: dict[str, Any] = {
    "pipelines": {"enabled": True, "retention": {"enabled": True}},
    "mlflow": {"gc": {"enabled": True}},
    "grafana": {"enabled": True},
    "backup": {"enabled": True, "destination": {"existingClaim": "backups"}},
    "global": {"networkPolicy": {"outside": {"stepPorts": [], "modelPorts": []}}},
}
EVERYBODY = [
    *(Pod(name) for name in PODS),
    Pod(),
    *(Pod(name, ELSEWHERE) for name in ("", "models", "mlflow", "steps")),
]
TOKEN = "secret"
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
libc = ctypes.CDLL(None, use_errno=True)


def run(*words: str | Path) -> str:
    """Run a program that must succeed."""
    return subprocess.run(words, check=True, text=True, capture_output=True).stdout


def ports() -> list[int]:
    """All ports of the table, those that containers open, and one that nobody knows."""
    opened = [port for each in containers(render("laptop", ON)) for port in each.spec.get("ports", [])]
    numbers = {port for flow in FLOWS for port in flow.ports if isinstance(port, int)}
    return sorted(numbers | {port["containerPort"] for port in opened} | {12345})


class Ground:
    """The API server, and pods as network namespaces."""

    def __init__(self, programs: Path, folder: Path) -> None:
        """Prepare the network; `up` starts the processes."""
        self.programs, self.folder = programs, folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.session = requests.Session()
        self.session.trust_env = self.session.verify = False
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.pods: dict[Pod, tuple[str, int]] = {}
        self.listening: list[socket.socket] = []
        self.ports = ports()

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a program of the folder."""
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen([self.programs / name, *options], stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def up(self) -> None:
        """Start etcd and the API server; make node, namespaces, policies and pods."""
        here, address = self.folder, node.NODE_ADDRESS
        for line in (
            "ip link set lo up", f"ip address add {address}/32 dev lo", f"ip link add {node.BRIDGE} type bridge",
            f"ip address add 198.18.0.1/16 dev {node.BRIDGE}", f"ip link set {node.BRIDGE} up",
            "mount -t tmpfs tmpfs /run/netns", f"openssl genrsa -out {here}/sa.key 2048",
        ):  # fmt: skip
            run(*line.split())
        for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
            Path("/proc/sys", name).write_text("1")
        (here / "tokens").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        etcd = "http://127.0.0.1:2379"
        self.start(
            "etcd", f"--data-dir={here}/etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            "--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync",
        )  # fmt: skip
        self.start(
            "kube-apiserver", f"--etcd-servers={etcd}", f"--cert-dir={here}", "--bind-address=127.0.0.1",
            f"--advertise-address={address}", f"--token-auth-file={here}/tokens", "--authorization-mode=AlwaysAllow",
            "--service-account-issuer=https://iml4e.local", f"--service-account-key-file={here}/sa.key",
            f"--service-account-signing-key-file={here}/sa.key", f"--service-cluster-ip-range={node.SERVICE_RANGE}",
            "--disable-admission-plugins=ServiceAccount",
        )  # fmt: skip
        self.wait(f"{API}/readyz")
        self.post("/api/v1/nodes", {"metadata": {"name": node.NODE}})
        self.status(f"/api/v1/nodes/{node.NODE}", {"addresses": [{"type": "InternalIP", "address": address}]})
        for name in (NAMESPACE, ELSEWHERE):
            self.post("/api/v1/namespaces", {"metadata": {"name": name}})
        for policy in of_kind(render("laptop", ON), "NetworkPolicy"):
            self.post(f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies", policy)
        for number, pod in enumerate(EVERYBODY, 2):
            self.make(pod, number)
            self.tell(pod, number)

    def wait(self, url: str) -> None:
        """Wait for a 200."""
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if self.session.get(url, timeout=1).ok:
                    return
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.1)

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Create an object."""
        answer = self.session.post(API + path, json=body)
        assert answer.ok, answer.text

    def status(self, path: str, status: dict[str, Any]) -> None:
        """Write what a kubelet would write."""
        kind = {"Content-Type": "application/merge-patch+json"}
        answer = self.session.patch(f"{API}{path}/status", json={"status": status}, headers=kind)
        assert answer.ok, answer.text

    @contextlib.contextmanager
    def inside(self, namespace: int) -> Iterator[None]:
        """Open sockets in another network namespace."""
        assert libc.setns(namespace, NEW_NETWORK) == 0
        try:
            yield
        finally:
            assert libc.setns(self.home, NEW_NETWORK) == 0

    def make(self, pod: Pod, number: int) -> None:
        """A pod's network: the API server does not know of it yet."""
        name, address = f"pod{number}", f"198.18.1.{number}"
        for line in (
            f"ip netns add {name}", f"ip link add v{number} type veth peer name eth0 netns {name}",
            f"ip link set v{number} master {node.BRIDGE} up", f"ip -n {name} link set lo up",
            f"ip -n {name} address add {address}/16 dev eth0", f"ip -n {name} link set eth0 up",
            f"ip -n {name} route add default via 198.18.0.1",
        ):  # fmt: skip
            run(*line.split())
        self.pods[pod] = address, os.open(f"/run/netns/{name}", os.O_RDONLY)
        with self.inside(self.pods[pod][1]):
            self.listening += [socket.create_server((address, port), backlog=2000) for port in self.ports]

    def tell(self, pod: Pod, number: int) -> None:
        """Write a pod into the API server."""
        path, address = f"/api/v1/namespaces/{pod.namespace}/pods", self.pods[pod][0]
        given = labels(pod.name) if pod.name else {}
        spec = {"nodeName": node.NODE, "containers": [{"name": "pod", "image": "none"}]}
        self.post(path, {"metadata": {"name": f"pod{number}", "labels": given}, "spec": spec})
        host_addresses = {"hostIP": node.NODE_ADDRESS, "hostIPs": [{"ip": node.NODE_ADDRESS}]}
        addresses = {"podIP": address, "podIPs": [{"ip": address}]}
        self.status(f"{path}/pod{number}", {"phase": "Running", **host_addresses, **addresses})

    def opened(self, source: Pod, targets: list[tuple[Pod, int]]) -> dict[socket.socket, tuple[Pod, int]]:
        """Begin to connect to all targets at once."""
        sockets = {}
        with self.inside(self.pods[source][1]):
            for to, port in targets:
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex((self.pods[to][0], port))
                sockets[connection] = (to, port)
        return sockets

    def answered(self, source: Pod, targets: list[tuple[Pod, int]], seconds: float = 2) -> list[tuple[Pod, int]]:
        """The targets that accept a connection, at the latest when the kernel asks again after a second."""
        return [target for target, error in self.outcome(self.opened(source, targets), seconds).items() if not error]

    def outcome(self, sockets: dict[socket.socket, tuple[Pod, int]], seconds: float) -> dict[tuple[Pod, int], int]:
        """The error of each connection, 0 for none; without those that nobody answered."""
        by_number, found, end = {each.fileno(): each for each in sockets}, {}, time.monotonic() + seconds
        poll = select.poll()
        for number in by_number:
            poll.register(number, select.POLLOUT)
        while len(found) < len(sockets) and time.monotonic() < end:
            for number, _ in poll.poll(100):
                poll.unregister(number)
                connection = by_number[number]
                found[sockets[connection]] = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        for connection in sockets:
            connection.close()
        return found

    def enforce(self) -> subprocess.Popen[bytes]:
        """Start kube-router, as `make up` does."""
        user = {"name": "user", "user": {"token": TOKEN}}
        cluster = {"name": "cluster", "cluster": {"server": API, "insecure-skip-tls-verify": True}}
        context = {"name": "context", "context": {"cluster": "cluster", "user": "user"}}
        config = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "context"}
        (self.folder / "kubeconfig").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
        run("iptables", "-w", "-t", "mangle", "-A", *host.NO_ANSWER)
        process = self.start(
            "kube-router", f"--kubeconfig={self.folder}/kubeconfig", f"--hostname-override={node.NODE}",
            f"--service-cluster-ip-range={node.SERVICE_RANGE}",
        )  # fmt: skip
        self.wait(HEALTH)
        time.sleep(2)
        return process

    def first_connection(self, pod: Pod, to: Pod, port: int, number: int) -> int | None:
        """The error of a connection that a pod opens 1.2 s before kube-router learns of the pod."""
        self.make(pod, number)
        sockets = self.opened(pod, [(to, port)])
        time.sleep(1.2)
        self.tell(pod, number)
        return self.outcome(sockets, 8).get((to, port))


def main() -> None:
    """Try every pair, before, under and after enforcement."""
    warnings.simplefilter("ignore")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(sys.argv[1]), Path(folder))
        try:
            ground.up()
            every = [(to, port) for to in EVERYBODY for port in ground.ports]
            seen["pairs"] = len(every)
            seen["before"] = len(ground.answered(Pod("grafana"), every))
            router = ground.enforce()
            seen["answered"] = {
                str(source): [(str(to), port) for to, port in ground.answered(source, every)] for source in EVERYBODY
            }
            client, database = Pod("mlflow-gc"), (Pod("mariadb"), 3306)
            seen["new"] = ground.first_connection(client, *database, 100)
            run("iptables", "-w", "-t", "mangle", "-D", *host.NO_ANSWER)
            seen["new, with an answer"] = ground.first_connection(Pod("pipelines-retention"), *database, 101)
            router.terminate()
            router.wait(20)
            host.remove_rules()
            seen["rules left"] = run("iptables-save").count("KUBE-") + run("ipset", "list", "-name").count("KUBE-")
            seen["after"] = len(ground.answered(Pod("grafana"), every))
        finally:
            for process in reversed(ground.processes):
                process.kill()
                process.wait()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
