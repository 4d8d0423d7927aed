"""What an upgrade tells of its endpoints and of the objects that it reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from iml4e import Error, upgrade


class Server(ThreadingHTTPServer):
    """Answers with its present status."""

    status = 200


class Handler(BaseHTTPRequestHandler):
    """Of the server above."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a port of its own."""
    with Server(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_downtime_lasts_from_the_first_failure_to_the_next_answer() -> None:
    page = upgrade.Endpoint("page", "")
    for begun, ended, trouble in (
        (0, 0.1, ""), (1, 1.1, "answer 502"), (2, 7, "no answer within 5 s"), (7, 7.2, ""), (8, 8.1, "answer 503"), (9, 9.1, ""),
    ):  # fmt: skip
        page.count(begun, ended, trouble)
    assert (page.requests, page.failed, page.longest, page.last) == (6, 3, 6.2, "answer 503")
    # still down at the end
    page.count(20, 20.1, "answer 503")
    page.count(40, 40.1, "answer 503")
    assert page.longest == pytest.approx(20.1)


def test_endpoints_are_asked_twice_a_second(server: Server) -> None:
    page = upgrade.Endpoint("page", f"http://127.0.0.1:{server.server_port}/")
    gone = upgrade.Endpoint("gone", "http://127.0.0.1:9/")
    with upgrade.Probe([page, gone]):
        time.sleep(0.7)
        server.status = 302
        time.sleep(0.5)
        server.status = 503
        time.sleep(0.5)
        server.status = 200
        time.sleep(0.5)
    assert 4 <= page.requests <= 6
    assert 1 <= page.failed <= 2
    assert 0.3 < page.longest < 1.5
    assert page.last == "answer 503"
    assert (gone.failed, gone.last) == (gone.requests, "ConnectionError")
    header, *rows = upgrade.text(upgrade.Report("iml4e", "1", "2", 2, [page, gone], []))
    assert header[:4] == ("ENDPOINT", "REQUESTS", "FAILED", "LONGEST DOWNTIME")
    assert [row[0] for row in rows] == ["page", "gone"]


def test_an_upgrade_without_helm_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Error, match="there is no helm: an upgrade needs helm and kubectl on the PATH"):
        upgrade.upgrade("charts/iml4e")
