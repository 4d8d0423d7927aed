"""What was asked and how long answers took: exact figures, which locust's own statistics round to two digits."""

from __future__ import annotations

import csv
import gzip
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: A run ends when it has sent so many requests: each is kept in memory.
MOST_REQUESTS = 500_000


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a user."""

    service: str
    name: str
    start: float
    """When it was sent: seconds since 1970."""
    late: float
    """Seconds that it was sent later than its user had planned, as the answers before took too long."""
    seconds: float
    """From sending to the end of the answer."""
    failure: str = ""
    """Why the answer was not right; empty: it was."""

    @property
    def due(self) -> float:
        """Seconds from the moment at which the request was due until the end of the answer."""
        return self.late + self.seconds


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that is not below `share` of all (nearest rank, exact); 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(frozen=True)
class Summary:
    """Figures of some requests; times in milliseconds."""

    requests: int
    failures: int
    p50: float
    p95: float
    p99: float
    longest: float
    answered_p99: float
    """99th percentile from sending, without the time that requests waited to be sent."""
    late: float
    """Share of requests that were sent more than 100 ms late."""

    @property
    def failed(self) -> float:
        """Share of failed requests."""
        return self.failures / self.requests if self.requests else 0.0


def summary(requests: Sequence[Request]) -> Summary:
    """Figures of requests, failed ones included: users wait for those too."""
    due = [1000 * each.due for each in requests]
    return Summary(
        requests=len(requests),
        failures=sum(bool(each.failure) for each in requests),
        p50=percentile(due, 0.5),
        p95=percentile(due, 0.95),
        p99=percentile(due, 0.99),
        longest=max(due, default=0.0),
        answered_p99=percentile((1000 * each.seconds for each in requests), 0.99),
        late=sum(each.late > 0.1 for each in requests) / max(1, len(requests)),
    )


def drift(requests: Sequence[Request]) -> float:
    """The 95th percentile of the last third of the time as a multiple of that of the first third; 0: too few requests to tell."""
    if len(requests) < 60:
        return 0.0
    first, last = min(each.start for each in requests), max(each.start for each in requests)
    third = (last - first) / 3
    early = percentile((each.due for each in requests if each.start <= first + third), 0.95)
    late = percentile((each.due for each in requests if each.start >= last - third), 0.95)
    return late / early if early else 0.0


@dataclass
class Record:
    """Everything that a run did."""

    began: float = field(default_factory=time.time)
    ended: float = 0.0
    requests: list[Request] = field(default_factory=list)
    users: list[tuple[float, int]] = field(default_factory=list)
    """How many users there were: (seconds since 1970, number)."""
    routes: Counter[str] = field(default_factory=Counter)
    """Requests by route of the gateway, those of preparing and removing included."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Those of them that ended without an answer."""

    @property
    def seconds(self) -> float:
        """How long users asked."""
        return (self.ended or time.time()) - self.began

    @property
    def full(self) -> bool:
        """Whether the limit of requests is reached."""
        return len(self.requests) >= MOST_REQUESTS

    def services(self) -> dict[str, list[Request]]:
        """Requests by service, the busiest first."""
        found: dict[str, list[Request]] = {}
        for each in self.requests:
            found.setdefault(each.service, []).append(each)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def write(self, target: Path) -> None:
        """Write all requests as compressed CSV, times in seconds since the start."""
        with gzip.open(target, "wt", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["service", "request", "sent", "late", "seconds", "failure"])
            for each in self.requests:
                times = (f"{value:.6f}" for value in (each.start - self.began, each.late, each.seconds))
                rows.writerow([each.service, each.name, *times, each.failure])


def by_name(requests: Sequence[Request]) -> dict[str, list[Request]]:
    """Requests by name, in alphabetical order."""
    found: dict[str, list[Request]] = {}
    for each in requests:
        found.setdefault(each.name, []).append(each)
    return dict(sorted(found.items()))


def failures(requests: Sequence[Request]) -> list[tuple[str, str, int]]:
    """Failures by request and reason: (request, reason, how often), the most frequent first."""
    found = Counter((each.name, each.failure) for each in requests if each.failure)
    return [(name, why, count) for (name, why), count in found.most_common()]
