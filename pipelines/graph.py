"""The graph of both pipelines: from raw data to a champion that serves."""

from typing import Any

from kfp import dsl

from pipelines.steps import Step, check, deploy, evaluate, prepare, register


def data_to_service(name: str, description: str, onboard: Step, validate: Step, train: Step) -> Any:
    """Make a pipeline of a data scientist's own three steps and the shared ones.

    Args:
        name: of the pipeline, and of the model unless a run names another.
        description: for the page of Kubeflow Pipelines.
        onboard: (key, version, model_name) -> raw, address, key, version, sha256.
        validate: (raw, address) -> data: a table of numbers with the truth in column `target`.
        train: (training, address, sha256, model_name, regularization) -> run_id, experiment_id, model_uri.
    """

    @dsl.pipeline(name=name, description=description)
    def pipeline(
        dataset_key: str = "",
        dataset_version: str = "",
        regularization: float = 1.0,
        floor: float = 0.9,
        model_name: str = name,
        namespace: str = "",
    ) -> None:
        """Run all steps; deploy and check only a model that passes the gate.

        Args:
            dataset_key: key of a dataset that is in the bucket already; empty: scikit-learn's copy of the UCI data.
            dataset_version: S3 version id of that dataset; empty: the latest.
            regularization: see `train`.
            floor: least accuracy on held-out rows, from 0 to 1.
            model_name: registered model, experiment and endpoint.
            namespace: where to deploy; empty: the release's own.
        """
        data = onboard(key=dataset_key, version=dataset_version, model_name=model_name).outputs
        valid = validate(raw=data["raw"], address=data["address"]).outputs
        split = prepare(data=valid["data"]).outputs
        model = train(
            training=split["training"],
            address=data["address"],
            sha256=data["sha256"],
            model_name=model_name,
            regularization=regularization,
        ).outputs
        trained = {"model_uri": model["model_uri"], "run_id": model["run_id"], "model_name": model_name}
        verdict = evaluate(held_out=split["held_out"], floor=floor, **trained).outputs
        registered = register(
            gate=verdict["gate"], reason=verdict["reason"], dataset=data["address"], **trained
        ).outputs
        with dsl.If(registered["Output"] == "passed", name="passed"):
            served = {"model_name": model_name, "version": registered["version"], "namespace": namespace}
            endpoint = deploy(**served).outputs["endpoint"]
            check(held_out=split["held_out"], endpoint=endpoint, **served)

    return pipeline
