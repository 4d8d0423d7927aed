"""The chart on a cluster: install, upgrade, and a live prediction."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from scripts.bare import cluster, doctor, images, nodes
from scripts.common import console
from scripts.common.paths import BIN, KUBECONFIG, REPO

RELEASE = os.environ.get("IML4E_RELEASE", "iml4e")
NAMESPACE = os.environ.get("IML4E_NAMESPACE", "iml4e")
CHART = REPO / "charts" / "iml4e"


def foreign_cluster() -> bool:
    """Whether KUBECONFIG or the current context names a cluster that answers and is not the one made here."""
    config = os.environ.get("KUBECONFIG", "")
    if config == str(KUBECONFIG):
        return False
    if not config and not (Path.home() / ".kube" / "config").exists():
        return False
    if not shutil.which("kubectl"):
        raise console.Failure(
            "There is a kubeconfig, but the program kubectl is not installed.",
            "Install kubectl and helm, or unset KUBECONFIG.",
        )
    answer = subprocess.run(["kubectl", "get", "--raw", "/readyz", "--request-timeout=5s"], capture_output=True)
    if answer.returncode == 0:
        if not shutil.which("helm"):
            raise console.Failure(
                "A cluster answers, but the program helm is not installed.", "Install Helm 3.18 or newer."
            )
        return True
    if config:
        raise console.Failure(
            f"KUBECONFIG is {config}, but no cluster answers there.",
            "Start that cluster, or unset KUBECONFIG to make one on this machine.",
        )
    return False


def _use_own_cluster() -> None:
    """Point kubectl and helm of this process and its children at the cluster of this machine."""
    os.environ["KUBECONFIG"] = str(KUBECONFIG)
    os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"


def _heal() -> None:
    """Undo the half-done step of a helm that was killed: it leaves the release locked."""
    found = subprocess.run(["helm", "status", RELEASE, "-n", NAMESPACE, "-o", "json"], capture_output=True, text=True)
    if found.returncode:
        return
    release = json.loads(found.stdout)
    status = release["info"]["status"]
    if status == "pending-install" or (status == "failed" and release["version"] == 1):
        with console.step(f"undo the half-done installation ({status})"):
            console.run(["helm", "uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "3m"])
    elif status.startswith("pending-"):
        with console.step(f"undo the half-done upgrade ({status})"):
            console.run(["helm", "rollback", RELEASE, "-n", NAMESPACE, "--timeout", "5m"])


def _unready_pods() -> str:
    """Describe the pods that are not ready, with their last log lines."""
    command = ["kubectl", "get", "pods", "-n", NAMESPACE, "-l", "!pipeline/runid", "-o", "json"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        return found.stderr
    lines = []
    for pod in json.loads(found.stdout)["items"]:
        name, state = pod["metadata"]["name"], pod.get("status", {})
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in state.get("conditions", []))
        if ready or state.get("phase") == "Succeeded":
            continue
        lines.append(f"pod {name} is {state.get('phase')}")
        for container in [*state.get("initContainerStatuses", []), *state.get("containerStatuses", [])]:
            waiting = container["state"].get("waiting", {})
            if waiting:
                lines.append(
                    f"  {container['name']} waits: {waiting.get('reason')} {waiting.get('message', '')}".rstrip()
                )
            if not container.get("ready") and (container["state"].get("running") or container.get("restartCount")):
                command = ["kubectl", "logs", "-n", NAMESPACE, name, "-c", container["name"], "--tail=8"]
                log = subprocess.run(command, capture_output=True, text=True).stdout
                lines += [f"  {container['name']} log: {line}" for line in log.splitlines()]
    return "\n".join(lines[-40:])


def _apply(*objects: dict) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": objects}
    console.run(["kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-"], stdin=json.dumps(items))


def _apply_crds(text: str) -> None:
    """Apply CRDs as `iml4e upgrade` does: its package is not installed yet, and that module needs nothing else."""
    sys.path.append(str(REPO / "src"))
    from iml4e import Error, upgrade

    try:
        upgrade.apply_crds(upgrade.documents(text))
    except Error as error:
        raise console.Failure(
            f"{str(error).partition(';')[0]}.",
            "Where its owner agrees, take it over: `kubectl apply --server-side --force-conflicts -f charts/iml4e/charts/PART/crds`; then run `make up` again.",
        ) from None


def _own_values() -> list[str]:
    """Values for the cluster of this machine beside the profile: registry, parts whose images are present, certificate authorities."""
    values = ["-f", str(REPO / "values" / "bare-machine.yaml")]
    for part, lacking in images.missing().items():
        if not lacking:
            values += ["--set", f"{part}.enabled=true"]
            continue
        console.say(
            f"The part {part} is left out: {len(lacking)} of its images have no package to build from and are not in"
            f" {images.EXTRA}, {lacking[0]} first (docs/install.md, 'Images without a package')."
        )
    if os.environ.get("IML4E_RUNTIME"):
        runtime = images.named("runtime")
        values += ["--set", f"global.runtime.repository={runtime.repository},global.runtime.tag={runtime.tag}"]
    if os.environ.get("IML4E_NOTEBOOKS"):
        image = images.named("notebooks")
        values += [
            "--set",
            f"notebooks.enabled=true,notebooks.image.repository={image.repository},notebooks.image.tag={image.tag}",
        ]
    if images.CERTIFICATES.exists():
        # Pods install packages and reach stores through the network of this machine, where a proxy may inspect TLS.
        metadata = {"name": "iml4e-ca", "namespace": NAMESPACE}
        data = {"ca.crt": base64.b64encode(images.CERTIFICATES.read_bytes()).decode()}
        _apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
        values += ["--set", "global.caCertificate.existingSecret=iml4e-ca"]
    return values


def install(own: bool) -> None:
    """Install or upgrade the chart and wait until everything is ready."""
    profile = os.environ.get("IML4E_PROFILE", "laptop")
    # Helm installs CRDs but never upgrades them: an annotation of the namespace has the digest of the applied CRDs.
    crds = sorted(CHART.glob("charts/*/crds"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for crd in crds for path in sorted(crd.iterdir()))).hexdigest()[
        :16
    ]
    found = subprocess.run(["kubectl", "get", "namespace", NAMESPACE, "-o", "json"], capture_output=True, text=True)
    metadata = json.loads(found.stdout)["metadata"] if found.returncode == 0 else {}
    if "deletionTimestamp" in metadata:
        raise console.Failure(
            f"Namespace {NAMESPACE} is being deleted, so nothing can be made in it.",
            "Run `make purge`, which removes what holds the namespace, then run `make up` again.",
        )
    known = metadata.get("annotations", {})
    if known.get("iml4e/crds") != digest:
        with console.step("apply the chart's CRDs"):
            _apply_crds("\n---\n".join(path.read_text() for crd in crds for path in sorted(crd.iterdir())))
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            "annotations": {"iml4e/crds": digest},
        },
    }
    _apply(namespace)
    values = ["-f", str(REPO / "values" / f"{profile}.yaml"), *(_own_values() if own else [])]
    _heal()
    with console.step(f"helm upgrade --install {RELEASE} charts/iml4e -f values/{profile}.yaml", every=20):
        command = [
            "helm",
            "upgrade",
            "--install",
            RELEASE,
            str(CHART),
            "-n",
            NAMESPACE,
            *values,
            "--wait",
            "--wait-for-jobs",
            "--timeout",
            "8m",
        ]
        try:
            console.run(command)
        except console.Failure as failure:
            raise console.Failure(
                "The chart did not become ready.",
                f"Look at the pods: `KUBECONFIG={os.environ.get('KUBECONFIG', '')} kubectl -n {NAMESPACE} get pods`, then run `make up` again.",
                f"{failure.log}\n{_unready_pods()}",
            ) from failure


def _served() -> bool:
    """Whether the model `wine` of the demo is ready."""
    command = [
        "kubectl",
        "get",
        "inferenceservice",
        "wine",
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={.status.conditions[?(@.type=='Ready')].status}",
    ]
    return subprocess.run(command, capture_output=True, text=True).stdout == "True"


def up() -> None:
    """Make the cluster where none answers, install the platform, and get a prediction."""
    own = not foreign_cluster()
    if os.environ.get("IML4E_RUNTIME", "own") != "own":
        raise console.Failure(
            f"IML4E_RUNTIME is {os.environ['IML4E_RUNTIME']}, which names no image.",
            "Set it to own, for the runtime image of this repository, or unset it for MLflow's image.",
        )
    if os.environ.get("IML4E_RUNTIME") and not own:
        raise console.Failure(
            "IML4E_RUNTIME=own works on the cluster of this machine only: the cluster that KUBECONFIG names cannot pull that image.",
            "Push it with `scripts/images push REGISTRY` and install with the values that it prints (docs/install.md).",
        )
    if os.environ.get("IML4E_NOTEBOOKS", "on") != "on":
        raise console.Failure(
            f"IML4E_NOTEBOOKS is {os.environ['IML4E_NOTEBOOKS']}.", "Set it to on for notebooks, or unset it."
        )
    if os.environ.get("IML4E_NOTEBOOKS") and not own:
        raise console.Failure(
            "IML4E_NOTEBOOKS=on works on the cluster of this machine only: the cluster that KUBECONFIG names cannot pull that image.",
            "Push it with `scripts/images push REGISTRY notebooks` and install with the values that it prints (docs/notebooks.md).",
        )
    if nodes.wanted() and not own:
        raise console.Failure(
            f"NODES is {nodes.wanted()}, but the cluster that KUBECONFIG names has nodes of its own.",
            "Leave NODES out, or unset KUBECONFIG for a cluster of this machine.",
        )
    if own:
        doctor.check(quiet=True)
        doctor.install_packages()
        images.build_all(with_programs=True)
        cluster.up()
        _use_own_cluster()
    else:
        console.say("A cluster answers: the platform is installed there.")
    install(own)
    if not _served():
        demo = subprocess.run([REPO / "scripts" / "demo", "wine", "--release", RELEASE, "--namespace", NAMESPACE])
        if demo.returncode:
            raise console.Failure(
                "The platform runs, but the reference pipeline failed (see above).", "Run `make demo` again."
            )
    else:
        _predict()
    console.say("The platform is up.")
    print(console.run(["helm", "get", "notes", RELEASE, "-n", NAMESPACE]).strip().removeprefix("NOTES:").strip())


def _predict() -> None:
    """Get one prediction from the model `wine` through the gateway."""
    url = os.environ.get("IML4E_URL", "http://127.0.0.1:30080") + f"/models/{NAMESPACE}/wine/v1/models/wine:predict"
    sample = [[13.2, 1.78, 2.14, 11.2, 100.0, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050.0]]
    request = urllib.request.Request(
        url, json.dumps({"instances": sample}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            console.say(f"prediction: {json.loads(answer.read())['predictions']}   ({url})")
    except OSError as error:
        raise console.Failure(f"The wine model does not answer at {url}: {error}.", "Run `make demo`.") from error
