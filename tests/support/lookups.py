"""An API server that answers Helm's questions and changes nothing: what a template does with what it looks up, without a cluster.

It knows the objects that a test gives, and the rights of one account. The tests in e2e ask a real one.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support import helm
from support.objects import Object

#: As docs/install.md has it for accounts without cluster-admin.
NAMESPACED: dict[str, Any] = {
    "gateway": {"enabled": False},
    "global": {"gateway": {"name": "shared", "namespace": "infra", "url": "http://envoy.infra.svc"}},
    "kserve": {"controller": {"enabled": False}},
    "prometheus": {"enabled": False},
    "grafana": {"enabled": False},
}
#: Kinds that templates look up and the chart does not make.
LOOKED_UP = (
    ("v1", "PersistentVolumeClaim"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("serving.kserve.io/v1beta1", "InferenceService"),
    ("serving.kserve.io/v1alpha1", "ServingRuntime"),
)
WIDE = ("Class", "Configuration", "Policy", "PolicyBinding")


def _plural(kind: str) -> str:
    word = kind.lower()
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("s") else f"{word}s"


def _is_wide(kind: str) -> bool:
    return kind.startswith("Cluster") or (kind.endswith(WIDE) and kind != "NetworkPolicy")


class _Server(ThreadingHTTPServer):
    """Objects by their paths, and the only namespace whose objects may be read, where there is one."""

    kinds: dict[str, set[str]]
    things: Sequence[Object]
    only: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    #: An answer in one packet: in two it takes 40 ms more.
    wbufsize = 1 << 16

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        code, answer = self.answer(self.path.partition("?")[0].strip("/").split("/"))
        text = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def answer(self, words: list[str]) -> tuple[int, Any]:
        versions = [each for each in self.server.kinds if "/" in each]
        if words == ["version"]:
            return 200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        if words == ["api"]:
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if words == ["apis"]:
            groups: dict[str, list[Any]] = {}
            for each in versions:
                groups.setdefault(each.partition("/")[0], []).append(
                    {"groupVersion": each, "version": each.rpartition("/")[2]}
                )
            found = [{"name": name, "versions": each, "preferredVersion": each[0]} for name, each in groups.items()]
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
        length = 2 if words[0] == "api" else 3
        version, rest = "/".join(words[1:length]), words[length:]
        if version not in self.server.kinds:
            return _status(404, "the server could not find the requested resource")
        if not rest:
            resources = [
                {"name": _plural(kind), "kind": kind, "namespaced": not _is_wide(kind), "verbs": ["get", "list"]}
                for kind in sorted(self.server.kinds[version])
            ]
            return 200, {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        namespace, (plural, *name) = (rest[1], rest[2:]) if rest[0] == "namespaces" and rest[2:] else ("", rest)
        if self.server.only and namespace != self.server.only:
            return _status(403, f"{plural} is forbidden in {namespace or 'the cluster'}")
        found = [
            thing
            for thing in self.server.things
            if (thing["apiVersion"], _plural(thing["kind"])) == (version, plural)
            and thing["metadata"].get("namespace", "") in ({namespace} if namespace or name else {thing["metadata"].get("namespace", "")})
            and [thing["metadata"]["name"]] in ([name] if name else [[thing["metadata"]["name"]]])
        ]  # fmt: skip
        if name:
            return (200, found[0]) if found else _status(404, f'{plural} "{name[0]}" not found')
        return 200, {"apiVersion": version, "kind": "List", "metadata": {}, "items": found}


def _status(code: int, message: str) -> tuple[int, Any]:
    reason = {403: "Forbidden", 404: "NotFound"}[code]
    return code, {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code,
    }  # fmt: skip


@contextlib.contextmanager
def api_server(*things: Object, only: str = "") -> Iterator[Path]:
    """A kubeconfig of a server with these objects; with `only`, of an account that may read that namespace alone."""
    kinds: dict[str, set[str]] = {}
    rendered = [(each["apiVersion"], each["kind"]) for each in helm.render("laptop")]
    for version, kind in (*rendered, *LOOKED_UP, *((each["apiVersion"], each["kind"]) for each in things)):
        kinds.setdefault(version, set()).add(kind)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.kinds, server.things, server.only = kinds, things, only
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {"token": "none"}}],
    }  # fmt: skip
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as file:
            json.dump(config, file)
            file.flush()
            yield Path(file.name)
    finally:
        server.shutdown()
        server.server_close()


def render(*things: Object, values: Mapping[str, Any], only: str = "", install: bool = False) -> tuple[Object, ...]:
    """What an upgrade, or an installation, makes of these objects of the cluster."""
    with api_server(*things, only=only) as config:
        options = (
            "--dry-run=server", "--disable-openapi-validation", "--skip-crds", "--kubeconfig", str(config), "--qps=1000", "--burst-limit=1000",
        )  # fmt: skip
        return helm.render("laptop", values, options=(*options, *(() if install else ("--is-upgrade",))))


def owned(version: str, kind: str, name: str, **more: Any) -> Object:
    """An object of the release as it is in the cluster."""
    annotations = {"meta.helm.sh/release-name": helm.RELEASE, "meta.helm.sh/release-namespace": helm.NAMESPACE}
    metadata = {"name": name, "namespace": helm.NAMESPACE, "annotations": annotations}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}
