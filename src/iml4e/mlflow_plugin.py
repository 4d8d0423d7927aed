"""MLflow's deployment plug-in, target `iml4e`: `mlflow deployments create -t iml4e --name fraud -m models:/fraud/3`."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from iml4e import Error, client, platform, registry, serving
from iml4e.cli import pairs

#: Config keys (`-C key=value`) that are numbers or truth values; the others are text.
NUMBERS = {"replicas": int, "max_replicas": int, "timeout": float, "force": lambda text: str(text).lower() == "true"}
TEXTS = (
    "namespace",
    "cpu",
    "memory",
    "cpu_limit",
    "memory_limit",
    "gpu",
    "image",
    "runtime",
    "service_account",
    "batching",
    "latency_objective",
)
#: Config keys that hold several values, separated by spaces.
LISTS = ("packages", "tolerations", "node_selector")


class IML4EDeploymentClient(BaseDeploymentClient):
    """Models as InferenceServices behind the gateway of an IML4E release."""

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: Any = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Serve a registered version, and wait until it answers.

        Raises:
            MlflowException: it exists already, cannot be served, or does not start.
        """
        with _told():
            where = (config or {}).get("namespace", endpoint or "")
            if any(each.name == name for each in serving.endpoints(where)):
                raise Error(f"{name} exists already: use `mlflow deployments update`")
        return self._deploy(name, model_uri, config, endpoint)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Any = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another version, or the same with other settings, under a name that is served already.

        Raises:
            MlflowException: it does not exist, cannot be served, or does not start.
        """
        with _told():
            present = serving.find(name, (config or {}).get("namespace", endpoint or ""))
        return self._deploy(name, model_uri or f"models:/{present.model}/{present.version}", config, endpoint)

    def delete_deployment(self, name: str, config: Any = None, endpoint: str | None = None) -> None:
        """Stop serving; a name that is not served is fine."""
        where = (config or {}).get("namespace", endpoint or "")
        with _told():
            if any(each.name == name for each in serving.endpoints(where)):
                serving.delete(name, namespace=where)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All endpoints of a namespace (`endpoint`)."""
        with _told():
            return [dataclasses.asdict(each) for each in serving.endpoints(endpoint or "")]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One endpoint: model, version, whether it is ready or why not, URL."""
        with _told():
            return dataclasses.asdict(serving.find(name, endpoint or ""))

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Predict by V1 for a DataFrame, an array, or rows."""
        with _told():
            where = endpoint or platform.get("MODEL_NAMESPACE")
            model = client.Model(platform.get("GATEWAY_URL"), where, deployment_name or "")
            answer = {"predictions": model.predict(inputs), "version": model.version}
        return PredictionsResponse.from_json(json.dumps(answer))

    def _deploy(self, name: str, model_uri: str, config: Any, endpoint: str | None) -> dict[str, Any]:
        with _told():
            options = options_of(config or {})
            options.setdefault("namespace", endpoint or "")
            version = registry.resolve(model_uri)
            found = serving.deploy(version.name, version.version, name=name, **options)
        return dataclasses.asdict(found) | {"flavor": "python_function"}


def options_of(config: dict[str, Any]) -> dict[str, Any]:
    """Turn a plug-in's config into arguments of `serving.deploy`.

    Raises:
        Error: an unknown key, or a value of the wrong kind.
    """
    options: dict[str, Any] = {}
    for key, value in config.items():
        if key in NUMBERS:
            try:
                options[key] = NUMBERS[key](value)
            except ValueError:
                raise Error(f"{key} must be a number, not {value!r}") from None
        elif key in LISTS:
            words = value.split() if isinstance(value, str) else value
            options[key] = pairs(words, key) if key == "node_selector" and not isinstance(value, dict) else words
        elif key in TEXTS:
            options[key] = str(value)
        else:
            raise Error(f"config key {key} is unknown; there are {', '.join(sorted([*NUMBERS, *LISTS, *TEXTS]))}")
    return options


def run_local(target: str, name: str, model_uri: str, flavor: str | None = None, config: Any = None) -> None:
    """MLflow's hook for a local trial.

    Raises:
        MlflowException: always; MLflow itself has the command.
    """
    raise MlflowException(f"try a model on this machine with `mlflow models serve -m {model_uri} --env-manager local`")


def target_help() -> str:
    """Text of `mlflow deployments help -t iml4e`."""
    return f"""Target `iml4e` serves registered models on an IML4E release, as KServe InferenceServices behind its gateway.

  mlflow deployments create -t iml4e --name fraud -m models:/fraud/3 -C replicas=2 -C memory_limit=4Gi

The release is found by KUBECONFIG (and IML4E_RELEASE, IML4E_NAMESPACE), or by IML4E_URL. Model URIs are models:/NAME/VERSION and
models:/NAME@ALIAS. `--endpoint` is a namespace. Config keys (-C key=value):
  {", ".join(sorted([*NUMBERS, *TEXTS]))};
  {", ".join(LISTS)}: several values, separated by spaces.
They mean what the options of `iml4e deploy` mean: see docs/serving.md."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors as MLflow's own."""
    try:
        yield
    except Error as error:
        raise MlflowException(str(error)) from None
