"""The report of a run: a table for the terminal, report.md and report.html with plots, and all requests as CSV."""

from __future__ import annotations

import html
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import _measure
from _measure import Record, Request
from _prometheus import Route
from _thresholds import Verdict, milliseconds

REPO = Path(__file__).resolve().parents[1]
SHADES = {"p50": "#9dc3f5", "p95": "#2f74d0", "p99": "#173b78"}
INK, GREY, BAD = "#1f2933", "#9aa5b1", "#c1121f"
#: Of services in the overview, in their order.
COLOURS = ("#2f74d0", "#3a9d6e", "#d68910", "#8e5bb5", "#607d8b")
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

HOW = (
    "Response times count from the moment at which a request was due by its user's plan, so that a standstill is in the figures as often "
    "as requests were due in it. `p99 from sending` leaves that waiting out, as most load generators do. A large difference between "
    "both, or many requests `sent late`, says that the platform, or the machine that sends the load, did not keep up.",
    "Percentiles are exact (nearest rank, of all requests). Locust's own page rounds them to two digits and counts from sending.",
    "Each user has one connection and keeps it.",
)


@dataclass
class Run:
    """What a report is about."""

    record: Record
    shape: str
    users: int
    planned: float
    url: str
    verdicts: Sequence[Verdict]
    complaints: Sequence[str]
    notes: Sequence[str] = ()
    load: tuple[str, str] = ("", "")
    """Load average before and after."""
    gateway: Sequence[Route] = ()
    gateway_why: str = ""
    command: str = field(default_factory=lambda: shlex.join(["locust", *sys.argv[1:]]))
    machine: str = field(default_factory=lambda: machine())
    commit: str = field(default_factory=lambda: commit())

    @property
    def met(self) -> bool:
        """Whether all thresholds were met."""
        return not self.complaints

    @property
    def date(self) -> str:
        """When the users began to ask."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.record.began))


def load_average() -> str:
    """How busy this machine is."""
    return f"{os.getloadavg()[0]:.1f}"


def machine() -> str:
    """The machine that sends the load; the platform of `make up` is on the same."""
    model = memory = ""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            memory = f"{int(line.split()[1]) / 2**20:.0f} GiB"
    parts = [f"{os.cpu_count()} cores", model or platform.machine(), memory, f"Python {platform.python_version()}"]
    return ", ".join(part for part in parts if part)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def commit() -> str:
    """The commit of this repository, and whether files differ from it."""
    words = ["git", "-C", str(REPO), "describe", "--always", "--dirty= and local changes", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "not known"
    return done.stdout.strip()


# --- tables: a head and rows of text; a cell that begins with ! missed its threshold

Table = tuple[list[str], list[list[str]]]


def of_services(run: Run) -> Table:
    """Each service beside its thresholds."""
    rows = []
    for verdict in run.verdicts:
        found, limits = verdict.summary, verdict.limits
        row = [verdict.service, f"{found.requests:,}", f"{found.requests / max(run.record.seconds, 1e-9):.1f}"]
        row.append(cell(f"{found.failed:.2%}", f"{limits.failures:.2%}", found.failed > limits.failures))
        row.append(milliseconds(found.p50))
        for name in ("p95", "p99"):
            value, limit = getattr(found, name), getattr(limits, name)
            row.append(cell(milliseconds(value), milliseconds(limit), value > limit))
        row += [milliseconds(found.longest), milliseconds(found.answered_p99), f"{found.late:.1%}"]
        if run.shape == "soak":
            row.append(cell(f"{verdict.drift:.1f} ×", f"{limits.drift:g} ×", verdict.drift > limits.drift))
        rows.append([*row, "missed" if verdict.complaints else "met"])
    head = ["service", "requests", "per s", "failed (limit)", "p50", "p95 (limit)", "p99 (limit)", "longest"]
    head += ["p99 from sending", "sent late"] + (["p95 grew (limit)"] if run.shape == "soak" else []) + ["thresholds"]
    return head, rows


def cell(value: str, limit: str, missed: bool) -> str:
    """A figure with its limit."""
    return f"{'!' if missed else ''}{value} ({limit})"


def of_requests(requests: Sequence[Request]) -> Table:
    """Each kind of request of a service."""
    rows = []
    for name, some in _measure.by_name(requests).items():
        found = _measure.summary(some)
        times = [milliseconds(value) for value in (found.p50, found.p95, found.p99, found.longest)]
        rows.append([name, f"{found.requests:,}", f"{'!' if found.failures else ''}{found.failures:,}", *times])
    return ["request", "requests", "failed", "p50", "p95", "p99", "longest"], rows


def of_failures(requests: Sequence[Request]) -> Table:
    """What went wrong, ten kinds at most."""
    found = _measure.failures(requests)
    rows = [[name, why, f"{count:,}"] for name, why, count in found[:10]]
    if rest := sum(count for *_, count in found[10:]):
        rows.append(["others", f"{len(found) - 10} more kinds", f"{rest:,}"])
    return ["request", "reason", "times"], rows


def of_routes(run: Run) -> Table:
    """Requests sent and counted, by route."""
    rows = []
    for route in run.gateway:
        codes = ", ".join(f"{code}: {count:,}" for code, count in route.codes.items())
        share = f"{(route.counted - route.sent) / route.sent:+.1%}" if route.sent else ""
        rows.append([route.name, f"{route.sent:,}", f"{route.counted:,}", share, codes, route.why or "—"])
    return ["route", "sent", "counted", "difference", "by status", "explanation"], rows


def facts(run: Run) -> list[tuple[str, str]]:
    """What somebody needs who compares or repeats this run."""
    ended = f"{run.record.seconds:.0f} s" + (
        f" of {run.planned:.0f} s planned" if run.record.seconds < run.planned - 2 else ""
    )
    return [
        ("date", run.date),
        ("platform", run.url),
        ("load", f"shape {run.shape}, up to {run.users} users, {ended}"),
        ("command", run.command),
        ("commit", run.commit),
        ("machine", run.machine),
        ("load average", f"{run.load[0]} before, {run.load[1]} after"),
    ]


def sentence(run: Run) -> str:
    """The verdict."""
    if run.met:
        return "All thresholds were met."
    return "Missed: " + " ".join(run.complaints)


def terminal(run: Run) -> str:
    """The figures for a terminal."""
    head, rows = of_services(run)
    parts = [columns(head, rows)] if rows else []
    if bad := [each for each in run.record.requests if each.failure]:
        parts.append(columns(*of_failures(bad)))
    return "\n\n".join([*parts, *run.notes, *(["All thresholds were met."] if run.met else [])])


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns, figures to the right."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[n]) for row in table) for n in range(len(head))]
    lines = []
    for row in table:
        words = [
            text.ljust(width) if n == 0 else text.rjust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    return "\n".join(lines)


# --- plots


def slots(requests: Sequence[Request], run: Run) -> tuple[float, list[list[Request]]]:
    """Requests in stretches of the run, by when they were sent: the width in seconds, and the stretches."""
    width = max(1.0, run.record.seconds / 80)
    # a last stretch that is not whole would look like a collapse
    count = max(1, int(run.record.seconds / width))
    found: list[list[Request]] = [[] for _ in range(count)]
    for each in requests:
        if 0 <= (number := int((each.start - run.record.began) / width)) < count:
            found[number].append(each)
    return width, found


def plots(run: Run, folder: Path) -> dict[str, Path]:
    """Draw the overview and each service, as SVG: files by service, '' is the overview."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    pyplot.rcParams.update(
        {
            "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY, "xtick.color": INK,
            "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
            "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.grid": True, "grid.color": "#e4e7eb",
            "svg.fonttype": "path", "svg.hashsalt": "iml4e", "axes.axisbelow": True,
        }
    )  # fmt: skip
    seconds = max(run.record.seconds, 1.0)
    unit, name = (60.0, "minutes") if seconds > 180 else (1.0, "seconds")
    found: dict[str, Path] = {}

    def save(figure: object, service: str) -> None:
        target = folder / f"{service.lower().replace(' ', '-') or 'overview'}.svg"
        figure.savefig(target, metadata={"Date": None})  # type: ignore[attr-defined]
        pyplot.close(figure)  # type: ignore[arg-type]
        found[service] = target

    services = run.record.services()
    figure, axis = pyplot.subplots(figsize=(10.8, 2.9), layout="constrained")
    rates = []
    middle: list[float] = []
    for requests in services.values():
        width, stretches = slots(requests, run)
        middle = [(n + 0.5) * width / unit for n in range(len(stretches))]
        rates.append([len(each) / width for each in stretches])
    axis.stackplot(middle, rates, labels=list(services), colors=COLOURS, alpha=0.85, linewidth=0)
    axis.set(title="Requests per second, by service; users", xlabel=name, xlim=(0, seconds / unit), ylim=(0, None))
    users = axis.twinx()
    users.spines.right.set_visible(True)
    users.grid(False)
    times = [(moment - run.record.began) / unit for moment, _ in run.record.users]
    users.step(
        times, [count for _, count in run.record.users], where="post", color=INK, linewidth=1.4, label="users (right)"
    )
    users.set_ylim(0, max([run.users, *(count for _, count in run.record.users)]) * 1.15)
    users.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    # beside the plot: inside, the legend would hide what it names
    figure.legend(loc="outside right upper", frameon=False)
    save(figure, "")
    for colour, (service, requests) in zip(COLOURS * 9, services.items(), strict=False):
        limits = next(verdict.limits for verdict in run.verdicts if verdict.service == service)
        width, stretches = slots(requests, run)
        middle = [(n + 0.5) * width / unit for n in range(len(stretches))]
        figure, (rate, time_, failed) = pyplot.subplots(
            1, 3, figsize=(10.8, 2.7), layout="constrained", width_ratios=[1, 1.35, 1]
        )
        per_second = [len(each) / width for each in stretches]
        rate.fill_between(middle, per_second, color=colour, alpha=0.25, linewidth=0)
        rate.plot(middle, per_second, color=colour, linewidth=1.4)
        rate.set(title="Requests per second", ylim=(0, max(per_second, default=1) * 1.15 or 1))
        for share, value in SHARES.items():
            points = [
                (at, 1000 * _measure.percentile((each.due for each in some), value))
                for at, some in zip(middle, stretches, strict=True)
                if some
            ]
            time_.plot(*zip(*points, strict=True), color=SHADES[share], linewidth=1.4, label=share)
        for limit, style in ((limits.p95, "--"), (limits.p99, ":")):
            label = f"limit of {'p95' if style == '--' else 'p99'}"
            time_.axhline(limit, color=BAD, linewidth=1, linestyle=style, label=label)
        time_.set_yscale("log")
        time_.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        time_.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: milliseconds(value)))
        time_.yaxis.set_minor_formatter(ticker.NullFormatter())
        time_.set(title="Response time")
        lost = [sum(bool(each.failure) for each in some) / width for some in stretches]
        failed.bar(middle, lost, width=width / unit, color=BAD)
        failed.set(title="Failures per second", ylim=(0, max([*lost, 0]) * 1.15 or 1))
        if not any(lost):
            failed.text(0.5, 0.5, "none", transform=failed.transAxes, ha="center", va="center", color=GREY, fontsize=12)
            failed.set_yticks([0])
        for each in (rate, time_, failed):
            each.set(xlabel=name, xlim=(0, seconds / unit))
        figure.legend(*time_.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        save(figure, service)
    return found


# --- documents


def write(run: Run, below: Path) -> Path:
    """Write the report into a new folder that is named after the time, and return the folder."""
    folder = below / time.strftime("%Y%m%d-%H%M%S", time.localtime(run.record.began))
    folder.mkdir(parents=True, exist_ok=True)
    pictures = plots(run, folder)
    (folder / "report.md").write_text(markdown(run, pictures))
    (folder / "report.html").write_text(page(run, pictures))
    run.record.write(folder / "requests.csv.gz")
    return folder.resolve()


def sections(run: Run) -> list[tuple[str, str, Table | None]]:
    """Title, text and table of what follows the services."""
    text = run.gateway_why and f"{run.gateway_why}: nothing to compare with."
    if not text:
        text = (
            "Everything that this run sent, preparing and removing included, beside the growth of the gateway's counters between the last "
            "scrape before and the first scrape after. Probes (HEAD) are left out. Differences up to 1 % need no explanation."
        )
    found: list[tuple[str, str, Table | None]] = []
    if bad := [each for each in run.record.requests if each.failure]:
        found.append(("Failures", "", of_failures(bad)))
    found.append(("What the gateway counted", text, of_routes(run) if run.gateway else None))
    return [*found, ("How to read this", "\n\n".join(HOW), None)]


def markdown(run: Run, pictures: dict[str, Path]) -> str:
    """The report as Markdown."""
    parts = ["# Load test", f"**{sentence(run)}**"]
    parts.append(grid(["what", "this run"], [[name, text] for name, text in facts(run)]))
    parts.append(grid(*of_services(run)))
    parts += run.notes
    parts.append(f"![Requests per second by service, and users]({pictures[''].name})")
    for service, requests in run.record.services().items():
        parts += [
            f"## {capital(service)}",
            f"![{service}: requests, response time, failures]({pictures[service].name})",
        ]
        parts.append(grid(*of_requests(requests)))
    for title, text, table in sections(run):
        parts += [f"## {title}", *filter(None, [text]), *([grid(*table)] if table else [])]
    return "\n\n".join(parts) + "\n"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; what missed its threshold is bold."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)] if len(head) > 2 else ["---"] * len(head)]
    for row in rows:
        clean = [text.replace("|", "\\|") for text in row]
        lines.append([f"**{text[1:]}**" if text.startswith("!") else text for text in clean])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


STYLE = """
:root { --ink: #1f2933; --soft: #52606d; --line: #e4e7eb; --good: #1e7a46; --bad: #c1121f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 72rem; color: var(--ink); background: #fff;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 .75rem; font-size: 1.7rem; }
h2 { margin: 2.25rem 0 .5rem; font-size: 1.2rem; }
.verdict { margin: 0 0 1.25rem; padding: .7rem 1rem; border-left: 5px solid; border-radius: 4px; }
.verdict p { margin: 0; }
.met { color: var(--good); border-color: var(--good); background: #eaf6ef; font-weight: 600; }
.missed { color: var(--bad); border-color: var(--bad); background: #fdeced; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .87rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; border-bottom-width: 2px; }
th:first-child, td:first-child, .text td, .text th { text-align: left; }
.figures td { white-space: nowrap; }
td.bad { color: var(--bad); font-weight: 700; }
td.good { color: var(--good); font-weight: 600; }
small { color: var(--soft); font-size: .92em; font-weight: 400; }
dl { display: grid; grid-template-columns: 8rem 1fr; gap: .15rem 1rem; margin: 0 0 1.5rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .92em; }
figure { margin: .75rem 0; overflow-x: auto; } figure svg { width: 100%; min-width: 46rem; height: auto; display: block; }
p { max-width: 52rem; }
.text td:not(:first-child):nth-child(-n+4) { white-space: nowrap; }
"""


def page(run: Run, pictures: dict[str, Path]) -> str:
    """The report as one HTML file that needs nothing else."""
    words = html.escape
    parts = ["<h1>Load test</h1>"]
    if run.met:
        parts.append(f'<div class="verdict met"><p>{words(sentence(run))}</p></div>')
    else:
        lines = "".join(f"<p>{words(each)}</p>" for each in run.complaints)
        parts.append(f'<div class="verdict missed">{lines}</div>')
    rows = (
        f"<dt>{words(name)}</dt><dd>{f'<code>{words(text)}</code>' if name == 'command' else words(text)}</dd>"
        for name, text in facts(run)
    )
    parts.append(f"<dl>{''.join(rows)}</dl>")
    parts.append(rendered(of_services(run)))
    parts += [f"<p>{words(note)}</p>" for note in run.notes]
    parts.append(picture(pictures[""], "Requests per second by service, and users"))
    for service, requests in run.record.services().items():
        parts.append(f"<h2>{words(capital(service))}</h2>")
        parts.append(picture(pictures[service], f"{service}: requests, response time, failures"))
        parts.append(rendered(of_requests(requests)))
    for title, text, table in sections(run):
        parts.append(f"<h2>{words(title)}</h2>")
        parts += [f"<p>{coded(words(each))}</p>" for each in text.split("\n\n") if each]
        if table:
            parts.append(rendered(table, "text"))
    title = f"Load test {run.date}: {'met' if run.met else 'missed'}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{words(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def coded(text: str) -> str:
    """Words between backticks as code."""
    parts = text.split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def rendered(table: Table, kind: str = "figures") -> str:
    """A table as HTML."""
    head, rows = table
    lines = ["<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in head) + "</tr>"]
    for row in rows:
        cells = []
        for text in row:
            style = (
                ' class="bad"' if text.startswith("!") or text == "missed" else ' class="good"' if text == "met" else ""
            )
            value = html.escape(text.removeprefix("!"))
            if kind == "figures" and value.endswith(")") and " (" in value:
                value = value.replace(" (", " <small>(", 1) + "</small>"
            cells.append(f"<td{style}>{value}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return f'<div class="scroll"><table class="{kind}">{"".join(lines)}</table></div>'


def picture(path: Path, label: str) -> str:
    """An SVG file inside the page."""
    text = path.read_text()
    svg = text[text.index("<svg") :]
    # ids are unique in a page: each picture gets its own
    mark = path.stem
    svg = svg.replace('id="', f'id="{mark}-').replace('href="#', f'href="#{mark}-').replace("url(#", f"url(#{mark}-")
    return f'<figure role="img" aria-label="{html.escape(label)}">{svg}</figure>'
