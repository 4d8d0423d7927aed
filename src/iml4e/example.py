"""Data that fits a contract and that nobody has measured: for tests, and for a project that begins without data."""

import dataclasses
import datetime
import io
from pathlib import Path
from typing import Any

from iml4e import Error
from iml4e.contract import Column, Contract, Images, Table
from iml4e.reading import typed

#: A value in ten is missing where it may be.
MISSING = 0.1
#: Classes of images where the contract names none.
TWO = ("a", "b")


def rows(contract: Contract, number: int, seed: int = 0) -> Any:
    """Valid rows as the model gets them, with the target, which follows from the first feature.

    Args:
        contract: a data contract.
        number: of rows.
        seed: of the chance in the values.

    Returns:
        A `pandas.DataFrame` as `iml4e.reading.read` makes it.
    """
    import pandas as pd

    if isinstance(contract, Images):
        return _images(contract, number, seed)
    made = _values(contract, number, seed)
    frame = pd.DataFrame({each.name: typed(made[each.name], each) for each in contract.columns})
    return frame[contract.kept]


def classes(contract: Contract) -> int:
    """How many classes rows that are made up have; 0 for a regression."""
    if contract.task == "regression":
        return 0
    if isinstance(contract, Images):
        return len(contract.classes or TWO)
    target = contract.column(contract.target)
    return len(target.values) or len({_value(target, at / 1000, 0) for at in range(1000)})


def write(contract: Contract, path: Path, number: int, seed: int = 0) -> None:
    """Write valid data: a CSV file as the contract spells it, or a folder of images.

    Raises:
        Error: a column has a pattern, whose texts nobody can guess.
    """
    import csv

    if isinstance(contract, Images):
        table = rows(contract, number, seed)
        for at, (content, label) in enumerate(zip(table["image"], table[contract.target], strict=True)):
            (path / label).mkdir(parents=True, exist_ok=True)
            (path / label / f"{at:04d}.{contract.formats[0].lower()}").write_bytes(content)
        return
    if patterned := [each.name for each in contract.columns if each.pattern]:
        raise Error(f"no example can be made of column {patterned[0]!r}, which has a `pattern`")
    made, dialect = _values(contract, number, seed), contract.csv

    def cell(column: Column, value: Any) -> str:
        if value is None:
            return ""
        if column.type == "date":
            return datetime.datetime.fromisoformat(value).strftime(column.format)
        return str(value).replace(".", dialect.decimal) if column.type == "number" else str(value)

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=dialect.encoding, newline="") as file:
        writer = csv.writer(file, delimiter=dialect.delimiter, lineterminator="\n")
        writer.writerow(made)
        writer.writerows(
            zip(*([cell(each, value) for value in made[each.name]] for each in contract.columns), strict=True)
        )


def _values(contract: Table, number: int, seed: int) -> dict[str, list[Any]]:
    """Values of all columns, of which the target follows the first feature."""
    import numpy

    chance = numpy.random.default_rng(seed)
    first = contract.column(contract.features[0])
    cause = (numpy.arange(number) + 0.5) / number
    chance.shuffle(cause)
    made = {}
    for each in contract.columns:
        leads = each in (first, contract.column(contract.target))
        each = (
            dataclasses.replace(each, unique=True) if each.name in contract.split_by and each.type == "text" else each
        )
        values = [_value(each, float(at), row) for row, at in enumerate(cause if leads else chance.random(number))]
        gone = chance.random(number) < (MISSING if each.missing and not leads else 0)
        made[each.name] = [None if absent else value for absent, value in zip(gone, values, strict=True)]
    return made


def _value(column: Column, at: float, row: int) -> Any:
    """A valid value, low or high as `at` is, from 0 to 1; a unique one counts the rows."""
    if column.values:
        return column.values[int(at * len(column.values))]
    if column.type in ("number", "integer"):
        low = column.minimum if column.minimum is not None else min(0, column.maximum or 0)
        high = column.maximum if column.maximum is not None else low + 100
        value = low + row if column.unique else low + at * (high - low)
        return round(value) if column.type == "integer" else round(value, 6)
    if column.type == "date":
        first = datetime.datetime.fromisoformat(str(column.minimum or "2020-01-01"))
        last = datetime.datetime.fromisoformat(str(column.maximum or "2026-01-01"))
        when = first + at * (last - first)
        timed = "%H" in column.format or "%I" in column.format
        return when.isoformat(timespec="seconds") if timed else when.date().isoformat()
    return f"text {row}" if column.unique else f"text {int(at * 5)}"


def _images(contract: Images, number: int, seed: int) -> Any:
    """Images with a bright bar whose place tells the class."""
    import numpy
    import pandas as pd
    from PIL import Image

    chance, classes = numpy.random.default_rng(seed), contract.classes or TWO
    width, height = (min(max(16, least), most) for least, most in zip(contract.smallest, contract.largest, strict=True))
    made = []
    for row in range(number):
        at = row % len(classes)
        pixels = chance.integers(0, 100, (height, width, 3), dtype="uint8")
        pixels[:, at * width // len(classes) : (at + 1) * width // len(classes)] += 150
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, contract.formats[0])
        made.append({"image": file.getvalue(), contract.target: classes[at]})
    return pd.DataFrame(made)
