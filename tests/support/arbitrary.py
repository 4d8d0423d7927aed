"""Values at random: legal ones, drawn from the chart's schema, and illegal ones, made by putting something else into their place.

hypothesis-jsonschema 0.23.1, the last one, breaks with hypothesis 6.170 (`'many' object has no attribute 'more'`); the schema of this chart
uses few words of JSON Schema, which are here, and a word that is not raises an error.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import yaml
from hypothesis import strategies as st

from support.helm import CHART
from support.parts import EVERY

Schema = dict[str, Any]
Path_ = tuple[str | int, ...]

SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text())
#: Words of JSON Schema that a strategy follows, or may pass over.
KNOWN = {
    "$comment", "$ref", "$schema", "additionalProperties", "anyOf", "const", "definitions", "enum", "items", "maximum",
    "maxLength", "minItems", "minLength", "minProperties", "minimum", "pattern", "patternProperties", "properties",
    "propertyNames", "required", "title", "type", "uniqueItems",
}  # fmt: skip
#: Text with what YAML, JSON, shells and configuration files give a meaning to.
LETTERS = st.sampled_from("ab9Z.-_/:#'\"\\&*!|>%@`,[]{}=?$~ \té😀\n")
TEXT = st.one_of(
    st.sampled_from(
        ["x", "true", "null", "1e3", "0x1f", "2026-11-26", "- a", "a: b", "a #b", "{a", "[a", "'", '"', "%d"]
    ),
    st.text(LETTERS, max_size=12).filter(lambda text: "{{" not in text),
)
#: No control characters: YAML has none.
PRINTABLE = st.characters(codec="utf-8", exclude_categories=["C"])
#: Anything that a values file can hold.
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 2**53), st.floats(-1e9, 1e9), TEXT),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


def resolve(schema: Schema) -> Schema:
    """A schema without references at its top."""
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    return schema


def legal(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that fit a schema."""
    if "$ref" in schema:  # which may lead back to itself
        return st.deferred(lambda: _named(schema["$ref"]))
    if unknown := schema.keys() - KNOWN:
        raise NotImplementedError(f"The schema has words that tests/support/arbitrary.py does not know: {unknown}")
    if "anyOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return st.one_of([legal({**rest, **resolve(option)}) for option in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    types = schema.get("type", "any")
    if isinstance(types, list):
        return st.one_of([legal({**schema, "type": each}) for each in types])
    return {
        "any": lambda _: ANYTHING,
        "array": _array,
        "boolean": lambda _: st.booleans(),
        "integer": lambda own: st.integers(own.get("minimum", -9), own.get("maximum", 2**31 - 1)),
        "null": lambda _: st.none(),
        "number": _number,
        "object": _object,
        "string": _string,
    }[types](schema)


@functools.cache
def _named(reference: str) -> st.SearchStrategy[Any]:
    if reference.endswith("/schedule"):  # a sentence of the chart refuses most of what its pattern matches
        return st.sampled_from(["@every 1h30m", "@weekly", "0 2 * * *", "*/10  1-5,7 ? jan-mar SUN"])
    return legal(resolve({"$ref": reference}))


def _number(schema: Schema) -> st.SearchStrategy[float]:
    low, high = schema.get("minimum", 0), schema.get("maximum", 1e6)
    return st.integers(int(low), int(high)) | st.floats(low, high).map(lambda number: round(number, 3))


def _string(schema: Schema) -> st.SearchStrategy[str]:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 10**6)
    texts = pattern(schema["pattern"]) if "pattern" in schema else TEXT
    return texts.filter(lambda text: least <= len(text) <= most and "{{" not in text)


def pattern(text: str) -> st.SearchStrategy[str]:
    """Text that a pattern matches as Helm reads it: `$` is the end of the text, also where a line ends before."""
    return st.from_regex(re.sub(r"(?<!\\)\$(?![&\w])", r"\\Z", text), alphabet=PRINTABLE)


def _array(schema: Schema) -> st.SearchStrategy[list[Any]]:
    least = schema.get("minItems", 0)
    unique = json.dumps if schema.get("uniqueItems") else None
    return st.lists(legal(schema.get("items", {})), min_size=least, max_size=least + 2, unique_by=unique)


def _object(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    if schema.keys() <= {"type", "$comment"}:
        return st.just({})  # what is in there is for Kubernetes or for a program to say
    named = schema.get("properties", {})
    required = {key: legal(named.get(key, {})) for key in schema.get("required", [])}
    optional = {key: legal(child) for key, child in named.items() if key not in required}
    own = st.fixed_dictionaries(required, optional=optional)
    patterns = schema.get("patternProperties", {})
    forbidden = [key for key, child in patterns.items() if child is False]
    more = [(pattern(key), legal(child)) for key, child in patterns.items() if child is not False]
    if isinstance(schema.get("additionalProperties", {}), dict) and (not named or "additionalProperties" in schema):
        names = legal({"type": "string", "minLength": 1, **schema.get("propertyNames", {})})
        names = names.filter(lambda text: not any(re.search(key, text) for key in forbidden))
        more.append((names, legal(schema.get("additionalProperties", {}))))
    for names, values in more:
        least = schema.get("minProperties", 0) if not named else 0
        further = st.dictionaries(names, values, min_size=least, max_size=least + 2)
        own = st.tuples(further, own).map(lambda both: {**both[0], **both[1]})
    return own.filter(lambda found: len(found) >= schema.get("minProperties", 0))


@functools.cache
def defaults() -> dict[str, Any]:
    """All values of the chart with their defaults."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for part in EVERY:
        own = yaml.safe_load((CHART / "charts" / part / "values.yaml").read_text())
        values[part] = {key: value for key, value in own.items() if key != "global"}
    return values


def nodes(node: Any = None, path: Path_ = ()) -> Iterator[Path_]:
    """Path of every value of the chart, maps included."""
    node = defaults() if node is None and not path else node
    if path:
        yield path
    if isinstance(node, dict):
        for key, child in node.items():
            yield from nodes(child if child is not None else "", (*path, key))


def entry(path: Path_) -> Schema:
    """The schema of a value."""
    schema: Schema = SCHEMA
    for key in path:
        schema = resolve(schema)
        schema = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
        schema = schema if isinstance(schema, dict) else {}
    return resolve(schema)


def put(tree: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """A tree of values with another value at a path."""
    key, *rest = path
    below = tree.get(key) if isinstance(tree.get(key), dict) else {}
    return {**tree, key: put(below, tuple(rest), value) if rest else value}


#: Values that are drawn one by one: those without named values below them.
LEAVES = [path for path in nodes() if not entry(path).get("properties")]
#: The same by what they may be: there are sixty quantities, and one log level of the gateway.
BY_SHAPE: dict[str, list[Path_]] = {}
for _path in LEAVES:
    BY_SHAPE.setdefault(json.dumps(entry(_path)), []).append(_path)
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


@st.composite
def legal_values(draw: st.DrawFn) -> dict[str, Any]:
    """A values file with one to eight values that fit the schema."""
    tree: dict[str, Any] = {}
    for shape in draw(st.lists(st.sampled_from(list(BY_SHAPE.values())), min_size=1, max_size=8)):
        path = draw(st.sampled_from(shape))
        tree = put(tree, path, draw(legal(entry(path))))
    return tree


@st.composite
def illegal_values(draw: st.DrawFn) -> dict[str, Any]:
    """A values file with one to three values, or whole maps of values, replaced by anything."""
    tree: dict[str, Any] = {}
    for path in draw(st.lists(st.sampled_from(list(nodes())), min_size=1, max_size=3, unique=True)):
        tree = put(tree, path, draw(ANYTHING))
    return tree
