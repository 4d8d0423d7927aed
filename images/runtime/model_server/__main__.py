"""Command line and process supervision of the model server."""

import argparse
import os
import signal
import socket
import sys
import tempfile
import time

EXIT_CANNOT_LOAD = 3  # a worker's exit code when the model cannot be loaded: starting it again would not help


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line. Names with underscores are KServe's own convention for runtimes."""
    parser = argparse.ArgumentParser(prog="model_server", description="Serve one MLflow model over HTTP.")
    parser.add_argument("--model_name", required=True, help="name in the URL: /v1/models/NAME:predict")
    parser.add_argument("--model_dir", default="/mnt/models", help="folder that holds the file MLmodel")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--http_port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with its own copy of the model")
    parser.add_argument("--max_body_bytes", type=int, default=2 * 2**20, help="a larger request gets 413")
    parser.add_argument("--drain_seconds", type=float, default=3, help="after SIGTERM: time not ready, yet answering")
    parser.add_argument("--grace_seconds", type=int, default=30, help="after draining: time for requests in flight")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error("--workers must be 1 or more")
    return args


def work(args: argparse.Namespace, listener: socket.socket) -> int:
    """Run one worker until it is told to stop; return its exit code."""
    # One worker uses one core: N workers with a thread pool per core each would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .server import CannotLoad, serve

    try:
        serve(args, listener)
    except CannotLoad as error:
        print(f"model_server: {error}", file=sys.stderr, flush=True)
        return EXIT_CANNOT_LOAD
    return 0


def supervise(args: argparse.Namespace, listener: socket.socket) -> int:
    """Run several workers on one listening socket, and replace each one that dies.

    The workers are forked before anything heavy is imported: the parent stays small and the workers share nothing.
    If a worker cannot load the model, all stop and the process exits, so that the kubelet reports and restarts it.
    """
    workers: set[int] = set()
    stop = [signal.SIGTERM, signal.SIGINT]
    exit_code = 0
    stopping = False

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # no signal may fall between the fork and the note of it
        pid = os.fork()
        if pid == 0:
            for number in stop:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stop)
            code = 1
            try:
                code = work(args, listener)
            finally:
                sys.stderr.flush()
                os._exit(code)
        workers.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop)

    def shut_down(number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        for pid in workers:
            os.kill(pid, number)

    for number in stop:
        signal.signal(number, shut_down)
    for _ in range(args.workers):
        start()
    while workers:
        pid, status = os.wait()
        workers.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if stopping:
            continue
        if code == EXIT_CANNOT_LOAD:
            exit_code = code
            shut_down(signal.SIGTERM, None)
            continue
        print(f"model_server: worker {pid} ended with {code}, starting another", file=sys.stderr, flush=True)
        time.sleep(1)  # a model that dies at once must not burn the CPU
        if not stopping:
            start()
    return exit_code


def main(argv: list[str] | None = None) -> int:
    """Bind the port and run one worker here, or several below a supervisor."""
    args = parse(argv)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Bound, but not listening: until a worker has loaded the model a client gets "connection refused".
    listener.bind((args.host, args.http_port))
    if args.workers == 1:
        return work(args, listener)
    with tempfile.TemporaryDirectory(prefix="model-server-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # where workers add up their counters; read at import
        return supervise(args, listener)


if __name__ == "__main__":
    sys.exit(main())
