"""MLflow's connections to a database that restarts, against a server that speaks only as much as a connection needs."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pymysql.err import OperationalError

from support.helm import CHART

spec = importlib.util.spec_from_file_location("database", CHART / "charts" / "mlflow" / "files" / "database.py")
database = importlib.util.module_from_spec(spec)
spec.loader.exec_module(database)


def dialect(connect: Callable[..., Any]) -> Any:
    """As much of SQLAlchemy's dialect as connecting needs."""
    return SimpleNamespace(connect=connect, loaded_dbapi=SimpleNamespace(OperationalError=OperationalError))


def refusing(times: int, number: int = 2003) -> tuple[Callable[..., Any], list[dict[str, Any]]]:
    """A server that refuses so many connections, and what it was asked with."""
    asked: list[dict[str, Any]] = []

    def connect(*_: Any, **options: Any) -> str:
        asked.append(options)
        if len(asked) <= times:
            raise OperationalError(number, "not now")
        return "connection"

    return connect, asked


def test_a_request_waits_for_a_database_that_restarts() -> None:
    connect, asked = refusing(2)
    assert database.Outage().connect(dialect(connect), None, (), {}) == "connection"
    assert len(asked) == 3


def test_an_attempt_is_bounded_and_own_settings_count() -> None:
    connect, asked = refusing(0)
    database.Outage().connect(dialect(connect), None, (), {"host": "db", "connect_timeout": 60})
    database.Outage().connect(dialect(connect), None, (), {})
    assert [each["connect_timeout"] for each in asked] == [60, 5]


def test_a_wrong_password_is_told_at_once() -> None:
    connect, asked = refusing(9, number=1045)
    with pytest.raises(OperationalError):
        database.Outage().connect(dialect(connect), None, (), {})
    assert len(asked) == 1


def test_a_long_outage_holds_up_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first requests wait, together no longer than PATIENCE; later ones fail at once until the database is back."""
    monkeypatch.setattr(database, "PATIENCE", 0.5)
    outage = database.Outage()
    connect, asked = refusing(9)
    with pytest.raises(OperationalError):
        outage.connect(dialect(connect), None, (), {})
    tries = len(asked)
    assert 2 <= tries <= 4
    begun = time.monotonic()
    with pytest.raises(OperationalError):
        outage.connect(dialect(connect), None, (), {})
    assert (len(asked), time.monotonic() - begun < 0.2) == (tries + 1, True)
    asked.clear()
    back, _ = refusing(0)
    assert outage.connect(dialect(back), None, (), {}) == "connection"
    assert outage.since is None, "the next outage is a new one"


def test_the_kernel_ends_a_connection_whose_server_has_vanished() -> None:
    with socket.socket() as sock:
        database.watch(SimpleNamespace(_sock=sock))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == database.SILENCE * 1000
    database.watch(object())  # another driver: nothing to do


def test_engines_wait_for_the_database_once_it_is_installed() -> None:
    """In a process of its own, as it changes every engine; the port has no server until the first attempt has failed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    program = (
        "import sqlalchemy, database, time; database.PATIENCE = 1.5; database.install(); begun = time.monotonic()\n"
        f"engine = sqlalchemy.create_engine('mysql+pymysql://u:p@127.0.0.1:{port}/d', pool_pre_ping=True)\n"
        "try: engine.connect()\n"
        "except sqlalchemy.exc.OperationalError: print(time.monotonic() - begun)"
    )
    folder = CHART / "charts" / "mlflow" / "files"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert float(done.stdout) >= 1.5


def test_the_server_installs_it_and_answers_probes_itself() -> None:
    text = (CHART / "charts" / "mlflow" / "files" / "server.py").read_text()
    assert "    database.install()\n" in text
    assert "Health):\n        app.add_middleware" in text, "the outermost: probes wait for nothing"
