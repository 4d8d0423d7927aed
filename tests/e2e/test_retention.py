"""Retention deletes old runs with everything that belongs to them, and nothing else."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from kfp import dsl

from support import helm
from support.k8s import Cluster
from support.kubeflow import Kubeflow, Run, step
from support.platform import Gateway

# nothing but what the tests make is that old
OLD = 4000
AGE = f"{OLD - 100}d"

Pass = Callable[..., str]


@pytest.fixture
def sql(cluster: Cluster, values: dict[str, Any]) -> Callable[[str], str]:
    """A function that runs a statement in the release's database: only SQL can make runs old."""
    if not values["mariadb"]["enabled"]:
        pytest.skip("mariadb is off in this release, so nothing can be made old")
    command = ("mariadb", "--defaults-file=/etc/mysql/my.cnf", "-N", "-e")
    return lambda statement: cluster.exec(f"{helm.RELEASE}-mariadb-0", *command, statement, container="mariadb")


@contextlib.contextmanager
def passes(cluster: Cluster, values: dict[str, Any], part: str, section: str, **settings: str) -> Iterator[Pass]:
    """A function that makes one pass of a part's CronJob, as the chart renders it for this release."""
    mine = {**values, part: {**values[part], section: {**values[part][section], "enabled": True, **settings}}}
    name = f"{helm.RELEASE}-{part}-{section}"
    with_name = [thing for thing in helm.render("default", mine) if thing["metadata"]["name"] == name]
    (cron_job,) = (thing for thing in with_name if thing["kind"] == "CronJob")
    made = [thing for thing in with_name if thing["kind"] in ("ConfigMap", "NetworkPolicy", "ServiceAccount")]
    made = [thing for thing in made if not cluster.get(thing["apiVersion"], thing["kind"], name)]

    def one(*, dry_run: bool) -> str:
        spec = cron_job["spec"]["jobTemplate"]["spec"]
        for variable in spec["template"]["spec"]["containers"][0]["env"]:
            if variable["name"] == "DRY_RUN":
                variable["value"] = str(dry_run).lower()
        metadata = {"name": f"{name}-{time.time_ns() % 10**9}"}
        good, said = cluster.run_job({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
        assert good, said
        return said

    cluster.apply(*made)
    try:
        yield one
    finally:
        for thing in made:
            cluster.delete(thing["apiVersion"], thing["kind"], name)


def test_what_users_deleted_in_mlflow_goes_and_nothing_else(
    cluster: Cluster,
    values: dict[str, Any],
    gateway: Gateway,
    s3: Callable[[str], Any],
    sql: Callable[[str], str],
    unique: str,
) -> None:
    client = gateway.mlflow
    experiment, gone = client.create_experiment(unique), client.create_experiment(f"{unique}-gone")
    runs = {}
    for name, where in {
        "old": experiment,
        "young": experiment,
        "active": experiment,
        "champion": experiment,
        "x": gone,
    }.items():
        runs[name] = client.create_run(where).info.run_id
        client.log_text(runs[name], "content", "some folder/file.txt")
        client.log_metric(runs[name], "loss", 1)
    # as MLflow 2 registers models: their files are the run's
    client.create_registered_model(unique)
    try:
        client.log_text(runs["champion"], "a model", "model/MLmodel")
        source = f"{client.get_run(runs['champion']).info.artifact_uri}/model"
        version = client.create_model_version(unique, source, run_id=runs["champion"]).version
        model = client.create_logged_model(experiment, "model").model_id
        for name in ("old", "young", "champion"):
            client.delete_run(runs[name])
        client.delete_logged_model(model)
        client.delete_experiment(gone)
        ago = f"ROUND(UNIX_TIMESTAMP() - {OLD} * 86400) * 1000"
        sql(
            f"USE mlflow; UPDATE runs SET deleted_time = {ago} WHERE lifecycle_stage = 'deleted' AND run_uuid IN "
            f"('{runs['old']}', '{runs['champion']}', '{runs['x']}'); "
            f"UPDATE logged_models SET last_updated_timestamp_ms = {ago} WHERE model_id = '{model}'; "
            f"UPDATE experiments SET last_update_time = {ago} WHERE experiment_id = {gone}"
        )

        def there() -> dict[str, int]:
            """Objects by run."""
            listed = s3("mlflow").list_objects_v2(
                Bucket=values["global"]["s3"]["buckets"]["mlflow"], Prefix=f"{experiment}/"
            )
            listed = listed.get("Contents", []) + s3("mlflow").list_objects_v2(
                Bucket=values["global"]["s3"]["buckets"]["mlflow"], Prefix=f"{gone}/"
            ).get("Contents", [])
            return {name: sum(run in thing["Key"] for thing in listed) for name, run in runs.items()}

        before = there()
        assert before == {"old": 1, "young": 1, "active": 1, "champion": 2, "x": 1}
        with passes(cluster, values, "mlflow", "gc", olderThan=AGE) as one:
            said = one(dry_run=True)
            assert "would delete 2 runs, 1 models, 1 experiments; 2 objects" in said
            assert there() == before, "a dry run deletes nothing"
            said = one(dry_run=False)
            assert "deleted 2 runs, 1 models, 1 experiments; 2 objects" in said
            assert f"run {runs['champion']} stays: model version {unique}/{version} comes from it" in said
            assert there() == {**before, "old": 0, "x": 0}
            assert "deleted 0 runs, 0 models, 0 experiments; 0 objects" in one(dry_run=False)
        rows = sql("SELECT run_uuid FROM mlflow.runs").split()
        assert [name for name, run in runs.items() if run not in rows] == ["old", "x"]
        assert str(gone) not in sql("SELECT experiment_id FROM mlflow.experiments").split()
        # what restoring brings back is whole
        client.restore_run(runs["young"])
        assert mlflow.artifacts.load_text(f"runs:/{runs['young']}/some folder/file.txt") == "content"
        assert mlflow.artifacts.load_text(f"{source}/MLmodel") == "a model"
    finally:
        client.delete_registered_model(unique)
        client.delete_experiment(experiment)


@step
def make(seed: str, data: dsl.Output[dsl.Dataset]) -> None:
    """Make data."""
    with open(data.path, "w") as file:
        file.write(seed)


@step
def take(data: dsl.Input[dsl.Dataset], seconds: int) -> str:
    """Read data."""
    import time

    time.sleep(seconds)
    with open(data.path) as file:
        return file.read()


@dsl.pipeline(name="retention")
def retention(seed: str, seconds: int = 0) -> None:
    """Two steps with an artifact between them."""
    take(data=make(seed=seed).outputs["data"], seconds=seconds).set_caching_options(enable_caching=False)


def test_old_runs_go_with_artifacts_and_lineage_and_nothing_else(
    cluster: Cluster, values: dict[str, Any], kubeflow: Kubeflow, sql: Callable[[str], str], unique: str
) -> None:
    made = kubeflow.submit(retention, cached=True, seed=unique)
    archived, deleted = (kubeflow.submit(retention, seed=f"{unique}-{n}") for n in range(2))
    running = kubeflow.submit(retention, seed=f"{unique}-2", seconds=600)
    made.succeeded()
    reusing = kubeflow.submit(retention, cached=True, seed=unique)
    for run in (archived, deleted, reusing):
        run.succeeded()
    runs = {"made": made, "archived": archived, "deleted": deleted, "reusing": reusing, "running": running}
    kubeflow.client.archive_run(archived.id)
    kubeflow.client.delete_run(deleted.id)

    def age(*old: Run) -> None:
        names = ", ".join(f"'{run.id}'" for run in old)
        ago = f"ROUND(UNIX_TIMESTAMP() - {OLD} * 86400)"
        sql(
            f"UPDATE mlpipeline.run_details SET CreatedAtInSec = {ago}, FinishedAtInSec = IF(FinishedAtInSec > 0, {ago}, 0) "
            f"WHERE UUID IN ({names}); "
            f"UPDATE metadb.Context SET create_time_since_epoch = {ago} * 1000 WHERE name IN ({names})"
        )

    def there() -> dict[str, tuple[bool, int, int]]:
        """Of each run whether it is there, its objects, and what lineage knows."""
        known = dict.fromkeys(runs, 0)
        for name, run in runs.items():
            count = sql(
                "SELECT COUNT(*) FROM metadb.Context c JOIN metadb.Association a ON a.context_id = c.id "
                f"JOIN metadb.Execution e ON e.id = a.execution_id WHERE c.name = '{run.id}'"
            )
            known[name] = int(count)
        return {name: (bool(run.state()), len(run.keys()), known[name]) for name, run in runs.items()}

    # the running one is old as well; the one that reuses an artifact is young
    age(made, archived, deleted, running)
    before = there()
    assert before["made"] == (True, 1, 3)
    assert before["deleted"] == (False, 1, 3)
    assert before["reusing"] == (True, 0, 3)
    with passes(cluster, values, "pipelines", "retention", olderThan=AGE, archivedOlderThan=AGE) as one:
        said = one(dry_run=True)
        assert "2 runs would be deleted" in said
        assert there() == before, "a dry run deletes nothing"
        said = one(dry_run=False)
        assert f"what run {made.id} left stays: run {reusing.id} uses it" in said
        gone = (False, 0, 0)
        assert there() == {**before, "archived": gone, "deleted": gone, "made": (False, 1, 3)}
        assert "0 runs deleted, and what 0 runs left" in one(dry_run=False)
        # no entry of the cache leads to what is gone
        again = kubeflow.submit(retention, cached=True, seed=unique).succeeded()
        assert again.said("make/data") == unique
        age(reusing)
        one(dry_run=False)
        assert there() == {**before, **dict.fromkeys(("archived", "deleted", "made", "reusing"), gone)}
        assert again.said("make/data") == unique
    assert running.state() in ("PENDING", "RUNNING")
    for run in (running, again):
        kubeflow.client.delete_run(run.id)


@pytest.mark.disruptive
def test_a_look_up_in_the_cache_does_not_read_all_steps_of_all_runs(
    cluster: Cluster, kubeflow: Kubeflow, sql: Callable[[str], str]
) -> None:
    """Kubeflow Pipelines makes no index for it: two seconds a step at ten thousand runs. A start of the database does."""
    cluster.replace("app.kubernetes.io/name=mariadb")
    # whose connections ended with it
    cluster.wait("the API server to answer again", lambda: kubeflow.get("apis/v2beta1/experiments").ok, 120)
    assert "iml4e_fingerprint" in sql("EXPLAIN SELECT * FROM mlpipeline.tasks WHERE Fingerprint = 'unknown'")
