"""What is counted: requests with their outcomes, and figures of any set of them. Nothing here knows a cluster."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

OK = ""


class Request(NamedTuple):
    """One request of a client."""

    endpoint: str
    connection: str
    """`new`: a connection of its own; `kept`: the connection of the requests before."""
    due: float
    """When the schedule wanted it sent, in seconds since 1970."""
    seconds: float
    """From that moment to the end of the answer: a request that had to wait to be sent has waited as well."""
    late: float
    """How late the load generator sent it: its own fault, no server's."""
    outcome: str
    """Empty: a right answer in time. Otherwise the kind of failure."""

    @property
    def ended(self) -> float:
        """When the answer or the failure was there."""
        return self.due + self.seconds


@dataclass(frozen=True)
class Span:
    """A stretch of time of the run: everything from one event's start to the next event's start belongs to the first."""

    name: str
    start: float
    ready: float
    """When everything was Ready again."""
    end: float
    """When the next event started, or the run ended."""

    def part_of(self, due: float) -> bool:
        """Whether a request that was due then belongs here."""
        return self.start <= due < self.end


@dataclass
class Figures:
    """Figures of a set of requests."""

    requests: int = 0
    lost: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """Failures by kind."""
    gap: float = 0.0
    """Longest time without a right answer, of any endpoint that is asked once a second or more often; in seconds."""
    down: float = 0.0
    """Time in which the worst endpoint failed, in seconds; see `downtime`."""
    p50: float = math.nan
    p99: float = math.nan
    """Of right answers, in seconds."""

    @property
    def availability(self) -> float:
        """Share of right answers; 1 where nothing was asked."""
        return 1 - self.lost / self.requests if self.requests else 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def longest_gap(requests: Iterable[Request], start: float, end: float) -> float:
    """Longest time between two right answers that follow each other, or between one and the edge of the time looked at.

    Answers count when they arrive: a stall without any failure is a gap, too.
    """
    moments = sorted(min(max(r.ended, start), end) for r in requests if r.outcome == OK)
    edges = [start, *moments, end]
    return max(later - earlier for earlier, later in itertools.pairwise(edges))


def downtime(requests: Iterable[Request]) -> float:
    """Seconds in which requests failed: from each first failure to the next request that got a right answer, by schedule."""
    total, since, last = 0.0, None, 0.0
    for request in sorted(requests, key=lambda r: r.due):
        last = request.due
        if request.outcome != OK:
            since = request.due if since is None else since
        elif since is not None:
            total += request.due - since
            since = None
    return total + (last - since if since is not None else 0.0)


def by_endpoint(requests: Iterable[Request]) -> dict[str, list[Request]]:
    """Requests by endpoint, in order of the endpoints' names."""
    found: dict[str, list[Request]] = {}
    for request in requests:
        found.setdefault(request.endpoint, []).append(request)
    return dict(sorted(found.items()))


def figures(requests: Sequence[Request], start: float, end: float) -> Figures:
    """Figures of requests between two moments; gap and downtime are the worst endpoint's."""
    right = [request.seconds for request in requests if request.outcome == OK]
    kinds = Counter(request.outcome for request in requests if request.outcome != OK)
    apart = by_endpoint(requests).values()
    # an endpoint that is asked rarely has long gaps without any fault
    often = [each for each in apart if len(each) >= end - start] or apart
    return Figures(
        requests=len(requests),
        lost=sum(kinds.values()),
        kinds=dict(kinds.most_common()),
        gap=max((longest_gap(each, start, end) for each in often), default=0.0),
        down=max((downtime(each) for each in apart), default=0.0),
        p50=percentile(right, 0.5),
        p99=percentile(right, 0.99),
    )
