"""Bring the tracking database to the schema of this MLflow; on an empty database, make it.

Each pod of the server runs this before it starts. A lock in the database lets one at a time through, so that any number
of replicas may start together.
"""

import os
import re
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import backend
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

PATIENCE = 300
"""Seconds to wait for the database, and again for another pod's migration."""

UNFINISHED = "alembic_unfinished"
"""A table that is there while the first migration runs. MLflow takes no notice of names that start like this."""


ADVICE = {
    "certificate verify failed": "global.caCertificate names the authorities that are trusted",
    "GET_LOCK": "clusters such as Percona XtraDB Cluster allow no locks: set pxc_strict_mode=PERMISSIVE there and let the release "
    "use one node, or name another server in global.database",
    "without a primary key": "switch sql_require_primary_key off until MLflow has migrated: MLflow replaces keys of tables",
    "requires a primary key": "switch innodb_force_primary_key off until MLflow has migrated: MLflow replaces keys of tables",
}
"""What to do about words of the server."""


def say(sentence: str) -> None:
    """Tell the log of the pod."""
    print(f"migrate: {sentence}", flush=True)


def advised(reason: str) -> str:
    """Words of the server, and what to do about them."""
    return next((f"{reason} ({advice})" for words, advice in ADVICE.items() if words in reason), reason)


def connect(uri: str) -> Connection:
    """Connect to the database, which may still be starting; give up with its own last words."""
    engine = create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5})
    where = engine.url.render_as_string(hide_password=True)
    give_up = time.monotonic() + PATIENCE
    told = ""
    while True:
        try:
            return engine.connect()
        except SQLAlchemyError as error:
            reason = advised(str(getattr(error, "orig", None) or error))
            if "Access denied" in reason and re.search("%[0-9A-Fa-f]{2}", os.environ.get("DATABASE_PASSWORD", "")):
                # charts until 0.2.0 put the password into the address as it is
                reason += " (the Secret has to hold the password as it is, not percent-encoded)"
        if time.monotonic() > give_up:
            sys.exit(
                f"migrate: {where} did not let us in within {PATIENCE} s: {reason}. "
                "Look at that server, at global.database, and at the Secret that mlflow.database.existingSecret names."
            )
        if reason != told:
            say(f"waiting for {where}: {reason}")
            told = reason
        time.sleep(1)


def revisions() -> tuple[set[str], set[str]]:
    """Revisions of the schema that this MLflow knows, and the one that no other follows, from its files: to import MLflow takes ten seconds."""
    package = find_spec("mlflow")
    folder = Path(package.origin).parent / "store/db_migrations/versions" if package and package.origin else Path()
    lines = "\n".join(file.read_text() for file in folder.glob("*.py"))
    known = set(re.findall(r"^revision\b[^\"']*[\"'](\w+)", lines, re.MULTILINE))
    followed = re.findall(r"^down_revision\b.*", lines, re.MULTILINE)
    return known, known - set(re.findall(r"[\"'](\w+)", "\n".join(followed)))


def warn_of_collation(connection: Connection) -> None:
    """Say so if the database takes names that differ in case alone for one; our own MariaDB does not."""
    collations = connection.execute(
        text(
            "SELECT @@collation_database UNION SELECT collation_name FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND collation_name IS NOT NULL"
        )
    ).scalars()
    if blind := sorted(name for name in collations if name.endswith("_ci")):
        say(
            f"WARNING: collation {', '.join(blind)} takes names that differ in case or accents alone (metrics, tags, models) "
            "for one, so they collide or replace each other. docs/install.md, A database of your own, converts it."
        )


def upgrade(uri: str) -> int:
    """Let MLflow migrate, and its log pass through; return its exit code."""
    refused = None
    with subprocess.Popen(["mlflow", "db", "upgrade", uri], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            sys.stderr.write(line)
            # MySQL's number, and MariaDB's, of a table without a primary key
            refused = refused or re.search(r"\((?:3750|1173), [\"'](.*)[\"']\)", line)
    if process.returncode and refused:
        sys.exit(f"migrate: the server refuses a step of MLflow's migration: {advised(refused[1])}.")
    return process.returncode


def migrate(connection: Connection, uri: str) -> int:
    """Migrate, unless the schema is the newest; return the exit code of MLflow."""
    tables = inspect(connection).get_table_names()
    if UNFINISHED in tables:
        # MySQL cannot roll back such a half; no server has started on it, so nothing is lost
        say("the first migration was cut short: starting over")
        connection.execute(text("SET FOREIGN_KEY_CHECKS = 0"))
        for table in tables:
            connection.execute(text(f"DROP TABLE `{table}`"))
        tables = []
    if "alembic_version" in tables:
        version = set(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
        known, newest = revisions()
        if version and version == newest:
            say("the schema is the newest")
            return 0
        if known and version - known:
            sys.exit(
                f"migrate: the database has the schema of a newer MLflow: MLflow {metadata.version('mlflow')} does not know its "
                f"revision {', '.join(sorted(version - known))}. Install the newer chart again, or restore a backup "
                "that this version wrote (docs/operations.md, Roll back)."
            )
    if not tables:
        connection.execute(text(f"CREATE TABLE {UNFINISHED} (nothing INT PRIMARY KEY)"))
    say("migrating")
    code = upgrade(uri)
    if code == 0:
        connection.execute(text(f"DROP TABLE IF EXISTS {UNFINISHED}"))
    return code


def main() -> None:
    """Wait for the database, take the lock, migrate."""
    uri = backend.uri()
    with connect(uri) as connection:
        # the lock goes with the connection, also when this pod is killed
        lock = text("SELECT GET_LOCK(CONCAT(DATABASE(), '.migration'), :wait)")
        try:
            free = connection.execute(lock, {"wait": PATIENCE}).scalar()
        except SQLAlchemyError as error:
            sys.exit(f"migrate: the server gives no lock: {advised(str(getattr(error, 'orig', None) or error))}.")
        if free != 1:
            sys.exit(
                f"migrate: another pod has been migrating for {PATIENCE} s. Look at its log; this one tries again."
            )
        warn_of_collation(connection)
        sys.exit(migrate(connection, uri))


if __name__ == "__main__":
    main()
