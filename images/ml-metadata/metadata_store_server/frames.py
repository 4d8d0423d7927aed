"""What server and worker say to each other: lists of byte strings over a socket pair."""

import socket
import struct


def send(channel: socket.socket, *parts: bytes) -> None:
    """Write one frame."""
    header = struct.pack(f"!I{len(parts)}Q", len(parts), *map(len, parts))
    channel.sendall(b"".join((header, *parts)))


def receive(channel: socket.socket) -> list[bytes]:
    """Read one frame; EOFError when the other side is gone."""
    (count,) = struct.unpack("!I", _exactly(channel, 4))
    lengths = struct.unpack(f"!{count}Q", _exactly(channel, 8 * count))
    return [_exactly(channel, length) for length in lengths]


def _exactly(channel: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        got = channel.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return bytes(buffer)
