"""What the cluster changes on its host, and how `make down` undoes that: kernel settings, network, firewall, cgroups, mounts."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.common import console
from scripts.common.paths import STATE

from .node import BRIDGE, FIRST, NODE_ADDRESS, NODES_RANGE, POD_RANGE, Node, write

#: The host as it was before the first change.
NOTE = STATE / "host.json"
#: Kernel settings of the node. A connection to 127.0.0.1 that kube-proxy rejects, since the gateway has no pod just then, stays in
#: conntrack as one without a pod: for the time of an unanswered SYN (120 s) each new connection from the same port is refused.
SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/netfilter/nf_conntrack_tcp_timeout_syn_sent": "10",
}
#: What the node and its programs change in the kernel; `down` puts it back.
SYSCTLS = (
    *SETTINGS,
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
#: Folders outside the state that the kubelet makes by itself.
FOLDERS = (Path("/var/lib/kubelet"), Path("/var/log/containers"))
#: Lines of `iptables-save` that the cluster's programs wrote: chains, their rules, and jumps to them.
OF_THE_CLUSTER = re.compile(r"(^:|-A |-j |-g )KUBE-")
#: kube-router answers a refused connection, and learns of a pod a second after its start: the pod's first connections would
#: fail. Without the answer, the pod's kernel asks again. The answer is ICMP whose payload has 198.18.0.0/16 or 198.19.128.0/17
#: as destination, pods and nodes; kube-proxy's for Services without endpoints stay.
NO_ANSWER = (
    "OUTPUT",
    *("-d", "198.18.0.0/15", "-p", "icmp", "--icmp-type", "port-unreachable"),
    *("-m", "u32", "--u32", "44=0xC6120000:0xC612FFFF,0xC6138000:0xC613FFFF"),
    *("-m", "comment", "--comment", "iml4e", "-j", "DROP"),
)


def prepare() -> None:
    """Note what the host looks like, then set up forwarding, the node's address and masquerading."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-a", "br_netfilter", "nf_conntrack", "overlay"], capture_output=True)
    _note()
    for name, value in SETTINGS.items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
    console.run(["ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", "lo"])
    masquerade(POD_RANGE)
    answer_nothing()


def _note() -> None:
    """Write the note once: a second one would hold our own changes."""
    if NOTE.exists():
        return
    kernel = {}
    for name in SYSCTLS:
        path = Path("/proc/sys") / name
        if path.exists():
            kernel[name] = path.read_text().strip()
    write(NOTE, json.dumps({"sysctls": kernel, "folders": [str(folder) for folder in FOLDERS if not folder.exists()]}))


def kill_pods(node: Node = FIRST) -> None:
    """Kill every process of every pod of a node, then the shims; the kubelet must have ended."""
    _kill(_in_cgroups(node))
    time.sleep(1)
    _kill(_in_cgroups(node))
    _kill(_shims(node))


def _masquerading(source: str) -> list[str]:
    """The rule that gives packets of a range, to addresses outside the cluster, the address of this machine."""
    rule = ["POSTROUTING", "-s", source, "!", "-d", "198.18.0.0/15", "-m", "comment", "--comment", "iml4e"]
    return [*rule, "-j", "MASQUERADE"]


def masquerade(source: str) -> None:
    """Let packets of a range reach the network of this machine under its own address."""
    rule = _masquerading(source)
    if subprocess.run(["iptables", "-w", "-t", "nat", "-C", *rule], capture_output=True).returncode:
        console.run(["iptables", "-w", "-t", "nat", "-A", *rule])


def answer_nothing(inside: Sequence[str] = ()) -> None:
    """Drop kube-router's answers to refused connections, on this machine or, by `nsenter …`, in a further node."""
    if subprocess.run([*inside, "iptables", "-w", "-t", "mangle", "-C", *NO_ANSWER], capture_output=True).returncode:
        # a kernel without this match refuses at once, which is right as well
        subprocess.run([*inside, "iptables", "-w", "-t", "mangle", "-A", *NO_ANSWER], capture_output=True)


def make_cgroup(name: str) -> None:
    """Make a cgroup of every hierarchy, with every controller that pods want."""
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.procs").exists()
    for parent in [root] if unified else [path.parent for path in root.glob("*/cgroup.procs")]:
        (parent / name).mkdir(exist_ok=True)
        for folder in (parent, parent / name) if unified else ():
            for controller in ("cpu", "cpuset", "hugetlb", "io", "memory", "pids"):
                # a kernel may lack some; the kubelet names those that it misses
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def remove_cgroups(node: Node = FIRST) -> None:
    """Remove the cgroups of a node whose pods have ended."""
    for folder in _pod_cgroups(node):
        for path in sorted(
            (p for p in [folder, *folder.rglob("*")] if p.is_dir()), key=lambda p: len(p.parts), reverse=True
        ):
            try:
                path.rmdir()
            except OSError:
                continue


def restore() -> None:
    """Undo all changes; the processes of the cluster must have ended.

    Raises:
        console.Failure: a mount below the state folder is in use.
    """
    host = json.loads(NOTE.read_text())
    remove_rules()
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)
    subprocess.run(["ip", "address", "delete", f"{NODE_ADDRESS}/32", "dev", "lo"], capture_output=True)
    for mount in sorted(_mounts(), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True)
    remove_cgroups()
    for name, value in host["sysctls"].items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
    for folder in host["folders"]:
        shutil.rmtree(folder, ignore_errors=True)
    if left := _mounts():
        raise console.Failure(
            f"{len(left)} mounts below {STATE} are still there, {left[0]} first.",
            "End what uses them, then `make down` again.",
        )


def _mounts() -> list[str]:
    """Mount points below the state folder."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{STATE}/")]


def _pod_cgroups(node: Node) -> list[Path]:
    """The cgroups of a node's kubelet: one on a unified hierarchy, else one for each controller."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(node.cgroup), *root.glob(f"*/{node.cgroup}")]


def _in_cgroups(node: Node) -> list[int]:
    """The processes of all pods of a node: its kubelet's cgroups hold them and nothing else."""
    pids = set()
    for folder in _pod_cgroups(node):
        for path in folder.rglob("cgroup.procs"):
            try:
                pids.update(int(pid) for pid in path.read_text().split())
            except OSError:
                continue
    return sorted(pids)


def _shims(node: Node) -> list[int]:
    """The containerd shims that belong to a node's socket."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and str(node.containerd).encode() in words:
            found.append(int(path.parent.name))
    return found


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def remove_rules() -> None:
    """Remove our rules, and the chains and sets of kubelet, kube-proxy and kube-router: ours, since their ports were ours.

    One transaction a table: kube-router alone writes ten rules for each pod.
    """
    ours = [("nat", _masquerading(source)) for source in (POD_RANGE, NODES_RANGE)] + [("mangle", NO_ANSWER)]
    for table, rule in ours:
        while not subprocess.run(["iptables", "-w", "-t", table, "-D", *rule], capture_output=True).returncode:
            pass
    for program in ("iptables", "ip6tables"):
        for table in ("mangle", "nat", "filter"):
            saved = subprocess.run([f"{program}-save", "-c", "-t", table], capture_output=True, text=True).stdout
            kept = [line for line in saved.splitlines(keepends=True) if not OF_THE_CLUSTER.search(line)]
            if len(kept) < len(saved.splitlines()):
                subprocess.run([f"{program}-restore", "-w", "-c"], input="".join(kept), text=True, capture_output=True)
    if shutil.which("ipset"):
        for name in subprocess.run(["ipset", "list", "-name"], capture_output=True, text=True).stdout.split():
            if name.startswith(("KUBE-SRC-", "KUBE-DST-")):
                subprocess.run(["ipset", "destroy", name], capture_output=True)
