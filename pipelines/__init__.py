"""Reference pipelines: ordinary Kubeflow Pipelines (KFP v2) Python, from raw data to a live prediction.

- `tabular`: UCI wine, a CSV file, model `wine`.
- `images`: UCI handwritten digits, PNG files, model `digits`.
- `common`: the steps that both share once there is a table of numbers, and what every step has in common.
- `run`: runs one of them without a KFP backend, in this process's environment.

A step is one function that needs nothing from this package when it runs: KFP ships its source alone.
Endpoints and credentials come from the environment only (the release's ConfigMap `<release>-runner` and its Secrets).
"""
