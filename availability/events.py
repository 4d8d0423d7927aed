"""What happens while clients ask. Each event undoes what it did, also when it fails or is interrupted."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from scripts.common import console
from scripts.common.paths import REPO

from .belongings import Belongings
from .endpoints import ARTIFACTS, GATEWAY, MLFLOW, MODELS, PIPELINES
from .release import MODEL_LABEL, Release, Workload

#: Groups of endpoints that lose nothing in what is planned: rolling restarts, new versions, upgrades.
EVERYTHING = (GATEWAY, MODELS, MLFLOW, PIPELINES, ARTIFACTS)
#: In the restart of a store, which has one pod, what reads and writes there has to wait: what must lose nothing even then.
WITHOUT = {"mariadb": (MODELS, GATEWAY), "minio": (MODELS, GATEWAY, MLFLOW)}
CHART = REPO / "charts" / "iml4e"
#: Part or key of a part, whose CPU request the upgrade changes: its pods are replaced, nothing else changes.
CHANGED = ("gateway", "mlflow", "pipelines.api", "kserve")


@dataclass
class World:
    """What events act on."""

    release: Release
    own: Belongings
    hold: float = 30.0
    """Seconds that something stays away."""
    revision: int = 0
    """Revision of the release before it was upgraded here; 0: it was not, or is rolled back."""

    def wait(self, seconds: float) -> None:
        """Let clients ask for so long."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Event:
    """Something that happens."""

    name: str
    """On the command line."""
    title: str
    act: Callable[[World, ExitStack], None]
    lossless: tuple[str, ...] = ()
    """Groups of endpoints that must lose no request."""
    two_replicas: bool = False
    """Whether the model of two replicas may lose one request in a thousand."""
    quick: bool = False
    """Whether the short form has it."""
    skipped: str = ""
    """Why it cannot happen here."""


@dataclass
class Outcome:
    """What became of an event."""

    event: Event
    start: float = 0.0
    ready: float = 0.0
    error: str = ""
    settled: bool = False
    """Whether everything was Ready again."""


def persist(action: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Undo something: again and again until it works, and no interruption stops it.

    Raises:
        console.Failure: it did not work for so many seconds.
    """
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                action()
                return
            except Exception as error:  # whatever it was: the next try may work
                if time.monotonic() > deadline:
                    raise console.Failure(f"Could not {what}: {error}", log=getattr(error, "log", "")) from error
                time.sleep(2)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def occur(event: Event, world: World) -> Outcome:
    """Let an event happen, undo it, and wait until everything is Ready again."""
    outcome = Outcome(event, start=time.time())
    try:
        with console.step(event.title, every=60):
            try:
                with ExitStack() as undo:
                    event.act(world, undo)
            finally:
                world.release.settle()
                outcome.settled = True
    except Exception as error:  # the run goes on, and the report names it
        outcome.error = str(error) or type(error).__name__
        console.say(f"{event.name}: {outcome.error} {getattr(error, 'log', '')}")
    outcome.ready = time.time()
    return outcome


# --- parts


def restart(workloads: Sequence[Workload]) -> Callable[[World, ExitStack], None]:
    """Restart all workloads of a part as `kubectl rollout restart` does."""

    def act(world: World, undo: ExitStack) -> None:
        world.release.kubectl("rollout", "restart", *(each.path for each in workloads))

    return act


def kill(workloads: Sequence[Workload]) -> Callable[[World, ExitStack], None]:
    """Delete one pod of each workload without a grace period.

    A StatefulSet's pod gets a second: after a forced deletion two pods could share a volume for a moment.
    """

    def act(world: World, undo: ExitStack) -> None:
        for each in workloads:
            pod = world.release.running(each.selector)[0]["metadata"]
            force = ["--grace-period=1"] if each.kind == "statefulset" else ["--grace-period=0", "--force"]
            world.release.kubectl("delete", "pod", pod["name"], *force, "--wait=false")
        # the workload's status is older than the deletion
        time.sleep(3)

    return act


def scaled_to_nothing(release: Release, workload: Workload, undo: ExitStack) -> None:
    """Scale a workload to nothing; `undo` scales it back."""
    back = ["scale", workload.path, f"--replicas={workload.replicas}"]
    undo.callback(persist, lambda: release.kubectl(*back), f"scale {workload.path} back")
    release.kubectl("scale", workload.path, "--replicas=0")


def away(workload: Workload) -> Callable[[World, ExitStack], None]:
    """Scale a workload to nothing for a while, and back."""

    def act(world: World, undo: ExitStack) -> None:
        scaled_to_nothing(world.release, workload, undo)
        world.release.kubectl("wait", "pod", "--selector", workload.selector, "--for=delete", "--timeout=60s")
        world.wait(world.hold)

    return act


# --- models


def new_version(world: World, undo: ExitStack) -> None:
    """Serve another version of the model of two replicas."""
    world.own.iml4e("deploy", f"{world.own.model}/2", "--replicas", "2", "--max-replicas", "2", "--cpu", "20m")


def old_version(world: World, undo: ExitStack) -> None:
    """Serve the version before again."""
    world.own.iml4e("rollback", world.own.model)


def kill_model(world: World, undo: ExitStack) -> None:
    """Delete one of the two pods of the model without a grace period."""
    pod = world.release.running(f"{MODEL_LABEL}={world.own.model}")[0]["metadata"]
    world.release.kubectl("delete", "pod", pod["name"], "--grace-period=0", "--force", "--wait=false")
    time.sleep(3)


# --- the chart


def changes(values: dict) -> list[str]:
    """Words for helm that change the CPU request of what clients ask, where the release has it."""
    words = []
    for path in CHANGED:
        there = values
        for key in path.split("."):
            there = there.get(key) or {}
        request = str((there.get("resources") or {}).get("requests", {}).get("cpu") or "")
        if request and values.get(path.split(".")[0], {}).get("enabled"):
            millis = round(float(request[:-1])) if request.endswith("m") else round(float(request) * 1000)
            words += ["--set", f"{path}.resources.requests.cpu={millis + 1}m"]
    return words


def upgrade(world: World, undo: ExitStack) -> None:
    """Upgrade the chart with a changed value: pods of gateway, MLflow, Pipelines API and KServe are replaced."""
    release = world.release
    before, status = release.revision()
    if status != "deployed":
        raise console.Failure(f"The release is {status}: somebody else changes it.", "Wait until that has ended.")
    words = ["upgrade", release.name, str(CHART), "--reset-then-reuse-values", *changes(release.values())]
    try:
        release.helm(*words, "--wait", "--timeout", "300s")
    finally:
        # also a failed upgrade is a revision, but one that helm refused is none
        if release.revision()[0] > before:
            world.revision = before


def rollback(world: World, undo: ExitStack) -> None:
    """Roll the chart back to the revision that this measurement found."""
    if not world.revision:
        raise console.Failure("Nothing was upgraded in this run.", "Name the event `upgrade` before `rollback`.")
    world.release.helm("rollback", world.release.name, str(world.revision), "--wait", "--timeout", "300s")
    world.revision = 0


# --- rights and certificates


def withdraw(binding: str) -> Callable[[World, ExitStack], None]:
    """Take the rights of a ClusterRoleBinding away for a while, and give them back."""

    def act(world: World, undo: ExitStack) -> None:
        kubectl = world.release.kubectl
        (there,) = world.release.get("clusterrolebinding", binding)
        patch = ["patch", "clusterrolebinding", binding, "--type=merge", "--patch"]
        back = json.dumps({"subjects": there["subjects"]})
        undo.callback(persist, lambda: kubectl(*patch, back), f"give the rights of {binding} back")
        kubectl(*patch, json.dumps({"subjects": []}))
        world.wait(world.hold)

    return act


def stores(parts: dict[str, list[Workload]], part: str) -> list[Workload]:
    """The workloads of a part that keep data."""
    return [workload for workload in parts.get(part, []) if workload.kind == "statefulset"]


def secrets_job(release: Release) -> dict:
    """The release's Job that makes Secrets; empty where it has none any more."""
    label = f"app.kubernetes.io/component=secrets,app.kubernetes.io/instance={release.name}"
    jobs = [job for job in release.get("jobs") if job["metadata"]["name"].startswith(f"{release.name}-secrets-")]
    jobs += release.get("jobs", "--selector", label)
    return jobs[-1] if jobs else {}


def new_certificate(world: World, undo: ExitStack) -> None:
    """Delete the certificate of KServe's webhooks, let the release's Job make another, and restart KServe with it."""
    release, kubectl = world.release, world.release.kubectl
    secret = f"{release.name}-kserve-webhook"
    (former,) = release.get("secret", secret)
    for key in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        former["metadata"].pop(key, None)

    def there() -> None:
        if not kubectl("get", "secret", secret, "--ignore-not-found"):
            kubectl("create", "--filename", "-", stdin=json.dumps(former))

    spec = secrets_job(release)["spec"]["template"]
    for key in ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"):
        spec["metadata"].get("labels", {}).pop(key, None)
    name = f"{release.name}-secrets-availability"
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 2, "template": spec},
    }
    undo.callback(persist, there, f"put the Secret {secret} back")
    undo.callback(persist, lambda: kubectl("delete", "job", name, "--ignore-not-found"), f"delete the Job {name}")
    kubectl("delete", "secret", secret)
    kubectl("create", "--filename", "-", stdin=json.dumps(job))
    kubectl("wait", f"job/{name}", "--for=condition=Complete", "--timeout=80s")
    kubectl("rollout", "restart", f"deployment/{release.name}-kserve")
    release.settle()
    models = release.get("inferenceservices")
    if models:  # nothing is written, and the webhooks are asked
        model = models[0]["metadata"]["name"]
        kubectl("annotate", "inferenceservice", model, "iml4e.org/availability=asked", "--dry-run=server")


# --- which of them


def catalogue(world: World) -> list[Event]:
    """Every event that this release can have, in the order in which they happen."""
    parts, own = world.release.parts(), world.own
    no_model = "" if own.model else "there is no model of two replicas"
    found = []
    for part, workloads in sorted(parts.items()):
        found.append(
            Event(
                f"restart-{part}", f"rolling restart of {part}", restart(workloads),
                lossless=WITHOUT.get(part, EVERYTHING), quick=part in ("gateway", "mlflow", "pipelines"),
            )
        )  # fmt: skip
    found += [
        Event(f"kill-{part}", f"one pod of {part} deleted by force", kill(workloads), quick=part == "gateway")
        for part, workloads in sorted(parts.items())
    ]
    found += [
        Event("kill-model", "one of two pods of a model deleted by force", kill_model,
              two_replicas=True, quick=True, skipped=no_model),
        Event("model-version", "a new version of a model", new_version, EVERYTHING, quick=True, skipped=no_model),
        Event("model-rollback", "the version before, again", old_version, EVERYTHING, quick=True, skipped=no_model),
        Event("upgrade", "chart upgraded with a changed value", upgrade, EVERYTHING, quick=True),
        Event("rollback", "chart rolled back", rollback, EVERYTHING, quick=True),
    ]  # fmt: skip
    for part in ("minio", "mariadb"):
        for workload in stores(parts, part):
            found.append(
                Event(f"away-{part}", f"{part} away for {world.hold:.0f} s", away(workload),
                      lossless=(MODELS, GATEWAY), quick=True)
            )  # fmt: skip
    bindings = {each["metadata"]["name"] for each in world.release.get("clusterrolebindings")}
    for part in ("gateway", "kserve"):
        name = f"{world.release.name}-{part}"
        if name in bindings:
            title = f"rights of {part} withdrawn for {world.hold:.0f} s"
            found.append(Event(f"rights-{part}", title, withdraw(name), lossless=(MODELS, GATEWAY)))
    if "kserve" in parts:
        without = "" if secrets_job(world.release) else "the release makes no certificate by a Job"
        title = "certificate of KServe's webhooks replaced"
        found.append(Event("certificate", title, new_certificate, lossless=EVERYTHING, skipped=without))
    return found


def choose(every: Sequence[Event], names: Sequence[str] | None, quick: bool) -> list[Event]:
    """The events that were asked for, in the order of the names.

    Raises:
        console.Failure: a name is no event.
    """
    if names is None:
        return [event for event in every if event.quick or not quick]
    known = {event.name: event for event in every}
    if wrong := [name for name in names if name not in known]:
        raise console.Failure(f"There is no event {wrong[0]}.", f"Events of this release: {', '.join(known)}.")
    return [known[name] for name in names]
