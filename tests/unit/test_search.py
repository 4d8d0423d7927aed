"""Searches for hyper-parameters on an MLflow store of its own: workers, a worker that was killed, the best trial."""

import sys
from typing import Any

import mlflow
import pytest
from kfp import dsl

from iml4e import Error, engines, search
from pipelines.steps import step


@pytest.fixture(autouse=True)
def _store(tracking: mlflow.MlflowClient) -> None:
    pass


def hill(trial: Any) -> float:
    """Highest, 5, at x = 2 with the kind `high`."""
    x, kind = trial.suggest_float("x", -10, 10), trial.suggest_categorical("kind", ["low", "high"])
    return 5 - (x - 2) ** 2 - (kind == "low")


def test_two_workers_share_a_search(tracking: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    search_id = search.start("hills", "shared")
    assert search.start("hills", "shared") == search_id, "the second call made another search"
    assert [search.work("hills", "shared", hill, 6, worker=worker) for worker in (0, 1)] == [6, 6]
    best = search.best("hills", "shared")
    assert (best.search_id, best.trials) == (search_id, 12)
    assert best.value == pytest.approx(hill_at(best.params))
    trials = tracking.search_runs([experiment("hills")], f"tags.mlflow.parentRunId = '{search_id}'")
    assert best.value == max(run.data.metrics["value"] for run in trials)
    assert {run.data.tags["numbers"] for run in trials} == {str(number) for number in range(12)}
    run = tracking.get_run(search_id)
    assert (run.info.status, run.data.metrics["best_value"]) == ("FINISHED", best.value)
    assert run.data.tags["best.kind"] == best.params["kind"]
    assert "trial 0: " in capsys.readouterr().out


def hill_at(params: dict[str, Any]) -> float:
    return 5 - (params["x"] - 2) ** 2 - (params["kind"] == "low")


def experiment(name: str) -> str:
    return mlflow.get_experiment_by_name(name).experiment_id


def test_the_smallest_value_can_be_wanted_and_a_seed_repeats() -> None:
    found = []
    for name in ("first", "second"):
        search.start("valleys", name, "minimize")
        search.work("valleys", name, lambda trial: -hill(trial), 6, seed=7)
        found.append(search.best("valleys", name))
    assert found[0].params == found[1].params
    assert found[0].value < 100, "the worst of six random tries would be better"


def test_a_worker_that_was_killed_goes_on(tracking: mlflow.MlflowClient) -> None:
    search_id = search.start("killed", "one")
    calls = iter(range(100))

    def dies(trial: Any) -> float:
        if next(calls) == 2:
            raise SystemExit  # as a signal does: Optuna does not see it
        return hill(trial)

    with pytest.raises(SystemExit):
        search.work("killed", "one", dies, 5)
    below = f"tags.mlflow.parentRunId = '{search_id}'"
    states = [run.info.status for run in tracking.search_runs([experiment("killed")], below)]
    assert sorted(states) == ["FINISHED", "FINISHED", "RUNNING"]
    assert search.work("killed", "one", hill, 5) == 3
    states = [run.info.status for run in tracking.search_runs([experiment("killed")], below)]
    assert sorted(states) == ["FAILED", *["FINISHED"] * 5]
    assert search.work("killed", "one", hill, 5) == 0
    assert search.best("killed", "one").trials == 5


def test_what_the_objective_raises_ends_the_worker() -> None:
    search.start("broken", "one")
    with pytest.raises(ZeroDivisionError):
        search.work("broken", "one", lambda trial: 1 / 0, 5)
    with pytest.raises(Error, match="no trial of the search one has a value yet: its runs in experiment broken"):
        search.best("broken", "one")


def test_pruned_trials_count_and_cannot_win() -> None:
    import optuna

    def picky(trial: Any) -> float:
        if trial.suggest_int("n", 0, 9) > 4:
            raise optuna.TrialPruned
        return trial.params["n"]

    search.start("pruned", "one")
    search.work("pruned", "one", picky, 12)
    found = search.best("pruned", "one")
    assert found.params["n"] <= 4
    assert found.trials < 12


def test_mistakes_get_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Error, match="direction is 'maximize' or 'minimize', not 'up'"):
        search.start("hills", "x", "up")
    with pytest.raises(Error, match=r"experiment nowhere has no search 'x': begin it with `search\.start`"):
        search.work("nowhere", "x", hill)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Error, match=r"pip install 'iml4e\[search\]'"):
        search.start("hills", "y")


@step()
def begin(name: str) -> None:
    """Begin the search."""
    from iml4e import search

    search.start("pipeline", name)


@step()
def climb(name: str, worker: int) -> None:
    """One worker."""
    from iml4e import search

    search.work("pipeline", name, lambda trial: -abs(trial.suggest_float("x", -10, 10) - 2), 3, worker=worker)


@step()
def take(name: str) -> float:
    """The best value."""
    from iml4e import search

    return search.best("pipeline", name).value


@dsl.pipeline
def climbers(name: str) -> None:
    """Three workers of one search, as steps of a pipeline."""
    begun = begin(name=name)
    with dsl.ParallelFor([0, 1, 2]) as worker:
        climbed = climb(name=name, worker=worker).after(begun)
    take(name=name).after(climbed)


@pytest.mark.timeout(300)
def test_workers_are_steps_of_a_pipeline(tracking: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    steps = engines.run(climbers, {"name": "steps"}, engine="local")
    best = search.best("pipeline", "steps")
    assert best.trials == 9
    assert float(steps.outputs["take"]["Output"]) == pytest.approx(best.value)
