"""Drafts the data contract of data that nobody has described yet: what it is, how it is written, and generous limits."""

import csv
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

from iml4e import Error, contract, reading
from iml4e.contract import DELIMITERS, Column, Dialect

#: What a file is taken for that is no UTF-8.
GUESS = "cp1252"
#: Examples for people whose file is something else.
ENCODINGS = "cp1250, cp1251, shift_jis, gb18030"
#: How a line of a draft begins that people must check.
NOTE = "# - "

#: Texts that stand for a missing value in many files.
ABSENT = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?", "-", "#N/A")
DATES = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%d.%m.%Y %H:%M", "%Y-%m-%d %H:%M")  # fmt: skip
#: A text with more different values than this is no category.
MOST = 50
#: A whole number with more different values than this is a quantity, not a class.
CLASSES = 20


@dataclass(frozen=True)
class Draft:
    """A contract, and what a first gate may demand."""

    text: str
    """Content of schema.yaml."""
    task: str
    floor: float
    """What a model reaches that always answers the same: accuracy, or R² of a regression."""


def notes(text: str) -> list[str]:
    """What a draft's text says that people must check."""
    return [line.removeprefix(NOTE) for line in text.split("\n") if line.startswith(NOTE)]


def table(path: Path, target: str = "", task: str = "", encoding: str = "") -> Draft:
    """Draft the contract of a CSV file.

    Args:
        path: the file.
        target: column that the model shall predict; empty: the last.
        task: classification or regression; empty: what the target looks like.
        encoding: of the file; empty: what it looks like.

    Raises:
        Error: it is no CSV file, or nothing can be learnt from it.
    """
    content = _content(path)
    guessed = not encoding
    encoding = _encoding(content, path, encoding)
    dialect = Dialect(_delimiter(content, encoding), encoding=encoding)
    try:
        header, rows = reading.parse(content, dialect)
        lines = list(rows)
        if not lines:
            raise Error("has a header and no row below it")
        if len(header) == 1:
            raise Error(
                f"has one column only, {header[0]!r}: columns are separated by {' '.join(map(repr, DELIMITERS))}"
            )
        twice = [name for name, times in Counter(header).items() if times > 1]
        if twice:
            raise Error(f"has two columns with the name {min(twice)!r}")
    except Error as error:
        # there is no data contract yet that could say otherwise
        raise Error(f"{path} {re.sub(r' [(]`?csv: [^()]*[)]$', '', str(error))}") from None
    target = target or header[-1]
    if target not in header:
        raise Error(f"{path} has no column {target!r}; it has {contract.names(header)}")
    cells = dict(zip(header, zip(*(row for _, row in lines), strict=True), strict=True))
    dialect = _spelling(cells, dialect)
    columns = {name: _column(name, cells[name], dialect) for name in header}
    for name, (column, values) in columns.items():
        if all(value is None for value in values):
            raise Error(
                f"column {column.name!r} of {path} has no value in any row: take it out of the file, then try again"
            )
        if name == target and None in values:
            line = lines[values.index(None)][0]
            raise Error(
                f"the target {target!r} has no value in line {line} of {path}: take out rows without one, then try again"
            )
    column, values = columns[target]
    task = task or _task(column, values)
    if task == "regression" and column.type not in ("number", "integer"):
        raise Error(
            f"the target {target!r} of {path} is no number, such as {values[0]!r}: a regression cannot predict it"
        )
    if task == "classification" and column.type != "integer":  # labels as they are written
        column, values = Column(target, "category"), list(cells[target])
    counts = Counter(values)
    if len(counts) == 1:
        raise Error(f"the target {target!r} of {path} is {values[0]!r} in every row: nothing can be learnt")
    if task == "classification" and len(counts) > max(MOST, len(values) // 4):
        raise Error(
            f"the target {target!r} of {path} has {len(counts)} different values in {len(values)} rows: is it a class? --task regression, or another --target"
        )
    told: dict[str, Any] = {"kind": "table", "target": target, "task": task, "rows": max(1, min(50, len(values) // 2))}
    floor = 0.0
    if task == "classification":
        told["rows_per_class"] = min(10, *counts.values())
        floor = math.ceil(100 * max(counts.values()) / len(values)) / 100
    told["csv"] = {"delimiter": dialect.delimiter, "decimal": dialect.decimal, "encoding": dialect.encoding}
    told["csv"] |= {"missing": list(dialect.missing)} if dialect.missing else {}
    told["columns"] = {name: _options(*pair, truth=name == target, task=task) for name, pair in columns.items()}
    if not any(name != target and options.get("use", True) for name, options in told["columns"].items()):
        raise Error(
            f"{path} has no column that a model could learn {target!r} from: all are texts, identifiers or always the same"
        )
    found = [_guess(encoding, header, cells)] if encoding == GUESS and guessed else []
    numbers = [line for line, _ in lines]
    for name, options in told["columns"].items():
        if name != target and not options.get("use", True):
            found.append(f"{name!r} is not used: {_why(columns[name][0], cells[name], numbers, dialect)}")
        elif options.get("format") == "%d/%m/%Y" and _dates("%m/%d/%Y", cells[name], dialect):
            first = next(cell for cell in cells[name] if cell and cell not in dialect.missing)
            found.append(
                f"{name!r} is read as day/month/year, and could be month/day/year, such as {first!r}: "
                f'if it is, say `format: "%m/%d/%Y"` in {contract.FILE}'
            )
    return Draft(_yaml(told, path.name, len(values), found), task, min(floor, 0.99))


def images(folder: Path) -> Draft:
    """Draft the contract of a folder of images.

    Raises:
        Error: it is no such folder, or has one class only.
    """
    from PIL import Image

    if not folder.is_dir():
        raise Error(
            f"there is no folder {folder}: images are in a folder for each class, CLASS/FILE, or named CLASS-FILE"
        )
    counts: dict[str, int] = {}
    formats, sizes = set(), []
    for name, label, content in reading.files_of(folder):
        if not label:
            raise Error(f"{folder / name} has no class: name it CLASS/FILE or CLASS-FILE")
        try:
            with Image.open(io.BytesIO(content)) as image:
                formats.add(image.format or "")
                sizes.append(image.size)
        except Exception as error:  # Pillow raises many kinds for a damaged file
            raise Error(f"{folder / name} is no image: {str(error).split(' <')[0]}") from None
        counts[label] = counts.get(label, 0) + 1
    if len(counts) == 1:
        raise Error(f"{folder} has one class only, {next(iter(counts))!r}: nothing can be learnt")
    total = sum(counts.values())
    smallest = [max(1, min(each) // 2) for each in zip(*sizes, strict=True)]
    largest = [max(each) * 2 for each in zip(*sizes, strict=True)]
    told = {
        "kind": "images", "target": "label", "rows": max(1, min(50, total // 2)), "rows_per_class": min(10, *counts.values()),
        "classes": sorted(counts), "formats": sorted(formats), "smallest": smallest, "largest": largest,
    }  # fmt: skip
    return Draft(
        _yaml(told, folder.name, total),
        "classification",
        min(math.ceil(100 * max(counts.values()) / total) / 100, 0.99),
    )


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise Error(f"there is no file {path}")
    content = path.read_bytes()
    if not content.strip():
        raise Error(f"{path} is an empty file")
    return content


def _encoding(content: bytes, path: Path, told: str) -> str:
    """The encoding of a file, which reads it: the one that people told, or a guess.

    Raises:
        Error: it does not.
    """
    if not told and content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    for name in [told] if told else ["utf-8", GUESS]:
        try:
            content.decode(name)
            return name
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            wrong = f"byte 0x{content[error.start]:02x} in line {line}"
        except LookupError:  # also of codecs that are no encodings of text
            raise Error(f"Python knows no encoding {told!r}: --encoding takes {ENCODINGS} …") from None
    said = f"is not {told}" if told else f"is neither utf-8 nor {GUESS}"
    raise Error(f"{path} {said} ({wrong}): name its encoding, such as --encoding {ENCODINGS}")


def _guess(encoding: str, header: list[str], cells: dict[str, tuple[str, ...]]) -> str:
    """What tells people whether the guess of the encoding is right."""
    words = (word for column in ([header], cells.values()) for texts in column for word in texts)
    example = next((word for word in words if not word.isascii()), header[0])
    return (
        f"the file is not UTF-8, and read as {encoding}, a guess, such as {_short(example)}: "
        f"if that is wrong, make the project anew with --encoding, such as {ENCODINGS}"
    )


def _short(cell: str) -> str:
    """A cell in a sentence."""
    return repr(cell if len(cell) <= 40 else cell[:39] + "…")


def _why(column: Column, cells: tuple[str, ...], lines: list[int], dialect: Dialect) -> str:
    """Why the model does not get a column, with the first cell that is the reason."""
    filled = [(cell, line) for cell, line in zip(cells, lines, strict=True) if cell and cell not in dialect.missing]
    if len({cell for cell, _ in filled}) == 1:
        return f"it is always {_short(filled[0][0])}"
    if column.type == "integer":
        return "it looks like an identifier, another number in each row"
    if column.type != "text":
        return f"its values are all the same, such as {_short(filled[0][0])}"
    dates = [(f"dates such as {each}", Column("", "date", format=each)) for each in DATES]
    for what, kind in [("numbers", Column("", "number")), *dates]:
        texts = [cell for cell, _ in filled]
        # most of the first cells, then most of all: a thousand rows tell what a text is, in less time
        some = texts[:1000]
        if 2 * len(reading.convert(some, kind, dialect)[1]) >= len(some):
            continue
        wrong = reading.convert(texts, kind, dialect)[1]
        if 2 * len(wrong) < len(texts):
            cell, line = filled[wrong[0]]
            return (
                f"{len(texts) - len(wrong)} of {len(texts)} cells are {what}, and {_short(cell)} in line {line} is not: correct the file, "
                f"or list that text in {contract.FILE} under `csv: missing` and give the column `type: {kind.type}, missing: true`"
            )
    cell, line = filled[0]
    if all(re.fullmatch(r"[^\d\w]*[+-]?[\d.,]+\s*[^\d\s]{1,3}|[^\d\w]{1,3}\s*[\d.,]+", cell) for cell, _ in filled):
        return f"numbers with a sign or a unit, such as {_short(cell)} in line {line}, are texts: leave the sign out of the file"
    return (
        f"a text with {len({cell for cell, _ in filled})} different values, such as {_short(cell)} in line {line}; "
        f"`type: category` with `other: true` in {contract.FILE} would make classes of them"
    )


def _delimiter(content: bytes, encoding: str) -> str:
    """The delimiter that makes the most columns, the same number in most of the first rows; `sep=;` in the first line names it."""
    text = content[: 2**22].decode(encoding, errors="replace").removeprefix("\ufeff")
    if named := re.match(r'"?sep=([^"\r\n])"?\r?\n', text, re.IGNORECASE):
        return named[1]
    best, most = ",", 1
    for each in DELIMITERS:
        widths = []
        try:
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=each, strict=True):
                widths += [len(row)] if row else []
                if len(widths) == 10:
                    break
        except csv.Error:  # it is another delimiter's quotes, or the file is wrong further down
            pass
        if widths and widths[0] > most and 2 * widths.count(widths[0]) > len(widths):
            best, most = each, widths[0]
    return best


def _spelling(cells: dict[str, tuple[str, ...]], dialect: Dialect) -> Dialect:
    """How numbers and missing values are written."""
    filled = {name: [cell for cell in column if cell not in ABSENT and cell] for name, column in cells.items()}
    comma, point = (reading.number(Column(""), Dialect(dialect.delimiter, sign)) for sign in ",.")
    # columns that are numbers with one decimal sign, and not with the other: 0,125 or 12,34, but not 1,234
    commas = sum(_all(comma, column) and not _all(point, column) for column in filled.values())
    points = sum(_all(point, column) and not _all(comma, column) for column in filled.values())
    if commas == points == 0 and dialect.delimiter != ",":  # 1,234 beside semicolons: such files have decimal commas
        both = [column for column in filled.values() if _all(point, column)]
        commas, points = (sum(any(sign in cell for cell in column) for column in both) for sign in ",.")
    decimal = "," if commas > points else "."
    numeric = comma if decimal == "," else point

    # a text of this kind means a missing value if the column's other values are numbers or dates
    measured = [name for name, column in filled.items() if _all(numeric, column) or _format(column)]
    absent = [each for each in ABSENT if any(each in cells[name] for name in measured)]
    return Dialect(dialect.delimiter, decimal, dialect.encoding, tuple(absent))


def _all(read: Callable[[str], Any], cells: list[str]) -> bool:
    """Whether there are cells, and a function reads each of them."""
    try:
        return bool([read(cell) for cell in cells])
    except ValueError:
        return False


def _dates(format_: str, cells: tuple[str, ...], dialect: Dialect) -> bool:
    """Whether a column's cells are dates of a format."""
    return not reading.convert(cells, Column("", "date", format=format_), dialect)[1]


def _format(cells: list[str]) -> str:
    """The format of a column of dates; empty if it is none."""
    return next((each for each in DATES if _all(reading.date(Column("", format=each), Dialect()), cells)), "")


def _column(name: str, cells: tuple[str, ...], dialect: Dialect) -> tuple[Column, list[Any]]:
    """What a column is, and its values."""
    for kind in ("integer", "number"):
        values, wrong = reading.convert(cells, Column(name, kind), dialect)
        leading_zero = any(re.match(r"0\d", cell) for cell in cells)  # a code, such as a postcode
        if not wrong and not leading_zero:
            return Column(name, kind, missing=None in values), values
    values, _ = reading.convert(cells, Column(name, "text"), dialect)
    filled = [value for value in values if value is not None]
    missing = None in values
    if format_ := _format(filled):
        column = Column(name, "date", missing=missing, format=format_)
        return column, reading.convert(cells, column, dialect)[0]
    kind = "category" if len(set(filled)) <= min(MOST, max(2, len(filled) // 2)) else "text"
    return Column(name, kind, missing=missing), values


def _task(column: Column, values: list[Any]) -> str:
    """Regression if the target is a measure, else classification."""
    if column.type == "number":
        whole = all(value == int(value) for value in values)
        return "classification" if whole and len(set(values)) <= CLASSES else "regression"
    if column.type == "integer":
        return "classification" if len(set(values)) <= min(CLASSES, max(2, len(values) // 10)) else "regression"
    return "classification"


def _options(column: Column, values: list[Any], *, truth: bool, task: str) -> dict[str, Any]:
    """The entry of a column."""
    filled = [value for value in values if value is not None]
    different = set(filled)
    if truth and task == "classification":
        if column.type != "integer":
            return {"type": "category", "values": sorted(map(str, different))}
        return {"type": "integer", "values": sorted(different)}
    found: dict[str, Any] = {"type": column.type}
    if column.type == "category":
        found["values"] = sorted(different)
    elif column.type in ("number", "integer"):
        found["minimum"], found["maximum"] = _limits(min(filled), max(filled), whole=column.type == "integer")
    elif column.type == "date":
        found["format"] = column.format
    if column.missing:
        found["missing"] = True
    identifier = (
        column.type == "integer"
        and len(different) == len(filled) > 20
        and re.search(
            r"(^|[\W_])(id|nr|no|key|index)$|^unnamed|^column \d+$|(?-i:[a-z]I[Dd])$", column.name, re.IGNORECASE
        )
    )
    if not truth and (column.type == "text" or len(different) == 1 or identifier):
        found["use"] = False
    return found


def _limits(low: float, high: float, *, whole: bool) -> tuple[float, float]:
    """Three times the range, rounded outwards; not below 0 if nothing is."""
    span = (high - low) or abs(high) or 1
    least, most = (0 if low >= 0 else low - span), high + span

    def rounded(value: float, up: bool) -> float:
        exact = Decimal(min(max(value, -sys.float_info.max), sys.float_info.max))
        if not exact:
            return 0
        step = Decimal(1).scaleb(exact.adjusted() - 1)  # two significant digits, however small the number is
        result = (exact / step).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * step
        if abs(result) > Decimal(sys.float_info.max):
            return float(exact)
        return int(result) if whole or (result == int(result) and abs(result) < 2**53) else float(result)

    return rounded(least, up=False), rounded(most, up=True)


def _yaml(told: dict[str, Any], name: str, rows: int, found: Sequence[str] = ()) -> str:
    """Write a contract for people: an entry a line."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes a text on one line, line breaks as `\\n`: a column's name with one, as spreadsheets have them, is no key otherwise."""

    def text_of(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')

    Dumper.add_representer(str, text_of)

    def flow(value: Any) -> str:
        dumped = yaml.dump(
            value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
        )
        return dumped.strip().removesuffix("...").strip()

    lines = [
        f"# The data contract: what valid data is. Drafted by `iml4e new` from the {rows} rows of {name}: correct it, you know the data.",
        "# `iml4e project validate` and every run check it; data that breaks it stops the run. Every entry: docs/template.md.",
    ]
    if found:
        lines += ["# Look at these:", *(NOTE + each for each in found)]
    for key, value in told.items():
        if key == "columns":
            lines += [
                "# Limits are three times the range in the file. `use: false`: checked, and kept from the model.",
                "columns:",
            ]
            lines += [f"  {flow(str(name))}: {flow(options)}" for name, options in value.items()]
        else:
            lines.append(f"{key}: {flow(value)}")
    return "\n".join(lines) + "\n"
