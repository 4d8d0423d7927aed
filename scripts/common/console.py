"""Output of the scripts: steps with elapsed time, and errors in one sentence with the next step."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .paths import CACHE

_started = time.monotonic()
_print_lock = threading.Lock()


class Failure(Exception):
    """An error for the user: what went wrong, what to do next, and the last log lines of the program that failed."""

    def __init__(self, what: str, cure: str = "", log: str = "") -> None:
        super().__init__(what)
        self.what, self.cure, self.log = what, cure, log


def say(text: str) -> None:
    """Print a line with the time since the start (minutes and seconds)."""
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    with _print_lock:
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)


@contextmanager
def step(name: str, every: float = 30.0) -> Iterator[None]:
    """Print that a step starts, every `every` seconds that it still runs, and how long it took."""
    begun = time.monotonic()
    done = threading.Event()

    def remind() -> None:
        while not done.wait(every):
            say(f"… {name} ({time.monotonic() - begun:.0f} s so far)")

    say(f"→ {name}")
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    except BaseException:
        say(f"✗ {name} ({time.monotonic() - begun:.1f} s)")
        raise
    else:
        say(f"✓ {name} ({time.monotonic() - begun:.1f} s)")
    finally:
        done.set()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log file, or nothing when there is no such file."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def run(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    cure: str = "",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> str:
    """Run a command to its end and return its standard output.

    With `log` the output goes to that file instead. Raises Failure with the last lines when it does not exit with 0.
    """
    words = [str(word) for word in command]
    full_env = {**os.environ, **(env or {})}
    sink = None
    try:
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            sink = log.open("a")
        done = subprocess.run(
            words,
            env=full_env,
            cwd=cwd,
            input=stdin,
            text=True,
            stdout=sink or subprocess.PIPE,
            stderr=subprocess.STDOUT if sink else subprocess.PIPE,
            timeout=timeout,
        )
    except FileNotFoundError as error:
        raise Failure(f"The program {words[0]} is not installed.", cure or f"Install {words[0]}.") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"`{' '.join(words[:4])} …` did not end within {timeout:.0f} s.", cure) from error
    except OSError as error:
        raise Failure(f"`{words[0]}` could not run: {error}.", cure) from error
    finally:
        if sink:
            sink.close()
    if done.returncode:
        last = tail(log) if log else "\n".join((done.stderr or done.stdout or "").splitlines()[-15:])
        where = f"The whole log is {log}." if log else ""
        raise Failure(
            f"`{' '.join(words[:6])}{' …' if len(words) > 6 else ''}` ended with exit code {done.returncode}.",
            " ".join(part for part in (cure, where) if part),
            last,
        )
    return done.stdout or ""


def wait_until(ready: Callable[[], bool], what: str, seconds: float, log: Path | None = None, cure: str = "") -> None:
    """Call `ready` twice a second until it returns true; raise Failure with the last log lines after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.5)
    where = f" The whole log is {log}." if log else ""
    raise Failure(f"{what} is not ready after {seconds:.0f} s.", (cure + where).strip(), tail(log) if log else "")


def exclusively(body: Callable[[], None]) -> Callable[[], None]:
    """Let only one of the wrapped scripts run at a time on this machine: a second script would undo the steps of the first."""

    def locked() -> None:
        try:
            CACHE.mkdir(parents=True, exist_ok=True)
            lock = (CACHE / "lock").open("a+")
        except OSError:
            # a user without write access gets the reason from the checks of `body`
            body()
            return
        # the kernel releases the lock when the process ends
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise Failure(
                    f"Another `make up` or `make down` runs on this machine, as process {file.read().strip()}.",
                    "Wait until it has ended, then run the command again.",
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            body()

    return locked


def main(body: Callable[[], None]) -> None:
    """Run a script's body; a Failure or an interruption ends in one clear message and a non-zero exit."""
    try:
        body()
    except Failure as failure:
        print(file=sys.stderr)
        for line in failure.log.splitlines():
            print(f"    | {line}", file=sys.stderr)
        print(f"Error: {failure.what}", file=sys.stderr)
        if failure.cure:
            print(f"Next:  {failure.cure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nStopped. Nothing is lost: run the same command again to go on.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The program that reads our output has ended (`make status | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"Error: {error.strerror}: {error.filename}" if error.filename else f"Error: {error}", file=sys.stderr)
        if error.errno == 28:
            print(
                "Next:  Free some disk space (`make doctor` prints how much is needed), then run it again.",
                file=sys.stderr,
            )
        sys.exit(1)
