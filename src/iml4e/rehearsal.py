"""Try an upgrade of a release on a copy of its data: a namespace with the new chart's stores, the databases and a sample of the objects.

The new version's own pods migrate the copy. Rows and checksums of every column are compared, and the namespace goes at the end. Nothing
of the release changes: its databases are read, in one snapshot each. Needs helm and kubectl, as the upgrade itself does.
"""

import gzip
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iml4e import Error, platform

Object = dict[str, Any]
Say = Callable[[str], None]
#: Label of the namespace: the release that is rehearsed.
LABEL = "iml4e.org/rehearsal"
DATABASES = {"mlflow": ("mlflow",), "pipelines": ("mlpipeline", "metadb")}
#: Parts that are on in the copy: the stores, and from the second step on what has databases.
STORES = ("minio", "mariadb")
#: Kinds with pods, and where a pod names a Secret or ConfigMap: field, kind, and key of the name.
POD_MAKERS = ("CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "StatefulSet")
NAMES = (
    ("secretKeyRef", "Secret", "name"), ("configMapKeyRef", "ConfigMap", "name"), ("secretRef", "Secret", "name"),
    ("configMapRef", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("secret", "Secret", "name"),
    ("configMap", "ConfigMap", "name"),
)  # fmt: skip
END = "-- Dump completed"
DUMP = "--single-transaction --quick --hex-blob --skip-lock-tables --no-tablespaces --skip-dump-date --default-character-set=utf8mb4"
PATIENCE = 600
#: Options of `helm list`: releases in every status, for Helm 3 (which has more by `--all`) and Helm 4 (which has no such option).
ANY_STATUS = ("--deployed", "--failed", "--pending", "--uninstalling")
#: Copies objects from one store to another, and tells their digests; runs in a pod of the namespace.
COPY = Path(__file__).with_name("rehearsal_objects.py")


@dataclass
class Table:
    """A table before and after the migration."""

    name: str
    rows: int | None
    """Before; None: there was none."""
    now: int | None
    """After; None: it is gone."""
    changed: list[str] = field(default_factory=list)
    """Columns: `+ name` is new, `- name` is gone, `~ name` has other content."""

    @property
    def loses(self) -> bool:
        """Whether rows are fewer, or a column with content is gone."""
        return (self.now or 0) < (self.rows or 0) or any(each.startswith("- ") for each in self.changed)


@dataclass
class Report:
    """What a rehearsal found."""

    release: str
    old: str
    new: str
    tables: list[Table]
    objects: dict[str, tuple[int, int]]
    """By bucket: copied, and of those unchanged afterwards."""
    added: list[str]
    removed: list[str]
    changed: list[str]
    restarted: list[str]
    """Workloads whose pods the upgrade replaces."""
    seconds: dict[str, float]
    size: int
    """Of the databases' dumps, compressed, in bytes."""

    @property
    def loses(self) -> list[str]:
        """What is less than before."""
        lost = [f"table {table.name}" for table in self.tables if table.loses]
        return lost + [f"objects of bucket {name}" for name, (copied, same) in self.objects.items() if same < copied]


def rehearse(
    chart: str,
    *,
    version: str = "",
    values: Sequence[str] = (),
    objects: int = 20,
    keep: bool = False,
    say: Say = print,
) -> Report:
    """Rehearse the upgrade of the release to a chart.

    Args:
        chart: folder, package or `oci://` address of the chart.
        version: version of a chart at an address; empty: the newest.
        values: files of values, as for the upgrade; the release's own values are below them.
        objects: number of objects of each bucket that are copied.
        keep: leave the namespace.
        say: prints a line of progress.

    Raises:
        Error: the new version does not start on the copy, or there is no room for it.
    """
    for program in ("helm", "kubectl"):
        if not shutil.which(program):
            raise Error(f"there is no {program}: a rehearsal needs helm and kubectl on the PATH, as the upgrade does")
    with tempfile.TemporaryDirectory(prefix="iml4e-rehearsal-") as folder:
        made = _Rehearsal(chart, [*map(str, values)], Path(folder), say, version)
        # a terminal that closes ends it as Ctrl-C does: the namespace goes
        before = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        try:
            return made.run(objects)
        except KeyboardInterrupt:
            raise Error("interrupted: nothing of the release was changed") from None
        finally:
            if keep:
                say(
                    f"rehearsal: namespace {made.name} stays; remove it: helm uninstall {made.name} -n {made.name}; kubectl delete namespace {made.name}"
                )
            else:
                made.remove()
            signal.signal(signal.SIGTERM, before)


def text(report: Report) -> Iterator[str]:
    """Lines of a report."""
    yield f"upgrade of {report.release} from chart {report.old} to {report.new}, on a copy of its data"
    for verb, things in (("adds", report.added), ("removes", report.removed), ("changes", report.changed)):
        if things:
            yield f"{verb} {len(things)} objects: {', '.join(things)}"
    if not report.added + report.removed + report.changed:
        yield "changes no object of the release"
    if report.restarted:
        yield f"replaces the pods of {', '.join(report.restarted)}"
    same = [table for table in report.tables if table.rows == table.now and not table.changed]
    yield f"{len(same)} tables with {sum(table.rows or 0 for table in same)} rows stay as they are, by checksum of each column"
    for table in report.tables:
        if table in same:
            continue
        if table.rows is None:
            yield f"table {table.name} is new, {table.now} rows"
        else:
            now = "is gone" if table.now is None else f"{table.rows} rows, then {table.now}"
            yield f"table {table.name}: {now}{'; ' if table.changed else ''}{', '.join(table.changed)}"
    for bucket, (copied, unchanged) in report.objects.items():
        yield f"bucket {bucket}: {unchanged} of {copied} copied objects are unchanged"
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items())
    yield f"took: {took}; databases of {report.size / 1e6:.1f} MB compressed"
    yield "LESS than before: " + ", ".join(report.loses) if report.loses else "nothing is lost"


def scratch(chart: Iterable[str], parts: Collection[str]) -> Object:
    """Values of the copy, on top of the release's: stores of its own, and none of what its parts need elsewhere.

    Args:
        chart: all parts of the new chart.
        parts: those with a database that are on.
    """
    release = "{{ .Release.Name }}"
    buckets = {name: f"{{{{ .Values.global.s3.buckets.{name} }}}}" for name in ("datasets", "mlflow", "pipelines")}
    own: Object = {
        "global": {
            "s3": {
                "endpoint": f"http://{release}-minio.{{{{ .Release.Namespace }}}}.svc:9000", "region": "us-east-1",
                "addressingStyle": "path",
            },
            "database": {"host": f"{release}-mariadb.{{{{ .Release.Namespace }}}}.svc", "port": 3306},
            "monitoring": {"mode": "bundled"},
            "gateway": {"name": f"{release}-gateway", "namespace": "{{ .Release.Namespace }}"},
            "mlflow": {"url": f"http://{release}-mlflow.{{{{ .Release.Namespace }}}}.svc:5000/mlflow"},
        },
        "runner": {"s3Secret": f"{release}-s3-pipelines"},
        "backup": {"enabled": False},
        "minio": {
            "existingSecret": "",
            "buckets": [{"name": name, "versioned": False} for name in buckets.values()],
            "consumers": [
                {"name": name, "buckets": [{"name": buckets[each], "access": "rw"} for each in used]}
                for name, used in {"mlflow": ("mlflow",), "pipelines": ("datasets", "pipelines")}.items()
            ],
        },
        "mariadb": {
            "existingSecret": "", "metrics": {"enabled": False},
            "databases": [{"name": name, "user": name} for name in ("mlflow", "mlpipeline", "metadb")],
        },
        "mlflow": {
            "replicas": 1, "route": {"enabled": False}, "gc": {"enabled": False},
            "database": {"existingSecret": f"{release}-db-mlflow", "tls": False},
            "s3": {"existingSecret": f"{release}-s3-mlflow"},
            "webhooks": {"existingSecret": ""},
        },
        "pipelines": {
            "route": {"enabled": False}, "retention": {"enabled": False},
            "api": {"replicas": 1, "database": {"existingSecret": f"{release}-db-mlpipeline", "parameters": {"tls": "false"}}},
            "metadata": {"database": {"existingSecret": f"{release}-db-metadb"}},
            "s3": {"existingSecret": f"{release}-s3-pipelines"},
        },
    }  # fmt: skip
    if "mlflow" not in parts:
        # an MLflow elsewhere is not the copy's to write to
        own["pipelines"]["mlflow"] = {"enabled": False}
    for part in chart:
        own[part] = own.get(part, {}) | {"enabled": part in (*STORES, *parts)}
    return own


def named(things: Iterable[Object]) -> dict[tuple[str, str], bool]:
    """Secrets and ConfigMaps that pods name and the chart does not make: kind and name, and whether a pod waits for it."""
    things = list(things)
    kinds = ("Secret", "ConfigMap")
    made = {(thing["kind"], thing["metadata"]["name"]) for thing in things if thing["kind"] in kinds}
    # the Job of the release makes Secrets by a plan
    plans = [
        thing["data"]["plan.json"]
        for thing in things
        if thing["kind"] == "ConfigMap" and "plan.json" in (thing.get("data") or {})
    ]
    made |= {("Secret", secret["name"]) for plan in plans for secret in json.loads(plan)["secrets"]}
    found: dict[tuple[str, str], bool] = {}

    def note(kind: str, name: str, needed: bool) -> None:
        if (kind, name) not in made:
            found[kind, name] = needed or found.get((kind, name), False)

    def walk(node: Any) -> None:
        for each in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
            walk(each)
        if isinstance(node, dict):
            for each in node.get("imagePullSecrets") or []:
                note("Secret", each["name"], False)
            for key, kind, name in NAMES:
                source = node.get(key)
                if isinstance(source, dict) and source.get(name):
                    note(kind, source[name], not source.get("optional"))

    for thing in things:
        if thing["kind"] in POD_MAKERS:
            spec = thing["spec"]
            while "containers" not in spec:
                spec = (spec.get("jobTemplate") or spec["template"])["spec"]
            walk(spec)
    return found


class _Rehearsal:
    """One rehearsal."""

    def __init__(self, chart: str, files: list[str], folder: Path, say: Say, version: str = "") -> None:
        self.chart = [chart, *(["--version", version] if version else [])]
        self.files, self.folder, self.say = files, folder, say
        self.release, self.namespace = platform.release(), platform.namespace()
        self.name = f"{self.release[:22].rstrip('-')}-rehearsal"
        self.seconds: dict[str, float] = {}
        self.parts: list[str] = []
        """Of the new chart."""
        self.things: list[Object] = []
        """What the new chart makes on the copy."""
        self.ours = False
        self.helper = ""

    # --- programs

    def call(
        self, *words: str, stdin: Any = None, stdout: Any = subprocess.PIPE, what: str, seconds: float = PATIENCE
    ) -> str:
        """Run a program; its failure becomes a sentence.

        Raises:
            Error: it fails, or takes too long.
        """
        try:
            done = subprocess.run(
                words, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise Error(
                f"cannot {what}: {words[0]} takes longer than {seconds:.0f} s; nothing of the release was changed"
            ) from None
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-600:]
            raise Error(f"cannot {what}: {said or f'exit code {done.returncode}'}; nothing of the release was changed")
        return done.stdout.decode(errors="replace") if done.stdout else ""

    def helm(self, *words: str, what: str) -> str:
        return self.call("helm", *words, what=what)

    def kubectl(self, *words: str, what: str, **more: Any) -> str:
        return self.call("kubectl", *words, what=what, **more)

    def timed(self, name: str, start: float) -> None:
        self.seconds[name] = time.monotonic() - start
        self.say(f"rehearsal: {name}: {self.seconds[name]:.0f} s")

    # --- steps

    def run(self, objects: int) -> Report:
        """All steps."""
        own = (
            json.loads(
                self.helm("get", "values", self.release, "-n", self.namespace, "-o", "json", what="read the release")
                or "{}"
            )
            or {}
        )
        every = json.loads(
            self.helm(
                "get", "values", self.release, "-n", self.namespace, "--all", "-o", "json", what="read the release"
            )
        )
        listed = json.loads(
            self.helm(
                "list",
                "-n",
                self.namespace,
                *ANY_STATUS,
                "-f",
                f"^{self.release}$",
                "-o",
                "json",
                what="read the release",
            )
        )
        new = self._about()
        (self.folder / "own.json").write_text(json.dumps(own))
        changes = self._changes()
        parts = [part for part in DATABASES if every.get(part, {}).get("enabled")]
        if not parts:
            raise Error(
                f"release {self.release} has no database to copy, as mlflow and pipelines are off: upgrade it without a rehearsal"
            )
        databases = [name for part in parts for name in DATABASES[part]]
        self.things = self._rendered(parts)
        self._namespace()
        start = time.monotonic()
        self._install("stores", [], first=True)
        self.timed("stores of the new chart", start)
        start = time.monotonic()
        size = self._copy(databases, every)
        self.timed("copy of the databases", start)
        before = self._digests(databases)
        digests = self._objects("copy", objects, every)
        start = time.monotonic()
        self.kubectl(
            "-n",
            self.name,
            "delete",
            "pod",
            f"{self.name}-mariadb-0",
            "--wait",
            what="restart the copy of the database",
        )
        self._ready("StatefulSet", f"{self.name}-mariadb")
        self.timed("start of the database on it", start)
        start = time.monotonic()
        try:
            self._install("parts", parts)
        except Error as error:
            raise Error(
                f"the new version does not start on a copy of the data: {self._reason() or error}; nothing of the release was changed"
            ) from None
        self.timed("migration and start of the new version", start)
        for name, seconds in self._migrations():
            self.seconds[name] = seconds
        tables = _compared(before, self._digests(databases))
        after = self._objects("check", objects, every)
        kept = {
            bucket: (len(found), sum(after[bucket].get(key) == digest for key, digest in found.items()))
            for bucket, found in digests.items()
        }
        old = (listed[0]["chart"].rpartition("-")[2]) if listed else "?"
        return Report(self.release, old, new, tables, kept, *changes, self.seconds, size)

    def _about(self) -> str:
        """Version of the new chart; notes its parts."""
        import yaml

        about = yaml.safe_load(self.helm("show", "chart", *self.chart, what=f"read chart {self.chart[0]}"))
        self.parts = [each["name"] for each in about.get("dependencies") or []]
        return str(about["version"])

    def _flags(self) -> list[str]:
        return [word for file in [str(self.folder / "own.json"), *self.files] for word in ("-f", file)]

    def _changes(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """Objects that the upgrade adds, removes and changes, and workloads whose pods it replaces."""
        import yaml

        def things(manifest: str) -> dict[str, Object]:
            loaded = yaml.load_all(manifest, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            return {f"{thing['kind']}/{thing['metadata']['name']}": thing for thing in loaded if thing}

        now = things(self.helm("get", "manifest", self.release, "-n", self.namespace, what="read the release"))
        said = self.helm(
            "upgrade", self.release, *self.chart, "-n", self.namespace, *self._flags(), "--dry-run=server", "-o", "json",
            what="render the upgrade",
        )  # fmt: skip
        then = things(json.loads(said)["manifest"])
        # the label of the chart's version differs everywhere, and Jobs are made anew by every upgrade
        jobs = {name for name in {*now, *then} if name.startswith("Job/")}
        common = now.keys() & then.keys()
        changed = sorted(name for name in common if _plain(now[name]) != _plain(then[name]))
        restarted = [
            name
            for name in changed
            if "template" in (then[name].get("spec") or {}) and _template(now[name]) != _template(then[name])
        ]
        added, removed = sorted(then.keys() - now.keys() - jobs), sorted(now.keys() - then.keys() - jobs)
        return added, removed, changed, restarted

    def _rendered(self, parts: Collection[str]) -> list[Object]:
        """What the new chart makes on the copy."""
        import yaml

        words = ("template", self.name, *self.chart, "-n", self.name, *self._flags(), "-f", self._scratch(parts))
        said = self.helm(*words, what="render the new chart for the copy")
        return [each for each in yaml.load_all(said, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each]

    def _namespace(self) -> None:
        """Make the namespace, without what an interrupted rehearsal left; Secrets and ConfigMaps that pods name go along."""
        found = self.kubectl(
            "get", "namespace", self.name, "--ignore-not-found", "-o", "json", what="look for namespaces"
        )
        if found.strip():
            if json.loads(found)["metadata"].get("labels", {}).get(LABEL) != self.release:
                raise Error(f"namespace {self.name} exists and is not of a rehearsal: remove or rename it")
            self.say("rehearsal: removing what an interrupted rehearsal left")
            self.ours = True
            self.remove()
        live = json.loads(
            self.kubectl("get", "namespace", self.namespace, "-o", "json", what=f"read namespace {self.namespace}")
        )
        labels = {
            name: value
            for name, value in live["metadata"].get("labels", {}).items()
            if name.startswith("pod-security.kubernetes.io/")
        }
        self.ours = True
        self._apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": self.name, "labels": labels | {LABEL: self.release}},
            }
        )
        for (kind, name), needed in sorted(named(self.things).items()):
            # a template with the release's name in it
            own = name.startswith(f"{self.name}-")
            self._copied(kind, self.release + name.removeprefix(self.name) if own else name, name, needed=needed)

    def _copied(self, kind: str, name: str, to: str, *, needed: bool = True) -> None:
        """Copy a Secret or ConfigMap into the namespace, if there is one."""
        found = self.kubectl(
            "-n", self.namespace, "get", kind, name, "--ignore-not-found", "-o", "json", what=f"read {kind} {name}"
        )
        if not found.strip():
            if needed:
                raise Error(
                    f"{kind} {name} is not in namespace {self.namespace}, and pods of the new version wait for it: make it first; "
                    "nothing of the release was changed"
                )
            return
        thing = json.loads(found)
        content = {key: thing[key] for key in ("data", "binaryData", "type") if key in thing}
        metadata = {"name": to, "namespace": self.name}
        self._apply({"apiVersion": "v1", "kind": thing["kind"], "metadata": metadata, **content})

    def _apply(self, thing: Object) -> None:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(json.dumps(thing).encode())
            file.seek(0)
            self.kubectl("apply", "-f", "-", stdin=file, what=f"make {thing['kind']} {thing['metadata']['name']}")

    def _scratch(self, parts: Collection[str]) -> str:
        """The file with the values of the copy."""
        file = self.folder / "scratch.json"
        file.write_text(json.dumps(scratch(self.parts, parts)))
        return str(file)

    def _install(self, what: str, parts: Collection[str], *, first: bool = False) -> None:
        """Install or upgrade the release of the rehearsal."""
        verb = ["install"] if first else ["upgrade", "--reset-values"]
        self.helm(
            *verb, self.name, *self.chart, "-n", self.name, *(["--skip-crds"] if first else []), *self._flags(), "-f", self._scratch(parts), "--wait",
            "--timeout", f"{PATIENCE - 60}s", what=f"install the {what} of the new chart in namespace {self.name}",
        )  # fmt: skip

    def _source(self, every: Object) -> list[str]:
        """Words of kubectl that run a command where the databases can be reached: MariaDB's own pod, or one for a server elsewhere."""
        if every["mariadb"]["enabled"]:
            return ["-n", self.namespace, "exec", "-i", f"{self.release}-mariadb-0", "-c", "mariadb", "--"]
        if not self.helper:
            # the release has no values of a part that is off
            images = {
                each["name"]: each["image"]
                for thing in self.things
                if (thing["kind"], thing["metadata"]["name"]) == ("StatefulSet", f"{self.name}-mariadb")
                for each in thing["spec"]["template"]["spec"]["containers"]
            }
            user = {} if every["global"].get("securityContext") == "platform" else {"runAsUser": 999, "runAsGroup": 999}
            pod = {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "namespace": self.namespace, "labels": {LABEL: self.release}},
                "spec": {
                    "restartPolicy": "Never", "automountServiceAccountToken": False, "activeDeadlineSeconds": 4 * PATIENCE,
                    "imagePullSecrets": every["global"].get("imagePullSecrets") or [],
                    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **user},
                    "containers": [{
                        "name": "mariadb", "image": images["mariadb"], "command": ["sleep", "86400"],
                        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            }  # fmt: skip
            self.helper = self.name
            self._apply(pod)
            self.kubectl(
                "-n",
                self.namespace,
                "wait",
                f"pod/{self.name}",
                "--for=condition=Ready",
                "--timeout=180s",
                what="start a pod that reads the databases",
            )
        return ["-n", self.namespace, "exec", "-i", self.helper, "--"]

    def _copy(self, databases: list[str], every: Object) -> int:
        """Dump the databases, and load them into the copy; size of the dumps."""
        total = 0
        into = ["-n", self.name, "exec", "-i", f"{self.name}-mariadb-0", "-c", "mariadb", "--"]
        for name in databases:
            secret = self._secret(self._secret_of(name, every))
            source, file = self._source(every), self.folder / f"{name}.sql.gz"
            # the password comes on standard input: a command line can be read by others
            if every["mariadb"]["enabled"]:
                dump = f"mariadb-dump --defaults-file=/etc/mysql/my.cnf {DUMP} '{secret['database']}'"
            else:
                shared = every["global"]["database"]
                host = (
                    shared["host"]
                    .replace("{{ .Release.Name }}", self.release)
                    .replace("{{ .Release.Namespace }}", self.namespace)
                )
                tls = "--ssl" if every.get("mlflow", {}).get("database", {}).get("tls") else "--skip-ssl"
                dump = f"read -r MYSQL_PWD; export MYSQL_PWD; mariadb-dump --no-defaults -h '{host}' -P {shared['port']} -u '{secret['username']}' {tls} {DUMP} '{secret['database']}'"
            password = self.folder / "password"
            password.touch(0o600)
            password.write_text(secret["password"] + "\n")
            with password.open("rb") as given, file.open("wb") as out:
                self.kubectl(
                    *source,
                    "bash",
                    "-c",
                    f"set -o pipefail; {dump} | gzip -1",
                    stdin=given,
                    stdout=out,
                    what=f"dump database {name}",
                )
            password.unlink()
            with gzip.open(file) as dumped:
                last = b""
                for line in dumped:
                    last = line.strip() or last
            if not last.startswith(END.encode()):
                raise Error(f"the dump of database {name} has no end: the connection was cut; start again")
            with file.open("rb") as dumped:
                load = f"gzip -dc | mariadb --defaults-file=/etc/mysql/my.cnf --max-allowed-packet=1G {name}"
                said = self.kubectl(
                    *into, "bash", "-c", f"set -o pipefail; {load} && echo loaded", stdin=dumped, what=f"load the copy of database {name}"
                )  # fmt: skip
                # kubectl may end with 0 when its connection is cut
                if said.strip() != "loaded":
                    raise Error(f"the copy of database {name} was cut: the connection was lost; start again")
            total += file.stat().st_size
            file.unlink()
        return total

    def _secret_of(self, database: str, every: Object) -> str:
        """Name of the Secret with a database's account."""
        paths = {
            "mlflow": ("mlflow", "database"),
            "mlpipeline": ("pipelines", "api", "database"),
            "metadb": ("pipelines", "metadata", "database"),
        }
        node: Any = every
        for key in (*paths[database], "existingSecret"):
            node = node[key]
        return node.replace("{{ .Release.Name }}", self.release)

    def _secret(self, name: str) -> dict[str, str]:
        import base64

        found = json.loads(
            self.kubectl("-n", self.namespace, "get", "secret", name, "-o", "json", what=f"read Secret {name}")
        )
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def _sql(self, statement: str) -> list[list[str]]:
        """Ask the copy."""
        file = self.folder / "statement.sql"
        file.write_text(statement)
        with file.open("rb") as given:
            said = self.kubectl(
                "-n", self.name, "exec", "-i", f"{self.name}-mariadb-0", "-c", "mariadb", "--", "mariadb", "--defaults-file=/etc/mysql/my.cnf",
                "--batch", "--skip-column-names", "--default-character-set=utf8mb4", stdin=given, what="compare the copy of the databases",
            )  # fmt: skip
        return [line.split("\t") for line in said.splitlines()]

    def _digests(self, databases: list[str]) -> dict[str, tuple[int, dict[str, str]]]:
        """Rows, and a digest of each column, of every table: independent of the order of rows and columns."""
        inside = ", ".join(f"'{name}'" for name in databases)
        columns: dict[str, list[tuple[str, bool]]] = {}
        for schema, table, column, key in self._sql(
            "SELECT c.table_schema, c.table_name, c.column_name, c.column_key = 'PRI' FROM information_schema.columns c JOIN information_schema.tables t "
            "USING (table_schema, table_name) WHERE t.table_type = 'BASE TABLE' AND c.table_schema IN ("
            + inside
            + ") ORDER BY c.ordinal_position"
        ):
            columns.setdefault(f"{schema}.{table}", []).append((column, key == "1"))
        if not columns:
            return {}
        statements = []
        for name, own in columns.items():
            schema, _, table = name.partition(".")
            keys = [column for column, key in own if key]
            sums = [
                f"IFNULL(BIT_XOR(CAST(CONV(LEFT(MD5(CONCAT_WS(0x00, {', '.join(_text(each) for each in [*keys, column])})), 15), 16, 10) AS UNSIGNED)), 0)"
                for column, _ in own
            ]
            statements.append(f"SELECT '{name}', COUNT(*), {', '.join(sums)} FROM `{schema}`.`{table}`;")
        rows = self._sql("\n".join(statements))
        return {
            name: (int(count), {column: digest for (column, _), digest in zip(columns[name], digests, strict=True)})
            for name, count, *digests in rows
        }

    def _objects(self, do: str, count: int, every: Object) -> dict[str, dict[str, str]]:
        """Copy a sample of the objects into the copy's store, or read it again: bucket, key, digest."""
        shared = every["global"]
        endpoint = (
            shared["s3"]["endpoint"]
            .replace("{{ .Release.Name }}", self.release)
            .replace("{{ .Release.Namespace }}", self.namespace)
        )
        keys = {}
        if every["mlflow"]["enabled"]:
            keys = {
                "mlflow": (every["mlflow"]["s3"]["existingSecret"], "mlflow"),
                "datasets": (every["runner"]["s3Secret"], "pipelines"),
            }
        plan: Object = {"do": do, "count": count, "from": endpoint, "region": shared["s3"]["region"], "buckets": {}}
        plan["style"] = shared["s3"].get("addressingStyle", "path")  # older releases have none
        plan["to"] = f"http://{self.name}-minio.{self.name}.svc:9000"
        env: list[Object] = []
        for role, (name, consumer) in keys.items():
            secret = name.replace("{{ .Release.Name }}", self.release)
            if not secret:
                continue  # without a key, the identity of the release's own account would be needed
            if do == "copy":
                self._copied("secret", secret, f"from-{role}")
            plan["buckets"][role] = shared["s3"]["buckets"][role]
            for prefix, held in (("FROM", f"from-{role}"), ("TO", f"{self.name}-s3-{consumer}")):
                env += [
                    {
                        "name": f"{prefix}_{role.upper()}_{short}",
                        "valueFrom": {"secretKeyRef": {"name": held, "key": key}},
                    }
                    for short, key in (("KEY", "AWS_ACCESS_KEY_ID"), ("SECRET", "AWS_SECRET_ACCESS_KEY"))
                ]
        if not plan["buckets"] or not count:
            return {}
        image = shared["runtime"]
        registry = shared.get("imageRegistry") or image["registry"]
        user = {} if shared.get("securityContext") == "platform" else {"runAsUser": 1000, "runAsGroup": 1000}
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"objects-{do}", "namespace": self.name},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": False, "imagePullSecrets": shared.get("imagePullSecrets") or [],
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **user},
                "containers": [{
                    "name": "objects", "image": f"{registry}/{image['repository']}:{image['tag']}",
                    "command": ["python", "-B", "-c", COPY.read_text()],
                    "env": [{"name": "PLAN", "value": json.dumps(plan)}, {"name": "HOME", "value": "/tmp"}, *env],
                    "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            },
        }  # fmt: skip
        self._apply(pod)
        end = time.monotonic() + PATIENCE
        while True:
            found = self.kubectl(
                "-n",
                self.name,
                "get",
                "pod",
                f"objects-{do}",
                "-o",
                "jsonpath={.status.phase}",
                what="watch the copy of objects",
            )
            if found in ("Succeeded", "Failed"):
                break
            if time.monotonic() > end:
                raise Error(f"the copy of objects takes longer than {PATIENCE} s: choose fewer with --objects")
            time.sleep(1)
        said = (
            self.kubectl("-n", self.name, "logs", f"objects-{do}", what="read the copy of objects").strip().splitlines()
        )
        if found == "Failed":
            raise Error(f"objects cannot be copied: {said[-1] if said else 'no log'}; --objects 0 leaves them out")
        return json.loads(said[-1])

    def _ready(self, kind: str, name: str) -> None:
        self.kubectl(
            "-n",
            self.name,
            "rollout",
            "status",
            f"{kind.lower()}/{name}",
            f"--timeout={PATIENCE - 60}s",
            what=f"start {name} on the copy",
        )

    def _migrations(self) -> Iterator[tuple[str, float]]:
        """How long MLflow's migration took, by the state of its container."""
        from datetime import datetime

        pods = json.loads(self.kubectl("-n", self.name, "get", "pods", "-o", "json", what="read the copy's pods"))[
            "items"
        ]
        for pod in pods:
            for each in pod["status"].get("initContainerStatuses") or []:
                ended = each["state"].get("terminated")
                if each["name"] == "migrate" and ended:
                    begin, end = (datetime.fromisoformat(ended[key]) for key in ("startedAt", "finishedAt"))
                    yield "of that MLflow's migration", (end - begin).total_seconds()

    def _reason(self) -> str:
        """Last words of the container of the copy that fails."""
        try:
            pods = json.loads(self.kubectl("-n", self.name, "get", "pods", "-o", "json", what="read the copy's pods"))[
                "items"
            ]
            for pod in pods:
                status = pod["status"]
                for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
                    ended = each["state"].get("terminated") or each.get("lastState", {}).get("terminated") or {}
                    waiting = each["state"].get("waiting", {})
                    if ended.get("exitCode"):
                        previous = [] if each["state"].get("terminated") else ["--previous"]
                        name = pod["metadata"]["name"]
                        log = self.kubectl(
                            "-n", self.name, "logs", name, "-c", each["name"], "--tail=3", *previous, what="read a log"
                        )
                        return f"container {each['name']} of {name} says: {' '.join(log.split())[-400:]}"
                    if waiting.get("message"):
                        return f"{pod['metadata']['name']} waits: {waiting['message']}"
        except (Error, KeyError, ValueError):
            pass
        return ""

    def remove(self) -> None:
        """Remove the namespace and all that is in it; wait for its end."""
        if self.helper:
            subprocess.run(
                ["kubectl", "-n", self.namespace, "delete", "pod", self.helper, "--ignore-not-found", "--wait=false"],
                capture_output=True,
                check=False,
            )
            self.helper = ""
        if not self.ours:
            return
        start = time.monotonic()
        # objects outside of the namespace go by helm alone
        subprocess.run(
            ["helm", "uninstall", self.name, "-n", self.name, "--ignore-not-found"],
            capture_output=True,
            timeout=300,
            check=False,
        )
        # a namespace with pods stays for half of their termination grace period, which is minutes
        subprocess.run(
            ["kubectl", "delete", "pods", "--all", "-n", self.name, "--grace-period=1", "--timeout=60s"],
            capture_output=True,
            check=False,
        )
        done = subprocess.run(
            ["kubectl", "delete", "namespace", self.name, "--ignore-not-found", "--timeout=180s"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Error(
                f"namespace {self.name} does not go: {' '.join(done.stderr.split())[:300]}; remove it with kubectl delete namespace {self.name}"
            )
        self.ours = False
        self.seconds["removal"] = time.monotonic() - start


def _text(column: str) -> str:
    return f"IFNULL(HEX(CAST(`{column}` AS BINARY)), '-')"


def _plain(thing: Object) -> str:
    return json.dumps(_without_version(thing), sort_keys=True, default=str)


def _template(thing: Object) -> str:
    return _plain(thing["spec"].get("template") or {})


def _without_version(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_version(value) for name, value in node.items() if name not in ("helm.sh/chart",)}
    return [_without_version(each) for each in node] if isinstance(node, list) else node


def _compared(
    before: dict[str, tuple[int, dict[str, str]]], after: dict[str, tuple[int, dict[str, str]]]
) -> list[Table]:
    """Tables before and after a migration."""
    tables = []
    for name in sorted({*before, *after}):
        rows, old = before.get(name, (None, {}))
        now, new = after.get(name, (None, {}))
        changed = [f"+ {column}" for column in new if rows is not None and column not in old]
        # a column without content loses nothing; every digest of an empty table is 0
        changed += [f"- {column}" for column in old if now is not None and column not in new and rows]
        changed += [f"~ {column}" for column in new if column in old and new[column] != old[column]]
        tables.append(Table(name, rows, now, changed))
    return tables
