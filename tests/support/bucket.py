"""An S3 store of one object, for programs that download models."""

from __future__ import annotations

import http.server

LISTING = b"<ListBucketResult><Contents><Key>m/MLmodel</Key><Size>5</Size></Contents></ListBucketResult>"


class Bucket(http.server.BaseHTTPRequestHandler):
    """A bucket with one object, m/MLmodel."""

    def do_GET(self) -> None:
        """Answer a listing, or the object."""
        body = LISTING if "list-type" in self.path else b"model"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""
