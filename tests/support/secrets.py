"""An API server as far as the program that makes Secrets sees it, and plans for the program."""

from __future__ import annotations

import base64
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.helm import CHART

sys.path.insert(0, str(CHART / "files"))
import make_secrets

ANNOTATIONS = {"helm.sh/resource-policy": "keep"}
PASSWORD: dict[str, Any] = {
    "name": "db", "type": "Opaque", "labels": {"a": "b"}, "annotations": ANNOTATIONS,
    "fixed": {"username": "ann"}, "generated": {"password": 32.0}, "facts": {"address": "here"},
}  # fmt: skip
CERTIFICATE: dict[str, Any] = {
    "name": "webhook", "type": "kubernetes.io/tls", "labels": {}, "annotations": ANNOTATIONS,
    "host": "hook.ns.svc", "trustedBy": ["mutatingwebhookconfigurations/hook"],
}  # fmt: skip


class Cluster:
    """An API server as far as the program sees it: Secrets and webhook configurations, and who wrote them."""

    def __init__(self, *objects: dict[str, Any], late: int = 0) -> None:
        """Take what is there; webhook configurations come only after some questions."""
        self.objects = {thing["metadata"]["name"]: thing for thing in objects}
        self.late = late
        self.written: list[str] = []

    def ask(
        self, method: str, path: str, body: Any = None, kind: str = "", known: tuple[int, ...] = ()
    ) -> tuple[int, Any]:
        """Answer as the API server does."""
        name = urlsplit(path).path.rpartition("/")[2]
        there = self.objects.get(name)
        if method == "GET":
            if "webhookconfigurations" in path and self.late:
                self.late -= 1
                there = None
            return (200, there) if there else (404, {})
        writer = parse_qs(urlsplit(path).query)["fieldManager"][0]
        self.written.append(name)
        if kind == "application/apply-patch+yaml":
            if there:
                return 409, {"message": "conflict"}
            self.objects[name] = {**body, "writer": writer}
            self.objects[name]["metadata"]["resourceVersion"] = "1"
        elif kind == "application/merge-patch+json":
            version = body["metadata"].get("resourceVersion")
            if version not in (None, there["metadata"].get("resourceVersion")):
                return 409, {"message": "the object has been modified"}
            there["metadata"]["resourceVersion"] = str(int(there["metadata"].get("resourceVersion", 1)) + 1)
            there["metadata"].setdefault("annotations", {}).update(body["metadata"].get("annotations", {}))
            data = {**there["data"], **body.get("data", {})}
            there["data"] = {key: value for key, value in data.items() if value is not None}
        else:
            bundles = {each["name"]: each["clientConfig"]["caBundle"] for each in body["webhooks"]}
            for webhook in there["webhooks"]:
                webhook["clientConfig"]["caBundle"] = bundles[webhook["name"]]
        return 200, self.objects[name]


def webhooks(**annotations: str) -> dict[str, Any]:
    """A webhook configuration."""
    return {
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "hook", "annotations": annotations},
        "webhooks": [{"name": name, "clientConfig": {"service": {"name": "hook"}}} for name in ("one", "two")],
    }


def make(cluster: Cluster, *wanted: dict[str, Any]) -> int:
    """Run the program."""
    return make_secrets.main({"secrets": list(wanted)}, "ns", cluster)


def decoded(thing: dict[str, Any]) -> dict[str, str]:
    """Values of a Secret."""
    return {key: base64.b64decode(value).decode() for key, value in thing["data"].items()}


LASTING: dict[str, Any] = {
    "name": "lasting", "type": "Opaque", "labels": {}, "annotations": ANNOTATIONS, "lasting": {"encryptionKey": 32.0},
}  # fmt: skip
KEY: dict[str, Any] = {
    "name": "key", "type": "Opaque", "labels": {}, "annotations": ANNOTATIONS,
    "alternating": {"AWS_ACCESS_KEY_ID": "ann"}, "generated": {"AWS_SECRET_ACCESS_KEY": 40.0},
}  # fmt: skip
