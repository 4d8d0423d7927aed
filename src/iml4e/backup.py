"""Back up and restore a release: Jobs of CronJob `<release>-backup` do the work, this module starts, follows and names them.

A restore stops what writes to the databases, and starts it again at its end. An interrupted one is marked on the CronJob: what was
stopped stays stopped, no backup is made of half of the data, and the same restore goes on when it is started again.
"""

import contextlib
import copy
import functools
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from iml4e import Error, platform
from iml4e.cluster import AwayError, Cluster, Object, RefusedError
from iml4e.manifests import annotations_of

#: Annotation of the CronJob: the backup that is being restored.
MARK = "iml4e.org/restoring"
#: Annotation of what a restore stopped: its replicas, or that it was not suspended.
BEFORE = "iml4e.org/before-restore"
CONTAINERS = ("objects", "database", "backup")
#: Exit code of a restore that ends before it changes anything.
UNCHANGED = 3
#: Name of this package among the managers of fields, during a restore.
OWNER = "iml4e-restore"
#: Seconds until a pod must run.
START = 300
MERGE = "application/merge-patch+json"
#: Kinds that a restore writes, by API group.
WRITES = {
    "serving.kserve.io": ["inferenceservices", "inferencegraphs", "servingruntimes", "trainedmodels"],
    "gateway.networking.k8s.io": ["httproutes"],
    "kubeflow.org": ["scheduledworkflows"],
    "": ["configmaps", "secrets"],
}
Say = Callable[[str], None]


def back_up(say: Say = print) -> str:
    """Back up now.

    Args:
        say: prints a line of progress.

    Returns:
        Name of the backup.

    Raises:
        Error: it failed, or the release has no place for backups.
    """
    cluster, cron = _connect()
    if marked := (cron["metadata"].get("annotations") or {}).get(MARK):
        raise Error(
            f"half of backup {marked} is restored, which is no state to keep: finish it with `iml4e restore {marked}`"
        )
    lines: list[str] = []
    job = _start(cluster, cron, "backup")
    _follow(cluster, job, "backup", lambda line: (lines.append(line), say(line))[1])
    made = [line.split()[1] for line in lines if " is complete: " in line]
    if not made:
        raise Error(f"Job {job} ended without a backup: kubectl -n {cluster.namespace} logs job/{job} --all-containers")
    return made[-1]


def listing() -> list[Object]:
    """Backups at the release's destination, oldest first; incomplete ones last, marked.

    Raises:
        Error: the destination does not answer.
    """
    cluster, cron = _connect()
    lines: list[str] = []
    job = _start(cluster, cron, "list", METRICS="false")
    _follow(cluster, job, "list", lines.append)
    _quietly(lambda: cluster.delete("Job", job))
    return [json.loads(line.removeprefix("listed ")) for line in lines if line.startswith("listed ")]


def restore(backup: str = "", *, force: bool = False, say: Say = print) -> None:
    """Restore a backup into this release.

    Args:
        backup: its name; empty: the newest one.
        force: replace what the release has.
        say: prints a line of progress.

    Raises:
        Error: it failed; the sentence says whether something was changed.
    """
    cluster, cron = _connect()
    marked = (cron["metadata"].get("annotations") or {}).get(MARK, "")
    if marked and backup and marked != backup and not force:
        raise Error(
            f"half of backup {marked} is restored: finish it with `iml4e restore {marked}`, or replace it with --force"
        )
    if not backup:
        whole = [] if marked else [each for each in listing() if not each.get("incomplete")]
        # a new installation may have backed itself up, empty, before its restore
        full = [each for each in whole if not each.get("empty")] or whole
        backup = marked or (full[-1]["id"] if full else "")
    if not backup:
        raise Error(
            "there is no complete backup at the destination: make one with `iml4e backup`, or correct backup.destination"
        )
    job = _running(cluster, "restore")
    if job:
        say(f"restore: Job {job} is at work already")
    else:
        if other := _running(cluster, "backup"):
            raise Error(f"Job {other} makes a backup: wait for its end, or delete it, and restore then")
        if not marked:
            checked = _start(cluster, cron, "check", METRICS="false", BACKUP=backup, FORCE="true" if force else "false")
            try:
                _follow(cluster, checked, "check", say)
            except _FailedError as failure:
                raise Error(f"nothing was changed: {failure}") from None
            _quietly(lambda: cluster.delete("Job", checked))
        # what wrote until now must not while tables are replaced
        _patch(cluster, cron, {"metadata": {"annotations": {MARK: backup}}})
        _stop(cluster, say)
        grant: Callable[[Object], None] = functools.partial(_grant, cluster, cron)
        job = _start(cluster, cron, "restore", prepare=grant, METRICS="false", BACKUP=backup, FORCE="true")
    try:
        _follow(cluster, job, "restore", say)
    except _InterruptedError:
        raise  # the Job goes on, with its rights
    except Error as failure:
        _revoke(cluster, cron)
        if isinstance(failure, _FailedError) and failure.code == UNCHANGED and not marked:
            _go_on(cluster, say)
            raise Error(f"nothing was changed: {failure}") from None
        raise Error(
            f"backup {backup} is restored in part: {failure}. MLflow and Kubeflow Pipelines stay stopped, so that nobody works on "
            f"half of the data; correct the reason, and go on with `iml4e restore {backup}`"
        ) from None
    _revoke(cluster, cron)
    _look_whether_stopped(cluster, f"backup {backup} was restored while it wrote")
    _go_on(cluster, say)


class _InterruptedError(Error):
    """Somebody interrupted this program; the Job goes on."""


class _FailedError(Error):
    """A Job failed; `code` is the exit code of its container."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _connect() -> tuple[Cluster, Object]:
    """The release's namespace and CronJob.

    Raises:
        Error: there is none.
    """
    cluster, name = Cluster(platform.namespace()), f"{platform.release()}-backup"
    try:
        cron = cluster.get("CronJob", name)
    except RefusedError as error:
        raise Error(f"CronJob {name} of namespace {cluster.namespace} cannot be read: {error}") from None
    if not cron:
        raise Error(
            f"release {platform.release()} in namespace {cluster.namespace} has no CronJob {name}: switch it on with `helm upgrade`, "
            "backup.enabled=true and backup.destination (docs/operations.md)"
        )
    return cluster, cron


def _start(
    cluster: Cluster,
    cron: Object,
    mode: str,
    *,
    prepare: Callable[[Object], None] = lambda owner: None,
    **environment: str,
) -> str:
    """Start a Job from the CronJob, as `kubectl create job --from` does; its name."""
    spec = copy.deepcopy(cron["spec"]["jobTemplate"]["spec"])
    pod = spec["template"]["spec"]
    for container in [*pod["initContainers"], *pod["containers"]]:
        given = {"MODE": mode} | environment
        container["env"] = [each for each in container["env"] if each["name"] not in given] + [
            {"name": name, "value": value} for name, value in given.items()
        ]
    labels = spec["template"]["metadata"]["labels"]
    if mode != "backup":  # nothing to measure
        spec["template"]["metadata"].pop("annotations", None)
    owner = {
        "apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"], "uid": cron["metadata"]["uid"],
        "controller": mode == "backup",
    }  # fmt: skip
    name = f"{platform.release()}-{mode}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "spec": spec | {"suspend": True},
        "metadata": {
            "name": name, "namespace": cluster.namespace, "labels": labels | {"iml4e.org/backup": mode},
            "ownerReferences": [owner], "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
        },
    }  # fmt: skip
    try:
        made = cluster.request("POST", cluster.path("Job"), job)
        prepare({"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": made["metadata"]["uid"]})
        _patch(cluster, made | {"kind": "Job"}, {"spec": {"suspend": False}})
    except RefusedError as error:
        raise Error(
            f"Job {name} cannot be started: {error}; an administrator of namespace {cluster.namespace} may"
        ) from None
    return name


def _running(cluster: Cluster, mode: str) -> str:
    """Name of a Job that is at work; one that the CronJob started has no label of ours."""
    for job in cluster.list("Job", f"app.kubernetes.io/instance={platform.release()},iml4e.org/backup={mode}"):
        if job.get("status", {}).get("active"):
            return job["metadata"]["name"]
    if mode == "backup":
        for job in cluster.list("Job"):
            owners = job["metadata"].get("ownerReferences") or []
            own = any(owner.get("controller") and owner["name"] == f"{platform.release()}-backup" for owner in owners)
            if own and job.get("status", {}).get("active"):
                return job["metadata"]["name"]
    return ""


def _follow(cluster: Cluster, job: str, mode: str, say: Say) -> None:
    """Print what a Job says until it ends.

    Raises:
        _FailedError: it failed.
        Error: its pod does not start, or the connection is lost.
    """
    pod, last = _pod(cluster, job), ""
    try:
        for container in CONTAINERS:
            _wait_for(cluster, job, pod, container)
            for line in _log(cluster, pod, container):
                say(line)
                last = line or last
            if code := _exit_code(cluster, pod, container):
                said = last.removeprefix(f"{mode}: ").rstrip(".")
                raise _FailedError(said or f"container {container} ended with {code}", code)
    except KeyboardInterrupt:
        goes_on = f"kubectl -n {cluster.namespace} logs -f job/{job} --all-containers"
        again = "; `iml4e restore` waits for it and starts the release again" if mode == "restore" else ""
        raise _InterruptedError(f"interrupted: Job {job} goes on in the cluster ({goes_on}){again}") from None


def _log(cluster: Cluster, pod: str, container: str) -> Iterator[str]:
    """Lines of a container until it ends; a connection that breaks is taken up again, and no line comes twice."""
    import urllib3

    seen = 0
    while True:
        try:
            for number, line in enumerate(cluster.follow(pod, container, previous=False, follow=True)):
                if number >= seen:
                    seen += 1
                    yield line
        except (urllib3.exceptions.HTTPError, AwayError):
            time.sleep(2)
        if _exit_code(cluster, pod, container) is not None:
            return
        time.sleep(1)


def _pod(cluster: Cluster, job: str) -> str:
    """Name of a Job's pod."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if pods := cluster.list("Pod", f"batch.kubernetes.io/job-name={job}"):
            return pods[0]["metadata"]["name"]
        time.sleep(0.5)
    found = cluster.request("GET", cluster.path("Event"), fieldSelector=f"involvedObject.name={job}")["items"]
    reason = found[-1]["message"] if found else "no event says why"
    _quietly(lambda: cluster.delete("Job", job))
    raise Error(f"Job {job} has no pod after a minute: {reason}; correct that and start again")


def _statuses(cluster: Cluster, pod: str) -> dict[str, Object]:
    """States of the containers of a pod, by name."""
    try:
        found = cluster.get("Pod", pod)
    except AwayError:
        return {}
    if not found:
        raise Error(f"pod {pod} is gone: somebody deleted it, or its node; start again, what was copied is there")
    status = found.get("status", {})
    every = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    if status.get("phase") == "Failed" and status.get("reason"):
        raise Error(f"pod {pod} was ended: {status['reason']} {status.get('message', '')}".strip() + "; start again")
    return {each["name"]: each["state"] for each in every}


def _wait_for(cluster: Cluster, job: str, pod: str, container: str) -> None:
    """Wait until a container runs or has ended."""
    end = time.monotonic() + START
    while True:
        states = _statuses(cluster, pod)
        state = states.get(container, {})
        if "running" in state or "terminated" in state:
            return
        if time.monotonic() > end:
            waiting = next((s["waiting"] for s in states.values() if s.get("waiting", {}).get("message")), {})
            found = cluster.request("GET", cluster.path("Event"), fieldSelector=f"involvedObject.name={pod}")["items"]
            reason = found[-1]["message"] if found else waiting.get("message", "no event says why")
            _quietly(lambda: cluster.delete("Job", job))
            # nothing has run, so nothing has changed
            raise _FailedError(
                f"pod {pod} does not start: {' '.join(reason.split())[:300]}; correct that and start again", UNCHANGED
            )
        time.sleep(0.5)


def _exit_code(cluster: Cluster, pod: str, container: str) -> int | None:
    """Exit code of a container; None while it runs."""
    ended = _statuses(cluster, pod).get(container, {}).get("terminated")
    return ended["exitCode"] if ended else None


# --- what a restore stops and starts


def _writers(cluster: Cluster) -> Iterator[Object]:
    """Deployments and CronJobs of the release that write to databases and buckets."""
    labels = f"app.kubernetes.io/instance={platform.release()},app.kubernetes.io/part-of=iml4e"
    for kind in ("Deployment", "CronJob"):
        for each in cluster.list(kind, f"{labels},app.kubernetes.io/component in (mlflow,pipelines,backup)"):
            yield each | {"kind": kind}


def _at_work(cluster: Cluster) -> list[str]:
    """Pods that still write: a Deployment without replicas may have some that are going."""
    labels = f"app.kubernetes.io/instance={platform.release()},app.kubernetes.io/part-of=iml4e"
    pods = cluster.list("Pod", f"{labels},app.kubernetes.io/component in (mlflow,pipelines)")
    return [each["metadata"]["name"] for each in pods if each["status"].get("phase") in ("Running", "Pending")]


def _stop(cluster: Cluster, say: Say) -> None:
    """Stop them, and note on each how it was: a later call finds the note and leaves it."""
    stopped = []
    for each in _writers(cluster):
        noted = BEFORE in (each["metadata"].get("annotations") or {})
        if each["kind"] == "Deployment":
            before, spec = str(each["spec"].get("replicas", 1)), {"replicas": 0}
            stopped.append(each["metadata"]["name"])
        else:
            before, spec = "suspended" if each["spec"].get("suspend") else "active", {"suspend": True}
        note = {} if noted else {"metadata": {"annotations": {BEFORE: before}}}
        _patch(cluster, each, note | {"spec": spec})
    if not stopped:
        return
    say(f"restore: stopping {', '.join(stopped)}")
    if controller := next(filter(None, map(_gitops, _writers(cluster))), ""):
        say(
            f"restore: {controller} keeps this release as git has it: if it starts again what the restore stops, suspend that until the "
            "restore has ended (docs/operations.md, Restore)"
        )
    end = time.monotonic() + 180
    while left := _at_work(cluster):
        _look_whether_stopped(cluster, "nothing was written yet")
        if time.monotonic() > end:
            raise Error(
                f"{', '.join(left)} did not end within three minutes: wait for its end or delete it, and start the restore again"
            )
        time.sleep(1)


def _look_whether_stopped(cluster: Cluster, consequence: str) -> None:
    """Raise an error if something that a restore stopped has replicas again."""
    for each in _writers(cluster):
        if each["kind"] == "Deployment" and BEFORE in annotations_of(each) and each["spec"].get("replicas"):
            fields = each["metadata"].get("managedFields") or []
            who = [x["manager"] for x in fields if "f:replicas" in x.get("fieldsV1", {}).get("f:spec", {})]
            raise Error(
                f"Deployment {each['metadata']['name']} was started during the restore by {' and '.join(who) or 'somebody'}, and "
                f"{consequence}: suspend that (Argo CD's automated sync, Flux's HelmRelease or Kustomization, an autoscaler), then run "
                "`iml4e restore` again"
            )


def _gitops(thing: Object) -> str:
    """What keeps an object as git has it, by the marks that it leaves; empty if nothing does."""
    labels = thing["metadata"].get("labels") or {}
    if "argocd.argoproj.io/tracking-id" in annotations_of(thing) or "argocd.argoproj.io/instance" in labels:
        return "Argo CD"
    return "Flux" if any(".toolkit.fluxcd.io/" in name for name in labels) else ""


def _go_on(cluster: Cluster, say: Say) -> None:
    """Start what was stopped, remove the notes, and wait until all is ready."""
    started = []
    for each in _writers(cluster):
        notes = each["metadata"].get("annotations") or {}
        gone: Object = {name: None for name in (BEFORE, MARK) if name in notes}
        before = notes.get(BEFORE)
        if each["kind"] == "Deployment" and before is not None:
            _patch(cluster, each, {"metadata": {"annotations": gone}, "spec": {"replicas": int(before)}})
            _disown(cluster, each)
            started += [each["metadata"]["name"]] if int(before) else []
        elif gone:
            spec = {} if before is None else {"spec": {"suspend": before == "suspended"}}
            _patch(cluster, each, {"metadata": {"annotations": gone}} | spec)
            _disown(cluster, each)
    if not started:
        return
    say(f"restore: starting {', '.join(started)}")
    start = time.monotonic()
    while True:
        left = []
        for name in started:
            found = cluster.get("Deployment", name) or {}
            status = found.get("status", {})
            whole = status.get("readyReplicas", 0) >= found.get("spec", {}).get("replicas", 0)
            if not whole or status.get("observedGeneration", 0) < found.get("metadata", {}).get("generation", 0):
                left.append(name)
        if not left:
            say(f"restore: ready after {time.monotonic() - start:.0f} s")
            return
        if time.monotonic() > start + 300:
            raise Error(
                f"data are restored, but {', '.join(left)} is not ready after five minutes: `iml4e doctor` looks why"
            )
        time.sleep(1)


def _grant(cluster: Cluster, cron: Object, owner: Object) -> None:
    """Let the Job write custom resources while it runs; the rights go with the Job."""
    account = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"]
    rules = [
        {"apiGroups": [group], "resources": resources, "verbs": ["get", "create", "patch"]}
        for group, resources in WRITES.items()
    ]
    name = f"{platform.release()}-restore"
    for namespace in [cluster.namespace, *_namespaces(cron)]:
        # an owner is of the same namespace; elsewhere the rights are removed by name
        metadata = {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/instance": platform.release()}}
        if namespace == cluster.namespace:
            metadata["ownerReferences"] = [owner]
        version = "rbac.authorization.k8s.io/v1"
        role = {"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules}
        binding = {
            "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": cluster.namespace}],
        }  # fmt: skip
        there = Cluster(namespace)
        there.apply(role, force=True)
        there.apply(binding, force=True)


def _revoke(cluster: Cluster, cron: Object) -> None:
    """Remove these rights."""
    for namespace in [cluster.namespace, *_namespaces(cron)]:
        there = Cluster(namespace)
        for kind in ("RoleBinding", "Role"):
            _quietly(lambda there=there, kind=kind: there.delete(kind, f"{platform.release()}-restore"))


def _namespaces(cron: Object) -> list[str]:
    """Further namespaces that backups read."""
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return next((each.get("value") or "" for each in container["env"] if each["name"] == "NAMESPACES"), "").split()


def _patch(cluster: Cluster, thing: Object, change: Object) -> None:
    path = cluster.path(thing["kind"], thing["metadata"]["name"])
    cluster.request("PATCH", path, change, patch=MERGE, fieldManager=OWNER)


def _disown(cluster: Cluster, thing: Object) -> None:
    """Own none of its fields any more: a later upgrade that changes the replicas would be in conflict with this package."""
    for _ in range(10):
        found = cluster.get(thing["kind"], thing["metadata"]["name"])
        if not found:
            return
        left = [each for each in found["metadata"]["managedFields"] if each["manager"] != OWNER]
        # of this version alone: a controller may be writing the status
        change = {"managedFields": left, "resourceVersion": found["metadata"]["resourceVersion"]}
        try:
            _patch(cluster, thing, {"metadata": change})
            return
        except RefusedError as error:
            if error.status != 409:
                raise
        time.sleep(0.2)


def _quietly(do: Callable[[], Any]) -> None:
    """Clean up; an API server that is away or refuses is no reason to hide what came before."""
    with contextlib.suppress(RefusedError, AwayError):
        do()
