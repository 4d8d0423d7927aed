"""What the platform's own Prometheus computed for the same time, by the formula of its rules for the objective.

Availability of a route = share of probes that reached it × share of the gateway's answers without a 5xx. Where the gateway does
not answer at all there is no answer to count: only a probe sees that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from scripts.common import console

from .endpoints import Endpoint
from .measurement import Request

if TYPE_CHECKING:
    from .report import Run

#: Seconds until the last counters are scraped: the scrape interval and some.
SCRAPED = 20
#: Seconds after which the probe counts an answer as none (charts/prometheus/templates/probe/configmap.yaml). Clients of MLflow and of
#: the Pipelines API wait longer; to compare the two, they are measured by the probe's time.
PATIENCE = 10

Ask = Callable[[str], list[dict[str, Any]]]


def asker(url: str, at: float) -> Ask:
    """A function that evaluates an expression at a moment: series with labels and value."""

    def ask(expression: str) -> list[dict[str, Any]]:
        path = f"{url}/prometheus/api/v1/query"
        answer = httpx.get(path, params={"query": expression, "time": f"{at:.3f}"}, timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()["data"]["result"]

    return ask


def by_route(series: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Values by label `route`."""
    return {each["metric"]["route"]: float(each["value"][1]) for each in series if "route" in each["metric"]}


def availability(ask: Ask, seconds: float) -> tuple[dict[str, float], bool]:
    """Availability of each route in the last seconds, and whether there was a probe."""
    window = f"[{seconds:.0f}s]"
    answers = by_route(ask(f'sum by (route) (increase(traefik_router_requests_total{{route!=""}}{window})) > 0'))
    failed = by_route(
        ask(f'sum by (route) (increase(traefik_router_requests_total{{route!="", code=~"5.."}}{window}))')
    )
    reached = by_route(ask(f"avg_over_time(route:probe_reached:bool{window})"))
    found = {route: reached.get(route, 1.0) * (1 - failed.get(route, 0.0) / count) for route, count in answers.items()}
    return found, bool(reached)


def weighted(routes: dict[str, float], endpoints: Sequence[Endpoint], requests: Sequence[Request]) -> dict[str, Any]:
    """Prometheus' and the clients' availability of the same endpoints, weighted by the clients' requests.

    An answer that took longer than the probe waits is a failure here, on both sides.
    Empty where Prometheus knows no route that was asked.
    """
    route_of = {endpoint.name: endpoint.route for endpoint in endpoints if endpoint.route in routes}
    same = [request for request in requests if request.endpoint in route_of]
    if not same:
        return {}
    theirs = sum(routes[route_of[request.endpoint]] for request in same) / len(same)
    ours = sum(not request.outcome and request.seconds <= PATIENCE for request in same) / len(same)
    return {"overall": theirs, "clients": ours, "difference": abs(theirs - ours) * 100}


def compare(run: Run) -> dict[str, Any]:
    """Ask Prometheus about the time of a run; a sentence where it does not answer."""
    with console.step("ask Prometheus"):
        time.sleep(SCRAPED)
        now = time.time()
        try:
            routes, probed = availability(asker(run.url, now), now - run.start)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            return {"note": f"it did not answer: {error}"}
    found = {"routes": routes, **weighted(routes, run.endpoints, run.requests)}
    if not probed:
        found["note"] = "without a probe: it does not see requests that the gateway did not answer at all."
    return found
