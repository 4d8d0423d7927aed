"""Debian packages of the host."""

import os
import shutil
from collections.abc import Sequence

from . import console
from .paths import CACHE


def install(packages: Sequence[str]) -> None:
    """Install packages with apt-get.

    Raises:
        console.Failure: this user or this system cannot; the sentence names the packages.
    """
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid() or not shutil.which("apt-get"):
        raise console.Failure(
            f"Packages are missing on this machine: {names}.",
            f"Install them (`sudo apt-get install {names}` on Debian), then run the same command again.",
        )
    log = CACHE / "log" / "apt.log"
    with console.step(f"install {names}"):
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        cure = "Check that this machine reaches its Debian mirror."
        console.run(["apt-get", "update"], env=env, log=log, cure=cure)
        console.run(["apt-get", "install", "-y", "--no-install-recommends", *packages], env=env, log=log, cure=cure)
