"""A picture of the run: what each endpoint answered in each second, how long answers took, and what happened when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import Patch

from .measurement import Request, by_endpoint, percentile
from .report import Run

GOOD, SOME, NONE = "#cfe8d5", "#f0a202", "#c1121f"
INK, SHADE = "#222222", "#e9edf5"


def seconds(requests: Sequence[Request], start: float) -> dict[int, tuple[int, int]]:
    """Requests and failures of each second since the start."""
    found: dict[int, tuple[int, int]] = {}
    for request in requests:
        number = int(request.due - start)
        asked, lost = found.get(number, (0, 0))
        found[number] = (asked + 1, lost + bool(request.outcome))
    return found


def percentiles(
    requests: Sequence[Request], start: float, width: float, share: float
) -> tuple[list[float], list[float]]:
    """Minutes and milliseconds: a percentile of right answers in stretches of so many seconds."""
    slots: dict[int, list[float]] = {}
    for request in requests:
        if not request.outcome:
            slots.setdefault(int((request.due - start) / width), []).append(request.seconds)
    numbers = sorted(slots)
    return [(n + 0.5) * width / 60 for n in numbers], [percentile(slots[n], share) * 1000 for n in numbers]


def timeline(run: Run, target: Path) -> None:
    """Write the picture."""
    apart = by_endpoint(run.requests)
    minutes = (run.end - run.start) / 60
    wide = min(34.0, max(11.0, 3 + 0.62 * len(run.outcomes)))
    figure, (above, below) = pyplot.subplots(
        2, 1, sharex=True, figsize=(wide, 4.6 + 0.36 * len(apart)), height_ratios=[max(1.0, 0.36 * len(apart)), 2.2],
        layout="constrained",
    )  # fmt: skip
    for row, requests in enumerate(apart.values()):
        above.broken_barh([(0, minutes)], (row - 0.38, 0.76), color=GOOD, linewidth=0)
        for number, (asked, lost) in seconds(requests, run.start).items():
            if lost:
                # a second is thinner than a pixel in a long run
                width = max(1 / 60, minutes / 900)
                above.broken_barh(
                    [(number / 60, width)], (row - 0.38, 0.76), color=NONE if lost == asked else SOME, linewidth=0
                )
    above.set_yticks(range(len(apart)), apart.keys())
    above.set_ylim(len(apart) - 0.5, -0.5)
    for share, label, style in ((0.5, "p50", ":"), (0.99, "p99", "-")):
        below.plot(*percentiles(run.requests, run.start, 5, share), style, color=INK, linewidth=1.1, label=label)
    below.set_yscale("log")
    below.set_ylabel("ms, right answers")
    below.set_xlabel("minutes")
    below.legend(loc="upper right", ncols=2, frameon=False)
    below.set_xlim(0, minutes)
    for span, outcome in zip(run.spans(), run.outcomes, strict=True):
        left, right = (span.start - run.start) / 60, (span.ready - run.start) / 60
        for axis in (above, below):
            axis.axvspan(left, right, color=SHADE, zorder=-1)
        above.annotate(
            outcome.event.name, ((left + right) / 2, 1), (0, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", rotation=60, ha="left", va="bottom", fontsize=8, rotation_mode="anchor",
        )  # fmt: skip
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    marks = [(GOOD, "all answered"), (SOME, "some lost"), (NONE, "all lost"), (SHADE, "event, until Ready")]
    figure.legend(
        handles=[Patch(color=color, label=label) for color, label in marks], loc="outside lower center", ncols=4,
        frameon=False, fontsize=8,
    )  # fmt: skip
    whole = 1 - sum(bool(request.outcome) for request in run.requests) / max(1, len(run.requests))
    title = f"{len(run.requests)} requests, {math.floor(whole * 1e5) / 1e3:.3f} % answered right"
    figure.suptitle(title, fontsize=11)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
