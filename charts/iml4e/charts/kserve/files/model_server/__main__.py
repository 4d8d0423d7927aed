"""Command line and process supervision of the model server."""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from . import CannotLoad, integrity
from .metrics import Metrics

#: Exit codes: starting again would not help.
EXIT_CANNOT_LOAD, EXIT_CANNOT_INSTALL = 3, 4
#: Where extra packages go: a volume of the pod, so that a restarted container finds them.
PACKAGES = Path("/tmp/packages")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line. Names with underscores are KServe's own convention for runtimes."""
    parser = argparse.ArgumentParser(prog="model_server", description="Serve one MLflow model over HTTP.")
    parser.add_argument("--model_name", required=True, help="name in the URL: /v1/models/NAME:predict")
    parser.add_argument("--model_dir", default="/mnt/models", help="folder that holds the file MLmodel")
    parser.add_argument("--host", default="", help="address to listen on; default: all, IPv6 and IPv4")
    parser.add_argument("--http_port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with its own copy of the model")
    parser.add_argument("--batching", default="", help="on, off or auto (empty): predict for waiting requests at once")
    parser.add_argument("--max_body_bytes", type=int, default=2 * 2**20, help="a larger request gets 413")
    parser.add_argument("--cors_origins", default="", help="web origins whose pages may ask, comma-separated; or *")
    parser.add_argument("--drain_seconds", type=float, default=3, help="after SIGTERM: time not ready, yet answering")
    parser.add_argument("--grace_seconds", type=int, default=30, help="after draining: time for requests in flight")
    args = parser.parse_args(argv)
    args.batching = args.batching or "auto"
    if args.workers < 1:
        parser.error("--workers must be 1 or more")
    if args.batching not in ("on", "off", "auto"):
        parser.error(f"--batching must be on, off or auto, got {args.batching!r} (annotation iml4e.org/batching)")
    args.version = os.environ.get("MODEL_VERSION", "")
    args.registered = os.environ.get("MODEL_REGISTERED", "") or args.model_name
    return args


def bind(host: str, port: int) -> socket.socket:
    """Bind the port on all addresses of both IP families, or on the given one.

    Bound, but not listening: until a worker has loaded the model a client gets "connection refused".
    """
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6 and not host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        if host or family == socket.AF_INET:
            raise
        return bind("0.0.0.0", port)  # a kernel without IPv6
    return listener


def check(args: argparse.Namespace) -> str:
    """Say what is wrong with the files of the model, before anything of them is run; empty if nothing is."""
    registered, signature = os.environ.get("MODEL_DIGEST", ""), os.environ.get("MODEL_SIGNATURE", "")
    start, model = time.monotonic(), f"{args.registered}/{args.version}"
    fault = integrity.problem(args.model_dir, registered, signature, model, os.environ.get("MODEL_PUBLIC_KEY", ""))
    if registered and not fault:
        print(
            f"model_server: the files are the registered ones ({time.monotonic() - start:.2f} s)",
            file=sys.stderr,
            flush=True,
        )
    return fault


def trust() -> None:
    """Trust the certificate authorities of the release in pip and in the model's own code, where the namespace has them."""
    authorities = os.environ.get("CA_FILE", "")
    if Path(authorities).is_file():
        for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE"):
            os.environ.setdefault(name, authorities)


def install(packages: list[str]) -> str:
    """Install packages that the image lacks beside those that it has; return what went wrong, or an empty string."""
    done = PACKAGES / ".done"
    environment = {**os.environ, "PYTHONUSERBASE": str(PACKAGES)}
    in_venv = sys.prefix != sys.base_prefix  # where pip knows no --user; --target installs all requirements anew
    if not (done.exists() and done.read_text() == repr(packages)):
        print(f"model_server: installing {' '.join(packages)}", file=sys.stderr, flush=True)
        where = ["--target", str(PACKAGES), "--upgrade"] if in_venv else ["--user"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-cache-dir",
            "--no-warn-script-location",
            *where,
        ]
        pip = subprocess.run([*command, "--", *packages], env=environment, stderr=subprocess.PIPE, text=True)
        if pip.returncode:
            errors = [line for line in pip.stderr.splitlines() if line.startswith("ERROR:")] or [pip.stderr.strip()]
            return f"cannot install {' '.join(packages)}: {errors[-1].removeprefix('ERROR: ')[:500]}"
        done.write_text(repr(packages))
    folder = str(PACKAGES)
    if not in_venv:
        command = [sys.executable, "-m", "site", "--user-site"]
        folder = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True).stdout.strip()
    sys.path.insert(0, folder)
    return ""


def work(args: argparse.Namespace, listener: socket.socket, metrics: Metrics) -> int:
    """Run one worker until it is told to stop; return its exit code."""
    # One worker uses one core: N workers with a thread pool per core each would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .app import serve

    try:
        serve(args, listener, metrics)
    except CannotLoad as error:
        print(f"model_server: {error}", file=sys.stderr, flush=True)
        return EXIT_CANNOT_LOAD
    return 0


def supervise(args: argparse.Namespace, listener: socket.socket) -> int:
    """Run several workers on one listening socket, and replace each one that dies.

    The workers are forked before anything heavy is imported: the parent stays small and the workers share nothing
    but the counters. If a worker cannot load the model, all stop and the process exits, so that the kubelet reports it.
    """
    metrics = Metrics(args.model_name, args.version, args.workers)
    workers: dict[int, int] = {}  # process id: slot of its counters
    stop = [signal.SIGTERM, signal.SIGINT]
    exit_code = 0
    stopping = False

    def start(slot: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # no signal may fall between this question and the note of pid
        if stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stop)
            return
        pid = os.fork()
        if pid == 0:
            for number in stop:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stop)
            code = 1
            try:
                metrics.slot = slot
                code = work(args, listener, metrics)
            finally:
                sys.stderr.flush()
                os._exit(code)
        workers[pid] = slot
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop)

    def shut_down(number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and os.wait() is about to say so
                os.kill(pid, number)

    for number in stop:
        signal.signal(number, shut_down)
    for slot in range(args.workers):
        start(slot)
    while workers:
        pid, status = os.wait()
        slot = workers.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if stopping:
            continue
        if code == EXIT_CANNOT_LOAD:
            exit_code = code
            shut_down(signal.SIGTERM, None)
            continue
        print(f"model_server: worker {pid} ended with {code}, starting another", file=sys.stderr, flush=True)
        time.sleep(1)  # a model that dies at once must not burn the CPU
        start(slot)
    for number in stop:  # a second SIGTERM while Python shuts down would be the exit code
        signal.signal(number, signal.SIG_IGN)
    return exit_code


def main(argv: list[str] | None = None) -> int:
    """Bind the port and run one worker here, or several below a supervisor."""
    args = parse(argv)
    trust()
    if fault := check(args):
        print(f"model_server: {fault}", file=sys.stderr, flush=True)
        return EXIT_CANNOT_LOAD
    if (packages := shlex.split(os.environ.get("MODEL_SERVER_PACKAGES", ""))) and (problem := install(packages)):
        print(f"model_server: {problem}", file=sys.stderr, flush=True)
        return EXIT_CANNOT_INSTALL
    listener = bind(args.host, args.http_port)
    if args.workers == 1:
        return work(args, listener, Metrics(args.model_name, args.version))
    return supervise(args, listener)


if __name__ == "__main__":
    sys.exit(main())
