"""How many users there are at each moment of a run: one function for each shape, of the share of the time that has gone by."""

from __future__ import annotations

import math
from collections.abc import Callable

#: Users and seconds of a run that names none; no run has more than the second line.
USERS, SECONDS = 12, 60
MOST_USERS, MOST_SECONDS = 500, 4 * 3600


def steady(share: float, users: int) -> float:
    """All users from the start to the end."""
    return users


def ramp(share: float, users: int) -> float:
    """From a tenth of the users to all in ten steps in the first four fifths; then all."""
    return users * min(1.0, (math.floor(share / 0.08) + 1) / 10)


def spike(share: float, users: int) -> float:
    """A quarter of the users; all of them in the middle third; then a quarter again."""
    return users if 1 / 3 <= share < 2 / 3 else users / 4


def soak(share: float, users: int) -> float:
    """Half of the users for a long time: what grows, leaks or slows down shows (threshold `drift`)."""
    return users / 2


SHAPES: dict[str, Callable[[float, int], float]] = {"steady": steady, "ramp": ramp, "spike": spike, "soak": soak}


def users_at(shape: str, seconds: float, run_time: float, users: int) -> int | None:
    """How many users there are so many seconds after the start; None: the run is over."""
    run_time = min(run_time, MOST_SECONDS)
    if seconds >= run_time:
        return None
    return max(1, round(SHAPES[shape](seconds / run_time, min(users, MOST_USERS))))
