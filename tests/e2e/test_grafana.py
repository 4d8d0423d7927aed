"""Grafana: login, data source, provisioned dashboards, and what stays over a restart."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

import pytest
import requests

from support import helm
from support.k8s import Cluster
from support.platform import Gateway

NAME = "iml4e-grafana"
USER = "admin"


@pytest.fixture(autouse=True)
def needs_grafana(values: dict[str, Any]) -> None:
    """Grafana's image is in no package registry."""
    if not (values["grafana"]["enabled"] and values["grafana"]["server"]["enabled"]):
        pytest.skip("grafana is off in this release")


@pytest.fixture
def password(cluster: Cluster) -> str:
    """The administrator's password, as the release's notes say to read it."""
    return cluster.secret(NAME)["adminPassword"]


def ask(gateway: Gateway, path: str, password: str = "", **options: Any) -> requests.Response:
    """GET below /grafana, as the administrator where there is a password."""
    return gateway.get(f"/grafana{path}", **({"auth": (USER, password)} if password else {}), **options)


def test_the_password_is_the_secrets_and_no_other(gateway: Gateway, password: str) -> None:
    assert len(password) >= 32
    assert ask(gateway, "/api/user", password).json()["isGrafanaAdmin"] is True
    # once: five wrong passwords within five minutes shut a user out
    assert ask(gateway, "/api/user", "admin").status_code == 401


def test_a_visitor_of_a_laptop_sees_the_dashboards_and_changes_nothing(gateway: Gateway) -> None:
    found = ask(gateway, "/api/search", params={"type": "dash-db"}).json()
    assert {board["folderTitle"] for board in found} == {"IML4E"}
    board = ask(gateway, f"/api/dashboards/uid/{found[0]['uid']}").json()
    assert board["meta"]["canSave"] is False
    refused = requests.post(f"{gateway.url}/grafana/api/folders", json={"title": "mine"}, timeout=15)
    assert refused.status_code in (401, 403)


def test_every_dashboard_of_the_chart_is_provisioned(gateway: Gateway, password: str) -> None:
    files = sorted(path.stem for path in (helm.CHART / "charts" / "grafana" / "files" / "dashboards").glob("*.json"))
    found = ask(gateway, "/api/search", password, params={"type": "dash-db"}).json()
    assert len(found) == len(files) >= 6
    for board in found:
        meta = ask(gateway, f"/api/dashboards/uid/{board['uid']}", password).json()["meta"]
        assert meta["provisioned"] is True


def test_the_data_source_answers(cluster: Cluster, gateway: Gateway) -> None:
    query = {"refId": "A", "datasource": {"type": "prometheus", "uid": "prometheus"}, "expr": "up", "instant": True}

    def series() -> int:
        body = {"queries": [query], "from": "now-5m", "to": "now"}
        answer = requests.post(f"{gateway.url}/grafana/api/ds/query", json=body, timeout=15)
        return len(answer.json()["results"]["A"]["frames"]) if answer.ok else 0

    assert cluster.wait("Grafana to get series of Prometheus", series, 60)


def test_the_first_page_is_the_platform(gateway: Gateway) -> None:
    home = ask(gateway, "/api/dashboards/home").json()
    assert home["dashboard"]["uid"] == "iml4e-platform"


def test_pages_work_under_another_name_of_the_gateway(gateway: Gateway) -> None:
    page = ask(gateway, "/", headers={"Host": "ml.example.org"})
    assert page.status_code == 200
    assert 'href="/grafana/' in page.text or 'src="/grafana/' in page.text or '"appSubUrl":"/grafana"' in page.text


@pytest.mark.disruptive
def test_a_restart_keeps_a_persons_dashboard_and_takes_a_new_password(
    cluster: Cluster, gateway: Gateway, password: str
) -> None:
    board = {"dashboard": {"id": None, "uid": None, "title": f"kept {secrets.token_hex(4)}", "panels": []}}
    made = requests.post(f"{gateway.url}/grafana/api/dashboards/db", json=board, auth=(USER, password), timeout=15)
    uid = made.json()["uid"]
    another = secrets.token_urlsafe(24)

    def set_password(text: str) -> None:
        body = {"data": {"adminPassword": base64.b64encode(text.encode()).decode()}}
        cluster.core.patch_namespaced_secret(NAME, cluster.namespace, body)
        cluster.replace("app.kubernetes.io/name=grafana")
        cluster.wait("Grafana to know the password", lambda: ask(gateway, "/api/user", text).ok, 90)

    try:
        set_password(another)
        assert ask(gateway, "/api/user", password).status_code == 401
        assert ask(gateway, f"/api/dashboards/uid/{uid}", another).json()["dashboard"]["title"].startswith("kept")
    finally:
        time.sleep(1)
        set_password(password)
        requests.delete(f"{gateway.url}/grafana/api/dashboards/uid/{uid}", auth=(USER, password), timeout=15)


def test_the_log_has_no_errors_and_memory_is_small(cluster: Cluster) -> None:
    pod = cluster.pods("app.kubernetes.io/name=grafana")[0]["metadata"]["name"]
    lines = [line for line in cluster.logs(pod, lines=2000).splitlines() if line.startswith("{")]
    # logger `context` tells of requests, as of one with a wrong password
    said = [found for found in map(json.loads, lines) if found["logger"] != "context"]
    assert [found for found in said if found["level"] not in ("info", "warn")] == []
    used = cluster.read(f"/apis/metrics.k8s.io/v1beta1/namespaces/{cluster.namespace}/pods/{pod}")
    bytes_used = sum(int(c["usage"]["memory"].removesuffix("Ki")) * 1024 for c in used["containers"])
    assert bytes_used < 250 * 2**20
