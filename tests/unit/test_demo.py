"""What `make demo` sends to the cluster: the code of the pipelines, and the Job that runs it."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scripts.common import console
from scripts.common.paths import REPO
from scripts.platform import demo
from support.pod_security import violations

CONFIG = {"RUNTIME_IMAGE": "registry.example.org/mlflow/mlflow:v3.17.2-full"}


def names(packed: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return set(archive.getnames())


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


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


@pytest.mark.parametrize("config", [CONFIG, CONFIG | {"CA_SECRET": "company-ca"}])
def test_restricted_pod_security_admits_the_job(config: dict[str, str]) -> None:
    pod = pod_of(demo.job("iml4e-demo-wine-1", "iml4e", "iml4e", config, ["wine"]))
    assert violations(pod) == []
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


def test_the_job_takes_image_account_and_configuration_of_its_release() -> None:
    job = demo.job("lab-demo-wine-1", "lab", "science", CONFIG, ["wine", "--engine", "kfp"])
    assert job["metadata"]["namespace"] == "science"
    pod = pod_of(job)
    (container,) = pod["containers"]
    assert container["image"] == CONFIG["RUNTIME_IMAGE"]
    assert container["args"] == ["wine", "--engine", "kfp"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": "lab-runner"}},
        {"secretRef": {"name": "lab-s3-pipelines"}},
    ]
    assert pod["serviceAccountName"] == "lab-runner"
    assert {"name": "IML4E_NAMESPACE", "value": "science"} in container["env"]


def test_certificate_authorities_of_the_release_are_mounted() -> None:
    config = CONFIG | {"CA_SECRET": "company-ca", "CA_KEY": "root.pem"}
    pod = pod_of(demo.job("iml4e-demo-wine-1", "iml4e", "iml4e", config, ["wine"]))
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "ca"]
    assert volume["secret"] == {"secretName": "company-ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}
    env = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert {env[name] for name in demo.CA_VARIABLES} == {demo.CA}
    assert "ca" not in {v["name"] for v in pod_of(demo.job("d", "iml4e", "iml4e", CONFIG, ["wine"]))["volumes"]}


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


def test_a_long_release_name_leaves_a_legal_name_for_the_job(tmp_path: Path) -> None:
    """A kubectl that keeps what it is told to create."""
    kept = tmp_path / "created"
    config = json.dumps({"data": CONFIG})
    (tmp_path / "kubectl").write_text(
        f"#!/bin/sh\ncase \"$*\" in *configmap*) echo '{config}';; *create*) cat > {kept}; exit 1;; esac\n"
    )
    (tmp_path / "kubectl").chmod(0o755)
    release = "r" * 39 + "-" + "x" * 13
    subprocess.run(
        [sys.executable, REPO / "scripts" / "demo", "digits", "--release", release],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "IML4E_STATE": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    name = json.loads(kept.read_text())["metadata"]["name"]
    assert len(name) <= 63
    assert name.startswith("r" * 39 + "-demo-digits-")
