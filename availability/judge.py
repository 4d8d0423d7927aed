"""Goals, and whether a run meets them: this decides the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .endpoints import Endpoint
from .events import Event, Outcome
from .measurement import Request, Span, figures, percentile

OVERALL = 0.99
"""Share of right answers of the whole run."""
ONE_OF_TWO = 0.001
"""Share of requests to a model of two replicas that a killed pod may cost."""
LATE = 0.25
"""Seconds that 99 of 100 requests may be late by the load generator's fault: a starved client finds answers late that are not."""
POINTS = 0.5
"""Percentage points that Prometheus' figure may differ."""


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured."""

    goal: str
    measured: str
    met: bool | None
    """None: not measured."""


def lost(requests: Sequence[Request], span: Span, names: set[str]) -> tuple[int, int]:
    """Requests of some endpoints in a span, and how many of them got no right answer."""
    some = [request for request in requests if request.endpoint in names and span.part_of(request.due)]
    return len(some), sum(bool(request.outcome) for request in some)


def goals(
    requests: Sequence[Request],
    endpoints: Sequence[Endpoint],
    outcomes: Sequence[Outcome],
    spans: Sequence[Span],
    own: str,
    difference: float | None,
    skipped: Sequence[Event] = (),
) -> list[Goal]:
    """Compare a run with the goals.

    Args:
        requests: of the whole run.
        endpoints: what was asked.
        outcomes: what happened.
        spans: from each event's start to the next one's, in the same order.
        own: name of the model of two replicas; empty: there was none.
        difference: percentage points between Prometheus' availability and the clients'; None: Prometheus said nothing.
        skipped: events that could not happen here.
    """
    whole = figures(requests, 0, 0).availability if requests else 0.0
    found = [Goal(f"Right answers in all: at least {OVERALL:.0%}", f"{whole:.3%}", whole >= OVERALL)]
    for outcome, span in zip(outcomes, spans, strict=True):
        event = outcome.event
        if outcome.error:
            found.append(Goal(f"{event.title}: takes place, and all is Ready again", outcome.error, False))
        for group in event.lossless:
            names = {endpoint.name for endpoint in endpoints if endpoint.group == group}
            asked, failed = lost(requests, span, names)
            if names:
                found.append(Goal(f"{event.title}: {group} lose nothing", f"{failed} of {asked}", not failed))
        if event.two_replicas:
            names = {endpoint.name for endpoint in endpoints if own and endpoint.path.startswith(_base(endpoint, own))}
            asked, failed = lost(requests, span, names)
            share = failed / asked if asked else 1.0
            goal = f"{event.title}: at most {ONE_OF_TWO:.1%} of its requests lost"
            found.append(Goal(goal, f"{failed} of {asked} ({share:.2%})", share <= ONE_OF_TWO if names else None))
    found += [Goal(event.title, f"skipped: {event.skipped}", None) for event in skipped]
    late = percentile([request.late for request in requests], 0.99)
    goal = f"The load generator kept its schedule: 99 of 100 requests at most {LATE * 1000:.0f} ms late"
    found.append(Goal(goal, f"{late * 1000:.0f} ms", late <= LATE))
    text = "" if difference is None else f"{difference:.2f} points"
    met = None if difference is None else difference <= POINTS
    return [
        *found,
        Goal(f"Prometheus' availability differs by at most {POINTS} points, answers within 10 s", text, met),
    ]


def _base(endpoint: Endpoint, own: str) -> str:
    """The path below which the model of two replicas is."""
    return "/".join([*endpoint.path.split("/")[:3], own, ""])
