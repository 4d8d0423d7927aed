"""One connection to the database, in a process of its own.

The compiled store keeps Python's interpreter lock while it waits for the database, and a lost connection can end its
process: here both hurt one call at most. Started by pool.py as `python worker.py DESCRIPTOR`.
"""

import contextlib
import socket
import sys
from typing import Any

import metadata_store_extension
from frames import receive, send

INTERNAL, UNIMPLEMENTED = 13, 12


def call(api: Any, store: Any, method: str, request: bytes) -> tuple[bytes, bytes, int]:
    """One method of the service, whichever it is: a serialized response, a message and a status code."""
    implementation = getattr(api, method, None)
    if implementation is None or not method.startswith(("Get", "Put")):
        return b"", f"This store has no method {method}.".encode(), UNIMPLEMENTED
    try:
        return implementation(store, request)
    except RuntimeError as error:
        return b"", str(error).encode(), INTERNAL


def main(descriptor: int) -> None:
    """Connect as the first frame says, tell how that went, then answer until the other side is gone."""
    channel = socket.socket(fileno=descriptor)
    api = metadata_store_extension.metadata_store
    connection, migration = receive(channel)
    try:
        store = api.CreateMetadataStore(connection, migration)
    except RuntimeError as error:
        send(channel, str(error).encode() or b"no reason given")
        return
    send(channel, b"")
    while True:
        method, request = receive(channel)
        response, message, code = call(api, store, method.decode(), request)
        send(channel, bytes([code]), message, response)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        main(int(sys.argv[1]))
