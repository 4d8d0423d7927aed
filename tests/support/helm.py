"""All calls of helm: render, lint, install and upgrade use the same profiles in every suite."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
CHART = REPO / "charts" / "iml4e"
VALUES = REPO / "values"
RELEASE = "iml4e"
NAMESPACE = "iml4e"

# libyaml where the wheel has it: the CRDs are large
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# a lone `=` is text for Helm and Kubernetes; PyYAML has no constructor for it
LOADER.add_constructor("tag:yaml.org,2002:value", LOADER.construct_yaml_str)

# A profile is a file in values/, or a pile of them: these only say what differs from another one.
ON_TOP_OF = {
    "bare-machine": "laptop",
    "quota": "laptop",
    "cloud-aws": "cloud",
    "cloud-google": "cloud",
    "cloud-azure": "cloud",
}

#: Parts that are off by default: tests render them as well, unless their values say otherwise.
OPTIONAL: dict[str, Any] = {"notebooks": {"enabled": True}}
#: Values that leave them off, for tests of profiles as they are.
AS_SHIPPED: dict[str, Any] = {"notebooks": {"enabled": False}}


class HelmError(Exception):
    """Helm failed; the text is helm's own message."""

    @property
    def findings(self) -> list[str]:
        """The lines of a refusal that say what is wrong."""
        return [line.removeprefix("- ") for line in str(self).splitlines() if line.startswith("- ")]


#: How Helm says that values do not fit a schema.
SCHEMA = "values don't meet the specifications of the schema"


def refusal(error: HelmError) -> str:
    """What is wrong with the way in which values are refused; nothing where it is a sentence for administrators."""
    said = str(error)
    if error.findings and "validate.yaml" in said:
        return "" if all(re.search(r"[.)]$", line) for line in error.findings) else f"no sentence: {error.findings}"
    # before it looks at a schema, Helm wants a map for each part
    return "" if SCHEMA in said or "type mismatch on" in said else f"a trace: {said[-600:]}"


def profiles() -> list[str]:
    """Names of all profiles; `default` is the chart as it stands."""
    return ["default", *sorted(path.stem for path in VALUES.glob("*.yaml"))]


def combinations() -> list[str]:
    """All profiles, and the piles that values/README.md tells of: `cloud-aws+gpu-cluster` is both, one after the other."""
    clouds = ["cloud", *(overlay for overlay, below in ON_TOP_OF.items() if below == "cloud")]
    larger = ["gpu-cluster", *clouds, *(f"{cloud}+gpu-cluster" for cloud in clouds)]
    return [*profiles(), *(pile for pile in larger if "+" in pile), *(f"{pile}+quota" for pile in larger)]


def profile_files(profile: str) -> list[Path]:
    """The values files of a profile, in the order in which helm takes them; of several that `+` joins, one after the other."""
    if profile == "default":
        return []
    first, *more = profile.split("+")
    below = profile_files(ON_TOP_OF[first]) if first in ON_TOP_OF else []
    return [*below, VALUES / f"{first}.yaml", *(VALUES / f"{name}.yaml" for name in more)]


def subcharts() -> list[Path]:
    """Folders of the subcharts that are in the tree."""
    return sorted(path.parent for path in CHART.glob("charts/*/Chart.yaml"))


def helm(*arguments: str | Path, timeout: float = 120) -> str:
    """Run helm and return what it printed; a failure becomes a HelmError with helm's own words."""
    binary = os.environ.get("HELM") or shutil.which("helm")
    if not binary:
        raise HelmError(
            "No helm found: install Helm, set HELM to its path, or run `make up` on a bare machine, which brings one."
        )
    if os.environ.get("IML4E_RECORD"):
        _record(list(map(str, arguments)))
    # a render of a second needs no garbage collection, which takes a fifth of it
    env = {"GOGC": "off", "GOMEMLIMIT": "1GiB", **os.environ}
    command = [binary, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    if done.returncode:
        raise HelmError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def _record(arguments: list[str]) -> None:
    """Note what a test renders, with the values that are in no file of the repository: scripts/harness/arms.py renders it again."""
    if arguments[0] not in ("template", "install") or "--dry-run=server" in arguments:
        return  # what a server answers cannot be rendered again
    if str(CHART) in "".join(arguments[:4]):
        own = {word: Path(word).read_text() for word in arguments if word.endswith(".json")}
        with Path(os.environ["IML4E_RECORD"], f"{os.getpid()}.jsonl").open("a") as log:
            print(json.dumps([arguments, own]), file=log)


def _with_values(arguments: list[str | Path], files: Sequence[Path], values: Mapping[str, Any] | None) -> str:
    """Run helm with values files and, last, the given values: through a file, so that types survive."""
    flags: list[str | Path] = [flag for file in files for flag in ("--values", file)]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as overrides:
        if values:
            json.dump(values, overrides, ensure_ascii=False)
            overrides.flush()
            flags += ["--values", overrides.name]
        return helm(*arguments, *flags, timeout=600)


@functools.lru_cache(maxsize=256)
def _render(chart: Path, profile: str, values: str, options: tuple[str, ...], fresh: int) -> str:
    arguments: list[str | Path] = ["template", RELEASE, chart, "--namespace", NAMESPACE, *options]
    return _with_values(arguments, profile_files(profile), json.loads(values))


def render_text(
    profile: str = "default",
    values: Mapping[str, Any] | None = None,
    *,
    chart: Path = CHART,
    options: Sequence[str] = (),
    fresh: int = 0,
) -> str:
    """The rendered YAML. Cached per input, as one render serves a hundred tests; another `fresh` renders anew."""
    given = merged(OPTIONAL if chart == CHART else {}, values or {})
    return _render(chart, profile, json.dumps(given, sort_keys=True), tuple(options), fresh)


@functools.lru_cache(maxsize=256)
def _objects(text: str) -> tuple[dict[str, Any], ...]:
    return tuple(document for document in yaml.load_all(text, Loader=LOADER) if document)


def render(
    profile: str = "default",
    values: Mapping[str, Any] | None = None,
    *,
    chart: Path = CHART,
    options: Sequence[str] = (),
    fresh: int = 0,
) -> tuple[dict[str, Any], ...]:
    """The rendered objects, without those of crds/ folders. Tests share them: read them, never change them."""
    return _objects(render_text(profile, values, chart=chart, options=options, fresh=fresh))


def custom_resource_definitions() -> tuple[dict[str, Any], ...]:
    """The CRDs that helm installs from crds/ folders: megabytes, so only who needs them waits for them."""
    return tuple(crd for path in sorted(CHART.rglob("crds/*.yaml")) for crd in _objects(path.read_text()))


def lint(profile: str = "default", *, chart: Path = CHART) -> str:
    """Lint a chart under a profile. Subcharts one by one: helm would check them all against the umbrella's values."""
    return _with_values(["lint", chart, "--strict"], profile_files(profile), None)


def upgrade(values: Mapping[str, Any], *, timeout: str = "300s") -> str:
    """Upgrade the live release: what it was installed with, and the given values on top; wait until it is Ready."""
    options = ("--reset-then-reuse-values", "--wait", "--timeout", timeout)
    return _with_values(["upgrade", RELEASE, CHART, "--namespace", NAMESPACE, *options], [], values)


def install(
    name: str, files: Sequence[Path], values: Mapping[str, Any], *, chart: Path = CHART, timeout: str = "180s"
) -> str:
    """Install a release into the namespace of its name, without CRDs; wait until it is Ready."""
    options = ("--skip-crds", "--wait", "--timeout", timeout)
    return _with_values(["install", name, chart, "--namespace", name, *options], files, values)


def merged(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Values on top of values, as helm does it."""
    out: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            both = isinstance(value, Mapping) and isinstance(out.get(key), dict)
            out[key] = merged(out[key], value) if both else value
    return out


def rollback(to: int) -> None:
    """Bring the live release back to a revision, and wait until it is Ready."""
    helm("rollback", RELEASE, str(to), "--namespace", NAMESPACE, "--wait", "--timeout", "300s", timeout=600)


def release_values() -> dict[str, Any]:
    """All values of the live release, defaults included."""
    return json.loads(helm("get", "values", RELEASE, "--namespace", NAMESPACE, "--all", "--output", "json"))


def release_objects() -> tuple[dict[str, Any], ...]:
    """The objects of the live release, as helm rendered them."""
    return _objects(helm("get", "manifest", RELEASE, "--namespace", NAMESPACE))


def revision() -> int:
    """Revision of the live release."""
    history = json.loads(helm("history", RELEASE, "--namespace", NAMESPACE, "--output", "json"))
    return max(int(entry["revision"]) for entry in history)
