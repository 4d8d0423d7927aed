"""Splits rows into those to learn from and those held out."""

import hashlib
from collections.abc import Sequence
from typing import Any

from iml4e import Error


def split(table: Any, sample: int = 0, by: Sequence[str] = ()) -> tuple[Any, Any]:
    """Split into training rows and held-out rows by the hash of each row's content: a row falls on the same side in every run.

    Args:
        table: a `pandas.DataFrame`.
        sample: number of rows that are taken; 0: all.
        by: columns whose values alone count; rows with the same values fall on the same side. None: all columns.

    Returns:
        About three quarters of the rows, and about one quarter.

    Raises:
        Error: a side is empty.
    """
    digests = []
    for row in (table[list(by)] if by else table).itertuples(index=False):
        digest = hashlib.sha256()
        for value in row:
            # a key stays the same when its column becomes a number; without keys, the sides of earlier runs stay
            whole = by and isinstance(value, float) and value.is_integer()
            text = int(value) if whole else value
            digest.update(text if isinstance(text, bytes) else str(text).encode())
            digest.update(b"\0")
        digests.append(digest.digest())
    order = sorted(range(len(digests)), key=lambda at: digests[at][1:])[: sample or None]
    chosen = sorted(order)
    aside = [digests[at][0] < 64 for at in chosen]  # of 256
    part = table.iloc[chosen]
    training, held_out = part[[not each for each in aside]], part[aside]
    if not len(training) or not len(held_out):
        keys = f" with {len({digests[at] for at in chosen})} different values of {', '.join(by)}" if by else ""
        raise Error(f"{len(part)} rows{keys} are too few: {len(training)} to train and {len(held_out)} held out")
    return training, held_out
