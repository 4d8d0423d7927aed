"""Write the NetworkPolicies, and the table of docs/security.md, from charts/iml4e/flows.yaml. Called by scripts/chart."""

from __future__ import annotations

import functools
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from scripts.common import console
from scripts.common.paths import REPO
from scripts.harness import marks

CHART = REPO / "charts" / "iml4e"
SOURCE = CHART / "flows.yaml"
SECURITY = REPO / "docs" / "security.md"
START, END = "<!-- flows: written by scripts/chart -->\n", "<!-- end of flows -->\n"
HEAD = "{{- /* Written by scripts/chart from flows.yaml: do not edit. */}}\n"
UMBRELLA = "iml4e"
#: Groups of pods and addresses, and how docs/security.md calls them.
GROUPS = {
    "release": "every pod of the table",
    "clients": "pods of the release's namespace and of `clientNamespaces`",
    "others": "pods of `clientNamespaces`",
    "everywhere": "everywhere",
    "scrapers": "prometheus",
    "gateways": "gateway",
    "nodes": "nodes",
    "outside": "addresses outside the cluster",
    "proxy": "the addresses of `pipelines.proxy`",
    "backups": "the address of `backup.destination`",
    "identity": "the addresses of `notebooks.login.oidc`",
    "dns": "DNS",
    "api": "the Kubernetes API",
}
#: Parts that values replace by an address elsewhere: that address, and the name of the Service after the release's.
ADDRESSES = {
    "minio": ('(tpl .Values.global.s3.endpoint . | default "https://s3.amazonaws.com")', "minio"),
    "mariadb": (
        '(printf (contains ":" (tpl .Values.global.database.host .) | ternary "mysql://[%s]:%v" "mysql://%s:%v")'
        " (tpl .Values.global.database.host .) .Values.global.database.port)",
        "mariadb",
    ),
    "mlflow": ("(tpl .Values.global.mlflow.url .)", "mlflow"),
    "prometheus": ("(tpl .Values.global.monitoring.url .)", "prometheus"),
    "gateway": ("(tpl .Values.global.gateway.url .)", "gateway-internal"),
    "alertmanager": ("(tpl .Values.alertmanager.url .)", "alertmanager"),
}
HELPER = """\
{{- /* Rule of egress to pods of this release, or to the address that values name instead of them: dict "pods" "…" "service" "…" "ports"
(list …) "address" "…" "outside" .Values.global.networkPolicy.outside.blocks "Release" .Release */}}
{{- define "PART.egress" -}}
{{- $url := urlParse .address }}
{{- $own := printf "%s-%s.%s.svc" .Release.Name .service .Release.Namespace }}
{{- $short := list (printf "%s-%s" .Release.Name .service) (trimSuffix ".svc" $own) $own }}
{{- /* SERVICE.NAMESPACE.svc or POD.SERVICE.NAMESPACE.svc. SERVICE.NAMESPACE and SERVICE may be hosts outside as well: both are open then */}}
{{- $service := regexFind "^([^.]+[.]){2,3}svc([.]|$)" $url.hostname }}
{{- $namespace := "" }}
{{- if $service }}
{{- $namespace = index (trimSuffix "." $service | splitList "." | reverse) 1 }}
{{- else if regexMatch "^[-a-z0-9]+([.][-a-z0-9]*[a-z0-9])?$" $url.hostname }}
{{- $namespace = splitList "." $url.hostname | rest | first | default .Release.Namespace }}
{{- end }}
{{- if or (has $url.hostname $short) (hasPrefix (print $own ".") $url.hostname) }}
- to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/name: {{ .pods }}
          app.kubernetes.io/instance: {{ .Release.Name | quote }}
  ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- else }}
{{- with $namespace }}
# the port of its Service says nothing of the port of its pods
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ . | quote }}
{{- end }}
{{- if and $url.hostname .outside (not $service) }}
- to:
    {{- range .outside }}
    - ipBlock: {{ toJson . }}
    {{- end }}
  ports:
    - port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "http" | ternary "80" "443") }}
      protocol: TCP
{{- end }}
{{- end }}
{{- end }}
"""
#: Namespaces of pods of a gateway that is not the release's.
GATEWAYS = """\
{{- $namespaces := list }}
{{- if CONDITION }}
{{- /* pods of a gateway are in the namespace of their Gateway, or of the Service that its address names */}}
{{- $namespaces = list (tpl .Values.global.gateway.namespace .) }}
{{- with regexFind "^[^.]+[.][^.]+[.]svc([.]|$)" (urlParse (tpl .Values.global.gateway.url .)).hostname }}
{{- $namespaces = append $namespaces (index (splitList "." .) 1) }}
{{- end }}
{{- end }}
"""
#: Peers of a group, in a list of peers.
PEERS = {
    "clients": """\
{{- if has "*" .Values.global.networkPolicy.clientNamespaces }}
- namespaceSelector: {}
{{- else }}
- podSelector: {}
{{- range without .Values.global.networkPolicy.clientNamespaces .Release.Namespace }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . | quote }}
{{- end }}
{{- end }}
""",
    "gateways": """\
- podSelector:
    matchLabels:
      app.kubernetes.io/name: gateway
      app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- range without (uniq $namespaces) .Release.Namespace }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . | quote }}
{{- end }}
""",
    "scrapers": """\
{{- if eq .Values.global.monitoring.mode "operator" }}
- namespaceSelector: {}
  podSelector:
    matchLabels:
      app.kubernetes.io/name: prometheus
{{- else }}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: prometheus
      app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
""",
}


@dataclass(frozen=True)
class Pods:
    """Pods that have a policy."""

    name: str
    part: str
    file: str
    when: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    extraFrom: str = ""
    called: str = ""

    @property
    def template(self) -> Path:
        """The template of their policy."""
        root = CHART if self.part == UMBRELLA else CHART / "charts" / self.part
        return root / "templates" / self.file

    @property
    def policy(self) -> str:
        """The name of their policy, after the release's."""
        own = self.name == self.part or self.name.startswith(f"{self.part}-") or self.part == UMBRELLA
        return self.name if own or self.name == "alertmanager" else f"{self.part}-{self.name}"


@dataclass(frozen=True)
class Flow:
    """A row: pods and groups that may connect to pods or a group."""

    sources: tuple[str, ...]
    to: str
    why: str
    ports: tuple[int | str, ...] = ()
    when: str = ""

    @property
    def value(self) -> str:
        """The value that holds the ports, where the row names none."""
        return next((port for port in self.ports if isinstance(port, str)), "")


@functools.cache
def table() -> tuple[dict[str, Pods], tuple[Flow, ...]]:
    """The table.

    Raises:
        console.Failure: a row names pods that the table lacks, or has a condition on both of its sides.
    """
    read = yaml.safe_load(SOURCE.read_text())
    pods = {
        name: Pods(name, called=row.pop("is", name), **row)
        for name, row in ((n, dict(r)) for n, r in read["pods"].items())
    }
    for row in read["flows"]:
        if unknown := set(row) - {"from", "to", "ports", "when", "why"}:
            raise console.Failure(f"flows.yaml has a row with {', '.join(sorted(unknown))}.", "Quote text with commas.")
    flows = tuple(
        Flow(tuple(row["from"]), row["to"], row["why"], tuple(row.get("ports", ())), row.get("when", ""))
        for row in read["flows"]
    )
    for flow in flows:
        for name in (*flow.sources, flow.to):
            if name not in pods and name not in GROUPS:
                raise console.Failure(
                    f"flows.yaml has a row of {name}, which are no pods of its list.", "Add the pods."
                )
        if flow.when and flow.to in pods and any(name in pods for name in flow.sources):
            raise console.Failure(
                f"flows.yaml has a condition on the row to {flow.to}, whose two sides are of two charts.",
                "Leave `when` out: a rule for pods that do not exist opens nothing.",
            )
    return pods, flows


def covered(flow: Flow) -> bool:
    """Whether clients or everybody may do what a row says."""
    _, flows = table()
    wider = [
        each for each in flows if each.to == flow.to and not each.when and {"clients", "everywhere"} & set(each.sources)
    ]
    if any(not each.ports for each in wider):
        return True
    return bool(flow.ports) and set(flow.ports) <= {port for each in wider for port in each.ports}


def indent(text: str, columns: int) -> str:
    """Indent a block of a template."""
    return textwrap.indent(text, " " * columns)


def selector(pods: Pods, part: str = "") -> str:
    """A selector of pods, as the value of `podSelector`."""
    if pods.labels:
        exists = [key for key, value in pods.labels.items() if not value]
        if exists:
            return "matchExpressions:\n" + "".join(f"  - key: {key}\n    operator: Exists\n" for key in exists)
        return "matchLabels:\n" + "".join(f'  {key}: "{value}"\n' for key, value in pods.labels.items())
    if part and part != UMBRELLA:
        given = "." if pods.name == part else f'(dict "name" "{pods.name}" "Release" .Release)'
        return f'matchLabels:\n  {{{{- include "{part}.selectorLabels" {given} | nindent 6 }}}}\n'
    return f"matchLabels:\n  app.kubernetes.io/name: {pods.name}\n  app.kubernetes.io/instance: {{{{ .Release.Name | quote }}}}\n"


def several(names: list[str]) -> str:
    """A peer: pods of the release, by their names."""
    if len(names) == 1:
        return "- podSelector:\n" + indent(selector(table()[0][names[0]]), 4)
    listed = ", ".join(sorted(names))
    return (
        "- podSelector:\n    matchExpressions:\n      - key: app.kubernetes.io/name\n        operator: In\n"
        f"        values: [{listed}]\n    matchLabels:\n      app.kubernetes.io/instance: {{{{ .Release.Name | quote }}}}\n"
    )


def ports(numbers: tuple[int | str, ...]) -> str:
    """The ports of a rule."""
    if not numbers:
        return ""
    return "ports:\n" + "".join(f"  - port: {number}\n    protocol: TCP\n" for number in numbers)


def rule(flow: Flow, direction: str, peers: str) -> str:
    """A rule from its peers."""
    body = f"{direction}:\n{indent(peers, 2)}" if peers else ""
    lines = (body + ports(flow.ports)).splitlines(keepends=True)
    if not lines:
        return f"# {flow.why}\n- {{}}\n"
    return f"# {flow.why}\n- {lines[0]}" + indent("".join(lines[1:]), 2)


def conditional(condition: str, text: str) -> str:
    """Text of a template under a condition."""
    return f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n" if condition else text


def ingress(pods: Pods) -> str:
    """The rules for connections that pods accept."""
    known, flows = table()
    out = ""
    for flow in flows:
        if flow.to != pods.name:
            continue
        own = [name for name in flow.sources if name in known and not covered(flow)]
        labelled = [name for name in own if known[name].labels]
        named = [name for name in own if not known[name].labels]
        peers = several(named) if named else ""
        peers += "".join(several([name]) for name in labelled)
        peers += "".join(PEERS[name] for name in flow.sources if name in PEERS)
        if peers or "everywhere" in flow.sources:
            out += conditional(flow.when, rule(flow, "from", peers))
    if pods.extraFrom:
        numbers = tuple(sorted({port for flow in flows if flow.to == pods.name for port in flow.ports}, key=str))
        extra = f"- from:\n    {{{{- toYaml . | nindent 8 }}}}\n{indent(ports(numbers), 2)}"
        out += f"{{{{- with {pods.extraFrom} }}}}\n{extra}{{{{- end }}}}\n"
    return out


def to_group(flow: Flow) -> str:
    """The rule for connections to a group."""
    policy = ".Values.global.networkPolicy"
    blocks = "    {{- range BLOCKS }}\n    - ipBlock: {{ toJson . }}\n    {{- end }}\n"
    numbers = "  ports:\n    {{- range PORTS }}\n    - port: {{ . }}\n      protocol: TCP\n    {{- end }}\n"
    match flow.to:
        case "everywhere":
            return rule(flow, "to", "")
        case "others":
            star = (
                "    - namespaceSelector:\n        matchExpressions:\n          - key: kubernetes.io/metadata.name\n"
                "            operator: NotIn\n            values: [{{ .Release.Namespace | quote }}]\n"
            )
            one = "    - namespaceSelector:\n        matchLabels:\n          kubernetes.io/metadata.name: {{ . | quote }}\n"
            return (
                f"{{{{- with without {policy}.clientNamespaces .Release.Namespace }}}}\n# {flow.why}\n- to:\n"
                f'    {{{{- if has "*" . }}}}\n{star.replace(".Release", "$.Release")}    {{{{- else }}}}\n    {{{{- range . }}}}\n{one}'
                "    {{- end }}\n    {{- end }}\n{{- end }}\n"
            )
        case "proxy":
            return (
                f"# {flow.why}\n{{{{- range list .Values.proxy.http .Values.proxy.https | compact | uniq }}}}\n"
                '{{- include "pipelines.egress" (dict "pods" "" "service" "" "address" . "Release" $.Release\n'
                '  "outside" $.Values.global.networkPolicy.outside.blocks) | nindent 4 }}\n{{- end }}\n'
            )
        case "backups":
            return (
                f"# {flow.why}\n{{{{- if .Values.backup.destination.s3 }}}}\n"
                '{{- include "iml4e.egress" (dict "pods" "" "service" "" "outside" .Values.global.networkPolicy.outside.blocks "Release" .Release\n'
                '  "address" (.Values.backup.destination.endpoint | default "https://s3.amazonaws.com")) | nindent 4 }}\n{{- end }}\n'
            )
        case "identity":
            return (
                f"# {flow.why}\n{{{{- range list .Values.login.oidc.tokenUrl .Values.login.oidc.userinfoUrl | compact | uniq }}}}\n"
                '{{- include "notebooks.egress" (dict "pods" "" "service" "" "address" . "Release" $.Release\n'
                '  "outside" $.Values.global.networkPolicy.outside.blocks) | nindent 4 }}\n{{- end }}\n'
            )
        case "nodes":
            return rule(flow, "to", "")
        case "outside":
            where = f"{policy}.outside.blocks"
            if not flow.value:
                text = f"# {flow.why}\n- to:\n{blocks.replace('BLOCKS', where)}{indent(ports(flow.ports), 2)}"
                return conditional(where, text)
            text = f"# {flow.why}\n- to:\n{blocks}{numbers}".replace("BLOCKS", where).replace("PORTS", flow.value)
            return conditional(f"and {where} {flow.value}", text)
        case "api":
            to = (
                f"  {{{{- with {policy}.apiServer.blocks }}}}\n  to:\n{blocks.replace('BLOCKS', '.')}  {{{{- end }}}}\n"
            )
            listed = numbers.removeprefix("  ").replace("PORTS", f"{policy}.apiServer.ports")
            return f"# {flow.why}: the Kubernetes API\n- {listed}{to}"
        case "dns":
            both = "ports:\n    {{- range PORTS }}\n    - port: {{ . }}\n      protocol: UDP\n    - port: {{ . }}\n      protocol: TCP\n    {{- end }}\n"
            to = f"  {{{{- with {policy}.dns.peers }}}}\n  to:\n    {{{{- toYaml . | nindent 8 }}}}\n  {{{{- end }}}}\n"
            return f"# {flow.why}\n- {both.replace('PORTS', f'{policy}.dns.ports')}{to}"
    raise AssertionError(flow)


def elsewhere(pods: Pods, flow: Flow) -> bool:
    """Whether values may lead a connection to an address elsewhere: not within a part, nor from the gateway or for metrics."""
    return flow.to in ADDRESSES and pods.part != flow.to and pods.name != "gateway" and "scrapers" not in flow.sources


def egress(pods: Pods) -> str:
    """The rules for connections that pods open."""
    known, flows = table()
    out = ""
    mine = {pods.name, "release"}
    if pods.name == "prometheus":
        mine.add("scrapers")
    if pods.name == "gateway":
        mine.add("gateways")
    merged: dict[str, list[Flow]] = {}
    for flow in flows:
        if mine & set(flow.sources):
            # one rule for pods that are reached for several reasons; what is scraped are the release's own pods
            key = flow.to if flow.to in known else f"{flow.to} {flow.why}"
            key += " scraped" if "scrapers" in flow.sources else ""
            merged.setdefault(key, []).append(flow)
    for rows in merged.values():
        to = rows[0].to
        numbers = tuple(dict.fromkeys(port for row in rows for port in row.ports)) if all(r.ports for r in rows) else ()
        flow = Flow((pods.name,), to, ", ".join(dict.fromkeys(row.why for row in rows)), numbers, rows[0].when)
        if to not in known:
            out += conditional(flow.when, to_group(flow))
        elif elsewhere(pods, rows[0]):
            address, service = ADDRESSES[to]
            listed = " ".join(str(port) for port in numbers)
            out += (
                f'# {flow.why}\n{{{{- include "{pods.part}.egress" (dict "pods" "{to}" "service" "{service}" "ports" (list {listed})\n'
                f'  "address" {address}\n'
                '  "outside" .Values.global.networkPolicy.outside.blocks "Release" .Release) | nindent 4 }}\n'
            )
        else:
            out += rule(flow, "to", several([to]))
    return out


def extra(direction: str, name: str) -> str:
    """Rules that the values add."""
    return f'{{{{- with index .Values.global.networkPolicy.{direction} "{name}" }}}}\n{{{{- toYaml . | nindent 4 }}}}\n{{{{- end }}}}\n'


def template(pods: Pods) -> str:
    """The template of a policy."""
    part = pods.part
    rules_in = ingress(pods)
    more_in = extra("extraIngress", pods.name)
    if rules_in:
        all_in = f"  ingress:\n{indent(rules_in + more_in, 4)}"
    else:
        # no key without rules: the API server drops an empty list, which tools of GitOps take for a difference
        all_in = indent(more_in, 2).replace("  {{- toYaml", "  ingress:\n    {{- toYaml")
    rules_out = egress(pods) + extra("extraEgress", pods.name)
    labels = {"backup": "backup.labels", "demo": "runner.labels", "secrets": "iml4e.secrets.labels"}.get(
        pods.name, f"{part}.labels"
    )
    condition = f"and {pods.when if ' ' not in pods.when else f'({pods.when})'} .Values.global.networkPolicy.enabled"
    text = HEAD
    text += f"{{{{- if {condition if pods.when else '.Values.global.networkPolicy.enabled'} }}}}\n"
    if "$namespaces" in rules_in:
        shown = " ".join(
            [".Values.route.enabled"]
            if pods.name != "alertmanager"
            else [".Values.route.enabled", ".Values.alertmanager.route.enabled"]
        )
        text += GATEWAYS.replace("CONDITION", shown if " " not in shown else f"and {shown}")
    return (
        f"{text}apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {{{{ .Release.Name }}}}-{pods.policy}\n"
        f'  labels:\n    {{{{- include "{labels}" . | nindent 4 }}}}\nspec:\n  podSelector:\n{indent(selector(pods, part), 4)}'
        f"  policyTypes: [Ingress, Egress]\n{all_in}  egress:\n{indent(rules_out, 4)}{{{{- end }}}}\n"
    )


def policies() -> dict[Path, str]:
    """Every template that this program writes."""
    known, _ = table()
    files = {pods.template: template(pods) for pods in known.values()}
    helper = HEAD + HELPER
    for pods in known.values():
        if f'include "{pods.part}.egress"' in files[pods.template]:
            root = CHART if pods.part == UMBRELLA else CHART / "charts" / pods.part
            files[root / "templates" / "_flows.tpl"] = helper.replace("PART", pods.part)
    return files


def document() -> str:
    """docs/security.md with the table in it."""
    known, flows = table()

    def called(name: str) -> str:
        return GROUPS.get(name) or name

    rows = ["| from | to | ports of the pods | for |", "| --- | --- | --- | --- |"]
    for flow in flows:
        numbers = ", ".join(
            f"`{port.removeprefix('.Values.global.')}`" if isinstance(port, str) else str(port) for port in flow.ports
        )
        only = {
            ".Values.tls.enabled": "`gateway.tls.enabled`",
            ".Values.alertmanager.config.receivers": "receivers",
        }.get(flow.when)
        listed = {
            "proxy": "theirs",
            "backups": "its",
            "identity": "theirs",
            "dns": "`networkPolicy.dns.ports`",
            "api": "`networkPolicy.apiServer.ports`",
        }.get(flow.to, numbers or "all")
        why = flow.why + (f", with {only}" if only else "")
        rows.append(f"| {', '.join(map(called, flow.sources))} | {called(flow.to)} | {listed} | {why} |")
    legend = [f"{pods.name}: {pods.called}" for pods in known.values() if pods.called != pods.name]
    rows += ["", f"{'; '.join(legend)}."]
    return marks.between(SECURITY.read_text(), START, END, "\n" + "\n".join(rows) + "\n\n", "docs/security.md")
