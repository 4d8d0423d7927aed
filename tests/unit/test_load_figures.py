"""Figures of the load tests: shapes, percentiles, thresholds, what Prometheus counted, the report. None of these modules imports locust."""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

import pytest

import _measure
import _prometheus
import _report
import _shapes
import _thresholds
from _measure import Record, Request
from _prometheus import Counters

LIMITS = _thresholds.read(environment={})


def requests(service: str, milliseconds: list[float], **more: object) -> list[Request]:
    """Requests with these response times, one a second."""
    return [
        Request(service, "ask", 1000.0 + n, **{"late": 0.0, "seconds": value / 1000, **more})
        for n, value in enumerate(milliseconds)
    ]


def record(*some: list[Request]) -> Record:
    """A run of a minute with these requests."""
    found = Record(began=1000.0, ended=1060.0, requests=[each for part in some for each in part])
    found.users = [(1000.0 + n, 4) for n in range(60)]
    return found


def run(found: Record, shape: str = "steady", **more: object) -> _report.Run:
    """What a report of it is about."""
    verdicts = _thresholds.judge(found, LIMITS, shape)
    complaints = [each for verdict in verdicts for each in verdict.complaints]
    return _report.Run(found, shape, 4, 60.0, "http://127.0.0.1:30080", verdicts, complaints, **more)


# --- shapes


@pytest.mark.parametrize("shape", _shapes.SHAPES)
@pytest.mark.parametrize("users", [1, 2, 16, 500])
def test_every_shape_has_a_user_at_all_times_and_ends_in_time(shape: str, users: int) -> None:
    counts = [_shapes.users_at(shape, second, 60, users) for second in range(60)]
    assert all(isinstance(count, int) and 1 <= count <= users for count in counts)
    assert _shapes.users_at(shape, 60, 60, users) is None
    assert max(counts) == (max(1, users // 2) if shape == "soak" else users)


def test_shapes_are_what_their_names_say() -> None:
    found = {shape: [_shapes.users_at(shape, second, 100, 40) for second in range(100)] for shape in _shapes.SHAPES}
    assert set(found["steady"]) == {40}
    assert found["ramp"] == sorted(found["ramp"])
    assert (found["ramp"][0], found["ramp"][40], found["ramp"][80]) == (4, 24, 40)
    assert (found["spike"][10], found["spike"][50], found["spike"][90]) == (10, 40, 10)
    assert set(found["soak"]) == {20}


def test_no_run_is_longer_or_larger_than_the_limits() -> None:
    assert _shapes.users_at("steady", _shapes.MOST_SECONDS, 10**9, 10) is None
    assert _shapes.users_at("steady", 1, 60, 10**9) == _shapes.MOST_USERS


# --- percentiles


def test_percentiles_are_exact() -> None:
    """Locust would make 120, 1000 and 1300 of 123, 1004 and 1251."""
    assert _measure.percentile([1004, 123, 1251], 0.5) == 1004
    assert [_measure.percentile(range(1, 101), share) for share in (0, 0.5, 0.95, 0.99, 1)] == [1, 50, 95, 99, 100]
    assert _measure.percentile([], 0.95) == 0


def test_time_that_a_request_waited_to_be_sent_counts() -> None:
    """A standstill of 2 s that one user sees once: the requests that were due in it were late."""
    quick = requests("models", [10.0] * 90)
    late = [Request("models", "ask", 1090.0 + n, late=2 - n / 5, seconds=0.01) for n in range(10)]
    found = _measure.summary([*quick, *late])
    assert found.p95 == pytest.approx(1010)
    assert found.answered_p99 == pytest.approx(10)
    assert found.late == 0.1


def test_drift_compares_the_end_with_the_beginning() -> None:
    assert _measure.drift(requests("models", [10.0] * 50 + [40.0] * 50)) == pytest.approx(4)
    assert _measure.drift(requests("models", [10.0] * 10)) == 0, "too few to tell"


# --- thresholds


def test_met_and_missed() -> None:
    good = requests("models", [100.0] * 99) + requests("models", [100.0], failure="503")
    slow = requests("MLflow", [900.0] * 90 + [1500.0] * 10)
    bad = requests("artifacts", [10.0] * 98) + requests("artifacts", [10.0] * 2, failure="no answer: ConnectionError")
    found = {verdict.service: verdict.complaints for verdict in _thresholds.judge(record(good, slow, bad), LIMITS)}
    assert found == {
        "models": (),
        "MLflow": ("MLflow: the 95th percentile is 1.5 s; the limit is 1 s.",),
        "artifacts": ("artifacts: 2.00% of the requests failed; the limit is 1.00%.",),
    }


def test_drift_is_judged_in_a_soak_alone() -> None:
    found = record(requests("models", [10.0] * 50 + [40.0] * 50))
    assert not _thresholds.judge(found, LIMITS, "steady")[0].complaints
    assert _thresholds.judge(found, LIMITS, "soak")[0].complaints == (
        "models: the 95th percentile grew to 4.0 times that of the beginning; the limit is 2.",
    )


def test_the_environment_goes_before_the_file_and_the_file_before_the_project(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[models]\np95 = 250\np99 = 300\n")
    found = _thresholds.read(str(file), {"IML4E_LOAD_MAX_P99": "7"})
    assert (found["models"].p95, found["models"].p99, found["models"].failures) == (250, 7, 0.01)
    assert (found["MLflow"].p95, found["MLflow"].p99) == (LIMITS["MLflow"].p95, 7)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[model]\np95 = 1", "has thresholds of model, which is no service: there are models, MLflow"),
        ("[models]\np59 = 1", "has no threshold `p59` to set in [models]: there are failures, p95, p99, drift"),
        ("[models]\np95 = 'fast'", "p95 of [models] in FILE is 'fast': write a number that is not below 0."),
        ("[models]\np95 = -1", "is -1: write a number"),
        ("[models]\np95 = true", "is True: write a number"),
        ("[models]\np95 = nan", "is nan: write a number"),
        ("p95 = 1", "has `p95` outside of a service's table"),
        ("[models", "FILE is no TOML: "),
    ],
)
def test_a_wrong_file_of_thresholds_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(_thresholds.Wrong, match=re.escape(sentence.replace("FILE", str(file)))):
        _thresholds.read(str(file), {})


def test_a_missing_file_and_a_wrong_variable_are_told(tmp_path: Path) -> None:
    with pytest.raises(_thresholds.Wrong, match="cannot be read: No such file or directory"):
        _thresholds.read(str(tmp_path / "none.toml"), {})
    with pytest.raises(_thresholds.Wrong, match="IML4E_LOAD_MAX_P95 is '1s': write a number"):
        _thresholds.read("", {"IML4E_LOAD_MAX_P95": "1s"})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8249, "0.825 ms"), (12.34, "12.3 ms"), (123.4, "123 ms"), (1000, "1 s"), (1234, "1.2 s"), (61_000, "61 s")],
)
def test_times_are_short(value: float, text: str) -> None:
    assert _thresholds.milliseconds(value) == text


# --- Prometheus


def series(route: str, pod: str = "gateway-1") -> tuple[str, str, str, str]:
    """A counter of the gateway."""
    return route, "200", "POST", pod


def test_counters_that_are_new_or_began_again_count_from_zero() -> None:
    before = Counters({series("wine"): 100, series("mlflow"): 50}, 10.0)
    after = Counters({series("wine"): 160, series("mlflow"): 8, series("new"): 5}, 75.0)
    found = _prometheus.compare(before, after, {"wine": 60, "mlflow": 8, "new": 5}, {})
    assert [(each.name, each.counted, each.why) for each in found] == [
        ("mlflow", 8, ""),
        ("new", 5, ""),
        ("wine", 60, ""),
    ]


@pytest.mark.parametrize(
    ("sent", "counted", "unanswered", "gone", "why"),
    [
        (100, 101, 0, False, ""),
        (100, 99, 0, False, ""),
        (100, 150, 0, False, "50 requests of others, or sent twice"),
        (100, 90, 10, False, "10 requests ended without an answer"),
        (100, 90, 0, False, "not explained"),
        (100, 0, 0, False, "not a route of this Prometheus"),
        (100, 40, 0, True, "a pod of the gateway ended"),
    ],
)
def test_differences_are_explained(sent: int, counted: int, unanswered: int, gone: bool, why: str) -> None:
    before = Counters({series("wine", "old") if gone else series("wine"): 7}, 0.0, {"wine": 45.0})
    after = Counters({series("wine"): counted if gone else 7 + counted, series("x"): 1}, 60.0)
    (found,) = _prometheus.compare(before, after, {"wine": sent}, {"wine": unanswered})
    assert found.counted == counted
    assert found.why.startswith(why)
    assert bool(found.why) == bool(why)
    assert ("others would have sent 45" in found.why) == (counted > sent * 1.01)


# --- the report


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The folder of a report of a run with a failing service."""
    found = record(requests("models", [12.0] * 60), requests("MLflow", [30.0] * 59 + [40_000.0], failure="<b>503</b>"))
    routes = _prometheus.compare(Counters({}, 0.0), Counters({series("wine"): 60}, 1.0), {"wine": 60, "mlflow": 1}, {})
    return _report.write(
        run(found, gateway=routes, command="locust -f load/ | tee", commit="abc", machine="m"), tmp_path
    )


def test_a_report_has_everything_that_its_pages_need(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "**Missed: MLflow: 100.00% of the requests failed" in text
    for picture in re.findall(r"!\[.+\]\((.+)\)", text):
        assert (report / picture).read_text().startswith("<?xml")
    assert {"overview.svg", "models.svg", "mlflow.svg"} <= {each.name for each in report.iterdir()}
    page = (report / "report.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!#)', page), "something has to be fetched"


def test_a_report_shows_what_a_server_said_as_text(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert "&lt;b&gt;503&lt;/b&gt;" in page
    assert "<b>" not in page


def test_ids_of_pictures_do_not_clash(report: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', (report / "report.html").read_text())
    assert len(ids) == len(set(ids))


def test_tables_of_markdown_are_whole(report: Path) -> None:
    """A pipe in a cell does not begin another column."""
    text = (report / "report.md").read_text()
    assert "tee" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_all_requests_are_kept(report: Path) -> None:
    with gzip.open(report / "requests.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    assert sum(float(row["seconds"]) for row in rows if row["service"] == "models") == pytest.approx(0.72)


def test_the_terminal_gets_one_line_for_each_service() -> None:
    lines = _report.terminal(run(record(requests("models", [12.0] * 60)))).splitlines()
    assert lines[0].split()[:3] == ["service", "requests", "per"]
    assert re.match(r"models +60 +1\.0 +0\.00% \(1\.00%\) +12 ms +12 ms \(500 ms\)", lines[1])
    assert lines[-1] == "All thresholds were met."


@pytest.mark.parametrize("shape", _shapes.SHAPES)
def test_reports_of_few_and_of_failed_requests_can_be_drawn(shape: str, tmp_path: Path) -> None:
    found = record(requests("models", [5.0]), requests("Pipelines API", [0.0] * 3, failure="no answer"))
    assert (_report.write(run(found, shape, gateway_why="away"), tmp_path) / "report.html").exists()
