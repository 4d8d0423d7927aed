"""Splits rows into those to learn from and those held out."""

import hashlib
from typing import Any

from iml4e import Error


def split(table: Any, sample: int = 0) -> tuple[Any, Any]:
    """Split into training rows and held-out rows by the hash of each row's content: a row falls on the same side in every run.

    Args:
        table: a `pandas.DataFrame`.
        sample: number of rows that are taken; 0: all.

    Returns:
        About three quarters of the rows, and about one quarter.

    Raises:
        Error: a side is empty.
    """
    digests = []
    for row in table.itertuples(index=False):
        digest = hashlib.sha256()
        for value in row:
            digest.update(value if isinstance(value, bytes) else str(value).encode())
            digest.update(b"\0")
        digests.append(digest.digest())
    order = sorted(range(len(digests)), key=lambda at: digests[at][1:])[: sample or None]
    chosen = sorted(order)
    aside = [digests[at][0] < 64 for at in chosen]  # of 256
    part = table.iloc[chosen]
    training, held_out = part[[not each for each in aside]], part[aside]
    if not len(training) or not len(held_out):
        raise Error(f"{len(part)} rows are too few: {len(training)} to train and {len(held_out)} held out")
    return training, held_out
