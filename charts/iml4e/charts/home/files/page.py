"""The page and the JSON of what is known: HTML without scripts, with one style, and nothing of another origin."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any
from urllib.parse import quote

import example
from sources import Part, Served, State

STYLE = """
:root { color-scheme: light dark; --text: #1c2330; --soft: #566072; --back: #f6f7f9; --card: #fff; --line: #d9dee6;
  --link: #0b57b0; --good: #176b36; --bad: #ab1f1f; --code: #eef1f5 }
@media (prefers-color-scheme: dark) { :root { --text: #e5e9f0; --soft: #a3adbd; --back: #12161d; --card: #1a2029;
  --line: #323b49; --link: #80b4f7; --good: #62cb87; --bad: #ff8f88; --code: #242c38 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main, header { max-width: 80rem; margin: 0 auto; padding: 0 1rem }
header { padding-top: 1.25rem } h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 1.75rem 0 .6rem }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere } p { margin: .25rem 0 } a { color: var(--link) }
a:focus-visible, pre:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.soft { color: var(--soft) } .good { color: var(--good) } .bad { color: var(--bad) } .state { font-weight: 600 }
ul.parts { list-style: none; margin: 0; padding: 0; display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)) }
li.part, article, .note { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem }
li.part p, article p, .note { overflow-wrap: anywhere }
.note { border-left: .3rem solid var(--bad); margin: .8rem 0 } .note p { margin: 0 }
article { margin-bottom: .8rem } article header { padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: 0 }
dl { display: grid; gap: .3rem 1.2rem; margin: .5rem 0; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)) }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
dl .wide { grid-column: 1 / -1 }
pre { background: var(--code); border-radius: .35rem; padding: .6rem .7rem; margin: .4rem 0 0; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; max-height: 12rem; overflow-y: auto }
nav a, nav strong { margin-right: .8rem } section nav { margin-bottom: .6rem } footer { max-width: 80rem; margin: 2rem auto 1.5rem; padding: 0 1rem }
"""
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
#: Content-Security-Policy: this style and the empty icon.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{DIGEST}'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
#: MLflow's page of experiments with its menu for model training; the menu of generative AI is its default.
EXPERIMENTS = "/mlflow/#/experiments?workflowType=machine_learning"
MODELS = "/mlflow/#/models"
WINDOWS = ("10m", "1h", "6h", "1d", "7d")


def data(state: State, last: str, base: str, release: str) -> dict[str, Any]:
    """All that is known, as JSON."""
    parts = None if state.parts is None else [_part(each, base) for each in state.parts]
    models = None if state.models is None else [_model(each, base) for each in state.models]
    return {"release": release, "last": last, "parts": parts, "models": models, "missing": state.missing}


def _part(part: Part, base: str) -> dict[str, Any]:
    return {
        "name": part.name,
        "title": part.title,
        "ready": not part.reason,
        "reason": part.reason,
        "url": base + part.path if part.path else "",
    }


def _model(each: Served, base: str) -> dict[str, Any]:
    url = f"{base}{each.path}/v1/models/{each.name}:predict"
    traffic = each.traffic
    requests = None if traffic is None else round(traffic.get("requests", 0))
    errors = None if traffic is None else round(traffic.get("errors", 0))
    latency = {key: (traffic or {}).get(key) for key in ("p50", "p95", "p99")}
    return {
        "namespace": each.namespace,
        "name": each.name,
        "model": each.model,
        "version": each.version,
        "champion": each.champion,
        "dataset": each.dataset,
        "ready": not each.reason,
        "reason": each.reason,
        "replicas": {"ready": each.ready, "wanted": each.wanted},
        "requests": requests,
        "errors": errors,
        "error_ratio": errors / requests if requests and errors is not None else (0.0 if requests == 0 else None),
        **{f"{key}_seconds": value if requests else None for key, value in latency.items()},
        "url": url,
        "curl": example.curl(url, each.instance, each.python),
    }


def home(state: State, last: str, base: str, release: str) -> str:
    """The landing page."""
    shown = data(state, last, base, release)
    notes = "".join(f"<p>{escape(each)}.</p>" for each in state.missing)
    note = f'<div class="note" role="status">{notes}</div>' if notes else ""
    if shown["parts"] is None:
        parts = '<p class="soft">Unknown at the moment.</p>'
    else:
        # whoever reads the page knows that it is on
        cards = "".join(_part_card(each, base) for each in state.parts or [] if each.name != "home" or each.reason)
        parts = f'<ul class="parts">{cards}</ul>'
    if shown["models"] is None:
        models = '<p class="soft">Unknown at the moment.</p>'
    elif not shown["models"]:
        models = "<p>No model is served. <code>iml4e deploy MODEL/VERSION</code> serves a registered one.</p>"
    else:
        mlflow = any(each.name == "mlflow" and each.path for each in state.parts or [])
        models = "".join(_model_card(each, base if mlflow else "") for each in shown["models"])
    windows = "".join(
        f'<strong aria-current="page">{each}</strong>' if each == last else f'<a href="?last={each}">{each}</a>'
        for each in dict.fromkeys((*WINDOWS, last))
    )
    return _document(
        f"{release}: machine learning platform",
        f"""<header><h1>{escape(release)}</h1><p class="soft">Machine learning platform at {escape(base)}</p></header>
<main>{note}
<section aria-labelledby="parts"><h2 id="parts">Parts</h2>{parts}</section>
<section aria-labelledby="models"><h2 id="models">Served models</h2>
<nav aria-label="Time of requests, errors and latency"><span class="soft">Traffic of the last </span>{windows}</nav>
{models}</section></main>
<footer class="soft"><p>The same as JSON: <a href="models/?last={escape(last)}">/models/</a>,
in a terminal: <code>iml4e stats --last {escape(last)}</code></p></footer>""",
    )


def _part_card(part: Part, base: str) -> str:
    title, links = escape(part.title), ""
    if part.path:
        # MLflow's own start page is the one of generative AI
        href = base + (EXPERIMENTS if part.name == "mlflow" else part.path)
        title = f'<a href="{escape(href)}">{title}</a>'
        if part.name == "mlflow":
            links = f'<p><a href="{escape(base + MODELS)}">Registered models</a></p>'
    state = f'<span class="state bad">Not ready</span>: {escape(part.reason)}' if part.reason else (
        '<span class="state good">Ready</span>')  # fmt: skip
    return f'<li class="part"><h3>{title}</h3><p class="soft">{escape(part.what)}</p>{links}<p>{state}</p></li>'


def _model_card(each: dict[str, Any], mlflow: str) -> str:
    version = escape(each["version"] or "unknown")
    if mlflow and each["model"] and each["version"]:
        name, number = quote(each["model"], safe=""), quote(each["version"], safe="")
        version = f'<a href="{escape(f"{mlflow}/mlflow/#/models/{name}/versions/{number}")}">{version}</a>'
    champion = {None: "unknown", "": "no version is", each["version"] or " ": "this version"}.get(
        each["champion"], f"version {each['champion']}"
    )
    replicas = each["replicas"]
    rows = [
        ("Version", version),
        ("Champion", escape(champion)),
        ("Replicas", f"{replicas['ready']} of {replicas['wanted']} ready"),
        ("Requests", "unknown" if each["requests"] is None else f"{each['requests']:,}"),
        ("Errors", _errors(each)),
        *((f"{key} latency", seconds(each[f"{key}_seconds"])) for key in ("p50", "p95", "p99")),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    if each["dataset"]:
        items += f'<div class="wide"><dt>Dataset</dt><dd>{escape(each["dataset"])}</dd></div>'
    registered = (
        f' <span class="soft">of model {escape(each["model"])}</span>'
        if each["model"] not in ("", each["name"])
        else ""
    )
    state = '<span class="state good">Ready</span>' if each["ready"] else '<span class="state bad">Not ready</span>'
    why = f"<p>{escape(each['reason'])}</p>" if each["reason"] else ""
    command = (
        f'<p class="soft">Ask it (a click selects the whole command):</p><pre tabindex="0"><code>{escape(each["curl"])}</code></pre>'
        if each["curl"]
        else f'<p class="soft">Address: {escape(each["url"])}</p>'
    )
    return (
        f"<article><header><h3>{escape(each['namespace'])}/{escape(each['name'])}{registered}</h3><span>{state}</span></header>"
        f"{why}<dl>{items}</dl>{command}</article>"
    )


def _errors(each: dict[str, Any]) -> str:
    if each["errors"] is None:
        return "unknown"
    if not each["errors"]:
        return "0"
    return f'<span class="bad">{each["errors"]:,} ({each["error_ratio"] or 0:.2%})</span>'


def seconds(value: float | None) -> str:
    """A time for people."""
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def error(status: int, said: str, pages: list[Part], base: str, path: str = "") -> str:
    """The page of an error."""
    titles = {400: "This request cannot be understood", 404: "Nothing is here", 502: "No answer", 503: "Not ready",
              504: "No answer in time"}  # fmt: skip
    links = [("Landing page", f"{base}/"), *((each.title, base + each.path) for each in pages)]
    items = "".join(f'<li><a href="{escape(href)}">{escape(title)}</a></li>' for title, href in links)
    title = titles.get(status, "Error")
    again = f'<p><a href="{escape(base + path)}">Try again</a></p>' if status >= 500 and path.startswith("/") else ""
    return _document(
        f"{status} {title}",
        f"""<header><h1>{title}</h1><p class="soft">Status {status}</p></header>
<main><div class="note"><p>{escape(said)}</p></div>{again}
<nav aria-labelledby="pages"><h2 id="pages">Pages of this platform</h2><ul>{items}</ul></nav></main>""",
    )


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    )
