"""`make up` on a machine that cannot run the cluster: one sentence, one cure, no change. And images that are pushed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from scripts.bare import processes
from scripts.common import console
from scripts.common.paths import STATE
from support.helm import RELEASE, REPO
from support.k8s import Cluster

PYTHON = "/usr/bin/python3"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the machine look like that")


def up(repository: Path = REPO, *, user: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what `make up` runs, on a machine without a cluster."""
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment}
    return subprocess.run(
        [PYTHON, "scripts/up"], cwd=repository, env=clean, user=user, group=user, extra_groups=[] if user else None,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def assert_one_sentence(done: subprocess.CompletedProcess[str], what: str) -> None:
    """The script failed, said what is wrong and what to do, and no more."""
    assert done.returncode not in (0, None)
    said = done.stderr.strip().splitlines()
    assert what in said[0]
    assert said[0].startswith("Error: ")
    assert said[1].startswith("Next:  ")
    assert len(said) == 2


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can read."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@needs_root
def test_without_root(folder: Path) -> None:
    for name in ("scripts", "images"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert_one_sentence(up(folder, user=65534, IML4E_STATE=str(folder / "state")), "root")


@needs_root
def test_too_little_disk(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        assert_one_sentence(up(IML4E_STATE=str(folder / "state")), "GiB free")
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_root
def test_taken_port(folder: Path) -> None:
    """A cluster that runs from another state folder holds the same ports: `make up` treats that cluster as another program."""
    with socket.socket() as listener:
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", 10259))
            listener.listen()
        assert_one_sentence(up(IML4E_STATE=str(folder / "state")), "port ")


def test_a_port_that_was_refused_without_a_pod_connects_once_there_is_one(cluster: Cluster, unique: str) -> None:
    """On 127.0.0.1 a rejected connection stays in conntrack: a client that takes the same port again must not be refused for minutes."""
    if not (STATE / "admin.conf").samefile(cluster.config):
        pytest.skip("the node of this cluster is not this machine")
    own = {"app.kubernetes.io/instance": RELEASE}
    ports = [{"port": 80, "targetPort": 8000}]
    service = {"type": "NodePort", "selector": {"nobody": "there"}, "ports": ports}
    metadata = {"name": unique, "namespace": cluster.namespace}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    try:
        (port,) = cluster.get("v1", "Service", unique)["spec"]["ports"]

        def connect(source: int = 0) -> int:
            """Connect from a port of this machine; it is 0 that says success."""
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind(("127.0.0.1", source))
                client.settimeout(2)
                source = client.getsockname()[1]
                return 0 if client.connect_ex(("127.0.0.1", port["nodePort"])) == 0 else source

        time.sleep(3)  # until kube-proxy rejects: before that the kernel refuses, and remembers nothing
        refused = connect()
        service["selector"] = {**own, "app.kubernetes.io/name": "gateway"}
        cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
        cluster.wait("the Service to have a pod", lambda: connect() == 0, 30)
        time.sleep(11)
        assert connect(refused) == 0
    finally:
        cluster.delete("v1", "Service", unique)


@pytest.fixture
def registry(folder: Path) -> Iterator[str]:
    """The address of an empty container registry on this machine."""
    program = shutil.which("docker-registry")
    if not program:
        pytest.skip("the program docker-registry is not installed (Debian's package of that name)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    (folder / "config.json").write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}}))
    with subprocess.Popen(
        [program, "serve", folder / "config.json"], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    ) as process:
        try:
            console.wait_until(lambda: processes.port_taken(port), "the registry", 10)
            yield address
        finally:
            process.terminate()


@needs_root
@pytest.mark.timeout(900)
def test_the_runtime_image_can_be_pushed(registry: str) -> None:
    """The image has the name that the printed options give to a release."""
    done = subprocess.run(
        [PYTHON, "scripts/images", "push", registry], cwd=REPO, capture_output=True, text=True, timeout=800, check=True
    )
    options = dict(word.split("=") for word in done.stdout.splitlines()[-1].removeprefix("--set ").split(","))
    assert options["global.runtime.registry"] == registry
    name, tag = options["global.runtime.repository"], options["global.runtime.tag"]
    manifest = requests.get(
        f"http://{registry}/v2/{name}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        timeout=10,
    )
    assert manifest.ok
    assert manifest.json()["layers"]


FIREWALL = """
import subprocess
from scripts.bare import host

def run(*words, **options):
    return subprocess.run(words, text=True, capture_output=True, check=True, **options).stdout

run("ipset", "create", "KUBE-SRC-ABC", "hash:ip")
run("ipset", "create", "SOMEBODY", "hash:ip")
run("iptables-restore", input="\\n".join([
    "*filter", ":INPUT ACCEPT [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]", ":SOMEBODY - [0:0]",
    ":KUBE-ROUTER-INPUT - [0:0]", ":KUBE-POD-FW-ABC - [0:0]", ":KUBE-NWPLCY-ABC - [0:0]",
    "-A INPUT -m comment --comment \\"kube-router netpol - X\\" -j KUBE-ROUTER-INPUT",
    "-A INPUT -s 192.0.2.1/32 -j SOMEBODY", "-A SOMEBODY -m set --match-set SOMEBODY src -j DROP",
    "-A KUBE-ROUTER-INPUT -d 198.18.0.2/32 -j KUBE-POD-FW-ABC", "-A KUBE-POD-FW-ABC -j KUBE-NWPLCY-ABC",
    "-A KUBE-NWPLCY-ABC -m set --match-set KUBE-SRC-ABC src -j MARK --set-xmark 0x10000/0x10000", "COMMIT", ""]))
run("iptables", "-t", "nat", "-N", "KUBE-SERVICES")
run("iptables", "-t", "nat", "-A", "PREROUTING", "-j", "KUBE-SERVICES")
before = run("iptables", "-w", "-t", "mangle", "-S")
run("iptables", "-w", "-t", "mangle", "-A", *host.NO_ANSWER)
host.remove_rules()
assert run("iptables", "-w", "-t", "mangle", "-S") == before
left = run("iptables-save") + run("ipset", "list", "-name")
assert "KUBE-" not in left, left
assert "-A INPUT -s 192.0.2.1/32 -j SOMEBODY" in left, left
assert ":FORWARD DROP" in left, left
assert "SOMEBODY" in run("ipset", "list", "-name")
"""


@needs_root
def test_rules_of_the_cluster_are_removed_and_those_of_others_stay() -> None:
    """In a network namespace of its own: kube-router's own `--cleanup-config` fails."""
    if not shutil.which("ipset"):
        pytest.skip("ipset is not installed (`make up` installs it)")
    done = subprocess.run(
        ["unshare", "--net", PYTHON, "-c", FIREWALL], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
