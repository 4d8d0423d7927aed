"""Reference pipelines: ordinary Kubeflow Pipelines (KFP v2) Python, from raw data to a live prediction.

- `wine`: UCI wine, a CSV file. `digits`: UCI handwritten digits, PNG files.
- `steps`: the decorator of every step, and the steps that both share once there is a table of numbers.
- `graph`: the one graph of both.
- `run`: runs one of them, here or on Kubeflow Pipelines.

A step is a shell around the package `iml4e`. Endpoints and credentials come from the release's ConfigMap and Secret.
"""
