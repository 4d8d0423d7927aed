"""kube-router enforces the chart's NetworkPolicies: every pair of pods and ports is tried, with kube-router and the kernel as on a bare machine.

Without a release: pods are network namespaces, so that every part has one here, Kubeflow Pipelines too.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bare import golang
from scripts.common import console
from support.enforcement import EVERYBODY, ports
from support.flows import listed
from support.helm import REPO

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make network namespaces"),
    pytest.mark.timeout(600),
]
OFF = (".Values.tls.enabled", ".Values.alertmanager.config.receivers")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the pods saw."""
    if not shutil.which("ipset"):
        pytest.skip("ipset is not installed (`make up` installs it)")
    programs = tmp_path_factory.mktemp("programs")
    for name in ("etcd", "kube-apiserver", "kube-router"):
        program = next(each for each in golang.PROGRAMS if name in each.names)
        try:
            (programs / name).symlink_to(golang.build(program))
        except console.Failure as error:
            pytest.skip(f"{name} cannot be built here: {error}")
    Path("/run/netns").mkdir(exist_ok=True)
    command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "support.enforcement"]
    path = f"{REPO}:{REPO / 'tests'}"
    done = subprocess.run(
        [*command, programs], cwd=REPO / "tests", env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_without_kube_router_everything_is_open(seen: dict[str, Any]) -> None:
    assert seen["before"] == seen["after"] == seen["pairs"]


def test_kube_router_allows_what_the_table_lists_and_nothing_else(seen: dict[str, Any]) -> None:
    for source in EVERYBODY:
        answered = {tuple(target) for target in seen["answered"][str(source)]}
        wanted = {
            (str(to), port)
            for to in EVERYBODY
            for port in ports()
            # a pod always reaches itself
            if to == source or listed(source, to, port, OFF)
        }
        assert answered == wanted, f"{source}: too many {answered - wanted}, missing {wanted - answered}"


def test_the_first_connection_of_a_new_pod_waits(seen: dict[str, Any]) -> None:
    """kube-router refuses it; without the refusal, the pod's kernel asks again until kube-router knows the pod."""
    assert seen["new"] == 0
    assert seen["new, with an answer"] == errno.ECONNREFUSED


def test_nothing_of_kube_router_stays(seen: dict[str, Any]) -> None:
    assert seen["rules left"] == 0
