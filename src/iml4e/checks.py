"""Checks before a deployment changes anything: cluster, rights, name, namespace, and the version's requirements."""

from collections.abc import Callable, Sequence

from iml4e import Error, platform, registry, requirements
from iml4e.cluster import Cluster, Object, RefusedError
from iml4e.manifests import MODEL, annotations_of, owned


def allowed(cluster: Cluster) -> None:
    """Check that the cluster can serve models, and that this account may change them here.

    Raises:
        Error: it cannot, or may not.
    """
    kinds = {"InferenceService": "KServe: it needs a release with kserve.enabled, or another KServe"}
    if platform.find("GATEWAY_NAME"):
        kinds["HTTPRoute"] = "the Gateway API: it needs a release with gateway.enabled, or another gateway"
    for kind, needs in kinds.items():
        try:
            cluster.request("GET", cluster.path(kind).partition("/namespaces/")[0])
        except RefusedError as error:
            if error.status == 404:
                raise Error(f"this cluster does not have {needs}") from None
        for verb in ("create", "patch", "delete"):
            if not cluster.may(verb, kind):
                plural = cluster.path(kind).rpartition("/")[2]
                raise Error(
                    f"you may not {verb} {plural} in namespace {cluster.namespace}: an administrator gives you that right; "
                    "docs/serving.md, 'Other namespaces', has the commands"
                )


def prepared(cluster: Cluster, account: str, *, default: bool) -> None:
    """Check that the namespace has the service account, Secret and ConfigMap that pods of models need.

    Raises:
        Error: something is missing.
    """
    needed = [("ServiceAccount", account)]
    if default and (config := platform.find("MODEL_CONFIG_MAP")):
        needed.append(("ConfigMap", config))
    try:
        cluster.request("GET", f"/api/v1/namespaces/{cluster.namespace}")
    except RefusedError as error:
        if error.status == 404:
            raise Error(f"there is no namespace {cluster.namespace}: `kubectl create namespace` makes it") from None
    for kind, name in needed:
        try:
            found = cluster.get(kind, name)
        except RefusedError:
            continue  # no right to read them: if one is missing, the pod's error says so
        if not found:
            raise Error(
                f"namespace {cluster.namespace} has no {kind} {name}, which pods of models need: "
                "docs/serving.md, 'Other namespaces', has the commands that copy it there"
            )


def own(cluster: Cluster, name: str, model: str, *, force: bool) -> Object | None:
    """The InferenceService that a deployment may replace, or None.

    Raises:
        Error: another owner's object has that name, or the endpoint serves another model.
    """
    with cluster.told("read"):
        former = cluster.get("InferenceService", name)
        route = cluster.get("HTTPRoute", name) if platform.find("GATEWAY_NAME") else None
    if former and former["metadata"].get("deletionTimestamp"):
        raise Error(f"endpoint {name} is being deleted: deploy again in a moment")
    for thing in filter(None, (former, route)):
        if not owned(thing):
            raise Error(
                f"{thing['kind']} {name} in namespace {cluster.namespace} was not made by `iml4e deploy`: nothing is applied "
                "over it; choose another --name"
            )
    other = annotations_of(former).get(MODEL, model) if former else model
    if other != model and not force:
        raise Error(f"endpoint {name} serves the model {other}: choose another --name, or replace it with --force")
    return former


def fits(
    model: str, version: str, other: str | None, packages: Sequence[str], *, force: bool, say: Callable[[str], None]
) -> None:
    """Check that a version exists, is an MLflow model, and has requirements that fit the image.

    Raises:
        Error: it cannot be served.
    """
    with registry.told(f"model {model} has no version {version}"):
        found = registry.client().get_model_version(model, version)
    if found.status != "READY":
        raise Error(
            f"{model} version {version} is {found.status} in the registry: {found.status_message or 'register it anew'}"
        )
    wanted = _wanted(model, version)
    findings = requirements.compare(wanted, requirements.image(packages, known=not other))
    for line in findings.different:
        say(f"warning: {model} version {version} asks for {line}")
    if findings.python:
        say(f"warning: {model} version {version} was made with {findings.python}")
    if findings.fatal:
        lacks = f"asks for {', '.join(findings.missing)}, which the image of the model server lacks"
        pickled = f"is Python code, pickled by {findings.python}: another cannot read it"
        extra = "".join(f" --packages '{each}'" for each in findings.missing)
        ways = f"deploy it with{extra}" if findings.missing else "log it from that Python"
        text = f"{model} version {version} {lacks if findings.missing else pickled}: {ways}, or with --image"
        text += (
            ", or log it with code_paths if that is your own code"
            if findings.missing
            else ", or as code (models from code)"
        )
        if not force:
            raise Error(f"{text}; --force tries it all the same")
        say(f"warning: {text}")


def _wanted(model: str, version: str) -> requirements.Wanted:
    """Read the requirements of a version.

    Raises:
        Error: it is no MLflow model.
    """
    import mlflow
    import yaml
    from mlflow.exceptions import MlflowException

    def read(file: str) -> str:
        try:
            return mlflow.artifacts.load_text(f"models:/{model}/{version}/{file}")
        except (MlflowException, OSError):
            return ""

    described = yaml.safe_load(read("MLmodel")) or {}
    flavor = described.get("flavors", {}).get("python_function")
    if not flavor:
        what = (
            "is no MLflow model: it has no file MLmodel"
            if not described
            else "has no Python function that can be served"
        )
        raise Error(f"{model} version {version} {what}; log it with `mlflow.<flavor>.log_model`")
    python = (yaml.safe_load(read("python_env.yaml")) or {}).get("python") or flavor.get("python_version", "")
    pickled = flavor.get("loader_module") == "mlflow.pyfunc.model" and "python_model" in flavor
    return requirements.Wanted(str(python), tuple(read("requirements.txt").splitlines()), pickled)
