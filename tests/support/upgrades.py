"""Upgrades as an administrator makes them: by `iml4e upgrade`, by one Helm or the other, to a chart that differs from the present one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support import helm
from support.k8s import Cluster

#: A port of this machine: the address of a release stays while the pods of its gateway are replaced.
PORT = 30480
URL = f"http://127.0.0.1:{PORT}"
REACHED: dict[str, Any] = {
    "global": {"publicUrl": f"http://localhost:{PORT}"},
    "gateway": {"service": {"type": "NodePort", "nodePort": PORT}},
}


def command(name: str, *words: str | Path) -> tuple[int, str, str]:
    """Run `iml4e` of this working tree for a release: exit code, what it prints, and what it says beside it."""
    environment = {
        **os.environ, "IML4E_RELEASE": name, "IML4E_NAMESPACE": name, "IML4E_URL": URL, "PYTHONPATH": str(helm.REPO / "src"),
    }  # fmt: skip
    program = [helm.REPO / ".venv" / "bin" / "iml4e", *words]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=400, check=False)
    print(f"$ iml4e {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.returncode, done.stdout, done.stderr


def upgrade(name: str, chart: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """`iml4e upgrade`: exit code, report, and what it says beside it."""
    code, out, said = command(name, "upgrade", "--chart", chart, "--json", *words)
    return code, json.loads(out) if out else {}, said


def copied(folder: Path, number: str) -> Path:
    """The present chart under another number, to be changed."""
    chart = folder / f"chart-{number}"
    shutil.copytree(helm.CHART, chart)
    file = chart / "Chart.yaml"
    file.write_text(file.read_text().replace("\nversion: ", f"\nversion: {number} #", 1))
    return chart


def history(name: str) -> list[dict[str, Any]]:
    """Revisions of a release."""
    return json.loads(helm.helm("history", name, "--namespace", name, "--output", "json"))


def all_ready(there: Cluster) -> bool:
    """Whether every workload of the release runs what it should."""
    found = [(kind, each) for kind in ("Deployment", "StatefulSet") for each in there.list("apps/v1", kind)]
    return bool(found) and all(there.is_ready(kind, each["metadata"]["name"]) for kind, each in found)
