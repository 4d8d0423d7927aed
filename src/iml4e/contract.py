"""The data contract of a project, `schema.yaml`: what a valid table or a valid folder of images is.

`iml4e.reading` reads and checks data by a contract, which also tells what the model takes and answers.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
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
    """What tables and images have in common: rows of features with a target."""

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

    def signature(self) -> Any:
        """What the model takes and answers (`mlflow.models.ModelSignature`)."""
        from mlflow.models import ModelSignature
        from mlflow.types import Schema

        return ModelSignature(Schema(list(self._inputs())), Schema([self._output()]))

    def _inputs(self) -> Iterator[Any]:
        raise NotImplementedError

    def _output(self) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Table(Contract):
    """A CSV file: one row a case, with the truth in the target's column."""

    columns: tuple[Column, ...] = ()
    split_by: tuple[str, ...] = ()
    """Columns whose values alone decide on which side of the split a row falls; none: the features and the target."""
    csv: Dialect = field(default_factory=Dialect)

    kind = "table"

    @property
    def features(self) -> list[str]:
        """Names of the columns that the model gets."""
        return [each.name for each in self.columns if each.use and each.name != self.target]

    @property
    def kept(self) -> list[str]:
        """Names of the columns that a table has once it is read: what the model gets, `split_by`, and the target."""
        return list(dict.fromkeys([*self.features, *self.split_by, self.target]))

    def of(self, *types: str) -> list[str]:
        """Names of the columns of some types that the model gets."""
        return [each.name for each in self.columns if each.name in self.features and each.type in types]

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


def _mlflow_type(column: Column) -> str:
    if column.type == "integer":
        return "double" if column.missing else "long"
    return "double" if column.type == "number" else "string"


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
    keys = _split_by(given.get("split_by") or [], made, target)
    changes = {"target": target, "columns": made, "split_by": keys, "csv": _dialect(given.get("csv") or {})}
    contract = Table(**given | changes)
    if not contract.features:
        raise Error("no column but the target is left for the model (`use: false`)")
    return contract


def _split_by(told: Any, columns: tuple[Column, ...], target: str) -> tuple[str, ...]:
    if not isinstance(told, list):
        raise Error(f"`split_by` is a list of columns, such as [customer], not {told!r}")
    there = {each.name: each for each in columns if each.name != target}
    for name in map(str, told):
        if name not in there:
            raise Error(f"`split_by` has {name!r}, which is none of `columns` but the target: {names(there)}")
        if there[name].missing:
            raise Error(
                f"`split_by` has {name!r}, which cannot be missing then: remove its `missing`, or split by another"
            )
    return tuple(map(str, told))


def _dialect(told: Any) -> Dialect:
    if not isinstance(told, dict):
        raise Error("`csv` has entries: delimiter, decimal, encoding, missing")
    _only(told, {each.name for each in fields(Dialect)}, "entry of `csv`")
    delimiter, decimal, encoding = (
        told.get(name, getattr(Dialect, name)) for name in ("delimiter", "decimal", "encoding")
    )
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n' or decimal not in (".", ","):
        raise Error("`csv: delimiter` is one character, and `csv: decimal` is '.' or ','")
    try:
        "".encode(str(encoding) if isinstance(encoding, str | int) else "")  # of a number, too: 1252
    except LookupError:
        raise Error(f"`csv: encoding` is {encoding!r}, which Python does not know: cp1252 is one, and utf-8") from None
    missing = told.get("missing") or []
    if not isinstance(missing, list):
        raise Error(f"`csv: missing` is a list of texts, such as [NA, '-'], not {missing!r}")
    for each in missing:
        _text(each, "`csv: missing`: a text")
    return Dialect(delimiter, decimal, str(encoding), tuple(map(str, missing)))


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
