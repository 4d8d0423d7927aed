"""Delete for good what users deleted in MLflow long enough ago: runs, models and experiments, with their objects in S3.

It does what `mlflow gc` does, by the same functions of MLflow's store. The command itself cannot be told to leave something
out: it deletes files that a registered model version is served from, ends at the first run that it cannot delete, and loses
the files of the models and traces of an experiment. What it deleted is deleted, so it may be ended and started again at any
time; objects go before the row that names them.
"""

import os
import re
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any
from urllib.parse import urlsplit

import backend
import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

DELETED_VERSION = "Deleted_Internal"
"""Stage that a model version has when a user deleted it: MLflow keeps its row."""
GIVE_UP = 20
"""Failures after which something is wrong with more than one run."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def say(sentence: str) -> None:
    """Tell the log of the pod."""
    print(f"gc: {sentence}", flush=True)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.{0 if unit == 'B' else 1}f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def why(error: Exception) -> str:
    """What an exception says, in a line."""
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    if "certificate verify failed" in reason:
        reason += " (global.caCertificate names the authorities that are trusted)"
    if "GET_LOCK" in reason:
        reason += (
            " (clusters such as Percona XtraDB Cluster allow no locks: set pxc_strict_mode=PERMISSIVE there and let the release use one "
            "node, or name another server in global.database)"
        )
    return reason


def with_md5(request: Any, **_: Any) -> None:
    """Give a request that deletes objects its Content-MD5: older stores ask for it, and boto3 sends a CRC32 alone."""
    request.headers["Content-MD5"] = b64encode(md5(request.body, usedforsecurity=False).digest()).decode()


@dataclass
class Bucket:
    """MLflow's artifacts in the bucket."""

    name: str
    dry_run: bool
    cleared: set[str] = field(default_factory=set)
    """Folders that were cleared: a dry run counts nothing twice."""
    s3: Any = field(init=False)

    def __post_init__(self) -> None:
        """Connect as MLflow's server does."""
        self.s3 = boto3.client(
            "s3",
            endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
            config=Config(s3={"addressing_style": os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")}),
        )
        self.s3.meta.events.register("before-sign.s3.DeleteObjects", with_md5)

    def prefix(self, uri: str) -> str | None:
        """The folder in the bucket that an address of MLflow means, with a slash at the end; None if it is elsewhere."""
        parts = urlsplit(uri)
        here = parts.scheme == "mlflow-artifacts" or (parts.scheme, parts.netloc) == ("s3", self.name)
        folder = parts.path.strip("/")
        return f"{folder}/" if here and folder else None

    def clear(self, prefix: str) -> tuple[int, int]:
        """Delete all objects of a folder, or only count them: how many, and their bytes."""
        count = total = 0
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            objects = [thing for thing in page.get("Contents", []) if not self.is_cleared(thing["Key"])]
            count += len(objects)
            total += sum(thing["Size"] for thing in objects)
            if objects and not self.dry_run:
                keys = [{"Key": thing["Key"]} for thing in objects]
                errors = self.s3.delete_objects(Bucket=self.name, Delete={"Objects": keys, "Quiet": True}).get("Errors")
                if errors:
                    raise OSError(f"{self.name}/{errors[0]['Key']}: {errors[0].get('Message', errors[0].get('Code'))}")
        self.cleared.add(prefix)
        return count, total

    def is_cleared(self, key: str) -> bool:
        """Whether an object is in a folder that was cleared."""
        return any(key[: end.end()] in self.cleared for end in re.finditer("/", key))


@dataclass
class Collector:
    """One pass over what users deleted."""

    database: Connection
    store: SqlAlchemyStore
    bucket: Bucket
    before: int
    """Time in ms since 1970: what was deleted after it stays."""
    told: Counter[str] = field(default_factory=Counter)
    failures: int = 0

    def rows(self, sql: str, **values: Any) -> list[Any]:
        """Ask the database."""
        return list(self.database.execute(text(sql), values))

    def versions(self) -> Iterator[tuple[str, str | None, list[str]]]:
        """Each registered model version: its name, its run, and the addresses of its files."""
        live = "SELECT name, version, run_id, source, storage_location FROM model_versions WHERE current_stage <> :gone"
        for name, version, run, *addresses in self.rows(live, gone=DELETED_VERSION):
            yield f"{name}/{version}", run, [address for address in addresses if address]

    def collect(self) -> None:
        """Runs, then models, then the experiments that have nothing left to keep."""
        by_run: dict[str, str] = {}
        by_folder: dict[str, str] = {}
        by_model: dict[str, str] = {}
        for version, run, addresses in self.versions():
            by_run |= {run: version} if run else {}
            for address in addresses:
                if match := re.fullmatch(r"models:/(m-\w+)(?:/.*)?", address):
                    by_model[match[1]] = version
                elif folder := self.bucket.prefix(address):
                    by_folder[folder] = version

        def used(prefix: str | None) -> str | None:
            """The version that has files in a folder, or whose files the folder is a part of."""
            overlap = (v for f, v in by_folder.items() if prefix and (f.startswith(prefix) or prefix.startswith(f)))
            return next(overlap, None)

        kept: dict[int, str] = {}
        deleted = "lifecycle_stage = 'deleted'"
        for run, experiment, uri in self.rows(
            f"SELECT run_uuid, experiment_id, artifact_uri FROM runs WHERE {deleted} AND deleted_time <= :before",
            before=self.before,
        ):
            if version := by_run.get(run) or used(self.bucket.prefix(uri)):
                kept[experiment] = self.leave(f"run {run}", version)
            elif not self.delete("run", run, [uri], lambda run=run: self.store._hard_delete_run(run)):
                kept[experiment] = f"run {run} is left"
        for model, experiment, uri in self.rows(
            f"SELECT model_id, experiment_id, artifact_location FROM logged_models "
            f"WHERE {deleted} AND last_updated_timestamp_ms <= :before",
            before=self.before,
        ):
            if version := by_model.get(model) or used(self.bucket.prefix(uri)):
                kept[experiment] = self.leave(f"model {model}", version)
            elif not self.delete(
                "model", model, [uri], lambda model=model: self.store._hard_delete_logged_model(model)
            ):
                kept[experiment] = f"model {model} is left"
        self.experiments(kept, by_model, used)

    def experiments(
        self, kept: dict[int, str], by_model: dict[str, str], used: Callable[[str | None], str | None]
    ) -> None:
        """Delete experiments; what is left of one is what its models and traces had."""
        locations = {
            number: self.bucket.prefix(uri or "")
            for number, uri in self.rows("SELECT experiment_id, artifact_location FROM experiments")
        }
        for number, name, uri in self.rows(
            "SELECT experiment_id, name, artifact_location FROM experiments "
            "WHERE lifecycle_stage = 'deleted' AND last_update_time <= :before",
            before=self.before,
        ):
            what = f"experiment {number} ({name})"
            prefix = locations[number]
            models = self.rows("SELECT model_id FROM logged_models WHERE experiment_id = :number", number=number)
            young = self.rows(
                "SELECT count(*) FROM runs WHERE experiment_id = :number AND NOT "
                "(lifecycle_stage = 'deleted' AND deleted_time <= :before)",
                number=number, before=self.before,
            )[0][0]  # fmt: skip
            version = next((by_model[model] for (model,) in models if model in by_model), None) or used(prefix)
            if number in kept:
                say(f"{what} stays: {kept[number]}")
                self.told["left"] += 1
            elif version:
                self.leave(what, version)
            elif young:
                say(f"{what} stays: {young} of its runs were deleted later")
                self.told["left"] += 1
            else:
                shared = [n for n, p in locations.items() if n != number and p and prefix and overlap(p, prefix)]
                if shared:
                    say(f"{what} shares the folder {prefix} with experiment {shared[0]}: objects there stay")
                self.delete(
                    "experiment", f"{number} ({name})", [] if shared else [uri],
                    lambda number=number: self.store._hard_delete_experiment(str(number)),
                )  # fmt: skip

    def leave(self, what: str, version: str) -> str:
        """Say that something stays because of a registered model version."""
        say(f"{what} stays: model version {version} comes from it. Delete the version first")
        self.told["left"] += 1
        return f"model version {version} comes from it"

    def delete(self, kind: str, name: str, addresses: Iterable[str], forget: Callable[[], None]) -> bool:
        """Delete objects and then the row, or say that it would; whether that was possible."""
        objects = total = 0
        try:
            for address in addresses:
                prefix = self.bucket.prefix(address)
                if prefix is None:
                    say(f"{kind} {name} stays: its files are in {address}, not in bucket {self.bucket.name}")
                    self.told["left"] += 1
                    return False
                objects, total = self.bucket.clear(prefix)
            if not self.bucket.dry_run:
                forget()
        except (BotoCoreError, ClientError, MlflowException, OSError, SQLAlchemyError) as error:
            reason = why(error)
            say(f"{kind} {name} cannot be deleted: {reason}")
            self.failures += 1
            if self.failures >= GIVE_UP:
                sys.exit(f"gc: {self.failures} failures, the last one above: given up. Deleted so far: {self.sum()}")
            return False
        would = "would be deleted" if self.bucket.dry_run else "deleted"
        say(f"{kind} {name} {would}: {objects} objects, {size(total)}")
        self.told.update({kind: 1, "object": objects, "byte": total})
        return True

    def sum(self) -> str:
        """What was deleted, in a line."""
        told = self.told
        things = ", ".join(f"{told[kind]} {kind}s" for kind in ("run", "model", "experiment"))
        return f"{things}; {told['object']} objects, {size(told['byte'])}; {told['left']} left"


def overlap(one: str, other: str) -> bool:
    """Whether one of two folders is in the other."""
    return one.startswith(other) or other.startswith(one)


def main() -> None:
    """Take the lock and make one pass."""
    started = time.monotonic()
    uri, bucket, age = backend.uri(), os.environ["S3_BUCKET"], os.environ["OLDER_THAN"]
    dry_run = os.environ["DRY_RUN"] != "false"
    seconds = int(age[:-1]) * UNITS[age[-1]]
    say(f"{'dry run, nothing is deleted: ' if dry_run else ''}what users deleted more than {age} ago")
    engine = create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10})
    try:
        database = engine.connect()
    except SQLAlchemyError as error:
        where = engine.url.render_as_string(hide_password=True)
        sys.exit(f"gc: {where} did not let us in: {why(error)}. Nothing was deleted.")
    with database:
        # the lock goes with the connection, also when this pod is killed
        try:
            free = database.execute(text("SELECT GET_LOCK(CONCAT(DATABASE(), '.gc'), 0)")).scalar()
        except SQLAlchemyError as error:
            sys.exit(f"gc: the server gives no lock: {why(error)}. Nothing was deleted.")
        if free != 1:
            sys.exit("gc: another one is at work. Nothing was deleted; wait for its end.")
        store = SqlAlchemyStore(uri, f"s3://{bucket}")
        collector = Collector(database, store, Bucket(bucket, dry_run), int((time.time() - seconds) * 1000))
        collector.collect()
    elapsed = f"{time.monotonic() - started:.1f} s"
    say(f"{'would delete' if dry_run else 'deleted'} {collector.sum()}; {elapsed}")
    if collector.failures:
        sys.exit(
            f"gc: {collector.failures} could not be deleted, for the reasons above. They are tried again next time."
        )


if __name__ == "__main__":
    main()
