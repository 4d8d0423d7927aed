"""Recurring runs after a restore: Kubeflow Pipelines knows each by the uid of an object of the cluster, which cannot be restored."""

import json
import warnings
from pathlib import Path
from typing import Any

import kfp
import pytest
from kfp import dsl
from kfp.compiler import Compiler

from support import drill
from support.drill import NEW, OLD, Release, opened
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(900)


@dsl.component(base_image="any", packages_to_install=[], install_kfp_package=False)
def nothing() -> None:
    """Do nothing."""


@dsl.pipeline(name="nightly")
def nightly() -> None:
    """One step."""
    nothing()


def client(release: Release) -> kfp.Client:
    """The SDK's client."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return kfp.Client(host=f"{release.gateway}/pipeline")


def test_recurring_runs_are_restored_and_obey(cluster: Cluster, values: dict[str, Any], tmp_path: Path) -> None:
    if not values["pipelines"]["enabled"]:
        pytest.skip("pipelines.enabled is false")
    Compiler().compile(nightly, str(tmp_path / "nightly.yaml"))
    with drill.installed(cluster, {"pipelines": {"enabled": True}}) as clusters:
        with opened(clusters(OLD)) as old:
            there = client(old)
            experiment = there.create_experiment("Größe 😀").experiment_id
            made = there.create_recurring_run(
                experiment, "nächtlich", cron_expression="0 0 3 1 1 *", pipeline_package_path=str(tmp_path / "nightly.yaml")
            )  # fmt: skip
            old.run("iml4e", "backup")
        with opened(clusters(NEW)) as new:
            new.run("iml4e", "restore")
            there = client(new)
            (found,) = there.list_recurring_runs().recurring_runs
            assert (found.display_name, found.status, found.trigger.cron_schedule.cron) == (
                made.display_name,
                "ENABLED",
                "0 0 3 1 1 *",
            )
            (schedule,) = new.cluster.list("kubeflow.org/v1beta1", "ScheduledWorkflow")
            assert schedule["metadata"]["uid"] == found.recurring_run_id != made.recurring_run_id
            # its runs have the account of this release
            assert OLD not in json.dumps(schedule["spec"])
            # what fails where only the database came back: "scheduledworkflows.kubeflow.org not found"
            there.disable_recurring_run(found.recurring_run_id)
            assert there.get_recurring_run(found.recurring_run_id).status == "DISABLED"
            there.enable_recurring_run(found.recurring_run_id)
            # the agent has told the server of the object meanwhile, and made no second one
            (again,) = there.list_recurring_runs().recurring_runs
            assert again.recurring_run_id == found.recurring_run_id
            there.delete_recurring_run(found.recurring_run_id)
            assert not new.cluster.list("kubeflow.org/v1beta1", "ScheduledWorkflow")
