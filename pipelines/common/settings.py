"""What all steps have in common: their image, and on a KFP backend their environment."""

import functools
import os

from kfp import dsl, kubernetes

#: The image that steps run in on a KFP backend.
BASE_IMAGE = os.environ.get("RUNTIME_IMAGE", "iml4e.local/iml4e/runtime:0.1.0")
#: The Helm release whose ConfigMap and Secret tell steps where things are.
RELEASE = os.environ.get("RELEASE", "iml4e")
CONFIG = (
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "GATEWAY_NAME",
    "GATEWAY_NAMESPACE",
    "GATEWAY_URL",
    "MLFLOW_TRACKING_URI",
    "MODEL_NAMESPACE",
    "MODEL_SERVICE_ACCOUNT",
    "PUBLIC_URL",
    "S3_DATASETS_BUCKET",
    "S3_MLFLOW_BUCKET",
    "S3_PIPELINES_BUCKET",
    "SERVING_RUNTIME",
)
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

#: What a step installs as it starts: nothing, as the release's own image holds every package, unless told otherwise.
PACKAGES = os.environ.get("STEP_PACKAGES", "").split()

#: MLflow tells of an address that only pods reach, of waiting, of a missing pip; pandera of its future.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}

#: Decorator that makes a step of a function.
step = functools.partial(dsl.component, base_image=BASE_IMAGE, packages_to_install=PACKAGES, install_kfp_package=False)


def configured(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task its environment on a KFP backend (`kfp.local` passes its own on), and never skip it as cached.

    Steps act on MLflow, S3 and the cluster: an earlier run's result says nothing about what is there now.
    """
    # optional: without an endpoint of its own the release uses Amazon's
    kubernetes.use_config_map_as_env(task, f"{RELEASE}-runner", {name: name for name in CONFIG}, optional=True)
    kubernetes.use_secret_as_env(task, f"{RELEASE}-s3-pipelines", {name: name for name in SECRETS})
    for name, value in QUIET.items():
        task.set_env_variable(name, value)
    return task.set_caching_options(False).set_memory_request("256Mi").set_memory_limit("1Gi")
