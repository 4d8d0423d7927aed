"""Ways to break a template of the chart, one at a time, from a seed: each still renders, and renders something else."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.harness import templates
from scripts.harness.templates import CHART
from tests.support import helm


@dataclass(frozen=True)
class Mutant:
    """A template with one line, or one block of lines, that is not as it should be."""

    kind: str
    file: str
    line: int
    lines: int
    before: str
    after: str

    def apply(self, chart: Path) -> None:
        """Write it into a copy of the chart."""
        path = chart / self.file
        text = (CHART / self.file).read_text().split("\n")
        text[self.line : self.line + self.lines] = self.after.split("\n") if self.after else []
        path.write_text("\n".join(text))

    def __str__(self) -> str:
        """Where it is, and what became of what."""
        return f"{self.file}:{self.line + 1} {self.kind}: {shown(self.before)} -> {shown(self.after)}"


def shown(text: str) -> str:
    """A line or two of text in one."""
    words = re.sub(r"\s+", " ", text).strip()
    return words[:110] or "(nothing)"


# --- what can be wrong

LITERAL = r"[A-Za-z0-9/_.:-]+"
SECURITY = (
    "runAsNonRoot", "allowPrivilegeEscalation", "readOnlyRootFilesystem", "drop", "automountServiceAccountToken",
    "runAsUser", "runAsGroup", "fsGroup", "seccompProfile", "capabilities", "securityContext", "enableServiceLinks",
)  # fmt: skip
#: What a literal number stands for, and is another one.
TIMES = r"(periodSeconds|failureThreshold|timeoutSeconds|seconds|terminationGracePeriodSeconds|maxSurge|maxUnavailable|backoffLimit|activeDeadlineSeconds|replicas|defaultMode|sizeLimit|weight|priority)"
Changed = str | None


def block(lines: list[str], at: int) -> int:
    """Number of lines of the YAML that begins at a line: what is indented below it belongs to it."""
    start = lines[at]
    indent = len(start) - len(start.lstrip())
    if start.lstrip().startswith("- "):
        indent += 1
    length = 1
    while at + length < len(lines):
        text = lines[at + length]
        inner = len(text) - len(text.lstrip())
        if text.strip() and inner < indent + (0 if start.lstrip().startswith("- ") else 1):
            break
        length += 1
    return length


def balanced(lines: list[str]) -> bool:
    """Whether every `if` of some lines ends in them."""
    depth = 0
    for action in templates.actions("\n".join(lines)):
        depth += {"if": 1, "with": 1, "range": 1, "define": 1, "end": -1}.get(action.word, 0)
        if depth < 0 or (action.word == "else" and depth < 1):
            return False
    return depth == 0


def removed(line: str) -> Changed:
    return "" if re.match(r"\s*(- )?[\w./-]+:", line) or re.match(r"\s*- ", line) else None


def security(line: str) -> Changed:
    if not re.match(rf"\s*({'|'.join(SECURITY)}):", line):
        return None
    flipped = re.sub(r"\b(true|false)\b", lambda found: {"true": "false", "false": "true"}[found[1]], line)
    return flipped if flipped != line else ""


def condition(line: str) -> Changed:
    found = re.match(r"(\s*\{\{- (?:else )?if )(.+?)( ?-?\}\}.*)$", line)
    if not found or found[3].count("{{"):
        return None
    return f"{found[1]}not ({found[2]}){found[3]}"


def emptied(line: str) -> Changed:
    found = re.match(r"(\s*\{\{- (?:with|range) (?:\$\w+(?:, \$\w+)? := )?)(.+?)( ?-?\}\}\s*)$", line)
    return f"{found[1]}list{found[3]}" if found else None


def port(line: str) -> Changed:
    found = re.match(r"(\s*(?:- )?(?:containerPort|port|targetPort|nodePort): )(\S+)$", line)
    if found:
        return (
            f"{found[1]}{int(found[2]) + 1}"
            if found[2].isdigit()
            else f"{found[1]}{found[2]}x"
            if re.fullmatch(LITERAL, found[2])
            else None
        )
    found = re.match(r"(.*:)(\d{4})(\b.*)$", line)
    return f"{found[1]}{int(found[2]) + 1}{found[3]}" if found and "#" not in line else None


def name(line: str) -> Changed:
    found = re.match(
        rf"(\s*(?:- )?(?:name|secretName|serviceAccountName|serviceName): )({LITERAL})(\s*(?:#.*)?)$", line
    )
    if found:
        return f"{found[1]}{found[2]}x{found[3]}"
    return (
        re.sub(r'(include "[a-z]+\.fullname" \S+ \}\})', r"\1-x", line)
        if ".fullname" in line and "{{ include" in line
        else None
    )


def key(line: str) -> Changed:
    found = re.match(
        rf"(\s*(?:- )?(?:key|fieldPath|topologyKey|mountPath|medium|apiGroup|kind|type): )({LITERAL})$", line
    )
    return f"{found[1]}{found[2]}x" if found else None


def path(line: str) -> Changed:
    found = re.match(rf"(\s*(?:- )?(?:path|value|replaceFullPath|schedule): )(/?{LITERAL})$", line)
    return f"{found[1]}{found[2]}x" if found else None


def number(line: str) -> Changed:
    found = re.match(rf"(\s*{TIMES}: )(\d+)$", line)
    return f"{found[1]}{int(found[3]) * 10 if int(found[3]) else 1}" if found else None


def label(line: str) -> Changed:
    if re.search(r'include "\w+\.(podLabels|selectorLabels|labels)"', line):
        return (
            re.sub(r"\.(podLabels|labels)\"", '.selectorLabels"', line)
            if "selectorLabels" not in line
            else re.sub(
                r'(include "\w+\.)selectorLabels"( \.| \(.*?\)) ',
                r'\1selectorLabels" (dict "name" "other" "Release" $.Release) ',
                line,
            )
        )
    found = re.match(
        r"(\s*)((?:prometheus\.io|app\.kubernetes\.io|iml4e\.org|kubernetes\.io|pipelines\.kubeflow\.org)/[\w.-]+)(: .*)$",
        line,
    )
    return f"{found[1]}{found[2]}x{found[3]}" if found else None


def argument(line: str) -> Changed:
    found = re.match(r"(\s*- --[\w.-]+=)(.*)$", line)
    if found:
        return f"{found[1]}{'false' if found[2] == 'true' else 'true' if found[2] == 'false' else found[2] + '1'}"
    return re.sub(r"^(\s*- --[\w.-]+)$", r"\1x", line) if re.match(r"\s*- --", line) else None


def right(line: str) -> Changed:
    found = re.match(r"(\s*verbs: \[)(.+)(\])$", line)
    return f"{found[1]}{found[2]}, delete{found[3]}" if found and "delete" not in found[2] else None


def fewer(line: str) -> Changed:
    found = re.match(
        r"(\s*(?:- )?(?:verbs|resources|apiGroups|resourceNames|command|policyTypes|protocolVersions|accessModes|operations): \[)(.+)(\])$",
        line,
    )
    words = found[2].split(", ") if found else []
    return f"{found[1]}{', '.join(words[:-1])}{found[3]}" if len(words) > 1 else None


def unquoted(line: str) -> Changed:
    return line.replace(" | quote }}", " }}", 1) if " | quote }}" in line else None


def boolean(line: str) -> Changed:
    found = re.match(r'(\s*(?:- )?[\w.-]+: "?)(true|false)("?)$', line)
    return f"{found[1]}{'false' if found[2] == 'true' else 'true'}{found[3]}" if found else None


def frozen(defaults: dict[str, Any]) -> Callable[[str], Changed]:
    """A value that does not arrive: its default stands in the template."""

    def change(line: str) -> Changed:
        if re.search(r"\{\{-? ?(if|else|with|range|define|end)", line):
            return None
        for found in re.finditer(r"\$?\.Values\.([\w.]+)", line):
            node: Any = defaults
            for step in found[1].split("."):
                node = node.get(step) if isinstance(node, dict) else None
            if isinstance(node, str | bool | int) and "{{" not in str(node):
                said = f'"{node}"' if isinstance(node, str) else json.dumps(node)
                return line[: found.start()] + said + line[found.end() :]
        return None

    return change


def defaults_of(file: Path) -> dict[str, Any]:
    """The values that a template reads, with their defaults."""
    folder = next(parent for parent in file.parents if (parent / "Chart.yaml").exists())
    return yaml.safe_load((folder / "values.yaml").read_text())


WAYS: dict[str, Callable[[str], Changed]] = {
    "line removed": removed,
    "security field dropped or flipped": security,
    "condition flipped": condition,
    "arm never taken": emptied,
    "other port": port,
    "other name": name,
    "other key or kind": key,
    "other path or text": path,
    "other number": number,
    "other label": label,
    "other argument": argument,
    "one right more": right,
    "list cut short": fewer,
    "quotes removed": unquoted,
    "truth turned": boolean,
}


def candidates() -> Iterator[Mutant]:
    """Every mutant that the ways give, whether it renders or not."""
    for template in templates.templates():
        name_ = str(template.relative_to(CHART))
        if template.name == "_helpers.tpl" and name_.startswith("charts/"):
            continue  # written by scripts/chart: `make lint` compares them
        lines = template.read_text().split("\n")
        ways = {**WAYS, "value that does not arrive": frozen(defaults_of(template))}
        for at, line in enumerate(lines):
            if not line.strip() or line.lstrip().startswith(("#", "{{- /*", "{{/*")):
                continue
            for kind, way in ways.items():
                changed = way(line)
                if changed is None or changed == line:
                    continue
                count = block(lines, at) if changed == "" else 1
                before = lines[at : at + count]
                if changed == "" and not balanced(before):
                    continue
                yield Mutant(kind, name_, at, count, "\n".join(before), changed)


# --- what makes a difference

_CA = {"caCertificate": {"existingConfigMap": "ca", "key": "cabundle.crt"}}
_TWO = {
    **{part: {"replicas": 2} for part in ("gateway", "home", "mlflow", "kserve")},
    "pipelines": {part: {"replicas": 2} for part in ("api", "ui", "argo")},
}
#: Values that reach most arms of the templates.
#: What every part has for its pods.
_PODS = {
    "podLabels": {"a": "b"}, "podAnnotations": {"a": "b"}, "priorityClassName": "c", "affinity": {"podAffinity": {}},
    "extraEnv": [{"name": "MARK", "value": "b"}],
}  # fmt: skip
_OF_PODS = {part.name: _PODS for part in sorted((CHART / "charts").iterdir())} | {
    "secrets": {key: value for key, value in _PODS.items() if key != "extraEnv"}
}
WIDE: dict[str, dict[str, Any]] = {
    "default": {},
    "pods": helm.merged(_OF_PODS, {"mlflow": {"gc": {"enabled": True}}, "pipelines": {"retention": {"enabled": True}}}),
    "text": {
        "global": {"storageClass": "1e3", "s3": {"region": "123", "buckets": {"datasets": "1001", "mlflow": "1002", "pipelines": "1003"}}, "caCertificate": {"existingSecret": "true", "key": "null"}},
        "mlflow": {"s3": {"existingSecret": "0x1"}, "gc": {"enabled": True}},
        "pipelines": {"scheduler": {"timeZone": "123"}, "s3": {"existingSecret": "on"}, "retention": {"enabled": True}, "mlflow": {"experiment": "1e3"}},
        "kserve": {"s3": {"existingSecret": "no"}}, "grafana": {"settingsSecret": "1"},         "prometheus": {"scrapeInterval": "15s"}, "runner": {"s3Secret": "7"},
    },
    "wrong": {
        "minio": {"enabled": False}, "mariadb": {"enabled": False}, "mlflow": {"enabled": False}, "prometheus": {"enabled": False}, "home": {"enabled": False},
        "gateway": {"tls": {"enabled": True}, "service": {"type": "LoadBalancer", "nodePortTls": 30080}, "extraEnv": [{"name": "A"}, {"name": "A"}]},
        "kserve": {"models": {"replicas": {"min": 3, "max": 2}}, "webhook": {"certificate": {"mode": "existingSecret"}}},
        "pipelines": {"retention": {"enabled": True, "olderThan": "", "archivedOlderThan": ""}, "runs": {"podSpec": {"containers": []}}, "s3": {"existingSecret": ""}},
        "global": {"caCertificate": {"existingSecret": "a", "existingConfigMap": "b"}, "unknown": 1},
    },
    "wrong as well": {
        "gateway": {"enabled": False, "service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}},
        "minio": {"consumers": [{"name": "other", "buckets": [{"name": "aaa", "access": "ro"}]}] * 2},
        "mariadb": {"databases": [{"name": "other", "user": "other"}] * 2},
        "prometheus": {"retention": {"time": "1d"}, "objectives": {"window": "7d"}, "alertmanager": {"url": "http://other", "config": {"receivers": [{"name": "a", "slack_configs": [{"api_url": "x"}], "webhook_configs": [{"password": "x"}]}] * 2, "route": {"receiver": "b", "matchers": ["a=b"], "routes": [{"mute_time_intervals": ["n"]}]}}}},
    },
    "all on": {
        "mlflow": {"gc": {"enabled": True}, "extraEnv": [{"name": "A", "value": "b"}], "database": {"tls": True}, "serviceAccount": {"annotations": {"a": "b"}}},
        "pipelines": {"retention": {"enabled": True}, "mlflow": {"authType": "bearer"}, "proxy": {"http": "http://proxy:3128"}, "runs": {"parallelism": 3, "env": [{"name": "A", "value": "b"}]}, "serviceAccountAnnotations": {"a": "b"}},
        "kserve": {"models": {"serviceAccount": {"annotations": {"a": "b"}}}, "runtimes": {"mlflow": {"corsOrigins": ["*"]}}},
        "grafana": {"dashboards": {"extraConfigMaps": ["more"]}, "settingsSecret": "s", "settings": {"a": {"b": "c"}}},
        "home": {"models": {"namespaces": ["a", "b"]}},
        "minio": {"extraEnv": [{"name": "A", "value": "b"}]},
        "prometheus": {"alertmanager": {"secrets": ["s"], "templates": {"a": "b"}}},
        "global": {**_CA, "imagePullSecrets": [{"name": "p"}], "storageClass": "fast", "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
    },
    "two of each, TLS": helm.merged(_TWO, {"gateway": {"tls": {"enabled": True, "secretName": "t"}}, "global": {"publicUrl": "https://ml.example.org"}}),
    "operator": {"global": {"monitoring": {"mode": "operator", "url": "http://p.monitoring.svc:9090"}}, "prometheus": {"operator": {"labels": {"a": "b"}}}},
    "elsewhere": {
        "minio": {"enabled": False}, "mariadb": {"enabled": False}, "gateway": {"enabled": False},
        "global": {"s3": {"endpoint": ""}, "database": {"host": "fd00::1"}, "gateway": {"name": "shared", "namespace": "infra", "url": "http://shared.infra.svc"}, "securityContext": "platform", "networkPolicy": {"enabled": False}, "caCertificate": {"existingSecret": "ca"}},
        "kserve": {"s3": {"existingSecret": ""}, "controller": {"enabled": False}}, "mlflow": {"s3": {"existingSecret": ""}},
        "pipelines": {"s3": {"existingSecret": ""}, "runs": {"pipelineRoot": "s3://a/b"}, "mlflow": {"authType": "basic-auth"}},
        "home": {"models": {"namespaces": ["*"]}},
    },
    "small": {
        "home": {"enabled": False}, "gateway": {"errorPages": {"enabled": False}}, "mariadb": {"metrics": {"enabled": False}},
        "prometheus": {"probe": {"enabled": False}, "alertmanager": {"enabled": False}, "kubelet": {"enabled": False}, "gpus": {"enabled": False}, "route": {"enabled": False}},
        "grafana": {"server": {"enabled": False}}, "mlflow": {"route": {"enabled": False}}, "pipelines": {"mlflow": {"enabled": False}, "route": {"enabled": False}, "runs": {"archiveLogs": False}},
        "kserve": {"webhook": {"certificate": {"mode": "certManager"}}},
    },
}  # fmt: skip
OPTIONS = {"operator": ["--api-versions", "monitoring.coreos.com/v1", "--api-versions", "monitoring.coreos.com/v1alpha1"],
           "small": ["--api-versions", "cert-manager.io/v1"]}  # fmt: skip
#: What Kubernetes fills in where it is not said: to leave it out, or to say it, is the same.
BY_DEFAULT: dict[str, Any] = {
    "protocol": "TCP", "weight": 1, "volumeMode": "Filesystem", "statusCode": 302, "podManagementPolicy": "OrderedReady",
    "policyTypes": ["Ingress"], "maxSkew": 1, "successThreshold": 1, "suspend": False, "matchPolicy": "Equivalent",
    "terminationGracePeriodSeconds": 30, "automountServiceAccountToken": True, "restartPolicy": "Always",
}  # fmt: skip


def normal(node: Any) -> Any:
    """An object as Kubernetes takes it: with comments and defaults left out."""
    if isinstance(node, dict):
        kept = {key: normal(value) for key, value in node.items()}
        if kept.get("type") == "ClusterIP" and "selector" in kept:
            del kept["type"]
        if "name" in kept and "port" in kept:  # a backend of a route
            kept = {
                key: value for key, value in kept.items() if (key, value) not in (("kind", "Service"), ("group", ""))
            }
        return {key: value for key, value in kept.items() if key not in BY_DEFAULT or BY_DEFAULT[key] != value}
    if isinstance(node, list):
        return [normal(each) for each in node]
    if isinstance(node, str) and "\n" in node:
        return "\n".join(line for line in node.splitlines() if not line.lstrip().startswith("#"))
    return node


def objects(chart: Path, what: str) -> str:
    """What the chart renders with wide values, in a form that shows only what makes a difference."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(WIDE[what], file)
        file.flush()
        command = ["template", "iml4e", chart, "--namespace", "iml4e", *OPTIONS.get(what, []), "--values", file.name]
        try:
            text = helm.helm(*command)
        except helm.HelmError as refused:
            if what.startswith("wrong") and refused.findings:
                return "\n".join(refused.findings)
            raise
    found = [normal(each) for each in yaml.load_all(text, Loader=helm.LOADER) if each]
    # checksums follow what they are made of
    return re.sub(r"\b[0-9a-f]{8,64}\b", "#", json.dumps(found, sort_keys=True))


def generate(seed: int, count: int) -> list[Mutant]:
    """Mutants of a seed that render, and differ: each way gives as many as any other, as long as it has some."""
    chance = random.Random(seed)
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in candidates():
        by_kind.setdefault(mutant.kind, []).append(mutant)
    for each in by_kind.values():
        chance.shuffle(each)
    lanes = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(lanes) as pool:
        charts = [Path(shutil.copytree(CHART, Path(folder) / str(lane))) for lane in range(lanes)]
        known = {what: objects(CHART, what) for what in WIDE}

        def differs(given: tuple[Mutant, Path]) -> bool:
            mutant, chart = given
            mutant.apply(chart)
            try:
                rendered = (objects(chart, what) != known[what] for what in WIDE)
                # the default must render; what differs first is enough
                first = next(rendered)
                return first or any(rendered)
            except (helm.HelmError, yaml.YAMLError):
                return False
            finally:
                shutil.copy(CHART / mutant.file, chart / mutant.file)

        chosen: list[Mutant] = []
        taken: set[tuple[str, int]] = set()
        while len(chosen) < count and any(by_kind.values()):
            for kind in list(by_kind):
                while by_kind[kind] and len(chosen) < count:
                    some = [by_kind[kind].pop() for _ in range(min(lanes, len(by_kind[kind])))]
                    some = [each for each in some if (each.file, each.line) not in taken]
                    good = [
                        each
                        for each, is_good in zip(some, pool.map(differs, zip(some, charts, strict=False)), strict=False)
                        if is_good
                    ]
                    by_kind[kind] = list(good[1:]) + by_kind[kind]
                    if good:
                        chosen.append(good[0])
                        taken.add((good[0].file, good[0].line))
                        break
    return chosen


def save(mutants: list[Mutant], path: Path) -> None:
    """Write mutants as JSON."""
    path.write_text(json.dumps([asdict(each) for each in mutants], indent=1))


def load(path: Path) -> list[Mutant]:
    """Read them again."""
    return [Mutant(**each) for each in json.loads(path.read_text())]
