"""Start the package `availability` in the harness's own Python, with the programs of this machine's cluster."""

import os
import sys

from scripts.common import console
from scripts.common.paths import BIN, KUBECONFIG, REPO

PYTHON = REPO / ".venv" / "bin" / "python"


def main() -> None:
    """Replace this process by the measurement."""
    if not PYTHON.exists():
        raise console.Failure("The Python environment of the harness is missing.", "Run `make setup`.")
    path = [str(REPO), str(REPO / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    if KUBECONFIG.exists():
        os.environ.setdefault("KUBECONFIG", str(KUBECONFIG))
    os.execv(PYTHON, [str(PYTHON), "-m", "availability", *sys.argv[1:]])
