"""Write what the parts of the chart repeat, from one source each.

scripts/chart           write the files
scripts/chart --check   change nothing; fail when a file is not as it would be written

Needs PyYAML, which the environment of the harness has.

| written                                                    | source                                                       |
| ---------------------------------------------------------- | ------------------------------------------------------------ |
| charts/<part>/templates/_helpers.tpl                       | HELPERS below; NO_FINDINGS for parts without validate.yaml   |
| `global:` of charts/<part>/values.yaml                     | `global:` of the umbrella's values.yaml: what the part reads |
| `global` and `definitions` of charts/<part>/values.schema.json | the umbrella's values.schema.json                        |
| sections of the parts in the umbrella's values.yaml        | Chart.yaml dependencies, comment of the part's `enabled`     |
| sections of the parts in the umbrella's values.schema.json | the part's values.schema.json                                |
| removed values in the schemas                              | files/removed.yaml of the umbrella                           |
| files/values.yaml of the umbrella                          | the umbrella's values.yaml                                   |
| files/variables.yaml of the umbrella                       | the variables in the templates of the parts                  |
| docs/values.md                                             | all values.yaml                                              |
| the table of exceptions in docs/security.md                | tests/exceptions.yaml                                  |
| NetworkPolicies, _flows.tpl, the table in docs/security.md | flows.yaml of the umbrella                                   |
| tables of the umbrella's README.md, its profiles/, LICENSE | values/, LICENSE, values.yaml and Chart.yaml of the parts    |
| annotations of the umbrella's Chart.yaml                   | CHANGELOG.md, CRDs, values.yaml and Chart.yaml of the parts  |
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts.common import console
from scripts.common.paths import REPO
from scripts.harness import flows, marks, package

CHART = REPO / "charts" / "iml4e"
#: Longest line of a written JSON file.
WIDTH = 120
EXCEPTIONS = REPO / "tests" / "exceptions.yaml"
#: Lines around the table of exceptions.
BEGIN, END = "<!-- written by scripts/chart from tests/exceptions.yaml -->", "<!-- end -->"
#: Rule whose exceptions a key of exceptions.yaml has, in the order of the table.
RULE_OF = {
    "restricted": "Pod Security `restricted`",
    "writableRoot": "read-only root file system",
    "noProbe": "probes",
    "token": "no token",
    "cluster": "rights in the namespace only",
    "secretsListed": "no Secrets without their names",
    "secretsWritten": "no writing of Secrets",
    "exec": "no commands in pods",
    "scan": "policy scan",
}
#: Line in the umbrella's values.yaml below which the sections of the parts are written.
MARK = "# Parts: written by scripts/chart"

HELPERS = """\
{{- /* Written by scripts/chart: do not edit. */}}
{{- define "PART.fullname" -}}
{{ .Release.Name }}-PART
{{- end }}

{{- define "PART.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "PART.podLabels" . }}
{{- end }}

{{- /* Labels of pods. A part with more than one workload gives the name of the others: dict "name" "…" "Release" .Release */}}
{{- define "PART.podLabels" -}}
{{ include "PART.selectorLabels" . }}
app.kubernetes.io/component: PART
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "PART.selectorLabels" -}}
app.kubernetes.io/name: {{ .name | default "PART" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Reference of an image: dict "global" .Values.global "image" .Values.image */}}
{{- define "PART.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Volume with the certificate authorities as ca.crt; nothing where there are none. It takes global.caCertificate */}}
{{- define "PART.caVolume" -}}
{{- $items := printf "[{key: %q, path: ca.crt}]" .key }}
{{- if .existingSecret -}}
- name: ca-certificate
  secret:
    secretName: {{ .existingSecret | quote }}
    items: {{ $items }}
{{- else if .existingConfigMap -}}
- name: ca-certificate
  configMap:
    name: {{ .existingConfigMap | quote }}
    items: {{ $items }}
{{- end }}
{{- end }}
"""

#: For parts that refuse no values: the umbrella asks each one.
NO_FINDINGS = """
{{- define "PART.findings" }}{{ end }}
"""
#: Values of earlier versions: the umbrella's templates say what became of them, so schemas let them through.
REMOVED = CHART / "files" / "removed.yaml"
#: What a schema says of such a value.
GONE = {"$comment": "removed: see files/removed.yaml of the umbrella"}

Path_ = tuple[str, ...]


def parts() -> list[str]:
    """Names of the parts, in the order of Chart.yaml's dependencies."""
    return [each["name"] for each in yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]]


def folder(part: str) -> Path:
    """Folder of a part's subchart."""
    return CHART / "charts" / part


def leaves(text: str) -> Iterator[tuple[Path_, str, yaml.Node]]:
    """Each documented value of a values.yaml: its path, the text of its `# --` comment, and its node.

    A value is a scalar, a list, or a map that is documented as a whole.
    """
    lines = text.splitlines()

    def comment(line: int) -> str:
        words: list[str] = []
        for above in reversed(lines[:line]):
            if not above.lstrip().startswith("#"):
                break
            words.insert(0, above.strip().removeprefix("#").strip())
            if words[0].startswith("-- "):
                return " ".join(words).removeprefix("-- ")
        return ""

    def walk(node: yaml.MappingNode, path: Path_) -> Iterator[tuple[Path_, str, yaml.Node]]:
        for key, value in node.value:
            said = comment(key.start_mark.line)
            if isinstance(value, yaml.MappingNode) and not value.flow_style and not said:
                yield from walk(value, (*path, key.value))
            else:
                yield (*path, key.value), said, value

    yield from walk(yaml.compose(text), ())


def block(text: str, key: str) -> str:
    """The lines of a top-level key of a values.yaml, without the comments above the key."""
    found = re.search(rf"^{key}:\n(?:(?:[ \t].*|)\n)*?(?=\S|\Z)", text, re.MULTILINE)
    if not found:
        raise console.Failure(f"A values.yaml has no `{key}:`.", "Add that key to the values of the part.")
    return found.group().rstrip("\n") + "\n"


def read_facts(part: str) -> list[Path_]:
    """Paths below the umbrella's `global` that a part's templates, files or values read, by themselves or in a map used as a whole."""
    root = folder(part)
    values = (root / "values.yaml").read_text()
    files = [path for name in ("templates", "files") for path in (root / name).rglob("*") if path.is_file()]
    text = "\n".join([*(path.read_text() for path in files), values.replace(block(values, "global"), "")])
    # the helpers read it of the dict that they are given
    text += "\n.Values.global.imageRegistry"
    shared = {"global": yaml.safe_load((CHART / "values.yaml").read_text())["global"]}

    def walk(node: Any, path: Path_) -> Iterator[Path_]:
        if len(path) > 1 and re.search(rf"\.Values\.{re.escape('.'.join(path))}(?![\w.])", text):
            yield path
        elif isinstance(node, dict):
            for key, child in node.items():
                yield from walk(child, (*path, key))

    return list(walk(shared, ()))


def only(text: str, wanted: list[Path_]) -> str:
    """A block of YAML with comments, cut down to some of its paths."""
    kept: list[str] = []
    comments: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        key = re.match(r"( *)([\w-]+):", line)
        if line.lstrip().startswith("#"):
            comments.append(line)
            continue
        if key:
            path = [*path[: len(key[1]) // 2], key[2]]
        here = tuple(path)
        if any(here[: len(each)] == each or each[: len(here)] == here for each in wanted):
            kept += [*comments, line]
        comments = []
    return "\n".join(kept) + "\n"


def part_values(part: str) -> str:
    """A part's values.yaml, with the shared facts that it reads."""
    own = (folder(part) / "values.yaml").read_text()
    shared = only(block((CHART / "values.yaml").read_text(), "global"), read_facts(part))
    return own.replace(block(own, "global"), shared)


def references(node: Any) -> set[str]:
    """Names of the definitions that a schema refers to."""
    if isinstance(node, dict):
        return {node["$ref"].rpartition("/")[2]} if "$ref" in node else set().union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def definitions(schema: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """The definitions that a part's schema needs: the umbrella's where it has one of that name, else its own."""
    own, needed = schema.get("definitions", {}), {}
    todo = references(schema["properties"])
    while todo:
        name = todo.pop()
        if name not in needed:
            try:
                needed[name] = shared.get(name) or own[name]
            except KeyError:
                raise console.Failure(
                    f"The schema of {schema['title']} refers to a definition {name} that neither it nor the umbrella has.",
                    f"Add {name} to `definitions` of one of the two.",
                ) from None
            todo |= references(needed[name])
    return dict(sorted(needed.items()))


def helpers(part: str) -> str:
    """A part's _helpers.tpl."""
    refuses = (folder(part) / "templates" / "validate.yaml").exists()
    return (HELPERS if refuses else HELPERS + NO_FINDINGS).replace("PART", part)


def admit_removed(part: str, schema: dict[str, Any]) -> None:
    """Let the removed values of a part through its schema, and no others that were let through before."""

    def forget(node: Any) -> None:
        if isinstance(node, dict):
            for key in [key for key, child in node.items() if child == GONE]:
                del node[key]
            for child in node.values():
                forget(child)

    forget(schema)
    for entry in yaml.safe_load(REMOVED.read_text()):
        owner, *path = entry["key"].split(".")
        if owner == part:
            node = schema
            for key in path[:-1]:
                node = node["properties"][key]
            node["properties"][path[-1]] = dict(GONE)


def part_schema(part: str, umbrella: dict[str, Any]) -> dict[str, Any]:
    """A part's schema, with the umbrella's entries for the shared facts that the part reads and for common shapes."""
    schema = json.loads((folder(part) / "values.schema.json").read_text())
    wanted = read_facts(part)

    def cut(node: dict[str, Any], path: Path_) -> dict[str, Any]:
        if path in wanted or "properties" not in node:
            return copy.deepcopy(node)
        children = {key: (*path, key) for key in node["properties"]}
        kept = {key: child for key, child in children.items() if any(each[: len(child)] == child for each in wanted)}
        # open: the umbrella shares facts with other parts too, and its own schema is the strict one
        return {
            "type": "object",
            "required": list(kept),
            "properties": {key: cut(node["properties"][key], child) for key, child in kept.items()},
        }

    admit_removed(part, schema)
    schema["properties"]["global"] = cut(umbrella["properties"]["global"], ("global",))
    schema["definitions"] = definitions(schema, umbrella["definitions"])
    return schema


def section(part: str, schema: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """What the umbrella's schema says of a part: names and types, so that a typo is refused also where the part is off.

    Nothing is required there: Helm fills in the defaults of the parts that are on alone, and their own schemas ask for them.
    """

    def loosen(node: Any, inside_list: bool = False) -> Any:
        if isinstance(node, list):
            return [loosen(each, inside_list) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            return loosen(schema["definitions"][name], inside_list) if needs_loosening(name) else dict(node)
        return {
            key: loosen(value, inside_list or key == "items")
            for key, value in node.items()
            if inside_list or key != "required" or not isinstance(value, list)
        }

    def needs_loosening(name: str) -> bool:
        return name not in shared or '"required"' in json.dumps(shared[name])

    properties = {key: value for key, value in schema["properties"].items() if key != "global"}
    # Helm hands `global` down into each section
    return loosen(
        {"type": "object", "additionalProperties": False, "properties": {"global": {"type": "object"}, **properties}}
    )


def dumps(node: Any, indent: int = 0, before: int = 0) -> str:
    """JSON, in one line where it fits."""
    flat = json.dumps(node, ensure_ascii=False)
    if not isinstance(node, dict | list) or not node or len(flat) + indent + before <= WIDTH - 1:
        return flat
    pad = " " * (indent + 2)
    if isinstance(node, list):
        lines = [f"{pad}{dumps(each, indent + 2)}" for each in node]
    else:
        names = {key: json.dumps(key, ensure_ascii=False) for key in node}
        lines = [f"{pad}{names[key]}: {dumps(value, indent + 2, len(names[key]) + 2)}" for key, value in node.items()]
    opened, closed = "[]" if isinstance(node, list) else "{}"
    return f"{opened}\n" + ",\n".join(lines) + f"\n{' ' * indent}{closed}"


def on(part: str) -> bool:
    """Whether a part is on by default."""
    return yaml.safe_load((folder(part) / "values.yaml").read_text())["enabled"]


def umbrella_values() -> str:
    """The umbrella's values.yaml, with a section for each part."""
    own = (CHART / "values.yaml").read_text().partition(MARK)[0]
    sections = []
    for part in parts():
        values = (folder(part) / "values.yaml").read_text()
        said = next((comment for path, comment, _ in leaves(values) if path == ("enabled",)), "")
        sections.append(
            f"{part}:\n" + "".join(f"{line}\n" for line in wrap(said)) + f"  enabled: {str(on(part)).lower()}\n"
        )
    return (
        f"{own}{MARK}, in the order of Chart.yaml.\n# All values of a part, with comments: charts/<part>/values.yaml, and docs/values.md.\n"
        + "".join(sections)
    )


def names() -> str:
    """Names of the umbrella's own values: by a missing one its templates tell values of an earlier version."""
    own = [path for path, *_ in leaves((CHART / "values.yaml").read_text()) if path[0] not in parts()]
    said = "# Written by scripts/harness/chart.py: do not edit. Names of the umbrella's own values.\n"
    return said + "".join(f"- {'.'.join(path)}\n" for path in own)


def variables() -> str:
    """Variables that the containers of each part have: `extraEnv` must not set them too."""
    said = "# Written by scripts/harness/chart.py: do not edit. Variables that the templates of each part set.\n"
    said += "# yamllint disable rule:line-length\n"
    for part in parts():
        files = sorted((folder(part) / "templates").rglob("*.yaml"))
        text = "\n".join(path.read_text() for path in files if ".Values.extraEnv" in path.read_text())
        found = sorted(set(re.findall(r"^ +- name: (\w+)\n +value(?:From)?:", text, re.MULTILINE)))
        said += f"{part}: [{', '.join(found)}]\n"
    return said


def optional(node: Any) -> Any:
    """A schema of the umbrella's own values that requires none: templates say more of a missing one than Helm's words."""
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key != "required" or not isinstance(value, list)}
    return {key: value if key == "items" else optional(value) for key, value in kept.items()}


def wrap(text: str) -> list[str]:
    """A `# --` comment of the umbrella's sections, in lines."""
    lines, line = [], "  # --"
    for word in text.split():
        if len(line) + 1 + len(word) > 130:
            lines.append(line)
            line = "  #"
        line = f"{line} {word}"
    return [*lines, line]


def table(text: str, prefix: str = "", skip: tuple[str, ...] = ()) -> str:
    """Markdown rows of the values of one values.yaml."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, said, node in leaves(text):
        if path[0] in skip:
            continue
        cells = (f"`{prefix}{'.'.join(path)}`", shown(node), said)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def shown(node: yaml.Node) -> str:
    """A default, as tables show it."""
    text = json.dumps(yaml.safe_load(yaml.serialize(node)), ensure_ascii=False)
    return f"`{text}`" if len(text) <= 100 else "`see values.yaml`"


def described() -> dict[str, tuple[str, str]]:
    """Default and meaning of every value of the chart."""
    own = {".".join(path): (shown(node), said) for path, said, node in leaves((CHART / "values.yaml").read_text())}
    for part in parts():
        found = leaves((folder(part) / "values.yaml").read_text())
        own |= {".".join((part, *path)): (shown(node), said) for path, said, node in found if path[0] != "global"}
    return own


def document() -> str:
    """docs/values.md: every value of the chart."""
    umbrella = (CHART / "values.yaml").read_text()
    out = [
        "<!-- Written by scripts/chart: do not edit. -->",
        "# Values",
        "",
        "Every value of the chart, its default and its meaning. Profiles in [values/](../values) hold only differences from these.",
        "Each part reads the shared facts under `global`; an own value of a part has the part's name in front.",
        "",
        "## iml4e",
        "",
        table(umbrella, skip=tuple(parts())),
    ]
    for part in parts():
        chart = yaml.safe_load((folder(part) / "Chart.yaml").read_text())
        out += [f"## {part}", "", f"{chart['description']}.", ""]
        out.append(table((folder(part) / "values.yaml").read_text(), f"{part}.", skip=("global",)))
    return "\n".join(out).rstrip() + "\n"


def security(text: str) -> str:
    """docs/security.md with the exceptions to its rules."""
    found = yaml.safe_load(EXCEPTIONS.read_text())
    lines = ["| rule | exception | reason |", "| --- | --- | --- |"]
    for kind, rule in RULE_OF.items():
        for name, reason in (found.get(kind) or {}).items():
            reasons = reason if isinstance(reason, dict) else {"": reason}
            for resources, why in reasons.items():
                what = f"`{name}`" + (f": {resources}" if resources else "")
                lines.append(f"| {rule} | {what} | {why} |")
    return marks.between(text, BEGIN, END, "\n" + "\n".join(lines) + "\n", "docs/security.md")


def written() -> dict[Path, str]:
    """Every file that this program writes, with its content."""
    files = flows.policies()
    umbrella = json.loads((CHART / "values.schema.json").read_text())
    # Helm leaves out the section of a part that is off where the values are those of an earlier version
    umbrella["required"] = ["global", *filter(on, parts())]
    for name in set(umbrella["properties"]) - set(parts()):
        umbrella["properties"][name] = optional(umbrella["properties"][name])
    for part in parts():
        files[folder(part) / "templates" / "_helpers.tpl"] = helpers(part)
        files[folder(part) / "values.yaml"] = part_values(part)
        schema = part_schema(part, umbrella)
        files[folder(part) / "values.schema.json"] = dumps(schema) + "\n"
        umbrella["properties"][part] = section(part, schema, umbrella["definitions"])
    files[CHART / "values.yaml"] = umbrella_values()
    files[CHART / "values.schema.json"] = dumps(umbrella) + "\n"
    files[CHART / "files" / "values.yaml"] = names()
    files[CHART / "files" / "variables.yaml"] = variables()
    files[REPO / "docs" / "values.md"] = document()
    files[flows.SECURITY] = security(flows.document())
    return files | package.files(described())


def main() -> None:
    """Write the files, or with --check only compare them."""
    parser = argparse.ArgumentParser(prog="scripts/chart", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is not as it should be")
    check = parser.parse_args().check

    def stale() -> dict[Path, str]:
        return {path: text for path, text in written().items() if not path.exists() or path.read_text() != text}

    if check and (found := stale()):
        raise console.Failure(
            f"{len(found)} files differ from what scripts/chart writes.",
            "Edit their sources, run `scripts/chart`, and commit what it writes.",
            "\n".join(str(path.relative_to(REPO)) for path in found),
        )
    # a helper that is written now may read facts that the part's values lack: once more, until nothing changes
    while not check and (found := stale()):
        for path, text in found.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(REPO)}")


if __name__ == "__main__":
    console.main(main)
