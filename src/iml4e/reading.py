"""Reads data as it comes, CSV in any spelling or images in a folder or ZIP file, and checks it by a data contract, with pandera.

Problems are those of `iml4e.quality`: column, check, number of cases, an example.
"""

import array
import codecs
import csv
import difflib
import io
import itertools
import math
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from iml4e import Error
from iml4e.contract import DELIMITERS, FILE, Column, Contract, Dialect, Images, Table, names

# a cell may be a whole document: Python stops at 131,072 characters otherwise
csv.field_size_limit(2**31 - 1)
#: Rows whose cells are in memory as text at a time.
CHUNK = 20_000
Problem = dict[str, Any]
Source = str | Path | bytes


def read(contract: Contract, source: Source) -> tuple[Any, list[Problem]]:
    """Read and check data: a `pandas.DataFrame` of features and target, and problems; empty if nothing can be read."""
    if isinstance(contract, Table):
        return _table(contract, source, contract.columns)
    if isinstance(contract, Images):
        return _images(contract, source)
    raise TypeError(contract)


def features_of(contract: Contract, source: Source) -> tuple[Any, list[Problem]]:
    """Read rows that the model shall answer: the target, and what the model does not get, may be absent."""
    if isinstance(contract, Table):
        return _table_features(contract, source)
    if isinstance(contract, Images):
        return _images_features(contract, source)
    raise TypeError(contract)


def parse(source: Source, dialect: Dialect) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read the cells of a CSV file as text, without the spaces around them: header, and each row with its line in the file.

    Raises:
        Error: it is no CSV file; the message continues a sentence about the data. Rows raise it too.
    """
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}") from None
    if not content or content.isspace():
        raise Error("is an empty file")
    if content[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise Error("is no CSV file but a workbook or ZIP file: save it as CSV")
    try:
        file = io.TextIOWrapper(io.BytesIO(content.removeprefix(codecs.BOM_UTF8)), dialect.encoding, newline="")
    except LookupError:
        raise Error(
            f"has an encoding that Python does not know, {dialect.encoding!r} (csv: encoding in {FILE})"
        ) from None
    if b"\0" in content and not dialect.encoding.lower().startswith(("utf-16", "utf-32")):
        raise Error("is no CSV file: it has binary content")
    rows = _rows(file, content, dialect)
    _, header = next(rows, (0, []))
    if "".join(header).lower() in ("sep=", f"sep={dialect.delimiter}"):  # for spreadsheets, not a part of the table
        _, header = next(rows, (0, []))
    header = [name or f"column {number}" for number, name in enumerate(header, 1)]
    return header, _even(rows, len(header))


def _rows(file: Iterable[str], content: bytes, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty."""
    reader = csv.reader(file, delimiter=dialect.delimiter, strict=True)
    begun = 1
    try:
        for row in reader:
            line, begun = begun, reader.line_num + 1
            cells = [cell.strip() for cell in row]
            if len(cells) > 1 or (cells and cells[0]):
                yield line, cells
    except csv.Error as error:
        hint = f" (`csv: delimiter` in {FILE} is {dialect.delimiter!r})" if "expected after" in str(error) else ""
        raise Error(f"is no CSV file: {error} in line {reader.line_num}{hint}") from None
    except UnicodeDecodeError:
        pass
    else:
        return
    try:
        content.decode(dialect.encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Error(
            f"is not {dialect.encoding}: byte 0x{content[error.start]:02x} in line {line}; name its encoding in {FILE} (csv: encoding), such as cp1252"
        ) from None


def _even(rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Rows as wide as the header."""
    for line, cells in rows:
        if len(cells) != width:
            raise Error(f"has {len(cells)} fields in line {line}, and {width} in its header")
        yield line, cells


def convert(cells: Sequence[str], column: Column, dialect: Dialect) -> tuple[list[Any], list[int]]:
    """Values of the cells of a column, None where missing, and the places of those that are not of its type."""
    absent = {"", *dialect.missing}
    read = READERS[column.type](column, dialect)
    values: list[Any] = []
    wrong = []
    for at, cell in enumerate(cells):
        try:
            values.append(None if cell in absent else read(cell))
        except ValueError:
            values.append(None)
            wrong.append(at)
    return values, wrong


def number(column: Column, dialect: Dialect) -> Callable[[str], float]:
    """What reads a number, with or without separators of thousands: groups of three digits, of which the first starts with no 0."""
    decimal = dialect.decimal
    group = re.escape("." if decimal == "," else ",")
    grouped = re.compile(rf"[+-]?[1-9]\d{{,2}}({group}\d{{3}})+({re.escape(decimal)}\d+)?", re.ASCII)
    plain = re.compile(rf"[+-]?(\d+{re.escape(decimal)}?\d*|{re.escape(decimal)}\d+)([eE][+-]?\d+)?", re.ASCII)

    def read(cell: str) -> float:
        if grouped.fullmatch(cell):
            cell = re.sub(group, "", cell)
        if not plain.fullmatch(cell):
            raise ValueError(cell)
        value = float(cell.replace(decimal, "."))
        if not math.isfinite(value):  # an identifier such as 12e4567, not a power of ten
            raise ValueError(cell)
        return value

    return read


def _integer(column: Column, dialect: Dialect) -> Callable[[str], int]:
    measure = number(column, dialect)

    def read(cell: str) -> int:
        value = measure(cell)
        if value != int(value) or abs(value) >= 2**53:
            raise ValueError(cell)
        return int(value)

    return read


def date(column: Column, dialect: Dialect) -> Callable[[str], str]:
    """What reads a date, and writes it as ISO 8601."""
    import datetime

    timed = "%H" in column.format or "%I" in column.format

    def read(cell: str) -> str:
        when = datetime.datetime.strptime(cell, column.format)
        return when.isoformat() if timed else when.date().isoformat()

    return read


#: Type: what makes a function from a cell to its value; a ValueError means that it is not of that type.
READERS: dict[str, Callable[[Column, Dialect], Callable[[str], Any]]] = {
    "number": number, "integer": _integer, "date": date,
    "category": lambda column, dialect: sys.intern, "text": lambda column, dialect: str,
}  # fmt: skip


def typed(values: list[Any], column: Column) -> Any:
    """A `pandas.Series` as the model gets it: whole numbers with gaps become floating ones."""
    import pandas as pd

    if column.type == "number" or (column.type == "integer" and (column.missing or None in values)):
        return pd.Series(values, dtype="float64")
    if column.type == "integer":
        return pd.Series(values, dtype="int64")
    return pd.Series(values, dtype="object")


def files_of(source: str | Path | bytes) -> Iterator[tuple[str, str, bytes]]:
    """Name, class and content of each image of a folder, or of a ZIP file that `datasets.get(…, packed=True)` wrote.

    Raises:
        Error: there is none.
    """
    from iml4e import datasets

    if not isinstance(source, bytes) and Path(source).is_dir():
        for row in datasets.manifest(Path(source)):
            yield row["key"], row["label"], (Path(source) / row["key"]).read_bytes()
        return
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            for row in datasets.rows_of(archive.read(datasets.MANIFEST)):
                yield row["key"], row["label"], archive.read(row["key"])
    except (OSError, zipfile.BadZipFile, KeyError):
        raise Error("is no folder of images") from None


def _table_features(contract: Table, source: Source) -> tuple[Any, list[Problem]]:
    """Read the features of a CSV file; other columns may be there or not."""
    used = [each for each in contract.columns if each.name in contract.features]
    table, problems = _table(contract, source, used)
    return (table[contract.features] if not problems else table), problems


def _table(contract: Table, source: Source, columns: Sequence[Column]) -> tuple[Any, list[Problem]]:
    import pandas as pd

    from iml4e import quality

    numbers = array.array("Q")  # the line of each row
    done: dict[str, list[Any]] = {each.name: [] for each in columns}
    wrong: dict[str, list[tuple[int, str]]] = {each.name: [] for each in columns}
    strict = contract.column(contract.target) in columns
    try:
        header, lines = parse(source, contract.csv)
        if problems := _header(contract, header, columns, strict=strict):
            return pd.DataFrame(), problems
        while chunk := list(itertools.islice(lines, CHUNK)):
            cells = dict(zip(header, zip(*(row for _, row in chunk), strict=True), strict=True))
            for each in columns:
                values, places = convert(cells[each.name], each, contract.csv)
                done[each.name].append(typed(values, each))
                wrong[each.name] += [(chunk[at][0], cells[each.name][at]) for at in places]
            numbers.extend(line for line, _ in chunk)
    except Error as error:
        return pd.DataFrame(), [{"column": "", "check": str(error), "cases": 1, "example": ""}]
    if not numbers:
        return pd.DataFrame(), [{"column": "", "check": "has a header and no row below it", "cases": 1, "example": ""}]
    table = pd.DataFrame({name: pd.concat(parts, ignore_index=True) for name, parts in done.items()})
    del done
    for each in columns:
        if bad := wrong[each.name]:
            what = {"date": f"is no date such as {each.format}"}.get(each.type, f"is no {each.type}")
            case = f"line {bad[0][0]}: {bad[0][1]!r}"
            if each.type in ("number", "integer") and _other_decimal(contract.csv, [cell for _, cell in bad]):
                what += f" (`csv: decimal` in {FILE} is {contract.csv.decimal!r})"
            problems.append({"column": each.name, "check": what, "cases": len(bad), "example": case})
        elif strict and each.missing and (each.use or each.name == contract.target) and table[each.name].isna().all():
            problems.append(
                {"column": each.name, "check": "has no value in any row", "cases": len(numbers), "example": ""}
            )
    bad = {problem["column"] for problem in problems}
    schema = _table_schema([each for each in columns if each.name not in bad])
    problems += quality.check(table, schema, lambda index: f"line {numbers[int(index)]}")[1]
    if strict and contract.target not in bad:
        problems += _whole(contract, table[contract.target].dropna())
    return table[[n for n in contract.kept if n in table]] if not problems else table, problems


def _header(contract: Table, header: list[str], columns: Sequence[Column], *, strict: bool) -> list[Problem]:
    """Problems of the names of the columns."""
    wanted, found = [each.name for each in columns], []

    def problem(name: str, check: str) -> None:
        found.append({"column": name, "check": check, "cases": 1, "example": ""})

    twice = {name for name in header if header.count(name) > 1}
    if twice:
        return [{"column": min(twice), "check": "is the name of two columns", "cases": 1, "example": ""}]
    if len(header) == 1 and len(wanted) > 1:
        other = next((each for each in DELIMITERS if each != contract.csv.delimiter and each in header[0]), "")
        if other:
            problem(
                "",
                f"has one column only: its delimiter seems to be {other!r}, and {FILE} says {contract.csv.delimiter!r} (csv: delimiter)",
            )
            return found
    for name in sorted(set(wanted) - set(header), key=lambda name: (name != contract.target, wanted.index(name))):
        near = difflib.get_close_matches(name, [each for each in header if each not in wanted], 1, 0.7)
        there = (
            f"is it {near[0]!r}?" if near else f"the file has {names([e for e in header if e not in wanted] or header)}"
        )
        problem(name, f"missing column{', the target' if name == contract.target else ''}; {there}")
    if strict:
        for name in header:
            if name not in wanted and not any(problem["check"].endswith(f"is it {name!r}?") for problem in found):
                problem(name, f"unknown column: add it to {FILE} (with `use: false` if the model shall not get it)")
    return found


def _table_schema(columns: Sequence[Column]) -> Any:
    """The pandera schema of columns that have their types already."""
    import pandera.pandas as pa

    made = {}
    for each in columns:
        checks = []
        if each.minimum is not None:
            checks.append(pa.Check.ge(each.minimum, error=f"is below {each.minimum}"))
        if each.maximum is not None:
            checks.append(pa.Check.le(each.maximum, error=f"is above {each.maximum}"))
        if each.values and not each.other:
            known = list(each.values)
            checks.append(pa.Check.isin(known, error=f"is none of {names([str(value) for value in known])}"))
        if each.pattern:
            checks.append(pa.Check.str_matches(f"^(?:{each.pattern})$", error=f"does not match {each.pattern}"))
        made[each.name] = pa.Column(None, checks, nullable=each.missing, unique=each.unique)
    return pa.DataFrameSchema(made)


def _other_decimal(dialect: Dialect, values: list[str]) -> bool:
    """Whether numbers are wrong because of their decimal sign."""
    other = "." if dialect.decimal == "," else ","
    return all(re.fullmatch(rf"[+-]?\d*{re.escape(other)}\d+", value.strip()) for value in values)


def _images(contract: Images, source: Source) -> tuple[Any, list[Problem]]:
    """Read and check the images of a folder, or of a ZIP file with a manifest; problems name the files."""
    import pandas as pd

    from iml4e import quality

    try:
        rows = list(files_of(source))
    except Error as error:
        return pd.DataFrame(), [{"column": "", "check": str(error), "cases": 1, "example": ""}]
    table = pd.DataFrame(
        [
            {"image": content, "label": label, "file": name, "problem": _look(contract, content)}
            for name, label, content in rows
        ]
    )
    problems, schema = [], _images_schema(contract)
    found = quality.check(table[["label", "problem"]], schema, lambda index: table["file"][int(index)])[1]
    for each in found:
        if each["column"] == "problem":  # the case is the sentence
            each |= {
                "column": "image",
                "check": each["example"].partition(": ")[2],
                "example": each["example"].partition(": ")[0],
            }
        problems.append(each)
    return table[["image", "label"]], problems or _whole(contract, table["label"])


def _images_features(contract: Images, source: Source) -> tuple[Any, list[Problem]]:
    """Read images whose class nobody needs to know: one file, or a folder."""
    import pandas as pd

    path = Path(source) if not isinstance(source, bytes) else None
    rows = (
        [(path.name, "", path.read_bytes())]
        if path and path.is_file() and path.suffix != ".zip"
        else list(files_of(source))
    )
    wrong = [(name, told) for name, _, content in rows if (told := _look(contract, content))]
    problems = [{"column": "image", "check": wrong[0][1], "cases": len(wrong), "example": wrong[0][0]}] if wrong else []
    return pd.DataFrame({"image": [content for _, _, content in rows]}), problems


def _look(contract: Images, content: bytes) -> str:
    """What is wrong with an image; empty if nothing."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            form, size = image.format or "", image.size
    except Exception as error:  # Pillow raises many kinds for a damaged file
        return f"is no image: {str(error).split(' <')[0]}"
    if form not in contract.formats:
        return f"is {form}, not {' or '.join(contract.formats)}"
    if any(a < b for a, b in zip(size, contract.smallest, strict=True)):
        return f"has {size[0]}x{size[1]} pixels, less than {contract.smallest[0]}x{contract.smallest[1]}"
    if any(a > b for a, b in zip(size, contract.largest, strict=True)):
        return f"has {size[0]}x{size[1]} pixels, more than {contract.largest[0]}x{contract.largest[1]}"
    return ""


def _images_schema(contract: Images) -> Any:
    import pandera.pandas as pa

    known = (
        [pa.Check.isin(list(contract.classes), error=f"is none of {names(contract.classes)}")]
        if contract.classes
        else []
    )
    known.append(pa.Check(lambda label: label != "", error="has no class: name it CLASS/FILE or CLASS-FILE"))
    fine = pa.Check(lambda text: text == "", error="image")
    return pa.DataFrameSchema({"label": pa.Column(None, known), "problem": pa.Column(None, fine)})


def _whole(contract: Contract, target: Any) -> list[Problem]:
    """Problems of the data as a whole, which the target tells."""
    found = []

    def needs(text: str) -> None:
        found.append({"column": "", "check": text, "cases": 1, "example": ""})

    if len(target) < contract.rows:
        needs(f"needs at least {contract.rows} rows, and has {len(target)} (`rows` in {FILE})")
    counts = target.value_counts()
    if contract.task == "regression":
        if len(counts) == 1:
            needs(f"the target {contract.target!r} has the same value in every row")
    elif len(counts) == 1:
        needs(f"the target {contract.target!r} has one class only, {counts.index[0]!r}: a classification needs two")
    elif len(counts) and counts.iloc[-1] < contract.rows_per_class:
        needs(
            f"needs at least {contract.rows_per_class} rows of each class, and class {counts.index[-1]!r} has {counts.iloc[-1]} "
            f"(`rows_per_class` in {FILE})"
        )
    return found
