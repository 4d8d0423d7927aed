"""What `make bench` writes and refuses."""

from __future__ import annotations

import pytest

from scripts.common.console import Failure
from scripts.harness import bench


@pytest.mark.parametrize("url", ["http://127.0.0.1:30080/models/iml4e/wine", "http://localhost:80", "http://[::1]:80"])
def test_this_machine_may_be_measured(url: str) -> None:
    assert bench.local(url) == url


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:30080", "https://models.example.org", "http://localhost.example.org", ""]
)
def test_no_other_machine_is(url: str) -> None:
    with pytest.raises(Failure, match="not this machine"):
        bench.local(url)


def test_a_row_is_the_same_question_in_every_protocol() -> None:
    bodies = {name: protocol.body(["a", "b"], [1.5, 2.0]) for name, protocol in bench.PROTOCOLS.items()}
    assert bodies["V1"] == {"instances": [[1.5, 2.0]]}
    assert [(t["name"], t["shape"], t["data"]) for t in bodies["V2"]["inputs"]] == [
        ("a", [1], [1.5]),
        ("b", [1], [2.0]),
    ]
    assert bodies["invocations"]["dataframe_split"] == {"columns": ["a", "b"], "data": [[1.5, 2.0]]}


def table(rate: float, gateway: bool) -> list:
    def row(name: str, protocol: str, p50: float, p99: float, rate: float) -> object:
        figures = {"p50": p50, "p99": p99, "rate": rate}
        return bench.Row(name, protocol, {1: figures, 16: figures}, {"VmRSS": 300 * 1024, "RssAnon": 200 * 1024})

    found = [
        row("MLServer, parallel workers 0", "V2", 3, 60, 300),
        row("MLServer, parallel workers 1", "V2", 4, 80, 250),
    ]
    for protocol in ("V1", "V2"):
        found.append(row(f"{bench.OURS}, batching auto", protocol, 0.5, 15, rate))
        if gateway:
            found.append(row(f"{bench.OURS} in a pod, from inside", protocol, 0.6, 15, rate))
            found.append(row(f"{bench.OURS} in a pod, through the gateway", protocol, 0.9, 15, rate))
    return found


BARE = {"VmRSS": 200 * 1024, "RssAnon": 100 * 1024}


def test_goals_are_judged_against_the_faster_mlserver() -> None:
    judged = bench.judge(table(3000, gateway=True), BARE)
    assert [measured for _, measured, _ in judged] == ["10.0 ×", "0.25 ×", "0.50 ms", "0.30 ms"] * 2 + ["100 MiB"]
    assert all(met for _, _, met in judged)


def test_a_missed_goal_and_one_that_was_not_measured_are_said() -> None:
    page = bench.document(table(600, gateway=False), BARE, ["today", "this machine"])
    assert "- this machine\n" in page
    assert "| model server, batching auto | V1 | 0.50 | 15.00 | 600 | 0.50 | 15.00 | 600 |  | 300 | 200 |" in page
    assert "| V1, 16 clients: requests/s at least 3 × MLServer's | 2.0 × | missed |" in page
    assert "| V2, 1 client: the gateway adds at most 0.5 ms to p50 |  | not measured |" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows[: rows.index("| Goal | Measured | |")]} == {12}
