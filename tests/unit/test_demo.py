"""What `make demo` sends to the cluster: the code of the pipelines; its Job is tested with the chart (render/test_demo.py)."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from scripts.common import console
from scripts.common.paths import REPO
from scripts.platform import demo


def names(packed: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return set(archive.getnames())


def test_the_package_and_the_pipelines_are_packed() -> None:
    packed = names(demo.pack(None))
    assert {"pipelines/run.py", "pipelines/requirements.txt", "src/iml4e/__init__.py"} <= packed
    assert {Path(name).suffix for name in packed} == {".py", ".txt"}


def test_what_is_packed_runs(tmp_path: Path) -> None:
    """The pod has nothing else of the repository."""
    (tmp_path / "code.tar.gz").write_bytes(demo.pack(None))
    subprocess.run([sys.executable, "-m", "tarfile", "-e", tmp_path / "code.tar.gz", tmp_path], check=True)
    env = {"PYTHONPATH": str(tmp_path / "src"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "pipelines.run", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--engine" in done.stdout


def test_own_data_is_packed_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "1.png").write_bytes(b"png")
    assert "data/mine.csv" in names(demo.pack(tmp_path / "mine.csv"))
    assert "data/digits/1.png" in names(demo.pack(tmp_path / "digits"))


def test_data_that_cannot_be_sent_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(console.Failure, match="There is no") as missing:
        demo.pack(tmp_path / "none.csv")
    assert "CSV" in missing.value.cure
    large = tmp_path / "large.csv"
    large.write_bytes(random.Random(1).randbytes(1_000_000))
    with pytest.raises(console.Failure, match="too large") as refused:
        demo.pack(large)
    assert "iml4e data put" in refused.value.cure


def test_a_missing_release_is_told_with_the_next_step(tmp_path: Path) -> None:
    """A kubectl that finds nothing stands for the cluster."""
    (tmp_path / "kubectl").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "kubectl").chmod(0o755)
    done = subprocess.run(
        [sys.executable, REPO / "scripts" / "demo", "wine", "--release", "none"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "IML4E_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Namespace iml4e has no ConfigMap none-runner." in done.stderr
    assert "Next:  Name the release" in done.stderr
