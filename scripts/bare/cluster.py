"""A single-node Kubernetes made of plain processes: start, heal, show, remove."""

import hashlib
import shutil
import string
from pathlib import Path

from scripts.common import console
from scripts.common.paths import BIN, CACHE, KUBECONFIG, LOG, RUN, STATE

from . import host, images, node, processes

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


def up() -> None:
    """Start what does not run; a second call takes seconds, a call after a crash heals."""
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
    with console.step("wait for the node and its add-ons"):
        log = every["kubelet"].log
        console.wait_until(
            lambda: _kubectl_ok("wait", "--for=condition=Ready", f"node/{node.NODE}", "--timeout=1s"),
            "The node",
            90,
            log,
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
    # asks for the node's address, which the kubelet has written
    processes.start_and_wait(every["kube-router"])


def status() -> None:
    """Print processes, pods and their state."""
    print(f"state  {STATE}{'' if STATE.exists() else ' (none: nothing is up)'}")
    print(f"cache  {CACHE}")
    for process in node.every_process():
        pid = processes.pid_of(process.name)
        health = "ready" if pid and process.ready() else "not ready" if pid else "not running"
        print(f"{process.name:<24} {health:<12} {f'pid {pid}' if pid else ''}")
    if not processes.pid_of("kube-apiserver"):
        return
    print(f"\nexport KUBECONFIG={KUBECONFIG}\n")
    # a run of a pipeline leaves twenty pods that have succeeded
    print(kubectl("get", "pods", "--all-namespaces", "--field-selector=status.phase!=Succeeded"), end="")


def down() -> None:
    """Remove processes, mounts, networks, firewall rules and state; the cache stays."""
    if not host.NOTE.exists():
        console.say("Nothing is up.")
        return
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
