"""Grafana's boards as the chart ships them: their panels, and their queries with values for the variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser as promql

from dashboards.metrics import SOURCES, Source
from scripts.harness.dashboards import FOLDER

FILES = sorted(FOLDER.glob("*.json"))
#: What Grafana puts in place of its own variables.
BUILT_IN = {"$__rate_interval": "5m", "$__range": "1h"}


@dataclass(frozen=True)
class Panel:
    """A panel of a board."""

    board: str
    json: dict[str, Any]

    def __str__(self) -> str:
        """Its name for people."""
        return f"{self.board}: {self.json.get('title')}"

    @property
    def expressions(self) -> list[str]:
        """Its queries, with every choice left at "All"."""
        return [filled(target["expr"]) for target in self.json["targets"]]


def filled(expression: str) -> str:
    """An expression as Grafana sends it when every choice is left at "All"."""
    for name, value in BUILT_IN.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\{?[a-z]+\}?", ".*", expression)


def boards() -> dict[str, dict[str, Any]]:
    """Each board, by the name of its file."""
    return {path.stem: json.loads(path.read_text()) for path in FILES}


def panels() -> list[Panel]:
    """All panels of all boards, without the rows."""
    found = []
    for name, board in boards().items():
        for panel in board["panels"]:
            found += [Panel(name, inner) for inner in (panel, *panel.get("panels", ())) if inner["type"] != "row"]
    return found


def metrics(expression: str) -> set[str]:
    """Names of the series that an expression reads."""
    return set(_names(promql.parse(expression)))


def sources(expression: str) -> list[Source]:
    """Who gives the series that an expression reads, as far as they are not recorded."""
    return [source for source in SOURCES if metrics(expression) & set(source.metrics)]


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, promql.VectorSelector):
        yield node.name
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (inner := getattr(node, part, None)) is not None:
            yield from _names(inner)
    for argument in getattr(node, "args", None) or ():
        yield from _names(argument)
