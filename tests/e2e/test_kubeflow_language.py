"""Kubeflow Pipelines: every construct of the SDK runs, volumes included."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

from typing import Any

import pytest
from kfp import dsl, kubernetes

from support.k8s import Cluster
from support.kubeflow import Kubeflow, Run, step

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


@step
def say(text: str, said: dsl.Output[dsl.Artifact]) -> None:
    from pathlib import Path

    Path(said.path).write_text(text)


@step
def repeat(heard: dsl.Input[dsl.Artifact], said: dsl.Output[dsl.Artifact]) -> None:
    from pathlib import Path

    Path(said.path).write_text(Path(heard.path).read_text())


def workspace(storage: dict[str, Any]) -> dsl.PipelineConfig:
    """A workspace of the release's kind or, where the release has none, of the given one."""
    return dsl.PipelineConfig(dsl.WorkspaceConfig("1Mi", dsl.KubernetesWorkspaceConfig(storage)))


# --- conditions


@step
def length(text: str) -> int:
    return len(text)


@dsl.pipeline(name="e2e-conditions")
def conditions(text: str) -> None:
    size = length(text=text).output
    with dsl.If(size == 0):
        say(text="nothing")
    with dsl.Elif(size < 5):
        say(text="a short word")
    with dsl.Else():
        with dsl.If(text == "kubeflow"):
            one = say(text="the very word")
        with dsl.Else():
            other = say(text="another long word")
        repeat(heard=dsl.OneOf(one.outputs["said"], other.outputs["said"]))


# --- loops and lists


@step
def square(number: int, row: dsl.Output[dsl.Dataset]) -> int:
    from pathlib import Path

    Path(row.path).write_text(f"{number} ")
    return number**2


@step
def add(squares: list[int], rows: dsl.Input[list[dsl.Dataset]], said: dsl.Output[dsl.Artifact]) -> None:
    from pathlib import Path

    Path(said.path).write_text("".join(Path(row.path).read_text() for row in rows) + f"= {sum(squares)}")


@dsl.pipeline(name="e2e-loop")
def loop(numbers: list[int]) -> None:
    with dsl.ParallelFor(numbers) as number:
        one = square(number=number)
    add(squares=dsl.Collected(one.outputs["Output"]), rows=dsl.Collected(one.outputs["row"]))


# --- exit handlers


@step
def work(well: bool) -> None:
    assert well, "as it was told to"


@step
def tidy(status: dsl.PipelineTaskFinalStatus, said: dsl.Output[dsl.Artifact]) -> None:
    from pathlib import Path

    Path(said.path).write_text(f"tidied up after {status.state}")


@dsl.pipeline(name="e2e-exit")
def with_exit(well: bool) -> None:
    with dsl.ExitHandler(exit_task=tidy()):
        work(well=well)


# --- data from elsewhere


@dsl.pipeline(name="e2e-import")
def imported(address: str) -> None:
    data = dsl.importer(artifact_uri=address, artifact_class=dsl.Artifact)
    repeat(heard=data.output)


def imported_to(storage: dict[str, Any]) -> Any:
    """A pipeline that imports into its workspace: data from other buckets comes no other way."""

    @dsl.pipeline(name="e2e-import-to-workspace", pipeline_config=workspace(storage))
    def pipeline(address: str) -> None:
        data = dsl.importer(artifact_uri=address, artifact_class=dsl.Artifact, download_to_workspace=True)
        repeat(heard=data.output)

    return pipeline


# --- volumes


@step
def leave(folder: str, text: str) -> None:
    from pathlib import Path

    Path(folder, "left.txt").write_text(text)


@step
def find(folder: str, said: dsl.Output[dsl.Artifact]) -> None:
    from pathlib import Path

    Path(said.path).write_text(Path(folder, "left.txt").read_text())


def in_workspace(storage: dict[str, Any]) -> Any:
    """A pipeline whose steps share its workspace."""

    @dsl.pipeline(name="e2e-workspace", pipeline_config=workspace(storage))
    def pipeline(text: str) -> None:
        left = leave(folder=dsl.WORKSPACE_PATH_PLACEHOLDER, text=text)
        find(folder=dsl.WORKSPACE_PATH_PLACEHOLDER).after(left)

    return pipeline


@dsl.pipeline(name="e2e-volume")
def on_volume(text: str, storage_class: str) -> None:
    # the class must be named: otherwise it is "standard", whatever the cluster's default is (kubeflow/pipelines#11396)
    volume = kubernetes.CreatePVC(
        pvc_name_suffix=text, access_modes=["ReadWriteOnce"], size="1Mi", storage_class_name=storage_class
    )
    left = leave(folder="/volume", text=text)
    found = find(folder="/volume").after(left)
    for task in (left, found):
        kubernetes.mount_pvc(task, pvc_name=volume.outputs["name"], mount_path="/volume")
    kubernetes.DeletePVC(pvc_name=volume.outputs["name"]).after(found)


@pytest.fixture(scope="module")
def storage_class(cluster: Cluster) -> str:
    """The cluster's default storage class."""
    classes = cluster.list("storage.k8s.io/v1", "StorageClass")
    default = [c for c in classes if c["metadata"].get("annotations", {}).get(DEFAULT_CLASS) == "true"]
    return default[0]["metadata"]["name"]


@pytest.fixture(scope="module", autouse=True)
def runs(kubeflow: Kubeflow, values: dict[str, Any], storage_class: str) -> dict[str, Run]:
    """A run of each pipeline, submitted at once: they go on side by side."""
    name, key = kubeflow.name, f"{kubeflow.name}/data.txt"
    for bucket in ("pipelines", "datasets"):
        kubeflow.s3.put_object(Bucket=bucket, Key=key, Body=f"{name} in {bucket}".encode())
    own = values["pipelines"]["runs"]["workspace"]["storageClass"] or values["global"]["storageClass"]
    storage = {} if own else {"accessModes": ["ReadWriteOnce"], "storageClassName": storage_class}
    return {
        "conditions": kubeflow.submit(conditions, text="kubeflow"),
        "loop": kubeflow.submit(loop, numbers=[1, 2, 3]),
        "good exit": kubeflow.submit(with_exit, well=True),
        "bad exit": kubeflow.submit(with_exit, well=False),
        "pipelines": kubeflow.submit(imported, address=f"minio://pipelines/{key}"),
        "datasets": kubeflow.submit(imported_to(storage), address=f"s3://datasets/{key}"),
        "workspace": kubeflow.submit(in_workspace(storage), text=name),
        "volume": kubeflow.submit(on_volume, text=name, storage_class=storage_class),
    }


def test_of_nested_conditions_one_branch_runs(runs: dict[str, Run]) -> None:
    run = runs["conditions"].succeeded()
    assert set(run.keys()) == {"say-3/said", "repeat/said"}
    assert run.said("repeat/said") == "the very word"


def test_a_loop_collects_values_and_artifacts(runs: dict[str, Run]) -> None:
    assert runs["loop"].succeeded().said("add/said") == "1 2 3 = 14"


@pytest.mark.parametrize(("how", "state", "told"), [("good", "SUCCEEDED", "COMPLETE"), ("bad", "FAILED", "FAILED")])
def test_an_exit_handler_runs_however_its_steps_end(runs: dict[str, Run], how: str, state: str, told: str) -> None:
    run = runs[f"{how} exit"]
    assert run.ended() == state
    assert run.said("tidy/said") == f"tidied up after {told}"


@pytest.mark.parametrize("bucket", ["pipelines", "datasets"])
def test_an_importer_brings_data_of_the_store(runs: dict[str, Run], kubeflow: Kubeflow, bucket: str) -> None:
    assert runs[bucket].succeeded().said("repeat/said") == f"{kubeflow.name} in {bucket}"


@pytest.mark.parametrize("where", ["workspace", "volume"])
def test_steps_share_a_volume_that_goes_with_the_run(
    cluster: Cluster, kubeflow: Kubeflow, runs: dict[str, Run], where: str
) -> None:
    run = runs[where].succeeded()
    assert run.said("find/said") == kubeflow.name
    # the claim of a workspace has the run's name in its own, the other has what the pipeline asked for
    name = {"workspace": run.workflow()["metadata"]["name"], "volume": kubeflow.name}[where]
    # until its pods go, a claim that was deleted stays
    kubeflow.client.delete_run(run.id)

    def gone() -> bool:
        return not any(name in claim["metadata"]["name"] for claim in cluster.list("v1", "PersistentVolumeClaim"))

    run.wait("the volume to go", gone, 60)
