"""Address of MLflow's database, as the programs of its pods need it."""

import os
from urllib.parse import quote


def uri() -> str:
    """MLFLOW_BACKEND_STORE_URI with user and password percent-encoded: Kubernetes composes it of both as the Secret has them."""
    user, password = (os.environ.get(f"DATABASE_{part}", "") for part in ("USER", "PASSWORD"))
    encoded = f"//{quote(user, safe='')}:{quote(password, safe='')}@"
    return os.environ["MLFLOW_BACKEND_STORE_URI"].replace(f"//{user}:{password}@", encoded, 1)
