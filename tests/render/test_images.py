"""Images: what the chart names is what a mirror is told of, and what a bare machine builds."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from scripts.bare import images
from support import helm
from support.helm import REPO

#: What KServe starts only for features or addresses of models that the platform itself does not use.
OPTIONAL = {f"kserve/{name}:v0.20.0" for name in ("agent", "router", "storage-initializer")}


def listed(profile: str) -> set[str]:
    """What `scripts/images list PROFILE` prints."""
    command = [sys.executable, REPO / "scripts" / "images", "list", profile]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_mirror_is_told_of_every_image() -> None:
    not_of_the_chart = {
        "busybox",
        "pause",
        "coredns",
        "local-path-provisioner",
        "metrics-server",
        "runtime",
        "notebooks",
    }
    of_the_chart = {image.upstream for image in images.every() if image.name not in not_of_the_chart}
    built = {image.reference for image in images.every() if not image.own}
    brought = {name.replace(images.REGISTRY, "ghcr.io") for name in images.needed("pipelines") - built}
    assert len(brought) == 6
    brought |= {name.replace(images.REGISTRY, "docker.io") for name in images.needed("grafana")}
    assert listed("laptop") == of_the_chart | brought | {f"docker.io/{name}" for name in OPTIONAL}


def test_a_bare_machine_builds_every_image_that_its_pods_start_with() -> None:
    started = listed("bare-machine") - {f"{images.REGISTRY}/{name}" for name in OPTIONAL}
    assert started <= {image.reference for image in images.every() if not image.part}


@pytest.mark.parametrize("part", images.optional_parts())
def test_the_values_of_a_part_name_every_image_that_it_renders(part: str) -> None:
    """`make up` reads them there before it has Helm."""
    values = {"global": {"imageRegistry": images.REGISTRY}}
    rendered = {
        state: set(
            re.findall(rf"{images.REGISTRY}/[\w./-]+:[\w.-]+", helm.render_text("laptop", values | {part: switch}))
        )
        for state, switch in {"on": {"enabled": True}, "off": {"enabled": False}}.items()
    }
    assert rendered["on"] - rendered["off"] <= images.needed(part) <= rendered["on"]


@pytest.mark.parametrize("part", images.optional_parts())
def test_headers_agree_with_the_chart(part: str) -> None:
    """What only this part needs is built only with it."""
    without_it = listed("bare-machine")
    only = {image.name for image in images.every() if image.reference in images.needed(part) - without_it}
    assert {image.name for image in images.every() if image.part == part} == only


def test_a_header_names_a_part_that_is_off_on_the_bare_machine() -> None:
    assert {image.part for image in images.every()} - {""} <= set(images.optional_parts())


def test_an_unknown_profile_is_told_in_a_sentence() -> None:
    command = [sys.executable, REPO / "scripts" / "images", "list", "mainframe"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 1
    assert "There is no profile mainframe." in done.stderr
    assert "laptop" in done.stderr
