"""What the gateway's Prometheus counted in the time of a run, beside what the run sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

#: Users' requests: the probes of the platform itself are HEAD.
COUNTER = 'traefik_router_requests_total{route!="", method!="HEAD"}'
#: Seconds to wait for the scrape that holds the last request: two intervals of the chart's default, and some.
PATIENCE = 40
#: Difference that needs no explanation: one in a hundred.
CLOSE = 0.01

Series = tuple[str, str, str, str]


@dataclass(frozen=True)
class Counters:
    """The gateway's counters at a moment."""

    values: dict[Series, float] = field(default_factory=dict)
    """By route, code, method and pod."""
    scraped: float = 0.0
    """When they were scraped: the oldest of them, seconds since 1970."""
    others: dict[str, float] = field(default_factory=dict)
    """Requests a minute that each route had in the two minutes before."""
    why: str = ""
    """Why there are none."""


@dataclass(frozen=True)
class Route:
    """A route: requests that the run sent and that the gateway counted."""

    name: str
    sent: int
    counted: int
    codes: dict[str, int]
    why: str
    """Explanation of the difference; empty: there is none worth a word."""


def query(http: requests.Session, url: str, expression: str) -> list[dict[str, Any]]:
    """Evaluate an expression now."""
    path = f"{url}/prometheus/api/v1/query"
    answer = http.post(path, data={"query": expression}, timeout=15, allow_redirects=False)
    answer.raise_for_status()
    return answer.json()["data"]["result"]


def counters(http: requests.Session, url: str) -> Counters:
    """Read the counters."""
    try:
        values = {
            tuple(row["metric"].get(label, "") for label in ("route", "code", "method", "pod")): float(row["value"][1])
            for row in query(http, url, COUNTER)
        }
        times = [float(row["value"][1]) for row in query(http, url, f"timestamp({COUNTER})")]
        rates = query(http, url, f"60 * sum by (route) (rate({COUNTER}[2m]))")
    except (requests.RequestException, ValueError, LookupError) as error:
        status = getattr(getattr(error, "response", None), "status_code", "")
        return Counters(why=f"Prometheus does not answer at {url}/prometheus ({status or type(error).__name__})")
    if not values:
        return Counters(why=f"Prometheus at {url}/prometheus has no counters of a gateway")
    others = {row["metric"]["route"]: float(row["value"][1]) for row in rates}
    return Counters(values, min(times), others)


def counters_after(http: requests.Session, url: str, moment: float) -> Counters:
    """Read the counters as soon as they were scraped after a moment."""
    end = time.monotonic() + PATIENCE
    while True:
        found = counters(http, url)
        if found.why or found.scraped > moment:
            return found
        if time.monotonic() > end:
            return Counters(why=f"Prometheus scraped nothing of the gateway in {PATIENCE} s")
        time.sleep(1)


def compare(before: Counters, after: Counters, sent: Mapping[str, int], unanswered: Mapping[str, int]) -> list[Route]:
    """Compare by route. A counter that was not there before counts from 0, and so does one that began again."""
    grown: dict[str, dict[str, int]] = {}
    for series, value in after.values.items():
        route, code, _, _ = series
        former = before.values.get(series, 0.0)
        if more := round(value - former if value >= former else value):
            codes = grown.setdefault(route, {})
            codes[code] = codes.get(code, 0) + more
    gone = {series[3] for series in before.values} - {series[3] for series in after.values}
    found = []
    for route in sorted(sent):
        codes = grown.get(route, {})
        counted = sum(codes.values())
        found.append(
            Route(
                route,
                sent[route],
                counted,
                dict(sorted(codes.items())),
                explain(
                    sent[route],
                    counted,
                    unanswered.get(route, 0),
                    before.others.get(route, 0.0) * (after.scraped - before.scraped) / 60,
                    restarted=bool(gone),
                ),
            )
        )
    return found


def explain(sent: int, counted: int, unanswered: int, others: float, *, restarted: bool) -> str:
    """Why the gateway counted more or less than was sent; empty within one in a hundred.

    `others`: requests that the route would have had in this time by its traffic before the run.
    """
    if abs(counted - sent) <= CLOSE * max(1, sent):
        return ""
    if restarted:
        return "a pod of the gateway ended in this time, and what it counted since its last scrape with it"
    if not counted:
        return "not a route of this Prometheus: set IML4E_RELEASE and IML4E_NAMESPACE, if the release has other names"
    if counted > sent:
        return (
            f"{counted - sent:,} requests of others, or sent twice: the gateway counts everything on the route; "
            f"at the pace before the run others would have sent {others:,.0f}"
        )
    if sent - counted <= unanswered:
        return f"{unanswered:,} requests ended without an answer: the gateway did not get them"
    return "not explained: look at the gateway's log"
