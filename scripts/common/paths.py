"""Folders of the repository, the cache and the state. `make down` removes the state; the cache stays."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
#: Built programs and images, keyed by the content that made them.
CACHE = Path(
    os.environ.get("IML4E_CACHE", "/var/cache/iml4e" if os.geteuid() == 0 else Path.home() / ".cache" / "iml4e")
)
#: Everything of a running cluster: keys, database, logs, sockets, volumes.
STATE = Path(os.environ.get("IML4E_STATE", "/var/lib/iml4e"))

BIN = STATE / "bin"
LOG = STATE / "log"
RUN = STATE / "run"
PKI = STATE / "pki"
KUBECONFIG = STATE / "admin.conf"
CONTAINERD = RUN / "containerd.sock"
