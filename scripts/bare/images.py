"""The platform's images, built from package registries for machines that reach no container registry.

Each is a drop-in for an upstream image: same repository path, tag, user and entry point, under `iml4e.local/`.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scripts.common import console
from scripts.common.paths import BIN, CACHE, CONTAINERD, REPO, RUN, STATE

from . import golang

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


#: The lines that a Containerfile starts with: they name the image, and are no part of its content.
HEADER = re.compile(r"\A(?:# (?:upstream|own|part|switch): .*\n)+")
#: Archives of images that have no package to build from: `docker save` or `skopeo copy … docker-archive:` makes them
#: on a machine that can pull.
EXTRA = CACHE / "extra"
CHARTS = REPO / "charts" / "iml4e" / "charts"
BARE_MACHINE = REPO / "values" / "bare-machine.yaml"


@dataclass(frozen=True)
class Image:
    """A folder below images/ and the upstream image that it replaces; the ARGs of its Containerfile name its base images."""

    name: str
    upstream: str
    #: The part of the chart without which this machine does not build the image; empty: it always does.
    part: str = ""
    #: Our own, without an upstream: its tag ends in the key of its content, so that a change rolls the pods that use it.
    own: bool = False
    #: The variable of `make up` that must be `on` for this machine to build the image; empty: it always does.
    switch: str = ""

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
    def containerfile(self) -> Path:
        """The file that it is built from."""
        return FOLDER / self.name / "Containerfile"

    @property
    def arguments(self) -> dict[str, str]:
        """The build arguments of the Containerfile that have a default."""
        return dict(re.findall(r"^ARG (\w+)=(\S+)$", self.containerfile.read_text(), re.MULTILINE))

    @property
    def go(self) -> bool:
        """Whether it compiles Go."""
        return "GO" in self.arguments

    @property
    def base(self) -> "Image | None":
        """The image of ours that it starts from."""
        base = self.arguments.get("BASE")
        return next((image for image in every() if image.upstream == base), None) if base else None

    @property
    def suite(self) -> str:
        """The Debian release that it is built on."""
        return self.arguments.get("DEBIAN", "debian:trixie-slim").rpartition(":")[2].removesuffix("-slim")


def read(containerfile: Path) -> Image:
    """Read the header of a Containerfile.

    Raises:
        console.Failure: it has none, or one without registry, repository and tag.
    """
    header = HEADER.match(containerfile.read_text())
    said = dict(re.findall(r"^# (\w+): (.*)$", header[0], re.MULTILINE)) if header else {}
    name = said.get("upstream") or f"{REGISTRY}/{said.get('own', '')}"
    if not re.fullmatch(r"[\w.-]+(?::\d+)?(?:/[\w.-]+)+:[\w.-]+", name):
        raise console.Failure(
            f"{containerfile} does not start with the name of its image.",
            "Write `# upstream: REGISTRY/REPOSITORY:TAG` into its first line, or `# own: REPOSITORY:TAG` for an image of ours.",
        )
    return Image(containerfile.parent.name, name, said.get("part", ""), "own" in said, said.get("switch", ""))


def every() -> tuple[Image, ...]:
    """The images that have a Containerfile."""
    return tuple(read(containerfile) for containerfile in sorted(FOLDER.glob("*/Containerfile")))


def named(name: str) -> Image:
    """The image of a folder below images/."""
    return read(FOLDER / name / "Containerfile")


def _buildah(*words: str | Path, log: str | None = None, cure: str = "") -> str:
    return console.run(
        ["buildah", "--root", CACHE / "buildah", "--runroot", RUN / "buildah", *words],
        env={"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(CACHE / "tmp")},
        log=CACHE / "log" / f"image-{log}.log" if log else None,
        cure=cure or "Run `make images` again: what was built is kept.",
    )


def _sources(image: Image) -> list[Path]:
    """The files that an image is made of: its Containerfile and what it copies from the repository."""
    found = [image.containerfile]
    for words in re.findall(r"^COPY ((?:(?!--from).)+)$", image.containerfile.read_text(), re.MULTILINE):
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
    """A hash of what makes an image, 16 hexadecimal digits; computed once, as sources may change while it is built."""
    digest = hashlib.sha256(image.upstream.encode())
    if image.base:
        digest.update(key(image.base).encode())
    elif not image.go:
        digest.update(_debian_key(image.suite).encode())
    for source in _sources(image):
        content = source.read_bytes()
        if source == image.containerfile:
            content = HEADER.sub("", content.decode()).encode()
        digest.update(str(source.relative_to(FOLDER.parent)).encode() + b"\0" + content)
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


def needed(part: str) -> set[str]:
    """The images that the values of a part name, under our own registry."""
    line = r"^ +{}: *[\"']?([^\s\"']+)[\"']?\n(?: +#.*\n)*"
    image = "".join(line.format(name) for name in ("registry", "repository", "tag"))
    values = (CHARTS / part / "values.yaml").read_text()
    return {f"{REGISTRY}/{path}:{tag}" for _, path, tag in re.findall(image, values, re.MULTILINE)}


def _extra() -> list[Path]:
    """The archives of EXTRA; compressed ones are among them, and refused by `brought`: `ctr` reads none."""
    suffixes = (".tar", ".tgz", ".tar.bz2", ".tar.gz", ".tar.xz", ".tar.zst")
    return sorted(path for path in EXTRA.glob("[!.]*") if path.name.endswith(suffixes))


def brought() -> set[str]:
    """The names of the images in the archives of EXTRA.

    Raises:
        console.Failure: a file there is no archive of images, or its images have no names.
    """
    names: set[str] = set()
    cure = f"Save it again, uncompressed, as an archive of Docker's kind (docs/install.md, 'Images without a package'), or remove it from {EXTRA}."
    for path in _extra():
        try:
            with tarfile.open(path, "r:") as tar:
                manifest = json.load(tar.extractfile("manifest.json"))
        except (OSError, EOFError, tarfile.TarError, KeyError, ValueError) as error:
            raise console.Failure(f"{path} is no complete archive of an image: {error}.", cure) from error
        found = {tag for entry in manifest for tag in entry["RepoTags"] or []}
        if not found:
            raise console.Failure(f"{path} holds an image without a name.", cure)
        names |= found
    return names


def optional_parts() -> list[str]:
    """The parts that values/bare-machine.yaml switches off."""
    return re.findall(r"^(\w+):\n(?:  #.*\n)*  enabled: false$", BARE_MACHINE.read_text(), re.MULTILINE)


def missing() -> dict[str, list[str]]:
    """The images that each optional part lacks on this machine; a part that lacks none can be switched on."""
    present = brought() | {image.reference for image in every() if not image.own}
    return {part: sorted(needed(part) - present) for part in optional_parts()}


def wanted() -> tuple[Image, ...]:
    """The images that this machine builds."""
    lacking = missing()
    return tuple(
        image
        for image in every()
        if not lacking.get(image.part) and (not image.switch or os.environ.get(image.switch) == "on")
    )


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
    words = ["build", "--layers", *options, "-t", image.reference, "-f", image.containerfile, REPO]
    _buildah(*words, log=image.name, cure=cure)


def _make(image: Image, as_base: bool = False) -> None:
    """Build an image and keep its archive in the cache, unless that is there; an image that another one starts from is in the store as well."""
    target = archive(image)
    if target.exists() and (not as_base or _in_store(image.reference)):
        return
    if image.base:
        _make(image.base, as_base=True)
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


def push(registry: str, name: str = "runtime", public_base: bool = False) -> Image:
    """Build an image of ours, on our own base or on upstream's public image, and push it to a registry; return it."""
    image = named(name)
    (CACHE / "tmp").mkdir(parents=True, exist_ok=True)
    if public_base:
        runtime = named("runtime")
        with console.step(f"build the image {runtime.name} on {runtime.base.upstream}"):
            cure = "Leave out --public-base: then the base is built from packages."
            _build(runtime, runtime.base.upstream, cure=cure)
        if image != runtime:
            with console.step(f"build the image {image.name}"):
                _build(image)
    else:
        _build_debian(named("runtime").base.suite)
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
    if (left := Path(golang.environment()["GOCACHE"])).exists():
        with console.step("remove the compiler's cache"):  # 9 GB; images and programs are kept by their content
            shutil.rmtree(left, ignore_errors=True)


def load_all(socket: Path = CONTAINERD, marks: Path = STATE / "images", *, lean: bool = False) -> None:
    """Import into a running containerd what it does not hold yet, by its marks; `lean` keeps no packed copy of what was unpacked."""
    sources = {image.name: (archive(image), key(image)) for image in wanted()}
    for path in _extra():
        sources[path.stem] = (path, f"{path.stat().st_size} {path.stat().st_mtime_ns}")
    for name, (path, version) in sources.items():
        mark = marks / name
        if mark.exists() and mark.read_text() == version:
            continue
        with console.step(f"import the image {name}"):
            options = ["--discard-unpacked-layers"] if lean else []
            console.run([BIN / "ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--local", *options, path])
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(version)
