"""Data quality: check a table against a pandera schema; report the problems, and summarise them in one sentence."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iml4e import Error

#: pandera's names of checks, in plain words.
PLAIN = {
    "column_in_dataframe": "missing column",
    "column_in_schema": "unknown column",
    "not_nullable": "no value",
    "coerce_dtype": "wrong type",
    "field_uniqueness": "not unique",
}


def read_csv(source: str | Path | bytes, schema: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Read a CSV file and check the table; problems name the lines of the file.

    Args:
        source: path, or content.
        schema: a `pandera.DataFrameSchema`.

    Returns:
        The table with the types of the schema, and its problems; an empty table if it is no CSV file.
    """
    import io

    import pandas as pd

    try:
        table = pd.read_csv(io.BytesIO(source) if isinstance(source, bytes) else source)
    except ValueError as error:  # cut off, binary, rows of unequal length, empty
        problem = {"column": "", "check": "is no CSV file", "cases": 1, "example": str(error).strip()[:200]}
        return pd.DataFrame(), [problem]
    return check(table, schema, lambda index: f"line {int(index) + 2}")


def check(table: Any, schema: Any, where: Callable[[Any], str]) -> tuple[Any, list[dict[str, Any]]]:
    """Check a table against a schema.

    Args:
        table: a `pandas.DataFrame`.
        schema: a `pandera.DataFrameSchema`; errors of checks about the whole table begin with "needs".
        where: names a row of the table for people, by its index.

    Returns:
        The table with the types of the schema, and problems: column, check, number of cases, an example.
    """
    import pandas as pd
    import pandera.pandas as pa

    try:
        return schema.validate(table, lazy=True), []
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.fillna({"column": ""})
    problems = []
    for (column, name), group in cases.groupby(["column", "check"], sort=False):
        index, case = group[["index", "failure_case"]].iloc[0]
        place = "" if pd.isna(index) else f"{where(index)}: "
        example = "" if name.startswith("needs") else f"{place}{case}"
        plain = PLAIN.get(name.split("(")[0], name)
        problems.append({"column": column, "check": plain, "cases": len(group), "example": example})
    mistyped = {problem["column"] for problem in problems if problem["check"] == "wrong type"}
    # other findings in a column of the wrong type follow from that, those about the whole from the rest
    problems = [p for p in problems if p["check"] == "wrong type" or p["column"] not in mistyped]
    return table, sorted(problems, key=lambda problem: problem["example"] == "")


def demand(problems: list[dict[str, Any]], then: str) -> None:
    """Raise an error if there are problems.

    Raises:
        Error: there are; the sentence names the first and ends with `then`.
    """
    if problems:
        first = problems[0]
        what = f"{first['column']!r}: {first['check']}" if first["column"] else first["check"]
        cases = f", {first['cases']} case(s), such as {first['example']}" if first["example"] else ""
        raise Error(f"the data cannot be used, {len(problems)} problem(s), first: {what}{cases}; {then}")


def report(path: str, address: str, rows: int, problems: list[dict[str, Any]], **figures: Any) -> None:
    """Write a report, also to s3://S3_PIPELINES_BUCKET/reports/KEY/VERSION.json where that is set, and judge by it.

    Args:
        path: file of the report.
        address: address of the exact dataset version.
        rows: number of rows.
        problems: what `check` found.
        figures: more to keep, as JSON.

    Raises:
        Error: there are problems; the sentence names the first and the place of the report.
    """
    from iml4e import datasets

    summary = {"dataset": address, "valid": not problems, "rows": rows, "problems": problems, **figures}
    text = json.dumps(summary, indent=2)
    Path(path).write_text(text)
    place = "the report"
    if bucket := os.environ.get("S3_PIPELINES_BUCKET"):
        _, key, version = datasets.parse(address)
        key = f"reports/{key}/{version}.json"
        datasets.client().put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json")
        place = f"s3://{bucket}/{key}"
    demand(problems, f"see {place}")
    print(f"{rows} rows are fit for use; see {place}")
