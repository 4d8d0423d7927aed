"""Writes what was measured: JSON, Markdown, the requests themselves, and the section of a documentation page."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.common import console
from scripts.common.paths import REPO

from .endpoints import Endpoint
from .events import Event, Outcome
from .judge import Goal
from .measurement import Figures, Request, Span, by_endpoint, figures, percentile

BEGIN = "<!-- availability: written by `make availability`, do not edit below -->"
END = "<!-- availability: end -->"


@dataclass
class Run:
    """Everything of a run."""

    command: str
    url: str
    release: str
    namespace: str
    start: float
    end: float
    endpoints: Sequence[Endpoint]
    left_out: Sequence[str]
    requests: Sequence[Request]
    outcomes: Sequence[Outcome]
    skipped: Sequence[Event] = ()
    goals: Sequence[Goal] = ()
    prometheus: dict[str, Any] = field(default_factory=dict)
    load: float = 0.0
    """Load average before the run."""

    def spans(self) -> list[Span]:
        """From each event's start to the next one's."""
        starts = [*(outcome.start for outcome in self.outcomes), self.end]
        return [
            Span(outcome.event.name, outcome.start, outcome.ready, starts[number + 1])
            for number, outcome in enumerate(self.outcomes)
        ]

    def quiet(self) -> Span:
        """The time before the first event."""
        first = self.outcomes[0].start if self.outcomes else self.end
        return Span("before", self.start, first, first)


def within(requests: Sequence[Request], start: float, end: float) -> Figures:
    """Figures of the requests that were due in a stretch of time."""
    return figures([request for request in requests if start <= request.due < end], start, end)


def ms(seconds: float) -> str:
    """Milliseconds, or nothing where there is nothing."""
    return "" if math.isnan(seconds) else f"{seconds * 1000:.0f}"


def kinds(found: Figures) -> str:
    """Failures by kind."""
    return ", ".join(f"{name}: {count}" for name, count in found.kinds.items())


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """A Markdown table, with the columns after the first `words` to the right."""
    line = ["---"] * words + ["---:"] * (len(head) - words)
    return ["| " + " | ".join(cells) + " |" for cells in (head, line, *rows)]


def event_rows(run: Run) -> list[list[str]]:
    """A row for each event: what was asked and lost, the longest gap, p99 before, during and after."""
    rows, before = [], run.quiet()
    former = (before.start, before.end)
    for outcome, span in zip(run.outcomes, run.spans(), strict=True):
        all_of_it = within(run.requests, span.start, span.end)
        rows.append(
            [
                outcome.event.title,
                f"{span.ready - span.start:.0f}",
                str(all_of_it.requests),
                str(all_of_it.lost),
                kinds(all_of_it),
                f"{all_of_it.gap:.1f}",
                f"{all_of_it.down:.1f}",
                ms(within(run.requests, *former).p99),
                ms(within(run.requests, span.start, span.ready).p99),
                ms(within(run.requests, span.ready, span.end).p99),
            ]
        )
        former = (span.ready, span.end)
    return rows


EVENT_HEAD = [
    "Event", "until Ready, s", "requests", "lost", "kinds", "longest gap, s", "down, s",
    "p99 before, ms", "during", "after",
]  # fmt: skip


def lost_rows(run: Run) -> list[list[str]]:
    """A row for each event that cost requests: how many of each group."""
    groups = list(dict.fromkeys(endpoint.group for endpoint in run.endpoints))
    group_of = {endpoint.name: endpoint.group for endpoint in run.endpoints}
    rows = []
    for outcome, span in zip(run.outcomes, run.spans(), strict=True):
        failed = [request for request in run.requests if request.outcome and span.part_of(request.due)]
        counts = [sum(group_of[request.endpoint] == group for request in failed) for group in groups]
        if failed:
            rows.append([outcome.event.title, *(str(count or "") for count in counts)])
    return [["Event", *groups], *rows]


def endpoint_rows(run: Run) -> list[list[str]]:
    """A row for each endpoint, and one for all together."""
    by_route = run.prometheus.get("routes", {})
    route_of = {endpoint.name: endpoint.route for endpoint in run.endpoints}
    rows = []
    for name, requests in [*by_endpoint(run.requests).items(), ("all together", run.requests)]:
        found = figures(requests, run.start, run.end)
        apart = [
            figures([r for r in requests if r.connection == each], run.start, run.end).availability
            for each in ("new", "kept")
        ]
        said = run.prometheus.get("overall") if name == "all together" else by_route.get(route_of[name])
        rows.append(
            [
                name,
                str(found.requests),
                str(found.lost),
                f"{found.availability:.3%}",
                *(f"{each:.3%}" for each in apart),
                f"{found.gap:.1f}",
                f"{found.down:.1f}",
                ms(found.p50),
                ms(found.p99),
                "" if said is None else f"{said:.3%}",
            ]
        )
    return rows


ENDPOINT_HEAD = [
    "Endpoint", "requests", "lost", "right answers", "new connections", "kept connections", "longest gap, s", "down, s",
    "p50, ms", "p99, ms", "Prometheus",
]  # fmt: skip


def commit() -> str:
    """The commit that was measured, and whether files differ from it."""
    try:
        name = console.run(["git", "-C", REPO, "rev-parse", "--short=10", "HEAD"]).strip()
        return name + (" with changes" if console.run(["git", "-C", REPO, "status", "--porcelain"]).strip() else "")
    except (console.Failure, subprocess.SubprocessError):
        return "unknown"


def machine() -> str:
    """Cores, memory, kernel of this machine."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    info = {name.strip(): value.strip() for name, _, value in lines}
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    model = info.get("model name", platform.machine())
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, Linux {platform.release()}"


def facts(run: Run) -> list[str]:
    """Where, when and how."""
    late = percentile([request.late for request in run.requests], 0.99)
    return [
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(run.start))} UTC, {(run.end - run.start) / 60:.0f} minutes; commit {commit()}.",
        f"`{run.command}`",
        f"{machine()}; load average before: {run.load:.1f}.",
        f"Release {run.release} in namespace {run.namespace}, asked at {run.url}.",
        f"The load generator sent 99 of 100 requests at most {ms(late)} ms late.",
        *([f"Prometheus: {run.prometheus['note']}"] if run.prometheus.get("note") else []),
        *(f"Left out: {reason}" for reason in run.left_out),
        *(f"Skipped: {event.title}: {event.skipped}." for event in run.skipped),
    ]


def markdown(run: Run) -> str:
    """The report as Markdown, without a title."""
    words = {True: "met", False: "missed", None: "not measured"}
    lines = [*(f"- {fact}" for fact in facts(run)), ""]
    lines += [*table(ENDPOINT_HEAD, endpoint_rows(run)), ""]
    lines += [*table(EVENT_HEAD, event_rows(run)), ""]
    head, *rows = lost_rows(run)
    lines += ["Lost requests by event and group:", "", *table(head, rows), ""] if rows else ["No request was lost.", ""]
    lines += table(["Goal", "measured", ""], [[g.goal, g.measured, words[g.met]] for g in run.goals], 3)
    return "\n".join(lines) + "\n"


def as_json(run: Run) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "command": run.command,
        "commit": commit(),
        "machine": machine(),
        "url": run.url,
        "release": run.release,
        "namespace": run.namespace,
        "start": run.start,
        "end": run.end,
        "left_out": list(run.left_out),
        "skipped": {event.name: event.skipped for event in run.skipped},
        "overall": asdict(figures(run.requests, run.start, run.end)),
        "availability": figures(run.requests, run.start, run.end).availability,
        "endpoints": {
            name: {
                **asdict(figures(each, run.start, run.end)),
                "availability": figures(each, run.start, run.end).availability,
            }
            for name, each in by_endpoint(run.requests).items()
        },
        "events": [
            {
                "name": outcome.event.name,
                "title": outcome.event.title,
                "start": span.start,
                "ready": span.ready,
                "end": span.end,
                "error": outcome.error,
                **asdict(within(run.requests, span.start, span.end)),
                "endpoints": {
                    name: asdict(figures(each, span.start, span.end))
                    for name, each in by_endpoint(r for r in run.requests if span.part_of(r.due)).items()
                },
            }
            for outcome, span in zip(run.outcomes, run.spans(), strict=True)
        ],
        "prometheus": run.prometheus,
        "goals": [asdict(goal) for goal in run.goals],
    }


def plain(value: Any) -> Any:
    """JSON has no NaN: nothing was measured."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write(run: Run, folder: Path) -> None:
    """Write JSON, Markdown and the requests into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "availability.json").write_text(json.dumps(plain(as_json(run)), indent=1) + "\n")
    (folder / "availability.md").write_text(f"# Availability\n\n{markdown(run)}")
    with gzip.open(folder / "requests.csv.gz", "wt", newline="") as sink:
        rows = csv.writer(sink)
        rows.writerow(Request._fields)
        rows.writerows((e, c, f"{d:.3f}", f"{s:.4f}", f"{late:.4f}", o) for e, c, d, s, late, o in run.requests)


def into_page(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        console.Failure: the page does not have the two marks.
    """
    content = page.read_text()
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise console.Failure(f"{page} has no section for the figures.", f"Add two lines: {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
