"""An OCI registry in memory, on this machine: what `helm push` and `helm pull` ask of one."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the distribution specification says: blobs by digest, manifests by digest or tag."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, tuple[bytes, str]]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Send an answer; to HEAD without its content."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        """A blob or a manifest."""
        if self.path == "/v2/":
            return self.answer(200)
        if self.path not in self.kept:
            return self.answer(404)
        content, kind = self.kept[self.path]
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return self.answer(200, content, Content_Type=kind, Docker_Content_Digest=digest)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """The begin of an upload."""
        self.answer(202, Location=f"{self.path}one")

    def do_PUT(self) -> None:
        """A blob, whose digest is in the query, or a manifest."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path, _, query = self.path.partition("?")
        if "/blobs/uploads/" in path:
            assert digest.replace(":", "%3A") in query, query
            path = path.replace("/uploads/one", f"/{digest}")
        kind = self.headers.get("Content-Type", "")
        for name in (path, f"{path.rpartition('/')[0]}/{digest}"):
            self.kept[name] = (content, kind)
        self.answer(201, Location=path, Docker_Content_Digest=digest)


@contextlib.contextmanager
def registry() -> Iterator[str]:
    """The registry's address, without a scheme."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Empty", (Handler,), {"kept": {}}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
