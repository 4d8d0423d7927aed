"""Run a reference pipeline in a pod of the cluster, follow it, and show its result.

scripts/demo [wine|digits] [--engine local|kfp] [--data PATH] [--param NAME=VALUE …] [--json]

The pod runs the pipeline itself, or hands it to Kubeflow Pipelines and follows it.
"""

import argparse
import base64
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.common import console
from scripts.common.paths import BIN, KUBECONFIG, REPO

# The runtime image has every package that the pipelines import. MLflow's public image lacks some: they are installed into
# /tmp when the pod starts, and by each step on Kubeflow Pipelines.
START = """
set -e
python3 -W ignore -m tarfile -e /pipelines/code.tar.gz /tmp/code
cd /tmp/code
if ! python3 -c 'import kfp, pandera, PIL' 2>/dev/null; then
  echo 'This image lacks packages: installing pipelines/requirements.txt.'
  python3 -m pip install --quiet --user --no-warn-script-location --disable-pip-version-check -r pipelines/requirements.txt || {
    echo 'pipelines.run: packages cannot be installed (see above): set PIP_INDEX_URL here, or use the runtime image'
    exit 1
  }
fi
exec python3 -m pipelines.run "$@"
"""
#: Where the release's own certificate authorities are in the pod, and the variables that name that file.
CA = "/etc/iml4e/ca/ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE")
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Run a reference pipeline in the cluster.")
    parser.add_argument("pipeline", nargs="?", default="wine", choices=["wine", "digits"])
    parser.add_argument(
        "--engine",
        choices=["local", "kfp"],
        help="run it in one pod, or on Kubeflow Pipelines; default: the latter where the release has it",
    )
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    parser.add_argument("--data", type=Path, metavar="PATH", help="your own data: a CSV file, or a folder of PNG files")
    parser.add_argument("--release", default="iml4e", help="Helm release")
    parser.add_argument("--namespace", default="iml4e", help="its namespace")
    parser.add_argument(
        "--json", action="store_true", help="print only the result, as JSON; the log is on standard error"
    )
    return parser.parse_args()


def pack(data: Path | None) -> bytes:
    """Pack the package `iml4e`, the pipelines and the user's data for a ConfigMap, which holds 1 MiB at most.

    Raises:
        console.Failure: the data does not exist or is too large.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file in sorted([*(REPO / "pipelines").rglob("*"), *(REPO / "src" / "iml4e").rglob("*")]):
            if file.suffix in (".py", ".txt"):
                archive.add(file, file.relative_to(REPO))
        if data:
            if not data.exists():
                raise console.Failure(f"There is no {data}.", "Name a CSV file, or a folder of PNG files.")
            archive.add(data, f"data/{data.resolve().name}")
    if len(packed.getvalue()) * 4 / 3 > 1_000_000:
        raise console.Failure(
            f"{data} is too large for a ConfigMap.",
            "Store it by `iml4e data put`, then name it: --param dataset_key=… --param dataset_version=…",
        )
    return packed.getvalue()


def kubectl(*words: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it prints."""
    return console.run(["kubectl", *words], stdin=stdin, cure="Run `make status` to see whether the platform is up.")


def settings(args: argparse.Namespace) -> dict[str, str]:
    """Read the release's ConfigMap.

    Raises:
        console.Failure: there is no such release, or it has nothing that pipelines could use.
    """
    name = f"{args.release}-runner"
    found = json.loads(
        kubectl("-n", args.namespace, "get", "configmap", name, "-o", "json", "--ignore-not-found") or "{}"
    )
    if not found:
        raise console.Failure(
            f"Namespace {args.namespace} has no ConfigMap {name}.",
            "Name the release: --release, --namespace (`helm list -A`).",
        )
    if "JOB_POD_SPEC" not in found["data"]:
        raise console.Failure(f"Release {args.release} is older than this checkout.", "Upgrade it first: `make up`.")
    return found["data"]


def job(name: str, release: str, namespace: str, config: dict[str, str], words: list[str]) -> dict[str, Any]:
    """Describe the Job that runs the pipeline with the release's image, service account and configuration.

    Args:
        name: of the Job, and of the ConfigMap with the code.
        release: the Helm release.
        namespace: of the release.
        config: the data of the release's ConfigMap `<release>-runner`.
        words: the command line of `pipelines.run`.
    """
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "pipelines", "configMap": {"name": name}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "pipelines", "mountPath": "/pipelines"}]
    env = {"HOME": "/tmp", "PYTHONPATH": "/tmp/code/src", "PYTHONUNBUFFERED": "1", "IML4E_NAMESPACE": namespace}
    env |= {key: os.environ[key] for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if key in os.environ}
    items = [{"key": config.get("CA_KEY", "ca.crt"), "path": Path(CA).name}]
    authorities: dict[str, Any] = {}
    if name_of := config.get("CA_CONFIG_MAP"):
        authorities = {"configMap": {"name": name_of, "items": items}}
    elif name_of := config.get("CA_SECRET"):
        authorities = {"secret": {"secretName": name_of, "items": items}}
    if authorities:
        volumes.append({"name": "ca", **authorities})
        mounts.append({"name": "ca", "mountPath": str(Path(CA).parent), "readOnly": True})
        env |= dict.fromkeys(CA_VARIABLES, CA)
    labels = {
        "app.kubernetes.io/name": "demo",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": "demo",
        "app.kubernetes.io/part-of": "iml4e",
    }
    if words[1:3] == ["--engine", "local"] or (words[1:2] != ["--engine"] and "KF_PIPELINES_ENDPOINT" not in config):
        # the steps run in this pod: Prometheus tells what they take (docs/monitoring.md)
        labels |= {"iml4e.org/run": name, "iml4e.org/pipeline": words[0]}
    container = {
        "name": "pipeline",
        "image": config["RUNTIME_IMAGE"],
        "command": ["sh", "-c", START, "demo"],
        "args": words,
        "envFrom": [
            {"configMapRef": {"name": f"{release}-runner"}},
            # empty: the service account has the rights (workload identity)
            *({"secretRef": {"name": key}} for key in [config["JOB_S3_SECRET"]] if key),
        ],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": json.loads(config["JOB_RESOURCES"]),
        "securityContext": RESTRICTED,
        "volumeMounts": mounts,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 1800,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    **json.loads(config["JOB_POD_SPEC"]),  # user, nodes, tolerations
                    "serviceAccountName": f"{release}-runner",
                    "automountServiceAccountToken": True,  # the step `deploy` uses the API server
                    "restartPolicy": "Never",
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }


def start(name: str, args: argparse.Namespace, code: bytes, words: list[str]) -> None:
    """Create the Job, and the ConfigMap that is deleted with the Job."""
    described = job(name, args.release, args.namespace, settings(args), words)
    made = kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(described))
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": json.loads(made)["metadata"]["uid"]}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": args.namespace, "ownerReferences": [owner]},
        "binaryData": {"code.tar.gz": base64.b64encode(code).decode()},
    }
    kubectl("create", "-f", "-", stdin=json.dumps(config))


def pod_of(name: str, namespace: str) -> dict[str, Any]:
    """Read the Job's pod: its name, phase, the reason that it waits for, its container's exit code."""
    pods = json.loads(kubectl("-n", namespace, "get", "pods", "-l", f"job-name={name}", "-o", "json"))["items"]
    if not pods:
        about = f"involvedObject.kind=Job,involvedObject.name={name},reason=FailedCreate"
        events = json.loads(kubectl("-n", namespace, "get", "events", "--field-selector", about, "-o", "json"))["items"]
        waits = f"refused: {events[-1]['message']}" if events else "no pod yet"
        return {"name": "", "phase": "Pending", "waits": waits, "exit": None}
    status = pods[0]["status"]
    state = (status.get("containerStatuses") or [{"state": {}}])[0]["state"]
    waits = state.get("waiting", {})
    waits = ": ".join(waits[key] for key in ("reason", "message") if waits.get(key))
    if not waits:
        waits = "; ".join(
            c["message"] for c in status.get("conditions", []) if c["status"] == "False" and "message" in c
        )
    code = state.get("terminated", {}).get("exitCode")
    return {"name": pods[0]["metadata"]["name"], "phase": status["phase"], "waits": waits, "exit": code}


def follow(name: str, namespace: str) -> Iterator[str]:
    """Yield the log lines of the pod until it ends.

    Raises:
        console.Failure: the pod does not start within five minutes; the message has the reason.
    """
    begun = said = time.monotonic()
    while (pod := pod_of(name, namespace))["phase"] == "Pending":
        now = time.monotonic()
        final = ("ErrImage", "ImagePull", "InvalidImage", "CreateContainerC", "refused")
        if now - begun > 300 or (pod["waits"].startswith(final) and "exceeded quota" not in pod["waits"]):
            cure = "Upgrade the release with values/quota.yaml as well: docs/install.md, Quotas."
            raise console.Failure(
                f"The pod of {name} does not start: {pod['waits'] or 'it does not say why'}.",
                cure if "must specify" in pod["waits"] else "",
            )
        if now - said > 10:
            said = now
            print(f"waiting for the pod: {pod['waits']}", file=sys.stderr)
        time.sleep(0.5)
    command = ["kubectl", "-n", namespace, "logs", "-f", pod["name"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stdout or ():
            yield line.rstrip("\n")


def show(result: dict[str, Any]) -> None:
    """Print the result of the run as text."""
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in result["metrics"].items())
    print(f"\n  dataset     {result['dataset']['address']}")
    if result["pipeline_run"]:
        print(f"  pipeline    {result['pipeline_run']}")
    print(f"  run         {result['run']} ({metrics})")
    print(f"  model       {result['model']} version {result['version']}: {result['gate']}, {result['reason']}")
    if result["deployed"]:
        print(f"  endpoint    {result['endpoint']}")
        print(f"  prediction  {json.dumps(result['prediction'])}")
        print(f"  try it      {result['curl']}")
        print("  next        pip install . && iml4e models")
    else:
        print("  The model did not pass the gate: it is registered as rejected and not deployed.")


def main() -> None:
    """Run the pipeline, follow it to its end and print the result."""
    args = arguments()
    os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
    if KUBECONFIG.exists():
        os.environ.setdefault("KUBECONFIG", str(KUBECONFIG))
    engine = ["--engine", args.engine] if args.engine else []
    words = [args.pipeline, *engine, *(word for param in args.param for word in ("--param", param))]
    if args.data:
        words += ["--data", f"data/{args.data.resolve().name}"]
    # the name of a Job has 63 characters at most, the name of a release up to 53
    name = f"{args.release[:40].rstrip('-.')}-demo-{args.pipeline}-{secrets.token_hex(3)}"
    code = pack(args.data)
    last: list[str] = []
    answer: list[str] = []
    ok = False
    try:
        start(name, args, code, words)
        for line in follow(name, args.namespace):
            if answer or line == "{":  # the result, which ends what the pipeline prints
                answer.append(line)
                continue
            last = [*last[-14:], line]
            print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
        while (pod := pod_of(name, args.namespace))["exit"] is None and pod["phase"] == "Running":
            time.sleep(0.5)
        ok = pod["exit"] == 0 and bool(answer)
        if not ok:
            sentence = next((line for line in reversed(last) if line.startswith("pipelines.run: ")), "")
            raise console.Failure(
                sentence.removeprefix("pipelines.run: ").removeprefix("error: ")
                or f"The pod of {name} ended with exit code {pod['exit']}.",
                f"The whole log, for an hour: kubectl -n {args.namespace} logs job/{name}",
                "" if sentence else "\n".join(last),
            )
    except KeyboardInterrupt:
        kubectl("-n", args.namespace, "delete", "job", name, "--ignore-not-found", "--wait=false")
        raise
    finally:
        if ok:
            kubectl("-n", args.namespace, "delete", "job", name, "--ignore-not-found", "--wait=false")
    result = json.loads("\n".join(answer))
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
