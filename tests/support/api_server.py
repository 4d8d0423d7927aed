"""A stand-in of the API server, from which Helm looks up the objects that a test names: no cluster, and nothing to clean up."""

from __future__ import annotations

import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from support.objects import Object

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}


def _path(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"


def answers(objects: Iterable[Object], kinds: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What the API server answers, by path: its kinds (version, kind), each namespaced, and the objects, alone and in lists."""
    resources: dict[str, list[Object]] = defaultdict(list)
    for version, kind in sorted(set(kinds)):
        verbs = ["get", "list", "create", "patch"]
        resources[version].append({"name": _plural(kind), "kind": kind, "namespaced": True, "verbs": verbs})
    groups: dict[str, list[Object]] = defaultdict(list)
    for version in resources:
        if "/" in version:
            groups[version.split("/")[0]].append({"groupVersion": version, "version": version.split("/")[1]})
    known: dict[str, Any] = {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "groups": [{"name": name, "versions": all_, "preferredVersion": all_[0]} for name, all_ in groups.items()],
        },
    }
    for version, listed in resources.items():
        known[_path(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": listed}
    for each in objects:
        version, kind, about = each["apiVersion"], each["kind"], each["metadata"]
        folder = f"{_path(version)}/namespaces/{about['namespace']}/{_plural(kind)}"
        empty = {"apiVersion": version, "kind": f"{kind}List", "items": []}
        known.setdefault(folder, empty)["items"].append(each)
        known[f"{folder}/{about['name']}"] = each
    return known


@contextmanager
def api_server(folder: Path, objects: Iterable[Object], kinds: Iterable[tuple[str, str]]) -> Iterator[Path]:
    """A kubeconfig that leads to the stand-in; what it does not know is answered with 404."""
    known = answers(objects, kinds)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            none = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(known.get(path, none)).encode()
            self.send_response(200 if path in known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
