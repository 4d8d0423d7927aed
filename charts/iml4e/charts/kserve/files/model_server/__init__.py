"""Serves one MLflow model over HTTP: protocols V1 and V2, `/metrics`, readiness.

`python -m model_server --model_name=wine --model_dir=/mnt/models` is what the ClusterServingRuntime `mlflow` runs, in any
image that has MLflow. The chart mounts these files as a ConfigMap, so no image has to contain them.

- `__main__` reads the arguments, installs extra packages and keeps the workers alive; it imports nothing heavy.
- `app` is the ASGI application: paths, methods, bodies, status codes.
- `integrity` compares the model's files with the registered ones, before anything of them is run.
- `model` loads the model and predicts, for several waiting requests at once where that is proven to change nothing.
- `inputs` turns requests into what the model's signature asks for; `outputs` turns predictions into responses.
- `metrics` counts for Prometheus, in memory that all workers share.
"""


class InvalidInput(Exception):
    """The request is at fault; the message is a sentence for the caller."""


class CannotLoad(Exception):
    """The model's files are missing, damaged, or need what this image lacks; the message is a sentence."""
