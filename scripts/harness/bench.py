"""Measure the model server beside MLServer and `mlflow models serve`: the same model, one process on one core each.

scripts/bench [--seconds N] [--runs N] [--out FILE]

The load generator has another core; traffic stays on this machine. Writes docs/measured-model-server.md.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.common import console, python
from scripts.common.address import is_this_machine
from scripts.common.paths import CACHE, REPO

Figures = dict[str, float]

PYTHON = REPO / ".venv" / "bin" / "python"
FOLDER = CACHE / "bench"
GATEWAY = os.environ.get("IML4E_URL", "http://127.0.0.1:30080").rstrip("/") + "/models/iml4e/wine"
CLIENTS = (1, 16)
OURS = "model server"
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
#: One thread in numerical libraries: each server has one core.
ONE_CORE = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
WRK = """
local requests, number = {}, 0
function init(args)
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
  end
end
function request()
  number = number % #requests + 1
  return requests[number]
end
function done(summary, latency)
  local e = summary.errors
  print(string.format('{"p50": %f, "p99": %f, "rate": %f, "errors": %d}', latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, summary.requests / summary.duration * 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Protocol:
    """The request for one row, and the place of its prediction in the answer."""

    path: str
    body: Callable[[list[str], list[float]], dict[str, Any]]
    answer: Callable[[dict[str, Any]], Any]


def tensors(columns: list[str], row: list[float]) -> dict[str, Any]:
    """A V2 request: one tensor for each column, as MLServer needs it."""
    pairs = zip(columns, row, strict=True)
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in pairs]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


PROTOCOLS = {
    "V1": Protocol("/v1/models/wine:predict", lambda _, row: {"instances": [row]}, lambda a: a["predictions"][0]),
    "V2": Protocol("/v2/models/wine/infer", tensors, lambda a: a["outputs"][0]["data"][0]),
    "invocations": Protocol(
        "/invocations",
        lambda columns, row: {"dataframe_split": {"columns": columns, "data": [row]}},
        lambda a: a["predictions"][0],
    ),
}


@dataclass
class Server:
    """Something that serves the model on this machine."""

    name: str
    url: str
    protocols: tuple[str, ...]
    command: list[str | Path] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    expected: list[Any] = field(default_factory=list)
    """Prediction of each row."""
    found: dict[tuple[str, int], list[Figures]] = field(default_factory=dict)
    """Figures of each run, by protocol and number of clients."""
    memory: dict[str, int] = field(default_factory=dict)
    """VmRSS and RssAnon of all its processes together, in KiB."""
    session: int = 0
    """Of its processes, while it runs."""
    pod: int = 0
    """A process of the pod whose network has the address; 0: this machine's own."""


@dataclass(frozen=True)
class Row:
    """A line of the table: medians by number of clients, and memory in KiB."""

    name: str
    protocol: str
    figures: dict[int, Figures]
    memory: dict[str, int]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the model server beside others.")
    parser.add_argument("--seconds", type=int, default=3, help="length of one run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each kind; the table has the medians")
    parser.add_argument(
        "--out", type=Path, default=REPO / "docs" / "measured-model-server.md", help="file of the table"
    )
    return parser.parse_args()


def local(url: str) -> str:
    """Return the address if it is of this machine: load never leaves it.

    Raises:
        console.Failure: it is not.
    """
    if not is_this_machine(url):
        raise console.Failure(f"{url} is not this machine.", "Unset IML4E_URL, or forward a local port and name that.")
    return url


def ports(count: int) -> list[int]:
    """Ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def mlserver() -> Path:
    """MLServer's environment: kept in the cache, with the libraries of the harness in the same versions."""
    same = versions(PYTHON, "mlflow", "scikit-learn", "pandas", "numpy", "skops")
    packages = ["mlserver==1.7.1", "mlserver-mlflow==1.7.1", "uvloop<0.22", *(f"{n}=={v}" for n, v in same.items())]
    folder = FOLDER / f"mlserver-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:16]}"
    if not (folder / "complete").exists():
        with console.step("install MLServer"):
            env = {"UV_CACHE_DIR": str(CACHE / "uv" / "cache"), "VIRTUAL_ENV": str(folder)}
            uv = [python.tools() / "uv", "--quiet", "--system-certs"]
            console.run([*uv, "venv", "--clear", "--python", PYTHON.resolve(), folder], env=env)
            console.run([*uv, "pip", "install", *packages], env=env)
            (folder / "complete").touch()
    return folder / "bin"


def versions(python: Path, *names: str) -> dict[str, str]:
    """Versions of packages in a Python environment."""
    code = "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    return json.loads(console.run([python, "-c", code, *names], cure="Run `make setup`."))


def servers(work: Path) -> list[Server]:
    """The servers of this machine, not started yet."""
    model, found, free = work / "model", [], ports(9)
    for batching in ("auto", "off"):
        port = free.pop()
        words = ["--model_name=wine", f"--model_dir={model}", "--host=127.0.0.1", f"--http_port={port}"]
        command = [PYTHON, "-m", "model_server", *words, f"--batching={batching}"]
        env = {"PYTHONPATH": str(REPO / "charts/iml4e/charts/kserve/files")}
        found.append(Server(f"{OURS}, batching {batching}", f"http://127.0.0.1:{port}", ("V1", "V2"), command, env))
    settings = {"name": "wine", "implementation": "mlserver_mlflow.MLflowRuntime", "parameters": {"uri": str(model)}}
    (work / "mlserver").mkdir()
    (work / "mlserver" / "model-settings.json").write_text(json.dumps(settings))
    for workers in ("0", "1"):
        env = {f"MLSERVER_{kind}_PORT": str(free.pop()) for kind in ("HTTP", "GRPC", "METRICS")}
        # no line of log for each request: ours has none either
        env |= {"MLSERVER_HOST": "127.0.0.1", "MLSERVER_DEBUG": "false", "MLSERVER_PARALLEL_WORKERS": workers}
        url = f"http://127.0.0.1:{env['MLSERVER_HTTP_PORT']}"
        command = [mlserver() / "mlserver", "start", work / "mlserver"]
        found.append(Server(f"MLServer, parallel workers {workers}", url, ("V2",), command, env))
    port = free.pop()
    words = ["models", "serve", "-m", model, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "-w", "1"]
    command = [PYTHON.parent / "mlflow", *words]
    return [*found, Server("`mlflow models serve`", f"http://127.0.0.1:{port}", ("invocations",), command)]


@contextmanager
def running(server: Server, core: int, work: Path) -> Iterator[None]:
    """Run a server on one core; end all its processes afterwards."""
    log = work / f"{re.sub('[^a-z0-9]+', '-', server.name.lower()).strip('-')}.log"
    command = ["taskset", "-c", str(core), *map(str, server.command)]
    path = {"PATH": f"{Path(server.command[0]).parent}:{os.environ['PATH']}"}
    env = os.environ | SILENT | ONE_CORE | server.env | path
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, env=env, cwd=work, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )

    server.session = process.pid

    def ready() -> bool:
        if process.poll() is not None:
            raise console.Failure(f"{server.name} ended at its start.", log=console.tail(log))
        try:
            return len(ask(server.url, server.protocols[0], work, rows=1)) == 1
        except (OSError, http.client.HTTPException, console.Failure):
            return False

    try:
        console.wait_until(ready, server.name, 120, log)
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if processes(process.pid):
                os.killpg(process.pid, number)
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline and processes(process.pid):
                process.poll()
                time.sleep(0.1)


def processes(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(words[3]) == session and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def ask(url: str, protocol: str, work: Path, rows: int = 64, at_once: int = 16) -> list[Any]:
    """Ask for the first rows, several at once, and return the predictions.

    Raises:
        console.Failure: an answer is not 200.
    """
    where = urlsplit(url)

    def one(body: str) -> Any:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", where.path + PROTOCOLS[protocol].path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise console.Failure(f"{url} answers {answer.status} to {protocol}: {text[:300].decode(errors='replace')}")
        return PROTOCOLS[protocol].answer(json.loads(text))

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(one, (work / f"{protocol}.jsonl").read_text().splitlines()[:rows]))


def load(server: Server, protocol: str, clients: int, seconds: int, core: int, work: Path) -> Figures:
    """Check the predictions, then ask as fast as the answers come.

    Returns:
        p50 and p99 in milliseconds, rate in requests per second, cpu (of a server started here) in milliseconds per request.

    Raises:
        console.Failure: a prediction is not the expected one, or a request fails.
    """
    inside = []
    if server.pod:
        inside = ["nsenter", "--target", str(server.pod), "--net"]
    elif (got := ask(local(server.url), protocol, work)) != server.expected[: len(got)]:
        raise console.Failure(f"{server.name} answers by {protocol} with other predictions than expected.")
    limits = ["-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s"]
    where = ["-s", work / "wrk.lua", server.url + PROTOCOLS[protocol].path, "--", work / f"{protocol}.jsonl"]
    before = cpu_seconds(server.session)
    said = console.run([*inside, "taskset", "-c", str(core), "wrk", *limits, *where])
    found = json.loads(said.splitlines()[-1])
    if found.pop("errors"):
        raise console.Failure(f"{server.name}: requests by {protocol} from {clients} clients failed.")
    if server.session:
        found["cpu"] = (cpu_seconds(server.session) - before) / (found["rate"] * seconds) * 1000
    return found


def cpu_seconds(session: int) -> float:
    """CPU time that the living processes of a session have used."""
    ticks = 0
    for pid in processes(session):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(session: int) -> dict[str, int]:
    """VmRSS and RssAnon of all processes of a session together, in KiB."""
    total = {"VmRSS": 0, "RssAnon": 0}
    for pid in processes(session):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if (name := line.partition(":")[0]) in total:
                total[name] += int(line.split()[1])
    return total


def in_cluster(work: Path, columns: list[str]) -> list[Server]:
    """The cluster's model `wine` through the gateway, and inside its pod; else say why not.

    It is another fit of the same pipeline: its answers are compared with its answers to single requests.
    """
    try:
        where = urlsplit(local(GATEWAY))
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
        connection.request("GET", where.path + "/v2/models/wine")
        answer = connection.getresponse()
        model = json.loads(answer.read())
        if answer.status != 200:
            raise ValueError(f"it answers {answer.status}")
        if model.get("platform") != "mlflow" or [each["name"] for each in model["inputs"]] != columns:
            raise ValueError("what is served there as wine is another server or model")
        expected = ask(GATEWAY, "V1", work, at_once=1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        console.say(f"No rows of a cluster: {error} ({GATEWAY}).")
        return []
    found = [Server(f"{OURS} in a pod, through the gateway", GATEWAY, ("V1", "V2"), expected=expected)]
    pods = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if {"--model_name=wine", "--model_dir=/mnt/models", "--http_port=8080"} <= set(
                process.read_text().split("\0")
            ):
                pods.append(int(process.parent.name))
    if pods and os.geteuid() == 0:
        inside = f"{OURS} in a pod, from inside"
        found.append(Server(inside, "http://127.0.0.1:8080", ("V1", "V2"), pod=min(pods)))
    else:
        console.say("No row from inside a pod of wine: that needs root, and the pod on this machine.")
    return found


def measure(args: argparse.Namespace, work: Path, cores: tuple[int, int]) -> tuple[list[Row], dict[str, int]]:
    """Run everything.

    Args:
        args: the command line.
        work: an empty folder.
        cores: one for the servers, one for the load generator.

    Returns:
        The table, and the memory of the model's own libraries with the model.
    """

    def without_server(what: str) -> dict[str, Any]:
        command = ["taskset", "-c", str(cores[0]), PYTHON, "-P", Path(__file__).with_name("bench_model.py"), what, work]
        return json.loads(console.run(command, env=SILENT | ONE_CORE).splitlines()[-1])

    with console.step("make the model, and predict without a server"):
        wine, bare = without_server("make"), without_server("memory")
    (work / "wrk.lua").write_text(WRK)
    for name, protocol in PROTOCOLS.items():
        lines = (json.dumps(protocol.body(wine["columns"], row)) + "\n" for row in wine["rows"])
        (work / f"{name}.jsonl").write_text("".join(lines))
    found = servers(work)
    with ExitStack() as stack:
        with console.step("start all servers"):
            for server in found:
                server.expected = wine["expected"]
                stack.enter_context(running(server, cores[0], work))
        found += in_cluster(work, wine["columns"])
        # Every server has a turn in each round, so that a noisy minute of the machine is not one server's alone.
        for number in range(args.runs):
            with console.step(f"round {number + 1} of {args.runs}"):
                for server, protocol, clients in [(s, p, c) for s in found for p in s.protocols for c in CLIENTS]:
                    figures = load(server, protocol, clients, args.seconds, cores[1], work)
                    server.found.setdefault((protocol, clients), []).append(figures)
        for server in found:
            server.memory = memory(server.session) if server.session else {}
    table = [
        Row(f"{api} in process", "", {int(rows): figures for rows, figures in each.items()}, {})
        for api, each in wine["limits"].items()
    ]
    for server, protocol in [(s, p) for s in found for p in s.protocols]:
        medians = {
            clients: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            for clients in CLIENTS
            for runs in [server.found[protocol, clients]]
        }
        table.append(Row(server.name, protocol, medians, server.memory))
    return table, bare


def judge(table: list[Row], bare: dict[str, int]) -> list[tuple[str, str, bool | None]]:
    """Compare with the goals: goal, what was measured, whether it is met (None: not measured)."""
    rows = {(row.name, row.protocol): row for row in table}
    rival = max((row for row in table if row.name.startswith("MLServer")), key=lambda row: row.figures[16]["rate"])
    found: list[tuple[str, str, bool | None]] = []
    for protocol in ("V1", "V2"):
        ours = rows[f"{OURS}, batching auto", protocol]
        faster, share = (ours.figures[16][name] / rival.figures[16][name] for name in ("rate", "p99"))
        p50 = ours.figures[1]["p50"]
        found += [
            (f"{protocol}, 16 clients: requests/s at least 3 × MLServer's", f"{faster:.1f} ×", faster >= 3),
            (f"{protocol}, 16 clients: p99 at most 0.33 × MLServer's", f"{share:.2f} ×", share <= 1 / 3),
            (f"{protocol}, 1 client: p50 below 1 ms", f"{p50:.2f} ms", p50 < 1),
        ]
        through, inside = (
            rows.get((f"{OURS} in a pod, {way}", protocol)) for way in ("through the gateway", "from inside")
        )
        more = through.figures[1]["p50"] - inside.figures[1]["p50"] if through and inside else None
        goal = f"{protocol}, 1 client: the gateway adds at most 0.5 ms to p50"
        found.append((goal, "" if more is None else f"{more:.2f} ms", None if more is None else more <= 0.5))
    beside = (ours.memory["VmRSS"] - bare["VmRSS"]) / 1024
    return [*found, ("At most 120 MiB resident beside the model and its libraries", f"{beside:.0f} MiB", beside <= 120)]


def document(table: list[Row], bare: dict[str, int], facts: list[str]) -> str:
    """Write the page: what was measured where, the table, and the goals with verdicts."""
    columns = [
        f"{clients} client{'s' * (clients > 1)}: {what}" for clients in CLIENTS for what in ("p50", "p99", "req/s")
    ]
    head = ["Server", "Protocol", *columns, "CPU per request", "RSS", "anonymous"]
    lines = ["# Measured: the model server beside others", "", "`make bench` writes this page.", ""]
    lines += [f"- {fact}" for fact in facts]
    lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * 2}{'---:|' * (len(head) - 2)}"]
    for row in table:
        cells = [row.name, row.protocol]
        for clients in CLIENTS:
            figures = row.figures[clients]
            cells += [f"{figures['p50']:.2f}", f"{figures['p99']:.2f}", f"{figures['rate']:.0f}"]
        cpu = row.figures[16].get("cpu")
        cells += [f"{cpu:.2f}" if cpu else ""]
        cells += [f"{row.memory[name] / 1024:.0f}" if row.memory else "" for name in ("VmRSS", "RssAnon")]
        lines.append(f"| {' | '.join(cells)} |")
    libraries = " MiB, ".join(f"{bare[name] / 1024:.0f}" for name in ("VmRSS", "RssAnon"))
    lines += [
        "",
        "p50, p99 and CPU per request (with 16 clients) in milliseconds, memory in MiB. In process, 16 clients means 16 rows in "
        "a call, and req/s are rows per second.",
        f"A process that has loaded nothing but pandas, scikit-learn, joblib and the model has {libraries} MiB anonymous.",
        "",
        "| Goal | Measured | |",
        "|---|---:|---|",
    ]
    words = {True: "met", False: "missed", None: "not measured"}
    lines += [f"| {goal} | {measured} | {words[met]} |" for goal, measured, met in judge(table, bare)]
    return "\n".join(lines) + "\n"


def facts(args: argparse.Namespace) -> list[str]:
    """Date, machine, versions, and how it was measured."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    info = {name.strip(): value.strip() for name, _, value in lines}
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    ours = versions(PYTHON, "mlflow", "scikit-learn", "pandas", "numpy", "uvicorn", "uvloop")
    rival = versions(mlserver() / "python", "mlserver", "mlserver-mlflow", "uvicorn", "uvloop")
    listed = ["; ".join(f"{name} {version}" for name, version in each.items()) for each in (ours, rival)]
    return [
        f"{time.strftime('%Y-%m-%d %H:%M %Z')}, load average before: {os.getloadavg()[0]:.1f}.",
        f"{os.cpu_count()} cores ({info.get('model name', platform.machine())}), {gib:.0f} GiB, Linux {platform.release()}.",
        f"Python {platform.python_version()}; {listed[0]}.",
        f"MLServer's own environment: {listed[1]}, and otherwise the same versions; its line of log for each request is off.",
        "The model: scaling and logistic regression on 13 numbers (wine), one row in a request. `mlflow models serve` and MLServer "
        "have it loaded as `pyfunc`.",
        "Each server is one process on one core (`taskset`), with one thread in numerical libraries; the load generator (wrk, 1 "
        "thread) has another core. Where a server has several processes they share the core and their memory is added up.",
        f"Medians of {args.runs} runs of {args.seconds} s; before each run 64 answers are compared with `pyfunc.predict`.",
        "In a pod: the cluster's own, on whatever core is free, with another fit of the same kind of model; its answers are "
        "compared with its answers to single requests. From inside: the load generator is in the pod's network. The "
        "difference of the two is the gateway's.",
    ]


def main() -> None:
    """Measure, print the table and write it."""
    args = arguments()
    if not shutil.which("wrk"):
        raise console.Failure("The load generator wrk is not installed.", "Install it: `apt-get install wrk`.")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise console.Failure("Servers and load generator need a core each, and this machine has one.")
    local(GATEWAY)
    known = facts(args)
    work = FOLDER / "run"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    page = document(*measure(args, work, (cores[1], cores[0])), known)
    args.out.write_text(page)
    print(page)
    console.say(f"Written to {args.out}.")
