"""Prometheus scrapes every part and every model, and requests show up in the metrics."""

from __future__ import annotations

import pytest

from support import serving
from support.k8s import Cluster
from support.parts import PARTS, Part
from support.platform import Gateway, Model


@pytest.mark.parametrize("part", [c for c in PARTS if c.metrics], ids=lambda part: part.name)
def test_part_is_scraped(cluster: Cluster, gateway: Gateway, part: Part) -> None:
    up = f'up{{job="{part.job}",component="{part.name}"}}'

    def values() -> list[float]:
        return [value for _, value in gateway.query(up)]

    assert cluster.wait(f"{up} to be 1", lambda: values() and all(value == 1 for value in values()), 90)


def test_model_is_scraped(cluster: Cluster, gateway: Gateway, wine: Model) -> None:
    up = f'up{{job="models",namespace="{wine.namespace}",inferenceservice="{wine.name}"}}'
    cluster.wait(f"{up} to be 1", lambda: any(value == 1 for _, value in gateway.query(up)), 90)


def test_no_target_is_down(cluster: Cluster, gateway: Gateway) -> None:
    def down() -> list[str]:
        return [f"{t['labels']} {t['lastError']}" for t in gateway.targets() if t["health"] != "up"]

    cluster.wait("all targets to be up", lambda: not down(), 90)


@pytest.mark.parametrize(
    "counter",
    [
        'sum(model_server_requests_total{model="wine",protocol="v1",code="200"})',
        'sum(model_server_request_duration_seconds_count{model="wine"})',
        'sum(traefik_service_requests_total{code="200",service=~".*wine.*"})',
    ],
    ids=["the model's own", "the model's histogram", "the gateway's"],
)
def test_counter_moves_with_predictions(
    cluster: Cluster, gateway: Gateway, wine: Model, bottle: dict[str, float], counter: str
) -> None:
    def value() -> float:
        return sum(value for _, value in gateway.query(counter))

    before = value()
    for _ in range(5):
        assert wine.predict([bottle]).ok
    cluster.wait(f"{counter} to grow by 5", lambda: value() >= before + 5, 90, pause=3)


def test_rules_are_loaded_and_healthy(gateway: Gateway) -> None:
    groups = gateway.get("/prometheus/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}
    assert [
        f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] not in ("ok", "unknown")
    ] == []


def test_a_first_burst_of_errors_is_counted(cluster: Cluster, gateway: Gateway, unique: str) -> None:
    """The series of a new route's 503 is born with its first value; the rules count that value too."""
    service = {"name": unique, "namespace": cluster.namespace}
    route = serving.route(unique)
    route["spec"]["rules"][0]["backendRefs"] = [{"name": unique, "port": 80}]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {"selector": {"nobody": "there"}, "ports": [{"port": 80}]},
        },
        route,
    )
    try:
        path = f"/models/{cluster.namespace}/{unique}/v2/health/live"
        cluster.wait("the route to be known", lambda: gateway.get(path).status_code == 503, 30)
        for _ in range(11):
            assert gateway.get(path).status_code == 503
        ratio = f'route:error_ratio:rate5m{{route="{cluster.namespace}-{unique}"}}'
        cluster.wait(f"{ratio} to be 1", lambda: [v for _, v in gateway.query(ratio)] == [1], 90, pause=3)
        count = f'sum(increase(traefik_router_requests_total{{route="{cluster.namespace}-{unique}",code="503"}}[5m]))'
        assert gateway.query(count)[0][1] >= 11
    finally:
        cluster.delete(serving.GATEWAY, "HTTPRoute", unique)
        cluster.delete("v1", "Service", unique)
