"""The data contract of a project, `schema.yaml`: what a valid table or a valid folder of images is.

A contract reads data as it comes (CSV in any spelling, images in a folder or ZIP file), checks it with pandera, and tells what
the model takes. Problems are those of `iml4e.quality`.
"""

import csv
import difflib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from iml4e import Error

FILE = "schema.yaml"
TYPES = ("number", "integer", "category", "text", "date")
DELIMITERS = (",", ";", "\t", "|")
#: Python type of a bound, an option's type, by option of a column.
OPTIONS = {
    "type": str, "use": bool, "missing": bool, "unique": bool, "minimum": (int, float, str), "maximum": (int, float, str),
    "values": list, "other": bool, "pattern": str, "format": str,
}  # fmt: skip
Problem = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    type: str = "number"
    """number, integer, category, text or date."""
    use: bool = True
    """Whether the model gets the column; a text or an identifier mostly helps no model."""
    missing: bool = False
    """Whether a value may be missing."""
    unique: bool = False
    minimum: Any = None
    maximum: Any = None
    values: tuple[str, ...] = ()
    """The categories."""
    other: bool = False
    """Whether categories that `values` does not list are valid too."""
    pattern: str = ""
    """Regular expression that the whole text must match."""
    format: str = "%Y-%m-%d"
    """How a date is written in the file; the model gets ISO 8601."""


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written."""

    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()
    """Texts that mean a missing value, beside the empty one."""


@dataclass(frozen=True)
class Contract:
    """What both kinds of data have in common: rows of features with a target."""

    target: str
    task: str = "classification"
    rows: int = 1
    """Least number of rows."""
    rows_per_class: int = 2
    """Least number of rows of each class."""

    kind = ""

    @property
    def features(self) -> list[str]:
        """Names of what the model gets."""
        raise NotImplementedError

    def read(self, source: str | Path | bytes) -> tuple[Any, list[Problem]]:
        """Read and check data: a `pandas.DataFrame` of features and target, and problems; empty if nothing can be read."""
        raise NotImplementedError

    def features_of(self, source: str | Path | bytes) -> tuple[Any, list[Problem]]:
        """Read data without looking at the target, which may be absent: rows that the model shall answer."""
        raise NotImplementedError

    def signature(self) -> Any:
        """What the model takes and answers (`mlflow.models.ModelSignature`)."""
        from mlflow.models import ModelSignature
        from mlflow.types import Schema

        return ModelSignature(Schema(list(self._inputs())), Schema([self._output()]))

    def _inputs(self) -> Iterator[Any]:
        raise NotImplementedError

    def _output(self) -> Any:
        raise NotImplementedError

    def _whole(self, target: Any) -> list[Problem]:
        """Problems of the data as a whole, which the target tells."""
        found = []

        def needs(text: str) -> None:
            found.append({"column": "", "check": text, "cases": 1, "example": ""})

        if len(target) < self.rows:
            needs(f"needs at least {self.rows} rows, and has {len(target)} (`rows` in {FILE})")
        counts = target.value_counts()
        if self.task == "regression":
            if len(counts) == 1:
                needs(f"the target {self.target!r} has the same value in every row")
        elif len(counts) == 1:
            needs(f"the target {self.target!r} has one class only, {counts.index[0]!r}: a classification needs two")
        elif len(counts) and counts.iloc[-1] < self.rows_per_class:
            needs(
                f"needs at least {self.rows_per_class} rows of each class, and class {counts.index[-1]!r} has {counts.iloc[-1]} "
                f"(`rows_per_class` in {FILE})"
            )
        return found


@dataclass(frozen=True)
class Table(Contract):
    """A CSV file: one row a case, with the truth in the target's column."""

    columns: tuple[Column, ...] = ()
    csv: Dialect = field(default_factory=Dialect)

    kind = "table"

    @property
    def features(self) -> list[str]:
        """Names of the columns that the model gets."""
        return [each.name for each in self.columns if each.use and each.name != self.target]

    def of(self, *types: str) -> list[str]:
        """Names of the columns of some types that the model gets."""
        return [each.name for each in self.columns if each.name in self.features and each.type in types]

    def read(self, source: str | Path | bytes) -> tuple[Any, list[Problem]]:
        """Read and check a CSV file; problems name its lines."""
        return self._read(source, self.columns)

    def features_of(self, source: str | Path | bytes) -> tuple[Any, list[Problem]]:
        """Read the features of a CSV file; other columns may be there or not."""
        used = [each for each in self.columns if each.name in self.features]
        table, problems = self._read(source, used)
        return (table[self.features] if not problems else table), problems

    def _read(self, source: str | Path | bytes, columns: Sequence[Column]) -> tuple[Any, list[Problem]]:
        import pandas as pd

        from iml4e import quality

        try:
            header, lines = parse(source, self.csv)
        except Error as error:
            return pd.DataFrame(), [{"column": "", "check": str(error), "cases": 1, "example": ""}]
        strict = self.column(self.target) in columns
        cells = dict(zip(header, zip(*(row for _, row in lines), strict=True), strict=True)) if lines else {}
        problems, done = self._header(header, columns, strict=strict), {}
        if problems:
            return pd.DataFrame(), problems
        numbers = [line for line, _ in lines]
        for each in columns:
            values, wrong = convert(cells[each.name], each, self.csv) if lines else ([], [])
            done[each.name] = typed(values, each)
            if wrong:
                what = {"date": f"is no date such as {each.format}"}.get(each.type, f"is no {each.type}")
                case = f"line {numbers[wrong[0]]}: {cells[each.name][wrong[0]]!r}"
                if each.type in ("number", "integer") and self._other_decimal([cells[each.name][at] for at in wrong]):
                    what += f" (`csv: decimal` in {FILE} is {self.csv.decimal!r})"
                problems.append({"column": each.name, "check": what, "cases": len(wrong), "example": case})
            elif (
                lines and each.missing and each.name in (*self.features, self.target) and all(v is None for v in values)
            ):
                problems.append(
                    {"column": each.name, "check": "has no value in any row", "cases": len(lines), "example": ""}
                )
        table = pd.DataFrame(done, columns=[each.name for each in columns])
        if not lines:
            return table, [{"column": "", "check": "has a header and no row below it", "cases": 1, "example": ""}]
        bad = {problem["column"] for problem in problems}
        schema = self._schema([each for each in columns if each.name not in bad])
        problems += quality.check(table, schema, lambda index: f"line {numbers[int(index)]}")[1]
        if strict and self.target not in bad:
            problems += self._whole(table[self.target].dropna())
        return table[[n for n in (*self.features, self.target) if n in table]] if not problems else table, problems

    def _header(self, header: list[str], columns: Sequence[Column], *, strict: bool) -> list[Problem]:
        """Problems of the names of the columns."""
        wanted, found = [each.name for each in columns], []

        def problem(name: str, check: str) -> None:
            found.append({"column": name, "check": check, "cases": 1, "example": ""})

        twice = {name for name in header if header.count(name) > 1}
        if twice:
            return [{"column": min(twice), "check": "is the name of two columns", "cases": 1, "example": ""}]
        if len(header) == 1 and len(wanted) > 1:
            other = next((each for each in DELIMITERS if each != self.csv.delimiter and each in header[0]), "")
            if other:
                problem(
                    "",
                    f"has one column only: its delimiter seems to be {other!r}, and {FILE} says {self.csv.delimiter!r} (csv: delimiter)",
                )
                return found
        for name in sorted(set(wanted) - set(header), key=lambda name: (name != self.target, wanted.index(name))):
            near = difflib.get_close_matches(name, [each for each in header if each not in wanted], 1, 0.7)
            there = (
                f"is it {near[0]!r}?"
                if near
                else f"the file has {names([e for e in header if e not in wanted] or header)}"
            )
            problem(name, f"missing column{', the target' if name == self.target else ''}; {there}")
        if strict:
            for name in header:
                if name not in wanted and not any(problem["check"].endswith(f"is it {name!r}?") for problem in found):
                    problem(name, f"unknown column: add it to {FILE} (with `use: false` if the model shall not get it)")
        return found

    def _schema(self, columns: Sequence[Column]) -> Any:
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

    def _other_decimal(self, values: list[str]) -> bool:
        """Whether numbers are wrong because of their decimal sign."""
        other = "." if self.csv.decimal == "," else ","
        return all(re.fullmatch(rf"[+-]?\d*{re.escape(other)}\d+", value.strip()) for value in values)

    def column(self, name: str) -> Column:
        """The column of a name."""
        return next(each for each in self.columns if each.name == name)

    def _inputs(self) -> Iterator[Any]:
        from mlflow.types import ColSpec

        for name in self.features:
            column = self.column(name)
            yield ColSpec(_mlflow_type(column), name, required=not column.missing)

    def _output(self) -> Any:
        from mlflow.types import ColSpec

        return ColSpec("double" if self.task == "regression" else _mlflow_type(self.column(self.target)))


@dataclass(frozen=True)
class Images(Contract):
    """Images in a folder for each class, `CLASS/ANYTHING.png`, or named `CLASS-ANYTHING.png`."""

    target: str = "label"
    classes: tuple[str, ...] = ()
    """The classes; none: any."""
    formats: tuple[str, ...] = ("PNG", "JPEG")
    smallest: tuple[int, int] = (8, 8)
    """Least width and height, in pixels."""
    largest: tuple[int, int] = (4096, 4096)

    kind = "images"

    @property
    def features(self) -> list[str]:
        """The one column: the bytes of a file."""
        return ["image"]

    def read(self, source: str | Path | bytes) -> tuple[Any, list[Problem]]:
        """Read and check the images of a folder, or of a ZIP file with a manifest; problems name the files."""
        import pandas as pd

        from iml4e import quality

        try:
            rows = list(files_of(source))
        except Error as error:
            return pd.DataFrame(), [{"column": "", "check": str(error), "cases": 1, "example": ""}]
        table = pd.DataFrame(
            [
                {"image": content, "label": label, "file": name, "problem": self._look(content)}
                for name, label, content in rows
            ]
        )
        problems, schema = [], self._schema()
        found = quality.check(table[["label", "problem"]], schema, lambda index: table["file"][int(index)])[1]
        for each in found:
            if each["column"] == "problem":  # the case is the sentence
                each |= {
                    "column": "image",
                    "check": each["example"].partition(": ")[2],
                    "example": each["example"].partition(": ")[0],
                }
            problems.append(each)
        return table[["image", "label"]], problems or self._whole(table["label"])

    def features_of(self, source: str | Path | bytes) -> tuple[Any, list[Problem]]:
        """Read images whose class nobody needs to know: one file, or a folder."""
        import pandas as pd

        path = Path(source) if not isinstance(source, bytes) else None
        rows = (
            [(path.name, "", path.read_bytes())]
            if path and path.is_file() and path.suffix != ".zip"
            else list(files_of(source))
        )
        wrong = [(name, told) for name, _, content in rows if (told := self._look(content))]
        problems = (
            [{"column": "image", "check": wrong[0][1], "cases": len(wrong), "example": wrong[0][0]}] if wrong else []
        )
        return pd.DataFrame({"image": [content for _, _, content in rows]}), problems

    def _look(self, content: bytes) -> str:
        """What is wrong with an image; empty if nothing."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                form, size = image.format or "", image.size
        except Exception as error:  # Pillow raises many kinds for a damaged file
            return f"is no image: {str(error).split(' <')[0]}"
        if form not in self.formats:
            return f"is {form}, not {' or '.join(self.formats)}"
        if any(a < b for a, b in zip(size, self.smallest, strict=True)):
            return f"has {size[0]}x{size[1]} pixels, less than {self.smallest[0]}x{self.smallest[1]}"
        if any(a > b for a, b in zip(size, self.largest, strict=True)):
            return f"has {size[0]}x{size[1]} pixels, more than {self.largest[0]}x{self.largest[1]}"
        return ""

    def _schema(self) -> Any:
        import pandera.pandas as pa

        known = [pa.Check.isin(list(self.classes), error=f"is none of {names(self.classes)}")] if self.classes else []
        known.append(pa.Check(lambda label: label != "", error="has no class: name it CLASS/FILE or CLASS-FILE"))
        fine = pa.Check(lambda text: text == "", error="image")
        return pa.DataFrameSchema({"label": pa.Column(None, known), "problem": pa.Column(None, fine)})

    def _inputs(self) -> Iterator[Any]:
        from mlflow.types import ColSpec

        yield ColSpec("binary", "image")

    def _output(self) -> Any:
        from mlflow.types import ColSpec

        return ColSpec("string")


def load(path: str | Path) -> Contract:
    """Read a contract.

    Raises:
        Error: it cannot be read, or says something that has no meaning; the sentence names the entry.
    """
    import yaml

    path = Path(path)
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Error(f"there is no {path}: it says what valid data is; `iml4e new` makes one") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Error(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    try:
        return _contract(told)
    except Error as error:
        raise Error(f"{path}: {error}") from None


def parse(source: str | Path | bytes, dialect: Dialect) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read the cells of a CSV file as text, without the spaces around them: header, and each row with its line in the file.

    Raises:
        Error: it is no CSV file; the message continues a sentence about the data.
    """
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}") from None
    if not content.strip():
        raise Error("is an empty file")
    if content[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise Error("is no CSV file but a workbook or ZIP file: save it as CSV")
    try:
        text = content.decode(dialect.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Error(
            f"is not {dialect.encoding}: byte 0x{content[error.start]:02x} in line {line}; name its encoding in {FILE} (csv: encoding), such as cp1252"
        ) from None
    except LookupError:
        raise Error(
            f"has an encoding that Python does not know, {dialect.encoding!r} (csv: encoding in {FILE})"
        ) from None
    if "\0" in text:
        raise Error("is no CSV file: it has binary content")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=dialect.delimiter, strict=True)
    header: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    begun = 1
    try:
        for row in reader:
            line, begun = begun, reader.line_num + 1
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            cells = [cell.strip() for cell in row]
            if not header:
                header = [name or f"column {number}" for number, name in enumerate(cells, 1)]
            elif len(cells) != len(header):
                raise Error(f"has {len(cells)} fields in line {line}, and {len(header)} in its header")
            else:
                rows.append((line, cells))
    except csv.Error as error:
        raise Error(f"is no CSV file: {error} in line {reader.line_num}") from None
    return header, rows


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
    """What reads a number, with or without separators of thousands."""
    decimal = dialect.decimal
    group = re.escape("." if decimal == "," else ",")
    grouped = re.compile(rf"[+-]?\d{{1,3}}({group}\d{{3}})+({re.escape(decimal)}\d+)?")
    plain = re.compile(rf"[+-]?(\d+{re.escape(decimal)}?\d*|{re.escape(decimal)}\d+)([eE][+-]?\d+)?")

    def read(cell: str) -> float:
        if grouped.fullmatch(cell):
            cell = re.sub(group, "", cell)
        if not plain.fullmatch(cell):
            raise ValueError(cell)
        return float(cell.replace(decimal, "."))

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
    "category": lambda column, dialect: str, "text": lambda column, dialect: str,
}  # fmt: skip


def typed(values: list[Any], column: Column) -> Any:
    """A `pandas.Series` as the model gets it: whole numbers with gaps become floating ones."""
    import pandas as pd

    if column.type == "number" or (column.type == "integer" and (column.missing or None in values)):
        return pd.Series(values, dtype="float64")
    if column.type == "integer":
        return pd.Series(values, dtype="int64")
    return pd.Series(values, dtype="object")


def _mlflow_type(column: Column) -> str:
    if column.type == "integer":
        return "double" if column.missing else "long"
    return "double" if column.type == "number" else "string"


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


def _contract(told: Any) -> Contract:
    """Make a contract of what a file says."""
    if not isinstance(told, dict) or told.get("kind") not in ("table", "images"):
        raise Error("`kind` is `table` or `images`")
    kind = Table if told["kind"] == "table" else Images
    known = {each.name for each in fields(kind)} | {"kind"}
    _only(told, known, "entry")
    given = {key: value for key, value in told.items() if key != "kind"}
    if given.get("task", "classification") not in ("classification", "regression"):
        raise Error(f"`task` is `classification` or `regression`, not {given['task']!r}")
    for name in ("rows", "rows_per_class"):
        if name in given and (type(given[name]) is not int or given[name] < 1):
            raise Error(f"`{name}` is a whole number from 1 on, not {given[name]!r}")
    if kind is Images:
        for name in ("smallest", "largest"):
            if name in given and not (
                isinstance(given[name], list) and [type(each) for each in given[name]] == [int, int]
            ):
                raise Error(f"`{name}` is [width, height] in pixels, not {given[name]!r}")
        if given.get("task", "classification") != "classification":
            raise Error("images have classes: `task` is `classification`")
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        return Images(**lists | {"classes": tuple(map(str, given.get("classes") or ()))})
    columns = given.get("columns")
    if not isinstance(columns, dict) or not columns:
        raise Error("`columns` has an entry for each column of the file")
    for name in columns:
        _text(name, "a column")
    made = tuple(_column(str(name), options or {}) for name, options in columns.items())
    target = str(given.get("target", ""))
    if target not in [each.name for each in made]:
        raise Error(f"`target` is {target!r}, which is none of `columns`: {names([each.name for each in made])}")
    truth = next(each for each in made if each.name == target)
    task = given.get("task", "classification")
    if truth.missing:
        raise Error(f"the target {target!r} cannot be missing: remove `missing`")
    if task == "regression" and truth.type not in ("number", "integer"):
        raise Error(f"the target {target!r} of a regression is a number or an integer, not a {truth.type}")
    if task == "classification" and truth.type not in ("category", "integer"):
        raise Error(f"the target {target!r} of a classification is a category or an integer, not a {truth.type}")
    contract = Table(**given | {"target": target, "columns": made, "csv": _dialect(given.get("csv") or {})})
    if not contract.features:
        raise Error("no column but the target is left for the model (`use: false`)")
    return contract


def _dialect(told: Any) -> Dialect:
    if not isinstance(told, dict):
        raise Error("`csv` has entries: delimiter, decimal, encoding, missing")
    _only(told, {each.name for each in fields(Dialect)}, "entry of `csv`")
    if len(str(told.get("delimiter", ","))) != 1 or told.get("decimal", ".") not in (".", ","):
        raise Error("`csv: delimiter` is one character, and `csv: decimal` is '.' or ','")
    return Dialect(**told | {"missing": tuple(str(each) for each in told.get("missing") or ())})


def _column(name: str, options: Any) -> Column:
    where = f"column {name!r}"
    if not isinstance(options, dict):
        raise Error(f"{where} has options such as `type: number`, not {options!r}")
    _only(options, set(OPTIONS), f"option of {where}")
    for option, value in options.items():
        if value is None or not isinstance(value, OPTIONS[option]):
            wanted = OPTIONS[option]
            if option in ("minimum", "maximum") and hasattr(value, "isoformat"):  # YAML knows dates
                continue
            raise Error(
                f"{where}: `{option}` is not {value!r}; it takes {getattr(wanted, '__name__', 'a number or a date')}"
            )
    kind = options.get("type", "number")
    if kind not in TYPES:
        raise Error(f"{where}: `type` is one of {', '.join(TYPES)}, not {kind!r}")
    for option in ("minimum", "maximum"):
        value = options.get(option)
        if value is not None and (
            kind in ("category", "text")
            or (isinstance(value, str) != (kind == "date") and not hasattr(value, "isoformat"))
        ):
            raise Error(f"{where}: `{option}` is {value!r}, which is no bound of a {kind}")
    changes = {each: str(options[each]) for each in ("minimum", "maximum") if kind == "date" and each in options}
    if "values" in options:
        for value in options["values"]:
            _text(value, f"{where}: a value")
        changes["values"] = tuple(options["values"] if kind in ("number", "integer") else map(str, options["values"]))
    if "pattern" in options:
        try:
            re.compile(options["pattern"])
        except re.error as error:
            raise Error(f"{where}: `pattern` is no regular expression: {error}") from None
    return Column(name, **options | changes)


def _text(value: Any, what: str) -> None:
    """Refuse what YAML takes for something else than text or a number."""
    if value is None or isinstance(value, bool | list | dict):
        raise Error(f"{what} is {value!r} for YAML: write it in quotes, such as 'yes', 'no', 'null'")


def _only(told: dict[Any, Any], known: set[str], what: str) -> None:
    """Refuse a key that has no meaning, and name the one that may be meant."""
    for key in told:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise Error(
                f"{key!r} is no {what}; {f'is it `{near[0]}`?' if near else 'there are ' + ', '.join(sorted(known))}"
            )


def names(names: Iterable[str]) -> str:
    """Some names, at most eight, for a sentence."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
