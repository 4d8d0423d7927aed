"""`iml4e doctor`: what is wrong with a live release, one line each, with the next step.

Reads the release's objects with the rights of the caller. A right that is missing is no error: the report says which check it prevents.
(`scripts/doctor` is another program: it checks a bare machine before there is a cluster.)
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from iml4e import platform
from iml4e.doctor import foundations, models, network, stores, workloads
from iml4e.doctor.faults import Finding
from iml4e.doctor.state import State

Check = Callable[[State], Iterator[Finding]]
#: In the order of the report: causes before their consequences.
CHECKS: dict[str, Check] = {
    "namespace": foundations.namespace,
    "nodes": foundations.nodes,
    "DNS of the cluster": foundations.dns,
    "clock": foundations.clock,
    "release by Helm": foundations.release,
    "Secrets and ConfigMaps": foundations.references,
    "Secrets that changed": workloads.unread,
    "volumes": stores.volumes,
    "pods": workloads.check,
    "webhooks": foundations.webhooks,
    "S3 store and database": stores.stores,
    "gateway": network.gateways,
    "routes": network.routes,
    "address": network.address,
    "Prometheus' targets": network.targets,
    "models and runs": models.check,
}
#: Seconds between two lines of progress.
PROGRESS = 3


@dataclass(frozen=True)
class Report:
    """What was found."""

    release: str
    namespace: str
    findings: list[Finding]
    unchecked: dict[str, str] = field(default_factory=dict)
    """Checks that could not be made, and why."""
    seconds: float = 0.0

    @property
    def healthy(self) -> bool:
        return not self.findings


def examine(say: Callable[[str], None] = lambda text: None) -> Report:
    """Examine the release that IML4E_RELEASE and IML4E_NAMESPACE name.

    Args:
        say: prints a line of progress.

    Raises:
        Error: Kubernetes does not answer, or there is no such namespace.
    """
    start, done = time.monotonic(), threading.Event()
    stage = ["reading objects"]

    def tell() -> None:
        while not done.wait(PROGRESS):
            say(f"{time.monotonic() - start:.0f} s: {stage[0]}")

    threading.Thread(target=tell, daemon=True).start()
    try:
        state = State.read(platform.release(), platform.namespace())
        found: dict[str, list[Finding]] = {name: [] for name in CHECKS}
        left = set(CHECKS)

        def run(name: str) -> None:
            for finding in CHECKS[name](state):
                found[name].append(finding)
            left.discard(name)
            stage[0] = "checking " + ", ".join(each for each in CHECKS if each in left)

        stage[0] = "checking " + ", ".join(CHECKS)
        state.together({name: (lambda name=name: run(name)) for name in CHECKS})
    finally:
        done.set()
    findings = list(dict.fromkeys(each for name in CHECKS for each in found[name]))
    return Report(state.release, state.namespace, findings, state.unchecked, time.monotonic() - start)


def text(report: Report) -> Iterator[str]:
    """Lines of a report."""
    yield from map(str, report.findings)
    for check, reason in sorted(report.unchecked.items()):
        yield f"not checked: {check}: {reason}"
    count = len(report.findings)
    state = "healthy" if report.healthy else f"{count} finding{'s' if count > 1 else ''}"
    rest = f", {len(report.unchecked)} checks not made" if report.unchecked else ""
    yield f"release {report.release} in namespace {report.namespace}: {state}{rest} ({report.seconds:.0f} s)"


def probe_path() -> Path:
    """The program that runs in a pod of MLflow."""
    return Path(stores.__file__).with_name("probe.py")


def progress(line: str) -> None:
    """Print a line of progress where it does not disturb the report."""
    print(f"iml4e: {line}", file=sys.stderr, flush=True)
