"""The tabular pipeline."""

from kfp import dsl

from pipelines.common.components import check, deploy, evaluate, register
from pipelines.common.settings import configured
from pipelines.tabular.components import onboard, prepare, train, validate


@dsl.pipeline(name="wine", description="UCI wine: from a CSV file to a served model that names the cultivar.")
def pipeline(
    source: str = "",
    dataset_key: str = "",
    dataset_version: str = "",
    regularization: float = 1.0,
    floor: float = 0.9,
    model_name: str = "wine",
    namespace: str = "",
) -> None:
    """Run all steps; deploy and check only a model that passes the gate.

    Args:
        source: path of a CSV file to onboard; empty: scikit-learn's copy of the UCI data.
        dataset_key: key of a dataset that is in the bucket already.
        dataset_version: S3 version id of that dataset; empty: the latest.
        regularization: see `train`.
        floor: least accuracy on held-out rows, from 0 to 1.
        model_name: registered model, experiment and InferenceService.
        namespace: where to deploy; empty: the release's own.
    """
    data = configured(onboard(source=source, key=dataset_key, version=dataset_version)).outputs
    valid = configured(validate(raw=data["raw"], address=data["address"]))
    split = configured(prepare(data=valid.outputs["data"])).outputs
    model = configured(
        train(
            training=split["training"],
            address=data["address"],
            sha256=data["sha256"],
            model_name=model_name,
            regularization=regularization,
        )
    ).outputs
    verdict = configured(
        evaluate(
            held_out=split["held_out"],
            model_uri=model["model_uri"],
            run_id=model["run_id"],
            model_name=model_name,
            floor=floor,
        )
    ).outputs
    registered = configured(
        register(
            model_uri=model["model_uri"],
            run_id=model["run_id"],
            model_name=model_name,
            gate=verdict["gate"],
            reason=verdict["reason"],
            dataset=data["address"],
        )
    ).outputs
    with dsl.If(registered["Output"] == "passed", name="passed"):
        served = configured(deploy(model_name=model_name, version=registered["version"], namespace=namespace))
        configured(
            check(held_out=split["held_out"], model_name=model_name, version=registered["version"], path=served.output)
        )
