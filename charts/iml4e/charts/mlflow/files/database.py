"""A database that restarts: requests wait for it a while instead of failing, and a connection that died is noticed."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, event

PATIENCE = 60
"""Seconds of an outage in which requests wait; afterwards they fail at once, as waiting requests keep others from a thread."""
AWAY = (1040, 1053, 2003, 2006, 2013)
"""MySQL's numbers of: too many connections, shutting down, cannot connect, gone away, lost."""
SILENCE = 30
"""Seconds until a connection is given up whose server has vanished without a word, as with its node."""


class Outage:
    """Connects for SQLAlchemy; remembers since when the database is away."""

    def __init__(self) -> None:
        self.since: float | None = None

    def connect(self, dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        """Connect, and wait for a database that is away (SQLAlchemy's event `do_connect`)."""
        while True:
            try:
                connection = dialect.connect(*arguments, **{"connect_timeout": 5, **options})
            except dialect.loaded_dbapi.OperationalError as error:
                now = time.monotonic()
                self.since = self.since or now
                if not error.args or error.args[0] not in AWAY or now > self.since + PATIENCE:
                    raise
                time.sleep(0.3)
            else:
                self.since = None
                watch(connection)
                return connection


def watch(connection: Any) -> None:
    """Let the kernel end a connection whose other end does not answer."""
    with suppress(AttributeError, OSError):
        connection._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000)
        connection._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE // 3)
        connection._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE // 6)


def install() -> None:
    """Connect so in every engine of this process that speaks to MySQL or MariaDB."""
    outage = Outage()

    @event.listens_for(Engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        return outage.connect(dialect, record, arguments, options) if dialect.name in ("mysql", "mariadb") else None
