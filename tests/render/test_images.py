"""Images: what the chart names is what a mirror is told of, and what a bare machine builds."""

from __future__ import annotations

import os
import subprocess
import sys

from bare import images
from support.helm import REPO


def listed(profile: str) -> set[str]:
    """What `scripts/images list PROFILE` prints."""
    command = [sys.executable, REPO / "scripts" / "images", "list", profile]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_mirror_is_told_of_every_image() -> None:
    upstream = {image.upstream for image in images.IMAGES}
    built_for_the_cluster = {"busybox", "pause", "coredns", "local-path-provisioner", "metrics-server", "runtime"}
    of_the_chart = {image.upstream for image in images.IMAGES if image.name not in built_for_the_cluster}
    laptop = listed("laptop")
    assert of_the_chart <= laptop
    assert "ghcr.io/mlflow/mlflow:v3.17.2-full" in laptop
    brought = {name.replace(images.REGISTRY, "ghcr.io") for name in images.BROUGHT}
    sidecars = {"docker.io/kserve/agent:v0.20.0", "docker.io/kserve/router:v0.20.0"}
    assert laptop == (laptop & upstream) | brought | sidecars | {"ghcr.io/mlflow/mlflow:v3.17.2-full"}


def test_a_bare_machine_builds_every_image_that_its_pods_start_with() -> None:
    optional = {"iml4e.local/kserve/agent:v0.20.0", "iml4e.local/kserve/router:v0.20.0"}
    assert listed("bare-machine") - optional <= {image.reference for image in images.IMAGES}


def test_an_unknown_profile_is_told_in_a_sentence() -> None:
    command = [sys.executable, REPO / "scripts" / "images", "list", "mainframe"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 1
    assert "There is no profile mainframe." in done.stderr
    assert "laptop" in done.stderr
