"""MLflow's migration: what a pod says of a server that refuses something, and how it names the database."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pymysql.err import OperationalError as Refused
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from support.helm import CHART

#: Characters that mean something in a URL; %41 is no A.
HARD = "some@body/el:se#s?%41&+$x"
URI = "mysql+pymysql://{user}:{password}@[fd00::1]:3306/mlflow?ssl_ca=/etc/ssl/ca.crt"
MLFLOW = CHART / "charts" / "mlflow" / "files"
RETENTION = CHART / "charts" / "pipelines" / "files" / "retention.py"
NO_LOCK = Refused(1105, "Percona-XtraDB-Cluster prohibits use of GET_LOCK with pxc_strict_mode = ENFORCING")


def program(path: Path) -> ModuleType:
    """A program of the chart, imported as in its pod: beside its neighbours."""
    spec = importlib.util.spec_from_file_location(f"chart_{path.stem}", path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look there
    sys.path.append(str(path.parent))
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("user", ["mlflow", "ml@flow"])
@pytest.mark.parametrize("password", [HARD, "letters123", "", "@", "50%off", "ü"])
def test_any_password_reaches_the_server_as_the_secret_has_it(
    user: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_USER", user)
    monkeypatch.setenv("DATABASE_PASSWORD", password)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", URI.format(user=user, password=password))
    url = make_url(program(MLFLOW / "backend.py").uri())
    assert (url.username, url.password or "", url.host, url.port, url.database) == (
        user, password, "fd00::1", 3306, "mlflow"
    )  # fmt: skip
    assert url.query == {"ssl_ca": "/etc/ssl/ca.crt"}


def test_an_address_without_these_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "mysql+pymysql://u:p%40@db:3306/d")
    for name in ("USER", "PASSWORD"):
        monkeypatch.delenv(f"DATABASE_{name}", raising=False)
    assert program(MLFLOW / "backend.py").uri() == "mysql+pymysql://u:p%40@db:3306/d"


def test_a_password_that_is_percent_encoded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts until 0.2.0 decoded it."""
    migrate = program(MLFLOW / "migrate.py")
    monkeypatch.setattr(migrate, "PATIENCE", -1)
    denied = Refused(1045, "Access denied for user 'mlflow'@'10.0.0.1' (using password: YES)")
    monkeypatch.setattr(migrate, "create_engine", lambda *_, **__: Closed(denied))
    for password, told in (("p%40ss", True), ("p@ss", False)):
        monkeypatch.setenv("DATABASE_PASSWORD", password)
        with pytest.raises(SystemExit) as ended:
            migrate.connect(URI)
        assert "Access denied" in ended.value.code
        assert ("not percent-encoded" in ended.value.code) is told


class Closed:
    """An engine whose server lets nobody in."""

    url = make_url("mysql+pymysql://u:p@db:3306/d")

    def __init__(self, error: Refused) -> None:
        """Refuse with this."""
        self.error = error

    def connect(self) -> None:
        """Refuse."""
        raise OperationalError("", {}, self.error)


class Server:
    """A database that refuses one kind of statement."""

    def __init__(self, words: str, error: Refused) -> None:
        """Refuse statements with these words."""
        self.words, self.error, self.asked = words, error, list[str]()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: Any, *_: Any) -> Any:
        """Refuse, or say nothing."""
        self.asked.append(str(statement))
        if self.words in str(statement):
            raise OperationalError(str(statement), {}, self.error)


def test_a_server_without_locks_is_told_by_the_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    migrate = program(MLFLOW / "migrate.py")
    monkeypatch.setattr(migrate, "connect", lambda _: Server("GET_LOCK", NO_LOCK))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "mysql+pymysql://u:p@db:3306/d")
    with pytest.raises(SystemExit) as ended:
        migrate.main()
    assert "prohibits use of GET_LOCK" in ended.value.code
    assert "set pxc_strict_mode=PERMISSIVE" in ended.value.code


def test_a_server_without_locks_is_told_by_the_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gc = program(MLFLOW / "gc.py")
    engine = type("Engine", (), {"connect": lambda _: Server("GET_LOCK", NO_LOCK)})()
    monkeypatch.setattr(gc, "create_engine", lambda *_, **__: engine)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "mysql+pymysql://u:p@db:3306/d")
    for name, value in {"S3_BUCKET": "b", "OLDER_THAN": "30d", "DRY_RUN": "true"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"^gc: the server gives no lock: .*pxc_strict_mode=PERMISSIVE.* Nothing was"):
        gc.main()


def test_a_server_without_locks_is_told_by_the_retention_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    retention = program(RETENTION)
    engine = type("Engine", (), {"connect": lambda _: Server("GET_LOCK", NO_LOCK)})()
    monkeypatch.setattr(retention, "create_engine", lambda *_, **__: engine)
    for name in ("USER", "PASSWORD", "HOST", "NAME"):
        monkeypatch.setenv(f"DATABASE_{name}", "x")
    monkeypatch.setenv("DATABASE_PORT", "3306")
    with pytest.raises(SystemExit, match=r"^retention: .*pxc_strict_mode=PERMISSIVE.* Nothing was deleted"):
        retention.connect()


def test_the_charts_own_table_has_a_primary_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate = program(MLFLOW / "migrate.py")
    monkeypatch.setattr(migrate, "inspect", lambda _: type("Empty", (), {"get_table_names": lambda _: []})())
    command(tmp_path, "INFO done", 0, monkeypatch)
    server = Server("nothing is refused", NO_LOCK)
    assert migrate.migrate(server, "mysql+pymysql://u:p@db/d") == 0
    made, dropped = server.asked
    assert made == "CREATE TABLE alembic_unfinished (nothing INT PRIMARY KEY)"
    assert dropped == "DROP TABLE IF EXISTS alembic_unfinished"


SAYS = {
    "MySQL": (
        "(3750, \"Unable to create or change a table without a primary key, when the system variable "
        "'sql_require_primary_key' is set.\")",
        "Unable to create or change a table without a primary key", "switch sql_require_primary_key off",
    ),
    "MariaDB": (
        "(1173, 'This table type requires a primary key')", "This table type requires a primary key",
        "switch innodb_force_primary_key off",
    ),
}  # fmt: skip


def command(folder: Path, said: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `mlflow` that says something and ends."""
    (folder / "mlflow").write_text(f"#!/bin/sh\ncat <<'END' >&2\n{said}\nEND\nexit {code}\n")
    (folder / "mlflow").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize("server", SAYS)
def test_a_server_that_wants_primary_keys_is_told(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, reason, advice = SAYS[server]
    said = f"INFO step 1\nsqlalchemy.exc.OperationalError: (pymysql.err.OperationalError) {words}\n[SQL: ALTER …]"
    command(tmp_path, said, 1, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        program(MLFLOW / "migrate.py").upgrade("mysql+pymysql://u:p@db/d")
    assert ended.value.code.startswith(f"migrate: the server refuses a step of MLflow's migration: {reason}")
    assert advice in ended.value.code
    assert capsys.readouterr().err.startswith("INFO step 1\n"), "the log of MLflow passes through"


@pytest.mark.parametrize(("said", "code"), [("INFO done", 0), ("Error: disk full", 3)])
def test_other_ends_of_the_migration_are_mlflows_own(
    said: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, said, code, monkeypatch)
    assert program(MLFLOW / "migrate.py").upgrade("mysql+pymysql://u:p@db/d") == code
