"""The data contract: what schema.yaml may say, data in any spelling, and drafts of contracts."""

from __future__ import annotations

import csv
import io
import re
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from iml4e import Error, contract, datasets, draft, example, quality, reading
from iml4e.contract import Column, Dialect

TABLE = """
kind: table
target: late
rows: 4
rows_per_class: 2
csv: {delimiter: ";", decimal: ",", missing: [NA]}
columns:
  Größe (m): {minimum: 0, maximum: 5000}
  parcels: {type: integer, missing: true}
  carrier: {type: category, values: [rail, sea], missing: true}
  ordered: {type: date, format: "%d.%m.%Y", minimum: "2024-01-01"}
  code: {type: text, pattern: "[A-Z]{2}\\\\d+", unique: true, use: false}
  late: {type: category, values: ["no", "yes"]}
"""
ROWS = """\ufeff"Größe (m)";parcels;carrier;ordered;code;late
1,5;3;rail;01.02.2025;AB1;no
 1.234,25 ;NA;;02.02.2025;AB2;yes
2;4;sea;03.02.2025;"AB3";no
0,5;5;"rail";04.02.2025;AB4;yes
"""


def made(tmp_path: Path, text: str = TABLE) -> contract.Contract:
    """The contract of a text."""
    path = tmp_path / "schema.yaml"
    path.write_text(text, encoding="utf-8")
    return contract.load(path)


def first(problems: list[dict[str, Any]]) -> str:
    """The sentence that people get."""
    with pytest.raises(Error) as raised:
        quality.demand(problems, "nothing was stored")
    return str(raised.value)


# --- a good file


def test_a_file_from_a_german_spreadsheet_is_read_as_it_is_meant(tmp_path: Path) -> None:
    table, problems = reading.read(made(tmp_path), ROWS.replace("\n", "\r\n").encode())
    assert problems == []
    assert list(table.columns) == ["Größe (m)", "parcels", "carrier", "ordered", "late"]  # `code` is not used
    assert table["Größe (m)"].tolist() == [1.5, 1234.25, 2.0, 0.5]
    assert table["parcels"].isna().tolist() == [False, True, False, False]
    assert table["carrier"].tolist() == ["rail", None, "sea", "rail"]
    assert table["ordered"].tolist()[0] == "2025-02-01"


def test_the_signature_tells_what_may_be_missing(tmp_path: Path) -> None:
    signature = made(tmp_path).signature()
    assert [(each.name, each.type.name, each.required) for each in signature.inputs] == [
        ("Größe (m)", "double", True), ("parcels", "double", False), ("carrier", "string", False), ("ordered", "string", True),
    ]  # fmt: skip


def test_rows_to_ask_about_need_neither_target_nor_unused_columns(tmp_path: Path) -> None:
    text = "carrier;ordered;parcels;Größe (m);more\nsea;01.02.2025;;7;x\n"
    rows, problems = reading.features_of(made(tmp_path), text.encode())
    assert problems == []
    assert rows.to_dict("records")[0]["Größe (m)"] == 7.0


# --- bad files: one sentence


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("late\n", "Late\n"), "'late': missing column, the target; is it 'Late'?"),
        (("parcels", "pieces"), "'parcels': missing column; the file has 'pieces'"),
        (("ordered", "late"), "'late': is the name of two columns"),
        (("AB1;no", "AB1;no;1"), "has 7 fields in line 2, and 6 in its header"),
        (("AB1;no", "AB1"), "has 5 fields in line 2, and 6 in its header"),
        (("1,5;", "1.5;"), "'Größe (m)': is no number (`csv: decimal` in schema.yaml is ','), 1 case(s), such as line 2: '1.5'"),
        (("1,5;", ";"), "'Größe (m)': no value, 1 case(s), such as line 2"),
        (("1,5;", "nan;"), "'Größe (m)': is no number, 1 case(s), such as line 2: 'nan'"),
        (("1,5;", "-1;"), "'Größe (m)': is below 0, 1 case(s), such as line 2: -1.0"),
        (("2;4;", "2;4,5;"), "'parcels': is no integer, 1 case(s), such as line 4: '4,5'"),
        (("sea", "air"), "'carrier': is none of 'rail', 'sea', 1 case(s), such as line 4: air"),
        (("03.02.2025", "30.02.2025"), "'ordered': is no date such as %d.%m.%Y, 1 case(s), such as line 4: '30.02.2025'"),
        (("03.02.2025", "03.02.2023"), "'ordered': is below 2024-01-01, 1 case(s), such as line 4: 2023-02-03"),
        (("AB4", "AB1"), "'code': not unique, 2 case(s), such as line 2: AB1"),
        (("AB4", "ab4"), "'code': does not match [A-Z]{2}\\d+, 1 case(s), such as line 5: ab4"),
        (("yes", "no"), "the target 'late' has one class only, 'no': a classification needs two"),
        (("AB4;yes", "AB4;no"), "needs at least 2 rows of each class, and class 'yes' has 1 (`rows_per_class` in schema.yaml)"),
        (('0,5;5;"rail";04.02.2025;AB4;yes\n', ""), "needs at least 4 rows, and has 3 (`rows` in schema.yaml)"),
        (('"AB3"', '"AB3'), "is no CSV file: "),
        (("AB4", "A\0"), "is no CSV file: it has binary content"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_is_told(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert ROWS.replace(*change) != ROWS
    problems = reading.read(made(tmp_path), ROWS.replace(*change).encode())[1]
    assert told in first(problems)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is an empty file"),
        (b" \n\n", "is an empty file"),
        (ROWS.splitlines()[0].encode(), "has a header and no row below it"),
        (
            ROWS.replace('"', "").replace(";", "\t").encode(),
            "has one column only: its delimiter seems to be '\\t', and schema.yaml says ';'",
        ),
        (ROWS[1:].encode("cp1252"), "is not utf-8: byte 0xf6 in line 1; name its encoding in schema.yaml"),
        (ROWS.replace(";", "\t").encode(), "in line 1 (`csv: delimiter` in schema.yaml is ';')"),
        (b"PK\x03\x04" + bytes(50), "is no CSV file but a workbook or ZIP file: save it as CSV"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_table_is_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    problems = reading.read(made(tmp_path), tmp_path / "no-such.csv" if content is None else content)[1]
    assert len(problems) == 1
    assert told in first(problems)


def test_a_column_without_any_value_is_told(tmp_path: Path) -> None:
    empty = ROWS.replace(";3;", ";;").replace(";4;", ";;").replace(";5;", ";NA;")
    assert "'parcels': has no value in any row" in first(reading.read(made(tmp_path), empty.encode())[1])


def test_lines_are_those_of_the_file_also_after_a_field_of_two_lines(tmp_path: Path) -> None:
    text = ROWS.replace('"AB3"', '"AB3\nx"').replace("AB4;yes", "AB4;maybe")
    found = {problem["column"]: problem["example"] for problem in reading.read(made(tmp_path), text.encode())[1]}
    assert found["late"] == "line 6: maybe"


def test_a_regression_whose_target_is_always_the_same_is_told(tmp_path: Path) -> None:
    told = "kind: table\ntarget: y\ntask: regression\ncolumns: {x: {}, y: {}}\n"
    assert "the target 'y' has the same value in every row" in first(
        reading.read(made(tmp_path, told), b"x,y\n1,2\n2,2\n")[1]
    )


# --- what schema.yaml may say


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("kind: table", "kind: tables"), "`kind` is `table` or `images`"),
        (("rows: 4", "row: 4"), "'row' is no entry; is it `rows`?"),
        (("rows: 4", "rows: many"), "`rows` is a whole number from 1 on, not 'many'"),
        (("target: late", "target: Late"), "`target` is 'Late', which is none of `columns`"),
        (("decimal: \",\"", "decimal: \";\""), "`csv: delimiter` is one character, and `csv: decimal` is '.' or ','"),
        (("type: integer", "type: int"), "column 'parcels': `type` is one of number, integer, category, text, date, not 'int'"),
        (("missing: true}", "missnig: true}"), "'missnig' is no option of column 'parcels'; is it `missing`?"),
        (("minimum: 0", "minimum: low"), "column 'Größe (m)': `minimum` is 'low', which is no bound of a number"),
        (('["no", "yes"]', "[no, yes]"), "column 'late': a value is False for YAML: write it in quotes"),
        (('"[A-Z]{2}', '"[A-Z{2}'), "column 'code': `pattern` is no regular expression"),
        (("  parcels:", "  no:"), "a column is False for YAML: write it in quotes"),
        (("late: {type: category", "late: {missing: true, type: category"), "the target 'late' cannot be missing"),
        (("late: {type: category", "late: {type: text"), "the target 'late' of a classification is a category or an integer, not a text"),
        (("kind: table", "kind: table\ntask: regression"), "the target 'late' of a regression is a number or an integer"),
        (("[NA]", "[NA, NULL]"), "`csv: missing`: a text is None for YAML: write it in quotes"),
        (("[NA]", "NA"), "`csv: missing` is a list of texts, such as [NA, '-'], not 'NA'"),
        (("[NA]", "[NA], encoding: klingon"), "`csv: encoding` is 'klingon', which Python does not know"),
        (("[NA]", "[NA], encoding: [utf-8]"), "`csv: encoding` is ['utf-8'], which Python does not know"),
        (("delimiter: \";\"", "delimiter: 1"), "`csv: delimiter` is one character"),
        (("columns:", "columns: [1]\nrest:"), "'rest' is no entry"),
        (("columns:", "split_by: code\ncolumns:"), "`split_by` is a list of columns, such as [customer], not 'code'"),
        (("columns:", "split_by: [late]\ncolumns:"), "`split_by` has 'late', which is none of `columns` but the target: "),
        (("columns:", "split_by: [parcels]\ncolumns:"), "`split_by` has 'parcels', which cannot be missing then: remove its"),
        (("kind: table", "kind: ["), "cannot be read"),
    ],
)  # fmt: skip
def test_a_contract_without_meaning_is_told(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert TABLE.replace(*change, 1) != TABLE
    with pytest.raises(Error) as raised:
        made(tmp_path, TABLE.replace(*change, 1))
    assert told in str(raised.value)
    assert str(tmp_path / "schema.yaml") in str(raised.value)


def test_an_encoding_may_be_a_number_and_nothing_may_mean_missing(tmp_path: Path) -> None:
    found = made(tmp_path, TABLE.replace("missing: [NA]", "missing: , encoding: 1252").replace("; NA;", ";;"))
    assert isinstance(found, contract.Table)
    assert (found.csv.encoding, found.csv.missing) == ("1252", ())
    assert reading.read(found, ROWS.replace("NA", "")[1:].encode("cp1252"))[1] == []


@pytest.mark.parametrize(
    ("cell", "decimal", "value"),
    [
        ("1", ".", 1.0), ("-1.5e3", ".", -1500.0), (".5", ".", 0.5), ("1,234.5", ".", 1234.5), ("1.234", ",", 1234.0),
        ("1.234,5", ",", 1234.5), ("12,5", ",", 12.5), ("1.5", ",", None), ("12,5", ".", None), ("inf", ".", None),
        ("1_000", ".", None), ("0x10", ".", None), ("1 000", ".", None), ("١", ".", None),
        ("0,125", ".", None), ("0.125", ",", None), ("012,345", ".", None), ("12e4567", ".", None), ("1e308", ".", 1e308),
        ("12,345,678", ".", 12345678.0),
    ],
)  # fmt: skip
def test_numbers(cell: str, decimal: str, value: float | None) -> None:
    values, wrong = reading.convert([cell], Column("x"), Dialect(decimal=decimal))
    assert (values[0], wrong) == (value, [] if value is not None else [0])


# --- images


def image(size: tuple[int, int] = (20, 20), form: str = "PNG") -> bytes:
    """An image."""
    file = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(file, form)
    return file.getvalue()


IMAGES = "kind: images\nrows: 4\nrows_per_class: 2\nclasses: [cat, dog]\nformats: [PNG]\nsmallest: [16, 16]\nlargest: [64, 64]\n"


def folder(tmp_path: Path, **changes: bytes) -> Path:
    """A folder with two images of each class, and changes: content by name, with `__` for a slash."""
    for name in ("cat__1.png", "cat__2.png", "dog__1.png", "dog__2.png"):
        changes.setdefault(name, image())
    for name, content in changes.items():
        path = tmp_path / "images" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "images"


def test_images_are_read_from_a_folder_and_from_what_the_bucket_gives(tmp_path: Path) -> None:
    place = folder(tmp_path)
    rows, problems = reading.read(made(tmp_path, IMAGES), place)
    assert (problems, sorted(rows["label"])) == ([], ["cat", "cat", "dog", "dog"])
    datasets.copy(f"file:{place}", tmp_path / "packed.zip")
    assert reading.read(made(tmp_path, IMAGES), tmp_path / "packed.zip")[0].equals(rows)
    assert len(reading.features_of(made(tmp_path, IMAGES), place / "cat" / "1.png")[0]) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("cat__3.png", b"no image", "'image': is no image: cannot identify image file, 1 case(s), such as cat/3.png"),
        ("cat__3.png", image()[:60], "'image': is no image: "),
        ("cat__3.png", image(form="JPEG"), "'image': is JPEG, not PNG, 1 case(s), such as cat/3.png"),
        ("cat__3.png", image((8, 20)), "'image': has 8x20 pixels, less than 16x16"),
        ("cat__3.png", image((80, 20)), "'image': has 80x20 pixels, more than 64x64"),
        ("cow__3.png", image(), "'label': is none of 'cat', 'dog', 1 case(s), such as cow/3.png: cow"),
        ("alone.png", image(), "'label': "),
    ],
)
def test_bad_images_are_told(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    assert told in first(reading.read(made(tmp_path, IMAGES), folder(tmp_path, **{name: content}))[1])


def test_a_zip_file_without_a_manifest_is_no_folder_of_images(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/1.png", image())
    assert "is no folder of images" in first(reading.read(made(tmp_path, IMAGES), tmp_path / "a.zip")[1])


# --- drafts


def drafted(tmp_path: Path, path: Path, **words: str) -> tuple[draft.Draft, contract.Contract]:
    """The draft of a file, which the file must keep."""
    found = draft.table(path, **words)
    contract_ = made(tmp_path, found.text)
    assert reading.read(contract_, path)[1] == []
    return found, contract_


@pytest.mark.parametrize(
    ("load", "task"),
    [(load_breast_cancer, "classification"), (load_diabetes, "regression"), (load_wine, "classification")],
)
def test_drafts_of_well_known_data(tmp_path: Path, load: Any, task: str) -> None:
    path = tmp_path / "data.csv"
    load(as_frame=True).frame.to_csv(path, index=False)
    found, contract_ = drafted(tmp_path, path)
    assert (found.task, contract_.task, contract_.target) == (task, task, "target")
    assert len(contract_.features) == len(load().feature_names)
    assert (found.floor == 0) == (task == "regression")


def test_the_draft_of_an_awkward_file(tmp_path: Path) -> None:
    header = "Kunden ID;Größe (m);Stadt;PLZ;Seit;Notiz;immer;Kündigt"
    lines = [
        f"{i + 1};{['1,5', 'NA', '1.234,5'][i % 3]};{['Köln', '', 'Åbo'][i % 3]};{10000 + i % 4:05d};{i % 28 + 1:02d}.02.2025;"
        f"\"Text; {i}\";x;{['ja', 'nein'][i % 2]}"
        for i in range(60)
    ]  # fmt: skip
    path = tmp_path / "kunden.csv"
    path.write_bytes(("\ufeff" + "\r\n".join([header, *lines])).encode())
    _, found = drafted(tmp_path, path)
    assert isinstance(found, contract.Table)
    assert found.csv == Dialect(";", ",", "utf-8", ("NA",))
    assert found.features == ["Größe (m)", "Stadt", "PLZ", "Seit"]  # no identifier, text or constant
    assert found.column("Seit").format == "%d.%m.%Y"
    assert found.column("Stadt").missing
    assert set(found.column("Stadt").values) == {"Köln", "Åbo"}
    cp1252 = tmp_path / "old.csv"
    cp1252.write_bytes("\r\n".join([header, *lines]).encode("cp1252"))
    assert drafted(tmp_path, cp1252)[1].csv.encoding == "cp1252"
    utf16 = tmp_path / "unicode.csv"  # what a spreadsheet calls Unicode text
    utf16.write_bytes("\r\n".join([header, *lines]).replace(";", "\t").encode("utf-16"))
    assert drafted(tmp_path, utf16)[1].csv == Dialect("\t", ",", "utf-16", ("NA",))


def test_codes_with_leading_zeros_and_words_that_yaml_knows_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text(
        "\n".join(["code,on,yes", *(f"0{i % 3},{['off', 'on'][i % 2]},{['no', 'yes'][i % 2]}" for i in range(20))])
    )
    _, found = drafted(tmp_path, path)
    assert found.column("code").values == ("00", "01", "02")
    assert (found.target, found.column("yes").values) == ("yes", ("no", "yes"))


@pytest.mark.parametrize(
    ("cells", "decimal", "first", "delimiters"),
    [
        ((["2,087", "1,234"], ["28,92", "3"]), ",", 2.087, ",;\t"),  # the other column tells
        ((["2,087", "0,391"],), ",", 2.087, ",;\t"),  # no thousands start with 0
        ((["2,087", "1,234"],), ".", 2087, ","),  # nothing tells: the delimiter does
        ((["2,087", "1,234"],), ",", 2.087, ";\t"),
        ((["2,087", "1,234"], ["0.5", "2.5"]), ".", 2087, ",;\t"),
        ((["2.087", "1.234"], ["0,5", "2,5"]), ",", 2087, ",;\t"),
        ((["2.087", "0.391"],), ".", 2.087, ",;\t"),
        ((["1,234.5", "7"],), ".", 1234.5, ",;\t"),
    ],
)  # fmt: skip
def test_the_decimal_sign_is_what_the_columns_tell(
    tmp_path: Path, cells: tuple[list[str], ...], decimal: str, first: float, delimiters: str
) -> None:
    """pola-rs/polars#23157, Rdatatable/data.table#6604."""
    for delimiter in delimiters:
        path = tmp_path / "data.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow([*(f"c{at}" for at in range(len(cells))), "class"])
            writer.writerows([*(column[i % 2] for column in cells), "ab"[i % 2]] for i in range(60))
        _, found = drafted(tmp_path, path)
        assert isinstance(found, contract.Table)
        assert (found.csv.delimiter, found.csv.decimal) == (delimiter, decimal)
        assert reading.read(found, path)[0]["c0"][0] == first


def test_identifiers_that_look_like_powers_of_ten_are_texts(tmp_path: Path) -> None:
    """pandas-dev/pandas#62741: 12e4567 is no number that a computer has."""
    path = tmp_path / "data.csv"
    path.write_text("commit,size,late\n" + "".join(f"{i}e{4000 + i},{i % 9},{'ab'[i % 2]}\n" for i in range(1, 100)))
    assert drafted(tmp_path, path)[1].column("commit") == Column("commit", "text", use=False)


@pytest.mark.parametrize(
    "name", ["price\n(EUR)", "a: b", "#1", "on", "{x}", "'", 'a "b"', "- c", "?", "é\u2028\u00a0x", "<<", "=", "1"]
)
def test_any_name_and_any_value_of_a_spreadsheet_can_be_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["x", name, "late"], *([i, [name, "b\r\nc"][i % 2], "ab"[i % 2]] for i in range(60))]
        )
    found = drafted(tmp_path, path)[1].column(name)
    assert set(found.values) == {name, "b\r\nc"}


MEASURES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**18), 10**18),
    st.sampled_from(["NA", "", "1,234"]),
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(MEASURES, st.floats(1e-14, 9e-12), st.text(max_size=5), st.sampled_from("ab")), min_size=9, max_size=30),
    st.sampled_from(draft.DELIMITERS),
)  # fmt: skip
def test_the_data_of_a_draft_keep_it(rows: list[tuple[Any, ...]], delimiter: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["measure", "tiny", "note\n(free)", "late"])
            writer.writerows(rows)
        try:
            drafted(Path(folder), path)
        except Error as error:
            if not re.search("nothing can be learnt|no column that a model|has no value in any row|binary", str(error)):
                raise


HEADER = {"plain": "a{}price{}late", "two lines": 'a{}"price\n(EUR)"{}late', "sep=": "sep={}\na{}price{}late"}


@pytest.mark.parametrize("delimiter", draft.DELIMITERS)
@pytest.mark.parametrize("header", HEADER)
@pytest.mark.parametrize("note", ["x", "one\r\ntwo\nthree", "a, b; c | d\te", 'he said "no"', "x" * 200_000])
def test_the_delimiter_is_found_beside_cells_of_many_lines(
    tmp_path: Path, delimiter: str, header: str, note: str
) -> None:
    """mholt/PapaParse#681, OpenRefine/OpenRefine#764: lines are no rows. The first line of a spreadsheet may name it."""
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        file.write(HEADER[header].replace("{}", delimiter) + "\r\n")
        csv.writer(file, delimiter=delimiter).writerows([i % 7, note, "ab"[i % 2]] for i in range(30))
    _, found = drafted(tmp_path, path)
    assert isinstance(found, contract.Table)
    assert (found.csv.delimiter, len(found.columns), found.features) == (delimiter, 3, ["a"])


def test_the_delimiter_that_a_first_line_names_counts_no_row(tmp_path: Path) -> None:
    table, problems = reading.read(made(tmp_path), b"sep=;\n" + ROWS[1:].encode())
    assert (problems, len(table)) == ([], 4)


@pytest.mark.parametrize(
    ("name", "cells", "told"),
    [
        ("x", [*map(str, range(99)), "unknown"], "99 of 100 cells are numbers, and 'unknown' in line 101 is not: correct the file, or list that text in schema.yaml"),
        ("x", ["inf", *map(str, range(99))], "99 of 100 cells are numbers, and 'inf' in line 2 is not"),
        ("x", [*(f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}" for i in range(99)), "soon"], "99 of 100 cells are dates such as %Y-%m-%d, and 'soon' in line 101 is not"),
        ("x", [f"{i / 10}%" for i in range(100)], "numbers with a sign or a unit, such as '0.0%' in line 2, are texts: leave the sign out of the file"),
        ("x", [f"€ {i}.5" for i in range(100)], "numbers with a sign or a unit, such as '€ 0.5' in line 2, are texts"),
        ("x", [f"State {i}" for i in range(100)], "a text with 100 different values, such as 'State 0' in line 2; `type: category` with `other: true`"),
        ("x", ["y" * 99] * 100, f"it is always '{'y' * 39}…'"),
        ("x", ["90071992547409930", "90071992547409931"] * 50, "its values are all the same, such as '90071992547409930'"),
        ("rowID", [*map(str, range(100))], "it looks like an identifier, another number in each row"),
    ],
)  # fmt: skip
def test_why_a_column_is_not_used_is_told(tmp_path: Path, name: str, cells: list[str], told: str) -> None:
    """pandas-dev/pandas#13746: one odd cell made a column of numbers a text, silently."""
    path = tmp_path / "data.csv"
    path.write_text(f"{name},size,late\n" + "".join(f"{cell},{i % 9},{'ab'[i % 2]}\n" for i, cell in enumerate(cells)))
    found, contract_ = drafted(tmp_path, path)
    assert contract_.features == ["size"]
    assert [note.startswith(f"'{name}' is not used: {told}") for note in draft.notes(found.text)] == [True]


@pytest.mark.parametrize("name", ["bid", "paid", "grid", "covid", "kid", "valid"])
def test_words_that_end_like_an_identifier_are_used(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"{name},late\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(60)))
    found, contract_ = drafted(tmp_path, path)
    assert (contract_.features, draft.notes(found.text)) == ([name], [])


@pytest.mark.parametrize("name", ["id", "ID", "order_id", "orderID", "orderId", "Kunden Nr", "unnamed: 0", "INDEX"])
def test_identifiers_are_not_used(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"{name},size,late\n" + "".join(f"{i},{i % 9},{'ab'[i % 2]}\n" for i in range(60)))
    assert drafted(tmp_path, path)[1].features == ["size"]


def test_dates_that_could_be_american_are_told(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    text = "when,late\n,a\n" + "".join(f"0{i % 9 + 1}/04/2024,{'ab'[i % 2]}\n" for i in range(60))
    path.write_text(text)
    found, contract_ = drafted(tmp_path, path)
    assert contract_.column("when").format == "%d/%m/%Y"
    assert (
        "'when' is read as day/month/year, and could be month/day/year, such as '01/04/2024'"
        in draft.notes(found.text)[0]
    )
    path.write_text(text + "13/04/2024,a\n")
    assert draft.notes(drafted(tmp_path, path)[0].text) == []


CITIES = "город,size,late\n" + "".join(f"{['Москва', 'Яр'][i % 2]},{i},{['да', 'нет'][i % 2]}\n" for i in range(60))
TOWNS = "都市,size,late\n" + "".join(f"{['東京', '大阪'][i % 2]},{i},{['はい', 'いいえ'][i % 2]}\n" for i in range(60))


@pytest.mark.parametrize(
    ("text", "encoding"), [(CITIES, "cp1251"), (CITIES, "koi8-r"), (TOWNS, "shift_jis"), (TOWNS, "utf-16")]
)
def test_an_encoding_that_is_told_is_taken(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode(encoding))
    found, contract_ = drafted(tmp_path, path, encoding=encoding)
    assert isinstance(contract_, contract.Table)
    assert contract_.csv.encoding == encoding
    assert contract_.columns[0].name == text.partition(",")[0]
    assert draft.notes(found.text) == []


def test_an_encoding_that_is_guessed_is_told_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(CITIES.encode("cp1251"))
    told = draft.notes(drafted(tmp_path, path)[0].text)
    assert told[0].startswith("the file is not UTF-8, and read as cp1252, a guess, such as 'ãîðîä': if that is wrong, ")
    assert "--encoding" in told[0]


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("", "is neither utf-8 nor cp1252 (byte 0x"),
        ("utf-8", "is not utf-8 (byte 0x"),
        ("klingon", "Python knows no encoding 'klingon': --encoding takes "),
        ("hex", "Python knows no encoding 'hex': --encoding takes "),
    ],
)
def test_an_encoding_that_is_none_of_the_file_is_told(tmp_path: Path, encoding: str, told: str) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(TOWNS.encode("shift_jis"))
    with pytest.raises(Error) as raised:
        draft.table(path, encoding=encoding)
    assert told in str(raised.value)
    assert "schema.yaml" not in str(raised.value)  # which is not there yet


def test_a_draft_of_many_rows_does_not_take_their_square(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"

    def seconds(rows: int) -> float:
        path.write_text("a,b\n" + "".join(f"{i % 7},{i + 0.5}\n" for i in range(rows)))
        begun = time.process_time()
        draft.table(path)
        return time.process_time() - begun

    seconds(100)
    assert seconds(40_000) < 25 * seconds(5_000)  # about 8 times as long; 48 times when each value was counted anew


def test_limits_of_tiny_numbers_are_no_zeros(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("conc,late\n" + "".join(f"{i % 9 + 1}.023e-12,{'ab'[i % 2]}\n" for i in range(60)))
    column = drafted(tmp_path, path)[1].column("conc")
    assert (column.minimum, column.maximum) == (0, 1.8e-11)


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("", {}, "is an empty file"),
        ("a,b\n", {}, "has a header and no row below it"),
        ("a\n1\n2\n", {}, "has one column only, 'a': columns are separated by"),
        ("a,a\n1,2\n", {}, "has two columns with the name 'a'"),
        ("a,b\n1,2\n3,4\n", {"target": "c"}, "has no column 'c'; it has 'a', 'b'"),
        (
            "a,b,c\n1,,2\n2,,3\n",
            {},
            "column 'b' of {} has no value in any row: take it out of the file, then try again",
        ),
        ("a,b\n1,x\n2,\n", {}, "the target 'b' has no value in line 3 of {}: take out rows without one"),
        ("a,b\n1,x\n2,x\n", {}, "the target 'b' of {} is 'x' in every row: nothing can be learnt"),
        ("a,b\n1,x\n2,y\n", {"task": "regression"}, "the target 'b' of {} is no number, such as 'x'"),
        ("a,b\nu,x\nu,y\n", {}, "has no column that a model could learn 'b' from"),
        ("\n".join(["a,b", *(f"{i},{i + 0.5}" for i in range(90))]), {"task": "classification"}, "is it a class?"),
        ("a,b\n1,2,3\n", {}, "has 3 fields in line 2, and 2 in its header"),
    ],
)
def test_data_that_nothing_can_be_learnt_from_is_told(
    tmp_path: Path, text: str, words: dict[str, str], told: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(Error) as raised:
        draft.table(path, **words)
    assert told.format(path) in str(raised.value)


def test_the_draft_of_a_folder_of_images(tmp_path: Path) -> None:
    place = folder(tmp_path)
    found = made(tmp_path, draft.images(place).text)
    assert isinstance(found, contract.Images)
    assert (found.classes, found.formats) == (("cat", "dog"), ("PNG",))
    assert reading.read(found, place)[1] == []
    with pytest.raises(Error, match="is no image"):
        draft.images(folder(tmp_path, **{"cat__4.png": b"none"}))
    with pytest.raises(Error, match="there is no folder"):
        draft.images(tmp_path / "none")


@pytest.mark.parametrize("text", [TABLE.replace('pattern: "[A-Z]{2}\\\\d+", ', ""), IMAGES])
def test_examples_keep_the_contract(tmp_path: Path, text: str) -> None:
    found = made(tmp_path, text)
    example.write(found, tmp_path / "example", 60)
    rows, problems = reading.read(found, tmp_path / "example")
    assert problems == []
    made_up = example.rows(found, 60)
    assert list(made_up.columns) == list(rows.columns)
    assert made_up[found.target].nunique() == 2


def test_examples_of_small_images_are_as_small(tmp_path: Path) -> None:
    found = made(tmp_path, IMAGES.replace("[16, 16]", "[3, 3]").replace("[64, 64]", "[14, 20]"))
    example.write(found, tmp_path / "example", 8)
    assert reading.read(found, tmp_path / "example")[1] == []


def test_no_example_is_made_of_a_pattern(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no example can be made of column 'code'"):
        example.write(made(tmp_path), tmp_path / "example.csv", 10)
