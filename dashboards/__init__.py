"""Grafana's dashboards, one module per board; `scripts/dashboards` writes their JSON into the chart."""

from __future__ import annotations

from dashboards import availability, costs, data, models, pipelines, platform
from dashboards.common import Board


def boards() -> list[Board]:
    """All boards."""
    return [module.board() for module in (platform, models, availability, data, pipelines, costs)]
