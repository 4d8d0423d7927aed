"""What good looks like, by service: from thresholds.toml, a file of the user, and the environment; and whether a run met it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import _measure
from _measure import Record, Summary

FILE = Path(__file__).with_name("thresholds.toml")
#: For all services at once.
VARIABLES = {"failures": "IML4E_LOAD_MAX_FAILURES", "p95": "IML4E_LOAD_MAX_P95", "p99": "IML4E_LOAD_MAX_P99"}


class Wrong(Exception):
    """A threshold that cannot be used; the message is a sentence for the user."""


@dataclass(frozen=True)
class Thresholds:
    """Limits of a service."""

    failures: float
    p95: float
    p99: float
    drift: float


@dataclass(frozen=True)
class Verdict:
    """A service's figures beside its limits."""

    service: str
    summary: Summary
    limits: Thresholds
    drift: float
    complaints: tuple[str, ...]


def number(value: object, where: str) -> float:
    """Check a limit.

    Raises:
        Wrong: it is no number, or below 0.
    """
    try:
        found = float(value) if not isinstance(value, bool) else -1.0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = -1.0
    if not found >= 0:
        raise Wrong(f"{where} is {value!r}: write a number that is not below 0.")
    return found


def tables(path: Path) -> dict[str, dict[str, float]]:
    """Read a file of thresholds.

    Raises:
        Wrong: it cannot be read, or has a limit that does not exist.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no text"
        raise Wrong(f"The thresholds {path} cannot be read: {reason}.") from None
    except tomllib.TOMLDecodeError as error:
        raise Wrong(f"{path} is no TOML: {error}.") from None
    known = [field.name for field in fields(Thresholds)]
    for service, limits in content.items():
        if not isinstance(limits, dict):
            raise Wrong(f"{path} has `{service}` outside of a service's table: write it below [models], for example.")
        for name, value in limits.items():
            if name not in known:
                raise Wrong(f"{path} has no threshold `{name}` to set in [{service}]: there are {', '.join(known)}.")
            number(value, f"{name} of [{service}] in {path}")
    return content


def read(file: str = "", environment: Mapping[str, str] = os.environ) -> dict[str, Thresholds]:
    """Thresholds of all services. The environment takes precedence over the user's file, which does over the project's.

    Raises:
        Wrong: one of them cannot be used.
    """
    found = tables(FILE)
    for service, limits in (tables(Path(file)) if file else {}).items():
        if service not in found:
            raise Wrong(f"{file} has thresholds of {service}, which is no service: there are {', '.join(found)}.")
        found[service] |= limits
    for name, variable in VARIABLES.items():
        if environment.get(variable):
            value = number(environment[variable], variable)
            for limits in found.values():
                limits[name] = value
    return {service: Thresholds(**{k: float(v) for k, v in limits.items()}) for service, limits in found.items()}


def judge(record: Record, thresholds: Mapping[str, Thresholds], shape: str = "steady") -> list[Verdict]:
    """Compare each service of a run with its thresholds: a sentence for each that was missed."""
    found = []
    for service, requests in record.services().items():
        figures, limits = _measure.summary(requests), thresholds[service]
        grown = _measure.drift(requests) if shape == "soak" else 0.0
        missed = []
        if figures.failed > limits.failures:
            missed.append(
                f"{service}: {figures.failed:.2%} of the requests failed; the limit is {limits.failures:.2%}."
            )
        for name, words in (("p95", "95th"), ("p99", "99th")):
            value, limit = getattr(figures, name), getattr(limits, name)
            if value > limit:
                missed.append(
                    f"{service}: the {words} percentile is {milliseconds(value)}; the limit is {milliseconds(limit)}."
                )
        if grown > limits.drift:
            missed.append(
                f"{service}: the 95th percentile grew to {grown:.1f} times that of the beginning; the limit is {limits.drift:g}."
            )
        found.append(Verdict(service, figures, limits, grown, tuple(missed)))
    return found


def milliseconds(value: float) -> str:
    """A time for people: 0.82 ms, 12 ms, 1.2 s."""
    if value >= 10_000:
        return f"{value / 1000:.0f} s"
    if value >= 1000:
        return f"{value / 1000:.1f} s".replace(".0 s", " s")
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
