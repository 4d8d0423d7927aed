"""Remove a release without a trace: models and runs, the release, volumes, passwords, what controllers left, the namespace and CRDs.

What `helm uninstall` keeps on purpose is deleted here, so the name of the release has to be typed, or given with --yes. A namespace with
objects of others stays, and so does a CRD that others use or had before.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.common import console
from scripts.common.paths import BIN, KUBECONFIG, REPO

Object = dict[str, Any]
CRDS = REPO / "charts" / "iml4e" / "charts"
#: Kinds that users and pipelines make; their controllers run until these are gone, and remove the finalizers.
MADE = (
    "inferenceservices.serving.kserve.io", "inferencegraphs.serving.kserve.io", "trainedmodels.serving.kserve.io",
    "servingruntimes.serving.kserve.io", "httproutes.gateway.networking.k8s.io", "scheduledworkflows.kubeflow.org",
    "cronworkflows.argoproj.io", "workflowtemplates.argoproj.io", "workflows.argoproj.io",
)  # fmt: skip
#: Kinds without a namespace that the chart has.
CLUSTER_WIDE = (
    "clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io", "gatewayclasses.gateway.networking.k8s.io",
    "clusterservingruntimes.serving.kserve.io", "clusterstoragecontainers.serving.kserve.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io", "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "mutatingadmissionpolicies.admissionregistration.k8s.io", "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io", "validatingadmissionpolicybindings.admissionregistration.k8s.io",
)  # fmt: skip
#: What every namespace has, or what goes by itself.
BUILT_IN = {"ConfigMap/kube-root-ca.crt", "ConfigMap/openshift-service-ca.crt", "ServiceAccount/default"}
PASSING = ("events", "events.events.k8s.io", "pods.metrics.k8s.io", "endpoints")
#: Options of `helm list`: releases in every status, for Helm 3 (which has more by `--all`) and Helm 4 (which has no such option).
ANY_STATUS = ("--deployed", "--failed", "--pending", "--uninstalling")
#: Seconds between the CRDs and the release of one installation.
TOGETHER = 900
#: Seconds for controllers to remove finalizers.
PATIENCE = 180


def kubectl(*words: str, fail: bool = True) -> str:
    """Run kubectl; without `fail`, an error is no output."""
    if fail:
        return console.run(["kubectl", *words], cure="Look at that object, then run the command again: it goes on.")
    return subprocess.run(["kubectl", *words], capture_output=True, text=True, check=False).stdout


def items(*words: str) -> list[Object]:
    """Objects that kubectl finds; none of a kind that the cluster does not know."""
    return json.loads(kubectl("get", *words, "-o", "json", fail=False) or '{"items": []}').get("items", [])


def name_of(thing: Object) -> str:
    """`Kind/name`."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


class Purge:
    """The removal of one release."""

    def __init__(self, release: str, namespace: str, *, everywhere: bool) -> None:
        self.release, self.namespace, self.everywhere = release, namespace, everywhere
        self.label = f"app.kubernetes.io/instance={release}"
        self.patience = PATIENCE
        found = subprocess.run(
            ["helm", "status", release, "-n", namespace, "-o", "json"], capture_output=True, text=True, check=False
        )
        self.status = json.loads(found.stdout) if found.returncode == 0 else {}
        self.space = json.loads(kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "json") or "{}")

    def made(self) -> list[Object]:
        """What users and pipelines made in the namespace."""
        return [thing for kind in MADE for thing in items(kind, "-n", self.namespace) if not self.of_helm(thing)]

    def of_helm(self, thing: Object) -> bool:
        """Whether `helm uninstall` removes an object."""
        return "meta.helm.sh/release-name" in (thing["metadata"].get("annotations") or {})

    def elsewhere(self) -> list[Object]:
        """Models of other namespaces, whose controller is this release's."""
        if not items("deployments", "-n", self.namespace, "-l", f"app.kubernetes.io/name=kserve,{self.label}"):
            return []
        found = items("inferenceservices.serving.kserve.io", "-A")
        return [thing for thing in found if thing["metadata"]["namespace"] != self.namespace]

    def kept(self) -> list[Object]:
        """What `helm uninstall` keeps, and what controllers and `make up` made."""
        found = [
            thing
            for kind in (
                "persistentvolumeclaims",
                "secrets",
                "configmaps",
                "jobs.batch",
                "roles",
                "rolebindings",
                "pods",
            )
            for thing in items(kind, "-n", self.namespace, "-l", self.label)
        ]
        leases = items("leases.coordination.k8s.io", "-n", self.namespace)
        found += [each for each in leases if str(each["spec"].get("holderIdentity", "")).startswith(f"{self.release}-")]
        found += [
            thing
            for kind, name in (("secrets", f"{self.release}-ca"), ("configmaps", "global-ca-bundle"))
            for thing in items(kind, "-n", self.namespace, "--field-selector", f"metadata.name={name}")
        ]
        return [thing for thing in found if not self.of_helm(thing)]

    def orphans(self) -> list[Object]:
        """Cluster-wide objects of a release whose namespace was deleted, and the release's record with it."""
        if self.status:
            return []
        found = [thing for kind in CLUSTER_WIDE for thing in items(kind, "-l", self.label)]
        notes = [thing["metadata"].get("annotations") or {} for thing in found]
        return [
            thing
            for thing, note in zip(found, notes, strict=True)
            if (note.get("meta.helm.sh/release-name"), note.get("meta.helm.sh/release-namespace"))
            == (self.release, self.namespace)
        ]

    def unanswered(self) -> list[Object]:
        """Webhooks of this release whose Services have no ready pod: they refuse every change of a model, the removal of finalizers too."""
        found = []
        for thing in (thing for kind in CLUSTER_WIDE if "webhook" in kind for thing in items(kind, "-l", self.label)):
            services = {
                (service["namespace"], service["name"])
                for hook in thing.get("webhooks") or []
                if (service := hook["clientConfig"].get("service"))
            }
            if not any(namespace == self.namespace for namespace, _ in services):
                continue
            slices = [
                each
                for namespace, name in services
                for each in items("endpointslices", "-n", namespace, "-l", f"kubernetes.io/service-name={name}")
            ]
            if not any(
                end.get("conditions", {}).get("ready") for each in slices for end in each.get("endpoints") or []
            ):
                found.append(thing)
        return found

    def plan(self) -> list[str]:
        """Lines that say what goes."""
        lines = [f"models, routes and runs: {', '.join(map(name_of, made))}" for made in [self.made()] if made]
        lines += [f"release {self.release}, chart {self.chart()}"] if self.status else []
        lines += [f"data, passwords and the rest: {', '.join(map(name_of, kept))}" for kept in [self.kept()] if kept]
        lines += [f"cluster-wide objects: {', '.join(map(name_of, found))}" for found in [self.orphans()] if found]
        return lines

    def chart(self) -> str:
        """The chart of the release, by name and version."""
        listed = console.run(
            ["helm", "list", "-n", self.namespace, *ANY_STATUS, "-f", f"^{self.release}$", "-o", "json"]
        )
        return next((each["chart"] for each in json.loads(listed)), "unknown")

    def run(self) -> None:
        """Remove all, in the order in which controllers can help."""
        begun = self.begun()
        if hooks := self.unanswered():
            with console.step("delete webhooks that no pod answers"):
                self.delete(hooks)
            self.patience = 10  # the controller that removes finalizers is the same program
        with console.step("delete models, routes and runs"):
            self.delete(self.made() + (self.elsewhere() if self.everywhere else []))
        if self.status:
            with console.step(f"helm uninstall {self.release}"):
                console.run(
                    ["helm", "uninstall", self.release, "-n", self.namespace, "--wait", "--timeout", "5m"],
                    cure="Run the command again: it goes on.",
                )
        with console.step("delete data, passwords and what controllers left"):
            self.delete(self.kept() + self.orphans())
        self.delete_namespace()
        self.delete_crds(begun)

    def delete(self, things: list[Object]) -> None:
        """Delete objects and wait for their end; a finalizer whose controller is gone is taken off."""
        for thing in things:
            self.one("delete", thing, "--wait=false", "--ignore-not-found")
        start, freed = time.monotonic(), False
        while left := [thing for thing in things if self.there(thing)]:
            if not freed and time.monotonic() > start + self.patience:
                freed = True
                for thing in left:
                    console.say(
                        f"{name_of(thing)} waits for a controller that does not answer: its finalizers are removed"
                    )
                    try:
                        self.one("patch", thing, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
                    except console.Failure:
                        if self.there(thing):
                            raise
            if time.monotonic() > start + self.patience + PATIENCE:
                raise console.Failure(
                    f"{', '.join(map(name_of, left))} stay although they are deleted.",
                    "Look at their finalizers and events, then run the command again: it goes on.",
                )
            time.sleep(1)

    def one(self, verb: str, thing: Object, *words: str, fail: bool = True) -> str:
        """Call kubectl for an object."""
        group, _, version = thing["apiVersion"].rpartition("/")
        resource = thing["kind"].lower() + (f".{version}.{group}" if group else "")
        where = ["-n", thing["metadata"]["namespace"]] if "namespace" in thing["metadata"] else []
        return kubectl(verb, resource, thing["metadata"]["name"], *where, *words, fail=fail)

    def there(self, thing: Object) -> bool:
        """Whether an object is still there."""
        found = self.one("get", thing, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}", fail=False)
        return found == thing["metadata"]["uid"]

    def left(self) -> list[str]:
        """What is in the namespace, save for what every namespace has, once the release's pods have ended."""
        kubectl("wait", "pods", "-l", self.label, "-n", self.namespace, "--for=delete", "--timeout=2m", fail=False)
        kinds = kubectl("api-resources", "--verbs=list,delete", "--namespaced", "-o", "name").split()
        found = items(",".join(kind for kind in kinds if kind not in PASSING), "-n", self.namespace)
        own = [thing for thing in found if name_of(thing) not in BUILT_IN]
        # an owner takes them along
        return sorted(name_of(each) for each in own if not each["metadata"].get("ownerReferences"))

    def delete_namespace(self) -> None:
        """Delete the namespace, unless others use it."""
        if not self.space or self.namespace in ("default", "kube-system", "kube-public"):
            return
        if left := self.left():
            console.say(f"namespace {self.namespace} stays, as these are in it: {', '.join(left)}")
            return
        with console.step(f"delete namespace {self.namespace}"):
            # a namespace with pods stays for half of their termination grace period, which is minutes
            kubectl("delete", "pods", "--all", "-n", self.namespace, "--grace-period=1", "--timeout=60s", fail=False)
            kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=3m")

    def begun(self) -> float:
        """When this installation began: 0 where nobody knows."""
        told = []
        if first := self.status.get("info", {}).get("first_deployed"):
            told.append(moment(first))
        if "iml4e/crds" in (self.space.get("metadata", {}).get("annotations") or {}):
            told.append(moment(self.space["metadata"]["creationTimestamp"]))
        return min(told, default=0.0)

    def delete_crds(self, begun: float) -> None:
        """Delete the CRDs that this installation brought, where no object and no other release needs them."""
        present = crds()
        if other := releases():
            console.say(f"{len(present)} CRDs stay, as other releases use them: {', '.join(other)}")
            return
        stay = {}
        for name in present:
            if not begun or moment(present[name]["metadata"]["creationTimestamp"]) < begun - TOGETHER:
                stay[name] = "older than this installation" if begun else "of unknown origin"
            elif items(name, "-A"):
                stay[name] = "used"
        for name, why in stay.items():
            console.say(f"CRD {name} stays: {why}")
        if gone := [name for name in present if name not in stay]:
            with console.step(f"delete {len(gone)} CRDs without objects"):
                kubectl("delete", "customresourcedefinitions.apiextensions.k8s.io", *gone, "--timeout=3m")


def crds() -> dict[str, Object]:
    """CRDs of the chart that the cluster has."""
    names = {
        line.split()[1]
        for path in CRDS.glob("*/crds/*.yaml")
        for line in path.read_text().splitlines()
        if line.startswith("  name: ")
    }
    every = {crd["metadata"]["name"]: crd for crd in items("customresourcedefinitions.apiextensions.k8s.io")}
    return {name: every[name] for name in sorted(names & every.keys())}


def releases() -> list[str]:
    """Releases of this chart in the cluster, as `namespace/name`."""
    found = json.loads(console.run(["helm", "list", "-A", *ANY_STATUS, "-o", "json"]))
    return [f"{each['namespace']}/{each['name']}" for each in found if each["chart"].startswith("iml4e-")]


def moment(text: str) -> float:
    """Seconds of a time that Kubernetes or Helm tells."""
    head, _, zone = text.partition(".")
    # Helm tells nanoseconds, which Python 3.11 does not read
    zone = zone.lstrip("0123456789") if zone else ""
    return datetime.datetime.fromisoformat(head + (zone or "")).timestamp()


def main(arguments: list[str] | None = None) -> None:
    """Say what goes, ask, and remove it."""
    parser = argparse.ArgumentParser(
        prog="scripts/purge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", default=os.environ.get("IML4E_RELEASE", "iml4e"))
    parser.add_argument("--namespace", default=os.environ.get("IML4E_NAMESPACE", "iml4e"))
    parser.add_argument("--yes", metavar="RELEASE", default="", help="name of the release, instead of typing it")
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="also delete models of other namespaces that this release's KServe runs",
    )
    options = parser.parse_args(arguments)
    if "KUBECONFIG" not in os.environ and Path(KUBECONFIG).exists():
        os.environ |= {"KUBECONFIG": str(KUBECONFIG), "PATH": f"{BIN}:{os.environ['PATH']}"}
    for program in ("kubectl", "helm"):
        if not shutil.which(program):
            raise console.Failure(f"The program {program} is not installed.", f"Install {program}.")
    kubectl("version", "--request-timeout=10s")
    purge = Purge(options.release, options.namespace, everywhere=options.everywhere)
    if (models := purge.elsewhere()) and not options.everywhere:
        places = ", ".join(f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in models)
        raise console.Failure(
            f"KServe of this release runs models of other namespaces, which would stay without a controller: {places}.",
            "Delete them first, or run it with --everywhere.",
        )
    plan = purge.plan()
    if not plan and not purge.space:
        print(f"Nothing is there of release {options.release} in namespace {options.namespace}.")
        if not releases() and (unknown := crds()):
            print(
                f"{len(unknown)} CRDs that the chart brings are in the cluster. Where no other program uses them: "
                f"kubectl delete customresourcedefinitions {' '.join(unknown)}"
            )
        return
    print("\n".join([f"This deletes for good, from namespace {options.namespace}:", *(f"  {line}" for line in plan)]))
    if options.yes != options.release:
        if not sys.stdin.isatty():
            raise console.Failure(
                "Nothing was deleted.", f"Run it with --yes {options.release} to delete all that is listed above."
            )
        if input(f"Type the name of the release, {options.release}, to delete it: ").strip() != options.release:
            raise console.Failure("Nothing was deleted.", "Type the name of the release as it is written.")
    purge.run()
    console.say("Nothing is left.")
