"""The gateway: its routes, and its answers to unknown paths and foreign hosts."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from support.k8s import Cluster
from support.parts import PARTS, Part
from support.platform import Gateway, Model


@pytest.mark.parametrize("part", [c for c in PARTS if c.ui], ids=lambda part: part.name)
def test_page_of_part_opens(gateway: Gateway, part: Part) -> None:
    answer = gateway.get(part.ui, allow_redirects=True)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.url.startswith(gateway.url)


@pytest.mark.parametrize("path", ["/nowhere", "/models/iml4e", "/models/iml4e/no-such-model/v2/health/live"])
def test_unknown_path_is_not_found(gateway: Gateway, path: str) -> None:
    assert gateway.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/metrics", "/dashboard/", "/api/rawdata"])
def test_gateway_keeps_its_own_pages_to_itself(gateway: Gateway, path: str) -> None:
    assert gateway.get(path).status_code == 404


SEARCH = "/mlflow/ajax-api/2.0/mlflow/experiments/search"
#: Addresses of the platform in a browser: by a node's or a load balancer's IP address, a forwarded port, the name in the cluster.
ADDRESSES = [
    "http://192.168.1.20:30080",
    "http://203.0.113.7",
    "https://10.0.0.5:30443",
    "http://[fd00::1]:30080",
    "http://localhost:41234",
    "http://127.0.0.1:8080",
    "http://iml4e-gateway.iml4e.svc.cluster.local",
]
FOREIGN = ["ml.example.com", "10.evil.example.com", "localhost.evil.example.com", "192.168.1.20.evil.example.com"]


def write(gateway: Gateway, host: str, origin: str) -> requests.Response:
    """The request that MLflow's page sends as soon as the page is open; the request changes nothing."""
    headers = {"Host": host, "Origin": origin}
    return requests.post(gateway.url + SEARCH, json={"max_results": 1}, headers=headers, timeout=15)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_page_that_opens_works(gateway: Gateway, values: dict[str, Any], address: str) -> None:
    """By localhost, a port-forward, another name of the same machine: if the page opens, its own requests work too."""
    host = address.partition("://")[2]
    for part in ("mlflow", "prometheus", "pipelines"):
        if values[part]["enabled"]:
            path = {"mlflow": "/mlflow/", "prometheus": "/prometheus/-/healthy", "pipelines": "/pipeline/"}[part]
            assert gateway.get(path, headers={"Host": host}).status_code == 200, part
    answer = write(gateway, host, address)
    assert answer.status_code == 200, answer.text


def test_the_public_address_works_as_browsers_write_it(gateway: Gateway, values: dict[str, Any]) -> None:
    """Browsers omit a default port and write host names in lower case; users and proxies may not."""
    url = urlsplit(values["global"]["publicUrl"])
    host = url.hostname
    for asked in (host, host.upper(), f"{host}:80", f"{host}:8443"):
        for scheme in ("http", "https"):
            assert gateway.get("/mlflow/", headers={"Host": asked}).status_code == 200
            assert write(gateway, asked, f"{scheme}://{asked}").status_code == 200, (asked, scheme)
    # a proxy that changes the header Host
    port = f":{url.port}" if url.port not in (None, 80, 443) else ""
    assert write(gateway, "10.0.0.5:30080", f"{url.scheme}://{host}{port}").status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_mlflow_of_a_foreign_host_is_shut_as_a_whole_and_says_what_to_do(gateway: Gateway, host: str) -> None:
    """Otherwise a web page could point its own host name here (DNS rebinding), and read and write all runs through its visitor's browser."""
    for answer in (gateway.get("/mlflow/", headers={"Host": host}), write(gateway, host, f"http://{host}")):
        assert answer.status_code == 403
        assert "global.publicUrl" in answer.text
        assert "mlflow.allowedHosts" in answer.text


@pytest.mark.parametrize("origin", ["http://evil.example.com", "http://203.0.113.7", "null"])
def test_a_foreign_page_cannot_write(gateway: Gateway, origin: str) -> None:
    answer = write(gateway, "192.168.1.20:30080", origin)
    assert answer.status_code == 403
    assert "global.publicUrl" in answer.text


def test_a_foreign_host_cannot_be_scraped_by_its_name(cluster: Cluster) -> None:
    """Prometheus uses the pod's IP address, which no web page can pretend to have."""
    with cluster.port_forward("service/iml4e-mlflow", 5000) as port:
        codes = {
            host: requests.get(f"http://127.0.0.1:{port}/metrics", headers={"Host": host}, timeout=15).status_code
            for host in ("198.18.0.77:5000", "[fd00::1]:5000", "10.evil.example.com:5000")
        }
    assert list(codes.values()) == [200, 200, 403], codes


def test_a_foreign_page_cannot_read_metrics(gateway: Gateway, values: dict[str, Any]) -> None:
    if not values["prometheus"]["enabled"]:
        pytest.skip("prometheus is off in this release")
    path = "/prometheus/api/v1/query?query=up"
    for origin in ("http://evil.example.com", f"{values['global']['publicUrl']}.evil.example.com"):
        answer = gateway.get(path, headers={"Origin": origin})
        assert answer.status_code == 200
        assert answer.headers.get("Access-Control-Allow-Origin") not in ("*", origin)


def test_models_answer_under_any_name_and_only_to_pages_of_their_own(gateway: Gateway, wine: Model) -> None:
    asked = {"Host": "ml.example.com", "Origin": "http://evil.example.com", "Access-Control-Request-Method": "POST"}
    answer = requests.options(wine.base + wine.v1, headers=asked, timeout=15)
    assert answer.ok
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert gateway.get(f"/models/iml4e/{wine.name}{wine.v2}", headers={"Host": "ml.example.com"}).ok


def test_gateway_tells_its_own_health(gateway: Gateway) -> None:
    assert gateway.get("/ping").text == "OK"
