"""The platform's images, built from package registries for machines that reach no container registry.

Each is a drop-in for an upstream image: same repository path, tag, user and entry point, under `iml4e.local/`.
"""

import hashlib
import json
import os
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import console, golang
from .paths import BIN, CACHE, REPO, RUN, STATE

FOLDER = REPO / "images"
#: The certificate authorities that this machine trusts.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
REGISTRY = "iml4e.local"
#: One archive a machine is enough: dpkg drops what a container never reads.
MMDEBSTRAP = (
    "mmdebstrap",
    "--variant=minbase",
    "--include=ca-certificates",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    # What apt writes to find packages faster the next time would be 100 MB in every image.
    '--aptopt=Dir::Cache::pkgcache ""',
    '--aptopt=Dir::Cache::srcpkgcache ""',
    '--aptopt=Binary::apt::APT::Keep-Downloaded-Packages "false"',
)


@dataclass(frozen=True)
class Image:
    """A folder below images/ and the upstream image that it stands in for; its Containerfile's ARGs say what it starts from."""

    name: str
    upstream: str
    #: Wanted only where Kubeflow Pipelines' own images were brought.
    pipelines: bool = False
    #: Our own, without an upstream: its tag ends in its content's key, so that a change rolls the pods that use it.
    own: bool = False

    @property
    def reference(self) -> str:
        """The name under our own registry: the upstream one with another host."""
        return f"{REGISTRY}/{self.repository}:{self.tag}"

    @property
    def repository(self) -> str:
        """The repository, without registry and tag."""
        return self.upstream.split("/", 1)[1].rpartition(":")[0]

    @property
    def tag(self) -> str:
        """Upstream's tag; of our own image the version and the key of its content."""
        tag = self.upstream.rpartition(":")[2]
        return f"{tag}-{key(self)}" if self.own else tag

    @property
    def arguments(self) -> dict[str, str]:
        """The build arguments of the Containerfile that have a default."""
        return dict(re.findall(r"^ARG (\w+)=(\S+)$", (FOLDER / self.name / "Containerfile").read_text(), re.MULTILINE))

    @property
    def go(self) -> bool:
        """Whether it compiles Go."""
        return "GO" in self.arguments

    @property
    def base(self) -> "Image | None":
        """The image of ours that it starts from."""
        return next((image for image in IMAGES if image.upstream == self.arguments.get("BASE")), None)

    @property
    def suite(self) -> str:
        """The Debian release that it is built on."""
        return self.arguments.get("DEBIAN", "debian:trixie-slim").rpartition(":")[2].removesuffix("-slim")


IMAGES = (
    Image("mlflow", "ghcr.io/mlflow/mlflow:v3.17.2-full"),
    Image("runtime", f"{REGISTRY}/iml4e/runtime:0.1.0", own=True),
    Image("mariadb", "docker.io/library/mariadb:11.8"),
    Image("traefik", "docker.io/library/traefik:v3.7.15"),
    Image("busybox", "docker.io/library/busybox:1.37"),
    Image("pause", "registry.k8s.io/pause:3.10.1"),
    Image("coredns", "registry.k8s.io/coredns/coredns:v1.14.7"),
    Image("local-path-provisioner", "docker.io/rancher/local-path-provisioner:v0.0.30"),
    Image("metrics-server", "registry.k8s.io/metrics-server/metrics-server:v0.9.0"),
    Image("prometheus", "quay.io/prometheus/prometheus:v3.14.0"),
    Image("minio", "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"),
    Image("mc", "quay.io/minio/mc:RELEASE.2025-08-13T08-35-41Z"),
    Image("kserve-controller", "docker.io/kserve/kserve-controller:v0.20.0"),
    Image("argo-workflow-controller", "quay.io/argoproj/workflow-controller:v4.0.5", pipelines=True),
    Image("argoexec", "quay.io/argoproj/argoexec:v4.0.5", pipelines=True),
    Image("ml-metadata", "gcr.io/tfx-oss-public/ml_metadata_store_server:1.14.0", pipelines=True),
)
#: Kubeflow Pipelines' own images, which have no package to build from.
BROUGHT = tuple(
    f"{REGISTRY}/kubeflow/kfp-{name}:2.17.0"
    for name in ("api-server", "driver", "frontend", "launcher", "persistence-agent", "scheduled-workflow-controller")
)
#: Archives of images that people bring: `docker save` or `skopeo copy … docker-archive:` on a machine that can pull.
EXTRA = CACHE / "extra"
BY_NAME = {image.name: image for image in IMAGES}


def _buildah(*words: str | Path, log: str | None = None, cure: str = "") -> str:
    return console.run(
        ["buildah", "--root", CACHE / "buildah", "--runroot", RUN / "buildah", *words],
        env={"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(CACHE / "tmp")},
        log=CACHE / "log" / f"image-{log}.log" if log else None,
        cure=cure or "Run `make images` again: what was built is kept.",
    )


def _sources(image: Image) -> list[Path]:
    """The files that an image is made of: its Containerfile and what it copies from the repository."""
    containerfile = FOLDER / image.name / "Containerfile"
    found = [containerfile]
    for words in re.findall(r"^COPY ((?:(?!--from).)+)$", containerfile.read_text(), re.MULTILINE):
        for source in (word for word in words.split()[:-1] if not word.startswith("--")):
            path = FOLDER.parent / source
            files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
            found += [p for p in files if p.suffix != ".pyc" and not p.parent.name.endswith(".egg-info")]
    return sorted(set(found))


def _debian(suite: str) -> str:
    return f"{REGISTRY}/base/debian:{suite}"


def _debian_key(suite: str) -> str:
    return hashlib.sha256(repr((*MMDEBSTRAP, suite)).encode()).hexdigest()[:16]


@cache
def key(image: Image) -> str:
    """The content that makes an image, as 16 hexadecimal digits; asked once, as sources may change while it is built."""
    digest = hashlib.sha256(image.upstream.encode())
    if image.base:
        digest.update(key(image.base).encode())
    elif not image.go:
        digest.update(_debian_key(image.suite).encode())
    for source in _sources(image):
        digest.update(str(source.relative_to(FOLDER.parent)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def archive(image: Image) -> Path:
    """Where the cache keeps the image, whether it is there yet or not."""
    return CACHE / "images" / f"{image.name}-{key(image)}.tar"


def _in_store(reference: str) -> bool:
    try:
        _buildah("inspect", "--type", "image", reference)
    except console.Failure:
        return False
    return True


def pipelines_brought() -> bool:
    """Whether the folder of brought images holds all that Kubeflow Pipelines needs."""
    names: set[str] = set()
    for path in EXTRA.glob("*.tar"):
        with tarfile.open(path) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))
        names.update(tag for entry in manifest for tag in entry["RepoTags"] or [])
    return names >= set(BROUGHT)


def wanted() -> tuple[Image, ...]:
    """The images that this machine builds."""
    with_pipelines = pipelines_brought()
    return tuple(image for image in IMAGES if with_pipelines or not image.pipelines)


def _build_debian(suite: str) -> None:
    """The Debian base that every image with a package from Debian starts from."""
    keyed = f"{_debian(suite)}-{_debian_key(suite)}"
    if _in_store(keyed):
        return
    with console.step(f"build the Debian base ({suite})"):
        context = CACHE / "tmp" / "debian"
        context.mkdir(parents=True, exist_ok=True)
        console.run([*MMDEBSTRAP, suite, context / "root.tar"], log=CACHE / "log" / "image-debian.log")
        (context / "Containerfile").write_text(
            "FROM scratch\nADD root.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        )
        _buildah("build", "-t", _debian(suite), "-t", keyed, context, log="debian")
        (context / "root.tar").unlink()


def _build(image: Image, base: str = "", cure: str = "") -> None:
    """Build an image into buildah's store, on `base` or on our own."""
    options: list[str | Path] = ["--build-arg", f"DEBIAN={_debian(image.suite)}", "--network", "host"]
    if CERTIFICATES.exists():
        # A proxy that inspects TLS is trusted by the host only: the build uses the host's certificates.
        options += ["-v", "/etc/ssl/certs:/etc/ssl/certs:ro"]
        options += [w for name in ("SSL_CERT_FILE", "PIP_CERT") for w in ("--build-arg", f"{name}={CERTIFICATES}")]
    if image.go:
        env = golang.environment()
        for variable in ("GOCACHE", "GOMODCACHE"):
            Path(env[variable]).mkdir(parents=True, exist_ok=True)
        options += ["--build-arg", f"GO={_debian(image.suite)}", "-v", f"{env['GOROOT']}:/usr/local/go:ro"]
        options += ["-v", f"{env['GOCACHE']}:/root/.cache/go-build", "-v", f"{env['GOMODCACHE']}:/go/pkg/mod"]
        for variable in ("GOPROXY", "GOSUMDB", "GONOSUMDB"):
            if os.environ.get(variable):
                options += ["--build-arg", f"{variable}={os.environ[variable]}"]
    if image.base:
        options += ["--build-arg", f"BASE={base or image.base.reference}"]
    containerfile = FOLDER / image.name / "Containerfile"
    words = ["build", "--layers", *options, "-t", image.reference, "-f", containerfile, REPO]
    _buildah(*words, log=image.name, cure=cure)


def _make(image: Image) -> None:
    """Build an image and keep its archive in the cache, unless both are there."""
    target = archive(image)
    if target.exists() and (_in_store(image.reference) or not any(other.base == image for other in IMAGES)):
        return
    if image.base:
        _make(image.base)
    target.parent.mkdir(parents=True, exist_ok=True)
    with console.step(f"build the image {image.name}"):
        _build(image)
        half = target.with_suffix(".part")
        half.unlink(missing_ok=True)
        _buildah("push", image.reference, f"docker-archive:{half}:{image.reference}", log=image.name)
        half.rename(target)
        for old in target.parent.glob(f"{image.name}-*.tar"):
            if re.fullmatch(re.escape(image.name) + r"-[0-9a-f]{16}\.tar", old.name) and old != target:
                old.unlink()


def push(registry: str, public_base: bool = False) -> Image:
    """Build the runtime image, on our own base or on upstream's public image, and push it to a registry; return it."""
    image = BY_NAME["runtime"]
    (CACHE / "tmp").mkdir(parents=True, exist_ok=True)
    if public_base:
        with console.step(f"build the image {image.name} on {image.base.upstream}"):
            _build(image, image.base.upstream, cure="Leave out --public-base: then the base is built from packages.")
    else:
        _build_debian(image.base.suite)
        _make(image)
    # As other tools do: a registry on this machine needs no TLS.
    tls = ["--tls-verify=false"] if registry.partition(":")[0] in ("localhost", "127.0.0.1") else []
    target = f"{registry}/{image.repository}:{image.tag}"
    cure = f"See that the registry answers and knows you (`buildah login {registry.partition('/')[0]}`)."
    with console.step(f"push {target}"):
        _buildah("push", *tls, image.reference, f"docker://{target}", log="push", cure=cure)
    return image


def build_all(with_programs: bool = False) -> None:
    """Build every image that the cache lacks; with `with_programs` the host's programs too.

    Two lanes side by side: what compiles Go (which wants the processors) and what installs packages (the network).
    """
    (CACHE / "tmp").mkdir(parents=True, exist_ok=True)
    images = wanted()
    for suite in sorted({image.suite for image in images if not archive(image).exists()}):
        _build_debian(suite)

    def compile_lane() -> None:
        if with_programs:
            golang.build_programs()
        for image in (i for i in images if i.go and not i.base):
            _make(image)

    def package_lane() -> None:
        for image in (i for i in images if not i.go):
            _make(image)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for lane in [pool.submit(compile_lane), pool.submit(package_lane)]:
            lane.result()
    for image in images:
        _make(image)


def load_all() -> None:
    """Import into the running containerd what it does not hold yet."""
    sources = {image.name: (archive(image), key(image)) for image in wanted()}
    for path in sorted(EXTRA.glob("*.tar")):
        sources[path.stem] = (path, f"{path.stat().st_size} {path.stat().st_mtime_ns}")
    for name, (path, version) in sources.items():
        mark = STATE / "images" / name
        if mark.exists() and mark.read_text() == version:
            continue
        with console.step(f"import the image {name}"):
            console.run(
                [BIN / "ctr", "-a", RUN / "containerd.sock", "-n", "k8s.io", "images", "import", "--local", path]
            )
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(version)
