"""Processes that outlive the script that started them: start, look up, stop, wait until ready."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.common import console
from scripts.common.paths import BIN, LOG, PKI, RUN, STATE


@dataclass(frozen=True)
class Process:
    """A process of the cluster: its command line and its readiness check."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]
    #: The process whose network and mounts it shares; empty: the machine's.
    within: str = ""

    @property
    def log(self) -> Path:
        """The file that takes the process's output."""
        return LOG / f"{self.name}.log"

    @property
    def signature(self) -> str:
        """Changes with the command line, the program and the configuration files that the command line names."""
        digest = hashlib.sha256(repr((self.command, os.path.realpath(self.command[0]))).encode())
        for word in self.command[1:]:
            path = Path(word.split("=", 1)[-1])
            if path.suffix in (".json", ".toml") and path.is_file():
                digest.update(path.read_bytes())
        if self.within:
            # namespaces that were made anew are others
            digest.update(repr(pid_of(self.within)).encode())
        return digest.hexdigest()[:16]


def answers(url: str) -> bool:
    """Whether a GET of this address gives a 200; https is checked against the cluster's own authority."""
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt")) if url.startswith("https") else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def listens(path: Path) -> bool:
    """Whether a process accepts connections at this UNIX socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def port_taken(port: int) -> bool:
    """Whether a process accepts connections at this port of 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def started_at(pid: int) -> str | None:
    """The kernel's start time of a process, None for a dead one: number and start time together are never used twice."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def pid_of(name: str) -> int | None:
    """The number of the running process that a script started under this name."""
    try:
        noted = json.loads((RUN / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return noted["pid"] if started_at(noted["pid"]) == noted["started"] else None


def runs_as_configured(process: Process) -> bool:
    """Whether the process runs with its present command line, program and configuration."""
    if not pid_of(process.name):
        return False
    return json.loads((RUN / f"{process.name}.json").read_text())["signature"] == process.signature


def inside(name: str) -> list[str]:
    """The words before a command that runs in the network and with the mounts of the process of this name.

    Raises:
        console.Failure: no such process runs.
    """
    if not name:
        return []
    if not (pid := pid_of(name)):
        raise console.Failure(f"The process {name} is not running.", "Run `make up` again.")
    return ["nsenter", f"--net=/proc/{pid}/ns/net", f"--mount=/proc/{pid}/ns/mnt", "--"]


def start(process: Process) -> None:
    """Start the process unless it runs; replace one whose configuration has changed."""
    if runs_as_configured(process):
        return
    if pid_of(process.name):
        stop(process.name)
    process.log.parent.mkdir(parents=True, exist_ok=True)
    with process.log.open("a") as log:
        child = subprocess.Popen(
            [*inside(process.within), *process.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=STATE,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        )
    note = {"pid": child.pid, "started": started_at(child.pid), "signature": process.signature}
    (RUN / f"{process.name}.json").write_text(json.dumps(note))


def stop(name: str, seconds: float = 20) -> None:
    """End the process of this name; kill it when it still runs after `seconds`."""
    pid = pid_of(name)
    if pid:
        started = started_at(pid)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while started_at(pid) == started and time.monotonic() < deadline:
            time.sleep(0.1)
        if started_at(pid) == started:
            os.kill(pid, signal.SIGKILL)
    (RUN / f"{name}.json").unlink(missing_ok=True)


def start_and_wait(process: Process, seconds: float = 90) -> None:
    """Start the process unless it runs and is ready, and wait until it is.

    Raises:
        console.Failure: it ended, or is not ready after `seconds`.
    """
    if runs_as_configured(process) and process.ready():
        return
    with console.step(f"start {process.name}"):
        start(process)

        def ready() -> bool:
            if not pid_of(process.name):
                raise console.Failure(
                    f"{process.name} ended right after its start.",
                    f"Its whole log is {process.log}. Run `make doctor`, then `make up` again.",
                    console.tail(process.log),
                )
            return process.ready()

        console.wait_until(ready, process.name, seconds, process.log, "Run `make up` again.")
