"""The steps that both pipelines share: evaluate, register, deploy, check.

They take held-out rows as a CSV file: numbers in the model's order, and the truth in the last column, `target`.
"""

from typing import Any, NamedTuple

from kfp import dsl

from pipelines.common.settings import step


@step
def evaluate(
    held_out: dsl.Input[dsl.Dataset],
    model_uri: str,
    run_id: str,
    model_name: str,
    floor: float,
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Evaluated", [("gate", str), ("reason", str), ("accuracy", float), ("f1", float)]):
    """Measure the new model and the present champion on the same held-out rows, and decide.

    The gate is passed when the accuracy reaches the floor and is not below the champion's.

    Args:
        held_out: rows that training never saw.
        model_uri: MLflow address of the new model.
        run_id: MLflow run that trained it; it gets the metrics.
        model_name: registered model whose alias `champion` names the present champion.
        floor: least accuracy, from 0 to 1.
        metrics: the same figures for the KFP user interface.

    Returns:
        gate: "passed" or "rejected"; reason: one sentence; accuracy and macro-averaged F1, from 0 to 1.
    """
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException
    from sklearn.metrics import accuracy_score, classification_report, f1_score

    rows = pd.read_csv(held_out.path)
    truth = rows.pop("target")
    rows = rows.astype(float)
    predicted = mlflow.pyfunc.load_model(model_uri).predict(rows)
    accuracy = float(accuracy_score(truth, predicted))
    f1 = float(f1_score(truth, predicted, average="macro"))
    figures = {"accuracy": accuracy, "f1_macro": f1, "held_out_rows": len(rows)}

    try:
        version = mlflow.MlflowClient().get_model_version_by_alias(model_name, "champion").version
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise  # MLflow does not answer: no reason to crown another
        best, champion = 0.0, "no champion yet"
    else:
        best = float(accuracy_score(truth, mlflow.pyfunc.load_model(f"models:/{model_name}/{version}").predict(rows)))
        champion = f"the champion's {best:.3f} (version {version})"
        figures["champion_accuracy"] = best

    if accuracy < floor:
        gate, reason = "rejected", f"accuracy {accuracy:.3f} is below the floor {floor:.3f}"
    elif accuracy < best:
        gate, reason = "rejected", f"accuracy {accuracy:.3f} is below {champion}"
    else:
        gate, reason = "passed", f"accuracy {accuracy:.3f} reaches the floor {floor:.3f}; {champion}"

    with mlflow.start_run(run_id=run_id):
        mlflow.log_metrics(figures)
        mlflow.log_param("floor", floor)
        mlflow.set_tags({"gate": gate, "gate_reason": reason})
        report = classification_report(truth, predicted, output_dict=True, zero_division=0.0)
        mlflow.log_dict(report, "classification_report.json")
    for name, value in figures.items():
        metrics.log_metric(name, value)
    print(f"{gate}: {reason}")
    return gate, reason, accuracy, f1


@step
def register(
    model_uri: str,
    run_id: str,
    model_name: str,
    gate: str,
    reason: str,
    dataset: str,
    version: dsl.OutputPath(str),
) -> str:
    """Register the model as a new version; crown it if it passed the gate, else mark it as rejected.

    A champion gets the alias `champion`, the tag status=champion and, for tools that know stages only, the stage
    Production; its forerunner goes to the stage Archived. A rejected version gets the tag status=rejected, no more.

    Args:
        model_uri: MLflow address of the model.
        run_id: MLflow run that trained it.
        model_name: registered model; made if it does not exist.
        gate: "passed" or "rejected".
        reason: why, in one sentence.
        dataset: address of the exact dataset version.
        version: gets the number of the new version.

    Returns:
        The gate as given. (It is returned alone, because kfp.local resolves no other output in a condition.)
    """
    import warnings
    from pathlib import Path

    import mlflow

    warnings.filterwarnings("ignore", message=".*stages", category=FutureWarning)
    client = mlflow.MlflowClient()
    tags = {"status": "rejected", "gate_reason": reason, "dataset": dataset, "run_id": run_id}
    number = str(mlflow.register_model(model_uri, model_name, tags=tags).version)
    if gate == "passed":
        former = client.get_registered_model(model_name).aliases.get("champion")
        client.set_model_version_tag(model_name, number, "status", "champion")
        client.set_registered_model_alias(model_name, "champion", number)
        client.transition_model_version_stage(model_name, number, "Production", archive_existing_versions=True)
        if former:
            client.set_model_version_tag(model_name, former, "status", "archived")
    Path(version).write_text(number)
    print(f"{model_name} version {number}: {'champion' if gate == 'passed' else 'rejected'} ({reason})")
    return gate


@step
def deploy(model_name: str, version: str, namespace: str, timeout: int = 300) -> str:
    """Serve a registered version as an InferenceService behind the front door.

    The former version serves until the new one is ready, and for good if it never gets ready.

    Args:
        model_name: registered model, and name of the InferenceService.
        version: version to serve.
        namespace: where to; empty: MODEL_NAMESPACE.
        timeout: seconds until it must be ready.

    Returns:
        Path of the model below the front door's address.

    Raises:
        RuntimeError: not ready in time; the sentence holds the last words of the model's pod.
    """
    import os
    import time
    from urllib.parse import urlsplit

    import mlflow
    from kubernetes import client, config
    from kubernetes.dynamic import DynamicClient
    from kubernetes.dynamic.exceptions import NotFoundError

    namespace = namespace or os.environ["MODEL_NAMESPACE"]
    path = f"/models/{namespace}/{model_name}"
    # KServe reads S3, not MLflow: mlflow-artifacts:/1/models/… (perhaps with host and API path) lies at s3://BUCKET/1/…
    address = mlflow.MlflowClient().get_model_version_download_uri(model_name, version)
    folder = urlsplit(address).path.split("/mlflow-artifacts/artifacts/")[-1].strip("/")
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": model_name,
            "namespace": namespace,
            # KServe hands annotations on to the pods: this is how to tell the new ones.
            "annotations": {"iml4e.org/model-version": version},
        },
        "spec": {
            "predictor": {
                "serviceAccountName": os.environ["MODEL_SERVICE_ACCOUNT"],
                "minReplicas": 1,
                "maxReplicas": 2,
                "terminationGracePeriodSeconds": 60,
                "deploymentStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
                },
                "model": {
                    "modelFormat": {"name": "mlflow"},
                    "runtime": os.environ["SERVING_RUNTIME"],
                    "storageUri": f"s3://{os.environ['S3_MLFLOW_BUCKET']}/{folder}",
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "320Mi"},
                        "limits": {"memory": "1Gi"},
                    },
                },
            }
        },
    }
    prefix = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": model_name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": os.environ["GATEWAY_NAME"], "namespace": os.environ["GATEWAY_NAMESPACE"]}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                    "filters": [{"type": "URLRewrite", "urlRewrite": {"path": prefix}}],
                    "backendRefs": [{"name": f"{model_name}-predictor", "port": 80}],
                }
            ],
        },
    }

    if "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config()  # the service account of the pod
    else:
        config.load_kube_config()
    core, dynamic = client.CoreV1Api(), DynamicClient(client.ApiClient())

    def api(thing: dict[str, Any]) -> Any:
        return dynamic.resources.get(api_version=thing["apiVersion"], kind=thing["kind"])

    def apply(thing: dict[str, Any]) -> dict[str, Any]:
        done = api(thing).server_side_apply(body=thing, field_manager="iml4e-pipelines", force_conflicts=True)
        return done.to_dict()

    def containers(pod: Any) -> list[Any]:
        return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]

    def last_words(pods: list[Any]) -> str:
        """Say what the newest pod of this version said or waits for."""
        for pod in sorted(pods, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)[:1]:
            for status in containers(pod):
                waiting, ended = status.state.waiting, status.last_state.terminated or status.state.terminated
                if status.ready or not (waiting or ended):
                    continue
                words = [f"{pod.metadata.name}/{status.name}: {(waiting or ended).reason}"]
                if ended and ended.exit_code:
                    which = {"container": status.name, "previous": bool(waiting), "tail_lines": 15}
                    words.append(core.read_namespaced_pod_log(pod.metadata.name, namespace, **which).strip())
                elif waiting and waiting.message:
                    words.append(waiting.message)
                return "\n".join(words)
        return "its pod says nothing"

    try:
        former = api(service).get(name=model_name, namespace=namespace).to_dict()
        former_uri = former["spec"]["predictor"]["model"]["storageUri"]
    except NotFoundError:
        former_uri = ""
    owner = apply(service)["metadata"]
    route["metadata"]["ownerReferences"] = [
        {"apiVersion": service["apiVersion"], "kind": service["kind"], "name": model_name, "uid": owner["uid"]}
    ]
    apply(route)

    start = time.monotonic()
    while True:
        elapsed = time.monotonic() - start
        status = api(service).get(name=model_name, namespace=namespace).to_dict().get("status", {})
        states = {each["type"]: each["status"] for each in status.get("conditions", [])}
        pods = core.list_namespaced_pod(namespace, label_selector=f"serving.kserve.io/inferenceservice={model_name}")
        pods = [pod for pod in pods.items if not pod.metadata.deletion_timestamp]
        new = [pod for pod in pods if (pod.metadata.annotations or {}).get("iml4e.org/model-version") == version]
        ready = [
            pod for pod in new if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])
        ]
        if states.get("Ready") == "True" and ready and len(ready) == len(pods):
            break
        restarts = [container.restart_count for pod in new for container in containers(pod)]
        if elapsed > timeout or max(restarts, default=0) >= 2:
            words = last_words(new)
            if former_uri:
                service["metadata"]["annotations"] = former["metadata"].get("annotations", {})
                service["spec"]["predictor"]["model"]["storageUri"] = former_uri
                apply(service)
                words += "\nThe former version goes on serving."
            raise RuntimeError(f"{model_name} version {version} is not ready after {elapsed:.0f} s: {words}")
        print(f"{elapsed:4.0f} s: {len(ready)} of {len(pods)} pods ready with version {version}", flush=True)
        time.sleep(3)
    print(f"{model_name} version {version} serves at {path} after {time.monotonic() - start:.0f} s")
    return path


@step
def check(
    held_out: dsl.Input[dsl.Dataset],
    model_name: str,
    version: str,
    path: str,
    timeout: int = 60,
) -> NamedTuple("Checked", [("endpoint", str), ("prediction", str), ("curl", str)]):
    """Ask the served model through the front door, and compare with the same model in this process.

    Args:
        held_out: rows that training never saw; the first 50 are sent.
        model_name: registered model.
        version: version that must answer.
        path: path of the model below the front door's address.
        timeout: seconds that the front door may take to know the new route.

    Returns:
        endpoint: address for people; prediction: the answer to the first row, as JSON; curl: the line that asks for it.

    Raises:
        RuntimeError: no answer in time, or another answer than the model's own.
    """
    import json
    import os
    import time

    import mlflow
    import pandas as pd
    import requests

    rows = pd.read_csv(held_out.path).drop(columns="target").astype(float).head(50)
    model = mlflow.pyfunc.load_model(f"models:/{model_name}/{version}")
    wanted = model.predict(rows).tolist()
    if os.environ["SERVING_RUNTIME"] == "mlflow":
        path += f"/v1/models/{model_name}:predict"

        def question(some: pd.DataFrame) -> dict[str, Any]:
            return {"instances": some.to_numpy().tolist()}

    else:
        path += "/invocations"

        def question(some: pd.DataFrame) -> dict[str, Any]:
            if model.metadata.get_input_schema().is_tensor_spec():
                return {"inputs": some.to_numpy().tolist()}
            return {"dataframe_split": some.to_dict("split", index=False)}

    start = time.monotonic()
    while True:
        try:
            answer = requests.post(os.environ["GATEWAY_URL"] + path, json=question(rows), timeout=10)
            found = f"{answer.status_code} {answer.text[:300]}"
            if answer.ok and answer.json()["predictions"] == wanted:
                break
        except requests.RequestException as error:
            found = f"{type(error).__name__}: {error}"
        if time.monotonic() - start > timeout:
            raise RuntimeError(
                f"{path} does not answer like version {version} of {model_name}; its last answer: {found}"
            )
        time.sleep(1)
    endpoint = os.environ["PUBLIC_URL"] + path
    one = requests.post(os.environ["GATEWAY_URL"] + path, json=question(rows.head(1)), timeout=10)
    one.raise_for_status()
    curl = f"curl -s {endpoint} -H 'Content-Type: application/json' -d '{json.dumps(question(rows.head(1)))}'"
    print(f"{len(rows)} rows through the front door: all as the model itself predicts")
    return endpoint, one.text.strip(), curl
