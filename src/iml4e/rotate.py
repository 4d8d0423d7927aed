"""Rotate the credentials of a release while it serves: a new one beside each former one, readers restarted, former ones removed.

Each step is idempotent, and the Secrets say how far they are (key `rotation`), so a rotation that was cut short goes on where it stopped.
Passwords are made in the cluster, by the release's own Job; none passes through this program, save those of copies in other namespaces.
"""

import datetime
import json
import time
from base64 import b64decode
from collections.abc import Callable, Iterator

from iml4e import Error, platform
from iml4e.cluster import Cluster, Object, RefusedError, secrets_in_environment

#: Annotation of pods and pod templates: the rotation that they have seen.
SEEN = "iml4e.org/rotation"
#: Annotation of a Secret: when it came to hold the new credential.
SWAPPED = "iml4e.org/swapped"
#: Keys that Kubernetes gives the pods of a Job.
OF_A_JOB = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")
#: Label of the pods of pipeline runs, which read their key from the Secret, not from a variable.
WORKFLOW = "workflows.argoproj.io/workflow"
#: What a step did to the Secrets.
SAID = {
    "next": "each Secret has a second credential, a new one",
    "former": "the new credential is the first one",
    "done": "the former credential is gone",
}
#: Seconds between two looks.
LOOK = 1.0
#: Seconds until the kubelet has brought a changed Secret to a pod that was touched.
BROUGHT = 5

Say = Callable[[str], None]


def rotate(*, only: list[str] | None = None, keep: bool = False, timeout: float = 600, say: Say = print) -> list[str]:
    """Rotate credentials, or go on with a rotation that was cut short.

    Args:
        only: names of Secrets; None: all that the release made.
        keep: stop before the former credentials are removed; the next call removes them.
        timeout: seconds that each step may take.
        say: prints a line of progress.

    Returns:
        Names of the Secrets that rotated.

    Raises:
        Error: a step failed; the former credentials are still valid, and the sentence says what to do.
    """
    work = Rotation(Cluster(platform.namespace()), platform.release(), timeout, say)
    return work.run(only, keep)


class Rotation:
    """One rotation of a release."""

    def __init__(self, cluster: Cluster, release: str, timeout: float, say: Say) -> None:
        """Take what all steps need."""
        self.cluster, self.release, self.timeout, self.say = cluster, release, timeout, say
        self.id, self.names = f"{_now():%Y%m%dT%H%M%SZ}", set[str]()

    def run(self, only: list[str] | None, keep: bool) -> list[str]:
        """Take all steps."""
        start = time.monotonic()
        begun = self._choose(only)
        self._step("next")
        self._step("former")
        self._copies()
        self._restart()
        if keep and not begun:
            self.say("the former credentials stay valid until `iml4e rotate` is called again")
            return sorted(self.names)
        self._wait_for_readers()
        self._step("done")
        self.say(
            f"{len(self.names)} Secrets rotated in {time.monotonic() - start:.0f} s: {', '.join(sorted(self.names))}"
        )
        if begun:
            self.say("this ended the rotation that was begun before; call `iml4e rotate` again to rotate anew")
        return sorted(self.names)

    def _choose(self, only: list[str] | None) -> bool:
        """Choose the Secrets; whether a rotation was begun before."""
        found = self.cluster.get("ConfigMap", f"{self.release}-secrets")
        if not found:
            raise Error(
                f"release {self.release} in namespace {self.cluster.namespace} made no Secrets: rotate those that existingSecret names "
                "where they come from (docs/security.md, Rotation)"
            )
        secrets = json.loads(found["data"]["plan.json"])["secrets"]
        # of others all keys are `fixed` or `lasting`: those of MLflow's webhooks encrypt what its database keeps, and no other key reads that
        planned = {each["name"] for each in secrets if each.keys() & {"generated", "alternating", "host"}}
        if lasting := {each["name"] for each in secrets} & set(only or ()) - planned:
            raise Error(
                f"{', '.join(sorted(lasting))} does not rotate: what was encrypted with its key could not be read any more "
                "(docs/security.md, Rotation)"
            )
        if unknown := set(only or ()) - planned:
            raise Error(f"the release did not make {', '.join(sorted(unknown))}; it made {', '.join(sorted(planned))}")
        states = {name: self._state(name) for name in planned}
        begun = {name: run for name, (run, state) in states.items() if state in ("next", "former")}
        if begun:
            self.id = max(begun.values())
            self.names = {name for name, run in begun.items() if run == self.id}
            self.say(f"going on with rotation {self.id} of {', '.join(sorted(self.names))}")
        else:
            self.names = set(only or planned)
        return bool(begun)

    def _state(self, name: str) -> tuple[str, str]:
        """Rotation and state of a Secret, both empty for one that never rotated."""
        data = (self.cluster.get("Secret", name) or {}).get("data") or {}
        run, _, state = b64decode(data.get("rotation", "")).decode().partition(" ")
        return run, state

    # --- the steps

    def _step(self, state: str) -> None:
        """Take the Secrets to a state, and the servers after them."""
        self._run_job("secrets", state, [state, self.id, *sorted(self.names)])
        reached = {"next": ("next", "former")}.get(state, (state,))
        if left := sorted(name for name in self.names if self._state(name)[1] not in reached):
            raise Error(
                f"Secrets {', '.join(left)} did not rotate: the release's chart is older than this command, or another rotation runs; "
                "`helm upgrade`, or wait for the other one"
            )
        self.say(SAID[state])
        pods = {pod["metadata"]["name"]: pod for pod in self.cluster.list("Pod")}
        if pod := pods.get(f"{self.release}-minio-0"):
            if self.names & secrets_of(pod["spec"]):
                self._touch(pod, state)
                time.sleep(BROUGHT)
            if self.names & secrets_of(self._newest_job("minio-setup")["spec"]["template"]["spec"]):
                self._run_job("minio-setup", state)
                self.say("MinIO follows")
        if (pod := pods.get(f"{self.release}-mariadb-0")) and self.names & secrets_of(pod["spec"]):
            self._touch(pod, state)
            files = {f"/secrets/{path}": name for name, path in _state_files(pod["spec"]) if name in self.names}
            pairs = [word for file, name in files.items() for word in (file, " ".join(self._state(name)))]
            self._exec(pod, "mariadb", ["sh", "/etc/mysql/accounts.sh", *pairs])
            self.say("MariaDB follows")
        grafana = pods.get(f"{self.release}-grafana-0")
        if grafana and state == "former" and self.names & secrets_of(grafana["spec"]):
            self._touch(grafana, state)
            wait = 'for i in $(seq 180); do [ "$(cat /run/secrets/grafana/rotation)" = "$0" ] && break; sleep 1; done 2>/dev/null'
            reset = (
                "grafana cli --homepath /usr/share/grafana --config /etc/grafana/grafana.ini admin reset-admin-password "
                "--password-from-stdin < /run/secrets/grafana/adminPassword"
            )
            (name,) = self.names & secrets_of(grafana["spec"])
            self._exec(grafana, "grafana", ["sh", "-c", f"{wait}; {reset}", " ".join(self._state(name))])
            self.say("Grafana follows")

    def _restart(self) -> None:
        """Restart the servers that read the Secrets, and wait until only new pods are left; stores and Grafana need no restart."""
        label = f"app.kubernetes.io/instance={self.release}"
        ours = [("Deployment", each) for each in self.cluster.list("Deployment", label)]
        hub = self.cluster.get("StatefulSet", f"{self.release}-notebooks")
        ours += [("StatefulSet", hub)] if hub else []
        chosen = [each for each in ours if self.names & secrets_of(each[1]["spec"]["template"]["spec"])]
        for kind, each in chosen:
            change = {"spec": {"template": {"metadata": {"annotations": {SEEN: self.id}}}}}
            self._patch(kind, each["metadata"]["name"], change)
        waits = {(kind, each["metadata"]["name"]) for kind, each in chosen}
        self.say(f"restarting {', '.join(sorted(name for _, name in waits)) or 'nothing'}")
        end = time.monotonic() + self.timeout
        while waits := {(kind, name) for kind, name in waits if not _rolled_out(self.cluster.get(kind, name))}:
            if time.monotonic() > end:
                raise Error(
                    f"{', '.join(sorted(name for _, name in waits))} did not become ready with the new credentials within {self.timeout:.0f} s; {self._valid()}"
                )
            time.sleep(LOOK)

    def _wait_for_readers(self) -> None:
        """Wait until every pod that may hold a former credential has ended."""
        secrets = [self.cluster.get("Secret", name) for name in self.names]
        swapped = max(_time(each["metadata"]["annotations"][SWAPPED]) for each in secrets if each)
        end, said = time.monotonic() + self.timeout, set[str]()
        while left := {pod["metadata"]["name"] for pod in self.cluster.list("Pod") if self._holds(pod, swapped)}:
            if left != said:
                self.say(f"waiting for the end of {', '.join(sorted(left))}")
                said = left
            if time.monotonic() > end:
                raise Error(
                    f"{', '.join(sorted(left))} may still use former credentials after {self.timeout:.0f} s; {self._valid()}"
                )
            time.sleep(LOOK)

    def _holds(self, pod: Object, swapped: datetime.datetime) -> bool:
        """Whether a pod may hold a former credential: one of the servers has none, and a model has used its own at its start."""
        meta, phase = pod["metadata"], pod["status"].get("phase")
        if phase in ("Succeeded", "Failed") or _time(meta["creationTimestamp"]) > swapped:
            return False
        if (meta.get("annotations") or {}).get(SEEN) == self.id:
            return False
        if any(owner["kind"] == "StatefulSet" for owner in meta.get("ownerReferences") or []):
            return False
        if WORKFLOW in (meta.get("labels") or {}) and f"{self.release}-s3-pipelines" in self.names:
            return True
        started = phase == "Running"
        return bool(self.names & secrets_of(pod["spec"], started=started))

    def _copies(self) -> None:
        """Bring the new keys to copies of the Secrets in other namespaces, which have the former one: models there read them."""
        for name in sorted(self.names):
            if not name.startswith(f"{self.release}-s3-"):
                continue
            try:
                there = self.cluster.request("GET", "/api/v1/secrets", fieldSelector=f"metadata.name={name}")["items"]
            except RefusedError:
                self.say(
                    f"warning: copies of {name} in other namespaces cannot be seen by this account: copy the Secret there anew"
                )
                return
            data = (self.cluster.get("Secret", name) or {}).get("data") or {}
            pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            former = {key: data.get(f"second.{key}") for key in pair}
            for copy in there:
                place = copy["metadata"]["namespace"]
                if place != self.cluster.namespace and {key: copy.get("data", {}).get(key) for key in pair} == former:
                    self._patch("Secret", name, {"data": {key: data[key] for key in pair}}, place)
                    self.say(f"Secret {name} in namespace {place} follows")

    # --- tools

    def _valid(self) -> str:
        return "the former credentials are still valid: call `iml4e rotate` again to go on"

    def _patch(self, kind: str, name: str, change: Object, namespace: str = "") -> None:
        path = self.cluster.path(kind, name, namespace)
        self.cluster.request("PATCH", path, change, patch="application/merge-patch+json", fieldManager="iml4e-rotate")

    def _touch(self, pod: Object, state: str) -> None:
        """Change a pod, so that its kubelet looks at once whether its Secrets changed."""
        change = {"metadata": {"annotations": {SEEN: f"{self.id} {state}"}}}
        self._patch("Pod", pod["metadata"]["name"], change)

    def _newest_job(self, which: str) -> Object:
        """The release's newest Job of a name."""
        prefix = f"{self.release}-{which}-"
        found = [
            each
            for each in self.cluster.list("Job", f"app.kubernetes.io/instance={self.release}")
            if each["metadata"]["name"].startswith(prefix)
        ]
        if not found:
            raise Error(
                f"there is no Job {prefix}… in namespace {self.cluster.namespace}: `helm upgrade` or a sync makes it"
            )
        return max(found, key=lambda each: each["metadata"]["creationTimestamp"])

    def _run_job(self, which: str, state: str, words: list[str] | None = None) -> None:
        """Run a copy of one of the release's Jobs, with further words in its command.

        Raises:
            Error: it failed; the sentence has the end of its log.
        """
        template = self._newest_job(which)["spec"]["template"]
        labels = {key: value for key, value in template["metadata"]["labels"].items() if key not in OF_A_JOB}
        spec = json.loads(json.dumps(template["spec"]))
        spec["containers"][0]["command"] += words or []
        name = f"{self.release}-rotate-{which}-{state}"
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            # without the label `instance`, by which Argo CD would take it for the application's
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "iml4e"}},
            "spec": {
                "backoffLimit": 3,
                "ttlSecondsAfterFinished": 600,
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
        end = time.monotonic() + self.timeout
        self.cluster.delete("Job", name)  # of a try that was cut short
        while True:
            try:
                self.cluster.request("POST", self.cluster.path("Job"), job)
                break
            except RefusedError as error:
                if error.status != 409 or time.monotonic() > end:
                    raise
                time.sleep(LOOK)
        while True:
            ended = {
                each["type"]
                for each in (self.cluster.get("Job", name) or {}).get("status", {}).get("conditions") or []
                if each["status"] == "True"
            }
            if "Complete" in ended:
                return
            if "Failed" in ended or time.monotonic() > end:
                pods = self.cluster.list("Pod", f"batch.kubernetes.io/job-name={name}")
                said = (
                    self.cluster.log(pods[-1]["metadata"]["name"], spec["containers"][0]["name"], lines=3)
                    if pods
                    else ""
                )
                raise Error(f"Job {name} failed: {' '.join(said.split()) or 'it has no log'}; {self._valid()}")
            time.sleep(LOOK)

    def _exec(self, pod: Object, container: str, command: list[str]) -> None:
        """Run a command in a pod.

        Raises:
            Error: it failed; the sentence has the end of what it said.
        """
        from kubernetes import client
        from kubernetes.stream import stream

        name = pod["metadata"]["name"]
        call = client.CoreV1Api(platform.kubernetes()).connect_get_namespaced_pod_exec
        channel = stream(
            call,
            name,
            self.cluster.namespace,
            container=container,
            command=command,
            stdout=True,
            stderr=True,
            _preload_content=False,
        )
        channel.run_forever(timeout=self.timeout)
        if channel.is_open() or channel.returncode:
            said = " ".join((channel.read_stderr() or channel.read_stdout() or "it does not answer").split())[-300:]
            raise Error(f"{name} does not take the new credentials: {said}; {self._valid()}")


def secrets_of(spec: Object, *, started: bool = False) -> set[str]:
    """Names of the Secrets that a pod reads; of one that has started, without those of its init containers alone."""
    containers = [*spec["containers"], *([] if started else spec.get("initContainers") or [])]
    mounted = {mount["name"] for each in containers for mount in each.get("volumeMounts") or []}
    from_environment = (name for each in containers for name, _ in secrets_in_environment(each))
    return {*from_environment, *_from_volumes(spec, mounted)}


def _from_volumes(spec: Object, mounted: set[str]) -> Iterator[str]:
    for volume in spec.get("volumes") or []:
        if volume["name"] in mounted:
            if "secret" in volume:
                yield volume["secret"]["secretName"]
            for source in (volume.get("projected") or {}).get("sources") or []:
                if "secret" in source:
                    yield source["secret"]["name"]


def _state_files(spec: Object) -> Iterator[tuple[str, str]]:
    """Secret and path of each file that tells a pod how far a Secret has rotated."""
    for volume in spec["volumes"]:
        for source in (volume.get("projected") or {}).get("sources") or []:
            for item in source.get("secret", {}).get("items") or []:
                if item["key"] == "rotation":
                    yield source["secret"]["name"], item["path"]


def _rolled_out(workload: Object | None) -> bool:
    """Whether all pods of a Deployment or StatefulSet are new and ready."""
    if workload is None:
        return True
    status, wanted = workload.get("status", {}), workload["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= workload["metadata"]["generation"]
    counts = [status.get(key, 0) for key in ("updatedReplicas", "replicas", "availableReplicas")]
    return seen and counts == [wanted] * 3


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
