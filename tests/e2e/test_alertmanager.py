"""Alerts of a second release reach a receiver in the cluster: grouped, with its password from a Secret, and told when they end."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from support import helm, releases
from support.k8s import Cluster

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(600)]

NAME = "alerts"
TOKEN = "a-token-of-this-test"
#: A receiver: keeps what comes with the right password, and shows it.
RECEIVER = """
import http.server, json
kept = []
class Receiver(http.server.BaseHTTPRequestHandler):
    def answer(self, code, body=b""):
        self.send_response(code); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.headers.get("Authorization") == "Bearer TOKEN"
        kept.append({"path": self.path, "known": known, **body})
        self.answer(200 if known else 401)
    def do_GET(self):
        self.answer(200, json.dumps(kept).encode())
http.server.HTTPServer(("", 8000), Receiver).serve_forever()
"""
WEBHOOK = {
    "url": f"http://receiver.{NAME}.svc:8000/alerts",
    "http_config": {"authorization": {"credentials_file": "/etc/alertmanager/secrets/webhook/token"}},
}
#: A watchdog goes its own way, and often: its receiver calls for help when it stops.
WATCHDOG = {"receiver": "watchdog", "matchers": ['alertname="Watchdog"'], "group_wait": "0s", "repeat_interval": "1m"}
VALUES: dict[str, Any] = {
    **{part: {"enabled": False} for part in ("minio", "mariadb", "mlflow", "kserve")},
    "prometheus": {
        "scrapeInterval": "5s",
        "alertmanager": {
            "resources": {"requests": {"cpu": "10m"}},
            "secrets": ["webhook"],
            "config": {
                "receivers": [
                    {"name": "team", "webhook_configs": [WEBHOOK]},
                    {"name": "watchdog", "webhook_configs": [WEBHOOK | {"url": f"http://receiver.{NAME}.svc:8000/watchdog"}]},
                ],
                "route": {"receiver": "team", "group_wait": "2s", "group_interval": "5s", "routes": [WATCHDOG]},
            },
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """The release and its receiver, by ports of this machine."""

    cluster: Cluster
    alertmanager: str
    gateway: str
    receiver: str

    def told(self, path: str, **labels: str) -> list[dict[str, Any]]:
        """Messages about alerts with these labels."""
        messages = requests.get(self.receiver, timeout=10).json()
        return [m for m in messages if m["path"] == path and labels.items() <= m["commonLabels"].items()]


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Place]:
    """The second release, with a receiver beside it."""
    with releases.namespace(cluster, NAME) as there:
        runtime = releases.runtime(there)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "webhook"}, "stringData": {"token": TOKEN}}
        context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "receiver", "labels": {"app": "receiver"}},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "receiver",
                        "image": f"{runtime['registry']}/{runtime['repository']}:{runtime['tag']}",
                        "command": ["python", "-c", RECEIVER.replace("TOKEN", TOKEN)],
                        "securityContext": context,
                        "readinessProbe": {"httpGet": {"port": 8000}, "periodSeconds": 1},
                    }
                ],
            },
        }
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "receiver"},
            "spec": {"selector": {"app": "receiver"}, "ports": [{"port": 8000}]},
        }
        there.apply(secret, pod, service)
        with (
            releases.installed(there, ["laptop"], VALUES),
            there.port_forward(f"service/{NAME}-alertmanager", 9093) as alertmanager,
            there.port_forward(f"service/{NAME}-gateway", 80) as gateway,
            there.port_forward("service/receiver", 8000) as receiver,
        ):
            yield Place(
                there,
                f"http://127.0.0.1:{alertmanager}/alertmanager",
                f"http://127.0.0.1:{gateway}/alertmanager",
                f"http://127.0.0.1:{receiver}/",
            )


def alert(pod: str, *, ends: bool = False) -> dict[str, Any]:
    """An alert as Prometheus sends it; the group waits for others only where the alert is young."""
    now = datetime.datetime.now(datetime.UTC)
    labels = {"alertname": "PodNotRunning", "namespace": NAME, "pod": pod, "severity": "warning"}
    times = {"startsAt": now - datetime.timedelta(seconds=1)} | ({"endsAt": now} if ends else {})
    return {"labels": labels, **{key: time.isoformat() for key, time in times.items()}}


def send(place: Place, *alerts: dict[str, Any]) -> None:
    """Send alerts to Alertmanager."""
    requests.post(f"{place.alertmanager}/api/v2/alerts", json=list(alerts), timeout=10).raise_for_status()


def test_an_alert_of_prometheus_arrives_again_and_again(place: Place) -> None:
    """The watchdog fires always: whoever hears nothing of it knows that the alarms are broken."""
    place.cluster.wait("the watchdog", lambda: place.told("/watchdog", alertname="Watchdog"), 90)
    [first, *_] = place.told("/watchdog", alertname="Watchdog")
    assert (first["status"], first["receiver"]) == ("firing", "watchdog")
    address = helm.release_values()["global"]["publicUrl"]
    assert first["externalURL"] == f"{address}/alertmanager"
    assert first["alerts"][0]["generatorURL"].startswith(f"{address}/prometheus/")
    place.cluster.wait("a second message", lambda: len(place.told("/watchdog", alertname="Watchdog")) > 1, 100)


def test_alerts_of_one_name_are_one_message_and_their_end_is_told(place: Place) -> None:
    send(place, alert("one"), alert("two"))
    place.cluster.wait("a message", lambda: place.told("/alerts", alertname="PodNotRunning"), 30)
    [message] = place.told("/alerts", alertname="PodNotRunning")
    assert message["known"], "the password is that of the Secret"
    assert message["groupLabels"] == {"alertname": "PodNotRunning", "namespace": NAME}
    assert {each["labels"]["pod"] for each in message["alerts"]} == {"one", "two"}
    send(place, alert("one", ends=True), alert("two", ends=True))

    def ended() -> list[dict[str, Any]]:
        return [m for m in place.told("/alerts", alertname="PodNotRunning") if m["status"] == "resolved"]

    place.cluster.wait("its end", ended, 30)
    assert {each["status"] for each in ended()[0]["alerts"]} == {"resolved"}


def test_the_gateway_shows_alerts_and_takes_none(place: Place) -> None:
    assert requests.get(f"{place.gateway}/", timeout=10).status_code == 200
    shown = requests.get(f"{place.gateway}/api/v2/alerts", timeout=10).json()
    assert "Watchdog" in {each["labels"]["alertname"] for each in shown}
    status = requests.get(f"{place.gateway}/api/v2/status", timeout=10)
    assert status.ok
    assert TOKEN not in status.text
    silence = {
        "matchers": [{"name": "alertname", "value": "ContainerThrottled", "isRegex": False}],
        "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2099-01-01T00:00:00Z", "createdBy": "anybody", "comment": "x",
    }  # fmt: skip
    assert requests.post(f"{place.gateway}/api/v2/silences", json=silence, timeout=10).status_code in (404, 405)
    assert requests.post(f"{place.gateway}/api/v2/alerts", json=[alert("three")], timeout=10).status_code in (404, 405)
    for path in ("/-/reload", "/-/healthy", "/debug/pprof/", "/metrics"):
        assert requests.get(f"{place.gateway}{path}", timeout=10).status_code == 404, path
    # whoever may forward a port may silence
    assert requests.post(f"{place.alertmanager}/api/v2/silences", json=silence, timeout=10).ok


def test_silences_outlive_the_pod(place: Place) -> None:
    silence = {
        "matchers": [{"name": "alertname", "value": "ContainerThrottled", "isRegex": False}],
        "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2099-01-01T00:00:00Z", "createdBy": "test", "comment": "known",
    }  # fmt: skip
    made = requests.post(f"{place.alertmanager}/api/v2/silences", json=silence, timeout=10).json()["silenceID"]
    pod = f"{NAME}-alertmanager-0"
    before = place.cluster.core.read_namespaced_pod(pod, NAME).metadata.uid
    place.cluster.core.delete_namespaced_pod(pod, NAME)

    def replaced() -> bool:
        [found] = place.cluster.pods("app.kubernetes.io/name=alertmanager") or [None]
        return bool(found) and found["metadata"]["uid"] != before

    place.cluster.wait("another pod", replaced, 60)
    place.cluster.wait_ready("StatefulSet", f"{NAME}-alertmanager", 60)
    with place.cluster.port_forward(f"service/{NAME}-alertmanager", 9093) as port:
        kept = requests.get(f"http://127.0.0.1:{port}/alertmanager/api/v2/silences", timeout=10).json()
    assert made in {each["id"] for each in kept}
