"""Images: what the chart names is what a mirror is told of, and what a bare machine builds."""

from __future__ import annotations

import os
import subprocess
import sys

from bare import images
from support.helm import REPO

#: What KServe starts only for features or addresses of models that the platform itself does not use.
OPTIONAL = {f"kserve/{name}:v0.20.0" for name in ("agent", "router", "storage-initializer")}


def listed(profile: str) -> set[str]:
    """What `scripts/images list PROFILE` prints."""
    command = [sys.executable, REPO / "scripts" / "images", "list", profile]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_mirror_is_told_of_every_image() -> None:
    not_of_the_chart = {"busybox", "pause", "coredns", "local-path-provisioner", "metrics-server", "runtime"}
    of_the_chart = {image.upstream for image in images.IMAGES if image.name not in not_of_the_chart}
    brought = {name.replace(images.REGISTRY, "ghcr.io") for name in images.BROUGHT}
    assert listed("laptop") == of_the_chart | brought | {f"docker.io/{name}" for name in OPTIONAL}


def test_a_bare_machine_builds_every_image_that_its_pods_start_with() -> None:
    started = listed("bare-machine") - {f"{images.REGISTRY}/{name}" for name in OPTIONAL}
    assert started <= {image.reference for image in images.IMAGES if not image.pipelines}


def test_an_unknown_profile_is_told_in_a_sentence() -> None:
    command = [sys.executable, REPO / "scripts" / "images", "list", "mainframe"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 1
    assert "There is no profile mainframe." in done.stderr
    assert "laptop" in done.stderr
