"""A gateway with TLS: port 80 redirects whatever is asked for, and pods of the cluster go on without TLS."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from support import helm, releases
from support.k8s import Cluster
from support.parts import EVERY

pytestmark = [pytest.mark.timeout(200)]

NAME = "e2e-tls"
API = "gateway.networking.k8s.io/v1"
SEARCH = "/mlflow/api/2.0/mlflow/experiments/search"
INSIDE = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], b'{"max_results": 1}', {"Content-Type": "application/json", "Host": "localhost"})
print(urllib.request.urlopen(request, timeout=15).status)
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a certificate for this machine that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=e2e",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "tls.key", "-out", "tls.crt",
        ],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def ports(cluster: Cluster, values: dict[str, Any], certificate: Path) -> Iterator[tuple[int, int]]:
    """Ports of this machine that lead to ports 80 and 443 of a gateway with TLS, which also serves MLflow of the release."""
    there = Cluster(cluster.config, NAME)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    route = {
        "apiVersion": API,
        "kind": "HTTPRoute",
        "metadata": {"name": NAME},
        "spec": {
            # as the route of a model: in another namespace, and without the name of a listener
            "parentRefs": [{"name": f"{NAME}-gateway", "namespace": NAME}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/mlflow"}}],
                    "backendRefs": [{"name": f"{helm.RELEASE}-mlflow", "port": 5000}],
                }
            ],
        },
    }
    try:
        cluster.core.create_namespace({"metadata": {"name": NAME, "labels": labels}})
        data = {name: base64.b64encode((certificate / name).read_bytes()).decode() for name in ("tls.crt", "tls.key")}
        there.core.create_namespaced_secret(
            NAME, {"metadata": {"name": "edge"}, "type": "kubernetes.io/tls", "data": data}
        )
        gateway = {"service": {"type": "ClusterIP"}, "tls": {"enabled": True, "secretName": "edge"}}
        gateway["errorPages"] = {"enabled": False}
        gateway["resources"] = {"requests": {"cpu": "10m", "memory": "64Mi"}}
        # the port of the redirect has to be known before one is forwarded
        shared = {"imageRegistry": values["global"]["imageRegistry"], "publicUrl": "https://localhost:30443"}
        switched_off = {part: {"enabled": False} for part in EVERY if part != "gateway"}
        helm.helm(
            "install", NAME, helm.CHART, "--namespace", NAME, "--skip-crds",
            *(f"--set-json={key}={json.dumps(part)}" for key, part in {**switched_off, "gateway": gateway, "global": shared}.items()),
            "--wait", "--timeout", "100s", timeout=150,
        )  # fmt: skip
        cluster.apply(route)
        service = f"service/{NAME}-gateway"
        with there.port_forward(service, 80) as http, there.port_forward(service, 443) as https:
            local = {"verify": str(certificate / "tls.crt"), "timeout": 5}
            where = f"https://localhost:{https}/mlflow/health"
            cluster.wait("the route to be known", lambda: requests.get(where, **local).ok, 30)
            yield http, https
    finally:
        cluster.delete(API, "HTTPRoute", NAME)
        helm.helm("uninstall", NAME, "--namespace", NAME, "--ignore-not-found", timeout=100)
        cluster.delete("v1", "Namespace", NAME)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/", "/ping", "/mlflow/", SEARCH, "/models/iml4e/wine/v1/models/wine:predict", "/x?y=%2F"]
)
def test_port_80_only_redirects(ports: tuple[int, int], method: str, path: str) -> None:
    answer = requests.request(method, f"http://localhost:{ports[0]}{path}", timeout=10, allow_redirects=False)
    assert answer.status_code == 308
    assert answer.headers["Location"] == f"https://localhost:30443{path}"


@pytest.mark.parametrize("host", ["ml.example.com", "192.168.1.20:30080", "[fd00::1]:30080", "[fd00::1]"])
def test_the_redirect_stays_at_the_host_that_was_asked_for(ports: tuple[int, int], host: str) -> None:
    answer = requests.get(
        f"http://localhost:{ports[0]}/mlflow/", headers={"Host": host}, allow_redirects=False, timeout=10
    )
    bare = host.removesuffix(":30080")
    assert answer.headers["Location"] == f"https://{bare}:30443/mlflow/"


def test_https_serves_pages_and_takes_requests(ports: tuple[int, int], certificate: Path) -> None:
    local = {"verify": str(certificate / "tls.crt"), "timeout": 15}
    address = f"https://localhost:{ports[1]}"
    assert requests.get(f"{address}/mlflow/", **local).headers["Content-Type"].startswith("text/html")
    assert "experiments" in requests.post(address + SEARCH, json={"max_results": 1}, **local).json()


def test_pods_of_the_cluster_need_no_certificate(cluster: Cluster, ports: tuple[int, int]) -> None:
    inside = f"http://{NAME}-gateway-internal.{NAME}.svc{SEARCH}"
    assert releases.said_in_pod(cluster, "python", "-c", INSIDE, inside).strip() == "200"


def test_an_acme_challenge_is_answered_without_tls(cluster: Cluster, ports: tuple[int, int]) -> None:
    """Else no certificate could be issued before there is one."""
    path = "/.well-known/acme-challenge/token"
    there = Cluster(cluster.config, NAME)
    backend = {"group": "traefik.io", "kind": "TraefikService", "name": "ping@internal"}
    rule = {"matches": [{"path": {"type": "Exact", "value": path}}], "backendRefs": [backend]}
    there.apply(
        {
            "apiVersion": API,
            "kind": "HTTPRoute",
            "metadata": {"name": "challenge"},
            "spec": {"parentRefs": [{"name": f"{NAME}-gateway-redirect"}], "rules": [rule]},
        }
    )
    asked = f"http://localhost:{ports[0]}{path}"
    cluster.wait(
        "the challenge to be answered", lambda: requests.get(asked, allow_redirects=False, timeout=5).text == "OK", 30
    )
