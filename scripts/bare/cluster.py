"""A Kubernetes made of plain processes, of one node or more: start, heal, show, remove."""

import hashlib
import json
import shutil
import string
from pathlib import Path
from typing import Any

from scripts.common import console
from scripts.common.paths import BIN, CACHE, KUBECONFIG, LOG, RUN, STATE

from . import host, images, node, nodes, processes
from .node import FIRST, Node

MANIFESTS = Path(__file__).parent / "manifests"


def kubectl(*words: str, stdin: str | None = None) -> str:
    """Run kubectl as the cluster's administrator."""
    return console.run([BIN / "kubectl", "--kubeconfig", KUBECONFIG, *words], stdin=stdin)


def _kubectl_ok(*words: str) -> bool:
    try:
        kubectl(*words)
    except console.Failure:
        return False
    return True


def _add_ons() -> None:
    """Install DNS, volumes and metrics, which the platform expects of any cluster."""
    text = "\n---\n".join(
        string.Template(path.read_text()).substitute(
            busybox=images.named("busybox").reference,
            coredns=images.named("coredns").reference,
            dns_address=node.DNS_ADDRESS,
            local_path=images.named("local-path-provisioner").reference,
            metrics_server=images.named("metrics-server").reference,
            volumes=STATE / "volumes",
        )
        for path in sorted((MANIFESTS / "addons").glob("*.yaml"))
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    mark = STATE / "add-ons"
    if mark.exists() and mark.read_text() == digest:
        return
    with console.step("install the cluster's add-ons"):
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        mark.write_text(digest)


def claims_on(volumes: list[dict[str, Any]], name: str) -> list[str]:
    """The claims, as namespace/name, whose volumes only this node can mount."""
    found = []
    for volume in volumes:
        terms = volume["spec"].get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", [])
        wanted = [expression for term in terms for expression in term.get("matchExpressions", [])]
        claim = volume["spec"].get("claimRef", {})
        if any(each["key"] == "kubernetes.io/hostname" and name in each.get("values", []) for each in wanted):
            found.append(f"{claim.get('namespace')}/{claim.get('name')}")
    return sorted(found)


def _remove(one: Node) -> None:
    """Move the pods of a node to the others, then take it away.

    Raises:
        console.Failure: it has volumes, whose data would go with it.
    """
    if claims := claims_on(json.loads(kubectl("get", "persistentvolumes", "--output=json"))["items"], one.name):
        raise console.Failure(
            f"Node {one.name} has the data of {len(claims)} volumes, {claims[0]} first; it was not removed.",
            f"Keep it with `make up NODES={one.number}`, move the data (docs/install.md, 'Volumes'), or remove everything with `make down`.",
        )
    with console.step(f"remove the node {one.name}"):
        if processes.pid_of(nodes.holder(one).name):
            options = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=400s"]
            kubectl("drain", one.name, *options)
        kubectl("delete", "node", one.name, "--ignore-not-found")
        nodes.remove(one)


def _nodes(count: int | None) -> list[Node]:
    """Start the further nodes, and remove those above `count`; return those that there are."""
    there = nodes.present()
    for one in reversed(there):
        if count and one.number > count:
            _remove(one)
    found = [Node(number) for number in range(2, (count or len(there) + 1) + 1)]
    for one in found:
        nodes.start(one)
    return found


def up() -> None:
    """Start what does not run; a second call takes seconds, a call after a crash heals."""
    count = nodes.wanted()
    host.prepare()
    (STATE / "volumes").mkdir(parents=True, exist_ok=True)
    RUN.mkdir(parents=True, exist_ok=True)
    node.certificates()
    node.configuration()
    every = {process.name: process for process in node.every_process()}
    for name in ("etcd", "kube-apiserver", "containerd"):
        processes.start_and_wait(every[name])
    # the one kubeconfig that has its rights without a binding
    superuser = ["--kubeconfig", STATE / "super-admin.conf"]
    console.run([BIN / "kubectl", *superuser, "apply", "--server-side", "-f", MANIFESTS / "bootstrap"])
    images.load_all()
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
        processes.start_and_wait(every[name])
    _add_ons()
    further = _nodes(count)
    with console.step(f"wait for the node{'s' if further else ''} and {'the' if further else 'its'} add-ons"):
        for one in (FIRST, *further):
            console.wait_until(
                lambda one=one: _kubectl_ok("wait", "--for=condition=Ready", f"node/{one.name}", "--timeout=1s"),
                f"The node {one.name}" if further else "The node",
                90,
                LOG / f"{one.called('kubelet')}.log",
                "Run `make up` again.",
            )
        # metrics-server is left out: it is ready after its first round only, and the platform does not need it.
        for name in ("coredns", "local-path-provisioner"):
            console.wait_until(
                lambda name=name: _kubectl_ok(
                    "-n", "kube-system", "rollout", "status", f"deployment/{name}", "--timeout=1s"
                ),
                f"The add-on {name}",
                120,
                cure=f"Look at it with `{BIN}/kubectl --kubeconfig {KUBECONFIG} -n kube-system describe pods`.",
            )
    for one in (FIRST, *further):
        processes.start_and_wait(node.workers(one)[-1])


def status() -> None:
    """Print processes, pods and their state."""
    print(f"state  {STATE}{'' if STATE.exists() else ' (none: nothing is up)'}")
    print(f"cache  {CACHE}")
    further = nodes.present()
    for process in (*node.every_process(), *(each for one in further for each in nodes.every_process(one))):
        pid = processes.pid_of(process.name)
        health = "ready" if pid and process.ready() else "not ready" if pid else "not running"
        print(f"{process.name:<24} {health:<12} {f'pid {pid}' if pid else ''}")
    if not processes.pid_of("kube-apiserver"):
        return
    print(f"\nexport KUBECONFIG={KUBECONFIG}\n")
    wide = ["--output=wide"] if further else []
    if further:
        print(kubectl("get", "nodes", *wide))
    # a run of a pipeline leaves twenty pods that have succeeded
    print(kubectl("get", "pods", "--all-namespaces", "--field-selector=status.phase!=Succeeded", *wide), end="")


def down() -> None:
    """Remove processes, mounts, networks, firewall rules and state; the cache stays."""
    if not host.NOTE.exists():
        console.say("Nothing is up.")
        return
    for one in nodes.present():
        with console.step(f"remove the node {one.name}"):
            nodes.remove(one)
    with console.step("stop the pods"):
        processes.stop("kubelet")
        host.kill_pods()
    with console.step("stop the cluster"):
        processes.stop("kube-proxy")
        if (BIN / "kube-proxy").exists():
            console.run(
                [BIN / "kube-proxy", "--cleanup", f"--config={STATE / 'kube-proxy.json'}"], log=LOG / "cleanup.log"
            )
        for process in reversed(node.every_process()):
            processes.stop(process.name)
    with console.step("restore the host"):
        host.restore()
        shutil.rmtree(STATE)
