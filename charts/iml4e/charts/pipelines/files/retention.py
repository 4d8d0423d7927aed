"""Delete old runs of Kubeflow Pipelines, and what it leaves behind of runs that are deleted: artifacts and lineage.

Runs go by its public API, which takes the Workflow, its pods and the entries of the cache with them. Then their folder in the
bucket goes, then their rows in ML Metadata, whose API cannot delete. In this order: nothing is reused whose files are gone,
and what an interrupted pass leaves is found by the next one, as it finds what users deleted on the page. What a run that
stays has from one that goes (a cached step's outputs) stays until that one goes too.
"""

import os
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import URL, Connection, bindparam, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
PAGE = 50
"""Runs of one answer: the API server reads half a megabyte for each."""
SCHEMA = 10
"""Version of ML Metadata's tables that the statements below are written for."""
NOT_FOUND = 5
"""What the API server says where it knows no such thing."""
GIVE_UP = 20
"""Failures after which something is wrong with more than one run."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
Run = dict[str, Any]
TROUBLE = (BotoCoreError, ClientError, OSError, SQLAlchemyError, requests.RequestException)


def say(sentence: str) -> None:
    """Tell the log of the pod."""
    print(f"retention: {sentence}", flush=True)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.{0 if unit == 'B' else 1}f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def reason(error: Exception) -> str:
    """What an exception says, in a line."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    if "certificate verify failed" in said:
        said += " (global.caCertificate names the authorities that are trusted)"
    if "GET_LOCK" in said:
        said += (
            " (clusters such as Percona XtraDB Cluster allow no locks: set pxc_strict_mode=PERMISSIVE there and let the release use one "
            "node, or name another server in global.database)"
        )
    return said


def age(setting: str) -> float | None:
    """Seconds of `90d`; None where nothing is too old."""
    return int(setting[:-1]) * UNITS[setting[-1]] if setting else None


@dataclass
class Pipelines:
    """The API server."""

    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method: str, path: str, **parameters: Any) -> Run | None:
        """Call the API; None where it knows no such thing. An error carries the server's own words."""
        answer = self.session.request(method, f"{self.url}/apis/v2beta1/{path}", params=parameters, timeout=60)
        try:
            body = answer.json()
        except ValueError:
            body = {}
        # not any 404: from another server all runs would seem to be gone
        if answer.status_code == HTTPStatus.NOT_FOUND and body.get("code") == NOT_FOUND:
            return None
        if not answer.ok:
            raise requests.HTTPError(f"{method} {answer.url}: {answer.status_code} {answer.text[:300]}")
        return body

    def run(self, run: str) -> Run | None:
        """A run; None if there is none."""
        return self.ask("GET", f"runs/{quote(run)}")

    def runs(self) -> Iterator[Run]:
        """All runs, the oldest first."""
        token = ""
        while True:
            page = self.ask("GET", "runs", page_size=PAGE, page_token=token, sort_by="created_at asc") or {}
            yield from page.get("runs", [])
            if not (token := page.get("next_page_token", "")):
                return

    def delete(self, run: str) -> None:
        """Delete a run; one that is gone already is fine."""
        self.ask("DELETE", f"runs/{quote(run)}")


def with_md5(request: Any, **_: Any) -> None:
    """Give a request that deletes objects its Content-MD5: older stores ask for it, and boto3 sends a CRC32 alone."""
    request.headers["Content-MD5"] = b64encode(md5(request.body, usedforsecurity=False).digest()).decode()


@dataclass
class Bucket:
    """The bucket that runs leave their artifacts in."""

    name: str
    dry_run: bool
    s3: Any = field(init=False)

    def __post_init__(self) -> None:
        """Connect."""
        style = os.environ.get("S3_ADDRESSING_STYLE", "auto")
        self.s3 = boto3.client("s3", config=Config(s3={"addressing_style": style}))
        self.s3.meta.events.register("before-sign.s3.DeleteObjects", with_md5)

    def folder(self, root: str, run: str) -> str | None:
        """Prefix of a run's folder, by its pipeline root; None if that is another bucket, or not a folder of this run."""
        parts = urlsplit(root)
        key = parts.path.strip("/")
        here = parts.scheme in ("minio", "s3") and parts.netloc == self.name
        return f"{key}/" if here and key.rsplit("/", 1)[-1] == run else None

    def clear(self, prefix: str) -> tuple[int, int]:
        """Delete all objects of a folder, or only count them: how many, and their bytes."""
        count = total = 0
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            objects = page.get("Contents", [])
            count += len(objects)
            total += sum(thing["Size"] for thing in objects)
            if objects and not self.dry_run:
                keys = [{"Key": thing["Key"]} for thing in objects]
                errors = self.s3.delete_objects(Bucket=self.name, Delete={"Objects": keys, "Quiet": True}).get("Errors")
                if errors:
                    raise OSError(f"{self.name}/{errors[0]['Key']}: {errors[0].get('Message', errors[0].get('Code'))}")
        return count, total


@dataclass
class Lineage:
    """ML Metadata's tables."""

    database: Connection

    def do(self, sql: str, **values: Any) -> Any:
        """Run a statement; a list among the values stands for `IN`."""
        lists = [bindparam(name, expanding=True) for name, value in values.items() if isinstance(value, list)]
        return self.database.execute(text(sql).bindparams(*lists), values)

    def ids(self, sql: str, **values: Any) -> list[int]:
        """Ask for numbers."""
        return list(self.do(sql, **values).scalars())

    def contexts(self, before: float) -> list[tuple[int, str, str]]:
        """Number, run and pipeline root of each run that lineage knows and that began before a time, the newest first."""
        rows = self.do(
            "SELECT c.id, c.name, COALESCE(p.string_value, '') FROM Context c "
            "JOIN Type t ON t.id = c.type_id AND t.name = 'system.PipelineRun' "
            "LEFT JOIN ContextProperty p ON p.context_id = c.id AND p.name = 'pipeline_root' "
            "WHERE c.create_time_since_epoch < :before ORDER BY c.id DESC",
            before=int(before * 1000),
        )
        return [tuple(row) for row in rows]

    def of_run(self, context: int) -> tuple[list[int], list[int]]:
        """Executions and artifacts of a run."""
        executions = self.ids("SELECT execution_id FROM Association WHERE context_id = :run", run=context)
        return executions, self.ids("SELECT artifact_id FROM Attribution WHERE context_id = :run", run=context)

    def users(self, folder: str) -> set[int]:
        """Executions that made or took what lies in a folder: those of its run, of runs that reuse it, of importers."""
        pattern = folder.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        sql = "SELECT e.execution_id FROM Event e JOIN Artifact a ON a.id = e.artifact_id WHERE a.uri LIKE :pattern"
        return set(self.ids(sql, pattern=pattern))

    def run_of(self, execution: int) -> str:
        """The run that an execution belongs to."""
        sql = (
            "SELECT c.name FROM Association a JOIN Context c ON c.id = a.context_id "
            "JOIN Type t ON t.id = c.type_id AND t.name = 'system.PipelineRun' WHERE a.execution_id = :execution"
        )
        return self.do(sql, execution=execution).scalar() or "unknown"

    def forget(self, context: int, executions: list[int], artifacts: list[int]) -> None:
        """Delete a run's rows, all or none. Those of its pipeline, and artifacts that others have to do with, stay."""
        kept = self.ids(
            "SELECT artifact_id FROM Event WHERE artifact_id IN :artifacts AND execution_id NOT IN :executions",
            artifacts=artifacts, executions=executions,
        )  # fmt: skip
        parents = self.ids("SELECT parent_context_id FROM ParentContext WHERE context_id = :run", run=context)
        values = {
            "executions": executions, "artifacts": sorted({*artifacts} - {*kept}),
            "contexts": [context, *parents], "run": context,
        }  # fmt: skip
        for sql in (
            "DELETE p FROM EventPath p JOIN Event e ON e.id = p.event_id WHERE e.execution_id IN :executions",
            "DELETE FROM Event WHERE execution_id IN :executions",
            "DELETE FROM ExecutionProperty WHERE execution_id IN :executions",
            # by context too: there is no index on the execution alone
            "DELETE FROM Association WHERE context_id IN :contexts AND execution_id IN :executions",
            "DELETE FROM Execution WHERE id IN :executions",
            "DELETE FROM ArtifactProperty WHERE artifact_id IN :artifacts",
            "DELETE FROM Attribution WHERE context_id IN :contexts AND artifact_id IN :artifacts",
            "DELETE FROM Artifact WHERE id IN :artifacts",
            "DELETE FROM Attribution WHERE context_id = :run",
            "DELETE FROM ContextProperty WHERE context_id = :run",
            "DELETE FROM ParentContext WHERE context_id = :run",
            "DELETE FROM Context WHERE id = :run",
        ):
            self.do(sql, **{name: value for name, value in values.items() if f":{name}" in sql})


@dataclass
class Retention:
    """One pass."""

    pipelines: Pipelines
    lineage: Lineage
    bucket: Bucket
    now: float
    finished: float | None
    """Seconds after its end at which a run goes; None: never."""
    archived: float | None
    """The same for archived runs, and for what deleted runs left; None: never."""
    stays: set[str] = field(default_factory=set)
    """Runs that are there and stay."""
    forgotten: set[int] = field(default_factory=set)
    """Executions whose rows were deleted, or would have been."""
    told: Counter[str] = field(default_factory=Counter)

    @property
    def verb(self) -> str:
        """What happens."""
        return "would be deleted" if self.bucket.dry_run else "deleted"

    @property
    def oldest(self) -> float:
        """Nothing that began later than this can be due."""
        return self.now - min(age for age in (self.finished, self.archived) if age is not None)

    def due(self, run: Run) -> str:
        """Why a run is to go; empty where it stays."""
        is_archived = run.get("storage_state") == "ARCHIVED"
        limits = [age for age in (self.finished, self.archived if is_archived else None) if age is not None]
        ended = began(run, "finished_at") or began(run, "created_at")
        if run.get("state") not in ENDED or not limits or ended > self.now - min(limits):
            return ""
        when = datetime.fromtimestamp(ended, UTC).strftime("%Y-%m-%d %H:%M")
        return f"{run['state'].lower()}{', archived' if is_archived else ''}, ended {when}"

    def runs(self) -> None:
        """Delete the runs that are due."""
        due = {}
        for run in self.pipelines.runs():
            if began(run, "created_at") > self.oldest:
                break  # those that follow began later
            self.stays.add(run["run_id"])
            self.told["running"] += run.get("state") not in ENDED
            if why := self.due(run):
                due[run["run_id"]] = f"{run['display_name']}; {why}"
        for run, what in due.items():
            self.attempt(f"run {run}", lambda run=run, what=what: self.delete(run, what))

    def delete(self, run: str, what: str) -> None:
        """Delete a run, if that is still right: somebody may have retried or restored it meanwhile."""
        if not self.bucket.dry_run:
            now = self.pipelines.run(run)
            if now and not self.due(now):
                return
            self.pipelines.delete(run)
        say(f"run {run} ({what}) {self.verb}")
        self.told["run"] += 1
        self.stays.discard(run)

    def leavings(self) -> None:
        """Delete artifacts and lineage of runs that are gone: those from above, and those that users deleted."""
        for context, run, root in self.lineage.contexts(self.oldest):
            if run not in self.stays:
                self.attempt(f"what run {run} left", lambda c=context, r=run, p=root: self.clear(c, r, p))

    def clear(self, context: int, run: str, root: str) -> None:
        """Delete what a run left."""
        if not self.bucket.dry_run and self.pipelines.run(run):
            return
        executions, artifacts = self.lineage.of_run(context)
        prefix = self.bucket.folder(root, run)
        if prefix and (others := self.lineage.users(f"{root.rstrip('/')}/") - {*executions} - self.forgotten):
            say(f"what run {run} left stays: run {self.lineage.run_of(min(others))} uses it")
            self.told["used"] += 1
            return
        objects, total = self.bucket.clear(prefix) if prefix else (0, 0)
        if root and not prefix:
            say(f"what run {run} left in {root} stays: that is no folder of its own in bucket {self.bucket.name}")
        if not self.bucket.dry_run:
            self.lineage.forget(context, executions, artifacts)
        self.forgotten.update(executions)
        say(
            f"what run {run} left {self.verb}: {objects} objects, {size(total)}, "
            f"lineage of {len(executions)} executions"
        )
        self.told.update({"left": 1, "object": objects, "byte": total, "execution": len(executions)})

    def attempt(self, what: str, act: Callable[[], None]) -> None:
        """Do something that may fail for one run and work for the next."""
        try:
            act()
            self.lineage.database.commit()
        except TROUBLE as error:
            self.lineage.database.rollback()
            say(f"{what} cannot be deleted: {reason(error)}")
            self.told["failure"] += 1
            # with the connection the lock went
            lost = getattr(error, "connection_invalidated", False)
            if lost or self.told["failure"] >= GIVE_UP:
                sys.exit(f"retention: given up, the next pass goes on. {self.sum()}")

    def sum(self) -> str:
        """What was deleted, in a line."""
        told = self.told
        return (
            f"{told['run']} runs {self.verb}, and what {told['left']} runs left: {told['object']} objects, "
            f"{size(told['byte'])}, lineage of {told['execution']} executions. "
            f"Left: {told['running']} old runs that have not ended, artifacts of {told['used']} that other runs use"
        )


def began(run: Run, key: str) -> float:
    """A time of a run in seconds since 1970; 0 where there is none."""
    return datetime.fromisoformat(run[key]).timestamp() if run.get(key) else 0


def connect() -> Connection:
    """Connect to ML Metadata's database and take the lock, which goes with the connection."""
    address = URL.create(
        "mysql+pymysql", os.environ["DATABASE_USER"], os.environ["DATABASE_PASSWORD"], os.environ["DATABASE_HOST"],
        int(os.environ["DATABASE_PORT"]), os.environ["DATABASE_NAME"], {"charset": "utf8mb4"},
    )  # fmt: skip
    engine = create_engine(address, poolclass=NullPool, connect_args={"connect_timeout": 10})
    try:
        database = engine.connect()
        free = database.execute(text("SELECT GET_LOCK(CONCAT(DATABASE(), '.retention'), 0)")).scalar()
        schema = database.execute(text("SELECT schema_version FROM MLMDEnv")).scalar()
        database.commit()
    except SQLAlchemyError as error:
        where = address.render_as_string(hide_password=True)
        sys.exit(f"retention: {where} cannot be read: {reason(error)}. Nothing was deleted.")
    if free != 1:
        sys.exit("retention: another one is at work. Nothing was deleted; wait for its end.")
    if schema != SCHEMA:
        sys.exit(
            f"retention: ML Metadata's tables are of version {schema}, and this is for {SCHEMA}. Nothing was deleted."
        )
    return database


def main() -> None:
    """Make one pass."""
    started = time.monotonic()
    dry_run = os.environ["DRY_RUN"] != "false"
    finished, archived = os.environ["OLDER_THAN"], os.environ["ARCHIVED_OLDER_THAN"]
    if not finished and not archived:
        sys.exit(
            "retention: neither olderThan nor archivedOlderThan is set, so nothing is ever too old: set one of them."
        )
    said = (("runs that ended more than {} ago", finished), ("archived or deleted ones more than {} ago", archived))
    what = ", ".join(sentence.format(limit) for sentence, limit in said if limit)
    say(f"{'dry run, nothing is deleted: ' if dry_run else ''}{what}")
    database = connect()
    with database:
        pass_ = Retention(
            Pipelines(os.environ["PIPELINES_URL"]), Lineage(database), Bucket(os.environ["S3_BUCKET"], dry_run),
            time.time(), age(finished), age(archived),
        )  # fmt: skip
        try:
            pass_.runs()
            pass_.leavings()
        except TROUBLE as error:
            sys.exit(f"retention: {reason(error)}. Ended early, the next pass goes on: {pass_.sum()}")
    say(f"{pass_.sum()}; {time.monotonic() - started:.1f} s")
    if pass_.told["failure"]:
        sys.exit(f"retention: {pass_.told['failure']} failures, reasons above. The next pass tries again.")


if __name__ == "__main__":
    main()
