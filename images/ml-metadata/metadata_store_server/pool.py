"""Worker processes: started when they are needed, replaced when they fail, stopped when they idle."""

import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .frames import receive, send

OK, INTERNAL, UNAVAILABLE = 0, 13, 14

#: Ways in which the client library of MySQL and MariaDB says that the connection, not the query, is the trouble.
_LOST = re.compile(
    r"gone away|lost connection|can't connect|mysql_real_connect failed|server shutdown in progress"
    r"|connection was killed|too many connections|disconnected by the server|server closed the connection",
    re.IGNORECASE,
)

#: A call that reads nothing but opens a transaction.
_CHECK = ("GetArtifactTypesByID", b"")


class Unavailable(Exception):
    """The database cannot be used now; the same call may work later."""


@dataclass(frozen=True)
class Database:
    """How to connect: serialized messages of ML Metadata's API, and what to call the database in a sentence."""

    connection: bytes
    migration: bytes
    name: str
    #: Host and port, to tell a server that is down from one that says no.
    address: tuple[str, int] | None = None
    #: One process alone may use it: it lives in that process or in a file.
    exclusive: bool = False

    def explain(self, reason: str) -> str:
        """Why there is no connection: the client library often keeps it to itself."""
        if self.address:
            try:
                socket.create_connection(self.address, timeout=3).close()
            except OSError as error:
                return f"{self.name} cannot be reached: {error}"
        if "no schema_version can be found" in reason:
            return f"{self.name} was left half made when its first start was cut off. Drop it and create it empty."
        reason = reason.removesuffix(": errno: , error: ").rstrip(".")
        return f"{self.name} gives no access ({reason}). Check user, password, rights and schema version."


class Worker:
    """A child process that holds one connection."""

    def __init__(self, database: Database, migration: bytes, timeout: float | None) -> None:
        """Start the process and wait until it has connected; Unavailable if it has not."""
        self._channel, theirs = socket.socketpair()
        with theirs:
            script = Path(__file__).with_name("worker.py")
            self._process = subprocess.Popen(
                [sys.executable, script, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        try:
            self._channel.settimeout(timeout)
            send(self._channel, database.connection, migration)
            (reason,) = receive(self._channel)
        except TimeoutError as error:
            self.stop(kill=True)
            raise Unavailable(f"{database.name} does not answer") from error
        except (EOFError, OSError) as error:
            self.stop(kill=True)
            raise Unavailable(database.explain(str(error) or "the client library crashed")) from error
        if reason:
            self.stop()
            raise Unavailable(database.explain(reason.decode(errors="replace")))

    def call(self, method: str, request: bytes, timeout: float) -> tuple[int, str, bytes]:
        """Status code, message and serialized response; Unavailable when the process died or did not answer."""
        try:
            self._channel.settimeout(timeout)
            send(self._channel, method.encode(), request)
            code, message, response = receive(self._channel)
        except TimeoutError as error:
            raise Unavailable(f"the database did not answer within {timeout:g} seconds") from error
        except (EOFError, OSError) as error:
            raise Unavailable("the connection to the database broke") from error
        return code[0], message.decode(errors="replace"), response

    def stop(self, kill: bool = False) -> None:
        """Close the connection and reap the process."""
        self._channel.close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Pool:
    """Up to `size` workers on one database."""

    def __init__(self, database: Database, size: int, timeout: float) -> None:
        """Start nothing yet; `timeout` is the time for one call, in seconds."""
        self._database = database
        self._timeout = timeout
        self._slots = threading.BoundedSemaphore(size)
        #: The worker used last is at the end and is taken first, so that the others idle long enough to be stopped.
        self._idle: list[tuple[float, Worker]] = []

    def open(self) -> None:
        """Create or migrate the schema; Unavailable if the database cannot be used. Takes as long as it takes."""
        self._idle.append((time.monotonic(), Worker(self._database, self._database.migration, timeout=None)))

    def call(self, method: str, request: bytes) -> tuple[int, str, bytes]:
        """Answer one call; what only reads is tried a second time on a new connection."""
        attempts = 2 if method.startswith("Get") else 1
        answer = (UNAVAILABLE, "", b"")
        with self._slots:
            for _ in range(attempts):
                answer = self._try(method, request)
                if answer[0] != UNAVAILABLE:
                    break
        return answer

    def _try(self, method: str, request: bytes) -> tuple[int, str, bytes]:
        try:
            worker = self._take_idle() or Worker(self._database, b"", self._timeout)
        except Unavailable as error:
            return UNAVAILABLE, str(error), b""
        try:
            code, message, response = worker.call(method, request, self._timeout)
        except Unavailable as error:
            worker.stop(kill=True)
            return UNAVAILABLE, str(error), b""
        if code == INTERNAL:
            # Nobody knows what state the connection is in: the next call gets a new one.
            worker.stop()
            return (UNAVAILABLE if _LOST.search(message) else INTERNAL), message, b""
        self._idle.append((time.monotonic(), worker))
        return code, message, response

    def _take_idle(self) -> Worker | None:
        """A worker whose connection still lives: one that idled may have outlived a restart of the database."""
        while self._idle:
            try:
                last_used, worker = self._idle.pop()
            except IndexError:
                break
            try:
                if time.monotonic() - last_used < 1 or worker.call(*_CHECK, timeout=5)[0] == OK:
                    return worker
            except Unavailable:
                pass
            worker.stop(kill=True)
        return None

    def retire(self, idle_seconds: float) -> None:
        """Stop the workers that nobody has needed for so long."""
        if self._database.exclusive:
            return
        while self._idle:
            try:
                last_used, worker = self._idle.pop(0)
            except IndexError:
                return
            if time.monotonic() - last_used < idle_seconds:
                self._idle.insert(0, (last_used, worker))
                return
            worker.stop()

    def close(self) -> None:
        """Stop every worker that is not in the middle of a call."""
        while self._idle:
            self._idle.pop()[1].stop()
