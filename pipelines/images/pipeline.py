"""The image pipeline."""

from kfp import dsl

from pipelines.common.components import check, deploy, evaluate, register
from pipelines.common.settings import configured
from pipelines.images.components import onboard, prepare, train, validate


@dsl.pipeline(name="digits", description="UCI handwritten digits: from PNG files to a served model that reads them.")
def pipeline(
    source: str = "",
    dataset_key: str = "",
    dataset_version: str = "",
    regularization: float = 1.0,
    floor: float = 0.9,
    model_name: str = "digits",
    namespace: str = "",
) -> None:
    """Run all steps; deploy and check only a model that passes the gate.

    Args:
        source: folder of PNG files to onboard; empty: scikit-learn's copy of the UCI data.
        dataset_key: key of a manifest that is in the bucket already.
        dataset_version: S3 version id of that manifest; empty: the latest.
        regularization: see `train`.
        floor: least accuracy on held-out rows, from 0 to 1.
        model_name: registered model, experiment and InferenceService.
        namespace: where to deploy; empty: the release's own.
    """
    data = configured(onboard(source=source, key=dataset_key, version=dataset_version)).outputs
    valid = configured(validate(raw=data["raw"], address=data["address"]))
    split = configured(prepare(raw=data["raw"], images=valid.outputs["Output"])).outputs
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
