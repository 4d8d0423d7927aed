"""Serves one MLflow model over HTTP: KServe V1 and V2 protocols, `/metrics`, real readiness.

`python -m model_server --model_name=wine --model_dir=/mnt/models` is what the ClusterServingRuntime `mlflow` runs.

- `__main__` reads the arguments and keeps the workers alive; it imports nothing heavy.
- `server` is what a worker runs: the KServe SDK's REST server around the model, with our own gate in front of it.
- `tensors` turns requests into what the model's signature asks for, and predictions into responses.
"""
