"""Settings of a release: names and addresses of its parts, read once.

1. The environment of this process. Pods take it from the ConfigMap `<release>-runner`.
2. That ConfigMap itself, by the kubeconfig: IML4E_RELEASE (default iml4e) in namespace IML4E_NAMESPACE (default iml4e). Addresses
   below IML4E_URL, or below the release's `global.publicUrl`, replace its in-cluster addresses; an MLflow that is not
   the release's own keeps its address.
3. IML4E_URL alone: MLflow, Kubeflow Pipelines and the models below that address.
"""

import functools
import os
from pathlib import Path
from typing import Any

from iml4e import Error

#: The part that a missing setting belongs to, where the release is known.
PARTS = {
    "MLFLOW_": "MLflow (mlflow.enabled)",
    "MODEL_": "model server (kserve.enabled)",
    "GATEWAY_": "gateway (gateway.enabled, or another one in global.gateway)",
    "KF_PIPELINES_": "Kubeflow Pipelines (pipelines.enabled)",
}
#: A setting that every release's ConfigMap has: an environment with this setting is a release's.
MARK = "S3_DATASETS_BUCKET"


def in_cluster() -> bool:
    """Whether this process runs in a pod, where in-cluster addresses answer."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def release() -> str:
    """Name of the Helm release."""
    return os.environ.get("IML4E_RELEASE") or os.environ.get("RELEASE") or "iml4e"


def namespace() -> str:
    """Namespace of the release: IML4E_NAMESPACE, else the pod's own, else iml4e."""
    own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    if given := os.environ.get("IML4E_NAMESPACE"):
        return given
    return own.read_text().strip() if in_cluster() and own.exists() else "iml4e"


def find(name: str, default: str = "") -> str:
    """Look up a setting; `default` if the release does not have it."""
    return os.environ.get(name) or _release()[0].get(name) or default


def get(name: str) -> str:
    """Look up a setting that must be there.

    Raises:
        Error: it is missing; the sentence says why that may be and what to do.
    """
    if value := find(name):
        return value
    known, why = _release()
    part = next((part for prefix, part in PARTS.items() if name.startswith(prefix)), "")
    if MARK in os.environ or MARK in known:
        reason = f"the release {find('RELEASE', release())} has no {part}" if part else "the release does not set it"
        raise Error(f"{name} is not set: {reason}; switch that on with `helm upgrade`, or set {name} yourself")
    if known:
        raise Error(f"{name} is not set: IML4E_URL alone does not tell it; use a kubeconfig (KUBECONFIG): {why}")
    raise Error(
        f"{name} is not set: {why}; set IML4E_URL to the address of the platform, "
        f"or KUBECONFIG (and IML4E_RELEASE, IML4E_NAMESPACE) to read ConfigMap {release()}-runner"
    )


def settings() -> dict[str, str]:
    """All settings of the release; the environment of this process takes precedence."""
    known = _release()[0]
    return known | {name: os.environ[name] for name in known if os.environ.get(name)}


@functools.cache
def kubernetes() -> Any:
    """The API client (`kubernetes.client.ApiClient`) of this pod's service account, or of the kubeconfig.

    Raises:
        Error: there is neither.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        load = config.load_incluster_config if in_cluster() else config.load_kube_config
        load(client_configuration=configuration)
    except Exception as error:  # a missing or broken file, in several libraries' words
        hint = "give the pod a service account token" if in_cluster() else "set KUBECONFIG to a kubeconfig file"
        reason = (str(error) or type(error).__name__).splitlines()[0].strip(" .")
        raise Error(f"no access to Kubernetes: {reason}; {hint}") from None
    return client.ApiClient(configuration)


@functools.cache
def _release() -> tuple[dict[str, str], str]:
    """Read what the environment does not tell: settings of the release, and why there are none or few."""
    if MARK in os.environ:
        return {}, ""
    url = os.environ.get("IML4E_URL", "").rstrip("/")
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    known, why = _config_map()
    external = "MLFLOW_TRACKING_URI" in known and f"://{release()}-mlflow." not in known["MLFLOW_TRACKING_URI"]
    if not url and not external and tracking.startswith("http") and tracking.endswith("/mlflow"):
        url = tracking.removesuffix("/mlflow")
    if known and not in_cluster():
        known["GATEWAY_URL"] = url or known.get("PUBLIC_URL", "").rstrip("/")
    elif not known and url:
        known = {"RELEASE": release(), "GATEWAY_URL": url, "PUBLIC_URL": url, "MODEL_NAMESPACE": namespace()}
    if known and not in_cluster():
        for name, path in {"MLFLOW_TRACKING_URI": "/mlflow", "KF_PIPELINES_ENDPOINT": "/pipeline"}.items():
            if (name in known or MARK not in known) and not (external and name == "MLFLOW_TRACKING_URI"):
                known[name] = known["GATEWAY_URL"] + path
    return known, why


def _config_map() -> tuple[dict[str, str], str]:
    """Read the ConfigMap of the release: its content, or why it cannot be read."""
    import urllib3

    try:
        api = kubernetes()
        from kubernetes import client

        read = client.CoreV1Api(api).read_namespaced_config_map
        return dict(read(f"{release()}-runner", namespace(), _request_timeout=(3, 10)).data or {}), ""
    except Error as error:
        return {}, str(error).split(";")[0]
    except client.ApiException as error:
        why = {403: "may not be read by this account", 404: "does not exist"}.get(error.status, str(error.reason))
        return {}, f"ConfigMap {release()}-runner in namespace {namespace()} {why}"
    except urllib3.exceptions.HTTPError:
        return {}, f"Kubernetes at {api.configuration.host} does not answer"
