"""Availability and error budget: is the 99 % kept, how fast is the budget used, what do the probes see."""

from __future__ import annotations

from dashboards.common import Board, Column, Query, Thresholds, course, rows, states, value, zero

ROUTE = 'route=~"$route"'
OBJECTIVE = "scalar(slo:objective:ratio)"
#: Probes of routes that this gateway serves: Prometheus probes the models of all.
PROBES = f"probe_duration_seconds{{{ROUTE}}} and on (route) route:probe_reached:bool"
KEPT: Thresholds = ((None, "red"), (0.99, "green"))
LEFT: Thresholds = ((None, "red"), (0.1, "orange"), (0.5, "green"))


def burn(window: str) -> str:
    """How many times faster than allowed the budget is used."""
    return f"route:error_ratio:rate{window}{{{ROUTE}}} / (1 - {OBJECTIVE})"


def board() -> Board:
    """Build the board."""
    frame = Board(
        "availability",
        "Availability and error budget",
        "Whether every route keeps the objective of 99 %, how fast its error budget is used, and what the probes see.",
        hours=6,
    )
    frame.choice("route", "Route", "label_values(slo:availability:ratio, route)")
    frame.row(
        "Now",
        value(
            "Objective",
            "Share of answers that may not fail (prometheus.objectives.availability).",
            "slo:objective:ratio",
            "percentunit",
            decimals=2,
            spark=False,
        ),
        value(
            "Worst availability",
            "The lowest availability of the chosen routes, over the window of the objective.",
            f"min(slo:availability:ratio{{{ROUTE}}})",
            "percentunit",
            thresholds=KEPT,
            decimals=3,
        ),
        value(
            "Least error budget left",
            "The lowest rest of the error budget of the chosen routes: 100 % is untouched, below 0 the objective is missed.",
            f"min(slo:error_budget_remaining:ratio{{{ROUTE}}})",
            "percentunit",
            thresholds=LEFT,
            decimals=0,
        ),
        value(
            "Fastest burn, last hour",
            "How many times faster than allowed the fastest route uses its budget; 14.4 is worth a page.",
            f"max({burn('1h')})",
            "x",
            thresholds=((None, "green"), (1, "orange"), (14.4, "red")),
            decimals=1,
        ),
        value(
            "Routes unreachable",
            "Routes of which the last probe through the gateway got no answer.",
            zero(f"count(route:probe_reached:bool{{{ROUTE}}} == 0)", "route:probe_reached:bool"),
            thresholds=((None, "green"), (1, "red")),
        ),
        value(
            "Slowest probe",
            "The slowest of the last probes through the gateway.",
            f"max({PROBES})",
            "s",
            nothing="no probes",
        ),
    )
    frame.row(
        "Objective and budget",
        rows(
            "Availability by route",
            "Availability and error budget over the window of the objective, and the share of failures in shorter windows.",
            Query(f"max by (route) (slo:availability:ratio{{{ROUTE}}})"),
            Query(f"max by (route) (slo:error_budget_remaining:ratio{{{ROUTE}}})"),
            Query(f"max by (route) (route:error_ratio:rate1h{{{ROUTE}}})"),
            Query(f"max by (route) (route:error_ratio:rate1d{{{ROUTE}}})"),
            Query(f"max by (route) (route:requests:rate1h{{{ROUTE}}})"),
            columns=(
                Column("route", "Route"),
                Column("A", "Availability", "percentunit", KEPT, width=110),
                Column("B", "Budget left", "percentunit", LEFT, width=110),
                Column("C", "Failed, 1 h", "percentunit", width=100),
                Column("D", "Failed, 1 day", "percentunit", width=110),
                Column("E", "Requests", "reqps", width=110),
            ),
            width=13,
            height=9,
        ),
        course(
            "Error budget left by route",
            "Rest of the error budget over the window of the objective: 100 % is untouched, below 0 the objective is missed.",
            "percentunit",
            Query(f"slo:error_budget_remaining:ratio{{{ROUTE}}}", "{{route}}"),
            thresholds=((0, "red"),),
            top=1,
            floor=-1,
            width=11,
            height=9,
            calcs=("lastNotNull", "min"),
        ),
    )
    frame.row(
        "Burn rate: 1 uses up the budget exactly over the window",
        *(
            course(
                f"Burn rate {short} and {long}",
                f"A {'page' if level == 'critical' else 'ticket'} comes when both windows are above {limit}: the long one shows that it matters, the short one that it goes on.",
                "x",
                Query(burn(short), f"{{{{route}}}} {short}"),
                Query(burn(long), f"{{{{route}}}} {long}"),
                thresholds=((limit, "red"),),
                soft_top=1.1 * limit,
                width=6,
                height=9,
                calcs=("lastNotNull",),
            )
            for short, long, limit, level in (
                ("5m", "1h", 14.4, "critical"),
                ("30m", "6h", 6, "critical"),
                ("2h", "1d", 3, "warning"),
                ("6h", "3d", 1, "warning"),
            )
        ),
    )
    frame.row(
        "Failures and probes",
        course(
            "Failed answers by route",
            "Answers with a 5xx per second, probes included.",
            "reqps",
            Query(f"route:failed_answers:rate5m{{{ROUTE}}}", "{{route}}"),
            width=8,
            height=9,
        ),
        states(
            "Route reached by its probe",
            "Whether a probe through the gateway got an answer from behind the route.",
            Query(f"min by (route) (route:probe_reached:bool{{{ROUTE}}})", "{{route}}"),
            {"1": ("reached", "green"), "0": ("not reached", "red")},
            width=8,
            height=9,
            nothing="no probes",
        ),
        course(
            "Time of a probe by route",
            "How long a probe took through the gateway.",
            "s",
            Query(f"max by (route) ({PROBES})", "{{route}}"),
            width=8,
            height=9,
            nothing="no probes",
        ),
    )
    return frame
