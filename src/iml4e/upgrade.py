"""Upgrade a release: its chart's CRDs, which Helm leaves alone, then Helm itself, while every endpoint is asked twice a second.

What would stop Helm half-way is told before anything changes: values that the chart or the API server refuses, a release that is locked,
fields that somebody else has set since. Needs helm and kubectl.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from iml4e import Error, platform

Say = Callable[[str], None]
#: Seconds between two requests to an endpoint, and seconds that an answer may take.
PAUSE, PATIENCE = 0.5, 5.0
#: Seconds between two looks at what is not ready yet.
LOOK = 15.0
#: Who may have set the fields of a CRD: Helm at the installation, and kubectl, which this program and the documentation use.
OURS = {"helm", "kubectl"}
#: How kubectl begins to say that others have set fields.
CONFLICT = "Apply failed with"
#: Lines of kubectl that are no reason against an upgrade: warnings, a hint below an unknown kind, webhooks that know no dry run.
HARMLESS = re.compile(r"^Warning: |^ensure CRDs are installed first|does not support dry run")
#: Version of the Gateway API that a CRD is of.
BUNDLE = "gateway.networking.k8s.io/bundle-version"
#: What is asked of each part that has a route.
PATHS = {
    "gateway": ("landing page", "/"),
    "mlflow": ("MLflow", "/mlflow/api/2.0/mlflow/experiments/search?max_results=1"),
    "pipelines": ("Pipelines API", "/pipeline/apis/v2beta1/experiments?page_size=1"),
    "prometheus": ("Prometheus", "/prometheus/-/ready"),
    "grafana": ("Grafana", "/grafana/api/health"),
}


@dataclass
class Endpoint:
    """An address, and how it answered."""

    name: str
    url: str
    requests: int = 0
    failed: int = 0
    longest: float = 0.0
    """Longest downtime in seconds: from the first request that failed to the next right answer."""
    last: str = ""
    """Of the last failure: what was the matter."""
    since: float | None = None
    """When the present downtime began."""

    def count(self, begun: float, ended: float, trouble: str) -> None:
        """Count a request: when it was sent, when its answer was there, and what was the matter with it."""
        self.requests += 1
        if trouble:
            self.failed, self.last = self.failed + 1, trouble
            self.since = begun if self.since is None else self.since
        if self.since is not None:
            self.longest = max(self.longest, ended - self.since)
        if not trouble:
            self.since = None


@dataclass
class Report:
    """What an upgrade did."""

    release: str
    old: str
    new: str
    seconds: float
    endpoints: list[Endpoint]
    left_out: list[str]
    """Endpoints that were not asked, and why."""
    error: str = ""
    """Why the upgrade failed; empty if it did not."""
    reasons: list[str] = field(default_factory=list)
    """What is wrong with pods after a failure."""


class Probe:
    """Asks endpoints from threads of their own; one request does not wait for another endpoint's."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        """Nothing is sent yet."""
        self.endpoints = endpoints
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(each,), daemon=True) for each in endpoints]

    def __enter__(self) -> "Probe":
        """Start to ask."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE + 1)

    def _ask(self, endpoint: Endpoint) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            trouble = ask(endpoint.url)
            ended = time.monotonic()
            endpoint.count(begun, ended, trouble)
            self._stop.wait(max(0.0, begun + PAUSE - ended))


def ask(url: str) -> str:
    """Ask once, on a connection of its own: empty after a right answer, else what is the matter."""
    import requests

    try:
        status = requests.get(url, timeout=PATIENCE, allow_redirects=False).status_code
    except requests.Timeout:
        return f"no answer within {PATIENCE:.0f} s"
    except requests.RequestException as error:
        return type(error).__name__
    return "" if status < 400 else f"answer {status}"


def upgrade(
    chart: str,
    *,
    version: str = "",
    values: Sequence[str] = (),
    sets: Sequence[str] = (),
    timeout: float = 600,
    skip_crds: bool = False,
    force: bool = False,
    say: Say = print,
) -> Report:
    """Upgrade the release to a chart, and measure the downtime of its endpoints.

    Args:
        chart: folder, package or `oci://` address of the chart.
        version: version of a chart at an address; empty: the newest.
        values: files of values on top of the release's own.
        sets: single values on top of those, as `mlflow.replicas=2`.
        timeout: seconds that the release has to become Ready.
        skip_crds: leave CRDs alone.
        force: take over CRDs and fields of objects that others have set.
        say: prints a line of progress.

    Raises:
        Error: the upgrade cannot begin; nothing was changed.
    """
    for program in ("helm", "kubectl"):
        if not shutil.which(program):
            raise Error(f"there is no {program}: an upgrade needs helm and kubectl on the PATH")
    release, namespace = platform.release(), platform.namespace()
    where = ("-n", namespace)
    old = _state(release, namespace)
    own, every = (
        json.loads(_run("helm", "get", "values", release, *where, "-o", "json", *more, what="read the release")) or {}
        for more in ((), ("--all",))
    )
    flags = [word for file in values for word in ("-f", str(file))] + [
        word for each in sets for word in ("--set", each)
    ]
    source = [chart, *(["--version", version] if version else [])]
    shown = _run("helm", "show", "chart", *source, what=f"read chart {chart}")
    new = next((line.split(":", 1)[1].strip() for line in shown.splitlines() if line.startswith("version:")), "?")
    # Helm tells CRDs of parts that are on by this command only
    template = ["helm", "template", release, *source, *where, "-f", "-", *flags, "--include-crds", "--is-upgrade"]
    given = [release, *source, *where, "--reset-then-reuse-values", *flags]
    # asks the cluster, as the upgrade does; kinds that the chart's CRDs bring are not known yet
    try:
        what = f"upgrade to chart {chart} with the values of the release"
        said = _run("helm", "upgrade", *given, "--dry-run=server", "-o", "json", what=what)
    except Error as error:
        if "no matches for kind" not in str(error):
            raise
        said = ""
    rendered = documents(_run(*template, stdin=json.dumps(own), what="render the CRDs"))
    crds = [each for each in rendered if is_crd(each)]
    # without a cluster, Jobs have names of another revision
    guessed = [each for each in rendered if not is_crd(each) and not re.search(r"^kind: Job\s*$", each, re.MULTILINE)]
    things = documents(json.loads(said)["manifest"]) if said else guessed
    _refuse(things, namespace, crds=[] if skip_crds else crds, ssa=old["ssa"], force=force)
    endpoints, left_out = _endpoints(every, say)
    if not skip_crds:
        apply_crds(crds, force=force)
        say(f"{len(crds)} CRDs of the chart are applied")
    # Helm takes --force-conflicts of a release that it applies by the server only
    forced = ["--force-conflicts"] if force and old["ssa"] else []
    command = ["helm", "upgrade", *given, *forced, "--wait", "--wait-for-jobs", "--timeout", f"{timeout:.0f}s"]
    say(f"upgrading release {release} from chart {old['chart']} to {new}")
    begun = time.monotonic()
    with Probe(endpoints):
        error = _follow(command, say)
    report = Report(release, old["chart"], new, time.monotonic() - begun, endpoints, left_out, error)
    if error:
        report.reasons = list(_ailing())
        back = f"helm rollback {release} {old['revision']} -n {namespace} --wait"
        if _state(release, namespace, checked=False)["newest"] == old["newest"]:
            report.error += "; Helm changed nothing"
        else:
            report.error += f"; go back with `{back}`, which keeps the data, or upgrade again once the reason is gone"
    return report


def text(report: Report) -> Iterator[tuple[str, ...]]:
    """Rows of the report's table."""
    yield ("ENDPOINT", "REQUESTS", "FAILED", "LONGEST DOWNTIME", "LAST FAILURE")
    for each in report.endpoints:
        yield (each.name, str(each.requests), str(each.failed), f"{each.longest:.1f} s", each.last or "-")


# --- custom resource definitions


def documents(text: str) -> list[str]:
    """The objects of a text, each as text."""
    found = (each.strip("\n") for each in re.split(r"^---.*$", text, flags=re.MULTILINE))
    return [each for each in found if re.search(r"^kind:", each, re.MULTILINE)]


def is_crd(document: str) -> bool:
    """Whether an object is a CRD."""
    return bool(re.search(r"^kind: CustomResourceDefinition\s*$", document, re.MULTILINE))


def apply_crds(crds: Sequence[str], *, force: bool = False) -> None:
    """Apply CRDs; fields that Helm or kubectl have set before are taken over.

    Args:
        crds: each as text.
        force: take over what others have set, too.

    Raises:
        Error: a CRD is another owner's, or newer.
    """
    if not crds:
        return
    if not force:
        for name, managers, _ in conflicts(crds, "kubectl"):
            if others := sorted(managers - OURS):
                raise Error(
                    f"CRD {name} is kept by {', '.join(others)} in another version than the chart's: agree with its owner, then take it over with "
                    "--force-conflicts, or leave CRDs alone with --skip-crds; nothing was changed"
                )
            document = next(each for each in crds if _name(each) == name)
            key = BUNDLE.replace(".", r"\.")
            there = _run(
                "kubectl", "get", "crd", name, "-o", f"jsonpath={{.metadata.annotations.{key}}}", what="read a CRD"
            )
            ours = re.search(rf"{re.escape(BUNDLE)}: v([\d.]+)", document)
            if ours and _numbers(there) > _numbers(ours[1]):
                raise Error(
                    f"CRD {name} is of Gateway API {there}, newer than the chart's v{ours[1]}: leave CRDs alone with --skip-crds; nothing was changed"
                )
    _run(
        "kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-", stdin="\n---\n".join(crds), what="apply the chart's CRDs"
    )  # fmt: skip


def refusals(
    things: Sequence[str], command: Sequence[str], harmless: Callable[[str], bool]
) -> list[tuple[str, list[str]]]:
    """Objects that the API server refuses in a dry run: each as text, and lines that say why; nothing is changed.

    Args:
        things: objects, each as text.
        command: words of kubectl.
        harmless: whether a line is no reason.
    """
    words = ["kubectl", *command, "--dry-run=server", "-f", "-"]
    done = subprocess.run(words, input="\n---\n".join(things), capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not HARMLESS.search(line) and not harmless(line)]
    if not done.returncode or not lines:
        return []
    if len(things) > 1:  # kubectl does not always name the object
        middle = len(things) // 2
        return [each for half in (things[:middle], things[middle:]) for each in refusals(half, command, harmless)]
    return [(things[0], lines)]


def conflicts(things: Sequence[str], manager: str) -> list[tuple[str, set[str], str]]:
    """Objects with fields that others have set otherwise: name, the others, and the fields; nothing is changed.

    Args:
        things: objects, each as text.
        manager: in whose name.
    """
    command = ["apply", "--server-side", f"--field-manager={manager}"]
    found = refusals(things, command, lambda _: False)
    return [_conflict(thing, lines) for thing, lines in found if CONFLICT in " ".join(lines)]


def _conflict(thing: str, lines: list[str]) -> tuple[str, set[str], str]:
    said = " ".join(lines)
    fields = re.findall(r"(?<= )\.[A-Za-z]\S*", said.partition("Please review")[0])
    return _name(thing), set(re.findall(r'with "([^"]+)"', said)), ", ".join(dict.fromkeys(fields))


def _refuse(things: Sequence[str], namespace: str, *, crds: Sequence[str], ssa: bool, force: bool) -> None:
    """Refuse what the API server would: Helm would stop there with half of the objects changed.

    Raises:
        Error: a value is refused, or somebody else set a field.
    """
    if not things:
        return
    groups = {group[1] for each in crds if (group := re.search(r"^  group: [\"']?([^\s\"']+)", each, re.MULTILINE))}
    brought = {_name(each).removeprefix("Namespace ") for each in things if _name(each).startswith("Namespace ")}

    def harmless(line: str) -> bool:
        """Whether the upgrade itself brings what is missing."""
        kinds = re.findall(r'no matches for kind "[^"]+" in version "([^"/]+)', line)
        missing = re.findall(r'namespaces "([^"]+)" not found', line)
        return bool(kinds or missing) and {*kinds} <= groups and {*missing} <= brought

    # a release that the client applies has no conflicts
    taken = ["--force-conflicts"] if force or not ssa else []
    command = ["apply", "-n", namespace, "--server-side", "--field-manager=helm", *taken]
    found = refusals(things, command, harmless)
    clashes = [_conflict(*each) for each in found if CONFLICT in " ".join(each[1])]
    # a kind of a former version may lack fields that the chart's CRD has
    wrong = [each for each in found if CONFLICT not in " ".join(each[1]) and _group(each[0]) not in groups]
    if not ssa:
        # what the client applies is merged otherwise: only what is refused as a new object, too, is surely wrong
        wrong = [
            each
            for each in wrong
            if refusals(
                [each[0]], ["create", "-n", namespace], lambda line: harmless(line) or "(AlreadyExists)" in line
            )
        ]
    if wrong:
        thing, lines = wrong[0]
        why = re.sub(r'^(error: |Error from server( \(\w+\))?: )?((The )?\S+ "[^"]+" is invalid: ?)?', "", lines[0])
        why = "; ".join(each for each in (why, *(line.removeprefix("* ") for line in lines[1:])) if each)[:900]
        cure = "correct the values"
        if "spec.timeZone" in why:
            cure = "set global.timeZone to a name of the time zone database, Europe/Berlin for example"
        raise Error(
            f"the API server refuses {_name(thing)}: {why}{_more(wrong)}; {cure}, then upgrade again; nothing was changed"
        )
    if clashes:
        name, managers, fields = clashes[0]
        raise Error(
            f"{name} was changed since by {', '.join(sorted(managers))}: {fields}{_more(clashes)}; put what is to stay into the values, or give the fields "
            "back to the chart with --force-conflicts; nothing was changed"
        )


def _more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} objects more)" if len(found) > 1 else ""


def _group(document: str) -> str:
    """API group of an object."""
    group = re.search(r"^apiVersion: [\"']?([^\s/\"']+)/", document, re.MULTILINE)
    return group[1] if group else ""


def _name(document: str) -> str:
    """Name of an object; kind and name, except of a CRD."""
    kind = re.search(r"^kind: (\S+)", document, re.MULTILINE)
    name = re.search(r"^metadata:(?: \{|\n(?:  .*\n)*?  )name: [\"']?([^\s\"'},]+)", document, re.MULTILINE)
    named = name[1].strip() if name else "?"
    return named if is_crd(document) or not kind else f"{kind[1]} {named}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version)[:3])


# --- the release


def _run(*words: str, what: str, stdin: str | None = None) -> str:
    """Run a program; its failure becomes a sentence."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(line for line in done.stderr.strip().splitlines() if line.strip())
        raise Error(f"cannot {what}: {said[-2000:] or f'exit code {done.returncode}'}\nnothing was changed")
    return done.stdout


def _state(release: str, namespace: str, *, checked: bool = True) -> dict[str, Any]:
    """Chart, newest and last good revision of the release, and whether the server applies it."""
    history = json.loads(
        _run("helm", "history", release, "-n", namespace, "-o", "json", what=f"find release {release} in namespace {namespace}")
    )  # fmt: skip
    newest = history[-1]
    good = next((each for each in reversed(history) if each["status"] == "deployed"), None) or next(
        (each for each in reversed(history) if each["status"] == "superseded"), newest
    )
    if checked and newest["status"].startswith("pending-"):
        if newest is good:
            cure = f"helm uninstall {release} -n {namespace}"
        else:
            cure = f"helm rollback {release} {good['revision']} -n {namespace} --wait"
        raise Error(
            f"revision {newest['revision']} is {newest['status']} since {newest['updated'][:19]}: Helm is at work elsewhere, or was killed; "
            f"if no helm runs any more, undo its half-done step with `{cure}`, then upgrade again; nothing was changed"
        )
    metadata = json.loads(
        _run("helm", "get", "metadata", release, "-n", namespace, "-o", "json", what="read the release")
    )
    return {
        "newest": int(newest["revision"]),
        "revision": int(good["revision"]),
        "chart": newest["chart"].rpartition("-")[2],
        # Helm 4; Helm 3 knows no such field, and what Helm 3 installed stays as it was until `helm upgrade --server-side=true`
        "ssa": metadata.get("applyMethod") == "ssa",
    }


def _endpoints(every: dict[str, Any], say: Say) -> tuple[list[Endpoint], list[str]]:
    """Endpoints that answer, and why others are left out."""
    base = platform.find("GATEWAY_URL").rstrip("/")
    if not base:
        left_out = ["the release has no address (global.publicUrl): set IML4E_URL to one that reaches its gateway"]
    elif (trouble := ask(f"{base}/")) and not trouble.startswith("answer"):
        left_out = [
            f"{base} does not answer from here ({trouble}): set IML4E_URL to an address that reaches the gateway"
        ]
    else:
        found = [
            Endpoint(name, base + path) for part, (name, path) in PATHS.items() if every.get(part, {}).get("enabled")
        ]
        models, left_out = _models() if every.get("kserve", {}).get("enabled") else ([], [])
        found += models
        troubles = {each.name: ask(each.url) for each in found}
        left_out += [f"{name} does not answer before the upgrade: {why}" for name, why in troubles.items() if why]
        for line in left_out:
            say(f"not measured: {line}")
        return [each for each in found if not troubles[each.name]], left_out
    say(f"no downtime is measured: {left_out[0]}")
    return [], left_out


def _models() -> tuple[list[Endpoint], list[str]]:
    """Endpoints of models of the release's namespace that are ready, and why others are left out."""
    from iml4e import serving

    try:
        models = serving.endpoints()
    except Error as error:
        return [], [f"models: {error}"]
    ready = [Endpoint(f"model {each.name}", each.url.removesuffix(":predict")) for each in models if each.ready]
    return ready, [f"model {each.name} is not ready: {each.reason}" for each in models if not each.ready]


def _ailing() -> Iterator[str]:
    """What is wrong with pods: conditions, events, and what logs end with."""
    from iml4e.doctor import workloads
    from iml4e.doctor.state import State

    try:
        state = State.read(platform.release(), platform.namespace())
        yield from dict.fromkeys(map(str, workloads.check(state)))
    except Error as error:
        yield f"pods cannot be examined: {error}"


def _follow(command: list[str], say: Say) -> str:
    """Run helm to its end, and tell meanwhile what is not ready: why it failed, or nothing."""
    before = (
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        if threading.current_thread() is threading.main_thread()
        else None
    )
    helm = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(helm.stderr or ()), daemon=True)
    reader.start()
    interrupted, told = False, ""
    try:
        while True:
            try:
                helm.wait(LOOK)
                break
            except subprocess.TimeoutExpired:
                now = "; ".join(_ailing())
                if now and now != told:
                    say(f"not ready yet: {now}")
                told = now
    except (KeyboardInterrupt, SystemExit):
        # told to end, Helm notes that the upgrade failed; killed, it would leave the release locked
        interrupted = True
        helm.terminate()
        helm.wait(60)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    reader.join(5)
    if interrupted:
        return "the upgrade was interrupted"
    if not helm.returncode:
        return ""
    said = " ".join(" ".join(lines).split())
    return (
        said.rpartition("Error: ")[2].removeprefix("UPGRADE FAILED: ")[-1500:]
        or f"helm ends with exit code {helm.returncode}"
    )
