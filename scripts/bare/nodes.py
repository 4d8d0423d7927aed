"""Further nodes on this machine: each one has a network and mounts of its own, and its own containerd, kubelet and kube-proxy.

A process that sleeps holds the namespaces of a node; what a node has lies below the folder `nodes` of the state. A pair of virtual
links leads from the machine, which is node 1, to each node; the machine forwards packets between them.
"""

import os
import shutil
import string
import subprocess
from pathlib import Path

from scripts.common import console
from scripts.common.paths import BIN, STATE

from . import host, images, node, processes
from .node import NODE_ADDRESS, Node
from .processes import Process

MOST = 9
#: What a further node takes, and what all of them share: their images, unpacked once.
MEMORY_GIB, IMAGES_GIB = 0.5, 4
#: A containerd that never runs a container: its data is what the data of a new node starts from.
STORE, STORE_PROCESS = STATE / "nodes" / "images", "containerd-images"
#: Of a node's own: where its volumes are, and what kubelets keep outside their folder, whatever `--root-dir` says.
OWN = {
    "volumes": STATE / "volumes",
    "var-lib-kubelet": Path("/var/lib/kubelet"),
    "var-log-containers": Path("/var/log/containers"),
}
#: Route of packets for nodes that have no link.
NOWHERE = ("blackhole", node.NODES_RANGE)
#: Runs with mounts of its own. What the machine has mounted for node 1 is no business of another node.
HOLD = string.Template("""
set -eu
tac /proc/self/mounts | while read -r _ point _; do
  case $$point in "$state"/*) umount --lazy "$$point" ;; esac
done
$binds
exec sleep infinity
""")


def wanted() -> int | None:
    """How many nodes `make up NODES=…` asks for; None: those that there are.

    Raises:
        console.Failure: that is no number of nodes.
    """
    text = os.environ.get("IML4E_NODES", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST):
        raise console.Failure(f"NODES is {text}, which is no number from 1 to {MOST}.", "Try `make up NODES=3`.")
    return int(text)


def present() -> list[Node]:
    """The further nodes that there are, whether they run or not."""
    return [Node(number) for number in range(2, MOST + 1) if Node(number).folder.exists()]


def holder(one: Node) -> Process:
    """The process that holds the namespaces of a node."""
    binds = "\n".join(f"mount --bind '{one.folder / name}' '{there}'" for name, there in OWN.items())
    script = HOLD.substitute(state=STATE, binds=binds)
    name = one.called("node")
    last = f" {list(OWN.values())[-1]} "

    def ready() -> bool:
        try:
            return last in Path(f"/proc/{processes.pid_of(name)}/mountinfo").read_text()
        except OSError:
            return False

    return Process(name, ("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script), ready)


def every_process(one: Node) -> tuple[Process, ...]:
    """The processes of a node in the order in which they start."""
    return (holder(one), *node.workers(one))


def _images() -> None:
    """Unpack the images once for all further nodes."""
    node.containerd(STORE, STORE / "run", STORE / "containerd.sock")
    command = (str(BIN / "containerd"), "--config", str(STORE / "containerd.toml"))
    store = Process(STORE_PROCESS, command, lambda: processes.listens(STORE / "containerd.sock"))
    try:
        processes.start_and_wait(store)
        images.load_all(STORE / "containerd.sock", STORE / "marks", lean=True)
    finally:
        processes.stop(store.name)


def _copy_images(one: Node) -> None:
    """Start a node's data with the unpacked images: the files are shared, as nothing ever writes to them; databases are copied."""
    target, half = one.folder / "containerd", one.folder / "containerd.part"
    if target.exists():
        return
    _images()
    with console.step(f"give {one.name} its images"):
        shutil.rmtree(half, ignore_errors=True)
        console.run(["cp", "--archive", "--link", STORE / "containerd", half])
        for database in half.glob("*/*.db"):
            database.unlink()
            shutil.copy2(STORE / "containerd" / database.relative_to(half), database)
        shutil.copytree(STORE / "marks", one.folder / "images", dirs_exist_ok=True)
        half.rename(target)


def _link(one: Node, *kind: str) -> None:
    """Make the machine's end of the link to a node anew; packets that come meanwhile are lost, and leave the machine by no other way."""
    console.run(["ip", "route", "replace", *NOWHERE])
    subprocess.run(["ip", "link", "delete", one.name], capture_output=True)
    console.run(["ip", "link", "add", one.name, "type", *kind])


def _route(one: Node) -> None:
    """Send packets for a node and its pods over its link."""
    host.masquerade(node.NODES_RANGE)
    for words in (
        ["link", "set", one.name, "up"],
        ["address", "replace", NODE_ADDRESS, "peer", one.address, "dev", one.name],
        ["route", "replace", one.pods, "via", one.address, "dev", one.name, "src", NODE_ADDRESS],
    ):
        console.run(["ip", *words])


def _connect(one: Node, *, anew: bool) -> None:
    """Join the node's network with the machine's; a second call repairs what is missing."""
    inside = processes.inside(holder(one).name)
    if anew or not Path(f"/sys/class/net/{one.name}").exists():
        _link(one, "veth", "peer", "name", "eth0", "netns", str(processes.pid_of(holder(one).name)))
    _route(one)
    for words in (
        ["link", "set", "lo", "up"],
        ["link", "set", "eth0", "up"],
        ["address", "replace", one.address, "peer", NODE_ADDRESS, "dev", "eth0"],
        ["route", "replace", "default", "via", NODE_ADDRESS, "dev", "eth0"],
    ):
        console.run([*inside, "ip", *words])
    host.answer_nothing(inside)
    settings = (f"[ ! -e /proc/sys/{name} ] || echo {value} >/proc/sys/{name}" for name, value in host.SETTINGS.items())
    console.run([*inside, "sh", "-ec", "\n".join(settings)])


def start(one: Node) -> None:
    """Start what does not run of a node; one whose namespaces are gone starts as after a loss of power."""
    for name in OWN:
        (one.folder / name).mkdir(parents=True, exist_ok=True)
    for there in OWN.values():
        there.mkdir(parents=True, exist_ok=True)
    node.kubeconfig(one)
    node.configuration(one)
    _copy_images(one)
    anew = not processes.pid_of(holder(one).name)
    if anew:
        _end(one)
    host.make_cgroup(one.cgroup)
    processes.start_and_wait(holder(one))
    _connect(one, anew=anew)
    # cluster.py starts kube-router, which asks for the node's address, as soon as nodes are ready
    runtime, *others, _ = node.workers(one)
    processes.start_and_wait(runtime)
    images.load_all(one.containerd, one.folder / "images")
    for process in others:
        processes.start_and_wait(process)


def _end(one: Node) -> None:
    """End every process of a node at once, and lose what a machine loses with its memory."""
    for process in reversed(node.workers(one)):
        processes.stop(process.name, seconds=0)
    host.kill_pods(one)
    processes.stop(holder(one).name, seconds=0)
    shutil.rmtree(one.folder / "run", ignore_errors=True)
    host.remove_cgroups(one)


def halt(one: Node) -> None:
    """Take a node away as a loss of power does: no answer comes from there any more, pods get no time, the disk stays."""
    # a bridge without ports takes every packet and answers none; without it, the machine would send them to its own network
    _link(one, "bridge")
    console.run(["ip", "link", "set", one.name, "arp", "off"])
    _route(one)
    _end(one)


def remove(one: Node) -> None:
    """Take a node away, its disk included."""
    _end(one)
    subprocess.run(["ip", "link", "delete", one.name], capture_output=True)
    if one.folder.exists():
        shutil.rmtree(one.folder)
    if not present():
        processes.stop(STORE_PROCESS)
        subprocess.run(["ip", "route", "delete", *NOWHERE], capture_output=True)
        shutil.rmtree(STORE.parent, ignore_errors=True)
