"""The measurement of availability: the schedule, kinds of failures, figures, goals, and the report."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from availability import command, endpoints, events, judge, plot, prometheus, report
from availability.clients import KEPT, NEW, Load, once
from availability.endpoints import MODELS, Endpoint
from availability.events import Event, Outcome, World
from availability.measurement import Request, Span, downtime, figures, longest_gap, percentile
from scripts.common import console

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def nothing(world: World, undo: ExitStack) -> None:
    """An event that does nothing."""


def request(
    due: float, outcome: str = "", seconds: float = 0.01, endpoint: str = "a", connection: str = NEW
) -> Request:
    return Request(endpoint, connection, due, seconds, 0.0, outcome)


# --- a server that does what a test says


@contextmanager
def server(treat: Callable[[socket.socket, int], None]) -> Iterator[str]:
    """A server on this machine that treats each connection as told; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    count = 0

    def serve() -> None:
        nonlocal count
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            count += 1
            threading.Thread(target=handle, args=(connection, count), daemon=True).start()

    def handle(connection: socket.socket, number: int) -> None:
        with connection:
            try:
                treat(connection, number)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def well(connection: socket.socket, number: int) -> None:
    """Answer each request of a connection."""
    while connection.recv(65536):
        connection.sendall(ANSWER)


def reset(connection: socket.socket, number: int) -> None:
    """End the connection by a reset."""
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def close(connection: socket.socket, number: int) -> None:
    """Read a request and end the connection without an answer."""
    connection.recv(65536)


def ask(rate: float = 20.0, name: str = "a") -> Endpoint:
    return Endpoint(name, MODELS, "GET", "/", rate)


def loaded(url: str, count: int, endpoint: Endpoint | None = None, timeout: float = 5.0) -> list[Request]:
    """Send load until so many requests have ended, however slow this machine is."""
    deadline = time.monotonic() + 30
    endpoint = endpoint or ask()
    endpoint.patience = timeout
    with Load(url, [endpoint]) as load:
        while len(load.requests) < count and time.monotonic() < deadline:
            time.sleep(0.02)
    return load.requests


# --- kinds of failures


@pytest.mark.parametrize(
    ("treat", "kind"),
    [
        (well, ""),
        (reset, "reset"),
        (close, "closed without an answer"),
        (lambda connection, _: time.sleep(2), "timeout"),
        (lambda c, _: c.recv(65536) and c.sendall(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"), "503"),
        (
            lambda c, _: c.recv(65536) and c.sendall(b"HTTP/1.1 302 no\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"),
            "302",
        ),
    ],
)
def test_a_failure_has_a_kind(treat: Callable[[socket.socket, int], None], kind: str) -> None:
    with server(treat) as url:
        found = loaded(url, 8, timeout=0.5 if kind == "timeout" else 5)
    assert {each.outcome for each in found} == {kind}
    assert {each.connection for each in found} == {NEW, KEPT}


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert {each.outcome for each in loaded(url, 4)} == {"refused"}
        assert once(url, ask()) == "refused"


def test_a_wrong_answer_is_a_failure() -> None:
    endpoint = ask()
    endpoint.answers, endpoint.expected = json.loads, {"predictions": [1]}
    assert endpoint.judge(200, b'{"predictions": [1]}') == ""
    assert endpoint.judge(200, b'{"predictions": [2]}') == "wrong answer"
    assert endpoint.judge(200, b"<html>") == "wrong answer"
    assert endpoint.judge(500, b'{"predictions": [1]}') == "500"


# --- the schedule


def test_a_stall_holds_up_no_request_and_is_seen_in_every_one() -> None:
    """Closed-loop clients would send two requests during the stall, and call one of them slow."""
    begun: list[float] = []

    def stall(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            begun.append(time.monotonic())
            time.sleep(max(0.0, begun[0] + 1 - time.monotonic()))
            connection.sendall(ANSWER)

    with server(stall) as url:
        found = loaded(url, 60, timeout=10)
    assert {each.outcome for each in found} == {""}
    assert max(each.seconds for each in found) >= 0.9
    # 20 a second by each of two kinds of connection: those of the first 0.7 s waited for more than 0.3 s
    first = min(each.due for each in found)
    assert all(each.seconds > 0.2 for each in found if each.due < first + 0.7)
    assert sum(each.due < first + 0.7 for each in found) == pytest.approx(28, abs=1)


def test_requests_follow_the_schedule() -> None:
    with server(well) as url:
        found = loaded(url, 40)
    for connection in (NEW, KEPT):
        due = sorted(each.due for each in found if each.connection == connection)
        assert len(due) >= 15
        assert all(later - earlier == pytest.approx(0.05, abs=1e-4) for earlier, later in itertools.pairwise(due))
    assert abs(found[0].due - time.time()) < 60


def test_connections_are_new_or_kept() -> None:
    connections: list[int] = []

    def count(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            connections.append(number)
            connection.sendall(ANSWER)

    with server(count) as url:
        found = loaded(url, 16, ask(rate=4), timeout=10)
    of_each = {number: connections.count(number) for number in connections}
    assert len(found) == len(connections) >= 14
    # one connection had half of the requests, each other one a single request
    assert max(of_each.values()) >= len(found) // 2 - 2
    assert sum(count == 1 for count in of_each.values()) >= len(found) // 2 - 2


def test_a_lost_request_is_not_sent_again() -> None:
    """On a kept connection that the server ends during the second request, too."""
    seen: list[int] = []

    def once_only(connection: socket.socket, number: int) -> None:
        for position in range(2):
            if not connection.recv(65536):
                return
            seen.append(number)
            if not position:
                connection.sendall(ANSWER)

    with server(once_only) as url:
        found = loaded(url, 16, ask(rate=4), timeout=10)
    assert len(seen) == len(found)
    kept = [each.outcome for each in sorted(found, key=lambda r: r.due) if each.connection == KEPT]
    assert kept[:4] == ["", "closed without an answer", "", "closed without an answer"]


# --- figures


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles(share: float, value: float) -> None:
    assert percentile([*range(1, 101)], share) == value


def test_percentiles_of_little() -> None:
    assert percentile([7], 0.99) == 7
    assert math.isnan(percentile([], 0.99))


def test_the_longest_gap_is_between_right_answers_or_at_an_edge() -> None:
    answers = [request(1), request(2), request(3, "503"), request(4, "503"), request(5)]
    assert longest_gap(answers, 1, 5.01) == pytest.approx(3)
    assert longest_gap([request(1)], 0, 9) == pytest.approx(7.99)
    assert longest_gap([request(4, "503")], 0, 9) == 9
    # a stall without a failure
    assert longest_gap([request(1), request(2, seconds=4), request(3, seconds=3)], 1, 6) == pytest.approx(4.99)


def test_downtime_is_from_a_failure_to_the_next_right_answer() -> None:
    assert downtime([request(1), request(2, "503"), request(3, "503"), request(5), request(6, "503"), request(7)]) == 4
    assert downtime([request(1), request(2)]) == 0
    assert downtime([request(1), request(2, "503"), request(4, "503")]) == 2


def test_figures_count_failures_and_leave_rare_endpoints_out_of_gaps() -> None:
    often = [request(number / 2, "503" if number in (4, 5) else "") for number in range(20)]
    rare = [request(1, endpoint="b"), request(9, endpoint="b")]
    found = figures([*often, *rare], 0, 10)
    assert (found.requests, found.lost, found.kinds) == (22, 2, {"503": 2})
    assert found.availability == pytest.approx(20 / 22)
    assert found.gap == pytest.approx(1.5)
    assert found.down == pytest.approx(1)


# --- goals


def outcome(name: str, start: float, *, lossless: tuple[str, ...] = (), two: bool = False, error: str = "") -> Outcome:
    return Outcome(Event(name, name, nothing, lossless, two_replicas=two), start, start + 1, error)


def judged(requests: list[Request], what: Outcome, difference: float | None = 0.1) -> dict[str, bool | None]:
    own = Endpoint("a", MODELS, "POST", "/models/iml4e/own/v1/models/own:predict", 1)
    span = Span("x", what.start, what.start + 1, what.start + 1000)
    found = judge.goals(requests, [own], [what], [span], "own", difference)
    return {goal.goal: goal.met for goal in found}


def test_goals_are_met_by_right_answers() -> None:
    requests = [request(number) for number in range(1000)]
    assert set(judged(requests, outcome("upgrade", 10, lossless=(MODELS,), two=True)).values()) == {True}


def test_one_lost_request_in_a_rolling_restart_is_a_missed_goal() -> None:
    requests = [request(number, "503" if number == 500 else "") for number in range(1000)]
    found = judged(requests, outcome("restart", 10, lossless=(MODELS,)))
    assert found["restart: models lose nothing"] is False
    assert found["Right answers in all: at least 99%"] is True
    # before the event it is not the event's
    assert judged(requests, outcome("restart", 600, lossless=(MODELS,)))["restart: models lose nothing"] is True


def test_two_replicas_may_lose_one_request_in_a_thousand() -> None:
    lost = {1: True, 2: False}
    for count, met in lost.items():
        requests = [request(number, "refused" if number < count else "") for number in range(1000)]
        found = judged(requests, outcome("kill", 0, two=True))
        assert found["kill: at most 0.1% of its requests lost"] is met


def test_what_is_missed_otherwise() -> None:
    requests = [request(number, "503" if number < 11 else "") for number in range(1000)]
    found = judged(requests, outcome("kill", 0, error="Not Ready again"), difference=0.6)
    assert [goal for goal, met in found.items() if met is False] == [
        "Right answers in all: at least 99%",
        "kill: takes place, and all is Ready again",
        "Prometheus' availability differs by at most 0.5 points, answers within 10 s",
    ]
    assert judged(requests, outcome("kill", 0), difference=None).popitem()[1] is None


def test_a_load_generator_without_a_cpu_measures_nothing() -> None:
    """A starved client calls answers late that are there in time."""
    requests = [request(number)._replace(late=0.6 if number % 10 == 0 else 0.0) for number in range(1000)]
    found = judged(requests, outcome("kill", 0))
    assert [goal for goal, met in found.items() if met is False] == [
        "The load generator kept its schedule: 99 of 100 requests at most 250 ms late"
    ]


# --- Prometheus


def test_prometheus_is_compared_for_the_same_endpoints() -> None:
    series = {
        "answers": {"iml4e-wine": 100, "iml4e-other": 50},
        "failed": {"iml4e-wine": 10},
        "reached": {"iml4e-wine": 0.9},
    }

    def answer(expression: str) -> list:
        which = "reached" if "probe" in expression else "failed" if "5.." in expression else "answers"
        assert "[60s]" in expression
        return [{"metric": {"route": route}, "value": [0, str(value)]} for route, value in series[which].items()]

    routes, probed = prometheus.availability(answer, 60)
    assert probed
    assert routes == {"iml4e-wine": pytest.approx(0.81), "iml4e-other": 1.0}
    wine, unknown = ask(), ask(name="b")
    wine.route, unknown.route = "iml4e-wine", "iml4e-home"
    requests = [request(number, "503" if number < 2 else "") for number in range(10)] + [
        request(1, "503", endpoint="b")
    ]
    found = prometheus.weighted(routes, [wine, unknown], requests)
    assert found == {"overall": pytest.approx(0.81), "clients": 0.8, "difference": pytest.approx(1.0)}
    assert prometheus.weighted({}, [wine], requests) == {}
    late = [request(10, seconds=prometheus.PATIENCE + 1)]
    assert prometheus.weighted(routes, [wine], late)["clients"] == 0, "the probe would not have waited"


# --- events


def world() -> World:
    return World(SimpleNamespace(settle=lambda: None), SimpleNamespace(model=""))  # type: ignore[arg-type]


def test_an_event_is_undone_when_it_fails_and_when_it_is_interrupted() -> None:
    done: list[str] = []

    def act(world: World, undo: ExitStack) -> None:
        undo.callback(events.persist, lambda: done.append("undone"), "undo")
        raise error

    error: BaseException = console.Failure("no")
    assert events.occur(Event("x", "x", act), world()).error == "no"
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        events.occur(Event("x", "x", act), world())
    assert done == ["undone", "undone"]


def test_what_is_undone_is_tried_again_and_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.time, "sleep", lambda seconds: None)
    tries: list[int] = []

    def fails_twice() -> None:
        tries.append(1)
        signal.raise_signal(signal.SIGINT)
        if len(tries) < 3:
            raise console.Failure("the API server does not answer")

    before = signal.getsignal(signal.SIGINT)
    events.persist(fails_twice, "undo")
    assert len(tries) == 3
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(console.Failure, match="Could not undo: no"):
        events.persist(lambda: (_ for _ in ()).throw(console.Failure("no")), "undo", seconds=0)


def test_events_are_chosen_by_name_or_length() -> None:
    every = [Event("a", "a", nothing, quick=True), Event("b", "b", nothing)]
    assert [event.name for event in events.choose(every, None, True)] == ["a"]
    assert [event.name for event in events.choose(every, None, False)] == ["a", "b"]
    assert [event.name for event in events.choose(every, ["b", "a"], True)] == ["b", "a"]
    assert events.choose(every, [], False) == []
    with pytest.raises(console.Failure, match="There is no event c"):
        events.choose(every, ["c"], False)


def test_nothing_is_rolled_back_that_was_not_upgraded_here() -> None:
    with pytest.raises(console.Failure, match="Nothing was upgraded in this run"), ExitStack() as undo:
        events.rollback(world(), undo)


@pytest.mark.parametrize(
    ("status", "refused", "back"),
    [("deployed", False, 7), ("deployed", True, 0), ("pending-upgrade", False, 0)],
)
def test_only_an_upgrade_of_ours_is_rolled_back(status: str, refused: bool, back: int) -> None:
    """Helm refuses an upgrade while another one is under way: there is nothing of ours to roll back then."""
    revisions = [7]

    def helm(*words: str) -> None:
        if refused:
            raise console.Failure("another operation is in progress")
        revisions.append(8)

    here = world()
    here.release = SimpleNamespace(  # type: ignore[assignment]
        name="iml4e", values=dict, revision=lambda: (revisions[-1], status), helm=helm
    )
    outcome = events.Event("upgrade", "upgrade", events.upgrade)
    with contextlib.suppress(console.Failure), ExitStack() as undo:
        outcome.act(here, undo)
    assert here.revision == back


def test_an_upgrade_changes_the_cpu_request_of_what_is_on() -> None:
    values = {
        "gateway": {"enabled": True, "resources": {"requests": {"cpu": "50m"}}},
        "mlflow": {"enabled": True, "resources": {"requests": {"cpu": 1}}},
        "pipelines": {"enabled": False, "api": {"resources": {"requests": {"cpu": "50m"}}}},
        "kserve": {"enabled": True, "resources": {}},
    }
    assert events.changes(values) == [
        "--set", "gateway.resources.requests.cpu=51m", "--set", "mlflow.resources.requests.cpu=1001m",
    ]  # fmt: skip


# --- endpoints and addresses


def test_a_request_is_made_from_a_models_metadata() -> None:
    table = [{"name": "x", "datatype": "FP64", "shape": [-1]}, {"name": "s", "datatype": "BYTES", "shape": [-1]}]
    assert endpoints.v1_body(table) == {"instances": [{"x": 1.0, "s": "a"}]}
    tensor = [{"name": "input-0", "datatype": "FP32", "shape": [-1, 64]}]
    assert endpoints.v1_body(tensor) == {"instances": [[1.0] * 64]}
    assert endpoints.v2_body(tensor)["inputs"][0]["shape"] == [1, 64]


@pytest.mark.parametrize("url", ["http://127.0.0.1:30080/", "http://localhost:30080", "http://[::1]:30080"])
def test_load_goes_to_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IML4E_URL", url)
    assert command.address(None) == url.rstrip("/")


def test_load_leaves_this_machine_only_by_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IML4E_URL", "http://iml4e.invalid")
    with pytest.raises(console.Failure, match="which is not this machine"):
        command.address(None)
    assert command.address("http://iml4e.invalid/") == "http://iml4e.invalid"


# --- the report


@pytest.fixture
def run() -> report.Run:
    """A run of a minute: an event costs two requests, another one none."""
    outcomes = [outcome("kill-a", 120.0), outcome("upgrade", 140.0, lossless=(MODELS,))]
    requests = [request(100 + n / 4, "503" if n in (90, 91) else "", connection=(NEW, KEPT)[n % 2]) for n in range(240)]
    endpoint = ask()
    endpoint.route = "iml4e-a"
    found = report.Run(
        "scripts/availability", "http://127.0.0.1:30080", "iml4e", "iml4e", 100.0, 160.0, [endpoint], ["Grafana: off"],
        requests, outcomes, [Event("restart-kubelet", "kubelet restarted", nothing, skipped="not this machine")],
        prometheus={"routes": {"iml4e-a": 0.99}, "overall": 0.99, "difference": 0.17},
    )  # fmt: skip
    found.goals = judge.goals(requests, [endpoint], outcomes, found.spans(), "", 0.17)
    return found


def test_the_report_says_what_each_event_cost(run: report.Run, tmp_path: Path) -> None:
    report.write(run, tmp_path)
    page = (tmp_path / "availability.md").read_text()
    assert "| a | 240 | 2 | 99.167% | 99.167% | 99.167% | 0.8 | 0.5 | 10 | 10 | 99.000% |" in page
    assert "| kill-a | 1 | 80 | 2 | 503: 2 | 0.8 | 0.5 | 10 | 10 | 10 |" in page
    assert "| upgrade | 1 | 80 | 0 |  | 0.2 | 0.0 | 10 | 10 | 10 |" in page
    assert "- Left out: Grafana: off" in page
    assert "- Skipped: kubelet restarted: not this machine." in page
    for block in page.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block
    found = json.loads((tmp_path / "availability.json").read_text())
    assert found["availability"] == pytest.approx(238 / 240)
    assert [(each["name"], each["lost"]) for each in found["events"]] == [("kill-a", 2), ("upgrade", 0)]
    assert found["events"][0]["endpoints"]["a"]["down"] == 0.5


def test_the_picture_is_drawn(run: report.Run, tmp_path: Path) -> None:
    plot.timeline(run, tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").read_bytes()[:4] == b"\x89PNG"


def test_a_pages_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nmore\n")
    report.into_page(page, "new\n")
    report.into_page(page, "newer\n")
    assert page.read_text() == f"# Title\n\n{report.BEGIN}\n\nnewer\n\n{report.END}\n\nmore\n"
    page.write_text("# Title\n")
    with pytest.raises(console.Failure, match="has no section for the figures"):
        report.into_page(page, "new\n")
