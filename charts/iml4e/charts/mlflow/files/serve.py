"""Runs MLflow's server on all addresses, IPv6 and IPv4: `serve.py --port 5000 --workers 2`."""

from __future__ import annotations

import argparse
import os
import socket

import backend
import uvicorn

STORES = ("MLFLOW_BACKEND_STORE_URI", "_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_REGISTRY_STORE")
"""Variables with the address of the database."""


def host(workers: int) -> str:
    """What uvicorn takes for all addresses.

    For one process that is an empty host: it opens a socket of each family that the kernel has. Several processes share one
    socket, which an empty host would make for IPv4 alone.
    """
    if workers == 1:
        return ""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"


def main() -> None:
    """Read the command line and serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes, each a server of its own")
    parser.add_argument("--grace-seconds", type=int, default=20, help="time for requests in flight after SIGTERM")
    args = parser.parse_args()
    os.environ |= dict.fromkeys(STORES, backend.uri())
    uvicorn.run(
        "server:create",
        factory=True,
        host=host(args.workers),
        port=args.port,
        workers=args.workers,
        # the gateway keeps idle connections for 90 s: closed earlier from here, a request could meet a dead one
        timeout_keep_alive=120,
        timeout_graceful_shutdown=args.grace_seconds,
    )


if __name__ == "__main__":
    main()
