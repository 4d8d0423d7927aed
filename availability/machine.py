"""Events of the machine below the cluster: only where the cluster is the one that `make up` made of processes of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.bare import node, processes
from scripts.common import console
from scripts.common.paths import KUBECONFIG, STATE

from .endpoints import GATEWAY, MODELS
from .events import Event, World, persist, scaled_to_nothing, stores
from .release import Release, Workload

#: Size of the volume that fills, beside the data that it has.
SPARE = 128 * 2**20
IMAGE, STAGE = STATE / "availability-volume.img", STATE / "availability-volume"


def missing() -> str:
    """Why this machine's cluster is not the one that is measured; empty if it is."""
    if os.environ.get("KUBECONFIG") != str(KUBECONFIG) or not processes.pid_of("kubelet"):
        return "the cluster is not made of processes of this machine"
    return "" if os.geteuid() == 0 else "this needs root"


def process(name: str) -> processes.Process:
    """A process of the cluster by name."""
    return next(each for each in node.every_process() if each.name == name)


def ended(name: str, undo: ExitStack, seconds: float = 20) -> None:
    """End a process of the cluster; `undo` starts it again, with the priority that it had, whatever this program's own is."""
    pid = processes.pid_of(name)
    priority = os.getpriority(os.PRIO_PROCESS, pid) if pid else 0

    def start() -> None:
        processes.start_and_wait(process(name))
        if (group := processes.pid_of(name)) is not None:
            os.setpriority(os.PRIO_PGRP, group, priority)

    undo.callback(persist, start, f"start {name}")
    processes.stop(name, seconds)


def restart(name: str) -> Callable[[World, ExitStack], None]:
    """End a process of the cluster and start it again."""

    def act(world: World, undo: ExitStack) -> None:
        ended(name, undo)

    return act


def away(name: str) -> Callable[[World, ExitStack], None]:
    """End a process of the cluster, and start it again after a while."""

    def act(world: World, undo: ExitStack) -> None:
        # an API server that is asked to end serves for a while
        ended(name, undo, seconds=2)
        world.wait(world.hold)

    return act


def dns_away(world: World, undo: ExitStack) -> None:
    """Scale the cluster's DNS to nothing for 20 s."""
    dns = Workload("deployment", "coredns", "coredns", 1, "k8s-app=kube-dns")
    there = Release("coredns", "kube-system", world.release.url)
    pods = there.pods(dns.selector)
    scaled_to_nothing(there, dns, undo)
    console.wait_until(lambda: not there.pods(dns.selector), f"the end of {len(pods)} pods of DNS", 60)
    world.wait(min(world.hold, 20))


def main_process(container: str) -> int:
    """The number, on this machine, of the first process of a container.

    Raises:
        console.Failure: it has none.
    """
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            inside = container in group.read_text()
            status = (group.parent / "status").read_text() if inside else ""
        except OSError:  # it has ended
            continue
        for line in status.splitlines():
            if line.startswith("NSpid:") and line.split()[-1] == "1":
                return int(group.parent.name)
    raise console.Failure(f"No process of container {container[:12]} is running on this machine.")


def crash(workloads: Sequence[Workload]) -> Callable[[World, ExitStack], None]:
    """Kill the first process of one pod of each workload: the kubelet starts the container again."""

    def act(world: World, undo: ExitStack) -> None:
        for each in workloads:
            pod = world.release.running(each.selector)[0]
            # the container that the workload is about is its first one; others help it
            first = pod["spec"]["containers"][0]["name"]
            container = next(c for c in pod["status"]["containerStatuses"] if c["name"] == first)
            os.kill(main_process(container["containerID"].rpartition("/")[2]), signal.SIGKILL)
        time.sleep(3)

    return act


# --- a volume that fills


def folder_of(release: Release, workload: Workload) -> Path:
    """The folder of this machine that is a StatefulSet's volume.

    Raises:
        console.Failure: it is not below the folder of this cluster's volumes.
    """
    (claim,) = release.get("persistentvolumeclaim", f"data-{workload.name}-0")
    (volume,) = release.get("persistentvolume", claim["spec"]["volumeName"])
    spec = volume["spec"]
    path = Path((spec.get("hostPath") or spec.get("local") or {}).get("path", "/"))
    if not path.is_relative_to(STATE / "volumes") or not path.is_dir():
        raise console.Failure(f"The volume of {workload.name} is not a folder below {STATE / 'volumes'}.")
    return path


def used(folder: Path) -> int:
    """Bytes that the files of a folder take."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def put_back(folder: Path) -> None:
    """Bring what is on the small volume back to the folder, and remove the small volume. A second call goes on."""
    if os.path.ismount(folder):
        console.run(["umount", folder])
    if not IMAGE.exists():
        return
    if not os.path.ismount(STAGE):
        console.run(["mount", "-o", "loop", IMAGE, STAGE])
    fresh, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    (STAGE / "filler").unlink(missing_ok=True)
    console.run(["cp", "--archive", STAGE, fresh])
    shutil.rmtree(fresh / "lost+found", ignore_errors=True)
    console.run(["umount", STAGE])
    # never without a complete folder: the former one goes last
    folder.rename(old)
    fresh.rename(folder)
    IMAGE.unlink()
    STAGE.rmdir()
    shutil.rmtree(old)


def fill(workload: Workload) -> Callable[[World, ExitStack], None]:
    """Put the data of a StatefulSet on a small volume, fill that to the last byte for a while, and put the data back.

    The volumes of this cluster are folders of one disk: to fill one of them would fill the machine.
    """

    def small(world: World, folder: Path) -> None:
        STAGE.mkdir(exist_ok=True)
        with IMAGE.open("wb") as image:
            image.truncate(used(folder) * 5 // 4 + SPARE)
        console.run(["mkfs.ext4", "-q", "-m", "0", IMAGE])
        console.run(["mount", "-o", "loop", IMAGE, STAGE])
        console.run(["cp", "--archive", f"{folder}/.", STAGE])
        console.run(["umount", STAGE])
        console.run(["mount", "-o", "loop", IMAGE, folder])

    def act(world: World, undo: ExitStack) -> None:
        release, folder = world.release, folder_of(world.release, workload)
        if used(folder) > 2**30:
            raise console.Failure(f"The volume of {workload.name} has more than 1 GiB: too much to copy in a test.")
        kubectl, ended = (
            release.kubectl,
            ["wait", "pod", "--selector", workload.selector, "--for=delete", "--timeout=60s"],
        )
        scale = ["scale", workload.path]
        undo.callback(
            persist, lambda: kubectl(*scale, f"--replicas={workload.replicas}"), f"scale {workload.path} back"
        )

        def back() -> None:
            kubectl(*scale, "--replicas=0")
            kubectl(*ended)
            put_back(folder)

        undo.callback(persist, back, f"put the data of {workload.path} back")
        kubectl(*scale, "--replicas=0")
        kubectl(*ended)
        small(world, folder)
        kubectl(*scale, f"--replicas={workload.replicas}")
        release.settle()
        # what programs write from now on fails
        with (folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(2**20))
        if (free := os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize) > 2**20:
            raise console.Failure(f"The volume of {workload.name} has {free} bytes left: it is not full.")
        world.wait(world.hold)

    return act


def catalogue(world: World) -> list[Event]:
    """The events of this machine, each with the reason where it cannot happen."""
    why = missing()
    parts = world.release.parts()
    found = [
        Event(f"crash-{part}", f"process of {part} killed", crash(workloads), skipped=why)
        for part, workloads in sorted(parts.items())
    ]
    lossless = (MODELS, GATEWAY)
    found += [
        Event("restart-kubelet", "kubelet restarted", restart("kubelet"), lossless, skipped=why),
        Event("restart-containerd", "container runtime restarted", restart("containerd"), lossless, skipped=why),
        Event(
            "away-api",
            f"API server away for {world.hold:.0f} s",
            away("kube-apiserver"),
            lossless,
            quick=True,
            skipped=why,
        ),
        Event("away-dns", f"DNS away for {min(world.hold, 20):.0f} s", dns_away, lossless, skipped=why),
    ]
    tools = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name)]
    reason = why or (f"this machine lacks {tools[0]}" if tools else "")
    found += [
        Event(f"fill-{part}", f"volume of {part} full for {world.hold:.0f} s", fill(workload), lossless, skipped=reason)
        for part in ("minio",)
        for workload in stores(parts, part)
    ]
    return found
