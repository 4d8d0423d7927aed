"""Build the platform's images, list them for a mirror, push those of our own.

scripts/images build                            build what the cache lacks
scripts/images list [PROFILE]                   print every image that a profile needs, for mirroring
scripts/images push REGISTRY [--public-base]    build the runtime image and push it; with --public-base it starts from
                                                MLflow's public image, which this machine must be able to pull
scripts/images push REGISTRY notebooks [--public-base]    the same with the image of notebooks
scripts/images sbom                             write a bill of materials of each image that was built, and docs/licences.md
"""

import re
import shutil
import sys

from scripts.bare import doctor, images
from scripts.common import console
from scripts.common.paths import BIN, REPO

from . import sbom


def build() -> None:
    """Build what the cache lacks."""
    doctor.install_packages()
    images.build_all()


def listing(profile: str) -> None:
    """Print the upstream images of a profile, one a line."""
    values = REPO / "values" / f"{profile}.yaml"
    if not values.exists():
        known = ", ".join(sorted(path.stem for path in values.parent.glob("*.yaml")))
        raise console.Failure(f"There is no profile {profile}.", f"Choose one of {known}.")
    helm = shutil.which("helm") or BIN / "helm"
    text = console.run(
        [helm, "template", "iml4e", REPO / "charts" / "iml4e", "-f", values],
        cure="Install Helm, or run `make up` once.",
    )
    # Pods, KServe's configuration and arguments of controllers name images: a registry's host, a path, a tag.
    found = re.findall(r"(?<![\w/.@-])((?:[a-z0-9-]+\.)+[a-z]+(?::\d+)?/[\w./-]+:[\w.-]+)", text)
    print("\n".join(sorted(set(found))))


#: Images of ours, and the value that names each.
OWN = {"runtime": "global.runtime", "notebooks": "notebooks.image"}


def push(registry: str, name: str, public_base: bool) -> None:
    """Push an image of ours and print the option that makes a release use it."""
    doctor.install_packages()
    image = images.push(registry.rstrip("/"), name, public_base)
    host, _, path = registry.rstrip("/").partition("/")
    repository = f"{path}/{image.repository}".lstrip("/")
    value = OWN[name]
    print(f"--set {value}.registry={host},{value}.repository={repository},{value}.tag={image.tag}")


def main() -> None:
    """Dispatch on the first word."""
    match sys.argv[1:]:
        case ["build"]:
            build()
        case ["sbom"]:
            sbom.main()
        case ["list"]:
            listing("laptop")
        case ["list", profile]:
            listing(profile)
        case ["push", registry]:
            push(registry, "runtime", public_base=False)
        case ["push", registry, "--public-base"]:
            push(registry, "runtime", public_base=True)
        case ["push", registry, "notebooks"]:
            push(registry, "notebooks", public_base=False)
        case ["push", registry, "notebooks", "--public-base"]:
            push(registry, "notebooks", public_base=True)
        case _:
            raise console.Failure(
                "usage: scripts/images build | sbom | list [PROFILE] | push REGISTRY [notebooks] [--public-base]"
            )
