"""Search for hyper-parameters: Optuna chooses what to try, MLflow keeps every trial, and any number of workers share one search.

A search is an MLflow run, and each trial a run below it: there is no other server, database or password. Steps of a pipeline,
processes and notebooks are workers alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iml4e import Error, registry


@dataclass(frozen=True)
class Best:
    """The best trial of a search."""

    params: dict[str, Any]
    value: float
    run_id: str
    """MLflow run of the trial."""
    search_id: str
    """MLflow run of the search, above the runs of all trials."""
    trials: int
    """Number of trials that have a value."""


def start(experiment: str, name: str, direction: str = "maximize") -> str:
    """Begin a search, or find the one that has this name already.

    Call this once, before the workers: two that begin the same search at the same moment would make two.

    Args:
        experiment: MLflow experiment; made if it does not exist.
        name: of the search, new for each search: in a pipeline `dsl.PIPELINE_JOB_ID_PLACEHOLDER`.
        direction: "maximize" or "minimize" what the trials return.

    Returns:
        id of the search's MLflow run.

    Raises:
        Error: MLflow does not answer, or Optuna is not installed.
    """
    if direction not in ("maximize", "minimize"):
        raise Error(f"direction is 'maximize' or 'minimize', not {direction!r}")
    registry.check_name(name)
    optuna, mlflow = _optuna(), registry.client()
    with registry.told():
        found = mlflow.get_experiment_by_name(experiment)
        number = found.experiment_id if found else mlflow.create_experiment(experiment)
        storage = _storage(number)
        if existing := storage.get_study_id_by_name_if_exists(name):
            return existing
        return storage.create_new_study([optuna.study.StudyDirection[direction.upper()]], name)


def work(
    experiment: str,
    name: str,
    objective: Callable[[Any], float],
    trials: int = 10,
    *,
    worker: int = 0,
    seed: int = 0,
    sampler: Any = None,
) -> int:
    """Try `trials` combinations as one worker of a search that `start` began.

    A worker that starts again after it was killed goes on: the trials that it finished count, and the one that it was at has failed.

    Args:
        experiment: MLflow experiment of the search.
        name: of the search.
        objective: (`optuna.Trial`) -> the figure to optimise. `trial.suggest_float("c", 1e-3, 10, log=True)` and its
            kin name what to vary; `optuna.TrialPruned` gives a trial up.
        trials: number of trials of this worker.
        worker: number of this worker, from 0; of two with the same number the later one ends the other's trial.
        seed: of the sampler; the same seed and one worker try the same combinations again.
        sampler: another sampler of Optuna than its default, TPE.

    Returns:
        number of trials that this call ran.

    Raises:
        Error: there is no such search. What `objective` raises is not caught: the trial has failed, and the worker ends.
    """
    optuna = _optuna()
    storage, search_id = _find(experiment, name)
    state = optuna.trial.TrialState
    mine = [each for each in storage.get_all_trials(search_id) if each.user_attrs.get("worker") == worker]
    for each in mine:
        if each.state == state.RUNNING:
            storage.set_trial_state_values(each._trial_id, state.FAIL)
    sampler = sampler or optuna.samplers.TPESampler(seed=seed * 1000 + worker, constant_liar=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)

    def tried(trial: Any) -> float:
        trial.set_user_attr("worker", worker)
        return objective(trial)

    def say(_: Any, trial: Any) -> None:
        figure = "pruned" if trial.value is None else f"{trial.value:.4g}"
        print(f"trial {trial.number}: {figure} with {dict(sorted(trial.params.items()))}", flush=True)

    left = max(trials - sum(each.state in (state.COMPLETE, state.PRUNED) for each in mine), 0)
    try:
        if left:
            study.optimize(tried, n_trials=left, callbacks=[say])
    finally:
        storage.flush_all_batches()
    return left


def best(experiment: str, name: str) -> Best:
    """Find the best trial, and write its parameters and value into the search's own run, which ends.

    Raises:
        Error: there is no such search, or no trial has a value.
    """
    storage, search_id = _find(experiment, name)
    maximize = storage.get_study_directions(search_id)[0].name == "MAXIMIZE"
    mlflow, number = registry.client(), storage._experiment_id
    with registry.told():
        below = f"tags.mlflow.parentRunId = '{search_id}' and attributes.status = 'FINISHED'"
        found = mlflow.search_runs([number], below, order_by=[f"metrics.value {'DESC' if maximize else 'ASC'}"])
        found = [run for run in found if "value" in run.data.metrics]
        if not found:
            raise Error(f"no trial of the search {name} has a value yet: its runs in experiment {experiment} say why")
        winner = storage.get_trial(found[0].info.run_id)
        for key, value in winner.params.items():
            mlflow.set_tag(search_id, f"best.{key}", value)  # a tag may change when the search goes on
        mlflow.log_metric(search_id, "best_value", winner.value)
        mlflow.set_terminated(search_id)
    return Best(winner.params, winner.value, found[0].info.run_id, search_id, len(found))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise Error("Optuna is not installed: `pip install 'iml4e[search]'`") from None
    return optuna


def _storage(experiment_id: str) -> Any:
    from mlflow.optuna.storage import MlflowStorage

    return MlflowStorage(experiment_id)


def _find(experiment: str, name: str) -> tuple[Any, str]:
    """The storage of an experiment, and the run id of a search in it."""
    _optuna()
    with registry.told():
        found = registry.client().get_experiment_by_name(experiment)
        storage = _storage(found.experiment_id) if found else None
        search_id = storage.get_study_id_by_name_if_exists(name) if storage else None
    if not search_id:
        raise Error(f"experiment {experiment} has no search {name!r}: begin it with `search.start`")
    return storage, search_id
